"""What `sample` promises whatever the solver: independence of the batch, dtypes, repetition, threads, gradients, cost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, starts
from torch import Tensor

from fewstep.samplers import GRIDS, SOLVERS, Denoiser, NoiseSchedule, NoiseSource, Tableau, build, sample
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.schedule.base import Node
from fewstep.samplers.table.row import INPUT, Row, noise

VP, EDM, FLOW = NoiseSchedule.vp_linear(), NoiseSchedule.edm(), NoiseSchedule.flow()
NAMES = [name for name, entry in SOLVERS.items() if entry.kind == "tableau"]


def ancestral(schedule: NoiseSchedule, times: np.ndarray) -> Tableau:
    """A stochastic table (DDIM with eta = 1)."""
    nodes = [Node(*map(float, schedule.nodes(float(t)))) for t in times]
    rows = []
    for s, t in zip(nodes, nodes[1:], strict=False):
        sd = t.sigma * np.sqrt(-np.expm1(-2 * (t.lam - s.lam)))
        keep = np.sqrt(t.sigma**2 - sd**2) / s.sigma
        rows.append(Row(s, "x0", {INPUT: keep, 0: t.alpha - s.alpha * keep, noise(s, t): sd}))
    return Tableau.from_rows("ancestral", schedule, rows, nodes[-1], order=1, groups=[1] * len(rows))


NOISY = ancestral(VP, np.linspace(0.9, 0.1, 7))


# The sample belongs to its start and its seed --------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.one_in(3)
def test_a_batch_equals_its_members(name: str) -> None:
    denoiser, x = Mixture().denoiser(VP), starts(VP, 1.0, 5)
    whole = sample(denoiser, x, name, 7, noise_seeds=range(5))
    parts = torch.cat([sample(denoiser, x[i : i + 1], name, 7, noise_seeds=[i]) for i in range(5)])
    assert torch.allclose(whole, parts, rtol=0, atol=1e-12)


def test_noise_belongs_to_its_sample() -> None:
    denoiser, x, seeds = Mixture().denoiser(VP), starts(VP, 0.9, 4), [11, 22, 33, 2**63 + 5]
    whole = sample(denoiser, x, NOISY, noise_seeds=seeds)
    for i in range(4):
        assert torch.allclose(sample(denoiser, x[i : i + 1], NOISY, noise_seeds=seeds[i : i + 1]), whole[i : i + 1])
    turned = sample(denoiser, x.flip(0), NOISY, noise_seeds=seeds[::-1])
    assert torch.allclose(turned.flip(0), whole)
    assert not torch.allclose(whole, sample(denoiser, x, NOISY, noise_seeds=[1, 2, 3, 4]), atol=1e-3)


def ask(row: int, slot: int) -> Draw:
    return Draw(row, slot, 0.0, 1.0)


def test_noise_source_is_a_function_of_seed_row_and_slot() -> None:
    like = torch.zeros(3, 4, 50, 50)
    source = NoiseSource([7, 8, 9])
    late, early = source(ask(5, 1), like), source(ask(0, 0), like)
    assert torch.equal(early, source(ask(0, 0), like)) and torch.equal(late, NoiseSource([7, 8, 9])(ask(5, 1), like))
    assert torch.equal(late[1:2], NoiseSource([8])(ask(5, 1), like[:1]))
    draws = [early, late, source(ask(5, 0), like), source(ask(1, 5), like)]
    for i, a in enumerate(draws):
        assert abs(float(a.mean())) < 0.03 and abs(float(a.std()) - 1) < 0.03
        assert all(abs(float((a * b).mean())) < 0.03 for b in draws[:i])
    assert abs(float((early[0] * early[1]).mean())) < 0.05
    assert (
        source(ask(0, 0), like.double()).dtype == torch.float64
        and source(ask(0, 0), like.half()).dtype == torch.float16
    )
    assert source(ask(0, 0), like.to("meta")).device.type == "meta"


def test_generators() -> None:
    denoiser, x = Mixture().denoiser(VP), starts(VP, 0.9, 3)

    def seeded(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(s) for s in seeds]

    whole = sample(denoiser, x, NOISY, generator=seeded(1, 2, 3))
    alone = sample(denoiser, x[1:2], NOISY, generator=seeded(2))
    assert torch.allclose(whole[1:2], alone)
    one = seeded(5)[0], seeded(5)[0]
    assert torch.equal(sample(denoiser, x, NOISY, generator=one[0]), sample(denoiser, x, NOISY, generator=one[1]))


@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_is_the_same_to_the_bit(name: str) -> None:
    denoiser, x = Mixture().denoiser(VP), starts(VP, 1.0).float()
    table, seeds = build(name, VP, 8), range(len(x))
    first = sample(denoiser, x, name, 8, noise_seeds=seeds)
    assert torch.equal(first, sample(denoiser, x, name, 8, noise_seeds=seeds))
    assert torch.equal(first, sample(denoiser, x, table, noise_seeds=seeds))


def test_threads_share_a_denoiser_and_a_table() -> None:
    denoiser = Mixture().denoiser(VP)
    tables = {name: build(name, VP, 12) for name in ("unipc", "dpm_3", "lms", "heun")}
    jobs = [(name, starts(VP, 1.0, seed=seed)) for seed in range(8) for name in tables]
    alone = [sample(denoiser, x, tables[name]) for name, x in jobs]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda job: sample(denoiser, job[1], tables[job[0]]), jobs))
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


# Types and shapes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dtype_is_kept_and_half_precision_is_accumulated_in_float32(name: str, dtype: torch.dtype) -> None:
    seen = set()
    gaussian = Gaussian()
    inner = gaussian.denoiser(VP, "v_prediction")

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        seen.add((x.dtype, tau.dtype, tau.ndim, x.device.type))
        return inner.fn(x, tau)

    x = starts(VP, 0.5, 3, shape=(2, 4, 4))
    got = sample(Denoiser(fn, VP, "v_prediction"), x.to(dtype), name, 8, t_start=0.5, noise_seeds=range(3))
    assert seen == {(dtype, torch.float64 if dtype == torch.float64 else torch.float32, 0, "cpu")}
    assert got.dtype == dtype and got.shape == x.shape and got.device == x.device
    eps = torch.finfo(dtype).eps
    exact = sample(inner, x.to(dtype).double(), name, 8, t_start=0.5, noise_seeds=range(3))
    assert float((got.double() - exact).abs().max()) <= 12 * eps * float(x.abs().max())


def test_any_shape() -> None:
    denoiser = Denoiser(lambda x, tau: x / (1 + tau**2), EDM, "sample")
    for shape in ((1,), (3,), (2, 1), (2, 3, 4, 5, 6), (0, 3, 4)):
        x = torch.full(shape, 3.0, dtype=torch.float64)
        for name in ("ddim", "unipc", "lms", "dpm_3"):
            got = sample(denoiser, x, name, 6, t_end=0.1)
            assert got.shape == shape
            assert torch.allclose(got, sample(denoiser, torch.full((1, 1), 3.0).double(), name, 6, t_end=0.1)[0, 0])


def test_memory_layout_does_not_matter() -> None:
    denoiser = Gaussian().denoiser(VP, "sample")
    x = starts(VP, 1.0, 2, shape=(3, 4, 4))
    strided = torch.empty(2, 4, 4, 3, dtype=x.dtype).permute(0, 3, 1, 2).copy_(x)
    for name in ("ddim", "unipc", "lms"):
        assert torch.equal(sample(denoiser, strided, name, 6), sample(denoiser, x, name, 6))
        assert torch.equal(
            sample(denoiser, strided.to(memory_format=torch.channels_last), name, 6), sample(denoiser, x, name, 6)
        )


@pytest.mark.parametrize("name", NAMES)
def test_autocast_of_the_caller_does_not_round_the_algebra(name: str) -> None:
    denoiser, x = Gaussian().denoiser(VP, "sample"), starts(VP, 1.0, 3).float()
    plain = sample(denoiser, x, name, 9, noise_seeds=range(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sample(denoiser, x, name, 9, noise_seeds=range(3)), plain)


def test_x_T_is_not_touched() -> None:
    x = starts(VP, 1.0)
    before = x.clone()
    sample(Mixture().denoiser(VP), x, "unipc", 6)
    assert torch.equal(x, before)


# Watching and steering -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_callback_sees_every_evaluation(name: str) -> None:
    denoiser, x, seen = Mixture().denoiser(VP, "sample"), starts(VP, 1.0, 4), []
    got, info = sample(
        denoiser, x, name, 9, callback=lambda s: seen.append((s.index, s.t, s.nfe, s.x, s.x0)), return_info=True
    )
    indices, times, calls, states, x0s = zip(*seen, strict=True)
    assert indices == tuple(range(9)) and calls == tuple(range(1, 10))
    assert np.array_equal(times, info.tableau.times[1:]) and torch.equal(states[-1], got)
    inputs = [x, *states]
    for k in range(9):
        assert torch.allclose(x0s[k], denoiser.x0(inputs[k], float(info.tableau.times[k])), atol=1e-12)
    assert (info.nfe, info.accepted, info.rejected, info.status) == (9, 9, 0, "done") and info.seconds > 0


def test_hook_moves_the_state() -> None:
    denoiser, x = Mixture().denoiser(VP, "sample"), starts(VP, 1.0, 4)
    table = build("ddim", VP, 6)
    got = sample(denoiser, x, table, hook=lambda s: s.x + 0.01 if s.index == 2 else None)
    half = sample(denoiser, x, "ddim", 3, table.times[:4])
    assert torch.allclose(got, sample(denoiser, half + 0.01, "ddim", 3, table.times[3:]), atol=1e-12)
    still = sample(denoiser, x, "unipc", 6, hook=lambda s: s.x)
    assert torch.allclose(still, sample(denoiser, x, "unipc", 6), atol=1e-12)
    with pytest.raises(ValueError, match=r"hook returned shape \(1, 2\); expected \(4, 2\)"):
        sample(denoiser, x, "ddim", 6, hook=lambda s: s.x[:1])


def test_hook_moves_the_anchor_of_a_step_along() -> None:
    """A shift between the stages of a step shifts its result, because the stages and the anchor move together."""
    ends = {"t_start": 0.9, "t_end": 0.1, "grid": "uniform"}
    constant = Denoiser(lambda x, tau: torch.zeros_like(x), VP, "sample")
    x = starts(VP, 0.9, 4)
    moved = sample(constant, x, "dpm_2", 2, hook=lambda s: s.x + 1.0 if s.index == 0 else None, **ends)
    mid = build("dpm_2", VP, 2, **ends).nodes
    change = float(mid.sigma[2] / mid.sigma[1])
    assert torch.all((moved - sample(constant, x, "dpm_2", 2, **ends)).abs() > 0.1 * change)


def test_progress_goes_to_stderr_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    denoiser, x = Mixture().denoiser(VP), starts(VP, 1.0, 4)
    got = sample(denoiser, x, "ddim", 5, progress=True)
    shown = capsys.readouterr()
    assert "5/5" in shown.err and shown.out == "" and torch.equal(got, sample(denoiser, x, "ddim", 5))


def test_ends_and_grids() -> None:
    denoiser, x = Mixture().denoiser(VP), starts(VP, 0.8)
    _, info = sample(denoiser, x, "ddim", 6, "uniform", t_start=0.8, t_end=0.2, return_info=True)
    assert np.allclose(info.tableau.times, np.linspace(0.8, 0.2, 7), atol=1e-12)
    explicit = sample(denoiser, x, "ddim", None, np.linspace(0.8, 0.2, 7))
    assert torch.equal(explicit, sample(denoiser, x, "ddim", 6, list(np.linspace(0.8, 0.2, 7))))
    _, info = sample(denoiser, starts(VP, 1.0), return_info=True)
    assert info.nfe == 10 and info.tableau.name == "dpmpp_2m"
    assert (info.tableau.times[0], info.tableau.times[-1]) == (VP.t_max, VP.t_end)
    for grid in GRIDS:
        for schedule in (VP, EDM, FLOW):
            network = Mixture().denoiser(schedule, "sample")
            assert torch.isfinite(sample(network, starts(schedule, schedule.t_max, 2), "dpmpp_2m", 6, grid)).all()


def test_two_runs_in_a_row_are_one_run() -> None:
    denoiser, x = Mixture().denoiser(VP), starts(VP, 1.0)
    half = sample(denoiser, x, "ddim", 4, "uniform", t_end=0.5)
    full = sample(denoiser, half, "ddim", 4, "uniform", t_start=0.5, t_end=0.1)
    times = [*np.linspace(1, 0.5, 5), *np.linspace(0.5, 0.1, 5)[1:]]
    assert torch.allclose(full, sample(denoiser, x, "ddim", 8, times), atol=1e-12)


def broken(at: int) -> Denoiser:
    """A network whose call number `at` returns NaN for the first sample."""
    calls = []

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        calls.append(tau)
        out = torch.zeros_like(x)
        if len(calls) == at + 1:
            out[0] = float("nan")
        return out

    return Denoiser(fn, VP, "sample")


def test_output_that_is_not_finite() -> None:
    x = starts(VP, 1.0, 4)
    with pytest.raises(ValueError, match=r'not finite in 1 of 4 samples at the result; check="each"'):
        sample(broken(3), x, "ddim", 6)
    where = build("ddim", VP, 6).times[3]
    with pytest.raises(ValueError, match=rf"1 of 4 samples at row 3 \(t = {where:.6g}, model time {where:.6g}\)"):
        sample(broken(3), x, "ddim", 6, check="each")
    assert torch.isnan(sample(broken(3), x, "ddim", 6, check="none")[0]).all()


# Gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_gradient_with_respect_to_the_start(name: str) -> None:
    """Against central differences along a random direction."""
    denoiser = Mixture().denoiser(VP, "v_prediction")
    x, direction, weight = starts(VP, 1.0, 3), starts(VP, 1.0, 3, seed=1), starts(VP, 1.0, 3, seed=2)

    def loss(x: Tensor) -> Tensor:
        return (sample(denoiser, x, name, 7, noise_seeds=range(3)) * weight).sum()

    x.requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(x), x)
    with torch.no_grad():
        step = 1e-5
        difference = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    assert float((slope * direction).sum()) == pytest.approx(float(difference), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", ["dpmpp_2m", "deis", "unipc", "pndm"])
def test_a_whole_sampling_is_exported(name: str) -> None:
    """Without options: the check of the result has nothing to read in a graph."""
    schedule = NoiseSchedule.vp_linear()

    class Sampler(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            end: Tensor = sample(Denoiser(lambda x, tau: self.linear(x) * tau, schedule), x, name, 5)
            return end

    sampler, x = Sampler(), torch.randn(2, 4)
    exported = torch.export.export(sampler, (x,), strict=False)  # as it is from torch 2.7 on, unless told
    assert torch.equal(exported.module()(x), sampler(x))
