"""Parts of tiny pipelines: networks, autoencoders, stock schedulers and inputs, all with random numbers of a fixed seed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from late import diffusers

PIXELS = 32


def codebook(latent_channels: int, **options: Any) -> Any:
    return diffusers.VQModel(
        block_out_channels=(4, 8), latent_channels=latent_channels, num_vq_embeddings=16, norm_num_groups=2,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2, **options,
    )  # fmt: skip


class Words:
    """A tokenizer for pipelines that take nothing but text: every prompt is the same tokens."""

    def __call__(self, prompt: list[str], **_: Any) -> Any:
        return SimpleNamespace(input_ids=torch.arange(7).repeat(len(prompt), 1))


def ddim(**options: Any) -> diffusers.DDIMScheduler:
    latent = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return diffusers.DDIMScheduler(**{**latent, "clip_sample": False, "set_alpha_to_one": False, **options})


def flow_euler(**options: Any) -> diffusers.FlowMatchEulerDiscreteScheduler:
    return diffusers.FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **options})


def embeds(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture() -> torch.Tensor:
    return torch.rand(1, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(3))


def mask() -> torch.Tensor:
    half = torch.zeros(1, 1, PIXELS, PIXELS)
    half[..., : PIXELS // 2] = 1
    return half


def autoencoder(latent_channels: int = 4, **options: Any) -> diffusers.AutoencoderKL:
    """Two levels: latents of half the size."""
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8), latent_channels=latent_channels, norm_num_groups=2, **blocks, **options
    )


def conditional_unet(in_channels: int = 4, **options: Any) -> diffusers.UNet2DConditionModel:
    sizes = {"block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2, "attention_head_dim": 2}
    return diffusers.UNet2DConditionModel(
        **{**sizes, "sample_size": PIXELS // 2, "in_channels": in_channels, "out_channels": 4, "cross_attention_dim": 8,
           "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
           "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), **options}
    )  # fmt: skip


GUIDED = {"prompt_embeds": embeds(1, 7, 8), "negative_prompt_embeds": embeds(1, 7, 8, seed=2), "guidance_scale": 3.0}
POOLED = {"pooled_prompt_embeds": embeds(1, 8), "negative_pooled_prompt_embeds": embeds(1, 8, seed=2)}
SIZE = {"height": PIXELS, "width": PIXELS}
PIXELS_OUT = {"output_type": "pt"}
