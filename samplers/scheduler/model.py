"""What a scheduler config says: the model behind it, and what is played on it; read once a config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fewstep.bounded import MEBIBYTE, bounded
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.choosing import Chosen, Named, chosen
from fewstep.samplers.artefact.loading import as_artefact
from fewstep.samplers.building import options as opt
from fewstep.samplers.building.compiling import no_table
from fewstep.samplers.building.names import checked_options
from fewstep.samplers.building.solver_entry import SOLVERS, Entry
from fewstep.samplers.config.classes import kind_of, label_of, only_counts, told_by_betas
from fewstep.samplers.config.reading import reading, schedule_from_config
from fewstep.samplers.grids.making import find, make_grid
from fewstep.samplers.noise.sources import check_kind as check_noise_kind
from fewstep.samplers.run.checks import on_schedule
from fewstep.samplers.run.step import Post
from fewstep.samplers.schedule.base import Array, Nodes, NoiseSchedule
from fewstep.samplers.schedule.continuous import EDM
from fewstep.samplers.schedule.discrete import Discrete
from fewstep.samplers.schedule.labelled import LabelledEDM
from fewstep.samplers.schedule.outputs import Prediction
from fewstep.samplers.scheduler.threshold import Clip, DynamicThreshold
from fewstep.samplers.table.tableau import Tableau
from fewstep.samplers.validity.domain import checked_policy

DEFAULT = "dpmpp_2m"
SAID = ("grid", "solver_options", "noise", "guidance", "outside", "policy")  # entries of ours beside what is played
NOISE_SHARE = {"tcd": "gamma", "alf": ""}  # where it is not the option `eta`, which is a damping there
PARTIAL = "_partial"
LEARNED = ("learned", "guidance", "outside", "policy")
OWN = ("solver", "grid", "solver_options", "noise", *LEARNED)  # entries of a config that are ours


class Shared:
    """Immutable and cached: a copy is the object itself."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self


@dataclass(frozen=True, eq=False)
class Model(Shared):
    """What a config says: its schedule, what the network returns, and what is played.

    entry: the solver, which runs on `grid`, or the config's own where that is None; of an artefact the one that it
    corrects; None of a table made by hand. learned: an artefact, whose tables are played; guidance and outside choose
    among them, policy says what becomes of a run elsewhere than it was learned. table: what is played as it is. afs:
    without the first network call, see building/analytic_start.py.
    """

    config: Mapping[str, Any]
    schedule: NoiseSchedule
    prediction: Prediction
    post: Post | None
    entry: Entry | None
    options: Mapping[str, Any]
    grid: Any
    learned: Artefact | None = None
    guidance: float | None = None
    outside: str = "error"
    policy: str | None = None
    table: Tableau | None = None
    afs: bool = False

    @property
    def nbytes(self) -> int:
        """Memory, from above: a config as text, a schedule's curve and training range, and what is played."""
        told = sum(len(repr(value)) for value in self.config.values())
        tables = [self.table] if self.table is not None else []
        tables += [each.tableau for each in self.learned.tables] if self.learned is not None else []
        return 3 * told + 200 * self.schedule.num_train_timesteps + sum(table.nbytes for table in tables) + 2**13

    def check(self) -> None:
        """ValueError for an artefact or a table of another model, or without a table for the guidance asked for.

        And for a table of one training step.

        A model is not whole until its config is: diffusers makes an object before it has seen every entry.
        """
        if self.config.get(PARTIAL):
            raise ValueError("a table of betas needs at least 2 training steps; got num_train_timesteps=1")
        if self.table is not None and not on_schedule(self.table, self.schedule):
            raise ValueError(
                f"table {self.table.name!r} was compiled for {self.table.schedule!r}; this config describes "
                f"{self.schedule!r}. Build it for that: build(solver, NoiseSchedule.from_config(config), nfe)"
            )
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
        told = told_by_betas(self.config, table)
        alphas = np.append(told[0], told[1:] / told[:-1])
        return {"betas": 1 - alphas, "alphas": alphas, "alphas_cumprod": table}

    def suited(self, nfe: int) -> str | None:
        """The grid that the solver is at home on, where the config says no more of its steps than their number."""
        wish = self.entry and self.entry.grid
        return wish(self.schedule, nfe, self.options) if wish and only_counts(self.config) else None

    def with_eta(self, eta: float) -> dict[str, float] | None:
        """The option that a pipeline's `eta`, the share of noise, is here; None without one, or where it is that."""
        name = NOISE_SHARE.get(self.entry.name, "eta") if self.entry is not None else ""
        return {name: eta} if name in self.options and self.options[name] != eta else None

    def levels(self, table: Tableau | None, timesteps: Array) -> tuple[Array, Array]:
        """(alpha, sigma) at times of the network; an entry of a run means the run's level there, rounded or not."""
        times = self.schedule.time_of_model(timesteps)
        if table is not None:
            shown = table.model_times.astype(np.float32)
            hit = shown[None] == timesteps.astype(np.float32)[:, None]
            times = np.where(hit.any(1), table.times[hit.argmax(1)], times)
        return self.schedule.alpha(times), self.schedule.sigma(times)


