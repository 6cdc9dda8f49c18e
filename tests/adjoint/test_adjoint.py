"""Gradients through every table of the registry: equal to autograd's, whatever the way the states are had again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adjoints import BATCH, EXACT, SEEDS, SIZE, WIDE, Guided, apart, drawn, gradients, loss
from torch import Tensor

from fewstep import adjoint, sample
from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, build, guidance

TABLES = [name for name, entry in SOLVERS.items() if entry.kind == "tableau"]


def noise_of(problem: Guided, name: str, nfe: int) -> dict[str, Tensor]:
    if not SOLVERS[name].stochastic:
        return {}
    try:
        z = adjoint.noise_path(problem.denoiser, problem.x_T, name, nfe, noise_seeds=SEEDS, t_end=1e-3)
    except ValueError:  # one step of a solver without noise in its last
        return {}
    return {"z": z.requires_grad_()}


@pytest.mark.parametrize("nfe", [1, 2, 7, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.one_in(3)
def test_every_table_equals_autograd(name: str, nfe: int) -> None:
    """With respect to x_T, parameters, condition, weight of guidance and every noise."""
    problem = Guided()
    z = noise_of(problem, name, nfe)
    targets = [problem.x_T, *problem.targets, *z.values()]
    expected = gradients(drawn(problem, name, nfe, "direct", **z), targets)
    assert all(bool(g.any()) for g in expected[: 1 if nfe == 1 else None])
    for method in EXACT if nfe == 7 else ("checkpoint", "revolve"):
        assert apart(gradients(drawn(problem, name, nfe, method, **z), targets), expected) <= 1e-12


@pytest.mark.parametrize("name", ["dpmpp_3m", "unipc", "heun", "sa_solver"])
@pytest.mark.parametrize("kind", ["edm", "flow", "ve"])
def test_other_schedules(kind: str, name: str) -> None:
    schedule = {"edm": NoiseSchedule.edm(), "flow": NoiseSchedule.flow(), "ve": NoiseSchedule.ve(0.01, 10.0)}[kind]
    problem = Guided(schedule, prediction="flow_prediction" if kind == "flow" else "sample")
    x, targets, seeds = problem.x_T.requires_grad_(), problem.targets, SEEDS if name == "sa_solver" else None
    runs = [
        gradients(adjoint.sample(problem.denoiser, x, name, 6, method=m, noise_seeds=seeds), [x, *targets])
        for m in ("direct", *EXACT)
    ]
    assert max(apart(run, runs[0]) for run in runs[1:]) <= 1e-12


def test_a_detached_history_is_wrong() -> None:
    """The gradients of earlier outputs are no small correction: without them the gradient is off by more than a tenth."""
    problem = Guided()
    x = problem.x_T.requires_grad_()
    right = gradients(drawn(problem, "dpmpp_2m", 10, "checkpoint"), [x])
    from fewstep.adjoint.exact.rows import Rows

    pull, seen = Rows.pull, []

    def forgetful(self: Rows, k: int, before: Any, after: Any, *rest: Any) -> Any:
        seen.append(k)
        return pull(self, k, before, after._replace(history=tuple(None for _ in after.history)), *rest)

    Rows.pull = forgetful  # type: ignore[method-assign, assignment]
    try:
        wrong = gradients(drawn(problem, "dpmpp_2m", 10, "checkpoint"), [x])
    finally:
        Rows.pull = pull  # type: ignore[method-assign]
    assert len(seen) == 10 and apart(wrong, right) > 0.1


def test_clipping_and_elementwise_weights() -> None:
    """What acts on predicted x0 is differentiated as it is; weights may differ by element; a mean is gone back to."""
    problem = Guided()
    x, targets = problem.x_T.requires_grad_(), problem.targets
    for more in ({"post": lambda v: v.clamp(-1, 1)}, {"post": torch.tanh}):
        runs = [
            gradients(drawn(problem, "dpmpp_2m", 6, m, **more), [x, *targets])
            for m in ("direct", "checkpoint", "revolve")
        ]
        assert max(apart(run, runs[0]) for run in runs[1:]) <= 1e-12


def test_mean_reverting() -> None:
    problem = Guided(NoiseSchedule.mean_reverting(lam_inf=0.5))
    mu = torch.linspace(-1, 1, BATCH * SIZE, dtype=WIDE).view(BATCH, SIZE)
    x = problem.x_T.requires_grad_()
    runs = [
        gradients(adjoint.sample(problem.denoiser, x, "dpmpp_2m", 6, method=m, mu=mu), [x, *problem.targets])
        for m in ("direct", "checkpoint", "revolve")
    ]
    assert max(apart(run, runs[0]) for run in runs[1:]) <= 1e-12


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc", "dpmpp_2m_sde", "heun"])
def test_numbers_of_a_table(name: str) -> None:
    """Gradients to weights, conversions and network times, for every way back; the sample stays what it was."""
    problem = Guided()
    seeds = SEEDS if SOLVERS[name].stochastic else None
    runs = []
    for method in ("direct", *EXACT):
        free = adjoint.free(problem.denoiser, name, 6, t_end=1e-3)
        x0 = adjoint.sample(problem.denoiser, problem.x_T, free, method=method, noise_seeds=seeds)
        runs.append(gradients(x0, [free.W, free.p, free.q, free.tau]))
    assert max(apart(run, runs[0]) for run in runs[1:]) <= 1e-12
    plain = sample(problem.denoiser, problem.x_T, name, 6, t_end=1e-3, noise_seeds=seeds)
    assert torch.allclose(x0, plain, rtol=1e-9, atol=1e-9)


def test_gradient_to_times_equals_differences() -> None:
    problem = Guided()

    def value(times: Tensor) -> Tensor:
        return loss(
            adjoint.sample(
                problem.denoiser, problem.x_T, adjoint.free(problem.denoiser, "dpmpp_3m", grid=times, limiter=False)
            )
        )

    times = torch.tensor(build("dpmpp_3m", problem.schedule, 6, t_end=1e-3).times, requires_grad=True)
    (found,) = torch.autograd.grad(value(times), times)
    assert found[0] == found[-1] == 0
    for i in (1, 4):
        step = torch.zeros_like(times)
        step[i] = 1e-7
        with torch.no_grad():
            expected = (value(times + step) - value(times - step)) / 2e-7
        assert float(found[i]) == pytest.approx(float(expected), rel=1e-6)


def test_last_rows_only() -> None:
    """Truncated gradients are autograd's with the state before the last rows cut off, and nothing reaches x_T."""
    problem = Guided()
    x = problem.x_T.requires_grad_()
    for last in (1, 3):
        runs = [gradients(drawn(problem, "dpmpp_3m", 6, m, last=last), problem.targets) for m in ("direct", *EXACT)]
        assert max(apart(run, runs[0]) for run in runs[1:]) <= 1e-12
        assert torch.autograd.grad(
            loss(drawn(problem, "dpmpp_3m", 6, "checkpoint", last=last)), x, allow_unused=True
        ) == (None,)
    torch.manual_seed(0)
    lengths = set()
    for _ in range(12):
        before = problem.denoiser.nfe
        loss(drawn(problem, "dpmpp_3m", 3, "checkpoint", last="random")).backward()
        lengths.add(problem.denoiser.nfe - before - 3)
    assert lengths == {1, 2, 3}


