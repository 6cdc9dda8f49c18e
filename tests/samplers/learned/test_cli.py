"""`fewstep learn` and what is done with its files: sample, compare, eval. Bad input ends with one sentence and exit code 2."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from command_line import call
from pipelines import PIPELINES

import fewstep
from fewstep import Artefact, NoiseSchedule, build
from fewstep.eval.shared_noise import trials
from fewstep.samplers import Learned
from fewstep.samplers.learned.playing import arithmetic as tables
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.tasks.learner_entry import METHODS, learner
from fewstep.samplers.learned.terminal import stages

SMALL = ("-n", 16, "--guard", 16, "--teacher-nfe", 80, "--no-cache", "--solver", "dpmpp_2m", "--no-rivals")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline in a folder."""
    folder = tmp_path_factory.mktemp("model")
    PIPELINES["ddpm"].make()[0].save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """(what `fewstep learn` wrote, what it said)."""
    file = tmp_path_factory.mktemp("learned") / "few.json"
    return file, call("learn", model, "--nfe", "3,4", "--method", "iia", "--set", "window=3", *SMALL, "--out", file)


def test_learn_tells_and_writes(made: tuple[Path, Result]) -> None:
    file, told = made
    assert told.exit_code == 0, told.output
    artefact = Artefact.load(file)
    assert artefact.nfes == (3, 4) and [t.status for t in artefact.tables] == ["learned", "learned"]
    caption, head, *lines = told.stdout.splitlines()
    assert "untouched" in caption and head.split()[0] == "nfe" and head.split()[-1] == "status"
    for line, table in zip(lines, artefact.tables, strict=False):
        assert line.startswith(str(table.nfe)) and line.endswith("learned")
        assert f"{table.report['test']['rms']['ratio']:.3f}" in line and table.report["best_fixed_recipe"] in line
    assert f"wrote {file}" in told.stdout and "next: fewstep show" in told.stdout
    assert artefact.provenance["method"] == [["iia", {"window": 3}]]
    assert artefact.provenance["seeds"]["guard"] == {"from": 1000, "to": 1016}


