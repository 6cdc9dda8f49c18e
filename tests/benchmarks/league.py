"""Every learning method under one protocol: `python tests/benchmarks/league.py --out league.json`.

Same teacher, seeds, base solver and start for all: the best of the fixed recipes of dpmpp_2m (six grids, last step first
order or not) on the validation seeds. A method's own result is shown, also where it is worse: nothing is guarded. Gradient
methods take the same number of steps and the same batches. Errors are to the teacher on untouched seeds; FD-digits is of the
images of these seeds against the MNIST test set; evaluations are samples times calls, without the teacher's; seconds are of
one thread.

Results are added to the file as they come, and what is in it is not measured again.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from learned_problems import MIXTURES, SHAPES  # noqa: E402

from fewstep.output.files import whole  # noqa: E402
from fewstep.samplers.learned.problem.problem import Problem, squared_errors  # noqa: E402
from fewstep.samplers.learned.problem.recipes import recipes  # noqa: E402
from fewstep.samplers.learned.problem.teacher import Teacher  # noqa: E402
from fewstep.samplers.learned.tasks.guard import summary  # noqa: E402
from fewstep.samplers.learned.tasks.learner_entry import METHODS  # noqa: E402
from fewstep.samplers.learned.tasks.learner_task import Task  # noqa: E402

LEAGUE = "dmn ays gits oss d_ode dc iia ems s3 tta ld3 s4s dss bns bespoke joint auto".split()
OPTIONS: dict[str, dict[str, Any]] = {"ays": {"mode": "optimise"}}
SOLVER = "dpmpp_2m"


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
@click.option("--model", default="demo", show_default=True, help="demo, ring, sixteen or third.")
@click.option("--nfe", "nfes", default="4,5,6,8,10", show_default=True)
@click.option("--methods", default=",".join(LEAGUE), show_default=False)
@click.option("--steps", default=150, show_default=True, help="Of gradient methods.")
@click.option("--batch", default=16, show_default=True, help="Samples a gradient step.")
@click.option("--number", default=512, show_default=True, help="Untouched seeds.")
@click.option("--out", default="league.json", show_default=True)
def main(model: str, nfes: str, methods: str, steps: int, batch: int, number: int, out: str) -> None:
    torch.set_num_threads(1)
    if model == "demo":
        problem, teacher = Problem("demo"), {"nfe": 60}
    else:
        problem = Problem(MIXTURES[model](), shape=SHAPES[model], dtype=torch.float64, batch_size=256)
        teacher = {"nfe": 200}
    reference, seeds, path = Teacher(problem, **teacher), list(range(1000, 1000 + number)), Path(out)
    truth = [reference.end(part) for part in problem.parts(seeds)]
    rows = json.loads(path.read_text()) if path.exists() else []
    for nfe in map(int, nfes.split(",")):
        task = Task(problem, reference, nfe, tuple(range(192)), tuple(range(192, 256)))
        task.teacher.prepare([*problem.parts(task.train), *task.valid_parts()])
        ranked = sorted(recipes(SOLVER, problem.schedule, nfe), key=lambda r: task.offer(r.table))
        task.fixed = ranked
        for name in ("fixed", *methods.split(",")):
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
            with whole(path) as part:
                part.write_text(json.dumps(rows, indent=1))
            click.echo(json.dumps({k: v for k, v in rows[-1].items() if k != "options"}))
    show([row for row in rows if row["model"] == model])


def show(rows: list[dict[str, Any]]) -> None:
    """One line a method: rms / median (and FD-digits) at each nfe, seconds and evaluations over all of them."""
    nfes = sorted({row["nfe"] for row in rows})
    click.echo("| method | " + " | ".join(f"{n}" for n in nfes) + " | s | evaluations |")
    click.echo("|---|" + "---:|" * (len(nfes) + 2))
    for name in dict.fromkeys(row["method"] for row in rows):
        own = {row["nfe"]: row for row in rows if row["method"] == name}
        cells = []
        for n in nfes:
            row = own.get(n, {"error": "-"})
            fd = f" / {row['fd']:.2f}" if "fd" in row else ""
            cells.append("-" if "error" in row else f"{row['rms']:.3f} / {row['median']:.3f}{fd}")
        spent = [(r["seconds"], r["evaluations"]) for r in own.values() if "error" not in r]
        told = f"{sum(s for s, _ in spent):.0f} | {sum(e for _, e in spent):,}"
        click.echo(f"| {name} | " + " | ".join(cells) + f" | {told} |")


if __name__ == "__main__":
    main()
