"""Denoisers made of denoisers: products, mixtures, regions, intervals, and guidance of guidance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, starts
from torch import Tensor

from fewstep import Denoiser, NoiseSchedule, adjoint, sample
from fewstep.samplers import build, guidance
from fewstep.samplers.run.lowering import lower

VP, EDM, FLOW = NoiseSchedule.vp_linear(), NoiseSchedule.edm(), NoiseSchedule.flow()
KINDS = ("epsilon", "v_prediction", "sample", "flow_prediction", "score")
ONE, TWO = Mixture([[1.0, 0.5]], [0.35], [1.0]), Mixture([[-1.2, 0.3]], [0.5], [1.0])
BOTH = Mixture(((1.0, 0.5), (-1.2, 0.3)), (0.35, 0.5), (0.6, 0.4))
X = starts(VP, 1.0, 6)
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def shares(x: Tensor, t: Any) -> Tensor:
    """w_k p_k(x, t), (2, B), of the two Gaussians of BOTH."""
    alpha, sigma = (torch.as_tensor(f(t), dtype=torch.float64).view(-1, 1, 1) for f in (VP.alpha, VP.sigma))
    variance = alpha**2 * BOTH.variances + sigma**2
    gap = x[:, None] - alpha * BOTH.means
    return (BOTH.log_weights - 0.5 * ((gap**2 / variance).sum(-1) + 2 * variance.log()[..., 0])).exp().T


def test_products_add_scores() -> None:
    """Whatever the parts predict, eps of the whole is the weighted sum; alone, a part is itself, bit for bit."""
    for first in KINDS:
        for second in KINDS:
            parts = [ONE.denoiser(VP, first), TWO.denoiser(VP, second)]
            for b in ([1.5, -0.5], [1.0, 1.0], [0.3, 0.9]):
                expected = sum(w * part.eps(X, 0.6) for w, part in zip(b, parts, strict=True))
                torch.testing.assert_close(guidance.product(parts, b).eps(X, 0.6), expected, **TIGHT)
    alone = ONE.denoiser(VP, "v_prediction")
    assert torch.equal(sample(guidance.product([alone]), X, "dpmpp_2m", 5), sample(alone, X, "dpmpp_2m", 5))
    c, u = ONE.denoiser(VP), TWO.denoiser(VP)
    guided = sample(guidance.product([c, u], [3.0, -2.0]), X, "dpmpp_2m", 6)
    torch.testing.assert_close(guided, sample(guidance.cfg(c, u, 3.0), X, "dpmpp_2m", 6), **TIGHT)


def test_product_of_gaussians_of_one_spread() -> None:
    """Scores of N(a, s^2) and N(b, s^2), averaged, are those of N((a + b) / 2, s^2): the flow is known."""
    parts = [Gaussian(m, 0.5).denoiser(FLOW, "flow_prediction") for m in (-1.0, 2.0)]
    x = starts(FLOW, 0.9, 4, shape=(3,))
    got = sample(guidance.product(parts, [0.5, 0.5]), x, "dpmpp_2m", 200, t_start=0.9)
    torch.testing.assert_close(got, Gaussian(0.5, 0.5).flow(FLOW, x, 0.9, 0.0), rtol=0, atol=2e-3)


def test_mixtures_with_exact_responsibilities() -> None:
    """The mixture's own denoiser, in calls, in runs, and with a time for every sample."""
    for kinds in (("epsilon", "epsilon"), ("epsilon", "sample"), ("v_prediction", "score")):
        parts = [law.denoiser(VP, kind, vector_time=True) for law, kind in zip((ONE, TWO), kinds, strict=True)]
        mixed = guidance.mixture(parts, shares)
        assert mixed.prediction == kinds[0] and mixed.vector_time is True
        exact = BOTH.denoiser(VP, kinds[0], vector_time=True)
        torch.testing.assert_close(mixed.x0(X, 0.4), exact.x0(X, 0.4), **TIGHT)
        times = np.linspace(0.2, 0.9, 6)
        torch.testing.assert_close(mixed.x0(X, times), exact.x0(X, times), **TIGHT)
        torch.testing.assert_close(sample(mixed, X, "dpmpp_2m", 8), sample(exact, X, "dpmpp_2m", 8), **TIGHT)
    numbers = guidance.mixture(parts, [0.25, 0.75])
    expected = 0.25 * parts[0].eps(X, 0.5) + 0.75 * parts[1].eps(X, 0.5)
    torch.testing.assert_close(numbers.eps(X, 0.5), expected, **TIGHT)


