"""The noise in the rows of a table, seen as that of a stochastic differential equation: eta^2 of every step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, inf, log1p

import numpy as np

from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.table.tableau import Tableau

Terms = tuple[tuple[Draw, float], ...]  # noises with weights


def boundaries(tableau: Tableau) -> list[int]:
    """Rows before which a step begins, and the end."""
    return [int(v) for v in np.cumsum([0, *tableau.groups])]


def diffusion(tableau: Tableau, nodes: Sequence[Node]) -> tuple[list[float], list[Terms]]:
    """(eta^2, noises in y) of every step.

    A step's noise in x has the variance C^2 = sigma_t^2 (1 - e^(-2 eta^2 h)) where outputs are x0, and otherwise
    eta^2 sigma_t^2 (e^(2 h) - 1); h = lam_t - lam_s. Other tables agree with these as h goes to 0. A step that lands at l,
    from where noise takes it up to t (churn), says it by its length: 1 + eta^2 = (rho_s - rho_l) / (rho_s - rho_t).
    """
    shares, noises = [], []
    for k, ((begin, stop), (s, t)) in enumerate(zip(pairwise(boundaries(tableau)), pairwise(nodes), strict=True)):
        terms = fresh(tableau, begin, stop) if tableau.stochastic else {}
        variance = sum(w**2 for w in terms.values())
        land = tableau.jumps.get(k)
        if variance and land:
            shares.append(rho_gap(land, s) / rho_gap(t, s) - 1)
        else:
            shares.append(_share(tableau, tableau.forms[begin], variance, s, t) if variance else 0.0)
        noises.append(tuple((draw, w / t.alpha) for draw, w in terms.items()))
    return shares, noises


def _share(tableau: Tableau, form: object, variance: float, s: Node, t: Node) -> float:
    """eta^2 of a step."""
    part, h = variance / t.sigma**2 if t.sigma else inf, t.lam - s.lam
    if h == inf:
        return 1.0
    if form != "x0":
        return part / expm1(2 * h)
    if part >= 1 - 1e-12:
        raise ValueError(
            f"{tableau.name} replaces all noise in a step, which follows no stochastic differential equation: take "
            'method="checkpoint"'
        )
    return -log1p(-part) / (2 * h)


def fresh(tableau: Tableau, begin: int, stop: int) -> dict[Draw, float]:
    """Weights of the noises of some rows in the input after the last, with the network's outputs held fixed."""
    draws: list[Draw] = []
    found = np.zeros((2, 0))
    for k in range(begin, stop):
        W, new = tableau.W[k], tableau.draws(k)
        columns = W[:, [2 + tableau.history + draw.slot for draw in new]]
        found, draws = np.concatenate([W[:, :2] @ found, columns], 1), [*draws, *new]
    return dict(zip(draws, found[1].tolist(), strict=True))


def rho_gap(t: Node, s: Node) -> float:
    """rho_t - rho_s, without cancellation."""
    return s.rho * expm1(s.lam - t.lam)
