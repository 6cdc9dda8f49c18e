"""Floats -> 8 bits, by the rule that diffusers makes pictures with; whole batches of them without a word to the host.

    round(255 clamp(x')), half to even,    x' = x, x / 2 + 1/2 or x / 255 as the range says

What is wrong with an image of a batch is a code on the same device, which is read later, with those of many batches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))
FINE, BLACK, UNUSABLE = 0, 1, 2  # codes of an image, uint8
SHARE, FAR = (
    0.01,
    5,
)  # of the values may lie outside a range, for networks overshoot; none by more than 5 times its width


def slack(low: float, high: float) -> float:
    """Two levels of 8 bits: what lies outside by less is inside."""
    return 2 / 255 * (high - low)


def levels(x: Tensor, value_range: Any) -> Tensor:
    """Finite floats of a range -> uint8."""
    low, high = map(float, value_range)
    x = x if x.dtype == torch.float64 else x.float()
    if low < 0:
        x = x / 2 + 0.5
    if high == 1:
        x = x.clamp(0, 1) * 255
    return x.round().clamp(0, 255).to(torch.uint8)


def batch_of_levels(x: Tensor, value_range: Any = None, channels: int = 1) -> tuple[Tensor, Tensor]:
    """Raw images (B, ...) of one shape -> uint8 (B, 3, H, W) and a code each (B,), on their device.

    Args:
        x: uint8, or floats of the range; (B, H, W), or with 1 to 4 channels: grey or RGB, and alpha.
        channels: their axis, where there is one.

    An image that is not finite, does not fit the range or is transparent anywhere is UNUSABLE, and its pixels are of no use.
    """
    x = x[:, None] if x.ndim == 3 else x.movedim(channels, 1)
    pixels = x if x.dtype == torch.uint8 else levels(x.nan_to_num(), value_range)
    unusable = pixels.new_zeros(len(x), dtype=torch.bool)
    if x.dtype != torch.uint8:
        wide = x if x.dtype == torch.float64 else x.float()
        unusable |= ~_fits(wide.flatten(1), *map(float, value_range))
    if pixels.shape[1] in (2, 4):
        unusable |= (pixels[:, -1].flatten(1) < 255).any(1)
        pixels = pixels[:, :-1]
    pixels = pixels.expand(-1, 3, -1, -1).contiguous()
    return pixels, black(pixels).masked_fill_(unusable, UNUSABLE)


def black(pixels: Tensor) -> Tensor:
    """The code of each image (B, 3, H, W): BLACK where it is so all over, else FINE."""
    return (pixels.flatten(1).amax(1) == 0).to(torch.uint8) * BLACK


def _fits(x: Tensor, low: float, high: float) -> Tensor:
    """(B,) whether all values are finite, and no more than their share outside the range."""
    room, width = slack(low, high), FAR * (high - low)
    outside = ((x < low - room) | (x > high + room)).sum(1)
    near = (x >= low - width) & (x <= high + width)  # neither NaN nor infinity is
    return near.all(1) & (outside <= SHARE * x.shape[1])
