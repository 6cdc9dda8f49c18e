"""What the registries of solvers, grids and guidance hold, as aligned text or JSON: the pages of `catalogue.py`."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fewstep.samplers.building.compiling import build
from fewstep.samplers.building.names import solver_of
from fewstep.samplers.building.solver_entry import SOLVERS, Entry
from fewstep.samplers.grids.grid_entry import GRIDS
from fewstep.samplers.grids.making import find, make_grid
from fewstep.samplers.guidance.guidance_entry import GUIDANCE, KINDS
from fewstep.samplers.schedule.base import NoiseSchedule


def solver_page(name: str | None, nfe: int, as_json: bool) -> str:
    """All solvers, or one with its table of `nfe` evaluations."""
    if name is not None and not as_json:
        return _one_solver(solver_of(name)[0], nfe)
    entries = list(SOLVERS.values()) if name is None else [solver_of(name)[0]]
    facts = [
        {
            "name": e.name,
            "order": e.order,
            "calls": e.calls(e.options) if callable(e.calls) else e.calls,
            "kind": ("SDE" if e.stochastic else "ODE") + (", driver" if e.kind == "driver" else ""),
            "combines": e.prediction,
            "reference": e.reference,
            "options": dict(e.options),
        }
        for e in entries
    ]
    return listed(facts, as_json)


def grid_page(name: str | None, nfe: int, as_json: bool) -> str:
    """All grids, or one with its times of `nfe` intervals."""
    if name is not None and not as_json:
        return _one_grid(name, nfe)
    entries = list(GRIDS.values()) if name is None else [find(name)[0]]
    return listed(
        [{"name": e.name, "what": e.summary, "reference": e.reference, "options": dict(e.options)} for e in entries],
        as_json,
    )


def guidance_page(name: str | None, as_json: bool) -> str:
    """All methods of guidance, or one."""
    if name is not None and not as_json:
        entry = GUIDANCE.find(name)
        needs = f"needs an operator: {entry.operator}" if entry.operator else "needs no operator"
        cost = f"{entry.gradients} vector-Jacobian products of the network a call"
        about = f"{entry.kind}: {KINDS[entry.kind]}; {needs}; {cost}"
        return "\n".join([entry.name, _doc(entry.fn), *_options(entry.options), about])
    entries = list(GUIDANCE.values()) if name is None else [GUIDANCE.find(name)]
    facts = [
        {
            "name": e.name,
            "kind": e.kind,
            "operator": e.operator or "-",
            "gradients": e.gradients,
            "reference": e.reference or "-",
            "options": dict(e.options),
        }
        for e in entries
    ]
    return listed(facts, as_json)


def columns(rows: Iterable[Sequence[object]]) -> str:
    """Aligned columns of text."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in text)


def listed(facts: Sequence[Mapping[str, Any]], as_json: bool) -> str:
    """Facts of several entries, the same of each."""
    if as_json:
        return json.dumps(facts, indent=1, default=_short)

    def cell(key: str, value: Any) -> object:
        if key == "options":
            return " ".join(f"{k}={_short(v)}" for k, v in value.items()) or "-"
        return _cite(value) if key == "reference" else value

    text = columns([list(facts[0]), *([cell(*item) for item in fact.items()] for fact in facts)])
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # a terminal would break the columns
    return "\n".join(line if width is None else line[:width] for line in text.splitlines())


def _cite(reference: str) -> str:
    """The arXiv number of a reference, or else its first words."""
    number = re.search(r"arXiv[: ]?(\d+\.\d+)", reference)
    return f"arXiv {number[1]}" if number else textwrap.shorten(reference, 40, placeholder=" ...")


def _short(value: Any) -> str:
    if callable(value):
        return str(getattr(value, "__name__", value))
    return f"{value:.4g}" if isinstance(value, float) else "".join(str(value).split())


def _doc(fn: Any) -> str:
    return inspect.cleandoc(fn.__doc__ or "")


def _options(options: Any) -> list[str]:
    return [f"option {name} (default {_short(value)})" for name, value in options.items()]


def _one_solver(entry: Entry, nfe: int) -> str:
    """Docstring, options, reference, and the table on the linear VP schedule."""
    parts = [entry.name, _doc(entry.fn), *_options(entry.options)]
    parts += [f"also called {', '.join(entry.aliases)}"] * bool(entry.aliases) + [entry.reference]
    if entry.kind == "tableau":
        parts += [
            f"\nOn NoiseSchedule.vp_linear() at {nfe} evaluations:",
            str(build(entry, NoiseSchedule.vp_linear(), nfe)),
        ]
    return "\n".join(parts)


def _one_grid(name: str, n: int) -> str:
    """Docstring, options, reference, and the times on the noise schedule that Stable Diffusion uses."""
    entry, _ = find(name)
    schedule = NoiseSchedule.from_config({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012})
    nodes = schedule.nodes(make_grid(name, schedule, n))
    table = columns(
        [["t", "alpha", "sigma", "lam"], *([f"{v:.5f}" for v in node] for node in zip(*nodes, strict=True))]
    )
    parts = [entry.name, _doc(entry.fn), *_options(entry.options), entry.reference]
    return "\n".join([*parts, "\nOn Stable Diffusion's schedule:", table])
