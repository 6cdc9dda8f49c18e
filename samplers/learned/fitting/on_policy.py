"""Samples on their way through a table whose rows are still being made: what a row gets wrong, and what could repair it.

Row k takes input_k to input_{k+1}, along the states that the corrected rows before it led to. One network call a row and
sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import whole
from fewstep.samplers.artefact.corrections import INPUT, M, widened
from fewstep.samplers.building.compiling import build
from fewstep.samplers.grids.coordinate import Coordinate
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.run.denoiser import clock as time_dtype
from fewstep.samplers.run.step import first_state
from fewstep.samplers.schedule.base import Array, Nodes
from fewstep.samplers.schedule.outputs import convert
from fewstep.samplers.table.tableau import Tableau

CHUNK = 2**23  # numbers in memory while products are summed


@dataclass(eq=False)
class Way:
    """A part on its way through a table, in main memory: registers after the last row, outputs newest first."""

    part: Part
    carry: Tensor
    input: Tensor
    begin: Tensor  # the input with which the present step began
    outputs: list[Tensor] = field(default_factory=list)

    def registers(self, constant: bool) -> Tensor:
        """[carry, input, m_k .. m_0, const], (R, B, *shape)."""
        ones = [torch.ones_like(self.input)] * constant
        return torch.stack([self.carry, self.input, *self.outputs, *ones])


@dataclass(frozen=True)
class Products:
    """Inner products of each sample, float64: of regressors (S, n, n), with what is missing (S, n), its square and |m_k|^2."""

    regressors: Array
    missing: Array
    square: Array
    size: Array


class OnPolicy:
    """All training samples, taken through a table row by row while its rows are still being made.

    `call(k)`, then `products(k, ...)` of what row k may use, then `advance(k, lines)`.

    Raises:
        ValueError: a table with noise, or with a weight for every element.
    """

    def __init__(self, task: Task, start: Tableau, who: str, target: str = "global", fine: int = 10):
        if start.stochastic:
            raise ValueError(
                f"{who} compares states with the teacher's along the probability flow, and {start.name} adds noise on the "
                "way; start from a deterministic table (eta=0, tau=0), or take a method that compares ends"
            )
        if start.elementwise:
            raise ValueError(
                f"{who} fits weights that all elements share, and {start.name} has one for each; take a scalar table"
            )
        if target not in ("global", "local"):
            raise ValueError(f'{who}: `target` must be "global" or "local"; got {target!r}')
        whole("fine", fine, hint="It counts steps of dpmpp_3m")
        self.task, self.who, self.target, self.fine = task, who, target, fine
        self.table = widened(start, start.nfe)
        calls = Nodes(*(column[:-1] for column in start.nodes))
        self.p, self.q = convert(task.problem.prediction, start.forms, calls)
        ends = np.cumsum(start.groups)
        self.ends = np.isin(np.arange(1, start.nfe + 1), ends)  # rows that end a step

    @cached_property
    def ways(self) -> list[Way]:
        """Every part at the beginning."""
        pieces = self.task.problem.pieces
        return [self._way(piece) for part in self.task.train_parts() for piece in pieces(part)]

    def _way(self, part: Part) -> Way:
        wide = torch.float64 if part.x_T.dtype == torch.float64 else torch.float32
        state = first_state(self.table, part.x_T.to("cpu", wide))
        return Way(part, state.carry, state.input, state.input)

    @torch.no_grad()
    def call(self, k: int) -> None:
        """The network's outputs at row k, as m_k."""
        self.task.problem.spent += sum(len(way.part.seeds) for way in self.ways)
        self.task.problem.threads.map(partial(self._called, k), self.ways)

    def _called(self, k: int, way: Way) -> None:
        output = self.asked(k, way).to("cpu", way.input.dtype)
        way.outputs.insert(0, float(self.p[k]) * way.input + float(self.q[k]) * output)

    def asked(self, k: int, way: Way) -> Tensor:
        """What the network says of a part in row k."""
        x = way.input.to(way.part.x_T.device)
        tau = torch.tensor(self.table.model_times[k], dtype=time_dtype(x.dtype), device=x.device)
        return way.part.denoiser.call(x, tau)

    def finished(self, table: Tableau) -> Tableau:
        """A table with these rows, and with what else was fitted on the way."""
        return table

    @torch.no_grad()
    def products(self, k: int, lines: Array, regressors: Array) -> Products:
        """Of `regressors` (n, <= k + 1), sums of m_k, m_{k-1}, ..., and of what `lines` (2, R) leave to the target."""
        found: list[tuple[Tensor, ...]] = []
        for way in self.ways:
            target = self._target(way, k)
            for rows in _chunks(len(way.part.seeds), way.input[0].numel() * (self.table.nfe + 4)):
                registers = torch.stack([r[rows] for r in way.registers(self.table.constant)]).double().flatten(2)
                missing = target[rows].double().flatten(1) - self._line(lines[INPUT], k, registers)
                own = torch.tensordot(torch.from_numpy(regressors), registers[M : M + regressors.shape[1]], 1)
                found.append(
                    (torch.einsum("isd,jsd->sij", own, own), torch.einsum("isd,sd->si", own, missing),
                     missing.square().sum(1), registers[M].square().sum(1))
                )  # fmt: skip
        return Products(*(torch.cat(part).numpy() for part in zip(*found, strict=True)))

    def _line(self, line: Array, k: int, registers: Tensor) -> Tensor:
        """A line of W on registers [carry, input, m_k .. m_0, const]."""
        used = [*range(M + k + 1), *([-1] * self.table.constant)]
        return torch.tensordot(torch.from_numpy(line[used]).to(registers), registers, 1)

    def _target(self, way: Way, k: int) -> Tensor:
        """Where the samples should be after row k: the teacher's state, or where its solver takes the student's own."""
        s, t = (float(self.table.times[i]) for i in (k, k + 1))
        if self.target == "global":
            return self.task.teacher.path(way.part).at(t).cpu()
        s = float(self.table.times[k + 1 - self._calls(k)])
        schedule = self.table.schedule
        axis = Coordinate(schedule, s, t)
        times = axis.t(np.linspace(axis.c(s), axis.c(t), self.fine + 1))
        times[[0, -1]] = s, t
        fine = build("dpmpp_3m", schedule, None, times, lower_order_final=False)
        own = Part(way.part.seeds, way.part.denoiser, way.begin.to(way.part.x_T.device))
        return self.task.problem.draw(fine, own).cpu()

    def _calls(self, k: int) -> int:
        """Calls of the step that row k ends."""
        return int(self.table.groups[int(np.searchsorted(np.cumsum(self.table.groups), k + 1))])

    @torch.no_grad()
    def advance(self, k: int, lines: Array) -> None:
        """Every sample after row k, with these lines."""
        for way in self.ways:
            registers = way.registers(self.table.constant)
            way.carry, way.input = (self._line(line, k, registers) for line in lines)
            if self.ends[k]:
                way.begin = way.input


def _chunks(count: int, width: int) -> Iterator[slice]:
    size = max(1, CHUNK // max(1, width))
    return (slice(i, i + size) for i in range(0, count, size))
