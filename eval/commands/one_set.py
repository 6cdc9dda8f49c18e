"""`fewstep stats`: the statistics of one set, as a file to be compared with later."""

from __future__ import annotations

from typing import Any

import click

from fewstep.eval.commands.output import check_outputs, evaluating, is_first
from fewstep.eval.passes.evaluation import stats


def write_statistics(source: str, out: str, how: dict[str, Any]) -> None:
    """Look at the images and write the file; `how` are the options of the command."""
    check_outputs({**how, "out": out})
    kept: dict[str, Any] = {name: how.get(of, False) for name, of in (("rows", "features"), ("half", "half"))}
    kept |= {"spatial": how.get("spatial", False), "name": how.get("name", "")}
    found = stats(source, out, **kept, **evaluating(how))
    if is_first():
        meta = found.meta
        click.echo(f"{out}: {found.n} images of {meta.source}, {meta.extractor} {meta.protocol}, weights {meta.hash}")
