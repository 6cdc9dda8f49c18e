"""What an extractor is: a frozen network that turns images of any size into one feature vector a layer.

    uint8 (B, 3, H, W) -- prepare --> the network's input -- taps --> {layer: float32 (B, d)}

`prepare` is all that a protocol fixes about resizing and range. It works image by image, so that images of different sizes
meet in one batch after it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fewstep.checks import unknown
from fewstep.eval.extractors.precision import exact_arithmetic
from fewstep.eval.feed.end_to_end import together
from fewstep.lazy import optional


class Extractor(nn.Module, ABC):
    """Base of all extractors; a subclass says what it is and defines `prepare` and `taps`.

    Attributes:
        name: "inception", "digits", "dinov2", "clip" ...; metrics of any but "inception" are never called FID.
        protocol: the name of the preprocessing: "tf", "pytorch-fid" or "clean" for Inception.
        layers: the dimension of every layer that can be asked for.
        parts: the layer that plays "main" (Frechet distances, KID ...), "logits" (inception score, classes unbiased) and
            "spatial" (sFID); the last two may be missing.
        precision: "fp32", or what a faster and less exact path computes in; it is written into every result.
        published: whether the weights are those that the metric was published with, where that is known.
        clips: whether a sample is a clip of a video, uint8 (T, 3, H, W).
        at_once: the most images that go through the network together; None for all that are given.
    """

    name: str
    protocol: str
    layers: Mapping[str, int]
    parts: Mapping[str, str]
    precision: str = "fp32"
    published: bool | None = None
    at_once: int | None = None
    clips: bool = False

    @abstractmethod
    def prepare(self, images: Tensor) -> Tensor:
        """uint8 (B, 3, H, W) -> the network's input, every image by itself."""

    @abstractmethod
    def taps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Prepared images -> float32 (B, d) for each of the layers."""

    @torch.inference_mode()
    def forward(self, images: Tensor | Iterable[Tensor], layers: Sequence[str] | None = None) -> Any:
        """Features of uint8 images: (B, d) of the main layer, or {layer: (B, d)} where layers are named.

        Args:
            images: uint8 (B, 3, H, W), or a sequence of uint8 (3, H, W) of any sizes.
            layers: names from `layers`.

        Raises:
            ValueError: images that are no uint8 (B, 3, H, W), or an unknown layer.
        """
        wanted = [self.parts["main"]] if layers is None else list(layers)
        for layer in wanted:
            if layer not in self.layers:
                raise unknown(f"layer of {self.name}", layer, self.layers)
        images = images if isinstance(images, Tensor) else list(images)
        if not len(images):
            raise ValueError("an extractor needs at least one image; got none.")
        step = self.at_once or len(images)
        with exact_arithmetic(self.device):
            parts = [self.taps(self._prepared(images[k : k + step]), wanted) for k in range(0, len(images), step)]
        features = {layer: torch.cat([part[layer].float() for part in parts]) for layer in wanted}
        return features[wanted[0]] if layers is None else features

    def numbered(self, images: Any, layers: Sequence[str], numbers: Any) -> dict[str, Tensor]:
        """{layer: (B, d)} of images that have these numbers (B,); what follows from a number too is given by subclasses."""
        found: dict[str, Tensor] = self(images, layers)
        return found

    def _prepared(self, images: Tensor | list[Tensor]) -> Tensor:
        """The network's input on its own device; neighbours of one size are prepared together."""
        if isinstance(images, Tensor):
            return self.prepare(_checked(images).to(self.device, non_blocking=True))
        batches = [_checked(run).to(self.device, non_blocking=True) for run in together(images)]
        return torch.cat([self.prepare(batch) for batch in batches])

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for an extractor without any."""
        return next((w.device for w in self.parameters()), torch.device("cpu"))

    @cached_property
    def hash(self) -> str:
        """What the weights are; see `weights_hash`."""
        return weights_hash(self.state_dict())


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """First 16 digits of the sha256 of the weights: name and float32 bytes of each, sorted by name."""
    digest = hashlib.sha256()
    for name, w in sorted(state.items()):
        digest.update(name.encode())
        digest.update(w.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _checked(images: Tensor) -> Tensor:
    if images.ndim == 5:
        raise ValueError(
            "this extractor takes images, and these are clips of videos: name one of videos, i3d or videomae"
        )
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"an extractor takes uint8 images of shape (B, 3, H, W); got {images.dtype} {tuple(images.shape)}. "
            "Round floats to 0..255 first: (x * 255).round().clamp(0, 255).to(torch.uint8)."
        )
    return images


class Function(Extractor):
    """Any function of uint8 (B, 3, H, W) as an extractor: its (B, d) output is the main layer.

    Args:
        function: uint8 (B, 3, H, W) -> (B, d).
        dim: d.
        name: what results call it; the function's own name where none is given.
        size: resize every image to (size, size) first, bilinear with antialias; None where images have one size.
    """

    protocol = "own"

    def __init__(
        self, function: Callable[[Tensor], Tensor], dim: int, name: str | None = None, size: int | None = None
    ) -> None:
        super().__init__()
        self.function, self.size = function, size  # a module among functions is registered, and hashed
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self.layers, self.parts = {"main": dim}, {"main": "main"}

    def prepare(self, images: Tensor) -> Tensor:
        if self.size is None or images.shape[2:] == (self.size, self.size):
            return images
        with optional("resizing for an extractor"):
            from torchvision.transforms.v2.functional import resize

        return resize(images, [self.size, self.size], antialias=True)

    def taps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        features = self.function(x)
        if features.shape != (len(x), self.layers["main"]):
            raise ValueError(
                f"extractor {self.name!r} was said to give {self.layers['main']} features an image; it gave the shape "
                f"{tuple(features.shape)} for {len(x)} images."
            )
        return {"main": features}
