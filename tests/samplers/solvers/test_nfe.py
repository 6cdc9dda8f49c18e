"""A budget of n evaluations is spent exactly, counted at the network and not in the table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from problems import in_turn
from torch import Tensor

from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, build, sample

LAW = NoiseSchedule.vp_linear()
ZERO_SNR = np.append(LAW.alpha(np.arange(1, 100) / 100) ** 2, 0.0)
SCHEDULES = {
    "vp": NoiseSchedule.vp_linear(),
    "cosine": NoiseSchedule.vp_cosine(),
    "discrete": NoiseSchedule.discrete(LAW.alpha(np.arange(1, 101) / 100) ** 2),
    "zero-snr": NoiseSchedule.discrete(ZERO_SNR),
    "ve": NoiseSchedule.ve(0.01, 50.0),
    "edm": NoiseSchedule.edm(),
    "flow": NoiseSchedule.flow(),
    "shifted-flow": NoiseSchedule.flow(shift=3.0),
}
QUICK = ("vp", "zero-snr", "edm", "flow")
COUNTS = (*range(1, 13), 17, 24, 30)
NAMES = [name for name, entry in SOLVERS.items() if entry.kind == "tableau"]


class Network:
    """A v-like network of constant x0 and eps that writes down when it was asked."""

    def __init__(self, schedule: NoiseSchedule):
        self.times: list[float] = []
        self.schedule = schedule
        # the prediction that says something at both ends
        self.prediction = "flow_prediction" if schedule.kind == "flow" else "v_prediction"

    def __call__(self, x: Tensor, tau: Tensor) -> Tensor:
        self.times.append(float(tau))
        t = self.schedule.time_of_model(float(tau))
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        x0, eps = torch.full_like(x, 0.5), torch.full_like(x, -1.0)
        return eps - x0 if self.schedule.kind == "flow" else alpha * eps - sigma * x0


def spend(schedule: NoiseSchedule, name: str, nfe: int, **ends: Any) -> tuple[Network, Denoiser, Tensor]:
    network = Network(schedule)
    denoiser = Denoiser(network, schedule, network.prediction)
    first = ends.get("t_start", schedule.t_max)
    x = torch.full((1, 1), 0.5 * float(schedule.alpha(first)) - float(schedule.sigma(first)), dtype=torch.float64)
    return network, denoiser, sample(denoiser, x, name, nfe, **ends)


def exact(schedule: NoiseSchedule, name: str, nfe: int, **ends: Any) -> bool:
    """Whether a table claims to follow a point and its noise to the end."""
    return not SOLVERS[name].stochastic and bool(build(name, schedule, nfe, **ends).conserves)


def check_spent(name: str, kind: str, counts: Iterable[int]) -> None:
    schedule = SCHEDULES[kind]
    first, last = (float(schedule.model_time(t)) for t in (schedule.t_max, schedule.t_end))
    for nfe in counts:
        network, denoiser, x = spend(schedule, name, nfe)
        assert len(network.times) == denoiser.nfe == nfe
        assert network.times[0] == pytest.approx(first, abs=1e-9)
        assert max(network.times) <= first + 1e-9 and min(network.times) >= last - 1e-9
        end = 0.5 * float(schedule.alpha(schedule.t_end)) - float(schedule.sigma(schedule.t_end))
        assert torch.isfinite(x).all()
        assert not exact(schedule, name, nfe) or float(x[0, 0]) == pytest.approx(end, abs=1e-7)


@pytest.mark.parametrize(("name", "kind"), in_turn(NAMES, QUICK))
@pytest.mark.one_in(3)
def test_exactly_n_evaluations_inside_the_grid(name: str, kind: str) -> None:
    check_spent(name, kind, COUNTS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_evaluations_on_every_schedule(name: str, kind: str) -> None:
    check_spent(name, kind, range(1, 31))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.one_in(3)
def test_the_network_is_never_asked_at_zero_noise(name: str) -> None:
    for kind in ("discrete", "zero-snr", "edm", "flow"):
        schedule = SCHEDULES[kind]
        for nfe in (1, 2, 3, 4, 5, 7, 10, 13):
            table = build(name, schedule, nfe)
            assert (table.nodes.sigma[:-1] > 0).all() and table.nodes.sigma[-1] == 0
            assert table.times[-1] == schedule.t_end and len(table.times) == nfe + 1


@pytest.mark.parametrize("name", NAMES)
def test_given_ends_are_kept(name: str) -> None:
    schedule = SCHEDULES["vp"]
    for nfe in (1, 2, 5, 8, 11):
        network, _, x = spend(schedule, name, nfe, t_start=0.8, t_end=0.05, grid="uniform")
        assert len(network.times) == nfe and network.times[0] == 0.8 and min(network.times) >= 0.05 - 1e-12
        assert not exact(schedule, name, nfe, t_start=0.8, t_end=0.05, grid="uniform") or float(
            x[0, 0]
        ) == pytest.approx(0.5 * float(schedule.alpha(0.05)) - float(schedule.sigma(0.05)), abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_an_explicit_grid_without_nfe_takes_one_step_an_interval(name: str) -> None:
    times = np.linspace(0.9, 0.1, 13)
    table = build(name, SCHEDULES["vp"], None, times)
    # a plan of its own may regroup; churn and Restart move boundaries
    assert set(times) <= set(table.times) or SOLVERS[name].plan or table.jumps
    assert table.times[0] == 0.9 and table.times[-1] == 0.1 and table.nfe == len(table.forms)
