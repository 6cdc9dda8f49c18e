"""rk45 beside an independent implementation of the same pair on the same ODE."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from problems import Gaussian, Mixture, starts
from scipy.integrate._ivp.common import select_initial_step

from fewstep.samplers import NoiseSchedule, sample

VP = NoiseSchedule.vp_linear()
LAMS = (float(VP.lam(1.0)), float(VP.lam(1e-3)))
KNOWS_ITS_END = pytest.mark.skipif(
    "t_bound" not in inspect.signature(select_initial_step).parameters,
    reason="the first trial step of this scipy may go beyond the end",
)


def in_lam(lam: float, u: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """du/dlam = sigma (sigma u - eps) of the mixture under VP, written with the schedule's own functions."""
    t = VP.t_of_lam(lam)
    alpha, sigma = float(VP.alpha(t)), float(VP.sigma(t))
    eps = Mixture().predict(torch.from_numpy(u).view(shape), alpha, sigma)[1]
    return sigma * (sigma * u - eps.numpy().ravel())


def in_time(t: float, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """dx/dt = f x + g^2 eps / (2 sigma) with beta(t) = 0.1 + 19.9 t: f = -beta / 2, g^2 = beta."""
    beta, sigma = 0.1 + 19.9 * t, float(VP.sigma(t))
    eps = Mixture().predict(torch.from_numpy(x).view(shape), float(VP.alpha(t)), sigma)[1]
    return beta / 2 * (eps.numpy().ravel() / sigma - x)


@pytest.mark.parametrize("var", ["lam", "t"])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-8])
@pytest.mark.parametrize("seed", [0, 1])
@KNOWS_ITS_END
def test_same_steps_as_scipy(var: str, tolerance: float, seed: int) -> None:
    """One sample: the same evaluations, accepted steps and result (derivatives of lam by differences in t)."""
    x = starts(VP, 1.0, 1, seed)
    slope, ends = (in_lam, LAMS) if var == "lam" else (in_time, (1.0, 1e-3))
    theirs = scipy.integrate.solve_ivp(slope, ends, x.numpy().ravel(), rtol=tolerance, atol=tolerance, args=(x.shape,))
    ours, info = sample(Mixture().denoiser(VP), x, "rk45", rtol=tolerance, atol=tolerance, var=var, return_info=True)
    assert (info.nfe, info.accepted) == (theirs.nfev, len(theirs.t) - 1)
    assert np.abs(ours.numpy().ravel() - theirs.y[:, -1]).max() < (1e-9 if var == "lam" else 1e-6)


@pytest.mark.parametrize("var", ["lam", "t"])
@pytest.mark.parametrize("kind", ["vp", "edm", "ve", "flow", "discrete"])
def test_exact_for_gaussian_data(var: str, kind: str) -> None:
    """Within twenty tolerances of the closed form, between levels with noise."""
    schedule: Any = {
        "vp": VP,
        "edm": NoiseSchedule.edm(),
        "ve": NoiseSchedule.ve(0.01, 50.0),
        "flow": NoiseSchedule.flow(),
        "discrete": NoiseSchedule.from_config({"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
    }[kind]
    last, first = 0.05, 0.98 * schedule.t_max
    x, problem = starts(schedule, first, 3), Gaussian()
    for tolerance in (1e-4, 1e-7):
        got = sample(
            problem.denoiser(schedule), x, "rk45", rtol=tolerance, atol=tolerance, var=var, t_start=first, t_end=last
        )
        error = float((got - problem.flow(schedule, x, first, last)).abs().max())
        assert error < 20 * tolerance * float(np.hypot(schedule.alpha(last), schedule.sigma(last)))


def test_lam_is_smoother_than_time() -> None:
    """At equal tolerance the default variable needs fewer evaluations and its error is no larger."""
    x, denoiser = starts(VP, 1.0), Mixture().denoiser(VP)
    want = sample(denoiser, x, "rk45", rtol=1e-11, atol=1e-11, nfe=10**4)
    (a, lam), (b, time) = (sample(denoiser, x, "rk45", var=var, return_info=True) for var in ("lam", "t"))
    assert lam.nfe < time.nfe
    assert float((a - want).abs().max()) < 1.5 * float((b - want).abs().max())
