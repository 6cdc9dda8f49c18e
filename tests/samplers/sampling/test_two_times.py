"""Networks of two times: the row's target reaches the network, and exact flow maps are exact at any number of steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fewstep
from fewstep import adjoint
from fewstep.samplers import Denoiser, NoiseSchedule, guidance, sample

FLOW, EDM = NoiseSchedule.flow(), NoiseSchedule.edm()
MEAN, STD = 0.7, 0.5


class MeanFlow:
    """u(x, t, r) = (x_t - x_r) / (t - r) of N(MEAN, STD^2), in training units of 1000; remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[float, float]] = []

    def __call__(self, x: Tensor, tau: Tensor, tau_next: Tensor) -> Tensor:
        self.shown.append((float(tau), float(tau_next)))
        t, r = tau / 1000, torch.minimum(tau_next, tau - 0.1) / 1000
        there, here = (((1 - v) * STD).hypot(v) for v in (r, t))
        return (x - (MEAN * (1 - r) + there / here * (x - MEAN * (1 - t)))) / (t - r)


def trajectory(x: Tensor, tau: Tensor, tau_next: Tensor) -> Tensor:
    """g(x, t, s) with x_s = (s / t) x + (1 - s / t) g, in EDM's sigma."""
    t, s = tau, torch.minimum(tau_next, 0.999 * tau)
    x_s = MEAN + (STD**2 + s**2).sqrt() / (STD**2 + t**2).sqrt() * (x - MEAN)
    return (x_s - s / t * x) / (1 - s / t)


def start(schedule: NoiseSchedule, n: int = 500) -> Tensor:
    return schedule.initial_noise((n, 2), torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("solver", ["flow_map", "euler", "ddim"])
def test_a_flow_map_is_exact_at_any_number_of_steps(solver: str) -> None:
    for nfe in (1, 2, 5):
        network, x = MeanFlow(), start(FLOW)
        got = sample(Denoiser(network, FLOW, "flow_prediction", two_times=True), x, solver, nfe)
        assert torch.allclose(got, MEAN + STD * x, atol=1e-12)
        times = [1000 - 1000 * k / nfe for k in range(nfe + 1)]
        assert network.shown == [pytest.approx(pair) for pair in zip(times, times[1:], strict=False)]
        x = start(EDM)
        got = sample(Denoiser(trajectory, EDM, "sample", two_times=True), x, solver, nfe, grid="karras")
        assert torch.allclose(got, MEAN + STD * (x - MEAN) / (STD**2 + 80.0**2) ** 0.5, atol=1e-12)


def test_stages_and_noise_have_targets_of_their_own() -> None:
    """Answers that are combined lead nowhere; a row with noise leads to where noise begins."""
    seeds = range(500)
    for solver, nfe, options, want in (
        ("dpm_2", 4, {}, [(tau, tau) for tau in (1000, 666.667, 500, 333.333)]),
        ("renoise", 2, {}, [(1000, 0), (500, 0)]),
        ("flow_map", 2, {"gamma": 1.0}, [(1000, 0), (500, 0)]),
        ("flow_map", 2, {"gamma": 0.6}, [(1000, 444.444), (500, 0)]),  # 0.8 of sigma / alpha = 1
    ):
        network = MeanFlow()
        denoiser = Denoiser(network, FLOW, "flow_prediction", two_times=True)
        end = sample(denoiser, start(FLOW), solver, nfe, noise_seeds=seeds, **options)
        assert network.shown == [pytest.approx(pair, abs=1e-3) for pair in want]
        if options or solver == "renoise":  # the law is kept
            assert abs(float(end.mean()) - MEAN) < 0.05 and abs(float(end.std()) - STD) < 0.03


def test_solvers_that_combine_answers_see_the_velocity_at_a_point() -> None:
    """A flow map says it where it is shown one time twice, and the solver keeps its order."""
    x, network = start(FLOW), MeanFlow()
    for solver in ("dpmpp_2m", "unipc", "deis", "heun", "dpm_2", "bdia"):
        two = Denoiser(network, FLOW, "flow_prediction", two_times=True)
        one = Denoiser(lambda x, tau: network(x, tau, tau), FLOW, "flow_prediction")
        ends = [sample(denoiser, x, solver, 12) for denoiser in (two, one)]
        assert torch.equal(*ends) and float((ends[0] - MEAN - STD * x).abs().max()) < 0.1, solver


def test_whoever_plays_rows_shows_both_times() -> None:
    x = start(FLOW, 8)
    want = MEAN + STD * x
    denoiser = Denoiser(MeanFlow(), FLOW, "flow_prediction", two_times=True)
    point = x.clone().requires_grad_()
    end = adjoint.sample(denoiser, point, "flow_map", 3)
    end.sum().backward()
    assert torch.allclose(end, want) and torch.allclose(point.grad, torch.full_like(x, STD))  # type: ignore[arg-type]
    for guided in (guidance.cfg(denoiser, denoiser, 3.0),):
        assert torch.allclose(sample(guided, x, "flow_map", 3), want)
    assert torch.allclose(sample(denoiser, x, "rk45"), want, atol=2e-3)  # from no row: the velocity at a point


def test_a_pipeline_s_scheduler_tells_where_each_call_leads() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 1.0, "num_train_timesteps": 1000}
    scheduler, network = fewstep.Scheduler.from_config(config, "flow_map", grid="uniform"), MeanFlow()
    scheduler.set_timesteps(4)
    x = state = start(FLOW).float()
    for i, (t, r) in enumerate(zip(scheduler.timesteps, scheduler.r_timesteps, strict=True)):
        assert abs(float(scheduler.sigmas[i + 1]) * 1000 - float(r)) < 1e-3  # what pipelines of flow maps show
        state = scheduler.step(network(state, t, r), t, state, r_timestep=r).prev_sample
    assert torch.allclose(state, MEAN + STD * x, atol=1e-5)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="told that the network went to 0; this row goes to 750"):
        scheduler.step(x, scheduler.timesteps[0], x, r_timestep=0.0)


def test_a_network_without_a_second_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fn\(x, tau, tau_next\); this one takes \(x, tau\)"):
        Denoiser(lambda x, tau: x, FLOW, two_times=True)
    with pytest.raises(ValueError, match="two_times=True"):
        Denoiser(lambda x, tau, tau_next: x, FLOW)
    with pytest.raises(ValueError, match="`two_times` must be True or False"):
        Denoiser(lambda x, tau, tau_next: x, FLOW, two_times="yes")  # type: ignore[arg-type]
