"""Continuous adjoints: their orders against the true gradient of the flow, the noise of SDEs, the ends, what is refused."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from gradient_problems import SCHEDULE, Problem, Task, Walk, relative, table
from problems import Mixture
from torch import Tensor

from fewstep.adjoint.continuous.continuous_adjoint import check_options
from fewstep.adjoint.continuous.plan import diffusion, make_plan
from fewstep.samplers import NoiseSchedule, Tableau, build
from fewstep.samplers.schedule.base import Node

FULL = {"lower_order_final": False}
PROBLEM = Problem()
STATES = ("stored", "reintegrated")


@lru_cache
def truth() -> list[Tensor]:
    return PROBLEM.true_gradient(500)


def errors(solver: str, method: str, sizes: tuple[int, ...], solver_options: Any = (), **options: Any) -> np.ndarray:
    """(len(sizes), 3) relative errors of the gradients to x_T, c and theta."""
    tables = [table(solver, n, **dict(solver_options)) for n in sizes]
    return np.array([relative(Task(PROBLEM, t).run(method, **options), truth()) for t in tables])


def slopes(found: np.ndarray) -> np.ndarray:
    """Fitted orders over N = 40, 80, 160."""
    return -np.polyfit(np.log2([40, 80, 160]), np.log2(found), 1)[0]


@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_order_one_is_euler(states, prediction):
    task = Task(PROBLEM, table("ddim", 12), prediction=prediction)
    a = task.run("adjoint_deis", order=1, states=states)
    b = task.run("adjoint_dpm", rk="euler", states=states)
    assert max(relative(a, b)) < 1e-12


def test_order_one_by_hand():
    """p_i = p_{i+1} - (rho_i - rho_{i+1}) alpha_{i+1} J_{i+1}^T p_{i+1}, on the states of the sample."""
    t = table("ddim", 12)
    task, x, states = Task(PROBLEM, t), PROBLEM.x_T, []
    alpha, rho = t.nodes.alpha, t.nodes.sigma / t.nodes.alpha
    for i in range(12):
        eps = PROBLEM.network(x, t.nodes.t[i])
        x = float(alpha[i + 1]) * (x / float(alpha[i]) + float(rho[i + 1] - rho[i]) * eps)
        states.append(x.detach().requires_grad_())
    (g,) = torch.autograd.grad(PROBLEM.loss(states[-1]), states[-1])
    p, to_c = float(alpha[-1]) * g, torch.zeros(4, dtype=torch.float64)
    for i in reversed(range(12)):
        eps = PROBLEM.network(states[i], t.nodes.t[i + 1])
        to_x, c = torch.autograd.grad(eps, [states[i], PROBLEM.c], p)
        step = float(rho[i] - rho[i + 1])
        p, to_c = p - step * float(alpha[i + 1]) * to_x, to_c - step * c
    found = task.run("adjoint_deis", order=1)
    assert max(relative(found[:2], [p / float(alpha[0]), to_c])) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("states", STATES)
def test_order_one(states):
    found = slopes(errors("ddim", "adjoint_deis", (40, 80, 160), order=1, states=states))
    assert (found > 0.8).all() and (found < 1.2).all(), found


@pytest.mark.slow
@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize(
    "method, options",
    [
        ("adjoint_deis", {"order": 2, "form": "phi"}),
        ("adjoint_deis", {"order": 2, "form": "half"}),
        ("adjoint_deis", {"order": "2s"}),
        ("adjoint_dpm", {"rk": "midpoint"}),
    ],
)
def test_order_two(method, options, states):
    found = slopes(errors("dpmpp_2m", method, (40, 80, 160), FULL.items(), states=states, **options))
    assert (found > 1.8).all() and (found < 2.4).all(), found


@pytest.mark.slow
def test_order_four():
    found = slopes(errors("etd_rk4", "adjoint_dpm", (40, 80, 160), rk="rk4"))
    assert (found > 3.3).all() and (found < 4.7).all(), found


def test_exact_adjoint_is_nearer():
    """At equal N even to the continuous gradient, for the methods with one call a step."""
    for n in (20, 40, 80):
        for solver, options, order in (("ddim", (), 1), ("dpmpp_2m", FULL.items(), 2)):
            exact = errors(solver, "direct", (n,), options)
            approximate = errors(solver, "adjoint_deis", (n,), options, order=order)
            assert exact[0, 0] < 0.8 * approximate[0, 0], (solver, n, exact, approximate)


def walked(n: int, method: str, **options: Any) -> list[Tensor]:
    """Gradients of the reverse SDE with half the noise (eta = 1/2) along one Brownian path."""
    task = Task(PROBLEM, table("dpmpp_2m_sde", n, tau=0.5, **FULL))
    task.source = Walk(3, 1280)
    return task.run(method, **options)


@pytest.mark.slow
def test_sde_converges_with_its_own_noise_alone():
    true, sizes = walked(1280, "direct"), (40, 80, 160, 320)
    cases: dict[str, dict[str, Any]] = {
        "stored": {},
        "same": {"states": "reintegrated"},
        "other": {"states": "reintegrated", "noise": Walk(4, 1280)},
    }
    found = {
        name: np.array([relative(walked(n, "adjoint_deis", order=1, **options), true) for n in sizes])
        for name, options in cases.items()
    }
    order = {name: -np.polyfit(np.log2(sizes), np.log2(e), 1)[0] for name, e in found.items()}
    assert (order["stored"] > 0.7).all() and (found["stored"][-1] < 0.15).all(), found
    assert (order["same"] > 0.5).all() and (found["same"][-1] < 0.2).all(), found
    assert (order["other"] < 0.2).all() and (found["other"][-1] > 2 * found["same"][-1]).all(), found
    assert found["other"][-1][0] > 0.5, found


def test_sde_factor_is_read_off_the_table():
    """eta^2 of the reverse SDE, whichever coefficients the family has."""
    cases: list[tuple[str, dict[str, Any], float]] = [
        ("ddim", {}, 0.0), ("ddpm", {}, 1.0), ("euler_ancestral", {}, 1.0), ("dpmpp_sde", {}, 1.0), ("seeds", {}, 1.0),
        ("sde_dpm", {}, 1.0), ("sde_dpm", {"tau": 0.5}, 0.25), ("dpmpp_2m_sde", {"tau": 0.5}, 0.25),
        ("dpmpp_3m_sde", {}, 1.0),
    ]  # fmt: skip
    for solver, options, wanted in cases:
        t = build(solver, SCHEDULE, nfe=12, **options)
        starts = np.cumsum([0, *t.groups])
        shares, _ = diffusion(t, [Node(*(float(v[i]) for v in t.nodes)) for i in starts])
        assert np.allclose(shares, wanted), (solver, options, shares)


def test_churn_lengthens_the_steps():
    """A step lands below its end, and noise takes it up again: the drift is that of the way down."""
    tasks = [Task(PROBLEM, table("edm_stochastic", n, s_churn=4.0)) for n in (40, 160)]
    assert all(task.tableau.jumps for task in tasks)
    coarse, fine = (relative(task.run("adjoint_deis", order="2s"), task.run("direct"))[0] for task in tasks)
    assert fine < 0.08 and fine < coarse / 3, (coarse, fine)


class Known:
    """The mixture's exact network as a problem of its own."""

    def __init__(self, schedule: NoiseSchedule, prediction: str):
        self.exact, self.leaves = Mixture().denoiser(schedule, prediction), []
        scale = float(schedule.sigma(schedule.t_max))
        x = scale * torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        self.x_T = x.requires_grad_()

    def denoiser(self, prediction: str) -> Any:
        return self.exact

    def gradient(self, x0: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((x0.sin() + x0.square()).sum(), [self.x_T]))


