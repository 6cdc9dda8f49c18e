"""Denoisers whose output is a function of others': where a call is, and what each of them answers there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.run.guided import Call, check_denoiser
from fewstep.samplers.run.ownership import require_fresh, require_kept, version
from fewstep.samplers.run.per_sample import column, wide
from fewstep.samplers.schedule.outputs import convert, prediction_coefficients


class At(Call):
    """Where a call is, before any network has been called, and what the parts answer there."""

    def __init__(self, inner: Denoiser, x: Tensor, tau: Tensor, step: Any = None):
        self.inner, self.x, self.tau, self.step = inner, x, tau, step
        self.answers: list[Tensor] = []
        self.versions: list[int | None] = []

    @property
    def levels(self) -> np.ndarray:
        """sigma / alpha, infinite at pure noise: one number, or one a sample."""
        return np.asarray(self.nodes.rho)

    def among(self, chosen: np.ndarray) -> Tensor:
        """1 for the samples chosen, else 0, (B, 1, ...)."""
        return column(chosen, wide(self.x))

    def ask(self, part: Denoiser) -> Tensor:
        """The part's output as the whole predicts it, float32 at least."""
        output = wide(_called(part, self.x, self.tau, self.step))
        require_kept(output, self.answers, self.versions)
        require_fresh(output, self.answers)
        self.answers.append(output)
        self.versions.append(version(output))
        if part.prediction == self.inner.prediction:
            return output
        forms = list(zip(*prediction_coefficients(self.inner.prediction, self.nodes), strict=True))
        p, q = (self._level(v) for v in convert(part.prediction, forms, self.nodes))
        return p * wide(self.x) + q * output


class Composed(Denoiser):
    """A denoiser whose output is a function of others': rule(at: At) -> output. It passes on who asks.

    `nfe` counts its own calls, each part's `nfe` those of the part.
    """

    def __init__(
        self, parts: Sequence[Denoiser], rule: Callable[[At], Tensor], prediction: Any = None, asks_rows: bool = False
    ):
        first, times = parts[0], {one.vector_time for one in parts}
        vector: Any = first.vector_time if len(times) == 1 else False
        if any(one.field != first.field for one in parts):
            raise ValueError("what is composed must have one noise: all denoisers the same `field`, or none")
        prediction = first.prediction if prediction is None else prediction
        super().__init__(self.call, first.schedule, prediction, vector, first.field)
        self.parts, self.rule = tuple(parts), rule
        self.two_times = any(one.two_times for one in parts)
        self.asks_rows = asks_rows or any(one.asks_rows for one in parts)

    def call(self, x: Tensor, tau: Tensor, step: Any = None) -> Tensor:
        """The output, in x's shape; float32 at least."""
        if not torch.compiler.is_compiling():
            self.nfe += 1
        return self.rule(At(self, x, tau, step))


def alike(denoisers: Any) -> list[Denoiser]:
    """Denoisers of one schedule; ValueError for others."""
    if not isinstance(denoisers, (list, tuple)) or not denoisers:
        raise ValueError(f"`denoisers` must be a list of at least one Denoiser; got {type(denoisers).__name__}")
    parts = list(denoisers)
    for k, one in enumerate(parts):
        check_denoiser(one, f"denoisers[{k}]")
        if one.schedule != parts[0].schedule:
            raise ValueError(
                f"all denoisers must have one schedule; denoisers[{k}] has {one.schedule!r}, the first {parts[0].schedule!r}"
            )
    return parts


def numbers(name: str, values: Any, count: int) -> list[float]:
    """`count` finite numbers; ValueError for anything else."""
    try:
        found = [float(v) for v in values]
    except TypeError:
        found = []
    if len(found) != count or not all(map(isfinite, found)):
        raise ValueError(f"`{name}` must be a list of {count} finite numbers for these denoisers; got {values!r}")
    return found


def _called(denoiser: Denoiser, x: Tensor, tau: Tensor, step: Any) -> Tensor:
    """The output, without activations that wait for the way back."""
    if not torch.is_grad_enabled():
        return denoiser.call(x, tau, step)
    denoiser.prepare(x)  # is no part of the call that is made again
    with set_checkpoint_early_stop(False):  # stopping in the middle of a suspended pipeline would end it
        found: Tensor = checkpoint(denoiser.call, x, tau, step, use_reentrant=False)
    return found
