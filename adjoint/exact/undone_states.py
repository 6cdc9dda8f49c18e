"""States that are undone on the way back instead of kept, for solvers whose rows have an exact inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fewstep.adjoint.exact.inverse_rows import Block, Predict, blocks
from fewstep.adjoint.exact.kept_states import Past, Recall
from fewstep.adjoint.exact.rounding_growth import check_growth
from fewstep.adjoint.exact.rows import Network, Rows, flat, unflat
from fewstep.samplers.run.step import Place, Post, State
from fewstep.samplers.schedule.base import Nodes
from fewstep.samplers.schedule.outputs import Prediction, convert
from fewstep.samplers.table.tableau import Tableau

MOST_KEPT = 2  # rows of a reversible solver that may have no inverse: a first step, a step into sigma = 0


@dataclass(frozen=True, eq=False)
class Undone(Recall):
    """Only the last pair of states is kept, and the few states before rows that have no inverse.

    Raises ValueError for a table with more of these, and for one on whose way back rounding grows too much.
    """

    tableau: Tableau
    prediction: Prediction
    dtype: torch.dtype
    post: Post | None = None

    def __post_init__(self) -> None:
        if self.tableau.schedule.has_mean:
            raise ValueError('method="reversible" does not go on mean-reverting schedules: take "checkpoint"')
        if sum(not block.exact for block in self.blocks) > MOST_KEPT:
            blocks(self.tableau)  # says which row, and why
        check_growth(self.tableau, self.dtype, strict=False)

    @cached_property
    def blocks(self) -> list[Block]:
        """Stretches of rows that are undone together."""
        return blocks(self.tableau, strict=False)

    def forward(self, rows: Rows, state: State) -> tuple[State, list[Tensor]]:
        kept: list[Tensor] = []
        lost = {block.start for block in self.blocks if not block.exact}
        for k in range(len(rows)):
            kept += flat(state) if k in lost else []
            state = rows.advance(k, state)
        return state, [*kept, state.carry, state.input]

    def backward(self, rows: Rows, kept: Sequence[Tensor]) -> Past:
        predict = predictor(self.tableau, self.prediction, rows.network, rows.taus, self.post)
        state, end = State(kept[-2], kept[-1]), len(kept) - 2
        like = state.input
        for block in reversed(self.blocks):
            if block.exact:
                state, inputs = block.back(state, predict, lambda k: rows.noises(k, like))
                for k in reversed(range(block.start, block.stop)):
                    yield k, rows.blank(k, inputs[k - block.start])
            else:
                width = 2 + rows.past[block.start]
                state, end = unflat(kept[end - width : end]), end - width
                yield block.start, state

    def advances(self, n: int) -> int:
        return sum(block.stop - block.start for block in self.blocks if block.exact)


def predictor(
    tableau: Tableau, prediction: Prediction, network: Network, taus: Sequence[Tensor], post: Post | None = None
) -> Predict:
    """(k, x) -> m_k = p_k x + q_k output, what row k of a table makes of the network's output at x."""
    calls = Nodes(*(column[:-1] for column in tableau.nodes))
    x0 = convert(prediction, ["x0"] * tableau.nfe, calls) if post else None
    p, q = convert("sample" if post else prediction, tableau.forms, calls)

    def predict(k: int, x: Tensor) -> Tensor:
        output = network(k, x, taus[k], Place(tableau, k)).to(x.dtype)
        if post is not None and x0 is not None:
            output = post(float(x0[0][k]) * x + float(x0[1][k]) * output)
        return float(p[k]) * x + float(q[k]) * output

    return predict
