"""The house as its syntax trees tell it: source files, and every import between them wherever it stands."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from places import ROOT

TOPS = {"samplers": "fewstep.samplers", "adjoint": "fewstep.adjoint", "eval": "fewstep.eval", "fewstep": "fewstep"}


@dataclass(frozen=True)
class Arrow:
    """File `source` imports from file `target` (paths from the root) in this line; inside: within a function."""

    source: str
    target: str
    line: int
    inside: bool
    typing: bool


@cache
def files() -> tuple[str, ...]:
    """Source files of the four folders, as paths from the root; links are not followed."""
    found = []
    for top in TOPS:
        for path in (ROOT / top).rglob("*.py"):
            inner = path.relative_to(ROOT)
            if not any((ROOT / parent).is_symlink() for parent in inner.parents):
                found.append(str(inner))
    return tuple(sorted(found))


def dotted(path: str) -> str:
    """Module name of a source file."""
    first, *rest = path.removesuffix(".py").split("/")
    return ".".join([TOPS[first], *rest]).removesuffix(".__init__")


def folder(path: str) -> str:
    """The folder of a file; a face (`__init__.py`) stands above its folder and is a room of its own."""
    return path if path.endswith("__init__.py") else path.rpartition("/")[0]


@cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def _imports(node: ast.AST, inside: bool, typing: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside, typing
        deeper = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checked = typing or (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test))
        yield from _imports(child, deeper, checked)


def imports(path: str) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool, bool]]:
    """(statement, inside a function?, for type checkers only?)."""
    return _imports(tree(path), False, False)


@cache
def arrows() -> tuple[Arrow, ...]:
    """Every import of one source file from another."""
    modules = {dotted(path): path for path in files()}
    found = []
    for path in files():
        for statement, inside, typing in imports(path):
            for name in _targets(statement, path):
                while name and name not in modules:
                    name = name.rpartition(".")[0]
                if name and modules[name] != path:
                    found.append(Arrow(path, modules[name], statement.lineno, inside, typing))
    return tuple(found)


def _targets(statement: ast.Import | ast.ImportFrom, path: str) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    base = statement.module or ""
    if statement.level:
        parts = dotted(path).split(".")
        parts = parts if path.endswith("__init__.py") else parts[:-1]
        base = ".".join([*parts[: len(parts) - statement.level + 1], *([base] if base else [])])
    if not base.startswith("fewstep"):
        return [base]
    return [f"{base}.{alias.name}" for alias in statement.names]
