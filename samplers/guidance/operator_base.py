"""What measures a sample, as an object: a map A with its transpose, its derivative and its size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]
POWER = 30  # iterations for the norm


class Operator:
    """A map of samples to measurements. It pickles and deep-copies where its functions do; those of `operators` all do.

    Args:
        forward: A, (B, *shape) -> (B, *m), every sample by itself. transpose: A^T of a linear one, (B, *m) -> (B, *shape).
        shape: of one sample, where there is no transpose: it is made by autograd. linear: whether A(a x) = a A(x).
        gram: c with A A^T = c on the range of A, for operators that have one: their inverse is A^T / c. pinv: any right
            inverse of A, or of a map that is not linear. norm: the largest singular value; found where it is not given.
    """

    def __init__(
        self,
        forward: Map,
        transpose: Map | None = None,
        *,
        shape: Sequence[int] | None = None,
        linear: bool = True,
        gram: float | None = None,
        pinv: Map | None = None,
        norm: float | None = None,
        name: str = "operator",
    ):
        for label, value in (("forward", forward), ("transpose", transpose), ("pinv", pinv)):
            if not (callable(value) or (value is None and label != "forward")):
                raise ValueError(f"`{label}` must be a function of a batch; got {type(value).__name__}")
        if linear and transpose is None and shape is None:
            raise ValueError(
                "a linear operator needs its transpose, or the shape of a sample to make it: "
                "Operator(forward, transpose) or Operator(forward, shape=(1, 28, 28))"
            )
        self.forward, self.transpose, self.linear, self.name = forward, transpose, linear, name
        self.shape = None if shape is None else tuple(shape)
        self.gram, self.given_norm = gram, norm if gram is None else math.sqrt(gram)
        self._pinv = pinv

    @property
    def pinv(self) -> Map | None:
        """A right inverse, where there is one: as given, or A^T / gram."""
        return self._pinv if self.gram is None else self._by_gram

    def _by_gram(self, y: Tensor) -> Tensor:
        assert self.gram is not None
        return self.T(y) / self.gram

    def __call__(self, x: Tensor) -> Tensor:
        """A(x)."""
        return self.forward(x)

    def T(self, y: Tensor) -> Tensor:
        """A^T y of a linear operator."""
        if not self.linear:
            raise ValueError(f"{self.name} is not linear and has no transpose; `pull` has that of its derivative")
        if self.transpose is not None:
            return self.transpose(y)
        assert self.shape is not None
        return self.pull(y, torch.zeros(len(y), *self.shape, dtype=y.dtype, device=y.device))

    def pull(self, y: Tensor, x: Tensor) -> Tensor:
        """A'(x)^T y; A^T y where A is linear."""
        if self.transpose is not None:
            return self.transpose(y)
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if again and x.requires_grad else x.detach().requires_grad_()
            (found,) = torch.autograd.grad(self.forward(at), at, y, create_graph=again)
        return found

    def push(self, v: Tensor, x: Tensor) -> Tensor:
        """A'(x) v; A v where A is linear."""
        if self.linear:
            return self(v)
        again = torch.is_grad_enabled()
        with torch.enable_grad():  # the transpose of the transpose, which is linear in u
            at = x if again and x.requires_grad else x.detach().requires_grad_()
            y = self.forward(at)
            u = torch.zeros_like(y, requires_grad=True)
            (back,) = torch.autograd.grad(y, at, u, create_graph=True)
            (pushed,) = torch.autograd.grad(back, u, v, create_graph=again)
        return pushed

    def normal(self, y: Tensor) -> Tensor:
        """A A^T y."""
        return self(self.T(y))

    def norm(self, y: Tensor) -> float:
        """|A|, the largest singular value: as given, or by power iteration on something like y."""
        if self.given_norm is not None:
            return self.given_norm
        v = torch.randn(1, *y.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(y)
        with torch.no_grad():
            for _ in range(POWER):
                v = self.normal(v / v.norm())
        return float(v.norm()) ** 0.5

    def __matmul__(self, other: Operator) -> Operator:
        """self after other."""
        linear = self.linear and other.linear
        return Operator(
            partial(_after, self, other),
            partial(_after, other.T, self.T) if linear else None,
            shape=other.shape,
            linear=linear,
            name=f"{self.name} @ {other.name}",
        )

    def __repr__(self) -> str:
        return f"<{self.name}{'' if self.linear else ', not linear'}>"


def _after(last: Map, first: Map, x: Tensor) -> Tensor:
    return last(first(x))


def adjoint_residual(operator: Operator, y: Tensor) -> float:
    """|<A u, v> - <u, A^T v>| / (|A u| |v|) for random u and v like A^T y and y: rounding for a true transpose."""
    draw = torch.Generator().manual_seed(0)
    v = torch.randn(1, *y.shape[1:], generator=draw, dtype=torch.float64).to(y)
    with torch.no_grad():
        shape = operator.T(v).shape if operator.shape is None else (1, *operator.shape)
        u = torch.randn(shape, generator=draw, dtype=torch.float64).to(v)
        forth = operator(u)
        if forth.shape != v.shape:
            raise ValueError(
                f"{operator.name} takes samples of shape {tuple(u.shape[1:])} to {tuple(forth.shape[1:])}, and the measurement "
                f"is of shape {tuple(v.shape[1:])}: give them one shape"
            )
        gap = ((forth * v).sum() - (u * operator.T(v)).sum()).abs()
        return float(gap / (forth.norm() * v.norm()).clamp(min=1e-30))


def as_operator(given: Any) -> Operator:
    """An operator of an operator, of a pair (A, A^T) of functions, or of an object that has A, and A_adjoint where linear.

    The last are the physics of deepinv, and whatever is written like them; one without A_adjoint counts as not linear.
    """
    if isinstance(given, Operator):
        return given
    if isinstance(given, tuple) and len(given) == 2:
        return Operator(*given)
    forward, name = getattr(given, "A", None), type(given).__name__
    if callable(forward):
        adjoint = getattr(given, "A_adjoint", None)
        return Operator(forward, adjoint if callable(adjoint) else None, linear=callable(adjoint), name=name)
    raise ValueError(
        f"`operator` must be an Operator, a pair (forward, transpose) of functions, or an object with A and A_adjoint; got "
        f"{name}. guidance.Operator(forward, shape=...) makes one of a single function"
    )
