"""Networks on which nothing can be learned are told as what they are, before anything is spent on them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from learned_problems import ring
from torch import Tensor
from worded_pipelines import worded

import fewstep
from fewstep import Denoiser
from fewstep.samplers import NoiseSchedule
from fewstep.samplers.learned import learn
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.tasks.soundness import require_sound

SMALL: dict[str, Any] = {
    "rivals": False, "shape": (2,),
    "dtype": torch.float64, "progress": False, "seeds": range(48), "guard_seeds": range(1000, 1048),
    "cache": False,
}  # fmt: skip


class Net(torch.nn.Module):
    """The exact network of a mixture behind a layer that may spoil it."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer, self.inner = layer.double(), ring()

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        found: Tensor = self.layer(self.inner.call(x, tau))
        return found


class To(torch.nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, self.value)


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (torch.nn.Dropout(0.2), r"by 1 active layers of dropout.*\.eval\(\)"),
        (
            torch.nn.BatchNorm1d(2),
            r"depends on the others in its batch: 1 layers of batch norm are training.*\.eval\(\)",
        ),
        (To(float("nan")), "not finite, 8 of 8 at t = "),
        (To(0.5), "the same whatever state it is shown: it is a constant"),
    ],
)
def test_what_cannot_be_learned_on_is_told(layer: torch.nn.Module, said: str) -> None:
    model = Denoiser(Net(layer), NoiseSchedule.vp_linear(), "sample")
    with pytest.raises(ValueError, match=said):
        learn(model, "dpmpp_2m", 3, "iia", **SMALL)
    assert model.nfe <= 6, "nothing was spent on it"


def test_put_into_eval_it_is_learned_on() -> None:
    for layer in (torch.nn.Dropout(0.2), torch.nn.BatchNorm1d(2)):
        require_sound(
            Problem(Denoiser(Net(layer).eval(), NoiseSchedule.vp_linear(), "sample"), shape=(2,), dtype=torch.float64),
            range(8),
        )


def test_a_condition_of_the_batch_is_refused_and_the_way_out_works() -> None:
    """Several prompts in one Denoiser: a seed's prompt is that of its place in a batch."""
    pipe, rest = worded("sd")
    how: dict[str, Any] = {"nfe": 3, "method": "iia", "seeds": range(16), "guard_seeds": range(1000, 1016)}
    how |= {"teacher": {"nfe": 40}, "progress": False, "cache": False}
    for prompts in (["a", "b"], ["a", "b", "c"], list("abcdefgh")):
        several = Denoiser.from_pipeline(pipe, **rest, prompt=prompts)
        with pytest.raises(ValueError, match=r"condition depends on the batch.*learn\(pipe, call="):
            learn(several, shape=(4, 16, 16), batch_size=8, **how)
    one = Denoiser.from_pipeline(pipe, **rest, prompt="a")
    require_sound(Problem(one, shape=(4, 16, 16), batch_size=8), range(8))
    require_sound(Problem(pipe, call={**rest, "prompt": ["a", "b", "c"]}, batch_size=8), range(8))
    demo = fewstep.load_demo_pipeline()
    labels = Denoiser.from_pipeline(demo, class_labels=[1, 2])
    with pytest.raises(ValueError, match="condition depends on the batch"):
        learn(labels, shape=(1, 28, 28), **how)


def test_any_function_of_its_batch_is_refused() -> None:
    inner = ring()
    centred = Denoiser(
        lambda x, tau: inner.call(x, tau) - inner.call(x, tau).mean(0), NoiseSchedule.vp_linear(), "sample"
    )
    with pytest.raises(ValueError, match="depends on the others in its batch"):
        learn(centred, "dpmpp_2m", 3, "iia", **SMALL)


@pytest.mark.parametrize("count", [8, 11, 15])
def test_few_seeds_learn(count: int) -> None:
    """What auto has too few samples for is left out and said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        few: dict[str, Any] = {**SMALL, "seeds": range(count), "guard_seeds": range(1000, 1016)}
        made = learn(ring(), "dpmpp_2m", 3, refine=(), **few)
    assert made.nfes == (3,)
