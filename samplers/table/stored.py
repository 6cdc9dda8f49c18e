"""Tables on disk: JSON with exact float64, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from fewstep.output.files import write_text
from fewstep.output.seal import BY_HAND, SEAL, sealed, unsealed
from fewstep.samplers.blocks.block_cache import BlockCache
from fewstep.samplers.schedule.as_json import schedule_from_dict, schedule_to_dict
from fewstep.samplers.schedule.base import Node, NoiseSchedule
from fewstep.samplers.schedule.outputs import score_weight
from fewstep.samplers.table.consistency import bounded
from fewstep.samplers.table.jsonfile import checked, option_of, plain
from fewstep.samplers.table.tableau import Tableau

FORMAT, VERSION = "fewstep.tableau", 3
PLAIN = 2  # version that all can read: of plain tables


def save(tableau: Tableau, path: str | os.PathLike[str]) -> None:
    """Write a table to `path` as JSON; `load` gives back the same numbers to the last bit."""
    content = json.dumps(to_dict(tableau), indent=1)
    write_text(path, content + "\n")


def to_dict(tableau: Tableau) -> dict[str, Any]:
    """A table as plain JSON that `load` and configs know again, sealed."""
    content: dict[str, Any] = json.loads(json.dumps(to_content(tableau), default=plain))
    return sealed({"format": FORMAT, "version": PLAIN if is_plain(tableau) else VERSION, **content})


def is_plain(tableau: Tableau) -> bool:
    """Whether a table has nothing that the first release did not know."""
    scored = any(map(score_weight, tableau.forms))
    return tableau.filters is None and tableau.cache is None and tableau.begins == 1 and not scored


def from_dict(content: Mapping[str, Any], name: Any) -> Tableau:
    """Inverse of `to_dict`. A table made by hand has no seal: what can be seen of its weights is checked, see `bounded`.

    Raises:
        ValueError: another format, a newer version, a content that is not what was sealed, rows that are not consistent.
    """
    with checked(content, FORMAT, VERSION, name), np.errstate(all="ignore"):  # what is not finite is refused
        table = from_content(unsealed(content, name, remedy=BY_HAND))
        if SEAL not in content:
            bounded(table)
        return table


def to_content(tableau: Tableau) -> dict[str, Any]:
    """What a table consists of, as JSON takes it but for arrays and statistics, which `plain` turns into lists.

    The file keeps two places that the first release had for a row before the first call: `prologue`, always null, and the
    first of `spans`, always empty.
    """
    spans = tableau.spans
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
        "prologue": None,
        "groups": list(tableau.groups),
        "options": dict(tableau.options),
        "spans": None if spans is None else np.concatenate([np.full_like(spans[:1], np.nan), spans]),
        "conserves": tableau.conserves,
        "jumps": {str(step): node for step, node in tableau.jumps.items()},
        **({} if tableau.filters is None else {"filters": tableau.filters}),
        **({} if tableau.cache is None else {"cache": tableau.cache.to_dict()}),
        **({} if tableau.begins == 1 else {"begins": tableau.begins}),
    }


def from_content(content: Mapping[str, Any], schedule: NoiseSchedule | None = None) -> Tableau:
    """Inverse of `to_content`; the schedule may come from elsewhere."""
    schedule = schedule or schedule_from_dict(content["schedule"])
    if content.get("prologue") is not None:
        raise ValueError(f"table {content['name']!r} has a row before its first network call, which is played no more")
    spans = None if content.get("spans") is None else np.array(content["spans"], float)[1:]  # see to_content
    return Tableau(
        name=content["name"],
        schedule=schedule,
        nodes=schedule.nodes(np.array(content["times"], float)),
        model_times=np.array(content["model_times"], float),
        W=np.array(content["W"], float),
        forms=tuple(f if isinstance(f, str) else tuple(map(np.array, f)) for f in content["forms"]),
        order=content["order"],
        history=content["history"],
        slots=content["slots"],
        constant=content["constant"],
        groups=tuple(content["groups"]),
        options={k: option_of(v) for k, v in content["options"].items()},
        spans=spans,
        conserves=content.get("conserves", "x0 eps"),
        jumps={int(step): Node(*node) for step, node in content.get("jumps", {}).items()},
        begins=float(content.get("begins", 1.0)),
        filters=None if content.get("filters") is None else np.array(content["filters"], float),
        cache=None if content.get("cache") is None else BlockCache.from_dict(content["cache"]),
    )
