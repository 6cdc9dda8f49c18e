"""Grids of published tables: levels that others found by search, for one model each."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any

import numpy as np

from fewstep.checks import unknown
from fewstep.samplers.grids.grid_entry import grid
from fewstep.samplers.grids.levels import by_table
from fewstep.samplers.schedule.base import Array, NoiseSchedule

_GITS = "Chen et al., On the Trajectory Regularity of ODE-based Diffusion Sampling, 2024, arXiv 2405.11326"
_OPTIMAL = "Pei et al., Optimal Stepsize for Diffusion Sampling, 2025, arXiv 2503.21774"


@lru_cache(maxsize=1)
def _tables() -> Any:
    return json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))


@grid("gits", _GITS)
def gits(schedule: NoiseSchedule, n: int, t_start: float, t_end: float, *, coefficient: float = 1.2) -> Array:
    """GITS' levels for Stable Diffusion 1, a row for every n to 20 (beyond: that of 20, interpolated), stretched to the ends.

    coefficient: of 0.8, 0.85, .. 1.5, what an error counts for the steps after it; the less, the more large levels. 1.2 is the
    published default; `learn(..., method="gits")` finds the levels of a model.
    """
    table = _tables()["gits"]
    known = {float(text): rows for text, rows in table["rows"].items()}
    if coefficient not in known:
        raise ValueError(
            f"`coefficient` must be one of {', '.join(table['rows'])}, for which GITS' levels are published; got "
            f"{coefficient!r}"
        )
    if n == 1:
        return np.array([t_start, t_end])
    row = known[coefficient][min(n, 20) - 2]
    return by_table(schedule, [table["levels"][i] for i in row], n, t_start, t_end)


@grid("optimal_steps", _OPTIMAL)
def optimal_steps(schedule: NoiseSchedule, n: int, t_start: float, t_end: float, *, table: str = "wan") -> Array:
    """OptimalSteps' flow times of "wan", "flux" or "chroma", their log interpolated to any n; may begin below t_start.

    On other schedules flow time is sigma / (alpha + sigma). A shortened run has the times below t_start.
    """
    known = _tables()["optimal_steps"]
    if table not in known:
        raise unknown("OptimalSteps table", table, known)
    first, last = np.exp(-np.logaddexp(0.0, schedule.lam(np.array([t_start, t_end]))))
    top = min(float(first), known[table][0])
    low = float(last) if last > 0 else min(known[table][-1], 0.5 * top)
    levels = [top, *(r for r in known[table] if low * (1 + 1e-9) < r < top * (1 - 1e-9)), low]  # one level is not two
    place = np.linspace(0, len(levels) - 1, n + 1)
    r = np.exp(np.interp(place, np.arange(len(levels)), np.log(levels)))
    with np.errstate(divide="ignore"):
        times = np.array(schedule.t_of_lam(np.log1p(-np.minimum(r, 1.0)) - np.log(r)))
    times[0], times[-1] = t_start if top == first else times[0], t_end
    return times
