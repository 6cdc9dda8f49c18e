"""Tables as a learner might leave them, made by hand: boundaries, weights and model times off those of a solver."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from problems import Mixture

from fewstep.samplers import Artefact, Learned, NoiseSchedule, Statistics, Tableau, build
from fewstep.samplers.artefact.corrections import M, widened
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.schedule.outputs import form_pair

WINDOW = 3
ALL = ("grid", "coef", "tau")


def learned_table(
    schedule: NoiseSchedule,
    nfe: int = 5,
    seed: int = 0,
    moved: tuple[str, ...] = ALL,
    solver: str = "dpmpp_2m",
    size: float = 0.02,
    **options: object,
) -> Tableau:
    """A solver with moved boundaries, zero-sum corrections over three outputs and model times 1 % off, ends in place."""
    random = np.random.default_rng(seed)
    table = build(solver, schedule, nfe, **options)
    if "grid" in moved:
        times = boundaries(table).copy()
        gaps = np.diff(times)
        times[1:-1] += 0.3 * gaps[1:] * random.uniform(-1, 1, len(times) - 2)
        table = build(solver, schedule, nfe, times, **options)
    if "coef" in moved:
        table = _corrected(table, random, size)
    if "tau" in moved:
        shown = table.model_times.copy()
        shown[1:] *= 1 - 0.01 * random.uniform(0.5, 1, table.nfe - 1)
        table = replace(table, model_times=shown)
    return table


def _corrected(table: Tableau, random: np.random.Generator, size: float) -> Tableau:
    wide = widened(table, WINDOW)
    W = wide.W.copy()
    for k in range(1, table.nfe):
        alike = [j for j in range(min(WINDOW, k + 1)) if form_pair(table.forms[k - j]) == form_pair(table.forms[k])]
        delta = size * random.standard_normal(len(alike))
        shared = np.array_equal(W[k, 0], W[k, 1])
        for line in (0, 1) if shared else (1,):
            for j, value in zip(alike, delta - delta.mean(), strict=True):
                W[k, line, M + j] += value
    return replace(wide, W=W)


def artefact(schedule: NoiseSchedule, *nfes: int, prediction: str = "epsilon", **how: object) -> Artefact:
    """Tables for several nfe on a schedule's default grid, moved."""
    tables = tuple(Learned(learned_table(schedule, n, seed=n, **how), report={"gain": 0.5}) for n in nfes or (5,))
    return Artefact(tables, {"prediction": prediction, "name": "by hand"}, {"method": "by hand", "seeds": [0, 64]})


BETAS = np.linspace(1e-4, 0.02, 1000)
VP = NoiseSchedule.vp_linear()
DISCRETE = NoiseSchedule.discrete(np.cumprod(1 - BETAS))
SCHEDULES = {"vp": VP, "edm": NoiseSchedule.edm(), "flow": NoiseSchedule.flow(3.0), "discrete": DISCRETE}


def statistics(shape=(64, 64), seed=0):
    """Of every element, and not small."""
    random = np.random.default_rng(seed)
    l, s, b = (0.1 * random.standard_normal((4, *shape)) for _ in range(3))  # noqa: E741
    return Statistics(np.array([-20.0, -5, 5, 20]), 1 + 0 * l, s, b, {"seed": seed})


def exact(schedule):
    """A network of a prediction type that also tells at alpha = 0."""
    return Mixture().denoiser(schedule, prediction(schedule))


def prediction(schedule):
    return "flow_prediction" if schedule.kind == "flow" else "epsilon"


def guided(schedule=DISCRETE, nfe=5, scales=(1.0, 3.0), **how):
    tables = tuple(Learned(learned_table(schedule, nfe, seed=i, **how), scale) for i, scale in enumerate(scales))
    return Artefact(tables, {"prediction": prediction(schedule)})


def error(x, reference):
    return float((x - reference).square().mean().sqrt())
