"""Guidance is a shift of predicted x0: the one place where a denoiser becomes a guided one.

    D' = D + delta(x, t),    the output moves with it:    o' = o + delta / q    where    D = p x + q o

so that a guided denoiser predicts what the network predicts, on its schedule, and every solver, grid and learned table
plays it. A score that gains grad log l is D' = D + (sigma^2 / alpha) grad log l (Tweedie), whatever the solver and the
number of steps. A published correction d of the state *between* steps is the shift d / B, with B the weight of x0 in
the row's next state: the same step where the row reads one output, and no harm to those that read several.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.per_sample import column, wide
from fewstep.samplers.schedule.base import Nodes
from fewstep.samplers.schedule.outputs import convert, form_pair

Level = float | Tensor  # a number, or one a sample (B, 1, ...)
TINY = 1e-8  # of alpha: at pure noise the network's Jacobian says nothing


class Guided(Denoiser):
    """A denoiser with a shift of its predicted x0.

    Args:
        inner: what is guided. shift: f(call: Call) -> delta, of x's shape. gradient: whether it differentiates the network,
            by call.pull; such a shift is left out at pure noise (alpha = 0), where x says nothing about x0.

    `nfe` counts its calls, `inner.nfe` those of the network. In a graph of the caller's, the shift is differentiated too.
    """

    def __init__(self, inner: Denoiser, shift: Callable[[Call], Tensor], gradient: bool = False):
        check_denoiser(inner)
        super().__init__(inner.call, inner.schedule, inner.prediction, inner.vector_time, inner.field)
        self.inner, self.shift, self.gradient = inner, shift, gradient
        self.two_times, self.asks_rows = inner.two_times, True

    def call(self, x: Tensor, tau: Tensor, step: Any = None) -> Tensor:
        """The guided output, in x's shape; float32 at least."""
        if not torch.compiler.is_compiling():
            self.nfe += 1
        call = Call(self.inner, x, tau, step, self.gradient)
        if self.gradient and call.blind:
            return call.output
        output = call.output + (1.0 / call.q) * self.shift(call)
        return output if call.outside else output.detach()


