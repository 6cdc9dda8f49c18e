"""`score_gap`: how far a network is from being a score, level by level, and what that does to what is drawn from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep.checks import whole
from fewstep.eval.gap.score_equation import residual
from fewstep.eval.gap.two_laws import Apart, apart
from fewstep.output.files import write_text
from fewstep.output.page import Table, write_page
from fewstep.samplers.building.compiling import build
from fewstep.samplers.building.names import solver_of
from fewstep.samplers.learned.problem.problem import Part, Problem
from fewstep.samplers.noise.brownian import unit_normal
from fewstep.samplers.noise.draws import onto
from fewstep.samplers.table.tableau import Tableau

NEAR_END = 0.02  # of the way in lam, that is left out at both ends
RENOISED = 2**31  # of the noise that takes samples back to a level


@dataclass(frozen=True)
class Level:
    """At one level: rms of R, of the skew part of J, over rms of what each would be measured against, with 95 % half-widths.

    fokker_planck: rms of R in units of eps, an entry. skew: rms of (J - J') / 2 over that of (J + J') / 2.
    """

    lam: float
    fokker_planck: float
    fokker_planck_error: float
    skew: float
    skew_error: float


@dataclass(frozen=True)
class ScoreGap:
    """What `score_gap` found. ode_sde: energy distance of what the ODE and the SDE draw; floor: the ODE with half the steps."""

    levels: tuple[Level, ...]
    ode_sde: Apart
    floor: Apart
    samples: int
    solvers: Mapping[str, Any]

    @property
    def differs(self) -> bool:
        """Whether ODE and SDE certainly draw from two laws: p < 0.05."""
        return self.ode_sde.p < 0.05

    def table(self) -> Table:
        """Levels, from noise to data."""

        def told(value: float, error: float) -> str:
            return f"{value:.4f} +- {error:.4f}"

        rows = [
            [f"{one.lam:.2f}", told(one.fokker_planck, one.fokker_planck_error), told(one.skew, one.skew_error)]
            for one in self.levels
        ]
        return Table(["lam", "Fokker-Planck residual", "skew / symmetric"], rows)

    def words(self) -> str:
        """The gap in a sentence."""
        s, gap = self.solvers, self.ode_sde
        said = "two laws" if self.differs else "no difference beyond chance"
        return (
            f"ODE ({s['ode']}, {s['ode_nfe']}) against SDE ({s['sde']}, {s['sde_nfe']}), {self.samples} samples: energy "
            f"distance {gap.distance:.5f} of the spread, {gap.by_chance:.5f} by chance (95 %), p = {gap.p:.3f}: {said}. ODE "
            f"against itself with half the evaluations: {self.floor.distance:.5f}"
        )

    def text(self) -> str:
        """For a terminal."""
        return f"{self.table().text()}\n{self.words()}"

    def to_json(self, path: str | Path | None = None) -> str:
        """As JSON, written where a path is given."""
        told = {**asdict(self), "differs": self.differs}
        told |= {name: getattr(self, name)._asdict() for name in ("ode_sde", "floor")}
        text = json.dumps(told, indent=1)
        if path is not None:
            write_text(Path(path), text + "\n")
        return text

    def to_html(self, path: str | Path, pictures: Sequence[Path] = ()) -> None:
        """As a page."""
        write_page(Path(path), "How far a network is from being a score", [self.words()], [self.table()], pictures)


def score_gap(
    model: Any,
    *,
    number: int = 256,
    levels: int = 6,
    seed: int = 0,
    ode: str = "dpmpp_3m",
    sde: str = "dpmpp_2m_sde",
    nfe: tuple[int, int] = (60, 200),
    watch: Callable[..., Iterable[Any]] | None = None,
    **how: Any,
) -> ScoreGap:
    """How far a network is from being the score of any data, without data: its Fokker-Planck residual and its ODE-SDE gap.

        R = (eps + d eps / d lam) - grad_u (|eps|^2 - div_u eps),   u = x / sigma;    J = d eps / du, skew (J - J') / 2

    A true score has R = 0, a symmetric J, and one law by ODE and SDE. States are the model's own samples, noised again.

    Args:
        model: Denoiser (with shape=), pipeline, "demo", folder or hub id. number: samples. levels: between the ends, even in
            lam. seed: of the first sample. ode, sde, nfe: what draws the two sets, and with how many evaluations each.
        watch: wraps the parts, to show how far it is. how: shape, guidance, classes, prompt, call, batch_size, device, dtype.

    Cost: number x (nfe[0] 1.5 + nfe[1] + 14 levels) evaluations, 5 of 14 with a vector-Jacobian product.

    Reference: Closing the ODE-SDE gap in score-based diffusion models through the Fokker-Planck equation; Deveney, Stanczuk,
    Kreusser, Budd, Schoenlieb; 2023; arXiv:2311.15996. FP-Diffusion: Improving Score-based Diffusion Models by Enforcing the
    Underlying Score Fokker-Planck Equation; Lai, Takida, Murata, Uesaka, Mitsufuji, Ermon; 2022; arXiv:2210.04296.
    """
    whole("number", number, 8, hint="It counts samples")
    whole("levels", levels, hint="It counts levels between noise and data")
    for name, solver, noisy in (("ode", ode, False), ("sde", sde, True)):
        if solver_of(solver)[0].stochastic != noisy:
            raise ValueError(f"`{name}` must be a solver that draws {'noise' if noisy else 'no noise'}; got {solver!r}")
    problem = Problem(model, **how)
    if problem.schedule.has_mean:
        raise ValueError("the score equation here is of VP, VE, EDM and flow schedules; this one reverts to a mean")
    tables = [_table(problem, ode, nfe[0]), _table(problem, sde, nfe[1]), _table(problem, ode, max(1, nfe[0] // 2))]
    parts = problem.parts(list(range(seed, seed + number)))
    drawn: list[list[Tensor]] = [[] for _ in tables]
    found: list[list[Any]] = [[] for _ in range(levels)]
    for part in parts if watch is None else watch(parts, "score"):
        for table, kept in zip(tables, drawn, strict=True):
            kept.append(problem.draw(table, part))
        for lam, kept in zip(_levels(problem, levels), found, strict=True):
            kept.append(_at(part, drawn[0][-1], lam))
    sets = [torch.cat(each) for each in drawn]
    return ScoreGap(
        tuple(_told(lam, each) for lam, each in zip(_levels(problem, levels), found, strict=True)),
        apart(sets[0], sets[1], seed), apart(sets[0], sets[2], seed), number,
        {"ode": ode, "ode_nfe": tables[0].nfe, "sde": sde, "sde_nfe": tables[1].nfe},
    )  # fmt: skip


def _table(problem: Problem, solver: str, nfe: int) -> Tableau:
    return build(solver, problem.schedule, nfe, t_start=problem.t_start, t_end=problem.t_end)


def _levels(problem: Problem, count: int) -> list[float]:
    """Levels that are even in lam, within the ends, where these are finite."""
    schedule = problem.schedule
    ends = [float(schedule.lam(t)) for t in (problem.t_start, max(problem.t_end, schedule.t_min))]
    low, high = np.clip(ends, -6.0, 6.0)
    edge = NEAR_END * (high - low) + 0.1
    return [float(lam) for lam in np.linspace(low + edge, high - edge, count)]


def _at(part: Part, x0: Tensor, lam: float) -> Any:
    """R and J at samples that are noised again, by noise of each seed."""
    node = part.denoiser.schedule.node(float(part.denoiser.schedule.t_of_lam(lam)))
    z, *drawn = (
        onto(part.x_T, [unit_normal(int(seed), (0, RENOISED, i), tuple(x0.shape[1:])) for seed in part.seeds])
        for i in range(4)
    )
    x = (node.alpha * x0 + node.sigma * z).to(part.x_T.dtype)
    return residual(part.denoiser, x, lam, drawn)


def _told(lam: float, found: Sequence[Any]) -> Level:
    """Means over samples, as roots."""
    fokker_planck, skew, even = (
        torch.cat([getattr(one, name) for one in found]).double().cpu() for name in found[0]._fields
    )
    size = float(even.mean().clamp(min=1e-300))
    return Level(lam, *_root(fokker_planck), *_root(skew / size))


def _root(squares: Tensor) -> tuple[float, float]:
    """The root of a mean, 0 where that is negative by chance, and its 95 % half-width."""
    mean, error = float(squares.mean()), float(1.96 * squares.std() / len(squares) ** 0.5)
    root = max(mean, 0.0) ** 0.5
    return root, max(mean + error, 0.0) ** 0.5 - root
