"""`fewstep metrics` and `fewstep stats --known`: which metrics and published statistics there are."""

from __future__ import annotations

import click

from fewstep.eval.published.known import KNOWN
from fewstep.eval.metrics.registry import METRICS
from fewstep.eval.shared_noise.measures import MEASURES


def list_metrics() -> None:
    """One aligned line each, registered ones and those of paired images."""
    lines = [(name, "higher" if m.higher_is_better else "lower", m.reference) for name, m in METRICS.items()]
    lines += [(name, "", "error to a reference run on the same noise (--model only)") for name in MEASURES]
    widths = [max(len(line[j]) for line in lines) for j in range(2)]
    for line in lines:
        click.echo(f"{line[0]:{widths[0]}}  {line[1]:{widths[1]}}  {line[2]}".rstrip())


def list_known() -> None:
    """A block each: name, N, protocol, what it is of, address, size, sha256, and whether it is here."""
    for name, known in KNOWN.items():
        n = "N not recorded" if known.n is None else f"N {known.n}"
        click.echo(f"{name}: {known.images}; {n}; protocol {known.protocol}; {known.layout}")
        click.echo(f"    {known.url}")
        here = f"; on this machine: {known.path}" if known.path.is_file() else ""
        click.echo(f"    size {known.size or 'not recorded'}; sha256 {known.sha256 or 'not recorded'}{here}")
    click.echo("Each is a reference by name, fewstep fid cifar10-edm IMAGES; it is fetched only with --download.")
