"""The product of what configs of continuous scheduler classes may say, and how far a solver ends from the exact answer.

Data N(0.5, 0.5^2), wide: a coarse grid that loses the spread is far. The network is exact, at the times that the class shows
it, rounded or not; on Gaussian data a run is an affine map, which is followed in numpy.
"""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from late import diffusers
from spreads import coefficients

from fewstep.samplers import SOLVERS
from fewstep.samplers.building.compiling import compile_path
from fewstep.samplers.schedule.discrete import Discrete

DATA = (0.5, 0.5)
COUNTS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50)
MU = 1.15
MAPS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
OPTIONS: dict[str, tuple[Any, ...]] = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "sigma_map": (None, *MAPS),
    "rescale_betas_zero_snr": (False, True),
    "solver_order": (1, 2, 3),
}
MORE: dict[str, tuple[Any, ...]] = {
    "final_sigmas_type": ("zero", "sigma_min"),
    "steps_offset": (0, 1),
    "set_alpha_to_one": (False, True),
    "flow": (False, True),
    "algorithm_type": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"),
    "lower_order_final": (True, False),
    "interpolation_type": ("linear", "log_linear"),
    "timestep_type": ("discrete", "continuous"),
    "skip_prk_steps": (True, False),
    "snr_shift_scale": (1.0, 3.0),
    "shift": (1.0, 3.0, 6.0),
    "shift_terminal": (None, 0.1),
    "invert_sigmas": (False, True),
    "use_dynamic_shifting": (False, True),
    "time_shift_type": ("exponential", "linear"),
    "sigma_schedule": ("karras", "exponential"),
    "rho": (5.0, 7.0),
}
MULTI = {1: ("ddim", {}), 2: ("dpmpp_2m", {}), 3: ("dpmpp_3m", {})}


