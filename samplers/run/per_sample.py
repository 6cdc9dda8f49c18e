"""Numbers that every sample has of its own, beside batches (B, *shape): shapes, products, and some samples of many."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.float64]  # one a sample, (B,)
Rows = NDArray[np.intp]  # numbers of samples in their batch


def beside(numbers: Tensor, like: Tensor) -> Tensor:
    """One number a sample, (B,), in the shape in which it multiplies a batch: (B, 1, ...)."""
    return numbers.view(-1, *(1,) * (like.ndim - 1))


def columns(values: Sequence[Numbers], like: Tensor) -> tuple[Tensor, ...]:
    """Several numbers a sample, from the host: each (B, 1, ...) beside `like`, in one transfer."""
    stacked = torch.from_numpy(np.stack([np.asarray(v, np.float64) for v in values]))
    return stacked.to(like.dtype).to(like.device).view(len(values), -1, *(1,) * (like.ndim - 1)).unbind()


def column(values: Numbers, like: Tensor) -> Tensor:
    """One number a sample, from the host: (B, 1, ...) beside `like`."""
    return columns([values], like)[0]


def take(whole: Tensor, rows: Rows) -> Tensor:
    """Some samples of a batch."""
    return whole if len(rows) == len(whole) else whole[torch.from_numpy(rows).to(whole.device)]


def put(whole: Tensor, rows: Rows, part: Tensor) -> Tensor:
    """The batch with some samples replaced."""
    if len(rows) == len(whole):
        return part
    return whole.index_copy(0, torch.from_numpy(rows).to(whole.device), part)


def wide(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def dot(a: Tensor, b: Tensor) -> Tensor:
    """<a, b> of every sample, (B, 1, ...)."""
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)


def norm(x: Tensor) -> Tensor:
    """|x| of every sample, (B, 1, ...)."""
    return beside(wide(x).flatten(1).norm(dim=1), x)


def one_each(values: object, x: Tensor, name: str) -> Tensor:
    """What a function of samples returned, (B,); ValueError for anything but one number a sample."""
    if not isinstance(values, Tensor) or tuple(values.shape) != (len(x),):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"`{name}` must return one number a sample, shape ({len(x)},); got {got}")
    return values
