"""Resizing as two banded matrix products, out = A X B^T: a protocol is the matrix of one axis and the range after it.

    "tf"            TensorFlow 1.x bilinear, source of pixel i at i in/out            (x - 128) / 128
    "pytorch-fid"   bilinear about pixel centres, (i + 1/2) in/out - 1/2, no filter   x / 127.5 - 1
    "clean"         Pillow's bicubic: widened by the scale when it reduces, clipped   (x - 128) / 128

Images are squashed to a square, whatever their shape. Nothing is rounded to whole levels in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewstep.bounded import MEBIBYTE, bounded

# (pixels before, pixels after) -> float64 (after, before); the rows sum to 1.
Axis = Callable[[int, int], np.ndarray]

# A row has few entries beside each other, so a matrix is cut into so many strips and each reads only the pixels it needs.
_STRIPS = 12


def tf_bilinear(before: int, after: int) -> np.ndarray:
    """TensorFlow 1.x with align_corners=False: coordinates in float32, as that kernel has them."""
    return _lerp(np.arange(after, dtype=np.float32) * np.float32(before / after), before)


def centred_bilinear(before: int, after: int) -> np.ndarray:
    """torch's interpolate(mode="bilinear", align_corners=False), in float32 likewise."""
    at = (np.arange(after, dtype=np.float32) + np.float32(0.5)) * np.float32(before / after) - np.float32(0.5)
    return _lerp(at.clip(min=0), before)


def _lerp(at: np.ndarray, before: int) -> np.ndarray:
    low = np.floor(at).astype(int).clip(max=before - 1)
    part, rows = (at - low).astype(np.float64), np.arange(len(at))
    matrix = np.zeros((len(at), before))
    np.add.at(matrix, (rows, low), 1 - part)
    np.add.at(matrix, (rows, np.minimum(low + 1, before - 1)), part)
    return matrix


def pillow_bicubic(before: int, after: int) -> np.ndarray:
    """Pillow's BICUBIC, a = -1/2: k(t) = 3/2 |t|^3 - 5/2 |t|^2 + 1 inside 1, -1/2 |t|^3 + 5/2 |t|^2 - 4 |t| + 2 inside 2."""

    def kernel(t: np.ndarray) -> np.ndarray:
        inner, outer = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
        return np.where(t < 1, inner, np.where(t < 2, outer, 0))

    return _filtered(before, after, kernel, 2.0)


def pillow_bilinear(before: int, after: int) -> np.ndarray:
    """Pillow's BILINEAR, k(t) = 1 - |t|: bilinear with antialias."""
    return _filtered(before, after, lambda t: (1 - t).clip(min=0), 1.0)


def _filtered(before: int, after: int, kernel: Callable[[np.ndarray], np.ndarray], support: float) -> np.ndarray:
    """k((pixel - centre) / width) about each centre, cut to whole pixels within the support, rows made to sum to 1."""
    centre = (np.arange(after)[:, None] + 0.5) * (before / after)
    width, pixel = max(before / after, 1.0), np.arange(before)
    first = np.trunc(centre - support * width + 0.5).clip(min=0)
    last = np.trunc(centre + support * width + 0.5)
    weights = kernel(np.abs(pixel + 0.5 - centre) / width) * ((pixel >= first) & (pixel < last))
    return weights / weights.sum(1, keepdims=True)


def _bytes(strips: list[tuple[int, int, Tensor]]) -> int:
    return sum(matrix.untyped_storage().nbytes() for _, _, matrix in strips)


@bounded(64 * MEBIBYTE, _bytes)
def _strips(axis: Axis, before: int, after: int, device: torch.device) -> list[tuple[int, int, Tensor]]:
    """(first pixel, end, float32 matrix from these pixels) of each strip of the result; once for every size and device."""
    strips = []
    with torch.inference_mode(False):
        for rows in np.array_split(axis(before, after), min(_STRIPS, after)):
            used = np.flatnonzero(rows.any(0))
            first, end = int(used[0]), int(used[-1]) + 1
            strips.append((first, end, torch.tensor(rows[:, first:end], dtype=torch.float32, device=device)))
    return strips


def resized(images: Tensor, size: int, axis: Axis, levels: bool = False) -> Tensor:
    """(B, C, H, W) of any dtype -> float32 (B, C, size, size), clipped to 0..255.

    levels: rounded to whole ones after either axis, as Pillow does with pictures of 8 bits.
    """
    x = images.float()
    for _ in ("columns", "rows"):
        x = x.mT
        if (before := x.shape[-2]) != size:
            x = torch.cat([a @ x[..., i:j, :] for i, j, a in _strips(axis, before, size, x.device)], dim=-2)
            x = (x + 0.5).floor().clamp(0, 255) if levels else x
    return x.clamp(0, 255)


@dataclass(frozen=True)
class Protocol:
    """Preprocessing by name: resize along `axis`, then (x - centre) / centre."""

    axis: Axis
    centre: float

    def __call__(self, images: Tensor, size: int = 299) -> Tensor:
        """uint8 (B, 3, H, W) -> float32 (B, 3, size, size)."""
        return resized(images, size, self.axis).sub_(self.centre).div_(self.centre)


PROTOCOLS = {
    "tf": Protocol(tf_bilinear, 128.0),
    "pytorch-fid": Protocol(centred_bilinear, 127.5),
    "clean": Protocol(pillow_bicubic, 128.0),
}
