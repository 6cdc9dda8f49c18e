"""The tables of the documentation, measured anew from one place: `make bench`, or some of them:

    python tests/benchmarks/bench.py --list
    python tests/benchmarks/bench.py adaptive overhead

Each runs in a process of its own, one after another, and writes docs/measured/NAME.json. What is done in this round is not
done again until --again begins a new one; long benchmarks go on where they were stopped. Output goes to .bench/NAME.log.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import click
import kept
from kept import MEASURED, ROOT, STATE

from fewstep.output.files import write_text

HERE = Path(__file__).resolve().parent
FILES = {
    "mnist.npz": "arrays train_images (60000, 28, 28), test_images (10000, 28, 28) and their labels, uint8",
    "darcy.safetensors": "written by `python examples/recover_pde.py`",
    "cifar10.zip": "CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg, or another form that examples/train_colours.py reads",
    "dit": "written by `python examples/train_digits.py --network dit --out dit`",
}
COLOURS = "--model examples/colours --data cifar10.zip --classifier examples/colour_classifier.safetensors"
DOZEN = "ddim,dpmpp_2m,dpmpp_3m,unipc,deis,res_multistep,cab,lms,heun,dpmpp_2s,etd_rk3"


@dataclass(frozen=True)
class Benchmark:
    """A script here with its arguments; files: of the root of the checkout; packages: that no extra installs."""

    call: str
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    one_thread: bool = False

    @property
    def command(self) -> list[str]:
        script, *arguments = shlex.split(self.call)
        return [str(HERE / script), *arguments]

    def lacks(self, root: Path = ROOT) -> str:
        """What is missing, with where it comes from."""
        files = [f"{name} in {root} ({FILES[name]})" for name in self.files if not (root / name).exists()]
        return " and ".join([*files, *(f"pip install {name}" for name in self.packages if find_spec(name) is None)])


TABLES = {  # short ones first
    "overhead": Benchmark("overhead.py", one_thread=True),
    "real_configs": Benchmark("real_configs.py"),
    "real_configs_left": Benchmark("real_configs.py"),  # one run writes both
    "auto_choice": Benchmark("auto_choice.py"),
    "adaptive": Benchmark("adaptive.py"),
    "adjoints": Benchmark("adjoints.py --only adjoints"),
    "torchdiffeq": Benchmark("adjoints.py --only torchdiffeq", packages=("torchdiffeq",)),
    "gradients": Benchmark("gradients.py", one_thread=True),
    "frechet": Benchmark("frechet.py", packages=("torchmetrics",)),
    "inception": Benchmark("extractor.py"),
    "posterior": Benchmark("inverse.py"),
    "restoring_peers_linear": Benchmark("restoring_peers.py --task linear", packages=("azula", "deepinv")),
    "restoring_peers_digits": Benchmark("restoring_peers.py --task digits --images 6", packages=("azula", "deepinv")),
    "classes": Benchmark("class_guidance.py"),
    "policies": Benchmark("policies.py", one_thread=True),
    "picard": Benchmark("picard.py --sweeps"),
    "feynman_kac": Benchmark("feynman_kac.py"),
    "stochastic_errors": Benchmark("stochastic_errors.py"),
    "restoring": Benchmark("restoring_digits.py --data mnist.npz", ("mnist.npz",)),
    "restart": Benchmark("restart.py --data mnist.npz -n 400 --nfe 24,48", ("mnist.npz",)),
    "learned_mixtures": Benchmark("learned_mixtures.py"),
    "tuned_weights": Benchmark("tuned_weights.py"),
    "tuned_digits": Benchmark("tuned_digits.py --data mnist.npz", ("mnist.npz",)),
    "budget": Benchmark("budget.py"),
    "league_sixteen": Benchmark("league.py --model sixteen --steps 150 --batch 32 --number 1000"),
    "grids": Benchmark("grids.py"),
    "solvers_digits": Benchmark("solvers_digits.py"),
    "solvers_colours": Benchmark(f"solvers_digits.py --model examples/colours --solvers {DOZEN}"),
    "fd_colours": Benchmark(f"fd_digits.py {COLOURS} -n 500", ("cifar10.zip",)),
    "learned_colours": Benchmark("learned_digits.py --model examples/colours --learned examples/colours-learned.json"),
    "learned_rmse_fd_colours": Benchmark(
        f"fd_digits.py {COLOURS} --learned --artefact examples/colours-learned.json --nfe 5,8 -n 500", ("cifar10.zip",)
    ),
    "learned_rmse_fd": Benchmark("fd_digits.py --learned"),
    "fd_digits": Benchmark("fd_digits.py"),
    "learned_digits_guided": Benchmark("learned_digits.py --guidance 3 --nfe 5,8"),
    "learned_digits": Benchmark("learned_digits.py"),
    "feature_cache": Benchmark("feature_cache.py --network dit --network demo", ("dit",)),
    "league_digits": Benchmark("league.py --steps 80 --number 256"),
    "darcy": Benchmark("darcy_flow.py", ("darcy.safetensors",)),
}


@dataclass
class Round:
    """Which tables are done: name -> day; kept in a file, so that a round goes on another day."""

    folder: Path

    @property
    def done(self) -> dict[str, str]:
        path = self.folder / "round.json"
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return found

    def mark(self, name: str) -> None:
        write_text(self.folder / "round.json", json.dumps({**self.done, name: date.today().isoformat()}, indent=1))

    def forget(self, names: Sequence[str]) -> None:
        """Done or half done."""
        rest = {name: day for name, day in self.done.items() if name not in names}
        for name in names:
            shutil.rmtree(self.folder / kept.state_name(TABLES[name].command), ignore_errors=True)
        write_text(self.folder / "round.json", json.dumps(rest, indent=1))


def run(name: str, folder: Path) -> str:
    """Measure one and write it; why it failed, or nothing."""
    one, log = TABLES[name], folder / f"{name}.log"
    if lacking := one.lacks():
        return f"needs {lacking}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} if one.one_thread else dict(os.environ)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as out:
        command = [sys.executable, *one.command, "--keep"]
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT).returncode
    last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
    return f"exit {code}: {last} (all of it in {log})" if code else ""


def listed(round_: Round) -> str:
    """Every table with its date, its command and what it needs."""
    rows = []
    for name, one in TABLES.items():
        measured = json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8"))["measured"]
        this = "done" if name in round_.done else f"needs {lacking}" if (lacking := one.lacks()) else ""
        rows.append((name, measured, f"python tests/benchmarks/{one.call}", this))
    return kept.table(("table", "measured", "command", "this round"), rows)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(TABLES)), metavar="[NAME]...")
@click.option("--list", "tell", is_flag=True, help="Tell what there is, and measure nothing.")
@click.option("--again", is_flag=True, help="Begin anew: what is done, or half done, does not count.")
def main(names: tuple[str, ...], tell: bool, again: bool) -> None:
    """Measure the tables NAMES, all of them unless told, and write docs/measured/NAME.json."""
    round_ = Round(STATE)
    if tell:
        click.echo(listed(round_))
        return
    wanted, failed = names or tuple(TABLES), {}
    if again:
        round_.forget(wanted)
    done = round_.done
    for k, name in enumerate(wanted, 1):
        if name in done:
            click.echo(f"{k} of {len(wanted)}: {name}, done on {done[name]}; --again measures it anew")
            continue
        click.echo(f"{k} of {len(wanted)}: {name} ... ", nl=False)
        began = time.monotonic()
        why = run(name, STATE)
        if why:
            failed[name] = why
        else:
            round_.mark(name)
        click.echo("failed" if why else f"{time.monotonic() - began:.0f} s")
    for name, why in failed.items():
        click.echo(f"{name}: {why}", err=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
