"""A learned table beside the solver it started from: what was moved, and how it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import isfinite
from typing import Any

import numpy as np

from fewstep.samplers.artefact.corrections import M, base_of, remapped, same_model_times, same_weights, table_hash
from fewstep.samplers.building.resuming import boundaries
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.grids.making import make_grid
from fewstep.samplers.schedule.base import Array, NoiseSchedule
from fewstep.samplers.table.jsonfile import plainly
from fewstep.samplers.table.tableau import Tableau
from fewstep.version import __version__


@dataclass(frozen=True, eq=False)
class Learned:
    """One table of an artefact.

    Args:
        tableau: what is played: a solver like any other, on times, with weights and model times of its own.
        guidance: scale it was learned for; None where guidance was no part of the problem.
        base: JSON: what it started from, "grid" by name or times. Filled in: "solver", "options", "version", and "hash" of
            that solver compiled on the table's own boundaries, which is what the corrections are relative to.
        status: "learned", or "no-gain": nothing was certainly better than the best fixed recipe, which this table is then.
        report: JSON: errors and gains as measured. stages: JSON: what was done to it, one entry a stage.
        refused: with "no-gain", the table that was learned and is not certainly better: `sample` and a Scheduler play it as
            any table.

    Raises:
        ValueError: no Tableau of a registered solver, an unknown status, entries that JSON cannot hold.
    """

    tableau: Tableau
    guidance: float | None = None
    base: Mapping[str, Any] = field(default_factory=dict)
    status: str = "learned"
    report: Mapping[str, Any] = field(default_factory=dict)
    stages: Sequence[Any] = ()
    refused: Tableau | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.tableau, Tableau) or self.tableau.name not in SOLVERS:
            raise ValueError(f"`tableau` must be a Tableau of a solver in SOLVERS; got {self.tableau!r:.80}")
        if self.status not in ("learned", "no-gain"):
            raise ValueError(f'`status` must be "learned" or "no-gain"; got {self.status!r}')
        if self.refused is not None and (self.status != "no-gain" or self.refused.cost > self.tableau.nfe):
            raise ValueError('`refused` is a table of no more evaluations, and goes with the status "no-gain"')
        if self.guidance is not None and not isfinite(self.guidance):
            raise ValueError(f"`guidance` must be a finite number or None; got {self.guidance!r}")
        kept = {
            "guidance": None if self.guidance is None else float(self.guidance),
            "base": plainly(self._whole_base()),
            "report": plainly(dict(self.report)),
            "stages": tuple(plainly(list(self.stages))),
        }
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    def _whole_base(self) -> dict[str, Any]:
        """`base` with what can be told from the table. Options that are objects are in the table itself."""
        told = {name: v for name, v in self.tableau.options.items() if not hasattr(v, "metadata")}
        base = {"solver": self.tableau.name, "options": told, "version": __version__, **self.base}
        return base if "hash" in base else {**base, "hash": table_hash(base_of(self.tableau))}

    @property
    def nfe(self) -> int:
        """Network evaluations."""
        return self.tableau.nfe

    @cached_property
    def moved(self) -> tuple[str, ...]:
        """What differs from the base solver on the base grid: of "grid", "coef", "tau", "filter", "cache"."""
        return differences(self.tableau, self.base.get("grid"))

    @property
    def kind(self) -> str:
        """ "grid", "coef" or "tau" where only that was learned, "joint" for several, "base" for none."""
        return "joint" if len(self.moved) > 1 else (*self.moved, "base")[0]

    def movable(self) -> Tableau:
        """The table, for arithmetic relative to its base. ValueError where the base solver has changed since."""
        if self.base["hash"] != table_hash(base_of(self.tableau)):
            raise ValueError(
                f"{self.tableau.name} had other weights in fewstep {self.base['version']}, where this table was learned: it "
                "can be played as it is, but not moved or interpolated. Learn it again"
            )
        return self.tableau

    def on(self, schedule: NoiseSchedule) -> Learned:
        """The table on another schedule, moved by log-SNR; times of its base grid and what was refused do not go with it."""
        grid = self.base.get("grid")
        base = {key: value for key, value in self.base.items() if key not in ("grid", "hash")}
        if grid is None or isinstance(grid, str):
            base["grid"] = grid
        return replace(self, tableau=remapped(self.movable(), schedule), base=base, refused=None)

    @property
    def place(self) -> str:
        """Of the table in its artefact, in words."""
        return f"nfe {self.nfe}" + ("" if self.guidance is None else f", guidance {self.guidance:g}")


def differences(table: Tableau, grid: Any) -> tuple[str, ...]:
    """Which of "grid", "coef", "tau" are not those of the base solver on the grid given by name or times."""
    base = base_of(table)
    same = {
        "grid": _on_grid(table, grid),
        "coef": same_weights(table, base),
        "tau": same_model_times(table, base),
    }
    own = ("filter",) * (table.filters is not None) + ("cache",) * (table.cache is not None)
    return tuple(name for name, equal in same.items() if not equal) + own


def _on_grid(table: Tableau, grid: Any) -> bool:
    """Whether the boundaries are those of a grid, between their ends or the schedule's own."""
    times, schedule = boundaries(table), table.schedule
    ends = [(None, None)] if grid is not None and not isinstance(grid, str) else [(None, None), (times[0], times[-1])]
    return any(
        np.allclose(make_grid(grid, schedule, len(times) - 1, *pair), times, rtol=1e-9, atol=1e-12) for pair in ends
    )


def safety(table: Tableau) -> dict[str, Any]:
    """How far rounding and errors of the network can be amplified: weights on outputs, in one row and in the result."""
    lam = table.nodes.lam[np.isfinite(table.nodes.lam)]
    return {
        "consistent": bool(table.conserves),
        "largest_weight": float(np.abs(table.W[:, :, M : M + table.history]).max()),
        "weights_of_result": float(np.abs(weights_of_result(table)).sum(0).max()),
        "smallest_gap": float(np.diff(lam).min()) if len(lam) > 1 else None,
        **(
            {}
            if table.cache is None
            else {"cost": table.cost, "largest_share": float(np.abs(table.cache.weights).max())}
        ),
        **({} if table.filters is None else {"largest_filter": float(np.abs(table.filters).sum((-1, -2)).max())}),
    }


def weights_of_result(table: Tableau) -> Array:
    """(nfe, *shape): the weight of every network output in the result."""
    n, cells = table.nfe, table.W.shape[3:]
    lines = np.zeros((2, n, *cells))  # carry and input as sums over the outputs
    for k in range(n):
        lines = np.einsum("ij...,jk...->ik...", table.W[k, :, :2], lines)
        for j in range(min(table.history, k + 1)):
            lines[:, k - j] += table.W[k, :, M + j]
    return np.asarray(lines[1])
