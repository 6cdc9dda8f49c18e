"""Tiny diffusers pipelines with random weights: one layer, few channels, 16-32 pixels, no download, nothing to read.

`PIPELINES[name].make()` returns a fresh pipeline with its stock scheduler and the arguments to call it with. Text comes
as prompt embeddings; tokenizers and text encoders are absent.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from late import diffusers
from parts import (
    GUIDED,
    PIXELS_OUT,
    POOLED,
    SIZE,
    Words,
    autoencoder,
    codebook,
    conditional_unet,
    ddim,
    embeds,
    flow_euler,
    mask,
    picture,
)

STEPS = 5

logging.getLogger("diffusers").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Tiny:
    """A pipeline to be: make() -> (pipeline, call arguments without the number of steps)."""

    name: str
    build: Callable[[], tuple[Any, dict[str, Any]]]
    stock: str  # the class of its own scheduler

    def make(self) -> tuple[Any, dict[str, Any]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipe, call = self.build()
        pipe.set_progress_bar_config(disable=True)
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval().requires_grad_(False)
        return pipe, call


PIPELINES: dict[str, Tiny] = {}


def tiny(stock: str, build: Any) -> Any:
    """Register a builder under its own name."""
    PIPELINES[build.__name__] = Tiny(build.__name__, build, stock)
    return build


vp = functools.partial(tiny, "DDIMScheduler")
flow = functools.partial(tiny, "FlowMatchEulerDiscreteScheduler")


def generate(
    pipe: Any, call: dict[str, Any], steps: int = STEPS, seed: int = 0, **more: Any
) -> tuple[Any, torch.Tensor]:
    """(the pipeline's result as tensor or array, the latents that its last step returned)."""
    generator = more.pop("generator", None) or torch.Generator().manual_seed(seed)
    with recorded(pipe.scheduler) as states:
        out = pipe(**call, **more, num_inference_steps=steps, generator=generator)
    return out[0], states[-1]


@contextlib.contextmanager
def recorded(scheduler: Any) -> Any:
    """The state that `scheduler.step` meets first and those that it returns, in a list, while the context lasts."""
    states: list[torch.Tensor] = []
    step = scheduler.step

    @functools.wraps(step)
    def recording(*args: Any, **kwargs: Any) -> Any:
        if not states:
            states.append((args[2] if len(args) > 2 else kwargs["sample"]).clone())
        result = step(*args, **kwargs)
        states.append(result[0])
        return result

    scheduler.step = recording
    try:
        yield states
    finally:
        del scheduler.step


def small_unet() -> Any:
    return diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip


@vp
def ddpm() -> Any:
    return diffusers.DDPMPipeline(small_unet(), diffusers.DDIMScheduler(clip_sample=False)), {
        "batch_size": 2,
        **PIXELS_OUT,
    }


@vp
def dit() -> Any:
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=1, sample_size=8,
        norm_type="ada_norm_zero", num_embeds_ada_norm=1000, activation_fn="gelu-approximate",
    )  # fmt: skip
    pipe = diffusers.DiTPipeline(transformer, autoencoder(), diffusers.DDIMScheduler(clip_sample=False))
    return pipe, {"class_labels": [207], "guidance_scale": 4.0, **PIXELS_OUT}


def _stable_diffusion(kind: str, unet: Any = None, **more: Any) -> Any:
    cls = getattr(diffusers, f"StableDiffusion{kind}Pipeline")
    absent = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    return cls(
        vae=autoencoder(), unet=unet or conditional_unet(), scheduler=ddim(), requires_safety_checker=False, **absent, **more
    )  # fmt: skip


@vp
def sd() -> Any:
    return _stable_diffusion(""), {**GUIDED, **SIZE, **PIXELS_OUT}


@vp
def sd_img2img() -> Any:
    return _stable_diffusion("Img2Img"), {**GUIDED, "image": picture(), "strength": 0.6, **PIXELS_OUT}


@vp
def sd_inpaint() -> Any:
    pipe = _stable_diffusion("Inpaint")
    return pipe, {**GUIDED, **SIZE, "image": picture(), "mask_image": mask(), "strength": 0.8, **PIXELS_OUT}


@vp
def sd_controlnet() -> Any:
    unet = conditional_unet()
    control = diffusers.ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
    pipe = _stable_diffusion("ControlNet", unet, controlnet=control)
    return pipe, {**GUIDED, **SIZE, "image": picture(), **PIXELS_OUT}


def _stable_diffusion_xl(kind: str) -> Any:
    unet = conditional_unet(
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 8
    )
    cls = getattr(diffusers, f"StableDiffusionXL{kind}Pipeline")
    absent = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    return cls(vae=autoencoder(), unet=unet, scheduler=ddim(), add_watermarker=False, **absent)


