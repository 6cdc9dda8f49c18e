"""A budget is never overspent, is divided before anything is spent, and where it is too small says what the least is."""

from __future__ import annotations

import time

import pytest
import torch
from command_line import call
from learned_problems import MIXTURES, SHAPES
from torch import Tensor

from fewstep import learn
from fewstep.samplers import Denoiser
from fewstep.samplers.learned.estimate import estimate
from fewstep.samplers.learned.methods import auto
from fewstep.samplers.learned.tasks.budget import least, means
from fewstep.samplers.learned.tasks.measuring import Room, bytes_of, evaluations_or_seconds, room
from fewstep.samplers.learned.terminal import stages

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


def narrow(most: int) -> tuple[Denoiser, list[int]]:
    """A mixture whose memory is out above so many samples, and the largest batch that it answered."""
    exact, largest = MIXTURES["sixteen"](), [0]

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        if len(x) > most:
            raise RuntimeError(f"CUDA out of memory. Tried to allocate {len(x)} GiB")
        largest[0] = max(largest[0], len(x))
        return exact.fn(x, tau)

    return Denoiser(fn, exact.schedule, exact.prediction), largest


CHAIN = ["oss", "iia", ("joint", {"steps": 6, "batch": 16, "even": 4, "remember": True})]
FEW = {"shape": (16,), "method": CHAIN, "seeds": range(32), "guard_seeds": range(1000, 1016), "rivals": False, **HOW}


@pytest.mark.slow
def test_out_of_memory_halves_the_batch_and_ends_at_the_same_table() -> None:
    found = []
    for most in (1000, 5):
        denoiser, largest = narrow(most)
        found.append(learn(denoiser, "dpmpp_2m", 4, teacher={"nfe": 24}, **FEW).tables[0])
        assert largest[0] <= most
    (one, other), methods = found, [stage["method"] for stage in found[1].stages]
    assert methods == ["oss", "iia", "joint"]
    for a, b in zip(one.stages, other.stages, strict=True):
        assert a["score"] == pytest.approx(b["score"], rel=1e-9)


def test_what_fits_nowhere_is_raised_as_it_is() -> None:
    denoiser, _ = narrow(0)
    with pytest.raises(RuntimeError, match="out of memory"):
        learn(denoiser, "dpmpp_2m", 4, **FEW)


def wide(hidden: int = 4096) -> tuple[Denoiser, list[int]]:
    """A network that keeps much for its way back, and the largest batch of it."""
    exact, largest = MIXTURES["sixteen"](), [0]
    fan = torch.linspace(-1, 1, hidden, dtype=torch.float64)

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            largest[0] = max(largest[0], len(x))
        return exact.fn(x, tau) + 0 * (x[..., None] * fan).sin().mean(-1)

    return Denoiser(fn, exact.schedule, exact.prediction), largest


@pytest.mark.slow
def test_memory_decides_how_many_are_asked_at_once() -> None:
    """16 x 4096 numbers of eight bytes are kept twice over a sample: 10 MB hold some 8 of them, and no whole run."""
    denoiser, largest = wide()
    there = room(denoiser, None, "10MB", guidance=None, nfe=4, shape=(16,), dtype="float64")
    assert there.most is not None and 4 <= there.most <= 16 and not there.remember
    largest[0] = 0
    learn(denoiser, "dpmpp_2m", 4, teacher={"nfe": 24}, memory="10MB", **FEW)
    assert largest[0] <= there.most
    assert room(denoiser, None, "64GB", guidance=None, nfe=4, shape=(16,)) == Room()
    with pytest.raises(ValueError, match="one sample with its way back takes"):
        room(denoiser, None, "100kB", guidance=None, nfe=4, shape=(16,))


def test_a_budget_in_minutes_is_one_in_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the network moves, 1 ms a sample."""
    exact, passed = MIXTURES["ring"](), [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: passed[0])

    def slow(x: Tensor, tau: Tensor) -> Tensor:
        passed[0] += 1e-3 * len(x)
        return exact.fn(x, tau)

    there = room(
        Denoiser(slow, exact.schedule, "sample"), "10s", None, guidance=None, nfe=4, shape=(2,), dtype="float64"
    )
    assert there.budget == 10_000


@pytest.mark.parametrize(
    ("given", "found"), [(3000, 3000), ("3,000", 3000), ("30min", 1800.0), ("1.5 h", 5400.0), ("90s", 90)]
)
def test_budgets_in_words(given: object, found: float) -> None:
    assert found in evaluations_or_seconds(given)


@pytest.mark.parametrize(("given", "found"), [("24GB", 24e9), ("24GiB", 24 * 2**30), (1000, 1000), ("512 MB", 512e6)])
def test_memories_in_words(given: object, found: float) -> None:
    assert bytes_of(given) == found


@pytest.mark.parametrize("given", ["soon", "30 fortnights", 0, -5, True, "."])
def test_other_words_are_refused(given: object) -> None:
    with pytest.raises(ValueError, match="`budget` is a number of network evaluations"):
        evaluations_or_seconds(given)
    with pytest.raises(ValueError, match="`memory` is a size"):
        bytes_of(given)


@pytest.mark.slow
@pytest.mark.parametrize("small", [4, 256], ids=["large samples", "small samples"])
def test_an_estimate_is_what_is_spent(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newton is counted where it is run, which the size of the model's own samples decides; and it costs next to nothing."""
    monkeypatch.setattr(auto, "SMALL", small)
    denoiser, seen = counting("sixteen")
    how = {"shape": (16,), "dtype": "float64", "seeds": range(64), "guard_seeds": range(1000, 1064), "rivals": False}
    work = {"solver": "dpmpp_2m", "nfe": 4, "method": [("auto", {"steps": 10})]}
    told = estimate(denoiser, **work, **how)
    asked, seen[0] = seen[0], 0
    learn(denoiser, **work, **how, cache=False, progress=False)
    assert told.evaluations == pytest.approx(seen[0], rel=0.15) and asked < 0.01 * seen[0]
    assert any(cost.stage == "newton" for cost in told.stages) == (small == 256)


def test_an_estimate_of_a_budget_stays_within_it() -> None:
    denoiser, _ = counting("ring")
    assert 1000 < estimate(denoiser, nfe=4, budget=2000, shape=(2,), dtype="float64").evaluations <= 2000


def test_the_command_line_says_the_same() -> None:
    """--budget and --memory; `remember`, `batch` and `refine` of auto as words."""
    settings = ("remember=false", "batch=8", "refine=newton+joint")
    assert stages("auto", settings) == [("auto", {"remember": False, "batch": 8, "refine": ("newton", "joint")})]
    with pytest.raises(ValueError, match="`remember` is true or false; got 'off'"):
        auto.refined(dict(stages("auto", ("remember=off",))[0][1]))
    result = call("learn", "demo", "--nfe", 4, "--budget", "100", "--estimate")
    assert result.exit_code == 2 and "`budget` is 100 network evaluations, and the fewest" in result.stderr
    assert "`memory` is a size such as '24GB'" in call("learn", "demo", "--memory", "much", "--estimate").stderr
