"""What may be given to a Meter: images in any form, or features that exist already, by the parts that metrics ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import unknown
from fewstep.eval.gaussian.features import PARTS, Features
from fewstep.eval.images.image_sets import ImageSet


def features_in(given: Any) -> dict[str, Tensor] | None:
    """{part: (B, d)} of features, a Features object or floats (B, d), which are the main layer's; None where it is images.

    ValueError: parts that no features have, or of different numbers of samples.
    """
    if isinstance(given, Features):
        if not given.rows:
            raise ValueError(
                f"{given.meta.source or 'these features'} are a mean and a covariance without vectors: give every vector "
                "(stats(rows=True)), or the images"
            )
        found = {part: torch.from_numpy(np.array(rows)) for part, rows in given.rows.items()}
    elif isinstance(given, Mapping):
        found = {}
        for part, rows in given.items():
            if part not in PARTS:
                raise unknown("part of features", part, PARTS)
            found[part] = _matrix(rows)
    elif getattr(given, "ndim", 0) == 2 and _floating(given):
        found = {"main": _matrix(given)}
    else:
        return None
    counts = {len(rows) for rows in found.values()}
    if len(counts) != 1:
        raise ValueError(f"features of {sorted(counts)} samples were given together: give each part of the same ones")
    return found


def _matrix(rows: Any) -> Tensor:
    found = torch.as_tensor(rows).detach()
    if found.ndim != 2 or not found.is_floating_point():
        raise ValueError(f"features are floats (B, d), one row a sample; got {found.dtype} {tuple(found.shape)}")
    return found


def _floating(given: Any) -> bool:
    if isinstance(given, Tensor):
        return given.is_floating_point()
    return bool(np.issubdtype(getattr(given, "dtype", np.uint8), np.floating))


def one_image(given: Any) -> bool:
    """Whether it is a single picture of PIL."""
    return hasattr(given, "getbands")


def all_of(images: ImageSet) -> list[Tensor]:
    """Every image of a set. ValueError: a stream, whose images nobody can number."""
    if images.count is None:
        raise ValueError("`originals` are numbered as the images are: give a tensor, a list or a folder")
    return [images.image(i) for i in range(images.count)]


def require_fit(features: Mapping[str, Any], known: Mapping[str, int], whose: str) -> None:
    """ValueError for features of another size than the known ones: of the reference, of others, or of the extractor."""
    for part, rows in features.items():
        if part in known and rows.shape[1] != known[part]:
            raise ValueError(
                f"features of {rows.shape[1]} numbers were given as {part}, and those of {whose} have {known[part]}: give "
                "features of the same extractor and layer"
            )
