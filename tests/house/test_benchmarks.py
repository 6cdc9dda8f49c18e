"""Published tables: each has a benchmark, which writes it whole or not at all, and the round of them can be stopped."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from places import ROOT, TESTS

sys.path.append(str(TESTS / "benchmarks"))  # behind the helpers, one of which has the name of a benchmark
import bench
import kept

BENCHMARKS = TESTS / "benchmarks"

TOLD = {"title": "t", "command": "c", "measured": "2026-01-01", "columns": ["", "theirs 1.2.3"], "rows": [["a", "1"]]}


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Three benchmarks, one of which fails; each writes down that it ran."""
    ran = tmp_path / "ran"
    texts = {"one": "", "two": "raise SystemExit('no such luck')", "three": ""}
    table = {}
    for name, text in texts.items():
        script = tmp_path / f"{name}.py"
        script.write_text(
            f"import sys\nopen({str(ran)!r}, 'a').write(' '.join(['{name}', *sys.argv[1:]]) + '\\n')\n{text}"
        )
        table[name] = bench.Benchmark(str(script))
    monkeypatch.setattr(bench, "TABLES", table)
    monkeypatch.setattr(bench, "STATE", tmp_path / "state")
    yield SimpleNamespace(ran=ran, state=tmp_path / "state")


def tables() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in kept.MEASURED.glob("*.json")}


def test_each_table_has_a_benchmark_and_the_other_way_round() -> None:
    assert set(bench.TABLES) == set(tables())
    for name, one in bench.TABLES.items():
        script = Path(one.command[0])
        tree = ast.parse(script.read_text(encoding="utf-8"))
        used = {
            ast.unparse(n) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for n in node.decorator_list
        }
        assert "kept.keep" in used and "kept.show(" in ast.unparse(tree), name
        assert set(one.files) <= set(bench.FILES)


@pytest.mark.slow
def test_benchmarks_take_the_arguments_of_the_registry() -> None:
    """In a process of its own: scripts look for their helpers by themselves."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import bench\n"
        "from runpy import run_path\n"
        "for name, one in bench.TABLES.items():\n"
        "    if not one.files:\n"
        "        script, *arguments = one.command\n"
        "        main = run_path(script)['main']\n"
        "        assert main.make_context(name, [*arguments, '--keep']).params['keep'], name\n"
    )
    subprocess.run([sys.executable, "-c", code, str(BENCHMARKS)], check=True, cwd=ROOT)


def test_a_table_is_written_whole_with_its_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / "adaptive.py"), "--most", "6 7", "--keep"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "it.json").write_text(json.dumps(TOLD))
    kept.write("it", ["", "theirs 1.3"], [("a", "2"), ("b", "3")], tmp_path)
    told = json.loads((tmp_path / "it.json").read_text())
    assert list(told) == list(TOLD) and told["title"] == "t" and told["measured"] > "2026-01-01"
    assert told["command"] == "OMP_NUM_THREADS=1 python tests/benchmarks/adaptive.py --most '6 7'"
    assert told["columns"] == ["", "theirs 1.3"] and told["rows"] == [["a", "2"], ["b", "3"]]
    assert [path.name for path in tmp_path.iterdir()] == ["it.json"]


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        (["", "ours"], [("a", "1")], "measured were 1 rows under"),
        (["", "theirs 1.2.3"], [], "measured were 0 rows"),
        (["", "theirs 1.2.3"], [("a",)], r"cells a row: \[1\]"),
        (["", "theirs 1.2.3"], [("a", 1.0)], "a cell is a string"),
    ],
)
def test_a_table_of_another_shape_is_refused(columns: Any, rows: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text(json.dumps(TOLD))
    with pytest.raises(ValueError, match=words):
        kept.write("it", columns, rows, tmp_path)
    assert json.loads((tmp_path / "it.json").read_text()) == TOLD
    with pytest.raises(ValueError, match="is not there: begin it"):
        kept.write("other", columns, rows, tmp_path)


def test_files_are_as_they_are_written() -> None:
    """A table that was changed by hand shows it."""
    for name, told in tables().items():
        assert kept.dumped(told) == (kept.MEASURED / f"{name}.json").read_text(encoding="utf-8"), name


def test_numbers_as_they_are_shown() -> None:
    assert [kept.power(x) for x in (6.54e-4, 1e-13)] == ["6.5e-4", "1.0e-13"] and kept.power(8.4e-5, 0) == "8e-5"
    assert [kept.few(x) for x in (20_312.0, 786.0, 2.21, 0.0038, 9e-4)] == ["20000", "790", "2.2", "0.0038", "0.0009"]
    assert kept.least_bold([["1", "2"], ["1", "-"]], [[1.01, 2.0], [1.0, float("inf")]]) == [
        ["**1**", "**2**"],
        ["**1**", "-"],
    ]


@pytest.mark.parametrize(("model", "name"), [("demo", "league_digits"), ("sixteen", "league_sixteen")])
def test_the_league_s_tables_are_those_of_its_figures(model: str, name: str) -> None:
    league = import_module("league")
    rows = [row for row in json.loads(league.ALL.read_text()) if row["model"] == model]
    assert league.shown(rows) == (tables()[name]["columns"], tables()[name]["rows"])


def test_a_failure_stops_no_other_and_what_is_done_is_not_done_again(scripts: SimpleNamespace) -> None:
    first = CliRunner().invoke(bench.main, [])
    assert first.exit_code == 1 and "two: exit 1: no such luck" in first.output
    assert scripts.ran.read_text() == "one --keep\ntwo --keep\nthree --keep\n"
    second = CliRunner().invoke(bench.main, [])
    assert second.exit_code == 1 and second.output.count("measures it anew") == 2
    assert scripts.ran.read_text().splitlines()[3:] == ["two --keep"]
    half = scripts.state / kept.state_name(bench.TABLES["one"].command)
    half.mkdir()
    assert CliRunner().invoke(bench.main, ["--again"]).exit_code == 1 and not half.exists()
    assert scripts.ran.read_text().splitlines()[4:] == ["one --keep", "two --keep", "three --keep"]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    one = bench.Benchmark("restart.py", ("mnist.npz",), ("no_such_package",))
    assert one.lacks(tmp_path).startswith("mnist.npz in") and one.lacks(tmp_path).endswith(
        "pip install no_such_package"
    )


def test_a_stopped_benchmark_finds_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "STATE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["league.py", "--steps", "3"])
    with pytest.raises(KeyboardInterrupt), kept.resumable() as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    monkeypatch.setattr(sys, "argv", ["league.py", "--steps", "3", "--keep"])
    with kept.resumable() as again:
        assert (again / "half").exists()
    assert not again.exists()
