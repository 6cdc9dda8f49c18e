"""The analytic first step: a table without its first network call, whose answer at pure noise is known.

There the network says x0 = 0 (the mean of data that are centred) and eps = x / sigma, whatever the sample. So the state comes
to the second node by x_1 = (sigma_1 / sigma_0) x_0, and the output m_0 = A x0 + B eps of later rows is (B / sigma_1) x_1, the
first input of what remains. A row after that which still reads m_0 finds x_1 again in what it has:

    input_r = i_r x_1 + sum_j g_rj m_j,    x_1 = (input_r - sum_j g_rj m_j) / i_r,

as all outputs since then are in its history. With m_0 = 0 (x0 forms) nothing is left to find.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fewstep.samplers.schedule.base import Array, Nodes
from fewstep.samplers.schedule.outputs import form_pair
from fewstep.samplers.table.tableau import Tableau

CARRY, INPUT, M = 0, 1, 2


def analytic_start(table: Tableau) -> Tableau:
    """The rows of a table after its first network call, for the state (sigma_1 / sigma_0) x_0 at its second node.

    Raises:
        ValueError: a table of one call, or one whose first answer cannot be put into the rows after it.
    """
    z = slice(M + table.history, M + table.history + table.slots)
    if table.nfe < 2:
        raise ValueError("`afs` saves the first of at least two network calls; ask for one more")
    if table.elementwise or table.filters is not None or table.schedule.has_mean:
        raise ValueError(f"`afs` knows no first answer for {table.name!r} on {type(table.schedule).__name__}")
    if table.W[0, CARRY, z].any() and not np.array_equal(table.W[0, CARRY], table.W[0, INPUT]):
        raise ValueError(f"`afs` cannot be put into {table.name!r}: its stages share the noise of the first one")
    W = _without_first(table)
    first, *others = table.groups
    groups = tuple(others) if first == 1 else (first - 1, *others)
    moved = len(table.groups) - len(groups)
    return replace(
        table,
        nodes=Nodes(*(column[1:] for column in table.nodes)),
        model_times=table.model_times[1:],
        W=W,
        forms=table.forms[1:],
        groups=groups,
        spans=None if table.spans is None else table.spans[1:],
        jumps={step - moved: node for step, node in table.jumps.items() if step >= moved},
        conserves="",
    )


def free_step(table: Tableau, t_start: float | None) -> float:
    """The factor that takes pure noise at t_start (default t_max) to where a table with an analytic start begins."""
    schedule = table.schedule
    return float(table.nodes.sigma[0] / schedule.sigma(schedule.t_max if t_start is None else t_start))


def _without_first(table: Tableau) -> Array:
    """W of the remaining rows, the first answer put in."""
    A, B = (float(v) for v in form_pair(table.forms[0]))
    sigma = table.nodes.sigma
    known = B / float(sigma[1])  # m_0 = known x_1
    # the carry after the first row, in x_1: noise that row 0 draws is part of x_1 already
    row = table.W[0, CARRY]
    same = np.array_equal(row, table.W[0, INPUT])
    carry = 1.0 if same else float((row[CARRY] + row[INPUT]) * sigma[0] / sigma[1] + row[M] * known)
    W = table.W[1:].copy()
    W[0, :, INPUT] += carry * W[0, :, CARRY]
    W[0, :, CARRY] = 0.0
    line = np.zeros(1 + len(W))  # the next input in x_1 and the outputs m_1, m_2, ...
    held = line.copy()  # and carry
    line[0] = held[0] = 1.0
    for r, rows in enumerate(W, start=1):
        if r < table.history and rows[:, M + r].any():
            weights = rows[:, M + r] * known
            rows[:, M + r] = 0.0
            if weights.any():
                _find(rows, weights, r, line, held, table.name)
        if r + 1 >= table.history:
            break
        steps = [rows[i, CARRY] * held + rows[i, INPUT] * line for i in (CARRY, INPUT)]
        for i, step in enumerate(steps):
            for j in range(1, r + 1):
                step[j] += rows[i, M + r - j]
        held, line = steps
        if known and table.slots and rows[:, M + table.history : M + table.history + table.slots].any():
            line = held = np.full_like(line, np.nan)  # noise: x_1 cannot be found again
    return W


def _find(rows: Array, weights: Array, r: int, line: Array, held: Array, name: str) -> None:
    """Put weights times x_1 into row r: x_1 out of the input or the carry, whichever holds more of it."""
    register, source = (INPUT, line) if abs(line[0]) >= abs(held[0]) else (CARRY, held)
    if not abs(source[0]) > 1e-3:
        raise ValueError(
            f"`afs` cannot be put into {name!r}: row {r} reads an output that nothing there holds any more"
        )
    rows[:, register] += weights / source[0]
    for j in range(1, r):
        rows[:, M + r - j] -= weights * source[j] / source[0]
