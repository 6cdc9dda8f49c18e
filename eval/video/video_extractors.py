"""Networks that turn clips into features: any function, VideoMAE of transformers, and the I3D of published FVD values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewstep.eval.extractors.base import Extractor
from fewstep.eval.extractors.extractor_entry import register_extractor
from fewstep.eval.extractors.resize import centred_bilinear, resized
from fewstep.eval.extractors.vision import of_transformers


class VideoExtractor(Extractor):
    """Base of extractors of clips: uint8 (B, T, 3, H, W) -> {layer: float32 (B, d)}; `prepare` and `taps` as of images."""

    clips = True

    def _prepared(self, images: Tensor | Iterable[Tensor]) -> Tensor:
        found = list(images)
        if any(clip.ndim != 4 or clip.dtype != torch.uint8 or clip.shape[1] != 3 for clip in found):
            raise ValueError(
                f"extractor {self.name!r} takes clips, uint8 (T, 3, H, W); got {found[0].dtype} {tuple(found[0].shape)}: give "
                "videos and frames=16 (--frames), or fewstep.eval.Clips(videos)"
            )
        if len({len(clip) for clip in found}) > 1:
            raise ValueError(f"clips of one evaluation have equally many frames; got {sorted({len(c) for c in found})}")
        return torch.cat([self.prepare(clip[None].to(self.device, non_blocking=True)) for clip in found])


class VideoFunction(VideoExtractor):
    """Any function of uint8 clips (B, T, 3, H, W) as an extractor: its (B, d) output is the main layer.

    Args:
        function: uint8 (B, T, 3, H, W) -> (B, d).
        dim: d. name: what results call it.
        size: resize every frame to (size, size) first, bilinear; None where all have one size.
    """

    protocol = "own"

    def __init__(
        self, function: Callable[[Tensor], Tensor], dim: int, name: str | None = None, size: int | None = None
    ) -> None:
        super().__init__()
        self.function, self.size = function, size
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self.layers, self.parts = {"main": dim}, {"main": "main"}

    def prepare(self, images: Tensor) -> Tensor:
        return images if self.size is None else frames_resized(images, self.size).round().to(torch.uint8)

    def taps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        features = self.function(x)
        if features.shape != (len(x), self.layers["main"]):
            raise ValueError(
                f"extractor {self.name!r} was said to give {self.layers['main']} features a clip; it gave the shape "
                f"{tuple(features.shape)} for {len(x)} clips."
            )
        return {"main": features}


def frames_resized(clips: Tensor, size: int) -> Tensor:
    """(B, T, 3, H, W) -> float32 (B, T, 3, size, size), bilinear about pixel centres."""
    return resized(clips.flatten(0, 1), size, centred_bilinear).unflatten(0, clips.shape[:2])


@register_extractor("i3d")
class I3D(VideoExtractor):
    """The I3D of Kinetics-400 as TorchScript, as StyleGAN-V and others print FVD with it: 400 logits a clip.

    Frames are resized to 224 x 224 (bilinear) and 0..255 becomes [-1, 1], by the script itself, which takes
    (x, rescale, resize, return_features), x (B, 3, T, H, W).

    Args:
        weights: the file, i3d_torchscript.pt; it is a program, so it is only run where it is named.
        device: where it runs; None is the CPU.

    Raises:
        ValueError: no file was named, or it is no TorchScript.

    Reference:
        Unterthiner et al., "Towards Accurate Generative Models of Video: A New Metric & Challenges", 2018,
        arXiv:1812.01717; Carreira and Zisserman, "Quo Vadis, Action Recognition?", 2017, arXiv:1705.07750.
    """

    name, protocol = "i3d", "224 bilinear, [-1, 1], logits"
    layers, parts = {"logits_of_clip": 400}, {"main": "logits_of_clip"}

    def __init__(self, weights: str | PathLike[str] | None = None, device: str | torch.device | None = None) -> None:
        super().__init__()
        if weights is None or not Path(weights).expanduser().is_file():
            raise ValueError(
                f"extractor 'i3d' needs the file of its network, {'none was named' if weights is None else weights}: give "
                "i3d_torchscript.pt, as StyleGAN-V publishes it, as weights= (--weights FILE), or take the extractor videomae"
            )
        try:
            self.network = torch.jit.load(str(Path(weights).expanduser()), map_location=device or "cpu").eval()
        except RuntimeError as error:
            raise ValueError(f"{weights} is no TorchScript ({str(error).splitlines()[0]})") from error

    def prepare(self, images: Tensor) -> Tensor:
        return frames_resized(images, 224).transpose(1, 2)

    def taps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        return {"logits_of_clip": self.network(x, rescale=True, resize=True, return_features=True)}


@register_extractor("videomae")
class VideoMAE(VideoExtractor):
    """VideoMAE's tokens of the last layer, their mean: uint8 (B, T, 3, H, W) -> (B, 768); less led by single frames than I3D.

    Frames go through the model's own processor: shortest side resized, centre cropped, normalised.

    Args:
        weights: hub id or folder of a VideoMAEModel; files on this machine are used where there are any.
        device: where it runs; None is the CPU.
        download: fetch them from the hub where there are none.

    Raises:
        ValueError: transformers is not installed. FileNotFoundError: the weights are not here, or cannot be fetched.

    Reference:
        Tong et al., "VideoMAE: Masked Autoencoders are Data-Efficient Learners", 2022, arXiv:2203.12602; as a metric: Ge et
        al., "On the Content Bias in Frechet Video Distance", 2024, arXiv:2404.12391.
    """

    name, parts = "videomae", {"main": "mean_of_tokens"}

    def __init__(
        self,
        weights: str | PathLike[str] = "MCG-NJU/videomae-base",
        device: str | torch.device | None = None,
        download: bool = False,
    ) -> None:
        super().__init__()
        self.tower = of_transformers("VideoMAEModel", weights, download).eval().requires_grad_(False)
        self.processor = of_transformers("AutoImageProcessor", weights, download)
        config = self.tower.config
        self.layers = {"mean_of_tokens": config.hidden_size}
        self.protocol = f"{config.num_frames} frames, {config.image_size} of the processor, mean of tokens"
        self.to(device or "cpu")

    def prepare(self, images: Tensor) -> Tensor:
        if images.shape[1] != self.tower.config.num_frames:
            raise ValueError(
                f"this VideoMAE takes clips of {self.tower.config.num_frames} frames; got {images.shape[1]}: give frames= of it"
            )
        inputs: Any = [self.processor(list(clip.cpu()), return_tensors="pt")["pixel_values"] for clip in images]
        return torch.cat(inputs).to(self.device)

    def taps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        return {"mean_of_tokens": self.tower(x).last_hidden_state.mean(1)}
