"""How a Scheduler takes over the config of another scheduler class, and gives it back unharmed.

Its config is the other's, entry by entry, plus our own. What describes the network counts even where it is the
other class's default; what describes sampling counts only if somebody chose it, as in diffusers' own conversions.
"""

from __future__ import annotations

import inspect
import json
import os
from abc import abstractmethod
from collections.abc import Mapping
from math import isfinite
from numbers import Real
from typing import Any, TypeVar, cast

import diffusers
import numpy as np

from fewstep.checks import unknown
from fewstep.output.files import write_text
from fewstep.output.seal import BY_HAND, SEAL, sealed, unsealed
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.choosing import Named, chosen, held, is_file
from fewstep.samplers.artefact.held import Held
from fewstep.samplers.artefact.loading import as_artefact
from fewstep.samplers.building.names import resolve
from fewstep.samplers.building.solver_entry import SOLVERS
from fewstep.samplers.config.classes import as_config, flow_mode, kind_of
from fewstep.samplers.config.flows import ONCE
from fewstep.samplers.config.known_classes import completed
from fewstep.samplers.config.reading import default_solver
from fewstep.samplers.scheduler.diffusers_parts import ConfigMixin
from fewstep.samplers.scheduler.model import DEFAULT, LEARNED, OWN, Key, config_key, for_config, name_of
from fewstep.samplers.table.jsonfile import read
from fewstep.samplers.table.tableau import Tableau

MODEL_KEYS = frozenset(
    "num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type rescale_betas_zero_snr "
    "snr_shift_scale timestep_type sigma_min sigma_max sigma_data sigma_schedule rho sampling_eps beta_min beta_max shift "
    "flow_shift use_flow_sigmas use_dynamic_shifting time_shift_type base_shift max_shift base_image_seq_len "
    "max_image_seq_len shift_terminal invert_sigmas clip_sample clip_sample_range variance_type "
    "original_inference_steps clip_denoised s scaler stochastic_sampling".split()
)
SPACINGS = frozenset(  # entries that place the steps, as a grid does
    "timestep_spacing steps_offset sigma_schedule use_karras_sigmas use_exponential_sigmas use_beta_sigmas "
    "use_lu_lambdas".split()
)
S = TypeVar("S", bound="Adopting")
ORIGINAL = "_original"  # config entry: the class that a config came from, and which arguments of ours it lacked
DEFAULTS = "_use_default_values"  # config entry of diffusers: names of entries that nobody chose