@pytest.mark.parametrize("states", STATES)
def test_into_sigma_zero_and_out_of_alpha_zero(states):
    """The steps without a rho are the exact ones of first order, so that few are exact and many converge."""
    flow, edm = Known(NoiseSchedule.flow(), "flow_prediction"), Known(NoiseSchedule.edm(), "epsilon")
    for n in (1, 2):
        task = Task(flow, build("ddim", flow.exact.schedule, nfe=n))
        found = task.run("adjoint_deis", order=2, states=states)
        assert max(relative(found, task.run("direct"))) < 1e-12
    for problem, solver, method, options in (
        (flow, "heun", "adjoint_dpm", {"rk": "rk4"}),
        (edm, "dpmpp_2m", "adjoint_deis", {"order": 2}),
    ):
        tasks = [Task(problem, build(solver, problem.exact.schedule, nfe=n)) for n in (40, 160)]
        assert tasks[0].tableau.nodes.sigma[-1] == 0
        coarse, fine = (relative(t.run(method, states=states, **options), t.run("direct"))[0] for t in tasks)
        assert fine < 0.05 and fine < coarse / 4, (solver, coarse, fine)


def test_post_and_sample():
    """The sample is that of the table; `post` acts on x0 within the slope."""
    t = table("dpmpp_2m", 40)
    plain, halved = Task(PROBLEM, t), Task(PROBLEM, t, post=lambda x0: 0.9 * x0)
    for task in (plain, halved):
        x = task.sample("adjoint_deis", {})
        assert torch.equal(x, task.sample("direct", {}))
    few = relative(halved.run("adjoint_dpm", rk="rk4"), halved.run("direct"))
    assert max(few) < 0.2 < max(relative(plain.run("direct"), halved.run("direct")))


