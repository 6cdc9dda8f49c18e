"""What the commands of evaluation share: their options as arguments of `evaluate`, and the files that they write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click

from fewstep.arguments import parsed
from fewstep.eval.commands.peers import translated
from fewstep.eval.group.launching import launched
from fewstep.output.places import kept, prove_file, prove_folder


def evaluating(how: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `evaluate` among those of a command: what was said, and nothing else."""
    names = ("extractor", "protocol", "weights", "download", "fast", "device", "batch_size", "workers", "skip_bad")
    others = ("frames", "stride", "clips", "layer", "compile", "key", "limit", "resume", "number", "processes", "wait")
    how = translated(how)
    said = {
        name: how[name] for name in (*names, *others) if how.get(name) or (name == "workers" and how.get(name) == 0)
    }
    return {**said, "progress": not how["silent"]}


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


def is_first(how: Mapping[str, Any]) -> bool:
    """Whether this process is one that speaks."""
    return how.get("processes") == "alone" or launched()[0] == 0


def check_outputs(how: Mapping[str, Any]) -> None:
    """ValueError before any work: an output whose name does not say what it is, a place that cannot be written, and
    environment variables that tell of half a launch."""
    launched()
    for option, suffix in (("json", ".json"), ("html", ".html")):
        path = how.get(f"{option}_path")
        if path not in (None, "-"):
            if not str(path).endswith(suffix):
                raise ValueError(f"{path!r} is to be written as {suffix}: give a name that ends so")
            prove_file(path, f"--{option}")
    if out := how.get("out"):
        (prove_file if Path(out).suffix.lower() in (".html", ".npz") else prove_folder)(out, "--out")
    if how.get("resume"):
        prove_folder(how["resume"], "--resume")


def tell(told: Any, text: str, how: Mapping[str, Any], pictures: Callable[[Path], list[Path]] = lambda _: []) -> None:
    """Print the text, or the JSON where it goes to the standard output, and write the files that were asked for.

    told: has to_json(path) and to_html(path, pictures). pictures: draws PNG files for the page into a folder.
    """
    json_path, html_path = how["json_path"], how["html_path"]
    click.echo(told.to_json() if json_path == "-" else text)
    if json_path and json_path != "-":
        told.to_json(json_path)
    if html_path:
        with TemporaryDirectory() as folder:
            drawn = pictures(Path(folder))
            kept(html_path, lambda place: told.to_html(place, drawn))
    for path in (json_path, html_path):
        if path not in (None, "-"):
            click.echo(f"wrote {path}", err=True)