@pytest.mark.slow
def test_json_is_for_machines(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    result = call("learn", model, "--nfe", 3, "--method", "dmn", *SMALL, "--out", file, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["hash"] == Artefact.load(file).hash and told["tables"][0]["nfe"] == 3
    lines = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    assert {line["stage"] for line in lines} >= {"fixed recipes", "dmn"} and lines[-1]["spent"] > 0


@pytest.mark.slow
def test_networks_in_low_precision(model: Path, tmp_path: Path) -> None:
    """--dtype is what the network is loaded in: it is asked in bfloat16, and the artefact says so. `joint` descends there."""
    file = tmp_path / "b.json"
    steps = ("--set", "steps=2", "--set", "even=0", "--set", "free=tau+coef")
    how = ("--nfe", 2, "--method", "joint", *steps, "--dtype", "bfloat16", *SMALL)
    result = call("learn", model, *how, "--out", file)
    assert result.exit_code == 0, result.output
    told = Artefact.load(file).provenance
    assert told["samples"] == {"dtype": "bfloat16"} and told["method"][0][1]["free"] == ["tau", "coef"]
    problem = Problem(str(model), dtype="bfloat16")
    asked, forward = [], problem._source.pipe.unet.forward
    problem._source.pipe.unet.forward = lambda x, *args, **how: asked.append(x.dtype) or forward(x, *args, **how)
    problem.draw(build("dpmpp_2m", problem.schedule, 2), problem.part([0, 1]))
    assert len(asked) >= 2 and set(asked) == {torch.bfloat16}


@pytest.mark.slow
def test_options_of_auto(model: Path, tmp_path: Path) -> None:
    """--set reaches what auto passes on: which refinements, and how long."""
    how = ("--set", "refine=newton", "--set", "auto.samples=12", "--nfe", 2, *SMALL, "-n", 32)
    result = call("learn", model, *how, "--out", tmp_path / "a.json")
    assert result.exit_code == 0, result.output
    made = Artefact.load(tmp_path / "a.json")
    assert made.provenance["method"] == [["auto", {"refine": "newton", "samples": 12}]]
    told = {stage["method"]: stage["options"] for stage in made.tables[0].stages}
    assert told["newton"]["samples"] == 12 and "joint" not in told
    both = stages("auto", ["refine=newton+joint", "auto.steps=9", "batch=8"])
    assert both == [("auto", {"refine": ("newton", "joint"), "steps": 9, "batch": 8})] and stages("auto", []) == [
        ("auto", {})
    ]


def test_sample_plays_the_table(made: tuple[Path, Result], model: Path, tmp_path: Path) -> None:
    file, _ = made
    result = call("sample", model, "--learned", file, "--nfe", 3, "-n", 2, "--out", tmp_path / "a.png")
    assert result.exit_code == 0 and "3 evaluations" in result.stdout, result.output
    plain = call("sample", model, "--nfe", 3, "-n", 2, "--out", tmp_path / "b.png")
    assert plain.exit_code == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_policy_is_met_and_is_of_learned_tables(made: tuple[Path, Result], model: Path, tmp_path: Path) -> None:
    """In another dtype than it was learned in: refused where that is asked for."""
    file, _ = made
    how = (model, "--nfe", 3, "-n", 1, "--out", tmp_path / "a.png")
    refused = call("sample", *how, "--learned", file, "--dtype", "bfloat16", "--policy", "refuse")
    assert refused.exit_code == 2 and "bfloat16 instead of float32" in refused.stderr, refused.output
    assert call("sample", *how, "--learned", file, "--policy", "refuse").exit_code == 0
    for wrong in (("--policy", "warn"), ("--learned", file, "--policy", "never")):
        assert call("sample", *how, *wrong).exit_code == 2


def test_compare_shows_it_beside_the_solvers(
    made: tuple[Path, Result], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "REFERENCE", {"solver": "dpmpp_3m", "nfe": 80, "grid": "karras"})
    out = ("-n", 2, "--out", tmp_path)
    result = call("compare", model, "--learned", made[0], "--solvers", "dpmpp_2m", "--nfe", "3,5", *out)
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "results.json").read_text())
    errors = {(p["solver"], p["nfe"]): p["report"]["results"][0]["value"] for p in told["points"]}
    learned = str(made[0])
    assert (
        set(errors) == {(learned, 3), ("dpmpp_2m", 3), ("dpmpp_2m", 5)} and errors[learned, 3] < errors["dpmpp_2m", 3]
    )
    advice = told["recommendations"][0]
    assert advice["best"] == learned and "of the best fixed recipe, dpmpp_2m" in advice["text"]
    assert f"learned='{learned}'" in advice["line"] and advice["label"] == "learned few.json"
    assert {p.name for p in tmp_path.iterdir()} == {"curve-rmse.png", "samples.png", "report.html", "results.json"}


@pytest.mark.slow
def test_eval_finds_it_better_on_fresh_seeds(made: tuple[Path, Result], model: Path, tmp_path: Path) -> None:
    file, page = tmp_path / "told.json", tmp_path / "page.html"
    how = ("--nfe", 3, "-n", 12, "--against", "unipc", "--json", file, "--html", page)
    result = call("eval", made[0], model, *how)
    assert result.exit_code == 0, result.output
    told = json.loads(file.read_text())
    assert [row["verdict"] for row in told["rows"]] == ["better", "better"] and told["samples"] == 12
    assert [row["recipe"].split()[0] for row in told["rows"]] == ["dpmpp_2m", "unipc"]
    assert told["rows"][0]["learned"]["rms"] < told["rows"][0]["fixed"]["rms"]
    assert "better" in result.stdout and "better" in page.read_text()


def spoilt(file: Path, tmp_path: Path) -> Path:
    """The learned artefact with its weights pushed away from where they should be."""
    artefact = Artefact.load(file)
    worse = []
    for t in artefact.tables:
        delta = torch.zeros(t.nfe, 2).double().numpy()
        delta[1:] = 0.5, -0.5
        worse.append(Learned(tables.corrected(tables.base_of(t.tableau), delta), base={"grid": t.base["grid"]}))
    path = tmp_path / "spoilt.json"
    Artefact(tuple(worse), artefact.model).save(path)
    return path


@pytest.mark.slow
def test_eval_of_a_worse_one_is_a_failure(made: tuple[Path, Result], model: Path, tmp_path: Path) -> None:
    result = call("eval", spoilt(made[0], tmp_path), model, "--nfe", 4, "-n", 8)
    assert result.exit_code == 1 and "worse" in result.stdout and "Traceback" not in result.output, result.output


@pytest.mark.slow
def test_curves_take_an_artefact_as_a_solver(made: tuple[Path, Result], model: Path) -> None:
    from fewstep.eval import paired

    reference = {"solver": "dpmpp_3m", "nfe": 80, "grid": "karras"}
    curves = paired(str(model), ["dpmpp_2m", str(made[0])], (3,), 4, reference=reference, metrics=("rmse",))
    fixed, learned = (point.report["rmse"].value for point in curves.points)
    assert learned < fixed


