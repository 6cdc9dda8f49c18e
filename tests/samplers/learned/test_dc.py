"""Dynamic compensation: the published recursion, its exact minima, and the polynomial over steps and guidance."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from learned_problems import ring, sixteen, task
from torch import Tensor

from fewstep.samplers import NoiseSchedule, Tableau, build, sample
from fewstep.samplers.coefficients.weights import lagrange_row
from fewstep.samplers.grids.coordinate import Coordinate
from fewstep.samplers.learned.methods.dc import dc, learned_ratios
from fewstep.samplers.learned.tasks.learner_entry import METHODS
from fewstep.samplers.ratios.cascade import Cascade, cascade
from fewstep.samplers.ratios.compensation import compensated
from fewstep.samplers.schedule.base import Node

VP = NoiseSchedule.vp_linear()
ABAR = np.cumprod(1 - np.linspace(0.0001, 0.02, 1000))
SCHEDULES = {
    "vp": VP,
    "discrete": NoiseSchedule.discrete(ABAR),
    "flow": NoiseSchedule.flow(),
    "edm": NoiseSchedule.edm(),
}
RATIOS = np.array([1.0, 1.0, 0.7, 1.3, 1.1, 0.8])


@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_3m", "unipc", "deis", "cab"])
def test_ratios_of_one_are_the_base_to_the_last_bit(solver: str) -> None:
    base = build(solver, VP, 6)
    assert compensated(base, np.ones(6)) is base
    nearly = compensated(base, np.full(6, 1 + 1e-300))  # every line is made again
    assert nearly is base or np.array_equal(nearly.W[:, :, : 2 + base.history], base.W)
    last = compensated(base, [1, 1, 1, 1, 1, 0.5])
    assert np.array_equal(last.W[:5, :, : 2 + base.history], base.W[:5]) and not last.W[:5, :, 2 + base.history :].any()


def replaced(nodes: list[Node], buffer: list[Tensor], ratio: float, s: Any) -> Tensor:
    """The newest entry's successor: the parabola through the last three entries of the buffer at its own place."""
    at = [float(s(node.t)) for node in nodes]
    place = at[1] + ratio * (at[0] - at[1])
    weights = scipy.interpolate.BarycentricInterpolator(at, np.eye(3))(place)
    return sum((float(w) * m for w, m in zip(weights, buffer, strict=False)), torch.zeros_like(buffer[0]))


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("corrector", [False, True])
@pytest.mark.parametrize("time", ["t", "lam"])
def test_the_table_is_the_published_buffer(kind: str, corrector: bool, time: str) -> None:
    """Evaluate, correct with the output as it was, replace the newest entry, predict; replaced entries stay."""
    schedule, denoiser = SCHEDULES[kind], sixteen(SCHEDULES[kind])
    options: dict[str, Any] = {"order": 2, "weights": "exact", "corrector": corrector, "lower_order_final": False}
    table = compensated(build("unipc", schedule, 6, **options, limiter=False), RATIOS, time)
    clock = Coordinate(schedule, float(table.times[0]), float(table.times[-1]))
    s = clock.c if time == "lam" else (lambda t: t)
    nodes = [Node(*(float(column[i]) for column in table.nodes)) for i in range(7)]
    x_T = torch.randn(4, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * nodes[0].sigma
    x, begun, buffer = x_T, x_T, list[Tensor]()
    usable = [n for n in nodes if n.alpha > 0]
    for i, (here, after) in enumerate(zip(nodes[:-1], nodes[1:], strict=True)):
        buffer.insert(0, denoiser.x0(x, here.t))
        if corrector and i and nodes[i - 1].alpha > 0:
            p = 1 if i == 1 or nodes[i - 2] not in usable else 2
            past = [nodes[i - 1], here, *([nodes[i - 2]] if p == 2 else [])]
            outputs = [buffer[1], buffer[0], *([buffer[2]] if p == 2 else [])]
            x = step(schedule, begun, nodes[i - 1], here, past, outputs)
        begun = x
        if i >= 2:
            buffer[0] = replaced([nodes[i - j] for j in range(3)], buffer, RATIOS[i], s)
        p = 2 if i and nodes[i - 1].alpha > 0 and after.sigma > 0 else 1
        x = step(schedule, begun, here, after, [nodes[i - j] for j in range(p)], buffer[:p])
    assert float((sample(denoiser, x_T, table) - x).abs().max()) < 1e-9
    plain = build("unipc", schedule, 6, **options)
    assert float((sample(denoiser, x_T, plain) - x).abs().max()) > 1e-3


def step(schedule: NoiseSchedule, x: Tensor, s: Node, t: Node, nodes: list[Node], outputs: list[Tensor]) -> Tensor:
    """One exponential Lagrange step on x0."""
    weights = lagrange_row(schedule, "x0", "lam", s, t, nodes)
    return sum((w * m for w, m in zip(weights, outputs, strict=True)), t.sigma / s.sigma * x)


def distance(problem: Any, start: Tableau, ratios: np.ndarray, k: int, time: str) -> float:
    """Mean square of the state after step k to the teacher's, with these ratios."""
    states: list[Tensor] = []
    total = 0.0
    for part in problem.train_parts():
        table = compensated(start, ratios, time)
        sample(part.denoiser, part.x_T, table, callback=lambda step: states.append(step.x))
        total += float((states[k] - problem.teacher.path(part).at(float(start.times[k + 1]))).square().sum())
        states.clear()
    return total


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "time"), [("dpmpp_2m", "t"), ("unipc", "t"), ("dpmpp_2m", "lam")])
def test_each_ratio_is_the_least_of_a_scan(solver: str, time: str) -> None:
    problem = task(sixteen(), (16,), 5, train=16, valid=4)
    start = build(solver, VP, 5, "uniform")
    ratios, known = learned_ratios(problem, start, time), np.ones(5)
    for k in range(2, 5):

        def at(ratio: float, k: int = k) -> float:
            return distance(problem, start, np.where(np.arange(5) == k, ratio, known), k, time)

        scanned = np.linspace(0.5, 1.5, 51)
        assert abs(scanned[int(np.argmin([at(r) for r in scanned]))] - ratios[k]) < 1.01e-2
        assert abs(scipy.optimize.minimize_scalar(at, bounds=(0.5, 1.5), method="bounded").x - ratios[k]) < 1e-4
        known[k] = ratios[k]
    assert (ratios[2:] != 1).all() and (np.abs(ratios[2:] - 1) < 0.499).any()


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.slow
def test_learning_helps_repeats_itself_and_does_not_depend_on_the_batch(kind: str) -> None:
    start, tables = build("dpmpp_2m", SCHEDULES[kind], 6), []
    for size in (256, 256, 7):
        problem = task(sixteen(SCHEDULES[kind]), (16,), 6, train=64, valid=64, batch_size=size)
        tables.append(dc(problem, start))
    assert np.array_equal(tables[0].W, tables[1].W) and np.abs(tables[0].W - tables[2].W).max() < 1e-10
    assert problem.judge(tables[0]) < problem.judge(start)
    assert tables[0].conserves == "x0 eps"


