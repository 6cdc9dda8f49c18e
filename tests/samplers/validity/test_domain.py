"""An artefact knows where it is valid: what is known of a run is compared with it, and what differs is told by how much."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from learnt import artefact, learned_table
from pipelines import PIPELINES

import fewstep
from fewstep import Artefact, Denoiser, NoiseSchedule, sample
from fewstep.samplers import Learned
from fewstep.samplers.validity.domain import adapters_of, departures, scales_of

PLACE: dict[str, Any] = {
    "guidance": {"guidance_scale": [3.0]},
    "adapters": {},
    "shapes": [[4, 16, 16]],
    "dtype": "float32",
}


def quietly(run: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return run()


@pytest.fixture(scope="module")
def digits() -> Any:
    pipe = fewstep.load_demo_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def playing(pipe: Any, learned: Any, **how: Any) -> Any:
    """A copy of the pipeline that plays it."""
    own = copy.copy(pipe)
    own.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, learned=learned, **how)
    return lambda scale=None, n=5: own(
        [1, 7], num_inference_steps=n, output_type="latent",
        generator=torch.Generator().manual_seed(0), **({} if scale is None else {"guidance_scale": scale}),
    )  # fmt: skip


# the shipped artefact, at guidance 7.5


def test_a_pipeline_is_told_by_how_much_its_guidance_differs(digits: Any) -> None:
    run = playing(digits, "demo")
    quietly(run)
    with pytest.warns(UserWarning, match=r"gain was not measured: guidance_scale 7.5, 7.5 times 1"):
        run(7.5)
    with pytest.raises(ValueError, match=r"not learned for this run: guidance_scale 7.5, 7.5 times 1"):
        playing(digits, "demo", policy="refuse")(7.5)
    quietly(lambda: playing(digits, "demo", policy="refuse")(1.0))


def test_sample_reads_the_guidance_of_a_pipelines_denoiser(digits: Any) -> None:
    made = fewstep.load_demo_artefact()
    at = {scale: Denoiser.from_pipeline(digits, class_labels=[1, 7], guidance_scale=scale) for scale in (1.0, 7.5)}
    x = at[1.0].initial_noise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        quietly(lambda: sample(at[1.0], x, made, 5, policy="refuse"))
        with pytest.warns(UserWarning, match="guidance_scale 7.5, 7.5 times 1"):
            sample(at[7.5], x, made, 5)
        with pytest.raises(ValueError, match="not learned for this run: guidance_scale 7.5"):
            sample(at[7.5], x, made, 5, policy="refuse")
    with pytest.raises(ValueError, match="`policy` must be one of"):
        sample(at[1.0], x, made, 5, policy="clamp")
    with pytest.raises(ValueError, match="`guidance` chooses a table of a learned artefact"):
        sample(at[1.0], x, "ddim", 5, policy="warn")


def test_the_nearest_guidance_is_played_and_said(digits: Any) -> None:
    schedule = NoiseSchedule.from_config(digits.scheduler.config)
    tables = [Learned(learned_table(schedule, 5, seed=k), scale) for k, scale in enumerate((1.0, 3.0))]
    made = Artefact(tuple(tables), {"prediction": "epsilon", "domain": {"guidance": {"guidance_scale": [1.0, 3.0]}}})
    run, want = playing(digits, made, policy="nearest"), playing(digits, made, guidance=3.0)
    with pytest.warns(UserWarning, match="guidance_scale 7.5, 2.5 times 3"):
        found = run(7.5)[0]
    with pytest.warns(UserWarning, match="guidance_scale 7.5, 2.5 times 3"):
        assert torch.equal(found, want(7.5)[0])
    quietly(lambda: run(2.0))
    denoiser = Denoiser.from_pipeline(digits, class_labels=[1, 7], guidance_scale=7.5)
    x = denoiser.initial_noise(torch.Generator().manual_seed(0))
    with torch.no_grad(), pytest.warns(UserWarning, match="2.5 times 3"):
        nearest = sample(denoiser, x, made, 5, policy="nearest")
        assert torch.equal(nearest, sample(denoiser, x, made.table(5, 3.0)))


def test_it_travels_with_the_scheduler(digits: Any, tmp_path: Any) -> None:
    fewstep.Scheduler.from_config(digits.scheduler.config, learned="demo", policy="refuse").save_pretrained(tmp_path)
    own = copy.copy(digits)
    own.scheduler = fewstep.Scheduler.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not learned for this run"):
        own([1], num_inference_steps=5, guidance_scale=2.0)
    with pytest.raises(ValueError, match="`guidance` and `outside` choose among"):
        fewstep.Scheduler.from_config(digits.scheduler.config, "ddim", policy="warn")


def test_outside_a_pipeline_nothing_is_known_but_the_state() -> None:
    schedule = NoiseSchedule.discrete(torch.linspace(0.9999, 0.01, 1000).double().numpy())
    made = artefact(schedule, 4)
    placed = Artefact(made.tables, {**made.model, "domain": PLACE})
    denoiser = Denoiser(lambda x, tau: 0.1 * x, schedule)
    quietly(lambda: sample(denoiser, torch.randn(2, 4, 16, 16), placed, 4))
    with pytest.warns(UserWarning, match=r"shape \(4, 16, 16\), played on \(4, 32, 32\), 4 times the numbers"):
        sample(denoiser, torch.randn(1, 4, 32, 32), placed, 4)
    with pytest.warns(UserWarning, match="float64 instead of float32"):
        sample(denoiser, torch.randn(1, 4, 16, 16).double(), placed, 4)
    with pytest.raises(ValueError, match=r"samples of shape \(4, 32, 32\), 4 times the numbers of \(4, 16, 16\)"):
        sample(denoiser, torch.randn(1, 4, 32, 32), placed, 4, policy="refuse")


def test_text_pipelines_tell_their_scales() -> None:
    pipe, call = PIPELINES["sd"].make()
    schedule = NoiseSchedule.from_config(pipe.scheduler.config)
    made = Artefact((Learned(learned_table(schedule, 4)),), {"prediction": "epsilon", "domain": PLACE})
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, learned=made)
    generator = torch.Generator().manual_seed(0)
    quietly(lambda: pipe(**call, num_inference_steps=4, generator=generator))
    with pytest.warns(UserWarning, match="guidance_scale 7.5, 2.5 times 3"):
        pipe(**{**call, "guidance_scale": 7.5}, num_inference_steps=4)
    with pytest.warns(UserWarning, match=r"samples of shape \(4, 16, 32\), 2 times the numbers of \(4, 16, 16\)"):
        pipe(**{**call, "width": 64}, num_inference_steps=4)
    pipe.unet.add_module("adapter", Layer({"style": 0.8}))
    with pytest.warns(UserWarning, match="adapters style at 0.8 instead of none"):
        pipe(**call, num_inference_steps=4)


class Layer(torch.nn.Module):
    """What peft's layers tell of their adapters."""

    def __init__(self, scaling: dict[str, float]) -> None:
        super().__init__()
        self.scaling, self.active_adapters, self.merged_adapters = scaling, list(scaling)[:1], []


