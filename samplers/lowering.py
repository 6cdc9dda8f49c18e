"""From a Tableau to the steps that execute it.

Decided here, once, in float64: how each network output becomes m; which registers are dead and need no arithmetic;
which lines are short enough for multiply-adds. m is stored up to a factor that makes one of its two weights 1, and the
factor is put into the lines that read it. All weights move to the device in one transfer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .player import Post, Step
from .schedule import Nodes
from .tableau import Prediction, Tableau, convert

MOST_OPERATIONS = 4
CARRY, INPUT, M = 0, 1, 2  # columns of W and registers of a Step


def lower(
    tableau: Tableau,
    prediction: Prediction,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    post: Post | None = None,
    constant: torch.Tensor | None = None,
) -> tuple[Step, ...]:
    """The linked steps of a table for a network that predicts `prediction` and a state of the given device and dtype.

    Args:
        tableau: what to play. prediction: "epsilon", "sample", "v_prediction" or "flow_prediction".
        post: maps predicted x0 to x0 (clipping, dynamic thresholding). constant: tensor for the const register.

    Raises:
        ValueError: the output says nothing about what a row needs (eps prediction at alpha = 0).
    """
    calls = Nodes(*(c[:-1] for c in tableau.nodes))
    x0 = (
        np.stack(convert(prediction, ["x0"] * tableau.nfe, calls))
        if post or "x0" in tableau.forms
        else _x0(prediction, calls)
    )
    to_m = np.stack(convert("sample" if post else prediction, tableau.forms, calls))
    keep, live = _needs(tableau)
    factor = np.ones(tableau.nfe)
    plans: list[dict[str, Any]] = []
    for k in range(tableau.nfe):
        W, pair = tableau.W[k].copy(), to_m[:, k].copy()
        for j in range(1, tableau.history):
            W[:, M + j] *= factor[k - j] if k >= j else 0.0
        if keep[k] == 0 and not post:  # nobody reads m later: fold its making into the lines
            W[:, INPUT] += W[:, M] * pair[0]
            W[:, M] *= pair[1]
            pair = np.array([0.0, 1.0])
        elif not post:
            factor[k] = pair[np.argmax(np.abs(pair))]
            W[:, M] *= factor[k]
            pair = pair / factor[k]
        plans.append(_plan(tableau, k, W, pair, x0[:, k], keep[k], live[k]))
    steps = _bind(plans, tableau, torch.device(device), dtype, post, constant)
    for now, after in zip(steps[:-1], steps[1:], strict=True):
        now.next = after
    return steps


def _x0(prediction: Prediction, calls: Nodes) -> np.ndarray:
    """Weights of predicted x0 for reports only: zero output where the network cannot tell (eps at alpha = 0)."""
    seen = calls.alpha > 0
    safe = Nodes(*(np.where(seen, c, d) for c, d in zip(calls, (0.0, 1.0, 1.0, 0.0), strict=True)))
    return np.stack(convert(prediction, ["x0"] * len(seen), safe))


def _needs(tableau: Tableau) -> tuple[list[int], list[bool]]:
    """(outputs to keep after each row, whether the next row reads carry), by walking the table backwards."""
    n = tableau.nfe
    keep, live = [0] * n, [False] * n
    for k in range(n - 2, -1, -1):
        W, kept = tableau.W[k + 1], _is_kept(tableau.W[k + 1])
        lines = W[1:] if kept or not live[k + 1] else W
        live[k] = bool(lines[:, CARRY].any()) or (kept and live[k + 1])
        reads = [j for j in range(1, tableau.history) if lines[:, M + j].any()]
        keep[k] = max(max(reads, default=0), keep[k + 1] - 1)
    return keep, live


def _is_kept(W: np.ndarray) -> bool:
    """Whether the carry line is the identity."""
    return W[0, CARRY] == 1.0 and not W[0, 1:].any()


def _terms(weights: np.ndarray, first: int | None = None) -> tuple[tuple[int, float | None], ...]:
    """(register, weight) of the non-zero weights, a weight of one (None) in front; a line of zeros keeps one term."""
    found = [(i, None if w == 1.0 else float(w)) for i, w in enumerate(weights) if w] or [(0, 0.0)]
    return tuple(sorted(found, key=lambda term: term[1] is not None))


def _cost(terms: Sequence[tuple[int, Any]]) -> int:
    return len(terms) - (terms[0][1] is None)


def _plan(
    tableau: Tableau, k: int, W: np.ndarray, pair: np.ndarray, x0: np.ndarray, keep: int, live: bool
) -> dict[str, Any]:
    """Row k with float weights where Step holds tensors."""
    first = M + tableau.history
    slots = tuple(i for i in range(tableau.slots) if W[:, first + i].any())
    tail = [first + i for i in slots] + [first + tableau.slots] * tableau.constant
    W = W[:, [CARRY, INPUT, M, *tail, *range(M + 1, first)]]  # a Step's registers: history last, its length varies
    same = not live or np.array_equal(W[0], W[1])
    kept = not same and _is_kept(W)
    m_terms, lines = _terms(pair), [_terms(W[1])]
    if not (same or kept):
        lines.append(_terms(W[0]))
    stacked = None
    if _cost(m_terms) + sum(map(_cost, lines)) > MOST_OPERATIONS:
        used = tuple(sorted({i for line in lines for i, _ in line}))
        stacked = (used, tuple(tuple(float(W[row, i]) for i in used) for row in (1, 0)[: len(lines)]))
    return {
        "index": k,
        "t": float(tableau.times[k]),
        "x0_terms": _terms(x0),
        "m_terms": m_terms,
        "input": lines[0],
        "carry": "same" if same else "keep" if kept else lines[1],
        "keep": keep,
        "slots": slots,
        "stacked": stacked,
    }


def _bind(
    plans: Sequence[dict[str, Any]],
    tableau: Tableau,
    device: torch.device,
    dtype: torch.dtype,
    post: Post | None,
    constant: torch.Tensor | None,
) -> tuple[Step, ...]:
    """Replace float weights by views of one tensor on the device."""
    values: list[float] = []

    def collect(item: Any) -> None:
        if isinstance(item, float):
            values.append(item)
        elif isinstance(item, tuple):
            for part in item:
                collect(part)

    tensors = ("x0_terms", "m_terms", "input", "carry", "stacked")
    for plan in plans:
        collect(tuple(plan[name] for name in tensors))
    table = torch.tensor(values, dtype=torch.float64).to(device, dtype)
    views, spent = table.unbind(), 0

    def place(item: Any) -> Any:
        nonlocal spent
        if isinstance(item, float):
            spent += 1
            return views[spent - 1]
        if isinstance(item, tuple) and item and all(isinstance(part, float) for part in item):
            spent += len(item)
            return table[spent - len(item) : spent]
        return tuple(map(place, item)) if isinstance(item, tuple) else item

    clock = torch.float64 if dtype == torch.float64 else torch.float32
    shown = torch.tensor(tableau.model_times, dtype=torch.float64).to(device, clock).unbind()
    return tuple(
        Step(**{**plan, **{name: place(plan[name]) for name in tensors}}, model_time=tau, post=post, constant=constant)
        for plan, tau in zip(plans, shown, strict=True)
    )
