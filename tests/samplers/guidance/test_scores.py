"""Guidance by the difference of two networks: scales, intervals, momentum, and what is refused."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from classes import BOTH, EDM, FLOW, VP, X, pair
from problems import PREDICTIONS, starts
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, sample
from fewstep.samplers import build, guidance
from fewstep.samplers.run.lowering import lower


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_scales_one_and_zero_are_the_networks_themselves(prediction: str) -> None:
    """Bit for bit, and the other network is not called."""
    schedule = NoiseSchedule.edm()
    x = starts(schedule, schedule.t_max, 4)
    for scale, other in ((1, 1), (1.0, 1), (lambda rho: 1.0, 1), (0, 0), (0.0, 0)):
        parts = pair(schedule, prediction)
        guided = guidance.cfg(*parts, scale)
        assert torch.equal(sample(guided, x, "dpmpp_2m", 6), sample(parts[1 - other], x, "dpmpp_2m", 6))
        assert guided.nfe == 6 and parts[other].nfe == 0
    c, u = pair(schedule, prediction)
    got, tau = guidance.cfg(c, u, 3.0).call(x, torch.tensor(2.0)), torch.tensor(2.0)
    torch.testing.assert_close(got, u.call(x, tau) + 3.0 * (c.call(x, tau) - u.call(x, tau)), rtol=1e-14, atol=1e-14)


def test_interval() -> None:
    """(0, inf] is cfg; a narrow one saves calls of the unconditional network, and only inside is it guided."""
    c, u = pair()
    plain = sample(guidance.cfg(c, u, 3.0), X, "dpmpp_2m", 12)
    assert torch.equal(sample(guidance.cfg(c, u, 3.0, interval=(0.0, float("inf"))), X, "dpmpp_2m", 12), plain)
    c, u = pair()
    guided = guidance.cfg(c, u, 3.0, interval=(0.3, 2.0))
    table = build("ddim", VP, nfe=12, grid="logsnr")
    rho = np.exp(-table.nodes.lam[:-1])
    inside = (rho > 0.3) & (rho <= 2.0)
    assert 0 < inside.sum() < 12
    x0, info = sample(guided, X, table, return_info=True)
    assert (info.nfe, c.nfe, u.nfe) == (12, 12, inside.sum())
    by_scale = guidance.cfg(c, u, lambda rho: 3.0 if 0.3 < rho <= 2.0 else 1.0)
    assert torch.equal(sample(by_scale, X, table), x0)
    edge = float(rho[5])
    for ends, called in (((edge, 1e9), 0), ((edge / 2, edge), 1)):  # the upper end belongs to it, the lower does not
        c, u = pair()
        step = lower(table, "epsilon", dtype=torch.float64)[5]
        guidance.cfg(c, u, 3.0, interval=ends).call(X, step.model_time, step)
        assert u.nfe == called


def test_interval_of_samples_with_times_of_their_own() -> None:
    c, u = pair(vector_time=True)
    guided = guidance.cfg(c, u, lambda rho: 1.0 + rho, interval=(0.5, 2.0))
    tau = torch.tensor([0.1, 0.3, 0.5, 0.6, 0.8, 1.0], dtype=torch.float64)
    together = guided.call(X, tau)
    for k in range(6):
        torch.testing.assert_close(
            together[k : k + 1], guided.call(X[k : k + 1], tau[k : k + 1]), rtol=1e-12, atol=1e-12
        )


def test_rescaled_deviation() -> None:
    """phi = 1 has the deviation of the conditional output, sample by sample; phi = 0 is cfg; between, between."""
    x, tau = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor(0.6)
    c, u = (Denoiser(lambda x, t, k=k: torch.sin(k * x) + k, VP) for k in (1.0, 2.0))
    plain = guidance.cfg(c, u, 5.0).call(x, tau)
    assert torch.equal(guidance.cfg(c, u, 5.0, rescale=0.0).call(x, tau), plain)
    whole = guidance.cfg(c, u, 5.0, rescale=1.0).call(x, tau)
    torch.testing.assert_close(whole.flatten(1).std(1), c.call(x, tau).flatten(1).std(1))
    half = guidance.cfg(c, u, 5.0, rescale=0.5).call(x, tau)
    torch.testing.assert_close(half, 0.5 * (plain + whole))
    torch.testing.assert_close(guidance.cfg(c, u, 5.0, rescale=0.5).call(x[1:2], tau), half[1:2])


def test_projection() -> None:
    """apg without its three changes is cfg; the guided part is across predicted x0, no longer than the norm."""
    for schedule, prediction in ((VP, "epsilon"), (VP, "v_prediction"), (FLOW, "flow_prediction"), (EDM, "sample")):
        c, u = pair(schedule, prediction)
        x = starts(schedule, 0.9 * schedule.t_max, 5)
        plain = guidance.apg(c, u, 4.0, momentum=0.0, norm=None, eta=1.0)
        run = {"nfe": 8, "t_start": 0.9 * schedule.t_max}
        expected = sample(guidance.cfg(c, u, 4.0), x, "dpmpp_2m", **run)
        torch.testing.assert_close(sample(plain, x, "dpmpp_2m", **run), expected, rtol=1e-10, atol=1e-10)
        t = 0.4 * schedule.t_max if schedule is not EDM else 0.8
        moved = guidance.apg(c, u, 4.0, norm=None).x0(x, t) - c.x0(x, t)
        assert float((moved * c.x0(x, t)).sum(1).abs().max()) < 1e-12
        short = (guidance.apg(c, u, 4.0, norm=1e-3, eta=1.0).x0(x, t) - c.x0(x, t)).norm(dim=1)
        whole = (guidance.cfg(c, u, 4.0).x0(x, t) - c.x0(x, t)).norm(dim=1)
        torch.testing.assert_close(short, whole.clamp(max=3e-3))
        assert bool((whole > 3e-3).any())
        same = guidance.apg(c, u, 4.0, norm=1e-3)
        torch.testing.assert_close(same.x0(x[2:3], t), same.x0(x, t)[2:3], rtol=1e-12, atol=1e-14)


def by_hand(table: Any, c: Denoiser, u: Denoiser, x: Tensor, scale: float, beta: float) -> Tensor:
    """apg with eta = 1 and no norm is cfg with momentum, played row by row, once a step."""
    M, start = None, 0
    state = {"carry": x, "input": x}
    for size in table.groups:
        before = M
        for k in range(start, start + size):
            t, (carry, inside) = float(table.times[k]), (state["carry"], state["input"])
            delta = c.x0(inside, t) - u.x0(inside, t)
            found = delta if before is None else delta + beta * before
            M = found if k == start else M
            D = c.x0(inside, t) + (scale - 1) * found
            alpha, sigma = table.nodes.alpha[k], table.nodes.sigma[k]
            m = D if table.forms[k] == "x0" else (inside - alpha * D) / sigma
            past = [m, *state.get("past", [])][: table.history]
            registers = [carry, inside, *past]
            lines = [sum(float(w) * r for w, r in zip(line, registers, strict=False)) for line in table.W[k]]
            state = {"carry": lines[0], "input": lines[1], "past": past}
        start += size
    return state["input"]


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun"])
def test_momentum_goes_on_once_a_step(solver: str) -> None:
    """Against a loop that remembers; stages of Heun's steps read one momentum."""
    c, u = pair()
    table = build(solver, VP, nfe=7, t_start=0.9)
    guided = guidance.apg(c, u, 3.0, momentum=-0.6, norm=None, eta=1.0)
    expected = by_hand(table, c, u, X, 3.0, -0.6)
    torch.testing.assert_close(sample(guided, X, table), expected, rtol=1e-9, atol=1e-9)
    plain = sample(guidance.apg(c, u, 3.0, momentum=0.0, norm=None, eta=1.0), X, table)
    assert float((plain - expected).norm()) > 1e-3  # so that the equality above says something


