"""float32 means float32 while features are computed, whatever the program around it has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.backends import cuda, cudnn, mkldnn


class _Products:
    """torch's setting of two functions as an attribute, like its other settings."""

    @property
    def precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @precision.setter
    def precision(self, value: str) -> None:
        torch.set_float32_matmul_precision(value)


# Where a float32 product may be told to round, and the value that forbids it: older switches first, for they set newer ones.
_EXACT: list[tuple[Any, str, Any]] = [
    (_Products(), "precision", "highest"),
    (cudnn, "allow_tf32", False),
    *(
        (getattr(backend, name), "fp32_precision", "ieee")
        for backend, name in ((cuda, "matmul"), (cudnn, "conv"), (mkldnn, "matmul"), (mkldnn, "conv"))
        if hasattr(getattr(backend, name, None), "fp32_precision")
    ),
]


@contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Neither TF32 nor bfloat16 in float32 products, and no autocast; all settings are put back at the end.

    cuDNN's convolutions round to TF32 unless told otherwise: features off by 1e-3. The settings are the process's, so other
    threads see them too while this lasts.
    """
    before = [(place, name, _read(place, name)) for place, name, _ in _EXACT]
    try:
        for (place, name, exact), (_, _, value) in zip(_EXACT, before, strict=True):
            if value is not None:
                setattr(place, name, exact)
        mixes = torch.amp.is_autocast_available(device.type)
        with torch.autocast(device.type, enabled=False) if mixes else nullcontext():
            yield
    finally:
        for place, name, value in before:
            if value is not None:
                setattr(place, name, value)


def _read(place: Any, name: str) -> Any:
    """The setting; None where torch refuses to read an older switch, as it does once the newer ones contradict it."""
    try:
        return getattr(place, name)
    except RuntimeError:
        return None
