"""Many tables on the same seeds: the network is asked once where they agree so far, and in one batch where times are equal.

Fixed recipes differ by solver and switches more than by grid, and begin with the same call. A table and the one with a knob
turned a little differ from one row on. Calls on four samples cost nearly as much as calls on thirty.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.artefact.corrections import widened
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.run.denoiser import clock
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import first_state
from fewstep.samplers.schedule.outputs import form_pair
from fewstep.samplers.table.tableau import Tableau


@torch.no_grad()
def drawn_together(problem: Problem, tables: Sequence[Tableau], seeds: tuple[int, ...]) -> list[Tensor]:
    """x0 (B, *shape) of the same seeds by each of several tables of one nfe; those with noise are drawn by themselves."""
    part = problem.part(seeds)
    if any(table.stochastic for table in tables):
        return [problem.draw(table, part) for table in tables]
    x = part.x_T.to(torch.promote_types(part.x_T.dtype, torch.float32))
    rows = zip(*(lower(table, problem.prediction, x.device, x.dtype) for table in tables), strict=True)
    states = [first_state(table, x) for table in tables]
    most = max(1, problem.batch_size // len(seeds))
    for k, (row, leaders) in enumerate(zip(rows, _leaders(tables), strict=True)):
        outputs: dict[int, Tensor] = {}
        for few in _batches(sorted(set(leaders)), [table.model_times[k] for table in tables], most):
            inputs = torch.cat([states[i].input for i in few]).to(part.x_T.dtype)
            tau = row[few[0]].model_time.to(clock(inputs.dtype))
            found = problem.ask(problem.part(seeds * len(few)), inputs, tau)
            outputs.update(zip(few, found.chunk(len(few)), strict=True))
        states = [step(state, outputs[i]) for step, state, i in zip(row, states, leaders, strict=True)]
    return [state.input for state in states]


def _leaders(tables: Sequence[Tableau]) -> Iterator[list[int]]:
    """For every row, of each table the first one that shows the network the same there: it did the same up to now."""
    history = max(table.history for table in tables)
    wide = [widened(table, history) for table in tables]
    past: list[Hashable] = [table.begins for table in wide]
    for k in range(wide[0].nfe):
        first: dict[Hashable, int] = {}
        here = list(zip(past, (table.model_times[k] for table in wide), strict=True))
        yield [first.setdefault(key, i) for i, key in enumerate(here)]
        done: dict[Hashable, int] = {}
        keys = [(key, _row(table, k)) for key, table in zip(here, wide, strict=True)]
        past = [done.setdefault(key, len(done)) for key in keys]


def _row(table: Tableau, k: int) -> Hashable:
    """Everything that row k does with an output."""
    node = tuple(float(column[k]) for column in table.nodes)
    form = tuple(np.asarray(v, float).tobytes() for v in form_pair(table.forms[k]))
    filters = None if table.filters is None else (table.filters.shape, table.filters[k].tobytes())
    return table.W.shape, (table.W[k] + 0.0).tobytes(), form, node, filters  # + 0.0: no -0.0


def _batches(indices: Sequence[int], times: Sequence[float], most: int) -> Iterator[list[int]]:
    """At most so many of the tables at once, of equal time."""
    alike: dict[float, list[int]] = {}
    for i in indices:
        alike.setdefault(float(times[i]), []).append(i)
    for group in alike.values():
        yield from (group[i : i + most] for i in range(0, len(group), most))
