"""Solvers on the grids of published configs, judged on mixtures whose probability flow is known.

In y = x / (alpha + sigma) and r = sigma / (alpha + sigma) the flow dy/dr = (y - x0) / r is the same for every schedule, so the
answer depends on where a run begins and ends alone. Tables are played in numpy, with the network's answer at the row's own
level: what is measured is the solver on its steps.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np
from places import TESTS

from fewstep.samplers import Tableau

CONFIGS: dict[str, dict[str, Any]] = json.loads((TESTS / "fixtures" / "hub_configs.json").read_text(encoding="utf-8"))
SAMPLES, MU = 48, 1.15  # MU: the dynamic shift of flows that have one
_rng = np.random.default_rng(5)


class Data:
    """A mixture of axis-aligned Gaussians: means (K, d), deviations (K, 1) or (K, d)."""

    def __init__(self, means: Any, deviations: Any):
        self.means, self.deviations = np.asarray(means, float), np.asarray(deviations, float)

    def x0(self, x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
        """E[x0 | x]."""
        variance = alpha**2 * self.deviations**2 + sigma**2 + 0 * self.means
        away = x[:, None] - alpha * self.means
        log = -0.5 * (away**2 / variance + np.log(variance)).sum(-1)
        share = np.exp(log - log.max(1, keepdims=True))
        each = self.means + alpha * self.deviations**2 / variance * away
        return ((share / share.sum(1, keepdims=True))[..., None] * each).sum(1)

    def noise(self, samples: int = SAMPLES) -> np.ndarray:
        return np.random.default_rng(11).normal(size=(samples, self.means.shape[1]))


DATA = {
    "narrow": Data([[1, 1], [1, -1], [-1, 1], [-0.8, -1.2], [0, 0]], [[0.05], [0.1], [0.15], [0.2], [0.3]]),
    "wide": Data(np.full((1, 3), 0.5), [[0.5]]),
    "16-D": Data(_rng.normal(size=(6, 16)) * 0.8, np.exp(_rng.uniform(np.log(0.03), np.log(0.7), (6, 16)))),
}


@lru_cache(maxsize=4096)
def flow(data: str, y_scale: float, first: float, last: float, samples: int = SAMPLES) -> np.ndarray:
    """y at r = last from y_scale noise at r = first: Runge-Kutta, even in lam, to 1e-6."""
    lam = [np.log((1 - r) / r) if 0 < r < 1 else end for r, end in ((first, -12.0), (last, 14.0))]
    r = 1 / (1 + np.exp(np.linspace(lam[0], lam[1], 301)))
    r[0], r[-1] = first, last
    y = DATA[data].noise(samples) * y_scale
    v = lambda y, r: (y - DATA[data].x0(y, 1 - r, r)) / r  # noqa: E731
    for a, b in zip(r, r[1:], strict=False):
        h = b - a
        if b == 0 or a == 1:
            y = DATA[data].x0(y, 1 - a, a) if b == 0 else y + h * v(y, a)
            continue
        k1 = v(y, a)
        k2 = v(y + h / 2 * k1, a + h / 2)
        k3 = v(y + h / 2 * k2, a + h / 2)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + v(y + h * k3, b))
    return y


def table(config: dict[str, Any], solver: str, n: int, **options: Any) -> Tableau:
    """What a pipeline with this config plays."""
    from fewstep import Scheduler

    scheduler = Scheduler.from_config(config, solver=solver, **options)
    scheduler.set_timesteps(n, mu=MU if config.get("use_dynamic_shifting") else None)
    assert scheduler._table is not None
    return scheduler._table.tableau


def played(tableau: Tableau, data: Data, x: np.ndarray) -> np.ndarray:
    """The sample of a table without noise, from state x."""
    outputs: list[np.ndarray] = []
    carry = x
    for k in range(tableau.nfe):
        alpha, sigma = tableau.nodes.alpha[k], tableau.nodes.sigma[k]
        x0 = data.x0(x, alpha, sigma)
        eps = (x - alpha * x0) / sigma
        form = tableau.forms[k]
        m = {"x0": x0, "eps": eps, "flow": eps - x0}[form] if isinstance(form, str) else form[0] * x0 + form[1] * eps
        outputs = [m, *outputs][: tableau.history]
        registers = [carry, x, *outputs, *[np.zeros_like(x)] * (tableau.history - len(outputs)), np.ones_like(x)]
        lines = [sum(w * v for w, v in zip(line, registers, strict=False)) for line in tableau.W[k]]
        carry, x = (np.asarray(line) for line in lines)
    return x


def squared_errors(tableau: Tableau, data: str, samples: int = SAMPLES) -> np.ndarray:
    """Mean square of y against the exact flow, a sample, from pure noise of the size that the schedule begins with."""
    nodes = tableau.nodes
    size = nodes.alpha + nodes.sigma
    scale = float(nodes.sigma[0]) if tableau.schedule.kind in ("ve", "edm") else 1.0
    r = [round(float(nodes.sigma[k] / size[k]), 12) for k in (0, -1)]
    y = played(tableau, DATA[data], DATA[data].noise(samples) * scale) / size[-1]
    return np.asarray(np.square(y - flow(data, scale / float(size[0]), *r, samples)).mean(1))


def error(tableau: Tableau, data: str) -> float:
    """Root mean square of y against the exact flow over all samples."""
    return float(np.sqrt(squared_errors(tableau, data).mean()))


def distinct() -> dict[str, dict[str, Any]]:
    """Published configs that a deterministic solver plays on steps of their own, one of each kind of steps."""
    found: dict[tuple[float, ...], str] = {}
    for name, config in CONFIGS.items():
        try:
            lam = table(config, "dpmpp_2m", 7).nodes.lam
        except ValueError:  # refused by name, or played by a solver of its own
            continue
        found.setdefault(tuple(np.round(lam, 6)), name)
    return {name: CONFIGS[name] for name in found.values()}
