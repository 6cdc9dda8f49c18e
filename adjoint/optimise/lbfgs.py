"""L-BFGS on every sample of a batch by itself, all evaluated together.

`torch.optim.LBFGS` minimises one number: over a batch it would mix the curvatures of its samples, and stop their line
searches together. Here directions, step lengths and bracket ends are one a sample. The search asks for values by `yield`
and is sent them, so that a sample that found its step goes on to its next direction while another still looks for its own:

    search = lbfgs(x);    x = next(search);    x = search.send((values, gradients));    ...

Reference: Numerical Optimization; Nocedal, Wright; 2006; chapters 3 and 7.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple

import torch
from torch import Tensor

from fewstep.samplers.run.per_sample import dot

ARMIJO, CURVATURE = 1e-4, 0.9  # strong Wolfe: enough decrease, and a slope of at most this share
WIDEN = 4.0  # while no upper end of a step is known
TRIALS = 12  # of one step; then the best end of the bracket is taken, and the curvatures are forgotten
Search = Generator[Tensor, tuple[Tensor, Tensor], None]


class End(NamedTuple):
    """One end of a bracket: step t, value f, slope df/dt, each (B, 1, ...)."""

    t: Tensor
    f: Tensor
    slope: Tensor


def lbfgs(x: Tensor, longest: float = 1.0, memory: int = 10) -> Search:
    """Yields x (B, *shape) to evaluate, is sent (values (B,), gradients (B, *shape)).

    A step t along d is taken where f(t) <= f(0) + c1 t f'(0) and |f'(t)| <= c2 |f'(0)|. Its bracket [low, high] keeps: the
    first holds and the slope is steep at low; the first fails, or the slope rises, at high. Then such a step lies within.

    longest: length of d at most, and where no curvature is known. memory: pairs of (step, change of gradient) that are kept.
    """
    column = (-1, *(1,) * (x.ndim - 1))
    f, g = yield x
    f, curves = f.view(column), Curves.none(x, memory)
    d, trials = curves.direction(g, longest), torch.zeros_like(f)
    low, low_g, t = End(trials, f, dot(g, d)), g, torch.ones_like(f)
    high, slope = _far(low), low.slope
    while True:
        f1, g1 = yield x + t * d
        here = End(t, f1.view(column), dot(g1, d))
        over = (here.f > f + ARMIJO * t * slope) | (here.slope > -CURVATURE * slope)
        under = ~over & (here.slope < CURVATURE * slope)
        trials = trials + 1
        spent = trials >= TRIALS
        done = ~(over | under) | spent
        low, low_g = _where(over, low, here), torch.where(over, low_g, g1)  # where done, the point that is taken
        high = _where(over, here, high)
        curves = curves.joined(low.t * d, low_g - g, done).forgotten(done & spent & over)
        x, g, f = torch.where(done, x + low.t * d, x), torch.where(done, low_g, g), torch.where(done, low.f, f)
        d = torch.where(done, curves.direction(g, longest), d)
        slope, trials = torch.where(done, dot(g, d), slope), torch.where(done, 0.0, trials)
        low = _where(done, End(torch.zeros_like(t), f, slope), low)
        high = _where(done, _far(low), high)
        t = torch.where(done, 1.0, torch.where(high.t.isinf(), WIDEN * low.t, _between(low, high)))


class Curves(NamedTuple):
    """Steps s and changes of gradient y, newest first, (memory, B, *shape), and 1 / <s, y>, 0 where there is none."""

    s: Tensor
    y: Tensor
    rho: Tensor

    @staticmethod
    def none(x: Tensor, memory: int) -> Curves:
        """Before the first step."""
        s = x.new_zeros((memory, *x.shape))
        return Curves(s, s, dot(x, x).mul(0.0).expand(memory, *(-1,) * x.ndim))

    def direction(self, g: Tensor, longest: float) -> Tensor:
        """-H g, H the inverse Hessian that the pairs speak of, shortened to `longest`; of that length where there are none."""
        shares, d = [], -g
        for s, y, rho in zip(*self, strict=True):
            shares.append(rho * dot(s, d))
            d = d - shares[-1] * y
        known = self.rho[0] > 0
        d = torch.where(known, 1.0 / (self.rho[0] * dot(self.y[0], self.y[0])), 1.0) * d
        for s, y, rho, share in reversed(list(zip(*self, shares, strict=True))):
            d = d + (share - rho * dot(y, d)) * s
        share = longest / dot(d, d).sqrt().clamp(min=torch.finfo(d.dtype).tiny ** 0.5)
        return d * torch.where(known, share.clamp(max=1), share)

    def joined(self, s: Tensor, y: Tensor, where: Tensor) -> Curves:
        """With a new pair of the samples `where`, if it curves upwards."""
        product = dot(s, y)
        where = where & (product > torch.finfo(s.dtype).eps * dot(y, y))
        new = s, y, 1.0 / product
        return Curves(
            *(torch.where(where, torch.cat([n[None], old[:-1]]), old) for n, old in zip(new, self, strict=True))
        )

    def forgotten(self, where: Tensor) -> Curves:
        """Without the pairs of the samples `where`."""
        return self._replace(rho=torch.where(where, 0.0, self.rho))


def _where(mask: Tensor, a: End, b: End) -> End:
    return End(*(torch.where(mask, u, v) for u, v in zip(a, b, strict=True)))


def _far(end: End) -> End:
    """No upper end yet."""
    return end._replace(t=torch.full_like(end.t, torch.inf))


def _between(low: End, high: End) -> Tensor:
    """Minimum of the cubic through both ends, at least a tenth of the bracket from either; its middle where there is none."""
    width = high.t - low.t
    a = low.slope + high.slope - 3 * (high.f - low.f) / width
    root = (a * a - low.slope * high.slope).clamp(min=0).sqrt()
    share = 1 - (high.slope + root - a) / (high.slope - low.slope + 2 * root)
    return low.t + width * torch.where(share.isfinite(), share, 0.5).clamp(0.1, 0.9)
