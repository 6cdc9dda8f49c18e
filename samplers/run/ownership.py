"""Tensors that a run goes on with, and networks that write into them: seen by counters and addresses, which the host knows.

A network may keep a buffer for its output and write into it at every call, as captured graphs do; a row that reads outputs of
the past would find the newest one in the place of all. Or it may write into its input, which is the state. Neither costs a
tensor operation to see, and neither can be undone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BUFFER = (
    "the network returned its output in memory that held an earlier output, which the solver still reads: return a new tensor "
    "from every call, e.g. Denoiser(lambda x, tau: network(x, tau).clone(), schedule, ...)"
)
WRITES = (
    "the network changed its input in place, which is the sampler's state (and x_T, in the first call): show it a copy, "
    "e.g. Denoiser(lambda x, tau: network(x.clone(), tau), schedule, ...)"
)


def version(x: Tensor) -> int | None:
    """Counter of x's in-place changes; None where there is none: of inference tensors, and while a graph is made."""
    return None if torch.compiler.is_compiling() or x.is_inference() else x._version


def counted(x: Tensor) -> Tensor:
    """x itself, or the same memory under a counter where x is an inference tensor, which has none."""
    if torch.compiler.is_compiling() or not x.is_inference() or type(x) is not Tensor or x.device.type == "meta":
        return x
    with torch.inference_mode(False):
        return torch.from_dlpack(x)  # type: ignore[no-any-return]


def require_unwritten(x: Tensor, before: int | None) -> None:
    """ValueError where x was changed in place since `before` was its version."""
    if before is not None and x._version != before:
        raise ValueError(WRITES)


def require_kept(output: Tensor, past: Sequence[Tensor], versions: Sequence[int | None]) -> None:
    """ValueError where outputs of the past, whose versions are given, have changed, or the new one took the memory of one.

    An output with the storage of a live one, whose counter has not moved, may be a constant, which is no harm.
    """
    for before, count in zip(past, versions, strict=True):
        if (count is not None and before._version != count) or (shares(output, before) and not _same(output, before)):
            raise ValueError(BUFFER)


def require_fresh(output: Tensor, past: Sequence[Tensor]) -> None:
    """The same for what a network has just returned where nobody counts: captured graphs, inference mode."""
    if past and not torch.compiler.is_compiling() and (output.device.type != "cpu" or output.is_inference()):
        if any(shares(output, before) for before in past):
            raise ValueError(BUFFER)


def shares(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors begin at one place of memory."""
    place = 0 if torch.compiler.is_compiling() else address(a)
    return place != 0 and place == address(b)


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def address(x: Tensor) -> int:
    """Where x's numbers lie; 0 where it has none: on the meta device, of an empty batch, within a transform."""
    try:
        return x.data_ptr()
    except RuntimeError:
        return 0
