"""`fewstep eval`: which of its three uses is meant (two sets, images that a model draws, a learned artefact)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.eval.commands.learned_check import check_learned
from fewstep.eval.commands.model_curves import evaluate_model
from fewstep.eval.commands.output import check_outputs
from fewstep.eval.commands.score_report import report_gap
from fewstep.eval.commands.two_sets import evaluate_sets


def run_eval(
    sets: Sequence[str], metrics: Sequence[str], model: str | None, how: Mapping[str, Any], said: frozenset[str]
) -> None:
    """Do it; `how` are the options of the command, `said` the names of those that were given."""
    check_outputs(how)
    if how["gap"]:
        report_gap((*sets, *([] if model is None else [model])), how, said)
        return
    if sets and (sets[0].endswith(".json") or (sets[0] == "demo" and not Path("demo").exists())):
        check_learned(sets, model, metrics, how, said)
        return
    if model is not None:
        if how["labels"] or how["real_labels"]:
            raise ValueError("--labels are of images in files; those that --model draws have its --classes")
        if sets:
            raise ValueError(f"--model draws the images; give the real ones as --real, not as {' '.join(sets)!r}")
        evaluate_model(model, metrics, how)
        return
    if how["real"] is not None:
        sets = (how["real"], *sets)
    if not 1 <= len(sets) <= 2:
        raise ValueError(f"two sets are needed, REAL and GENERATED (one for the inception score); got {len(sets)}")
    real, generated = sets if len(sets) == 2 else (None, sets[0])
    evaluate_sets(real, generated, metrics, how)
