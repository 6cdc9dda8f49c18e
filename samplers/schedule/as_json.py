"""A schedule as plain JSON, its class by name and its numbers, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from fewstep.samplers.schedule.base import SCHEDULES, NoiseSchedule


def schedule_to_dict(schedule: NoiseSchedule) -> dict[str, Any]:
    """Class name and numbers of a schedule; a table of alpha^2 as a list."""
    values = {f.name: getattr(schedule, f.name) for f in fields(schedule)}  # type: ignore[arg-type]
    lists = {k: np.frombuffer(v).tolist() if isinstance(v, bytes) else v for k, v in values.items()}
    return {"class": type(schedule).__name__, **lists}


def schedule_from_dict(content: Mapping[str, Any]) -> NoiseSchedule:
    """Inverse of `schedule_to_dict`."""
    name = content["class"]
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule class {name!r}; expected one of {', '.join(SCHEDULES)}")
    values: dict[str, Any] = {
        k: np.array(v, float).tobytes() if isinstance(v, list) else v for k, v in content.items() if k != "class"
    }
    return SCHEDULES[name](**values)