def solver_of(cls: str, config: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a class plays with these entries."""
    order, algorithm = config.get("solver_order", 2), config.get("algorithm_type", "dpmsolver++")
    if cls.startswith("DPMSolverMulti") or cls.startswith("EDMDPM"):
        stochastic = {1: ("ddim", {"eta": 1.0}), 2: ("dpmpp_2m_sde", {}), 3: ("dpmpp_3m_sde", {})}
        return {"sde-dpmsolver++": stochastic[order], "dpmsolver++": MULTI[order],
                "dpmsolver": ("deis_log_rho", {"order": order}),
                "sde-dpmsolver": ("sde_dpm", {"order": min(order, 2)})}[algorithm]  # fmt: skip
    if cls.startswith("DPMSolverSingle"):
        names = ("dpm_1", "dpm_2", "dpm_3") if algorithm == "dpmsolver" else ("ddim", "dpmpp_2s", "dpmpp_3s")
        return ("dpmpp_sde" if algorithm.startswith("sde") else names[order - 1]), {}
    if cls == "PNDMScheduler":
        return ("plms" if config.get("skip_prk_steps") else "pndm"), {}
    named = {
        "DEISMultistepScheduler": ("deis_log_rho", {"order": order}),
        "UniPCMultistepScheduler": ("unipc", {"order": order}),
        "SASolverScheduler": ("sa_solver", {}),
        "DDIMParallelScheduler": ("ddim", {}),
        "DDPMParallelScheduler": ("ddpm", {}),
        "CogVideoXDDIMScheduler": ("ddim", {}),
        "UnCLIPScheduler": ("ddpm", {}),
        "KDPM2DiscreteScheduler": ("dpm_2", {}),
        "EDMEulerScheduler": ("euler", {}),
        "LTXEulerAncestralRFScheduler": ("rf_ancestral", {}),
    }
    return named.get(cls, (cls, {}))


class Case(NamedTuple):
    """One cell: a class, what its config says, and a number of evaluations."""

    cls: str
    config: dict[str, Any]
    n: int

    @property
    def solver(self) -> tuple[str, dict[str, Any]]:
        return solver_of(self.cls, self.config)

    @property
    def entries(self) -> dict[str, Any]:
        entries = {"_class_name": self.cls, "num_train_timesteps": 1000, **self.config}
        return {**entries, "clip_sample": False} if "clip_sample" in signature(self.cls) else entries


def signature(cls: str) -> Any:
    return inspect.signature(getattr(diffusers, cls)).parameters


def choices(cls: str, more: bool = False) -> dict[str, tuple[Any, ...]]:
    """What each option in a class's signature may be; more: all options, else the classical six."""
    accepted, found = signature(cls), {}
    for key, values in {**OPTIONS, **(MORE if more else {})}.items():
        if key == "sigma_map":
            found[key] = tuple(v for v in values if v is None or v in accepted)
        elif key == "flow":
            found[key] = values if "use_flow_sigmas" in accepted else (False,)
        elif key in accepted and not (key == "sigma_schedule" and "sigma_data" not in accepted):
            found[key] = values
    return found


def said(cls: str, chosen: dict[str, Any]) -> dict[str, Any] | None:
    """The config of a choice; None where two entries of it cannot be together."""
    config = dict(chosen)
    if sigma_map := config.pop("sigma_map", None):
        config[sigma_map] = True
    if config.pop("flow", False):
        config |= {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}
        config.pop("rescale_betas_zero_snr", None)
    if config.get("invert_sigmas") and config.get("shift_terminal"):
        return None
    if "sigma_data" in signature(cls):
        config |= {"sigma_data": 0.5}
        if config.get("prediction_type") == "sample":
            return None
    return config


def configs(cls: str) -> Iterator[dict[str, Any]]:
    """Every combination of the classical six."""
    options = choices(cls)
    for values in itertools.product(*options.values()):
        if (config := said(cls, dict(zip(options, values, strict=True)))) is not None:
            yield config


CLASSICAL = ("DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler",
             "DDIMScheduler")  # fmt: skip
CLASSES = (
    *CLASSICAL, "DPMSolverSinglestepScheduler", "SASolverScheduler", "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler", "LMSDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
    "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "PNDMScheduler", "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler", "UnCLIPScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler",
    "LTXEulerAncestralRFScheduler", "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler",
)  # fmt: skip


def classical() -> list[Case]:
    """The 22,572 cells of the six options that place levels."""
    return [Case(cls, config, n) for cls in CLASSICAL for config in configs(cls) for n in COUNTS]


def drawn(cls: str, size: int, seed: int = 0) -> list[Case]:
    """`size` cells of all options of a class."""
    rng, options = random.Random(seed), choices(cls, more=True)
    found: list[Case] = []
    while len(found) < size:
        config = said(cls, {key: rng.choice(values) for key, values in options.items()})
        if config is not None:
            found.append(Case(cls, config, rng.choice(COUNTS)))
    return found


def levels(schedule: Any, model_times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(alpha, sigma) that a network takes these times for: log(sigma / alpha) of tables is linear between training steps."""
    if not isinstance(schedule, Discrete):
        times = schedule.time_of_model(model_times)
        return schedule.alpha(times), schedule.sigma(times)
    table = schedule.alphas_cumprod
    log_rho = 0.5 * np.log((1 - table) / np.maximum(table, 1e-300))
    rho = np.exp(np.interp(model_times, np.arange(len(table)), log_rho))
    return 1 / np.hypot(1, rho), rho / np.hypot(1, rho)


def error(case: Case, ddim: bool = False) -> float:
    """Distance from the exact answer over its size, of the samples or, with noise, of their mean and deviation.

    ddim: of that solver at the levels and times of this cell, with noise where the cell's own has some.

    Raises:
        ValueError: what the library raises.
    """
    from fewstep import Scheduler

    played, options = case.solver
    scheduler = Scheduler.from_config(case.entries, solver=played, **options)
    scheduler.set_timesteps(case.n, mu=MU if case.config.get("use_dynamic_shifting") else None)
    assert scheduler._table is not None
    tableau, prediction = scheduler._table.tableau, scheduler._model.prediction
    schedule = tableau.schedule
    if ddim:
        noise = {"eta": float(tableau.stochastic)}
        tableau = compile_path(SOLVERS["ddim"], schedule, tableau.times, (1,) * tableau.nfe, tableau.model_times, noise)
    nodes = tableau.nodes
    scale = float(nodes.sigma[0]) if schedule.kind in ("ve", "edm") else 1.0
    x = coefficients(tableau, (0.0, scale), DATA, (prediction, levels(schedule, tableau.model_times)))
    (a, s), (b, e) = ((float(nodes.alpha[k]), float(nodes.sigma[k])) for k in (0, -1))
    mean, std = DATA
    ratio = np.hypot(b * std, e) / np.hypot(a * std, s)
    exact = np.array([b * mean - a * mean * ratio, scale * ratio])
    got = np.array([x[0], np.linalg.norm(x[1:])]) if tableau.stochastic else x[:2]
    if tableau.stochastic:
        exact = np.array([b * mean, np.hypot(b * std, e)])
    return float(np.linalg.norm(got - exact) / np.linalg.norm(exact))
