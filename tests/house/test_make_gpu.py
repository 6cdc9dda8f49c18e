"""`make gpu` as far as it goes without a GPU: every part runs, in small sizes, and what is missing stops no other."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from places import ROOT, TESTS

sys.path.append(str(TESTS / "benchmarks"))
import gpu
from gpu_parts.measuring import Missing, Place, Row

SCRIPT = TESTS / "benchmarks" / "gpu.py"


def written(tmp_path: Path, *arguments: str, before: str = "") -> dict[str, Any]:
    """What the command writes, in a process of its own; before: code that is run first."""
    file = tmp_path / "gpu.json"
    code = f"import sys, runpy\n{before}\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    call = [sys.executable, "-c", code, str(SCRIPT), *arguments, "--device", "cpu", "--out", str(file)]
    subprocess.run(call, check=True, cwd=ROOT, timeout=600)
    told: dict[str, Any] = json.loads(file.read_text())
    assert file.with_suffix(".md").read_text().count("\n| ") >= sum(len(p["rows"]) for p in told["parts"].values())
    return told


def test_figures_of_small_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps, distances and windows, and in words what is not installed."""
    for module in ("gpu_parts.steps", "gpu_parts.measuring"):
        monkeypatch.setattr(import_module(module), "find_spec", lambda name: None if name != "scipy" else True)
    out = tmp_path / "gpu.json"
    done = CliRunner().invoke(
        gpu.main, ["steps", "distances", "parallel", "features", "--device", "cpu", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    check_small(json.loads(out.read_text()))


def check_small(told: dict[str, Any]) -> None:
    assert told["device"] == "CPU" and "nothing about speed" in told["sizes"]
    assert [part["ended"] for part in told["parts"].values()] == [
        "", "", "", "left out: torchvision is not installed (pip install torchvision)",
    ]  # fmt: skip
    rows = {row["what"]: row for part in told["parts"].values() for row in part["rows"]}
    assert rows["dpmpp_2m, a step"]["value"] > 0 and "3.9 tensor operations" in rows["dpmpp_2m, a step"]["note"]
    assert "diffusers is not installed" in rows["diffusers' schedulers"]["note"]
    assert {"Frechet, d = 32", "prdc, 400 images of each set", "picard, window 6"} <= rows.keys()


@pytest.mark.slow
def test_nothing_is_imported_that_is_not_needed(tmp_path: Path) -> None:
    absent = "sys.modules.update(diffusers=None, torchvision=None, torch_fidelity=None)"
    check_small(written(tmp_path, "steps", "distances", "parallel", "features", before=absent))


@pytest.mark.slow
def test_every_part_runs_without_a_gpu(tmp_path: Path) -> None:
    told = written(tmp_path)
    assert list(told["parts"]) == list(gpu.PARTS)
    for name, part in told["parts"].items():
        assert not part["ended"], (name, part["ended"])
        assert any(row["value"] for row in part["rows"]), name
    notes = {row["what"]: row["note"] for row in told["parts"]["gradients"]["rows"]}
    for exact in ("checkpoint", "checkpoint, offload", "segments", "revolve"):
        assert float(notes[f"gradient, {exact}"].split()[0]) < 1e-5


def test_a_part_that_fails_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(name: str) -> Any:
        def rows(place: Place) -> Any:
            yield Row(f"of {name}", 1234.5, "us", "a note")
            if name == "steps":
                raise RuntimeError("no such luck\nmore of it")
            if name == "learning":
                raise Missing("a thing is not here (pip install it)")

        return type("Part", (), {"measure": staticmethod(rows)})

    monkeypatch.setattr("importlib.import_module", lambda name: measure(name.partition(".")[2]))
    out = tmp_path / "of.json"
    done = CliRunner().invoke(gpu.main, ["--device", "cpu", "--out", str(out)])
    assert done.exit_code == 0, done.output
    parts = json.loads(out.read_text())["parts"]
    assert {name: part["ended"] for name, part in parts.items() if part["ended"]} == {
        "steps": "failed: RuntimeError: no such luck",
        "learning": "left out: a thing is not here (pip install it)",
    }
    assert (
        all(len(part["rows"]) == 1 for part in parts.values()) and "of distances" in out.with_suffix(".md").read_text()
    )


def test_a_part_ends_when_its_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    import torch

    def measure(place: Place) -> Any:
        yield Row("first", 1.0, "s")
        time.sleep(30)

    monkeypatch.setattr(gpu, "GRACE", 0.2)
    monkeypatch.setattr("importlib.import_module", lambda name: type("Part", (), {"measure": staticmethod(measure)}))
    told = gpu.measured("steps", Place(torch.device("cpu"), True, time.monotonic() + 0.2))
    assert told["ended"] == "its time was up" and told["seconds"] < 10 and len(told["rows"]) == 1


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = CliRunner().invoke(gpu.main, ["--device", "cuda", "--out", str(tmp_path / "x.json")])
    assert done.exit_code == 1 and "sees no GPU" in done.output
