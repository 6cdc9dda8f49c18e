"""Picard sweeps end in the result of the steps one after another, in fewer calls; what a sample becomes is its own."""

from __future__ import annotations

import socket
from typing import Any

import numpy as np
import pytest
import torch
from picard_processes import one_of_two
from problems import Gaussian, Mixture, in_turn, starts
from torch import Tensor

import fewstep
from fewstep.samplers import Denoiser, NoiseSchedule, sample

N = 100
SCHEDULES = {
    "vp": (NoiseSchedule.vp_linear(), "epsilon"),
    "zero terminal snr": (NoiseSchedule.discrete(np.linspace(0.9999, 0, 1000)), "v_prediction"),
    "edm": (NoiseSchedule.edm(), "sample"),
    "flow": (NoiseSchedule.flow(), "flow_prediction"),
}
VP = SCHEDULES["vp"][0]
SEEDS = list(range(5))


def mixture(kind: str = "vp", vector_time: bool = True, dtype: torch.dtype = torch.float64) -> tuple[Denoiser, Tensor]:
    schedule, prediction = SCHEDULES[kind]
    denoiser = Mixture().denoiser(schedule, prediction, vector_time=vector_time)
    return denoiser, starts(schedule, schedule.t_max, 5).to(dtype)


def gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize(("kind", "base"), in_turn(SCHEDULES, ["ddim", "euler_ancestral", "ddpm"]))
def test_equals_the_steps_one_after_another(kind: str, base: str) -> None:
    """To 1e-4 with the default tolerance and to rounding with a tiny one, ODE and SDE, in any unit of time."""
    denoiser, x = mixture(kind)
    alone = sample(denoiser, x, base, N, noise_seeds=SEEDS)
    y, info = sample(denoiser, x, "picard", N, base=base, window=N, noise_seeds=SEEDS, return_info=True)
    assert gap(y, alone) < 2e-4 * max(1.0, float(alone.abs().max()))
    assert info.calls < N / 2 and info.accepted == N and info.status == "done"
    exact, info = sample(
        denoiser, x, "picard", N, base=base, window=N, tolerance=1e-300, noise_seeds=SEEDS, return_info=True
    )
    assert gap(exact, alone) < 1e-12 and info.calls <= N


