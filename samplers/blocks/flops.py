"""What a call costs: floating point operations of its matrix products, convolutions and attentions, as torch counts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def flops(work: Callable[[], Any]) -> int:
    """Of all that `work` does in this thread. ValueError where nothing of it is counted."""
    with FlopCounterMode(display=False) as counter:
        work()
    found = int(counter.get_total_flops())
    if not found:
        raise ValueError(
            "this network makes no matrix product, convolution or attention, so that its cost cannot be counted and nothing "
            "is to be had from leaving blocks out"
        )
    return found
