"""Statistics of DPM-Solver-v3: exact where the model is linear, and what the formulas say where it is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy
import torch
from learned_problems import Axes, ring, sixteen, task
from torch import Tensor

import fewstep
from fewstep.samplers import Denoiser, NoiseSchedule, Statistics, build, sample
from fewstep.samplers.learned.fitting.model_statistics import estimate
from fewstep.samplers.learned.fitting.network_field import Field
from fewstep.samplers.learned.methods.ems import ems
from fewstep.samplers.learned.tasks.learner_task import Task

VP = NoiseSchedule.vp_linear()
ABAR = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000))
SCHEDULES = {
    "vp": VP,
    "discrete": NoiseSchedule.discrete(ABAR),
    "flow": NoiseSchedule.flow(),
    "edm": NoiseSchedule.edm(),
}
MEAN, STD = torch.tensor([[0.5, -0.3, 0.2]]).double(), torch.tensor([[0.9, 0.4, 0.1]]).double()


def gaussian(schedule: NoiseSchedule) -> Denoiser:
    return Axes(MEAN, STD, torch.ones(1)).denoiser(schedule)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCHEDULES)
def test_one_step_is_exact_on_an_axis_aligned_gaussian(kind: str) -> None:
    """l = sigma^2 / (alpha^2 v + sigma^2) leaves N without x: all that is left to the step is quadrature and splines."""
    schedule = SCHEDULES[kind]
    problem = task(gaussian(schedule), (3,), 2, train=8, valid=8, teacher={"nfe": 100})
    found = estimate(problem.teacher, problem.train_parts(), nodes=250, per="element")
    want = 1 / (1 + STD.numpy() ** 2 * np.exp(2 * found.lam[:, None]))
    assert np.abs(found.l - want).max() < 1e-6 and found.shape == (3,)
    t = [float(schedule.t_of_lam(lam)) for lam in (-2.0, 1.5)]
    for part in problem.valid_parts():
        x = part.x_T * 0 + torch.randn(part.x_T.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        (a, s), (alpha, sigma) = ((float(schedule.alpha(v)), float(schedule.sigma(v))) for v in t)
        size = ((alpha**2 * STD**2 + sigma**2) / (a**2 * STD**2 + s**2)).sqrt()
        exact = alpha * MEAN + size * (x - a * MEAN)
        errors = {}
        for name, statistics in (("ems", found), ("++", Statistics.data_prediction())):
            table = build("dpm_solver_v3", schedule, 1, np.array(t), statistics=statistics, order=1, corrector=False)
            errors[name] = float((play(problem, table, x) - exact).abs().max())
        assert errors["ems"] < 1e-5 < 1e-2 < errors["++"]


def play(problem: Task, table: Any, x: Tensor) -> Tensor:
    found = sample(problem.problem.model, x, table)
    assert isinstance(found, Tensor)
    return found


def forward_ring() -> Denoiser:
    """The ring with levels that torch differentiates in both modes."""
    angle = torch.arange(8, dtype=torch.float64) * np.pi / 4
    axes = Axes(1.4 * torch.stack([angle.cos(), angle.sin()], -1), torch.full((8, 2), 0.2), torch.ones(8) / 8)

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        logs = -0.25 * tau**2 * 19.9 - 0.05 * tau
        return axes.x0(x, logs.exp(), (-torch.expm1(2 * logs)).sqrt())

    return Denoiser(fn, VP, "sample")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vp", "velocity"])
def test_forward_mode_is_the_difference(kind: str) -> None:
    denoiser = forward_ring()
    inner = denoiser.fn
    if kind == "velocity":  # the same network asked for something else

        def velocity(x: Tensor, tau: Tensor) -> Tensor:
            logs = -0.25 * tau**2 * 19.9 - 0.05 * tau
            alpha, sigma = logs.exp(), (-torch.expm1(2 * logs)).sqrt()
            x0 = inner(x, tau)
            return alpha * (x - alpha * x0) / sigma - sigma * x0

        denoiser = Denoiser(velocity, VP, "v_prediction")
    problem = task(denoiser, (2,), 4, train=16, valid=4)
    (part,) = problem.train_parts()
    field = Field(part, -5.0, 4.5)
    for lam in (-3.0, -1.0, 0.5, 2.0):
        y = problem.teacher.path(part).at(float(VP.t_of_lam(lam))) / float(VP.alpha(VP.t_of_lam(lam)))
        for dy, dlam in ((torch.ones_like(y), 0.0), (-field.value(y, lam), 1.0), (y * 0, 1.0)):
            exact, rough = (of(y, lam, dy, dlam) for of in (field.forward, field.difference))
            assert float((exact - rough).abs().max()) < 2e-5 * float(rough.abs().max() + 1e-3)
    how = ("jvp", "difference", "auto")
    one, two, three = (estimate(problem.teacher, [part], nodes=24, derivative=d) for d in how)
    for name in ("l", "s", "b"):
        scale = np.abs(getattr(one, name)).max()
        assert np.abs(getattr(one, name) - getattr(two, name)).max() < 1e-3 * scale
        assert np.array_equal(getattr(one, name), getattr(three, name))


@pytest.mark.slow
def test_statistics_are_the_least_squares_of_their_definition() -> None:
    """On a lattice of one's own, with derivatives along the runs taken from the runs themselves."""
    problem = task(sixteen(), (16,), 4, train=48, valid=4, teacher={"nfe": 400})
    parts = problem.train_parts()
    found = estimate(problem.teacher, parts, nodes=101, per="element")
    path = problem.teacher.path(parts[0])
    lam = np.linspace(found.lam[0], found.lam[-1], 401)  # four times as fine, for differences of f along each run
    f, scale = [], []
    for value in lam:
        t = float(VP.t_of_lam(value))
        x = path.at(t)
        l = torch.from_numpy(found.value("l", [value])[0])  # noqa: E741
        eps = problem.problem.model.eps(x, t)
        f.append((float(VP.sigma(t)) * eps - l * x) / float(VP.alpha(t)))
        scale.append(eps * float(VP.sigma(t) / VP.alpha(t)))
    F, G = torch.stack(f).numpy(), torch.stack(scale).numpy()
    change = scipy.interpolate.CubicSpline(lam, F)(lam, 1)
    for j in range(120, 300, 20):
        off = change[j] - change[j].mean(0)
        s = (F[j] * off).mean(0) / (F[j].var(0) + 2.0**-18 * (G[j] ** 2).mean(0))
        assert np.abs(found.s[j // 4] - s).max() < 0.01 * np.abs(s).max()
        b = (change[j] - s * F[j]).mean(0)
        assert np.abs(found.b[j // 4] - b).max() < 0.01 * np.abs(b).max()


@pytest.mark.parametrize(("per", "shape"), [("element", (3, 4, 4)), ("channel", (3, 1, 1)), ("all", ())])
def test_groups_share_their_statistics(per: str, shape: tuple[int, ...]) -> None:
    """Where all elements of a channel are alike, every grouping finds the same."""

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma = (float(v(float(tau))) for v in (VP.alpha, VP.sigma))
        return alpha * 0.25 * x / (alpha**2 * 0.25 + sigma**2)

    problem = task(Denoiser(fn, VP, "sample"), (3, 4, 4), 4, train=6, valid=3)
    found = estimate(problem.teacher, problem.train_parts(), nodes=16, per=per)
    assert found.shape == shape
    want = (1 / (1 + 0.25 * np.exp(2 * found.lam))).reshape(-1, *(1,) * len(shape))
    assert np.abs(found.l - want).max() < 1e-6
    table = ems(problem, build("dpmpp_2m", VP, 4), nodes=16, per=per)
    assert table.elementwise == bool(shape) and np.isfinite(problem.judge(table))


@pytest.mark.slow
def test_learning_helps_repeats_itself_and_does_not_depend_on_the_batch(tmp_path: Any) -> None:
    start, tables = build("dpmpp_2m", VP, 8, "quadratic"), []
    for size in (64, 64, 7):
        problem = task(sixteen(), (16,), 8, train=64, valid=64, batch_size=size)
        tables.append(ems(problem, start, nodes=32))
    assert np.array_equal(tables[0].W, tables[1].W)
    assert np.abs(tables[0].W - tables[2].W).max() < 1e-8 * np.abs(tables[0].W).max()
    assert problem.judge(tables[2]) < 0.8 * problem.judge(start)
    spent = problem.problem.spent
    again = ems(problem, build("dpmpp_2m", VP, 5, "quadratic"), nodes=32)  # the same statistics, nothing but judged
    assert problem.problem.spent - spent == 64 * 5 and again.nfe == 5
    again.save(tmp_path / "table.json")
    assert np.array_equal(fewstep.load(tmp_path / "table.json").W, again.W)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_schedule_and_its_ends(kind: str) -> None:
    problem = task(ring(SCHEDULES[kind]), (2,), 8, train=32, valid=32)
    table = ems(problem, build("dpmpp_2m", SCHEDULES[kind], 8), nodes=48)
    assert table.name == "dpm_solver_v3" and table.nfe == 8 and np.isfinite(problem.judge(table))


def test_calls_are_counted_and_wrong_input_is_named() -> None:
    problem = task(forward_ring(), (2,), 4, train=8, valid=4)
    start, parts = build("dpmpp_2m", VP, 4), problem.train_parts()
    calls: list[int] = []
    inner = problem.problem.model.fn
    problem.problem.model.fn = lambda x, tau: (calls.append(len(x)), inner(x, tau))[1]
    problem.teacher.path(parts[0])
    assert problem.teacher.key  # asks the function what it is
    before, made = problem.problem.spent, sum(calls)
    estimate(problem.teacher, parts, nodes=5, derivative="difference")
    assert problem.problem.spent - before == sum(calls) - made == 8 * 5 * 5
    before = problem.problem.spent
    for options, said in (
        ({"nodes": 3}, "nodes"), ({"per": "pixel"}, "per"), ({"derivative": "exact"}, "derivative"),
        ({"samples": 2}, "fits 3 numbers"), ({"order": 4}, "order"), ({"corrector": 5}, "corrector"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            ems(problem, start, **options)  # type: ignore[arg-type]
    assert problem.problem.spent == before
    blunt = task(ring(), (2,), 4, train=8, valid=4)
    with pytest.raises(ValueError, match="forward-mode"):
        estimate(blunt.teacher, blunt.train_parts(), nodes=5, derivative="jvp")
