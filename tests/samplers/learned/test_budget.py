"""A budget is never overspent, is divided before anything is spent, and where it is too small says what the least is."""

from __future__ import annotations

import pytest
import torch
from learned_problems import MIXTURES, SHAPES
from torch import Tensor

from fewstep import learn
from fewstep.samplers import Denoiser
from fewstep.samplers.learned.tasks.budget import least, means

pytestmark = pytest.mark.filterwarnings("ignore:auto")
HOW = {"dtype": "float64", "cache": False, "progress": False}


def counting(name: str) -> tuple[Denoiser, list[int]]:
    """A mixture, and the samples that its network was asked about so far."""
    exact, seen = MIXTURES[name](), [0]

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        seen[0] += len(x)
        return exact.fn(x, tau)

    return Denoiser(fn, exact.schedule, exact.prediction), seen


@pytest.mark.parametrize("budget", [1000, 2000, 4000])
@pytest.mark.parametrize("name", ["ring", "sixteen"])
def test_what_is_spent_stays_within_and_is_no_fraction(name: str, budget: int) -> None:
    denoiser, seen = counting(name)
    artefact = learn(denoiser, nfe=5, shape=SHAPES[name], budget=budget, **HOW)
    assert 0.7 * budget < seen[0] <= budget
    assert artefact.tables[0].report["learned"]["validation"]["rms"] > 0


def test_several_tables_share_it() -> None:
    denoiser, seen = counting("ring")
    artefact = learn(denoiser, nfe=[4, 6], shape=(2,), budget=4000, **HOW)
    assert seen[0] <= 4000 and [t.nfe for t in artefact.tables] == [4, 6]
    assert all(any(stage["method"] == "iia" for stage in t.stages) for t in artefact.tables)


def test_any_method_is_ended_by_it() -> None:
    """Two hundred steps of joint are far more than there are: the best so far goes to the guard."""
    denoiser, seen = counting("sixteen")
    artefact = learn(denoiser, nfe=4, method=["iia", ("joint", {"steps": 200})], shape=(16,), budget=3000, **HOW)
    assert seen[0] <= 3000 and artefact.tables[0].stages[-1]["spent"]


def test_it_is_part_of_what_decides() -> None:
    denoiser, _ = counting("ring")
    one, two = (learn(denoiser, nfe=4, shape=(2,), budget=1500, **HOW) for _ in range(2))
    assert one.hash == two.hash
    assert one.provenance["budget"]["evaluations"] == 1500


@pytest.mark.parametrize(("nfes", "guidances"), [((5,), 1), ((8,), 1), ((5, 8), 2)])
def test_too_small_a_budget_says_the_least_and_that_is_enough(nfes: tuple[int, ...], guidances: int) -> None:
    fewest = guidances * least(nfes)
    with pytest.raises(ValueError, match=f"{fewest:,}"):
        means(fewest - 1, nfes, guidances)
    means(fewest, nfes, guidances)


def test_the_least_is_enough() -> None:
    denoiser, seen = counting("sixteen")
    learn(denoiser, nfe=5, shape=(16,), budget=least((5,)), **HOW)
    assert seen[0] <= least((5,))


def test_more_buys_more() -> None:
    found = [means(budget, (5,), 1) for budget in (1000, 2000, 4000, 8000, 16000, 32000, 64000)]
    for name in ("seeds", "guard", "steps", "checked"):
        values = [getattr(one, name) for one in found]
        assert values == sorted(values)
    assert found[-1].auto[5]["refine"] == ("joint",) and not found[0].auto[5]["refine"]
    assert torch.tensor([one.screening[5] for one in found]).diff().ge(0).all()
