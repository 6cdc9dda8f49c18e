"""From a scheduler config to steps that can be played, each stage cached: config -> Model -> Timetable -> Bound."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.loading import as_artefact
from fewstep.samplers.building.compiling import compile_path, no_table
from fewstep.samplers.building.names import checked_options, resolve
from fewstep.samplers.building.resuming import resume
from fewstep.samplers.building.solver_entry import SOLVERS, Entry
from fewstep.samplers.config.reading import reading, schedule_from_config
from fewstep.samplers.config.config_grid import grid_from_config
from fewstep.samplers.grids.flow_shift import dynamic_shift
from fewstep.samplers.grids.grid_entry import times_to_sigmas
from fewstep.samplers.grids.making import find, make_grid
from fewstep.samplers.noise.sources import check_kind
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import Post, Step
from fewstep.samplers.schedule.base import Array, Nodes, NoiseSchedule
from fewstep.samplers.schedule.continuous import EDM, InvertedFlow
from fewstep.samplers.schedule.discrete import Discrete
from fewstep.samplers.schedule.labelled import LabelledEDM
from fewstep.samplers.schedule.outputs import Prediction
from fewstep.samplers.scheduler.threshold import Clip, DynamicThreshold
from fewstep.samplers.table.tableau import Tableau

LEARNED = ("learned", "guidance", "outside")
OWN = ("solver", "grid", "solver_options", "noise", *LEARNED)  # entries of a config that are ours


class Shared:
    """Immutable and cached: a copy is the object itself."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self


@dataclass(frozen=True, eq=False)
class Model(Shared):
    """What a config says: its schedule, what the network returns, which solver runs on which grid.

    learned: where not None, its tables are played in place of the solver; guidance and outside choose among them.
    """

    config: Mapping[str, Any]
    schedule: NoiseSchedule
    prediction: Prediction
    post: Post | None
    entry: Entry
    options: Mapping[str, Any]
    grid: Any
    learned: Artefact | None = None
    guidance: float | None = None
    outside: str = "error"

    def check(self) -> None:
        """ValueError for an artefact that was learned on another model, or has no table for the guidance asked for.

        A model is not whole until its config is: diffusers makes an object before it has seen every entry.
        """
        if self.learned is not None:
            network: dict[str, Any] = {"schedule": self.schedule, "prediction": self.prediction}
            self.learned.table(self.learned.nfes[0], self.guidance, outside=self.outside, **network)

    @cached_property
    def training(self) -> Nodes:
        """Points of the whole training range, noisiest first, and the end of sampling."""
        return self.schedule.nodes(make_grid(None, self.schedule, self.schedule.num_train_timesteps))

    @cached_property
    def beta_tables(self) -> dict[str, Array | None]:
        """betas, alphas and alphas_cumprod, float64, of a discrete-time model; None for others."""
        if not isinstance(self.schedule, Discrete):
            return dict.fromkeys(("betas", "alphas", "alphas_cumprod"))
        table = self.schedule.alphas_cumprod
        alphas = np.append(table[0], table[1:] / table[:-1])
        return {"betas": 1 - alphas, "alphas": alphas, "alphas_cumprod": table}

    def levels(self, table: Timetable | None, timesteps: Array) -> tuple[Array, Array]:
        """(alpha, sigma) at times of the network; an entry of a run means the run's level there, rounded or not."""
        times = self.schedule.time_of_model(timesteps)
        if table is not None:
            shown = table.tableau.model_times.astype(np.float32)
            hit = shown[None] == timesteps.astype(np.float32)[:, None]
            times = np.where(hit.any(1), table.tableau.times[hit.argmax(1)], times)
        return self.schedule.alpha(times), self.schedule.sigma(times)


def numbers(values: Any) -> tuple[float, ...] | None:
    """Numbers of a list, an array or a tensor, as something to cache by."""
    if values is None:
        return None
    array = np.asarray(getattr(values, "tolist", lambda: values)(), np.float64)
    return tuple(np.atleast_1d(array).ravel().tolist())


class Key(NamedTuple):
    """What a Model is cached by: the text of a config, and its artefact, which compares by its hash."""

    config: str
    learned: Artefact | None


