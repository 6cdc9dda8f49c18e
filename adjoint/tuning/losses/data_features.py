"""What data and samples are looked at by: features with gradients, and those of data, made once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.eval.extractors.base import Extractor
from fewstep.eval.extractors.extractor_entry import extractor
from fewstep.eval.extractors.precision import exact_arithmetic
from fewstep.eval.gaussian.features import Features
from fewstep.eval.passes.evaluation import stats


class Eyes:
    """Images (B, *shape) in -1 to 1 -> features (B, d), with gradients.

    by: an extractor of `fewstep.eval` by name or made, a function images -> (B, d), or None: the numbers themselves.
    """

    def __init__(self, by: str | Extractor | Callable[[Tensor], Tensor] | None, device: Any = None) -> None:
        self.by: Any = by
        if isinstance(by, str | Extractor):
            with torch.inference_mode(False):
                self.by = extractor(by).to(device or "cpu").eval().requires_grad_(False)
        elif by is not None and not callable(by):
            raise ValueError(f"`extractor` is a name, an extractor, or a function of images; got {type(by).__name__}")

    @property
    def name(self) -> str:
        """In words."""
        if self.by is None:
            return "numbers"
        return str(getattr(self.by, "name", None) or getattr(self.by, "__name__", type(self.by).__name__))

    def __call__(self, images: Tensor) -> Tensor:
        """(B, d) float32. ValueError for what the extractor cannot look at."""
        if self.by is None:
            return images.float().flatten(1)
        if not isinstance(self.by, Extractor):
            found: Tensor = self.by(images)
            if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(images):
                got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"`extractor` must give features ({len(images)}, d); it returned {got}")
            return found.float()
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(
                f"extractor {self.by.name!r} looks at images (B, 1 or 3, H, W); samples decode to {tuple(images.shape)}: take "
                "a function of them, or extractor=None for their numbers"
            )
        layer = self.by.parts["main"]
        with exact_arithmetic(self.by.device):
            pixels = (127.5 * (images.float().expand(-1, 3, -1, -1) + 1)).clamp(0, 255)
            return self.by.taps(self.by.prepare(pixels), [layer])[layer].float()


def features_of(data: Any, eyes: Eyes) -> Tensor:
    """(N, d) features of data: floats (N, *shape) as samples are, in -1 to 1, by `eyes`; all else as `fe.stats` reads it.

    Raises:
        ValueError: nothing, fewer than 8, features that are not finite, or data that only an extractor by name can read.
    """
    if isinstance(data, Tensor | np.ndarray) and np.issubdtype(np.asarray(data[:0]).dtype, np.floating):
        found = torch.cat([eyes(part) for part in torch.as_tensor(np.asarray(data)).split(256)]) if len(data) else None
    elif isinstance(eyes.by, Extractor):
        source = os.fspath(data) if isinstance(data, os.PathLike) else data
        kept: Features = stats(source, rows=True, extractor=eyes.by, device=str(eyes.by.device), progress=False)
        found = torch.from_numpy(np.array(kept.rows["main"], np.float32)) if "main" in kept.rows else None
    else:
        raise ValueError(
            f"`data` of type {type(data).__name__} is looked at by an extractor: name one, extractor='inception', or give "
            "floats (N, *shape) as samples are, in -1 to 1"
        )
    if found is None or len(found) < 8:
        raise ValueError(f"`data` must hold features of 8 samples at least; got {0 if found is None else len(found)}")
    if not bool(found.isfinite().all()):
        raise ValueError("`data` has features that are not finite: look at it, or at the extractor's precision")
    return found.detach()
