"""CMMD: the maximum mean discrepancy of normalised CLIP embeddings under a Gaussian kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import positive, whole
from fewstep.eval.gaussian.features import Features
from fewstep.eval.metrics.blocks import BLOCK, Blocks, both
from fewstep.eval.metrics.discrepancy import Kernel, discrepancy
from fewstep.eval.metrics.groups import group_means
from fewstep.eval.metrics.registry import metric
from fewstep.eval.report.result import Result, normal_interval


@metric(
    "cmmd",
    reference="Rethinking FID: Towards a Better Evaluation Metric for Image Generation, Jayasumana et al., 2024, "
    "arXiv 2401.09603",
    rows=("main",),
)
def cmmd(
    real: Features,
    generated: Features,
    *,
    sigma: float = 10.0,
    scale: float = 1000.0,
    block: int = BLOCK,
    device: Any = None,
) -> list[Result]:
    """scale * MMD^2 with k(x, y) = exp(-|x - y|^2 / (2 sigma^2)), biased: a sample's pair with itself counts.

    `error` is that of the unbiased estimate (in `details`), which differs by terms of relative order 1/n: the generated
    side's sampling, the real images as they are.

    Args:
        sigma: width of the kernel.
        scale: the paper's 1000.
        block: rows at once; memory is block^2 float64.
        device: where it is computed (float64).

    Raises:
        ValueError: features that are not of length one, fewer than four images, sets of different dimension.

    Reference: Rethinking FID: Towards a Better Evaluation Metric for Image Generation, Jayasumana, Ramalingam, Veit, Glasner,
    Chakrabarti, Kumar, 2024, arXiv 2401.09603.
    """
    whole("cmmd.block", block, 1)
    x, y = both(real, generated, "main", "cmmd", 4)
    for name, each in (("real", x), ("generated", y)):
        _check_normalised(name, each, block)
    found = discrepancy(Blocks(y, block, device), Blocks(x, block, device), gaussian(sigma))
    value, error = scale * found.biased, scale * found.x.error
    return [
        Result(
            "cmmd",
            value,
            error,
            normal_interval(value, error),
            "variance of the U-statistic over generated images",
            details={
                "unbiased": scale * found.unbiased,
                "error_real": scale * found.y.error,
                "sigma": sigma,
                "scale": scale,
            },
            groups=group_means(value + scale * found.x.influence),
        )
    ]


def gaussian(sigma: float) -> Kernel:
    """exp(-|x - y|^2 / (2 sigma^2))."""
    positive("cmmd.sigma", sigma)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squared = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * (x @ y.T)
        return torch.exp(-squared.clamp_min(0) / (2 * sigma**2))

    return kernel


def _check_normalised(name: str, rows: np.ndarray, block: int) -> None:
    for start in range(0, len(rows), block):
        length = np.linalg.norm(rows[start : start + block].astype(np.float64), axis=1)
        far = np.abs(length - 1) > 1e-2  # half precision embeddings are off by 1e-3
        if far.any():
            bad = int(far.argmax())
            raise ValueError(
                f"cmmd is defined on embeddings of length 1; the {name} image {start + bad} has one of length "
                f'{length[bad]:.4g}. Use extractor="clip", or divide each row by its length.'
            )
