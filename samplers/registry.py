"""The registry of solvers and `build`, which turns a name, a schedule and a number of evaluations into a Tableau."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from numbers import Real
from typing import Any

import numpy as np

from .errors import unknown
from .grids import check_times, make_grid
from .schedule import Node, NoiseSchedule
from .tableau import Row, Tableau, Terms

FAMILIES = (
    "solvers.jumps",
    "solvers.multistep",
    "solvers.pndm",
    "solvers.exponential_rk",
    "solvers.rho_rk",
    "solvers.unipc",
    "solvers.dpm_solver_v3",
    "solvers.stork",
    "solvers.sde_dpm",
    "solvers.restart",
    "solvers.euler_maruyama",
    "solvers.er_sde",
    "solvers.sa_solver",
    "solvers.seeds",
    "drivers.adaptive",
    "drivers.gotta_go_fast",
    "drivers.rk45",
    "drivers.picard",
    "drivers.langevin",
    "drivers.dlg",
)


@dataclass(frozen=True)
class Path:
    """Where a solver goes: group boundaries of the grid and how many network calls each group may spend.

    landings: {group: node} for groups that end elsewhere than at the next boundary, from where noise takes the state up
    to it (see solvers/jumps.py); None where the solver may choose. nfe: of the whole run, where it is more than the groups'.
    """

    schedule: NoiseSchedule
    nodes: tuple[Node, ...]
    groups: tuple[int, ...]
    landings: Mapping[int, Node] | None = None
    nfe: int | None = None

    def steps(self) -> Iterator[tuple[int, Node, Node]]:
        """(calls, s, t) of each group."""
        return zip(self.groups, self.nodes[:-1], self.nodes[1:], strict=True)

    def between(self, s: Node, t: Node, c: float, var: str = "lam") -> Node:
        """The node a fraction c of the way from s to t in lam, t, rho = sigma/alpha or r = sigma/(alpha+sigma)."""
        if c == 0.0 or c == 1.0:
            return t if c else s
        if var == "t":
            return scalar_node(self.schedule, s.t + c * (t.t - s.t))
        if var == "lam":
            lam = s.lam + c * (t.lam - s.lam)
        elif var == "rho":
            lam = -np.log((1 - c) * np.exp(-s.lam) + c * np.exp(-t.lam))
        else:
            r = (1 - c) / (1 + np.exp(s.lam)) + c / (1 + np.exp(t.lam))
            lam = np.log1p(-r) - np.log(r)
        return scalar_node(self.schedule, self.schedule.t_of_lam(lam))


def scalar_node(schedule: NoiseSchedule, t: Any) -> Node:
    """One node."""
    return Node(*(float(v) for v in schedule.nodes(float(t))))


@dataclass(frozen=True)
class Solution:
    """What a family returns: rows, their order, what they conserve, and where they went if not along the path.

    groups and jumps: calls of each step, and landings, where they differ from the path's. See Tableau for the words.
    """

    rows: Sequence[Row]
    order: int
    prologue: Terms | None = None
    conserves: str = "x0 eps"
    groups: tuple[int, ...] | None = None
    jumps: Mapping[int, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry:
    """A registered solver.

    order: at default options (weak order of SDEs). stochastic: draws noise at default options. prediction: what its rows
    combine. kind: "tableau", or "driver" for one that chooses its steps as it goes. options: keyword options with their
    defaults. calls: network calls of a full step (or a function of the options). main: of nfe evaluations, those that go
    along the grid, where others are spent on the way. adaptive: a driver whose nfe is a limit, not a plan.
    """

    name: str
    fn: Callable[..., Any]
    order: int
    prediction: str
    reference: str
    stochastic: bool = False
    kind: str = "tableau"
    calls: int | Callable[[Mapping[str, Any]], int] = 1
    plan: Callable[..., tuple[int, ...]] | None = None
    singular_ends: str = ""
    aliases: tuple[str, ...] = ()
    main: Callable[[int, Mapping[str, Any]], int] | None = None
    adaptive: bool = False

    @cached_property
    def options(self) -> dict[str, Any]:
        """Option name -> default."""
        parameters = inspect.signature(self.fn).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def groups(self, nfe: int, singular_start: bool, singular_end: bool, options: Mapping[str, Any]) -> tuple[int, ...]:
        """Network calls of each step of the grid: their sum is nfe, or what `main` leaves of it."""
        nfe = self.main(nfe, options) if self.main else nfe
        calls = self.calls(options) if callable(self.calls) else self.calls
        first = int(singular_start and "start" in self.singular_ends and calls > 1)
        last = int(singular_end and "end" in self.singular_ends and calls > 1)
        if nfe <= first + last:
            return (1,) * nfe
        middle = (self.plan or split)(nfe - first - last, calls, bool(last))
        return (1,) * first + middle + (1,) * last


def split(nfe: int, calls: int, reserved: bool = False) -> tuple[int, ...]:
    """Full steps of `calls` evaluations, then what is left as steps of at most five."""
    full, rest = divmod(nfe, calls)
    tail = (rest,) if 0 < rest <= 5 else (5, rest - 5) if rest else ()
    return (calls,) * full + tail


_ENTRIES: dict[str, Entry] = {}
_ALIASES: dict[str, str] = {}


def solver(name: str, *, order: int, prediction: str, reference: str, **facts: Any) -> Callable[[Any], Any]:
    """Register a family function `f(path, *, options) -> Solution` under a name."""

    def register(fn: Any) -> Any:
        entry = Entry(name, fn, order, prediction, reference, **facts)
        _ENTRIES[name] = entry
        _ALIASES.update({_plain(alias): name for alias in entry.aliases})
        return fn

    return register


def driver(name: str, *, order: int, prediction: str, reference: str, **facts: Any) -> Callable[[Any], Any]:
    """Register a driver `f(task, *, options) -> Outcome`, a sampler whose steps depend on the state."""
    return solver(name, order=order, prediction=prediction, reference=reference, kind="driver", **facts)


def _plain(name: str) -> str:
    """A name without case, spaces and dashes: "DPM++ 2M" -> "dpm++2m"."""
    return re.sub(r"[\s_\-]+", "", name.lower())


class _Solvers(Mapping[str, Entry]):
    """Registered solvers by name; the family modules are imported on first look."""

    @cached_property
    def _table(self) -> dict[str, Entry]:
        for family in FAMILIES:
            import_module(f"fewstep.samplers.{family}")
        order = {f"fewstep.samplers.{family}": i for i, family in enumerate(FAMILIES)}
        return dict(sorted(_ENTRIES.items(), key=lambda item: order.get(item[1].fn.__module__, len(order))))

    def __getitem__(self, name: str) -> Entry:
        return self._table[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


SOLVERS: Mapping[str, Entry] = _Solvers()
_GRID_WORDS = {"karras": "karras", "exponential": "exponential", "beta": "beta", "lu": "lu", "ays": "ays"}


def resolve(name: str) -> tuple[str, str | None]:
    """(solver, grid or None) of a name, an alias or a folk name such as "DPM++ 2M Karras".

    Raises ValueError with near matches for a name nobody knows.
    """
    if not isinstance(name, str):
        raise ValueError(f"`solver` must be a name; got {type(name).__name__}. Names: {', '.join(SOLVERS)}")
    if name in SOLVERS:
        return name, None
    plain, grid = _plain(name), None
    table = {_plain(n): n for n in SOLVERS} | _ALIASES
    for word in _GRID_WORDS:
        if plain not in table and plain.endswith(word):
            plain, grid = plain.removesuffix(word), _GRID_WORDS[word]
    if plain in table:
        return table[plain], grid
    raise unknown("solver", name, SOLVERS)


def checked_options(entry: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults overlaid with the given options; ValueError for one the solver does not have."""
    for key in options:
        if key not in entry.options:
            known = ", ".join(entry.options) or "none"
            raise ValueError(f"solver {entry.name!r} has no option {key!r}; its options: {known}")
    return {**entry.options, **options}


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
        model_times=np.atleast_1d(shown), prologue=solution.prologue, options=options,
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
