"""iia: the weights of every row in closed form, by least squares on the states that the corrected rows before it led to."""

from __future__ import annotations

from typing import Any

from fewstep.checks import whole
from fewstep.samplers.learned.fitting.least_squares import RIDGE, check_limits, fitted
from fewstep.samplers.learned.fitting.on_policy import OnPolicy
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.table.tableau import Tableau

IIA = "On Accelerating Diffusion-Based Sampling Processes via Improved Integration Approximation; Zhang, Niwa, Kleijn; 2023; arXiv:2304.11328"  # noqa: E501


@learner("iia", learns=("coef",), reference=IIA)
def iia(
    task: Task,
    start: Tableau,
    *,
    window: int | None = None,
    consistent: bool = True,
    ridge: float = RIDGE,
    limit: float = 10.0,
    weights: str = "relative",
    target: str = "global",
    fine: int = 10,
) -> Tableau:
    """Improved integration approximation: the weights of each row by least squares, on the states before it.

    One network call a row and sample, milliseconds of algebra, no gradients.

    Args:
        task: Task. start: deterministic table with scalar weights; one that is corrected already is corrected further.
        window: how many of the newest outputs may change their weights; None for all, or as many as there are training
            samples for. consistent: only so that a constant x0 and eps stay exact. ridge: of the formula above; infinity
            gives `start` back. limit: no weight on an output becomes larger; the ridge is raised where one would.
        weights: "equal" fits mean squares, "relative" mean sizes of what is missing, which few samples cannot own.
        target: "global", the teacher's states of the same seeds, which also repairs what went wrong before; "local", where
            `fine` steps of dpmpp_3m lead from the student's own state, as published (`fine` more calls a row).

    Raises:
        ValueError: an option outside its range, fewer training samples than weights, a table with noise.

    Reference: On Accelerating Diffusion-Based Sampling Processes via Improved Integration Approximation; Zhang, Niwa,
    Kleijn; 2023; arXiv:2304.11328. Robust, held, and with the global target here.
    """
    if window is not None:
        whole("window", window, hint="It counts outputs; None takes all")
    if weights not in ("equal", "relative"):
        raise ValueError(f'iia: `weights` must be "equal" or "relative"; got {weights!r}')
    check_limits(ridge, limit, "iia")
    way = OnPolicy(task, start, "iia", target, fine)
    how: dict[str, Any] = {"window": window, "consistent": consistent, "ridge": ridge, "limit": limit}
    return fitted(task, start, way, **how, robust=weights == "relative")
