"""Safetensors that somebody made to hurt, or that are none: each reader of ours says so in a sentence that names the file."""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from learned_problems import ring
from safetensors.torch import save

from fewstep.samplers import Statistics
from fewstep.samplers.learned.descent import kept_state
from fewstep.samplers.learned.problem import kept_runs
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.teacher import Teacher


def with_header(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], span: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": span}


def told(**metadata: str) -> bytes:
    """Two tensors that may be a run, under any metadata."""
    return save({"x": torch.zeros(3, 2, 2), "v": torch.zeros(2, 2, 2)}, metadata)


FILES: dict[str, bytes] = {
    "nothing": b"",
    "seven bytes": b"1234567",
    "text": b"no tensors, but a few words of text",
    "zip": b"PK\x03\x04" + bytes(60),
    "pickle": b"cos\nsystem\n(S'touch was-run'\ntR.",
    "no header": with_header(b""),
    "header is a list": with_header([]),
    "header is deep": with_header(b'{"a":' * 50_000),
    "header beyond the end": with_header({}, length=10**6),
    "header of exabytes": with_header({}, length=2**63),
    "header of all bits": with_header({}, length=2**64 - 1),
    "bytes beyond the end": with_header({"x": entry([4], [0, 16])}),
    "bytes overlap": with_header({"x": entry([2], [0, 8]), "v": entry([2], [4, 12])}, bytes(12)),
    "bytes backwards": with_header({"x": entry([2], [8, 0])}, bytes(8)),
    "shape of exabytes": with_header({"x": entry([2**60, 2**10], [0, 8])}, bytes(8)),
    "shape is negative": with_header({"x": entry([-2], [0, 8])}, bytes(8)),
    "dtype is none": with_header({"x": entry([2], [0, 8], "object")}, bytes(8)),
    "metadata are numbers": with_header({"__metadata__": {"sha256": 3}, "x": entry([2], [0, 8])}, bytes(8)),
    "latin": with_header('{"__metadata__": {"é": "é"}}'.encode("latin-1")),
    "no seal": told(),
    "seal is wrong": told(sha256="0" * 64, key="k", seeds="(0,)", answers="[]"),
    "seal is short": told(sha256="0" * 63),
    "answers are text": told(sha256="0" * 64, answers="words"),
    "answers are deep": told(sha256="0" * 64, answers="[" * 50_000),
    "answers are objects": told(sha256="0" * 64, answers='[{"a": 1}, ["b"]]'),
    "answers are numbers": told(sha256="0" * 64, answers="[1, 2, 3]"),
}


def a_run(file: Path) -> Any:
    return kept_runs.read(file, "k", (0,), ((1.0,),), torch.device("cpu"))


def a_state(file: Path) -> Any:
    return kept_state.load(file, torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]))


READERS: dict[str, Callable[[Path], Any]] = {"run": a_run, "state": a_state, "statistics": Statistics.load}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_refuses_in_words(reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "x.safetensors"
    for name, data in FILES.items():
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"x\.safetensors") as caught:
            READERS[reader](file)
        assert len(str(caught.value)) < 900 and "\n" not in str(caught.value), (name, str(caught.value))
    assert not (tmp_path / "was-run").exists()
    if hasattr(os, "mkfifo"):
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(ValueError, match=r"x\.safetensors.*no ordinary file"):
            READERS[reader](file)


def test_a_cache_that_holds_them_is_told_of(tmp_path: Path) -> None:
    """Under the name of a run that is looked for, of this network or of another."""
    problem = Problem(ring(), shape=(2,), dtype="float64")
    Teacher(problem, nfe=4, cache=tmp_path).path(problem.part([0]))
    (file,) = tmp_path.iterdir()
    for place in (file, file.with_name(f"{file.name[:32]}-00000000.safetensors")):
        file.unlink(missing_ok=True)
        for name, data in FILES.items():
            place.write_bytes(data)
            try:
                Teacher(problem, nfe=4, cache=tmp_path).path(problem.part([0]))
            except ValueError as error:
                assert place.name in str(error) and "Delete it" in str(error), (name, error)
            else:
                assert place != file, name
                file.unlink()
        place.unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of memory are another system's there")
def test_they_take_no_memory(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in FILES.items():
        if "exabytes" in name or "bits" in name or "beyond" in name:
            (tmp_path / "x.safetensors").write_bytes(data)
            for read in READERS.values():
                with pytest.raises(ValueError):
                    read(tmp_path / "x.safetensors")
    unit = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 100 << 20
