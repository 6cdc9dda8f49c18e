"""Noise that is a random field, and fields recovered from sparse measurements and their equation: answers in closed form."""

import importlib.util
import re
import sys

import pytest
import torch
from PIL import Image
from places import EXAMPLES

from fewstep import Denoiser, NoiseSchedule, adjoint, sample
from fewstep.samplers import guidance

SCHEDULE = NoiseSchedule.edm(0.005, 30.0)
N, D64 = 16, torch.float64
EYE = torch.eye(N, dtype=D64)
FIELD = guidance.GaussianField(0.08, dims=1)
PRIOR = guidance.GaussianField(0.15, "matern52", dims=1)
KERNELS = {
    "rbf": lambda r: torch.exp(-(r**2) / 2),
    "matern32": lambda r: (1 + 3**0.5 * r) * torch.exp(-(3**0.5) * r),
    "matern52": lambda r: (1 + 5**0.5 * r + 5 * r**2 / 3) * torch.exp(-(5**0.5) * r),
}


def process(field=FIELD):
    """Data of a Gaussian process under noise of a field (None: white), and its covariance."""
    C0 = PRIOR.covariance(EYE) + 1e-6 * EYE
    C = EYE if field is None else field.covariance(EYE)

    def fn(x, tau):
        return x @ torch.linalg.solve(C0 + float(tau) ** 2 * C, C0).to(x)

    return Denoiser(fn, SCHEDULE, "sample", field=field), C0


def start(batch, field=FIELD):
    white = torch.randn(batch, N, dtype=D64, generator=torch.Generator().manual_seed(0))
    return 30.0 * (white if field is None else field.draw((N,), range(batch), D64))


KNOWN = torch.zeros(N, dtype=torch.bool).index_fill(0, torch.tensor([1, 5, 9, 14]), True)
Y = torch.tensor([[0.5, -1.0, 0.7, 0.3]], dtype=D64)
STEP = (EYE - EYE.roll(1, 1))[:5]  # a linear equation: the first values are equal


@pytest.mark.parametrize("kernel", list(KERNELS))
@pytest.mark.parametrize("grid", ["cells", "nodes"])
def test_the_covariance_is_the_kernel(kernel, grid):
    points = (torch.arange(20) + 0.5) / 20 if grid == "cells" else torch.arange(20) / 19
    wanted = KERNELS[kernel]((points[:, None] - points).abs().double() / 0.1)
    found = guidance.GaussianField(0.1, kernel, 1, grid).covariance(torch.eye(20, dtype=D64))
    assert (found - wanted).abs().max() < (1e-6 if kernel == "rbf" else 3e-3)


def test_in_two_dimensions_and_channels_apart():
    field, point = guidance.GaussianField(0.1), torch.zeros(1, 2, 12, 10, dtype=D64)
    point[0, 0, 6, 4] = 1
    down, right = (torch.arange(n) for n in (12, 10))
    r2 = ((down[:, None] - 6) / 12) ** 2 + ((right - 4) / 10) ** 2
    found = field.covariance(point)
    assert (found[0, 0] - torch.exp(-r2 / 0.02)).abs().max() < 1e-6 and not found[0, 1].any()


def test_a_torus_is_one():
    C = guidance.GaussianField(0.1, dims=1, grid="periodic").covariance(torch.eye(9, dtype=D64))
    assert torch.allclose(C, C.roll((1, 1), (0, 1)), atol=1e-12)  # also across the seam


@pytest.mark.parametrize("kernel", ["rbf", "matern32"])
def test_draws_have_the_covariance(kernel):
    field = guidance.GaussianField(0.2, kernel, 1)
    z = field.draw((8,), range(8000), D64)
    assert (z.T @ z / len(z) - field.covariance(torch.eye(8, dtype=D64))).abs().max() < 0.06


