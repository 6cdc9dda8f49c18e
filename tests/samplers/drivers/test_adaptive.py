"""Samplers that choose their steps: their limits, their accounts, and samples that do not notice their neighbours."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from problems import BLIND, Gaussian, Mixture, starts
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule, sample
from fewstep.samplers.drivers.dpm_adaptive import pair
from fewstep.samplers.sampling.watching import Info
from fewstep.samplers.table.row import INPUT, Row
from fewstep.samplers.table.tableau import Tableau

VP = NoiseSchedule.vp_linear()
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SCHEDULES = {
    "vp": VP,
    "discrete": NoiseSchedule.from_config(BETAS),
    "zero-snr": NoiseSchedule.from_config({**BETAS, "rescale_betas_zero_snr": True}),
    "ve": NoiseSchedule.ve(0.01, 50.0),
    "edm": NoiseSchedule.edm(),
    "flow": NoiseSchedule.flow(),
}
DRIVERS = ("dpm_adaptive", "gotta_go_fast", "rk45")
COST = {"dpm_adaptive": 3, "gotta_go_fast": 2, "rk45": 6}
TIGHT = {  # for errors near 1e-4, of the SDE near 1e-2
    "dpm_adaptive": {"rtol": 1e-4, "atol": 1e-5},
    "gotta_go_fast": {"rtol": 0.1, "atol": 0.02, "denoise": False},
    "rk45": {"rtol": 1e-5, "atol": 1e-5},
}


def go(name: str, denoiser: Denoiser, x: Tensor, **options: Any) -> tuple[Tensor, Info]:
    """One run; of the SDE with seeds and, unless told, a loose tolerance."""
    if name == "gotta_go_fast":
        options = {"rtol": 0.1, "noise_seeds": range(len(x)), **options}
    return sample(denoiser, x, name, return_info=True, **options)


def prediction_for(schedule: NoiseSchedule) -> str:
    """One that says something at the schedule's start."""
    return "v_prediction" if schedule.alpha(schedule.t_max) == 0 else "epsilon"


everyone = pytest.mark.parametrize("name", DRIVERS)
everywhere = pytest.mark.parametrize("kind", SCHEDULES)


@everywhere
@pytest.mark.parametrize("name", ["dpm_adaptive", "rk45"])
@pytest.mark.parametrize("options", [{}, {"t_end": 0.1}], ids=["whole", "part"])
@pytest.mark.one_in(3)
def test_flow_of_a_gaussian_on_every_schedule(name: str, kind: str, options: dict[str, float]) -> None:
    """To tolerance; what ends in sigma = 0 keeps the first-order step from t_min, whose error is sigma(t_min)^2."""
    schedule, problem = SCHEDULES[kind], Gaussian()
    x = starts(schedule, schedule.t_max, 6)
    got, info = go(name, problem.denoiser(schedule, prediction_for(schedule)), x, **TIGHT[name], **options)
    end = options.get("t_end", schedule.t_end)
    last = float(schedule.sigma(schedule.t_min)) if schedule.sigma(end) == 0 else 0.0
    assert info.status == "done"
    assert float((got - problem.flow(schedule, x, schedule.t_max, end)).abs().max()) < 3e-4 + 3 * last**2


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "flow_prediction", "score"])
@everyone
def test_what_the_network_predicts_does_not_matter(name: str, prediction: str) -> None:
    x = starts(VP, 1.0, 4)
    want, _ = go(name, Mixture().denoiser(VP), x)
    got, _ = go(name, Mixture().denoiser(VP, prediction), x)
    assert torch.allclose(got, want, rtol=0, atol=1e-9)


