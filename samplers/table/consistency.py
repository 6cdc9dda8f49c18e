"""What a table proves about itself when it is made: data that are one point are followed exactly, row by row.

Exactly but for rounding, which a table may amplify: coefficients are good to about u = 1e-12 (times of inner nodes are found
by inverting the schedule, where that is steep), and an error goes on as

    |d_j| = u sum |W_j| |r|  of row j with registers r,     d eps = d input / sigma,     d after row k = W_k d before it,

so that a deviation is one of rounding if it is no larger than what all d_j have become.
"""

from __future__ import annotations

from math import isfinite
from typing import Any

import numpy as np

from fewstep.samplers.schedule.outputs import form_pair

ADVICE = "check that the grid decreases strictly and that sigma = 0 or alpha = 0 appear only at its ends"


ROUNDED = 1e-12  # u, of the size of the state
WRONG = 1e-8  # deviation from which on something is wrong, unless rounding explains it
MOST = 1e13  # amplification that leaves float64 three digits


def prove(table: Any) -> float:
    """For data that is one point X (and given M), x(t) = alpha X + beta M + sigma E goes exactly from row to row.

    The state is carried as its coefficients on {X, E, M, z_1, z_2, ...}; the network knows x0 = X and hence
    eps = (x - alpha X - beta M) / sigma. X must keep alpha, M beta, and the noises together
    the variance sigma^2, as far as `table.conserves` says; an ODE row that claims "x0 eps" keeps E itself at sigma.

    Returns the largest factor by which the table amplifies rounding, 1 where none shows.

    Raises:
        ValueError: a row that ends elsewhere, beyond rounding; a table of whose result rounding leaves nothing.
    """
    if not table.conserves:
        return 1.0
    at, shape = table.nodes, table.W.shape[3:]
    beta = table.schedule.beta(at.t) if table.schedule.has_mean else np.zeros_like(at.t)
    width = 3 + table.slots * table.nfe
    size = np.abs(at.alpha) + np.abs(at.sigma)
    state = np.zeros((2, width, *shape))
    state[:, :3] = _columns([at.alpha[0], at.sigma[0], beta[0]], shape)
    outputs: list[np.ndarray] = []
    growth: list[float] = []
    for k in range(table.nfe):
        x0, drift = np.zeros((2, width, *shape))
        x0[0], drift[0], drift[2] = 1.0, at.alpha[k], beta[k]
        A, B = form_pair(table.forms[k])
        eps = (state[1] - drift) / at.sigma[k] if np.any(B) else 0.0
        outputs = [A * x0 + B * eps, *outputs][: table.history]
        state = _advance(table, k, state, outputs)
        got = [state[1, 0], np.linalg.norm(state[1, [1, *range(3, width)]], axis=0), state[1, 2]]
        want = [at.alpha[k + 1], at.sigma[k + 1], beta[k + 1]]
        if "eps" not in table.conserves:
            got[1] = want[1]
        off = np.abs(np.stack(np.broadcast_arrays(*got)) - _columns(want, shape)).max()
        slack = size[k + 1] * max(1.0, np.abs(table.W[k]).sum(1).max())
        if off <= ROUNDED * slack:
            continue
        growth = growth or amplification(table)
        if not off <= max(WRONG * slack, ROUNDED * size[k + 1] * growth[k]):
            raise ValueError(
                f"{table.name}: row {k} does not integrate a constant x0 and eps exactly (reaches alpha, sigma = "
                f"{np.ravel(got[0])[0]:.9g}, {np.ravel(got[1])[0]:.9g}; expected {want[0]:.9g}, {want[1]:.9g}); {ADVICE}"
            )
    return _endured(table, max(growth, default=1.0))


def check_rows(table: Any) -> None:
    """ValueError for parts of a table that do not belong to the same rows, or are no numbers."""
    if not (np.isfinite(table.W).all() and np.isfinite(table.model_times).all()):
        raise ValueError(f"{table.name}: a coefficient is not finite; {ADVICE}")
    if table.W.shape[:3] != (table.nfe, 2, table.registers) or sum(table.groups) != table.nfe:
        raise ValueError(
            f"{table.name}: W has shape {table.W.shape} and groups {table.groups} for {table.nfe} evaluations"
        )
    if table.slots and table.spans is None:
        raise ValueError(f"{table.name}: `spans` must say which increment each of the {table.slots} noises is")
    if not (isfinite(table.begins) and table.begins > 0):
        raise ValueError(f"{table.name}: `begins` is a ratio of two sigmas, above 0; got {table.begins!r}")
    if table.cache is not None and len(table.cache.costs) != table.nfe:
        raise ValueError(f"{table.name}: its feature cache has {len(table.cache.costs)} rows; expected {table.nfe}")


