"""Posterior guidance on a linear problem whose posterior is known, and against the published loops written out."""

import math

import pytest
import torch
from restoring import Linear

from fewstep import Denoiser, NoiseSchedule, adjoint, sample
from fewstep.samplers import guidance
from fewstep.samplers.run.guided import Guided

METHODS = {
    "exact_covariance": {"iterations": 3},
    "dps": {},
    "pigdm": {},
    "lgd": {},
    "mpgd": {},
    "dds": {},
}
WITH_GRADIENT = ("exact_covariance", "dps", "pigdm", "lgd")


def guided(problem: Linear, name: str, **options):
    given = {**METHODS[name], **options}
    return getattr(guidance, name)(problem.denoiser(), problem.y, problem.operator, problem.noise, **given)


PLACES = [
    (NoiseSchedule.edm(0.005, 30.0), "sample"),
    (NoiseSchedule.vp_linear(), "epsilon"),
    (NoiseSchedule.vp_cosine(), "v_prediction"),
    (NoiseSchedule.flow(), "flow_prediction"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "prediction"), PLACES, ids=lambda v: v if isinstance(v, str) else "")
def test_exact_covariance_samples_the_posterior(schedule, prediction):
    problem = Linear(schedule, prediction)
    mean, covariance = problem.errors(guided(problem, "exact_covariance"), "dpmpp_2m_sde", 100, n=2000)
    assert mean < 0.03 and covariance < 0.1


def test_nothing_else_does():
    problem = Linear()
    exact, *others = (problem.errors(guided(problem, name), "dpmpp_2m_sde", 40, n=2000) for name in METHODS)
    assert exact[0] < 0.03 and exact[1] < 0.1
    assert all(mean > 2 * exact[0] or covariance > 1.5 * exact[1] for mean, covariance in others)


@pytest.mark.parametrize("line_search", [True, False])
def test_pigdm_is_exact_on_white_data(line_search):
    problem = Linear(white=True)
    mean, covariance = problem.errors(guided(problem, "pigdm", line_search=line_search), "dpmpp_2m_sde", 60)
    assert mean < 0.03 and covariance < 0.1


def test_the_length_of_a_shift_is_one_where_the_spread_is_right():
    problem = Linear(white=True)
    x = problem.start(4)
    with torch.no_grad():
        a, b, c = (guided(problem, *m).x0(x, 1.0) for m in (("pigdm",), ("exact_covariance",), ("dds",)))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-9)  # with r^2 / noise^2, and J a number


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_strength_does_not_depend_on_the_number_of_steps(name):
    problem = Linear()
    few, many = (problem.errors(guided(problem, name), "dpmpp_2m", nfe, n=1000)[0] for nfe in (20, 200))
    assert abs(few - many) < 0.2 * max(many, 0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["exact_covariance", "dps", "mpgd"])
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpmpp_2m", 2)])
def test_guided_denoisers_keep_the_order_of_solvers(name, solver, order):
    problem = Linear(NoiseSchedule.vp_linear(), "epsilon", noise=0.5)
    denoiser, x = guided(problem, name), problem.start(4)
    run = {"grid": "logsnr", "t_start": 0.7, "t_end": 0.05}
    with torch.no_grad():
        true = sample(denoiser, x, "dpmpp_3m", 200, **run)
        first, second = ((sample(denoiser, x, solver, n, **run) - true).norm() for n in (25, 50))
    assert abs(math.log2(first / second) - order) < 0.25


