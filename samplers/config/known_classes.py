"""The scheduler classes that configs may name: what each stands for, and why those that are refused are.

A config is read by its class. A class that is not here is refused by name, because its entries say nothing about what its
code does with them; a config without a class is read by its entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fewstep.checks import near

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Known:
    """What a class stands for.

    kind: of its models, see `kind_of`. defaults: entries of the model that its configs may leave out. solver: what plays its
    models where nobody asked for a solver, because they were distilled for it or its entries are options of that; None: any
    solver. sticks: its times are its own, whatever the solver.
    """

    kind: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    solver: str | None = None
    sticks: bool = False


_LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
_SCALED = {**_LATENT, "beta_schedule": "scaled_linear"}
_COG = {**_SCALED, "snr_shift_scale": 3.0}
_EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0}
_AUDIO = {"sigma_min": 0.3, "sigma_max": 500.0, "sigma_data": 1.0, "rho": 7.0, "prediction_type": "v_prediction"}
_TABLE, _FLOW = Known("table"), Known("flow")
_DISTILLED = {**_SCALED, "original_inference_steps": 50}

KNOWN: dict[str, Known] = {
    **dict.fromkeys(
        (
            "DDIMScheduler",
            "DDIMParallelScheduler",
            "DDPMScheduler",
            "DDPMParallelScheduler",
            "PNDMScheduler",
            "LMSDiscreteScheduler",
            "EulerDiscreteScheduler",
            "EulerAncestralDiscreteScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "DEISMultistepScheduler",
            "UniPCMultistepScheduler",
            "SASolverScheduler",
        ),
        _TABLE,
    ),
    **dict.fromkeys(
        (
            "HeunDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "DPMSolverSDEScheduler",
        ),
        Known("table", _LATENT),
    ),
    "CogVideoXDDIMScheduler": Known("table", _COG),
    "CogVideoXDPMScheduler": Known("table", _COG),
    "UnCLIPScheduler": Known("table", {"beta_schedule": "squaredcos_cap_v2"}, sticks=True),
    # the network sees the share r of noise time, 1 to 0; Stable Cascade's pipelines make it out of a table of 1000 steps
    "DDPMWuerstchenScheduler": Known("table", {"s": 0.008, "scaler": 1.0, "num_train_timesteps": 1000}, sticks=True),
    "LCMScheduler": Known("table", _DISTILLED, solver="renoise", sticks=True),
    "TCDScheduler": Known("table", _DISTILLED, solver="tcd", sticks=True),
    **dict.fromkeys(("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"), _FLOW),
    "LTXEulerAncestralRFScheduler": Known("flow", solver="rf_ancestral"),
    "FlowMatchLCMScheduler": Known("flow", solver="renoise"),
    "FlowMapEulerDiscreteScheduler": Known("flow", solver="euler"),
    "MiniMaxH3Scheduler": Known("flow", {"shift": 12.0, "num_train_timesteps": 1}),
    "EDMEulerScheduler": Known("edm", _EDM),
    "EDMDPMSolverMultistepScheduler": Known("edm", _EDM),
    "CosineDPMSolverMultistepScheduler": Known("edm", _AUDIO),
    "CMStochasticIterativeScheduler": Known(
        "edm", {**_EDM, "num_train_timesteps": 40, "clip_denoised": True}, solver="consistency", sticks=True
    ),
    "SCMScheduler": Known("angle", {"sigma_data": 0.5, "prediction_type": "trigflow"}, solver="renoise", sticks=True),
    "IPNDMScheduler": Known("angle", {"sigma_data": 1.0, "prediction_type": "v_prediction"}, sticks=True),
    "ScoreSdeVeScheduler": Known("ve", {"sigma_min": 0.01, "sigma_max": 1348.0}),
    "ScoreSdeVpScheduler": Known("vp", {"beta_min": 0.1, "beta_max": 20.0}),
}
OLD_NAMES = {"GaussianDDPMScheduler": "DDPMScheduler", "GaussianDDIMScheduler": "DDIMScheduler"}  # of early releases

_TOKENS = "its states are discrete tokens, and solvers here move continuous ones: keep it in its own pipeline"
_INVERTS = (
    "it runs from data to noise: give the config of the pipeline's own scheduler, and invert with adjoint.invert()"
)
_PYRAMID = "it changes the resolution of the state between stages: keep it in its own pipeline"
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("AmusedScheduler", "BlockRefinementScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler",
         "VQDiffusionScheduler"),
        _TOKENS,
    ),
    **dict.fromkeys(("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler"), _INVERTS),
    **dict.fromkeys(("HeliosScheduler", "HeliosDMDScheduler"), _PYRAMID),
    "PiflowScheduler": "its network returns a policy that is rolled out inside a step: keep it in its own pipeline",
    "RFD4ProteinaScheduler": "it rescales the score by a rule of proteins: keep it in its own pipeline",
    "ConsistencyDecoderScheduler": "it is a fixed decoder of two calls: keep it in its own pipeline",
    "RePaintScheduler": "it needs a mask: give the config of a DDPMScheduler with the same betas, and guidance.impute",
    "KarrasVeScheduler": "it gives its network (x + 1) / 2 and sigma / 2, of levels that it squares: make "
    "NoiseSchedule.ve(sigma_min, sigma_max) and a Denoiser of x + sigma * network with prediction='sample'",
    "SchedulerMixin": "it is no scheduler but the base of them",
}  # fmt: skip


def class_name(config: Config) -> str | None:
    """The class that a config names, in today's word; of a config that became ours, the class it came from.

    Raises:
        ValueError: a class that is refused, or that nobody knows.
    """
    original = config.get("_original")
    name = original.get("class") if isinstance(original, Mapping) else config.get("_class_name")
    plain = str(name).removeprefix("Flax")
    plain = OLD_NAMES.get(plain, plain)
    if plain in KNOWN:
        return plain
    if name in (None, "Scheduler") or "solver_options" in config:  # the latter is ours: of a subclass of Scheduler
        return _by_marks(config)
    close = next(iter(near(plain, KNOWN)), "DDIMScheduler")
    if plain in REFUSED:
        raise ValueError(f"{name} is no scheduler that can be read here: {REFUSED[plain]}")
    raise ValueError(
        f"unknown scheduler class {name!r}: what its code does with its entries is not known. The nearest known class is "
        f"{close!r}: write that into '_class_name' if the model is one of its kind, or remove '_class_name' to have the "
        "entries read for themselves"
    )


def _by_marks(config: Config) -> str | None:
    """The class whose entries no other has, in configs that name none; diffusers writes the name only into files."""
    said = {key for key in config if not key.startswith("_")}
    if "clip_denoised" in said:
        return "CMStochasticIterativeScheduler"
    if "original_inference_steps" in said:
        return "LCMScheduler"
    if config.get("prediction_type") == "trigflow":
        return "SCMScheduler"
    if {"sigma_data", "solver_order"} <= said and "algorithm_type" not in said:
        return "CosineDPMSolverMultistepScheduler"
    if {"num_train_timesteps", "trained_betas"} == said and config["trained_betas"] is None:
        return "IPNDMScheduler"
    return None


def known(config: Config) -> Known | None:
    """What the class of a config stands for; None without a class."""
    name = class_name(config)
    return None if name is None else KNOWN[name]


def completed(config: Config) -> dict[str, Any]:
    """A config with the entries of its model that its class fills in, and old words for entries in today's."""
    rule = known(config)
    entries = dict(config)
    if "timesteps" in entries and "num_train_timesteps" not in entries and isinstance(entries["timesteps"], int):
        entries["num_train_timesteps"] = entries["timesteps"]  # of early releases
    return entries if rule is None else {**rule.defaults, **entries}


def attributes(config: Any) -> dict[str, Any]:
    """Attributes of a config that are not what its entries say; they are what diffusers' own classes read."""
    held = getattr(config, "__dict__", {})
    return {
        name: v for name, v in held.items() if name[0] != "_" and (name not in config or not _equal(v, config[name]))
    }


def changed(config: Config, before: Config) -> dict[str, Any]:
    """Entries of a config that were set since it was `before`, as entries or as attributes.

    Raises:
        ValueError: one that was set to two values.
    """
    told = {name: v for name, v in config.items() if name not in before or not _equal(v, before[name])}
    for name, value in attributes(config).items():
        new = name not in before or not _equal(value, before[name])
        if new and name in told and not _equal(told[name], value):
            raise ValueError(
                f"the config was told two values of {name!r}: {value!r} as an attribute, {told[name]!r} as an entry; set one"
            )
        told.update({name: value} if new else {})
    return told


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    plain = type(a) is type(b) and not hasattr(a, "shape")
    return bool(a == b) if plain else bool(np.array_equal(np.asarray(a, object), np.asarray(b, object)))