def test_other_weights_are_another_contender(made: tuple[Path, Result], model: Path, tmp_path: Path) -> None:
    """What a sweep keeps is known by the content of an artefact, not by the name of its file."""
    from fewstep.eval import Generated

    prints = [
        Generated(str(model), str(path), 3, number=2).fingerprint for path in (made[0], spoilt(made[0], tmp_path))
    ]
    same = tmp_path / "same.json"
    same.write_bytes(made[0].read_bytes())
    assert Generated(str(model), str(same), 3, number=2).fingerprint == prints[0] != prints[1]


@pytest.mark.slow
def test_estimate_learns_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "cache"))
    result = call("learn", model, "--nfe", 4, "--method", "gits+iia", "-n", 16, "--guard", 16, "--estimate")
    assert result.exit_code == 0, result.output
    assert all(word in result.stdout for word in ("reference", "gits", "iia", "guard", "MiB", "ms a sample"))
    assert list(tmp_path.iterdir()) == []
    told = json.loads(call("learn", model, "--nfe", 4, "--method", "iia", *SMALL, "--estimate", "--json").stdout)
    assert told["evaluations"] == sum(stage["evaluations"] for stage in told["stages"]) and told["seconds"] > 0


@pytest.fixture
def stopping() -> Iterator[None]:
    """A method that is ended by Ctrl-C after it has found something."""

    @learner("stopping", learns=("coef",), reference="")
    def found(task: Any, start: Any) -> Any:
        delta = torch.zeros(task.nfe, 2).double().numpy()
        delta[1:] = 0.01, -0.01
        task.offer(tables.corrected(start, delta))
        raise KeyboardInterrupt

    yield
    METHODS.remove("stopping")


