"""Which solver is meant: by a name, an alias, a name with its grid ("DPM++ 2M Karras", "unipc on quadratic"), or a function;
and with which options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fewstep.checks import unknown
from fewstep.samplers.building import options as opt
from fewstep.samplers.building.folk_names import BOUND, GRID_WORDS, NAMES, REFUSED, spelling
from fewstep.samplers.building.solver_entry import SOLVERS, Entry, entry_for
from fewstep.samplers.grids.making import find


def resolve(name: str) -> tuple[str, str | None]:
    """(solver, grid or None) of a name, an alias, "SOLVER on GRID", or a folk name such as "DPM++ 2M Karras".

    A folk name may also bind options, such as "uni_pc" weights="bh1": `solver_of` gives the entry with them.

    Raises:
        ValueError: a name nobody knows, with near matches; one that is known and no solver, with the reason.
    """
    found, _, grid = _meant(name)
    return found, grid


def _meant(name: str) -> tuple[str, Mapping[str, Any], str | None]:
    """(solver, options that the name binds, grid or None)."""
    if not isinstance(name, str):
        raise ValueError(f"`solver` must be a name; got {type(name).__name__}. Names: {', '.join(SOLVERS)}")
    solver, on, grid = name.partition(" on ")
    if on:
        find(grid)
        return (*_meant(solver)[:2], grid.strip())
    word = spelling(name)
    if (found := _solver_word(word)) is not None:
        return (*found, None)
    for end, grid in GRID_WORDS.items():
        if word.endswith(end) and (found := _solver_word(word.removesuffix(end))) is not None:
            return (*found, grid)
    if word in REFUSED:
        raise ValueError(f"{name!r} is no solver here: {REFUSED[word]}")
    raise unknown("solver", name, [*SOLVERS, *NAMES])


def _solver_word(word: str) -> tuple[str, Mapping[str, Any]] | None:
    """(solver, options that the name binds) of a plain spelling: a registered name or alias, then others' names."""
    for spelled in dict.fromkeys((word, word.removesuffix("gpu"))):
        found = SOLVERS.named(spelled)
        if spelled in BOUND and found in (None, BOUND[spelled][0]):
            return BOUND[spelled]
        if found is not None:
            return found, {}
    return None


def solver_of(solver: Any) -> tuple[Entry, str | None]:
    """(entry, grid or None) of a name as in `resolve`, of a function `f(path, *, options) -> Solution`, or of an entry.

    The entry of a name that binds options has these as its defaults.
    """
    if isinstance(solver, Entry):
        return solver, None
    if callable(solver):
        return entry_for(getattr(solver, "__name__", type(solver).__name__), solver), None
    name, bound, grid = _meant(solver)
    return SOLVERS[name].with_defaults(bound), grid


def checked_options(entry: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults overlaid with the given options; ValueError for one the solver does not have."""
    for key in options:
        if key not in entry.options:
            known = ", ".join(entry.options) or "none"
            raise ValueError(f"solver {entry.name!r} has no option {key!r}; its options: {known}")
    chosen = {**entry.options, **options}
    if entry.kind == "tableau":
        opt.one_of(entry.name, "limiter", chosen["limiter"], (True, False))
    return chosen
