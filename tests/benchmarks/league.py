"""Every learning method under one protocol: `python tests/benchmarks/league.py`.

Same teacher, seeds, base solver and start for all: the best of the fixed recipes of dpmpp_2m (six grids, last step first
order or not) on the validation seeds. A method's own result is shown, also where it is worse: nothing is guarded. Gradient
methods take the same number of steps and the same batches. Errors are to the teacher on untouched seeds; FD-digits is of the
images of these seeds against the MNIST test set; evaluations are samples times calls, without the teacher's; seconds are of
one thread.

Results are added to a file as they come, and what is in it is not measured again. --keep writes docs/league.json as well.
"""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import click
import kept
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from learned_problems import MIXTURES, SHAPES  # noqa: E402

from fewstep.output.files import write_text  # noqa: E402
from fewstep.samplers.learned.problem.problem import Problem, squared_errors  # noqa: E402
from fewstep.samplers.learned.problem.recipes import recipes  # noqa: E402
from fewstep.samplers.learned.problem.teacher import Teacher  # noqa: E402
from fewstep.samplers.learned.tasks.guard import summary  # noqa: E402
from fewstep.samplers.learned.tasks.learner_entry import METHODS  # noqa: E402
from fewstep.samplers.learned.tasks.learner_task import Task  # noqa: E402

LEAGUE = "dmn ays gits oss d_ode dc iia ems s3 tta ld3 s4s dss bns bespoke joint auto".split()
OPTIONS: dict[str, dict[str, Any]] = {"ays": {"mode": "optimise"}}
SOLVER = "dpmpp_2m"
ALL = kept.ROOT / "docs" / "league.json"  # every figure of both models


def measured(task: Task, table: Any, seeds: list[int], truth: Any) -> dict[str, Any]:
    """Errors of a table on untouched seeds, and FD-digits where the samples are digits."""
    parts = task.problem.parts(seeds)
    x0 = [task.problem.draw(table, part) for part in parts]
    found: dict[str, Any] = summary(torch.cat([squared_errors(a, b) for a, b in zip(x0, truth, strict=True)]))
    if task.problem.model == "demo":
        from fewstep import eval as fe

        images = [image for part, x in zip(parts, x0, strict=True) for image in part.denoiser.decode(x)]
        found["fd"] = float(fe.fid("mnist-test", iter(images), extractor="digits", progress=False))
    return found


