"""Curves as the plain data that the page of a comparison is made from (fewstep/output/comparison_page.py)."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from PIL.Image import Image, Resampling

from fewstep.eval.report.curve_points import REFERENCE, Point, Points, own_reference
from fewstep.eval.report.jsonfile import plain
from fewstep.eval.report.recommendation import recommend
from fewstep.version import __version__

ROOM = 2_000_000  # bytes that pictures may take of the page, about
BYTES = 1.2  # a pixel of a natural picture takes as PNG, a channel


def page_data(points: Points, remarks: Sequence[str], command: str = "") -> dict[str, Any]:
    """What the page shows, in types that JSON has; command: that makes it again."""
    place = {name: k for k, name in enumerate(points.solvers)}
    sheet = Sheet(points)
    about = plain(points.about)
    settings = {k: v for k, v in about.items() if k not in ("entrants", "reference", "reference_shift", "model")}
    return {
        "title": f"Solvers on {points.model}",
        "model": points.model,
        "advice": [
            {**plain(a.as_dict()), "best": a.label, "alike": [a.labels[name] for name in a.alike]}
            for a in recommend(points, points.metrics[0])
        ],
        "metrics": [_metric(points, name) for name in points.metrics],
        "entrants": [_entrant(points, name, sheet) for name in points.solvers],
        "points": [_point(points, point, place, sheet) for point in points.points],
        "reference": {
            "text": about.get("reference", ""),
            "shift": about.get("reference_shift"),
            "images": sheet.named(REFERENCE),
        },
        "images": sheet.images,
        "image_size": list(sheet.size),
        "steps": [
            {"entrant": place[p.solver], "nfe": p.nfe, "lam": list(p.steps.lam), "weights": list(p.steps.weights)}
            for p in points.points
            if p.steps is not None
        ],
        "settings": [[name, _words(value)] for name, value in settings.items()],
        "notes": list(remarks),
        "command": command,
        "versions": f"fewstep {__version__}, torch {torch.__version__}",
    }


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _metric(points: Points, name: str) -> dict[str, Any]:
    higher = points.higher_is_better(name)
    values = [p.report[name].value for p in points.points if name in p.report]
    log = not higher and all(value > 0 for value in values)
    return {"name": name, "label": points.label(name), "title": points.title(name), "higher": higher, "log": log}


def _entrant(points: Points, name: str, sheet: Sheet) -> dict[str, Any]:
    known = points.entrant(name)
    order = points.order("rmse", name) if "rmse" in points.metrics else None
    grid = known["grid"] or next((p.grid for p in points.points if p.solver == name), "")
    own = sheet.named(own_reference(name))
    return {**known, "grid": grid, "order": order and order[0], **({"reference_images": own} if own else {})}


def _point(points: Points, point: Point, place: dict[str, int], sheet: Sheet) -> dict[str, Any]:
    cost = point.cost
    return {
        "entrant": place[point.solver],
        "nfe": point.nfe,
        "n": max((r.n or 0 for r in point.report.values()), default=0),
        "seconds": cost and cost.seconds,
        "memory": cost and cost.memory,
        "held": cost and cost.held,
        "values": {name: _value(points, name, point) for name in point.report},
        "images": sheet.of((point.solver, point.nfe)),
    }


def _value(points: Points, metric: str, point: Point) -> dict[str, Any]:
    result, apart = point.report[metric], points.to_best(metric, point.nfe, point.solver)
    low, high = result.interval or (None, None)
    return {
        "value": result.value,
        "low": low,
        "high": high,
        "marked": points.equals_best(metric, point.nfe, point.solver),
        "apart": apart and {"value": apart.value, "half": (apart.interval[1] - apart.interval[0]) / 2},
    }


class Sheet:
    """The samples as PNG in the page, each once, reduced where all of them would take more than ROOM."""

    def __init__(self, points: Points) -> None:
        self.images: list[str] = []
        self.size = (0, 0)
        self._at: dict[Any, list[int]] = {}
        flat = [image for images in points.samples.values() for image in images]
        if not flat:
            return
        width, height = flat[0].size
        whole = BYTES * len(flat) * width * height * len(flat[0].getbands())
        scale = min(1.0, sqrt(ROOM / whole))
        self.size = (max(1, round(scale * width)), max(1, round(scale * height)))
        for key, images in points.samples.items():
            self._at[key] = [self._add(image) for image in images]

    def of(self, key: tuple[str, int]) -> list[int]:
        """The places of a point's images."""
        return self._at.get(key, [])

    def named(self, name: str) -> list[int]:
        """Those of a reference, whatever its nfe."""
        return next((places for (whose, _), places in self._at.items() if whose == name), [])

    def _add(self, image: Image) -> int:
        small = image if image.size == self.size else image.resize(self.size, Resampling.LANCZOS)
        stream = io.BytesIO()
        small.save(stream, "PNG", optimize=True)
        self.images.append("data:image/png;base64," + base64.b64encode(stream.getvalue()).decode())
        return len(self.images) - 1
