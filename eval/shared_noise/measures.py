"""Errors of images to those of a reference, image by image, by name: what a paired comparison measures.

rmse    ||x0 - x0*|| / sqrt(D)                in the space the model works in (latents are not decoded)
psnr    10 log10( 255^2 / mean (u - u*)^2 )   of the decoded pixels u = 0..255, in dB
lpips   distance of the `lpips` package, where it is installed, of the decoded pixels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import unknown


def image_errors(x0: Tensor, truth: Tensor) -> Tensor:
    """Root mean square difference of each image: (B, *shape), (B, *shape) -> (B,) in float64."""
    return (x0.double() - truth.double()).flatten(1).square().mean(1).sqrt()


def _rmse(x0: Tensor, truth: Tensor) -> np.ndarray:
    return np.asarray(image_errors(x0, truth))


def _psnr(u: Tensor, truth: Tensor) -> np.ndarray:
    """Identical pictures count as if one entry differed by one level, which keeps the mean finite."""
    squares = np.asarray((u.double() - truth.double()).square().flatten(1).sum(1).clamp(min=1.0))
    return 10 * np.log10(255.0**2 * u[0].numel() / squares)


def _lpips(u: Tensor, truth: Tensor) -> np.ndarray:
    from lpips import LPIPS

    with torch.no_grad():
        a, b = (x.float().expand(-1, 3, -1, -1) / 127.5 - 1 for x in (u, truth))
        return np.asarray(LPIPS(net="alex", verbose=False)(a, b).flatten().double())


# Name -> (errors (B,) of samples against the truth, the space of both: "x0", or "pixels" for uint8 (B, C, H, W)).
MEASURES: dict[str, tuple[Callable[[Any, Any], np.ndarray], str]] = {
    "rmse": (_rmse, "x0"),
    "psnr": (_psnr, "pixels"),
    "lpips": (_lpips, "pixels"),
}


def check_measures(names: Sequence[str]) -> None:
    """ValueError for a name that is none of these, or whose package is not installed."""
    for name in names:
        if name not in MEASURES:
            raise unknown("paired metric", name, MEASURES)
    if "lpips" in names and find_spec("lpips") is None:
        raise ValueError("metric 'lpips' needs the package of that name: pip install lpips, or leave the metric away.")
