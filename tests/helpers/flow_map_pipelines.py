"""Tiny pipelines whose networks have two times, see `pipelines.py`."""

from __future__ import annotations

from typing import Any

import torch
from late import diffusers
from newer_pipelines import _video_vae, _wan_transformer
from parts import GUIDED, SIZE, embeds, flow_euler


def anyflow() -> Any:
    """(pipeline, call): a flow map of videos, shown `scheduler.sigmas[i + 1]` as its second time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = _wan_transformer(diffusers.AnyFlowTransformer3DModel).eval()
        scheduler = diffusers.FlowMapEulerDiscreteScheduler(shift=5.0)
        pipe = diffusers.AnyFlowPipeline(None, None, transformer, _video_vae(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe, {**GUIDED, **SIZE, "num_frames": 5, "output_type": "latent"}


def hunyuan_image() -> Any:
    """(pipeline, call): a mean flow of images, shown `timesteps[i + 1]` as its second time, and 0 at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = diffusers.HunyuanImageTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1, num_single_layers=1,
            num_refiner_layers=1, text_embed_dim=8, text_embed_2_dim=8, rope_axes_dim=(4, 4), use_meanflow=True,
            guidance_embeds=True,
        ).eval()  # fmt: skip
        vae = diffusers.AutoencoderKLHunyuanImage(
            in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(32, 32, 32), layers_per_block=1,
            spatial_compression_ratio=4, sample_size=32, scaling_factor=0.5, downsample_match_channel=False,
            upsample_match_channel=False,
        ).eval()  # fmt: skip
        pipe = diffusers.HunyuanImagePipeline(flow_euler(shift=4.0), vae, None, None, None, None, transformer)
    pipe.set_progress_bar_config(disable=True)
    words = {f"prompt_embeds{i}": embeds(1, 7, 8, seed=3) for i in ("", "_2")}
    masks = {f"prompt_embeds_mask{i}": torch.ones(1, 7, dtype=torch.long) for i in ("", "_2")}
    return pipe, {**words, **masks, **SIZE, "distilled_guidance_scale": 3.5, "output_type": "latent"}
