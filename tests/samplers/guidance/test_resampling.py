"""Resampling of weighted particles: unbiased, a function of the seed, the same across processes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from particles import FIRST, SECOND, drawn, networks
from places import HELPERS

from fewstep import sample
from fewstep.samplers import guidance
from fewstep.samplers.guidance.resampling import METHODS, ancestors, effective, places
from fewstep.samplers.run.step import State, moved


def test_resampling_takes_the_past_along_and_leaves_the_noise():
    x, history = torch.arange(3.0)[:, None], (torch.arange(3.0)[:, None] + 10,)
    take = lambda v: v[torch.tensor([2, 2, 0])]  # noqa: E731
    same, apart = (moved(State(carry, x, history), take) for carry in (x, x + 100))
    assert same.carry is same.input and same.input.flatten().tolist() == [2, 2, 0]
    assert apart.carry.flatten().tolist() == [102, 102, 100] and apart.history[0].flatten().tolist() == [12, 12, 10]
    target = guidance.fkc(networks([FIRST]), [3.0], ess=1.0, stop=0.0, method="multinomial")
    x0, _ = drawn(target, (64, 1), "dpmpp_2m_sde", 20)
    assert target.resampled.all() and len(x0.unique()) < 64  # the last resampling is followed by no noise
    stopped = guidance.fkc(networks([FIRST]), [3.0], ess=1.0, stop=0.5)
    x0, _ = drawn(stopped, (64, 1), "dpmpp_2m_sde", 20)
    assert stopped.resampled.sum() == 10 and len(x0.unique()) == 64


def test_brownian_noise_and_single_precision():
    target = guidance.fkc(networks([FIRST, SECOND]), [2.0, -1.0], ess=0.9)
    x_T = target.initial_noise((40, 1), seeds=range(40))
    x0 = sample(target.denoiser, x_T, "ddim", 20, eta=1.0, noise_seeds=range(40), noise="brownian", hook=target)
    assert x0.dtype == torch.float32 and target.resampled.any() and len(x0.unique()) == 40


@pytest.mark.parametrize("method", METHODS)
def test_resampling_is_unbiased_and_a_function_of_the_seed(method):
    log_w = torch.log(torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64))
    K, runs = 4, 1500
    counts = torch.zeros(2, K)
    atol = 0.2 if method == "one" else 0.08  # one parent for all: each count is 0 or K, and varies most
    for row in range(runs):
        found = ancestors(log_w, torch.from_numpy(places(method, [3, 4], row, K)))
        each = torch.stack([torch.bincount(line, minlength=K) for line in found])
        counts += each
        if method == "systematic":
            assert ((each - K * log_w.exp()).abs() < 1).all()
    assert torch.allclose(counts / runs, (K * log_w.exp()).float(), atol=atol) and counts[0, 3] == 0
    assert np.array_equal(places(method, [3, 4], 7, K)[1:], places(method, [4], 7, K))
    assert torch.allclose(effective(log_w), torch.tensor([1 / 0.38, 4.0], dtype=torch.float64))


def test_an_unweighted_set_has_the_weighted_law():
    target = guidance.fkc(networks([FIRST, SECOND]), [2.0, -1.0], particles=2000, ess=0)
    x0, weights = drawn(target, (4000, 1), nfe=20)
    even = target.unweighted(x0, 20000)
    assert even.shape == (40000, 1) and target.unweighted(x0).shape == x0.shape
    means = (torch.as_tensor(weights)[:, None] * x0).view(2, 2000).sum(1)
    assert torch.allclose(even.view(2, 20000).mean(1), means, atol=0.02)
    assert np.isin(even.numpy(), x0.numpy()).all()


ACROSS = """
import sys, time
import torch, torch.distributed as dist
sys.path.insert(0, {folder!r})
from problems import Mixture
from fewstep import NoiseSchedule, sample
from fewstep.samplers import guidance

def run(seeds, across, particles):
    reward = lambda x: -x.square().sum(1)
    schedule = NoiseSchedule.edm(0.02, 20.0)
    parts = [m.denoiser(schedule) for m in (Mixture(), Mixture(((0.9, -0.2), (-0.8, 0.6)), (0.5, 0.4), (0.5, 0.5)))]
    target = guidance.fkc(parts, [2.0, -1.0], ess=0.9, across=across, particles=particles, reward=reward)
    x = target.initial_noise((len(seeds), 2), seeds=seeds, dtype=torch.float64)
    x0 = sample(target.denoiser, x, "dpmpp_2m_sde", 12, noise_seeds=seeds, hook=target)
    return x0, target.weights, target.effective, target.resampled, target.unweighted(x0)

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
for particles in (None, 4):
    whole = run(list(range(12)), None, particles)
    half = run(list(range(6 * rank, 6 * rank + 6)), True, particles)
    mine = slice(6 * rank, 6 * rank + 6)
    assert whole[3].any()
    for a, b in zip((whole[0][mine], whole[1][mine], *whole[2:]), half, strict=True):
        assert torch.equal(a, b), (particles, a, b)
try:
    run(list(range(5 + rank)), True, None)
except ValueError as error:
    assert "as many particles; got [5, 6]" in str(error)
else:
    raise AssertionError("two sizes")
time.sleep(0.1)  # threads of the group let go of their last tensors a moment after a collective, see eval/passes
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_are_one_batch(tmp_path):
    folder = str(HELPERS)
    command = [sys.executable, "-c", ACROSS.format(folder=folder)]
    both = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    errors = [one.communicate(timeout=240)[1] for one in both]
    assert [one.returncode for one in both] == [0, 0], "\n".join(errors)
