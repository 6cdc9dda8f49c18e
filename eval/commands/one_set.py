"""`fewstep stats`: the statistics of one set, as a file to be compared with later, and a list of published ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from fewstep.eval.commands.output import check_outputs, evaluating, is_first
from fewstep.eval.passes.evaluation import stats
from fewstep.eval.published.known import KNOWN


def write_statistics(source: str, out: str, how: Mapping[str, Any]) -> None:
    """Look at the images and write the file; `how` are the options of the command."""
    check_outputs({**how, "out": out})
    kept: dict[str, Any] = {name: how.get(of, False) for name, of in (("rows", "features"), ("half", "half"))}
    kept |= {"spatial": how.get("spatial", False), "name": how.get("name", "")}
    found = stats(source, out, **kept, **evaluating(how))
    if is_first(how):
        meta = found.meta
        click.echo(f"{out}: {found.n} images of {meta.source}, {meta.extractor} {meta.protocol}, weights {meta.hash}")


def list_known() -> None:
    """A block each: name, N, protocol, what it is of, address, size, sha256, and whether it is here."""
    for name, known in KNOWN.items():
        n = "N not recorded" if known.n is None else f"N {known.n}"
        click.echo(f"{name}: {known.images}; {n}; protocol {known.protocol}; {known.layout}")
        click.echo(f"    {known.url}")
        here = f"; on this machine: {known.path}" if known.path.is_file() else ""
        click.echo(f"    size {known.size or 'not recorded'}; sha256 {known.sha256 or 'not recorded'}{here}")
    click.echo("Each is a reference by name, fewstep fid cifar10-edm IMAGES; it is fetched only with --download.")
