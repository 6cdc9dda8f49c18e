"""A table of one evaluation a step, with room for more directions beside each: the same samples, until they get weight.

Every state of a table is a sum over x_T and the outputs before it, v = eps - x0 for all of them:

    m = a x0 + b eps = ((a + b) x + (b alpha - a sigma) v) / (alpha + sigma),     x_k = A_k x_T + sum_j B_kj v_j

so that with directions in between, x_{k+1} = (A_{k+1} / A_k) x_k + sum_j (B_{k+1,j} - (A_{k+1} / A_k) B_kj) v_j says the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fewstep.samplers.artefact.corrections import CARRY, INPUT, M, widened
from fewstep.samplers.building.compiling import compile_path
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.schedule.outputs import form_pair
from fewstep.samplers.table.tableau import Tableau


def with_directions(table: Tableau, count: int) -> Tableau:
    """The table as one of `epd`, with `count` directions a step of which the first has all the weight.

    Raises:
        ValueError: a table with noise, filters, a constant, weights for every element or several calls a step.
    """
    plain = not (table.stochastic or table.constant or table.elementwise) and table.filters is None
    if not plain or max(table.groups) > 1:
        raise ValueError(f"{table.name}: directions are added to a plain table of one evaluation a step")
    A, B = _as_velocities(table)
    if np.abs(A[:-1]).min() < 1e-6 * np.abs(A).max():
        raise ValueError(
            f"{table.name}: a state on its way has no weight on x_T, from which its directions could start"
        )
    n, options = table.nfe, {"directions": count, "order": 2, "limiter": True}
    base = compile_path(SOLVERS["epd"], table.schedule, boundaries(table), (count,) * n, None, options)
    base = widened(base, base.nfe)
    W, shown = base.W.copy(), base.model_times.copy()
    for k in range(n):
        last, shown[k * count] = (k + 1) * count - 1, table.model_times[k]
        keep = A[k + 1] / A[k]
        W[last] = 0.0
        W[last, :, CARRY if count > 1 else INPUT] = keep
        for j in range(k + 1):
            W[last, :, M + last - j * count] = B[k + 1, j] - keep * B[k, j]
    return replace(base, W=W, model_times=shown, conserves="", begins=table.begins)


def _as_velocities(table: Tableau) -> tuple[Array, Array]:
    """A (n + 1,) and B (n + 1, n): every input, and the result, over x_T and v_0 .. v_{n-1}."""
    n, at = table.nfe, table.nodes
    lines = np.zeros((2, n + 1))
    lines[:, 0] = 1.0
    outputs: list[Array] = []
    found = [lines[INPUT]]
    for k in range(n):
        a, b = (float(part) for part in form_pair(table.forms[k]))
        own = (a + b) / at.S[k] * lines[INPUT]
        own[1 + k] += (b * at.alpha[k] - a * at.sigma[k]) / at.S[k]
        outputs = [own, *outputs]
        lines = table.W[k][:, :2] @ lines + sum(
            np.outer(table.W[k][:, M + j], outputs[j]) for j in range(min(table.history, k + 1))
        )
        found.append(lines[INPUT])
    stacked = np.stack(found)
    return stacked[:, 0], stacked[:, 1:]