class Call:
    """What guidance sees of one call: x (B, *shape), the network's output, and where the state is.

    alpha, sigma: of the state, float64 numbers, or (B, 1, ...) where samples have times of their own. x0: predicted,
    float32 at least. outside: whether the caller differentiates.
    """

    def __init__(self, inner: Denoiser, x: Tensor, tau: Tensor, step: Any = None, gradient: bool = False):
        self.inner, self.tau, self.step, self.outside = inner, tau, step, torch.is_grad_enabled()
        self.x = x if self.outside and x.requires_grad else x.detach()
        if gradient and not self.x.requires_grad:
            self.x = self.x.clone().requires_grad_()
        with torch.set_grad_enabled(gradient or self.outside):
            self.output = wide(inner.call(self.x, tau, step))
            self.x0 = self.p * wide(self.x) + self.q * self.output
        if gradient and not self.output.requires_grad:
            raise ValueError(
                "this guidance differentiates the network, and its output has no gradient: call it outside "
                "torch.inference_mode, with a network that does not detach; mpgd, dds and dreamguider need no gradient"
            )

    @cached_property
    def nodes(self) -> Nodes:
        """Where the state is: of the row that asks, else of the time that the network is shown."""
        table = getattr(self.step, "tableau", None)
        if table is not None:
            return Nodes(*(column[self.step.index : self.step.index + 1] for column in table.nodes))
        schedule = self.inner.schedule
        times = schedule.time_of_model(np.atleast_1d(self.tau.detach().cpu().double().numpy()))
        return Nodes(*(np.atleast_1d(column) for column in schedule.nodes(times)))

    def _level(self, values: Any) -> Any:
        values = np.asarray(values, np.float64)
        if values.size == 1:
            return float(values.flat[0])
        return column(values, wide(self.x))

    @cached_property
    def alpha(self) -> Any:
        return self._level(self.nodes.alpha)

    @cached_property
    def sigma(self) -> Any:
        return self._level(self.nodes.sigma)

    @cached_property
    def _x0(self) -> tuple[Any, Any]:
        p, q = convert(self.inner.prediction, ["x0"] * len(self.nodes.t), self.nodes)
        return self._level(p), self._level(q)

    @property
    def p(self) -> Any:
        """Weight of x in x0 = p x + q output."""
        return self._x0[0]

    @property
    def q(self) -> Any:
        """Weight of the output in x0 = p x + q output."""
        return self._x0[1]

    @property
    def rho(self) -> Any:
        """sigma / alpha, EDM's sigma, whatever the schedule; infinite at pure noise."""
        return self._level(self.nodes.rho)

    @property
    def blind(self) -> bool:
        """Whether all samples are pure noise."""
        return bool((self.nodes.alpha < TINY * self.nodes.sigma).all())

    @property
    def tweedie(self) -> Any:
        """sigma^2 / alpha: a gain l of the score moves x0 by it times l; J times it is the covariance of x0 given x."""
        return self._level(
            np.divide(self.nodes.sigma**2, self.nodes.alpha, where=self.nodes.alpha > 0, out=0 * self.nodes.t)
        )

    def spread(self, prior_std: float = 1.0) -> Any:
        """Variance of x0 given x for data of independent N(., prior_std^2): sigma^2 s^2 / (sigma^2 + alpha^2 s^2)."""
        a, s = self.nodes.alpha, self.nodes.sigma
        return self._level((s * prior_std) ** 2 / (s**2 + (a * prior_std) ** 2))

    def pull(self, v: Tensor) -> Tensor:
        """J^T v, with J = d x0 / d x: one vector-Jacobian product of the network. C J^T v where the noise is a field."""
        scale: Tensor | float = 1.0
        if self.x.dtype in (torch.float16, torch.bfloat16):  # small cotangents vanish there
            largest = v.detach().abs().amax(tuple(range(1, v.ndim)), keepdim=True)
            scale = torch.where(largest > 0, largest, 1.0).log2().round().exp2()
        kept = {"retain_graph": True, "create_graph": self.outside}
        (g,) = torch.autograd.grad(self.x0, self.x, (v / scale).to(self.x0), **kept)
        return self.raised(wide(g) * scale)

    def raised(self, g: Tensor) -> Tensor:
        """C g of a gradient in x: what moves the state; g itself where the noise is white."""
        return g if self.inner.field is None else self.inner.field.covariance(g)

    @cached_property
    def weight(self) -> float:
        """B: what a unit of predicted x0 adds to the row's next state. ValueError where no row asks, or it reads none."""
        table = getattr(self.step, "tableau", None)
        if table is None:
            raise ValueError(
                "the published form shifts the state between two rows of a table, and this call comes from none (a driver, "
                "or a call of the denoiser itself): leave `published` away"
            )
        if table.elementwise:
            raise ValueError(f"{table.name} weighs elements differently: leave `published` away")
        A, E = form_pair(table.forms[self.step.index])
        k, alpha, sigma = self.step.index, float(self.nodes.alpha[0]), float(self.nodes.sigma[0])
        weight = float(table.W[k, 1, 2]) * (float(A) - float(E) * alpha / sigma)
        if abs(weight) < TINY:
            raise ValueError(f"row {k} of {table.name} does not read its own output: leave `published` away")
        return weight

    @property
    def gain(self) -> float:
        """alpha' / B: a shift times it enters the next state as alpha' delta, which leaves the predicted noise as it was."""
        weight = self.weight
        return float(self.step.tableau.nodes.alpha[self.step.index + 1]) / weight


def check_denoiser(denoiser: Any, name: str = "denoiser") -> None:
    """ValueError for what guidance cannot take."""
    if not isinstance(denoiser, Denoiser):
        raise ValueError(
            f"`{name}` must be a Denoiser; got {type(denoiser).__name__}. Denoiser.from_pipeline makes one"
        )
    if denoiser.schedule.has_mean or denoiser.schedule.kind == "two-sided":
        raise ValueError(
            f"guidance has no form on {denoiser.schedule.kind} schedules: take a VP, VE, EDM or flow schedule"
        )
