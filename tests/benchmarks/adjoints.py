"""Gradients through sampling, exact and continuous: `python tests/benchmarks/adjoints.py [--seed 1] [--calls 160]`.

Prints tables, asserts nothing: times belong to the machine. Errors are those of dL/dx_T beside the true gradient of the flow,
or of the reverse SDE on the finest grid of the same Brownian path (x_T / c / theta there). Beside torchdiffeq where that is
installed. The pages have a part of it, in tables of their own.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import kept
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from gradient_problems import SCHEDULE, T_END, Problem, Task, Walk, relative, table  # noqa: E402

from fewstep import adjoint  # noqa: E402

SIZES, SDE_SIZES, FINEST = (5, 10, 20, 40, 80, 160), (20, 40, 80, 160, 320), 1280
FULL = {"lower_order_final": False}
DDIM: tuple[str, dict[str, Any]] = ("ddim", {})
SECOND = ("dpmpp_2m", FULL)
FOURTH: tuple[str, dict[str, Any]] = ("etd_rk4", {})
Row = tuple[str, tuple[str, dict[str, Any]], str, dict[str, Any]]
SHOWN = {
    "exact ddim": "checkpoint, `ddim`",
    "exact dpmpp_2m": "checkpoint, `dpmpp_2m`",
    "deis 1, stored": "adjoint_deis, order 1 (= adjoint_dpm, Euler)",
    "deis 2M phi, stored": "adjoint_deis, order 2",
    "dpm midpoint, stored": "adjoint_dpm, midpoint (2 calls a step)",
}
BESIDE = {
    "checkpoint, etd_rk4": "checkpoint, `etd_rk4`",
    "adjoint_dpm rk4, etd_rk4": "adjoint_dpm, rk4",
    "torchdiffeq rk4": "torchdiffeq, rk4",
    "checkpoint, dpmpp_2m": "checkpoint, `dpmpp_2m`",
    "torchdiffeq midpoint": "torchdiffeq, midpoint",
    "checkpoint, ddim": "checkpoint, `ddim`",
    "torchdiffeq euler": "torchdiffeq, Euler",
}


def flow_rows() -> list[Row]:
    """(name, forward solver, method, its options)."""
    rows: list[Row] = [("exact ddim", DDIM, "direct", {}), ("exact dpmpp_2m", SECOND, "direct", {})]
    rows += [("exact etd_rk4 (4N calls)", FOURTH, "direct", {})]
    for states in ("stored", "reintegrated"):
        s = {"states": states}
        rows.append((f"deis 1, {states}", DDIM, "adjoint_deis", {"order": 1, **s}))
        rows += [(f"deis 2M {f}, {states}", SECOND, "adjoint_deis", {"form": f, **s}) for f in ("phi", "half")]
        rows.append((f"deis 2s, {states}", SECOND, "adjoint_deis", {"order": "2s", **s}))
    rows.append(("dpm euler, stored", DDIM, "adjoint_dpm", {"rk": "euler"}))
    rows.append(("dpm midpoint, stored", SECOND, "adjoint_dpm", {"rk": "midpoint"}))
    rows.append(("dpm rk4, stored", SECOND, "adjoint_dpm", {"rk": "rk4"}))
    rows.append(("dpm rk4, etd_rk4 (4N calls)", FOURTH, "adjoint_dpm", {"rk": "rk4"}))
    return rows


def order(errors: list[float]) -> float:
    """By the last two numbers of steps, each twice the one before."""
    return math.log2(errors[-2] / errors[-1])


def flows(problem: Problem, true: list[Tensor]) -> dict[str, list[float]]:
    """Table of the flow."""
    found = {}
    print(f"{'flow, error of dL/dx_T':<30}" + "".join(f"{f'N={n}':>9}" for n in SIZES) + f"{'order':>7}")
    for name, (solver, options), method, given in flow_rows():
        runs = [Task(problem, table(solver, n, **options)).run(method, **given) for n in SIZES]
        errors = [relative(run, true)[0] for run in runs]
        print(f"{name:<30}" + "".join(f"{e:>9.2g}" for e in errors) + f"{order(errors):>7.2f}")
        found[name] = errors
    return found


def equations(problem: Problem, solver: str, options: dict[str, Any], title: str) -> None:
    """Table of the reverse SDE."""
    own, other = Walk(3, FINEST), Walk(4, FINEST)

    def run(n: int, method: str, given: dict[str, Any]) -> list[Tensor]:
        task = Task(problem, table(solver, n, **FULL, **options))
        task.source = own
        return task.run(method, **given)

    true, again = run(FINEST, "direct", {}), {"states": "reintegrated"}
    print(f"\n{title:<30}" + "".join(f"{f'N={n}':>25}" for n in SDE_SIZES))
    for name, given in {
        "exact": None,
        "deis 1, stored": {"order": 1},
        "deis 1, same noise": {"order": 1, **again},
        "deis 1, other noise": {"order": 1, **again, "noise": other},
        "deis 2M phi, stored": {"order": 2},
        "deis 2s, stored": {"order": "2s"},
    }.items():
        cells = [relative(run(n, "adjoint_deis" if given else "direct", given or {}), true) for n in SDE_SIZES]
        print(f"{name:<30}" + "".join(f"{'/'.join(f'{e:.2g}' for e in cell):>25}" for cell in cells))


def peer(problem: Problem, method: str, steps: int) -> Callable[[], list[Tensor]]:
    """odeint_adjoint of dy/drho = eps on the same boundaries, every one of them asked for."""
    from torchdiffeq import odeint_adjoint

    lam = np.linspace(*SCHEDULE.lam(np.array([1.0, T_END])), steps + 1)
    alpha = SCHEDULE.alpha(np.array([1.0, T_END]))
    rho = torch.from_numpy(np.exp(-lam))

    @cache
    def place(r: float) -> tuple[float, float]:
        t = float(np.clip(SCHEDULE.t_of_lam(-math.log(r)), T_END, 1.0))
        return float(SCHEDULE.alpha(t)), t

    def slope(r: Tensor, y: Tensor) -> Tensor:
        a, t = place(float(r))
        return problem.network(a * y, t)

    def run() -> list[Tensor]:
        y = odeint_adjoint(
            slope, problem.x_T / float(alpha[0]), rho, method=method, adjoint_params=tuple(problem.leaves)
        )
        return problem.gradient(float(alpha[1]) * y[-1])

    return run


class _Counted(Problem):
    """The problem with a count of its network's calls."""

    calls = 0

    def network(self, x: Tensor, t: Any) -> Tensor:
        self.calls += 1
        return super().network(x, t)


