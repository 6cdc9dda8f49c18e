"""Uneven paths in lam under three schedules, and solvers beside their rules written out on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from problems import Mixture, starts
from torch import Tensor

from fewstep.samplers import SOLVERS, NoiseSchedule, sample
from fewstep.samplers.building.names import resolve
from fewstep.samplers.schedule.base import Node

SCHEDULES = {
    "vp": (NoiseSchedule.vp_linear(), 1.0, 1e-3),
    "edm": (NoiseSchedule.edm(), 80.0, 2e-3),
    "flow": (NoiseSchedule.flow(), 0.995, 0.005),
}
EQUAL = 1e-12
FULL = {"lower_order_final": False}


def uneven(n: int, low: float, high: float, seed: int = 0) -> np.ndarray:
    """n + 1 increasing values whose spacings differ by up to a factor of three."""
    gaps = np.random.default_rng(seed).uniform(1, 3, n)
    return low + (high - low) * np.append(0, np.cumsum(gaps)) / gaps.sum()


def path(kind: str, n: int = 9) -> tuple[NoiseSchedule, np.ndarray, list[Node]]:
    """A schedule, uneven times on it and their nodes."""
    schedule, first, last = SCHEDULES[kind]
    times = schedule.t_of_lam(uneven(n, float(schedule.lam(first)), float(schedule.lam(last))))
    return schedule, times, nodes_at(schedule, times)


def nodes_at(schedule: NoiseSchedule, times: np.ndarray) -> list[Node]:
    return [Node(*map(float, row)) for row in zip(*schedule.nodes(times), strict=True)]


def close(a: Any, b: Any, rel: float = EQUAL) -> None:
    """Equal to `rel` of the largest entry."""
    a, b = (torch.as_tensor(np.asarray(v)) for v in (a, b))
    assert float((a - b).abs().max()) <= rel * float(b.abs().max())


def run(kind: str, name: str, prediction: str = "sample", n: int = 9, nfe: int | None = None, **options: Any) -> Tensor:
    """The solver's published rows on the mixture, on the uneven path, where a limiter would act."""
    schedule, times, _ = path(kind, n)
    options = {**({"limiter": False} if SOLVERS[resolve(name)[0]].kind == "tableau" else {}), **options}
    denoiser, x = Mixture().denoiser(schedule, prediction), starts(schedule, times[0])
    return sample(denoiser, x, name, nfe, times, **options)


def longhand(kind: str, rule: Any, n: int = 9) -> Tensor:
    """The result of `rule(x, nodes, x0, eps)`, a sampler written out, on the same problem and path."""
    schedule, times, nodes = path(kind, n)

    def x0(x: Tensor, node: Node) -> Tensor:
        return Mixture().predict(x, node.alpha, node.sigma)[0]

    def eps(x: Tensor, node: Node) -> Tensor:
        return Mixture().predict(x, node.alpha, node.sigma)[1]

    return rule(starts(schedule, times[0]), nodes, x0, eps)


everywhere = pytest.mark.parametrize("kind", SCHEDULES)
