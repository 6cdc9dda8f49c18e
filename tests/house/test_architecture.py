"""The house: every noun a folder, folders import only what lies below them, names explain themselves.

Imports in functions and for type checkers count. What is broken is told in one sentence, the offending arrow first.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import combinations
from pathlib import Path

import house
import pytest
from places import ROOT, TESTS

CATALOGUES = {  # many files of one kind behind one registry: flat is easier to read than nested
    "samplers/solvers",
    "samplers/drivers",
    "samplers/guidance",
    "samplers/learned/methods",
    "eval/metrics",
}
DOORS = {  # conveniences that stand on a higher floor than their class: found by name when they are used
    "fewstep.samplers.config.reading:schedule_from_config",  # NoiseSchedule.from_config
    "fewstep.samplers.pipeline.as_denoiser:denoiser_from_pipeline",  # Denoiser.from_pipeline
    "fewstep.samplers.table.stored:to_dict",  # Tableau.to_dict
    "fewstep.samplers.table.stored:save",  # Tableau.save
    "fewstep.eval.gaussian.statfile:save_statistics",  # FeatureStatistics.save
    "fewstep.eval.gaussian.statfile:load",  # FeatureStatistics.load
}
HELP, EXTRA, SLOW = "--help must not import it", "an optional extra", "slow to import, seldom needed"
INSIDE = {  # imports within functions: file -> why
    "adjoint/commands/tune_options.py": HELP,
    "adjoint/likelihood/log_density.py": SLOW,
    "adjoint/optimise/noise_space.py": SLOW,
    "eval/cli.py": HELP,
    "eval/compare/command.py": HELP,
    "eval/shared_noise/measures.py": EXTRA,
    "eval/extractors/base.py": SLOW,
    "eval/extractors/inception.py": SLOW,
    "eval/extractors/vision.py": EXTRA,
    "eval/images/decode.py": SLOW,
    "eval/passes/collect.py": SLOW,
    "eval/group/launching.py": SLOW,
    "fewstep/__main__.py": EXTRA,
    "fewstep/arguments.py": HELP,
    "fewstep/cli.py": HELP,
    "fewstep/devices.py": HELP,
    "fewstep/output/comparison_page.py": SLOW,
    "fewstep/output/page.py": SLOW,
    "fewstep/output/pictures.py": SLOW,
    "fewstep/registry.py": SLOW,
    "samplers/artefact/file.py": SLOW,
    "samplers/artefact/picking.py": SLOW,
    "samplers/building/compiling.py": SLOW,
    "samplers/commands/catalogue.py": HELP,
    "samplers/commands/sample_options.py": HELP,
    "samplers/drivers/adaptive_loop.py": SLOW,
    "samplers/drivers/base_tables.py": SLOW,
    "samplers/grids/levels.py": SLOW,
    "samplers/guidance/resampling.py": SLOW,
    "samplers/learned/commands.py": HELP,
    "samplers/learned/report/table_pictures.py": SLOW,
    "samplers/learned/yardsticks/ready_made.py": EXTRA,
    "samplers/noise/sources.py": SLOW,
    "samplers/pipeline/source.py": SLOW,
    "samplers/rollouts/in_a_scheduler.py": SLOW,
    "samplers/sampling/loop.py": SLOW,
    "samplers/scheduler/binding.py": SLOW,
    "samplers/scheduler/timetable.py": SLOW,
    "samplers/schedule/discrete.py": SLOW,
    "samplers/schedule/inverse_gamma.py": SLOW,
    "samplers/schedule/poisson.py": SLOW,
    "samplers/table/statistics.py": SLOW,
}
MOST_INSIDE, MOST_FILES, MOST_LINES, MEDIAN_LINES, MOST_POSITIONAL = 70, 10, 300, 120, 7


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """The rooms of a circle of arrows, in order; none where there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])[::-1]
    return []


def told(rooms: Iterable[str], arrows: Iterable[house.Arrow]) -> str:
    """One arrow of a circle, as a sentence."""
    pairs = set(zip(list(rooms)[:-1], list(rooms)[1:], strict=True))
    for arrow in arrows:
        if (house.folder(arrow.source), house.folder(arrow.target)) in pairs or (arrow.source, arrow.target) in pairs:
            return f"{arrow.source}:{arrow.line} imports {arrow.target}, which leads back to it: {' -> '.join(rooms)}"
    return ""


def test_no_circle_of_files() -> None:
    edges: dict[str, set[str]] = defaultdict(set)
    for arrow in house.arrows():
        edges[arrow.source].add(arrow.target)
    rooms = circle(edges)
    assert not rooms, told(rooms, house.arrows())


def test_folders_import_only_what_lies_below() -> None:
    """No circle of folders is the same as floors: each folder can be given one above all that it imports."""
    edges: dict[str, set[str]] = defaultdict(set)
    for arrow in house.arrows():
        source, target = house.folder(arrow.source), house.folder(arrow.target)
        if source != target:
            edges[source].add(target)
    rooms = circle(edges)
    assert not rooms, told(rooms, house.arrows())


def test_nobody_inside_imports_a_face() -> None:
    """`__init__.py` faces are for users; inside, a module names the module that it needs."""
    faces = {path for path in house.files() if path.endswith("__init__.py") and (ROOT / path).stat().st_size}
    offending = [a for a in house.arrows() if a.target in faces and a.source not in faces]
    assert not offending, f"{offending[0].source}:{offending[0].line} imports the face {offending[0].target}"


