"""The most probable x0 near predicted x0, under the network's own covariance: what the lengths of shifts come from.

    d of least |b(D + d)|^2 + ridge d^T C^-1 d,    C = (sigma^2 / alpha) J    (b linear at D)

For b = y - A x and ridge = noise_std^2 this is the posterior mean of x0 ~ N(D, C).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.samplers.guidance.measurement import Measurement
from fewstep.samplers.run.guided import Call
from fewstep.samplers.run.per_sample import beside, dot, one_each

Map = Callable[[Tensor], Tensor]


def most_probable(call: Call, rows: Map, iterations: int, ridge: float = 1.0) -> Tensor:
    """d of least |rows(D) + rows' d|^2 + ridge d^T C^-1 d, by conjugate gradients preconditioned by C.

    The residual r of the normal equations is in the dual of states: z = C r is a state, and q = C^-1 p goes along with the
    direction p, so that C^-1 is never applied. Every iteration lowers the objective, so that few of them, or a network whose J
    is no covariance, do not overshoot; one is the best point on the ray along C rows'^T rows. rows: (B, *shape) -> (B, m).
    Cost: `iterations` vector-Jacobian products of the network, and as many products with rows' and its transpose.
    """
    kept = {"retain_graph": True, "create_graph": call.outside}
    with torch.enable_grad():
        at = call.x0 if call.outside else call.x0.detach().requires_grad_()
        b = rows(at)
        u = torch.zeros_like(b, requires_grad=True)
        (back,) = torch.autograd.grad(b, at, u, create_graph=True)  # linear in u: its derivative pushes forward

    def pull(v: Tensor) -> Tensor:
        return -torch.autograd.grad(b, at, v, **kept)[0]

    def push(v: Tensor) -> Tensor:
        return -torch.autograd.grad(back, u, v, **kept)[0]

    r = pull(b if call.outside else b.detach())
    z = call.tweedie * call.pull(r)
    p, q, d, height = z, r, torch.zeros_like(z), dot(r, z)
    for k in range(iterations):
        image = push(p)
        curvature = beside((image * image).sum(1), p) + ridge * dot(p, q)
        going = (height > 0) & (curvature > 0)
        step = torch.where(going, height / torch.where(going, curvature, 1.0), 0.0)
        d = d + step * p
        if k + 1 == iterations:
            break
        r = r - step * (pull(image) + ridge * q)
        z = call.tweedie * call.pull(r)
        after = dot(r, z)
        turn = torch.where(going, after / torch.where(going, height, 1.0), 0.0)
        p, q, height = z + turn * p, r + turn * q, after
    return d


def along(call: Call, known: Measurement, w: Tensor, miss: Tensor, solved: bool = False) -> Tensor:
    """t C w, the most probable point on the ray along C w from D; none where it leads away from the measurement.

    solved: t = 1 unless that is less probable than D itself, which it is beyond twice the best length.
    """
    ray = call.tweedie * call.pull(w)
    image = known.operator.push(ray, call.x0)
    cost = known.noise_std**2 * dot(w, ray).clamp(min=0).flatten() + dot(image, image).flatten()
    t = dot(miss, image).clamp(min=0).flatten() / cost.clamp(min=1e-30)
    return beside(torch.where(t >= 0.5, 1.0, t) if solved else t, ray) * ray


def damped(call: Call, w: Tensor, function: Map) -> Tensor:
    """t C w for w down the slope of a function of clean samples: t = <w, C w> / (<w, C w> + its curvature along C w)."""
    ray = call.tweedie * call.pull(w)
    with torch.enable_grad():
        at = call.x0 if call.outside else call.x0.detach().requires_grad_()
        (first,) = torch.autograd.grad(function(at).sum(), at, create_graph=True)
        straight = not first.requires_grad  # a function that is linear
        (bent,) = (0 * at,) if straight else torch.autograd.grad(first, at, ray, create_graph=call.outside)
    fall, curvature = dot(w, ray).clamp(min=0), dot(ray, bent).clamp(min=0)
    return fall / (fall + curvature).clamp(min=1e-30) * ray


def slope(function: Map, call: Call, name: str = "energy") -> Tensor:
    """The gradient of a function of clean samples at predicted x0."""
    with torch.enable_grad():
        at = call.x0 if call.x0.requires_grad and call.outside else call.x0.detach().requires_grad_()
        values = one_each(function(at), at, name)
        (found,) = torch.autograd.grad(values.sum(), at, create_graph=call.outside)
    return found