@pytest.mark.slow
@pytest.mark.usefixtures("stopping")
def test_interrupt_keeps_the_best_so_far(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    result = call("learn", model, "--nfe", "3,4", "--method", "stopping", *SMALL, "--out", file)
    assert result.exit_code == 130 and "interrupted: the best so far" in result.stderr, result.output
    assert "the same command begins again" in result.stderr and "--resume DIR" in result.stderr
    artefact = Artefact.load(file)
    assert artefact.nfes == (3,) and artefact.tables[0].stages[-1]["interrupted"]


@pytest.mark.slow
def test_a_second_interrupt_leaves_the_file(
    made: tuple[Path, Result], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ended(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("fewstep.samplers.learned.tasks.guard.report", ended)
    before = made[0].read_bytes()
    result = call("learn", model, "--nfe", 3, "--method", "dmn", *SMALL, "--out", made[0])
    assert result.exit_code == 130 and "as it was" in result.stderr
    assert made[0].read_bytes() == before and list(made[0].parent.iterdir()) == [made[0]]


@pytest.mark.slow
def test_a_failure_leaves_the_file(made: tuple[Path, Result], model: Path) -> None:
    before = made[0].read_bytes()
    result = call("learn", model, "--nfe", 3, "--method", "iia", "-n", 16, "--guard", 16, "--teacher-nfe", 5, "--no-cache",
                  "--out", made[0])  # fmt: skip
    assert result.exit_code == 2 and "teacher is not converged" in result.stderr
    assert made[0].read_bytes() == before


WRONG = {
    "method": (["--method", "oos"], "oss"),
    "method in a chain": (["--method", "oss+iiia"], "iia"),
    "option of a method": (["--method", "iia", "--set", "windo=3"], "window"),
    "option of auto": (["--set", "stepss=3"], "no option 'stepss'"),
    "value of auto": (["--set", "refine=newtn"], "newtn"),
    "dtype": (["--dtype", "float8"], "float8"),
    "option of no stage": (["--method", "iia", "--set", "oss.beam=2"], "no stage"),
    "option of which stage": (["--method", "oss+iia", "--set", "window=2"], "oss.window=2"),
    "option form": (["--method", "iia", "--set", "iia.window"], "key=value"),
    "solver": (["--solver", "dpmp_2m"], "dpmpp_2m"),
    "adaptive solver": (["--solver", "dpm_adaptive"], "table"),
    "option of the solver": (["--option", "ordr=2"], "ordr"),
    "nfe": (["--nfe", "0"], "at least 1"),
    "nfe twice": (["--nfe", "5,5"], "different"),
    "nfe as text": (["--nfe", "five"], "whole numbers"),
    "too few seeds": (["-n", "4"], "at least 8"),
    "too few for the guard": (["--guard", "4"], "at least 8"),
    "overlapping seeds": (["--guard-seed", "100"], "untouched"),
    "name": (["--out", "five.txt"], ".json"),
    "guidance": (["--guidance", "high"], "numbers"),
    "model": (["./no/such/folder"], "does not exist"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_is_one_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, told = WRONG[case]
    result = call("learn", *arguments)
    assert result.exit_code == 2, result.output
    *_, sentence = result.stderr.strip().splitlines()
    assert sentence.startswith("Error: ") and told in sentence
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def files(made: tuple[Path, Result], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names of files that are no artefact for the tiny model, and of the one that is."""
    folder = tmp_path_factory.mktemp("wrong")
    text = made[0].read_text()
    (folder / "cut.json").write_text(text[: len(text) // 2])
    content = json.loads(text)
    content["tables"][0]["guidance"] = 2.0
    (folder / "changed.json").write_text(json.dumps(content))
    (folder / "foreign.json").write_text('{"sigmas": [1, 2]}')
    flow = Learned(build("dpmpp_2m", NoiseSchedule.flow(), 3))
    Artefact((flow,), {"prediction": "epsilon"}).save(folder / "flow.json")
    guided = [Learned(t.tableau, 3.0 if t.nfe == 3 else 4.0) for t in Artefact.load(made[0]).tables]
    Artefact(tuple(guided), {"prediction": "epsilon"}).save(folder / "guided.json")
    names = {path.stem: str(path) for path in folder.iterdir()}
    return {**names, "good": str(made[0]), "missing": str(folder / "missing.json"), "png": str(folder / "a.png")}


WRONG_FILES = {
    "missing": (["sample", "--learned", "{missing}"], "there is no file"),
    "cut": (["eval", "{cut}"], "not a saved table"),
    "changed": (["eval", "{changed}"], "changed or damaged"),
    "foreign": (["compare", "--learned", "{foreign}"], "not a saved table"),
    "not JSON": (["sample", "--learned", "{png}"], "NAME.json"),
    "another schedule": (["sample", "{model}", "--learned", "{flow}", "-n", "1"], "Flow"),
    "another schedule to eval": (["eval", "{flow}", "{model}"], "Flow"),
    "which nfe": (["sample", "--learned", "{good}"], "--nfe 3"),
    "no such nfe": (["sample", "--learned", "{good}", "--nfe", "7"], "3, 4"),
    "no such nfe to eval": (["eval", "{good}", "--nfe", "7"], "3, 4"),
    "no common nfe": (["compare", "--learned", "{good}", "--nfe", "7,8"], "3, 4"),
    "own grid": (["sample", "--learned", "{good}", "--nfe", "3", "--grid", "karras"], "--grid"),
    "guidance unknown": (["sample", "{model}", "--learned", "{guided}", "--nfe", "3", "-n", "1"], "--guidance 3"),
    "seeds of learning": (["eval", "{good}", "--seed", "1010"], "--seed 1016"),
    "too few": (["eval", "{good}", "-n", "4"], "at least 8"),
    "adaptive rival": (["eval", "{good}", "--against", "dpm_adaptive"], "table"),
    "stochastic rival": (["eval", "{good}", "--against", "dpmpp_2m_sde"], "noise"),
    "two models": (["eval", "{good}", "{model}", "--model", "demo"], "one MODEL"),
    "no real images": (["eval", "{good}", "{model}", "--metrics", "fid"], "--real"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_files_are_one_sentence(
    case: str, files: dict[str, str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments, told = WRONG_FILES[case]
    result = call(*(a.format(model=model, **files) for a in arguments))
    assert result.exit_code == 2, result.output
    *_, sentence = result.stderr.strip().splitlines()
    assert sentence.startswith("Error: ") and told in sentence
    assert result.stdout == "" and "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_imports_nothing_heavy() -> None:
    for command in ("learn", "show"):
        code = (
            "import sys\nfrom fewstep.cli import main\n"
            f"try: main(['{command}', '--help'])\nexcept SystemExit: pass\n"
            "heavy = {'torch', 'diffusers', 'numpy', 'scipy', 'matplotlib', 'PIL', 'tqdm'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        assert "--out" in done.stdout


def test_learn_is_public() -> None:
    from fewstep.samplers.learned.learning import learn

    assert fewstep.learn is learn
