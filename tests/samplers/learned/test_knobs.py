"""Knobs: zero is the start to the last bit, `play` is `sample`, gradients are derivatives, memory does not grow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learned_problems import ring, turned
from problems import Mixture, in_turn
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule
from fewstep.samplers.building.compiling import build
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.playing.differentiable import has_gradients, play
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.run.free_row import Coefficients
from fewstep.samplers.table.tableau import Tableau

DISCRETE = NoiseSchedule.discrete(np.append(np.cos(np.linspace(0.05, 1.5, 1000)) ** 2, 0.0))  # ends at alpha = 0
SCHEDULES = {
    "vp": NoiseSchedule.vp_linear(), "edm": NoiseSchedule.edm(), "flow": NoiseSchedule.flow(), "discrete": DISCRETE
}  # fmt: skip
SOLVERS = {
    "dpmpp_2m": {}, "unipc": {}, "deis": {}, "heun": {}, "dpmpp_2s": {}, "euler_ancestral": {}, "dpmpp_2m_sde": {},
    "unipc-full": {"lower_order_final": False},
}  # fmt: skip
ALL = ("grid", "coef", "state", "tau")


def table(solver: str, kind: str, nfe: int = 6) -> Tableau:
    return build(solver.split("-")[0], SCHEDULES[kind], nfe, "logsnr", **SOLVERS.get(solver, {}))


def problem(kind: str, prediction: str = "sample") -> Problem:
    denoiser = Mixture().denoiser(SCHEDULES[kind], prediction)
    return Problem(denoiser, shape=(2,), batch_size=8, dtype=torch.float64)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_knobs_at_zero_are_the_start(solver: str, kind: str) -> None:
    """The table is the start itself, and what the graph computes from zero knobs has its very bits."""
    start = table(solver, kind)
    for free, window, consistent in ((ALL, 6, False), (("grid", "coef", "tau"), 3, True)):
        knobs = Knobs(start, "sample", free, window, consistent)
        assert set(knobs.parameters) == set(free)
        W, p, q, tau = (v.detach().numpy() for v in knobs.coefficients().given)
        assert np.array_equal(W, knobs.start.W) and np.array_equal(tau, start.model_times)
        assert np.array_equal(knobs.table().W, knobs.start.W) and np.array_equal(knobs.table().times, start.times)


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_play_is_sample(solver: str, kind: str) -> None:
    """For turned knobs, the loop with a graph draws what `sample` draws from the table, noise and all."""
    learnt = problem(kind)
    knobs = turned(Knobs(table(solver, kind), "sample", ("grid", "coef", "tau")), 0.2)
    part, made = learnt.part(range(8)), knobs.table()
    with torch.no_grad():
        played = play(part, made, knobs.coefficients())[-1]
    assert not np.array_equal(made.times, table(solver, kind).times)
    torch.testing.assert_close(played, learnt.draw(made, part), rtol=1e-10, atol=1e-10)


def loss_of(knobs: Knobs, learnt: Problem, **how: Any) -> Tensor:
    return play(learnt.part(range(8)), knobs.start, knobs.coefficients(), **how)[-1].square().mean()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "kind"), in_turn(["dpmpp_2m", "unipc", "heun", "dpmpp_2m_sde"], ["vp", "flow", "edm"])
)
def test_gradients_are_derivatives(solver: str, kind: str) -> None:
    """Every gradient is the central difference of the loss, the same whether calls are remembered or made again."""
    learnt = Problem(ring(SCHEDULES[kind]), shape=(2,), dtype=torch.float64)
    knobs = turned(Knobs(table(solver, kind, 4), "sample", ALL, 4), 0.1)
    found = torch.autograd.grad(loss_of(knobs, learnt), list(knobs.parameters.values()))
    kept = torch.autograd.grad(loss_of(knobs, learnt, remember=True), list(knobs.parameters.values()))
    assert all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))
    h = 1e-4
    for (name, value), gradient in zip(knobs.parameters.items(), found, strict=True):
        slopes = torch.zeros_like(value)
        for i, here in enumerate(value.tolist()):
            losses = []
            for step in (h, -h, 2 * h, -2 * h, 0.0):  # a difference of fourth order, then back
                with torch.no_grad():
                    value[i] = here + step
                    losses.append(loss_of(knobs, learnt))
            slopes[i] = (8 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12 * h)
        assert float((slopes - gradient).abs().max()) <= 1e-6 * float(gradient.abs().max()), name


class Net(torch.nn.Module):
    """Some layers, whose activations are counted while they are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(16, 16).double() for _ in range(6))

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x) + tau)
        return x


def saved(nfe: int, remember: bool) -> int:
    """Bytes that are kept for the way back by the time the forward pass ends."""
    net = Net().requires_grad_(False)
    learnt = Problem(Denoiser(net, NoiseSchedule.vp_linear(), "sample"), shape=(16,), dtype=torch.float64)
    knobs, part, kept = Knobs(table("dpmpp_2m", "vp", nfe), "sample"), learnt.part(range(64)), {}

    def pack(t: Tensor) -> Tensor:
        if t.shape == (64, 16):
            kept[t.data_ptr()] = t.numel() * t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        states = play(part, knobs.start, knobs.coefficients(), remember=remember)
    assert states[-1].requires_grad
    return sum(kept.values())