@everyone
def test_alike_in_every_schedule(name: str) -> None:
    """In lam and at unit variance all schedules are one: the same ends in lam, the same samples from as many steps."""
    lam = VP.lam(np.array([1.0, 1e-3]))
    runs = {}
    for kind in ("vp", "edm", "flow"):
        schedule = SCHEDULES[kind]
        first, last = (float(t) for t in schedule.t_of_lam(lam))
        x = starts(VP, 1.0, 4) * float(np.hypot(schedule.alpha(first), schedule.sigma(first)))
        got, info = go(name, Mixture().denoiser(schedule, "sample"), x, t_start=first, t_end=last)
        scale = 1.0 if name == "gotta_go_fast" else float(np.hypot(schedule.alpha(last), schedule.sigma(last)))
        runs[kind] = got / scale, info.nfe
    for kind in ("edm", "flow"):
        assert runs[kind][1] == runs["vp"][1]
        assert torch.allclose(runs[kind][0], runs["vp"][0], rtol=0, atol=1e-7)


@everyone
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.slow
def test_samples_do_not_notice_their_neighbours(name: str, dtype: torch.dtype) -> None:
    """Own steps: a sample is the same alone and in a batch, and spends as much. Its neighbours take other numbers."""
    denoiser = Mixture().denoiser(VP, vector_time=True)
    x = starts(VP, 1.0, 4).to(dtype)
    together, info = go(name, denoiser, x)
    each = info.each or ()
    assert len(set(each)) > 1 and max(each) == info.nfe == info.calls
    for i in range(len(x)):
        alone, one = go(name, denoiser, x[i : i + 1], noise_seeds=[i])
        assert one.nfe == each[i]
        assert torch.allclose(alone[0], together[i], rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-5)


@everyone
def test_shared_steps_visit_one_time_at_a_time(name: str) -> None:
    """Without vector_time every call has the whole batch at one time, and all samples spend the same."""
    seen = []

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        seen.append((x.shape, tau.ndim))
        return Mixture().denoiser(VP).fn(x, tau)

    _, info = go(name, Denoiser(fn, VP), starts(VP, 1.0, 5))
    assert set(seen) == {((5, 2), 0)} and len(seen) == info.calls == info.nfe and info.each == (info.nfe,) * 5


@everyone
@pytest.mark.parametrize("vector", [False, True])
def test_accounts_agree_with_the_network(name: str, vector: bool) -> None:
    """Evaluations counted inside the network: calls one after another, and as many for each sample as it says."""
    schedule = NoiseSchedule.flow()  # both ends singular: one evaluation each
    exact = Mixture().denoiser(schedule, "flow_prediction", vector_time=vector)
    evaluated = []

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        evaluated.append(len(x))
        return exact.fn(x, tau)

    denoiser = Denoiser(fn, schedule, "flow_prediction", vector_time=vector)
    _, info = go(name, denoiser, starts(schedule, 1.0, 5))
    assert info.status == "done" and info.calls == len(evaluated) == denoiser.nfe
    assert info.each is not None and sum(evaluated) == sum(info.each)
    opening = 2 if name == "rk45" else 0
    assert info.nfe == max(info.each) == 2 + opening + COST[name] * (info.accepted + info.rejected)
    assert (info.calls == info.nfe) and info.accepted > 0


@everyone
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("nfe", [1, 9, 20, 23])
def test_never_more_than_nfe(name: str, vector: bool, nfe: int) -> None:
    denoiser = Mixture().denoiser(VP, vector_time=vector)
    with pytest.warns(UserWarning, match="max_nfe"):
        x, info = go(name, denoiser, starts(VP, 1.0, 3), nfe=nfe, rtol=1e-4, atol=1e-4)
    assert info.status == "max_nfe" and info.calls <= nfe and nfe - info.nfe < COST[name] + 3
    assert torch.isfinite(x).all()


def _noisy(x: Tensor, tau: Tensor) -> Tensor:
    """A network that no step size integrates: white noise of great size."""
    return 1e4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(int(1e9 * float(tau))), dtype=x.dtype)


def _broken(x: Tensor, tau: Tensor) -> Tensor:
    return torch.full_like(x, float("nan"))