@pytest.mark.parametrize(
    ("grid", "coarse", "fine", "step"), [("nodes", 9, 17, 2), ("cells", 6, 18, 3), ("periodic", 8, 16, 2)]
)
def test_a_seed_is_one_function_on_every_grid(grid, coarse, fine, step):
    field = guidance.GaussianField(0.07, grid=grid)
    low, high = (field.draw((2, n, n), [7, 8], D64) for n in (coarse, fine))
    assert torch.allclose(low, high[..., step // 3 :: step, step // 3 :: step], atol=1e-10)
    assert not torch.allclose(low[0], low[1], atol=0.1)


@pytest.mark.parametrize("noise", ["independent", "brownian"])
def test_a_sample_is_the_same_alone_and_in_a_batch(noise):
    denoiser, _ = process()
    guided = guidance.diffusion_pde(denoiser, Y, KNOWN, lambda x: x**3)
    x_T = start(3)
    plan = {"solver": "dpmpp_2m_sde", "nfe": 6, "noise": noise}
    whole = sample(guided, x_T, noise_seeds=[4, 5, 6], **plan)
    alone = sample(guided, x_T[1:2], noise_seeds=[5], **plan)
    assert torch.allclose(whole[1:2], alone, atol=1e-10)


def test_noise_of_a_run_is_of_the_field():
    denoiser, _ = process()
    seeds = range(2000)
    z = adjoint.noise_path(denoiser, start(2000), "ddpm", 2, noise_seeds=seeds)[0]
    assert (torch.cov(z.T) - FIELD.covariance(EYE)).abs().max() < 0.12
    drawn = adjoint.noise_path(denoiser, start(5), "ddpm", 2, generator=torch.Generator().manual_seed(0))
    again = adjoint.sample(denoiser, start(5).requires_grad_(), "ddpm", 2, z=drawn).detach()
    assert torch.equal(sample(denoiser, start(5), "ddpm", 2, generator=torch.Generator().manual_seed(0)), again)


def test_what_is_composed_has_one_noise():
    denoiser, _ = process()
    assert guidance.cfg(denoiser, denoiser, 2.0).field == FIELD
    with pytest.raises(ValueError, match="one noise"):
        guidance.cfg(denoiser, process(None)[0], 2.0)


METHODS = {
    "exact_covariance": lambda d: guidance.exact_covariance(d, Y, guidance.points(KNOWN), 0.1, iterations=4),
    "diffusion_pde": lambda d: guidance.diffusion_pde(
        d, Y, KNOWN, lambda x: x @ STEP.T, 0.1, 0.3, below=1e9, iterations=6
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
@pytest.mark.parametrize(
    ("field", "solver", "far"), [(None, "dpmpp_2m_sde", 0.1), (FIELD, "dpmpp_2m_sde", 0.1), (FIELD, "ddpm", 0.13)]
)
def test_the_posterior_of_a_gaussian_process(method, field, solver, far):
    denoiser, C0 = process(field)
    rows = EYE[KNOWN] / 0.1
    H = torch.cat([rows, STEP / 0.3]) if method == "diffusion_pde" else rows
    P = torch.linalg.inv(torch.linalg.inv(C0) + H.T @ H)
    mean = P @ rows.T @ Y[0] / 0.1
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        x = sample(METHODS[method](denoiser), start(2000, field), solver, 100, generator=generator)
    assert (x.mean(0) - mean).norm() < 0.05 * mean.norm()
    assert (torch.cov(x.T) - P).norm() < far * P.norm()


def test_gradients_in_the_wrong_inner_product_miss_it():
    denoiser, C0 = process()
    blind = Denoiser(denoiser.fn, SCHEDULE, "sample")  # does not say that its noise is a field
    A = EYE[KNOWN]
    mean = C0 @ A.T @ torch.linalg.solve(A @ C0 @ A.T + 0.01 * torch.eye(4, dtype=D64), Y[0])
    with torch.no_grad():
        x = sample(METHODS["exact_covariance"](blind), start(500), "dpmpp_2m", 50)
    assert (x.mean(0) - mean).norm() > 0.15 * mean.norm()


def curved(x):
    """A residual that is not linear."""
    return (x[:, 1:] - x[:, :-1]).square() - 0.1 * x[:, 1:]


def shifted(guided, x, t):
    with torch.no_grad():
        return guided.x0(x, t) - guided.inner.x0(x, t)


@pytest.mark.parametrize("huber", [None, 0.7])
def test_the_shift_solves_the_least_squares_problem(huber):
    denoiser, C0 = process()
    guided = guidance.diffusion_pde(denoiser, Y, KNOWN, curved, 0.1, 0.2, below=9.0, huber=huber, iterations=40)
    x, t, C = start(2) / 30, 0.4, FIELD.covariance(EYE)
    cov = C0 - C0 @ torch.linalg.solve(C0 + t**2 * C, C0)  # of x0 given x
    for one, d in zip(x, shifted(guided, x, t), strict=True):
        mean = denoiser.x0(one[None], t)[0]
        f = curved(mean[None])[0] / 0.2
        w = torch.ones_like(f) if huber is None else (huber / f.abs()).clamp(max=1)
        Jf = torch.autograd.functional.jacobian(lambda v: curved(v[None])[0], mean) / 0.2
        H = torch.cat([EYE[KNOWN] / 0.1, w.sqrt()[:, None] * Jf])
        b = torch.cat([(Y[0] - mean[KNOWN]) / 0.1, -w.sqrt() * f])
        wanted = cov @ H.T @ torch.linalg.solve(H @ cov @ H.T + torch.eye(len(b), dtype=D64), b)
        assert (d - wanted).norm() < 1e-5 * wanted.norm()


def test_every_iteration_comes_closer_and_costs_one_product():
    counted = []

    def fn(x, tau):
        y = process()[0].fn(x, tau)
        if y.requires_grad:
            y.register_hook(lambda g: counted.append(1))
        return y

    denoiser = Denoiser(fn, SCHEDULE, "sample", field=FIELD)
    make = lambda k: guidance.diffusion_pde(denoiser, Y, KNOWN, curved, 0.1, 0.2, below=9.0, iterations=k)  # noqa: E731
    x, t = start(2) / 30, 0.4
    best, far = shifted(make(40), x, t), []
    for k in (1, 2, 4, 8):
        counted.clear()
        far.append(float((shifted(make(k), x, t) - best).norm()))
        assert len(counted) == k
    assert far == sorted(far, reverse=True) and far[-1] < 0.1 * far[0]


def test_the_equation_is_heard_below_a_level():
    denoiser, _ = process()
    heard, deaf = (guidance.diffusion_pde(denoiser, Y, KNOWN, f, below=0.3) for f in (curved, None))
    x = start(2) / 30
    assert torch.equal(shifted(heard, x, 0.4), shifted(deaf, x, 0.4))
    assert not torch.allclose(shifted(heard, x, 0.2), shifted(deaf, x, 0.2), rtol=1e-2)


def test_samples_may_have_times_of_their_own():
    C0, C = process()[1], FIELD.covariance(EYE)

    def fn(x, tau):
        levels = torch.atleast_1d(tau)[:, None, None] ** 2
        return (x[:, None] @ torch.linalg.solve(C0 + levels * C, C0.expand(len(levels), N, N)))[:, 0]

    guided = guidance.diffusion_pde(Denoiser(fn, SCHEDULE, "sample", True, FIELD), Y, KNOWN, curved)
    x = start(2) / 30
    each = [shifted(guided, one[None], t) for one, t in zip(x, (0.2, 0.5), strict=True)]
    assert torch.allclose(shifted(guided, x, [0.2, 0.5]), torch.cat(each), atol=1e-10)


def test_the_published_shift_is_the_gradient_of_the_losses():
    denoiser, _ = process(None)
    guided = guidance.diffusion_pde(denoiser, Y, KNOWN, curved, published=True, weights=(0.3, 0.2), huber=0.05)
    x = start(2, None).requires_grad_()
    x0 = denoiser.x0(x, 30.0)
    f = curved(x0)
    huber = torch.where(f.abs() < 0.05, 0.5 * f**2, 0.05 * (f.abs() - 0.025)).mean(1)
    (g,) = torch.autograd.grad((0.3 * (x0[:, KNOWN] - Y).square().mean(1) + 0.2 * huber).sum(), x)
    moved = sample(guided, x.detach(), "ddim", 1) - sample(denoiser, x.detach(), "ddim", 1)
    assert torch.allclose(moved, -g, rtol=1e-6, atol=1e-14) and g.abs().max() > 1e-6


def test_the_published_loop_without_weights_is_heun():
    denoiser, _ = process()
    found = guidance.fun_dps(denoiser, start(3), Y, KNOWN, curved, 10, weights=(0.0, 0.0))
    assert torch.allclose(found, sample(denoiser, start(3), "heun", 19, "edm", limiter=False), atol=1e-10)
    assert denoiser.nfe == 2 * 19


@pytest.mark.parametrize("rule", ["fun_dps", "diffusion_pde"])
def test_the_published_loop_shifts_by_the_gradient_through_both_calls(rule):
    narrow = NoiseSchedule.edm(0.1, 0.5)
    denoiser = Denoiser(process()[0].fn, narrow, "sample", field=FIELD)
    x, e = start(1) / 60, 1e-5
    s, t = 0.5, 0.1

    def loss(x):
        euler = x + (t - s) / s * (x - denoiser.x0(x, s))
        x0 = denoiser.x0(euler, t)
        miss, f = Y - x0[:, KNOWN], curved(x0)
        if rule == "fun_dps":
            return s * float(0.3 * miss.square().mean() + 0.2 * 0.5 * f.square().mean())
        return 0.3 * float(miss.norm()) / 4

    slope = torch.tensor([(loss(x + e * d) - loss(x - e * d)) / (2 * e) for d in EYE], dtype=D64)
    plain, found = (
        guidance.fun_dps(denoiser, x, Y, KNOWN, curved, 2, weights=w, rule=rule, huber=1e3)
        for w in ((0.0, 0.0), (0.3, 0.2))
    )
    last = denoiser.fn(EYE, torch.tensor(t))  # the last step is linear, and plain
    assert torch.allclose(plain - found, slope @ last, rtol=1e-4, atol=1e-9)


def test_points_are_read_and_put_back():
    known = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0)) < 0.3
    A, x = guidance.points(known), torch.randn(3, 2, 5, 4)
    assert torch.equal(A(x), x[:, known]) and torch.equal(A.T(A(x)), x * known)


GOOD = {"measurement": Y, "operator": KNOWN, "residual": curved}
FIELDS = guidance.GaussianField


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: FIELDS(0.0), "above 0"),
        (lambda d: FIELDS(0.1, "cubic"), "one of rbf"),
        (lambda d: FIELDS(0.1, grid="edges"), "one of cells"),
        (lambda d: FIELDS(0.1, dims=0), "whole number"),
        (lambda d: FIELDS(0.1).covariance(torch.zeros(3, 4)), "as many last axes"),
        (lambda d: Denoiser(d.fn, SCHEDULE, "sample", field=0.05), "GaussianField"),
        (lambda d: guidance.points(torch.zeros(3)), "bool tensor"),
        (
            lambda d: guidance.diffusion_pde(d, **{**GOOD, "operator": torch.zeros(N, dtype=torch.bool)}),
            "true somewhere",
        ),
        (lambda d: guidance.diffusion_pde(d, **GOOD, noise_std=0.0), "above 0"),
        (lambda d: guidance.diffusion_pde(d, **GOOD, residual_std=-1.0), "above 0"),
        (lambda d: guidance.diffusion_pde(d, **GOOD, huber=0.0), "above 0"),
        (lambda d: guidance.diffusion_pde(d, **GOOD, iterations=0), "at least 1"),
        (lambda d: guidance.diffusion_pde(d, **{**GOOD, "residual": 1.0}), "function of samples"),
        (lambda d: guidance.diffusion_pde(d, **GOOD, published=True, weights=1.0), "two numbers"),
        (lambda d: guidance.diffusion_pde(lambda x, t: x, **GOOD), "Denoiser"),
        (lambda d: shifted(guidance.diffusion_pde(d, Y, KNOWN, torch.sum), start(2), 0.1), "every sample"),
        (lambda d: guidance.fun_dps(d, start(2), Y, KNOWN, weights=(1.0, 1.0)), "needs a `residual`"),
        (lambda d: guidance.fun_dps(d, start(2), Y, KNOWN, rule="dps"), "rule"),
        (lambda d: guidance.fun_dps(d, start(2), Y, KNOWN, steps=1), "at least 2"),
        (lambda d: guidance.fun_dps(Denoiser(d.fn, NoiseSchedule.vp_linear()), start(2), Y, KNOWN), "alpha = 1"),
        (lambda d: guidance.fun_dps(d, start(2), Y, KNOWN, steps=4, weights=(1e300, 0.0)), "smaller weights"),
        (lambda d: adjoint.log_likelihood(d, start(2)), "prior"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(process()[0])


def example(name, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, name, raising=False)
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_solved_darcy_flow_has_no_residual(monkeypatch):
    darcy = example("darcy", monkeypatch)
    x = darcy.fields(2, 14).double()
    assert darcy.residual(x).abs().max() < 1e-4  # of float32 states; the right-hand side is 1
    assert darcy.residual(x + 0.01 * torch.randn_like(x)).abs().max() > 0.1
    u = darcy.solve(torch.zeros(31, 31).numpy())  # a = 1: the known height of a membrane
    assert u[15, 15] == pytest.approx(0.0736714, rel=3e-3)
    bump = torch.zeros(1, 2, 14, 14, dtype=D64)
    bump[0, 1, 5, 6] = 1.0  # with a = 1 the smoothed residual is the difference to the solution itself
    bump[0, 1] += (torch.from_numpy(darcy.solve(torch.zeros(14, 14).numpy())) - darcy.MEAN) / darcy.STD
    assert darcy.smoothed(bump)[0, 5, 6] == pytest.approx(1.0) and darcy.smoothed(bump).abs().sum() == pytest.approx(
        1.0
    )


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch):
    from click.testing import CliRunner

    sizes = ["--train-fields", 12, "--steps", 5, "--modes", 16, "--side", 10, "--fields", 2, "--share", 0.1]
    plan = ["--nfe", 4, "--iterations", 2, "--loops", 2, "--draws", 1]
    files = ["--weights", tmp_path / "prior.safetensors", "--out", tmp_path / "darcy.png"]
    main = example("recover_pde", monkeypatch).main
    result = CliRunner().invoke(main, [str(v) for v in sizes + plan + files], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    a = {
        (p, name.strip()): float(v)
        for p, name, v in re.findall(r"^(u|both) +(\D.*?) +\d+ +\d+ +(\S+) ", result.output, re.M)
    }
    assert a["both", "linear estimate"] < a["both", "prior alone"]
    assert sum("denoiser form" in name for _, name in a) == 2
    for problem in ("u", "both"):
        Image.open(tmp_path / f"darcy-{problem}.png").verify()