def config_key(config: Mapping[str, Any]) -> Key:
    """The Key of a config. ValueError for entries that are no plain data, and for a damaged artefact."""

    def plain(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        raise ValueError(f"a scheduler config holds numbers, strings, lists; got {type(value).__name__}")

    rest = {name: value for name, value in config.items() if name != "learned"}
    learned = config.get("learned")
    return Key(json.dumps(rest, sort_keys=True, default=plain), None if learned is None else as_artefact(learned))


@lru_cache(maxsize=64)
def model(key: Key) -> Model:
    """The Model of a config; ValueError where it makes no sense."""
    config, learned = json.loads(key.config), key.learned
    solver, grid, asked, noise, _, guidance, outside = (config.pop(name, None) for name in OWN)
    name, folk_grid = resolve(solver or "dpmpp_2m")
    entry = SOLVERS[name]
    if entry.kind != "tableau":
        raise no_table(name)
    check_kind(noise or "independent")
    grid = folk_grid if grid is None else grid
    if isinstance(grid, str):
        find(grid)
    schedule, prediction, post = _network(config, name, learned)
    options = checked_options(entry, asked or {})
    if learned is None:
        if guidance is not None or outside is not None:
            raise ValueError(
                "`guidance` and `outside` choose among the tables of `learned`: give an artefact, or none of them"
            )
        return Model(config, schedule, prediction, post, entry, options, grid)
    if grid is not None or asked:
        raise ValueError(
            f"a learned solver has its own times and weights: leave grid={grid!r} and options {asked} away"
        )
    return Model(config, schedule, prediction, post, entry, {}, None, learned, guidance, outside or "error")


def _network(
    config: dict[str, Any], solver: str, learned: Artefact | None
) -> tuple[NoiseSchedule, Prediction, Post | None]:
    """Schedule and prediction type of a model, and what is done to its x0.

    Zero terminal SNR is alpha = 0 for some solvers and nearly so for others: for an artefact it is what that was learned on.
    """
    said = reading({"clip_sample": False, **config}, solver)
    post: Post | None = None
    if said.thresholding:
        post = DynamicThreshold(said.dynamic_thresholding_ratio, said.sample_max_value)
    elif said.clip_sample:
        post = Clip(said.clip_sample_range)
    schedule = schedule_from_config(config, solver)
    if isinstance(schedule, EDM):
        labelled = LabelledEDM(schedule.sigma_min, schedule.sigma_max, schedule.sigma_data, audio="rho" not in config)
        return labelled, labelled.output(said.prediction), post
    if (
        learned is not None
        and not learned.is_for(schedule)
        and learned.is_for(other := schedule_from_config(config, "ddim"))
    ):
        schedule = other
    return schedule, said.prediction, post


def for_config(entries: Mapping[str, Any]) -> Artefact:
    """The artefact of a config, moved by log-SNR to the model that the config describes where it was learned on another."""
    text, learned = config_key(entries)
    assert learned is not None
    config = {name: value for name, value in json.loads(text).items() if name not in OWN}
    schedule, prediction, _ = _network(config, entries["solver"], learned)
    return learned.remapped(schedule, prediction)


@dataclass(frozen=True, eq=False)
class Timetable(Shared):
    """A compiled run. timesteps: (n,), one a network call; sigmas: (n + 1,). Both on the CPU, never handed out."""

    model: Model
    tableau: Tableau
    timesteps: torch.Tensor
    sigmas: torch.Tensor

    def nearest(self, timestep: float) -> int:
        """Index of the entry nearest to a time of the network, the first of equals."""
        return int(np.argmin(np.abs(self.tableau.model_times.astype(np.float32) - np.float32(timestep))))

    @cached_property
    def input_scales(self) -> list[float] | None:
        """Factor on the network's input of every call, under EDM preconditioning."""
        schedule = self.model.schedule
        return schedule.input_scale(self.tableau.nodes.sigma) if isinstance(schedule, LabelledEDM) else None


@lru_cache(maxsize=128)
def timetable(
    key: Key, n: int | None, sigmas: tuple[float, ...] | None, timesteps: tuple[float, ...] | None, mu: float | None
) -> Timetable:
    """The Timetable of a config for n network evaluations, or explicit sigmas or timesteps."""
    m = model(key)
    if m.learned is not None:
        m.check()
        tableau = m.learned.table(_asked(n, sigmas, timesteps), m.guidance, outside=m.outside)
    else:
        nfe, times, shown, groups = _groups(m, n, sigmas, timesteps, mu)
        tableau = compile_path(m.entry, m.schedule, times, groups, shown, m.options, nfe=nfe)
    return Timetable(m, tableau, model_clock(m.schedule, tableau.model_times), public_sigmas(m.schedule, tableau.nodes))


def _asked(n: int | None, sigmas: tuple[float, ...] | None, timesteps: tuple[float, ...] | None) -> int:
    """Network evaluations of a learned run: n, or the length of the even ramp of sigmas that flow pipelines always pass."""
    if sigmas:
        levels = np.array(sigmas[:-1] if sigmas[-1] == 0 else sigmas)
        if abs(levels[0] - 1) < 2e-3 and np.ptp(np.append(np.diff(levels)[:1], np.diff(levels))) < 2.1e-3:
            return len(levels)
    if sigmas is not None or timesteps is not None:
        raise ValueError(
            "a learned scheduler has times of its own: ask for a number of steps, without `timesteps` and `sigmas`, or choose "
            "a solver, Scheduler.from_config(config, solver=...)"
        )
    if n is None:
        raise ValueError("pass `num_inference_steps` to set_timesteps")
    return n


Path = tuple[Array, "Array | None"]


def _groups(
    m: Model, n: int | None, sigmas: Any, timesteps: Any, mu: float | None
) -> tuple[int, Any, Any, tuple[int, ...]]:
    """Network calls in all, step boundaries, the network's times there, and the calls of each step: exactly n calls in all.

    A solver with several calls a step takes fewer boundaries from the same rule, or from the same explicit curve.
    """
    explicit = sigmas is not None or timesteps is not None
    rule: Callable[[int | None], Path] = lambda n: _from_config(m, n, sigmas, timesteps, mu)  # noqa: E731
    if m.grid is not None and not explicit:
        rule = lambda n: (_from_name(m, n, mu), None)  # noqa: E731
    times, shown = rule(n)
    calls = len(times) - 1
    ends = bool(m.schedule.alpha(times[0]) == 0), bool(m.schedule.sigma(times[-1]) == 0)
    groups = m.entry.groups(calls, *ends, m.options)
    if len(groups) == calls:
        return calls, times, shown, groups
    if not explicit:
        return calls, *rule(len(groups)), groups
    fewer = make_grid(times, m.schedule, len(groups))
    if timesteps is None or shown is None:
        return calls, fewer, None, groups
    return calls, fewer, np.interp(fewer[:-1], times[-2::-1], shown[::-1]), groups


def _from_config(m: Model, n: int | None, sigmas: Any, timesteps: Any, mu: float | None) -> Path:
    times, shown = grid_from_config(m.config, m.schedule, n, m.entry.name, sigmas=sigmas, timesteps=timesteps, mu=mu)
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


def _from_name(m: Model, n: int | None, mu: float | None) -> Array:
    """A grid by name or array in place of the config's own."""
    if n is None:
        raise ValueError("pass `num_inference_steps`, `sigmas` or `timesteps` to set_timesteps")
    options = {}
    if m.grid == "flow" and m.config.get("use_dynamic_shifting"):
        if mu is None:
            raise ValueError("this config uses dynamic shifting: pass `mu` (pipelines derive it from the image size)")
        options["shift"] = dynamic_shift(mu, m.config.get("time_shift_type") or "exponential")
    return make_grid(m.grid, m.schedule, n, **options)


def model_clock(schedule: NoiseSchedule, shown: Array) -> torch.Tensor:
    """Times for the network: int64 where all are whole steps of discrete training, else float32."""
    whole = isinstance(schedule, Discrete) and bool((shown == np.round(shown)).all())
    return torch.tensor(shown, dtype=torch.int64 if whole else torch.float32)


def public_sigmas(schedule: NoiseSchedule, nodes: Nodes) -> torch.Tensor:
    """What schedulers call sigmas: sigma of flow, VE and EDM models, sigma / alpha of VP models; float32.

    1 - sigma where flow time is inverted.
    """
    sigmas = times_to_sigmas(schedule, nodes.t)
    return torch.tensor(1 - sigmas if isinstance(schedule, InvertedFlow) else sigmas, dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class Bound(Shared):
    """The steps of a Timetable from network call `begin` on, for one device and state dtype."""

    begin: int
    device: torch.device
    dtype: torch.dtype
    tableau: Tableau
    steps: tuple[Step, ...]


@lru_cache(maxsize=128)
def bind(table: Timetable, begin: int, device: torch.device, dtype: torch.dtype) -> Bound:
    """Steps of the table, recompiled from call `begin`, with their weights on the device."""
    tableau = resume(table.tableau, begin)
    return Bound(begin, device, dtype, tableau, lower(tableau, table.model.prediction, device, dtype, table.model.post))
