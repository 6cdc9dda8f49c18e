"""late: grids that begin later than x_T are what they say, only where x_T is a state there, and better where it counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import ring, sixteen, task, third

from fewstep import adjoint, load
from fewstep.samplers import Denoiser, NoiseSchedule, build, sample
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.corrections import base_of
from fewstep.samplers.artefact.learned_table import Learned
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.learned.methods.iia import iia
from fewstep.samplers.learned.methods.late import begun_later, late, later, room

VP = NoiseSchedule.vp_linear()


@pytest.mark.parametrize("solver", ["dpmpp_2m", "cab", "heun"])
def test_grids_that_begin_later(solver: str) -> None:
    """At share 1 the first boundary is the second of the old grid; the end stays, and all decrease."""
    start = build(solver, VP, 8, "uniform")
    old = boundaries(start)
    for share in (0.25, 1.0):
        new = later(start, share)
        assert len(new) == len(old) and (np.diff(new) < 0).all() and new[-1] == old[-1] and new[0] < old[0]
    assert later(start, 1.0)[0] == pytest.approx(old[1], rel=1e-9)
    np.testing.assert_allclose(later(start, 0.0), old, rtol=1e-9)


def test_room_is_where_x_t_is_a_state() -> None:
    """A whole step of five on a variance-preserving schedule; where sigma falls, as far as alpha / sigma is faint."""
    assert room(build("dpmpp_2m", VP, 5, "uniform")) == 1.0
    long = build("dpmpp_2m", VP, grid=np.array([1.0, 0.2, 0.0]))
    assert 0.3 < room(long) < 0.9 and float(VP.sigma(later(long, room(long))[0])) > 0.979
    edm = build("dpmpp_2m", NoiseSchedule.edm(), 5, "logsnr")
    assert room(edm) == 1.0 and later(edm, 1.0)[0] > 5.0
    flow = build("dpmpp_2m", NoiseSchedule.flow(), 5, "uniform")
    t = float(later(flow, room(flow))[0])
    assert 0.83 < t < 0.85 and (1 - t) / t <= 0.2


def test_no_later_start_without_room() -> None:
    once = build("dpmpp_2m", VP, 1)
    assert late(task(ring(), (2,), 1, 64, 64), once) is once


@pytest.mark.parametrize("mixture, shape, nfe", [(third, (6,), 5), (sixteen, (16,), 8)], ids=["third", "sixteen"])
def test_it_is_better_than_the_same_fit_from_the_start(mixture: Any, shape: tuple[int, ...], nfe: int) -> None:
    """Fresh seeds, weights of all outputs by the same least squares: the evaluation at t_max is better spent later."""
    made = task(mixture(), shape, nfe, 256, 256)
    start = build("dpmpp_2m", made.problem.schedule, nfe, "quadratic")
    found, same = late(made, start, samples=256), iia(made, start, consistent=False)
    assert boundaries(found)[0] < 0.9 * boundaries(start)[0] and found.nfe == nfe and not found.conserves
    fresh = made.problem.parts(range(20_000, 20_512))
    ratio = made.errors(found, fresh).median() / made.errors(same, fresh).median()
    assert float(ratio) ** 0.5 < 0.8
    part = fresh[0]  # and it is a table like any other
    alone = sample(part.denoiser, part.x_T[:1], found)
    torch.testing.assert_close(alone, made.problem.draw(found, part)[:1], rtol=1e-9, atol=1e-9)


def test_the_start_is_kept_where_it_is_better() -> None:
    """A grid that begins no later has nothing to win, and its few samples less to learn from."""
    made = task(ring(), (2,), 5, 64, 64)
    start = iia(made, build("dpmpp_2m", VP, 5, "quadratic"))
    assert late(made, start, shares=(1e-3,), samples=16) is start


@pytest.mark.parametrize("shares", [(0.0,), (0.5, 1.5), (-1,)])
def test_bad_shares(shares: tuple[float, ...]) -> None:
    made = task(ring(), (2,), 5, 64, 64)
    with pytest.raises(ValueError, match="above 0 and at most 1; got"):
        late(made, build("dpmpp_2m", VP, 5), shares=shares)


@pytest.mark.parametrize("schedule", [NoiseSchedule.edm(), NoiseSchedule.flow()])
def test_where_noise_shrinks_the_first_state_is_as_large_as_its_noise(schedule: NoiseSchedule, tmp_path: Any) -> None:
    """The analytic first step: played alike by sample and adjoint, kept in files, and not inverted."""
    denoiser = ring(schedule)
    table = begun_later(build("dpmpp_2m", schedule, 4, "uniform"), 0.9)
    size = float(table.nodes.sigma[0] / schedule.sigma(schedule.t_max))
    assert table.begins == pytest.approx(size, rel=1e-9) and size < 0.95
    x = schedule.initial_noise((4, 2), torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = sample(denoiser, x * size, replace(table, begins=1.0))
    assert torch.equal(sample(denoiser, x, table), expected)
    (slope,) = torch.autograd.grad(adjoint.sample(denoiser, x.requires_grad_(), table).sum(), x)
    (other,) = torch.autograd.grad(sample(denoiser, x, table).sum(), x)
    torch.testing.assert_close(slope, other, rtol=1e-10, atol=1e-10)
    table.save(tmp_path / "late.json")
    assert load(tmp_path / "late.json").begins == table.begins
    assert base_of(table).begins == pytest.approx(size, rel=1e-9)
    with pytest.raises(ValueError, match="it leads from an image to no x_T"):
        adjoint.invert(denoiser, expected.detach(), table)


def test_a_scheduler_draws_noise_as_large_as_a_table_begins() -> None:
    from fewstep import Scheduler

    config = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
    schedule = NoiseSchedule.from_config(config)
    table = begun_later(build("dpmpp_2m", schedule, 4, "uniform"), 0.9)
    artefact = Artefact((Learned(table),), {"prediction": "flow_prediction"})
    scheduler = Scheduler.from_config(config, learned=artefact)
    scheduler.set_timesteps(4)
    z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = z * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(0.5 * x, t, x).prev_sample
    there = sample(Denoiser(lambda x, tau: 0.5 * x, schedule, "flow_prediction"), z, artefact)
    torch.testing.assert_close(x, there, rtol=0, atol=1e-12)
