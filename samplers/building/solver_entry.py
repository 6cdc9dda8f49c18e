"""The registry of solvers: who is known by which name, with which facts. A family module registers itself with @solver."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from fewstep.checks import whole
from fewstep.registry import Registry
from fewstep.samplers.building.path import Path, Solution

FAMILIES = (
    "solvers.automatic",
    "solvers.ancestral",
    "solvers.consistency_models",
    "solvers.multistep",
    "solvers.pndm",
    "solvers.exponential_rk",
    "solvers.classical_rk",
    "solvers.sigma_averages",
    "solvers.unipc",
    "solvers.mixed_steps",
    "solvers.implicit_rk",
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
    "solvers.flow_map",
    "solvers.parallel_directions",
    "drivers.dpm_adaptive",
    "drivers.gotta_go_fast",
    "drivers.rk45",
    "drivers.picard",
    "drivers.langevin",
    "drivers.dlg",
)
COMBINED = ("x0", "eps", "flow", "eps - l x")  # what rows may combine


@dataclass(frozen=True)
class Entry:
    """A registered solver.

    order: at default options (weak order of SDEs). stochastic: draws noise at default options. prediction: what its rows
    combine. kind: "tableau", or "driver" for one that chooses its steps as it goes. options: keyword options with their
    defaults. calls: network calls of a full step (or a function of the options). main: of nfe evaluations, those that go
    along the grid, where others are spent on the way. adaptive: a driver whose nfe is a limit, not a plan. bound: options
    whose defaults a folk name changed. per_step: options that may be a list with one value a step of the grid. grid: the
    name of the grid that suits f(schedule, nfe, options), or None, where nothing is asked but a number of evaluations. like:
    the solver f(schedule, nfe, levelled) on whose class's steps it is played where the grid is a config's, of levels or even.
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
    bound: tuple[tuple[str, Any], ...] = ()
    again: Callable[[Mapping[str, Any], int, float], bool] | None = None
    per_step: tuple[str, ...] = ()
    grid: Callable[[Any, int, Mapping[str, Any]], str | None] | None = None
    like: Callable[[Any, int, bool], str] | None = None

    def with_defaults(self, options: Mapping[str, Any]) -> Entry:
        """This entry with other defaults, as a folk name has it; the entry itself where there are none."""
        return replace(self, bound=(*self.bound, *options.items())) if options else self

    @cached_property
    def options(self) -> dict[str, Any]:
        """Option name -> default. Every solver with a table has a `limiter` too, see solvers/limiter.py."""
        parameters = inspect.signature(self.fn).parameters.values()
        own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        return {**own, **({"limiter": True} if self.kind == "tableau" else {}), **dict(self.bound)}

    def solution(self, path: Path, options: Mapping[str, Any]) -> Solution:
        """What the family returns for a path and its options, among them those that every solver has.

        A table made before there was a limiter has no such entry: its rows are the published ones.
        """
        own = dict(options)
        return self.fn(replace(path, limiter=own.pop("limiter", False)), **own)

    def groups(
        self, nfe: int, singular_start: bool, singular_end: bool, options: Mapping[str, Any], lam: float | None = None
    ) -> tuple[int, ...]:
        """Network calls of each step of the grid: their sum is nfe, or what `main` leaves of it.

        lam: at the start, where the run may ask twice at its second node for the sake of its order.
        """
        if self.again and lam is not None and self.again(options, nfe, lam):
            return (1, 2, *[1] * (nfe - 3))
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


SOLVERS: Registry[Entry] = Registry(
    "solver",
    Entry,
    [f"fewstep.samplers.{family}" for family in FAMILIES],
    "@solver(name, order=, prediction=, reference=)",
)


def solver(name: str, *, order: int, prediction: str, reference: str, **facts: Any) -> Callable[[Any], Any]:
    """Register a family function `f(path, *, options) -> Solution` under a name, at any time, from any package.

    Args:
        name: a word. order: of convergence, at default options. prediction: what its rows combine, "x0", "eps" or "flow".
        reference: title, authors, year, arXiv. facts: further fields of Entry: stochastic, calls, aliases, ...

    Raises:
        ValueError: a name that exists, facts that an Entry does not have, a function that takes no path or whose options
            are not keyword-only with defaults.
    """

    def register(fn: Any) -> Any:
        entry = entry_for(name, fn, order=order, prediction=prediction, reference=reference, **facts)
        SOLVERS.add(name, entry, fn.__module__, entry.aliases)
        return fn

    return register


def driver(name: str, *, order: int, prediction: str, reference: str, **facts: Any) -> Callable[[Any], Any]:
    """Register a driver `f(task, *, options) -> Outcome`, a sampler whose steps depend on the state."""
    return solver(name, order=order, prediction=prediction, reference=reference, kind="driver", **facts)


def entry_for(
    name: str, fn: Any, *, order: int = 1, prediction: str = "x0", reference: str = "", **facts: Any
) -> Entry:
    """The entry of a family function; ValueError where it cannot be one."""
    if not callable(fn) or isinstance(fn, type):
        raise ValueError(f"solver {name!r} must be a function f(path, *, options) -> Solution; got {fn!r:.60}")
    parameters = list(inspect.signature(fn).parameters.values())
    keyword_only = inspect.Parameter.KEYWORD_ONLY
    takes_path = bool(parameters) and parameters[0].kind is not keyword_only
    if not takes_path or any(p.kind is not keyword_only or p.default is p.empty for p in parameters[1:]):
        raise ValueError(
            f"solver {name!r} must take one path, and options that are keyword-only with defaults: "
            f"f(path, *, eta=0.0); got {fn.__name__}{inspect.signature(fn)}"
        )
    whole("order", order, 0, hint=f"It is how fast {name!r} converges as nfe grows")
    if prediction not in COMBINED:
        raise ValueError(f"`prediction` of solver {name!r} must be one of {', '.join(COMBINED)}; got {prediction!r}")
    known = [field for field in Entry.__dataclass_fields__ if field not in ("name", "fn")]
    if strange := [fact for fact in facts if fact not in known]:
        raise ValueError(f"a solver has no {', '.join(map(repr, strange))}; it has {', '.join(known)}")
    return Entry(name, fn, order, prediction, reference, **facts)