def test_memory_does_not_grow_with_calls() -> None:
    """Activations of the network are those of no call (they are made again); remembered, they are of all."""
    one = 64 * 16 * 8
    assert saved(16, True) - saved(4, True) >= 12 * 6 * one
    assert saved(16, False) - saved(4, False) <= 12 * 4 * one  # states and outputs that the sums themselves need


class Counting(torch.autograd.Function):
    """Identity that counts how many of it wait for their gradient."""

    alive, peak = 0, 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        Counting.alive += 1
        Counting.peak = max(Counting.peak, Counting.alive)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Tensor:
        Counting.alive -= 1
        return gradient[0]


@pytest.mark.parametrize("remember, alive", [(False, 1), (True, 7)])
def test_one_call_is_alive_at_a_time(remember: bool, alive: int) -> None:
    """On the way back the graph of one call exists, however many there are; without that, all of them do."""

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        return (Counting.apply(x) if torch.is_grad_enabled() and x.requires_grad else x) * torch.cos(tau)

    learnt = Problem(Denoiser(fn, NoiseSchedule.vp_linear(), "sample"), shape=(2,), dtype=torch.float64)
    knobs = Knobs(table("dpmpp_2m", "vp", 8), "sample", ("coef", "tau"))
    state = play(learnt.part(range(2)), knobs.start, knobs.coefficients(), remember=remember)[-1]
    peak_forward = Counting.alive
    Counting.alive, Counting.peak = (0, 0) if not remember else (Counting.alive, 0)
    Counting.peak = Counting.alive
    torch.autograd.grad(state.sum(), list(knobs.parameters.values()))
    assert (Counting.peak if not remember else peak_forward) == alive
    Counting.alive = Counting.peak = 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(list(SCHEDULES)))
def test_grids_stay_monotone(seed: int, kind: str) -> None:
    """However the knobs are turned, times decrease strictly and the network is shown times within the schedule's ends."""
    start = table("dpmpp_2m", kind, 8)
    made = turned(Knobs(start, "sample", ("grid", "tau")), 10.0, seed).table()
    assert (np.diff(made.times) < 0).all() and np.isfinite(made.W).all()
    assert made.times[0] == start.times[0] and made.times[-1] == start.times[-1]
    assert made.model_times[0] == start.model_times[0]
    last, first = (float(start.schedule.model_time(t)) for t in start.times[[-1, 0]])
    assert (made.model_times >= last).all() and (made.model_times <= first).all()


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "deis"])
def test_consistent_knobs_keep_what_the_solver_conserves(solver: str, kind: str) -> None:
    """A table proves its claim when it is made; knobs that are not consistent could not make it."""
    start = table(solver, kind)
    made = turned(Knobs(start, "sample", ("grid", "coef", "tau"), 6), 0.5).table()
    assert made.conserves == start.conserves == "x0 eps"
    loose = turned(Knobs(start, "sample", ("coef",), 6, consistent=False), 0.5).table()
    with pytest.raises(ValueError, match="does not integrate a constant"):
        replace(loose, conserves="x0 eps")


def test_count_is_of_free_numbers() -> None:
    """N - 1 times, N (N - 1) / 2 consistent weights, N - 1 network times; free weights: N (N + 1) / 2 and N of states."""
    start = build("dpmpp_2m", SCHEDULES["vp"], 6, "logsnr")
    assert Knobs(start, "sample", ("grid", "coef", "tau"), 6).count == 5 + 15 + 5
    assert Knobs(start, "sample", ("grid", "coef", "state"), 6, False).count == 5 + 21 + 6


def test_what_has_gradients() -> None:
    """An exact score has them, one that is made in numpy has not."""

    def blind(x: Tensor, tau: Tensor) -> Tensor:
        return torch.from_numpy(np.tanh(x.detach().numpy()))

    for fn, expected in ((ring().fn, True), (blind, False)):
        learnt = Problem(Denoiser(fn, NoiseSchedule.vp_linear(), "sample"), shape=(2,), dtype=torch.float64)
        assert has_gradients([learnt.part([0])], 0.5) is expected


def test_cut_gradients_reach_one_call_back() -> None:
    """With `cut`, the state after call k depends on the time shown in call k and on no other; the first one stays."""
    learnt = Problem(ring(), shape=(2,), dtype=torch.float64)
    start = build("dpmpp_2m", learnt.schedule, 5, "logsnr")
    knobs = Knobs(start, "sample", ("tau",))
    W, p, q, tau = (v.detach() for v in knobs.coefficients().given)
    tau = tau.clone().requires_grad_()
    states = play(learnt.part(range(4)), knobs.start, Coefficients(W, p, q, tau), cut=True)
    assert not states[1].requires_grad
    for k in range(1, 5):
        (slope,) = torch.autograd.grad(states[k + 1].sum(), tau, retain_graph=True)
        assert slope.nonzero().flatten().tolist() == [k]
