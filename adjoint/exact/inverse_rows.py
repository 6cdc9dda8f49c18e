"""The exact way back through a table that has one, derived from its rows alone.

A block of rows takes the pair (c, x), carry and input, to (c', x'), both linear in c, x, the outputs m_j of its rows and its
noises. Where the columns of c and of all m_j are parallel, the combination of (c', x') at right angles to them has x alone:

    x    = n . (c', x') / (n . X)                     n . C = n . M_j = 0, no network call
    m_j  = network at the inputs of the block         which must not depend on c
    c    = |C|^-1 d . ((c', x') - X x - sum_j M_j m_j),   d = C / |C|

(noises and the mean are taken off first). The blocks are the shortest stretches for which that holds and across whose start
no output is remembered. A first block whose rows do not read c gives it as x, which it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.run.step import State
from fewstep.samplers.table.tableau import Tableau

Predict = Callable[[int, Tensor], Tensor]  # row, input -> m of the row's form
Noises = Callable[[int], Sequence[Tensor]]  # row -> its z, in the order of tableau.draws(row)

ROUNDING = 1e-11  # of the largest weight of a block: what counts as zero


@dataclass(frozen=True, eq=False)
class Block:
    """Rows start .. stop - 1 and the way back over them. Columns: c, x, m of the rows, noises of the rows, constant.

    exact: whether there is a way back; otherwise it is one row, `reason` says why, and its state before must be kept.
    """

    start: int
    stop: int
    inputs: np.ndarray  # (rows, columns) what each row's network call sees
    x: np.ndarray  # of (c', x', columns after them: m, noises, constant)
    c: np.ndarray | None  # of (c', x', x, m, noises, constant); None: c is x
    draws: tuple[int, ...]  # noises of each row
    exact: bool = True
    reason: str = ""

    def back(
        self,
        after: State,
        predict: Predict,
        noises: Noises | None = None,
        constant: Tensor | float = 1.0,
    ) -> tuple[State, list[Tensor]]:
        """(the state before the block, the inputs of its network calls in order), given the state after it.

        Args:
            after: carry and input after the block. predict: (k, input) -> m_k, the output of row k's call as its form.
            noises: k -> the noises that row k drew. constant: the mean of a mean-reverting process.
        """
        if not self.exact:
            raise ValueError(f"row {self.start} cannot be undone: {self.reason}; keep the state before it")
        rows = range(self.start, self.stop)
        z = [z for k, n in zip(rows, self.draws, strict=True) if n for z in _drawn(noises, k)]
        m: list[Tensor] = [after.input] * len(rows)  # not yet known, and without weight where they are not
        x = _combined(self.x, (after.carry, after.input, *m, *z), constant)
        seen: list[Tensor] = []
        for i, k in enumerate(rows):
            seen.append(_combined(self.inputs[i], (after.carry, x, *m, *z), constant) if i else x)
            m[i] = predict(k, seen[i])
        if self.c is None:
            return State(x, x), seen
        return State(_combined(self.c, (after.carry, after.input, x, *m, *z), constant), x), seen


def _drawn(noises: Noises | None, k: int) -> Sequence[Tensor]:
    if noises is None:
        raise ValueError(f"row {k} drew noise: the way back needs the same; give `noises`")
    return noises(k)


def _combined(weights: np.ndarray, tensors: Sequence[Tensor], constant: Tensor | float) -> Tensor:
    """sum of weight times tensor; the last weight is the constant's."""
    total: Tensor | None = None
    for w, tensor in zip(map(float, weights[:-1]), tensors, strict=True):
        if w:
            total = tensor * w if total is None else torch.add(total, tensor, alpha=w)
    assert total is not None
    return total + constant * float(weights[-1]) if weights[-1] else total


