"""`build` turns a solver, a schedule and a number of evaluations into a Tableau."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from fewstep.checks import evaluations
from fewstep.samplers.building.names import checked_options, solver_of
from fewstep.samplers.building.path import Path, Solution
from fewstep.samplers.building.solver_entry import Entry
from fewstep.samplers.grids.making import check_times, make_grid
from fewstep.samplers.schedule.base import Node, NoiseSchedule
from fewstep.samplers.schedule.outputs import score_weight
from fewstep.samplers.table.row import Row, noise
from fewstep.samplers.table.tableau import Tableau


def build(
    solver: str | Callable[..., Solution] | Entry,
    schedule: NoiseSchedule,
    nfe: int | None = None,
    grid: Any = None,
    *,
    t_start: float | None = None,
    t_end: float | None = None,
    model_times: Sequence[float] | None = None,
    groups: Sequence[int] | None = None,
    afs: bool = False,
    **options: Any,
) -> Tableau:
    """Compile a solver into a Tableau that spends exactly `nfe` network evaluations.

    Args:
        solver: registry name or alias, or a function `f(path, *, options) -> Solution`. schedule: a NoiseSchedule.
        nfe: evaluations, >= 1; None with an explicit grid means one step an interval.
        grid: GRIDS name, array of decreasing times (the step boundaries; resampled if their number does not fit), a
            function `f(schedule, n, t_start, t_end) -> n + 1 times`, or None for the solver's or the schedule's default.
        t_start, t_end: ends of the grid in the schedule's time; default t_max and schedule.t_end.
        model_times: what the network is shown at the step boundaries (default schedule.model_time).
        groups: calls of each step, when the caller has planned them.
        afs: the first of nfe + 1 network calls is left out, as its answer at pure noise is known (x0 = 0, the mean of centred
            data): the table begins at the node after it. `sample` takes the state there by itself.
        options: of the solver, see SOLVERS[name].options.

    Raises:
        ValueError: unknown solver, grid or option, nfe < 1, times that do not decrease.
    """
    if isinstance(solver, Tableau):
        raise ValueError(
            f"{solver.name!r} is a table already: sample(denoiser, x_T, table) and Scheduler play it as it is"
        )
    entry, folk_grid = solver_of(solver)
    if not isinstance(schedule, NoiseSchedule):
        raise ValueError(
            f"`schedule` must be a NoiseSchedule; got {type(schedule).__name__}. NoiseSchedule.from_config reads a "
            "diffusers config"
        )
    if entry.kind != "tableau":
        raise no_table(entry.name)
    chosen = checked_options(entry, options)
    if afs:
        from fewstep.samplers.building.analytic_start import analytic_start

        more = None if nfe is None else evaluations("nfe", nfe) + 1
        where: dict[str, Any] = {"t_start": t_start, "t_end": t_end, "model_times": model_times, "groups": groups}
        return analytic_start(build(entry, schedule, more, folk_grid if grid is None else grid, **where, **options))
    grid = folk_grid if grid is None else grid
    explicit = grid is not None and not isinstance(grid, str) and not callable(grid)
    if explicit:
        grid = check_times(grid, schedule)
    if isinstance(nfe, Real) and not isinstance(nfe, bool) and float(nfe).is_integer():
        nfe = int(nfe)  # 5.0 is a count too
    planned = nfe
    if nfe is None:
        if not explicit:
            raise ValueError("`nfe` is missing: give the number of network evaluations, or an explicit grid of times")
        pin = int(leaves_pin(schedule, grid[0]))
        intervals = len(grid) - 1 - pin
        calls = entry.calls(chosen) if callable(entry.calls) else entry.calls
        short = int(calls > 1 and schedule.sigma(float(grid[-1])) == 0 and "end" in entry.singular_ends)
        groups = (1,) * pin + (calls,) * (intervals - short) + (1,) * short
        nfe = sum(groups)
    nfe = evaluations("nfe", nfe)
    if grid is None and entry.grid is not None and t_start is None and t_end is None:
        grid = entry.grid(schedule, nfe, chosen)
    if explicit:
        first, last = float(grid[0]), float(grid[-1])
    else:
        first = float(schedule.t_max if t_start is None else t_start)
        last = float(schedule.t_end if t_end is None else t_end)
    if groups is not None and sum(groups) != nfe:
        raise ValueError(f"`groups` {tuple(groups)} spend {sum(groups)} evaluations; expected nfe = {nfe}")
    if groups is None and leaves_pin(schedule, first):
        ends = False, bool(schedule.sigma(last) == 0)
        groups = (1, *entry.groups(nfe - 1, *ends, chosen)) if nfe > 1 else (1,)
    if groups is None:
        ends = bool(schedule.alpha(first) == 0), bool(schedule.sigma(last) == 0)
        groups = entry.groups(nfe, *ends, chosen, None if explicit else float(schedule.lam(first)))
    if grid is None and entry.order == 0 and schedule.default_grid == "karras" and schedule.sigma(last) == 0:
        # its network answers with data, and has nothing left to do at the smallest level
        times = np.delete(make_grid(None, schedule, len(groups) + 1, t_start, t_end), -2)
    else:
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
    *,
    landings: Mapping[int, Node] | None = None,
    nfe: int | None = None,
) -> Tableau:
    """Rows of `entry` along given boundaries; `model_times` (one a boundary, the end may be missing) are kept exactly."""
    columns = schedule.nodes(np.asarray(times, float))
    nodes = tuple(Node(*map(float, row)) for row in zip(*columns, strict=True))
    path = Path(schedule, nodes, groups, landings, nfe)
    solution = entry.solution(path, options) if nodes[0].S else out_of_pin(entry, path, options)
    if not isinstance(solution, Solution):
        raise ValueError(
            f"solver {entry.name!r} returned {type(solution).__name__}; expected a Solution(rows, order) from its function"
        )
    if schedule.kind == "two-sided":
        require_scored(entry.name, schedule, solution)
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
    table = Tableau.from_rows(
        entry.name, schedule, solution.rows, nodes[-1], order=solution.order_on(schedule, nodes),
        groups=solution.groups or groups, model_times=np.atleast_1d(shown), options=options,
        conserves=solution.conserves, jumps=solution.jumps,
    )  # fmt: skip
    table.__dict__["compiled_by"] = entry  # of this table, not of one that somebody makes out of it
    return table


def leaves_pin(schedule: NoiseSchedule, t: float) -> bool:
    """Whether nothing is left at time t but the given end: alpha = sigma = 0."""
    return schedule.kind == "bridge" and bool(schedule.alpha(t) == 0)


def out_of_pin(entry: Entry, path: Path, options: Mapping[str, Any]) -> Solution:
    """A solver on a bridge from its pinned end: the first row draws all of the noise, and the solver goes on from there.

        x_t = alpha_t x0 + beta_t mu + sigma_t z

    No ODE leaves a pin: every sample would be the same. The row of mu is added where the table is packed.
    """
    s, t = path.nodes[:2]
    drawn = {noise(s, t): t.sigma} if t.sigma else {}
    first = Row(s, "x0", {0: t.alpha, **drawn})
    if len(path.nodes) == 2:
        return Solution([first], 1)
    rest = replace(path, nodes=path.nodes[1:], groups=path.groups[1:], nfe=None if path.nfe is None else path.nfe - 1)
    found = entry.solution(rest, options)
    jumps = {step + 1: node for step, node in found.jumps.items()}
    return replace(
        found, rows=[first, *found.rows], groups=(1, *(found.groups or rest.groups)), jumps=jumps, order=found.order
    )


def require_scored(name: str, schedule: NoiseSchedule, solution: Solution) -> None:
    """ValueError for rows that draw noise between two laws of data as if the start were Gaussian."""
    drawn = any(isinstance(register, tuple) for row in solution.rows for register in row.input)
    if drawn and not any(score_weight(row.form) for row in solution.rows):
        raise ValueError(
            f"{name!r} takes the start of {type(schedule).__name__} for noise, which it is not: its own would change the law. "
            'Take an ODE solver, or "flow_sde", whose noise comes with the score of the law between'
        )
