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
from fewstep.samplers.config.distilled import own_solver
from fewstep.samplers.config.known_classes import Config, class_name, completed
from fewstep.samplers.schedule.base import NoiseSchedule
from fewstep.samplers.schedule.continuous import CleanTimeFlow, Flow, InvertedFlow, TrigFlow, VPSigma
from fewstep.samplers.schedule.labelled import ScaledVE


def number(name: str, value: Any) -> float:
    """An entry as a number; ValueError for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"config entry `{name}` must be a number; got {value!r}.") from None


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
    kind, c = kind_of(config), completed(config)
    if kind == "flow":
        return _flow(config)
    if kind == "edm":
        return NoiseSchedule.edm(
            float(c.get("sigma_min", 0.002)), float(c.get("sigma_max", 80.0)), float(c["sigma_data"])
        )
    if kind == "ve":
        return NoiseSchedule.ve(c.get("sigma_min", 0.01), c["sigma_max"])
    if kind == "vp":
        return NoiseSchedule.vp_linear(c["beta_min"], c["beta_max"])
    if kind == "angle":
        if config.get("trained_betas") is not None:
            raise ValueError("`trained_betas` of an IPNDMScheduler are levels of one number of steps: remove them.")
        return TrigFlow(float(c["sigma_data"]), 2 / np.pi if class_name(config) == "IPNDMScheduler" else 1.0)
    if kind == "sigma":
        levels = levels_of(table_of(config))
        return VPSigma(float(config.get("sigma_min") or levels[0]), float(config.get("sigma_max") or levels[-1]))
    if kind == "scaled":
        return ScaledVE(_decreasing(table_of(config)).tobytes())
    literal = solver is not None and convention(config, solver).literal
    literal = literal and config.get("prediction_type", "epsilon") != "epsilon"
    return NoiseSchedule.discrete(_decreasing(table_of(config, 0.0 if literal else PURE_NOISE)))


def _flow(config: dict[str, Any]) -> NoiseSchedule:
    """A flow, by the way its network counts time."""
    c = completed(config)
    shift = c.get("flow_shift" if flow_mode(config) else "shift")
    own = class_name(config) == "MiniMaxH3Scheduler"
    flow = CleanTimeFlow if own else InvertedFlow if c.get("invert_sigmas") else Flow
    return flow(1.0 if shift is None else number("shift", shift), int(c.get("num_train_timesteps", 1000)))


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


_PREDICTIONS = (
    "epsilon", "sample", "v_prediction", "flow_prediction", "score", "inverted_flow_prediction", "trigflow"
)  # fmt: skip
_CLEANWARD = "inverted_flow_prediction"


def reading(config: Any, solver: str | None = None) -> Reading:
    """Prediction type, learned variance and clipping, as the class that belongs to `solver` has them.

    Thresholding is a need of the model: it holds for every solver, also for those whose class has no such option.
    """
    config = as_config(config)
    kind, rule, chosen, c = kind_of(config), convention(config, solver), explicit(config), completed(config)
    prediction = {"flow": "flow_prediction", "ve": "score", "vp": "score", "scaled": "sample"}.get(kind, "epsilon")
    if kind not in ("flow", "scaled") or flow_mode(config):
        prediction = c.get("prediction_type") or prediction
    if (c.get("invert_sigmas") or class_name(config) == "MiniMaxH3Scheduler") and prediction == "flow_prediction":
        prediction = _CLEANWARD
    if prediction not in _PREDICTIONS:
        raise unknown("prediction type", prediction, _PREDICTIONS)
    clips = kind == "table" and rule.clips is not None and bool(chosen.get("clip_sample", rule.clips))
    clips = clips and not str(class_name(config)).startswith("CogVideoX")  # which says so, and does not
    return Reading(
        prediction=prediction,
        learned_variance=config.get("variance_type") in ("learned", "learned_range"),
        thresholding=bool(chosen.get("thresholding", False)),
        dynamic_thresholding_ratio=float(config.get("dynamic_thresholding_ratio", 0.995)),
        sample_max_value=float(config.get("sample_max_value", 1.0)),
        clip_sample=clips or bool(kind == "edm" and c.get("clip_denoised")),
        clip_sample_range=float(config.get("clip_sample_range", 1.0)),
        sigma_data=float(c["sigma_data"]) if kind == "edm" else None,
    )


def default_solver(config: Config) -> tuple[str, dict[str, Any]]:
    """(solver, options) for a config that names none: its own, where it was made for one, else `auto`, by its steps."""
    return own_solver(config) or ("auto", {})
