"""Is it really better? Evidence on seeds that nobody has looked at (evidence.py), and the numbers of the report.

The candidates are the best tables of the stages that are better than every fixed recipe on the validation seeds. They are
tried one after another, the best first; where none is certainly better the best fixed recipe is what learning returns, and the
first candidate is kept beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from fewstep.samplers.learned.playing.arithmetic import amplification, largest_weight
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.tasks.budget import in_bfloat16
from fewstep.samplers.learned.tasks.evidence import ALPHA, TINY, TOLERATED, Evidence, Ratio, evidence, sought, words
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.learned.yardsticks.yardstick import LATENT
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.table.tableau import Tableau

DRAWS = 2000  # of the bootstrap
CANDIDATES = 3  # at most
Array = Any


@dataclass(frozen=True)
class Tried:
    """What the guard found. table: the first that is certainly better, else the best candidate; sure: whether it is.

    seen: what was seen of it, a look each. number: how many candidates were tried.
    """

    table: Tableau
    sure: bool
    seen: list[Evidence]
    number: int

    @property
    def samples(self) -> int:
        """Untouched samples that were drawn of it."""
        return self.seen[-1].samples

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {"tried": self.number, "said": words(self.seen), "looks": [look.told() for look in self.seen]}


def summary(squares: Tensor) -> dict[str, float]:
    """rms, mean, median and 95 % tail of errors, from the mean squares of the samples."""
    errors = squares.sqrt().numpy()
    return {
        "rms": float(np.sqrt(np.mean(errors**2))),
        "mean": float(errors.mean()),
        "median": float(np.median(errors)),
        "tail95": float(np.quantile(errors, 0.95)),
    }


def compared(learned: Tensor, base: Tensor, floor: float = 0.0) -> dict[str, Any]:
    """How two sets of mean squares on the same samples compare: ratios learned / base with 95 % intervals.

    floor: error below which the reference does not know; nothing is claimed to be nearer.
    """
    a, b = (np.maximum(v.numpy(), max(TINY, floor**2)) for v in (learned, base))
    logs = 0.5 * np.log(a / b)
    seen = evidence(learned, base, ALPHA, floor)
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(a), (DRAWS, len(a)))
    of_rms = np.sqrt(a[picks].mean(1) / b[picks].mean(1))
    of_median = np.sqrt(np.median(a[picks], 1) / np.median(b[picks], 1))

    def told(value: float, drawn: Array) -> dict[str, Any]:
        return {"ratio": float(value), "interval": [float(q) for q in np.quantile(drawn, [0.025, 0.975])]}

    return {
        "gain": _told(seen.gain),
        "rms": told(float(np.sqrt(a.mean() / b.mean())), of_rms),
        "tails": _told(seen.tails),
        "median": told(float(np.sqrt(np.median(a) / np.median(b))), of_median),
        "worse": float((logs > 0).mean()),
        "worst": float(np.exp(logs.max())),
        "samples": len(a),
    }


def _told(found: Ratio) -> dict[str, Any]:
    return {"ratio": found.ratio, "interval": [found.low, found.high]}


def certain(comparison: dict[str, Any]) -> bool:
    """Whether the gain is beyond doubt, and that the tails are no longer; reports of before know the rms alone."""
    if comparison["gain"]["interval"][1] >= 1:
        return False
    tails = comparison.get("tails")
    return bool(comparison["rms"]["ratio"] <= 1 if tails is None else tails["interval"][1] < TOLERATED)


def rounded(denoiser: Denoiser) -> Denoiser:
    """The network as if it computed in bfloat16: what it is shown and what it says are rounded."""

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        return denoiser.call(x.bfloat16().to(x.dtype), tau).bfloat16().to(x.dtype)

    return Denoiser(fn, denoiser.schedule, denoiser.prediction, denoiser.vector_time)


def rounding_effect(task: Task, table: Tableau, seen: Part) -> float:
    """rms error of a quarter of a part, 32 samples at most, under bfloat16 rounding, over the error without."""
    part = task.problem.part(seen.seeds[: in_bfloat16(len(seen.seeds))])
    plain = task.errors(table, [seen])[: len(part.seeds)]
    coarse = Part(part.seeds, rounded(part.denoiser), part.x_T)
    moved = task.judged.judged(task.problem, part, task.problem.draw(table, coarse), task.teacher.end(part))
    return float((moved.mean() / plain.mean().clamp_min(1e-30)).sqrt())


def tried(task: Task, base: Tableau, guard: Sequence[int], floor: float, most: int = CANDIDATES) -> Tried:
    """At most so many candidates of a task against the best fixed recipe on untouched seeds, as many as it takes."""
    found = candidates(task, base)[:most]

    def errors(k: int, count: int) -> tuple[Tensor, Tensor]:
        parts = task.problem.parts(guard[:count])
        return task.errors(found[k], parts), task.errors(base, parts)

    taken, seen = sought(errors, len(guard), len(found), floor)
    return Tried(found[taken or 0], taken is not None, seen[taken or 0], len(seen))


def candidates(task: Task, base: Tableau) -> list[Tableau]:
    """The best tables of the stages, best first, those that are better than the base on the validation seeds.

    None of them costs more evaluations than the base. Where none is better, the best of them all the same, so that the report
    says how far it is.
    """
    ranked = {
        id(table): (found, table)
        for found, table in sorted(task.best_of.values(), key=lambda one: one[0])
        if table.cost <= base.cost + 1e-9
    }
    score, tables = task.judge(base), [table for _, table in ranked.values()]
    better = [table for found, table in ranked.values() if found < score]
    return better[:CANDIDATES] or tables[:1] or [base]


def report(task: Task, learned: Tableau, base: Tableau, guard: Sequence[int], floor: float = 0.0) -> dict[str, Any]:
    """Everything that is told about a learned table and the best fixed one, on training, validation and untouched seeds."""
    seen = task.problem.parts(
        task.train[: len(task.valid)]
    )  # as many as decide: it is the difference that is looked at
    splits = {"train": seen, "validation": task.valid_parts(), "test": task.problem.parts(guard)}
    found: dict[str, Any] = {"judged_by": task.judged.name, "learned": {}, "best_fixed": {}}
    for name, parts in splits.items():
        a, b = task.errors(learned, parts), task.errors(base, parts)
        found["learned"][name], found["best_fixed"][name] = (summary(v.clamp_min(floor**2)) for v in (a, b))
        if name == "test":
            found["test"] = compared(a, b, floor)
    for by in {LATENT, task.loss} - {task.judged}:
        a, b = (task.errors(table, splits["test"], by) for table in (learned, base))
        beside = {"learned": summary(a), "best_fixed": summary(b), "test": compared(a, b)}
        found.setdefault("beside", {})[by.name] = beside
    few = splits["test"][0]
    found["size"] = {
        label: {
            "largest_weight": largest_weight(table),
            "amplification": amplification(table),
            "bf16": rounding_effect(task, table, few),
        }
        for label, table in (("learned", learned), ("best_fixed", base))
    }
    return found
