"""Tables on disk: JSON with exact float64, whole or not at all."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from fewstep.files import whole

from . import continuous, discrete, poisson, reverting
from .schedule import Node, NoiseSchedule
from .statistics import Statistics
from .tableau import Tableau

FORMAT, VERSION = "fewstep.tableau", 2


def save(tableau: Tableau, path: str | os.PathLike[str]) -> None:
    """Write a table to `path` as JSON; `load` gives back the same numbers to the last bit."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "name": tableau.name,
        "schedule": schedule_to_dict(tableau.schedule),
        "times": tableau.times.tolist(),
        "model_times": tableau.model_times.tolist(),
        "W": tableau.W.tolist(),
        "forms": [f if isinstance(f, str) else [np.asarray(part).tolist() for part in f] for f in tableau.forms],
        "order": tableau.order,
        "history": tableau.history,
        "slots": tableau.slots,
        "constant": tableau.constant,
        "prologue": None if tableau.prologue is None else tableau.prologue.tolist(),
        "groups": list(tableau.groups),
        "options": dict(tableau.options),
        "spans": None if tableau.spans is None else tableau.spans.tolist(),
        "conserves": tableau.conserves,
        "jumps": {str(step): node for step, node in tableau.jumps.items()},
    }
    with whole(path) as part:
        part.write_text(json.dumps(content, indent=1, default=_plain))


def _plain(value: Any) -> Any:
    """Options that are objects: statistics, in whole."""
    if isinstance(value, Statistics):
        return {"class": "Statistics", **value.plain()}
    raise ValueError(f"a table with an option of type {type(value).__name__} cannot be saved")


def _option(value: Any) -> Any:
    """Inverse of `_plain`."""
    if not isinstance(value, dict) or value.get("class") != "Statistics":
        return value
    return Statistics(**{k: v for k, v in value.items() if k != "class"})


def load(path: str | os.PathLike[str]) -> Tableau:
    """Read a table written by `save`, proving its rows again.

    Raises:
        ValueError: not a table, written by a newer version, or rows that are not consistent.
    """
    try:
        content = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a saved table: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'{path} is not a saved table: expected "format": "{FORMAT}"')
    if content["version"] > VERSION:
        raise ValueError(
            f"{path} was saved by a newer fewstep (table version {content['version']}; this one reads up to {VERSION}). "
            "Upgrade: pip install -U fewstep"
        )
    try:
        return _from_content(content)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is incomplete or damaged: {error!r}") from error


def _from_content(content: dict[str, Any]) -> Tableau:
    schedule = schedule_from_dict(content["schedule"])
    prologue = content["prologue"]
    return Tableau(
        name=content["name"],
        schedule=schedule,
        nodes=schedule.nodes(np.array(content["times"], float)),
        model_times=np.array(content["model_times"], float),
        W=np.array(content["W"], float),
        forms=tuple(f if isinstance(f, str) else (np.array(f[0]), np.array(f[1])) for f in content["forms"]),
        order=content["order"],
        history=content["history"],
        slots=content["slots"],
        constant=content["constant"],
        prologue=None if prologue is None else np.array(prologue, float),
        groups=tuple(content["groups"]),
        options={k: _option(v) for k, v in content["options"].items()},
        spans=None if content.get("spans") is None else np.array(content["spans"], float),
        conserves=content.get("conserves", "x0 eps"),
        jumps={int(step): Node(*node) for step, node in content.get("jumps", {}).items()},
    )


_CLASSES = {
    cls.__name__: cls
    for cls in (continuous.VPLinear, continuous.VPCosine, continuous.VPSigma, continuous.VE, continuous.EDM)
    + (continuous.Flow, discrete.Discrete, reverting.MeanReverting, poisson.PFGM)
}


def schedule_to_dict(schedule: NoiseSchedule) -> dict[str, Any]:
    """Class name and numbers of a schedule; a table of alpha^2 as a list."""
    values = {f.name: getattr(schedule, f.name) for f in fields(schedule)}  # type: ignore[arg-type]
    plain = {k: np.frombuffer(v).tolist() if isinstance(v, bytes) else v for k, v in values.items()}
    return {"class": type(schedule).__name__, **plain}


def schedule_from_dict(content: dict[str, Any]) -> NoiseSchedule:
    """Inverse of `schedule_to_dict`."""
    name = content["class"]
    if name not in _CLASSES:
        raise ValueError(f"unknown schedule class {name!r}; expected one of {', '.join(_CLASSES)}")
    values: dict[str, Any] = {
        k: np.array(v, float).tobytes() if isinstance(v, list) else v for k, v in content.items() if k != "class"
    }
    return _CLASSES[name](**values)
