"""`image_set(source) -> ImageSet`: images from wherever they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from fewstep.checks import whole
from fewstep.eval.images import arrayfiles, arrays, folders
from fewstep.eval.images.decode import LIMIT, SUFFIXES
from fewstep.eval.images.generated import Generated
from fewstep.eval.images.image_sets import ImageSet


def image_set(
    source: Any, *, skip_bad: bool = False, key: str | None = None, limit: int | None = None, **how: Any
) -> ImageSet:
    """Images from wherever they are.

    Args:
        source: a folder (with all below it), a .zip of images, a .npz or .npy of images, a tensor or array, a list of
            paths, a Dataset (len and getitem; an item is an image, or a tuple or dict with one), an iterable of images or
            batches, or a diffusers pipeline, which draws them (`Generated`). An ImageSet is returned as it is.
        skip_bad: pass over images that cannot be used, and count them.
        limit: MiB that one decoded image, or its file, may take (192): larger ones cannot be used.
        key: the array in a .npz (arr_0, or the only one with images), or the entry of dict items ("image").
        how: range=(0, 1), (-1, 1) or (0, 255) of floats; layout="NCHW" or "NHWC" of arrays that leave it open;
            for a pipeline what `Generated` takes: solver, nfe, number or seeds ...

    Raises:
        ValueError: nothing there, nothing in it, or nothing that could be images.
    """
    bound = whole("limit", LIMIT if limit is None else limit, of="MiB")
    if isinstance(source, ImageSet):
        return source
    if is_pipeline(source):
        return Generated(source, **how)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if not path.exists():
            raise ValueError(f"{str(source)!r} does not exist; give a folder, .zip, .npz or .npy of images")
        if path.suffix.lower() in (".npz", ".npy") and path.is_file():
            return arrayfiles.in_file(path, key, bound, skip_bad=skip_bad, **how)
        if key or "layout" in how:
            raise ValueError(f"{path} holds image files; `key` and `layout` are of .npz and arrays")
        return folders.opened(path, skip_bad=skip_bad, limit=bound, **how)
    if isinstance(source, (Tensor, np.ndarray)):
        return arrays.Array(source, skip_bad=skip_bad, **how)
    if isinstance(source, (list, tuple)) and source and all(isinstance(x, (str, os.PathLike)) for x in source):
        return folders.Paths(source, skip_bad=skip_bad, limit=bound, **how)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return arrays.Dataset(source, key or "image", skip_bad=skip_bad, limit=bound, **how)
    if hasattr(source, "__iter__"):
        return arrays.Stream(source, key or "image", skip_bad=skip_bad, limit=bound, **how)
    raise ValueError(
        f"{type(source).__name__} is no set of images; give a folder, file, array, Dataset, iterable or diffusers pipeline"
    )


def of_arrays(source: Any) -> bool:
    """Whether `layout` and `key` mean anything for a source: not for image files, which say it themselves."""
    return not isinstance(source, (str, os.PathLike)) or Path(source).suffix.lower() in (".npz", ".npy")


def is_pipeline(source: Any) -> bool:
    """Whether a source draws its images: a diffusers pipeline."""
    return callable(source) and hasattr(source, "scheduler")


def holds_images(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder or file of images; an .npz is asked for its arrays."""
    path = Path(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        return bool(arrayfiles.picture_keys(path))
    return path.is_dir() or (path.is_file() and path.suffix.lower() in (".zip", *SUFFIXES))
