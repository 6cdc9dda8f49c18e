"""The numbers of a table as tensors, so that gradients flow to its weights, network times and grid.

m_k            = p_k input + q_k network(input, tau_k)
[carry, input] = W_k [carry, input, m_k, m_{k-1}, ..., z, const]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.building.compiling import build
from fewstep.samplers.run.checks import require_uncached
from fewstep.samplers.run.compiled import Compiled
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.free_row import Coefficients
from fewstep.samplers.schedule.base import Array, Nodes
from fewstep.samplers.schedule.outputs import convert
from fewstep.samplers.table.tableau import Tableau


@dataclass(frozen=True, eq=False)
class Free:
    """A table whose numbers are tensors, float64: W (nfe, 2, R), p and q (nfe,), tau (nfe,).

    `adjoint.sample(..., solver=free)` plays them as they are, and gradients flow to each that requires one, or on to what it
    was computed from. `dataclasses.replace` puts others in place.
    """

    tableau: Tableau
    W: Tensor
    p: Tensor
    q: Tensor
    tau: Tensor
    filters: Tensor | None = None

    def __post_init__(self) -> None:
        require_uncached(self.tableau)
        n = self.tableau.nfe
        if self.filters is None and self.tableau.filters is not None:
            object.__setattr__(self, "filters", torch.from_numpy(self.tableau.filters.copy()))
        for name, shape in (("W", self.tableau.W.shape), ("p", (n,)), ("q", (n,)), ("tau", (n,))):
            value = getattr(self, name)
            if tuple(value.shape)[: len(shape)] != tuple(shape) or value.dtype != torch.float64:
                raise ValueError(
                    f"`{name}` must be float64 of shape {tuple(shape)}; got {value.dtype} {tuple(value.shape)}"
                )

    @property
    def coefficients(self) -> Coefficients:
        """The tensors together."""
        return Coefficients(self.W, self.p, self.q, self.tau, self.filters)

    def table(self) -> Tableau:
        """The table with these weights and network times; p and q are those of its nodes."""
        W, tau = (v.detach().cpu().numpy().copy() for v in (self.W, self.tau))
        filters = None if self.filters is None else self.filters.detach().cpu().numpy().copy()
        return replace(self.tableau, conserves="", W=W, model_times=tau, filters=filters)


def free(denoiser: Denoiser, solver: str, nfe: int | None = None, grid: Any = None, **options: Any) -> Free:
    """A solver's numbers as tensors that require a gradient; of `grid` if that is a tensor of times which does.

        t = torch.tensor(times, requires_grad=True)
        x0 = adjoint.sample(denoiser, x_T, adjoint.free(denoiser, "unipc", grid=t))

    Where times are a tensor, W, p, q and tau are functions of them, whose derivative is a central difference of tables in
    float64 (about 1e-8 relative); the two ends are held fixed and get zero. solver, nfe, grid, options: as in `build`.

    Raises: ValueError as `build` does.
    """
    if not isinstance(grid, torch.Tensor):
        table = build(solver, denoiser.schedule, nfe, grid, **options)
        W, p, q, tau = (torch.from_numpy(v).requires_grad_() for v in _numbers(denoiser, table))
        return Free(table, W, p, q, tau)
    times = grid.detach().cpu().double().numpy()
    table = build(solver, denoiser.schedule, nfe, times, **options)
    shapes = [v.shape for v in _numbers(denoiser, table)]

    def function(t: Array) -> Array:
        parts = _numbers(denoiser, build(solver, denoiser.schedule, nfe, t, **options))
        return np.concatenate([v.ravel() for v in parts])

    flat: Tensor = Compiled.apply(grid.cpu().double(), function)  # type: ignore[no-untyped-call]
    parts = flat.split([int(np.prod(s)) for s in shapes])
    return Free(table, *(v.view(s) for v, s in zip(parts, shapes, strict=True)))


def _numbers(denoiser: Denoiser, table: Tableau) -> Sequence[Array]:
    """W, p, q and tau of a table."""
    calls = Nodes(*(column[:-1] for column in table.nodes))
    p, q = convert(denoiser.prediction, table.forms, calls)
    return [table.W.copy(), p, q, table.model_times.copy()]