def test_gradcheck() -> None:
    problem = Guided()
    inputs = (problem.x_T[:, :2].clone().requires_grad_(),)

    def run(x: Tensor) -> Tensor:
        return adjoint.sample(problem.denoiser, torch.cat([x, problem.x_T[:, 2:]], 1), "unipc", 4, t_end=1e-3)

    assert torch.autograd.gradcheck(run, inputs)


def test_second_derivatives_go_directly() -> None:
    problem = Guided()
    x = problem.x_T.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(drawn(problem, "dpmpp_2m", 3, "direct")), problem.x_T, create_graph=True)
    assert bool(torch.autograd.grad(slope.square().sum(), problem.x_T)[0].any())
    with pytest.raises(ValueError, match='second derivatives sample with method="direct"'):
        torch.autograd.grad(loss(adjoint.sample(problem.denoiser, x, "dpmpp_2m", 3, t_end=1e-3)), x, create_graph=True)


@pytest.mark.parametrize("name", ["dpm_adaptive", "rk45", "predictor_corrector"])
def test_drivers_are_checkpointed_and_said_so(name: str) -> None:
    problem = Guided()
    x = problem.x_T.requires_grad_()
    nfe = None if SOLVERS[name].adaptive else 12
    direct = gradients(drawn(problem, name, nfe, "direct", noise_seeds=SEEDS), [x, *problem.targets])
    with pytest.warns(UserWarning, match="chooses its steps as it goes"):
        found = gradients(drawn(problem, name, nfe, "checkpoint", noise_seeds=SEEDS), [x, *problem.targets])
    assert apart(found, direct) <= 1e-12
    with pytest.raises(ValueError, match='use method="checkpoint"'):
        drawn(problem, name, nfe, "revolve")
    with pytest.raises(ValueError, match="no gradient comes through 'picard'"):
        drawn(problem, "picard", 5, "direct")


