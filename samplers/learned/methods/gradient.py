"""Methods that go down the gradient of the error through the sampler, each a choice of knobs and of a loss.

    x0(knobs) = play(x_T, W(knobs), tau(knobs)),     minimise over seeds  loss(x0(knobs) - x0(teacher))

Knobs at zero are the table that a method is given, so that methods can follow one another.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fewstep.samplers.learned.methods.curvature import even
from fewstep.samplers.learned.methods.descent import Objective, descend
from fewstep.samplers.learned.methods.objectives import Recipe
from fewstep.samplers.learned.playing.differentiable import has_gradients
from fewstep.samplers.learned.playing.knobs import Knobs
from fewstep.samplers.learned.problem.problem import Part
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.tasks.learner_entry import method
from fewstep.samplers.learned.tasks.task import Task, enough
from fewstep.samplers.table.tableau import Tableau

Tensor = torch.Tensor
Rates = float | Mapping[str, float] | None


def follows(task: Task, what: str) -> bool:
    """Whether the network has gradients; a warning where it does not, and the stage is left out."""
    part = task.problem.part(task.train[:1])
    found = has_gradients([part], 0.5 * (task.problem.t_start + task.problem.t_end))
    task.problem.spent += len(part.seeds)
    if not found:
        warnings.warn(
            f"{what} needs gradients of the network, which this one does not have: the stage was left out. Methods without "
            "gradients, such as oss and iia, learn on it",
            stacklevel=3,
        )
    return found


def _learn(
    task: Task, start: Tableau, stages: Sequence[tuple[tuple[Sequence[str], int, bool], Recipe]], name: str, **how: Any
) -> Tableau:
    """Descents one after another, each from the table of the one before. Knobs are (free, window, consistent)."""
    if not follows(task, name):
        return start
    until = None if task.seconds is None else time.monotonic() + task.seconds
    for i, (turned, recipe) in enumerate(stages):
        if i and until is not None and time.monotonic() > until:
            break
        knobs = Knobs(start, task.problem.prediction, *turned)
        if not knobs.parameters:
            continue
        enough(knobs.count, task.train, name)
        if recipe.even:
            even(task, knobs, recipe.even)
        found = descend(task, knobs, recipe, tag=f"{name}-{i}", until=until, **how)
        start = start if found is knobs.start else found
    return start


@method(
    "joint",
    learns=("grid", "coef", "tau"),
    gradients=True,
    reference="ours; corrections on a solver's own weights as in Oganov et al., GAS: Improving Discretization of Diffusion "
    "ODEs via Generalized Adversarial Solver, 2025, arXiv 2510.17699",
)
def joint(
    task: Task,
    start: Tableau,
    *,
    free: tuple[str, ...] = ("grid", "coef", "tau"),
    window: int | None = 3,
    consistent: bool = True,
    loss: Any = "mixed",
    steps: int = 300,
    batch: int = 32,
    lr: Rates = None,
    even: int = 16,
    rounds: int = 2,
    remember: bool = False,
) -> Tableau:
    """Grid, weights of the last `window` outputs and network times together, from the solver's own weights.

    The knobs are turned along axes that move the result evenly, as measured on `even` samples (0: each by itself), anew in
    each of `rounds`, among which `steps` are divided.

    free: may name "state" too, the weight of the state that a step starts from. window: None for all outputs. consistent:
    corrections leave a constant x0 and eps exact. loss, steps, batch, lr, remember: see `Recipe`.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"joint: `rounds` must be a whole number, at least 1; got {rounds!r}")
    recipe = Recipe(
        loss=loss, steps=min(steps, max(1, steps // rounds)), batch=batch, lr=lr, remember=remember, even=even
    )
    turned = (free, start.nfe if window is None else window, consistent)
    return _learn(task, start, [(turned, recipe)] * rounds, "joint")


@method(
    "ld3",
    learns=("grid", "tau"),
    gradients=True,
    reference="Tong et al., Learning to Discretize Denoising Diffusion ODEs, 2025, arXiv 2405.15506",
)
def ld3(
    task: Task,
    start: Tableau,
    *,
    ball: float | str = 0.0,
    decoupled: bool = True,
    loss: Any = "mse",
    steps: tuple[int, int] = (100, 200),
    batch: int = 32,
    lr: Rates = None,
    optimizer: str = "adam",
    remember: bool = False,
) -> Tableau:
    """The grid, then grid and network times (`decoupled`), by the error of the result.

    ball: |x_T' - x_T| <= ball, within which the training noise may move to where the student agrees with the teacher; a
    move is kept only if the error of its sample falls. "card" takes 0.001 * (numbers of a sample) / nfe^2, which was
    published for images. Validation is always with the noise where it is. steps: of the two phases. Others: see `Recipe`.
    """
    size = task.problem.part(task.train[:1]).x_T.numel()
    radius = 0.001 * size / task.nfe**2 if ball == "card" else _number(ball, "ball")
    how: dict[str, Any] = {"loss": loss, "batch": batch, "lr": lr, "optimizer": optimizer, "remember": remember}
    how |= {"ball": radius, "ball_lr": 12 / task.nfe}
    stages: list[Any] = [((("grid",), 1, True), Recipe(steps=steps[0], **how))]
    if decoupled:
        stages.append(((("grid", "tau"), 1, True), Recipe(steps=steps[1], **how)))
    return _learn(task, start, stages, "ld3")


def _number(value: Any, name: str) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    raise ValueError(f'`{name}` must be a radius or "card"; got {value!r}')


@method(
    "tta",
    learns=("tau",),
    gradients=True,
    reference="Xia et al., Towards More Accurate Diffusion Model Acceleration with A Timestep Aligner, 2023, arXiv 2310.09469",
)
def tta(
    task: Task,
    start: Tableau,
    *,
    mode: str = "parallel",
    steps: int = 150,
    batch: int = 32,
    lr: Rates = None,
    remember: bool = True,
) -> Tableau:
    """The times shown to the network: each call's brings the next state to the teacher's, through that call alone.

        tau_k = argmin E log |x_{k+1}(tau_k) - teacher(t_{k+1})|^2      on states x_k of the sampler itself

    mode: "parallel" turns all at once, "sequential" one after another (`steps` are divided among them). The reference
    must have states on the way.
    """
    if mode not in ("parallel", "sequential"):
        raise ValueError(f'`mode` must be "parallel" or "sequential"; got {mode!r}')
    calls = range(1, start.nfe)
    groups = [tuple(calls)] if mode == "parallel" else [(k,) for k in calls]
    if not follows(task, "tta") or not groups:
        return start
    until = None if task.seconds is None else time.monotonic() + task.seconds
    recipe = Recipe(steps=max(1, steps // len(groups)), batch=batch, lr=lr, remember=remember)
    for i, group in enumerate(groups):
        knobs = Knobs(start, task.problem.prediction, ("tau",), 1)
        enough(knobs.count, task.train, "tta")
        found = descend(task, knobs, recipe, tag=f"tta-{i}", objective=_aligned(group), cut=True, until=until)
        start = start if found is knobs.start else found
    return start


def _aligned(calls: tuple[int, ...]) -> Objective:
    """Mean log error of the states after these calls, against the teacher at their times."""

    def objective(states: list[Tensor], part: Part, teacher: Teacher, knobs: Knobs) -> Tensor:
        errors = [_squares(states[k + 1], teacher.path(part).at(float(knobs.start.times[k + 1]))) for k in calls]
        return torch.stack([e.log().mean() for e in errors]).mean()

    return objective


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """(B,) mean square differences, kept from zero."""
    return (x - y).double().flatten(1).square().mean(1) + 1e-30


@method(
    "dss",
    learns=("grid", "coef"),
    gradients=True,
    reference="Wang et al., Differentiable Solver Search for Fast Diffusion Sampling, 2025, arXiv 2505.21114",
)
def dss(
    task: Task,
    start: Tableau,
    *,
    nodes: float = 1.0,
    huber: float = 1e-3,
    end: float = 1000.0,
    optimizer: str = "lion",
    steps: int = 300,
    batch: int = 32,
    lr: Rates = 0.01,
    remember: bool = False,
) -> Tableau:
    """The grid and weights of all outputs that keep a constant velocity exact, by the states on the way and the end.

        loss = nodes sum_k |x_k - teacher(t_k)|^2 + end Huber_huber(x0 - teacher)

    In velocities v = eps - x0 these are x += dr_i sum_j C_ij v_j with rows of C that sum to one: N (N + 1) / 2 numbers, one
    of them idle. The teacher's times are those of the nodes at each step, held fixed in the derivative.
    """

    def objective(states: list[Tensor], part: Part, teacher: Teacher, knobs: Knobs) -> Tensor:
        times = knobs.table().times
        on_way = sum(
            (_squares(states[k], teacher.path(part).at(float(times[k]))).mean() for k in range(1, len(states) - 1)), _0
        )
        gap = (states[-1] - teacher.end(part)).double()
        small = gap.abs() <= huber
        final = torch.where(small, 0.5 * gap.square(), huber * (gap.abs() - 0.5 * huber)).mean()
        return nodes * on_way + end * final

    recipe = Recipe(steps=steps, batch=batch, lr=lr, optimizer=optimizer, remember=remember)
    return _learn(task, start, [((("grid", "coef"), start.nfe, True), recipe)], "dss", objective=objective)


_0 = torch.zeros((), dtype=torch.float64)


@method(
    "bns",
    learns=("grid", "coef"),
    gradients=True,
    reference="Shaul et al., Bespoke Non-Stationary Solvers for Fast Sampling of Diffusion and Flow Models, 2024, "
    "arXiv 2403.01329",
)
def bns(
    task: Task,
    start: Tableau,
    *,
    loss: Any = "log",
    steps: int = 300,
    batch: int = 32,
    lr: Rates = None,
    remember: bool = False,
) -> Tableau:
    """Every weight and the grid, tied to nothing: x_{k+1} = a_k x_k + sum_j b_kj m_j, by the log of the final error.

    N (N + 5) / 2 + 1 numbers with the two ends of the grid, which stay. Earlier states add nothing to it, see `tables`.
    """
    recipe = Recipe(loss=loss, steps=steps, batch=batch, lr=lr, remember=remember)
    return _learn(task, start, [((("grid", "coef", "state"), start.nfe, False), recipe)], "bns")


@method(
    "s4s",
    learns=("grid", "coef", "tau"),
    gradients=True,
    reference="Frankel et al., S4S: Solving for a Diffusion Model Solver, 2025, arXiv 2502.17423",
)
def s4s(
    task: Task,
    start: Tableau,
    *,
    alternating: bool = True,
    rounds: int = 2,
    window: int = 3,
    consistent: bool = False,
    loss: Any = "log",
    steps: int = 300,
    batch: int = 32,
    lr: Rates = None,
    ball: float = 0.0,
    remember: bool = False,
) -> Tableau:
    """Weights of the last `window` outputs on the given grid; `alternating` with grid and network times, `rounds` times.

    steps: in all. ball: as in `ld3`. consistent: only corrections that leave a constant x0 and eps exact.
    """
    count = 2 * rounds if alternating else 1
    how: dict[str, Any] = {"loss": loss, "steps": max(1, steps // count), "batch": batch, "lr": lr, "ball": ball}
    recipe = Recipe(remember=remember, ball_lr=12 / task.nfe, **how)
    weights, places = (("coef",), window, consistent), (("grid", "tau"), 1, True)
    turns = [(weights, recipe), (places, recipe)] * rounds if alternating else [(weights, recipe)]
    return _learn(task, start, turns, "s4s")