def doors() -> Iterator[tuple[str, str]]:
    for path in house.files():
        for node in ast.walk(house.tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "door":
                (argument,) = node.args
                assert isinstance(argument, ast.Constant), f"{path}:{node.lineno}: a door is named by a literal"
                yield path, argument.value


def test_doors_are_listed_and_few() -> None:
    assert {name for _, name in doors()} == DOORS and len(DOORS) <= 6
    for name in DOORS:
        module, _, attribute = name.partition(":")
        assert hasattr(importlib.import_module(module), attribute), name


def test_imports_within_functions_have_a_reason() -> None:
    found = Counter(path for path in house.files() for _, inside, _ in house.imports(path) if inside)
    assert not set(found) - set(INSIDE), (
        f"an import within a function without a reason here: {set(found) - set(INSIDE)}"
    )
    assert not set(INSIDE) - set(found), f"no import within a function any more: {set(INSIDE) - set(found)}"
    assert sum(found.values()) <= MOST_INSIDE, found


def test_files_can_be_read_in_one_sitting() -> None:
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in house.files()}
    longest = max(lines, key=lambda path: lines[path])
    assert lines[longest] <= MOST_LINES, f"{longest} has {lines[longest]} lines: it is two ideas"
    assert sorted(lines.values())[len(lines) // 2] <= MEDIAN_LINES


def test_folders_hold_few_files() -> None:
    held = Counter(path.rpartition("/")[0] for path in house.files())
    crowded = [f"{folder} holds {n} files" for folder, n in held.items() if n > MOST_FILES and folder not in CATALOGUES]
    assert not crowded, f"{crowded[0]}: at most {MOST_FILES}, or it is a catalogue"


def apart(one: str, other: str) -> int:
    """Edits between two words."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        next_row = [i]
        for j, b in enumerate(other, 1):
            next_row.append(min(row[j] + 1, next_row[-1] + 1, row[j - 1] + (a != b)))
        row = next_row
    return row[-1]


# Words of one ending that mean different things all the same.
DIFFERENT = {("reading", "spacing"), ("learning", "planning")}


def test_names_tell_files_apart() -> None:
    """No two files of one name in a top folder, none in one folder that differ by three letters."""
    named: dict[tuple[str, str], list[str]] = defaultdict(list)
    rooms: dict[str, list[str]] = defaultdict(list)
    for path in house.files():
        if not path.endswith("__.py"):
            folder, _, name = path.removesuffix(".py").rpartition("/")
            named[path.split("/")[0], name].append(path)
            rooms[folder].append(name)
    twins = [paths for paths in named.values() if len(paths) > 1]
    assert not twins, f"one name for {' and '.join(twins[0])}"
    for folder, names in rooms.items():
        for pair in combinations(sorted(names), 2):
            if min(map(len, pair)) > 4 and pair not in DIFFERENT:
                assert apart(*pair) > 3, f"{folder}: {pair[0]} and {pair[1]} are hard to tell apart"


FACES = (
    "fewstep",
    "fewstep.samplers",
    "fewstep.samplers.guidance",
    "fewstep.samplers.learned",
    "fewstep.adjoint",
    "fewstep.eval",
)


def test_no_module_hides_a_public_name() -> None:
    """Python puts a submodule into its package under its name, over what was there."""
    for face in FACES:
        package = importlib.import_module(face)
        inner = {module.name for module in pkgutil.iter_modules(package.__path__)}
        hidden = inner & {name for name in package.__all__ if not inspect.ismodule(getattr(package, name))}
        assert not hidden, f"{face}: module {hidden} hides a public name"


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in house.files():
        for node in ast.walk(house.tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield path, node


# Signatures that others fix: what pipelines call, and what a config's entries are.
FIXED = {
    ("samplers/scheduler/scheduler.py", "__init__"),
    ("samplers/scheduler/scheduler.py", "step"),
    ("samplers/pipeline/probe.py", "step"),
    ("fewstep/demo/pipeline.py", "__call__"),
}


def test_argument_lists_are_short() -> None:
    for path, function in functions():
        positional = [a.arg for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls")]
        if (path, function.name) not in FIXED:
            assert len(positional) <= MOST_POSITIONAL, (
                f"{path}:{function.lineno}: {function.name} takes {len(positional)}"
            )


def test_every_file_says_what_it_is() -> None:
    silent = [
        path for path in house.files() if (ROOT / path).stat().st_size and not ast.get_docstring(house.tree(path))
    ]
    assert not silent, f"{silent[0]} does not say what it is"


def test_tests_mirror_the_tree() -> None:
    """A folder of tests stands for a folder of the house; shared functions are helpers, never in a test module."""
    tops = {"samplers", "adjoint", "eval", "fewstep"}
    folders = {str(Path(path).parent) for path in house.files()}
    for path in TESTS.rglob("test_*.py"):
        place = path.parent.relative_to(TESTS)
        assert place.parts and place.parts[0] in tops | {"house"}, f"{path.name} lies in no folder of the tree"
        if place.parts[0] != "house":
            assert str(place) in folders, f"tests/{place} mirrors nothing"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert not node.module.startswith("test_"), f"{path.name} imports from a test, {node.module}"


@pytest.mark.parametrize("edges", [{"a": {"b"}, "b": {"a"}}, {"a": {"b"}, "b": {"c"}, "c": {"a"}}])
def test_circles_are_found(edges: dict[str, set[str]]) -> None:
    assert circle(edges) and not circle({"a": {"b"}, "b": {"c"}})


def test_text_is_read_and_written_in_utf_8() -> None:
    """What a machine's own encoding makes of a file is nobody's business."""
    for path in house.files():
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                told = {keyword.arg for keyword in node.keywords}
                of_text = node.func.attr in ("read_text", "write_text")
                assert not of_text or "encoding" in told, f"{path}:{node.lineno}: say encoding='utf-8'"
