"""Seals: what was changed after it was written is refused by name, whatever bit it was."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fewstep.output.seal import (
    OPEN,
    SEAL,
    Damaged,
    check_tensors,
    digest_of_arrays,
    digest_of_file,
    seal_tensors,
    sealed,
    unsealed,
)


def test_json_is_known_again_however_it_is_written() -> None:
    content = sealed({"b": [1.5, float("nan"), "ä"], "a": {"y": 1, "x": None}})
    again = json.loads(json.dumps(content, indent=3, ensure_ascii=False))
    assert unsealed(again, "f.json").keys() == {"a", "b"}
    assert sealed(again)[SEAL] == content[SEAL], "sealing twice is sealing once"
    again["b"][0] = 1.5000000000000002
    with pytest.raises(Damaged, match=r"^f.json was changed or damaged after it was written.*Write it again"):
        unsealed(again, "f.json")


def test_json_without_a_seal() -> None:
    assert unsealed({"a": 1}, "f.json") == {"a": 1}
    with pytest.raises(Damaged, match="carries no sha256"):
        unsealed({"a": 1}, "f.json", required=True)
    with pytest.raises(Damaged, match="'shb256'"):  # a seal whose name was hit is no missing seal
        unsealed({"a": 1, "shb256": OPEN}, "f.json", known={"a"})


def test_every_bit_of_a_tensor_file(tmp_path: Path) -> None:
    file = tmp_path / "t.safetensors"
    save_file({"x": np.arange(12.0).reshape(3, 4), "n": np.arange(3)}, file, {"key": "k", SEAL: OPEN})
    seal_tensors(file)
    assert check_tensors(file, required=True)
    data = file.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(data)), 400):
        hit = bytearray(data)
        hit[bit // 8] ^= 1 << bit % 8
        file.write_bytes(hit)
        with pytest.raises(Damaged, match=str(file)):
            check_tensors(file, required=True)
    for length in (0, 5, 8, 100, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(Damaged, match=str(file)):
            check_tensors(file, required=True)


def test_arrays_and_bytes(tmp_path: Path) -> None:
    arrays = {"x": np.arange(6.0), "y": np.array("text")}
    code = digest_of_arrays(arrays)
    assert digest_of_arrays({**arrays, SEAL: np.array(code)}) == code
    for other in (arrays["x"].reshape(2, 3), arrays["x"].astype(">f8"), arrays["x"].view(np.int64)):
        assert digest_of_arrays({**arrays, "x": other}) != code
    file = tmp_path / "rows.f32"
    file.write_bytes(bytes(range(100)))
    assert digest_of_file(file, 100) == digest_of_file(file) != digest_of_file(file, 99)
    with pytest.raises(Damaged, match="20 bytes shorter"):
        digest_of_file(file, 120)
