"""An outside package: one of each kind, registered by decorators alone. test_registering.py installs it as a plugin."""

import numpy as np
import torch

from fewstep.eval import Extractor, metric, register_extractor
from fewstep.eval.report.result import Result
from fewstep.samplers import INPUT, Outcome, Path, Row, Solution, driver, grid, learner, schedule_class, solver
from fewstep.samplers.guidance import method
from fewstep.samplers.schedule.continuous import Flow


@solver("outside_euler", order=1, prediction="x0", reference="Ours, 2026", aliases=("Outside Euler",))
def outside_euler(path: Path, *, last: int = 1) -> Solution:
    """x_t = (sigma_t / sigma_s) x_s + (alpha_t - alpha_s sigma_t / sigma_s) x0."""
    rows = []
    for calls, s, t in path.steps():
        q = t.sigma / s.sigma
        rows += [Row(s, "x0", {INPUT: q, 0: t.alpha - s.alpha * q})] * calls
    return Solution(rows, order=last)


@driver("outside_driver", order=1, prediction="x0", reference="Ours, 2026")
def outside_driver(task, *, steps: int = 4):
    """Straight to the predicted x0, from a few times on the way."""
    x, times = task.x, np.linspace(task.t_start, task.t_end, steps + 1)
    for t in times[:-1]:
        x = task.predict("x0", x, float(t))
    return Outcome(x, steps, steps, steps)


@grid("outside_grid", "Ours, 2026")
def outside_grid(schedule, n, t_start, t_end, *, power: float = 3.0):
    """Equidistant in t^(1/power)."""
    return np.linspace(t_start ** (1 / power), t_end ** (1 / power), n + 1) ** power


@schedule_class
class OutsideFlow(Flow):
    """Rectified flow under another name."""


@learner("outside_learner", learns=("grid",), reference="Ours, 2026")
def outside_learner(task, table, *, rounds: int = 1):
    """The table as it is."""
    return table


@method("outside_guidance", kind="scale", reference="Ours, 2026")
def outside_guidance(denoiser, *, factor: float = 1.0):
    """The denoiser as it is."""
    return denoiser


@register_extractor("outside_extractor")
class OutsideExtractor(Extractor):
    """The mean of every channel."""

    name, protocol = "outside_extractor", "own"
    layers, parts = {"main": 3}, {"main": "main"}

    def prepare(self, images):
        return images.float()

    def taps(self, x, layers):
        return {"main": x.flatten(2).mean(2)}


@metric("outside_metric", reference="Ours, 2026", statistics=("main",))
def outside_metric(real, generated, *, order: float = 2.0):
    """The distance of the two means."""
    gap = real.statistics["main"].mean - generated.statistics["main"].mean
    return [Result("outside_metric", float(torch.linalg.vector_norm(gap, order)))]
