"""`fewstep eval --model`: metrics over evaluations of images that a model draws, and the files that tell of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from fewstep.arguments import parsed, watched
from fewstep.eval.commands.output import evaluating, is_first, metric_options, tell
from fewstep.eval.compare.metric_curves import curve
from fewstep.eval.metrics.registry import METRICS
from fewstep.eval.shared_noise.measures import MEASURES


def evaluate_model(model: str, metrics: Sequence[str], how: Mapping[str, Any]) -> None:
    """Draw, measure and tell; `how` are the options of the command."""
    evaluation = evaluating(how)
    place = {"device": evaluation.pop("device", None), "batch_size": how["batch_size"]}
    place |= {name: evaluation.pop(name) for name in ("processes", "wait") if name in evaluation}
    state, number = evaluation.pop("resume", None), evaluation.pop("number", 1000)
    if options := metric_options(how["metric_options"]):
        evaluation["options"] = options
    real = how["real"]
    if real is None and model == "demo" and any(n not in MEASURES and METRICS.find(n).real for n in metrics):
        real = "mnist"
    call = {name: how[name] for name in ("classes", "prompt", "call", "guidance", "dtype")}
    run = {"grid": how["grid"], "noise": how["noise"], "options": dict(map(parsed, how["options"]))}
    told = curve(
        model, how["solvers"], how["nfes"], real, metrics, number, how["seed"], pairs=how["pairs"], state=state,
        evaluation=evaluation, watch=watched, **run, **place, **call,
    )  # fmt: skip
    if not is_first(how):
        return
    tell(told, told.text(), how)
    if how["out"]:
        for path in told.write(how["out"]):
            click.echo(f"wrote {path}", err=True)
