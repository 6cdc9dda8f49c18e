"""Scores of an image beside the real image of the same number: LPIPS of two sets, of reconstructions above all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from fewstep.eval.scores.score_entry import register_score

ZHANG = "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, Zhang et al., 2018, arXiv 1801.03924"


@register_score("lpips_pairs", reference=ZHANG, higher_is_better=False, beside="real")
def lpips_pairs(net: str = "alex") -> Callable[..., Tensor]:
    """LPIPS of generated image i from real image i, the mean over i: the sets have equal numbers, in one order.

    By the package lpips, which fetches the backbone of torchvision where it is not on this machine.

    Args:
        net: "alex", "vgg" or "squeeze".

    Raises:
        ValueError: the package is not installed.
    """
    try:
        package: Any = import_module("lpips")
    except ModuleNotFoundError as error:
        raise ValueError("lpips_pairs needs the package lpips: pip install lpips, or leave the metric away") from error
    return _Pairs(package.LPIPS(net=net, verbose=False))


class _Pairs(torch.nn.Module):
    """A distance of pictures in [-1, 1], asked of uint8 ones."""

    def __init__(self, distance: Any) -> None:
        super().__init__()
        self.distance = distance

    def forward(self, images: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
        found = []
        for image, other in zip(images, others, strict=True):
            if image.shape != other.shape:
                raise ValueError(
                    f"lpips_pairs compares pictures of one size; got {tuple(image.shape[1:])} and {tuple(other.shape[1:])}: "
                    "resize one of the sets"
                )
            a, b = (x[None].to(self._place).float() / 127.5 - 1 for x in (image, other))
            found.append(torch.as_tensor(self.distance(a, b)).flatten())
        return torch.cat(found)

    @property
    def _place(self) -> torch.device:
        return next((w.device for w in self.parameters()), torch.device("cpu"))