@pytest.mark.parametrize("window", [1, 3, 8, 200])
def test_windows_and_counts(window: int) -> None:
    """A sweep is one call of at most `window` steps; window 1 is the steps one after another."""
    denoiser, x = mixture()
    shown: list[int] = []
    watched = Denoiser(lambda x, tau: shown.append(len(x)) or denoiser.fn(x, tau), VP, "epsilon", True)
    y, info = sample(watched, x, "picard", 20, window=window, tolerance=1e-6, return_info=True)
    assert gap(y, sample(denoiser, x, "ddim", 20)) < 1e-6
    assert shown == [min(window, n) * len(x) for n in (np.array(shown) // len(x))] and len(shown) == info.calls <= 20
    assert sum(shown) == info.nfe * len(x)
    assert info.nfe == 20 if window == 1 else info.nfe > 20


def test_tolerance_decides_sweeps_and_error() -> None:
    denoiser, x = mixture()
    alone = sample(denoiser, x, "ddim", N)
    runs = [sample(denoiser, x, "picard", N, window=N, tolerance=t, return_info=True) for t in (1e-1, 1e-3, 1e-5)]
    errors, sweeps = [gap(y, alone) for y, _ in runs], [info.calls for _, info in runs]
    assert sweeps == sorted(set(sweeps)) and sweeps[-1] < 30
    assert errors[1] < 0.1 * errors[0] and errors[2] < 0.1 * errors[1]


@pytest.mark.parametrize("vector_time", [True, False])
def test_a_sample_is_the_same_alone_and_in_a_batch(vector_time: bool) -> None:
    """Bit for bit: neither windows nor noise of the others matter, whether or not steps are evaluated together."""
    denoiser, x = mixture(vector_time=vector_time)
    options: dict[str, Any] = {"base": "euler_ancestral", "window": 7, "tolerance": 1e-2}
    whole = sample(denoiser, x, "picard", 30, noise_seeds=SEEDS, **options)
    for i in (0, 3):
        alone = sample(denoiser, x[i : i + 1], "picard", 30, noise_seeds=SEEDS[i : i + 1], **options)
        assert torch.equal(alone[0], whole[i])
    together = sample(mixture()[0], x, "picard", 30, noise_seeds=SEEDS, **options)
    assert gap(whole, together) < 1e-13


def test_noise_is_the_sequential_run_s() -> None:
    denoiser, x = mixture()
    for noise in ({"noise_seeds": SEEDS, "noise": "brownian"}, {}):
        a, b = (
            sample(denoiser, x, solver, 20, generator=None if noise else torch.Generator().manual_seed(4), **noise, **o)
            for solver, o in (("euler_ancestral", {}), ("picard", {"base": "euler_ancestral", "tolerance": 1e-9}))
        )
        assert gap(a, b) < 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_state_keeps_its_dtype(dtype: torch.dtype) -> None:
    denoiser, x = mixture(dtype=dtype)
    y, info = sample(denoiser, x, "picard", 20, return_info=True)
    assert y.dtype == dtype and gap(y, sample(denoiser, x, "ddim", 20)) < (1e-3 if dtype == torch.float32 else 1e-2)


def test_limit_ends_with_a_status() -> None:
    denoiser, x = mixture()
    with pytest.warns(UserWarning, match="max_sweeps"):
        y, info = sample(denoiser, x, "picard", N, max_sweeps=3, window=N, return_info=True)
    assert info.status == "max_sweeps" and info.calls == 3 and info.accepted < N and y.isfinite().all()


def test_post_acts_on_every_prediction() -> None:
    denoiser, x = mixture()
    post = lambda x0: x0.clamp(-0.4, 0.4)  # noqa: E731
    y = sample(denoiser, x, "picard", 30, post=post, tolerance=1e-8)
    assert gap(y, sample(denoiser, x, "ddim", 30, post=post)) < 1e-7
    assert gap(y, sample(denoiser, x, "ddim", 30)) > 0.1


def test_callback_and_hook() -> None:
    """Callbacks see true states of the sequential run and their predictions; a moved state is gone on from."""
    schedule = NoiseSchedule.flow()
    denoiser, x = Gaussian().denoiser(schedule, "sample", vector_time=True), starts(schedule, 1.0, 3)
    steps: dict[float, tuple[Tensor, Tensor]] = {}
    sample(denoiser, x, "ddim", 20, callback=lambda p: steps.update({p.t: (p.x, p.x0)}))
    seen: list[float] = []

    def look(p: Any) -> None:
        seen.append(p.t)
        assert gap(p.x, steps[p.t][0]) < 1e-7 and gap(p.x0, steps[p.t][1]) < 1e-6

    sample(denoiser, x, "picard", 20, window=4, tolerance=1e-9, callback=look)
    assert seen == sorted(set(seen), reverse=True) and seen[-1] == 0.0

    moved: list[int] = []

    def push(p: Any) -> Tensor | None:
        if moved or p.t >= 0.5:
            return None
        moved.append(p.index)
        return p.x + 1.0

    y = sample(denoiser, x, "picard", 20, window=1, hook=push)
    again = sample(denoiser, x, "ddim", 20, hook=lambda p: p.x + 1.0 if p.index == moved[0] else None)
    assert gap(y, again) < 1e-12
    moved.clear()
    y = sample(denoiser, x, "picard", 20, window=8, tolerance=1e-9, hook=push)
    again = sample(denoiser, x, "ddim", 20, hook=lambda p: p.x + 1.0 if p.index == moved[0] else None)
    assert gap(y, again) < 1e-7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base": "dpmpp_2m"}, "one-step.*ddim"),
        ({"base": "heun"}, "one-step"),
        ({"base": "picard"}, "has no table"),
        ({"base": "nobody"}, "nobody"),
        ({"base_options": {"zeal": 1}}, "zeal"),
        ({"window": 0}, "window"),
        ({"tolerance": 0}, "tolerance"),
        ({"max_sweeps": 0}, "max_sweeps"),
        ({"shard": 2}, "shard"),
        ({"grid": [1.0, 2.0]}, "decrease"),
    ],
)
def test_bad_input_is_named_before_any_call(options: dict[str, Any], words: str) -> None:
    denoiser, x = mixture()
    with pytest.raises(ValueError, match=words):
        sample(denoiser, x, "picard", **options)
    assert denoiser.nfe == 0