@everyone
@pytest.mark.parametrize("fn", [_noisy, _broken])
@pytest.mark.parametrize("vector", [False, True])
def test_a_network_that_cannot_be_integrated_ends_at_the_smallest_step(name: str, fn: Any, vector: bool) -> None:
    """Errors that are huge or not finite reject and shrink, until the smallest step: what was reached is returned."""

    def each(x: Tensor, tau: Tensor) -> Tensor:
        return torch.cat([fn(x[i : i + 1], tau.expand(len(x))[i]) for i in range(len(x))])

    with pytest.warns(UserWarning, match="min_step"):
        x, info = go(name, Denoiser(each, VP, vector_time=vector), starts(VP, 1.0, 3), min_step=1e-3)
    assert info.status == "min_step" and info.nfe < 60 and info.rejected > 0 and torch.isfinite(x).all()


@everyone
def test_one_bad_sample_does_not_stop_the_others(name: str) -> None:
    """Own steps: the sample whose network fails on the way stops there, the others arrive as without it."""
    good = Mixture().denoiser(VP, vector_time=True)

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        late = (tau.expand(len(x)) < 0.97) & (x[:, 0] > 20)
        return torch.where(late[:, None], torch.nan, good.fn(x, tau))

    x = starts(VP, 1.0, 4)
    want, _ = go(name, good, x)
    marked = x.clone()
    marked[2, 0] = 500.0
    with pytest.warns(UserWarning, match="min_step"):
        got, info = go(name, Denoiser(fn, VP, vector_time=True), marked)
    assert torch.isfinite(got).all()
    assert torch.allclose(got[[0, 1, 3]], want[[0, 1, 3]], rtol=0, atol=1e-12)


@everyone
def test_perfect_steps_go_to_the_end(name: str) -> None:
    """Data at zero leaves no error after the noise is told apart: steps grow, none is divided by zero."""

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        return torch.zeros_like(x)

    x, info = go(name, Denoiser(fn, VP), torch.zeros(2, 3, dtype=torch.float64))
    assert info.status == "done" and torch.isfinite(x).all()
    if name != "gotta_go_fast":
        assert info.rejected == 0 and info.nfe < 70 and not x.any()


@pytest.mark.slow
@everyone
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_of_state_and_network(name: str, dtype: torch.dtype) -> None:
    """The network sees x_T's dtype, the result has it, and is the float64 result to the network's rounding."""
    denoiser, seen = Gaussian().denoiser(VP), set()

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        seen.add(x.dtype)
        return denoiser.fn(x, tau)

    x = starts(VP, 1.0, 4)
    tolerance = {"rtol": 1e-3, "atol": 1e-3} if name == "rk45" else {"rtol": 0.02, "atol": 0.01}
    want, _ = go(name, denoiser, x, **tolerance)
    got, info = go(name, Denoiser(fn, VP), x.to(dtype), **tolerance)
    assert got.dtype == dtype and seen == {dtype} and info.status == "done"
    assert float((got.double() - want).abs().max()) < 0.1


@everyone
def test_gradients_flow_with_the_steps_fixed(name: str) -> None:
    """x0 by x_T: the derivative of the flow for a Gaussian, and of the sampler itself for a fixed choice of steps."""
    problem, x = Gaussian(), starts(VP, 1.0, 2).requires_grad_()
    options = {**TIGHT[name], "rtol": 1e-4, "atol": 1e-4} if name != "gotta_go_fast" else TIGHT[name]
    got, _ = go(name, problem.denoiser(VP), x, **options)
    (grad,) = torch.autograd.grad(got.sum(), x)
    assert x.grad is None and torch.isfinite(grad).all()
    if name == "gotta_go_fast":
        # additive noise, affine network: the derivative is the product of the accepted steps, the same for all elements
        assert float(grad.std()) < 1e-12 and 0 < abs(float(grad.mean())) < 0.1
    else:
        ratio = problem.flow(VP, torch.ones(1), 1.0, 1e-3) - problem.flow(VP, torch.zeros(1), 1.0, 1e-3)
        assert torch.allclose(grad, ratio.double().expand_as(grad), rtol=3e-3)


