"""Reference runs on disk: states and velocities of one part, in a file whose name says what decides them.

    FOLDER/NAME-ANSWERS.safetensors    NAME: hash of weights, condition, solver, times, seeds. ANSWERS: of what the network says

The file holds the answers themselves: a run is found for a network that answers alike, to the last bit or not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fewstep.output.seal import OPEN, SEAL, check_tensors, whole_tensors
from fewstep.samplers.learned.problem.fingerprint import Answers, alike, named
from fewstep.samplers.learned.problem.limits import bytes_of

MOST = 20 * 2**30  # bytes of a cache folder
REMEDY = "Delete it, or pass another `cache`"


def cache_folder() -> Path:
    """$FEWSTEP_CACHE/teachers, or ~/.cache/fewstep/teachers."""
    return Path(os.environ.get("FEWSTEP_CACHE") or Path.home() / ".cache" / "fewstep") / "teachers"


def folder_of(cache: str | os.PathLike[str] | None | bool) -> Path | None:
    """The folder that a `cache` argument means, None where it means none."""
    return None if cache is False else cache_folder() if cache in (None, True) else Path(str(cache))


def file_of(folder: Path, key: str, seeds: tuple[int, ...], answers: Answers) -> Path:
    """Where the run of these seeds is kept: the file of a network that answers alike, or the one that will be made."""
    name = hashlib.sha256(repr((key, seeds)).encode()).hexdigest()[:32]
    own = folder / f"{name}-{named(answers)}.safetensors"
    others = [] if own.exists() else sorted(folder.glob(f"{name}-*.safetensors"))
    return next((path for path in others if alike(_answers_in(path), answers)), own)


def _answers_in(path: Path) -> Answers:
    """What the network of a kept run answered; nothing where it has just been deleted."""
    try:
        return tuple(tuple(y) for y in json.loads(_opened(path).metadata()["answers"]))
    except FileNotFoundError:
        return ()
    except Exception as error:
        raise _useless(path, error) from error


def _opened(path: Path, device: str = "cpu") -> Any:
    return safe_open(path, framework="pt", device=device)


def _useless(path: Path, error: Exception) -> ValueError:
    return ValueError(f"the kept reference run {path} cannot be used: {error}. {REMEDY}")


def read(path: Path, key: str, seeds: tuple[int, ...], answers: Answers, device: torch.device) -> tuple[Any, Any]:
    """(states, velocities) as slices of the file, read node by node; ValueError for a damaged or foreign one."""
    check_tensors(path, remedy=REMEDY, required=True)
    try:
        stored = _opened(path, str(device))
        meta = stored.metadata() or {}
        told = json.loads(meta.get("answers", "[]"))
        if meta.get("key") != key or meta.get("seeds") != repr(seeds) or not alike(told, answers):
            raise ValueError("it belongs to another model")
        return stored.get_slice("x"), stored.get_slice("v")
    except Exception as error:
        raise _useless(path, error) from error


def limit() -> int:
    """Bytes that a cache folder may take: $FEWSTEP_CACHE_LIMIT, such as 50GB, or 20 GiB."""
    return bytes_of(os.environ.get("FEWSTEP_CACHE_LIMIT") or MOST, "$FEWSTEP_CACHE_LIMIT")


def made_room(folder: Path, size: int, own: Collection[Path]) -> bool:
    """Whether `size` bytes more are within the limit, the oldest runs deleted for it; those of this work stay."""
    if not folder.is_dir():
        return size <= limit()
    stats = {path: path.stat() for path in folder.glob("[!.]*.safetensors")}  # a hidden one is being written
    free = limit() - sum(stat.st_size for stat in stats.values()) - size
    others = sorted((path for path in stats if path not in own), key=lambda path: stats[path].st_mtime)
    if free + sum(stats[path].st_size for path in others) < 0:
        return False
    for path in others:
        if free >= 0:
            break
        path.unlink(missing_ok=True)
        free += stats[path].st_size
    return True


def write(path: Path, key: str, seeds: tuple[int, ...], answers: Answers, states: Tensor, velocities: Tensor) -> None:
    """Keep a run, whole or not at all."""
    tensors = {"x": states.cpu().contiguous(), "v": velocities.cpu().contiguous()}
    about = {"key": key, "seeds": repr(seeds), "answers": json.dumps(answers), SEAL: OPEN}
    with whole_tensors(path) as temporary:
        save_file(tensors, temporary, about)
