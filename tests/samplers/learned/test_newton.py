"""Gauss-Newton steps on a table's knobs: the right equations, what was planted is found, never worse than the start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import ring, sixteen, task

from fewstep.samplers import Denoiser, NoiseSchedule, Tableau, build, sample
from fewstep.samplers.learned.descent.curvature import Fit
from fewstep.samplers.learned.methods.newton import newton
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.tasks.learner_entry import METHODS

VP = NoiseSchedule.vp_linear()


def test_the_equations_are_the_derivatives_of_the_error() -> None:
    """g is half the slope of the weighted squares, A that of g where the result is linear: in the last row's weights."""
    problem = task(ring(), (2,), 4, train=16, valid=4)
    start = build("dpmpp_2m", VP, 4, "quadratic")
    knobs = Knobs(start, problem.problem.prediction, ("grid", "coef", "tau"), 3)
    fit = Fit(problem, knobs, problem.train_parts(5), power=0.0)
    n = sum(len(v) for v in knobs.parameters.values())
    A, g = fit.equations(np.zeros(n), start)
    h = 1e-5
    for i, unit in enumerate(np.eye(n)):
        slope = (fit.squares(fit.table(h * unit)).sum() - fit.squares(fit.table(-h * unit)).sum()) / (2 * h)
        assert abs(0.5 * slope - g[i]) < 1e-3 * np.abs(g).max()
    last = next(i for i, name in enumerate(_names(knobs)) if name == "tau") - 1
    one = np.eye(n)[last]
    moved = fit.equations(0.3 * one, fit.table(0.3 * one))
    assert A[last, last] > 0 and abs(moved[0][last, last] / A[last, last] - 1) < 1e-6
    assert abs((moved[1][last] - g[last]) / 0.3 - A[last, last]) < 1e-6 * A[last, last]


def _names(knobs: Knobs) -> list[str]:
    return [name for name, values in knobs.parameters.items() for _ in range(len(values))]


class Ends:
    """A teacher whose ends are those of a table."""

    def __init__(self, table: Tableau):
        self.table = table

    def prepare(self, parts: Any) -> None:
        """Nothing to run beforehand."""

    def end(self, part: Any) -> torch.Tensor:
        found = sample(part.denoiser, part.x_T, self.table)
        assert isinstance(found, torch.Tensor)
        return found


@pytest.mark.parametrize(
    ("schedule", "power"), [(VP, 0.0), (VP, 1.0), (NoiseSchedule.flow(), 1.0), (NoiseSchedule.edm(), 1.0)]
)
def test_planted_knobs_are_reached(schedule: NoiseSchedule, power: float) -> None:
    problem = task(sixteen(schedule), (16,), 4, train=48, valid=32)
    start = build("dpmpp_2m", schedule, 4)
    knobs = Knobs(start, problem.problem.prediction, ("grid", "coef", "tau"), 3)
    random = torch.Generator().manual_seed(3)
    knobs.set({k: 0.1 * torch.randn(v.shape, generator=random, dtype=torch.float64) for k, v in knobs.values().items()})
    problem.teacher = Ends(knobs.table())  # type: ignore[assignment]
    before = problem.judge(start)
    assert problem.judge(newton(problem, start, power=power, rounds=20)) < 1e-3 * before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring", pytest.param("sixteen", marks=pytest.mark.slow)])
def test_a_few_rounds_take_away_a_third_and_more_without_gradients(name: str) -> None:
    """From the best of the fixed grids, through a network that torch cannot differentiate."""
    make, shape = {"ring": (ring, (2,)), "sixteen": (sixteen, (16,))}[name]
    inner = make()
    blunt = Denoiser(lambda x, tau: inner.fn(x.detach(), tau.detach()).detach(), VP, "sample")
    problem, tables = task(blunt, shape, 5, train=96, valid=96), []
    start = min((build("dpmpp_2m", VP, 5, grid) for grid in ("uniform", "quadratic", "logsnr")), key=problem.judge)
    for size in (256, 40):
        problem = task(blunt, shape, 5, train=96, valid=96, batch_size=size)
        tables.append(newton(problem, start))
    assert problem.judge(tables[0]) < 0.6 * problem.judge(start)
    assert abs(problem.judge(tables[0]) / problem.judge(tables[1]) - 1) < 1e-4
    assert problem.best_score == problem.judge(tables[1])


def test_it_repeats_itself_and_never_returns_what_is_worse_than_its_start() -> None:
    found = []
    for _ in range(2):
        problem = task(ring(), (2,), 5, train=64, valid=64)
        found.append(newton(problem, build("dpmpp_2m", VP, 5), rounds=3))
    assert np.array_equal(found[0].W, found[1].W) and np.array_equal(found[0].model_times, found[1].model_times)
    problem = task(ring(), (2,), 5, train=64, valid=64)
    problem.train, problem.valid = problem.train, tuple(range(10_000, 10_064))
    start = build("dpmpp_2m", VP, 5, "quadratic")
    real, shuffled = problem.teacher.end, torch.randperm(64, generator=torch.Generator().manual_seed(0))
    problem.teacher.end = lambda part: real(part)[shuffled] if part.seeds[0] == 0 else real(part)  # type: ignore[method-assign]
    kept = newton(problem, start, rounds=3)  # told the ends of other samples
    assert problem.judge(kept) <= problem.judge(start)


@pytest.mark.parametrize("solver", ["unipc", "heun"])
def test_other_solvers(solver: str) -> None:
    problem = task(sixteen(), (16,), 6, train=64, valid=64)
    start = build(solver, VP, 6, "quadratic")
    assert problem.judge(newton(problem, start, rounds=2)) < 0.8 * problem.judge(start)


@pytest.mark.slow
def test_with_noise_weights_and_times_are_learned_on_the_samples_own_paths() -> None:
    """The reference is a longer run on the same Brownian paths; the grid, by which they have no derivative, stays."""
    problem = task(ring(), (2,), 4, train=24, valid=24, teacher={"solver": "dpmpp_2m_sde", "nfe": 32})
    start = build("dpmpp_2m_sde", VP, 4, "quadratic")
    found = newton(problem, start, rounds=2, window=2)
    assert problem.judge(found) < 0.9 * problem.judge(start)
    assert found.stochastic and np.array_equal(found.times, start.times)


def test_evaluations_and_wrong_input() -> None:
    problem = task(ring(), (2,), 4, train=32, valid=8)
    start = build("dpmpp_2m", VP, 4)
    for options, said in (
        ({"rounds": 0}, "rounds"), ({"power": 3.0}, "power"), ({"free": ("weights",)}, "grid, coef, state, tau"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            newton(problem, start, **options)  # type: ignore[arg-type]
    few = task(ring(), (2,), 4, train=5, valid=8)
    with pytest.raises(ValueError, match="newton fits .* and there are 5 training samples"):
        newton(few, start)
    assert problem.problem.spent == few.problem.spent == 0
    for parts in (problem.train_parts(), problem.valid_parts()):
        problem.teacher.prepare(parts)
    before = problem.problem.spent
    METHODS.find("newton").fn(problem, start, rounds=1, free=("coef",), window=2)
    turned = 2 + 1 + 0  # calls after the row of each of three weights
    assert (
        problem.problem.spent - before == 32 * (4 + 4 + turned + 4) + 4 * 2 * 8
    )  # the start, again with them, and the step
    assert newton(task(ring(), (2,), 1, train=8, valid=8), build("ddim", VP, 1)).nfe == 1
