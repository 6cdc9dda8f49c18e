"""The deviation that stochastic solvers end with on Gaussian data, over published configs: by affine propagation in numpy."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from real_grids import CONFIGS, table

from fewstep.samplers import SOLVERS, Tableau
from fewstep.samplers.schedule.outputs import form_pair, prediction_coefficients

MEAN, STD = 0.5, 0.5
OPTIONS = {"ddim": {"eta": 1.0}}  # solvers that are stochastic by an option
STOCHASTIC = [n for n, e in SOLVERS.items() if e.kind == "tableau" and (e.stochastic or n in OPTIONS)]


@lru_cache(maxsize=1)
def distinct() -> list[str]:
    """Published configs whose ddim steps differ."""
    found: dict[tuple[float, ...], str] = {}
    for name, config in CONFIGS.items():
        try:
            nodes = table(config, "ddim", 7).nodes
        except ValueError:  # refused by name, or at another number of steps only
            continue
        found.setdefault(tuple(np.round(nodes.lam, 6)), name)
    return list(found.values())


def coefficients(
    tableau: Tableau, start: tuple[float, float], data: tuple[float, float], shown: Any = None
) -> np.ndarray:
    """The result's coefficients on {1, unit Gaussian of x_T, noises}, of a run that starts with `start` on the first two.

    data: mean and deviation. shown: (prediction, levels) where the network is told other levels (alpha, sigma) than those of
    the nodes, as classes that round times do; it predicts what that is there, and the solver reads it at its node.
    """
    mean, std = data
    nodes, draws = tableau.nodes, [draw for row in range(tableau.nfe) for draw in tableau.draws(row)]
    place = {(draw.row, draw.slot): 2 + i for i, draw in enumerate(draws)}
    one = np.zeros(2 + len(draws))
    one[0] = 1.0
    x = np.zeros_like(one)
    x[:2] = start
    carry, outputs = x, [np.zeros_like(x)] * tableau.history
    prediction, (alphas, sigmas) = ("epsilon", (nodes.alpha, nodes.sigma)) if shown is None else shown
    told = prediction_coefficients(prediction, nodes._replace(alpha=np.array(alphas), sigma=np.array(sigmas)))
    read = prediction_coefficients(prediction, nodes)
    for k in range(tableau.nfe):
        a, s = alphas[k], sigmas[k]
        gap = (x - a * mean * one) / (a**2 * std**2 + s**2)
        x0, eps = mean * one + a * std**2 * gap, s * gap
        if shown is not None:
            output = told[0][k] * x0 + told[1][k] * eps
            a, s, (P, Q) = nodes.alpha[k], nodes.sigma[k], (part[k] for part in read)
            det = P * s - Q * a  # of output = P x0 + Q eps, x = a x0 + s eps
            x0, eps = (s * output - Q * x) / det, (P * x - a * output) / det
        A, B = (float(np.asarray(v).reshape(-1)[0]) for v in form_pair(tableau.forms[k]))
        outputs = [A * x0 + B * eps, *outputs][: tableau.history]
        noises = [np.zeros_like(x) for _ in range(tableau.slots)]
        for draw in tableau.draws(k):
            noises[draw.slot][place[draw.row, draw.slot]] = 1.0
        registers = np.stack([carry, x, *outputs, *noises, *([one] if tableau.constant else [])])
        carry, x = tableau.W[k] @ registers
    return np.asarray(x)


def ratio_of_deviations(tableau: Tableau) -> float:
    """Deviation of the result over the right one, from the exact marginal at the start."""
    a, s = tableau.nodes.alpha, tableau.nodes.sigma
    x = coefficients(tableau, (a[0] * MEAN, np.hypot(a[0] * STD, s[0])), (MEAN, STD))
    return float(np.linalg.norm(x[1:]) / np.hypot(a[-1] * STD, s[-1]))


def spreads(solver: str, n: int, every: int = 1) -> tuple[dict[str, float], int]:
    """Deviation over the right one of each config at n evaluations, and how many configs the solver is refused on."""
    ratios, refused = {}, 0
    for name in distinct()[::every]:
        try:
            ratios[name] = ratio_of_deviations(table(CONFIGS[name], solver, n, **OPTIONS.get(solver, {})))
        except ValueError:
            refused += 1
    return ratios, refused