def test_momentum_belongs_to_a_run() -> None:
    """One object: runs after each other, in threads, and of other batches do not see each other; nothing is left behind."""
    guided = guidance.apg(*pair(), 3.0, momentum=-0.6)
    batches = [X, X[:2], X.flip(0), X[3:]]
    alone = [sample(guided, x, "dpmpp_2m", 9) for x in batches]
    with ThreadPoolExecutor(4) as pool:
        threads = [f.result() for f in [pool.submit(sample, guided, x, "dpmpp_2m", 9) for x in batches * 3]]
    assert all(torch.equal(found, alone[k % 4]) for k, found in enumerate(threads))
    torch.testing.assert_close(alone[1], alone[0][:2], rtol=1e-12, atol=1e-12)
    gc.collect()
    (memory,) = (c.cell_contents for c in guided.rule.__closure__ if hasattr(c.cell_contents, "kept"))
    assert len(memory.kept) == 0


def test_momentum_of_rows_that_are_made_again() -> None:
    """A gradient with rows made again is that with rows kept."""
    from fewstep import adjoint

    guided = guidance.apg(*pair(), 3.0)
    found = []
    for method in ("direct", "checkpoint", "segments"):
        x = X.clone().requires_grad_()
        found.append(torch.autograd.grad(adjoint.sample(guided, x, "dpmpp_2m", 6, method=method).square().sum(), x)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[2], found[0], rtol=1e-9, atol=1e-9)


