"""The embedded classifier of handwritten digits as an extractor; distances over it are FD-digits, never FID."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fewstep.demo.digit_classifier import load_demo_classifier
from fewstep.eval.extractors.base import Extractor
from fewstep.eval.extractors.extractor_entry import register_extractor
from fewstep.eval.extractors.resize import pillow_bilinear, resized


@register_extractor("digits")
class Digits(Extractor):
    """Features of digits: uint8 (B, 3, H, W) -> float32 (B, 64), or the layers "features" (64) and "logits" (10).

    The channels are averaged (grey images repeat one channel, so nothing is lost), sizes other than 28 x 28 are resized
    (bilinear with antialias), 0..255 becomes [-1, 1].

    Args:
        device: where it runs; None is the CPU.
    """

    name, protocol = "digits", "28x28"
    layers = {"features": 64, "logits": 10}
    parts = {"main": "features", "logits": "logits"}

    def __init__(self, device: str | torch.device | None = None) -> None:
        super().__init__()
        self.network = load_demo_classifier(device)

    def prepare(self, images: Tensor) -> Tensor:
        return resized(images.float().mean(1, keepdim=True), 28, pillow_bilinear) / 127.5 - 1

    def taps(self, x: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        features = self.network.features(x)
        return {"features": features, "logits": self.network.head(features)}
