"""`build` turns a name, a schedule and a number of evaluations into a Tableau; `resume` starts one in its middle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from fewstep.samplers.building.solver_entry import SOLVERS, Entry, Path, checked_options, resolve
from fewstep.samplers.grids.making import check_times, make_grid
from fewstep.samplers.schedule.base import Node, NoiseSchedule
from fewstep.samplers.table.tableau import Tableau


def build(
    solver: str,
    schedule: NoiseSchedule,
    nfe: int | None = None,
    grid: Any = None,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    model_times: Sequence[float] | None = None,
    groups: Sequence[int] | None = None,
    **options: Any,
) -> Tableau:
    """Compile a solver into a Tableau that spends exactly `nfe` network evaluations.

    Args:
        solver: registry name or alias. schedule: a NoiseSchedule.
        nfe: evaluations, >= 1; None with an explicit grid means one step an interval.
        grid: GRIDS name, array of decreasing times (the step boundaries; resampled if their number does not fit), a
            callable (n, t_start, t_end) -> times, or None for the schedule's default.
        t_start, t_end: ends of the grid in the schedule's time; default t_max and schedule.t_end.
        model_times: what the network is shown at the step boundaries (default schedule.model_time).
        groups: calls of each step, when the caller has planned them.
        options: of the solver, see SOLVERS[name].options.

    Raises:
        ValueError: unknown solver, grid or option, nfe < 1, times that do not decrease.
    """
    name, folk_grid = resolve(solver)
    entry = SOLVERS[name]
    if not isinstance(schedule, NoiseSchedule):
        raise ValueError(
            f"`schedule` must be a NoiseSchedule; got {type(schedule).__name__}. NoiseSchedule.from_config reads a "
            "diffusers config"
        )
    if entry.kind != "tableau":
        raise no_table(name)
    chosen = checked_options(entry, options)
    grid = folk_grid if grid is None else grid
    explicit = grid is not None and not isinstance(grid, str) and not callable(grid)
    if explicit:
        grid = check_times(grid, schedule)
    planned = nfe
    if nfe is None:
        if not explicit:
            raise ValueError("`nfe` is missing: give the number of network evaluations, or an explicit grid of times")
        intervals = len(grid) - 1
        calls = entry.calls(chosen) if callable(entry.calls) else entry.calls
        short = int(calls > 1 and schedule.sigma(float(grid[-1])) == 0 and "end" in entry.singular_ends)
        groups = (calls,) * (intervals - short) + (1,) * short
        nfe = sum(groups)
    if isinstance(nfe, bool) or not isinstance(nfe, Real) or not float(nfe).is_integer() or nfe < 1:
        raise ValueError(f"`nfe` must be a whole number of network evaluations, at least 1; got {nfe!r}")
    if explicit:
        first, last = float(grid[0]), float(grid[-1])
    else:
        first = float(schedule.t_max if t_start is None else t_start)
        last = float(schedule.t_end if t_end is None else t_end)
    if groups is not None and sum(groups) != nfe:
        raise ValueError(f"`groups` {tuple(groups)} spend {sum(groups)} evaluations; expected nfe = {nfe}")
    if groups is None:
        groups = entry.groups(int(nfe), bool(schedule.alpha(first) == 0), bool(schedule.sigma(last) == 0), chosen)
    times = make_grid(grid, schedule, len(groups), t_start, t_end)
    return compile_path(entry, schedule, times, tuple(groups), model_times, chosen, nfe=planned)


def no_table(name: str) -> ValueError:
    """The error for a driver where a table is needed."""
    return ValueError(
        f"{name!r} chooses its steps as it goes and has no table, which pipelines and build() need; call "
        f"sample(denoiser, x_T, solver={name!r}) instead (Denoiser.from_pipeline(pipe) makes the denoiser)"
    )


def compile_path(
    entry: Entry,
    schedule: NoiseSchedule,
    times: np.ndarray,
    groups: tuple[int, ...],
    model_times: Iterable[float] | None,
    options: Mapping[str, Any],
    landings: Mapping[int, Node] | None = None,
    nfe: int | None = None,
) -> Tableau:
    """Rows of `entry` along given boundaries; `model_times` (one a boundary, the end may be missing) are kept exactly."""
    columns = schedule.nodes(np.asarray(times, float))
    nodes = tuple(Node(*map(float, row)) for row in zip(*columns, strict=True))
    solution = entry.fn(Path(schedule, nodes, groups, landings, nfe), **options)
    shown = schedule.model_time(np.array([row.at.t for row in solution.rows]))
    if model_times is not None:
        known = [float(tau) for tau in model_times]
        if len(nodes) - len(known) not in (0, 1):
            raise ValueError(
                f"{len(known)} model times for {len(nodes)} step boundaries: give one a boundary (the last may be missing)"
            )
        told = dict(zip((n.t for n in nodes), known, strict=False))
        shown = np.array(
            [told.get(row.at.t, own) for row, own in zip(solution.rows, np.atleast_1d(shown), strict=True)]
        )
    return Tableau.from_rows(
        entry.name, schedule, solution.rows, nodes[-1], order=solution.order, groups=solution.groups or groups,
        model_times=np.atleast_1d(shown), options=options,
        conserves=solution.conserves, jumps=solution.jumps,
    )  # fmt: skip


def resume(tableau: Tableau, begin: int) -> Tableau:
    """The same solver started at network call `begin` of a table, with the remaining calls at their times.

    Histories start empty; calls left over from a step that began earlier become first-order steps to its boundary.
    """
    if begin == 0:
        return tableau
    if not 0 < begin < tableau.nfe:
        raise ValueError(f"begin index {begin} is outside 0..{tableau.nfe - 1}")
    starts = np.cumsum((0, *tableau.groups))
    group = int(np.searchsorted(starts, begin, side="left"))
    calls = [*range(begin, starts[group]), *starts[group:-1]]
    groups = (*[1] * (int(starts[group]) - begin), *tableau.groups[group:])
    times = tableau.times[[*calls, tableau.nfe]]
    shown = tableau.model_times[calls]
    moved = len(groups) - len(tableau.groups)  # numbers of the steps change by as much
    landings = {step + moved: node for step, node in tableau.jumps.items() if step + moved >= 0}
    return compile_path(SOLVERS[tableau.name], tableau.schedule, times, groups, shown, tableau.options, landings)
