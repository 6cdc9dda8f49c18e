"""What learning leaves behind: tables, what they are for, and where they come from. Playing one needs no learner.

    artefact = fewstep.load("five.json")
    x0 = sample(denoiser, x_T, artefact)
    pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, learned=artefact)

A table is for one number of evaluations and, where guidance was part of the problem, one guidance scale. The schedule and
the prediction type of the model are part of the artefact: another model is refused unless the caller insists.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from fewstep.samplers.artefact import export, file
from fewstep.samplers.artefact.file import same_schedule, schedule_hash
from fewstep.samplers.artefact.learned_table import Learned
from fewstep.samplers.artefact.picking import table_at
from fewstep.samplers.schedule.as_json import schedule_to_dict
from fewstep.samplers.schedule.base import NoiseSchedule
from fewstep.samplers.schedule.outputs import Prediction
from fewstep.samplers.table.jsonfile import plainly
from fewstep.samplers.table.tableau import Tableau

OUTSIDE = ("error", "clamp", "base")


@dataclass(frozen=True, eq=False)
class Artefact:
    """Learned tables for one model. Equal where their content is; `save` and `load` keep every bit.

    Args:
        tables: at most one for each (nfe, guidance), all on one schedule, with a guidance in all or in none.
        model: JSON. "prediction"; where known "name", "shape" of one sample, "fingerprint". Filled in: "schedule" and
            "schedule_hash".
        provenance: JSON: how it was made. No dates and no seconds, so that the same work gives the same file.

    Raises:
        ValueError: no table, two for one place, tables of several schedules, entries that JSON cannot hold.
    """

    tables: tuple[Learned, ...]
    model: Mapping[str, Any]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tables = tuple(sorted(self.tables, key=lambda t: (t.nfe, -np.inf if t.guidance is None else t.guidance)))
        if not tables:
            raise ValueError("an artefact needs at least one table")
        places = [(t.nfe, t.guidance) for t in tables]
        if len(set(places)) < len(places) or len({t.guidance is None for t in tables}) > 1:
            raise ValueError(f"expected one table for each (nfe, guidance), a guidance in all or in none; got {places}")
        schedule = tables[0].tableau.schedule
        if any(t.tableau.schedule != schedule for t in tables):
            raise ValueError("the tables of an artefact must be of one schedule: make one artefact a model")
        prediction = self.model.get("prediction")
        if not isinstance(prediction, str) and not callable(prediction):
            raise ValueError(
                f'`model` must name the prediction type: {{"prediction": "epsilon"}}; got {self.model!r:.80}'
            )
        model = {**self.model, "prediction": prediction_name(prediction), "schedule": schedule_to_dict(schedule)}
        model["schedule_hash"] = schedule_hash(schedule)
        for name, value in {
            "tables": tables,
            "model": plainly(model),
            "provenance": plainly(dict(self.provenance)),
        }.items():
            object.__setattr__(self, name, value)

    @classmethod
    def _of(cls, parts: file.Parts) -> Artefact:
        """The artefact of a file's parts; its content is what was read and checked there."""
        artefact = cls(parts.tables, parts.model, parts.provenance)
        artefact.__dict__["content"] = parts.content
        return artefact

    @cached_property
    def content(self) -> file.Content:
        """Plain JSON with a hash over all of it, and the large arrays it names: made, or read, once."""
        return file.content_of(self.tables, self.model, self.provenance)

    @property
    def schedule(self) -> NoiseSchedule:
        """Of the model."""
        return self.tables[0].tableau.schedule

    @property
    def nfes(self) -> tuple[int, ...]:
        """Numbers of evaluations there are tables for, rising."""
        return tuple(file.nfes(self.tables))

    @property
    def guidances(self) -> tuple[float, ...]:
        """Guidance scales there are tables for, rising; none where guidance was no part of the problem."""
        return tuple(file.guidances(self.tables))

    def domain(self, guidance: float | None = None) -> dict[str, Any]:
        """Where it was learned, as `domain.departures` reads it; of the table for a guidance scale where one is said."""
        told = dict(self.model.get("domain") or {})
        if "shape" in self.model:
            told.setdefault("shapes", [self.model["shape"]])
        if guidance is not None and self.guidances:
            told["guidance"] = {**(told.get("guidance") or {}), "guidance_scale": [guidance]}
        return told

    def nearest(self, guidance: float) -> float:
        """The guidance scale nearest to this one that there are tables for, or the scale itself between two of them."""
        low, high = self.guidances[0], self.guidances[-1]
        return min(max(float(guidance), low), high)

    @property
    def report(self) -> dict[str, Any]:
        """The report of the only table, or all of them: {"nfe 5": ..., "nfe 5, guidance 3": ...}."""
        if len(self.tables) == 1:
            return dict(self.tables[0].report)
        return {t.place: dict(t.report) for t in self.tables}

    @property
    def hash(self) -> str:
        """sha256 of the content."""
        return str(self.content.plain["hash"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Artefact) and (self is other or self.hash == other.hash)

    def __hash__(self) -> int:
        return hash(self.hash)

    def __deepcopy__(self, memo: object) -> Artefact:
        return self

    def table(
        self,
        nfe: int | None = None,
        guidance: float | None = None,
        *,
        schedule: NoiseSchedule | None = None,
        prediction: Prediction | None = None,
        shape: Sequence[int] | None = None,
        strict: bool = True,
        outside: str = "error",
    ) -> Tableau:
        """The Tableau for `nfe` evaluations and a guidance scale, to be played by `sample`.

        Between two guidance scales boundaries are interpolated in lam, the base solver is compiled on them, and corrections
        and the offsets of model times are interpolated linearly; where learning found that this does not hold, it is refused.

        Args:
            nfe, guidance: may be left away where the artefact has one.
            schedule, prediction, shape: of the model it shall run on, checked where given; shape is that of one sample.
            strict: False moves the tables to another schedule by log-SNR, with a warning (see `remapped`), and lets another
                prediction type pass.
            outside: for an nfe or guidance beyond the tables, or between two with different base solvers: "error"; "base",
                the base solver without corrections on the nearest grid, resampled where it has more or fewer steps;
                "clamp", the table for the nearest guidance.

        Raises:
            ValueError: another schedule or prediction type, no table for nfe or guidance, weights of another shape.
        """
        if outside not in OUTSIDE:
            raise ValueError(f"`outside` must be one of {', '.join(map(repr, OUTSIDE))}; got {outside!r}")
        fitting = self
        if not self.is_for(schedule, prediction):
            if strict:
                raise self.refusal(schedule, prediction)
            fitting = self.remapped(schedule, prediction)
        cascade = self.model.get("cascade") if fitting is self or fitting.schedule == self.schedule else None
        found = table_at(fitting.tables, nfe, guidance, outside, self.model.get("between") or (), cascade)
        self._check_shape(found, shape)
        return found

    def is_for(self, schedule: NoiseSchedule | None, prediction: Prediction | None = None) -> bool:
        """Whether a model's schedule and prediction type are those it was learned on; None counts as the same."""
        return self._same_schedule(schedule) and self._same_prediction(prediction)

    def _same_schedule(self, schedule: NoiseSchedule | None) -> bool:
        return schedule is None or same_schedule(schedule, self.schedule)

    def _same_prediction(self, prediction: Prediction | None) -> bool:
        return prediction is None or prediction_name(prediction) == self.model["prediction"]

    def refusal(self, schedule: NoiseSchedule | None, prediction: Prediction | None = None) -> ValueError:
        """The error for a model it was not learned on: both, and the way to override."""
        mine, its = repr(self.model["prediction"]), f"{prediction and prediction_name(prediction)!r} predictions"
        if schedule is not None and not self._same_schedule(schedule):
            mine = f"{self.schedule!r} (hash {self.model['schedule_hash'][:12]})"
            its = f"{schedule!r} (hash {schedule_hash(schedule)[:12]})"
        return ValueError(
            f"this artefact was learned on {mine}; this model has {its}. Learn for this model, or take the tables moved by "
            "log-SNR, which nobody measured here: artefact.table(..., schedule=denoiser.schedule, strict=False), or "
            "Scheduler.from_config(config, learned=artefact, strict=False)"
        )

    def remapped(self, schedule: NoiseSchedule | None = None, prediction: Prediction | None = None) -> Artefact:
        """The artefact for another model, with a warning: every boundary and model time keeps its lam, ends apart.

        The ends of the old schedule become those of the new one; the base solver is compiled there and the corrections are
        added in units of alpha + sigma. The reports stay what was measured on the old model.

        Raises:
            ValueError: boundaries that the schedule does not reach, or steps that do not fit its ends.
        """
        if self.is_for(schedule, prediction):
            return self
        warnings.warn(
            f"tables learned on {self.schedule!r} with {self.model['prediction']!r} predictions are played on another model: "
            "their gain was not measured there",
            stacklevel=3,
        )
        model = {**self.model, "learned_on": self.model.get("learned_on", self.model["schedule_hash"])}
        if prediction is not None:
            model["prediction"] = prediction_name(prediction)
        tables = self.tables
        if schedule is not None and not self._same_schedule(schedule):
            tables = tuple(t.on(schedule) for t in tables)
        return Artefact(tables, model, self.provenance)

    def _check_shape(self, table: Tableau, shape: Sequence[int] | None) -> None:
        """Weights of every element belong to one shape; others are at home on the shape they were learned on."""
        known = [tuple(learned) for learned in self.domain().get("shapes") or ()]
        if shape is None or not known or tuple(shape) in known:
            return
        near = min(known, key=lambda one: abs(prod(one) - prod(shape)))
        said = f"learned on samples of shape {near}, played on {tuple(shape)}, {prod(shape) / prod(near):.3g} times the numbers"
        if table.elementwise:
            raise ValueError(f"this table has weights for every element: it was {said}. Learn it for this shape")
        warnings.warn(f"this table was {said}: its gain was not measured there", stacklevel=4)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON that needs no file beside it: what a scheduler's config holds."""
        return file.to_dict(self.content)

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> Artefact:
        """Inverse of `to_dict`. ValueError for anything else."""
        return Artefact._of(file.parts_of(content, "the artefact"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON with exact float64; large arrays go to a safetensors file beside it. Each whole or not at all."""
        file.save(self.content, path)

    @staticmethod
    def of_content(content: Mapping[str, Any], path: str | os.PathLike[str]) -> Artefact:
        """The artefact whose JSON was read from `path`."""
        return Artefact._of(file.parts_of(content, path))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Artefact:
        """Read what `save` wrote; ValueError for a file that is damaged, foreign or newer."""
        return Artefact._of(file.load(path))

    def to_diffusers(self, nfe: int | None = None, guidance: float | None = None) -> dict[str, list[float]]:
        """`timesteps` and `sigmas` of a table for a stock scheduler; see `export.to_diffusers`."""
        return export.to_diffusers(self.table(nfe, guidance))

    def to_comfyui(self, nfe: int | None = None, guidance: float | None = None) -> list[float]:
        """The sigmas of a table, for ComfyUI and other programs in the k-diffusion tradition; see `export.to_comfyui`."""
        return export.to_comfyui(self.table(nfe, guidance))

    def __str__(self) -> str:
        head = f"{len(self.tables)} learned table{'s' * (len(self.tables) > 1)} for {self.schedule!r}, "
        lines = [head + f"{self.model['prediction']!r} predictions, hash {self.hash[:12]}"]
        for t in self.tables:
            measured = (f"{k} {v:.4g}" for k, v in t.report.items() if isinstance(v, float | int))
            solver = f"{t.tableau.name} from {t.base.get('grid') or 'its default grid'!s:.40}"
            lines.append(f"{t.place:<22} {t.kind:<6} {t.status:<8} {solver}  {', '.join(measured)}".rstrip())
        return "\n".join(lines)


def prediction_name(prediction: Prediction) -> str:
    """What a network returns, in a word; EDM networks in diffusers return F behind their preconditioning."""
    return prediction if isinstance(prediction, str) else "preconditioned"
