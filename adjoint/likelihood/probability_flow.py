"""The probability flow from data to noise with the trace of its Jacobian.

    state (y, l):     dy/dr = v = p x + q o,     dl/dr = s tr(dv/dx) = s (p d + q tr(do/dx)),     x = s y,

with o the network's output at x and p, q those of its prediction type. l is kept for every probe by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fewstep.adjoint.likelihood.flow_solvers import State
from fewstep.samplers.grids.making import check_times, make_grid
from fewstep.samplers.run.denoiser import Denoiser, clock
from fewstep.samplers.schedule.base import Array, NoiseSchedule
from fewstep.samplers.schedule.outputs import convert

GROUP = 16  # probes pulled back at a time
STRUCTURE, NOISE = 1 / 16, 4.0  # of the default grid


class Point(NamedTuple):
    """The flow at one r: s, (p, q) with v = p x + q o, and the network's time."""

    s: float
    p: float
    q: float
    tau: float


class ProbabilityFlow:
    """The path of r between two times of a schedule, and the law at its end."""

    def __init__(self, denoiser: Denoiser, t_start: float | None, t_end: float | None, grid: Any, prior: Any):
        schedule = denoiser.schedule
        if grid is not None and not isinstance(grid, str) and not callable(grid):
            times = check_times(grid, schedule)
            if not times[-1] > 0:
                raise ValueError(
                    "explicit times must end above 0, where the network still knows the noise; got 0 at the end"
                )
            t_start, t_end = (have if t is None else t for t, have in ((t_start, times[0]), (t_end, times[-1])))
        high = schedule.t_max if t_start is None else float(t_start)
        low = schedule.t_min if t_end is None else float(t_end)
        self.to_clean = low == 0
        low = float(schedule.t_min) if self.to_clean else low
        if not 0 < low < high <= schedule.t_max * (1 + 1e-9):
            raise ValueError(
                f"expected 0 <= t_end < t_start <= {schedule.t_max:.6g}, and t_start above t_min = {schedule.t_min:.3g} "
                f"where t_end is 0; got t_start={high:.6g}, t_end={0.0 if self.to_clean else low:.6g}"
            )
        if prior is None and schedule.jump_scale is not None:
            raise ValueError(f"{type(schedule).__name__} does not start from a Gaussian: pass its density as `prior`")
        convert(denoiser.prediction, ["flow"] * 2, schedule.nodes(np.array([high, low])))
        self.denoiser, self.grid, self.prior, self.times = denoiser, grid, prior, (high, low)
        self.std = float(schedule.sigma(high)) if schedule.kind == "ve" else 1.0

    def nodes(self, n: int | None) -> Array:
        """n + 1 rising values of r; the two ends alone for None."""
        times = np.array(self.times)
        if n is not None:
            times = make_grid(stretched if self.grid is None else self.grid, self.denoiser.schedule, n, *self.times)
        return np.asarray(self.denoiser.schedule.nodes(times[::-1]).r)

    def at(self, r: float) -> Point:
        """What the slope needs to know at r."""
        schedule = self.denoiser.schedule
        lam = math.log((1 - r) / r) if r < 1 else -math.inf
        nodes = schedule.nodes(np.clip(np.atleast_1d(schedule.t_of_lam(lam)), *self.times[::-1]))
        (p,), (q,) = convert(self.denoiser.prediction, ["flow"], nodes)
        return Point(float(nodes.S[0]), float(p), float(q), float(schedule.model_time(nodes.t[0])))

    def log_prior(self, x: Tensor) -> Tensor:
        """Log density of x at the noise end, (B,)."""
        if self.prior is None:
            d = x[0].numel()
            return -0.5 * (x / self.std).square().flatten(1).sum(1) - d * math.log(self.std * math.sqrt(2 * math.pi))
        value = self.prior(x)
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"`prior` must map x_T to one log density a sample, ({len(x)},); it returned {what}")
        return value.to(x)


def stretched(schedule: NoiseSchedule, n: int, t_start: float, t_end: float) -> Array:
    """Equidistant in log((r + 1/16) / (4 - r)): of fine grids the most accurate for data with structure of 0.02 to 0.4."""
    first, last = schedule.nodes(np.array([t_start, t_end])).r
    a, b = (math.log((r + STRUCTURE) / (NOISE - r)) for r in (first, last))
    e = np.exp(np.linspace(a, b, n + 1))
    r = np.clip((NOISE * e - STRUCTURE) / (1 + e), last, first)
    with np.errstate(divide="ignore"):
        times = np.asarray(schedule.t_of_lam(np.log1p(-r) - np.log(r)))
    times[0], times[-1] = t_start, t_end
    return times


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
