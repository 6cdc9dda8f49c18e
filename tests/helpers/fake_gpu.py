"""A GPU that is not there: tensors on "cuda" without values, and an error wherever the host would wait for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA = torch.device("cuda", 0)


class HostRead(AssertionError):
    """A value was asked for that is on the device."""


class _NoReads(TorchDispatchMode):
    """Copies to the CPU, single values and shapes that depend on values are refused; mixed devices are by torch itself."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(op)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        on_device = any(x.device.type == "cuda" for x in given)
        if on_device and any(
            part in name for part in ("_local_scalar_dense", "is_nonzero", "aten.nonzero", "aten.equal")
        ):
            raise HostRead(name)
        found = op(*args, **(kwargs or {}))
        copies = "_to_copy" in name or "copy_" in name
        made = [x for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        if on_device and copies and any(x.device.type == "cpu" for x in made):
            raise HostRead(f"{name} from the device to the CPU")
        return found


@contextmanager
def fake_gpu() -> Iterator[torch.device]:
    """Tensors made in this block on the device that it gives have shape, dtype and place, and no values."""
    with FakeTensorMode(allow_non_fake_inputs=True), _NoReads():
        yield CUDA
