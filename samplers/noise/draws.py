"""What noise is asked for, a `Draw` of a row, and how seeds and generators turn into numbers beside a state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch


class Draw(NamedTuple):
    """A unit Gaussian of one row: W(end) - W(start), in units of its deviation, for Brownian path `path` in lam."""

    row: int  # k + 1 for the row after network call k: seeds count their draws from 1
    slot: int
    start: float
    end: float
    path: int = 0


Noise = Callable[[Draw, torch.Tensor], torch.Tensor]  # (draw, like) -> z of like's shape, dtype and device


def uniforms(generator: Any, batch: int) -> np.ndarray:
    """One uniform in (0, 1) a sample, float64, of a generator, of one generator a sample, or of torch's own."""
    if isinstance(generator, (list, tuple)):
        return np.concatenate([uniforms(one, 1) for one in generator])
    at = "cpu" if generator is None else generator.device
    return np.asarray(torch.rand(batch, generator=generator, dtype=torch.float64, device=at).cpu()) + 2.0**-54


def drawn_seeds(generator: Any, batch: int) -> list[int]:
    """One 63-bit seed a sample, drawn by a generator, by one generator a sample, or by torch's own."""
    each = list(generator) if isinstance(generator, (list, tuple)) else None
    if each is None:
        device = "cpu" if generator is None else generator.device
        return [int(s) for s in torch.randint(2**63 - 1, (batch,), generator=generator, device=device)]
    return [int(torch.randint(2**63 - 1, (), generator=g, device=g.device)) for g in each]


def check_seeds(seeds: Sequence[int], like: torch.Tensor) -> None:
    """ValueError unless there is one seed a sample."""
    if like.shape[0] != len(seeds):
        raise ValueError(f"{len(seeds)} noise seeds for a batch of {like.shape[0]}: give one seed a sample")


def onto(like: torch.Tensor, parts: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
    """One array a sample as a tensor beside `like`."""
    if len(parts) == 0:
        return like.new_empty(like.shape)
    return torch.from_numpy(np.asarray(parts)).to(like.device, like.dtype)
