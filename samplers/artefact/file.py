"""Artefacts as JSON: exact float64, what a reader wants to see beside it, and a hash over all of it.

Arrays of more than 1000 numbers (weights and statistics of every element of a sample) are `{"tensor": name}` in the JSON,
by the hash of their content; they lie in a safetensors file beside a saved artefact, or in base64 within a config.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fewstep.output.files import whole, write_text
from fewstep.output.seal import digest as digest_of_json
from fewstep.samplers.artefact.learned_table import Learned, safety
from fewstep.samplers.schedule.as_json import schedule_from_dict, schedule_to_dict
from fewstep.samplers.schedule.base import Array, NoiseSchedule
from fewstep.samplers.table.jsonfile import checked, plain, read
from fewstep.samplers.table.stored import from_content, is_plain, to_content
from fewstep.samplers.table.tableau import Tableau

FORMAT, VERSION = "fewstep.artefact", 2
PLAIN = 1  # version that all can read: of plain tables
LARGE = 1000  # numbers in an array
OUTSIDE_HASH = ("hash", "tensors")


def digest(content: Any) -> str:
    """sha256 of a content's shortest JSON with sorted keys."""
    return digest_of_json(content, plain)


@lru_cache(maxsize=64)
def schedule_hash(schedule: NoiseSchedule) -> str:
    """sha256 of a schedule's class and numbers."""
    return digest(schedule_to_dict(schedule))


def same_schedule(one: NoiseSchedule, other: NoiseSchedule) -> bool:
    """Whether two schedules are equal but for the last bits, in which machines differ on a cosine."""
    if schedule_hash(one) == schedule_hash(other):
        return True
    return len(one.key) == len(other.key) and all(_alike(a, b) for a, b in zip(one.key, other.key, strict=True))


def _alike(a: Any, b: Any) -> bool:
    """Whether two numbers, or arrays in bytes, differ in their last bits at most."""
    if isinstance(a, bytes) and isinstance(b, bytes) and len(a) == len(b):
        return bool(np.allclose(np.frombuffer(a), np.frombuffer(b), rtol=1e-9, atol=0))
    if isinstance(a, float) and isinstance(b, float):
        return bool(np.isclose(a, b, rtol=1e-12, atol=0))
    return bool(a == b)


class Content(NamedTuple):
    """An artefact as plain JSON with its hash, and the arrays that are too large for it by name."""

    plain: dict[str, Any]
    tensors: Mapping[str, Array]


class Parts(NamedTuple):
    """What an artefact consists of, and the content that it was read from."""

    tables: tuple[Learned, ...]
    model: Mapping[str, Any]
    provenance: Mapping[str, Any]
    content: Content


