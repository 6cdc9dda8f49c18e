"""Tiny pipelines of models with ways of their own: two networks, two modalities, packed latents, levels; see `pipelines.py`."""

from __future__ import annotations

import sys
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from distilled_pipelines import Typed
from late import diffusers
from parts import GUIDED, PIXELS_OUT, SIZE, autoencoder, conditional_unet, embeds, flow_euler, picture
from pipelines import FLOW_VAE, MASKED, PIPELINES, Tiny

NEWER: dict[str, Tiny] = {}


def newer(stock: str) -> Any:
    def kept(build: Any) -> Any:
        NEWER[build.__name__] = Tiny(build.__name__, build, stock)
        return build

    return kept


flow = newer("FlowMatchEulerDiscreteScheduler")
WORDS = {"prompt_embeds": GUIDED["prompt_embeds"], "negative_prompt_embeds": GUIDED["negative_prompt_embeds"]}


def _video_vae() -> Any:
    return diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip


def _wan_transformer(cls: Any, **options: Any) -> Any:
    return cls(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=8, ffn_dim=16,
        num_layers=1, rope_max_seq_len=32, **options,
    )  # fmt: skip


@newer("UniPCMultistepScheduler")
def wan22() -> Any:
    """Two transformers: one above the boundary in noise, the other below."""
    networks = [_wan_transformer(diffusers.WanTransformer3DModel) for _ in range(2)]
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, solver_order=2
    )
    pipe = diffusers.WanPipeline(None, None, _video_vae(), scheduler, *networks, boundary_ratio=0.875)
    return pipe, {**GUIDED, **SIZE, "guidance_scale_2": 2.0, "num_frames": 5, **PIXELS_OUT}


@flow
def qwen_image() -> Any:
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    scheduler = flow_euler(
        shift=1.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, base_image_seq_len=256,
        max_image_seq_len=8192, shift_terminal=0.02,
    )  # fmt: skip
    pipe = diffusers.QwenImagePipeline(scheduler, vae, None, None, transformer)
    masks = {f"{sign}prompt_embeds_mask": torch.ones(1, 7, dtype=torch.long) for sign in ("", "negative_")}
    return pipe, {**WORDS, **masks, "true_cfg_scale": 3.0, **SIZE, **PIXELS_OUT}


@flow
def z_image() -> Any:
    """Its network counts time from noise to data, and returns minus the velocity."""
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=1,
        n_kv_heads=1, cap_feat_dim=8, axes_dims=[8, 4, 4], axes_lens=[64, 32, 32],
    )  # fmt: skip
    with torch.no_grad():
        for weight in transformer.parameters():  # empty ones among them: padding tokens
            weight.copy_(0.1 * torch.randn(weight.shape))
    pipe = diffusers.ZImagePipeline(flow_euler(), autoencoder(**FLOW_VAE), None, None, transformer)
    words = {name: list(value) for name, value in WORDS.items()}
    return pipe, {**words, "guidance_scale": 3.0, **SIZE, **PIXELS_OUT}


@flow
def ltx2() -> Any:
    """Video and sound: a scheduler for each, the second a copy; guidance in x0, made by `scheduler.sigmas`."""
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

    transformer = diffusers.LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=4,
        audio_cross_attention_dim=8, num_layers=1, caption_channels=8, rope_double_precision=False,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,), layers_per_block=(1,),
        decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False), downsample_type=("spatial",), upsample_residual=(False,),
        upsample_factor=(1,), timestep_conditioning=False, patch_size=1, encoder_causal=True, decoder_causal=False,
    )  # fmt: skip
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    sound = diffusers.AutoencoderKLLTX2Audio(
        base_channels=4, output_channels=2, ch_mult=(1,), num_res_blocks=1, attn_resolutions=None, in_channels=2,
        resolution=32, latent_channels=2, norm_type="pixel", causality_axis="height", dropout=0.0,
        mid_block_add_attention=False, sample_rate=16000, mel_hop_length=160, is_causal=True, mel_bins=8,
    )  # fmt: skip
    connectors = LTX2TextConnectors(
        caption_channels=8, text_proj_in_factor=2, video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=4, video_connector_num_layers=1, video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=2, audio_connector_attention_head_dim=4, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None, connector_rope_base_seq_len=32, rope_double_precision=False,
    )  # fmt: skip
    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=8, out_channels=2, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], output_sampling_rate=16000,
    )  # fmt: skip
    pipe = diffusers.LTX2Pipeline(
        flow_euler(use_dynamic_shifting=True, shift_terminal=0.1),
        vae,
        sound,
        None,
        None,
        connectors,
        transformer,
        vocoder,
    )
    words = {name: embeds(1, 7, 16, seed=seed) for name, seed in (("prompt_embeds", 1), ("negative_prompt_embeds", 2))}
    words |= {name: MASKED[name] for name in ("prompt_attention_mask", "negative_prompt_attention_mask")}
    return pipe, {**words, "guidance_scale": 3.0, **SIZE, "num_frames": 5, "frame_rate": 25.0, "output_type": "latent"}


@newer("CosineDPMSolverMultistepScheduler")
def audio() -> Any:
    """Stable Audio with the class and the config that it ships with."""
    pipe, call = PIPELINES["stable_audio"].build()
    pipe.scheduler = _cosine_class()(
        sigma_min=0.3, sigma_max=500.0, sigma_data=1.0, sigma_schedule="exponential", prediction_type="v_prediction",
        solver_order=2,
    )  # fmt: skip
    return pipe, call


