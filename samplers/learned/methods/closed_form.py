"""Weights by least squares: step by step, along the states that the corrected table itself visits.

Row k of a table takes input_k to input_{k+1}. With outputs m_k, m_{k-1}, ... of the network so far, directions D in which
their weights may move, and the teacher's state x*_{k+1} of the same seed,

    c   = argmin sum over samples of  w |x*_{k+1} - input_{k+1} - sum_i c_i (D_i . m)|^2  +  ridge w |m_k|^2 |c|^2,

delta_k = D c; then the samples go on with the corrected row. One network call a row and sample, no gradients. Outputs
rounded with relative error u move the row by u^2 |m|^2 |c|^2 in mean square: with the ridge u^2 of bfloat16 a weight must
repair more than it would spoil there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch

from fewstep.samplers.artefact.corrections import CARRY, INPUT, M, widened
from fewstep.samplers.building.compiling import build
from fewstep.samplers.learned.playing.arithmetic import corrected, directions, shared_lines
from fewstep.samplers.learned.playing.differentiable import no_noise
from fewstep.samplers.learned.problem.clock import Clock
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.tasks.learner_entry import method
from fewstep.samplers.learned.tasks.task import Task, enough
from fewstep.samplers.run.denoiser import clock as time_dtype
from fewstep.samplers.run.step import first_state
from fewstep.samplers.schedule.base import Array, Nodes
from fewstep.samplers.schedule.outputs import convert
from fewstep.samplers.table.tableau import Tableau

Tensor = torch.Tensor
IIA = "On Accelerating Diffusion-Based Sampling Processes via Improved Integration Approximation; Zhang, Niwa, Kleijn; 2023; arXiv:2304.11328"  # noqa: E501
D_ODE = "Distilling ODE Solvers of Diffusion Models into Smaller Steps; Kim, Tang, Yu; 2023; arXiv:2309.16421"
RIDGE = 2.0**-18  # squared relative rounding error of bfloat16
ROUNDS = 8  # of reweighting
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
        if isinstance(fine, bool) or not isinstance(fine, int) or fine < 1:
            raise ValueError(f"{who}: `fine` must be a whole number of steps, at least 1; got {fine!r}")
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
        state = first_state(self.table, part.x_T.to("cpu", wide), no_noise)
        return Way(part, state.carry, state.input, state.input)

    @torch.no_grad()
    def call(self, k: int) -> None:
        """The network's outputs at row k, as m_k."""
        self.task.problem.threads.map(partial(self._called, k), self.ways)
        self.task.problem.spent += sum(len(way.part.seeds) for way in self.ways)

    def _called(self, k: int, way: Way) -> None:
        x = way.input.to(way.part.x_T.device)
        tau = torch.tensor(self.table.model_times[k], dtype=time_dtype(x.dtype), device=x.device)
        output = way.part.denoiser.call(x, tau).to("cpu", x.dtype)
        way.outputs.insert(0, float(self.p[k]) * way.input + float(self.q[k]) * output)

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
        clock = Clock(schedule, s, t)
        times = clock.t(np.linspace(clock.c(s), clock.c(t), self.fine + 1))
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
        return start
    table = corrected(start, delta, consistent=consistent)
    task.offer(table)
    return table


def _directions(start: Tableau, way: OnPolicy, window: int, consistent: bool) -> list[Array]:
    """In which the weights of each row move; rows inside a step have none."""
    return [directions(start, k, window, consistent) if way.ends[k] else np.zeros((1, 0)) for k in range(start.nfe)]


def _numbers(start: Tableau, way: OnPolicy, window: int, consistent: bool) -> int:
    """How many numbers are fitted."""
    return sum(D.shape[1] for D in _directions(start, way, window, consistent))


@method("iia", learns=("coef",), reference=IIA)
def iia(
    task: Task,
    start: Tableau,
    *,
    window: int | None = None,
    consistent: bool = True,
    ridge: float = RIDGE,
    limit: float = 10.0,
    weights: str = "relative",
    target: str = "global",
    fine: int = 10,
) -> Tableau:
    """Improved integration approximation: the weights of each row by least squares, on the states before it.

    One network call a row and sample, milliseconds of algebra, no gradients.

    Args:
        task: Task. start: deterministic table with scalar weights; one that is corrected already is corrected further.
        window: how many of the newest outputs may change their weights; None for all, or as many as there are training
            samples for. consistent: only so that a constant x0 and eps stay exact. ridge: of the formula above; infinity
            gives `start` back. limit: no weight on an output becomes larger; the ridge is raised where one would.
        weights: "equal" fits mean squares, "relative" mean sizes of what is missing, which few samples cannot own.
        target: "global", the teacher's states of the same seeds, which also repairs what went wrong before; "local", where
            `fine` steps of dpmpp_3m lead from the student's own state, as published (`fine` more calls a row).

    Raises:
        ValueError: an option outside its range, fewer training samples than weights, a table with noise.

    Reference: On Accelerating Diffusion-Based Sampling Processes via Improved Integration Approximation; Zhang, Niwa,
    Kleijn; 2023; arXiv:2304.11328. Robust, held, and with the global target here.
    """
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise ValueError(
            f"iia: `window` must be a whole number of outputs, at least 1, or None for all; got {window!r}"
        )
    if weights not in ("equal", "relative"):
        raise ValueError(f'iia: `weights` must be "equal" or "relative"; got {weights!r}')
    _check(ridge, limit, "iia")
    way = OnPolicy(task, start, "iia", target, fine)
    return fitted(task, start, way, window, consistent, ridge, limit, weights == "relative")


@method("d_ode", learns=("coef",), reference=D_ODE)
def d_ode(
    task: Task, start: Tableau, *, target: str = "local", fine: int = 10, ridge: float = RIDGE, limit: float = 10.0
) -> Tableau:
    """Distilled ODE solver: m'_k = m_k + lambda_k (m_k - m_{k-1}) in the newest term, lambda_k by least squares.

    The case of `iia` with one number a row: window 2, consistent, equal weights; target, fine, ridge and limit as there.

    Raises:
        ValueError: an option outside its range, fewer training samples than steps, a table with noise.

    Reference: Distilling ODE Solvers of Diffusion Models into Smaller Steps; Kim, Tang, Yu; 2023; arXiv:2309.16421.
    """
    _check(ridge, limit, "d_ode")
    way = OnPolicy(task, start, "d_ode", target, fine)
    return fitted(task, start, way, 2, True, ridge, limit, robust=False)


def _check(ridge: float, limit: float, who: str) -> None:
    if not ridge >= 0:
        raise ValueError(f"{who}: `ridge` must be a number from 0 (none) to infinity (no change); got {ridge!r}")
    if not limit > 0:
        raise ValueError(f"{who}: `limit` is the largest weight allowed, above 0, e.g. 10; got {limit!r}")
