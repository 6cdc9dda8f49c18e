"""Weights by least squares: exact where they can be, what was planted is found, and without any effect the start itself."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import Axes, ring, sixteen, task
from torch import Tensor

from fewstep.samplers import NoiseSchedule, Tableau, build, sample
from fewstep.samplers.artefact.corrections import INPUT, M
from fewstep.samplers.learned.fitting.on_policy import OnPolicy
from fewstep.samplers.learned.playing.arithmetic import corrected, correction, directions, largest_weight
from fewstep.samplers.learned.tasks.learner_entry import METHODS
from fewstep.samplers.learned.tasks.learner_task import Task

VP = NoiseSchedule.vp_linear()
ABAR = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000))
SCHEDULES = {
    "vp": VP,
    "discrete": NoiseSchedule.discrete(ABAR),
    "flow": NoiseSchedule.flow(),
    "edm": NoiseSchedule.edm(),
}  # fmt: skip


def learned(task: Task, start: Tableau, method: str = "iia", **options: Any) -> Tableau:
    table = METHODS[method].fn(task, start, **options)
    assert isinstance(table, Tableau)
    return table


class Played:
    """A teacher whose states are those of a table, and known at its nodes only."""

    def __init__(self, task: Task, table: Tableau):
        self.task, self.table = task, table

    def path(self, part: Any) -> Any:
        states = [part.x_T]
        sample(part.denoiser, part.x_T, self.table, callback=lambda step: states.append(step.x))
        known = {float(t): x for t, x in zip(self.table.times, states, strict=True)}
        return SimpleNamespace(at=lambda t: known[t])

    def prepare(self, parts: Any) -> None:
        """Nothing to run beforehand."""

    def end(self, part: Any) -> Tensor:
        return sample(part.denoiser, part.x_T, self.table)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_3m", "deis", "unipc", "cab"])
def test_planted_weights_are_found(kind: str, solver: str) -> None:
    """Small corrections, consistent, on every row: the states of that table are a teacher that can be matched exactly."""
    problem = task(sixteen(SCHEDULES[kind]), (16,), 4, train=64, valid=4)
    base = build(solver, SCHEDULES[kind], 4)
    random, delta = np.random.default_rng(1), np.zeros((4, 4))
    for k in range(4):
        D = directions(base, k, 4)
        delta[k, : len(D)] = D @ random.normal(size=D.shape[1]) * 0.05 * np.abs(base.W[k, INPUT, M:]).max()
    planted = corrected(base, delta)
    assert np.abs(delta[-1]).max() > 1e-2 * np.abs(base.W[-1, INPUT, M:]).max()
    problem.teacher = Played(problem, planted)  # type: ignore[assignment]
    for weights in ("equal", "relative"):
        found = learned(problem, base, weights=weights, ridge=0.0, limit=1e9)
        assert np.abs(correction(found, base)[0] - delta).max() < 1e-8
        assert found.conserves == base.conserves == "x0 eps"


def test_a_corrected_start_is_corrected_further() -> None:
    problem = task(ring(), (2,), 4, train=64, valid=4)
    base = build("dpmpp_2m", VP, 4, "quadratic")
    start = corrected(base, np.array([[0, 0], [0.05, -0.05], [-0.1, 0.1], [0.02, -0.02]]))
    planted = corrected(base, np.array([[0, 0], [0.2, -0.2], [0.1, -0.1], [-0.03, 0.03]]))
    problem.teacher = Played(problem, planted)  # type: ignore[assignment]
    found = learned(problem, start, window=2, ridge=0.0)
    assert np.abs(correction(found, base)[0][:, :2] - correction(planted, base)[0]).max() < 1e-8


@pytest.mark.parametrize("kind", SCHEDULES)
def test_one_isotropic_gaussian_is_exact(kind: str) -> None:
    """Seen from the mean all states and outputs of a seed are parallel: two outputs reach any point of the line."""
    mean = torch.tensor([[0.5, -0.3, 0.2]])
    denoiser = Axes(mean, torch.full((1, 3), 0.4), torch.ones(1)).denoiser(SCHEDULES[kind])
    problem = task(denoiser, (3,), 5, train=32, valid=8, teacher={"nfe": 40})
    start = build("dpmpp_2m", SCHEDULES[kind], 5)
    for window in (2, 3):
        found = learned(problem, start, window=window, ridge=0.0)
        worst = max(problem.errors(found, problem.valid_parts()))
        assert worst.sqrt() < 1e-10 < 1e-4 < max(problem.errors(start, problem.valid_parts())).sqrt()


@pytest.mark.parametrize("weights", ["equal", "relative"])
@pytest.mark.parametrize("options", [{"window": 2}, {"window": 3}, {}, {"consistent": False}])
def test_no_step_is_worse_than_that_of_the_base_from_the_same_states(weights: str, options: dict[str, Any]) -> None:
    """Row by row: the states before row k are those of the learned table, then row k of the base or of the learned."""
    problem = task(ring(), (2,), 6, train=64, valid=4)
    start = build("dpmpp_2m", VP, 6, "logsnr")
    found = learned(problem, start, weights=weights, **options)
    delta, _ = correction(found, start)
    way = OnPolicy(problem, start, "iia")
    gains = []
    for k in range(6):
        way.call(k)
        lines = way.table.W[k].copy()
        left = [way.products(k, lines, np.eye(1)).square]
        reach = min(k + 1, delta.shape[1])
        lines[:, M : M + reach] += delta[k, :reach]
        left.append(way.products(k, lines, np.eye(1)).square)
        before, after = (v.mean() if weights == "equal" else huber(v, left[0].mean()) for v in left)
        gains.append(after / before)
        way.advance(k, lines)
    assert max(gains) < 1 + 1e-12 and min(gains) < 0.5
    assert float((way.ways[0].input - sample(problem.problem.model, way.ways[0].part.x_T, found)).abs().max()) < 1e-12


def huber(square: np.ndarray, mean: float) -> float:
    """Mean of |r|, of r^2 / 2 d + d / 2 where |r| is below d, 1 % of the rms before."""
    d = 0.01 * np.sqrt(mean)
    size = np.sqrt(square)
    return float(np.where(size > d, size, 0.5 * square / d + 0.5 * d).mean())


@pytest.mark.parametrize("method", ["iia", "d_ode"])
def test_an_infinite_ridge_is_the_start_to_the_last_bit(method: str) -> None:
    problem = task(ring(), (2,), 5, train=32, valid=4)
    start = build("unipc", VP, 5)
    assert learned(problem, start, method, ridge=float("inf")) is start
    shrunk = learned(problem, start, method, ridge=1e12)
    assert 0 < np.abs(correction(shrunk, start)[0]).max() < 1e-12


@pytest.mark.parametrize("grid", ["karras", "logsnr"])
@pytest.mark.parametrize("nfe", [5, 8])
def test_no_weight_becomes_dangerous_in_bfloat16(grid: str, nfe: int) -> None:
    problem = task(sixteen(), (16,), nfe, train=64, valid=4)
    start = build("dpmpp_2m", VP, nfe, grid)
    assert largest_weight(learned(problem, start)) <= 10
    assert largest_weight(learned(problem, start, ridge=0.0)) <= 10
    assert largest_weight(learned(problem, start, limit=3.0)) <= 3 + 1e-12
    if grid == "karras":  # where early outputs are nearly equal
        assert largest_weight(learned(problem, start, ridge=0.0, limit=1e9)) > 10


def test_d_ode_is_one_number_a_row_along_the_newest_difference() -> None:
    problem = task(ring(), (2,), 5, train=64, valid=4)
    start = build("dpmpp_2m", VP, 5, "quadratic")
    found = learned(problem, start, "d_ode", target="global")
    delta, _ = correction(found, start)
    assert np.abs(delta[:, 0] + delta[:, 1]).max() < 1e-15 and not delta[0].any() and (delta[1:, 0] != 0).all()
    same = learned(problem, start, window=2, weights="equal")
    assert np.array_equal(found.W, same.W)


def test_the_local_target_is_where_fine_steps_lead_from_the_students_own_state() -> None:
    """Their number makes them the flow: a state that left the teacher's path is not pulled back."""
    problem = task(ring(), (2,), 3, train=32, valid=4)
    start = build("dpmpp_2m", VP, 3, "quadratic")
    way = OnPolicy(problem, start, "iia", "local", fine=400)
    way.call(0)
    way.advance(0, way.table.W[0])
    own, part = way.ways[0], way.ways[0].part
    s, t = start.times[1:3]
    want = sample(part.denoiser, own.input, build("etd_rk4", VP, 400, t_start=s, t_end=t))
    assert float((way._target(own, 1) - want).abs().max()) < 1e-5
    assert float((problem.teacher.path(part).at(t) - want).abs().max()) > 1e-2


