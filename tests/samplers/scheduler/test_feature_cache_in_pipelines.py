"""Tables that leave blocks out, in pipelines: the scheduler knows the row, `feature_cache` the network; alone it refuses."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chains import cache
from pipelines import PIPELINES

import fewstep
from fewstep import sample
from fewstep.samplers import Artefact, Denoiser, Learned, NoiseSchedule, Tableau, build, feature_cache
from fewstep.samplers.blocks.finding import inner_blocks

SOME = {2: [1.5, -0.5], 4: [2.0, -1.5, 0.5]}
NAMED = {"class_labels": [3, 7], "output_type": "latent"}


@pytest.fixture(scope="module")
def digits() -> Any:
    return fewstep.load_demo_pipeline()


def table_for(pipe: Any, nfe: int = 6) -> Tableau:
    groups = inner_blocks(pipe.unet)
    base = build("dpmpp_2m", NoiseSchedule.from_config(pipe.scheduler.config), nfe)
    return replace(base, cache=cache(SOME, nfe, groups))


def with_table(pipe: Any, table: Any) -> Any:
    own = copy.copy(pipe)
    vars(own)["scheduler"] = fewstep.Scheduler.from_config(pipe.scheduler.config, table)
    return own


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_pipeline_draws_what_sample_draws(digits: Any, scale: float) -> None:
    """With guidance in one batch of both halves too; run after run, and with fewer calls of what is left out."""
    table, calls = table_for(digits), []
    denoiser = Denoiser.from_pipeline(digits, class_labels=[3, 7], guidance_scale=scale)
    x = denoiser.initial_noise()
    with torch.no_grad():
        wanted = sample(denoiser, x, table)
    pipe = with_table(digits, table)
    handle = digits.unet.mid_block.resnets[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        with feature_cache(pipe):
            for _ in range(2):
                found = pipe(**NAMED, guidance_scale=scale, num_inference_steps=6, latents=x).images
                torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    finally:
        handle.remove()
    assert len(calls) == 8 and not any("forward" in vars(part) for part in digits.unet.modules())


def test_a_scheduler_alone_refuses_and_says_the_way(digits: Any, tmp_path: Path) -> None:
    table = table_for(digits)
    artefact = Artefact((Learned(table),), {"prediction": "epsilon"})
    artefact.save(tmp_path / "six.json")
    pipe = with_table(digits, None)
    vars(pipe)["scheduler"] = fewstep.Scheduler.from_config(digits.scheduler.config, learned=str(tmp_path / "six.json"))
    with pytest.raises(ValueError, match="does not know the network: call the pipeline within"):
        pipe(**NAMED, num_inference_steps=6)
    other = with_table(digits, table)
    with feature_cache(other), pytest.raises(ValueError, match="does not know the network"):
        pipe(**NAMED, num_inference_steps=6)
    with feature_cache(pipe):
        assert pipe(**NAMED, num_inference_steps=6).images.isfinite().all()
    assert not any("forward" in vars(part) for part in digits.unet.modules())


def test_a_loop_of_ones_own(digits: Any) -> None:
    """The network and the scheduler by themselves."""
    scheduler, x = fewstep.Scheduler.from_config(digits.scheduler.config, table_for(digits)), torch.randn(2, 1, 28, 28)
    state, labels = x, torch.tensor([3, 7])
    with feature_cache(digits.unet, scheduler), torch.no_grad():
        scheduler.set_timesteps(6)
        for t in scheduler.timesteps:
            state = scheduler.step(digits.unet(state, t, class_labels=labels).sample, t, state).prev_sample
    pipe = with_table(digits, table_for(digits))
    with feature_cache(pipe):
        wanted = pipe(**NAMED, num_inference_steps=6, latents=x).images
    torch.testing.assert_close(state, wanted, rtol=0, atol=1e-5)


def test_a_run_that_begins_in_the_middle_computes_everything(digits: Any) -> None:
    """The features of the rows before are not there."""
    scheduler, state = (
        fewstep.Scheduler.from_config(digits.scheduler.config, table_for(digits)),
        torch.randn(1, 1, 28, 28),
    )
    calls: list[int] = []
    handle = digits.unet.mid_block.resnets[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        with feature_cache(digits.unet, scheduler), torch.no_grad():
            scheduler.set_timesteps(6)
            scheduler.set_begin_index(2)
            for t in scheduler.timesteps[2:]:
                output = digits.unet(state, t, class_labels=torch.tensor([3])).sample
                state = scheduler.step(output, t, state).prev_sample
    finally:
        handle.remove()
    assert len(calls) == 4 and np.isfinite(float(state.sum()))


def test_wrong_schedulers_and_networks_are_refused(digits: Any) -> None:
    with pytest.raises(ValueError, match="part of a table that fewstep's Scheduler plays; got DDIMScheduler"):
        with feature_cache(digits):
            pass
    with pytest.raises(ValueError, match="plays no table with a feature cache"):
        with feature_cache(with_table(digits, "ddim")):
            pass
    tiny, _ = PIPELINES["ddpm"].make()
    own = table_for(digits)
    strange = replace(own, cache=replace(own.cache, groups=(("down_blocks.9",),)))
    scheduler = fewstep.Scheduler.from_config(digits.scheduler.config, strange)
    with pytest.raises(ValueError, match="UNet2DModel has no such block"):
        with feature_cache(tiny.unet, scheduler):
            pass