@vp
def sdxl() -> Any:
    return _stable_diffusion_xl(""), {**GUIDED, **POOLED, **SIZE, **PIXELS_OUT}


@vp
def sdxl_img2img() -> Any:
    pipe = _stable_diffusion_xl("Img2Img")
    return pipe, {**GUIDED, **POOLED, "image": picture(), "strength": 0.6, **PIXELS_OUT}


FLOW_VAE = {"use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 1.5, "shift_factor": 0.1}


def _stable_diffusion_3(kind: str) -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=4,
        num_attention_heads=2, joint_attention_dim=8, caption_projection_dim=8, pooled_projection_dim=8,
        pos_embed_max_size=16,
    )  # fmt: skip
    cls = getattr(diffusers, f"StableDiffusion3{kind}Pipeline")
    absent = dict.fromkeys(f"{part}{i}" for part in ("text_encoder", "tokenizer") for i in ("", "_2", "_3"))
    return cls(transformer=transformer, vae=autoencoder(**FLOW_VAE), scheduler=flow_euler(), **absent)


@flow
def sd3() -> Any:
    return _stable_diffusion_3(""), {**GUIDED, **POOLED, **SIZE, **PIXELS_OUT}


@flow
def sd3_img2img() -> Any:
    pipe = _stable_diffusion_3("Img2Img")
    return pipe, {**GUIDED, **POOLED, **SIZE, "image": picture(), "strength": 0.6, **PIXELS_OUT}


def _flux(kind: str) -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(4, 4, 8), guidance_embeds=True,
    )  # fmt: skip
    cls = getattr(diffusers, f"Flux{kind}Pipeline")
    absent = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    scheduler = flow_euler(use_dynamic_shifting=True)
    return cls(transformer=transformer, vae=autoencoder(1, **FLOW_VAE), scheduler=scheduler, **absent)


FLUX = {"prompt_embeds": embeds(1, 7, 8), "pooled_prompt_embeds": embeds(1, 8), "guidance_scale": 3.5, **SIZE}


@flow
def flux() -> Any:
    return _flux(""), {**FLUX, **PIXELS_OUT}


@flow
def flux_img2img() -> Any:
    return _flux("Img2Img"), {**FLUX, "image": picture(), "strength": 0.6, **PIXELS_OUT}


@flow
def flux_inpaint() -> Any:
    return _flux("Inpaint"), {**FLUX, "image": picture(), "mask_image": mask(), "strength": 0.8, **PIXELS_OUT}


MASKED = {
    **GUIDED,
    "prompt_attention_mask": torch.ones(1, 7, dtype=torch.long),
    "negative_prompt_attention_mask": torch.ones(1, 7, dtype=torch.long),
}


@vp
def pixart() -> Any:
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=4, in_channels=4, out_channels=8, num_layers=1, sample_size=16,
        cross_attention_dim=8, caption_channels=8, norm_num_groups=2, use_additional_conditions=False,
    )  # fmt: skip
    pipe = diffusers.PixArtAlphaPipeline(
        tokenizer=None, text_encoder=None, vae=autoencoder(), transformer=transformer, scheduler=ddim()
    )
    return pipe, {**MASKED, "negative_prompt": None, "use_resolution_binning": False, **SIZE, **PIXELS_OUT}


@flow
def sana() -> Any:
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2, attention_head_dim=4,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
        sample_size=8,
    )  # fmt: skip
    blocks = {"encoder_block_out_channels": (4, 8), "decoder_block_out_channels": (4, 8)}
    layers = {"encoder_layers_per_block": (1, 1), "decoder_layers_per_block": (1, 1)}
    scales = {"encoder_qkv_multiscales": ((), ()), "decoder_qkv_multiscales": ((), ())}
    vae = diffusers.AutoencoderDC(latent_channels=4, **blocks, **layers, **scales)
    pipe = diffusers.SanaPipeline(None, None, vae, transformer, flow_euler())
    plain = {"negative_prompt": None, "use_resolution_binning": False, "complex_human_instruction": None}
    return pipe, {**MASKED, **plain, **SIZE, **PIXELS_OUT}


@flow
def wan() -> Any:
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=8, ffn_dim=16,
        num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    pipe = diffusers.WanPipeline(
        tokenizer=None, text_encoder=None, vae=vae, scheduler=flow_euler(), transformer=transformer
    )
    return pipe, {**GUIDED, **SIZE, "num_frames": 5, **PIXELS_OUT}


