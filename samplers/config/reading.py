"""Reading a diffusers scheduler config: its noise schedule, what its network predicts, and its grid.

What a config says about the model (betas, training length, prediction) is taken as it stands. What it says about
sampling counts where somebody chose it: values that diffusers marks as defaults give way to the defaults of the class
that belongs to the requested solver, as they do in diffusers' own conversion between classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fewstep.checks import unknown
from fewstep.samplers.config.classes import (
    PURE_NOISE,
    as_config,
    convention,
    explicit,
    flow_mode,
    kind_of,
    levels_of,
    table_of,
)
from fewstep.samplers.schedule.base import NoiseSchedule
from fewstep.samplers.schedule.continuous import Flow, InvertedFlow, VPSigma


def schedule_from_config(config: Any, solver: str | None = None) -> NoiseSchedule:
    """The noise schedule of a diffusers scheduler config.

    Args:
        config: dict, FrozenDict or scheduler object.
        solver: for classes that take zero terminal SNR literally (ddim, ddpm) and a network that can use it (v or x0
            prediction) the last alpha is 0; else, and without a solver, it is 2**-12.

    Raises:
        ValueError: the config describes no noise schedule.
    """
    config = as_config(config)
    kind = kind_of(config)
    if kind == "flow":
        shift = config.get("flow_shift" if flow_mode(config) else "shift")
        flow = InvertedFlow if config.get("invert_sigmas") else Flow
        return flow(1.0 if shift is None else float(shift), int(config.get("num_train_timesteps", 1000)))
    if kind == "edm":
        low, high = config.get("sigma_min", 0.002), config.get("sigma_max", 80.0)
        return NoiseSchedule.edm(float(low), float(high), float(config["sigma_data"]))
    if kind == "ve":
        return NoiseSchedule.ve(config.get("sigma_min", 0.01), config["sigma_max"])
    if kind == "vp":
        return NoiseSchedule.vp_linear(config["beta_min"], config["beta_max"])
    if kind == "sigma":
        levels = levels_of(table_of(config))
        return VPSigma(float(config.get("sigma_min") or levels[0]), float(config.get("sigma_max") or levels[-1]))
    literal = solver is not None and convention(config, solver).literal
    literal = literal and config.get("prediction_type", "epsilon") != "epsilon"
    return NoiseSchedule.discrete(_decreasing(table_of(config, 0.0 if literal else PURE_NOISE)))


def _decreasing(table: np.ndarray) -> np.ndarray:
    """Tables with alpha = 0 before their end (betas of 1) stop there; `discrete` judges the rest."""
    zeros = np.flatnonzero(table <= 0)
    return table[: zeros[0] + 1] if zeros.size else table


@dataclass(frozen=True)
class Reading:
    """What a config says about the network's output and about the estimate of the clean sample."""

    prediction: str  # a name in `predictions.py`; "score" for continuous VP and VE models
    learned_variance: bool  # the output has twice the channels; the first half is the prediction
    thresholding: bool
    dynamic_thresholding_ratio: float
    sample_max_value: float
    clip_sample: bool
    clip_sample_range: float
    sigma_data: float | None  # of the EDM preconditioning around the network, if there is one


_PREDICTIONS = ("epsilon", "sample", "v_prediction", "flow_prediction", "score", "inverted_flow_prediction")


def reading(config: Any, solver: str | None = None) -> Reading:
    """Prediction type, learned variance and clipping, as the class that belongs to `solver` has them.

    Thresholding is a need of the model: it holds for every solver, also for those whose class has no such option.
    """
    config = as_config(config)
    kind, rule, chosen = kind_of(config), convention(config, solver), explicit(config)
    prediction = {"flow": "flow_prediction", "ve": "score", "vp": "score"}.get(kind, "epsilon")
    if kind != "flow" or flow_mode(config):
        prediction = config.get("prediction_type") or prediction
    if config.get("invert_sigmas") and prediction == "flow_prediction":
        prediction = "inverted_flow_prediction"
    if prediction not in _PREDICTIONS:
        raise unknown("prediction type", prediction, _PREDICTIONS)
    return Reading(
        prediction=prediction,
        learned_variance=config.get("variance_type") in ("learned", "learned_range"),
        thresholding=bool(chosen.get("thresholding", False)),
        dynamic_thresholding_ratio=float(config.get("dynamic_thresholding_ratio", 0.995)),
        sample_max_value=float(config.get("sample_max_value", 1.0)),
        clip_sample=kind == "table" and rule.clips is not None and bool(chosen.get("clip_sample", rule.clips)),
        clip_sample_range=float(config.get("clip_sample_range", 1.0)),
        sigma_data=float(config["sigma_data"]) if kind == "edm" else None,
    )
