"""What may happen to a predicted clean sample before a row uses it: clipping, or dynamic thresholding."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Clip:
    """x0 <- clip(x0, -limit, limit)."""

    limit: float = 1.0

    def __call__(self, x0: torch.Tensor) -> torch.Tensor:
        return x0.clamp(-self.limit, self.limit)


@dataclass(frozen=True)
class DynamicThreshold:
    """x0 <- clip(x0, -s, s) / s with s = the `ratio` quantile of |x0|, per sample and within [1, top].

    Reference: Saharia et al., Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding, 2022,
    arXiv:2205.11487.
    """

    ratio: float = 0.995
    top: float = 1.0

    def __call__(self, x0: torch.Tensor) -> torch.Tensor:
        flat = x0.flatten(1)
        s = _quantile(flat.abs(), self.ratio).clamp(1.0, max(1.0, self.top))
        return (torch.maximum(torch.minimum(flat, s), -s) / s).view_as(x0)


def _quantile(values: torch.Tensor, ratio: float) -> torch.Tensor:
    """Quantile of each row, linearly interpolated, (B, 1); unlike torch.quantile without a limit on the row's length."""
    place = ratio * (values.shape[1] - 1)
    low = int(place)
    top = values.topk(values.shape[1] - low, dim=1).values[:, -2:]  # the two order statistics around `place`
    return top[:, -1:] + (place - low) * (top[:, :1] - top[:, -1:])