class Key(NamedTuple):
    """What a Model is cached by: the text of a config, what it plays, and its grid where that is a function."""

    config: str
    plays: Chosen
    grid: Any = None


def config_key(config: Mapping[str, Any]) -> Key:
    """The Key of a config. ValueError for an unknown solver, a damaged file, entries that are no plain data."""

    def plain(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        raise ValueError(f"a scheduler config holds numbers, strings, lists; got {type(value).__name__}")

    rest = {name: value for name, value in config.items() if name not in ("learned", "solver")}
    grid = rest.pop("grid") if callable(rest.get("grid")) else None
    learned = config.get("learned")
    plays = chosen(config.get("solver") or DEFAULT) if learned is None else as_artefact(learned)
    return Key(json.dumps(rest, sort_keys=True, default=plain), plays, grid)


@bounded(32 * MEBIBYTE, lambda model: model.nbytes)
def model(key: Key) -> Model:
    """The Model of a config; ValueError where it makes no sense."""
    config, plays = json.loads(key.config), key.plays
    grid, asked, noise, guidance, outside, policy = (config.pop(name, None) for name in SAID)
    grid = key.grid or grid
    check_noise_kind(noise or "independent")
    if not isinstance(plays, Named) and (grid is not None or asked):
        what = "a learned solver" if isinstance(plays, Artefact) else f"table {plays.name!r}"
        raise ValueError(f"{what} has its own times and weights: leave grid={grid!r} and options {asked} away")
    checked_policy(policy)
    if not isinstance(plays, Artefact) and not (guidance is None and outside is None and policy is None):
        raise ValueError(
            "`guidance` and `outside` choose among the tables of `learned`: give an artefact, or none of them"
        )
    if config.get("num_train_timesteps") == 1 and kind_of(config) == "table":  # the flow to come has not said so yet
        config = {**config, "num_train_timesteps": 2, PARTIAL: True}
    network = _network(config, plays)
    if isinstance(plays, Artefact):
        entry = SOLVERS[plays.tables[0].tableau.name]
        return Model(config, *network, entry, {}, None, plays, guidance, outside or "error", policy)
    if isinstance(plays, Tableau):
        return Model(config, *network, None, {}, None, table=plays)
    if plays.entry.kind != "tableau":
        raise no_table(plays.entry.name)
    grid = plays.grid if grid is None else grid
    if isinstance(grid, str):
        find(grid)
    asked = dict(asked or {})
    afs = opt.one_of(plays.entry.name, "afs", asked.pop("afs", False), (True, False))
    return Model(config, *network, plays.entry, checked_options(plays.entry, asked), grid, afs=afs)


def name_of(plays: Chosen) -> str:
    """The name of the solver that is played or corrected."""
    if isinstance(plays, Artefact):
        return plays.tables[0].tableau.name
    return plays.entry.name if isinstance(plays, Named) else plays.name


def _network(config: dict[str, Any], plays: Chosen) -> tuple[NoiseSchedule, Prediction, Post | None]:
    """Schedule and prediction type of a model, and what is done to its x0.

    Zero terminal SNR is alpha = 0 for some solvers and nearly so for others: for an artefact or a table it is what that was
    made on.
    """
    solver = name_of(plays)
    said = reading({"clip_sample": False, **config}, solver)
    post: Post | None = None
    if said.thresholding:
        post = DynamicThreshold(said.dynamic_thresholding_ratio, said.sample_max_value)
    elif said.clip_sample:
        post = Clip(said.clip_sample_range)
    schedule = schedule_from_config(config, solver)
    if isinstance(schedule, EDM):
        label = label_of(config)
        kind = {"audio": label == "audio", "consistency": label == "consistency"}
        labelled = LabelledEDM(schedule.sigma_min, schedule.sigma_max, schedule.sigma_data, **kind)
        return labelled, labelled.output(said.prediction), post
    if not _fits(plays, schedule) and _fits(plays, other := schedule_from_config(config, "ddim")):
        schedule = other
    return schedule, said.prediction, post


def _fits(plays: Chosen, schedule: NoiseSchedule) -> bool:
    """Whether what is played was made on this schedule; a solver by name is made on any."""
    if isinstance(plays, Artefact):
        return plays.is_for(schedule)
    return on_schedule(plays, schedule) if isinstance(plays, Tableau) else True


def for_config(entries: Mapping[str, Any]) -> Artefact:
    """The artefact of a config, moved by log-SNR to the model that the config describes where it was learned on another."""
    key = config_key(entries)
    assert isinstance(key.plays, Artefact)
    config = {name: value for name, value in json.loads(key.config).items() if name not in OWN}
    schedule, prediction, _ = _network(config, key.plays)
    return key.plays.remapped(schedule, prediction)