def test_cfg_pp_is_the_published_step() -> None:
    """x0 of the guided noise, renoised with the unconditional one, in a plain loop."""
    for schedule, prediction in ((VP, "epsilon"), (VP, "v_prediction"), (FLOW, "flow_prediction")):
        c, u = pair(schedule, prediction)
        table = build("ddim", schedule, nfe=10, t_start=0.95)
        x = X.clone()
        for k in range(10):
            t, (a, s) = float(table.times[k]), (float(v[k + 1]) for v in (table.nodes.alpha, table.nodes.sigma))
            eps_u, eps_c = u.eps(x, t), c.eps(x, t)
            eps = eps_u + 0.6 * (eps_c - eps_u)
            x = a * (x - table.nodes.sigma[k] * eps) / table.nodes.alpha[k] + s * eps_u
        got = sample(guidance.cfg_pp(c, u), X, table)
        torch.testing.assert_close(got, x, rtol=1e-12, atol=1e-12)
    c, u = pair()
    for scale, other in ((1.0, 0), (0.0, 1)):  # one step from noise to data: D_c, D_u
        got = sample(guidance.cfg_pp(c, u, scale), X, "ddim", 1, t_end=0.0)
        torch.testing.assert_close(got, (c, u)[other].x0(X, 1.0), rtol=1e-12, atol=1e-12)
    assert bool(sample(guidance.cfg_pp(*pair()), X, "dpmpp_3m", 8).isfinite().all())


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("`scale` must be a finite number", lambda c, u: guidance.cfg(c, u, float("nan"))),
        ("`scale` must be a finite number", lambda c, u: guidance.cfg(c, u, "7.5")),
        ("`rescale` must be a number from 0 to 1", lambda c, u: guidance.cfg(c, u, 2.0, rescale=1.5)),
        ("`interval` is .lo, hi.", lambda c, u: guidance.cfg(c, u, 2.0, interval=(2.0, 0.5))),
        ("must have one schedule", lambda c, u: guidance.apg(c, BOTH.denoiser(FLOW), 2.0)),
        ("must have one schedule", lambda c, u: guidance.cfg_pp(c, BOTH.denoiser(VP, "sample"))),
        ("`unconditional` must be a Denoiser", lambda c, u: guidance.apg(c, None, 2.0)),
        ("`momentum` must be between", lambda c, u: guidance.apg(c, u, 2.0, momentum=1.0)),
        ("`norm` must be a number above 0", lambda c, u: guidance.apg(c, u, 2.0, norm=0.0)),
        ("takes its weight from the row", lambda c, u: guidance.cfg_pp(c, u).x0(X, 0.5)),
        ("takes its weight from the row", lambda c, u: sample(guidance.cfg_pp(c, u), X, "rk45")),
        ("`network` must be a classifier", lambda c, u: guidance.classifier(u, 3, 0)),
        ("needs a measurement and its operator", lambda c, u: guidance.dreamguider(u)),
        ("one number a sample", lambda c, u: guidance.dreamguider(u, loss=lambda x: x.sum()).x0(X, 0.5)),
    ],
)
def test_bad_input(message: str, call: Any) -> None:
    c, u = pair()
    with pytest.raises(ValueError, match=message):
        call(c, u)
    assert c.nfe == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    """A half-precision network is shown half precision; what is made of its answers is not rounded on the way."""
    seen = set()

    def fn(x: Tensor, tau: Tensor, k: float) -> Tensor:
        seen.add(x.dtype)
        return torch.sin(k * x)

    c, u = (Denoiser(lambda x, tau, k=k: fn(x, tau, k), VP) for k in (1.0, 1.5))
    x = X.to(dtype)
    for guided in (
        guidance.cfg(c, u, 7.3, rescale=0.5),
        guidance.apg(c, u, 7.3),
        guidance.cfg_pp(c, u),
        guidance.classifier(c, lambda x, tau: 3 * x, 1),
        guidance.classifier(c, lambda x: 3 * x, 1, clean=True),
        guidance.dreamguider(c, torch.ones(6, 2), guidance.mask(torch.tensor([1.0, 0.0])), 0.1),
    ):
        with torch.no_grad():
            x0 = sample(guided, x, "dpmpp_2m", 6, t_start=0.9)
        assert x0.dtype == dtype and bool(x0.isfinite().all())
    assert seen == {dtype}
    tau = torch.tensor(0.5)
    exact = u.call(x, tau).float() + 7.3 * (c.call(x, tau).float() - u.call(x, tau).float())
    torch.testing.assert_close(guidance.cfg(c, u, 7.3).call(x, tau), exact)