@flow
def mochi() -> Any:
    transformer = diffusers.MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2, pooled_projection_dim=8, in_channels=4,
        text_embed_dim=8, time_embed_dim=4, max_sequence_length=8,
    )  # fmt: skip
    blocks = {f"{half}_block_out_channels": (32, 32, 32, 32) for half in ("encoder", "decoder")}
    vae = diffusers.AutoencoderKLMochi(
        latent_channels=4, layers_per_block=(1, 1, 1, 1, 1), latents_mean=[0.0] * 4, latents_std=[1.0] * 4, **blocks
    )
    pipe = diffusers.MochiPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae,
        text_encoder=None,
        tokenizer=None,
        transformer=transformer,
    )
    words = {f"{sign}prompt_attention_mask": torch.ones(1, 7, dtype=torch.bool) for sign in ("", "negative_")}
    return pipe, {**GUIDED, **SIZE, **words, "num_frames": 7, "output_type": "latent"}


@flow
def ltx() -> Any:
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16, num_layers=1,
        caption_channels=8,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(4, 4, 4, 4), decoder_block_out_channels=(4, 4, 4, 4),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
    scheduler = flow_euler(use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=64, shift_terminal=0.1)
    pipe = diffusers.LTXPipeline(scheduler, vae, None, None, transformer)
    return pipe, {**MASKED, **SIZE, "num_frames": 9, **PIXELS_OUT}


@vp
def cogvideox() -> Any:
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=1, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=4, text_embed_dim=8,
        num_layers=1, sample_width=4, sample_height=4, sample_frames=9, max_text_seq_length=7,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), latent_channels=4, layers_per_block=1, norm_num_groups=2, sample_height=32,
        sample_width=32,
    )  # fmt: skip
    scheduler = ddim(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    pipe = diffusers.CogVideoXPipeline(None, None, vae, transformer, scheduler)
    return pipe, {**GUIDED, **SIZE, "num_frames": 9, "max_sequence_length": 7, **PIXELS_OUT}


@vp
def stable_audio() -> Any:
    transformer = diffusers.StableAudioDiTModel(
        sample_size=16, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        num_key_value_attention_heads=2, cross_attention_dim=8, cross_attention_input_dim=8, time_proj_dim=8,
        global_states_input_dim=16,
    )  # fmt: skip
    vae = diffusers.AutoencoderOobleck(
        encoder_hidden_size=4, downsampling_ratios=[2, 4], channel_multiples=[1, 2], decoder_channels=4,
        decoder_input_channels=4, audio_channels=2, sampling_rate=4,
    )  # fmt: skip
    projection = diffusers.StableAudioProjectionModel(text_encoder_dim=8, conditioning_dim=8, min_value=0, max_value=32)
    pipe = diffusers.StableAudioPipeline(vae, None, projection, None, transformer, ddim(prediction_type="v_prediction"))
    ones = torch.ones(1, 7, dtype=torch.long)
    return pipe, {
        **GUIDED,
        "attention_mask": ones,
        "negative_attention_mask": ones,
        "audio_end_in_s": 8.0,
        **PIXELS_OUT,
    }


@vp
def marigold() -> Any:
    pipe = diffusers.MarigoldDepthPipeline(
        conditional_unet(8), autoencoder(), ddim(prediction_type="v_prediction"), None, None, prediction_type="depth",
        default_denoising_steps=STEPS, default_processing_resolution=0,
    )  # fmt: skip
    pipe.empty_text_embedding = embeds(1, 2, 8)
    return pipe, {"image": picture(), **PIXELS_OUT}


@vp
def kandinsky() -> Any:
    unet = conditional_unet(
        out_channels=8, addition_embed_type="image", encoder_hid_dim=8, encoder_hid_dim_type="image_proj",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    pipe = diffusers.KandinskyV22Pipeline(unet, ddim(), codebook(4))
    guided = {"image_embeds": embeds(1, 8), "negative_image_embeds": embeds(1, 8, seed=2), "guidance_scale": 3.0}
    return pipe, {**guided, **SIZE, **PIXELS_OUT}


@vp
def ldm() -> Any:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    bert = LDMBertModel(
        LDMBertConfig(vocab_size=16, max_position_embeddings=8, encoder_layers=1, encoder_ffn_dim=8,
                      encoder_attention_heads=2, head_dim=4, d_model=8)
    )  # fmt: skip
    pipe = diffusers.LDMTextToImagePipeline(codebook(4), bert, Words(), conditional_unet(), ddim())
    return pipe, {"prompt": ["a digit"], "guidance_scale": 3.0, **SIZE, **PIXELS_OUT}
