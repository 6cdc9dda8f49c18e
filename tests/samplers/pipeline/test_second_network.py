"""The colour network, a flow that no rule here was made from: what is promised of solvers and learned tables holds on it."""

from __future__ import annotations

import pytest
from places import EXAMPLES

from fewstep.eval.shared_noise.trials import Trials
from fewstep.samplers.pipeline.source import Source

NFES = (4, 6, 10)


@pytest.fixture(scope="module")
def trials() -> Trials:
    return Trials(Source(str(EXAMPLES / "colours"), device="cpu"), range(10_000, 10_008), {"nfe": 80})


def test_auto_is_better_than_euler(trials: Trials) -> None:
    auto, euler = trials.errors("auto", NFES), trials.errors("euler", NFES)
    assert all(a < 0.65 * e for a, e in zip(auto.rmse, euler.rmse, strict=True)), (auto.rmse, euler.rmse)


def test_its_learned_tables_are_better_than_auto_on_seeds_that_nothing_has_touched(trials: Trials) -> None:
    learned = trials.errors(str(EXAMPLES / "colours-learned.json"), (5, 6, 8))
    auto = trials.errors("auto", (5, 6, 8))
    assert all(a < 0.7 * e for a, e in zip(learned.rmse, auto.rmse, strict=True)), (learned.rmse, auto.rmse)
