"""What a gradient through sampling will cost: the run rehearsed with a network that does nothing, on a handful of numbers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.exact.kept_states import recall_for
from fewstep.adjoint.gradient.cost_report import Cost, CostTable
from fewstep.adjoint.gradient.free_table import Free
from fewstep.adjoint.gradient.sampling import METHODS, sample
from fewstep.adjoint.gradient.saved_tensors import saving, storages
from fewstep.checks import unknown, whole
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.choosing import Named, chosen
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.step import Post
from fewstep.samplers.sampling.asked_table import learned_table, table_for
from fewstep.samplers.table.tableau import Tableau

PROBE = 61  # numbers of the rehearsed sample: more than a row has weights, so that a latent is known by its size
OF_NO_COST = ("params", "cond", "generator", "noise_seeds", "noise", "accumulate", "check", "z", "mu")  # in `sample`


def cost(
    denoiser: Denoiser,
    shape: Sequence[int],
    solver: Any = "dpmpp_2m",
    nfe: int | None = None,
    method: str | None = "checkpoint",
    *,
    dtype: torch.dtype = torch.float32,
    measure: bool = False,
    device: torch.device | str = "cpu",
    grid: Any = None,
    t_start: float | None = None,
    t_end: float | None = None,
    guidance: float | None = None,
    post: Post | None = None,
    slots: int | None = None,
    offload: bool = False,
    last: int | None = None,
    method_options: Mapping[str, Any] | None = None,
    **as_in_sample: Any,
) -> Any:
    """What a gradient through sampling costs, before any of it is paid: a `Cost`, or a `CostTable` of all methods.

        print(adjoint.cost(denoiser, (4, 4, 64, 64), "dpmpp_2m", 20, method=None))

    The run is rehearsed with a network that does nothing, on a sample of a handful of numbers, so that it counts what
    really happens, in milliseconds. What the network needs is the network's: bytes are those of latents, and beside them
    the activations of one call are held ("direct": of all).

    Args:
        denoiser: its network is not called, unless `measure`. shape: of x_T, (B, *shape), its first number the batch.
        method: as in `adjoint.sample`; None: each by its defaults, with what it says where it refuses this solver.
        dtype: of x_T; states of half precision are kept in float32. measure: also make two network calls of this shape, on
            `device`, and count the memory that their gradient would need. Others as in `adjoint.sample`.

    Raises: ValueError as `adjoint.sample`; a solver that chooses its steps as it goes, of which only the run can tell.
    """
    if method is not None and method not in METHODS:
        raise unknown("method", method, METHODS)
    if last == "random":
        raise ValueError('`last`="random" draws how far the way back goes: ask for the cost of a number of rows')
    shape = tuple(whole("shape", n, hint="It is that of x_T, (B, *shape)") for n in shape)
    plays = chosen(solver.table() if isinstance(solver, Free) else solver)
    if isinstance(plays, Named) and plays.entry.kind == "driver":
        raise ValueError(
            f"{plays.entry.name!r} chooses its steps as it goes: its run tells what it cost, and nothing before it does"
        )
    if isinstance(plays, Artefact):
        plays, nfe = learned_table(denoiser, plays, torch.empty(shape, device="meta"), nfe, guidance), None
    ends = {"nfe": nfe, "grid": grid, "t_start": t_start, "t_end": t_end}
    options = {name: value for name, value in as_in_sample.items() if name not in OF_NO_COST}
    table = table_for(denoiser, plays, ends, options)
    played = solver if isinstance(solver, Free) else table
    call_bytes = _activations(denoiser, shape, dtype, device) if measure else None
    run = _Rehearsal(denoiser, table, played, shape, dtype, offload, call_bytes)
    if method is not None:
        return run.rehearsed(method, last=last, post=post, slots=slots, method_options=method_options)
    costs, refused = {}, {}
    for name in METHODS:
        try:
            costs[name] = run.rehearsed(name, last=last, post=post)
        except ValueError as error:
            refused[name] = str(error)
    return CostTable(costs, refused)


@dataclass(frozen=True, eq=False)
class _Rehearsal:
    """A run that is rehearsed. played: the table, or its numbers as tensors."""

    denoiser: Denoiser
    table: Tableau
    played: Tableau | Free
    shape: tuple[int, ...]
    dtype: torch.dtype
    offload: bool
    call_bytes: int | None

    def rehearsed(self, method: str, last: int | None = None, slots: int | None = None, **how: Any) -> Cost:
        """The cost of one method."""
        table, network = self.table, _Nothing()
        actor = Denoiser(network, self.denoiser.schedule, self.denoiser.prediction)
        small = (1, *self.shape[1:]) if table.elementwise else (*(1 for _ in self.shape[1:]), PROBE)
        x_T = torch.zeros(small, dtype=self.dtype, requires_grad=True)
        mu = torch.zeros_like(x_T) if table.schedule.has_mean else None
        how = {**how, "method": method, "last": last, "slots": slots, "mu": mu}
        with warnings.catch_warnings(), torch.enable_grad(), saving() as saved:
            warnings.simplefilter("ignore")  # the run itself will say it
            x0 = sample(actor, x_T, self.played, noise_seeds=[0] * len(x_T), check="none", **how)
            kept = [nbytes for nbytes, shape in storages(saved).values() if shape == x_T.shape]
            torch.autograd.grad(x0.sum(), [x_T, network.leaf], allow_unused=True)
        rows = table.nfe if last is None else min(last, table.nfe)
        recall = recall_for(method, slots)
        remade = recall.remade(rows) if recall else 0
        state = (2 + min(table.history - 1, rows)) * x_T.to(torch.promote_types(self.dtype, torch.float32)).nbytes
        held = (sum(kept) + remade * state) * math.prod(self.shape) // x_T.numel()
        calls = rows if method == "direct" else 1
        counts = (table.nfe, actor.nfe, network.pulled, len(kept), remade, held, calls)
        return Cost(method, *counts, self.call_bytes, self.offload)


class _Nothing:
    """A network that returns zeros, remembers its input for the way back as networks do, and counts how often that is gone."""

    def __init__(self) -> None:
        self.leaf, self.pulled = torch.zeros((), requires_grad=True), 0

    def __call__(self, x: Tensor, tau: Tensor) -> Tensor:
        found: Tensor = _Zeros.apply(x, tau, self.leaf, self)  # type: ignore[no-untyped-call]
        return found


class _Zeros(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, tau: Tensor, leaf: Tensor, network: _Nothing) -> Tensor:
        ctx.network, ctx.tau = network, tau
        ctx.save_for_backward(x)
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        ctx.network.pulled += 1
        return torch.zeros_like(gradient[0]), torch.zeros_like(ctx.tau), torch.zeros(()), None


def _activations(denoiser: Denoiser, shape: tuple[int, ...], dtype: torch.dtype, device: Any) -> int:
    """Bytes that the graph of one network call holds: what two calls do not have in common, as they have weights."""
    x = torch.zeros(shape, dtype=dtype, device=device, requires_grad=True)
    graphs, held = [], []
    for _ in range(2):
        with torch.enable_grad(), saving() as saved:
            held.append(denoiser(x, denoiser.schedule.t_max))
            graphs.append(storages(saved))
    one, other = graphs
    return sum(nbytes for place, (nbytes, _) in one.items() if place not in other)
