"""Tiny pipelines of few-step models and of classes with rules of their own, see `pipelines.py`."""

from __future__ import annotations

from typing import Any

import torch
from late import diffusers
from parts import GUIDED, PIXELS_OUT, SIZE, conditional_unet
from pipelines import MASKED, PIPELINES, _stable_diffusion, small_unet


class Typed(torch.nn.Module):
    """A text encoder that is asked for nothing but its precision."""

    dtype, device = torch.float32, torch.device("cpu")


OWN: dict[str, Any] = {}


def own(build: Any) -> Any:
    OWN[build.__name__] = build
    return build


def make(name: str) -> Any:
    """(pipeline, its call arguments without the number of steps)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe, call = OWN[name]()
    pipe.set_progress_bar_config(disable=True)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            component.eval().requires_grad_(False)
    return pipe, call


@own
def tcd() -> Any:
    pipe = _stable_diffusion("")
    pipe.scheduler = diffusers.TCDScheduler(timestep_spacing="leading", steps_offset=1)
    return pipe, {**GUIDED, **SIZE, **PIXELS_OUT, "eta": 0.4}


@own
def lcm() -> Any:
    pipe = diffusers.LatentConsistencyModelPipeline(
        vae=PIPELINES["sd"].make()[0].vae, text_encoder=None, tokenizer=None, unet=conditional_unet(time_cond_proj_dim=8),
        scheduler=diffusers.LCMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    call = {"prompt_embeds": GUIDED["prompt_embeds"], **SIZE, **PIXELS_OUT, "original_inference_steps": 100}
    return pipe, call


@own
def consistency_model() -> Any:
    return diffusers.ConsistencyModelPipeline(small_unet(), diffusers.CMStochasticIterativeScheduler()), {
        "batch_size": 2,
        **PIXELS_OUT,
    }


@own
def sana_sprint() -> Any:
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
        sample_size=8, guidance_embeds=True, qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    vae = PIPELINES["sana"].make()[0].vae
    pipe = diffusers.SanaSprintPipeline(None, None, vae, transformer, diffusers.SCMScheduler())
    words = {k: v for k, v in MASKED.items() if not k.startswith("negative")}
    words.pop("guidance_scale", None)
    return pipe, {**words, "use_resolution_binning": False, "complex_human_instruction": None, **SIZE, **PIXELS_OUT}


@own
def cascade_prior() -> Any:
    unet = diffusers.models.StableCascadeUNet(
        conditioning_dim=8, block_out_channels=(8, 8), num_attention_heads=(2, 2), down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1), switch_level=(False,), clip_image_in_channels=8, clip_text_in_channels=8,
        clip_text_pooled_in_channels=8, dropout=(0.1, 0.1),
    )  # fmt: skip
    pipe = diffusers.StableCascadePriorPipeline(None, Typed(), unet, diffusers.DDPMWuerstchenScheduler())
    generator = torch.Generator().manual_seed(1)
    words = torch.randn(1, 7, 8, generator=generator)
    pooled = torch.randn(1, 1, 8, generator=generator)
    return pipe, {
        "prompt_embeds": words, "prompt_embeds_pooled": pooled, "negative_prompt_embeds": -words,
        "negative_prompt_embeds_pooled": -pooled, "height": 128, "width": 128, "output_type": "pt", "return_dict": False,
    }  # fmt: skip
