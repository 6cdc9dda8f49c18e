"""The default method reaches what is promised of it, on mixtures it was tuned on and on one that it was not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from learned_problems import MIXTURES, SHAPES, ring

from fewstep.samplers import Denoiser, NoiseSchedule
from fewstep.samplers.learned.learning import learn
from fewstep.samplers.learned.methods import auto
from fewstep.samplers.learned.tasks.budget import _stages

GRIDS = ("uniform", "quadratic", "logsnr", "karras")


def ratios(name: str, nfe: int, seeds: int, guard: int, **how: Any) -> dict[str, Any]:
    """Report of auto on dpmpp_2m against the best of its fixed recipes, on untouched seeds."""
    how["rivals"] = False
    artefact = learn(
        MIXTURES[name](), "dpmpp_2m", nfe, "auto", shape=SHAPES[name], dtype=torch.float64, cache=False, progress=False,
        batch_size=512, teacher={"nfe": 120}, seeds=range(seeds), guard_seeds=range(10_000, 10_000 + guard), **how,
    )  # fmt: skip
    return dict(artefact.tables[0].report)


@pytest.mark.slow
def test_ring_in_five_evaluations() -> None:
    without = ratios("ring", 5, 256, 512, refine=())["test"]
    whole = ratios("ring", 5, 256, 512)["test"]
    assert without["rms"]["ratio"] < 0.85 and without["median"]["ratio"] < 0.5
    assert whole["rms"]["ratio"] < 0.65 and whole["gain"]["ratio"] < without["gain"]["ratio"]


@pytest.mark.slow
@pytest.mark.parametrize("nfe", [4, 5, 6, 8])
@pytest.mark.parametrize("name", MIXTURES)
def test_against_the_best_of_all_recipes(name: str, nfe: int) -> None:
    """All solvers on all grids, 1,024 untouched seeds: never a larger rms, and half the median at most."""
    artefact = learn(
        MIXTURES[name](), nfe=nfe, shape=SHAPES[name], dtype=torch.float64, cache=False, progress=False,
        batch_size=512, teacher={"nfe": 120}, seeds=range(192), guard_seeds=range(10_000, 11_024),
    )  # fmt: skip
    (one,) = artefact.tables
    test = one.report["test"]
    print(
        f"{name} {nfe}: rms {test['rms']['ratio']:.3f} median {test['median']['ratio']:.3f}; {one.report['guard']['said']}"
    )
    assert one.status == "learned" and test["rms"]["ratio"] <= 1 and test["median"]["ratio"] <= 0.5


@pytest.mark.slow
def test_a_network_without_gradients() -> None:
    """Refined by differences, which need none."""
    inner = ring()

    def fn(x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return inner.fn(x.detach(), tau.detach())

    blind = Denoiser(fn, inner.schedule, inner.prediction)
    how: dict[str, Any] = {"shape": (2,), "dtype": torch.float64, "cache": False, "progress": False}
    (one,) = learn(blind, nfe=5, seeds=range(96), guard_seeds=range(1000, 1128), teacher={"nfe": 120}, **how).tables
    assert [s["method"] for s in one.stages] == ["oss", "iia", "iia", "late", "newton", "auto"]
    assert one.status == "learned" and one.report["test"]["gain"]["ratio"] < 0.5


def test_a_start_that_begins_later_is_not_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best recipe at pure noise goes the same way beside it; `twice=False`, and a budget, leave that out."""
    own = auto.recipes("auto", NoiseSchedule.from_config({"_class_name": "DDIMScheduler"}), 4)
    late = next(r.table for r in own if r.grid == "leading")
    first = late.schedule.t_max * (1 - 1e-6)
    assert late.times[0] < first
    monkeypatch.setattr(auto, "screened", lambda task, known: known[:3])
    task = SimpleNamespace(
        nfe=4, problem=SimpleNamespace(schedule=late.schedule, t_start=late.schedule.t_max, t_end=0.0), judge=id
    )
    (found,) = auto._from_noise(task, late)
    assert found.times[0] >= first and found.nfe == 4
    assert auto._from_noise(task, found) == []
    assert not _stages(5, 10**5, 64, 16, True)["twice"]


@pytest.mark.slow
def test_a_stochastic_base() -> None:
    """No states on the way: only what compares ends, on each seed's Brownian path."""
    how: dict[str, Any] = {"shape": (2,), "dtype": torch.float64, "cache": False, "progress": False, "steps": 20}
    seeds = {"seeds": range(160), "guard_seeds": range(1000, 1160)}
    (one,) = learn(ring(), "dpmpp_2m_sde", 5, teacher={"nfe": 40}, **seeds, **how).tables
    assert [s["method"] for s in one.stages] == ["newton", "joint", "auto"]
    assert one.status == "learned" and one.report["test"]["gain"]["interval"][1] < 1 and one.tableau.stochastic


@pytest.mark.slow
@pytest.mark.parametrize(("nfe", "seeds"), [pytest.param(20, 160, marks=pytest.mark.slow), (5, 20), (5, 28)])
def test_as_many_numbers_as_samples_allow(nfe: int, seeds: int) -> None:
    """Long tables and few seeds: every stage turns what it has samples for, joint at last only grid and times, or nothing."""
    how: dict[str, Any] = {"shape": (2,), "dtype": torch.float64, "cache": False, "progress": False}
    how |= {"solver_options": {"lower_order_final": True}, "teacher": {"nfe": 120}, "refine": "joint", "steps": 4}
    (one,) = learn(ring(), nfe=nfe, seeds=range(seeds), guard_seeds=range(1000, 1064), **how).tables
    assert [s["method"] for s in one.stages] == ["oss", "iia", "iia", "late", "joint", "auto"]


@pytest.mark.slow
def test_too_few_samples_for_any_refinement() -> None:
    how: dict[str, Any] = {"shape": (2,), "dtype": torch.float64, "cache": False, "progress": False}
    how |= {"solver": "dpmpp_2m_sde", "teacher": {"solver": "dpmpp_2m_sde", "nfe": 100}, "seeds": range(8)}
    with pytest.warns(UserWarning, match="auto: newton turns 8 numbers at least, and there are 4 training samples"):
        (one,) = learn(ring(), nfe=5, guard_seeds=range(1000, 1016), refine="newton", **how).tables
    assert [s["method"] for s in one.stages] == ["auto"]


def test_bad_input() -> None:
    with pytest.raises(ValueError, match='lists "newton" and "joint"; got \'ld3\''):
        ratios("ring", 5, 32, 32, refine=("ld3",))