@pytest.mark.parametrize("name", METHODS)
def test_a_sample_is_the_same_alone(name):
    problem = Linear(NoiseSchedule.vp_linear(), "epsilon")
    denoiser, x = guided(problem, name), problem.start(3)
    with torch.no_grad():
        together = sample(denoiser, x, "dpmpp_2m_sde", 6, noise_seeds=[1, 2, 3])
        alone = sample(denoiser, x[1:2], "dpmpp_2m_sde", 6, noise_seeds=[2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_costs(name):
    problem = Linear()
    denoiser = guided(problem, name)
    with torch.no_grad():
        sample(denoiser, problem.start(2), "dpmpp_2m", 5)
    assert denoiser.nfe == denoiser.inner.nfe == 5
    assert problem.vjps == 5 * {"exact_covariance": 4}.get(name, name in WITH_GRADIENT)


def published(problem, name, nfe, eta, **options):
    """The sample of a published form by `ddim`, and the table it took."""
    denoiser = guided(problem, name, published=True, **options)
    kept = []
    with torch.no_grad():
        x, info = sample(
            denoiser, problem.start(3), "ddim", nfe, eta=eta, noise_seeds=[1, 2, 3], return_info=True,
            callback=lambda step: kept.append(step.x),
        )  # fmt: skip
    return x, info.tableau, kept


def longhand(problem, nodes, step):
    """A loop over levels: step(x, D, eps, alpha, sigma, next alpha, next sigma) -> x."""
    denoiser, x = problem.denoiser(), problem.start(3)
    for k in range(len(nodes.t) - 1):
        x = x.detach().requires_grad_()
        x0 = denoiser.x0(x, float(nodes.t[k]))
        a, s = float(nodes.alpha[k]), float(nodes.sigma[k])
        x = step(x, x0, (x - a * x0) / s, float(nodes.alpha[k + 1]), float(nodes.sigma[k + 1])).detach()
    return x


def test_dps_as_published():
    problem = Linear(NoiseSchedule.vp_linear(), "epsilon")
    found, table, _ = published(problem, "dps", 8, 0.0, scale=0.3)

    def step(x, x0, eps, alpha, sigma):
        error = (problem.y - problem.operator(x0)).norm(dim=1).sum()
        (slope,) = torch.autograd.grad(error, x)
        return alpha * x0 + sigma * eps - 0.3 * slope

    torch.testing.assert_close(found, longhand(problem, table.nodes, step), rtol=1e-10, atol=1e-10)


def test_mpgd_as_published():
    problem = Linear(NoiseSchedule.vp_linear(), "epsilon")
    found, table, _ = published(problem, "mpgd", 8, 0.0, scale=0.1)

    def step(x, x0, eps, alpha, sigma):
        return alpha * (x0 + 0.1 * (problem.y - problem.operator(x0)) @ problem.A) + sigma * eps

    torch.testing.assert_close(found, longhand(problem, table.nodes, step), rtol=1e-10, atol=1e-10)


def test_dds_as_published():
    problem = Linear(NoiseSchedule.vp_linear(), "epsilon")
    found, table, _ = published(problem, "dds", 8, 0.0, gamma=2.0)
    system = torch.eye(8).double() + 2.0 * problem.A.T @ problem.A

    def step(x, x0, eps, alpha, sigma):
        x0 = torch.linalg.solve(system, (x0 + 2.0 * problem.y @ problem.A).T).T
        return alpha * x0 + sigma * eps

    torch.testing.assert_close(found, longhand(problem, table.nodes, step), rtol=1e-8, atol=1e-8)


def test_pigdm_as_published():
    problem = Linear(NoiseSchedule.vp_linear(), "epsilon")
    found, table, _ = published(problem, "pigdm", 8, 0.0)
    levels = iter(zip(table.nodes.alpha, table.nodes.sigma, strict=True))

    def step(x, x0, eps, alpha, sigma):
        a, s = next(levels)
        spread = s**2 / (s**2 + a**2)
        system = spread * problem.A @ problem.A.T + problem.noise**2 * torch.eye(3).double()
        u = torch.linalg.solve(system, (problem.y - problem.operator(x0)).T).T.detach()
        (g,) = torch.autograd.grad((problem.operator(x0) * u).sum(), x)
        return alpha * x0 + sigma * eps + a * spread * g

    torch.testing.assert_close(found, longhand(problem, table.nodes, step), rtol=1e-8, atol=1e-8)


def test_published_forms_act_once_a_row_of_multistep_solvers():
    problem = Linear(NoiseSchedule.vp_linear(), "epsilon")
    with torch.no_grad():
        for solver in ("dpmpp_2m", "deis", "unipc", "dpmpp_2m_sde"):
            assert sample(guided(problem, "dps", published=True), problem.start(2), solver, 20).isfinite().all()


@pytest.mark.parametrize("name", ["dps", "pigdm", "lgd", "exact_covariance", "mpgd", "dds"])
def test_gradients_pass_through_guidance(name):
    problem = Linear(NoiseSchedule.vp_linear(), "epsilon", noise=0.5)
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    inner = problem.denoiser()
    bent = Denoiser(lambda x, tau: inner.fn(x, tau) + 0.1 * torch.tanh(weight * x), inner.schedule, "epsilon")
    denoiser = getattr(guidance, name)(bent, problem.y, problem.operator, problem.noise, **METHODS[name])
    found = []
    for method in ("direct", "checkpoint"):
        x = problem.start(2).requires_grad_()
        out = adjoint.sample(denoiser, x, "dpmpp_2m", 4, method=method)
        found.append(torch.autograd.grad(out.square().sum(), (x, weight)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    weight.requires_grad_(False)
    x, h = problem.start(2), 1e-5
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    with torch.no_grad():
        ahead, behind = (sample(denoiser, x + e * direction, "dpmpp_2m", 4).square().sum() for e in (h, -h))
    torch.testing.assert_close((found[0][0] * direction).sum(), (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-5)


def test_a_shift_of_nothing_changes_nothing():
    problem = Linear(NoiseSchedule.flow(), "flow_prediction")
    plain, same = problem.denoiser(), Guided(problem.denoiser(), lambda call: 0 * call.x0, gradient=True)
    with torch.no_grad():
        assert torch.equal(*(sample(d, problem.start(2), "unipc", 6) for d in (plain, same)))


def test_an_energy_is_a_tilt():
    """exp(-|A x - y|^2 / 2 noise^2) as an energy is the likelihood: the direction is that of dps."""
    problem = Linear(noise=0.5)
    x = problem.start(3)
    tilt = guidance.energy(problem.denoiser(), lambda x0: (problem.y - problem.operator(x0)).square().sum(1) / 0.5)
    with torch.no_grad():
        a, b = (d.x0(x, 2.0) for d in (tilt, guided(problem, "dps")))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_half_precision_keeps_its_dtype_and_direction():
    problem = Linear(NoiseSchedule.vp_linear(), "epsilon")
    x = problem.start(2)
    with torch.no_grad():
        fine = sample(guided(problem, "dps"), x, "ddim", 6)
        coarse = sample(guided(problem, "dps"), x.bfloat16(), "ddim", 6)
    assert coarse.dtype == torch.bfloat16 and (coarse.double() - fine).norm() < 0.1 * fine.norm()


def test_times_of_ones_own_for_every_sample():
    inner = Denoiser(
        lambda x, tau: x / (1 + tau.view(-1, 1) ** 2), NoiseSchedule.ve(0.01, 10.0), "sample", vector_time=True
    )
    y, A = torch.ones(1, 2, dtype=torch.float64), guidance.matrix(torch.eye(3, dtype=torch.float64)[:2])
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for name in METHODS:
        denoiser = getattr(guidance, name)(inner, y, A, 0.1)
        with torch.no_grad():
            both = denoiser.x0(x, torch.tensor([0.5, 3.0]))
            one = denoiser.x0(x[1:], 3.0)
        torch.testing.assert_close(both[1:], one, rtol=1e-9, atol=1e-9)


def test_pure_noise_is_not_guided_by_a_gradient():
    problem = Linear(NoiseSchedule.flow(), "flow_prediction")
    x = problem.start(2)
    with torch.no_grad():
        assert torch.equal(guided(problem, "dps").x0(x, 1.0), problem.denoiser().x0(x, 1.0))


def test_bad_input():
    problem = Linear()
    denoiser, y, A = problem.denoiser(), problem.y, problem.operator
    wrong = guidance.Operator(lambda x: x @ problem.A.T, lambda y: -(y @ problem.A))
    for match, make in {
        "at least 0": lambda: guidance.dps(denoiser, y, A, -0.1),
        "one shape": lambda: guidance.pigdm(denoiser, y[:, :2], guidance.Operator(A.forward, shape=(8,)), 0.1),
        "not its adjoint: .* differ by": lambda: guidance.dds(denoiser, y, wrong),
        "not finite": lambda: guidance.mpgd(denoiser, y / 0, A),
        "must be a Denoiser": lambda: guidance.dps(lambda x, t: x, y, A),
        "an Operator, a pair": lambda: guidance.dps(denoiser, y, problem.A),
        "not linear": lambda: guidance.dds(denoiser, y, guidance.Operator(A.forward, linear=False)),
        "a `loss` of clean samples": lambda: guidance.lgd(denoiser),
        "no pseudo-inverse": lambda: guidance.impute(denoiser, y, A),
        "`scale` must be": lambda: guidance.dps(denoiser, y, A, scale=-1.0),
    }.items():
        with pytest.raises(ValueError, match=match):
            make()
    assert denoiser.nfe == 0


def test_wrong_calls():
    problem = Linear()
    deaf = Denoiser(lambda x, tau: x.detach(), problem.schedule, "sample")
    with pytest.raises(ValueError, match="no gradient"), torch.no_grad():
        sample(guidance.dps(deaf, problem.y, problem.operator), problem.start(2), nfe=2)
    with pytest.raises(ValueError, match="comes from none"), torch.no_grad():
        guided(problem, "mpgd", published=True).x0(problem.start(2), 1.0)
    with pytest.raises(ValueError, match="one a sample"), torch.no_grad():
        many = guidance.dps(problem.denoiser(), problem.y.expand(3, -1), problem.operator)
        sample(many, problem.start(2), nfe=2)
    with pytest.raises(ValueError, match="one number a sample"), torch.no_grad():
        sample(guidance.energy(problem.denoiser(), lambda x0: x0.sum()), problem.start(2), nfe=2)


@pytest.mark.parametrize("solver", ["dpm_adaptive", "rk45", "heun", "unipc", "etd_rk4", "bdia", "restart", "er_sde"])
def test_every_kind_of_solver_plays_a_guided_denoiser(solver):
    problem = Linear(noise=0.5)
    options = {"rtol": 1e-3} if solver in ("dpm_adaptive", "rk45") else {}
    nfe = 1000 if options else 60
    assert problem.errors(guided(problem, "exact_covariance"), solver, nfe, n=300, **options)[0] < 0.15
