"""On a GPU what a CPU says: steps, also replayed from a CUDA graph, noise, and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewstep import Denoiser, NoiseSchedule, adjoint, build, sample
from fewstep.samplers.noise.brownian import unit_normal
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.noise.philox import R, normals
from fewstep.samplers.noise.sources import NoiseSource
from fewstep.samplers.run.lowering import lower
from fewstep.samplers.run.step import State

pytestmark = pytest.mark.gpu
SCHEDULE = NoiseSchedule.vp_linear()


def denoiser() -> Denoiser:
    return Denoiser(lambda x, tau: torch.tanh(0.7 * x + 0.1 * torch.sin(3 * x)), SCHEDULE, "epsilon")


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc", "dpmpp_2m_sde"])
def test_samples_are_those_of_a_cpu(solver: str) -> None:
    x_T = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    here, there = (sample(denoiser(), x_T.to(d), solver, 12, noise_seeds=range(4)).cpu() for d in ("cpu", "cuda"))
    assert (here - there).abs().max() < 1e-4


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc"])
def test_a_step_replayed_from_a_graph_is_the_step(solver: str) -> None:
    x, output = torch.randn(2, 1, 4, 32, 32, device="cuda")
    steps = lower(build(solver, SCHEDULE, 12), "epsilon", "cuda")
    before = State(x, x)
    for step in steps[:6]:
        before = step(before, output)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        steps[6](before, output)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = steps[6](before, output)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(captured.input, steps[6](before, output).input)


def test_noise_of_the_device_is_numpy_s() -> None:
    seeds, place = (3, 2**63 + 1), (0, 1, 4)
    got = normals(seeds, place, (50_000,), torch.device("cuda")).cpu().numpy()
    want = np.stack([unit_normal(seed, place, (50_000,)) for seed in seeds])
    assert np.array_equal(got[np.abs(want) < R], want[np.abs(want) < R]) and np.abs(got - want).max() < 1e-6
    like = torch.empty(2, 3, 200, 200, device="cuda", dtype=torch.bfloat16)
    there, here = (NoiseSource(seeds)(Draw(4, 1, 0.0, 0.0), one) for one in (like, like.cpu()))
    assert there.device == like.device and (there.cpu() == here).float().mean() > 0.999


@pytest.mark.parametrize("how", [{}, {"offload": True}, {"method": "revolve"}, {"method": "segments"}])
def test_gradients_are_those_through_the_loop(how: dict[str, object]) -> None:
    found = []
    for given in ({"method": "direct"}, how):
        x_T = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).cuda().requires_grad_()
        adjoint.sample(denoiser(), x_T, "dpmpp_2m", 8, **given).square().sum().backward()  # type: ignore[arg-type]
        assert x_T.grad is not None
        found.append(x_T.grad)
    assert torch.allclose(*found, rtol=1e-4, atol=1e-6)
