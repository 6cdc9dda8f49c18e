"""Rows written with names of registers become one array W, with a column for every register that some row uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fewstep.samplers.schedule.base import Node, NoiseSchedule
from fewstep.samplers.schedule.outputs import Form, form_pair
from fewstep.samplers.table.row import CARRY, CONST, INPUT, Row

ROUNDED = 1e-15


class Packed(NamedTuple):
    """W (nfe, 2, R, *shape), how many outputs and noises it has columns for, whether a constant, and the noises' spans."""

    W: np.ndarray
    history: int
    slots: int
    constant: bool
    spans: np.ndarray


def pack(rows: Sequence[Row], schedule: NoiseSchedule, end: Node) -> Packed:
    """Columns: carry, input, the outputs m_k, m_{k-1}, ..., the noises of a row, and the constant where there is one.

    end: node of what is returned; the constant of a schedule that has one is filled in.
    """
    lines = [(r.input if r.carry is None else r.carry, r.input) for r in rows]
    history = 1 + max((j for pair in lines for terms in pair for j in terms if isinstance(j, int)), default=0)
    draws = [list(dict.fromkeys(z for terms in pair for z in terms if isinstance(z, tuple))) for pair in lines]
    slots = max(map(len, draws), default=0)
    constant = schedule.has_mean or any(CONST in terms for pair in lines for terms in pair)
    registers = [CARRY, INPUT, *range(history), *(("z", i) for i in range(slots)), *([CONST] * constant)]
    place = {register: i for i, register in enumerate(registers)}
    cells = [np.shape(v) for pair in lines for terms in pair for v in terms.values()]
    W = np.zeros((len(lines), 2, len(registers), *np.broadcast_shapes(*cells)))
    spans = np.full((len(lines), slots, 3), np.nan)
    for k, pair in enumerate(lines):
        spans[k, : len(draws[k])] = [z[1:] for z in draws[k]] or np.zeros((0, 3))
        for line, terms in zip(W[k], pair, strict=True):
            for register, value in terms.items():
                at = ("z", draws[k].index(register)) if isinstance(register, tuple) else register
                line[place[at]] += value
    if schedule.kind == "mean-reverting":
        _pull_to_mean(W, [r.form for r in rows], history)
    elif schedule.has_mean:
        _carry_mean(W, schedule.beta(np.array([*(r.at.t for r in rows), end.t])))
    return Packed(W, history, slots, constant, spans)


def _pull_to_mean(W: np.ndarray, forms: Sequence[Form], history: int) -> None:
    """Fill the const column so that rows written for y = x - mu act on x: every line maps mu to mu.

    An output of a form with coefficient A of x0 contains A mu.
    """
    A = [form_pair(form)[0] for form in forms]
    for k, lines in enumerate(W):
        inside = lines[:, 0] + lines[:, 1] + sum(lines[:, 2 + j] * A[k - j] for j in range(min(history, k + 1)))
        lines[:, -1] += 1.0 - inside


def _carry_mean(W: np.ndarray, beta: np.ndarray) -> None:
    """Fill the const column so that rows written for y = x - beta mu act on x: the input holds beta mu at every node.

    What carry holds is followed; outputs are of x0 and eps themselves.
    """
    carried = beta[0]
    for k, lines in enumerate(W):
        same = np.array_equal(lines[0], lines[1])
        held = lines[:, 0] * carried + lines[:, 1] * beta[k]
        lacks = beta[k + 1] - held[1]
        lines[1, -1] += np.where(np.abs(lacks) > ROUNDED, lacks, 0.0)
        lines[0, -1] += lines[1, -1] if same else 0.0
        carried = beta[k + 1] if same else held[0]