def test_network_calls():
    """One a step and stage, and states kept as promised."""
    t = table("ddim", 10)
    for method, options, calls in (
        ("adjoint_deis", {"order": 2}, 10), ("adjoint_deis", {"order": "2s"}, 20), ("adjoint_dpm", {}, 40),
    ):  # fmt: skip
        task = Task(PROBLEM, t)
        task.run(method, **options)
        assert task.denoiser.nfe == 10 + calls
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rules = [check_options(method, {**options, "states": states}, t) for states in STATES]
        assert [len(make_plan(rule, t).keeps) for rule in rules] == [10, 1]


def test_gradient_has_no_graph_and_leaves_must_stay():
    problem = Problem(seed=2)
    task = Task(problem, table("ddim", 20))
    loss = problem.loss(task.sample("adjoint_deis", {}))
    with pytest.raises(ValueError, match='method="direct"'):
        torch.autograd.grad(loss, problem.x_T, create_graph=True)
    loss = problem.loss(task.sample("adjoint_deis", {}))
    with torch.no_grad():
        problem.c.add_(1.0)
    with pytest.raises(ValueError, match="changed in place"):
        loss.backward()


def test_few_evaluations_warn():
    with pytest.warns(UserWarning, match="10 evaluations.*checkpoint"):
        check_options("adjoint_deis", {}, table("ddim", 10))
    flow = build("ddim", NoiseSchedule.flow(), nfe=100)
    with pytest.warns(UserWarning, match="noise end.*checkpoint"):
        check_options("adjoint_deis", {}, flow)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_options("adjoint_deis", {}, table("ddim", 40))
        check_options("adjoint_dpm", {}, flow)


def refused(method: str, options: dict[str, Any], t: Tableau, match: str, **given: Any) -> None:
    with pytest.raises(ValueError, match=match):
        check_options(method, options, t, **given)


def test_bad_input():
    ode, sde = table("ddim", 20), table("sde_dpm", 20)
    refused("adjoint_dpm", {"order": 2}, ode, "unknown option of adjoint_dpm 'order'")
    refused("adjoint_dpm", {"rk": "rk5"}, ode, "'rk4', 'euler', 'midpoint'; got 'rk5'")
    refused("adjoint_deis", {"order": 3}, ode, "`order` must be one of 2, 1, '2s'; got 3")
    refused("adjoint_deis", {"order": True}, ode, "got True")
    refused("adjoint_deis", {"order": 1, "form": "phi"}, ode, "belongs to order=2")
    refused("adjoint_deis", {"states": "kept"}, ode, "'stored', 'reintegrated'; got 'kept'")
    refused("adjoint_deis", {"noise": Walk(1, 20)}, sde, 'states="reintegrated"')
    refused("adjoint_dpm", {}, sde, "draws noise.*adjoint_deis")
    refused("adjoint_deis", {}, table("renoise", 20), "replaces all noise.*checkpoint")
    restart = build("restart", NoiseSchedule.edm(), nfe=40)
    refused("adjoint_deis", {}, restart, "back to noise.*checkpoint")
    for given in ({"z": torch.zeros(1, requires_grad=True)}, {"free": True}, {"last": 3}, {"slots": 2}):
        refused("adjoint_deis", {}, ode, "checkpoint", **given)