def check_filters(table: Any) -> None:
    """ValueError for filters that no row of this table can have."""
    F, shape = table.filters, np.shape(table.filters)
    square = len(shape) == 5 and shape[3] == shape[4] and shape[3] % 2 == 1
    if not square or shape[0] != table.nfe or not 2 <= shape[1] <= 1 + table.history or not np.isfinite(F).all():
        raise ValueError(
            f"{table.name}: `filters` must be finite, (nfe, 1 + window, C or 1, k, k) with k odd and a window of at most the "
            f"table's history, {table.history}; got {shape} for {table.nfe} evaluations"
        )
    if table.elementwise or table.conserves:
        raise ValueError(
            f"{table.name}: a table with filters has scalar weights and conserves nothing exactly, conserves=''"
        )


def bounded(table: Any) -> None:
    """What can be seen of weights that nobody vouches for, whose sums are right: they amplify rounding within bounds.

    Weights of which one takes away what another adds (m_k + w and m_{k-1} - w) keep every constant x0 and eps, so that
    `prove` passes them whatever w is; of w = 1e15 rounding leaves nothing, and that shows.

    Raises:
        ValueError: a table of whose result rounding leaves nothing.
    """
    most = _endured(table, max(amplification(table)))
    object.__setattr__(table, "amplification", max(most, table.amplification))


def _endured(table: Any, most: float) -> float:
    """An amplification that leaves float64 something."""
    if not most <= MOST:
        raise ValueError(
            f"{table.name}: with these steps it amplifies rounding {most:.1e} times, so that even float64 keeps 3 digits at "
            "most: take a lower order, another form, or a grid with smaller steps where log(sigma / alpha) falls fastest"
        )
    return most


def amplification(table: Any) -> list[float]:
    """What the roundings of all rows so far have become in the state after each row, in units of that state's own."""
    at, shape = table.nodes, table.W.shape[3:]
    size = np.abs(at.alpha) + np.abs(at.sigma)
    width = 2 + 1 + 2 * table.nfe  # X and E themselves, then errors: of the start, and of the two lines of every row
    state = np.zeros((2, width, *shape))
    state[:, 0], state[:, 1], state[:, 2] = at.alpha[0], at.sigma[0], size[0]
    outputs: list[np.ndarray] = []
    found: list[float] = []
    for k in range(table.nfe):
        A, B = form_pair(table.forms[k])
        m = B * state[1] / at.sigma[k] if np.any(B) else 0 * state[1]
        m[:2] = _columns([A, B], shape)
        outputs = [m, *outputs][: table.history]
        registers = np.stack([*state, *outputs])
        weights = table.W[k][:, : len(registers)]
        rounded = (np.abs(weights) * np.abs(registers[:, :2]).sum(1)).sum(1)
        state = (weights[:, :, None] * registers).sum(1)
        state[0, 3 + 2 * k], state[1, 4 + 2 * k] = rounded
        state[1, :2] = _columns([at.alpha[k + 1], at.sigma[k + 1]], shape)
        found.append(float(np.abs(state[1, 2:]).sum(0).max() / size[k + 1]))
    return found


def _advance(table: Any, k: int, state: np.ndarray, outputs: list[np.ndarray]) -> np.ndarray:
    """W_k applied to coefficients on {X, E, M, noises}: (2, width, *shape)."""
    width, shape = state.shape[1], state.shape[2:]
    blank = [np.zeros((width, *shape))] * (table.history - len(outputs))
    units = np.zeros((table.slots + table.constant, width, *shape))
    for i in range(table.slots):
        units[i, 3 + k * table.slots + i] = 1.0
    units[table.slots :, 2] = 1.0  # the mean
    registers = np.stack([*state, *outputs, *blank, *units])
    return np.asarray((table.W[k][:, :, None] * registers).sum(1))


def _columns(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers as an array (n, *shape) of constant elements."""
    return np.broadcast_to(np.reshape(np.asarray(values, float), (-1, *(1,) * len(shape))), (len(values), *shape))
