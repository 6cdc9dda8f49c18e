"""What runs under a name where solvers are compared or chosen on a command line: resolved once, then passed on.

A name is that of a registered solver, or the file of a learned artefact or of a table.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from fewstep.checks import MOST_EVALUATIONS, MOST_ROWS, evaluations
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.choosing import Chosen, Named, chosen, is_file
from fewstep.samplers.artefact.loading import as_artefact
from fewstep.samplers.building.names import checked_options
from fewstep.samplers.building.solver_entry import SOLVERS, Entry
from fewstep.samplers.grids.making import find
from fewstep.samplers.table.tableau import Tableau

KEPT = (
    "nfe",
    "noise",
    "policy",
    "progress",
)  # of what a run is told: an artefact or a table has a grid and options of its own


class Contender(str):
    """The name a solver was asked for by, which knows what that means; its file, if it is one, has been read.

    Of a name, a file, an artefact, a table or a function; a Contender of a Contender is that.
    """

    plays: Chosen

    def __new__(cls, solver: Any) -> Contender:
        if isinstance(solver, Contender):
            return solver
        plays = chosen(solver)
        if isinstance(solver, str | os.PathLike):
            name = os.fspath(solver)
        elif isinstance(plays, Artefact):
            name = f"learned {plays.hash[:12]}"
        else:
            name = plays.entry.name if isinstance(plays, Named) else plays.name
        self = super().__new__(cls, name)
        self.plays = plays
        return self

    @property
    def learned(self) -> Artefact | None:
        """The artefact, where it is one."""
        return self.plays if isinstance(self.plays, Artefact) else None

    @property
    def table(self) -> Tableau | None:
        """The table, where it is one."""
        return self.plays if isinstance(self.plays, Tableau) else None

    @property
    def entry(self) -> Entry | None:
        """The registered solver; of an artefact, the one whose weights it corrects; None of a table made by hand."""
        if isinstance(self.plays, Named):
            return self.plays.entry
        return SOLVERS.get(self.plays.name if isinstance(self.plays, Tableau) else self.plays.tables[0].tableau.name)

    @property
    def grid(self) -> str | None:
        """The grid that its name brings: "unipc on quadratic"."""
        return self.plays.grid if isinstance(self.plays, Named) else None

    @property
    def adaptive(self) -> bool:
        """Whether it decides itself how many evaluations it spends."""
        return isinstance(self.plays, Named) and self.plays.entry.adaptive

    @property
    def stochastic(self) -> bool:
        """Whether it draws noise at default options."""
        if isinstance(self.plays, Tableau):
            return self.plays.stochastic
        return self.entry is not None and self.entry.stochastic

    @property
    def nfes(self) -> tuple[int, ...] | None:
        """Numbers of evaluations it has tables for; None where it takes any."""
        if isinstance(self.plays, Named):
            return None
        return (self.plays.nfe,) if isinstance(self.plays, Tableau) else self.plays.nfes

    @cached_property
    def identity(self) -> str:
        """What tells two contenders apart: a name, or the hash of a content."""
        if isinstance(self.plays, Tableau):
            return hashlib.sha256(json.dumps(self.plays.to_dict(), sort_keys=True).encode()).hexdigest()
        return self.plays.hash if isinstance(self.plays, Artefact) else str(self)

    @property
    def label(self) -> str:
        """For tables and legends."""
        if isinstance(self.plays, Named):
            return str(self)
        what = "learned" if isinstance(self.plays, Artefact) else "table"
        if is_file(str(self)):
            return f"{what} {Path(self).name}"
        return what if isinstance(self.plays, Artefact) else self.plays.name

    def check(self, nfes: Sequence[int], grid: str | None, options: Mapping[str, Any]) -> None:
        """ValueError for options that it does not have, and for evaluations that it has no table for."""
        if isinstance(self.plays, Named):
            of_build = (
                ("afs",) if self.plays.entry.kind == "tableau" else ()
            )  # an argument of sample and build for any table
            checked_options(self.plays.entry, {k: v for k, v in options.items() if k not in of_build})
            return
        known = self.nfes or ()
        for nfe in nfes:
            if nfe not in known:
                raise ValueError(
                    f"the artefact has no table for nfe {nfe}, only for {', '.join(map(str, known))}: take one of these, or "
                    "learn it"
                    if self.learned is not None
                    else f"{self} makes {known[0]} network evaluations; got nfe {nfe}"
                )
        if grid is not None or options:
            raise ValueError(f"{self} has a grid and options of its own: leave --grid and --option away")

    def run(self, how: Mapping[str, Any], guidance: float | None) -> dict[str, Any]:
        """Arguments of `sample` for a run under a guidance scale, with what is meant in the place of its name.

        Raises:
            ValueError: an artefact learned for a guidance scale, on a pipeline that is not told which.
        """
        if isinstance(self.plays, Named):
            return {**how, "solver": str(self)}
        told = {"solver": self.plays, **{k: v for k, v in how.items() if k in KEPT}}
        if isinstance(self.plays, Tableau):
            return {**told, "nfe": None}
        if guidance is None and self.plays.guidances and how.get("policy") != "nearest":
            scales = " or ".join(f"--guidance {g:g}" for g in self.plays.guidances)
            raise ValueError(f"this artefact was learned under a guidance scale: run the pipeline with {scales}")
        return {**told, "guidance": guidance}


def contenders(
    solvers: Sequence[Any], nfes: Sequence[int], grid: str | None, options: Mapping[str, Any]
) -> list[Contender]:
    """Every solver that is meant, each read once; ValueError for what is wrong with one, before anything else is loaded.

    An unknown solver, grid or option, nfe < 1. Among several, those with a grid of their own keep it, and artefacts and
    tables run at those of the nfe that they have.
    """
    found = [Contender(solver) for solver in solvers]
    for one in found:
        alone = len(found) == 1 or isinstance(one.plays, Named)
        has = [n for n in nfes if alone or one.nfes is None or n in one.nfes]
        one.check(has or nfes, grid if alone else None, options if alone else {})
    if grid is not None:
        find(grid)
    for nfe in nfes:
        evaluations("--nfe", nfe, MOST_EVALUATIONS if all(one.adaptive for one in found) else MOST_ROWS)
    return found


def the_only(values: tuple[Any, ...] | None) -> Any:
    """The value where there is one, else None."""
    return values[0] if values is not None and len(values) == 1 else None


def learned_file(name: str) -> Contender:
    """The artefact in a file. ValueError for a name that is none, and for a file that holds something else."""
    if name != "demo" and not name.endswith(".json"):
        raise ValueError(f"--learned takes a file that `fewstep learn` wrote, NAME.json, or demo; got {name!r}")
    found = Contender(name)
    if found.learned is None:
        as_artefact(found.plays)  # says what it is instead
    return found
