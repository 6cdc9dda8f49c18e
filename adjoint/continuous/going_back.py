"""Going back along the sample's path with a plan of `plan.py`: two sums a network call."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.adjoint.continuous.plan import Call, Plan, Terms
from fewstep.adjoint.exact.rows import Network, Rows, pulled
from fewstep.adjoint.exact.sweep import check_repeatable, collect, finite
from fewstep.samplers.noise.draws import Noise
from fewstep.samplers.run.denoiser import clock
from fewstep.samplers.run.step import Post, State
from fewstep.samplers.schedule.base import Nodes
from fewstep.samplers.schedule.outputs import convert, mean_weight


@dataclass(frozen=True, eq=False)
class Point:
    """A call of the plan on the device: m = p x + q o + r mu, where `post` acts on predicted x0 in between."""

    call: Call
    tau: Tensor
    to_m: tuple[float, ...]
    to_x0: tuple[float, ...]
    network: Network
    mu: Tensor | None
    post: Post | None

    def pull(self, x: Tensor, w: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, Tensor, Sequence[Tensor | None]]:
        """(m, (dm/dx)^T w, (dm/d leaf)^T w for every leaf) at x: one network call and one vector-Jacobian product."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            output = self.network(self.call.row, x, self.tau).to(x.dtype)
            if self.post is not None:
                output = self.post(self._mix(self.to_x0, x, output))
            m = self._mix(self.to_m, x, output)
        to_x, *to_leaves = pulled(self.network, [m], [x, *leaves], [w])
        return m.detach(), torch.zeros_like(w) if to_x is None else to_x, to_leaves

    def _mix(self, weights: tuple[float, ...], x: Tensor, output: Tensor) -> Tensor:
        p, q, r = weights
        m = p * x + q * output
        return m if self.mu is None else m + r * self.mu


def bind(calls: Sequence[Call], run: Any, network: Network, x: Tensor, mu: Tensor | None) -> list[Point]:
    """The calls with their conversions in float64 on the host, and their times in one transfer."""
    schedule, source = run.denoiser.schedule, "sample" if run.post else run.denoiser.prediction
    nodes = Nodes(*(np.array(v) for v in zip(*(call.node for call in calls), strict=True)))
    taus = torch.tensor(schedule.model_time(nodes.t), dtype=torch.float64).to(x.device, clock(x.dtype)).unbind()

    def weights(prediction: Any, forms: list[Any]) -> list[tuple[float, ...]]:
        p, q = convert(prediction, forms, nodes)
        r = np.zeros_like(p) if mu is None else mean_weight(p, schedule.beta(nodes.t))
        return [tuple(map(float, row)) for row in zip(p, q, r, strict=True)]

    to_x0 = weights(run.denoiser.prediction, ["x0"] * len(calls)) if run.post else [(0.0, 1.0, 0.0)] * len(calls)
    to_m = weights(source, [call.form for call in calls])
    return [Point(*parts, network, mu, run.post) for parts in zip(calls, taus, to_m, to_x0, strict=True)]


@dataclass(frozen=True, eq=False)
class Course:
    """What a way back needs to know."""

    plan: Plan
    points: list[Point]
    network: Network
    noise: Noise
    mu: Tensor | None
    leaves: tuple[Tensor, ...]
    versions: tuple[int, ...]
    accumulate: bool

    def backward(self, kept: Mapping[int, Tensor], gradient: Tensor, totals: list[Tensor | None]) -> Tensor:
        """dL/dx at the noise end from that at the sample."""
        plan, points = self.plan, list(self.points)
        if plan.into:
            gradient = self._end(points.pop(0), kept, gradient, totals)
        out = points.pop() if plan.out else None
        if points:
            gradient = self._march(points, kept, gradient, totals)
        return self._end(out, kept, gradient, totals) if out else gradient

    def _end(self, point: Point, kept: Mapping[int, Tensor], g: Tensor, totals: list[Tensor | None]) -> Tensor:
        """A g + B (d x0/dx)^T g: the step of first order into sigma = 0 or out of alpha = 0."""
        A, B = point.call.weights
        _, to_x, to_leaves = point.pull(kept[point.call.reached or 0], g, self.leaves)
        collect(self.leaves, self.accumulate, totals, to_leaves, point.call.leaf)
        return torch.add(A * g, to_x, alpha=B)

    def _march(self, points: list[Point], kept: Mapping[int, Tensor], g: Tensor, totals: list[Tensor | None]) -> Tensor:
        """The equation of (y, p) over the steps that have a rho."""
        start = points[0].call.node
        end = self.plan.nodes[points[-1].call.reached or 0]
        base = self._scaled(kept[max(kept)], start.alpha), start.alpha * g
        y, p = base
        slopes: list[tuple[Tensor, Tensor]] = []
        for point in points:
            call, alpha = point.call, point.call.node.alpha
            eps, to_x, to_leaves = point.pull(self._unscaled(y, alpha), p, self.leaves)
            collect(self.leaves, self.accumulate, totals, to_leaves, call.leaf)
            slopes = [(eps, alpha * to_x), *slopes]
            y, p = base
            for w, (slope, G) in zip(call.weights, slopes, strict=False):
                y, p = torch.add(y, slope, alpha=-w), torch.add(p, G, alpha=w)
            y = self._without(y, call.noise)
            if call.reached is not None:
                y = self._scaled(kept[call.reached], self.plan.nodes[call.reached].alpha) if call.reached in kept else y
                base, slopes = (y, p), slopes[:1]
        return p / end.alpha

    def _without(self, y: Tensor, noise: Terms) -> Tensor:
        """y less the noise that the sample was given."""
        for draw, w in noise:
            y = torch.add(y, self.noise(draw, y), alpha=-w)
        return y

    def _scaled(self, x: Tensor, alpha: float) -> Tensor:
        return (x if self.mu is None else x - self.mu) / alpha

    def _unscaled(self, y: Tensor, alpha: float) -> Tensor:
        return alpha * y if self.mu is None else alpha * y + self.mu


@torch.no_grad()
def path(rows: Rows, state: State, keeps: Collection[int]) -> tuple[Tensor, list[Tensor]]:
    """(the sample, the states before the rows that are to be kept, or after the last)."""
    kept = []
    for k in range(len(rows)):
        if k in keeps:
            kept.append(state.input)
        state = rows.advance(k, state)
    return state.input, kept + ([state.input] if len(rows) in keeps else [])


class Continuous(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, course: Course, played: tuple[Tensor, list[Tensor]], x: Tensor, *leaves: Tensor) -> Tensor:
        sample, kept = played
        ctx.course = course
        ctx.save_for_backward(*kept)
        return sample

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Any, ...]:
        course: Course = ctx.course
        check_repeatable(course.leaves, course.versions)
        kept = dict(zip(course.plan.keeps.values(), (v.detach() for v in ctx.saved_tensors), strict=True))
        totals: list[Tensor | None] = [None] * len(course.leaves)
        to_x = finite(course.backward(kept, gradient[0], totals))
        return (None, None, to_x, *([None] * len(totals) if course.accumulate else totals))
