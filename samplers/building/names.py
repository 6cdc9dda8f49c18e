"""Which solver is meant: by a name, an alias, a folk name with its grid, or a function; and with which options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewstep.checks import unknown
from fewstep.registry import plain
from fewstep.samplers.building import options as opt
from fewstep.samplers.building.solver_entry import SOLVERS, Entry, entry_for

GRID_WORDS = ("karras", "exponential", "beta", "lu", "ays")  # that folk names end with


def resolve(name: str) -> tuple[str, str | None]:
    """(solver, grid or None) of a name, an alias or a folk name such as "DPM++ 2M Karras".

    Raises ValueError with near matches for a name nobody knows.
    """
    if not isinstance(name, str):
        raise ValueError(f"`solver` must be a name; got {type(name).__name__}. Names: {', '.join(SOLVERS)}")
    found, grid, rest = SOLVERS.named(name), None, plain(name)
    for word in GRID_WORDS:
        if found is None and rest.endswith(word):
            rest, grid = rest.removesuffix(word), word
            found = SOLVERS.named(rest)
    if found is None:
        raise unknown("solver", name, SOLVERS)
    return found, grid


def solver_of(solver: Any) -> tuple[Entry, str | None]:
    """(entry, grid or None) of a name as in `resolve`, of a function `f(path, *, options) -> Solution`, or of an entry."""
    if isinstance(solver, Entry):
        return solver, None
    if callable(solver):
        return entry_for(getattr(solver, "__name__", type(solver).__name__), solver), None
    name, grid = resolve(solver)
    return SOLVERS[name], grid


def checked_options(entry: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults overlaid with the given options; ValueError for one the solver does not have.

    Every solver with a table has a `limiter`, see building/limiter.py: False gives the published rows.
    """
    defaults = {**entry.options, "limiter": True} if entry.kind == "tableau" else entry.options
    for key in options:
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise ValueError(f"solver {entry.name!r} has no option {key!r}; its options: {known}")
    chosen = {**defaults, **options}
    if "limiter" in defaults:
        opt.one_of(entry.name, "limiter", chosen["limiter"], (True, False))
    return chosen
