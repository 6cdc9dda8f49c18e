"""What diffusers scheduler configs mean: kinds of model, beta tables, and the habits of each scheduler class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fewstep.samplers.config.attributes import attributes
from fewstep.samplers.config.betas import betas, zero_terminal_snr
from fewstep.samplers.schedule.base import Array

Config = Mapping[str, Any]
PURE_NOISE = 2.0**-24  # last alpha^2 that diffusers writes for zero terminal SNR


@dataclass(frozen=True)
class Convention:
    """How one diffusers class turns a config into a grid, where classes differ."""

    spacing: str = "linspace"  # default of timestep_spacing
    closed: bool = False  # n points reach training step 0; else the last of n + 1 points is left out
    whole: bool = True  # the network is shown whole training steps
    rounds: tuple[str, ...] = ()  # sigma maps after which times are rounded; after others they are truncated
    truncates: str | None = None  # beta schedule for which they are always truncated
    end: str = "zero"  # "zero", "sigma_min", or the config key that decides
    default_end: str = "zero"
    spacing_fixed: bool = False  # timestep_spacing and steps_offset are not options of the class
    clips: bool | None = None  # default of clip_sample; None: not an option of the class
    literal: bool = False  # zero terminal SNR means alpha = 0 exactly, not 2**-12


_DATA = Convention(rounds=("use_karras_sigmas",), end="final_sigmas_type")
_KARRAS = Convention(closed=True, whole=False)
_STEPS = Convention(closed=True, spacing="leading", end="set_alpha_to_one")
CONVENTIONS: dict[str, Convention] = {
    "DPMSolverMultistepScheduler": replace(
        _DATA, rounds=("use_karras_sigmas", "use_lu_lambdas"), truncates="squaredcos_cap_v2"
    ),
    "DPMSolverSinglestepScheduler": replace(_DATA, spacing_fixed=True),
    "DEISMultistepScheduler": replace(_DATA, end="sigma_min"),
    "UniPCMultistepScheduler": _DATA,
    "SASolverScheduler": replace(_DATA, end="sigma_min"),
    "EulerDiscreteScheduler": replace(_KARRAS, end="final_sigmas_type"),
    "EulerAncestralDiscreteScheduler": _KARRAS,
    "HeunDiscreteScheduler": replace(_KARRAS, clips=False),
    "LMSDiscreteScheduler": _KARRAS,
    "KDPM2DiscreteScheduler": replace(_KARRAS, rounds=("use_karras_sigmas",)),
    "DPMSolverSDEScheduler": _KARRAS,
    "DDIMScheduler": replace(_STEPS, clips=True, literal=True),
    "PNDMScheduler": replace(_STEPS, default_end="sigma_min"),
    "DDPMScheduler": replace(_STEPS, end="zero", clips=True, literal=True),
}
FLOW_CLASSES = tuple(name for name, rule in CONVENTIONS.items() if not rule.closed)  # those with use_flow_sigmas

# Solver name, or the beginning of it -> the diffusers class whose habits apply.
CLASS_OF_SOLVER: dict[str, str] = {
    "": "DPMSolverMultistepScheduler",
    "dpm_": "DPMSolverSinglestepScheduler",
    "dpmpp_2s": "DPMSolverSinglestepScheduler",
    "dpmpp_3s": "DPMSolverSinglestepScheduler",
    "dpmpp_sde": "DPMSolverSDEScheduler",
    "deis": "DEISMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "sa_solver": "SASolverScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "pndm": "PNDMScheduler",
    "plms": "PNDMScheduler",
}
# Beta tables of classes whose defaults are not linear 1e-4..0.02.
_BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}
_LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
_SCALED = {**_LATENT, "beta_schedule": "scaled_linear"}
_BETAS_OF_CLASS: dict[str, dict[str, Any]] = {
    "HeunDiscreteScheduler": _LATENT,
    "KDPM2DiscreteScheduler": _LATENT,
    "KDPM2AncestralDiscreteScheduler": _LATENT,
    "DPMSolverSDEScheduler": _LATENT,
    "LCMScheduler": _SCALED,
    "TCDScheduler": _SCALED,
    "CogVideoXDDIMScheduler": {**_SCALED, "snr_shift_scale": 3.0},
    "CogVideoXDPMScheduler": {**_SCALED, "snr_shift_scale": 3.0},
    "UnCLIPScheduler": {"beta_schedule": "squaredcos_cap_v2"},
}


def as_config(config: Any) -> dict[str, Any]:
    """A plain dict from a config mapping or a scheduler object; a scheduler adds its class name."""
    if not isinstance(config, Mapping) and isinstance(own := getattr(config, "config", None), Mapping):
        config = {"_class_name": type(config).__name__, **own, **attributes(own)}
    if not isinstance(config, Mapping):
        raise ValueError(
            f"expected a scheduler or its config (a dict); got {type(config).__name__}. Pass `pipe.scheduler.config`."
        )
    return {**config, **attributes(config)}


def explicit(config: Config) -> dict[str, Any]:
    """The entries that somebody chose, without those that are class defaults."""
    defaults = set(config.get("_use_default_values", ()))
    return {key: value for key, value in config.items() if key not in defaults}


def class_of(config: Config, solver: str | None) -> str:
    """The diffusers class that belongs to a solver; without one, the config's own class if it is known."""
    if solver is None:
        own = str(config.get("_class_name"))
        own = "UniPCMultistepScheduler" if own == "None" and "disable_corrector" in config else own
        return own if own in CONVENTIONS else CLASS_OF_SOLVER[""]
    if solver in CONVENTIONS:
        return solver
    return CLASS_OF_SOLVER[max((key for key in CLASS_OF_SOLVER if solver.startswith(key)), key=len)]


