"""Losses by name, each of decoded images: "pixels", "lpips", "features" and "features:EXTRACTOR"."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from fewstep.eval.extractors.extractor_entry import extractor
from fewstep.eval.extractors.precision import exact_arithmetic
from fewstep.samplers.learned.yardsticks.yardstick import MAKERS, YARDSTICKS, Yardstick

EXTRACTOR = "inception"  # where none is named


def pixels(images: Tensor, truth: Tensor) -> Tensor:
    """Mean square difference."""
    return (images - truth).double().flatten(1).square().mean(1)


def lpips(images: Tensor, truth: Tensor) -> Tensor:
    """Learned perceptual distance, of the package of that name.

    Reference: Zhang et al., The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, 2018, arXiv 1801.03924.
    """
    if find_spec("lpips") is None:
        raise ValueError(
            "loss 'lpips' needs the package of that name: pip install lpips, or take 'pixels' or 'features'"
        )
    a, b = (_three(v, "lpips").float() for v in (images, truth))
    found: Tensor = _perceptual(str(a.device))(a, b).flatten(1).mean(1)
    return found.clamp_min(0)


@lru_cache(maxsize=4)
def _perceptual(device: str) -> Any:
    from lpips import LPIPS

    return LPIPS(net="vgg", verbose=False).to(device).eval().requires_grad_(False)


class Features:
    """Mean square difference of the features of an extractor's main layer, over their own mean square.

    which: name of an extractor of `fewstep.eval`.
    """

    def __init__(self, which: str = EXTRACTOR) -> None:
        self.which = which

    def __call__(self, images: Tensor, truth: Tensor) -> Tensor:
        network = _extractor(self.which, str(images.device))
        layer = network.parts["main"]
        with exact_arithmetic(network.device):
            a, b = (
                network.taps(network.prepare((127.5 * (_three(v, "features").float() + 1)).clamp(0, 255)), [layer])[
                    layer
                ]
                for v in (images, truth)
            )
        size = b.double().flatten(1).square().mean(1)
        return (a.double() - b.double()).flatten(1).square().mean(1) / size.clamp_min(1e-12)


@lru_cache(maxsize=4)
def _extractor(which: str, device: str) -> Any:
    with torch.inference_mode(False):
        return extractor(which).to(device).eval().requires_grad_(False)


def _three(images: Tensor, name: str) -> Tensor:
    """Images of three channels. ValueError for anything that is none."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"loss {name!r} looks at images of shape (B, 1 or 3, H, W); samples decode to {tuple(images.shape)}: take a "
            "function f(x0, reference) -> (B,)"
        )
    return images.expand(-1, 3, -1, -1)


def _features(which: str) -> Yardstick:
    extractor_named = f"features:{which}"
    return Yardstick(extractor_named, Features(which), images=True)


for _fn in (pixels, lpips):
    YARDSTICKS.add(_fn.__name__, Yardstick(_fn.__name__, _fn, images=True), __name__)
YARDSTICKS.add("features", _features(EXTRACTOR), __name__)
MAKERS["features"] = _features