def test_regions_are_drawn_by_their_own() -> None:
    """Elementwise laws side by side: each region flows as its denoiser; overlaps average; any factor of masks."""
    left, right = Gaussian(1.0, 0.2), Gaussian(-1.0, 0.6)
    parts = [left.denoiser(VP), right.denoiser(VP, "v_prediction")]
    x = starts(VP, 0.9, 3, shape=(2, 4, 4))
    mask = torch.zeros(4, 4)
    mask[:, :2] = 1.0
    options: Any = {"t_start": 0.9, "t_end": 0.1, "nfe": 100}
    got = sample(guidance.regions(parts, [3 * mask, 3 * (1 - mask)]), x, "dpmpp_2m", **options)
    torch.testing.assert_close(got[..., :2], left.flow(VP, x, 0.9, 0.1)[..., :2], rtol=0, atol=1e-3)
    torch.testing.assert_close(got[..., 2:], right.flow(VP, x, 0.9, 0.1)[..., 2:], rtol=0, atol=1e-3)
    both = guidance.regions(parts, [torch.ones(1, 4, 4), torch.ones(4, 4)]).x0(x, 0.5)
    torch.testing.assert_close(both, 0.5 * (parts[0].x0(x, 0.5) + parts[1].x0(x, 0.5)), **TIGHT)


def test_experts_of_noise_levels() -> None:
    """Only the one in charge is called, its upper edge included, and the result is that of a switch by hand."""
    table = build("dpmpp_2m", VP, nfe=12, grid="logsnr")
    rho = np.exp(-table.nodes.lam[:-1])
    edges = [float(rho[3]), float(rho[7]) * 1.0001]
    laws = (ONE, BOTH, TWO)
    parts = [law.denoiser(VP, kind) for law, kind in zip(laws, ("epsilon", "v_prediction", "sample"), strict=True)]
    got = sample(guidance.intervals(parts, edges), X, table)
    assert [part.nfe for part in parts] == [3, 4, 5]
    rows = iter(zip([0] * 3 + [1] * 4 + [2] * 5, table.times, strict=False))

    def by_hand(x: Tensor, tau: Tensor) -> Tensor:
        k, t = next(rows)
        return laws[k].denoiser(VP).eps(x, t)

    torch.testing.assert_close(got, sample(Denoiser(by_hand, VP), X, table), **TIGHT)
    each = [law.denoiser(VP, vector_time=True) for law in (ONE, TWO)]
    switch = guidance.intervals(each, [1.0])
    times = np.array([0.05, 0.1, 0.2, 0.15, 0.08, 0.12])  # all below the edge
    switch.x0(X, times)
    assert [one.nfe for one in each] == [0, 1]
    found = switch.x0(X, np.array([0.9, 0.1, 0.9, 0.1, 0.9, 0.1]))
    torch.testing.assert_close(found[::2], each[0].x0(X, 0.9)[::2], **TIGHT)
    torch.testing.assert_close(found[1::2], each[1].x0(X, 0.1)[1::2], **TIGHT)


def measured() -> tuple[Tensor, Any]:
    A = guidance.matrix(torch.tensor([[1.0, 0.5]], dtype=torch.float64))
    return torch.tensor([[0.7]], dtype=torch.float64), A


def everything(schedule: NoiseSchedule = VP) -> dict[str, Denoiser]:
    """Guidance of guidance, by names of what is in what."""
    c, d, u = ONE.denoiser(schedule), TWO.denoiser(schedule, "v_prediction"), BOTH.denoiser(schedule)
    y, A = measured()
    mask = torch.tensor([1.0, 0.0])
    return {
        "dps(cfg)": guidance.dps(guidance.cfg(c, u, 2.0), y, A, 0.3),
        "dds(apg)": guidance.dds(guidance.apg(c, u, 2.0), y, A, 0.3),
        "mpgd(cfg_pp)": guidance.mpgd(guidance.cfg_pp(c, u, 0.6), y, A, 0.3),
        "cfg(product, product)": guidance.cfg(guidance.product([c, d], [0.5, 0.5]), guidance.product([u], [1.0]), 1.5),
        "product(dps, cfg)": guidance.product([guidance.dps(c, y, A, 0.3), guidance.cfg(c, u, 2.0)], [0.5, 0.5]),
        "regions(cfg_pp, apg)": guidance.regions(
            [guidance.cfg_pp(c, u, 0.6), guidance.apg(c, u, 2.0)], [mask, 1 - mask]
        ),
        "intervals(cfg, dreamguider)": guidance.intervals(
            [guidance.cfg(c, u, 2.0), guidance.dreamguider(d, y, A, 0.3)], [1.0]
        ),
        "cfg(dps, dps)": guidance.cfg(guidance.dps(c, y, A, 0.3), guidance.dps(u, y, A, 0.3), 1.5),
        "pigdm(classifier)": guidance.pigdm(guidance.classifier(u, lambda x, t: x, 0), y, A, 0.3),
    }


