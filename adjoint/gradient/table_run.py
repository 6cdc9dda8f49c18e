"""One run of a table under `adjoint.sample`: its rows, what gradients go to, and the way back."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.continuous.continuous_adjoint import continuous
from fewstep.adjoint.exact.kept_states import Recall, recall_for
from fewstep.adjoint.exact.leaves import Search
from fewstep.adjoint.exact.repeatable_noise import draws_of
from fewstep.adjoint.exact.rows import Network, Rows
from fewstep.adjoint.exact.sweep import Run, swept
from fewstep.adjoint.exact.undone_states import Undone
from fewstep.adjoint.gradient.free_table import Free
from fewstep.checks import whole
from fewstep.samplers.noise.draws import Noise
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.free_row import FreeRow
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import Post, State, first_state
from fewstep.samplers.table.tableau import Tableau

NOTHING = (
    "there is nothing to differentiate: neither x_T, nor z, nor a tensor that the network uses requires a gradient. Call "
    "x_T.requires_grad_() (or that of an embedding), or sample without gradients: fewstep.sample"
)


@dataclass(frozen=True)
class Ways:
    """How the gradient is made, apart from the method: see `sample`."""

    slots: int | None = None
    offload: bool = False
    last: int | str | None = None
    accumulate: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class TableRun:
    """One run of a table."""

    denoiser: Denoiser
    tableau: Tableau
    x_T: Tensor
    source: Noise
    z: Tensor | None
    mu: Tensor | None
    post: Post | None
    free: Free | None

    def play(self, method: str, params: Collection[Tensor] | None, cond: tuple[Tensor, ...], ways: Ways) -> Tensor:
        """The sample, with a graph where gradients are on."""
        x = self.x_T.to(torch.float64 if self.x_T.dtype == torch.float64 else torch.float32)
        state = first_state(self.tableau, x)
        recall = self._recall(method, ways)
        network = Network(self.denoiser, self.x_T.dtype, x.device)
        rows = self._rows(network, state.input, pair=method == "reversible")
        if not torch.is_grad_enabled():
            return played(rows, state).input
        skipped = len(rows) - _kept(ways.last, len(rows))
        with torch.no_grad():
            state = played(rows, state, skipped) if skipped else state
        rows = rows.after(skipped)
        if method == "direct":
            return self._direct(rows, state)
        rows.search, network.watch = Search(params, cond), True
        find = partial(self._leaves, rows)
        if recall is None:
            with _offloaded(ways.offload):
                return continuous(self, rows, state, find, method, ways.options, ways.accumulate)
        with torch.no_grad():
            end, kept = recall.forward(rows, state)
        leaves = find()
        versions, places = tuple(t._version for t in leaves), self._places()[skipped:]
        run = Run(rows, recall, leaves, versions, ways.accumulate, places, skipped == 0)
        with _offloaded(ways.offload):
            return swept(run, state, self.z, (end.input, kept))

    def _places(self) -> tuple[tuple[int, ...], ...]:
        """Where the noises of every row are among all, in the order of drawing."""
        numbers = iter(range(len(draws_of(self.tableau))))
        return tuple(tuple(next(numbers) for _ in self.tableau.draws(row)) for row in range(self.tableau.nfe))

    def _recall(self, method: str, ways: Ways) -> Recall | None:
        """How the states are had again on the way back; the numbers that have no way are refused here."""
        if method == "reversible":
            if ways.slots is not None or ways.last is not None or self.free is not None:
                raise ValueError(
                    'method="reversible" undoes whole tables with fixed numbers: `slots`, `last` and adjoint.free go with '
                    '"checkpoint"'
                )
            wide = torch.float64 if self.x_T.dtype == torch.float64 else torch.float32
            return Undone(self.tableau, self.denoiser.prediction, wide, self.post)
        return recall_for(method, ways.slots)

    def _rows(self, network: Network, x: Tensor, pair: bool) -> Rows:
        """The rows of the table on x's device."""
        table = self.tableau

        def noises(k: int, like: Tensor) -> list[Tensor]:
            return [self.source(draw, like) for draw in table.draws(k)]

        draws = [table.draws(k) for k in range(table.nfe)]
        if self.free is None:
            constant = None if self.mu is None else self.mu.to(x.dtype)
            steps = lower(table, self.denoiser.prediction, x.device, x.dtype, self.post, constant, pair)
            past = [0, *(step.keep for step in steps[:-1])]
            return Rows(network, steps, [s.model_time for s in steps], past, draws, noises)
        if self.post is not None:
            raise ValueError("`post` acts between output and m, whose weights are free here: leave it away")
        numbers = self.free.coefficients.beside(x)
        free = [FreeRow(table, k, numbers) for k in range(table.nfe)]
        past = [min(k, table.history - 1) for k in range(table.nfe)]
        return Rows(network, free, list(numbers.tau.unbind()), past, draws, noises, linear=False)

    def _leaves(self, rows: Rows) -> tuple[Tensor, ...]:
        """What gradients go to beside x_T and z, when the rows have been played; they are looked at no more."""
        search, numbers = rows.search, () if self.free is None else self.free.coefficients.given
        assert search is not None
        rows.search, rows.network.watch, rows.network.outside = None, False, search.outside
        search.check()
        leaves = (*search.leaves, *(t for t in numbers if t.requires_grad))
        if not (leaves or self.x_T.requires_grad or (self.z is not None and self.z.requires_grad)):
            raise ValueError(NOTHING)
        return leaves

    @staticmethod
    def _direct(rows: Rows, state: State) -> Tensor:
        x0 = played(rows, state).input
        if not x0.requires_grad:
            raise ValueError(NOTHING)
        return x0


def played(rows: Rows, state: State, stop: int | None = None) -> State:
    """The state after all rows, or before row `stop`."""
    for k in range(len(rows) if stop is None else stop):
        state = rows.advance(k, state)
    return state


def _kept(last: Any, n: int) -> int:
    """How many of the n rows gradients go through."""
    if last is None:
        return n
    if last == "random":
        return int(torch.randint(1, n + 1, ()))
    return min(whole("last", last, hint='It is a number of rows, or "random"'), n)


def _offloaded(offload: bool) -> Any:
    """Where tensors kept for the way back wait."""
    if not offload:
        return contextlib.nullcontext()
    return torch.autograd.graph.save_on_cpu(pin_memory=torch.cuda.is_available())