def one(task: Task, name: str, start: Any, steps: int, batch: int) -> tuple[Any, dict[str, Any]]:
    """A method's table, and what it cost."""
    options = dict(OPTIONS.get(name, {}))
    known = METHODS[name].options
    options |= {key: value for key, value in (("steps", steps), ("batch", batch)) if key in known}
    if isinstance(known.get("steps"), tuple):  # two phases
        options["steps"] = (steps // 3, steps - steps // 3)
    spent, began = task.problem.spent, time.process_time()
    table = task.run(name, start, **options)
    cost = {"seconds": time.process_time() - began, "evaluations": task.problem.spent - spent, "options": options}
    return table, cost


@click.command()
@click.option(
    "--model", default="demo", show_default=True, help="demo, ring, sixteen, third, or the folder of a pipeline."
)
@click.option("--nfe", "nfes", default="4,5,6,8,10", show_default=True)
@click.option("--methods", default=",".join(LEAGUE), show_default=False)
@click.option("--steps", default=150, show_default=True, help="Of gradient methods.")
@click.option("--batch", default=16, show_default=True, help="Samples a gradient step.")
@click.option("--number", default=512, show_default=True, help="Untouched seeds.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Figures  [default: where the same command finds them again]"
)
@kept.keep
def main(
    model: str, nfes: str, methods: str, steps: int, batch: int, number: int, out: Path | None, keep: bool
) -> None:
    """Print the table."""
    with kept.resumable() as folder:
        path = out or folder / "league.json"
        play(path, model, [int(n) for n in nfes.split(",")], methods.split(","), (steps, batch, number))
        rows = [row for row in json.loads(path.read_text()) if row["model"] == model]
        columns, lines = shown(rows)
        kept.show(f"league_{kept.short(model)}", columns, lines, keep)
        if keep:
            others = [row for row in json.loads(ALL.read_text()) if row["model"] != model]
            write_text(ALL, json.dumps(sorted([*rows, *others], key=lambda row: row["model"] != "demo"), indent=1))


def play(path: Path, model: str, nfes: list[int], methods: list[str], how: tuple[int, int, int]) -> None:
    """Measure what the file has not; how: steps and batch of gradient methods, untouched seeds."""
    steps, batch, number = how
    torch.set_num_threads(1)
    if model not in MIXTURES:
        problem, teacher = Problem(model), {"nfe": 60}
    else:
        problem = Problem(MIXTURES[model](), shape=SHAPES[model], dtype=torch.float64, batch_size=256)
        teacher = {"nfe": 200}
    reference, seeds = Teacher(problem, **teacher), list(range(1000, 1000 + number))
    truth = [reference.end(part) for part in problem.parts(seeds)]
    rows = json.loads(path.read_text()) if path.exists() else []
    for nfe in nfes:
        task = Task(problem, reference, nfe, tuple(range(192)), tuple(range(192, 256)))
        task.teacher.prepare([*problem.parts(task.train), *task.valid_parts()])
        ranked = sorted(recipes(SOLVER, problem.schedule, nfe), key=lambda r: task.offer(r.table))
        task.fixed = ranked
        for name in ("fixed", *methods):
            if any((r["model"], r["nfe"], r["method"]) == (model, nfe, name) for r in rows):
                continue
            task.best, task.best_score, task.memo = None, float("inf"), {}
            cost: dict[str, Any] = {"seconds": 0.0, "evaluations": 0}
            table = ranked[0].table
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    if name != "fixed":
                        table, cost = one(task, name, table, steps, batch)
                    rows.append(
                        {"model": model, "nfe": nfe, "method": name, **cost, **measured(task, table, seeds, truth)}
                    )
            except ValueError as error:
                rows.append({"model": model, "nfe": nfe, "method": name, "error": str(error)})
            write_text(path, json.dumps(rows, indent=1))
            click.echo(json.dumps({k: v for k, v in rows[-1].items() if k != "options"}), err=True)


def shown(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Columns, and a row a method: rms / median (and FD-digits) at each nfe, seconds and evaluations over all of them.

    In the order of the geometric mean of rms and median; a method that refused an nfe comes after the others.
    """
    nfes = sorted({row["nfe"] for row in rows})
    digits = "fd" in rows[0]
    methods: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        methods.setdefault(row["method"], {})[row["nfe"]] = row

    def errors(name: str, figure: str) -> list[float]:
        return [methods[name].get(n, {}).get(figure, float("inf")) for n in nfes]

    ranked = sorted(methods, key=lambda m: sum(math.log(e) for f in ("rms", "median") for e in errors(m, f)))
    texts = {}
    for figure, form in (("rms", ".3f"), ("median", ".3f" if digits else ".4f")):
        values = [errors(name, figure) for name in ranked]
        texts[figure] = kept.least_bold(
            [[f"{e:{form}}" if e < math.inf else "-" for e in row] for row in values], values
        )
    lines = []
    for k, name in enumerate(ranked):
        cells = [f"{a} / {b}" for a, b in zip(texts["rms"][k], texts["median"][k], strict=True)]
        if digits:
            cells = [f"{cell} ({fd:.2f})" for cell, fd in zip(cells, errors(name, "fd"), strict=True)]
        spent = [(row["seconds"], row["evaluations"]) for row in methods[name].values() if "error" not in row]
        seconds = sum(s for s, _ in spent)
        took = f"{seconds:.{0 if digits else 1}f}", f"{sum(e for _, e in spent):,}"
        lines.append(["best fixed recipe" if name == "fixed" else f"`{name}`", *cells, *took])
    return ["method", *map(str, nfes), "s", "evaluations"], lines


if __name__ == "__main__":
    main()
