"""The registry of solvers: what a family function is given, what it returns, and who is known by which name."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np

from fewstep.checks import unknown
from fewstep.samplers.schedule.base import Node, NoiseSchedule
from fewstep.samplers.table.row import Row

FAMILIES = (
    "solvers.ancestral",
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
    "solvers.reversible_pairs",
    "solvers.coupled_states",
    "drivers.dpm_adaptive",
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


def checked_names(solvers: Sequence[str], nfes: Sequence[int], grid: str | None, options: dict[str, Any]) -> None:
    """ValueError for an unknown solver, grid or option and for nfe < 1, before anything is loaded.

    A solver may be a learned artefact, by its file: it has a table for every nfe, and a grid and options of its own.
    """
    from fewstep.samplers.grids.making import find
    from fewstep.samplers.pipeline.contenders import artefact_of, check_nfe

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