@pytest.mark.parametrize("solver", ["dpmpp_2s", "heun", "etd_rk4"])
@pytest.mark.parametrize("target", ["global", "local"])
def test_steps_of_several_calls_are_corrected_where_they_end(solver: str, target: str) -> None:
    problem = task(sixteen(), (16,), 8, train=64, valid=32)
    start = build(solver, VP, 8, "quadratic")
    found = learned(problem, start, target=target)
    ends = np.cumsum(start.groups) - 1
    delta, _ = correction(found, start)
    inside = np.setdiff1d(np.arange(8), ends)
    assert len(inside) and not delta[inside].any() and delta[ends[-1]].any()
    assert problem.judge(found) < problem.judge(start)


@pytest.mark.parametrize("method", ["iia", "d_ode"])
@pytest.mark.slow
def test_learning_helps_repeats_itself_and_does_not_depend_on_the_batch(method: str) -> None:
    start, tables = build("dpmpp_2m", VP, 5, "quadratic", lower_order_final=False), []
    for size in (256, 256, 7):
        problem = task(ring(), (2,), 5, train=64, valid=64, batch_size=size)
        tables.append(learned(problem, start, method))
    assert np.array_equal(tables[0].W, tables[1].W)
    assert np.abs(tables[0].W - tables[2].W).max() < 1e-10
    assert problem.judge(tables[0]) < 0.8 * problem.judge(start)
    assert problem.best is not None and problem.best_score == problem.judge(tables[2])


