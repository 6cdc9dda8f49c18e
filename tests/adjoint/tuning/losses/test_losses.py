"""What the losses of tuning are: exact gradients, distances without bias, residuals that vanish where they must."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import learned_problems
import pytest
import torch
from torch import Tensor
from tunable import Ring

from fewstep import adjoint, build, sample
from fewstep.adjoint.tuning.losses import embedded_error, fokker_planck, set_distance
from fewstep.adjoint.tuning.losses.data_features import Eyes
from fewstep.adjoint.tuning.losses.loss_scene import Drawn, Scene, Surroundings
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.teacher import Teacher


def scene(net: Ring, solver: str = "ddim", nfe: int = 3, method: str = "checkpoint", **own: Any) -> Scene:
    problem = Problem(net.denoiser(), shape=(2,), batch_size=64)
    teacher = Teacher(problem, nfe=30, cache=False, paths=())
    table = build(solver, net.schedule, nfe)
    around = Surroundings(
        problem,
        table,
        list(net.parameters()),
        teacher.end,
        Eyes(None),
        own.get("data"),
        None,
        nullcontext,
        method,
        None,
        {},
    )
    return Scene(around, problem.part(range(32)), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("solver", ["dpmpp_2m", "er_sde"])
def test_gradients_are_those_of_autograd(solver: str) -> None:
    net = Ring()
    with torch.no_grad():
        net.inner[4].weight.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.1)
    data = net.data(64)
    for name in ("pairs", "mmd") if solver == "dpmpp_2m" else ("mmd",):
        found = []
        for method in ("checkpoint", "direct"):
            loss = adjoint.LOSSES[name].fn(scene(net, solver, 4, method, data=data))
            found.append(torch.autograd.grad(loss, list(net.parameters())))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kernel", list(set_distance.KERNELS))
def test_set_distances_have_no_bias_and_their_numbers_add_up(kernel: str) -> None:
    net = Ring()
    y = net.data(200, seed=1)
    same = [_estimate(net.data(16, seed=s), y, kernel) for s in range(100)]
    mean, error = torch.tensor(same).mean(), torch.tensor(same).std() / 100**0.5
    assert abs(float(mean) - _estimate(net.data(800, seed=999), y, kernel)) < 5 * float(error)
    moved = _estimate(net.data(64, seed=3) + 1.0, y, kernel)
    assert moved > max(same)
    drawn = Drawn(torch.zeros(64), net.data(64, seed=3) + 1.0, None, y)
    assert float(set_distance.values(drawn, kernel=kernel).mean()) == pytest.approx(moved, rel=1e-3, abs=2e-3)


def _estimate(x: Tensor, y: Tensor, kernel: str) -> float:
    k, size = set_distance.KERNELS[kernel], set_distance._size(y.double())
    x, y = x.double(), y.double()
    parts = set_distance._within(x, k, size), set_distance._within(y, k, size)
    return float(sum(parts) - 2 * k(x, y, size).mean())


def test_the_embedded_error_is_the_gap_of_two_steps() -> None:
    """It vanishes on one mode without width, whose flow is straight, and falls with more steps elsewhere."""
    net = Ring()
    sizes = [
        sum(float(e.detach().square().mean()) for e in embedded_error.embedded(scene(net, "ddim", n))) ** 0.5
        for n in (8, 32)
    ]
    assert sizes[1] < sizes[0] / 2
    net.means.copy_(net.means[:1].expand(8, 2))
    net.std = 0.0
    assert max(float(e.detach().abs().max()) for e in embedded_error.embedded(scene(net, "ddim", 6))) < 1e-5


def test_exact_scores_obey_fokker_planck() -> None:
    """Averaged over probes, since one has the trace only on average; a network that is scaled does not obey it."""
    denoiser = learned_problems.ring()
    schedule, t = denoiser.schedule, 0.4
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 2, generator=generator, dtype=torch.float64)
    probes = [torch.tensor([[a, b]], dtype=torch.float64).expand(64, 2) for a in (-1.0, 1.0) for b in (-1.0, 1.0)]

    def size(fn: Any) -> float:
        own = type(denoiser)(fn, schedule, "sample")
        with torch.no_grad():
            return float(sum(fokker_planck.residual(own, x, t, v, 1e-3) for v in probes).square().mean().sqrt()) / 4

    exact, wrong = size(denoiser.fn), size(lambda x, tau: 0.7 * denoiser.fn(x, tau))
    assert exact < 1e-4 and 50 * exact < wrong


def test_twice_the_evaluations_begin_and_end_alike() -> None:
    seen = scene(Ring())
    doubled = adjoint.LOSSES["pairs"].fn(seen, to="double")
    assert float(doubled) > 0
    want = sample(seen.part.denoiser, seen.part.x_T, seen.around.memo["double"])
    torch.testing.assert_close(want, seen.around.memo["double", seen.part.seeds])
    assert seen.around.memo["double"].nfe == 6


def test_a_loss_of_ones_own() -> None:
    @adjoint.tuning_loss("left", reference="nobody")
    def left(scene: Scene, *, at: float = 0.0) -> Tensor:
        return (scene.images[:, 0] - at).square().mean()

    try:
        assert adjoint.LOSSES["left"].options == {"at": 0.0}
        with pytest.raises(ValueError, match="no option"):
            adjoint.LOSSES["left"].checked({"to": 1})
    finally:
        adjoint.LOSSES.remove("left")
    with pytest.raises(ValueError, match="keyword-only"):
        adjoint.tuning_loss("odd", reference="")(lambda scene, at: scene)
