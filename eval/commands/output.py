"""What the commands of evaluation share: their options as arguments of `evaluate`, and the files that they write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from fewstep.arguments import parsed


def evaluating(how: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `evaluate` among those of a command: what was said, and nothing else."""
    names = ("extractor", "protocol", "weights", "download", "fast", "device", "batch_size", "workers", "skip_bad")
    said = {name: how[name] for name in (*names, "key", "limit", "resume", "number") if how.get(name)}
    return {**said, "progress": True}


def metric_options(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """kid.subsets=50 -> {"kid": {"subsets": 50}}."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, dot, rest = text.partition(".")
        if not dot:
            raise click.BadParameter(f"{text!r} is not METRIC.KEY=VALUE", param_hint="--metric-option")
        key, value = parsed(rest)
        found.setdefault(name, {})[key] = value
    return found


def is_first() -> bool:
    """Whether this process is the one that speaks."""
    return os.environ.get("RANK", "0") == "0"


def check_outputs(json_path: str | None, html_path: str | None) -> None:
    """ValueError for an output whose name does not say what it is, before any work."""
    for path, suffix in ((json_path, ".json"), (html_path, ".html")):
        if path not in (None, "-") and not str(path).endswith(suffix):
            raise ValueError(f"{path!r} is to be written as {suffix}: give a name that ends so")


def tell(told: Any, text: str, how: Mapping[str, Any], pictures: Callable[[Path], list[Path]] = lambda _: []) -> None:
    """Print the text, or the JSON where it goes to the standard output, and write the files that were asked for.

    told: has to_json(path) and to_html(path, pictures). pictures: draws PNG files for the page into a folder.
    """
    json_path, html_path = how["json_path"], how["html_path"]
    click.echo(told.to_json() if json_path == "-" else text)
    if html_path:
        with TemporaryDirectory() as folder:
            told.to_html(html_path, pictures(Path(folder)))
    if json_path and json_path != "-":
        told.to_json(json_path)
    for path in (json_path, html_path):
        if path not in (None, "-"):
            click.echo(f"wrote {path}", err=True)
