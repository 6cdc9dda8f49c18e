"""What release 0.1.0 wrote loads today and gives the numbers it gave; `expected.json` holds what that release said."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from late import diffusers
from places import BEFORE
from problems import Gaussian

import fewstep
from fewstep import eval as fe
from fewstep.samplers import NoiseSchedule
from fewstep.samplers.learned import METHODS

TABLES = ("dpmpp_2m-edm", "unipc-flow", "dpmpp_2m_sde-discrete", "restart-vp", "rex-cosine", "ddim-reverting",
          "edm_stochastic-pfgm", "dpm_2-ve", "seeds-labelled")  # fmt: skip
CALL = {"batch_size": 2, "output_type": "pt"}


@functools.cache
def expected() -> dict[str, Any]:
    return json.loads((BEFORE / "expected.json").read_text())


def artefact() -> fewstep.Artefact:
    return fewstep.load(BEFORE / "artefact.json")


def inside(folder: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and what is in it."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes()) for p in found}


def test_no_table_is_forgotten() -> None:
    assert {f"{name}.json" for name in TABLES} | {"artefact.json", "expected.json"} == {
        path.name for path in BEFORE.glob("*.json")
    }
    assert set(expected()["tables"]) == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_gives_the_same_sample(name: str) -> None:
    table, want = fewstep.load(BEFORE / f"{name}.json"), expected()["tables"][name]
    schedule = table.schedule
    assert (table.nfe, table.order) == (want["nfe"], want["order"])
    x_T = torch.linspace(-1.5, 1.5, 6, dtype=torch.float64).reshape(2, 3) * float(schedule.sigma(schedule.t_max))
    mu = {"mu": torch.full((2, 3), 0.25, dtype=torch.float64)} if schedule.kind == "mean-reverting" else {}
    x0 = fewstep.sample(Gaussian(0.3, 0.6).denoiser(schedule, "sample"), x_T, table, noise_seeds=[3, 4], **mu)
    if name == "edm_stochastic-pfgm":  # its noises were Gaussian then, which is not the law of the process
        assert torch.isfinite(x0).all()
        return
    torch.testing.assert_close(x0, torch.tensor(want["x0"], dtype=torch.float64), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_written_as_it_was(name: str, tmp_path: Path) -> None:
    fewstep.load(BEFORE / f"{name}.json").save(tmp_path / "again.json")
    again = fewstep.load(tmp_path / "again.json")
    for one in ("W", "times", "model_times"):
        np.testing.assert_array_equal(getattr(again, one), getattr(fewstep.load(BEFORE / f"{name}.json"), one))


def test_an_artefact_is_the_same_and_plays() -> None:
    made, want = artefact(), expected()["artefact"]
    assert made.hash == want["hash"]
    assert json.loads(json.dumps(made.report)) == want["report"]
    for n, W in zip((3, 4), want["W"], strict=True):
        np.testing.assert_array_equal(made.table(n).W, W)
    schedule = made.table(4).schedule
    assert isinstance(schedule, NoiseSchedule)
    denoiser = Gaussian(0.3, 0.6).denoiser(schedule)
    x_T = schedule.initial_noise((2, 3), torch.Generator().manual_seed(0), dtype=torch.float64)
    x0 = fewstep.sample(denoiser, x_T, made, nfe=4)
    assert torch.equal(x0, fewstep.sample(denoiser, x_T, made.table(4))) and x0.isfinite().all()


def images(pipe: Any, steps: int) -> np.ndarray:
    """Every fourth pixel, as the release kept them."""
    pipe.set_progress_bar_config(disable=True)
    return some_pixels(pipe(**CALL, num_inference_steps=steps, generator=torch.Generator().manual_seed(0))[0])


def some_pixels(found: Any) -> np.ndarray:
    """(B, C, H / 4, W / 4); diffusers 0.39 gives (B, H, W, C) where tensors are asked for."""
    out = np.asarray(found)
    return (out if out.shape[1] == 3 else out.transpose(0, 3, 1, 2))[:, :, ::4, ::4]


@pytest.fixture
def pipe() -> Any:
    assert fewstep.Scheduler  # imported before a pipeline that names it, as the README says
    return diffusers.DiffusionPipeline.from_pretrained(BEFORE / "pipeline")


def test_a_pipeline_folder_draws_the_same(pipe: Any) -> None:
    assert type(pipe.scheduler) is fewstep.Scheduler
    np.testing.assert_allclose(images(pipe, 5), expected()["pipeline"], rtol=0, atol=1e-5)


def test_a_learned_scheduler_folder_draws_the_same(pipe: Any) -> None:
    pipe.scheduler = fewstep.Scheduler.from_pretrained(BEFORE / "learned-scheduler")
    assert pipe.scheduler.config["learned"] == artefact().to_dict()
    np.testing.assert_allclose(images(pipe, 4), expected()["learned_pipeline"], rtol=0, atol=1e-5)


FRESH = """
import sys
import numpy as np, torch
from diffusers import DiffusionPipeline
from fewstep import Scheduler
torch.set_num_threads(1)
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
call = {"batch_size": 2, "output_type": "pt", "num_inference_steps": 5}
np.save(sys.argv[2], np.asarray(pipe(**call, generator=torch.Generator().manual_seed(0))[0]))
"""


@pytest.mark.slow
def test_a_fresh_process_loads_the_pipeline(tmp_path: Path) -> None:
    out = tmp_path / "images.npy"
    command = [sys.executable, "-c", FRESH, str(BEFORE / "pipeline"), str(out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    np.testing.assert_allclose(some_pixels(np.load(out)), expected()["pipeline"], rtol=0, atol=1e-5)


def told(report: Any) -> dict[str, float]:
    return {r["metric"]: r["value"] for r in json.loads(report.to_json())["results"]}


def values(name: str) -> dict[str, float]:
    return {r["metric"]: r["value"] for r in expected()[name]["results"]}


def test_statistics_give_the_same_distance() -> None:
    how = {"metrics": ("fid",), "extractor": "digits", "progress": False}
    found = fe.evaluate(str(BEFORE / "statistics.npz"), str(BEFORE / "other.npz"), **how)
    assert told(found) == pytest.approx(values("statistics"), rel=1e-6)


def test_an_evaluation_goes_on_from_a_folder_of_the_release(tmp_path: Path) -> None:
    """All images are found seen; images of an archive are known by their contents, wherever it lies."""
    state = shutil.copytree(BEFORE / "eval-resume", tmp_path / "state")
    digits, kept = fe.extractor("digits"), inside(state)
    digits.taps = lambda *_: pytest.fail("an image was seen again")
    how = {"metrics": ("fid", "kid_full"), "extractor": digits, "progress": False, "resume": str(state)}
    found = fe.evaluate(str(BEFORE / "images.npz"), str(BEFORE / "other.npz"), **how)
    assert told(found) == pytest.approx(values("eval"), rel=1e-6)
    assert inside(state).items() >= kept.items()


@pytest.mark.slow
def test_learning_goes_on_from_a_folder_of_the_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stages belong to rows without a limiter: they stay, learning goes past them, and then finds its own done."""
    folder = shutil.copytree(BEFORE / "learn-resume", tmp_path / "stages")
    kept, find = inside(folder), METHODS.find

    def learned() -> Any:
        return fewstep.learn(
            "demo", nfe=[3, 4], method="iia", seeds=range(8), guard_seeds=range(1000, 1008), teacher={"nfe": 24},
            cache=False, progress=False, classes=range(4), resume=str(folder),
        )  # fmt: skip

    def found_done(name: str) -> Any:
        @functools.wraps(find(name).fn)
        def again(*_: Any, **__: Any) -> None:
            pytest.fail(f"the stage {name} ran again")

        return replace(find(name), fn=again)

    made = learned()
    assert inside(folder).items() >= kept.items()
    monkeypatch.setattr(METHODS, "find", found_done)
    assert learned().hash == made.hash
