"""`fewstep eval LEARNED.json`: a learned artefact against fixed recipes; exit code 1 where it is certainly worse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from fewstep.arguments import watched
from fewstep.eval.commands.output import evaluating, tell
from fewstep.eval.images.generated import Generated
from fewstep.eval.passes.evaluation import evaluate
from fewstep.samplers.artefact.loading import as_artefact
from fewstep.samplers.learned.report.comparing import compare_learned


def check_learned(
    sets: Sequence[str], model: str | None, metrics: Sequence[str], how: Mapping[str, Any], said: frozenset[str]
) -> None:
    """Compare and tell; `how` are the options of the command, `said` the names of those that were given."""
    given = {name: how[name] for name in ("nfes", "seed", "number") if name in said}
    if len(sets) > 2 or (len(sets) == 2 and model is not None):
        raise ValueError(
            f"a learned artefact is compared on one MODEL; got {' '.join(sets[1:])} {model or ''}".rstrip()
        )
    artefact, first = as_artefact(sets[0]), given.get("seed", 5000)
    model = model or (sets[1] if len(sets) == 2 else str(artefact.model.get("name") or "demo"))
    place = {name: how[name] for name in ("classes", "prompt", "call", "batch_size", "device")}
    told = compare_learned(
        artefact, model, nfe=given.get("nfes"), guidance=None if how["guidance"] is None else [how["guidance"]],
        seeds=range(first, first + given.get("number", 256)), against=how["against"],
        watch=lambda parts, label: watched(parts, label, lambda part: f"seeds {part.seeds[0]} to {part.seeds[-1]}"),
        measure=_measuring(model, metrics, how) if "metrics" in said else None, **place,
    )  # fmt: skip
    tell(told, told.text(), how)
    if told.worse:
        raise click.exceptions.Exit(1)


def _measuring(model: str, metrics: Sequence[str], how: Mapping[str, Any]) -> Callable[..., dict[str, float]]:
    """Metrics of the images that a contender draws, for `compare_learned`."""
    evaluation = evaluating({**how, "number": None, "resume": None})
    real = how["real"] or ("mnist" if model == "demo" else None)
    if real is None:
        raise ValueError(f"{', '.join(metrics)}: compared with real images; give them as --real")

    def measure(contender: Any, nfe: int, seeds: Sequence[int], guidance: float | None) -> dict[str, float]:
        call = {name: how[name] for name in ("classes", "prompt", "call", "dtype", "batch_size", "device")}
        images = Generated(model, contender, nfe, seeds=seeds, guidance=guidance, noise=how["noise"], **call)
        return {result.label: result.value for result in evaluate(real, images, metrics, **evaluation).values()}

    return measure
