"""late: grids that begin later than x_T are what they say, only where x_T is a state there, and better where it counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import ring, sixteen, task, third

from fewstep.samplers import NoiseSchedule, build, sample
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.learned.methods.iia import iia
from fewstep.samplers.learned.methods.late import LEAST, late, later, room

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
    """A whole step of five on a variance-preserving schedule, none where sigma falls from the start on."""
    assert room(build("dpmpp_2m", VP, 5, "uniform")) == 1.0
    long = build("dpmpp_2m", VP, grid=np.array([1.0, 0.2, 0.0]))
    assert 0.3 < room(long) < 0.9 and float(VP.sigma(later(long, room(long))[0])) > 0.979
    assert room(build("dpmpp_2m", NoiseSchedule.edm(), 5, "logsnr")) < LEAST
    flow = NoiseSchedule.flow()
    begun = build("dpmpp_2m", flow, 5, "uniform")
    assert float(later(begun, room(begun))[0]) >= 0.98


def test_no_later_start_without_room() -> None:
    start = build("dpmpp_2m", NoiseSchedule.edm(), 5, "logsnr")
    made = task(ring(start.schedule), (2,), 5, 64, 64)
    assert late(made, start) is start and made.problem.spent == 0
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
