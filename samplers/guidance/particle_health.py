"""Whether a run of weighted particles is to be believed: what is left of the particles it began with.

After a resampling all weights are equal, and the effective sample size looks like health however few particles were copied.
So what counts are lineages. With E_i the particle of the start that i comes from, a mean m = sum_i w_i f_i has

    variance = sum_e (sum_{i: E_i = e} w_i (f_i - m))^2                                   (Chan & Lai; Lee & Whiteley)

which is a standard error as long as many lineages are left, and zero, a lie, where there is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fewstep.samplers.guidance.particle_weights import Run

FEW, LOST = (
    20.0,
    0.01,
)  # lineages, and a share of effective particles at the worst step, below which nothing is to be believed


@dataclass(frozen=True)
class Health:
    """A run in numbers: the worst group's.

    healthy: at least 20 effective lineages, and at the worst step 1 % of the particles. lineages, effective: of the worst
    group, and step. failed: rewards that were none. evidence, spread: log mean weight of all groups, and its deviation among
    them (None for one). mean, error: of what was asked for, with the standard error by lineages.
    """

    healthy: bool
    lineages: float
    effective: float
    particles: int
    failed: int
    evidence: float
    spread: float | None
    mean: float | None = None
    error: float | None = None

    def __str__(self) -> str:
        told = f"{self.lineages:.1f} lineages of {self.particles}, {self.effective:.1f} effective particles at the worst step"
        told += f", {self.failed} failed rewards" * (self.failed > 0)
        if self.mean is not None:
            told += f"; mean {self.mean:.4g} +- {self.error:.2g}"
        if self.healthy:
            return f"healthy: {told}"
        return (
            f"not to be believed: {told}. Take more particles or steps, a softer reward or likelihood, or a slower ramp"
        )


def health_of(run: Run, lineages: Tensor, effective: Tensor, failed: int, values: Tensor | None) -> Health:
    """Of a run that has ended."""
    K, w = run.log_w.shape[1], run.log_w.exp()
    left, worst = float(lineages.min()), float(effective.min())
    evidence = torch.as_tensor(run.evidence).double()
    lost = run.lost is not None and bool(run.lost.any())
    mean = error = None
    if values is not None:
        if values.shape != (w.numel(),):
            raise ValueError(f"`values` must be one number a particle, ({w.numel()},); got {tuple(values.shape)}")
        f, shares = values.to(w).view_as(w), w / len(w)
        m = (shares * f).sum()
        assert run.lineage is not None
        pulls = torch.zeros_like(w).scatter_add_(1, run.lineage, shares * (f - m))
        mean, error = float(m), float(pulls.square().sum().sqrt())
    return Health(
        healthy=left >= min(FEW, K / 2) and worst >= LOST * K and not lost,
        lineages=left, effective=worst, particles=K, failed=failed,
        evidence=float(evidence.logsumexp(0) - torch.tensor(float(len(evidence))).log()),
        spread=float(evidence.std()) if len(evidence) > 1 else None, mean=mean, error=error,
    )  # fmt: skip
