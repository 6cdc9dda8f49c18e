"""Diffusers pipelines of class-conditional pictures without an encoder: the embedded digits, and networks trained here."""

import inspect
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin
from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from fewstep.output.files import write_text

Labels = int | list[int] | Tensor | None
Generators = torch.Generator | list[torch.Generator] | None

NULL_CLASS = 10  # the class label that means "any digit"
PIPELINE_FILE = "pipeline.py"  # where diffusers looks for a class that is not its own
PART = ".part-"  # begins what a killed process leaves in a folder that it was saving to
_OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class ClassConditionalPipeline(DiffusionPipeline):
    """Draws pictures of classes: x_T ~ N(0, I), then the scheduler's steps along the network's output(x_t, t, class).

    With a guidance scale w other than 1 each step evaluates both the class c asked for and the null class in one batch
    of 2B, and follows output(null) + w (output(c) - output(null)). The network's last label is the null class.

    Open what `save_pretrained` wrote with `ClassConditionalPipeline.from_pretrained(folder)`. The general
    `DiffusionPipeline.from_pretrained` only knows the classes of diffusers itself, and with `custom_pipeline="pipeline",
    trust_remote_code=True` the class that the folder's pipeline.py names: this one.

    Reference: Classifier-Free Diffusion Guidance, Ho and Salimans, 2022, arXiv:2207.12598.
    """

    unet: UNet2DModel | DiTTransformer2DModel
    scheduler: Any
    classes = "classes"  # what sentences call them
    gives_tensors = True  # "pt" has the values that pictures are made of
    model_cpu_offload_seq = "unet"  # type: ignore[assignment]  # diffusers declares it as None
    _callback_tensor_inputs = ["latents"]

    def __init__(self, unet: UNet2DModel | DiTTransformer2DModel, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Labels = None,
        batch_size: int | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 10,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        timesteps: list[int] | None = None,
        sigmas: list[float] | None = None,
        callback_on_step_end: Callable[[Any, int, Tensor, dict], dict | None] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] = ("latents",),
        eta: float | None = None,
    ) -> ImagePipelineOutput | tuple:
        """Draw one picture for each class label.

        Args:
            class_labels: classes 0..n-1, one for all images or one each; None (the null class) asks for none in particular.
            batch_size: number of images B; None takes it from the class labels or the latents, or is 1.
            guidance_scale: w above; 1 is the plain conditional model, one network evaluation of B images a step.
            num_inference_steps: steps of the scheduler; with a fewstep scheduler, network evaluations.
            generator: one for the batch, or a list with one an image (then no image depends on the batch).
            latents: (B, C, H, W) standard normal start to use instead of drawing one.
            output_type: "pil" images, "np" (B, H, W, C) or "pt" (B, C, H, W) in [0, 1], or "latent": the last
                state as it is, about [-1, 1].
            return_dict: False returns the tuple (images,).
            timesteps, sigmas: explicit times for schedulers that take them, instead of `num_inference_steps`.
            callback_on_step_end: f(pipeline, index, t, {"latents": x}) after each step; may return new latents.
            callback_on_step_end_tensor_inputs: names of the tensors shown to it: "latents".
            eta: passed to schedulers whose step takes it (DDIM: 0 is the ODE, 1 is ancestral sampling).

        Raises:
            ValueError: before any network evaluation, on a class that there is not, latents of a wrong shape, a count
                below 1, numbers of labels, generators and latents that disagree, or an unknown output type.
        """
        labels = self._labels(class_labels, batch_size, latents)
        shape = (len(labels), self.unet.config["in_channels"], *2 * [self.unet.config["sample_size"]])
        self._check(num_inference_steps, guidance_scale, generator, latents, output_type, shape)
        if unknown := set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"callback_on_step_end_tensor_inputs: {sorted(unknown)} unknown; only 'latents' exists")
        device, dtype = self._execution_device, self.unet.dtype
        self._set_times(num_inference_steps, timesteps, sigmas, device)

        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        x = latents.to(device=device, dtype=dtype) * getattr(self.scheduler, "init_noise_sigma", 1.0)
        labels, guided = labels.to(device), guidance_scale != 1
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, self.null_class)])
        options = self._step_options(generator, eta)
        self._num_timesteps = len(self.scheduler.timesteps)
        scaled = getattr(self.scheduler, "scale_model_input", lambda x, t: x)  # schedulers of flows scale nothing
        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            x_t = scaled(torch.cat([x, x]) if guided else x, t)
            output = self.unet(x_t, t if t.ndim else t.expand(len(x_t)), class_labels=labels).sample
            if guided:
                conditional, null = output.chunk(2)
                output = null + guidance_scale * (conditional - null)
            x = self.scheduler.step(output, t, x, **options, return_dict=False)[0]
            if callback_on_step_end is not None:
                x = (callback_on_step_end(self, i, t, {"latents": x}) or {}).get("latents", x)
        self.maybe_free_model_hooks()
        images = self._decode(x, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **options: Any) -> None:
        """A folder as of every pipeline, and in it the line that tells diffusers where this class is.

        Each file is whole whenever somebody looks, and the one that names the others is the last.
        """
        folder, name = Path(save_directory), type(self).__name__
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=PART) as part:
            super().save_pretrained(part, *args, **options)
            write_text(Path(part) / PIPELINE_FILE, f"from {__name__} import {name}\n\n__all__ = [{name!r}]\n")
            files = [file for file in Path(part).rglob("*") if file.is_file()]
            for file in sorted(files, key=lambda file: file.name == "model_index.json"):
                target = folder / file.relative_to(part)
                target.parent.mkdir(exist_ok=True)
                shutil.copymode(Path(part) / "model_index.json", file)  # weights are written for their owner alone
                os.replace(file, target)

    @property
    def null_class(self) -> int:
        """The label of no particular class; those below it are the classes."""
        config = self.unet.config  # a U-Net counts all its labels, a transformer all but the last
        return int(config["num_class_embeds"] - 1 if "num_class_embeds" in config else config["num_embeds_ada_norm"])

    def _labels(self, class_labels: Labels, batch_size: int | None, latents: Tensor | None) -> Tensor:
        """One int64 class a sample: (B,), the null class where none was asked for."""
        if class_labels is None:
            labels = torch.tensor(self.null_class)
        else:
            labels = torch.as_tensor(class_labels).cpu()
            integral = not labels.is_floating_point() and labels.dtype != torch.bool
            last = self.null_class - 1
            if labels.ndim > 1 or labels.numel() == 0 or not integral or labels.min() < 0 or labels.max() > last:
                raise ValueError(
                    f"class_labels must be {self.classes} 0..{last}, one for all images or a flat list; got {class_labels}"
                )
        if batch_size is None:
            batch_size = len(labels) if labels.ndim else len(latents) if latents is not None else 1
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1; got {batch_size}")
        if labels.ndim and len(labels) != batch_size:
            raise ValueError(
                f"{len(labels)} class labels for batch_size={batch_size}; leave batch_size away or make them agree"
            )
        return labels.long().expand(batch_size)

    @staticmethod
    def _check(
        num_inference_steps: int,
        guidance_scale: float,
        generator: Any,
        latents: Tensor | None,
        output_type: str,
        shape: tuple,
    ) -> None:
        if not isinstance(num_inference_steps, int) or num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be a whole number of at least 1; got {num_inference_steps}")
        if not math.isfinite(guidance_scale):
            raise ValueError(f"guidance_scale must be a finite number (1 is no guidance); got {guidance_scale}")
        if isinstance(generator, list) and len(generator) != shape[0]:
            raise ValueError(
                f"{len(generator)} generators for {shape[0]} images; pass one, or a list with one an image"
            )
        if latents is not None and tuple(latents.shape) != shape:
            raise ValueError(f"latents must have the shape {shape}; got {tuple(latents.shape)}")
        if output_type not in _OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(_OUTPUT_TYPES)}; got {output_type!r}")

    def _set_times(self, n: int, timesteps: list | None, sigmas: list | None, device: torch.device) -> None:
        given: dict[str, Any] = {
            name: value for name, value in (("timesteps", timesteps), ("sigmas", sigmas)) if value is not None
        }
        if refused := given.keys() - inspect.signature(self.scheduler.set_timesteps).parameters.keys():
            raise ValueError(
                f"{type(self.scheduler).__name__}.set_timesteps takes no {' and no '.join(sorted(refused))}; "
                "pass num_inference_steps, or use a scheduler that does, such as fewstep's"
            )
        self.scheduler.set_timesteps(**(given or {"num_inference_steps": n}), device=device)

    def _step_options(self, generator: Generators, eta: float | None) -> dict[str, Any]:
        accepted = inspect.signature(self.scheduler.step).parameters
        options = {"generator": generator, "eta": eta}
        return {name: value for name, value in options.items() if value is not None and name in accepted}

    def _decode(self, x: Tensor, output_type: str) -> Any:
        """The last state as asked for; images in [0, 1] are (x + 1) / 2, clamped."""
        if output_type == "latent":
            return x
        images = ((x + 1) / 2).clamp(0, 1)
        if output_type == "pt":
            return images
        arrays = images.permute(0, 2, 3, 1).float().cpu().numpy()
        return arrays if output_type == "np" else [_picture(a) for a in arrays]


class DigitsPipeline(ClassConditionalPipeline):
    """`ClassConditionalPipeline` of digits, that of the embedded network: eps prediction, (B, 1, 28, 28), classes 0 to 9."""

    classes = "digits"


OWN = {kind.__name__: kind for kind in (ClassConditionalPipeline, DigitsPipeline)}  # by the name that a folder says


def _picture(array: np.ndarray) -> Image.Image:
    """(H, W, C) in [0, 1] as a grey or colour picture."""
    pixels = np.rint(array * 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
