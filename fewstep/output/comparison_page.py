"""The page of a comparison: one HTML file with its data, scripts and images inside, for any browser and no network.

Its parts lie beside this file in comparison/: a template, style sheets, scripts without any library.
"""

import json
from collections.abc import Mapping
from importlib.resources import files
from math import isfinite
from os import PathLike
from typing import Any

from fewstep.lazy import optional
from fewstep.output.files import write_text
from fewstep.output.pictures import COLOURS
from fewstep.output.ranked_tables import evaluations, ranked_tables, ranking

THEMES = ("auto", "light", "dark")
STYLES = ("page.css", "parts.css")
SCRIPTS = (
    "common.js",
    "filter.js",
    "table.js",
    "curves.js",
    "differences.js",
    "sheet.js",
    "zoom.js",
    "steps.js",
    "start.js",
)
KINDS = {"flow": "Deterministic", "stochastic": "Stochastic"}
MANY = 20  # entrants from which on only the best grid of each solver is shown at first
# A label can end neither its element nor, where a script is read as one, its line.
ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def write_comparison_page(path: str | PathLike[str], data: Mapping[str, Any], theme: str = "auto") -> None:
    """Write the page whole.

    Args:
        path: the file to write.
        data: what was compared, as plain JSON types (`title`, `advice`, `metrics`, `entrants`, `points`, `reference`,
            `images`, `steps`, `settings`, `notes`, `command`, `versions`).
        theme: "auto" is what the reader's system says, or "light" or "dark".
    """
    if theme not in THEMES:
        raise ValueError(f"a page has no theme {theme!r}; choose auto (what the reader's system says), light or dark.")
    with optional("a page"):
        from jinja2 import Environment

    data = _plain(data)
    nfes = evaluations(data)
    orders = {metric["name"]: ranking(data, metric) for metric in data["metrics"]}
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(_part("page.html")).render(
        data=data,
        theme=theme,
        nfes=nfes,
        tables=ranked_tables(data),
        advice=_advice(data),
        kinds=list(dict.fromkeys(entrant["kind"] for entrant in data["entrants"])),
        most=max((point["n"] for point in data["points"]), default=0),
        fewer=len({point["n"] for point in data["points"]}) > 1,
        several_grids=len({entrant["solver"] for entrant in data["entrants"]}) < len(data["entrants"]),
        only_best=len(data["entrants"]) > MANY,
        referred=data["reference"]["images"] or any(one.get("reference_images") for one in data["entrants"]),
        pictured=any(point["images"] for point in data["points"]),
        colours=COLOURS[:-1],  # the last one is the colour of the text, which a dark page turns around
        style="\n".join(map(_part, STYLES)),
        script="\n".join(map(_part, SCRIPTS)),
        json=embedded({**data, "nfes": nfes, "orders": orders}),
    )
    write_text(path, html)


def embedded(value: Any) -> str:
    """JSON that can stand inside an element <script>, whatever its texts are."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(ESCAPES)


def _part(name: str) -> str:
    return files("fewstep.output.comparison").joinpath(name).read_text(encoding="utf-8")


def _plain(value: Any) -> Any:
    """The same with floats as a page needs them: seven digits, and None for what is not finite, which JSON does not know."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.7g}") if isfinite(value) else None
    return value


def _advice(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Advice by kind; its sentence around the name of the best, without the number of evaluations, which stands beside."""
    groups: dict[str, list[dict[str, Any]]] = {}
    places = {entrant["label"]: k for k, entrant in enumerate(data["entrants"])}
    for item in data["advice"]:
        text = item["text"].removeprefix(f"at {item['nfe']} evaluations: ")
        before, name, after = text.partition(item["best"])
        said = {"before": before, "name": name, "after": after, "entrant": places.get(item["best"])}
        groups.setdefault(item["kind"], []).append({**item, **said})
    return [{"title": KINDS.get(kind, kind), "rows": rows} for kind, rows in groups.items()]
