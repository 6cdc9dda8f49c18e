"""Global random generators, left as they were found: what is measured between two steps of a training changes none of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Python's, numpy's and torch's global generators are at the end what they were at the beginning, on every device.

    Whoever draws inside draws as usual. A device that is first used inside begins where its seed has it begin.
    """
    python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
    used = torch.cuda.is_initialized()
    devices = torch.cuda.get_rng_state_all() if used else []
    apple = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(tensors)
        if used:
            torch.cuda.set_rng_state_all(devices)
        elif torch.cuda.is_initialized():
            for generator in torch.cuda.default_generators:
                generator.manual_seed(generator.initial_seed())
        if apple is not None:
            torch.mps.set_rng_state(apple)