@pytest.mark.parametrize("name", list(everything()))
def test_nesting(name: str) -> None:
    """Runs on several solvers, a sample the same alone and in a batch, under gradients or not, and other than unguided."""
    guided, plain = everything()[name], BOTH.denoiser(VP)
    for solver in ("ddim", "dpmpp_2m", "heun"):
        with torch.no_grad():
            x0 = sample(guided, X, solver, 7, t_start=0.95)
            alone = sample(guided, X[2:3], solver, 7, t_start=0.95)
            assert float((x0 - sample(plain, X, solver, 7, t_start=0.95)).norm()) > 1e-2
        torch.testing.assert_close(alone, x0[2:3], rtol=1e-8, atol=1e-8)
    through = sample(guided, X, "heun", 7, t_start=0.95)
    torch.testing.assert_close(through.detach(), x0, rtol=1e-8, atol=1e-8)


def test_nesting_passes_on_who_asks() -> None:
    """A part deep inside knows its row: cfg_pp within others is cfg_pp, one within an identity is itself."""
    c, u = ONE.denoiser(VP), BOTH.denoiser(VP)
    plain = sample(guidance.cfg_pp(c, u, 0.6), X, "dpmpp_2m", 6)
    inner = guidance.cfg_pp(c, u, 0.6)
    for outer in (
        guidance.product([inner]),
        guidance.cfg(inner, u, 1.0),
        guidance.regions([inner], [torch.ones(2)]),
        guidance.intervals([inner, inner], [0.7]),
        guidance.cfg(guidance.product([inner]), guidance.product([inner]), 3.0),
    ):
        torch.testing.assert_close(sample(outer, X, "dpmpp_2m", 6), plain, **TIGHT)
    y, A = measured()
    one = guidance.dps(guidance.cfg(c, u, 1.0), y, A, 0.3)
    with torch.no_grad():
        torch.testing.assert_close(sample(one, X, "ddim", 5), sample(guidance.dps(c, y, A, 0.3), X, "ddim", 5), **TIGHT)


def test_calls_are_counted() -> None:
    """nfe of a run is its rows; of the parts, what they were asked."""
    c, d, u = ONE.denoiser(VP), TWO.denoiser(VP), BOTH.denoiser(VP)
    guided = guidance.cfg(guidance.product([c, d], [0.5, 0.5]), u, 2.0)
    _, info = sample(guided, X, "heun", 8, t_start=0.9, return_info=True)
    assert (info.nfe, guided.nfe, c.nfe, d.nfe, u.nfe) == (8, 8, 8, 8, 8)


def test_gradients_go_through_all_parts() -> None:
    """Of weights inside a part, by rows made again and by rows kept."""
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    learned = Denoiser(lambda x, tau: weight * torch.tanh(x), VP)
    guided = guidance.cfg(guidance.product([learned, ONE.denoiser(VP)], [0.5, 0.5]), BOTH.denoiser(VP), 2.0)
    found = []
    for method in ("direct", "checkpoint"):
        x0 = adjoint.sample(guided, X, "dpmpp_2m", 5, method=method)
        found.append(torch.autograd.grad(x0.square().sum(), weight)[0])
    torch.testing.assert_close(found[1], found[0], **TIGHT)
    assert abs(float(found[0])) > 1e-3
    late = guidance.cfg(ONE.denoiser(VP), learned, 2.0, interval=(0.0, 1.0))  # the first rows do not call it
    found = []
    for method in ("direct", "checkpoint"):
        x0 = adjoint.sample(late, X, "dpmpp_2m", 5, method=method, cond=[weight])
        found.append(torch.autograd.grad(x0.square().sum(), weight)[0])
    torch.testing.assert_close(found[1], found[0], **TIGHT)


