"""Weighted particles of a run: a hook of `sample` that weighs them after each step, and resamples where that helps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.samplers.guidance.particle_denoiser import Combination, Lift
from fewstep.samplers.guidance.particle_health import Health, health_of
from fewstep.samplers.guidance.particle_weights import Plan, Rules, Run
from fewstep.samplers.guidance.resampling import Alone, ancestors, effective, places
from fewstep.samplers.noise.brownian import unit_normal
from fewstep.samplers.noise.draws import check_seeds, onto
from fewstep.samplers.sampling.watching import Progress


class Particles:
    """Weighted particles of one run at a time: `denoiser` is sampled, with the object itself as hook. Made by `fkc`.

    A second run starts afresh. Attributes of the latest run: weights, log_weights (B,), each group's sum to 1; effective and
    resampled (steps, groups), the effective sample size after each step, before its resampling, and whether there was one;
    clamped, the share of increments that met `clamp`; failed, lineages, evidence and health(), which say what to believe.
    """

    def __init__(self, denoiser: Combination, rules: Rules, processes: Alone):
        self.denoiser, self.rules, self.processes = denoiser, rules, processes
        self._run: Run | None = None
        denoiser.watch = self._watch

    def initial_noise(
        self,
        shape: Sequence[int],
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seeds: Sequence[int] | None = None,
        t_start: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """x_T (B, *shape) from the target at pure noise, N(0, sigma^2 / sum b), at t_max or t_start.

        seeds: one int a sample, whose noise is then the same alone and in any batch. `sample` needs the same t_start.
        """
        schedule, shape = self.denoiser.schedule, tuple(shape)
        if seeds is not None:
            like = torch.empty(shape, device=device, dtype=dtype)
            check_seeds(list(seeds), like)
            x = onto(like, [unit_normal(int(seed), (0, 0, 2**32), shape[1:]) for seed in seeds])
        else:
            unit = float(schedule.sigma(schedule.t_max)) if schedule.kind == "ve" else 1.0
            x = schedule.initial_noise(shape, generator, device, dtype) / unit
        sigma = float(schedule.sigma(schedule.t_max if t_start is None else t_start))
        return x * (sigma / self.denoiser.total**0.5)

    def _watch(self, x: Tensor, step: Any) -> float:
        """Before every call: a run begins at a table's first row. The noise z of the step."""
        if step is not None and step.index == 0:
            self._run = self._begin(x, step)
        run = self._run
        if run is None:
            return 1.0
        run.called = -1 if step is None else step.index
        return 1.0 if step is None else float(run.plan.noise[np.searchsorted(run.plan.last, step.index)])

    def _begin(self, x: Tensor, step: Any) -> Run:
        if getattr(step, "post", None) is not None:
            raise ValueError("`post` changes the denoiser, and with it the target: leave it away")
        K, seeds = self.rules.groups(self.processes.total(x))
        plan = Plan(step.tableau, self.denoiser.total, self.rules.ess > 0)
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        own = torch.arange(K, device=x.device).repeat(len(seeds), 1)
        even = torch.full(own.shape, -log(K), device=x.device, dtype=wide)
        return Run(plan, seeds, even, x.shape[0], lineage=own)

    def __call__(self, progress: Progress) -> Callable[[Tensor], Tensor] | None:
        """The hook: weights up to the new state, and what resampling does to all that the sampler carries, if anything."""
        run = self._run
        if run is None or run.done or not run.row == run.called == progress.index:
            raise ValueError(
                "weights follow one table, from its first row to its last, with target.denoiser sampled as it is: "
                "sample(target.denoiser, x_T, solver, hook=target), one run at a time and no driver"
            )
        run.row += 1
        if progress.index == run.plan.first[run.step]:
            run.seen = self.denoiser.seen
        if progress.index < run.plan.last[run.step]:
            return None
        self._weigh(run, progress.x)
        take = self._resample(run)
        run.step += 1
        if run.done:
            run.seen, run.moved = None, 0.0
            self._require_finite(run)
            if run.lost is not None and bool(run.lost.any()):
                warnings.warn(
                    f"the reward failed for every particle of {int(run.lost.sum())} of {len(run.seeds)} groups: their "
                    "weights are those of the step before",
                    stacklevel=2,
                )
        return take

    def _weigh(self, run: Run, x: Tensor) -> None:
        """What the step that led to x adds to log w."""
        plan, k, seen = run.plan, run.step, run.seen
        assert seen is not None
        gained = float(plan.gain[k]) * seen.rate
        if seen.lift is not None:
            gained = gained + self._lifted(run, seen.lift, x)
        gained = self.processes.joined(gained.to(run.log_w.dtype)).view_as(run.log_w)
        dead = torch.isneginf(gained)  # a reward that failed at the end
        run.lost = dead.all(1)  # such a group keeps its weights, where others have some
        dead = dead & ~(run.lost & ~run.lost.all())[:, None]
        gained = torch.where(torch.isneginf(gained) & ~dead, 0.0, gained)
        run.finite.append(((gained.isfinite() | dead) & ~dead.all(1, keepdim=True)).all(1))
        gained = gained.masked_fill(dead, 0.0)
        if self.rules.clamp is not None:
            gained = gained - gained.mean(1, keepdim=True)
            run.clamped.append((gained.abs() > self.rules.clamp).double().mean())
            gained = gained.clamp(-self.rules.clamp, self.rules.clamp)
        gained = run.log_w + gained.masked_fill(dead, -torch.inf)
        run.evidence = run.evidence + gained.logsumexp(1)
        run.log_w = gained.log_softmax(1)

    def _lifted(self, run: Run, lift: Lift, x: Tensor) -> Tensor:
        """d(beta r) - beta grad r o (dx - dx_flow): of this step what begins it, of the last one what ends it."""
        plan, k = run.plan, run.step
        value = self._known(run, lift.value)
        moved = torch.zeros_like(x)
        gained = value - run.reward
        if lift.pull is not None:
            moved = x - (float(plan.alpha[k + 1]) * lift.x0 + float(plan.sigma[k + 1]) * lift.eps)
            gained = gained - 0.5 * inner(lift.pull, run.moved + moved)
        if k + 1 == len(plan.last):
            end, pull = self.denoiser.tilt.at(x, None, float(plan.table.nodes.lam[-1]), last=True)
            if pull is None:
                run.failed.append(end.isnan())
                end = end.nan_to_num(nan=-torch.inf)
            else:
                gained = gained - 0.5 * inner(pull, moved)
            gained = gained + end - value
        run.reward, run.moved = value, moved
        return gained

    def _known(self, run: Run, value: Tensor) -> Tensor:
        """beta r where a black box gave it, else what it was before: any value on the way is right, the end's alone decides."""
        if self.denoiser.tilt.gradient:
            return value
        run.failed.append(value.isnan())
        return torch.where(value.isnan(), torch.as_tensor(run.reward).to(value), value)

    def _resample(self, run: Run) -> Callable[[Tensor], Tensor] | None:
        """Copies of heavy particles where groups need them; on an accelerator decided there, without a look."""
        (G, K), rules, w = run.log_w.shape, self.rules, run.log_w
        left = effective(w)
        need = (left < rules.ess * K) | (torch.full_like(left, rules.ess) == 1)
        need = need & left.isfinite() & (run.step + 1 <= (1 - rules.stop) * len(run.plan.last))
        run.effective.append(left)
        run.resampled.append(need)
        looks = w.device.type == "cpu" or self.processes.size > 1
        if rules.ess == 0 or (looks and not bool(need.any())):
            return None
        chosen = ancestors(w, onto(w, places(rules.method, run.seeds, run.step, K)))
        stay = torch.arange(K, device=w.device)
        index = torch.where(need[:, None], chosen, stay) + K * torch.arange(G, device=w.device)[:, None]
        run.log_w = torch.where(need[:, None], -log(K), w)
        assert run.lineage is not None
        run.lineage = torch.gather(run.lineage, 1, torch.where(need[:, None], chosen, stay))
        take = self.processes.taker(index.flatten(), run.batch)
        run.reward, run.moved = (take(v) if isinstance(v, Tensor) else v for v in (run.reward, run.moved))
        return take

    def _require_finite(self, run: Run) -> None:
        bad = ~torch.stack(run.finite)
        if bool(bad.any()):
            step, group = (int(i) for i in bad.nonzero()[0])
            raise ValueError(
                f"the weights of group {group} are not finite from step {step} on: an output or the reward is not, or a "
                "step is far too long"
            )

    def _done(self) -> Run:
        if self._run is None or not self._run.done:
            raise ValueError("no run of these particles has ended: sample(target.denoiser, ..., hook=target) first")
        return self._run

    @property
    def log_weights(self) -> Tensor:
        """log of `weights`, (B,)."""
        run = self._done()
        return run.log_w.flatten()[self.processes.rank * run.batch :][: run.batch]

    @property
    def weights(self) -> Tensor:
        """(B,) of this process, every group's sum to 1."""
        return self.log_weights.exp()

    @property
    def effective(self) -> Tensor:
        """Effective sample size 1 / sum w^2 after every step, before its resampling: (steps, groups)."""
        return torch.stack(self._done().effective)

    @property
    def resampled(self) -> Tensor:
        """Whether a group was resampled after a step, (steps, groups)."""
        return torch.stack(self._done().resampled)

    @property
    def clamped(self) -> float | None:
        """Share of the increments of log w that met `clamp`."""
        met = self._done().clamped
        return float(torch.stack(met).mean()) if met else None

    @property
    def failed(self) -> int:
        """How often a black-box reward raised or gave no finite number for a particle of this process, in all steps."""
        met = self._done().failed
        return int(torch.stack(met).sum()) if met else 0

    @property
    def evidence(self) -> Tensor:
        """log of the mean weight, (groups,): of exp(reward) under the model, unbiased before the logarithm; 0 without tilt."""
        return torch.as_tensor(self._done().evidence)

    @property
    def lineages(self) -> Tensor:
        """Effective number of particles of the start that are left, (groups,): 1 / sum of squares of their offspring's weights.

        Resampling makes weights even, and hides from the effective sample size that all are copies of a few; this does not.
        """
        run = self._done()
        assert run.lineage is not None
        shares = torch.zeros_like(run.log_w).scatter_add_(1, run.lineage, run.log_w.exp())
        return 1.0 / shares.square().sum(1)

    def health(self, values: Tensor | None = None) -> Health:
        """Whether to believe the weighted sample, and how far; values (B,): of which the mean is wanted, beside its error."""
        return health_of(self._done(), self.lineages, self.effective, self.failed, values)

    def unweighted(self, x0: Tensor, n: int | None = None) -> Tensor:
        """n samples of each group of x0 (B, *shape), K by default, of equal weight: (groups n, *shape), with copies.

        Systematic, by the groups' seeds; of all processes, in each of them.
        """
        run = self._done()
        if x0.shape[0] != run.batch:
            raise ValueError(f"{x0.shape[0]} samples for {run.batch} particles: give what the run returned")
        G, K = run.log_w.shape
        u = onto(run.log_w, places("systematic", run.seeds, len(run.plan.last), K if n is None else n))
        index = ancestors(run.log_w, u) + K * torch.arange(G, device=run.log_w.device)[:, None]
        return self.processes.joined(x0)[index.flatten()]


def inner(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of every sample, (B,)."""
    return (a * b).flatten(1).sum(1)
