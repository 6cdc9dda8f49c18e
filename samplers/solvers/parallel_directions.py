"""Parallel directions: a step asks the network at K places at once, each reached from what was known before the step.

    x_{c_i} = (S_i / S_s) x_s + sum_j a_ij m_j          c_i Radau's nodes, c_1 = 0; m_j the newest outputs of earlier steps
    x_t     = (S_t / S_s) x_s + sum_i b_i m(x_{c_i})     Adams weights in r = sigma / (alpha + sigma), m = eps - x0

No input of a step needs an output of that step, so that its K calls are one call of K times the batch: the time of one
evaluation where the machine has room, the work of K. `nfe` counts evaluations, K a step; `Info.calls` counts calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fewstep.samplers.building import options as opt
from fewstep.samplers.building import references as ref
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import solver
from fewstep.samplers.coefficients.weights import lagrange_row, linear
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.table.row import CARRY, INPUT, KEEP, Row

FORM, MOST = "flow", 8


def _calls(options: Mapping[str, Any]) -> int:
    return opt.whole("epd", "directions", options["directions"], MOST)


def _first_small(nfe: int, calls: int, reserved: bool) -> tuple[int, ...]:
    """One evaluation first where that leaves full steps, else what full steps leave over, or full steps alone."""
    full, rest = divmod(nfe, calls)
    return (*[rest] * bool(rest), *[calls] * full)


def _radau(n: int) -> list[float]:
    """Nodes in [0, 1) with 0 among them, at which n outputs integrate polynomials of degree 2 n - 2: roots of P_n + P_{n-1}."""
    roots = np.sort(np.polynomial.legendre.legroots([*[0.0] * (n - 1), 1.0, 1.0]))
    return [0.0, *(0.5 * (roots[1:] + 1.0)).tolist()]


@solver("epd", order=2, prediction="flow", reference=ref.EPD, calls=_calls, plan=_first_small)
def epd(path: Path, *, directions: int = 2, order: int = 2) -> Solution:
    """Ensemble of parallel directions: K = `directions` evaluations a step in one call, averaged. Order 2.

    The published step finds its places by one more call before them; here outputs of earlier steps lead there, and on the
    first step the noise alone, as if x0 were 0, the mean of centred data. nfe = 1 + K n begins with one direction. Weights
    are those of Adams in r through all K outputs, or `order` of them with earlier ones where K is less; learned ones
    (`learn(..., "epd", method="epd")`) are what it is for. `sample(..., parallel=True)` asks the K together.
    """
    most = max(opt.whole("epd", "order", order, 4), 1)
    rows: list[Row] = []
    past: list[Node] = []  # where the outputs so far were taken, newest first
    for calls, s, t in path.steps():
        places = [path.between(s, t, c, "r") for c in _radau(calls)]
        for i, place in enumerate(places):
            state = CARRY if i else INPUT
            if i + 1 < calls:
                target, nodes, newest = places[i + 1], past[:most], i + 1
                if not nodes:
                    rows.append(Row(place, FORM, {state: target.sigma / s.sigma}, KEEP if i else {INPUT: 1.0}))
                    continue
            else:
                target, nodes, newest = t, [*reversed(places), *past[: max(0, most - calls)]], 0
            weights = lagrange_row(path.schedule, FORM, "G", s, target, nodes)
            terms: dict[Any, float] = {newest + j: w for j, w in enumerate(weights)}
            terms[state] = linear(FORM, s, target)
            rows.append(Row(place, FORM, terms, (KEEP if i else {INPUT: 1.0}) if i + 1 < calls else None))
        past = [*reversed(places), *past]
    return Solution(rows, min(most, 2), "" if path.groups[0] > 1 else "x0 eps", smooth="start end")
