"""What diffusers scheduler configs mean: kinds of model, alpha tables, and the habits of each scheduler class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fewstep.samplers.config.betas import betas, wuerstchen_table, zero_terminal_snr
from fewstep.samplers.config.known_classes import KNOWN, Config, attributes, class_name, completed, known
from fewstep.samplers.schedule.base import Array

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
    bounded: bool = False  # lambda_min_clipped is an option of the class
    log_linear: bool = False  # interpolation_type is an option of the class
    distilled: bool = False  # times are those of distillation, by original_inference_steps


_DATA = Convention(rounds=("use_karras_sigmas",), end="final_sigmas_type")
_KARRAS = Convention(closed=True, whole=False)
_STEPS = Convention(closed=True, spacing="leading", end="set_alpha_to_one")
_DDIM = replace(_STEPS, clips=True, literal=True)
_DDPM = replace(_DDIM, end="zero")
_KDPM2 = replace(_KARRAS, rounds=("use_karras_sigmas",))
CONVENTIONS: dict[str, Convention] = {
    "DPMSolverMultistepScheduler": replace(
        _DATA, rounds=("use_karras_sigmas", "use_lu_lambdas"), truncates="squaredcos_cap_v2", bounded=True
    ),
    "DPMSolverSinglestepScheduler": replace(_DATA, spacing_fixed=True, bounded=True),
    "DEISMultistepScheduler": replace(_DATA, end="sigma_min"),
    "UniPCMultistepScheduler": _DATA,
    "SASolverScheduler": replace(_DATA, end="sigma_min"),
    "EulerDiscreteScheduler": replace(_KARRAS, end="final_sigmas_type", log_linear=True),
    "EulerAncestralDiscreteScheduler": _KARRAS,
    "HeunDiscreteScheduler": replace(_KARRAS, clips=False),
    "LMSDiscreteScheduler": _KARRAS,
    "KDPM2DiscreteScheduler": _KDPM2,
    "KDPM2AncestralDiscreteScheduler": _KDPM2,
    "DPMSolverSDEScheduler": _KARRAS,
    "DDIMScheduler": _DDIM,
    "DDIMParallelScheduler": _DDIM,
    "CogVideoXDDIMScheduler": replace(_STEPS, literal=True),  # says clip_sample, and does not clip
    "CogVideoXDPMScheduler": replace(_STEPS, literal=True),
    "PNDMScheduler": replace(_STEPS, default_end="sigma_min"),
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "UnCLIPScheduler": Convention(closed=True, spacing_fixed=True, clips=True),
    "DDPMWuerstchenScheduler": Convention(spacing="trailing", spacing_fixed=True, end="sigma_min"),
    "LCMScheduler": Convention(closed=True, clips=False, distilled=True),
    "TCDScheduler": Convention(closed=True, end="sigma_min", distilled=True),
}
# those with use_flow_sigmas
FLOW_CLASSES = tuple(name for name, rule in CONVENTIONS.items() if not rule.closed and not KNOWN[name].sticks)

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
MAPS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")  # of sigma
_BETAS = {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "num_train_timesteps": 1000}


def as_config(config: Any) -> dict[str, Any]:
    """A plain dict from a config mapping or a scheduler object; a scheduler adds its class name.

    A subclass of a known class is read as that.
    """
    if not isinstance(config, Mapping) and isinstance(own := getattr(config, "config", None), Mapping):
        names = [base.__name__ for base in type(config).__mro__]
        name = next((name for name in names if name in KNOWN or name == "Scheduler"), names[0])
        config = {**own, "_class_name": name, **attributes(own)}
    if not isinstance(config, Mapping):
        raise ValueError(
            f"expected a scheduler or its config (a dict); got {type(config).__name__}. Pass `pipe.scheduler.config`."
        )
    return {**config, **attributes(config)}


def explicit(config: Config) -> dict[str, Any]:
    """The entries that somebody chose, without those that are class defaults."""
    defaults = set(config.get("_use_default_values", ()))
    return {key: value for key, value in config.items() if key not in defaults}


def sigma_map_of(chosen: Config) -> str | None:
    """The config key of the sigma map that a config asks for."""
    wanted = [key for key in MAPS if chosen.get(key)]
    if len(wanted) > 1:
        raise ValueError(f"a config can ask for one sigma map; this one has {' and '.join(wanted)}. Choose one.")
    if not wanted and chosen.get("interpolation_type") == "log_linear":
        wanted = ["use_exponential_sigmas"]
    return wanted[0] if wanted else None


def levelled(config: Config) -> bool:
    """Whether a config of betas places its steps by level."""
    mapped = sigma_map_of(explicit(config)) is not None
    return mapped or config.get("timestep_type") == "continuous" or config.get("prediction_type") == "original_sample"


def only_counts(config: Config) -> bool:
    """Whether a config says no more of its steps than how they are spaced: no map of levels, no shift of each image."""
    rule = known(config)
    free = kind_of(config) in ("table", "flow", "vp") and not (rule is not None and rule.sticks)
    return free and not levelled(config) and not completed(config).get("use_dynamic_shifting")


def class_of(config: Config, solver: str | None) -> str:
    """The diffusers class that belongs to a solver; the config's own where its times are its own, or without a solver."""
    own, rule = class_name(config), known(config)
    if solver is None or (rule is not None and rule.sticks):
        own = "UniPCMultistepScheduler" if own is None and "disable_corrector" in config else own
        return own if own in CONVENTIONS else CLASS_OF_SOLVER[""]
    if solver in CONVENTIONS:
        return solver
    if solver == "auto":  # which is what it becomes on such steps
        solver = "unipc" if levelled(config) else "deis"
    return CLASS_OF_SOLVER[max((key for key in CLASS_OF_SOLVER if solver.startswith(key)), key=len)]


