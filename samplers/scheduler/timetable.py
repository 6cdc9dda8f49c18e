"""From a model to a run that can be played: its table, and the timesteps and sigmas that pipelines see; cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from fewstep.bounded import MEBIBYTE, bounded
from fewstep.samplers.building.compiling import compile_path
from fewstep.samplers.building.solver_entry import Entry
from fewstep.samplers.config.classes import levelled
from fewstep.samplers.config.config_grid import grid_from_config
from fewstep.samplers.config.known_classes import class_name
from fewstep.samplers.grids.flow_shift import dynamic_shift
from fewstep.samplers.grids.making import make_grid
from fewstep.samplers.schedule.base import Array, NoiseSchedule
from fewstep.samplers.schedule.discrete import Discrete
from fewstep.samplers.scheduler.model import Key, Model, Shared, model
from fewstep.samplers.scheduler.tensors import model_clock, public_sigmas
from fewstep.samplers.table.tableau import Tableau


@dataclass(frozen=True, eq=False)
class Timetable(Shared):
    """A compiled run. timesteps: (n,), one a network call, and a 0 after them where the schedule shows its end; sigmas:
    (n + 1,). Both on the CPU, never handed out. free: what takes pure noise through a first step without a call."""

    model: Model
    tableau: Tableau
    timesteps: torch.Tensor
    sigmas: torch.Tensor
    free: float = 1.0
    elsewhere: bool = field(
        init=False
    )  # the network of a flow map is shown wrong ways by its pipelines: to the next level

    def __post_init__(self) -> None:
        table, wrong = self.tableau, False
        if class_name(self.model.config) == FLOW_MAP:
            ends = np.append(table.model_times[1:], self.model.schedule.model_time(table.nodes.t[-1:]))
            wrong = not np.allclose(table.target_times, ends)
        object.__setattr__(
            self, "elsewhere", wrong
        )  # now: what compiles a step of torch before 2.7 reads no cached property

    @property
    def noise_level(self) -> float:
        """Deviation of pure noise where the run begins, as pipelines scale theirs."""
        sigma = float(self.tableau.nodes.sigma[0])  # of an analytic start the level after it
        return sigma if self.model.schedule.kind == "ve" else self.free

    def nearest(self, timestep: float) -> int:
        """Index of the entry nearest to a time of the network, the first of equals."""
        return int(np.argmin(np.abs(self.tableau.model_times.astype(np.float32) - np.float32(timestep))))

    @cached_property
    def input_scales(self) -> list[float] | None:
        """Factor on the network's input of every call, where it sees a scaled state."""
        scale = getattr(self.model.schedule, "input_scale", None)
        return None if scale is None else scale(self.tableau.nodes.sigma)  # type: ignore[no-any-return]


FLOW_MAP = "FlowMapEulerDiscreteScheduler"


def _bytes(table: Timetable) -> int:
    return table.tableau.nbytes + 100 * table.tableau.nfe + table.model.nbytes


@bounded(32 * MEBIBYTE, _bytes)
def timetable(
    key: Key, n: int | None, sigmas: tuple[float, ...] | None, timesteps: tuple[float, ...] | None, mu: float | None
) -> Timetable:
    """The Timetable of a config for n network evaluations, or explicit sigmas or timesteps."""
    m, free = model(key), 1.0
    m.check()
    if m.learned is not None:
        tableau = m.learned.table(_asked(n, sigmas, timesteps), m.guidance, outside=m.outside)
    elif m.table is not None:
        tableau = _as_it_is(m.table, _asked(n, sigmas, timesteps))
    else:
        assert m.entry is not None
        nfe, times, shown, groups = _groups(m, m.entry, n, sigmas, timesteps, mu)
        tableau = compile_path(m.entry, m.schedule, times, groups, shown, m.options, nfe=nfe)
        if m.afs:
            from fewstep.samplers.building.analytic_start import analytic_start

            first, tableau = tableau.nodes.sigma[0], analytic_start(tableau)
            free = float(tableau.nodes.sigma[0] / first)
    if tableau.begins != 1:  # the pipeline draws its noise as large as the table begins
        free, tableau = tableau.begins, replace(tableau, begins=1.0)
    shown = np.append(tableau.model_times, [0.0] * getattr(m.schedule, "shows_end", False))
    return Timetable(m, tableau, model_clock(m.schedule, shown), public_sigmas(m.schedule, tableau.nodes), free)


def same_times(new: Timetable, handed: Timetable) -> Timetable:
    """The new one, which shows the network the times that pipelines have been handed already.

    Raises:
        ValueError: others, as stages have that lie between a level and the one below that noise begins at.
    """
    if not np.allclose(new.tableau.model_times, handed.tableau.model_times, rtol=1e-6, atol=0):
        name, eta = new.tableau.name, new.tableau.options.get("eta")
        raise ValueError(
            f"eta={eta} moves the stages of {name!r}, whose times set_timesteps() has handed out: say it before, "
            f"Scheduler.from_config(config, {name!r}, eta={eta}), and leave it away in the call"
        )
    return new


