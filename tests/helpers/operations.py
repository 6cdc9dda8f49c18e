"""Which tensor operations ran, and those of every step of a table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fewstep.samplers.run.step import State, Step

VIEWS = {"view", "_unsafe_view", "t", "transpose", "expand", "slice", "select", "detach", "alias", "unsqueeze", "squeeze",
         "permute", "as_strided", "split", "unbind", "_reshape_alias"}  # fmt: skip


class Operations(TorchDispatchMode):
    """Names of the tensor operations that ran; views cost nothing and are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def cost(steps: tuple[Step, ...], x: Tensor, output: Tensor) -> list[list[str]]:
    """Operations of every step, given the network's output."""
    state, spent = State(x, x), []
    for step in steps:
        noises = [torch.randn_like(x) for _ in step.draws]
        with Operations() as operations:
            state = step(state, output, noises)
        spent.append(operations.names)
    return spent
