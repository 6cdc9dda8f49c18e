"""A race finds the best of many in little time, drops nobody for bad luck with the clock, and says whom it never tried."""

from __future__ import annotations

import math

import pytest

from fewstep.eval.compare.comparison import entrants
from fewstep.eval.shared_noise.pairs import paired
from fewstep.eval.shared_noise.racing import FIRST, KEPT, LEAST, Race, blocks
from fewstep.samplers.pipeline.contenders import Contender

SOLVERS, GRIDS = ("deis", "unipc", "dpmpp_2m", "ddim", "heun", "dpm_2"), ("uniform", "karras", "quadratic", "flow")
NAMES = [Contender(f"{solver} on {grid}") for solver in SOLVERS for grid in GRIDS]


class Clock:
    """A second for each image and evaluation."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def run(seconds: float | None, nfes: tuple[int, ...] = (4, 8), images: int = 64) -> tuple[Race, dict, list]:
    """A race of NAMES, whose error is what its solver does times what its grid does."""
    clock, means, ran = Clock(), {}, []
    race = Race(NAMES, nfes, seconds, clock)
    for block in race.rounds(range(images)):
        for group in race.groups(means):
            for name, where in race.running(group):
                solver, grid = str(name).split(" on ")
                for n in where:
                    means[name, n] = (1 + SOLVERS.index(solver)) * (1 + GRIDS.index(grid)) / n
                    clock.now += len(block) * n
                ran.append((name, len(block), tuple(where)))
        race.halve(means)
    return race, means, ran


@pytest.mark.parametrize("images", [1, 3, 4, 5, 16, 61, 64])
def test_blocks_are_all_images_once(images: int) -> None:
    found = blocks(range(7, 7 + images))
    assert [seed for block in found for seed in block] == list(range(7, 7 + images))
    assert len(found[0]) == min(FIRST, images) and all(
        len(b) <= 2 * sum(map(len, found[:k])) for k, b in enumerate(found) if k
    )


def test_without_a_limit_everybody_runs_once_on_all() -> None:
    race, _, ran = run(None)
    assert [name for name, _, _ in ran] == NAMES and {count for _, count, _ in ran} == {64} and not race.untried


def test_each_column_keeps_its_better_half_and_the_best_sees_all_images() -> None:
    race, means, ran = run(1e9)
    seen = {name: sum(count for other, count, _ in ran if other is name) for name in NAMES}
    assert seen[NAMES[0]] == 64 and race.alive[4][0] == NAMES[0] and len(race.alive[4]) == KEPT
    counts = sorted(seen.values())
    assert counts[0] == FIRST and counts[len(counts) // 2] <= 2 * FIRST  # half of them are gone after the first block
    total = sum(count * sum(where) for _, count, where in ran)
    assert total < 0.35 * 64 * sum((4, 8)) * len(NAMES)  # of what all of them on all images would take


@pytest.mark.parametrize("seconds", [1.0, 300.0, 3000.0])
def test_the_time_is_kept_about(seconds: float) -> None:
    clock_end = 0.0
    race, _, ran = run(seconds)
    clock_end = race.clock()
    most = 32 * sum((4, 8))  # of the one that is at work when the time is over
    assert clock_end <= seconds + LEAST * most
    tried = {name for name, _, _ in ran}
    assert len(tried) >= LEAST and set(race.untried) == set(NAMES) - tried


def test_grids_are_tried_first_and_the_best_of_them_with_the_others() -> None:
    """The first solver on every grid; then whoever runs on the grid that it was best on."""
    race, _, ran = run(48 * 1.5 * 12)
    order = [str(name) for name, count, _ in ran if count == FIRST][: len(GRIDS) + 2]
    assert order[: len(GRIDS)] == [f"deis on {grid}" for grid in GRIDS]
    assert all(name.endswith("on uniform") for name in order[len(GRIDS) :])


def test_files_run_first_and_solvers_bound_by_a_name_lead_together() -> None:
    names = [Contender(name) for name in ("demo", "uni_pc on uniform", "ddim on uniform", "uni_pc on karras")]
    first, second = Race(names, (5,), 60.0).groups({})
    assert [str(n) for n in first] == ["demo", "uni_pc on uniform", "uni_pc on karras"] and second == [names[2]]


@pytest.mark.slow
def test_a_race_on_a_network_recommends_what_the_whole_comparison_does() -> None:
    names = [f"{solver} on {grid}" for solver in ("unipc", "ddim", "heun") for grid in ("uniform", "karras")]
    how = {"nfe": (4,), "pairs": 8, "metrics": ("rmse",), "reference": {"nfe": 30}}
    raced, whole = paired("demo", names, seconds=600.0, **how), paired("demo", names, **how)
    assert raced.recommendations()[0].best == whole.recommendations()[0].best
    counts = {p.solver: p.report["rmse"].n for p in raced.points}
    assert max(counts.values()) == 8 and min(counts.values()) == FIRST
    for name in names:
        a, b = raced.result("rmse", name, 4), whole.result("rmse", name, 4)
        assert a is not None and b is not None and a.groups == pytest.approx(b.groups[: len(a.groups)], rel=1e-4)
    hurried = paired("demo", names, seconds=1e-3, **how)
    assert len(hurried.solvers) == LEAST and f"not tried for lack of time: {names[2]}" in " ".join(hurried.notes)


def test_who_runs() -> None:
    assert entrants(("ddim", "dpm_adaptive", "DPM++ 2M Karras"), ("uniform", "flow")) == [
        "ddim on uniform", "ddim on flow", "dpm_adaptive", "DPM++ 2M Karras",
    ]  # fmt: skip
    everybody = entrants(None, None, racing=True)
    assert (
        everybody[0] == "unipc on uniform"
        and len(everybody) > 150
        and math.isclose(len(set(everybody)), len(everybody))
    )
