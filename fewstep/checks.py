"""Errors that name the remedy: unknown names list their near matches."""

import difflib
from collections.abc import Iterable


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
