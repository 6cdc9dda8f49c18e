"""The embedded network as a pipeline, from the weights beside this file."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, UNet2DModel

from fewstep.demo.folder import proved
from fewstep.demo.pipeline import DigitsPipeline
from fewstep.devices import loaded_in
from fewstep.samplers.noise.random_state import random_state_kept


def load_demo_pipeline(device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> DigitsPipeline:
    """The embedded digits as a diffusers pipeline: class-conditional MNIST, eps prediction, 28x28, 1.1 M parameters.

        pipe = load_demo_pipeline()
        images = pipe([0, 1, 2, 3], num_inference_steps=10, generator=torch.Generator().manual_seed(0)).images

    Args:
        device: where the network goes; None is the CPU.
        dtype: what the network computes in; None is float32 (the weights are stored in float16).
    """
    folder = proved("config.json", "diffusion_pytorch_model.safetensors", "scheduler_config.json")
    with random_state_kept():  # it is made with random weights before it has its own
        unet = UNet2DModel.from_pretrained(folder, **loaded_in(dtype or torch.float32)).eval()
    pipe = DigitsPipeline(unet, DDIMScheduler.from_pretrained(folder))
    pipe.set_progress_bar_config(disable=None)  # a bar on a terminal, nothing in a pipe
    return pipe.to(device) if device is not None else pipe
