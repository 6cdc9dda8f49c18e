"""What the graphs of autograd hold: every tensor they save, as long as they save it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(eq=False)
class Held:
    """A tensor that a graph has saved, alive as long as the graph holds it."""

    tensor: Tensor


@contextmanager
def saving() -> Iterator[list[weakref.ref[Held]]]:
    """What graphs save from here on."""
    saved: list[weakref.ref[Held]] = []

    def pack(tensor: Tensor) -> Held:
        held = Held(tensor)
        saved.append(weakref.ref(held))
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        yield saved


def storages(saved: list[weakref.ref[Held]]) -> dict[int, tuple[int, torch.Size]]:
    """(bytes, shape) of all that is still held, each piece of memory once."""
    alive = [held.tensor for ref in saved if (held := ref()) is not None]
    return {t.untyped_storage().data_ptr(): (t.untyped_storage().nbytes(), t.shape) for t in alive}
