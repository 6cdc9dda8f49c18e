"""How the loop asks the network: row by row, or several rows that do not need each other's outputs in one call.

The inputs of such rows are had by playing the rows before them with an output that nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.step import State, Step
from fewstep.samplers.sampling.watching import Look
from fewstep.samplers.table.tableau import Tableau
from fewstep.samplers.table.together import together

if TYPE_CHECKING:
    from fewstep.samplers.blocks.block_run import BlockRun


class Asked:
    """The network's outputs in the order of the rows. dtype: what it takes. sizes: rows of each call.

    blocks: of a table that leaves blocks of the network out.
    """

    def __init__(self, denoiser: Denoiser, dtype: torch.dtype, sizes: Sequence[int], blocks: BlockRun | None = None):
        self.denoiser, self.dtype, self.blocks = denoiser, dtype, blocks
        self._together = {sum(sizes[:i]): n for i, n in enumerate(sizes) if n > 1}
        self._ready: list[Tensor] = []

    def output(self, step: Step, state: State) -> Tensor:
        """The output that a row waits for."""
        if step.index in self._together:
            self._ready = self._several(step, state, self._together[step.index])
        if self._ready:
            return self._ready.pop(0)
        x = state.input.to(self.dtype)
        if self.blocks is None:
            return self.denoiser.call(x, step.model_time, step)
        self.denoiser.prepare(x)  # which may ask the network itself
        with self.blocks.at(step.index):
            return self.denoiser.call(x, step.model_time, step)

    def _several(self, step: Step, state: State, count: int) -> list[Tensor]:
        """Outputs of `count` rows from this one on, in one call."""
        inputs, times = [state.input], [step.model_time]
        while len(inputs) < count and step.next is not None:
            state = step(
                state, torch.zeros((), dtype=state.input.dtype, device=state.input.device).expand_as(state.input)
            )
            step = step.next
            inputs.append(state.input)
            times.append(step.model_time)
        tau = torch.stack(times).repeat_interleave(len(state.input))
        found = self.denoiser.call(torch.cat(inputs).to(self.dtype), tau)
        return [output.clone() for output in found.chunk(count)]  # memory of their own, as rows know outputs by theirs


def sizes_of(denoiser: Denoiser, tableau: Tableau, look: Look) -> tuple[int, ...]:
    """Rows of each call when they are asked together. ValueError where the denoiser or the caller looks at single rows."""
    sizes = together(tableau)
    if tableau.cache is not None:
        raise ValueError(
            f"parallel=True asks several rows of {tableau.name!r} in one call, and this table computes other blocks of the "
            "network in each: leave it away"
        )
    if max(sizes) == 1:
        raise ValueError(
            f"parallel=True asks several rows of a step at once, and every row of {tableau.name!r} needs the one before it: "
            'leave it away, or take "epd"'
        )
    if not denoiser.vector_time:
        raise ValueError(
            "parallel=True shows the network several times in one batch, and this denoiser takes one time a call: if its fn "
            "takes tau of shape (B,), say Denoiser(..., vector_time=True); without parallel=True the same rows are played one "
            "after another, to the same result"
        )
    if denoiser.two_times or denoiser.asks_rows:
        raise ValueError(
            "parallel=True asks for several rows at once, and this denoiser looks at the row that asks (a flow map's second "
            "time, guidance that acts on a row's weights or remembers rows): leave parallel=True away"
        )
    if look.hook is not None:
        raise ValueError(
            "`hook` changes the state between rows that parallel=True asks together: leave one of the two away"
        )
    return sizes