def peers(problem: Problem, true: list[Tensor], calls: int, rounds: int) -> dict[str, tuple[list[float], float]]:
    """Table beside torchdiffeq: `calls` network calls, half of them forward and half on the way back."""
    n = calls // 2
    problem = _Counted(problem.seed)
    runs: dict[str, Callable[[], list[Tensor]]] = {}
    for name, options, stages in (("ddim", {}, 1), ("dpmpp_2m", FULL, 1), ("dpm_2", {}, 2), ("etd_rk4", {}, 4)):
        plan, network = table(name, n // stages, **options), problem.denoiser()
        runs[f"checkpoint, {name}"] = lambda plan=plan, network=network: problem.gradient(
            adjoint.sample(network, problem.x_T, plan, method="checkpoint")
        )
    for rk, solver, stages in (("euler", "ddim", 1), ("midpoint", "dpm_2", 2), ("rk4", "etd_rk4", 4)):
        task = Task(problem, table(solver, n // stages))
        runs[f"adjoint_dpm {rk}, {solver}"] = lambda task=task, rk=rk: task.run("adjoint_dpm", rk=rk)
        runs[f"torchdiffeq {rk}"] = peer(problem, rk, n // stages)
    results: dict[str, tuple[list[float], int]] = {}
    for name, run in runs.items():  # and warms up
        problem.calls = 0
        errors = relative(run(), true)
        results[name] = (errors, problem.calls)
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            spent[name].append(time.perf_counter() - began)
    print(f"\n{f'{n} calls forward, {n} back':<30}{'x_T':>9}{'c':>9}{'theta':>9}{'calls':>7}{'ms':>8}")
    for name, (errors, made) in results.items():
        cells = "".join(f"{e:>9.2g}" for e in errors)
        print(f"{name:<30}{cells}{made:>7}{1e3 * statistics.median(spent[name]):>8.1f}")
    return {name: (errors, 1e3 * statistics.median(spent[name])) for name, (errors, _) in results.items()}


def show_flows(found: dict[str, list[float]], keep: bool) -> None:
    errors = [found[name] for name in SHOWN]
    cells = kept.least_bold([[kept.few(e) for e in row] for row in errors], errors)
    rows = [
        (label, *line, f"{order(found[name]):.1f}") for (name, label), line in zip(SHOWN.items(), cells, strict=True)
    ]
    kept.show("adjoints", ("steps", *map(str, SIZES), "order"), rows, keep)


def show_peers(found: dict[str, tuple[list[float], float]], keep: bool) -> None:
    errors = [(found[name][0][0], found[name][0][2]) for name in BESIDE]
    cells = kept.least_bold([[kept.few(e) for e in row] for row in errors], errors)
    rows = [(label, *line, f"{found[name][1]:.0f}") for (name, label), line in zip(BESIDE.items(), cells, strict=True)]
    kept.show("torchdiffeq", ("", "error of dL/dx_T", "of dL/dtheta", "ms"), rows, keep)


@click.command()
@click.option("--seed", default=1, show_default=True)
@click.option("--calls", default=160, show_default=True, help="Of the network, beside torchdiffeq.")
@click.option("--rounds", default=5, show_default=True, help="Of the times.")
@click.option("--only", type=click.Choice(["adjoints", "torchdiffeq"]), help="One of the two tables of the pages.")
@kept.keep
def main(seed: int, calls: int, rounds: int, only: str | None, keep: bool) -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    problem = Problem(seed)
    true = problem.true_gradient(1600)
    print("norms of the true gradient, x_T c theta: " + " ".join(f"{float(g.norm()):.4g}" for g in true))
    if only != "torchdiffeq":
        found = flows(problem, true)
        equations(problem, "sde_dpm", {"order": 1}, "SDE (eta = 1), x_T/c/theta")
        equations(problem, "dpmpp_2m_sde", {"tau": 0.5}, "SDE (eta = 1/2), x_T/c/theta")
        print()
        show_flows(found, keep)
    if only == "torchdiffeq" or (only is None and find_spec("torchdiffeq") is not None):
        compared = peers(problem, true, calls, rounds)
        print()
        show_peers(compared, keep)


if __name__ == "__main__":
    main()
