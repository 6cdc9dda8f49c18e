"""The figures of a comparison as ranked tables of text: entrants down, best first, numbers of evaluations across."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10
from statistics import median_high
from typing import Any

Data = Mapping[str, Any]
Found = tuple[Data, float | None, float | None, bool]  # point, value, half its interval, marked


@dataclass(frozen=True)
class Cell:
    """Text, half an interval, what to sort by; marked: best or level with it; few: the number of images if fewer."""

    text: str = "–"
    half: str = ""
    key: str = ""
    marked: bool = False
    few: int | None = None


@dataclass(frozen=True)
class Row:
    """One entrant: its place among the entrants, its cells, its order of convergence."""

    entrant: int
    cells: Sequence[Cell]
    order: Cell | None


@dataclass(frozen=True)
class RankedTable:
    """A table of the page: `name` in the choice of tables, `caption` above it; time and memory are of no metric."""

    name: str
    caption: str
    metric: str
    rows: Sequence[Row]
    higher: bool = False


def evaluations(data: Data) -> list[int]:
    """All numbers of evaluations, increasing."""
    return sorted({point["nfe"] for point in data["points"]})


def _finite(value: Any) -> bool:
    return value is not None and isfinite(value)


def ranking(data: Data, metric: Mapping[str, Any]) -> list[int]:
    """Entrants, best first: by their mean place over all nfe, in parts of the field; who is missing is last there."""
    places: dict[int, list[float]] = {k: [] for k in range(len(data["entrants"]))}
    for nfe in evaluations(data):
        found = [
            (value["value"], point["entrant"])
            for point in data["points"]
            if point["nfe"] == nfe and (value := point["values"].get(metric["name"])) and _finite(value["value"])
        ]
        order = [entrant for _, entrant in sorted(found, reverse=metric["higher"])]
        place = {entrant: k / max(1, len(order) - 1) for k, entrant in enumerate(order)}
        for entrant, all_places in places.items():
            all_places.append(place.get(entrant, 1.0))
    return sorted(places, key=lambda entrant: sum(places[entrant]))


def _decimals(halves: Sequence[float]) -> int:
    """Two digits of the middle one of half the intervals of a column."""
    return max(0, 1 - floor(log10(median_high(halves)))) if halves else 0


def _column(found: Sequence[Found | None], most: int) -> list[Cell]:
    """Cells of (point, value, half, marked), as precise as their intervals deserve."""
    common = _decimals([half for _, _, half, _ in filter(None, found) if half])
    cells = []
    for item in found:
        if item is None:
            cells.append(Cell())
            continue
        point, value, half, marked = item
        few = point["n"] if point["n"] < most else None
        if value is None or not isfinite(value):
            cells.append(Cell("not finite", few=few))
            continue
        places = max(common, -floor(log10(half))) if half else common
        text = f"{value:.{places}f}" if half else f"{value:.4g}"
        cells.append(Cell(text, f"{half:.{places}f}" if half else "", f"{value:.7g}", marked, few))
    return cells


def _half(value: Mapping[str, Any]) -> float | None:
    low, high = value["low"], value["high"]
    return (high - low) / 2 if _finite(low) and _finite(high) else None


def ranked_tables(data: Data) -> list[RankedTable]:
    """For each metric its values and what each is away from the best; then time and memory where they were measured."""
    tables = []
    for metric in data["metrics"]:
        name, label, rank = metric["name"], metric["label"], ranking(data, metric)
        values = {
            _at(p): (p, v["value"], _half(v), v["marked"]) for p in data["points"] if (v := p["values"].get(name))
        }
        away = {
            _at(p): (p, v["apart"]["value"], v["apart"]["half"], v["marked"])
            for p in data["points"]
            if (v := p["values"].get(name)) and v.get("apart")
        }
        tables.append(
            RankedTable(label, metric["title"], name, _rows(data, rank, values, orders=True), metric["higher"])
        )
        if away:
            caption = f"{label}: difference to the best, paired by seeds"
            tables.append(
                RankedTable(f"{label} from the best", caption, name, _rows(data, rank, away), metric["higher"])
            )
    for key, factor, title in (("seconds", 1e3, "milliseconds an image"), ("memory", 1e-6, "memory in MB")):
        cost = {_at(p): (p, p[key] * factor, None, False) for p in data["points"] if p.get(key) is not None}
        if cost:
            tables.append(RankedTable(title, title, "", _rows(data, ranking(data, data["metrics"][0]), cost)))
    return tables


def _at(point: Data) -> tuple[int, int]:
    return point["entrant"], point["nfe"]


def _rows(data: Data, rank: Sequence[int], found: Mapping[tuple[int, int], Found], orders: bool = False) -> list[Row]:
    most = max(point["n"] for point in data["points"])
    columns = [_column([found.get((k, nfe)) for k in rank], most) for nfe in evaluations(data)]
    known = [entrant.get("order") for entrant in data["entrants"]]
    orders = orders and any(order is not None for order in known)
    return [Row(k, cells, _order(known[k]) if orders else None) for k, *cells in zip(rank, *columns, strict=True)]


def _order(order: float | None) -> Cell:
    return Cell() if order is None else Cell(f"{order:.2f}", key=f"{order:.4g}")
