"""Explicit solvers of (y, l), y with its slope v(y, r) and l the integral of another, over rising r.

A slope is called as slope(y, r) and returns both; `slope.nfe` counts. l never enters a slope.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.coefficients.butcher import BUTCHER, DORMAND_PRINCE, Butcher
from fewstep.samplers.schedule.base import Array

State = tuple[Tensor, Tensor]
Slope = Any  # callable (y, r) -> State with a count `nfe`


def _add(state: State, weights: Any, slopes: Sequence[State]) -> State:
    """state + sum_i w_i slope_i."""
    used = [(float(w), k) for w, k in zip(weights, slopes, strict=False) if w]
    return sum((w * k[0] for w, k in used), state[0]), sum((w * k[1] for w, k in used), state[1])


class RungeKutta(NamedTuple):
    """An explicit method by its table."""

    table: Butcher

    @property
    def least(self) -> int:
        """Evaluations of one step."""
        return self.table.stages

    def intervals(self, nfe: int) -> int:
        """Steps of nfe evaluations."""
        return nfe // self.table.stages

    def run(self, slope: Slope, state: State, r: Array) -> State:
        """The state at the last r."""
        for here, there in pairwise(r):
            h = there - here
            slopes, _ = _slopes(self.table, slope, state, (here, h, there))
            state = _add(state, h * np.array(self.table.b), slopes)
        return state


def _slopes(
    table: Butcher, slope: Slope, state: State, step: tuple[float, float, float], first: State | None = None
) -> tuple[list[State], State]:
    """The slopes of one step (from r, its length, at most to r), and the state of its last stage."""
    here, h, most = step
    return table.slopes(
        lambda row, known: _add(state, h * np.array(row), known),
        lambda new, c: slope(new[0], min(here + c * h, most)),
        first,
    )


class Adams(NamedTuple):
    """Predictor-corrector of Adams on any nodes, the corrector of this order, one evaluation a step.

    The first interval is halved order - 1 times, for as many steps of rising order.
    """

    order: int

    @property
    def least(self) -> int:
        """Evaluations of one interval."""
        return self.order + 1

    def intervals(self, nfe: int) -> int:
        """What is left for the grid: one evaluation at the start, and one a step."""
        return nfe - self.order

    def run(self, slope: Slope, state: State, r: Array) -> State:
        """The state at the last r."""
        halves = r[0] + (r[1] - r[0]) * 0.5 ** np.arange(self.order - 1, 0, -1)
        known, at = [slope(state[0], r[0])], [r[0]]
        for here, there in pairwise([r[0], *halves, *r[1:]]):
            known, at = known[: self.order - 1], at[: self.order - 1]
            guess = _add(state, _weights(at, here, there), known)
            known, at = [slope(guess[0], there), *known], [there, *at]
            state = _add(state, _weights(at, here, there), known)
        return state


def _weights(at: Sequence[float], here: float, there: float) -> Array:
    """w with sum_j w_j f(at_j) = int_here^there f, exact for polynomials of degree len(at) - 1."""
    h = there - here
    powers = np.vander((np.array(at) - here) / h, increasing=True).T
    return np.asarray(h * np.linalg.solve(powers, 1 / np.arange(1.0, len(at) + 1)))


class DormandPrince(NamedTuple):
    """The 5(4) pair, h <- h clip(0.9 error^(-1/5), 0.2, 10), for the worst of states (rms over a sample) and log densities."""

    rtol: float = 1e-5
    atol: float = 1e-5
    limit: int = 1000
    least: int = 7

    def intervals(self, nfe: int) -> None:
        """It needs no grid."""

    def run(self, slope: Slope, state: State, r: Array) -> State:
        """The state at the last r."""
        here, end = float(r[0]), float(r[-1])
        h, known = 0.01 * (end - here), slope(state[0], here)
        while here < end:
            if slope.nfe + 6 > self.limit or h < 1e-12:
                raise ValueError(
                    f"rk45 is at r = {here:.4g} of {end:.4g} after {slope.nfe} of {self.limit} evaluations, with steps of "
                    f"{h:.2g}: allow more (nfe), ask for less (rtol, atol), or raise t_end; is the network finite there?"
                )
            h = min(h, end - here)
            slopes, new = _slopes(DORMAND_PRINCE, slope, state, (here, h, end), known)
            gap = _add((0 * state[0], 0 * state[1]), h * np.array(DORMAND_PRINCE.error), slopes)
            error = self._error(state, new, gap)
            if error <= 1:
                here, state, known = (end if h >= end - here else here + h), new, slopes[-1]
            h *= min(max(0.9 * max(error, 1e-10) ** -0.2, 0.2), 10.0) if math.isfinite(error) else 0.2
        return state

    def _error(self, old: State, new: State, gap: State) -> float:
        """In units of the tolerance."""
        with torch.no_grad():
            y, l = (
                g / (self.atol + self.rtol * torch.maximum(a.abs(), b.abs()))
                for g, a, b in zip(gap, old, new, strict=True)
            )
            return float(torch.maximum(y.flatten(1).square().mean(1).sqrt().max(), l.abs().max()))


SOLVERS: dict[str, Any] = {
    **{name: RungeKutta(BUTCHER[name]) for name in ("euler", "midpoint", "heun", "rk4")},
    "adams4": Adams(4),
    "adams6": Adams(6),
    "rk45": DormandPrince(),
}
