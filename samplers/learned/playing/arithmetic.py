"""What learners do to tables, in float64 numpy: the table a solver has on other times, longer histories, corrections.

A corrected table is its base, compiled on its own times, plus weights on the outputs so far:

    input_{k+1} += sum_j delta_kj m_{k-j}          (and carry with it, where the row writes the same into both).

With all outputs so far in reach every explicit linear method on these times is such a correction, since each earlier state is
itself a sum of outputs. Corrections with sum_j delta_kj A_j = sum_j delta_kj B_j = 0, for m_j = A_j x0 + B_j eps, keep a
constant x0 and eps exact: `consistent`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fewstep.samplers.artefact.corrections import CARRY, INPUT, M, base_of, widened
from fewstep.samplers.artefact.learned_table import weights_of_result
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.schedule.base import Array, Node
from fewstep.samplers.schedule.outputs import form_pair
from fewstep.samplers.table.tableau import Tableau


def quick(table: Tableau, times: Array) -> Tableau:
    """`on_times` without proving what is known to hold: for derivatives."""
    columns = table.schedule.nodes(times)
    nodes = tuple(Node(*map(float, row)) for row in zip(*columns, strict=True))
    path = Path(table.schedule, nodes, table.groups, table.jumps or None, table.nfe)
    solution: Solution = SOLVERS[table.name].solution(path, table.options)
    return Tableau.from_rows(
        table.name, table.schedule, solution.rows, nodes[-1], order=solution.order, groups=table.groups,
        options=table.options, conserves="",
    )  # fmt: skip


def shared_lines(table: Tableau) -> np.ndarray:
    """(nfe,) whether a row writes the same into carry and input."""
    return table.both


def corrected(table: Tableau, delta: Array, state: Array | None = None, consistent: bool | None = None) -> Tableau:
    """A table with weights added: delta (nfe, window) on m_k, m_{k-1}, ..., state (nfe,) on the state the row starts from.

    consistent: whether the result still claims what its base conserves; None finds out.
    """
    wide = widened(table, delta.shape[1])
    W, both = wide.W.copy(), shared_lines(table)
    for k in range(wide.nfe):
        for line in (CARRY, INPUT) if both[k] else (INPUT,):
            reach = min(delta.shape[1], k + 1)
            W[k, line, M : M + reach] += delta[k, :reach]
            if state is not None:
                W[k, line, anchor(wide, k)] += state[k]
    if consistent is None:
        consistent = state is None and bool(np.abs(_drift(wide, delta)).max() < 1e-9)
    return replace(wide, W=W, conserves=table.conserves if consistent else "")


def anchor(table: Tableau, k: int) -> int:
    """Column of the state that a row starts from."""
    return INPUT if table.W[k, INPUT, INPUT] else CARRY


def correction(table: Tableau, base: Tableau | None = None) -> tuple[Array, Array]:
    """(delta (nfe, history), state (nfe,)) with `corrected(base, ...)` = table, for a table that learners made.

    Raises:
        ValueError: the tables differ in more than that.
    """
    base = widened(base or base_of(table), table.history)
    difference = table.W - base.W
    delta, state = difference[:, INPUT, M : M + table.history].copy(), np.zeros(table.nfe)
    for k in range(table.nfe):
        state[k] = difference[k, INPUT, anchor(base, k)]
    made = corrected(base, delta, state, consistent=False)
    if not np.allclose(made.W, table.W, rtol=0, atol=1e-9 * max(1.0, np.abs(table.W).max())):
        raise ValueError(f"{table.name}: this table is no correction of the solver on its own times")
    return delta, state


def _contents(table: Tableau) -> Array:
    """(nfe, 2) of x0 and eps in every output."""
    return np.array([[float(np.mean(part)) for part in form_pair(form)] for form in table.forms])


def _drift(table: Tableau, delta: Array) -> Array:
    """What each row's correction adds of a constant x0 and eps, (nfe, 2)."""
    contents = _contents(table)
    return np.array(
        [sum((delta[k, j] * contents[k - j] for j in range(min(delta.shape[1], k + 1))), np.zeros(2))
         for k in range(table.nfe)]
    )  # fmt: skip


def directions(table: Tableau, k: int, window: int, consistent: bool = True, first: int = 0) -> Array:
    """Orthonormal directions (window' - first, n) in which row k's weights on m_{k-first} .. m_{k-window'+1} may be corrected.

    window' = min(window, k + 1). Consistent ones leave a constant x0 and eps alone.
    """
    reach = min(window, k + 1)
    if not consistent or reach <= first:
        return np.eye(max(0, reach - first))
    rows = _contents(table)[[k - j for j in range(first, reach)]].T  # (2, reach - first)
    _, size, across = np.linalg.svd(rows)
    rank = int((size > 1e-12 * max(size[0], 1e-300)).sum())
    return np.asarray(across[rank:].T)


@dataclass(frozen=True)
class Unrolled:
    """A table as sums of what the network said: input_k = state_k x_T + sum_j outputs_kj m_j (noise left out).

    state: (nfe + 1,). outputs: (nfe + 1, nfe). The last line is the result.
    """

    state: Array
    outputs: Array


def unrolled(table: Tableau) -> Unrolled:
    """Every network input, and the result, as a sum over x_T and the outputs before it."""
    n = table.nfe
    lines = np.zeros((2, n + 1))  # carry and input over (x_T, m_0 .. m_{n-1})
    lines[:, 0] = 1.0
    found = [lines[INPUT]]
    for k in range(n):
        W = table.W[k]
        after = W[:, :2] @ lines
        for j in range(min(table.history, k + 1)):
            after[:, 1 + k - j] += W[:, M + j]
        lines = after
        found.append(lines[INPUT])
    stacked = np.stack(found)
    return Unrolled(stacked[:, 0], stacked[:, 1:])


def largest_weight(table: Tableau) -> float:
    """The largest weight on an output in any row."""
    return float(np.abs(table.W[:, :, M : M + table.history]).max())


def amplification(table: Tableau) -> float:
    """sum_j |weight of m_j in the result|: how far equal errors of all outputs can push it."""
    return float(np.abs(weights_of_result(table)).sum(0).max())
