"""Every recipe of the README runs as it stands."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from places import ROOT

from fewstep.cli import main
from fewstep.eval.compare import trials
from fewstep.samplers import guidance

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run(recipes: list[str]) -> dict[str, Any]:
    """The names that the recipes leave, one after another in one space as a reader would type them."""
    names: dict[str, Any] = {"__name__": "readme"}
    for recipe in recipes:
        exec(compile(recipe, "README.md", "exec"), names)
    guidance.GUIDANCE.remove("towards")  # what a recipe registers is not for other tests
    return names


def test_quick_python_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but those that learn, evaluate, integrate for a likelihood or to a tolerance."""
    monkeypatch.chdir(tmp_path)
    long = ("import learn,", "log_likelihood", "fe.", "tol=")
    names = run([recipe for recipe in blocks("python") if not any(word in recipe for word in long)])
    assert names["restored"].isfinite().all() and len(names["images"]) == 4


@pytest.mark.slow
def test_python_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names = run(blocks("python"))
    assert names["restored"].isfinite().all() and names["info"].status == "done"
    assert names["again"].scheduler.config["solver"] == "unipc"
    assert names["drawn"].label == "FD-digits" and names["distance"] > 1
    assert len(names["images"]) == 4 and names["x0"].isfinite().all()
    assert "dpmpp_2m: order 2, 4 evaluations" in capsys.readouterr().out


@pytest.mark.slow
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "REFERENCE", {"solver": "ddim", "nfe": 2, "grid": "uniform"})
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("fewstep ")]
    assert len(commands) == 21
    for line in commands:  # fewer images and evaluations than the reader asks for; everything else as written
        arguments = shlex.split(line, comments=True)[1:]
        if " -n " in line or " sample " in line or " compare " in line:
            arguments += ["-n", "8" if "drawn" in line or " eval " in line else "1"]
        if " learn " in line and "--estimate" not in line:
            arguments += ["-n", "8", "--guard", "8", "--teacher-nfe", "24", "--no-cache"]
        arguments += ["--nfe", "3"] if "--estimate" in line else []
        arguments += ["--nfe", "2", "--grid", "uniform"] if " compare " in line or "--model" in line else []
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{line}: {result.output}"
    names = ["adaptive.png", "comparison", "drawn", "drawn.npz", "er_sde.png", "fd", "grid.png", "report.html", "state"]
    names += ["learned.png", "stochastic", "three.json", "three.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).is_file(), target
