"""A saved table comes back to the last bit, and a damaged or newer one is refused in words."""

import json

import numpy as np
import pytest

import fewstep
from fewstep.samplers import SOLVERS, NoiseSchedule, build

SCHEDULES = {
    "vp": NoiseSchedule.vp_linear(),
    "edm": NoiseSchedule.edm(),
    "flow": NoiseSchedule.flow(3.0),
    "discrete": NoiseSchedule.discrete(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("solver", [name for name, entry in SOLVERS.items() if entry.kind == "tableau"])
def test_round_trip_is_exact(solver, schedule, tmp_path):
    table = build(solver, schedule, 9)
    table.save(tmp_path / "table.json")
    back = fewstep.load(tmp_path / "table.json")
    assert back.schedule == schedule and back.forms == table.forms and back.groups == table.groups
    for field in ("W", "times", "model_times"):
        assert np.array_equal(getattr(back, field), getattr(table, field))
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


def test_newer_version_is_refused(tmp_path):
    path = tmp_path / "table.json"
    build("ddim", SCHEDULES["vp"], 3).save(path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "version": 99}))
    with pytest.raises(ValueError, match="newer fewstep.*Upgrade"):
        fewstep.load(path)


@pytest.mark.parametrize("text", ["", "{}", "[1, 2]", '{"format": "fewstep.tableau", "version": 1}'])
def test_damaged_file_is_refused(text, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="not a saved table|incomplete"):
        fewstep.load(path)


def test_tampered_rows_are_refused(tmp_path):
    path = tmp_path / "table.json"
    build("dpmpp_2m", SCHEDULES["edm"], 5).save(path)
    content = json.loads(path.read_text())
    content["W"][2][1][2] += 0.01
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f'{path} was changed or damaged after it was written.*remove its "sha256"'):
        fewstep.load(path)
    del content["sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{path}: .*row 2"):
        fewstep.load(path)
