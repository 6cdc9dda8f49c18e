"""Rows asked together: found from the weights alone, the same numbers as one after another, refused where they cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import fewstep
from fewstep import sample
from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, build, guidance
from fewstep.samplers.table.together import since, together

VP = NoiseSchedule.vp_linear()
SCHEDULES = {"vp": VP, "flow": NoiseSchedule.flow(), "edm": NoiseSchedule.edm()}


def network(x: Tensor, tau: Tensor) -> Tensor:
    level = tau.to(x).reshape(-1, *[1] * (x.ndim - 1))
    return torch.tanh(x + 0.1 * level / (1 + level))


def denoiser(schedule: NoiseSchedule = VP, vector_time: Any = True) -> Denoiser:
    return Denoiser(network, schedule, "sample", vector_time=vector_time)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("directions", [1, 2, 3])
def test_together_is_one_after_another(kind: str, directions: int) -> None:
    """Evaluations are nfe either way, calls one a step; every sample is the same in any batch."""
    schedule = SCHEDULES[kind]
    x = schedule.initial_noise((5, 3), torch.Generator().manual_seed(0), dtype=torch.float64)
    table = build("epd", schedule, 6, directions=directions)
    assert together(table) == table.groups == (directions,) * (6 // directions)
    serial, told = sample(denoiser(schedule), x, table, return_info=True)
    assert (told.nfe, told.calls) == (6, 6)
    if directions == 1:
        with pytest.raises(ValueError, match="every row of 'epd' needs the one before it"):
            sample(denoiser(schedule), x, table, parallel=True)
        return
    asked = denoiser(schedule)
    found, told = sample(asked, x, table, parallel=True, return_info=True)
    assert (told.nfe, told.calls, asked.nfe) == (6, 6 // directions, 6 // directions)
    torch.testing.assert_close(found, serial, rtol=0, atol=1e-14)
    alone = torch.cat([sample(denoiser(schedule), one[None], table, parallel=True) for one in x])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-14)
    seen: list[int] = []
    sample(denoiser(schedule), x, table, parallel=True, callback=lambda step: seen.append(step.index))
    assert seen == list(range(6))


def test_only_parallel_directions_are_asked_together() -> None:
    """Every other solver of the registry needs each output for the next input, or draws in between."""
    for name, entry in SOLVERS.items():
        if entry.kind == "tableau" and name != "epd":
            assert max(together(build(name, VP, 6))) == 1, name
    assert since(build("epd", VP, 7, directions=3)).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert build("epd", VP, 7, directions=3).groups == (1, 3, 3)


def test_a_scheduler_plays_the_rows_one_by_one() -> None:
    """In a pipeline K directions are K turns of its loop: the same sample, and all that is counted is made."""
    scheduler = fewstep.Scheduler.from_config({"_class_name": "DDIMScheduler"}, "epd", directions=2)
    scheduler.set_timesteps(6)
    assert len(scheduler.timesteps) == 6
    x = begun = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in scheduler.timesteps:
        x = scheduler.step(0.5 * x, t, x).prev_sample
    table = scheduler._table.tableau
    expected = sample(Denoiser(lambda x, tau: 0.5 * x, table.schedule, "epsilon"), begun, table)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-12)


def test_bad_input() -> None:
    x = torch.zeros(2, 3)
    for who, match in (
        (denoiser(vector_time=False), "takes one time a call"),
        (guidance.apg(denoiser(), denoiser(), 2.0), "looks at the row that asks"),
        (guidance.cfg_pp(denoiser(), denoiser(), 0.6), "looks at the row that asks"),
    ):
        with pytest.raises(ValueError, match=match):
            sample(who, x, "epd", 6, parallel=True)
    with pytest.raises(ValueError, match="`hook` changes the state between rows"):
        sample(denoiser(), x, "epd", 6, parallel=True, hook=lambda step: None)
    with pytest.raises(ValueError, match="epd: `directions`"):
        build("epd", VP, 6, directions=0)
    guided = guidance.cfg(denoiser(), denoiser(), 2.0)
    torch.testing.assert_close(
        sample(guided, x, "epd", 6, parallel=True), sample(guided, x, "epd", 6), rtol=0, atol=1e-6
    )
