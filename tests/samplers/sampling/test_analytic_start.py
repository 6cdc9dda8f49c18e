"""afs=True: one network call less, and otherwise the run in which the first answer is x0 = 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from problems import Mixture, starts
from torch import Tensor

from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, build, sample

SCHEDULES = {"edm": NoiseSchedule.edm(), "vp": NoiseSchedule.vp_linear(), "flow": NoiseSchedule.flow(3.0)}
ODE = [n for n, e in SOLVERS.items() if not e.stochastic and e.kind == "tableau" and n not in ("dpm_solver_v3",)]


def zero_at_first(schedule: NoiseSchedule) -> Denoiser:
    """The mixture's network, which answers x0 = 0 to its first question."""
    exact, calls = Mixture().denoiser(schedule, "sample"), []

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        calls.append(float(tau))
        return torch.zeros_like(x) if len(calls) == 1 else exact.fn(x, tau)

    return Denoiser(fn, schedule, "sample")


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_ode_solver_as_if_the_first_answer_were_the_mean(kind: str) -> None:
    schedule = SCHEDULES[kind]
    x = starts(schedule, schedule.t_max)
    refused = set()
    for name in ODE:
        for nfe in (4, 9):
            denoiser = Mixture().denoiser(schedule, "sample")
            try:
                got, info = sample(denoiser, x, name, nfe, afs=True, return_info=True)
            except ValueError as error:
                assert "`afs` cannot be put into" in str(error)
                refused.add(name)
                continue
            assert denoiser.nfe == info.nfe == nfe
            want = sample(zero_at_first(schedule), x, name, nfe + 1)
            torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7, msg=lambda m, n=name, k=nfe: f"{n} {k}: {m}")
    assert len(refused) <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["euler_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde", "er_sde", "res_multistep_ancestral"]
)
def test_with_noise_the_first_step_has_the_same_law(name: str) -> None:
    schedule = SCHEDULES["edm"]
    x = starts(schedule, schedule.t_max, 4000)
    ends = [
        sample(d, x, name, n, noise_seeds=range(4000), **o)
        for d, n, o in (
            (Mixture().denoiser(schedule, "sample"), 12, {"afs": True}),
            (zero_at_first(schedule), 13, {}),
        )
    ]
    for moment in (lambda e: e.mean(0), lambda e: e.std(0)):
        torch.testing.assert_close(moment(ends[0]), moment(ends[1]), rtol=0.05, atol=0.06)


def test_a_call_saved_is_an_error_saved() -> None:
    """n calls do what n + 1 did, within a tenth: the call at pure noise told nothing."""
    schedule = SCHEDULES["edm"]
    denoiser, x = Mixture().denoiser(schedule, "sample"), starts(schedule, 80.0, 128)
    truth = sample(denoiser, x, "etd_rk4", 800)
    for nfe in (5, 6, 8, 10):
        runs = ((nfe, True), (nfe + 1, False), (nfe, False))
        short, long, plain = (
            float((sample(denoiser, x, "deis", n, afs=afs) - truth).square().mean().sqrt()) for n, afs in runs
        )
        assert short < 1.1 * long and short < plain


def test_the_table_begins_after_the_step_that_is_free() -> None:
    schedule = SCHEDULES["edm"]
    whole, short = build("deis", schedule, 8), build("deis", schedule, 7, afs=True)
    np.testing.assert_array_equal(short.times, whole.times[1:])
    assert short.nfe == 7 and short.groups == (1,) * 7
    assert build("heun", schedule, 8, afs=True).groups[0] == 1
    x = starts(schedule, 80.0)
    denoiser = Mixture().denoiser(schedule, "sample")
    by_hand = sample(denoiser, x * short.times[0] / 80.0, short)
    torch.testing.assert_close(sample(denoiser, x, "deis", 7, afs=True), by_hand, rtol=1e-12, atol=1e-12)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="at least two network calls"):
        build("euler", SCHEDULES["edm"], None, [80.0, 0.0], afs=True)
    with pytest.raises(ValueError, match="its stages share the noise"):
        build("seeds", SCHEDULES["edm"], 9, afs=True)
    with pytest.raises(ValueError, match="no option 'afs'"):
        sample(Mixture().denoiser(SCHEDULES["edm"], "sample"), starts(SCHEDULES["edm"], 80.0), "dpm_adaptive", afs=True)
