"""`fewstep eval MODEL --gap`: how far a network is from being a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewstep.arguments import watched
from fewstep.eval.commands.output import tell
from fewstep.eval.gap.gap_report import score_gap


def report_gap(models: Sequence[str], how: Mapping[str, Any], said: frozenset[str]) -> None:
    """Measure and tell; `how` are the options of the command, `said` the names of those that were given."""
    if len(models) != 1 or "metrics" in said or "nfes" in said:
        raise ValueError(
            f"--gap is of one MODEL and needs neither data nor --metrics and --nfe: fewstep eval MODEL --gap -n 256; got "
            f"{' '.join(models) or 'none'}"
        )
    names = ("classes", "prompt", "call", "guidance", "dtype", "device")
    given = {name: how[name] for name in names if how[name] is not None}
    if how["batch_size"] is not None:
        given["batch_size"] = how["batch_size"]
    told = score_gap(
        models[0], number=how["number"] or 256, seed=how["seed"],
        watch=lambda parts, label: watched(parts, label, lambda part: f"seeds {part.seeds[0]} to {part.seeds[-1]}"),
        **given,
    )  # fmt: skip
    tell(told, told.text(), how)
