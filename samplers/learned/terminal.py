"""What `fewstep learn` and `fewstep show` do, once their options are read."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fewstep.arguments import parsed
from fewstep.cli import INTERRUPTED, goes_on
from fewstep.output.page import Table
from fewstep.output.places import kept, prove_file
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.loading import as_artefact, load
from fewstep.samplers.learned.estimate import estimate
from fewstep.samplers.learned.learning import learn
from fewstep.samplers.learned.report.showing import judged, text
from fewstep.samplers.learned.report.table_pictures import write
from fewstep.samplers.learned.report.verdict import HEAD, cells
from fewstep.samplers.learned.report.views import views
from fewstep.samplers.learned.tasks.learner_entry import METHODS
from fewstep.samplers.learned.tasks.learner_task import Progress

PICTURES = (".png", ".svg", ".pdf", ".html")


def work(given: dict[str, Any]) -> None:
    """Learn and write, or only say what it would cost, or which methods there are; given: the options of `fewstep learn`."""
    out, as_json = given["out"], given["as_json"]
    if given["list_methods"]:
        click.echo(json.dumps(methods(), indent=1) if as_json else methods_table().text())
        return
    if not out.endswith(".json"):
        raise ValueError(f"{out!r} is to be written as .json: give a name that ends so")
    spec = spec_of(given)
    if given["estimate"]:
        told = estimate(**spec)
        click.echo(told.to_json() if as_json else told.text())
        return
    prove_file(out, "--out")
    keep = {"cache": False if given["no_cache"] else given["cache"], "resume": given["resume"]}
    try:
        artefact = learn(**spec, **keep, transfer=given["transfer"], progress=_line if as_json else True)
        kept(out, artefact.save)
    except KeyboardInterrupt:
        left = "as it was" if Path(out).exists() else "not written"
        again = goes_on(click.get_current_context())
        click.echo(f"interrupted before there was something to keep; {out} is {left}; {again}", err=True)
        sys.exit(INTERRUPTED)
    click.echo(json.dumps(told_of(artefact, out), indent=1) if as_json else outcome(artefact).text())
    ended = any(stage.get("interrupted") for t in artefact.tables for stage in t.stages)
    if ended:
        tables = ", ".join(t.place for t in artefact.tables)
        click.echo(
            f"interrupted: the best so far was tested on untouched seeds; there are tables for {tables}; for all of it, "
            + goes_on(click.get_current_context()),
            err=True,
        )
    click.echo(f"wrote {out}", err=as_json)
    if not as_json:
        click.echo(_next(artefact, out, given["model"]))
    if ended:
        sys.exit(INTERRUPTED)


def spec_of(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `learn` and `estimate` as the options say them."""
    same = (
        "model", "solver", "guidance", "classes", "prompt", "call", "dtype", "batch_size", "device", "seconds", "rivals",
        "budget", "memory", "loss", "judge",
    )  # fmt: skip
    return {
        **{name: given[name] for name in same},
        "nfe": given["nfes"],
        "method": stages(given["method"], given["settings"]),
        "solver_options": dict(map(parsed, given["options"])),
        "teacher": {k: given[f"teacher_{k}"] for k in ("solver", "nfe") if given[f"teacher_{k}"] is not None},
        **samples(given),
    }


def stages(method: str, settings: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """ "oss+iia" and ["iia.window=3"] -> [("oss", {}), ("iia", {"window": 3})]; words are joined as stages are."""
    names = [name.strip() for name in method.split("+")]
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for setting in settings:
        name, dot, rest = setting.partition(".")
        if not dot or "=" in name:
            name, rest = names[0], setting
            if len(names) > 1:
                raise ValueError(f"{setting!r} must say of which method it is: {names[0]}.{setting}")
        if name not in found:
            raise ValueError(f"{setting!r} is for {name!r}, which is no stage of {method!r}")
        key, value = parsed(rest)
        words = value.split("+") if isinstance(value, str) and "+" in value else value
        found[name][key] = tuple(words) if isinstance(words, list) else words
    return [(name, found[name]) for name in names]


def samples(given: dict[str, Any]) -> dict[str, range]:
    """Seeds to learn on, and the guard's, which begin a thousand later or right after them."""
    first, number = given["seed"], given["number"]
    guard = first + max(1000, number) if given["guard_seed"] is None else given["guard_seed"]
    return {"seeds": range(first, first + number), "guard_seeds": range(guard, guard + given["guard"])}


def _next(artefact: Artefact, out: str, model: str) -> str:
    """What to do with the file."""
    first = artefact.tables[0]
    scale = "" if len(artefact.guidances) < 2 else f" --guidance {first.guidance:g}"
    where = "" if model == "demo" else f" {model}"
    return f"next: fewstep show {out}; fewstep sample{where} --learned {out} --nfe {first.nfe}{scale}"


def _line(p: Progress) -> None:
    """Progress for machines."""
    told = {name: getattr(p, name) for name in ("stage", "step", "steps", "best", "base", "spent")}
    click.echo(json.dumps({**told, "nfe": p.table.nfe, "seconds": round(p.seconds, 3)}), err=True)


def outcome(artefact: Artefact) -> Table:
    """The table of what was won, one line a learned table."""
    rows = []
    for t in artefact.tables:
        fixed, learned = (t.report[name]["test"] for name in ("best_fixed", "learned"))
        row = cells(t.nfe, t.guidance, t.report["best_fixed_recipe"], fixed, learned, t.report["test"])
        rows.append([*row, t.status])
    by = artefact.tables[0].report
    caption = f"Error to the reference on untouched seeds, {judged(by)}; ratios with 95 % intervals"
    return Table([*HEAD, "status"], rows, names=3, caption=caption)


def told_of(artefact: Artefact, out: str) -> dict[str, Any]:
    """The same for machines."""
    tables = [{"nfe": t.nfe, "guidance": t.guidance, "status": t.status, **t.report} for t in artefact.tables]
    return {"file": out, "hash": artefact.hash, "tables": tables}


def methods() -> list[dict[str, Any]]:
    """Every method, the library's own and what plug-ins brought, as JSON."""
    return [
        {"name": m.name, "learns": list(m.learns), "gradients": m.gradients, "reference": m.reference,
         "options": {key: default if default is None else str(default) for key, default in m.options.items()}}
        for m in METHODS.values()
    ]  # fmt: skip


def methods_table() -> Table:
    """The same for people."""
    head = ["method", "learns", "gradients", "options"]
    rows = [
        [m["name"], "+".join(m["learns"]), "yes" if m["gradients"] else "no", " ".join(m["options"]) or "-"]
        for m in methods()
    ]
    return Table(head, rows, names=len(head))


def show(file: str, nfe: int | None, guidance: float | None, out: str | None) -> None:
    """Print the tables of a file, and draw them where a picture is asked for."""
    if out is not None and not out.lower().endswith(PICTURES):
        raise ValueError(f"{out!r} does not end like a picture or page; use one of {', '.join(PICTURES)}")
    if file != "demo" and not Path(file).is_file():
        raise ValueError(f"there is no file {file!r}: give what `fewstep learn` wrote, or demo")
    found = views(as_artefact(file) if file == "demo" else load(file), nfe, guidance)
    if out is not None:
        prove_file(out, "--out")
    click.echo("\n\n\n".join(map(text, found)))
    if out is not None:
        write(found, Path(out), f"Tables of {Path(file).name}")
        click.echo(f"wrote {out}")