@everyone
@pytest.mark.parametrize("vector", [False, True])
def test_progress_is_told(name: str, vector: bool) -> None:
    """callback sees accepted steps in order, times that fall to the end, evaluations that rise to the total."""
    seen = []
    denoiser = Mixture().denoiser(SCHEDULES["edm"], vector_time=vector)
    x, info = go(name, denoiser, starts(SCHEDULES["edm"], 80.0, 3), callback=seen.append, progress=False)
    times, spent = [p.t for p in seen], [p.nfe for p in seen]
    assert times == sorted(times, reverse=True) and times[-1] == 0
    assert spent == sorted(spent) and spent[-1] == info.nfe
    assert len(seen) - 1 >= info.accepted and all(p.x.shape == x.shape and p.x0.shape == x.shape for p in seen)
    assert torch.equal(seen[-1].x, x)
    assert float((seen[-2].x0 - x).abs().max()) < 0.2  # late predictions are near the sample


@everyone
def test_hook_moves_the_state(name: str) -> None:
    """A hook that returns what it saw changes nothing but the reuse of a slope; one that shifts x is followed."""
    denoiser, x = Gaussian().denoiser(VP), starts(VP, 1.0, 2)
    plain, _ = go(name, denoiser, x)
    same, _ = go(name, denoiser, x, hook=lambda p: p.x.clone())
    assert torch.allclose(same, plain, rtol=0, atol=1e-9)
    done = []

    def shift(p: Any) -> Tensor | None:
        if p.t < 0.5 and not done:
            done.append(True)
            return p.x + 1.0
        return None

    moved, _ = go(name, denoiser, x, hook=shift)
    assert bool((moved > plain + 0.01).all())


@everyone
def test_post_acts_on_predicted_x0(name: str) -> None:
    x, _ = go(name, Mixture().denoiser(VP), starts(VP, 1.0, 8), post=lambda x0: x0.clamp(-0.1, 0.1))
    assert float(x.abs().max()) < 0.16  # 0.1 and what noise is left at t_end