def test_pure_noise_of_models_that_see_through_it() -> None:
    """alpha = 0: parts of one prediction need no conversion, and intervals know the level as infinite."""
    c, u = ONE.denoiser(FLOW, "flow_prediction"), BOTH.denoiser(FLOW, "flow_prediction")
    step = lower(build("ddim", FLOW, nfe=4), "flow_prediction", dtype=torch.float64)[0]
    assert float(FLOW.alpha(step.t)) == 0.0
    for guided in (
        guidance.cfg(c, u, lambda rho: 1.0 if rho > 10 else 2.0),
        guidance.cfg(c, u, 2.0, interval=(0.1, 3.0)),
        guidance.intervals([c, u], [2.0]),
        guidance.product([c, u], [1.0, 0.0]),
    ):
        torch.testing.assert_close(guided.call(X, step.model_time, step), c.call(X, step.model_time), **TIGHT)
        assert bool(sample(guided, X, "dpmpp_2m", 5).isfinite().all())


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("must be a list of at least one", lambda c, d: guidance.product([])),
        ("must be a list of at least one", lambda c, d: guidance.product(c)),
        (r"`denoisers\[1\]` must be a Denoiser", lambda c, d: guidance.product([c, None])),
        ("must have one schedule", lambda c, d: guidance.mixture([c, ONE.denoiser(FLOW)], [0.5, 0.5])),
        ("`weights` must be a list of 2 finite numbers", lambda c, d: guidance.product([c, d], [1.0])),
        ("`weights` must be a list of 2 finite numbers", lambda c, d: guidance.product([c, d], [1.0, float("nan")])),
        ("sum to more than 0", lambda c, d: guidance.product([c, d], [1.0, -1.0])),
        ("at least 0 and sum to 1", lambda c, d: guidance.mixture([c, d], [0.5, 0.6])),
        (r"responsibilities of shape \(2, 6\)", lambda c, d: guidance.mixture([c, d], lambda x, t: x).x0(X, 0.5)),
        ("one mask a denoiser", lambda c, d: guidance.regions([c, d], [torch.ones(2)])),
        ("broadcast to one shape", lambda c, d: guidance.regions([c, d], [torch.ones(2), torch.ones(3)])),
        ("in at least one of them", lambda c, d: guidance.regions([c, d], [torch.zeros(2), torch.tensor([0.0, 1.0])])),
        ("`edges` must be a list of 1 finite", lambda c, d: guidance.intervals([c, d], [1.0, 0.5])),
        ("above 0, decreasing", lambda c, d: guidance.intervals([c, d, c], [0.5, 1.0])),
    ],
)
def test_bad_input(message: str, call: Any) -> None:
    c, d = ONE.denoiser(VP), TWO.denoiser(VP)
    with pytest.raises(ValueError, match=message):
        call(c, d)
    assert c.nfe == d.nfe == 0


def test_nothing_is_read_from_the_device() -> None:
    """On a device that holds no values, every step runs: what a row does is decided on the host, and all is where x is."""
    c, u, d = (Denoiser(lambda x, tau, k=k: torch.sin(k * x) + tau, VP) for k in (1.0, 2.0, 3.0))
    x = torch.empty(2, 3, 4, 4, device="meta")
    half = torch.zeros(4, 4)
    half[:2] = 1.0
    A = guidance.mask(half)
    y = A(torch.ones(2, 3, 4, 4))
    cases = {
        "cfg": guidance.cfg(c, u, lambda rho: 2.0 + rho, rescale=0.7, interval=(0.3, 3.0)),
        "apg": guidance.apg(c, u, 3.0),
        "cfg_pp": guidance.cfg_pp(c, u),
        "product": guidance.product([c, u, d], [1.0, 1.0, 1.0]),
        "mixture": guidance.mixture([c, u], lambda x, t: x.flatten(1).square().sum(1).expand(2, -1)),
        "regions": guidance.regions([c, u], [half, 1 - half]),
        "intervals": guidance.intervals([c, u], [1.0]),
        "classifier": guidance.classifier(c, lambda x, t: x.flatten(1), torch.tensor([3, 4])),
        "dreamguider": guidance.dreamguider(c, y, A, 0.1),
    }
    hook = guidance.replacement(y, A, VP, [1, 2])
    with torch.no_grad():
        for denoiser in cases.values():
            assert sample(denoiser, x, "dpmpp_2m", 4, check="none", hook=hook).device.type == "meta"
