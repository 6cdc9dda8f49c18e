"""Reports as JSON files: plain types, a sha256 of the content, and one sentence for what is no report."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from fewstep.output.files import write_text
from fewstep.output.places import kept
from fewstep.output.seal import BY_HAND, Damaged, sealed, unsealed

T = TypeVar("T")


def plain(value: Any) -> Any:
    """The same in types that JSON has: arrays become lists, numbers that are not finite None, anything strange its text."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):  # numpy and torch, arrays and scalars
        return plain(value.tolist())
    if isinstance(value, (list, tuple, range, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def write_json(told: Mapping[str, Any], path: str | PathLike[str] | None) -> str:
    """JSON text with its seal, written whole to `path` where one is given; where that fails, beside it."""
    text = json.dumps(sealed(told), indent=1, allow_nan=False)
    if path is not None:
        kept(path, lambda place: write_text(place, text + "\n"))
    return text


def read_json(
    source: str | PathLike[str],
    made: Callable[[dict[str, Any]], T],
    known: Collection[str],
    writer: str,
    remedy: str = BY_HAND,
) -> T:
    """What `made` makes of the JSON in a file, or in a text that begins with a brace.

    known: the entries that there are. writer: what writes such JSON, for the sentence.

    Raises:
        ValueError: no such file, no JSON, changed since it was written, or JSON of something else.
    """
    text = str(source)
    name = text[:60] if text.lstrip().startswith("{") else text
    try:
        if not text.lstrip().startswith("{"):
            if not Path(source).is_file():
                raise ValueError("there is no such file" if not Path(source).exists() else "it is no ordinary file")
            told = json.loads(Path(source).read_text(encoding="utf-8"))
        else:
            told = json.loads(text)
        if not isinstance(told, dict):
            raise ValueError(f"it holds a {type(told).__name__}")
        ours = {"library", "about"} <= told.keys()
        return made(unsealed(told, name, known=known if ours else None, remedy=remedy))
    except Damaged:
        raise
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
        OverflowError,
        OSError,
    ) as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {str(error)[:60]}"
        raise ValueError(f"{name!r} is no report ({reason}); give what {writer} wrote.") from error
