"""From a Tableau to the steps that execute it.

Decided here, once, in float64: how each network output becomes m; which registers are dead and need no arithmetic;
which lines are short enough for multiply-adds. m is stored up to a factor that makes one of its two weights 1, and the
factor is put into the lines that read it. All weights move to the device in one transfer.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.run.checks import require_uncached
from fewstep.samplers.run.step import Post, Step
from fewstep.samplers.schedule.base import Array, Nodes
from fewstep.samplers.schedule.outputs import Prediction, convert, mean_weight
from fewstep.samplers.table.tableau import Tableau

MOST_OPERATIONS = 4
FELT = 1e6  # amplification of rounding that float32 feels, 6e-8 times that at most
LOST = 1e10  # of which it keeps nothing: of the bound, roundings of a real run reach a thousandth
CARRY, INPUT, M = 0, 1, 2  # columns of W and registers of a Step


def lower(
    tableau: Tableau,
    prediction: Prediction,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    post: Post | None = None,
    constant: torch.Tensor | None = None,
    pair: bool = False,
    *,
    cached: bool = False,
) -> tuple[Step, ...]:
    """The linked steps of a table for a network that predicts `prediction` and a state of the given device and dtype.

    Args:
        tableau: what to play. prediction: "epsilon", "sample", "v_prediction" or "flow_prediction".
        post: maps predicted x0 to x0 (clipping, dynamic thresholding). constant: the mu of a mean-reverting
            schedule or a bridge, for the const register, which is 1 otherwise. pair: whether carry is wanted after the last
            row. cached: whether the caller leaves out what the table leaves out.

    Raises:
        ValueError: the output says nothing about what a row needs (eps prediction at alpha = 0); a table of whose result
            the roundings of float32 leave nothing; one with a feature cache where the caller knows none.
    """
    if not cached:
        require_uncached(tableau)
    if tableau.constant and constant is None:
        if tableau.schedule.has_mean:
            needs = f"{type(tableau.schedule).__name__} needs the mean it reverts to, or starts from, `mu`"
            raise ValueError(f"{needs}: play it by sample()")
        constant = torch.ones((), dtype=dtype, device=device)
    calls = Nodes(*(c[:-1] for c in tableau.nodes))
    if dtype != torch.float64 and tableau.amplification > FELT:
        told = (
            f"{tableau.name} amplifies rounding {tableau.amplification:.1e} times on these steps, "
            f"{6e-8 * tableau.amplification:.1g} in float32: take a lower order, another form or other steps, or float64"
        )
        if tableau.amplification > LOST:
            raise ValueError(told)
        warnings.warn(told, stacklevel=2)
    x0 = _predicted_x0(tableau, prediction, calls, strict=post is not None)
    to_m = np.stack(convert("sample" if post else prediction, tableau.forms, calls))
    W = _with_mean(tableau, to_m)
    keep, live = _needs(tableau, pair)
    if tableau.elementwise:
        kept = [0, *keep]  # history of a row: what the one before keeps
        plans = [
            _wide_plan(tableau, k, W[k], to_m[:, k], x0[:, k], keep[k], live[k], past=kept[k])
            for k in range(tableau.nfe)
        ]
    else:
        plans = _plans(tableau, W, to_m, x0, keep, live, fold=post is None)
    steps = _bind(plans, tableau, torch.device(device), dtype, post, constant)
    for now, after in zip(steps[:-1], steps[1:], strict=True):
        now.next = after
    return steps


def _plans(
    tableau: Tableau, W: Array, to_m: Array, x0: Array, keep: list[int], live: list[bool], fold: bool
) -> list[dict[str, Any]]:
    """Plans of scalar rows: m scaled so that one of its weights is 1, or made within the lines where nobody keeps it."""
    # A step costs memory traffic, an operation each time a state is read and written, so what matters is how few there are:
    # with m scaled so that one of its two weights is 1, a multiply becomes an add, and lines that read m take the factor.
    # Where no later row reads m, it need not exist: its two terms go into the lines themselves.
    factor, plans = np.ones(tableau.nfe), []
    for k in range(tableau.nfe):
        lines, pair = W[k].copy(), to_m[:, k].copy()
        filters = None if tableau.filters is None else tableau.filters[k, : _span(tableau, k)].copy()
        for j in range(1, tableau.history):
            lines[:, M + j] *= factor[k - j] if k >= j else 0.0
        if filters is not None:
            filters[2:] *= factor[k - 1 :: -1][: len(filters) - 2].reshape(-1, 1, 1, 1) if k else 1.0
        if keep[k] == 0 and fold:
            lines[:, INPUT] += lines[:, M] * pair[0]
            lines[:, M] *= pair[1]
            if filters is not None:
                filters[0] += filters[1] * pair[0]
                filters[1] *= pair[1]
            pair = np.array([0.0, 1.0])
        elif fold:
            factor[k] = pair[np.argmax(np.abs(pair))]
            lines[:, M] *= factor[k]
            if filters is not None:
                filters[1] *= factor[k]
            pair = pair / factor[k]
        plan = _plan(tableau, k, lines, pair, x0[:, k], keep[k], live[k])
        plans.append(plan if filters is None or not filters.any() else {**plan, "filters": filters})
    return plans


def _with_mean(tableau: Tableau, to_m: Array) -> Array:
    """W with the mean that outputs contain, m = p x + q o + r mu, moved into the const column."""
    if not tableau.schedule.has_mean:
        return tableau.W
    r = mean_weight(to_m[0], tableau.schedule.beta(tableau.times[:-1]))
    W = tableau.W.copy()
    for k in range(tableau.nfe):
        for j in range(min(tableau.history, k + 1)):
            W[k, :, -1] += W[k, :, M + j] * r[k - j]
    return W


def _predicted_x0(tableau: Tableau, prediction: Prediction, calls: Nodes, strict: bool) -> Array:
    """Weights of predicted x0 on (input, output, mean), (3, nfe).

    Where nothing but reports needs it, a network that cannot tell (eps at alpha = 0) counts as returning zero.
    """
    if not strict and "x0" not in tableau.forms:
        seen = calls.alpha > 0
        calls = Nodes(*(np.where(seen, c, d) for c, d in zip(calls, (0.0, 1.0, 1.0, 0.0), strict=True)))
    x0 = ["x0"] * tableau.nfe
    p, q = convert(prediction, x0, calls)
    r = mean_weight(p, tableau.schedule.beta(tableau.times[:-1])) if tableau.schedule.has_mean else np.zeros_like(p)
    return np.stack([p, q, r])


def _needs(tableau: Tableau, pair: bool) -> tuple[list[int], list[bool]]:
    """(outputs to keep after each row, whether carry is read after it), by walking the table backwards."""
    # Liveness, as in a compiler: what a row must keep is what rows after it read. Without it a second-order table would hold
    # its whole history, and every step would write a carry that nobody looks at.
    n = tableau.nfe
    keep, live = [0] * n, [pair] * n
    for k in range(n - 2, -1, -1):
        W, kept = tableau.W[k + 1], _is_kept(tableau.W[k + 1])
        lines = W[1:] if kept or not live[k + 1] else W
        live[k] = bool(lines[:, CARRY].any()) or (kept and live[k + 1])
        reads = [j for j in range(1, tableau.history) if lines[:, M + j].any()]
        reads += [j for j in range(1, _span(tableau, k + 1) - 1)]
        keep[k] = max(max(reads, default=0), keep[k + 1] - 1)
    return keep, live


def _span(tableau: Tableau, k: int) -> int:
    """How many of input, m_k, m_{k-1}, ... the filter of row k reads: up to the last that is not zero, and two at least."""
    if tableau.filters is None:
        return 2
    there = np.flatnonzero(tableau.filters[k, : 2 + k].reshape(min(2 + k, tableau.filters.shape[1]), -1).any(1))
    return max(2, int(there.max(initial=0)) + 1)


def _is_kept(W: Array) -> bool:
    """Whether the carry line is the identity."""
    return bool(np.all(W[0, CARRY] == 1.0)) and not W[0, 1:].any()


def _terms(weights: Array, first: int | None = None) -> tuple[tuple[int, float | None], ...]:
    """(register, weight) of the non-zero weights, a weight of one (None) in front; a line of zeros keeps one term."""
    found = [(i, None if w == 1.0 else float(w)) for i, w in enumerate(weights) if w] or [(0, 0.0)]
    return tuple(sorted(found, key=lambda term: term[1] is not None))


def _cost(terms: Sequence[tuple[int, Any]]) -> int:
    return len(terms) - (terms[0][1] is None)


def _plan(tableau: Tableau, k: int, W: Array, pair: Array, x0: Array, keep: int, live: bool) -> dict[str, Any]:
    """Row k with float weights where Step holds tensors."""
    draws = tableau.draws(k)
    W, same, kept = _registers(tableau, W, draws, live)
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
        "draws": draws,
        "stacked": stacked,
    }


def _registers(tableau: Tableau, W: Array, draws: Sequence[Draw], live: bool) -> tuple[Array, bool, bool]:
    """(W over a Step's registers, whether carry equals input, whether it is kept). History last: its length varies."""
    first = M + tableau.history
    tail = [first + draw.slot for draw in draws] + [first + tableau.slots] * tableau.constant
    W = W[:, [CARRY, INPUT, M, *tail, *range(M + 1, first)]]
    same = not live or np.array_equal(W[0], W[1])
    return W, same, not same and _is_kept(W)


def _wide_plan(
    tableau: Tableau, k: int, W: Array, pair: Array, x0: Array, keep: int, live: bool, *, past: int
) -> dict[str, Any]:
    """Row k of a table whose weights differ by element: every line over the network's output, m itself one of them."""
    draws = tableau.draws(k)
    W, same, kept = _registers(tableau, W, draws, live)
    W = W[:, : W.shape[1] - (tableau.history - 1) + past].copy()
    W[:, INPUT] += W[:, M] * pair[0]
    W[:, M] *= pair[1]
    lines = [W[1]] if same or kept else [W[1], W[0]]
    if keep:
        m = np.zeros_like(W[0])
        m[INPUT], m[M] = pair
        lines.append(m)
    return {
        "index": k,
        "t": float(tableau.times[k]),
        "x0_terms": _terms(x0),
        "m_terms": (),
        "input": (),
        "carry": "same" if same else "keep" if kept else (),
        "keep": keep,
        "draws": draws,
        "stacked": None,
        "wide": np.stack(lines)[:, :, None],
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
    # All weights of all steps are views of one tensor: one transfer to the device, and none while the steps run.
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
    both = np.concatenate([tableau.model_times, tableau.target_times])
    shown = torch.tensor(both, dtype=torch.float64).to(device, clock).unbind()
    pairs = zip(shown[: tableau.nfe], shown[tableau.nfe :], strict=True)
    wide, filters = ([plan.pop(name, None) for plan in plans] for name in ("wide", "filters"))
    return tuple(
        Step(
            **{**plan, **{name: place(plan[name]) for name in tensors}},
            model_time=tau,
            target=target,
            wide=None if lines is None else torch.tensor(lines, dtype=torch.float64).to(device, dtype),
            filters=None if F is None else torch.tensor(F, dtype=torch.float64).transpose(0, 1).to(device, dtype),
            post=post,
            constant=constant,
            tableau=tableau,
        )
        for plan, (tau, target), lines, F in zip(plans, pairs, wide, filters, strict=True)
    )
