"""Public names have their real types, for type checkers and editors: a page of good and bad calls."""

from __future__ import annotations

import ast
import builtins
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

PAGE = Path(__file__).with_name("typed_page.py")
FACES = (
    "fewstep",
    "fewstep.samplers",
    "fewstep.samplers.guidance",
    "fewstep.samplers.learned",
    "fewstep.samplers.scheduler",
    "fewstep.adjoint",
    "fewstep.eval",
    "fewstep.eval.extractors",
    "fewstep.eval.images",
    "fewstep.demo",
)


def told(arguments: list[str], cwd: Path) -> dict[int, set[str]]:
    """{line: error codes} that mypy finds on the page."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--show-error-codes", *arguments]
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert not result.stderr, result.stderr
    found: dict[int, set[str]] = {}
    for line in result.stdout.splitlines():
        if ": note: " in line:
            continue
        place = re.match(rf".*{PAGE.name}:(\d+): error: .*\[([\w-]+)\]$", line)
        assert place, line
        found.setdefault(int(place[1]), set()).add(place[2])
    return found


def wanted() -> dict[int, set[str]]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {n: {line.rpartition("# E: ")[2]} for n, line in enumerate(lines, 1) if "# E: " in line}


@pytest.mark.slow
def test_a_type_checker_sees_good_and_bad_calls() -> None:
    assert told([str(PAGE.relative_to(ROOT))], ROOT) == wanted()
    assert len(wanted()) > 10


@pytest.mark.slow
def test_the_same_from_another_folder(tmp_path: Path) -> None:
    """As a user's project sees the package: installed in the environment, from elsewhere."""
    page = tmp_path / PAGE.name
    page.write_text(PAGE.read_text(encoding="utf-8"))
    found = told(["--python-executable", sys.executable, "--ignore-missing-imports", page.name], tmp_path)
    assert found == wanted()


@pytest.mark.parametrize("package", FACES)
def test_a_face_is_its_stub(package: str) -> None:
    """Every name of the stub is there, `__all__` is that of the stub, and nothing public hides a built-in function."""
    module = importlib.import_module(package)
    assert module.__file__ is not None
    stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    named = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    (public,) = [ast.literal_eval(node.value) for node in stub.body if isinstance(node, ast.Assign)]
    for name in named:
        assert name is not None and getattr(module, name) is not None
    assert set(public) == set(module.__all__) <= named
    assert not {name for name in public if hasattr(builtins, name)}
    with pytest.raises(AttributeError, match="has no attribute 'nobody'"):
        _ = module.nobody


def test_import_star_leaves_the_built_in_functions() -> None:
    space: dict[str, object] = {}
    exec("from fewstep import *\nfrom fewstep.samplers import *\nfrom fewstep.eval import *", space)
    assert "eval" not in space and space["NoiseSchedule"] is importlib.import_module("fewstep").NoiseSchedule
