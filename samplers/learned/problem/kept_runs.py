"""Reference runs on disk: states and velocities of one part, in a file whose name says everything that decides them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewstep.output.seal import OPEN, SEAL, check_tensors, whole_tensors


def cache_folder() -> Path:
    """$FEWSTEP_CACHE/teachers, or ~/.cache/fewstep/teachers."""
    return Path(os.environ.get("FEWSTEP_CACHE") or Path.home() / ".cache" / "fewstep") / "teachers"


def folder_of(cache: str | os.PathLike[str] | None | bool) -> Path | None:
    """The folder that a `cache` argument means, None where it means none."""
    return None if cache is False else cache_folder() if cache in (None, True) else Path(str(cache))


def file_of(folder: Path, key: str, seeds: tuple[int, ...]) -> Path:
    """Where the run of these seeds is kept."""
    name = hashlib.sha256(repr((key, seeds)).encode()).hexdigest()[:32]
    return folder / f"{name}.safetensors"


def read(path: Path, key: str, seeds: tuple[int, ...], device: torch.device) -> tuple[Any, Any]:
    """(states, velocities) as slices of the file, read node by node; ValueError for a damaged or foreign one."""
    remedy = "Delete it, or pass another `cache`"
    check_tensors(path, remedy=remedy, required=True)
    try:
        stored = safe_open(path, framework="pt", device=str(device))
        meta = stored.metadata() or {}
        if meta.get("key") != key or meta.get("seeds") != repr(seeds):
            raise ValueError("it belongs to another model")
        return stored.get_slice("x"), stored.get_slice("v")
    except Exception as error:
        raise ValueError(f"the kept reference run {path} cannot be used: {error}. {remedy}") from error


def write(path: Path, key: str, seeds: tuple[int, ...], states: Tensor, velocities: Tensor) -> None:
    """Keep a run, whole or not at all."""
    tensors = {"x": states.cpu().contiguous(), "v": velocities.cpu().contiguous()}
    with whole_tensors(path) as temporary:
        save_file(tensors, temporary, {"key": key, "seeds": repr(seeds), SEAL: OPEN})
