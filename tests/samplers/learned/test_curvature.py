"""Axes of even effect: what a unit of each does, that mixed knobs are the same knobs, and that descents gain by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learned_problems import MIXTURES, SHAPES, ring, sixteen, task

from fewstep.samplers import NoiseSchedule, build
from fewstep.samplers.learned.descent.curvature import FAINT, Fit, even
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.playing.differentiable import play
from fewstep.samplers.learned.tasks.learner_entry import METHODS

VP = NoiseSchedule.vp_linear()
ALL = ("grid", "coef", "state", "tau")


def knobs_of(nfe: int = 4) -> Knobs:
    return Knobs(build("dpmpp_2m", VP, nfe, "quadratic"), "sample", ALL, nfe, False)


def test_mixed_knobs_are_the_knobs_along_other_axes() -> None:
    plain, mixed = knobs_of(), knobs_of()
    random = torch.Generator().manual_seed(0)
    B = torch.randn(plain.size, plain.size, generator=random, dtype=torch.float64)
    z = 0.02 * torch.randn(plain.size, generator=random, dtype=torch.float64)
    sizes = [len(v) for v in plain.parameters.values()]
    plain.set(dict(zip(plain.parameters, (B @ z).split(sizes), strict=True)))
    mixed.mix(B.numpy())
    assert mixed.count == plain.count and np.array_equal(mixed.table().W, mixed.start.W)
    mixed.set({"mixed": z})
    a, b = plain.table(), mixed.table()
    for one, other in ((a.W, b.W), (a.times, b.times), (a.model_times, b.model_times)):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
    part = task(ring(), (2,), 4, train=8, valid=4).train_parts()[0]
    by_axes, by_knobs = (
        torch.autograd.grad(play(part, k.start, k.coefficients())[-1].square().sum(), list(k.parameters.values()))
        for k in (mixed, plain)
    )
    torch.testing.assert_close(by_axes[0], B.T @ torch.cat(by_knobs), rtol=1e-9, atol=1e-9)


def test_a_unit_of_every_axis_moves_the_result_by_the_error() -> None:
    """B'AB over sum |r| has eigenvalues w / (w + FAINT max w): one, or less where effects are faint."""
    problem = task(sixteen(), (16,), 4, train=16, valid=4)
    knobs, before = knobs_of(), knobs_of()
    even(problem, knobs, 16)
    assert set(knobs.parameters) == {"mixed"}
    old, new = (Fit.on(problem, k, problem.train, 1.0) for k in (before, knobs))
    w, W = (np.linalg.eigvalsh(f.equations(np.zeros(f.knobs.size), f.knobs.start)[0]) for f in (old, new))
    total = np.sqrt(old.first + old.least).sum()
    np.testing.assert_allclose(W / total, np.sort(w / (w + FAINT * w[-1])), rtol=0.02, atol=0.02)


def test_nothing_is_mixed_where_nothing_can_be_measured() -> None:
    noisy = Knobs(build("dpmpp_2m_sde", VP, 4, "quadratic"), "sample", ALL, 4, False)
    even(task(ring(), (2,), 4, train=8, valid=4, teacher={"solver": "dpmpp_2m_sde", "nfe": 16}), noisy, 8)
    assert set(noisy.parameters) == set(ALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sixteen", "third"])
def test_descents_go_farther_in_as_many_steps(name: str) -> None:
    found = {}
    for samples in (0, 16):
        problem = task(MIXTURES[name](), SHAPES[name], 5, train=96, valid=96)
        start = min((build("dpmpp_2m", VP, 5, grid) for grid in ("uniform", "quadratic", "logsnr")), key=problem.judge)
        how = {"steps": 40, "batch": 16, "window": None, "consistent": False, "free": ALL}
        found[samples] = problem.judge(METHODS.find("joint").fn(problem, start, even=samples, **how)) / problem.judge(
            start
        )
    assert found[16] < 0.97 * found[0]
