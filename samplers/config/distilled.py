"""The times that few-step models were distilled at, and the sampler they were distilled for."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewstep.samplers.config.known_classes import Config, class_name, completed, known
from fewstep.samplers.config.sigma_maps import Levels
from fewstep.samplers.grids.levels import power_ramp
from fewstep.samplers.schedule.base import Array

RENOISING = ("renoise", "consistency", "tcd")  # solvers of networks that answer with data


def own_solver(config: Config) -> tuple[str, dict[str, Any]] | None:
    """(solver, options) that a config asks for by its class or its entries, as distilled models' do; None of others."""
    rule = known(config)
    fixed = config.get("fixed_step_sampler_config") or {}
    own = class_name(config) in (None, "FlowMatchEulerDiscreteScheduler")  # an option of no other class
    if (own and config.get("stochastic_sampling")) or fixed.get("sample_type") == "sde":
        return "renoise", {}
    if rule is None or rule.solver is None:
        return None
    said = {"consistency": ("s_noise",), "rf_ancestral": ("eta", "s_noise")}.get(rule.solver, ())
    return rule.solver, {name: float(config[name]) for name in said if config.get(name, 1.0) != 1.0}


def distilled_steps(total: int, n: int, original: int) -> Array:
    """Of the training steps k j - 1, k = total // original, j = original .. 1: every (original / n)-th, n of them.

    (Luo et al., Latent Consistency Models, 2023, arXiv 2310.04378.) Beyond `original`, n even steps of the whole range.
    """
    if not 1 <= original <= total:
        raise ValueError(
            f"`original_inference_steps` must lie within 1..{total}, the training steps; got {original!r}."
        )
    if n > original:
        return np.asarray(total - np.round(np.arange(n) * total / n) - 1.0)
    steps = np.arange(original, 0, -1) * (total // original) - 1.0
    return np.asarray(steps[np.floor(np.arange(n) * original / n).astype(int)])


def consistency_levels(config: Config, n: int, timesteps: Array | None) -> Levels:
    """Karras levels at every (T // n)-th of T places; explicit `timesteps` are such places, or times of the network.

    (Song et al., Consistency Models, 2023, arXiv 2303.01469.) The network sees 250 log sigma.
    """
    c = completed(config)
    total = int(c["num_train_timesteps"])
    places: Array | None = None if timesteps is None else np.asarray(timesteps)[::-1]
    if places is not None and not ((places == np.round(places)) & (places >= 0) & (places < total)).all():
        return Levels(np.exp(np.asarray(timesteps) / 250), np.asarray(timesteps), "zero")
    if places is None:
        places = np.arange(n) * float(total // n if n <= total else (total - 1) / n)
    ends = -np.log(float(c["sigma_max"])), -np.log(float(c["sigma_min"]))
    levels = np.exp(-power_ramp(float(c["rho"]))(np.asarray(places, float) / max(total - 1, 1), *ends))
    return Levels(levels, 250 * np.log(levels), "zero")


def angle_levels(config: Config, n: int, timesteps: Array | None) -> tuple[Array, Array]:
    """(angles of the boundaries, what the network sees) of models in x = cos t x0 + sin t z.

    SCMScheduler: pi/2 and 1.3 for two steps, else even (Chen et al., SANA-Sprint, 2025, arXiv 2503.09641). IPNDMScheduler:
    sin t = sin(pi k / 2 n)^2, and the network sees 2 t / pi.
    """
    if class_name(config) == "IPNDMScheduler":
        if timesteps is not None:
            return np.append(timesteps * np.pi / 2, 0.0), timesteps
        angles = np.arcsin(np.sin(np.linspace(1.0, 0.0, n + 1) * np.pi / 2) ** 2)
        return angles, angles[:-1] * 2 / np.pi
    shown = np.linspace(1.5708, 0.0, n + 1)[:-1] if n != 2 else np.array([1.5708, 1.3])
    shown = shown if timesteps is None else timesteps
    return np.append(np.minimum(shown, np.pi / 2), 0.0), shown


def fixed_times(config: Config, n: int) -> Array | None:
    """The flow times that a distilled model's config lists; None where it lists none.

    Raises:
        ValueError: another number of steps than it has.
    """
    times = (config.get("fixed_step_sampler_config") or {}).get("t_list")
    if times is None:
        return None
    times = np.asarray([t for t in times if t != 0], np.float64)
    if n != len(times):
        raise ValueError(
            f"this model was distilled at {len(times)} times (`fixed_step_sampler_config`); got {n} steps. Ask for "
            f"{len(times)}, or pass `sigmas`."
        )
    return times
