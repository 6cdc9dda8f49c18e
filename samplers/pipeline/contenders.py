"""What runs under a name where solvers are compared: a registered solver, or a learned artefact, by the file it is in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.loading import as_artefact
from fewstep.samplers.building.names import checked_options, resolve
from fewstep.samplers.building.solver_entry import SOLVERS, Entry
from fewstep.samplers.grids.making import find

KEPT = ("nfe", "noise", "progress")  # of what a run is told: an artefact has a grid and options of its own


def artefact_of(solver: Any) -> Artefact | None:
    """The artefact that is meant by itself or by its file, NAME.json ("demo": the embedded one); None for anything else."""
    if isinstance(solver, str) and not _is_file(solver):
        return None
    return as_artefact(solver) if isinstance(solver, (str, Artefact)) else None


def _is_file(solver: str) -> bool:
    return solver == "demo" or solver.endswith(".json")


def learned_file(name: str) -> str:
    """The file of an artefact. ValueError for a name that is none."""
    if not _is_file(name):
        raise ValueError(f"--learned takes a file that `fewstep learn` wrote, NAME.json, or demo; got {name!r}")
    return name


def entry_of(solver: Any) -> Entry:
    """The registered solver: of an artefact, the one whose weights it corrects."""
    learned = artefact_of(solver)
    return SOLVERS[resolve(solver)[0] if learned is None else learned.tables[0].tableau.name]


def identity(solver: Any) -> str:
    """What tells two contenders apart: a name, or the hash of an artefact's content."""
    learned = artefact_of(solver)
    return str(solver) if learned is None else learned.hash


def label(solver: Any) -> str:
    """For tables and legends."""
    if isinstance(solver, str):
        return f"learned {Path(solver).name}" if _is_file(solver) else solver
    return str(solver) if artefact_of(solver) is None else "learned"


def run_of(how: Mapping[str, Any], guidance: float | None) -> dict[str, Any]:
    """Arguments of `sample` for a run under a guidance scale, with the artefact in the place of its name.

    Raises:
        ValueError: an artefact learned for a guidance scale, on a pipeline that is not told which.
    """
    learned = artefact_of(how.get("solver", ""))
    if learned is None:
        return dict(how)
    if guidance is None and learned.guidances:
        scales = " or ".join(f"--guidance {g:g}" for g in learned.guidances)
        raise ValueError(f"this artefact was learned under a guidance scale: run the pipeline with {scales}")
    return {"solver": learned, "guidance": guidance, **{k: v for k, v in how.items() if k in KEPT}}


def check_nfe(learned: Artefact, nfe: int) -> None:
    """ValueError where an artefact has no table for so many evaluations."""
    if nfe not in learned.nfes:
        known = ", ".join(map(str, learned.nfes))
        raise ValueError(f"the artefact has no table for nfe {nfe}, only for {known}: take one of these, or learn it")


def the_only(values: tuple[Any, ...]) -> Any:
    """The value where there is one, else None."""
    return values[0] if len(values) == 1 else None


def checked_names(solvers: Sequence[str], nfes: Sequence[int], grid: str | None, options: dict[str, Any]) -> None:
    """ValueError for an unknown solver, grid or option and for nfe < 1, before anything is loaded.

    A solver may be a learned artefact, by its file: it has a table for every nfe, and a grid and options of its own.
    """
    for name in solvers:
        learned = artefact_of(name)
        if learned is None:
            checked_options(SOLVERS[resolve(name)[0]], options)
            continue
        for nfe in nfes:
            check_nfe(learned, nfe)
        if len(solvers) == 1 and (grid is not None or options):
            raise ValueError(f"{name} has a grid and options of its own: leave --grid and --option away")
    if grid is not None:
        find(grid)
    for nfe in nfes:
        if nfe < 1:
            raise ValueError(f"`--nfe` counts network evaluations, at least 1; got {nfe}")
