"""One denoiser of the score S = sum_k b_k s_k of several, and what the weights of its particles are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, inf, isclose
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.samplers.guidance.composed_denoiser import At, alike, numbers
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.ownership import require_fresh, require_kept, version
from fewstep.samplers.run.per_sample import wide
from fewstep.samplers.schedule.base import Nodes
from fewstep.samplers.schedule.outputs import convert

Watch = Callable[[Tensor, Any], float]


class Lift(NamedTuple):
    """A reward at a call: beta r (B,), its gradient in x, and x0 and eps of S, which it does not move."""

    value: Tensor
    pull: Tensor
    x0: Tensor
    eps: Tensor


class Seen(NamedTuple):
    """What a call saw: the rate of log w in lam, (B,), and the reward if there is one."""

    rate: Tensor
    lift: Lift | None = None


class Combination(Denoiser):
    """The denoiser of S = sum_k b_k s_k, and of a reward's share of the drift, z / (1 + z) beta grad r.

    It predicts what all components predict where exponents sum to 1, else eps. `watch(x, step)` is asked for z before the
    networks are called, `seen` is what the latest call has for the weights.
    """

    def __init__(self, denoisers: Any, exponents: Any, reward: Any, on: str, ramp: Callable[[float], float]):
        parts = alike([denoisers] if isinstance(denoisers, Denoiser) else denoisers)
        b = numbers("exponents", [1.0] * len(parts) if exponents is None else exponents, len(parts))
        first = parts[0]
        for k, one in enumerate(parts):
            if getattr(one, "field", None) is not None:
                raise ValueError(f"weights are known for white noise only; denoisers[{k}] has a field of its own")
        if first.schedule.jump_scale is not None:
            raise ValueError(f"the noise of {first.schedule!r} is not Gaussian: take a VP, VE, EDM or flow schedule")
        self.total = sum(b)
        if not self.total > 0:
            raise ValueError(f"exponents must sum to more than 0, for the target to have a law at pure noise; got {b}")
        if on not in ("x0", "x"):
            raise ValueError(f'`on` must be "x0" or "x"; got {on!r}')
        if not all(f is None or callable(f) for f in (reward, ramp)):
            raise ValueError("`reward` and `ramp` must be functions, of a batch and of lam")
        self.normalised = isclose(self.total, 1.0, rel_tol=1e-12)
        self.same = self.normalised and all(one.prediction == first.prediction for one in parts)
        super().__init__(self.call, first.schedule, first.prediction if self.same else "epsilon")
        self.parts, self.exponents, self.reward, self.on, self.ramp = parts, b, reward, on, ramp
        self.watch: Watch = lambda x, step: 1.0
        self.seen: Seen | None = None

    def call(self, x: Tensor, tau: Tensor, step: Any = None) -> Tensor:
        """The output at x, in float32 at least."""
        z, at = self.watch(x, step), At(self, x, tau, step).nodes
        if len(at.t) > 1:
            raise ValueError("a combination of denoisers takes one time for the whole batch: its solvers are tables")
        self.nfe += 1
        through = self.reward is not None and self.on == "x0"
        with torch.set_grad_enabled(through or torch.is_grad_enabled()):
            x = x.detach().requires_grad_() if through else x
            output, eps = self._combined(x, tau, step, at)
        seen = Seen(growth([e.detach() for e in eps], self.exponents))
        if self.reward is not None:
            p, q = (float(v[0]) for v in convert(self.prediction, ["x0"], at))
            x0 = p * wide(x) + q * output
            value, pull = self.rewarded(x, x0 if through else None, float(at.lam[0]))
            E = sum(b * e for b, e in zip(self.exponents, eps, strict=True))
            seen = seen._replace(lift=Lift(value, pull, x0.detach(), torch.as_tensor(E).detach()))
            output = output.detach()
            if at.alpha[0] > 0:  # a gain l of the score moves x0 by (sigma^2 / alpha) l
                output = output + z / (1 + z) * float(at.sigma[0] ** 2 / at.alpha[0]) / q * pull
        self.seen = seen
        return output

    def rewarded(self, x: Tensor, x0: Tensor | None, lam: float) -> tuple[Tensor, Tensor]:
        """beta r at x0, a function of x, or else at x itself, (B,), and its gradient in x; zero at pure noise."""
        assert self.reward is not None
        with torch.enable_grad():
            x = x.detach().requires_grad_() if x0 is None else x
            value = self.reward(x if x0 is None else x0)
        if not isinstance(value, Tensor) or value.shape != x.shape[:1] or not value.requires_grad:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"`reward` must give one differentiable number a sample, ({x.shape[0]},); got {got}")
        (g,) = torch.autograd.grad(value.sum(), x)
        beta = 0.0 if lam == -inf else float(self.ramp(lam))
        return beta * wide(value.detach()), beta * wide(g)

    def _combined(self, x: Tensor, tau: Tensor, step: Any, at: Nodes) -> tuple[Tensor, list[Tensor]]:
        """The output of the combination, and eps of every component."""
        outputs: list[Tensor] = []
        versions: list[int | None] = []
        for one in self.parts:
            output = wide(one.call(x, tau, step))
            require_kept(output, outputs, versions)
            require_fresh(output, outputs)
            outputs, versions = [*outputs, output], [*versions, version(output)]
        eps = []
        for one, o in zip(self.parts, outputs, strict=True):
            p, q = (float(v[0]) for v in convert(one.prediction, ["eps"], at))
            eps.append(p * wide(x) + q * o if p else q * o)
        terms = [b * m for b, m in zip(self.exponents, outputs if self.same else eps, strict=True)]
        return sum(terms[1:], terms[0]), eps


def growth(eps: Sequence[Tensor], b: Sequence[float]) -> Tensor:
    """|sum b_k eps_k|^2 - sum b_k |eps_k|^2 of every sample, (B,), by differences, so that what is equal cancels."""
    first, total = eps[0], sum(b)
    gaps = [e - first for e in eps[1:]]
    lead = sum((w * g for w, g in zip(b[1:], gaps, strict=True)), torch.zeros_like(first))
    rate = lead.square() + (total - 1) * first * (total * first + 2 * lead)
    return sum((r for r in (-w * g.square() for w, g in zip(b[1:], gaps, strict=True))), rate).flatten(1).sum(1)


def known_share(lam: float) -> float:
    """alpha^2 / (alpha^2 + sigma^2): 0 at pure noise, 1 at the sample."""
    return 1.0 / (1.0 + exp(min(-2.0 * lam, 700.0)))
