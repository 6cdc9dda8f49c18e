"""How far a set of samples is from data: distances of features that need no pairs.

    energy    2 E|x - y| - E|x - x'| - E|y - y'|
    MMD^2     E k(x, x') + E k(y, y') - 2 E k(x, y)

With k(x, y) = -|x - y| the first is the second. Means over x, x' are over different samples, so that a batch gives an estimate
without bias, and sums over batches its gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewstep.adjoint.tuning.losses.loss_entry import tuning_loss
from fewstep.adjoint.tuning.losses.loss_scene import Drawn, Scene
from fewstep.checks import unknown, whole

Kernel = Callable[[Tensor, Tensor], Tensor]
TINY = 1e-12  # of a squared distance, whose root has no slope at 0
WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # of Gaussian kernels, of the root of the features' summed variance


def energy(x: Tensor, y: Tensor, size: float) -> Tensor:
    """-|x - y|, which needs no width."""
    return -(_squares(x, y) + TINY).sqrt()


def gauss(x: Tensor, y: Tensor, size: float) -> Tensor:
    """sum over five widths w of exp(-|x - y|^2 / 2 w^2) / 5."""
    squares = _squares(x, y) / size
    kernels = [torch.exp(-squares / (2 * width**2)) for width in WIDTHS]
    return torch.stack(kernels).mean(0)


def cubic(x: Tensor, y: Tensor, size: float) -> Tensor:
    """(x y / d + 1)^3, that of KID."""
    return (x @ y.T / x.shape[1] + 1) ** 3


KERNELS: dict[str, Callable[..., Tensor]] = {"energy": energy, "gauss": gauss, "cubic": cubic}


def values(drawn: Drawn, *, kernel: str = "energy", **_: Any) -> Tensor:
    """(N,) what each sample adds to the distance of all of them, to first order: their mean is the estimate.

    v_i = E + 2 (a_i - mean a) - 2 (b_i - mean b),   a_i = mean_{j != i} k(x_i, x_j),   b_i = mean_j k(x_i, y_j)
    """
    assert drawn.features is not None and drawn.data is not None
    x, y = drawn.features.double(), drawn.data.double()
    k, size = _kernel(kernel), _size(y)
    within = (k(x, x, size) - torch.diag(torch.diagonal(k(x, x, size)))).sum(1) / (len(x) - 1)
    across = torch.cat([k(part, y, size).mean(1) for part in x.split(256)])
    own = _within(y[:2048], k, size)
    total = within.mean() + own - 2 * across.mean()
    return total + 2 * (within - within.mean()) - 2 * (across - across.mean())


@tuning_loss(
    "mmd",
    reference="MMD-DDM: Fast Inference in Denoising Diffusion Models via MMD Finetuning, Aiello, Valsesia, Magli, 2023, "
    "arXiv:2301.07969; energy distance: Szekely, Rizzo, 2013",
    needs=("data",),
    judge=values,
)
def mmd(scene: Scene, *, kernel: str = "energy", most: int = 2048) -> Tensor:
    """Distance of the features of a batch to those of data, without bias.

    kernel: "energy", -|x - y|; "gauss", of five widths; "cubic", that of KID. most: rows of data beside a batch, others
    each time.
    """
    data = scene.around.data
    assert data is not None
    whole("most", most, 2, hint="It counts rows of data beside a batch")
    if len(data) > most:
        data = data[torch.randperm(len(data), generator=scene.generator)[:most].to(data.device)]
    k = _kernel(kernel)
    x, y = scene.features, data.to(scene.features)
    size = scene.around.memo.setdefault(("size", kernel), _size(y))
    return _within(x, k, size) - 2 * k(x, y, size).mean()


def _kernel(name: str) -> Callable[..., Tensor]:
    if name not in KERNELS:
        raise unknown("kernel of mmd", name, KERNELS)
    return KERNELS[name]


def _within(x: Tensor, k: Callable[..., Tensor], size: float) -> Tensor:
    """Mean of k over pairs of different rows."""
    table = k(x, x, size)
    return (table.sum() - table.diagonal().sum()) / (len(x) * (len(x) - 1))


def _size(y: Tensor) -> float:
    """Summed variance of features."""
    return float(y.var(0).sum().clamp_min(TINY))


def _squares(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2, (n, m), by products."""
    cross = x @ y.T
    return (x.square().sum(1)[:, None] + y.square().sum(1)[None, :] - 2 * cross).clamp_min(0)