LATTICE = {(n, g): np.array([1, 1, *(1 + 0.3 * np.cos(i / n) * (g / 8) - 0.01 * n * i / n for i in range(2, n))])
           for n in (5, 6, 8, 10) for g in (1.0, 3.0, 5.0, 7.5)}  # fmt: skip


def test_a_cascade_gives_back_what_a_cubic_can_and_nothing_beyond_its_range() -> None:
    random = np.random.default_rng(0)
    known = Cascade(
        tuple(tuple(tuple(map(float, row)) for row in plane) for plane in random.normal(size=(4, 3, 3))),
        (5, 10), (1.0, 7.5), (-9.0, 9.0),
    )  # fmt: skip
    exact = {(n, g): known.ratios(n, g) for n, g in LATTICE}
    found = cascade(exact)
    for n, g in exact:
        assert np.abs(found.ratios(n, g) - exact[n, g]).max() < 1e-9
    assert np.abs(found.ratios(7, 4.0) - known.ratios(7, 4.0)).max() < 1e-8  # between the points
    smooth = cascade(LATTICE)
    assert max(np.abs(smooth.ratios(n, g) - LATTICE[n, g]).max() for n, g in LATTICE) < 1e-3
    low, high = smooth.ratio
    for n, g in [(3, 0.0), (20, 7.5), (8, 100.0)]:
        out = smooth.ratios(n, g)
        assert len(out) == n and (out[:2] == 1).all() and low <= out[2:].min() <= out[2:].max() <= high
    assert np.array_equal(smooth.ratios(8, 100.0), smooth.ratios(8, 7.5))
    again = Cascade(**json.loads(json.dumps(smooth.content())))
    assert np.array_equal(again.ratios(6, 2.0), smooth.ratios(6, 2.0))


def test_a_cascade_is_played_without_network_calls() -> None:
    problem = task(ring(), (2,), 8, train=2, valid=8)
    start = build("dpmpp_2m", VP, 8)
    fitted = cascade({(n, 1.0): LATTICE[n, 3.0] for n in (5, 6, 10)})
    table = METHODS.find("dc").fn(problem, start, cascade=fitted)
    assert np.array_equal(table.W, compensated(start, fitted.ratios(8, 1.0)).W)
    assert np.array_equal(table.W, METHODS.find("dc").fn(problem, start, cascade=fitted.content()).W)
    with pytest.raises(ValueError, match="depends on guidance, 1 to 7.5: say which"):
        dc(problem, start, cascade=cascade(LATTICE))


def test_wrong_input_is_named_before_any_call() -> None:
    problem = task(ring(), (2,), 8, train=3, valid=4)
    base = build("dpmpp_2m", VP, 8)
    with pytest.raises(ValueError, match="fits 6 numbers, and there are 3 training samples"):
        dc(problem, base)
    with pytest.raises(ValueError, match="several calls a step"):
        dc(problem, build("heun", VP, 8))
    with pytest.raises(ValueError, match="adds noise on the way"):
        dc(problem, build("dpmpp_2m_sde", VP, 8))
    with pytest.raises(ValueError, match="around 1"):
        dc(problem, base, bounds=(1.1, 2.0))
    with pytest.raises(ValueError, match='"t" or "lam"'):
        dc(problem, base, time="sigma")
    with pytest.raises(ValueError, match="expected 8 finite ratios"):
        compensated(base, np.ones(7))
    with pytest.raises(ValueError, match="nfe ratios each"):
        cascade({(5, 1.0): np.ones(4)})
    with pytest.raises(ValueError, match="nfe of at least 3"):
        cascade({(2, 1.0): np.ones(2)})
    assert problem.problem.spent == 0