@everyone
def test_bar_covers_the_whole_way(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    go(name, Gaussian().denoiser(VP), starts(VP, 1.0, 2), progress=True)
    shown = capsys.readouterr().err
    assert name in shown and "100%" in shown


BAD = [
    ({"rtol": 0}, "rtol.*above 0"),
    ({"atol": -1.0}, "atol.*above 0"),
    ({"rtol": float("nan")}, "rtol.*above 0"),
    ({"min_step": 0}, "min_step.*above 0"),
    ({"grid": "karras"}, "chooses its own steps"),
    ({"grid": [1.0, 0.5, 0.1]}, "chooses its own steps"),
    ({"per_sample": True}, "vector_time=True"),
    ({"per_sample": "yes"}, "per_sample"),
    ({"nfe": 0}, "nfe"),
    ({"eta": 1.0}, "no option 'eta'"),
]
OWN = [
    ("dpm_adaptive", {"order": 1}, "order.*2..3"),
    ("dpm_adaptive", {"order": 4}, "order.*2..3"),
    ("dpm_adaptive", {"theta": 0}, "theta"),
    ("dpm_adaptive", {"theta": 1.5}, "theta"),
    ("dpm_adaptive", {"h_init": 0}, "h_init.*above 0"),
    ("gotta_go_fast", {"h_init": -1}, "h_init.*above 0"),
    ("gotta_go_fast", {"r": 0}, "`r`"),
    ("gotta_go_fast", {"r": 2.0}, "`r`"),
    ("gotta_go_fast", {"safety": 0}, "safety"),
    ("gotta_go_fast", {"denoise": "yes"}, "denoise"),
    ("rk45", {"var": "sigma"}, "var.*'lam', 't'"),
]


@pytest.mark.parametrize(("name", "given", "said"), [(n, g, s) for n in DRIVERS for g, s in BAD] + OWN)
def test_bad_input_is_named_before_any_call(name: str, given: dict[str, Any], said: str) -> None:
    denoiser = Mixture().denoiser(VP)
    with pytest.raises(ValueError, match=said):
        sample(denoiser, starts(VP, 1.0, 3), name, **given)
    assert denoiser.nfe == 0


@everyone
@pytest.mark.parametrize("prediction", BLIND)
def test_pure_noise_needs_a_prediction_that_knows(name: str, prediction: str) -> None:
    """eps says nothing at alpha = 0: said before any call."""
    schedule = NoiseSchedule.flow()
    denoiser = Mixture().denoiser(schedule, prediction)
    with pytest.raises(ValueError, match="says nothing about x0"):
        sample(denoiser, starts(schedule, 1.0, 2), name)
    assert denoiser.nfe == 0


@pytest.mark.parametrize("order", [2, 3])
def test_both_solutions_of_the_pair_are_tables_that_conserve(order: int) -> None:
    """The lines of a pair, read as rows of a table, keep a constant x0 and eps exactly; `from_rows` refuses others."""
    s, t = (VP.node(VP.t_of_lam(lam)) for lam in (-1.0, 0.3))
    h, stages = t.lam - s.lam, pair(order, t.lam - s.lam)
    nodes = [s, *(VP.node(VP.t_of_lam(s.lam + c * h)) for c, _ in stages[: order - 1])]
    for last in stages[order - 1 :]:
        rows = []
        for i, (_, weights) in enumerate([*stages[: order - 1], last]):
            to = [*nodes[1:], t][i]
            terms: dict[Any, float] = {i - j: -to.sigma * h * w for j, w in enumerate(weights)}
            terms["carry" if i else INPUT] = to.alpha / s.alpha
            rows.append(Row(nodes[i], "eps", terms, {"carry": 1.0} if i else {INPUT: 1.0}))
        table = Tableau.from_rows("pair", VP, rows, t, order=order, groups=(order,))
        x0, eps = (torch.randn(2, 3, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (0, 1))
        got = sample(Denoiser(lambda x, tau, eps=eps: eps, VP), s.alpha * x0 + s.sigma * eps, table)
        torch.testing.assert_close(got, t.alpha * x0 + t.sigma * eps, rtol=1e-12, atol=1e-12)


def _slope(name: str, tolerances: list[float], **options: Any) -> tuple[float, list[float]]:
    """d log error / d log tolerance on the mixture, and the errors."""
    denoiser, x = Mixture().denoiser(VP), starts(VP, 1.0)
    reference, _ = go("rk45", denoiser, x, rtol=1e-11, atol=1e-11)
    errors = []
    for tol in tolerances:
        got, _ = go(name, denoiser, x, rtol=tol, atol=tol if name == "rk45" else 0.156 * tol, **options)
        errors.append(float((got - reference).square().mean().sqrt()))
    return float(np.polyfit(np.log(tolerances), np.log(errors), 1)[0]), errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "least"),
    [("dpm_adaptive", {}, 0.8), ("dpm_adaptive", {"order": 2}, 0.8), ("rk45", {}, 0.8), ("rk45", {"var": "t"}, 0.8)],
)
def test_error_falls_in_proportion_to_the_tolerance(name: str, options: dict[str, Any], least: float) -> None:
    """Over three halvings a decade: the slope of log error over log tolerance is 1 to a fifth."""
    high = -4 if name == "rk45" else -2
    slope, errors = _slope(name, [10 ** (high - i / 3) for i in range(7)], **options)
    assert least < slope < 1.35, (slope, errors)


def test_card_figures_of_dpm_adaptive() -> None:
    """Sixteen samples of the mixture with shared steps spend what is known of this rule: 60, 96, 162 and 258, or less."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spent = [
            go("dpm_adaptive", Mixture().denoiser(VP), starts(VP, 1.0), rtol=r, atol=0.156 * r)[1].nfe
            for r in (0.05, 1e-2, 1e-3, 1e-4)
        ]
    assert all(0.75 * want <= got <= want for got, want in zip(spent, (60, 96, 162, 258), strict=True)), spent
