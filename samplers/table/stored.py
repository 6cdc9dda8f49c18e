"""Tables on disk: JSON with exact float64, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fewstep.output.files import whole
from fewstep.samplers.schedule import continuous, discrete, poisson, reverting
from fewstep.samplers.schedule.base import Node, NoiseSchedule
from fewstep.samplers.schedule.labelled import LabelledEDM
from fewstep.samplers.table.statistics import NAMES, Statistics
from fewstep.samplers.table.tableau import Tableau

if TYPE_CHECKING:
    from fewstep.samplers.artefact.artefact import Artefact

FORMAT, VERSION = "fewstep.tableau", 2


def save(tableau: Tableau, path: str | os.PathLike[str]) -> None:
    """Write a table to `path` as JSON; `load` gives back the same numbers to the last bit."""
    content = {"format": FORMAT, "version": VERSION, **to_content(tableau)}
    with whole(path) as part:
        part.write_text(json.dumps(content, indent=1, default=plain))


def to_content(tableau: Tableau) -> dict[str, Any]:
    """What a table consists of, as JSON takes it but for arrays and statistics, which `plain` turns into lists."""
    return {
        "name": tableau.name,
        "schedule": schedule_to_dict(tableau.schedule),
        "times": tableau.times,
        "model_times": tableau.model_times,
        "W": tableau.W,
        "forms": [f if isinstance(f, str) else [np.asarray(part) for part in f] for f in tableau.forms],
        "order": tableau.order,
        "history": tableau.history,
        "slots": tableau.slots,
        "constant": tableau.constant,
        "prologue": tableau.prologue,
        "groups": list(tableau.groups),
        "options": dict(tableau.options),
        "spans": tableau.spans,
        "conserves": tableau.conserves,
        "jumps": {str(step): node for step, node in tableau.jumps.items()},
    }


def plain(value: Any) -> Any:
    """Arrays as lists; options that are objects, statistics, in whole."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, Statistics):
        return {
            "class": "Statistics",
            **{name: getattr(value, name) for name in NAMES},
            "metadata": dict(value.metadata),
        }
    raise ValueError(
        f"a {type(value).__name__} cannot be saved in a table: expected numbers, text, arrays or statistics"
    )


def plainly(value: Any) -> Any:
    """As JSON gives it back; numpy numbers and arrays become numbers and lists. ValueError for what JSON cannot hold."""
    try:
        return json.loads(json.dumps(value, default=plain))
    except TypeError as error:
        raise ValueError(f"an artefact holds numbers, text, lists and dicts: {error}") from None


def _option(value: Any) -> Any:
    """An option as it was: statistics from what `plain` made of them."""
    if not isinstance(value, dict) or value.get("class") != "Statistics":
        return value
    return Statistics(**{k: v for k, v in value.items() if k != "class"})


def load(path: str | os.PathLike[str]) -> Tableau | Artefact:
    """Read a table or a learned artefact, each written by its `save`, proving its rows again.

    Raises:
        ValueError: neither, written by a newer version, damaged, or rows that are not consistent.
        FileNotFoundError: no file.
    """
    content = read(path)
    if content.get("format") == "fewstep.artefact":
        from fewstep.samplers.artefact.artefact import Artefact

        return Artefact.load(path)
    with checked(content, FORMAT, VERSION, path):
        return from_content(content)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a JSON file. ValueError for anything else."""
    try:
        content = json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a saved table: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a saved table: it holds a {type(content).__name__}")
    return content


@contextmanager
def checked(content: Mapping[str, Any], kind: str, version: int, name: Any) -> Iterator[None]:
    """Refuses content of another format or a newer version; what is missing or of another type inside is damage."""
    if content.get("format") != kind:
        raise ValueError(f'{name} is not a saved table: expected "format": "{kind}"; got {content.get("format")!r}')
    try:
        if content["version"] > version:
            raise ValueError(
                f"{name} was saved by a newer fewstep ({kind} version {content['version']}; this one reads up to "
                f"{version}). Upgrade: pip install -U fewstep"
            )
        yield
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{name} is incomplete or damaged: {error!r}") from error


def from_content(content: Mapping[str, Any], schedule: NoiseSchedule | None = None) -> Tableau:
    """Inverse of `to_content`; the schedule may come from elsewhere."""
    schedule = schedule or schedule_from_dict(content["schedule"])
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
    + (continuous.Flow, continuous.InvertedFlow, discrete.Discrete, reverting.MeanReverting, poisson.PFGM, LabelledEDM)
}


def schedule_to_dict(schedule: NoiseSchedule) -> dict[str, Any]:
    """Class name and numbers of a schedule; a table of alpha^2 as a list."""
    values = {f.name: getattr(schedule, f.name) for f in fields(schedule)}  # type: ignore[arg-type]
    lists = {k: np.frombuffer(v).tolist() if isinstance(v, bytes) else v for k, v in values.items()}
    return {"class": type(schedule).__name__, **lists}


def schedule_from_dict(content: Mapping[str, Any]) -> NoiseSchedule:
    """Inverse of `schedule_to_dict`."""
    name = content["class"]
    if name not in _CLASSES:
        raise ValueError(f"unknown schedule class {name!r}; expected one of {', '.join(_CLASSES)}")
    values: dict[str, Any] = {
        k: np.array(v, float).tobytes() if isinstance(v, list) else v for k, v in content.items() if k != "class"
    }
    return _CLASSES[name](**values)