def test_a_condition_for_every_step() -> None:
    """Conditions that change from call to call, as one tensor with a step axis or as a list; one that is never used is told."""
    problem = Guided()
    times = build("dpmpp_2m", problem.schedule, 5, t_end=1e-3).model_times
    stacked = torch.randn(5, BATCH, 2, dtype=WIDE, requires_grad=True)
    listed = [part.detach().requires_grad_() for part in stacked]
    step = lambda tau: int(abs(torch.tensor(times) - float(tau)).argmin())  # noqa: E731
    for each, targets in ((stacked, [stacked]), (listed, listed)):
        fn = lambda x, tau, each=each: problem.branch(x, each[step(tau)], tau)  # noqa: E731
        denoiser = Denoiser(fn, problem.schedule)
        runs = []
        for method in ("direct", *EXACT):
            more = {"cond": listed} if each is listed else {}
            x0 = adjoint.sample(denoiser, problem.x_T, "dpmpp_2m", 5, method=method, t_end=1e-3, **more)
            runs.append(gradients(x0, targets))
        assert max(apart(run, runs[0]) for run in runs[1:]) <= 1e-12
        assert all(bool(g.any()) for g in runs[0])
    stranger = torch.ones(2, 5, dtype=WIDE, requires_grad=True)
    x0 = adjoint.sample(denoiser, problem.x_T, "dpmpp_2m", 5, t_end=1e-3, cond=[*listed, stranger])
    with pytest.raises(ValueError, match=r"1 of the \d+ tensors in `cond` have no part"):
        loss(x0).backward()


def test_chosen_parameters_and_conditions_with_a_graph_of_their_own() -> None:
    """params=() leaves the network alone; a condition made by an encoder hands its gradient on, named or not."""
    problem = Guided()
    encoder = torch.nn.Linear(2, 2, dtype=WIDE)
    raw = problem.cond.detach()
    for named in (True, False):
        runs = []
        for method in ("direct", *EXACT):
            problem.cond = encoder(raw).tanh()
            more = {"cond": problem.cond, "params": ()} if named and method != "direct" else {}
            runs.append(gradients(drawn(problem, "dpmpp_2m", 5, method, **more), list(encoder.parameters())))
        assert max(apart(run, runs[0]) for run in runs[1:]) <= 1e-12
    problem.first.grad = None
    loss(drawn(problem, "dpmpp_2m", 5, "checkpoint", params=())).backward()
    assert problem.first.grad is None and problem.x_T.grad is not None


def test_what_sample_plays_has_a_gradient_too(tmp_path: Any) -> None:
    """A table, its file and a solver's own function, for the gradient and for its cost."""
    problem = Guided()
    table = build("dpmpp_2m", problem.schedule, 6, t_end=1e-3)
    table.save(tmp_path / "table.json")
    expected = gradients(adjoint.sample(problem.denoiser, problem.x_T, table), problem.targets)
    found = gradients(adjoint.sample(problem.denoiser, problem.x_T, str(tmp_path / "table.json")), problem.targets)
    assert apart(found, expected) == 0
    x0 = adjoint.sample(problem.denoiser, problem.x_T, SOLVERS["dpmpp_2m"].fn, 6, t_end=1e-3)
    assert apart(gradients(x0, problem.targets), expected) == 0
    shape = tuple(problem.x_T.shape)
    for solver, nfe in ((table, None), (str(tmp_path / "table.json"), None), (SOLVERS["dpmpp_2m"].fn, 6)):
        assert adjoint.cost(problem.denoiser, shape, solver, nfe).evaluations == 12


