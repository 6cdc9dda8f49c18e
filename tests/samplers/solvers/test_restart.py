"""Restart, churn and ancestral jumps: where the rows go, what they cost, and that a jump keeps the marginal."""

from __future__ import annotations

import affine
import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, starts

from fewstep.samplers import NoiseSchedule, build, sample
from fewstep.samplers.building.resuming import resume

VP, EDM, FLOW = NoiseSchedule.vp_linear(), NoiseSchedule.edm(), NoiseSchedule.flow()
SCHEDULES = {"vp": VP, "edm": EDM, "flow": FLOW}


def rho(schedule: NoiseSchedule, times: np.ndarray) -> np.ndarray:
    return np.exp(-schedule.lam(times))


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_way_of_a_run_with_two_intervals(schedule: NoiseSchedule) -> None:
    """Heun: 2 evaluations a step, repeats (points - 1) steps an interval, jumps from low to high exactly."""
    intervals = [(3, 2, 0.06, 0.30), (4, 3, 0.5, 1.5)]
    extra = 2 * (2 * 2 + 3 * 3)
    table = build("restart", schedule, 36 + extra, intervals=intervals)
    assert table.nfe == 36 + extra == sum(table.groups)
    levels = rho(schedule, table.times[:-1])
    ups = np.flatnonzero(np.diff(levels) > 0)
    assert len(ups) == 5
    assert [round(float(levels[k + 1]), 6) for k in ups] == [1.5] * 3 + [0.3] * 2
    landed = [round(float(np.exp(-node.lam)), 6) for _, node in sorted(table.jumps.items())]
    assert landed == [0.5] * 3 + [0.06] * 2
    assert {draw.path for row in range(table.nfe) for draw in table.draws(row)} == {1, 2, 3, 4, 5}


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("base", ["heun", "ddim", "dpmpp_2m", "unipc", "dpm_3", "deis"])
def test_every_number_of_evaluations_and_any_base(base: str, schedule: NoiseSchedule) -> None:
    denoiser = Gaussian(0.5, 0.5).denoiser(schedule, "v_prediction")
    x = starts(schedule, schedule.t_max, 2)
    for nfe in range(1, 26):
        before = denoiser.nfe
        out = sample(denoiser, x, "restart", nfe, base=base, noise_seeds=[1, 2])
        assert denoiser.nfe - before == nfe and torch.isfinite(out).all()


def test_jumps_keep_the_marginal_exactly() -> None:
    """With a base that is exact for the data (a point), nothing but rounding is left after many jumps."""
    for schedule in SCHEDULES.values():
        last = float(schedule.t_of_lam(4.0))
        table = build("restart", schedule, 80, "logsnr", t_end=last, base="ddim", intervals=[(3, 20, 0.06, 0.3)])
        mean, std = affine.marginal(schedule, last, 0.7, 1e-9)
        off = affine.errors(table, 0.7, 1e-9)
        assert off[0] < 1e-9 * mean and off[1] < 1e-7 * std


def test_more_repeats_forget_an_early_error() -> None:
    """What Restart is for: the error that a coarse way down has made is contracted by every repeat."""
    off = []
    for repeats in (1, 2, 4):
        ends = {"t_end": 0.04, "intervals": [(65, repeats, 0.05, 2.0)]}
        table = build("restart", EDM, 2 * (9 + 64 * repeats), "karras", **ends)
        off.append(affine.errors(table, 0.7, 0.6))
    print(off)
    assert off[1][1] < 0.8 * off[0][1]


def test_churn_is_switched_by_level_and_by_nothing_else() -> None:
    table = build("edm_stochastic", EDM, 39, "karras", s_churn=8.0, s_tmin=0.05, s_tmax=50.0)
    plain = build("heun", EDM, 39, "karras")
    ratio = table.times[:-1] / plain.times[:-1]
    first_calls = np.append(0, np.cumsum(table.groups))[:-1]
    within = (plain.times[first_calls] >= 0.05) & (plain.times[first_calls] <= 50)
    want = np.where(within, 1 + 8.0 / len(table.groups), 1.0)
    want[0] = 1.0
    np.testing.assert_allclose(ratio[first_calls], want, rtol=1e-12)


@pytest.mark.parametrize("name", ["restart", "edm_stochastic"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_resumed_runs_visit_the_same_times_and_end_in_the_same_marginal(name: str, schedule: NoiseSchedule) -> None:
    """A pipeline may enter in the middle (image to image): times, evaluations and jumps stay as they were told."""
    whole = build(name, schedule, 60)
    for begin in (1, 7, 20, 30, 41, 59):
        rest = resume(whole, begin)
        assert rest.nfe == 60 - begin
        np.testing.assert_allclose(rest.times[0], whole.times[begin])
        np.testing.assert_allclose(rest.model_times, whole.model_times[begin:], rtol=1e-12)
        if begin > 30:
            mean, std = affine.marginal(schedule, float(whole.times[-1]))
            assert affine.errors(rest)[1] < 0.2 * std


def test_public_names_of_the_field() -> None:
    from fewstep.samplers.building.names import resolve

    assert resolve("Euler a")[0] == "euler_ancestral" and resolve("DPM++ 2M SDE Karras") == ("dpmpp_2m_sde", "karras")
    assert resolve("DPM++ SDE")[0] == "dpmpp_sde" and resolve("lcm")[0] == "renoise"


def test_full_renoising_is_the_multistep_sampler_of_consistency_models() -> None:
    """x' = alpha' x0 + sigma' z at every step, the last x0 itself."""
    from fewstep.samplers import NoiseSource
    from fewstep.samplers.noise.draws import Draw

    denoiser, x = Mixture().denoiser(FLOW, "flow_prediction"), starts(FLOW, 1.0, 3)
    times, source = np.array([1.0, 0.7, 0.4, 0.0]), NoiseSource([1, 2, 3])
    want = x
    for k, (s, t) in enumerate(zip(times[:-1], times[1:], strict=True)):
        want = (1 - t) * denoiser.x0(want, s) + t * source(Draw(k + 1, 0, 0.0, 1.0), x)
    got = sample(denoiser, x, "renoise", None, times, noise_seeds=[1, 2, 3])
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
