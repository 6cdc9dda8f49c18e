"""Beyond the span: parallel directions and filters are learned, better than what they begin from, and refused in words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from learned_problems import base, ring, sixteen, task
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule, build, sample
from fewstep.samplers.learned import learn
from fewstep.samplers.learned.parameters.filters import Filters
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.playing.differentiable import play
from fewstep.samplers.learned.playing.directions import with_directions
from fewstep.samplers.table.together import together

VP = NoiseSchedule.vp_linear()


@pytest.mark.parametrize("schedule", [VP, NoiseSchedule.flow(), NoiseSchedule.edm()])
def test_directions_without_weight_change_nothing(schedule: NoiseSchedule) -> None:
    denoiser = ring(schedule)
    x = schedule.initial_noise((8, 2), torch.Generator().manual_seed(0), dtype=torch.float64)
    for solver in ("dpmpp_2m", "unipc", "cab", "bdia"):
        table = build(solver, schedule, 4)
        for count in (1, 3):
            more = with_directions(table, count)
            assert together(more) == (count,) * 4
            torch.testing.assert_close(sample(denoiser, x, more), sample(denoiser, x, table), rtol=0, atol=1e-11)
    for solver in ("heun", "ddpm"):
        with pytest.raises(ValueError, match="a plain table of one evaluation a step"):
            with_directions(build(solver, schedule, 4), 2)


def test_no_knob_reads_an_output_of_its_own_call() -> None:
    """However far all knobs of a table with parallel directions are turned, its calls stay what they were."""
    start = build("epd", VP, 6, directions=3)
    for consistent in (False, True):
        free = ("grid", "coef", "tau") if consistent else ("grid", "coef", "tau", "state")
        knobs = Knobs(start, "sample", free, 6, consistent=consistent)
        with torch.no_grad():
            for value in knobs.parameters.values():
                value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        assert together(knobs.table()) == (3, 3)


@pytest.mark.slow
def test_parallel_directions_gain_where_calls_are_few() -> None:
    """Two calls of three directions: better than the best that is learned in two calls, and than it was with fixed weights."""
    made = task(sixteen(), (16,), 6, 64, 64)
    start = base(made, "epd", "logsnr", directions=3)
    before = made.offer(start)
    found = made.run("epd", start, steps=20, batch=32, even=4)
    assert together(found) == (3, 3)
    single = [entry["score"] for entry in made.done if entry["method"] == "auto"]
    assert made.judge(found) < 0.8 * min(single) < before
    with pytest.raises(ValueError, match="has none: learn"):
        made.run("epd", base(made))


def smoothing(x: Tensor, tau: Tensor) -> Tensor:
    """A network that looks at its neighbours."""
    kernel = torch.ones(2, 1, 3, 3, dtype=x.dtype) / 9
    return torch.tanh(1.5 * torch.nn.functional.conv2d(x, kernel, padding=1, groups=2))


def test_filters_begin_as_nothing_and_are_played_as_they_are_learned() -> None:
    made = task(Denoiser(smoothing, VP, "sample"), (2, 6, 6), 3, 32, 32)
    start = base(made)
    every = Filters(start, Knobs(start, "sample", ("grid", "coef"), 3, False), 2, 2, 3)
    assert np.array_equal(every.table().W, Knobs(start, "sample", (), 3).start.W) and every.table().filters is None
    with torch.no_grad():
        every.parameters["filter"] += 0.02 * torch.randn(
            every.parameters["filter"].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
    part = made.problem.part(range(4))
    states = play(part, every.start, every.coefficients())
    torch.testing.assert_close(states[-1].detach(), made.problem.draw(every.table(), part), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_filters_gain_where_what_is_missing_lies_in_space() -> None:
    """Guarded as all learning is, on seeds that nobody saw; the file plays the same."""
    how = {"shape": (2, 6, 6), "seeds": range(64), "guard_seeds": range(1000, 1032), "cache": False, "progress": False}
    stages = [("joint", {"steps": 20, "even": 4}), ("filter", {"size": 3, "steps": 60, "even": 4})]
    found = learn(Denoiser(smoothing, VP, "sample"), "dpmpp_2m", 3, stages, dtype="float64", **how)
    table = found.tables[0]
    assert table.status == "learned" and table.tableau.filters is not None and "filter" in table.moved
    assert found.report["test"]["rms"]["ratio"] < 0.6
    after = replace(table.tableau, filters=table.tableau.filters)
    made = task(Denoiser(smoothing, VP, "sample"), (2, 6, 6), 3, 32, 32)
    with pytest.raises(ValueError, match="let 'filter' come last"):
        made.run("iia", after)


@pytest.mark.parametrize(
    ("shape", "options", "said"), [((16,), {}, "samples that are images"), ((2, 6, 6), {"size": 4}, "odd")]
)
def test_bad_input(shape: tuple[int, ...], options: dict[str, int], said: str) -> None:
    denoiser = sixteen() if len(shape) == 1 else Denoiser(smoothing, VP, "sample")
    made = task(denoiser, shape, 3, 32, 32)
    with pytest.raises(ValueError, match=said):
        made.run("filter", base(made), **options)
