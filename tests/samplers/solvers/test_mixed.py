"""A solver whose every step chooses for itself: the known ones by its choices, and mixtures against a loop written by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from learned_problems import ring

from fewstep.samplers import NoiseSchedule, build, sample
from fewstep.samplers.building.resuming import resume
from fewstep.samplers.coefficients.weights import lagrange_row, linear
from fewstep.samplers.learned.playing.arithmetic import unrolled
from fewstep.samplers.schedule.base import Node

SCHEDULES = [NoiseSchedule.vp_linear(), NoiseSchedule.flow(), NoiseSchedule.edm()]
LONG = {"lower_order_final": False}
SAME = [
    ("dpmpp_2m", LONG, {"weights": "bh2"}),
    ("dpmpp_3m", {**LONG, "limiter": False}, {"order": 3, "limiter": False}),
    ("unipc", {**LONG, "order": 2}, {"weights": "bh2", "corrector": True}),
    ("unipc", {**LONG, "order": 2, "form": "eps"}, {"form": "eps", "weights": "bh2", "corrector": 2}),
    ("cab", {"order": 2}, {"form": "flow", "clock": "G"}),
]


@pytest.mark.parametrize(("solver", "options", "choices"), SAME)
def test_one_choice_for_all_steps_is_the_known_solver(solver, options, choices):
    for schedule in SCHEDULES:
        known, mixed = (
            unrolled(build(*one[:1], schedule, 8, **one[1])) for one in ((solver, options), ("mixed", choices))
        )
        assert np.abs(known.outputs - mixed.outputs).max() < 1e-12 and np.abs(known.state - mixed.state).max() < 1e-12


FORMS, ORDERS = ["x0", "eps", "flow", "x0", "eps", "x0"], [1, 2, 2, 3, 2, 2]
HISTORY, CLOCKS = [[0], [0, 1], [0, 2], [0, 1, 3], [0, 1], [0, 1]], ["lam", "lam", "G", "lam", "t", "lam"]
CORRECTOR = [0, 2, 0, 2, 1, 0]


def by_hand(denoiser, x, table):
    """The same steps with every state, x0 and eps kept."""
    schedule = table.schedule
    nodes = [Node(*map(float, row)) for row in zip(*schedule.nodes(table.times), strict=True)]
    shown, x0s, start = x, [], None

    def output(k, form):
        state, x0 = x0s[k]
        eps = (state - nodes[k].alpha * x0) / nodes[k].sigma
        return {"x0": x0, "eps": eps, "flow": eps - x0}[form]

    def step(k, begin, places):
        form, s, t = FORMS[k], nodes[k], nodes[k + 1]
        weights = lagrange_row(schedule, form, CLOCKS[k], s, t, [nodes[j] for j in places])
        return linear(form, s, t) * begin + sum(w * output(j, form) for w, j in zip(weights, places, strict=True))

    for k in range(len(FORMS)):
        x0s.append((shown, denoiser.x0(shown, nodes[k].t)))
        begin = shown
        if k and CORRECTOR[k - 1]:
            older = [k - 1 - j for j in HISTORY[k - 1] if j <= k - 1][1 : CORRECTOR[k - 1]]
            begin = step(k - 1, start, [k - 1, k, *older])
        start = begin
        shown = step(k, begin, [k - j for j in HISTORY[k] if j <= k])
    return shown


@pytest.mark.parametrize("schedule", [NoiseSchedule.vp_linear(), NoiseSchedule.edm(0.01, 50.0)])
def test_a_mixture_of_forms_histories_and_correctors_is_the_loop_by_hand(schedule):
    denoiser = ring(schedule)
    x = schedule.initial_noise((16, 2), torch.Generator().manual_seed(0), dtype=torch.float64)
    options = {"form": FORMS, "order": ORDERS, "history": HISTORY, "clock": CLOCKS, "corrector": CORRECTOR}
    t_end = 0.05 if schedule.kind == "vp" else 0.02
    table = build("mixed", schedule, 6, "uniform", t_end=t_end, limiter=False, **options)
    assert table.nfe == 6 and table.conserves == "x0 eps"
    assert (sample(denoiser, x, table) - by_hand(denoiser, x, table)).abs().max() < 1e-10


def test_a_run_that_begins_in_the_middle_takes_the_last_of_the_choices():
    for solver, options in (
        ("mixed", {"order": [1, 2, 3, 2, 1], "corrector": [1, 0, 2, 0, 0]}),
        ("unipc", {"order": [1, 2, 3, 2, 1]}),
    ):
        table = build(solver, SCHEDULES[0], 5, **options)
        later = resume(table, 2)
        assert later.nfe == 3 and list(later.options["order"]) == [3, 2, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"form": ["x0", "eps"]}, "one a step, 5; got 2"),
        ({"form": "v"}, "form.*'v'"),
        ({"order": [1, 2, 3, 5, 1]}, "order"),
        ({"history": [[0], [1], [0], [0], [0]]}, "from the newest output, 0"),
        ({"history": (0, 2, 2)}, "newest"),
        ({"corrector": 7}, "corrector"),
        ({"clock": "sigma"}, "clock"),
        ({"clock": "t", "weights": "bh1"}, "polynomials in lam"),
    ],
)
def test_bad_input(options, said):
    with pytest.raises(ValueError, match=said):
        build("mixed", SCHEDULES[0], 5, **options)
