"""Weights by least squares: step by step, along the states that the corrected table itself visits.

Row k of a table takes input_k to input_{k+1}. With outputs m_k, m_{k-1}, ... of the network so far, directions D in which
their weights may move, and the teacher's state x*_{k+1} of the same seed,

    c   = argmin sum over samples of  w |x*_{k+1} - input_{k+1} - sum_i c_i (D_i . m)|^2  +  ridge w |m_k|^2 |c|^2,

delta_k = D c; then the samples go on with the corrected row. One network call a row and sample, no gradients. Outputs
rounded with relative error u move the row by u^2 |m|^2 |c|^2 in mean square: with the ridge u^2 of bfloat16 a weight must
repair more than it would spoil there.
"""

from __future__ import annotations

import numpy as np

from fewstep.samplers.artefact.corrections import CARRY, INPUT, M
from fewstep.samplers.learned.fitting.on_policy import OnPolicy, Products
from fewstep.samplers.learned.playing.arithmetic import corrected, directions, shared_lines
from fewstep.samplers.learned.tasks.learner_task import Task, enough
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

RIDGE = 2.0**-18  # squared relative rounding error of bfloat16
ROUNDS = 8  # of reweighting


def solve(products: Products, ridge: float, robust: bool) -> Array:
    """c (n,) of the formula above: w = 1, or the weights at which least squares minimise the sum of sizes, not of squares.

    robust: by repetition with w = 1 / |what is still missing|, held below where that is 1 % of its rms (Huber's loss).
    """
    c, least = np.zeros(products.missing.shape[1]), 1e-4 * products.square.mean() + 1e-300
    for _ in range(ROUNDS if robust else 1):
        left = products.square - 2 * products.missing @ c + np.einsum("i,sij,j->s", c, products.regressors, c)
        w = np.maximum(left, least) ** -0.5 if robust else np.ones_like(left)
        size, across = np.linalg.eigh(np.tensordot(w, products.regressors, 1))
        size = np.maximum(size, 0.0) + ridge * float(w @ products.size)
        along = across.T @ (w @ products.missing)
        c = across @ np.divide(along, size, out=np.zeros_like(along), where=size > 0)
    return c


def held(products: Products, D: Array, own: Array, ridge: float, limit: float, robust: bool) -> Array:
    """D c (n,), with the ridge raised until no weight `own` + D c exceeds `limit`, or what it was."""
    most = max(limit, float(np.abs(own).max()))
    change = D @ solve(products, ridge, robust)
    while np.abs(own + change).max() > most:
        ridge = max(4 * ridge, 1e-12)
        change = D @ solve(products, ridge, robust)
    return np.asarray(change)


def fitted(
    task: Task,
    start: Tableau,
    way: OnPolicy,
    *,
    window: int | None,
    consistent: bool,
    ridge: float,
    limit: float,
    robust: bool,
) -> Tableau:
    """The table whose rows, one after the other, come closest to the targets of `way`; rows inside a step stay."""
    if window is None:
        fits = (w for w in range(start.nfe, 2, -1) if _numbers(start, way, w, consistent) <= len(task.train))
        window = next(fits, 2)
    window = min(window, start.nfe)
    enough(_numbers(start, way, window, consistent), task.train, way.who)
    each = _directions(start, way, window, consistent)
    delta, both = np.zeros((start.nfe, window)), shared_lines(start)
    for k, D in enumerate(each):
        lines = way.table.W[k].copy()
        way.call(k)
        if D.shape[1]:
            change = held(way.products(k, lines, D.T), D, lines[INPUT, M : M + len(D)], ridge, limit, robust)
            delta[k, : len(D)] = change
            for line in (CARRY, INPUT) if both[k] else (INPUT,):
                lines[line, M : M + len(D)] += change
        way.advance(k, lines)
    if not delta.any():
        return way.finished(start)
    table = way.finished(corrected(start, delta, consistent=consistent))
    task.offer(table)
    return table


def _directions(start: Tableau, way: OnPolicy, window: int, consistent: bool) -> list[Array]:
    """In which the weights of each row move; rows inside a step have none."""
    return [directions(start, k, window, consistent) if way.ends[k] else np.zeros((1, 0)) for k in range(start.nfe)]


def _numbers(start: Tableau, way: OnPolicy, window: int, consistent: bool) -> int:
    """How many numbers are fitted."""
    return sum(D.shape[1] for D in _directions(start, way, window, consistent))


def check_limits(ridge: float, limit: float, who: str) -> None:
    if not ridge >= 0:
        raise ValueError(f"{who}: `ridge` must be a number from 0 (none) to infinity (no change); got {ridge!r}")
    if not limit > 0:
        raise ValueError(f"{who}: `limit` is the largest weight allowed, above 0, e.g. 10; got {limit!r}")
