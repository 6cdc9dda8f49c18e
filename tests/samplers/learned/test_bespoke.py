"""Scale-time solvers: the identity is the Runge-Kutta method, every smooth transform keeps its order, learning helps."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import ring, sixteen, task, turned
from problems import Mixture, starts
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule, sample
from fewstep.samplers.artefact.corrections import widened
from fewstep.samplers.building.compiling import build
from fewstep.samplers.learned.descent.local_bound import Bound, amplified, factors
from fewstep.samplers.learned.methods.bespoke import bespoke
from fewstep.samplers.learned.parameters.scale_time import ScaleTime, weights
from fewstep.samplers.learned.playing.arithmetic import corrected, correction
from fewstep.samplers.learned.playing.differentiable import play
from fewstep.samplers.learned.problem.problem import Problem, squared_errors
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.table.tableau import Tableau

SCHEDULES = {"vp": NoiseSchedule.vp_linear(), "edm": NoiseSchedule.edm(), "flow": NoiseSchedule.flow()}


def along(schedule: NoiseSchedule, t: Any) -> tuple[np.ndarray, np.ndarray]:
    """(rho, size) at times."""
    alpha, sigma = np.asarray(schedule.alpha(t)), np.asarray(schedule.sigma(t))
    return sigma / (alpha + sigma), alpha + sigma


@pytest.mark.parametrize("kind", SCHEDULES)
def test_identity_of_order_one_is_euler(kind: str) -> None:
    """To the last bit: the table is `euler` on the start's grid, and so is what the graph computes, but for rounding."""
    start = build("dpmpp_2m", SCHEDULES[kind], 6, "logsnr")
    knobs = ScaleTime(start, "sample", 1)
    euler, made = build("euler", SCHEDULES[kind], grid=start.times), knobs.table()
    assert np.array_equal(made.times, euler.times) and np.array_equal(made.W[:, :, :3], euler.W)
    np.testing.assert_allclose(knobs.coefficients().W.detach(), made.W, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("nfe", [6, 7])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_identity_of_order_two_is_the_midpoint_rule(kind: str, nfe: int) -> None:
    """In y and rho, written out: y_m = y + d/2 v(y), y' = y + d v(y_m); an odd call left over is a step of Euler's."""
    schedule = SCHEDULES[kind]
    start = build("dpmpp_2m", schedule, nfe, "logsnr")
    made = ScaleTime(start, "sample", 2).table()
    assert made.conserves == "x0 eps" and made.nfe == nfe
    rho, size = along(schedule, made.times)
    x = starts(schedule, float(made.times[0]))
    y = x / size[0]

    def v(y: Tensor, k: int) -> Tensor:
        t = float(made.times[k])
        x0 = Mixture().predict(size[k] * y, float(schedule.alpha(t)), float(schedule.sigma(t)))[0]
        return (y - x0) / rho[k]

    for k in range(0, nfe, 2):
        if k + 1 == nfe:
            y = y + (rho[k + 1] - rho[k]) * v(y, k)
            continue
        assert rho[k + 1] == pytest.approx(0.5 * (rho[k] + rho[k + 2]), rel=1e-9)
        middle = y + 0.5 * (rho[k + 2] - rho[k]) * v(y, k)
        y = y + (rho[k + 2] - rho[k]) * v(middle, k + 1)
    drawn = sample(Mixture().denoiser(schedule, "sample"), x, made)
    torch.testing.assert_close(drawn, size[-1] * y, rtol=1e-9, atol=1e-9)


def transformed(schedule: NoiseSchedule, steps: int, order: int, seed: int) -> Tableau:
    """A random smooth scale-time transform rho(r), s(r) with its exact derivatives, on equal steps of r."""
    a, b, c, d = np.random.default_rng(seed).uniform(-0.5, 0.5, 4)
    r = np.linspace(0, 1, order * steps + 1)
    first, last = 0.95, 0.1  # of rho
    # u(r) = r + a sin(pi r)^2 / 4 increases from 0 to 1, s(r) = exp(b r + c r^2 + d sin 2 r)
    u, du = r + 0.25 * a * np.sin(np.pi * r) ** 2, 1 + 0.25 * np.pi * a * np.sin(2 * np.pi * r)
    s = np.exp(b * r + c * r**2 + d * np.sin(2 * r))
    ds = s * (b + 2 * c * r + 2 * d * np.cos(2 * r))
    rho, h = first + (last - first) * u, 1 / steps
    times = schedule.t_of_lam(np.log1p(-rho) - np.log(rho))
    columns = [rho, along(schedule, times)[1], h * (last - first) * du[:-1], s, h * ds[:-1]]
    W = weights(*(torch.from_numpy(np.ascontiguousarray(v)) for v in columns), (order,) * steps)
    base = widened(build("euler", schedule, grid=times), 2)
    return replace(base, W=W.numpy().copy(), conserves="")


@pytest.mark.slow
@pytest.mark.parametrize("order, tolerance", [(1, 0.15), (2, 0.2)])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_any_smooth_transform_keeps_the_order(kind: str, seed: int, order: int, tolerance: float) -> None:
    """Slope of the error over the number of steps, on the exact mixture."""
    schedule = SCHEDULES[kind]
    denoiser = Mixture().denoiser(schedule, "sample")
    x = starts(schedule, float(transformed(schedule, 4, order, seed).times[0]))
    truth = sample(denoiser, x, transformed(schedule, 1024, 2, seed))
    ladder = (32, 64, 128)
    errors = [
        float((sample(denoiser, x, transformed(schedule, n, order, seed)) - truth).square().mean().sqrt())
        for n in ladder
    ]
    slope = -np.polyfit(np.log(ladder), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=tolerance)


@pytest.mark.parametrize("steps, order, count", [(6, 1, 4 * 6 - 1), (3, 2, 8 * 3 - 1)])
def test_count_of_parameters(steps: int, order: int, count: int) -> None:
    """4 N - 1 and 8 N - 1: times between the ends, rates, scales but the first, slopes."""
    knobs = ScaleTime(build("dpmpp_2m", SCHEDULES["vp"], steps * order), "sample", order)
    assert knobs.count == count == sum(map(len, knobs.parameters.values())) - 1  # softmax has one too many


@pytest.mark.slow
@pytest.mark.parametrize("order, nfe", [(1, 4), (2, 4), (2, 5)])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_gradients_and_tables(kind: str, order: int, nfe: int) -> None:
    """The graph plays the table, its gradients are derivatives, and the table is a correction of `euler`."""
    schedule = SCHEDULES[kind]
    learnt = Problem(ring(schedule), shape=(2,), dtype=torch.float64)
    knobs = turned(ScaleTime(build("dpmpp_2m", schedule, nfe, "logsnr"), "sample", order), 0.05)
    part = learnt.part(range(8))

    def loss() -> Tensor:
        return play(part, knobs.start, knobs.coefficients(), remember=True)[-1].square().mean()

    made = knobs.table()
    drawn = learnt.draw(made, part)
    torch.testing.assert_close(play(part, knobs.start, knobs.coefficients())[-1].detach(), drawn, rtol=1e-9, atol=1e-9)
    again = corrected(replace(build("euler", schedule, grid=made.times)), *correction(made))
    np.testing.assert_allclose(again.W, made.W, atol=1e-12)
    found, h = torch.autograd.grad(loss(), list(knobs.parameters.values())), 1e-4
    for (name, value), gradient in zip(knobs.parameters.items(), found, strict=True):
        slopes = torch.zeros_like(value)
        for i, here in enumerate(value.tolist()):
            losses = []
            for step in (h, -h, 2 * h, -2 * h, 0.0):
                with torch.no_grad():
                    value[i] = here + step
                    losses.append(loss().detach())
            slopes[i] = (8 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12 * h)
        assert float((slopes - gradient).abs().max()) <= 1e-6 * float(gradient.abs().max()), name


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("mixture, shape", [(ring, (2,)), (sixteen, (16,))])
def test_learning_helps(mixture: Any, shape: tuple[int, ...], order: int) -> None:
    """A short descent from the plain Runge-Kutta method beats it on fresh seeds, and the start is never made worse."""
    made = task(mixture(), shape, 6, 64, 64)
    start = build("euler", made.problem.schedule, 6, "quadratic")
    plain = ScaleTime(start, "sample", order).table()
    found = bespoke(made, start, order=order, steps=60, batch=64, remember=True)
    assert made.judge(found) <= made.judge(start)
    fresh = made.problem.parts(range(20_000, 20_256))
    assert float(made.errors(found, fresh).median() / made.errors(plain, fresh).median()) ** 0.5 < 0.7


def test_the_start_is_kept_where_it_is_better() -> None:
    """One step from Euler's method does not reach a good multistep solver."""
    made = task(ring(), (2,), 6, 64, 64)
    start = build("dpmpp_2m", made.problem.schedule, 6, "quadratic")
    assert bespoke(made, start, order=1, steps=1, batch=64) is start


@pytest.mark.parametrize(
    "solver, order, match", [("dpmpp_2m", 3, "must be 1 or 2; got 3"), ("euler_ancestral", 2, "draws noise")]
)
def test_bad_input(solver: str, order: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ScaleTime(build(solver, SCHEDULES["vp"], 6), "sample", order)


def test_starts_of_several_calls_a_step() -> None:
    """A start whose steps take two calls lends its boundaries: times of the calls lie between them."""
    start = build("heun", SCHEDULES["vp"], 6, "logsnr")
    made = ScaleTime(start, "sample", 1).table()
    assert len(made.times) == 7 and (np.diff(made.times) < 0).all()
    np.testing.assert_allclose(made.times[::2], start.times[[0, 2, 4, 6]], rtol=1e-9)


def gaussian(schedule: NoiseSchedule, scales: Tensor) -> tuple[Denoiser, float]:
    """The exact network of N(0, diag scales^2), x0 = alpha s^2 x / (alpha^2 s^2 + sigma^2), and the L of its flow:

    v = eps - x0 = y (alpha + sigma) (sigma - alpha s^2) / (alpha^2 s^2 + sigma^2).
    """

    def levels(t: Any) -> tuple[Any, Any]:
        return np.asarray(schedule.alpha(t)), np.asarray(schedule.sigma(t))

    class X0(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, tau: Tensor) -> Tensor:
            alpha, sigma = map(float, levels(schedule.time_of_model(float(tau))))
            ctx.gain = alpha * scales**2 / (alpha**2 * scales**2 + sigma**2)
            return ctx.gain * x

        @staticmethod
        def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor, None]:
            return ctx.gain * gradient[0], None

    alpha, sigma = (column[:, None] for column in levels(np.linspace(schedule.t_min, schedule.t_max, 20001)))
    s = scales.numpy() ** 2
    slopes = (alpha + sigma) * (sigma - alpha * s) / (alpha**2 * s + sigma**2)
    return Denoiser(lambda x, tau: X0.apply(x, tau), schedule, "sample"), float(np.abs(slopes).max())


@lru_cache
def flowing(kind: str) -> tuple[Task, float]:
    """A Gaussian to be learned on, and the L of its flow."""
    denoiser, lipschitz = gaussian(SCHEDULES[kind], torch.tensor([1.0, 0.7, 0.5], dtype=torch.float64))
    return task(denoiser, (3,), 5, 16, 16, teacher={"nfe": 400}), lipschitz


def bounded(order: int, nfe: int, size: float, seed: int, kind: str = "vp") -> tuple[Tensor, Tensor, Bound]:
    """(bound, true error) of 16 samples of the Gaussian, knobs turned at random."""
    made, lipschitz = flowing(kind)
    start = build("dpmpp_2m", made.problem.schedule, nfe, "quadratic" if kind == "vp" else "uniform")
    knobs = turned(ScaleTime(start, "sample", order), size, seed)
    bound, part = Bound(knobs, made.teacher, lipschitz), made.problem.part(range(16))
    found = bound.of(bound.play(part, knobs.start, knobs.coefficients())).detach()
    return found, squared_errors(made.problem.draw(knobs.table(), part), made.teacher.end(part)).sqrt(), bound


@pytest.mark.parametrize("kind", ["vp", "flow"])
@pytest.mark.parametrize("order, nfe", [(1, 5), (2, 6), (2, 7)])
def test_the_bound_holds(order: int, nfe: int, kind: str) -> None:
    """Where L is known, no sample's error is above its bound; with a hundredth of L some are."""
    above = []
    for seed in range(3):
        found, errors, bound = bounded(order, nfe, 0.1, seed, kind)
        assert bool((errors <= found * (1 + 1e-6)).all())
        part = bound.teacher.problem.part(range(16))
        bound.lipschitz *= 0.01
        less = bound.of(bound.play(part, bound.knobs.start, bound.knobs.coefficients())).detach()
        assert bool((less < found).all())
        above.append(errors > less)
    assert bool(torch.stack(above).any())


@pytest.mark.parametrize("order", [1, 2])
def test_the_bound_of_one_step_is_its_error(order: int) -> None:
    found, errors, _ = bounded(order, order, 0.1, 0)
    torch.testing.assert_close(found, errors, rtol=1e-9, atol=1e-12)


def test_factors_by_hand() -> None:
    """s = 1, 2, 4 and slopes 3, -3: one step of order 2, and two of order 1, of rate -1/2 and -1/4 with L = 2."""
    rate, s, slope = (torch.tensor(v, dtype=torch.float64) for v in ([-0.5, -0.25], [1.0, 2.0, 4.0], [3.0, -3.0]))
    assert factors(rate, s, slope, (1, 1), 2.0).tolist() == [(4 + 0.5 * 2) / 2, (1 + 0.25 * 2 * 2) / 4]
    assert factors(rate, s, slope, (2,), 2.0).tolist() == [(1 + (3 + 0.25 * 2 * 2) * (2.5 + 0.25 * 2) / 2) / 4]
    assert amplified(torch.tensor([2.0, 3.0, 5.0])).tolist() == [15.0, 5.0, 1.0]


@pytest.mark.parametrize("order, nfe", [(1, 4), (2, 5)])
def test_gradients_of_the_bound(order: int, nfe: int) -> None:
    """Derivatives by all knobs, the times at which the path is looked at among them."""
    learnt = task(ring(), (2,), nfe, 8, 8, teacher={"nfe": 400})
    knobs = turned(ScaleTime(build("dpmpp_2m", learnt.problem.schedule, nfe, "quadratic"), "sample", order), 0.05)
    bound, part = Bound(knobs, learnt.teacher, 1.5), learnt.problem.part(range(8))

    def loss() -> Tensor:
        return bound.objective(bound.play(part, knobs.start, knobs.coefficients()))

    found = torch.autograd.grad(loss(), list(knobs.parameters.values()))
    for (name, value), gradient in zip(knobs.parameters.items(), found, strict=True):
        for i, here in enumerate(value.tolist()):
            losses = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    value[i] = here + step
                losses.append(float(loss().detach()))
            with torch.no_grad():
                value[i] = here
            slope = (losses[0] - losses[1]) / 2e-5
            assert slope == pytest.approx(float(gradient[i]), rel=2e-4, abs=2e-4 * float(gradient.abs().max())), name


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
def test_learning_by_the_bound(order: int) -> None:
    """The bound is lowered, and on the ring the error of fresh samples with it."""
    made = task(ring(), (2,), 6, 64, 64)
    start = build("euler", made.problem.schedule, 6, "quadratic")
    plain = ScaleTime(start, "sample", order).table()
    found = bespoke(made, start, order=order, loss="bound", steps=40, batch=64, remember=True)
    fresh = made.problem.parts(range(20_000, 20_256))
    assert made.judge(found) <= made.judge(start)
    assert float(made.errors(found, fresh).median() / made.errors(plain, fresh).median()) ** 0.5 < 0.9


def test_bad_bounds() -> None:
    made = task(ring(), (2,), 6, 64, 64)
    start = build("euler", made.problem.schedule, 6, "quadratic")
    with pytest.raises(ValueError, match="of at least 0; got -1"):
        bespoke(made, start, loss="bound", lipschitz=-1)
    noisy = task(ring(), (2,), 6, 64, 64, teacher={"solver": "dpmpp_2m_sde", "nfe": 50})
    with pytest.raises(ValueError, match="gives only ends"):
        bespoke(noisy, start, loss="bound")