def content_of(tables: Sequence[Learned], model: Mapping[str, Any], provenance: Mapping[str, Any]) -> Content:
    """The content of an artefact's parts."""
    tensors: dict[str, Array] = {}

    def small(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.size <= LARGE:
            return plain(value)
        array = np.ascontiguousarray(value, np.float64)
        name = _name(array)
        tensors[name] = array
        return {"tensor": name}

    content = {
        "format": FORMAT,
        "version": PLAIN if all(is_plain(t.tableau) for t in tables) else VERSION,
        "domain": {"nfe": nfes(tables), "guidance": guidances(tables)},
        "tables": [_described(t) for t in tables],
        "model": model,
        "provenance": provenance,
    }
    content = json.loads(json.dumps(content, default=small))
    return Content({**content, "hash": digest(content)}, tensors)


def _name(array: Array) -> str:
    """Hash of a large array's shape and numbers, by which the JSON names it."""
    return hashlib.sha256(str(array.shape).encode() + array.tobytes()).hexdigest()[:16]


def nfes(tables: Sequence[Learned]) -> list[int]:
    """Numbers of evaluations there are tables for, rising."""
    return sorted({t.nfe for t in tables})


def guidances(tables: Sequence[Learned]) -> list[float]:
    """Guidance scales there are tables for, rising."""
    return sorted({t.guidance for t in tables if t.guidance is not None})


def _described(learned: Learned) -> dict[str, Any]:
    """A table with what a reader wants to know of it in front."""
    table = learned.tableau
    lam = [float(v) if np.isfinite(v) else None for v in table.nodes.lam]
    return {
        "nfe": learned.nfe,
        "guidance": learned.guidance,
        "kind": learned.kind,
        "status": learned.status,
        "base": learned.base,
        "lambda": lam,
        "sigma": table.nodes.sigma,
        "tau": table.model_times,
        "safety": safety(table),
        "report": learned.report,
        "stages": learned.stages,
        "tableau": _content(table),
        **({} if learned.refused is None else {"refused": _content(learned.refused)}),
    }


def _content(table: Tableau) -> dict[str, Any]:
    """A table but for its schedule, which all share."""
    return {name: value for name, value in to_content(table).items() if name != "schedule"}


def to_dict(content: Content) -> dict[str, Any]:
    """Plain JSON that needs no file beside it; large arrays in base64 of little-endian float64."""
    packed = {
        name: {"shape": list(array.shape), "float64": base64.b64encode(array.astype("<f8").tobytes()).decode()}
        for name, array in sorted(content.tensors.items())
    }
    own = copy.deepcopy(content.plain)  # the caller's to change
    return {**own, "tensors": packed} if packed else own


def save(content: Content, path: str | os.PathLike[str]) -> None:
    """Write `path`, and beside it a safetensors file where there are large arrays, each whole or not at all."""
    told, target = dict(content.plain), Path(path)
    if content.tensors:
        from safetensors.numpy import save as serialised

        data = serialised(dict(sorted(content.tensors.items())))
        code = hashlib.sha256(data).hexdigest()
        beside = target.with_name(f"{target.stem}-{code[:12]}.safetensors")  # an earlier artefact's stays its own
        with whole(beside) as part:
            part.write_bytes(data)
        told["tensors"] = {"file": beside.name, "sha256": code}
    text = re.sub(r"\[\n[^\[\]{}\"]*\]", lambda found: " ".join(found[0].split()), json.dumps(told, indent=1))
    write_text(target, text + "\n")


def load(path: str | os.PathLike[str]) -> Parts:
    """Read what `save` wrote. ValueError for anything else, FileNotFoundError where there is no file."""
    return parts_of(read(path), path)


def parts_of(content: Mapping[str, Any], path: Any) -> Parts:
    """The parts of an artefact whose JSON was read from `path`, or is an entry of a config."""
    with checked(content, FORMAT, VERSION, path):
        about = content.get("tensors") or {}
        if "file" in about:
            return _built(content, _beside(Path(path), about), path)
        tensors = {
            key: np.frombuffer(base64.b64decode(t["float64"]), "<f8").reshape(t["shape"]) for key, t in about.items()
        }
        return _built(content, tensors, path)


def _beside(path: Path, about: Mapping[str, Any]) -> dict[str, Array]:
    """The large arrays of an artefact, from the file beside it."""
    beside = path.with_name(about["file"])
    if not beside.is_file():
        raise ValueError(f"{path} needs {beside.name} beside it, which is missing: copy both, or learn again")
    data = beside.read_bytes()
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise ValueError(f"{beside} is not what {path} was saved with: its hash differs. Copy both again")
    from safetensors.numpy import load as parsed

    return parsed(data)


def _built(content: Mapping[str, Any], tensors: Mapping[str, Array], name: Any) -> Parts:
    own = {key: value for key, value in content.items() if key not in OUTSIDE_HASH}
    if digest(own) != content["hash"] or any(_name(array) != key for key, array in tensors.items()):
        raise ValueError(f"{name} was changed or damaged after it was saved: its hash differs. Learn or copy it again")
    schedule = schedule_from_dict(content["model"]["schedule"])
    tables = tuple(
        Learned(
            from_content(_filled(t["tableau"], tensors), schedule),
            t["guidance"],
            t["base"],
            t["status"],
            t["report"],
            tuple(t["stages"]),
            None if "refused" not in t else from_content(_filled(t["refused"], tensors), schedule),
        )
        for t in content["tables"]
    )
    return Parts(tables, content["model"], content["provenance"], Content({**own, "hash": content["hash"]}, tensors))


def _filled(value: Any, tensors: Mapping[str, Array]) -> Any:
    """A content with its large arrays in place."""
    if isinstance(value, dict):
        if set(value) == {"tensor"}:
            return tensors[value["tensor"]]
        return {key: _filled(part, tensors) for key, part in value.items()}
    return [_filled(part, tensors) for part in value] if isinstance(value, list) else value
