"""JSON with exact float64: what is written of arrays and options, and what is refused when it is read back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.samplers.table.statistics import NAMES, Statistics


def plain(value: Any) -> Any:
    """Arrays as lists; options that are objects, statistics, in whole."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Statistics):
        return {
            "class": "Statistics",
            **{name: getattr(value, name) for name in NAMES},
            "metadata": dict(value.metadata),
        }
    raise ValueError(
        f"a {type(value).__name__} cannot be saved in a table: expected numbers, text, arrays or statistics"
    )


def plainly(value: Any) -> Any:
    """As JSON gives it back; numpy numbers and arrays become numbers and lists. ValueError for what JSON cannot hold."""
    try:
        return json.loads(json.dumps(value, default=plain))
    except TypeError as error:
        raise ValueError(f"an artefact holds numbers, text, lists and dicts: {error}") from None


def option_of(value: Any) -> Any:
    """An option as it was: statistics from what `plain` made of them."""
    if not isinstance(value, dict) or value.get("class") != "Statistics":
        return value
    return Statistics(**{k: v for k, v in value.items() if k != "class"})


def read(path: str | os.PathLike[str], what: str = "a saved table") -> dict[str, Any]:
    """The content of a JSON file. ValueError for anything else, FileNotFoundError where there is no file."""
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path} is not {what}: it is no ordinary file")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is not {what}: it is nested too deeply") from error
    except ValueError as error:  # no JSON, no UTF-8, a number too long to be one
        raise ValueError(f"{path} is not {what}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not {what}: it holds a {type(content).__name__}")
    return content


@contextmanager
def checked(content: Mapping[str, Any], kind: str, version: int, name: Any) -> Iterator[None]:
    """Refuses content of another format or a newer version; what is missing or of another type inside is damage."""
    if content.get("format") != kind:
        raise ValueError(f'{name} is not a saved table: expected "format": "{kind}"; got {content.get("format")!r}')
    try:
        if content["version"] > version:
            raise ValueError(
                f"{name} was saved by a newer fewstep ({kind} version {content['version']}; this one reads up to "
                f"{version}). Upgrade: pip install -U fewstep"
            )
        with understood(name):
            yield
    except (KeyError, TypeError) as error:
        raise ValueError(f"{name} is incomplete or damaged: {error!r}") from error


@contextmanager
def understood(name: Any) -> Iterator[None]:
    """What a file holds is turned into objects in the block: what cannot be is told with the file's name."""
    try:
        yield
    except ValueError as error:
        if str(name) in str(error):
            raise
        raise ValueError(f"{name}: {error}") from error
    except (
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        RecursionError,
        MemoryError,
    ) as error:
        raise ValueError(f"{name} is incomplete or damaged: {error!r:.200}") from error
