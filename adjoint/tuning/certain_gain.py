"""Are tuned weights certainly better? The same untouched seeds before and after: error to the teacher, the loss, FD.

A difference of means of one number a sample has the interval mean(v_after - v_before) +- z s / sqrt(n), paired; that of Frechet
distances is drawn by picking the same samples anew from both. What the loss itself measures decides, the rest is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.adjoint.tuning.losses.by_reward import rewarded
from fewstep.adjoint.tuning.losses.data_features import Eyes
from fewstep.adjoint.tuning.losses.loss_entry import Term
from fewstep.adjoint.tuning.losses.loss_scene import Drawn
from fewstep.eval.gaussian.covariance import Gaussian
from fewstep.eval.gaussian.frechet import frechet
from fewstep.samplers.learned.problem.problem import Part, Problem, squared_errors
from fewstep.samplers.learned.tasks.evidence import ALPHA
from fewstep.samplers.learned.tasks.guard import certain, compared, summary
from fewstep.samplers.learned.yardsticks.decoding import decoded
from fewstep.samplers.table.tableau import Tableau

PICKS = 200  # of the interval of a Frechet distance


@dataclass(frozen=True, eq=False)
class Judge:
    """What looks at samples. term: whose number decides; reward: or None; fd: whether features have a distance to data's."""

    problem: Problem
    table: Tableau
    end: Callable[[Part], Tensor]
    eyes: Eyes
    data: Tensor | None
    reward: Any
    term: Term
    by: str = "loss"

    @torch.no_grad()
    def drawn(self, seeds: Sequence[int]) -> Drawn:
        """Samples of these seeds by the weights as they are."""
        errors, features, rewards = [], [], []
        for part in self.problem.parts(seeds):
            x0 = self.problem.draw(self.table, part)
            errors.append(squared_errors(x0, self.end(part)))
            images = decoded(self.problem, part, x0) if self.data is not None or self.reward is not None else x0
            if self.data is not None:
                features.append(self.eyes(images).cpu())
            if self.reward is not None:
                rewards.append(rewarded(self.reward, images).cpu())
        looked, liked = (torch.cat(v) if v else None for v in (features, rewards))
        data = None if self.data is None else self.data.cpu()
        return Drawn(torch.cat(errors), looked, liked, data)

    def numbers(self, drawn: Drawn) -> Tensor:
        """(N,) float64 whose mean is what decides."""
        judge = self.term.entry.judge
        if self.by == "error" or isinstance(judge, str):
            return drawn.errors
        found: Tensor = judge(drawn, **self.term.options)
        return torch.where(found.isfinite(), found.double(), torch.inf)

    @property
    def decides(self) -> str:
        """What decides, in a word."""
        return "error" if self.by == "error" or isinstance(self.term.entry.judge, str) else self.term.entry.name


def report(judge: Judge, before: Drawn, after: Drawn, floor: float) -> dict[str, Any]:
    """Everything that is told of two sets of samples from the same seeds; "sure" is whether the second is certainly better."""
    a, b = after.errors, before.errors
    test = compared(a, b, floor)
    found: dict[str, Any] = {
        "decided_by": judge.decides, "samples": len(a), "test": test,
        "before": {"error": summary(b)}, "after": {"error": summary(a)},
    }  # fmt: skip
    found["sure"] = certain(test)
    if judge.decides != "error":
        found["loss"] = difference(judge.numbers(before), judge.numbers(after))
        found["sure"] = found["loss"]["interval"][1] < 0
    if before.rewards is not None and after.rewards is not None:
        found["reward"] = difference(before.rewards.double(), after.rewards.double())
    if before.features is not None and after.features is not None and before.data is not None:
        found["fd"] = {"extractor": judge.eyes.name, **distances(before.data, before.features, after.features)}
    return found


def difference(before: Tensor, after: Tensor) -> dict[str, Any]:
    """Means of numbers of the same samples before and after, and their paired difference with the bounds of 95 %."""
    gap = (after - before).double()
    z = NormalDist().inv_cdf(1 - ALPHA)
    middle, half = float(gap.mean()), z * float(gap.std()) / len(gap) ** 0.5
    if not np.isfinite(middle):
        middle, half = float("inf"), 0.0
    return {
        "before": float(before.mean()), "after": float(after.mean()), "difference": middle,
        "interval": [middle - half, middle + half], "standard_errors": middle * z / half if half else 0.0,
    }  # fmt: skip


def distances(data: Tensor, before: Tensor, after: Tensor) -> dict[str, Any]:
    """Frechet distances to data before and after, and the interval of their difference by picking samples anew."""
    real = _gaussian(data)

    def pair(pick: Any) -> tuple[float, float]:
        return tuple(frechet(real, _gaussian(v[pick])).value for v in (before, after))  # type: ignore[return-value]

    first, last = pair(slice(None))
    rng = np.random.default_rng(0)
    if len(before) <= before.shape[1] + 1:  # covariances of so few say nothing
        return {"before": first, "after": last, "interval": None}
    picks = [pair(torch.from_numpy(rng.integers(0, len(before), len(before)))) for _ in range(PICKS)]
    gaps = np.array([b - a for a, b in picks])
    low, high = (float(q) for q in np.quantile(gaps - gaps.mean() + (last - first), [0.025, 0.975]))
    return {"before": first, "after": last, "difference": last - first, "interval": [low, high]}


def _gaussian(rows: Tensor) -> Gaussian:
    wide = rows.double()
    return Gaussian.of(wide.mean(0), torch.cov(wide.T).reshape(wide.shape[1], wide.shape[1]))