def _cosine_class() -> Any:
    """The class without what it draws noise with, a package that nothing else here needs: with noise of zero."""
    absent = "torchsde" not in sys.modules
    sys.modules.setdefault("torchsde", SimpleNamespace())  # type: ignore[arg-type]
    try:
        module = import_module("diffusers.schedulers.scheduling_cosine_dpmsolver_multistep")
    finally:
        if absent:
            del sys.modules["torchsde"]

    class CosineDPMSolverMultistepScheduler(module.CosineDPMSolverMultistepScheduler):  # type: ignore[misc, name-defined]
        def step(self, model_output: Any, *args: Any, **kwargs: Any) -> Any:
            self.noise_sampler = lambda *_: torch.zeros_like(model_output)
            return super().step(model_output, *args, **kwargs)

    return CosineDPMSolverMultistepScheduler


@newer("EulerDiscreteScheduler")
def svd() -> Any:
    """Levels as times, Karras, v prediction; the image as channels of the network's input."""
    unet = diffusers.UNetSpatioTemporalConditionModel(
        block_out_channels=(32, 64), layers_per_block=1, sample_size=16, in_channels=8, out_channels=4,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=8,
        num_attention_heads=2, projection_class_embeddings_input_dim=24, addition_time_embed_dim=8, num_frames=2,
    )  # fmt: skip
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", interpolation_type="linear",
        num_train_timesteps=1000, prediction_type="v_prediction", sigma_max=700.0, sigma_min=0.002, steps_offset=1,
        timestep_spacing="leading", timestep_type="continuous", trained_betas=None, use_karras_sigmas=True,
    )  # fmt: skip
    vae = diffusers.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
    )
    pipe = diffusers.StableVideoDiffusionPipeline(vae, Seeing(), unet, scheduler, _as_it_is)
    return pipe, {"image": picture(), **SIZE, "num_frames": 2, "fps": 7, "max_guidance_scale": 3.0, **PIXELS_OUT}


class Seeing(Typed):
    """An image encoder whose embedding is the same for every picture."""

    def forward(self, image: Any) -> Any:
        return SimpleNamespace(image_embeds=embeds(len(image), 8))

    def parameters(self, recurse: bool = True) -> Any:
        return iter([torch.zeros(1)])


def _as_it_is(images: Any, **_: Any) -> Any:
    return SimpleNamespace(pixel_values=images)


PIXEL = {
    "in_channels": 3, "out_channels": 6, "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "resnet_time_scale_shift": "scale_shift", "encoder_hid_dim": 8,
    "act_fn": "gelu",
}  # fmt: skip
_IF = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon", "variance_type": "learned_range",
       "thresholding": True, "dynamic_thresholding_ratio": 0.95, "sample_max_value": 1.5}  # fmt: skip


@newer("DPMSolverMultistepScheduler")
def deep_floyd() -> Any:
    """Pixels, a learned variance and dynamic thresholding."""
    pipe = diffusers.IFPipeline(
        None, Typed(), conditional_unet(**PIXEL, sample_size=16), diffusers.DPMSolverMultistepScheduler(**_IF), None, None,
        None, requires_safety_checker=False,
    )  # fmt: skip
    return pipe, {**GUIDED, "height": 16, "width": 16, **PIXELS_OUT}


@newer("DPMSolverMultistepScheduler")
def deep_floyd_larger() -> Any:
    """Its second stage: the small picture, noised by a scheduler of its own, as channels of the input."""
    unet = conditional_unet(**{**PIXEL, "in_channels": 6}, sample_size=32, class_embed_type="timestep")
    ways = [diffusers.DPMSolverMultistepScheduler(**_IF), diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")]
    pipe = diffusers.IFSuperResolutionPipeline(
        None, Typed(), unet, *ways, None, None, None, requires_safety_checker=False
    )  # fmt: skip
    small = torch.nn.functional.avg_pool2d(picture(), 2) * 2 - 1
    return pipe, {**GUIDED, **SIZE, "image": small, "noise_level": 100, **PIXELS_OUT}


@flow
def lumina2() -> Any:
    """Its network counts time from noise to data."""
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, hidden_size=16, num_layers=1, num_refiner_layers=1,
        num_attention_heads=1, num_kv_heads=1, multiple_of=8, axes_dim_rope=(8, 4, 4), axes_lens=(64, 32, 32),
        cap_feat_dim=8,
    )  # fmt: skip
    pipe = diffusers.Lumina2Pipeline(transformer, flow_euler(shift=6.0), autoencoder(**FLOW_VAE), None, None)
    return pipe, {**MASKED, **SIZE, **PIXELS_OUT}


@flow
def chroma() -> Any:
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=8, axes_dims_rope=(4, 4, 8), approximator_num_channels=8, approximator_hidden_dim=8,
        approximator_layers=1,
    )  # fmt: skip
    pipe = diffusers.ChromaPipeline(flow_euler(shift=1.0), autoencoder(1, **FLOW_VAE), None, None, transformer)
    masks = {f"{sign}prompt_attention_mask": torch.ones(1, 7, dtype=torch.bool) for sign in ("", "negative_")}
    return pipe, {**GUIDED, **masks, **SIZE, **PIXELS_OUT}


@flow
def cogview4() -> Any:
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=1,
        text_embed_dim=8, time_embed_dim=8, condition_dim=4, pos_embed_max_size=16, sample_size=16, rope_axes_dim=(16, 16),
    )  # fmt: skip
    scheduler = flow_euler(
        shift=1.0, use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, base_image_seq_len=256,
        max_image_seq_len=4096, time_shift_type="linear",
    )  # fmt: skip
    pipe = diffusers.CogView4Pipeline(None, None, autoencoder(**FLOW_VAE), transformer, scheduler)
    return pipe, {**GUIDED, **SIZE, **PIXELS_OUT}
