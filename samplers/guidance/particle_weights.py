"""A batch, a table and a run as weighted particles see them: groups, steps, and what a step is worth."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor

from fewstep.checks import whole, within
from fewstep.samplers.guidance.particle_denoiser import Seen
from fewstep.samplers.guidance.resampling import METHODS
from fewstep.samplers.table.tableau import Tableau


@dataclass(frozen=True)
class Rules:
    """How particles are grouped and resampled; see `fkc`."""

    particles: int | None
    ess: float
    method: str
    stop: float
    clamp: float | None
    seeds: Any  # one int, or one a group

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"`method` must be one of {', '.join(METHODS)}; got {self.method!r}")
        for name, value in (("ess", self.ess), ("stop", self.stop)):
            within(name, value, 0, 1, hint="It is a fraction")
        if self.clamp is not None and not self.clamp > 0:
            raise ValueError(f"`clamp` must be above 0, or None; got {self.clamp!r}")
        if self.particles is not None:
            whole("particles", self.particles)

    def groups(self, batch: int) -> tuple[int, tuple[int, ...]]:
        """Particles of a group and the seeds of the groups of a batch."""
        K = batch if self.particles is None else self.particles
        if batch % K:
            raise ValueError(f"a batch of {batch} is no whole number of groups of {K} particles")
        if K == 1 and self.ess > 0:
            raise ValueError("one particle cannot be resampled: take more a group (`particles=`, the batch), or ess=0")
        G = batch // K
        seeds = [int(self.seeds) + g for g in range(G)] if isinstance(self.seeds, Integral) else list(self.seeds)
        if len(seeds) != G:
            raise ValueError(f"{len(seeds)} seeds for {G} groups of particles: give one a group")
        return K, tuple(int(seed) for seed in seeds)


class Plan:
    """A table as its particles see it: steps between the calls that start one.

    first, last: rows of each step. gain: what the rate at its start counts for (the trapezoid rule in lam). noise: its z.
    """

    def __init__(self, table: Tableau, total: float, resampling: bool):
        ends = np.cumsum(table.groups)
        self.table, self.last = table, ends - 1
        self.first = np.concatenate([[0], ends[:-1]])
        at = np.concatenate([self.first, [table.nfe]])
        self.alpha, self.sigma, lam = (column[at] for column in (table.nodes.alpha, table.nodes.sigma, table.nodes.lam))
        if not (np.diff(lam) > 0).all():
            raise ValueError(
                f"{table.name} goes back up in time, where weights have no meaning: take a solver that does not"
            )
        if resampling and not table.stochastic:
            raise ValueError(
                f"{table.name} draws no noise, so that copies of a particle would never part: take a stochastic solver "
                "(ddim with eta=1), or ess=0, which weighs the particles of an ODE"
            )
        if lam[0] == -inf and abs(total - 1) > 1e-12:
            raise ValueError(
                f"exponents that sum to {total:g} have no weights at alpha = 0: start below it (t_start=), from "
                "initial_noise(..., t_start=)"
            )
        h = np.diff(lam)
        left, right = np.append(0.0, h[:-1]) / 2, h / 2
        right[-1] = -np.expm1(-2 * h[-1]) / 2  # scores stay as they are: all there is to know of the last step
        if lam[0] == -inf:  # x0 stays as it is: the rate grows as e^(2 lam) to the first node that has one
            left[1:2], right[0] = 0.5, 0.0
        self.gain = left + right
        z = slice(2 + table.history, 2 + table.history + table.slots)
        drawn = (table.W[self.last, 1, z] ** 2).sum(1).reshape(len(ends), -1).mean(1)
        room = -(self.sigma[1:] ** 2) * np.expm1(-2 * h)
        self.noise = np.divide(drawn, room, out=np.zeros_like(room), where=room > 0)


@dataclass
class Run:
    """What has become of the particles so far.

    log_w: normalised log weights (G, K), of all processes. row, step: the next ones of the table. called: the row that the
    denoiser was asked for. seen: at the step's start. reward, moved: beta r where the step before began, and how far that
    step went beside the flow. failed: of each step, where the reward did; lost: groups (G,) whose every
    particle failed at the end. lineage: the particle of the start that each one
    (G, K) comes from. evidence: log of the mean weight so far, (G,).
    """

    plan: Plan
    seeds: tuple[int, ...]
    log_w: Tensor
    batch: int
    row: int = 0
    called: int = 0
    step: int = 0
    seen: Seen | None = None
    reward: Tensor | float = 0.0
    moved: Tensor | float = 0.0
    effective: list[Tensor] = field(default_factory=list)
    resampled: list[Tensor] = field(default_factory=list)
    finite: list[Tensor] = field(default_factory=list)
    clamped: list[Tensor] = field(default_factory=list)
    failed: list[Tensor] = field(default_factory=list)
    lost: Tensor | None = None
    lineage: Tensor | None = None
    evidence: Tensor | float = 0.0

    @property
    def done(self) -> bool:
        return self.step == len(self.plan.last)
