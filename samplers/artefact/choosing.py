"""What a `solver` argument means, found out once: a name, a function, a table, a learned artefact, or the file of one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.held import Held
from fewstep.samplers.artefact.loading import load, load_demo_artefact, loaded
from fewstep.samplers.building.names import solver_of
from fewstep.samplers.building.solver_entry import SOLVERS, Entry
from fewstep.samplers.table.tableau import Tableau


class Named(NamedTuple):
    """A solver by its name, or a function of one, and the grid that a folk name brings."""

    entry: Entry
    grid: str | None


Chosen = Named | Tableau | Artefact


def is_file(solver: Any) -> bool:
    """Whether a solver is meant by the file it is in: a path, NAME.json, or "demo", the artefact of the embedded model."""
    return isinstance(solver, os.PathLike) or (
        isinstance(solver, str) and (solver == "demo" or solver.endswith(".json"))
    )


def chosen(solver: Any) -> Chosen:
    """The solver that is meant; what was chosen already is returned as it is, and a file is read once.

    Raises:
        ValueError: an unknown name, a file that is neither a table nor an artefact, anything else.
    """
    if isinstance(solver, Named | Tableau | Artefact):
        return solver
    if isinstance(solver, Held):
        made: Chosen = solver.made
        return made
    if solver == "demo":
        return load_demo_artefact()
    if is_file(solver):
        if not os.path.isfile(solver):
            raise ValueError(
                f"there is no file {os.fspath(solver)!r}: `solver` is a name, or the path of a saved table or artefact"
            )
        return load(solver)
    if isinstance(solver, Mapping):
        return loaded(solver, "the saved solver")
    if callable(solver):
        for entry in SOLVERS.values():
            if entry.fn is solver:
                return Named(entry, None)
    return Named(*solver_of(solver))


def held(what: Tableau | Artefact) -> Held:
    """A table or an artefact as an entry of a config."""
    return Held(what.to_dict(), what)