def test_every_network_call_is_counted() -> None:
    problem = task(ring(), (2,), 5, train=32, valid=8)
    start = build("dpmpp_2m", VP, 5)
    for part in problem.train_parts():
        problem.teacher.end(part)
    problem.judge(start)
    before = problem.problem.spent
    learned(problem, start)
    assert problem.problem.spent - before == (32 + 8) * 5  # learning, and judging on validation seeds
    before = problem.problem.spent
    learned(problem, start, "d_ode", fine=3)
    assert problem.problem.spent - before == (32 + 8) * 5 + 32 * 4 * 3  # the first row has nothing to fit


@pytest.mark.parametrize(
    ("options", "said"),
    [({"window": 0}, "window"), ({"window": 1.5}, "window"), ({"ridge": -1.0}, "ridge"), ({"limit": 0.0}, "limit"),
     ({"weights": "log"}, "equal"), ({"target": "there"}, "global"), ({"fine": 0}, "fine")],
)  # fmt: skip
def test_bad_options_are_named_before_any_call(options: dict[str, Any], said: str) -> None:
    problem = task(ring(), (2,), 5, train=32, valid=4)
    with pytest.raises(ValueError, match=said):
        learned(problem, build("dpmpp_2m", VP, 5), **options)
    assert problem.problem.spent == 0


def test_too_few_seeds_and_noise_are_refused_before_any_call() -> None:
    problem = task(ring(), (2,), 5, train=9, valid=4)
    with pytest.raises(ValueError, match=r"iia fits 10 numbers, and there are 9 training samples.*range\(80\)"):
        learned(problem, build("dpmpp_2m", VP, 5), window=5)
    few = task(ring(), (2,), 5, train=3, valid=4)
    with pytest.raises(ValueError, match="iia fits 4 numbers, and there are 3 training samples"):
        learned(few, build("dpmpp_2m", VP, 5))
    with pytest.raises(ValueError, match="adds noise on the way"):
        learned(problem, build("sa_solver", VP, 5))
    assert problem.problem.spent == few.problem.spent == 0


def test_as_many_outputs_as_there_are_samples_for() -> None:
    """window=None is the widest window that has at least as many samples as numbers."""
    problem, start = task(ring(), (2,), 5, train=9, valid=4), build("dpmpp_2m", VP, 5)
    assert np.array_equal(learned(problem, start).W, learned(problem, start, window=4).W)
