"""Errors that name the remedy: unknown names list their near matches, numbers say what they may be."""

import difflib
import re
from collections.abc import Iterable
from math import inf
from numbers import Integral, Real
from typing import Any

MOST_ROWS = 10_000  # network calls of a table: compiling that many takes ten seconds and 100 MB
MOST_EVALUATIONS = 1_000_000  # of a driver, which keeps nothing of the steps behind it

SECONDS = {
    "s": 1, "sec": 1, "seconds": 1, "m": 60, "min": 60, "minutes": 60, "h": 3600, "hours": 3600,
}  # fmt: skip


def seconds_in(value: Any, name: str = "") -> float | None:
    """ "90s", "2m" or "1.5h" as seconds; what is no time: None, or a ValueError where it has the name of an argument."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) *([a-z]+)", str(value).strip().lower())
    seconds = float(found[1]) * SECONDS[found[2]] if found and found[2] in SECONDS else 0.0
    if seconds <= 0 and name:
        raise ValueError(f"{name} is a time such as 90s, 2m or 1h; got {value!r}")
    return seconds if seconds > 0 else None


def near(name: str, names: Iterable[str], count: int = 4) -> list[str]:
    """Names that look like `name`, best first: by edit distance after dropping case and separators, then substrings."""

    def fold(text: str) -> str:
        return "".join(c for c in text.lower() if c.isalnum() or c == "+")

    folded: dict[str, str] = {fold(other): other for other in names}
    hits = difflib.get_close_matches(fold(name), folded, n=count, cutoff=0.6)
    hits += [key for key in folded if key not in hits and fold(name) and (fold(name) in key or key in fold(name))]
    return [folded[key] for key in hits[:count]]


def unknown(kind: str, name: object, names: Iterable[str]) -> ValueError:
    """The ValueError for a name that is not registered: what was given, what is near, what exists."""
    names = sorted(names)
    close = near(str(name), names)
    hint = f"Did you mean {' or '.join(repr(c) for c in close)}?" if close else f"Known: {', '.join(names)}."
    return ValueError(f"unknown {kind} {name!r}. {hint}")


def whole(
    name: str, value: Any, least: int = 1, most: int | None = None, *, hint: str = "", of: str = "", where: str = ""
) -> int:
    """A count (`of` something), as int; ValueError for anything else.

    where: whose argument it is, said in front. hint: what to do instead, said at the end.
    """
    what = f"a whole number of {of}" if of else "a whole number"
    wanted = f"{what}, at least {least}" if most is None else f"{least}..{most}"
    if (
        isinstance(value, bool)
        or not isinstance(value, Integral)
        or not least <= int(value) <= (int(value) if most is None else most)
    ):
        raise _refused(name, wanted, value, hint, where)
    return int(value)


def evaluations(name: str, value: Any, most: int = MOST_ROWS, *, hint: str = "") -> int:
    """A number of network evaluations, as int; ValueError for anything else, and for more than a run may have."""
    if isinstance(value, Real) and most < value < inf:  # type: ignore[operator]
        raise ValueError(f"`{name}` may be {most:,} network evaluations at most; got {value!r}: ask for fewer")
    return whole(name, value, of="network evaluations", hint=hint)


def positive(name: str, value: Any, zero: bool = False, *, hint: str = "", where: str = "") -> float:
    """A finite number above 0 (or 0 too), as float; ValueError for anything else."""
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else -1.0
    if not (0 < number < inf or (zero and number == 0)):
        raise _refused(name, f"a number {'of at least' if zero else 'above'} 0", value, hint, where)
    return number


def within(name: str, value: Any, least: float, most: float, *, hint: str = "", where: str = "") -> float:
    """A number from least to most, as float; ValueError for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) <= most:
        raise _refused(name, f"a number from {least:g} to {most:g}", value, hint, where)
    return float(value)


def _refused(name: str, expected: str, value: object, hint: str, where: str) -> ValueError:
    return ValueError(f"{where and where + ': '}`{name}` must be {expected}; got {value!r}{hint and '. '}{hint}")
