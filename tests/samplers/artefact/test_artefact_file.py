"""An artefact's file keeps every bit, shows what is inside, and is refused when it is not whole."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from learnt import (
    ALL,
    DISCRETE,
    SCHEDULES,
    VP,
    artefact,
    exact,
    learned_table,
    prediction,
    statistics,
)
from problems import starts

import fewstep
from fewstep import Artefact, sample
from fewstep.samplers import Learned, build


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("solver", ["dpmpp_2m", "deis", "unipc", "dpmpp_2m_sde", "heun"])
def test_save_and_load_keep_every_bit(solver, schedule, tmp_path):
    moved = ("grid", "tau") if solver == "heun" else ALL
    made = artefact(schedule, 4, 6, prediction=prediction(schedule), solver=solver, moved=moved)
    made.save(tmp_path / "a.json")
    back = fewstep.load(tmp_path / "a.json")
    back.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert back == made and hash(back) == hash(made) and len({made, back, artefact(schedule, 4)}) == 2
    x = starts(schedule, schedule.t_max)
    for nfe in (4, 6):
        for name in ("W", "times", "model_times"):
            assert np.array_equal(getattr(back.table(nfe), name), getattr(made.table(nfe), name))
        ends = [sample(exact(schedule), x, a, nfe, noise_seeds=range(16)) for a in (made, back)]
        assert torch.equal(*ends)
    assert back.model == made.model and back.provenance == made.provenance and back.report == made.report


def test_the_file_shows_what_is_inside(tmp_path):
    artefact(DISCRETE, 5).save(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert (content["format"], content["version"], content["domain"]) == (
        "fewstep.artefact",
        1,
        {"nfe": [5], "guidance": []},
    )
    (table,) = content["tables"]
    made = artefact(DISCRETE, 5).table()
    assert table["kind"] == "joint" and table["status"] == "learned" and table["base"]["solver"] == "dpmpp_2m"
    assert table["sigma"] == made.nodes.sigma.tolist() and table["tau"] == made.model_times.tolist()
    assert table["lambda"][:-1] == made.nodes.lam[:-1].tolist() and table["lambda"][-1] is None
    assert table["safety"]["consistent"] and 0 < table["safety"]["smallest_gap"] < 5
    assert table["safety"]["largest_weight"] == np.abs(made.W[:, :, 2:5]).max()
    assert "schedule" not in table["tableau"] and content["model"]["schedule"]["class"] == "Discrete"


def test_weights_of_the_result_bound_what_an_error_does():
    """Errors of one in every output move the result by at most the sum of the absolute weights, and by it at worst."""
    from fewstep.samplers.artefact.learned_table import safety, weights_of_result

    table = learned_table(VP, 6, seed=3, solver="abnorsett")
    weights = weights_of_result(table)
    signs, calls = np.sign(weights), iter(range(6))
    denoiser = fewstep.Denoiser(lambda x, tau: torch.full_like(x, signs[next(calls)]), VP, "sample")
    out = sample(denoiser, torch.zeros(1, 1, dtype=torch.float64), table)
    assert float(out) == pytest.approx(np.abs(weights).sum()) == pytest.approx(safety(table)["weights_of_result"])


@pytest.mark.parametrize("moved", [(), ("grid",), ("coef",), ("tau",), ("grid", "coef"), ALL])
def test_the_kind_is_what_was_moved(moved):
    learned = Learned(learned_table(DISCRETE, moved=moved), base={"grid": "trailing"})
    assert learned.moved == moved
    assert learned.kind == (moved[0] if len(moved) == 1 else "joint" if moved else "base")


def test_a_base_grid_may_be_given_by_times():
    times = build("dpmpp_2m", VP, 5, "karras").times
    assert Learned(build("dpmpp_2m", VP, 5, "karras"), base={"grid": times}).kind == "base"
    assert Learned(build("dpmpp_2m", VP, 5, "karras"), base={"grid": "uniform"}).kind == "grid"


def test_an_interrupted_save_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    artefact(VP, 5).save(path)
    before = path.read_bytes()

    def broken(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", broken)
        artefact(VP, 6).save(path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(ValueError, match="numbers, text"):
        Artefact((Learned(learned_table(VP)),), {"prediction": "epsilon"}, {"when": object()})


def elementwise():
    table = build("dpm_solver_v3", DISCRETE, 3, statistics=statistics())
    return Artefact(
        (Learned(table), Learned(build("dpm_solver_v3", DISCRETE, 2, statistics=statistics()))),
        {"prediction": "epsilon", "shape": [64, 64]},
    )


def test_weights_of_every_element_go_to_a_file_beside(tmp_path):
    made = elementwise()
    made.save(tmp_path / "a.json")
    (beside,) = tmp_path.glob("*.safetensors")
    assert (tmp_path / "a.json").stat().st_size < 60_000 < beside.stat().st_size
    back = fewstep.load(tmp_path / "a.json")
    assert back == made and back.table(3).elementwise
    assert np.array_equal(back.table(3).W, made.table(3).W)
    assert np.array_equal(back.table(3).options["statistics"].b, statistics().b)
    (tmp_path / "again").mkdir()
    back.save(tmp_path / "again" / "a.json")
    for name in ("a.json", beside.name):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()
    assert Artefact.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    with pytest.raises(ValueError, match=r"weights for every element.*\(64, 64\).*\(8, 8\)"):
        made.table(3, shape=(8, 8))


def test_a_missing_or_changed_file_beside_is_refused(tmp_path):
    elementwise().save(tmp_path / "a.json")
    (beside,) = tmp_path.glob("*.safetensors")
    data = beside.read_bytes()
    beside.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ValueError, match="hash differs"):
        fewstep.load(tmp_path / "a.json")
    beside.unlink()
    with pytest.raises(ValueError, match=f"needs {beside.name} beside it"):
        fewstep.load(tmp_path / "a.json")


def change(content, *path, value):
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: change(c, "version", value=99), "newer fewstep.*version 99.*Upgrade"),
        (lambda c: change(c, "format", value="other.table"), "not a saved table"),
        (lambda c: change(c, "tables", 0, "tableau", "W", 1, 1, 2, value=0.7), "changed or damaged"),
        (lambda c: change(c, "tables", 0, "tableau", "times", 1, value=0.9), "changed or damaged"),
        (lambda c: change(c, "model", "prediction", value="sample"), "changed or damaged"),
        (lambda c: c.pop("tables"), "changed or damaged"),
        (lambda c: c.pop("hash"), "incomplete or damaged"),
        (lambda c: change(c, "version", value="one"), "incomplete or damaged"),
    ],
)
def test_a_damaged_newer_or_foreign_file_is_refused(damage, said, tmp_path):
    path = tmp_path / "a.json"
    artefact(VP, 5).save(path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        fewstep.load(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(share, tmp_path):
    path = tmp_path / "a.json"
    artefact(VP, 5).save(path)
    text = path.read_text()
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(ValueError, match="not a saved table"):
        fewstep.load(path)


def test_playing_imports_no_learner():
    code = "import sys, fewstep; fewstep.sample, fewstep.Artefact; print([m for m in sys.modules if 'learned.' in m])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