def _as_it_is(table: Tableau, n: int) -> Tableau:
    """A table that is played as it is, for as many evaluations as it has."""
    if n != table.nfe:
        raise ValueError(
            f"table {table.name!r} makes {table.nfe} network evaluations; got {n}. Ask for {table.nfe}, or build one for {n}"
        )
    return table


def _asked(n: int | None, sigmas: tuple[float, ...] | None, timesteps: tuple[float, ...] | None) -> int:
    """Evaluations of a run with times of its own: n, or the length of the even ramp of sigmas that flow pipelines pass."""
    if sigmas:
        levels = np.array(sigmas[:-1] if sigmas[-1] == 0 else sigmas)
        if abs(levels[0] - 1) < 2e-3 and np.ptp(np.append(np.diff(levels)[:1], np.diff(levels))) < 2.1e-3:
            return len(levels)
    if sigmas is not None or timesteps is not None:
        raise ValueError(
            "a learned solver or a table has times of its own: ask for a number of steps, without `timesteps` and `sigmas`, "
            "or choose a solver by name, Scheduler.from_config(config, solver=...)"
        )
    if n is None:
        raise ValueError("pass `num_inference_steps` to set_timesteps")
    return n


Path = tuple[Array, "Array | None"]


def _groups(
    m: Model, entry: Entry, n: int | None, sigmas: Any, timesteps: Any, mu: float | None
) -> tuple[int, Any, Any, tuple[int, ...]]:
    """Network calls in all, step boundaries, the network's times there, and the calls of each step: exactly n calls in all.

    A solver with several calls a step takes fewer boundaries from the same rule, or from the same explicit curve.
    """
    # n counts network calls, a grid has steps: for a solver of several calls a step the same rule is asked again, for as
    # many boundaries as the n calls make. An explicit curve cannot be asked: it is thinned, its times shown with it.
    explicit = sigmas is not None or timesteps is not None
    if m.afs and n is not None and not explicit:
        n += 1  # the call that is left out; of an explicit curve it is the first
    rule: Callable[[int | None], Path] = lambda n: _from_config(m, entry, n, sigmas, timesteps, mu)  # noqa: E731
    grid = m.grid if m.grid is not None or n is None else m.suited(n)
    if grid is not None and not explicit:
        rule = lambda n: (_from_name(m, grid, n, mu), None)  # noqa: E731
    times, shown = rule(n)
    calls = len(times) - 1
    ends = bool(m.schedule.alpha(times[0]) == 0), bool(m.schedule.sigma(times[-1]) == 0)
    groups = entry.groups(calls, *ends, m.options)
    if len(groups) == calls:
        return calls, times, shown, groups
    if not explicit:
        return calls, *rule(len(groups)), groups
    fewer = make_grid(times, m.schedule, len(groups))
    if timesteps is None or shown is None:
        return calls, fewer, None, groups
    return calls, fewer, np.interp(fewer[:-1], times[-2::-1], shown[::-1]), groups


def _from_config(m: Model, entry: Entry, n: int | None, sigmas: Any, timesteps: Any, mu: float | None) -> Path:
    name = entry.like(m.schedule, n, levelled(m.config)) if entry.like and n is not None else entry.name
    times, shown = grid_from_config(m.config, m.schedule, n, name, sigmas=sigmas, timesteps=timesteps, mu=mu)
    return times, shown if timesteps is not None else _named(m.schedule, times[:-1], shown)


def _named(schedule: NoiseSchedule, times: Array, shown: Array) -> Array:
    """Whole training steps as classes show them, unless one of them misnames its level: then all times are exact.

    That happens where sigma maps meet cosine and zero-SNR tables, at whose noisy end neighbours are far apart (more than
    the 1 % of the usual tables): x0 = (x - sigma eps) / alpha would be as wrong, and classes repeat their first timestep.
    An exact time is where log(sigma / alpha), linear between training steps, is that of the level.
    """
    if not isinstance(schedule, Discrete):
        return shown
    log_rho = -schedule.lam(schedule.time_of_model(np.arange(schedule.num_train_timesteps)))
    steps, levels = np.arange(len(log_rho)), -schedule.lam(times)
    exact = np.interp(levels, log_rho, steps)
    apart = np.diff(log_rho)[np.minimum(exact.astype(int), len(steps) - 2)]
    misnamed = (apart > 0.012) & (levels > 0) & (np.abs(exact - shown) > 1e-6)
    return exact if misnamed.any() else shown


def _from_name(m: Model, grid: Any, n: int | None, mu: float | None) -> Array:
    """A grid by name or array in place of the config's own."""
    if n is None:
        raise ValueError("pass `num_inference_steps`, `sigmas` or `timesteps` to set_timesteps")
    options = {}
    if grid == "flow" and m.config.get("use_dynamic_shifting"):
        if mu is None:
            raise ValueError("this config uses dynamic shifting: pass `mu` (pipelines derive it from the image size)")
        options["shift"] = dynamic_shift(mu, m.config.get("time_shift_type") or "exponential")
    return make_grid(grid, m.schedule, n, **options)
