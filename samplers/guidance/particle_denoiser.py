"""One denoiser of the score S = sum_k b_k s_k of several, and what the weights of its particles are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, isclose
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fewstep.samplers.guidance.blocks_of_state import Parts
from fewstep.samplers.guidance.composed_denoiser import At, alike, numbers
from fewstep.samplers.guidance.particle_reward import Tilt
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.ownership import require_fresh, require_kept, version
from fewstep.samplers.run.per_sample import wide
from fewstep.samplers.schedule.base import Nodes
from fewstep.samplers.schedule.outputs import convert

Watch = Callable[[Tensor, Any], float]


class Lift(NamedTuple):
    """A reward at a call: beta r (B,), its gradient in x (None of a black box), and x0 and eps of S, which it does not move."""

    value: Tensor
    pull: Tensor | None
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

    def __init__(self, denoisers: Any, exponents: Any, tilt: Tilt):
        if blocks := isinstance(denoisers, Parts):
            if exponents is not None or denoisers.exponents is None:
                raise ValueError(
                    "parts of a state have their own exponents, guidance.parts(..., exponents=...), and averages of "
                    "overlaps are no product of densities: give `fkc` parts with exponents, and none of its own"
                )
            denoisers, exponents = denoisers.blocks, denoisers.exponents
        parts = alike([denoisers] if isinstance(denoisers, Denoiser) else denoisers)
        b = numbers("exponents", [1.0] * len(parts) if exponents is None else exponents, len(parts))
        first = parts[0]
        for k, one in enumerate(parts):
            if getattr(one, "field", None) is not None:
                raise ValueError(f"weights are known for white noise only; denoisers[{k}] has a field of its own")
        if first.schedule.jump_scale is not None:
            raise ValueError(f"the noise of {first.schedule!r} is not Gaussian: take a VP, VE, EDM or flow schedule")
        self.total = 1.0 if blocks else sum(b)  # of each entry of the state
        if not self.total > 0:
            raise ValueError(f"exponents must sum to more than 0, for the target to have a law at pure noise; got {b}")
        self.normalised = isclose(sum(b), 1.0, rel_tol=1e-12)
        self.same = self.normalised and all(one.prediction == first.prediction for one in parts)
        super().__init__(self.call, first.schedule, first.prediction if self.same else "epsilon")
        self.parts, self.exponents, self.tilt = parts, b, tilt
        self.watch: Watch = lambda x, step: 1.0
        self.seen: Seen | None = None

    def call(self, x: Tensor, tau: Tensor, step: Any = None) -> Tensor:
        """The output at x, in float32 at least."""
        z, at = self.watch(x, step), At(self, x, tau, step).nodes
        if len(at.t) > 1:
            raise ValueError("a combination of denoisers takes one time for the whole batch: its solvers are tables")
        self.nfe += 1
        through = self.tilt.through
        with torch.set_grad_enabled(through or torch.is_grad_enabled()):
            x = x.detach().requires_grad_() if through else x
            output, eps = self._combined(x, tau, step, at)
            p, q = (float(v[0]) for v in convert(self.prediction, ["x0"], at))
            x0 = p * wide(x) + q * output
        seen = Seen(growth([e.detach() for e in eps], self.exponents))
        if self.tilt.reward is not None:
            value, pull = self.tilt.at(x, x0 if self.tilt.on == "x0" else None, float(at.lam[0]))
            E = sum(b * e for b, e in zip(self.exponents, eps, strict=True))
            seen = seen._replace(lift=Lift(value, pull, x0.detach(), torch.as_tensor(E).detach()))
            output = output.detach()
            if pull is not None and at.alpha[0] > 0:  # a gain l of the score moves x0 by (sigma^2 / alpha) l
                output = output + z / (1 + z) * float(at.sigma[0] ** 2 / at.alpha[0]) / q * pull
        self.seen = seen
        return output

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
