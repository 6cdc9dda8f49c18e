"""The transfer matrix: what a table is worth with other seeds, guidance, words, sizes and adapters, where it is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from learned_problems import ring
from worded_pipelines import worded

from fewstep.samplers.learned import learn
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.worth.transfer import _usual, adapters_at, checked_transfer

QUICK: dict[str, Any] = {
    "nfe": 3, "method": "iia", "seeds": range(16), "guard_seeds": range(1000, 1008), "progress": False,
    "teacher": {"nfe": 40}, "cache": False,
}  # fmt: skip


class Layer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scaling, self.active_adapters = {"style": 0.8}, ["style"]


@pytest.mark.slow
def test_other_seeds_of_a_denoiser() -> None:
    made = learn(ring(), shape=(2,), dtype=torch.float64, transfer=True, **{**QUICK, "teacher": {"nfe": 60}})
    (row,) = made.report["transfer"]
    assert row["at"] == "other seeds" and row["ratio"] == pytest.approx(row["learned"] / row["fixed"])


def test_the_usual_places_of_a_pipeline() -> None:
    pipe, rest = worded("sd")
    problem = Problem(pipe, call={**rest, "prompt": ["a cat", "a dog"]}, batch_size=8)
    assert list(_usual(problem)) == ["guidance_scale 2.1", "guidance_scale 4.5", "unseen prompts"]
    pipe.unet.add_module("adapter", Layer())
    assert list(_usual(problem))[-1] == "adapters at half"
    with adapters_at(pipe, 0.5):
        assert pipe.unet.adapter.scaling == {"style": 0.4}
    assert pipe.unet.adapter.scaling == {"style": 0.8}
    stronger, wide = problem.wishing(guidance=4.5), problem.wishing(call={"width": 64})
    assert stronger.domain["guidance"]["guidance_scale"] == [4.5] and problem.domain["guidance"]["guidance_scale"] == [
        3.0
    ]
    assert wide.shape == (4, 16, 32) and problem.shape == (4, 16, 16)
    assert problem.wishing(prompt=["x"]).conditions["prompt"] == ["x"]


@pytest.mark.slow
def test_the_matrix_of_a_text_pipeline() -> None:
    pipe, rest = worded("flux")
    made = learn(pipe, call={**rest, "prompt": ["a cat", "a dog"]}, transfer={"wide": {"width": 64}}, **QUICK)
    assert [row["at"] for row in made.report["transfer"]] == ["other seeds", "wide"]
    assert all(row["learned"] > 0 and row["fixed"] > 0 for row in made.report["transfer"])


def test_other_places_are_refused_before_anything_is_spent() -> None:
    assert checked_transfer(None) is False and checked_transfer({"a": {}}) == {"a": {}}
    model = ring()
    with pytest.raises(ValueError, match="transfer=True measures the usual places; others are"):
        learn(model, shape=(2,), transfer=["guidance"], **QUICK)
    assert model.nfe == 0