def convention(config: Config, solver: str | None = None) -> Convention:
    """The habits of the class that belongs to `solver`."""
    return CONVENTIONS[class_of(config, solver)]


def kind_of(config: Config) -> str:
    """The kind of model: "flow", "edm", "ve", "vp" (continuous), "angle" (x = cos t x0 + sin t z), or of betas "table".

    Of tables, "sigma" is labelled by log sigma / 4, and "ve" networks that predict x0 see the state over alpha: "scaled".
    """
    rule = known(config)
    _contradictions(config)
    if flow_mode(config):
        return "flow"
    kind = _by_entries(config) if rule is None else rule.kind
    if kind != "table":
        return kind
    if config.get("timestep_type") == "continuous" and config.get("prediction_type") == "v_prediction":
        return "sigma"
    return "scaled" if config.get("prediction_type") == "original_sample" else "table"


def _by_entries(config: Config) -> str:
    """The kind of model of a config without a class."""
    has_betas = any(key in config for key in ("beta_schedule", "beta_start", "beta_end", "trained_betas"))
    if not has_betas and any(key in config for key in ("shift", "base_shift", "use_dynamic_shifting")):
        return "flow"
    if "sigma_data" in config:
        return "angle" if config.get("prediction_type") == "trigflow" else "edm"
    if "sampling_eps" in config and "sigma_max" in config:
        return "ve"
    if "beta_min" in config and "beta_max" in config:
        return "vp"
    if has_betas or (config.get("_class_name") == "Scheduler" and "num_train_timesteps" in config):
        return "table"
    entries = ", ".join(sorted(key for key in config if not key.startswith("_"))) or "none"
    raise ValueError(
        f"this config describes no noise schedule; its entries are: {entries}. Expected a diffusers scheduler's "
        "(beta_schedule, trained_betas, sigma_data, shift, ...): pass the scheduler itself, `pipe.scheduler`."
    )


LABELS = {"CosineDPMSolverMultistepScheduler": "audio", "CMStochasticIterativeScheduler": "consistency"}


def label_of(config: Config) -> str:
    """How an EDM network in diffusers is told its level: "log", "audio" or "consistency", see LabelledEDM."""
    if class_name(config) is None:
        return "log" if "rho" in config else "audio"  # only the class for audio has configs without rho
    return LABELS.get(str(class_name(config)), "log")


def flow_mode(config: Config) -> bool:
    """A flow model described in the config of a VP class (use_flow_sigmas, flow_shift), not in that of a flow class."""
    rule = known(config)
    own = rule is None or rule.kind == "table"
    return own and bool(config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction")


def _contradictions(config: Config) -> None:
    """ValueError where a config says one thing twice, differently; what nobody chose is not said."""
    chosen = explicit(config)
    if config.get("scale_factors"):
        raise ValueError(
            f"`scale_factors`={config['scale_factors']} change the resolution of the state between steps, which no solver "
            "here does: remove the entry, or keep this scheduler in its own pipeline."
        )
    shifts = {float(s) for key in ("shift", "flow_shift") if isinstance(s := chosen.get(key), (int, float)) and s != 1}
    if len(shifts) > 1:
        raise ValueError(
            f"this config says the shift of its flow twice: shift={chosen['shift']}, flow_shift={chosen['flow_shift']}. "
            "Remove one of them."
        )
    maps = [key for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas") if chosen.get(key)]
    form = chosen.get("sigma_schedule")
    if maps and form is not None and maps != [f"use_{form}_sigmas"]:
        raise ValueError(
            f"this config spreads its sigmas twice: sigma_schedule={form!r} and {' and '.join(maps)}. Remove one of them."
        )


def table_of(config: Config, floor: float = PURE_NOISE) -> Array:
    """alpha^2 at the training steps, float64; with zero terminal SNR the last entry is `floor`."""
    c = {**_BETAS, **completed(config)}
    if class_name(config) == "DDPMWuerstchenScheduler":
        return wuerstchen_table(float(c["s"]), float(c["scaler"]), int(c["num_train_timesteps"]))
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


def told_by_betas(config: Config, table: Array) -> Array:
    """alpha^2 that pipelines make out of a scheduler's betas: the model's own, but where they read its network's time there.

    Stable Cascade's do, for which the limits of the table have to be away.
    """
    if class_name(config) != "DDPMWuerstchenScheduler":
        return table
    c = completed(config)
    return wuerstchen_table(float(c["s"]), float(c["scaler"]), len(table), clipped=False)


def levels_of(table: Array) -> Array:
    """sigma / alpha of a table of alpha^2, finite also where alpha = 0."""
    return np.sqrt(1 / np.maximum(table, 1e-300) - 1)
