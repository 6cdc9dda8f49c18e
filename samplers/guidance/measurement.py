"""What is known of a sample: y = A(x0) + n with n ~ N(0, noise_std^2), shared by all methods that restore."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import positive
from fewstep.samplers.guidance.linear_solve import conjugate_gradients
from fewstep.samplers.guidance.operator_base import Operator, adjoint_residual, as_operator
from fewstep.samplers.run.guided import Call
from fewstep.samplers.run.per_sample import beside

SLACK = {torch.float64: 1e-9}  # of the transpose; 1e-4 in float32


class Measurement:
    """y, A and the noise level, checked once.

    Args:
        y: (B, *m), or (1, *m) for one measurement of a whole batch. operator: an Operator, or a pair (forward, transpose).
        noise_std: deviation of the noise in y's units, at least 0.

    Raises:
        ValueError: shapes that differ; a transpose that is not A's (with the residual); a negative noise level; y that is
            not finite.
    """

    def __init__(self, y: Tensor, operator: Any, noise_std: float = 0.0):
        self.operator: Operator = as_operator(operator)
        if not isinstance(y, Tensor) or not y.is_floating_point() or y.ndim < 2:
            what = f"shape {tuple(y.shape)}, {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(f"`measurement` must be a floating tensor (B, ...), the operator's output; got {what}")
        if not bool(y.isfinite().all()):
            raise ValueError("`measurement` holds values that are not finite; leave unknown ones out by a mask")
        self.y: Tensor = y
        self.noise_std = positive("noise_std", noise_std, zero=True)
        if self.operator.linear:
            residual, slack = adjoint_residual(self.operator, y), SLACK.get(y.dtype, 1e-4)
            if not residual <= slack:
                raise ValueError(
                    f"the transpose of {self.operator.name} is not its adjoint: <A u, v> and <u, A^T v> differ by "
                    f"{residual:.2g} of |A u| |v|; leave it away and give Operator(forward, shape=...), which makes it"
                )
            if self.operator.gram is not None:  # what lies outside the range of A tells nothing
                self.y = self.operator.normal(y) / self.operator.gram

    @cached_property
    def norm(self) -> float:
        """|A|."""
        if self.operator.linear:
            return self.operator.norm(self.y)
        return 1.0 if self.operator.given_norm is None else self.operator.given_norm

    def miss(self, x0: Tensor) -> Tensor:
        """y - A(x0)."""
        y, found = self.y.to(x0), self.operator(x0)
        if found.shape[1:] != y.shape[1:] or len(y) not in (1, len(found)):
            raise ValueError(
                f"{self.operator.name} takes samples of shape {tuple(x0.shape)} to {tuple(found.shape)}, and the measurement "
                f"is of shape {tuple(y.shape)}: give one a sample, or one for all"
            )
        return y - found

    def solve(self, v: Tensor, spread: Any, iterations: int) -> Tensor:
        """(spread A A^T + noise_std^2)^-1 v of a linear A: at once where A A^T is a number, else by conjugate gradients."""
        noise = self.noise_std**2
        if isinstance(spread, Tensor):
            spread = beside(spread, v)
        if self.operator.gram is not None:
            return v / (spread * self.operator.gram + noise)
        floor = max(noise, 1e-12)  # a pseudo-inverse where nothing is noisy
        return conjugate_gradients(lambda u: spread * self.operator.normal(u) + floor * u, v, iterations)

    def share(self, call: Call, prior_std: float) -> Any:
        """spread / (noise_std^2 + spread |A|^2): how far x0 follows the measurement, J and A A^T taken for numbers."""
        spread = call.spread(prior_std)
        return spread / (self.noise_std**2 + spread * self.norm**2)