def convention(config: Config, solver: str | None = None) -> Convention:
    """The habits of the class that belongs to `solver`."""
    return CONVENTIONS[class_of(config, solver)]


def kind_of(config: Config) -> str:
    """The kind of model: "flow", "edm", "ve", "vp" (continuous), "sigma" (VP labelled by log sigma / 4) or "table"."""
    name = str(config.get("_class_name", ""))
    has_betas = any(key in config for key in ("beta_schedule", "beta_start", "beta_end", "trained_betas"))
    if flow_mode(config) or "FlowM" in name:
        return "flow"
    if not has_betas and any(key in config for key in ("shift", "base_shift", "use_dynamic_shifting")):
        return "flow"
    if "sigma_data" in config:
        return "edm"
    if "sampling_eps" in config and "sigma_max" in config:
        return "ve"
    if "beta_min" in config and "beta_max" in config:
        return "vp"
    if config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction":
        return "sigma"
    if has_betas or (name.endswith("Scheduler") and "num_train_timesteps" in config):
        return "table"
    entries = ", ".join(sorted(key for key in config if not key.startswith("_"))) or "none"
    raise ValueError(
        f"this config describes no noise schedule; its entries are: {entries}. Expected a diffusers scheduler's "
        "(beta_schedule, trained_betas, sigma_data, shift, ...): pass `pipe.scheduler.config`."
    )


def flow_mode(config: Config) -> bool:
    """A flow model described in the config of a VP class (use_flow_sigmas, flow_shift), not in that of a flow class."""
    own = "FlowM" not in str(config.get("_class_name", ""))
    return own and bool(config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction")


def table_of(config: Config, floor: float = PURE_NOISE) -> Array:
    """alpha^2 at the training steps, float64; with zero terminal SNR the last entry is `floor`."""
    c = {**_BETAS, **_BETAS_OF_CLASS.get(str(config.get("_class_name")), {}), **config}
    if c.get("trained_betas") is not None:
        beta: Array = np.asarray(c["trained_betas"], np.float64)
        if beta.ndim != 1 or len(beta) < 2 or not (np.isfinite(beta) & (beta > 0) & (beta <= 1)).all():
            raise ValueError(f"`trained_betas` must be at least 2 numbers in (0, 1]; got {beta}.")
    else:
        beta = betas(c["beta_schedule"], c["beta_start"], c["beta_end"], c["num_train_timesteps"])
    table: Array = np.cumprod(1 - beta)
    if scale := c.get("snr_shift_scale"):
        table = table / (scale + (1 - scale) * table)
    return zero_terminal_snr(table, floor) if c.get("rescale_betas_zero_snr") else np.asarray(table, np.float64)


def levels_of(table: Array) -> Array:
    """sigma / alpha of a table of alpha^2, finite also where alpha = 0."""
    return np.sqrt(1 / np.maximum(table, 1e-300) - 1)
