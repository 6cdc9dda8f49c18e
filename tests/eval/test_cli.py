"""The commands fid, eval, stats and metrics: tables, JSON, pages, exit codes, and nothing half-written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from imagesets import blobs, written


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli")
    for name, seed in (("real", 0), ("generated", 1)):
        written(root / name, pixels=blobs(24, seed))
    return root


DIGITS = ("--extractor", "digits")


def test_fid_of_two_folders(folders, tmp_path):
    out, page = tmp_path / "fid.json", tmp_path / "fid.html"
    result = run("fid", folders / "real", folders / "generated", *DIGITS, "--json", out, "--html", page)
    told = json.loads(out.read_text())
    (found,) = told["results"]
    assert found["metric"] == "fid" and found["n"] == found["n_real"] == 24 and found["interval"]
    assert "FD-digits" in result.stdout and f"{found['value']:.6g}" in result.stdout
    assert page.read_text().count("data:image/png;base64,") == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fid.html", "fid.json"]


def test_json_on_the_standard_output_stands_alone(folders):
    result = run("fid", folders / "real", folders / "generated", *DIGITS, "--json", "-")
    assert json.loads(result.stdout)["results"][0]["extractor"] == "digits"


def test_statistics_then_fid(folders, tmp_path):
    ref = tmp_path / "ref.npz"
    said = run("stats", folders / "real", *DIGITS, "--out", ref, "--features", "--name", "blobs").stdout
    assert "24 images of blobs, digits 28x28" in said
    told = [json.loads(run("eval", real, folders / "generated", *more, "--metrics", "fid,kid_full", "--json", "-").stdout)
            for real, more in ((ref, ()), (folders / "real", DIGITS))]  # fmt: skip
    values = [[r["value"] for r in t["results"]] for t in told]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_options_of_metrics(folders):
    arguments = ("eval", folders / "real", folders / "generated", *DIGITS, "--metrics", "kid", "--json", "-")
    told = json.loads(
        run(*arguments, "--metric-option", "kid.subsets=3", "--metric-option", "kid.subset_size=10").stdout
    )
    assert told["results"][0]["details"]["subsets"] == 3
    assert "METRIC.KEY=VALUE" in run(*arguments, "--metric-option", "subsets=3", code=2).stderr


def test_one_set_is_enough_for_the_inception_score(folders):
    assert "IS-digits" in run("eval", folders / "generated", *DIGITS, "--metrics", "is").stdout


@pytest.mark.slow
def test_curve_of_the_embedded_model(tmp_path):
    arguments = ("eval", "--model", "demo", "--solver", "ddim,dpmpp_2m", "--nfe", "2,3", "-n", 4, "--pairs", 2)
    arguments += ("--metrics", "fid,rmse", "--out", tmp_path / "out", "--resume", tmp_path / "state")
    result = run(*arguments, "--html", tmp_path / "page.html", "--json", tmp_path / "curve.json")
    assert "ddim" in result.stdout and "FD-digits" in result.stdout and "RMSE" in result.stdout
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert any(name.endswith(".png") for name in names) and any(name.endswith(".html") for name in names)
    again = run(*arguments)
    assert again.stdout == result.stdout  # from the state
    assert json.loads((tmp_path / "curve.json").read_text())
    assert "data:image/png" in (tmp_path / "page.html").read_text()


def test_metrics_are_listed():
    said = run("metrics").stdout
    for name in ("fid", "sfid", "kid_full", "prdc", "cmmd", "is_inf", "rmse"):
        assert any(line.split()[0] == name for line in said.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("fid", "nothing", "mnist"), 2, "does not exist"),
        (("fid", "mnist", "{empty}"), 2, "no images"),
        (("fid", "mnist", "{broken}"), 2, "broken, cut off or no image"),
        (("fid", "mnist", "{one}"), 2, "at least 2 images"),
        (("fid", "mnist", "{real}", "--json", "out.txt"), 2, "written as .json"),
        (("fid", "mnist", "{real}", "--extractor", "dino"), 2, "unknown extractor"),
        (("fid", "mnist", "{real}", "--device", "tpu9"), 2, "cannot be used here"),
        (("fid", "{real}", "{real}"), 1, "6726825d"),
        (("fid", "{real}", "{real}", "--weights", "{wrong}"), 2, "6726825d"),
        (("eval", "mnist", "{real}", "--metrics", "kid"), 2, "lack all main features"),
        (("eval", "mnist", "{real}", "--metrics", "kit"), 2, "Did you mean"),
        (("eval", "{real}", "--metrics", "fid"), 2, "give `real`"),
        (("eval", "a", "b", "c"), 2, "two sets are needed"),
        (("eval", "a", "--model", "demo"), 2, "--model draws the images"),
        (("eval", "--model", "demo", "--solver", "dddim"), 2, "unknown solver"),
        (("eval", "--model", "nothing/there/at/all", "--real", "mnist"), 2, "does not exist"),
        (("stats", "{real}", "--out", "ref.json"), 2, "written as .npz"),
    ],
)
def test_bad_input_is_one_sentence(folders, tmp_path, monkeypatch, arguments, code, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("FEWSTEP_INCEPTION", raising=False)
    made = {"real": folders / "real"} | {name: tmp_path / name for name in ("empty", "broken", "one", "wrong")}
    for name in ("empty", "broken", "one"):
        made[name].mkdir()
    (made["broken"] / "a.png").write_bytes(b"no picture")
    (made["broken"] / "b.png").write_bytes((folders / "real" / "0.png").read_bytes())
    (made["one"] / "b.png").write_bytes((folders / "real" / "0.png").read_bytes())
    made["wrong"].write_bytes(b"no weights")
    before = sorted(tmp_path.rglob("*"))
    result = run(*(a.format(**made) for a in arguments), code=code)
    assert said in result.stderr and "Traceback" not in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_leaves_no_file(folders, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    result = run("stats", folders / "real", *DIGITS, "--out", tmp_path / "ref.npz", code=1)
    assert "No space left" in result.stderr and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_module_is_the_command_in_two_processes_too(folders, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [str(folders / "real"), str(folders / "generated"), *DIGITS, "--device", "cpu", "--batch-size", "5"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes=2", "--num_machines=1",
                "--mixed_precision=no", "--dynamo_backend=no"]  # fmt: skip
    values = []
    for k, command in enumerate(([sys.executable, "-m", "fewstep.eval"], [*launcher, "-m", "fewstep.eval"])):
        out = tmp_path / f"{k}.json"
        command = [*command, *arguments, "--metrics", "fid,kid_full", "--json", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("FD-digits") == 1 + ("interval of FD-digits" in done.stdout)
        values.append([r["value"] for r in json.loads(out.read_text())["results"]])
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert Path(tmp_path / "1.json").is_file()
