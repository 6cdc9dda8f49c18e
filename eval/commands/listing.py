"""`fewstep metrics`: which there are, which way is better, where they come from."""

from __future__ import annotations

import click

from fewstep.eval.metrics.registry import METRICS
from fewstep.eval.shared_noise.measures import MEASURES


def list_metrics() -> None:
    """One aligned line each, registered ones and those of paired images."""
    lines = [(name, "higher" if m.higher_is_better else "lower", m.reference) for name, m in METRICS.items()]
    lines += [(name, "", "error to a reference run on the same noise (--model only)") for name in MEASURES]
    widths = [max(len(line[j]) for line in lines) for j in range(2)]
    for line in lines:
        click.echo(f"{line[0]:{widths[0]}}  {line[1]:{widths[1]}}  {line[2]}".rstrip())