def adopted(entries: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Another class's config without what it never said about sampling; `own`: our constructor's arguments, defaults."""
    unsaid = [k for k in entries.get(DEFAULTS, ()) if k not in MODEL_KEYS or (k in own and own[k] == entries[k])]
    kept = {key: value for key, value in entries.items() if key not in unsaid and key != DEFAULTS}
    lacks = sorted(key for key in own if key not in entries)
    return {**kept, ORIGINAL: {"class": kept.get("_class_name"), "lacks": lacks}}


def described(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of our config that say something, under the class name they came with."""
    original = config.get(ORIGINAL) or {}
    filled = set(original.get("lacks", ())) - set(OWN)  # defaults of our constructor, unknown to the original
    entries = {k: v for k, v in config.items() if k[0] != "_" and v is not None and k not in filled}
    if original.get("class"):
        entries["_class_name"] = original["class"]
    entries.setdefault("num_train_timesteps", completed(entries).get("num_train_timesteps", 1000))
    return entries


def key_with(config: Mapping[str, Any], **changes: Any) -> Key:
    """What the model of our config is cached by, with some entries changed."""
    return config_key({**described(config), **changes})


def apply_keywords(entries: dict[str, Any], given: Mapping[str, Any], config_keys: Any) -> dict[str, Any]:
    """Config with keywords put in: options of its solver, or entries of a config (`config_keys()` lists those known)."""
    plays = chosen(entries.get("solver") or DEFAULT)
    known = {**plays.entry.options, "afs": False} if isinstance(plays, Named) else {}
    options = {**(entries.get("solver_options") or {}), **{k: v for k, v in given.items() if k in known}}
    replaced = {key: value for key, value in given.items() if key not in known}
    for key in replaced:
        if key not in (*entries, *OWN, ONCE) and key not in (keys := config_keys()):
            raise unknown(f"option of solver {name_of(plays)!r} or config entry", key, [*known, *keys])
    changed = {*replaced, *OWN}
    kept = [key for key in entries.get(DEFAULTS, ()) if key not in changed]
    return {**entries, "solver_options": options, **replaced, DEFAULTS: kept}


def solver_entries(solver: Any, plays: Any, grid: Any) -> dict[str, Any]:
    """What a solver puts into a config: its name, its function, or a table in whole. plays: what it means."""
    own: dict[str, Any] = {"grid": None, "solver_options": {}, **dict.fromkeys(LEARNED)}
    if isinstance(plays, Tableau):
        if grid is not None:
            raise ValueError(f"table {plays.name!r} has times of its own: leave `grid` away; got {grid!r}")
        return {**own, "solver": held(plays)}
    if callable(solver):
        registered = SOLVERS.get(plays.entry.name)
        return {**own, "solver": solver if registered != plays.entry else plays.entry.name}
    return {**own, "solver": solver}


def learned_entries(learned: Any, solver: Any, grid: Any) -> dict[str, Any]:
    """What an artefact puts into a config; `solver` and `grid` are those given beside it.

    Raises:
        ValueError: no artefact, a grid, or a solver that it has no table of.
    """
    artefact = as_artefact(learned)
    names = list(dict.fromkeys(t.tableau.name for t in artefact.tables))
    if grid is not None or (solver is not None and resolve(solver) not in [(name, None) for name in names]):
        raise ValueError(
            f"`learned` brings its solver ({', '.join(names)}) and its times: leave `solver` and `grid` away; got "
            f"solver={solver!r}, grid={grid!r}"
        )
    return {"solver": names[0], "grid": None, "solver_options": {}, **dict.fromkeys(LEARNED), "learned": artefact}


class Adopting(ConfigMixin):
    """The config side of a Scheduler: made from any scheduler's config, read again whenever the config changes."""

    @classmethod
    def from_config(  # type: ignore[override]
        cls: type[S],
        config: Any = None,
        solver: Any = None,
        grid: Any = None,
        learned: Any = None,
        *,
        guidance: float | None = None,
        outside: str | None = None,
        policy: str | None = None,
        strict: bool = True,
        return_unused_kwargs: bool = False,
        **solver_options: Any,
    ) -> S:
        """The scheduler for a model whose diffusers scheduler (or its config) is given.

        Args:
            config: scheduler, or config dict of any diffusers scheduler or of this one.
            solver: SOLVERS name; a Tableau, or the path of a saved one, for as many steps as it has; or a function
                `f(path, *, options) -> Solution`. "auto": the one that the config was made for, as few-step models are, else
                what errs least on such steps. Default: the config's own if it was ours once, else "auto". A table
                travels with a saved scheduler or pipeline; a function has to be registered for that.
            grid: GRIDS name, decreasing times in the schedule's unit, or a function `f(schedule, n, t_start, t_end)`;
                None: the grid the config describes.
            learned: Artefact, or path of a saved one, to be played in place of a solver on a grid. The config holds it
                whole, so it travels with a saved scheduler or pipeline.
            guidance, outside: which of its tables, as in `Artefact.table`. strict: False moves an artefact that was
                learned on another model to this one, by log-SNR, with a warning. policy: of a run whose guidance, adapters,
                shape or dtype are not those it was learned with: "warn" (default), "refuse", or "nearest", the nearest
                guidance's table.
            **solver_options: options of the solver; entries of a config (timestep_spacing="trailing") are replaced.
                shift="once": the config's flow shift acts once; in diffusers, and here without it, it acts twice.

        Raises:
            ValueError: unknown solver, grid or option; no noise schedule; an artefact or a table of another schedule; an
                artefact for another prediction type or guidance, or one beside another solver or a grid.
        """
        entries = as_config(config)
        if entries.get("_class_name") not in [base.__name__ for base in cls.__mro__]:
            entries = adopted(entries, {p.name: p.default for p in inspect.signature(cls).parameters.values()})
        if learned is None and isinstance(meant := None if solver is None else chosen(solver), Artefact):
            solver, learned = None, meant
        if learned is not None:
            entries.update(learned_entries(learned, solver, grid))
        elif solver is not None and solver != "auto":
            entries.update(solver_entries(solver, meant, grid))
        elif solver == "auto" or "solver" not in entries:
            solver, options = default_solver(entries)
            entries.update({**solver_entries(solver, chosen(solver), grid), "solver_options": options})
        if solver_options.get("shift") == "once":
            solver_options = {**solver_options, ONCE: True}
            del solver_options["shift"]
        if grid is not None:
            if spaced := [key for key in solver_options if key in SPACINGS]:
                raise ValueError(
                    f"`grid` and {', '.join(map(repr, spaced))} both say where the steps are: give one of them"
                )
            as_is = isinstance(grid, str) or callable(grid)
            entries["grid"] = grid if as_is else np.asarray(grid, np.float64).tolist()
        told = {"guidance": guidance, "outside": outside, "policy": policy}
        entries.update({k: v for k, v in told.items() if v is not None})
        if policy == "nearest" and learned is not None and entries.get("guidance") is None:
            entries["guidance"] = next(iter(entries["learned"].guidances), None)  # until a call says another
        if solver_options or any(given is not None for given in (solver, grid, learned)):
            entries = apply_keywords(entries, solver_options, cls._config_keys)
        if learned is not None:
            entries["learned"] = held(entries["learned"] if strict else for_config(described(entries)))
        made: Any = super().from_config(entries, return_unused_kwargs)  # type: ignore[misc]
        model = (made[0] if return_unused_kwargs else made)._model
        model.check()
        if entries.get(ONCE) and model.schedule.kind != "flow":
            raise ValueError(
                f'shift="once" is for flow models; this config describes {model.schedule!r}: leave it away'
            )
        return made  # type: ignore[no-any-return]  # with return_unused_kwargs, which diffusers uses, a pair

    @classmethod
    def _config_keys(cls) -> set[str]:
        """Every entry that some diffusers scheduler's config may have."""
        classes = cls._get_compatibles()  # type: ignore[attr-defined]
        return {key for c in classes for key in cls._get_init_keys(c)} - {"self", "kwargs"}

    def register_to_config(self, **entries: Any) -> None:
        """Store config entries, then read the model and the solver off the whole config."""
        for name, meant in (("learned", as_artefact), ("solver", chosen)):
            value = entries.get(name)
            if not (value is None or isinstance(value, Held)) and (name == "learned" or not _is_named(value)):
                entries[name] = held(cast(Any, meant(value)))  # read here, once; its content stays in the config
        super().register_to_config(**{**entries, "_class_name": type(self).__name__})
        self._configure()

    @property
    def shift(self) -> float:
        """The shift of a flow model, where it does not depend on the size of the image."""
        entry = self._shift_entry()
        if entry is None:
            raise AttributeError("only flow models have a shift; this config describes none")
        return float(self.config.get(entry) or 1.0)

    def set_shift(self, shift: float) -> None:
        """The shift of a flow model from now on; before set_timesteps, which it asks for anew.

        Raises:
            ValueError: a model that is no flow, or whose shift comes with each call, as `mu`.
        """
        if not (isinstance(shift, Real) and isfinite(shift) and shift > 0):
            raise ValueError(f"`shift` must be a positive number; got {shift!r}")
        if self.config.get("use_dynamic_shifting"):
            raise ValueError("this config uses dynamic shifting: pass set_timesteps(..., mu=log(shift)) instead")
        if (entry := self._shift_entry()) is None:
            raise ValueError("only flow models have a shift to set; this config describes none")
        made = self.config.get("made_with_shift") or self.shift
        self.register_to_config(**{entry: float(shift), **({"made_with_shift": made} if entry == "shift" else {})})

    def _shift_entry(self) -> str | None:
        """Name of the config entry that shifts a flow model; None of others."""
        entries = described(self.config)
        if kind_of(entries) != "flow":
            return None
        return "flow_shift" if flow_mode(entries) else "shift"

    @abstractmethod
    def _configure(self) -> None:
        """Read the model and the solver off the config."""

    def save_config(self, save_directory: str | os.PathLike[str], **how: Any) -> None:
        """Write the config as a saved scheduler or pipeline has it; see `to_json_string`."""
        self.to_json_string()  # before a file is opened
        super().save_config(save_directory, **how)

    def to_json_string(self) -> str:
        """The config as JSON; ValueError for a solver or grid that is a function, which no file can hold."""
        for name in ("solver", "grid"):
            if callable(function := self.config.get(name)):
                raise ValueError(
                    f"this scheduler's {name} is the function {function.__name__!r}, which cannot be saved: register it under "
                    f"a name with @{name}(...) and give that"
                )
        text: str = super().to_json_string()
        return text

    def to_json_file(self, json_file_path: str | os.PathLike[str]) -> None:
        """Write the config whole and sealed; the seal is the file's and no entry of the config."""
        content = sealed(json.loads(self.to_json_string()))
        write_text(json_file_path, json.dumps(content, indent=2) + "\n")

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike[str], **archive: Any) -> dict[str, Any]:
        """Read a config's file, as diffusers asks for it. ValueError for ours that was changed after it was written.

        A stock scheduler keeps our seal as an entry that it does not know and writes it into files of its own. archive: what
        diffusers before 0.40 looks for the file in.
        """
        if any(archive.values()):
            content = super()._dict_from_json_file(json_file, **archive)  # type: ignore[misc]  # of a class that loads late
        else:
            content = read(json_file, "a scheduler's config")
        name = content.get("_class_name")
        if name not in [base.__name__ for base in cls.__mro__] and hasattr(diffusers, str(name)):
            return {key: value for key, value in content.items() if key != SEAL}
        return unsealed(content, json_file, remedy=BY_HAND)


def _is_named(solver: Any) -> bool:
    """Whether a solver is told by name or function, not by its content or file."""
    return callable(solver) or (isinstance(solver, str) and not is_file(solver))
