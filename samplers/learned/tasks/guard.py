"""Is it really better? A paired test on seeds that nobody has looked at, and the numbers of the report.

Both tables draw the same samples, so that the ratio of their errors is known for each one:

    ratio_i = error_i(learned) / error_i(base),    gain = exp(mean log ratio_i),

with a bootstrap over the samples. Learning counts only where the upper end of the gain's 95 % interval is below 1 and the
rms, which a few samples own, has not grown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from fewstep.samplers.learned.playing.arithmetic import amplification, largest_weight
from fewstep.samplers.learned.problem.problem import Part, squared_errors
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.table.tableau import Tableau

DRAWS = 2000  # of the bootstrap
Array = Any


def summary(squares: Tensor) -> dict[str, float]:
    """rms, mean, median and 95 % tail of errors, from the mean squares of the samples."""
    errors = squares.sqrt().numpy()
    return {
        "rms": float(np.sqrt(np.mean(errors**2))),
        "mean": float(errors.mean()),
        "median": float(np.median(errors)),
        "tail95": float(np.quantile(errors, 0.95)),
    }


def compared(learned: Tensor, base: Tensor) -> dict[str, Any]:
    """How two sets of mean squares on the same samples compare: ratios learned / base with 95 % intervals."""
    a, b = (np.maximum(v.numpy(), 1e-30) for v in (learned, base))
    logs = 0.5 * np.log(a / b)
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(a), (DRAWS, len(a)))
    gains = np.exp(logs[picks].mean(1))
    of_rms = np.sqrt(a[picks].mean(1) / b[picks].mean(1))
    of_median = np.sqrt(np.median(a[picks], 1) / np.median(b[picks], 1))

    def told(value: float, drawn: Array) -> dict[str, Any]:
        return {"ratio": float(value), "interval": [float(q) for q in np.quantile(drawn, [0.025, 0.975])]}

    return {
        "gain": told(float(np.exp(logs.mean())), gains),
        "rms": told(float(np.sqrt(a.mean() / b.mean())), of_rms),
        "median": told(float(np.sqrt(np.median(a) / np.median(b))), of_median),
        "worse": float((logs > 0).mean()),
        "worst": float(np.exp(logs.max())),
        "samples": len(a),
    }


def certain(comparison: dict[str, Any]) -> bool:
    """Whether the gain is beyond doubt and the rms no larger."""
    return bool(comparison["gain"]["interval"][1] < 1 and comparison["rms"]["ratio"] <= 1)


def rounded(denoiser: Denoiser) -> Denoiser:
    """The network as if it computed in bfloat16: what it is shown and what it says are rounded."""

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        return denoiser.call(x.bfloat16().to(x.dtype), tau).bfloat16().to(x.dtype)

    return Denoiser(fn, denoiser.schedule, denoiser.prediction, denoiser.vector_time)


def rounding_effect(task: Task, table: Tableau, part: Part) -> float:
    """rms error of a part under bfloat16 rounding, over the error without."""
    plain = task.errors(table, [part])
    coarse = Part(part.seeds, rounded(part.denoiser), part.x_T)
    moved = squared_errors(task.problem.draw(table, coarse), task.teacher.end(part))
    return float((moved.mean() / plain.mean().clamp_min(1e-30)).sqrt())


def report(task: Task, learned: Tableau, base: Tableau, guard: Sequence[int]) -> dict[str, Any]:
    """Everything that is told about a learned table and the best fixed one, on training, validation and untouched seeds."""
    seen = task.problem.parts(
        task.train[: len(task.valid)]
    )  # as many as decide: it is the difference that is looked at
    splits = {"train": seen, "validation": task.valid_parts(), "test": task.problem.parts(guard)}
    found: dict[str, Any] = {"learned": {}, "best_fixed": {}}
    for name, parts in splits.items():
        a, b = task.errors(learned, parts), task.errors(base, parts)
        found["learned"][name], found["best_fixed"][name] = summary(a), summary(b)
        if name == "test":
            found["test"] = compared(a, b)
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
