"""The spatial term of a row: a small filter over the state and outputs of the past, each channel by itself.

    input_{k+1} += F_0 * input_k + sum_j F_{1+j} * m_{k-j},        (F * u)(p) = sum_d F(d) u(p + d), zero outside

Linear in all that it reads, so that a row stays linear in its registers, and every sample by itself: no batch changes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.functional import conv2d


def spatial(weights: Tensor, registers: Sequence[Tensor]) -> Tensor:
    """sum of registers (B, C, H, W) under filters (C or 1, registers, k, k), k odd: one stack and one convolution."""
    x = torch.stack(list(registers), 2)
    channels = x.shape[1]
    kernel = weights.to(x).expand(channels, *weights.shape[1:])
    with _exact(x):
        return conv2d(x.flatten(1, 2), kernel, padding=weights.shape[-1] // 2, groups=channels)


def _exact(x: Tensor) -> AbstractContextManager[object]:
    """In the state's own precision: no autocast, and on a GPU no products of fewer digits."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        return torch.autocast(kind, enabled=False)
    if kind == "cuda" and torch.backends.cudnn.allow_tf32 and not torch.compiler.is_compiling():
        return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)  # type: ignore[no-any-return]
    return nullcontext()