def test_explicit_grid_gives_the_steps() -> None:
    denoiser, x = mixture()
    times = [1.0, 0.7, 0.5, 0.2, 1e-3]
    y, info = sample(denoiser, x, "picard", grid=times, tolerance=1e-12, return_info=True)
    assert gap(y, sample(denoiser, x, "ddim", grid=times)) < 1e-12 and info.accepted == 4


def test_output_that_is_not_finite_is_named() -> None:
    blind = Denoiser(lambda x, tau: x * float("nan"), VP, "epsilon", True)
    with pytest.raises(ValueError, match="not finite"):
        sample(blind, torch.randn(2, 3), "picard", 5)


def digits(labels: list[int], guidance: float = 2.0) -> Denoiser:
    """The embedded network with guidance: any number of copies of the batch, a time for every sample."""
    pipe = fewstep.load_demo_pipeline()
    schedule = NoiseSchedule.from_config(pipe.scheduler.config)

    @torch.no_grad()
    def fn(x: Tensor, tau: Tensor) -> Tensor:
        classes = torch.tensor(labels).repeat(len(x) // len(labels))
        both = torch.cat([classes, torch.full_like(classes, 10)])
        if guidance == 1:
            return pipe.unet(x, tau.expand(len(x)), classes).sample
        there, null = pipe.unet(torch.cat([x, x]), tau.expand(len(x)).repeat(2), both).sample.chunk(2)
        return null + guidance * (there - null)

    return Denoiser(fn, schedule, "epsilon", vector_time=True)


def test_embedded_digits_in_few_sweeps() -> None:
    denoiser, x = digits([3], 1.0), torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    y, info = sample(denoiser, x, "picard", 16, window=16, tolerance=1e-4, return_info=True)
    assert gap(y, sample(denoiser, x, "ddim", 16)) < 2e-3 and info.calls < 14


@pytest.mark.slow
def test_embedded_digits_at_a_hundred_steps() -> None:
    """Equals DDIM to 1e-4 in far fewer than 100 sweeps; the table of tolerances is printed."""
    denoiser, x = digits([5]), torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    alone = sample(denoiser, x, "ddim", N)
    print("\ntolerance  sweeps  evaluations  max error")
    table = {}
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        y, info = sample(denoiser, x, "picard", N, window=N, tolerance=tolerance, return_info=True)
        table[tolerance] = info.calls, gap(y, alone)
        print(f"{tolerance:9.0e} {info.calls:7d} {info.nfe:12d} {gap(y, alone):10.1e}")
    assert table[1e-3][0] <= 18 and table[1e-3][1] < 3e-2
    assert table[1e-5][0] <= 25 and table[1e-5][1] < 1e-4


@pytest.mark.slow
def test_two_processes_share_the_window(tmp_path: Any) -> None:
    """Each evaluates half; both return the first one's result, which is that of one process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, str(tmp_path)), nprocs=2)
    results = [torch.load(tmp_path / str(rank)) for rank in range(2)]
    denoiser, x = mixture()
    alone = sample(denoiser, x, "euler_ancestral", 20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(results[0][0], results[1][0]) and gap(results[0][0], alone) < 1e-8
    _, calls, nfe, shown = results[0]
    assert calls == results[1][1] and shown == results[1][3] and shown < 0.7 * nfe * len(x)
