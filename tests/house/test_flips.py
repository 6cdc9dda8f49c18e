"""No file of the samplers that was changed after it was written is read as something else, and none ends in a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flips import hold
from learned_problems import base, ring, task
from learnt import DISCRETE, VP, artefact, statistics

import fewstep
from fewstep.demo import folder, load_demo_classifier
from fewstep.samplers import Artefact, Learned, NoiseSchedule, Statistics, build
from fewstep.samplers.learned.descent import kept_state
from fewstep.samplers.learned.problem import kept_runs
from fewstep.samplers.learned.tasks.learner_entry import METHODS
from fewstep.samplers.table.stored import to_dict

CONFIG = {"_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
          "num_train_timesteps": 1000, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}  # fmt: skip
Read = Callable[[], Any]


def table(folder: Path) -> tuple[Path, Read]:
    build("dpmpp_2m", NoiseSchedule.edm(), 5).save(folder / "table.json")
    return folder / "table.json", lambda: to_dict(fewstep.load(folder / "table.json"))


def noisy_table(folder: Path) -> tuple[Path, Read]:
    build("restart", VP, 12).save(folder / "noisy.json")
    return folder / "noisy.json", lambda: json.dumps(to_dict(fewstep.load(folder / "noisy.json")))


def learned(folder: Path) -> tuple[Path, Read]:
    artefact(DISCRETE, 4, 6).save(folder / "learned.json")
    return folder / "learned.json", lambda: fewstep.load(folder / "learned.json").to_dict()


def beside(folder: Path) -> tuple[Path, Read]:
    made = Learned(build("dpm_solver_v3", DISCRETE, 3, statistics=statistics((12, 12))))
    Artefact((made,), {"prediction": "epsilon", "shape": [12, 12]}).save(folder / "wide.json")
    (file,) = folder.glob("wide-*.safetensors")
    return file, lambda: fewstep.load(folder / "wide.json").to_dict()


def statistics_file(folder: Path) -> tuple[Path, Read]:
    statistics((6, 6)).save(folder / "statistics.safetensors")

    def read() -> Any:
        found = Statistics.load(folder / "statistics.safetensors")
        return [getattr(found, name).tobytes() for name in ("lam", "l", "s", "b")], dict(found.metadata)

    return folder / "statistics.safetensors", read


def _scheduler(folder: Path, **how: Any) -> tuple[Path, Read]:
    fewstep.Scheduler.from_config(CONFIG, **how).save_pretrained(folder / "saved")

    def read() -> Any:
        found = fewstep.Scheduler.from_pretrained(folder / "saved")
        found.set_timesteps(4)
        return json.dumps(dict(found.config), default=str), found.timesteps.tolist(), found.sigmas.tolist()

    return folder / "saved" / "scheduler_config.json", read


def scheduler(folder: Path) -> tuple[Path, Read]:
    return _scheduler(folder, solver="unipc", order=3)


def scheduler_with_a_table(folder: Path) -> tuple[Path, Read]:
    schedule = NoiseSchedule.from_config(CONFIG)
    return _scheduler(folder, solver=build("deis", schedule, 4))


def scheduler_with_an_artefact(folder: Path) -> tuple[Path, Read]:
    schedule = NoiseSchedule.from_config(CONFIG)
    return _scheduler(folder, learned=artefact(schedule, 4, prediction="v_prediction"))


def stage(folder: Path) -> tuple[Path, Read]:
    def fresh() -> Any:
        found = task(ring(), (2,), 4, 16, 16, store=folder, teacher={"nfe": 24})
        found.offer(base(found))
        return found

    found = fresh()
    found.run("iia", base(found), **METHODS["iia"].checked({}))
    (file,) = folder.glob("004-iia-*.json")

    def read() -> Any:
        again = fresh()
        kept = again._kept(file)
        return to_dict(kept), again.done

    return file, read


def descent(folder: Path) -> tuple[Path, Read]:
    knob = torch.nn.Parameter(torch.linspace(0, 1, 5))
    optimizer = torch.optim.Adam([knob])
    knob.square().sum().backward()
    optimizer.step()
    file = folder / "state.safetensors"
    kept_state.save(file, {"now": {"knob": knob.detach()}}, {"step": 3, "score": 0.25}, optimizer)

    def read() -> Any:
        other = torch.optim.Adam([torch.nn.Parameter(torch.zeros(5))])
        values, numbers = kept_state.load(file, other)
        return values["now"]["knob"].tolist(), numbers, repr(other.state_dict())

    return file, read


def reference_run(folder: Path) -> tuple[Path, Read]:
    file, seeds = folder / "run.safetensors", (3, 4)
    known = "key", seeds, ((0.5, 0.25),)
    kept_runs.write(file, *known, torch.randn(7, 2, 9), torch.randn(6, 2, 9))

    def read() -> Any:
        x, v = kept_runs.read(file, *known, torch.device("cpu"))
        return x[:].tolist(), v[:].tolist()

    return file, read


KINDS = (table, noisy_table, learned, beside, statistics_file, scheduler, scheduler_with_a_table,
         scheduler_with_an_artefact, stage, descent, reference_run)  # fmt: skip
MANY = 175


@pytest.mark.parametrize("number", [14, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_changed_is_refused_or_the_same(
    kind: Callable[[Path], tuple[Path, Read]], number: int, tmp_path: Path
) -> None:
    hold(kind, number, tmp_path)


def test_weights_made_by_hand_are_bounded(tmp_path: Path) -> None:
    """Without a seal, weights whose sums are right are refused where rounding leaves nothing of them."""
    file = tmp_path / "hand.json"
    content = build("dpmpp_2m", VP, 5).to_dict()
    del content["sha256"]

    def changed(by: float) -> fewstep.Tableau:
        W = np.array(content["W"])
        W[2, 1, 2:4] += by, -by
        file.write_text(json.dumps({**content, "W": W.tolist(), "note": "mine"}), encoding="utf-8")
        return fewstep.load(file)

    assert changed(0.0).amplification < 100 and changed(5.0).amplification < 1e4
    assert changed(1e8).amplification > 1e6, "float32 is warned of it when it is played"
    for by in (1e15, 1e100, 1e308, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"{file}: .*(amplifies rounding|not finite|row 3)"):
            changed(by)


def test_foreign_json_is_told_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "foreign.json"
    content = build("dpmpp_2m", VP, 3).to_dict()
    del content["sha256"]
    whole = '{"format": "fewstep.tableau", "version": 2}'
    texts = [
        "[" * 100_000,
        "{" * 5 + "}" * 5,
        "1" * 5000,
        '"text"',
        "null",
        "\ufeff{}",
        whole,
        whole.replace("2", "-1e999"),
    ]
    for name in content:
        for value in (None, [], {}, "x", -1, 1e308, [[]], {"a": [1]}, [[["y"]]], 10**400, True):
            texts.append(json.dumps({**content, name: value}))
    texts += [json.dumps({**artefact(VP, 4).to_dict(), "tensors": value}) for value in ([], {"a": 1}, {"file": 3}, "x")]
    for text in texts:
        file.write_text(text, encoding="utf-8")
        try:
            fewstep.load(file)
        except ValueError as error:
            assert str(file) in str(error) and "\n" not in str(error), (text[:80], error)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=str(file)):
        fewstep.load(file)


@pytest.mark.parametrize(
    ("name", "load"),
    [("classifier.safetensors", load_demo_classifier), ("config.json", lambda: fewstep.load_demo_pipeline()),
     ("scheduler_config.json", lambda: fewstep.load_demo_pipeline())],
)  # fmt: skip
def test_the_embedded_files_are_those_that_were_published(
    name: str, load: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Path(shutil.copytree(folder.FOLDER, tmp_path / "demo"))
    monkeypatch.setattr(folder, "FOLDER", copy)
    load()
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data.replace(b"0", b"1", 1) if name.endswith("json") else data[:-3] + b"abc")
    with pytest.raises(ValueError, match=f"{name} was changed or damaged.*Install fewstep again"):
        load()
