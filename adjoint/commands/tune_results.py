"""What `fewstep tune` does, once its options are read."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from fewstep.adjoint.tuning.losses.loss_entry import LOSSES
from fewstep.adjoint.tuning.tuned_model import Tuned
from fewstep.adjoint.tuning.tuning import tune
from fewstep.arguments import parsed
from fewstep.cli import INTERRUPTED, goes_on
from fewstep.output.page import Table
from fewstep.output.places import prove_folder
from fewstep.samplers.learned.terminal import stages
from fewstep.samplers.pipeline.source import Source
from fewstep.samplers.scheduler.scheduler import Scheduler

SAME = (
    "solver", "nfe", "grid", "judge", "guidance", "weights", "rank", "targets", "steps", "batch", "accumulate", "lr", "ema",
    "every", "last", "method", "seconds", "resume", "seed", "classes", "prompt", "call", "batch_size",
)  # fmt: skip
GUARD = 100_000  # seeds after the first, where the untouched ones begin


def work(given: dict[str, Any]) -> None:
    """Tune and write, or only say which losses there are; given: the options of `fewstep tune`."""
    if given["list_losses"]:
        click.echo(json.dumps(losses(), indent=1) if given["as_json"] else losses_table().text())
        return
    out = Path(given["out"])
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"--out {out} is a file, or holds something already: give a new folder")
    prove_folder(out, "--out")
    terms = stages(given["loss"], given["settings"])
    if any(name == "reward" for name, _ in terms):
        raise ValueError(
            "a reward is a function: call fewstep.tune(..., loss='reward', reward=f) from Python, or register a loss of your "
            "own in a plug-in"
        )
    if any("data" in LOSSES.find(name).needs for name, _ in terms) and given["data"] is None:
        raise ValueError(f"--loss {given['loss']} compares with data: say --data FOLDER, mnist-test, or teacher")
    source = Source(given["model"], device=given["device"], dtype=given["dtype"])
    extractor = given["extractor"]
    if extractor is None and given["data"] is not None:
        extractor = "digits" if given["model"] == "demo" else "inception"
    tuned = tune(
        source.pipe,
        loss=terms,
        data=given["data"],
        extractor=extractor,
        solver_options=dict(map(parsed, given["options"])),
        teacher={k: given[f"teacher_{k}"] for k in ("solver", "nfe") if given[f"teacher_{k}"] is not None},
        seeds=range(given["seed"], given["seed"] + given["number"]),
        guard_seeds=range(given["seed"] + GUARD, given["seed"] + GUARD + given["guard"]),
        cache=False if given["no_cache"] else given["cache"],
        **_with_classes({name: given[name] for name in SAME}, source.pipe),
    )
    _write(tuned, source.pipe, out)
    click.echo(
        json.dumps({"folder": str(out), "status": tuned.status, **tuned.report}, indent=1)
        if given["as_json"]
        else str(tuned)
    )
    click.echo(f"wrote {out}", err=given["as_json"])
    if not given["as_json"] and tuned.status == "tuned" and tuned.kind == "all":
        click.echo(f"next: fewstep sample {out} --learned {out / 'table.json'} --nfe {tuned.table.nfe}")
    if tuned.report["interrupted"]:
        click.echo(
            f"interrupted: the best so far was tested; for all of it, {goes_on(click.get_current_context())}", err=True
        )
        sys.exit(INTERRUPTED)


def _with_classes(same: dict[str, Any], pipe: Any) -> dict[str, Any]:
    """All classes of a pipeline of this library, where none are said."""
    many = getattr(pipe, "null_class", None)
    if many is not None and same["classes"] is None and "class_labels" not in (same["call"] or {}):
        same["classes"] = range(many)
    return same


def _write(tuned: Tuned, pipe: Any, out: Path) -> None:
    """An adapter, or a pipeline that plays the table; of no gain, what was tuned alone."""
    whole = tuned.kind == "all" and tuned.status == "tuned"
    if whole:
        tuned.apply(pipe)
        pipe.scheduler = Scheduler.from_config(pipe.scheduler.config, learned=tuned.artefact)
        pipe.save_pretrained(out)
    tuned.save(out, weights=not whole)


def losses() -> list[dict[str, Any]]:
    """Every loss, the library's own and what plug-ins brought, as JSON."""
    return [
        {
            "name": one.name, "needs": list(one.needs), "alone": one.alone, "reference": one.reference,
            "options": {key: str(default) for key, default in one.options.items()},
        }
        for one in LOSSES.values()
    ]  # fmt: skip


def losses_table() -> Table:
    """The same for people."""
    rows = [
        [
            one["name"],
            " ".join(one["needs"]) or "-",
            "yes" if one["alone"] else "beside another",
            " ".join(one["options"]) or "-",
        ]
        for one in losses()
    ]
    return Table(["loss", "needs", "alone", "options"], rows, names=4)
