"""The Frechet distance is exact: known answers, any rank, any conditioning, and a bound that holds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.eval.gaussian.covariance import Gaussian, centred, pivoted_cholesky
from fewstep.eval.gaussian.frechet import (
    frechet,
    frechet_distance,
    gradient_of_distance,
    root_trace,
    roots_of_eigenvalues,
)


def rotation(d, seed=1):
    draw = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.linalg.qr(draw)[0]


def commuting(s1, s2):
    """Two covariances with one eigenbasis, and their distance: sum of (sqrt(s1) - sqrt(s2))^2."""
    Q = rotation(len(s1))
    exact = (s1.sqrt() - s2.sqrt()).square().sum().item()
    return [(Q * s) @ Q.T for s in (s1, s2)], exact


def spectra(d):
    pick = torch.randperm(d, generator=torch.Generator().manual_seed(3))
    steep = torch.logspace(0, -10, d, dtype=torch.float64)
    low = torch.zeros(d, dtype=torch.float64)
    low[:300] = torch.logspace(0, -3, 300, dtype=torch.float64)
    other = torch.zeros(d, dtype=torch.float64)
    other[100:400] = 1.0
    return {
        "condition 1e10": (steep, steep[pick]),
        "rank 300": (low, low.roll(20)),
        "rank 300, spaces that overlap by 200": (low, other),
        "rank 300 against full": (low, 0.1 + steep),
        "full against rank 300": (0.1 + steep, low),
    }


@pytest.mark.parametrize("case", spectra(400))
def test_known_answers(case):
    zero = torch.zeros(400)
    (a, b), exact = commuting(*spectra(400)[case])
    assert frechet_distance(zero, a, zero, b) == pytest.approx(exact, abs=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("case", spectra(1024))
def test_known_answers_at_1024(case):
    zero = torch.zeros(1024)
    (a, b), exact = commuting(*spectra(1024)[case])
    error = abs(frechet_distance(zero, a, zero, b) - exact)
    print(f"{case}: {error:.1e}")
    assert error <= 1e-9


@given(st.integers(1, 12), st.integers(2, 30), st.integers(2, 30), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_the_bound_holds_for_any_ranks(d, n, m, seed):
    random = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(k, d, dtype=torch.float64, generator=random) * 3 for k in (n, m))
    a, b = Gaussian.of_rows(x), Gaussian.of(y.mean(0), torch.cov(y.T).reshape(d, d))
    found = frechet(a, b)
    sigma = torch.linalg.svdvals((x - x.mean(0)) @ (y - y.mean(0)).T) / ((n - 1) * (m - 1)) ** 0.5
    exact = (a.mean - b.mean).square().sum() + a.trace + b.trace - 2 * sigma.sum()
    assert abs(found.value - max(exact.item(), 0)) <= found.bound + 1e-12 * (a.trace + b.trace).item()
    assert frechet(b, a).value == pytest.approx(found.value, abs=2 * found.bound + 1e-13)


@pytest.mark.parametrize("n", [20, 64, 65, 500])
def test_a_set_is_at_no_distance_from_itself(n):
    x = torch.randn(n, 64, dtype=torch.float64).relu() + torch.linspace(0, 5, 64, dtype=torch.float64)
    cov, mean = torch.cov(x.T), x.mean(0)
    assert 0 <= frechet_distance(mean, cov, mean, cov) < 1e-9 * cov.trace()
    assert 0 <= frechet(Gaussian.of_rows(x), Gaussian.of_rows(x.flip(0))).value < 1e-9 * cov.trace()


def test_a_shift_alone_is_its_squared_length():
    x, shift = torch.randn(100, 9, dtype=torch.float64), torch.arange(9.0)
    a, b = Gaussian.of_rows(x), Gaussian.of_rows(x + shift)
    found = frechet(a, b)
    assert found.value == pytest.approx(204, rel=1e-12) and found.of_means == pytest.approx(204, rel=1e-12)


def test_rows_and_covariance_are_one_gaussian():
    x, y = (torch.randn(n, 40, dtype=torch.float64) for n in (30, 200))
    thin, full = Gaussian.of_rows(x), Gaussian.of_rows(y)
    dense = [Gaussian.of(g.mean, g.cov) for g in (thin, full)]
    assert thin.thin and thin.factor.shape == (40, 29) and not full.thin
    torch.testing.assert_close(thin.cov, torch.cov(x.T), rtol=1e-12, atol=1e-14)
    assert frechet(thin, full).value == pytest.approx(frechet(*dense).value, rel=1e-11)
    torch.testing.assert_close(centred(x).T @ centred(x), torch.cov(x.T) * 29, rtol=1e-12, atol=1e-13)


def test_both_ways_to_the_trace_agree(monkeypatch):
    x, y = (torch.randn(300, 50, dtype=torch.float64) * torch.logspace(0, -2, 50) for _ in range(2))
    a, b = (Gaussian.of(v.mean(0), torch.cov(v.T)) for v in (x, y))
    by_eigenvalues, bound = root_trace(a, b)
    monkeypatch.setattr("fewstep.eval.gaussian.frechet.TOLERANCE", -1.0)
    by_singular_values, _ = root_trace(a, b)
    assert abs(by_eigenvalues - by_singular_values) <= bound < 1e-9


@given(st.lists(st.floats(-12, 2), min_size=1, max_size=20), st.floats(-9, -1), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_roots_move_by_no_more_than_their_bound(logs, log_error, seed):
    """Eigenvalues of a matrix that is disturbed by a symmetric one of this norm, in whatever direction."""
    exact = 10.0 ** torch.tensor(logs, dtype=torch.float64).sort().values
    E = torch.randn(len(logs), len(logs), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    error = torch.tensor(10.0**log_error, dtype=torch.float64)
    found = roots_of_eigenvalues(exact.diag() + (E + E.T) * error / (E + E.T).norm(), error)
    if found is not None:
        root, bound = found
        assert abs(root - exact.sqrt().sum()) <= bound * (1 + 1e-3)
    else:
        assert exact[0] <= 3 * error  # only where an eigenvalue drowns


@pytest.mark.parametrize("rank", [1, 7, 130, 200])
def test_pivoted_cholesky_finds_the_rank(rank):
    half = torch.randn(200, rank, dtype=torch.float64) * torch.logspace(0, -3, 200)[:, None]
    L = pivoted_cholesky(half @ half.T, block=32)
    assert L.shape == (200, rank)
    torch.testing.assert_close(L @ L.T, half @ half.T, rtol=0, atol=1e-13 * rank)


@pytest.mark.parametrize("n", [15, 200])
def test_the_gradient_is_that_of_the_distance(n):
    real = Gaussian.of_rows(torch.randn(300, 20, dtype=torch.float64) + 1)
    x = torch.randn(n, 20, dtype=torch.float64) * 2
    weights = torch.ones(n, dtype=torch.float64)

    def distance(w):  # of the Gaussian in which sample i counts w_i times
        mean = (w @ x) / w.sum()
        cov = (x - mean).T @ torch.diag(w) @ (x - mean) / w.sum()
        return frechet(real, Gaussian(mean, cov)).value, Gaussian(mean, cov)

    value, generated = distance(weights)
    g_mean, g_cov = gradient_of_distance(real, generated)
    delta = x[3] - generated.mean
    influence = g_mean @ delta + delta @ g_cov @ delta - (g_cov * generated.cov).sum()
    h = 1e-4
    up, down = (distance(weights.clone().index_fill_(0, torch.tensor([3]), 1 + s))[0] for s in (h, -h))
    assert influence.item() == pytest.approx((up - down) / (2 * h) * n, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.zeros(3), np.eye(2), np.zeros(3), np.eye(3)), "covariance \\(d, d\\)"),
        ((np.zeros(3), np.eye(3), np.zeros(2), np.eye(2)), "3 and 2 dimensions"),
        ((np.full(3, np.nan), np.eye(3), np.zeros(3), np.eye(3)), "NaN"),
        ((np.zeros(3), np.triu(np.ones((3, 3))), np.zeros(3), np.eye(3)), "not symmetric"),
        ((np.zeros(2), -np.eye(2), np.zeros(2), np.eye(2)), "diagonal"),
    ],
)
def test_what_is_no_gaussian_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        frechet_distance(*arguments)


def test_one_dimension_and_scipy_agree():
    assert frechet_distance([1.0], [[4.0]], [3.0], [[9.0]]) == pytest.approx(4 + 1, rel=1e-14)
    from scipy.linalg import sqrtm

    x, y = (np.random.default_rng(s).normal(size=(400, 30)) @ np.diag(np.linspace(1, 2, 30)) for s in (1, 2))
    a, b = np.cov(x.T), np.cov(y.T)
    peer = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(x.mean(0), a, y.mean(0), b) == pytest.approx(peer, rel=1e-10)
