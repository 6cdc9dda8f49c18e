"""Every page of the documentation and the README: recipes run, links lead somewhere, figures are those measured."""

from __future__ import annotations

import json
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from places import ROOT

from fewstep.cli import main

sys.path.insert(0, str(ROOT / "docs"))
import pages

DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *DOCS]}
LONG = ("learn", "evaluation", "gradients", "guidance", "adaptive", "stochastic")  # pages that take more than seconds
COMMANDS = 31
slowly = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in PAGES]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


@pytest.mark.parametrize("page", slowly)
def test_recipes_of_a_page(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another in one space, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": page}
    for recipe in blocks(page, "python"):
        exec(compile(recipe, f"{page}.md", "exec"), names)
    if "@guidance.method" in PAGES[page]:
        from fewstep.samplers import guidance

        guidance.GUIDANCE.remove("towards")  # what a recipe registers is not for other tests
    for name in ("images", "x0", "restored", "decoded"):
        value = names.get(name)
        assert not hasattr(value, "isfinite") or bool(value.isfinite().all())


@pytest.mark.slow
def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line that a page says to type; fewer images and evaluations than the reader asks for, all else as written."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fewstep.eval.shared_noise.trials.REFERENCE", {"solver": "ddim", "nfe": 2, "grid": "uniform"})
    commands = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    commands = [line for line in commands if line.startswith("fewstep ")]
    assert len(commands) == COMMANDS
    for line in commands:
        arguments = shlex.split(line, comments=True)[1:]
        if " -n " in line or " sample " in line or " compare " in line:
            arguments += ["-n", "8" if "drawn" in line or " eval " in line else "2"]
        if " learn " in line and "--estimate" not in line:
            arguments += ["-n", "8", "--guard", "8", "--teacher-nfe", "24", "--no-cache"]
        if " tune " in line and "--losses" not in line:
            arguments += (
                "--loss pairs --steps 8 --batch 8 -n 24 --guard 24 --teacher-nfe 12 --lr 6e-5 --ema 0.5".split()
            )
            arguments += ["--every", "4", "--no-cache"]
        arguments += ["--nfe", "3"] if "--estimate" in line else []
        arguments += ["--nfe", "2", "--grid", "uniform"] if " compare " in line or "--model" in line else []
        arguments += ["--budget", "1s"] if " compare " in line and "--budget" in line else []
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, f"{line}: {result.output}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = ROOT if page == "README" else ROOT / "docs"
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        assert target.startswith("https://") or (folder / target).is_file(), target


def test_every_page_is_in_the_menu_and_no_other() -> None:
    menu = re.findall(r": ([\w/]+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    there = [
        p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*") if p.suffix in (".md", ".ipynb")
    ]
    assert sorted(menu) == sorted(there)


def test_marks_are_known_and_figures_are_those_measured() -> None:
    """A table of the README, which is read without the site, is the one of its JSON; the pages' own are made from it."""
    found = pages.MARK.findall("\n".join(text for name, text in PAGES.items() if name != "README"))
    assert {word for word, _ in found} <= set(pages.MAKERS)
    told = {name for word, name in found if word == "measured"}
    assert told == {path.stem for path in (ROOT / "docs" / "measured").glob("*.json")}
    for path in (ROOT / "docs" / "measured").glob("*.json"):
        data = json.loads(path.read_text(encoding="utf-8"))
        assert {"title", "command", "measured", "columns", "rows"} <= set(data)
        assert all(len(row) == len(data["columns"]) for row in data["rows"]), path.name
    copied = re.findall(r"<!-- measured: (\w+) -->\n((?:\|.*\n)+)", PAGES["README"])
    assert copied
    for name, text in copied:
        assert text.strip() == pages.measured(name).split("\n\n")[0]


def test_every_public_name_has_a_place() -> None:
    """Each is there, at the place that its page takes it from."""
    marks = [name for path in (ROOT / "docs" / "api").glob("*.md") for _, name in pages.MARK.findall(path.read_text())]
    for module in marks:
        for home in pages.public(module).values():
            where, _, name = home.rpartition(".")
            assert hasattr(import_module(where), name), home
    assert {"fewstep", "samplers", "samplers.guidance", "samplers.learned", "adjoint", "eval"} == set(marks)


def test_names_of_others_are_all_told() -> None:
    """44 samplers and 9 schedulers of ComfyUI, and every scheduler class of the installed diffusers."""
    import diffusers.schedulers

    comfy, stock = pages.names("comfyui"), pages.names("diffusers")
    assert comfy.count("\n") == 1 + 44 + 9
    assert stock.count("\n") == 1 + sum(name.endswith("Scheduler") for name in dir(diffusers.schedulers))
    assert "unknown" not in comfy + stock


def test_the_readme_is_short() -> None:
    assert PAGES["README"].count("\n") <= 150