def blocks(tableau: Tableau, strict: bool = True) -> list[Block]:
    """The blocks of a table, first to last; every row is in one.

    strict=False: rows that cannot be undone are blocks of one row with exact=False.

    Raises:
        ValueError: strict, and a row has no inverse; weights that differ between the elements of a sample.
    """
    if tableau.filters is not None:
        raise ValueError(
            f"{tableau.name}: its rows filter the state in space, which has no inverse here: keep the states "
            '(method="checkpoint")'
        )
    if tableau.elementwise:
        raise ValueError(f"{tableau.name}: its weights differ by element, and the way back is for scalar weights only")
    found: list[Block] = []
    while (start := found[-1].stop if found else 0) < tableau.nfe:
        block = _block(tableau, start)
        if strict and not block.exact:
            raise ValueError(
                f"{tableau.name}: row {start} of {tableau.nfe} cannot be undone: {block.reason}. Take a solver that is "
                'reversible on this grid, or keep its states (method="checkpoint")'
            )
        found.append(block)
    return found


def _block(tableau: Tableau, start: int) -> Block:
    """The shortest block from row `start`, or a single row without a way back."""
    together = start == 0  # carry and input are one before the first row
    reason = "the state would be the solution of an equation that contains the network"
    for stop in range(start + 1, tableau.nfe + 1):
        if _remembered(tableau, stop):
            continue
        columns, draws = _columns(tableau, start, stop)
        if columns is None:
            reason = "it reads outputs of rows before it"
            break
        inputs, end = columns[:-1, 1], columns[-1]
        if together:
            columns[:, :, 1] += columns[:, :, 0]
            columns[:, :, 0] = 0.0
        elif np.abs(inputs[1:, 0]).any():
            break
        elif not end[:, 0].any():
            reason = "it forgets the carry before it"
            break
        solved = _solve(end, stop - start, together)
        if solved is not None:
            return Block(start, stop, inputs, *solved, draws)
    return Block(start, start + 1, np.zeros((1, 0)), np.zeros(0), None, (0,), False, reason)


def _remembered(tableau: Tableau, stop: int) -> bool:
    """Whether rows from `stop` on read outputs of rows before it."""
    H = tableau.history
    rows = range(stop, min(stop + H - 1, tableau.nfe))
    return any(bool(tableau.W[k, :, 3 + k - stop : 2 + H].any()) for k in rows)


def _columns(tableau: Tableau, start: int, stop: int) -> tuple[np.ndarray | None, tuple[int, ...]]:
    """(rows + 1, 2, columns): carry and input before every row and at the end, on the columns of a block; draws of each."""
    H, n = tableau.history, stop - start
    draws = tuple(len(tableau.draws(k)) for k in range(start, stop))
    width = 2 + n + sum(draws) + 1
    unit = np.eye(width)
    states, place = [unit[:2]], 2 + n
    for i in range(n):
        W = tableau.W[start + i]
        if W[:, 2 + i + 1 : 2 + H].any():
            return None, draws
        outputs = [unit[2 + i - j] if j <= i else np.zeros(width) for j in range(H)]
        z = np.zeros((tableau.slots, width))
        for draw in tableau.draws(start + i):
            z[draw.slot, place] = 1.0
            place += 1
        states.append(W @ np.stack([*states[-1], *outputs, *z, *[unit[-1]] * tableau.constant]))
    return np.stack(states), draws


def _solve(end: np.ndarray, n: int, together: bool) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Weights of x and of c, as Block holds them, from (c', x') on the columns; None where they cannot be had."""
    C, X, M, rest = end[:, 0], end[:, 1], end[:, 2 : 2 + n], end[:, 2 + n :]
    zero = ROUNDING * np.abs(end[:, : 2 + n]).max()
    d = M[:, np.argmax(np.abs(M).max(0))] if together else C
    size = float(np.hypot(*d))
    if size == 0:
        return None
    d = d / size
    normal = np.array([-d[1], d[0]])
    along = float(normal @ X)
    if np.abs(normal @ M).max() > zero or abs(along) <= zero:
        return None
    x = np.concatenate([normal, np.zeros(n), -normal @ rest]) / along
    c = None if together else np.concatenate([d, [-d @ X], -d @ M, -d @ rest]) / size
    return x, c