def _learned(seed: int) -> tuple[Denoiser, Tensor]:
    """A network and its weights."""
    weights = 0.3 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=WIDE)
    weights.requires_grad_()
    return Denoiser(lambda x, tau: torch.tanh(x @ weights) + 0.1 * x, NoiseSchedule.vp_linear(), "sample"), weights


@pytest.mark.parametrize("how", ["experts", "interval"])
def test_what_only_later_calls_use_has_a_gradient(how: str) -> None:
    """Two experts, and guidance in an interval that the first call is not in: every weight, named or found, by every method."""
    (one, A), (other, B) = _learned(0), _learned(1)
    both = guidance.intervals([one, other], [1.0]) if how == "experts" else None
    both = both or guidance.cfg(one, other, 3.0, interval=(0.2, 2.0))
    x = torch.randn(BATCH, SIZE, generator=torch.Generator().manual_seed(2), dtype=WIDE)
    expected = gradients(adjoint.sample(both, x, "bdia", 8, method="direct"), [A, B])
    assert all(bool(g.any()) for g in expected)
    for method in (*EXACT, "reversible"):
        for params in (None, [A, B], [B]):
            wanted = [B] if params == [B] else [A, B]
            found = gradients(adjoint.sample(both, x, "bdia", 8, method=method, params=params), wanted)
            assert apart(found, expected[-len(wanted) :]) <= 1e-12
    with pytest.warns(UserWarning, match="not accurate"):
        rough = gradients(adjoint.sample(both, x, "ddim", 8, method="adjoint_deis"), [A, B])
    assert all(bool(g.any()) for g in rough)
    with pytest.raises(ValueError, match="1 of the 2 tensors in `params` have no part"):
        adjoint.sample(both, x, "bdia", 8, params=[B, torch.ones(2, requires_grad=True)])


def test_dropout_of_a_later_expert_is_played_again() -> None:
    (one, _), weights = _learned(0), torch.ones(SIZE, dtype=WIDE, requires_grad=True)
    wet = Denoiser(
        lambda x, tau: weights * torch.nn.functional.dropout(x, 0.5, True), NoiseSchedule.vp_linear(), "sample"
    )
    both, x = guidance.intervals([one, wet], [1.0]), torch.ones(BATCH, SIZE, dtype=WIDE)
    found = []
    for method in ("direct", "checkpoint", "revolve"):
        torch.manual_seed(3)
        found.append(gradients(adjoint.sample(both, x, "dpmpp_2m", 8, method=method), [weights]))
    assert apart(found[1], found[0]) <= 1e-12 and apart(found[2], found[0]) <= 1e-12


def test_transforms_of_torch_func_are_refused_in_words() -> None:
    problem = Guided()

    def f(x: Tensor, method: str = "checkpoint") -> Tensor:
        return adjoint.sample(problem.denoiser, x, "ddim", 3, method=method, check="none").square().sum()

    x = problem.x_T.detach()
    for transformed in (torch.func.grad(f), torch.func.vmap(f), lambda x: torch.func.jvp(f, (x,), (x,))):
        with pytest.raises(ValueError, match=r"does not go under .* torch.autograd.grad"):
            transformed(x[None] if transformed.__name__ != "<lambda>" else x)
    with pytest.raises(ValueError, match="does not go under torch.func.vmap"):
        torch.func.vmap(lambda x: f(x, "direct"))(x[None])
    x = x.requires_grad_()
    (expected,) = torch.autograd.grad(f(x), x)
    assert apart([torch.func.grad(lambda x: f(x, "direct"))(x.detach())], [expected]) <= 1e-12