def test_adapters_are_read_off_the_layers() -> None:
    pipe, _ = PIPELINES["sd"].make()
    assert adapters_of(pipe) == {}
    pipe.unet.add_module("adapter", Layer({"style": 0.8, "idle": 1.0}))
    assert adapters_of(pipe) == {"style": 0.8}
    pipe.unet.adapter.merged_adapters = ["idle"]
    assert adapters_of(pipe) == {"idle": 1.0, "style": 0.8}
    pipe.unet.adapter.disable_adapters = True
    pipe.unet.adapter.merged_adapters = []
    assert adapters_of(pipe) == {}
    assert scales_of(pipe, {})["guidance_scale"] == 7.5, "the default counts"


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"guidance": {"guidance_scale": 3.02}}, []),
        ({"guidance": {"guidance_scale": 6.0}}, ["guidance_scale 6, 2 times 3"]),
        ({"guidance": {"true_cfg_scale": 6.0}}, []),
        ({"shape": (4, 32, 32)}, ["samples of shape (4, 32, 32), 4 times the numbers of (4, 16, 16)"]),
        ({"dtype": "bfloat16"}, ["bfloat16 instead of float32"]),
        ({"adapters": {"a": 0.5}}, ["adapters a at 0.5 instead of none"]),
        ({"weights": "other"}, []),
    ],
)
def test_departures_say_by_how_much(seen: dict[str, Any], said: list[str]) -> None:
    assert departures(PLACE, seen) == said
    assert departures({}, seen) == []


def test_learning_keeps_where_it_was_done() -> None:
    from fewstep.samplers.learned.problem.problem import Problem

    pipe, call = PIPELINES["sd"].make()
    scales = [1.5, 3.0]
    problem = Problem(pipe, call={**call, "guidance_scale": scales}, batch_size=4)
    problem.parts(range(4))
    told = problem.domain
    assert told["guidance"]["guidance_scale"] == scales and told["dtype"] == "float32" and told["adapters"] == {}
    assert told["shapes"] == [[4, 16, 16]]
    assert (
        replace(artefact(NoiseSchedule.vp_linear(), 3), model={"prediction": "epsilon", "domain": told}).domain()
        == told
    )
