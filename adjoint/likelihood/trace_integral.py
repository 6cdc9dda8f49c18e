"""The probability flow and the trace of its Jacobian along it, integrated from data to noise.

    dl/dr = s tr(dv/dx) = s (p d + q tr(do/dx)),     o the network's output at x,

with p and q those of its prediction type. l is kept for every probe by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.adjoint.likelihood.flow_solvers import State
from fewstep.adjoint.likelihood.probability_flow import ProbabilityFlow
from fewstep.samplers.run.denoiser import clock
from fewstep.samplers.schedule.base import Array

GROUP = 16  # probes pulled back at a time


@dataclass(eq=False)
class Slope:
    """(v, s tr(dv/dx)) at (y, r): one network evaluation and one VJP a probe z (K, B, *shape), or one for each dimension.

    graph: whether results stay differentiable; None finds out whether the network has weights to be learned.
    """

    flow: ProbabilityFlow
    z: Tensor
    exact: bool
    dtype: torch.dtype
    graph: bool | None
    tick: Callable[[], Any]
    nfe: int = 0
    first: State | None = None

    def __call__(self, y: Tensor, r: float) -> State:
        s, p, q, tau = self.flow.at(r)
        x = s * y
        if not (self.graph and x.requires_grad):
            x = x.detach().requires_grad_()
        shown = torch.as_tensor(tau, dtype=clock(self.dtype), device=x.device)
        with torch.enable_grad():
            o = self.flow.denoiser.call(x.to(self.dtype), shown).to(x)
            if self.graph is None:
                self.graph = o.requires_grad and _has_leaves_beside(o, x)
            forms = torch.cat([self._forms(o, x, z) for z in self.z.split(GROUP)])
            trace = p * x[0].numel() + q * (forms.sum(0, keepdim=True) if self.exact else forms)
            out = p * x + q * o, s * trace
        self.nfe += 1
        self.tick()
        out = out if self.graph else (out[0].detach(), out[1].detach())
        self.first = self.first or out
        return out

    def _forms(self, o: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """z' (do/dx) z, (K, B)."""

        def pull(w: Tensor, batched: bool) -> Tensor | None:
            how: Any = {
                "retain_graph": True,
                "create_graph": self.graph,
                "is_grads_batched": batched,
                "allow_unused": True,
            }
            return torch.autograd.grad(o, x, w, **how)[0] if o.requires_grad else None

        try:
            pulled = pull(z, True) if len(z) > 1 else None
        except RuntimeError:  # an operation that vmap does not know
            pulled = None
        rows = [pull(w, False) for w in z] if pulled is None else list(pulled)
        if any(row is None for row in rows):
            raise ValueError(
                "the network's output does not depend on x as far as autograd sees: it detaches x, or runs under no_grad as "
                "diffusers pipelines do. Wrap the network itself, Denoiser(lambda x, t: unet(x, t).sample, schedule)"
            )
        return (torch.stack(rows) * z).flatten(2).sum(2)  # type: ignore[arg-type]


def _has_leaves_beside(o: Tensor, x: Tensor) -> bool:
    """Whether anything but x that requires grad went into o."""
    found, todo = set(), [o.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in found:
            continue
        if getattr(node, "variable", x) is not x:
            return True
        found.add(node)
        todo += [parent for parent, _ in node.next_functions]
    return False


class Part(NamedTuple):
    """log p of every probe (K, B), the latents, evaluations."""

    value: Tensor
    x_T: Tensor
    nfe: int


def integrate(
    flow: ProbabilityFlow, x0: Tensor, z: Tensor, exact: bool, solver: Any, r: Array, tick: Callable[[], Any]
) -> Part:
    """The formula at the head of `likelihood` for one chunk of samples."""
    x = x0.to(torch.float64 if x0.dtype == torch.float64 else torch.float32)
    d, first, last = x[0].numel(), float(r[0]), float(r[-1])
    graph = torch.is_grad_enabled() and (x0.requires_grad or None)
    slope = Slope(flow, z.to(x), exact, x0.dtype, graph, tick)
    y = (1 - first) * x
    rows = 1 if exact else len(z)
    y_T, gain = solver.run(slope, (y, x.new_zeros(rows, len(x))), r)
    s_T = flow.at(last).s
    value = flow.log_prior(s_T * y_T) + d * math.log((1 - first) * s_T) + gain
    if flow.to_clean:
        value = value + _to_clean(y, first, d, slope.first)
    return Part(value, (s_T * y_T).detach(), slope.nfe)


def _to_clean(y: Tensor, r: float, d: int, known: Any) -> Tensor:
    """log p_0 - log p_r at the same x0, by d log p / d(rho^2 / 2) = |score|^2 + div score with score = -eps / rho.

    rho = sigma / alpha and eps = y + (1 - r) v, so that it is -|eps|^2 / 2 + r (d + (1 - r) s tr(dv/dx)) / 2.
    """
    v, trace = known
    return 0.5 * (r * (d + (1 - r) * trace) - (y + (1 - r) * v).square().flatten(1).sum(1))
