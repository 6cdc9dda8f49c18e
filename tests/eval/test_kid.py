"""Kernel distances: the published protocol, all pairs without bias, and an error that is one."""

import itertools

import numpy as np
import pytest
import torch
from featured import gaussian, mapped, of

from fewstep.eval.metrics.kid import kid, kid_full


def brute(x, y, degree=3, gamma=None, coef=1.0):
    """The unbiased estimate as a textbook writes it: sums over pairs."""
    gamma = 1 / x.shape[1] if gamma is None else gamma

    def k(a, b):
        return (gamma * float(np.dot(a.astype(float), b.astype(float))) + coef) ** degree

    within = [np.mean([k(a, b) for a, b in itertools.permutations(z, 2)]) for z in (x, y)]
    return sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_protocol_is_that_of_torch_fidelity():
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = np.abs(gaussian(230, 48, 0)), np.abs(gaussian(190, 48, 1, 0.1))
    theirs = kid_features_to_metric(
        torch.from_numpy(y).double(),
        torch.from_numpy(x).double(),
        kid_subsets=20,
        kid_subset_size=120,
        rng_seed=2020,
        verbose=False,
    )
    (ours,) = kid(of(x), of(y), subsets=20, subset_size=120)
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert ours.details["sd"] == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)
    assert ours.error is None and ours.interval is None


@pytest.mark.parametrize("options", [{}, {"degree": 2, "gamma": 0.3, "coef": 0.5}])
def test_all_pairs_equal_the_textbook(options):
    x, y = gaussian(11, 5, 0), gaussian(9, 5, 1, 0.5)
    assert float(kid_full(of(x), of(y), **options)[0]) == pytest.approx(brute(x, y, **options), rel=1e-12)


def test_one_subset_of_everything_is_all_pairs():
    x, y = gaussian(40, 6, 0), gaussian(40, 6, 1, 0.2)
    (once,) = kid(of(x), of(y), subsets=1, subset_size=40)
    assert once.value == pytest.approx(float(kid_full(of(x), of(y))[0]), rel=1e-11)


def test_without_bias_at_few_samples():
    """Equal distributions: the mean over many draws is 0, where the biased estimate of 8 samples is far from it."""
    values = [float(kid_full(of(gaussian(8, 3, s)), of(gaussian(8, 3, 10_000 + s)))[0]) for s in range(400)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 20
    assert np.std(values) / 20 < 0.1


def test_blocks_and_files_change_nothing(tmp_path):
    x, y = gaussian(57, 4, 0), gaussian(43, 4, 1, 0.3)
    (plain,) = kid_full(of(x), of(y))
    for block in (1, 7, 43, 100):
        (other,) = kid_full(of(x), of(y), block=block)
        assert other.value == pytest.approx(plain.value, rel=1e-12)
        assert other.error == pytest.approx(plain.error, rel=1e-9)
        assert other.groups == pytest.approx(plain.groups, rel=1e-9)
    from_file = of(y)
    from_file.rows["main"] = mapped(y, tmp_path / "rows.bin")
    assert kid_full(of(x), from_file)[0] == plain
    assert kid(of(x), from_file, subset_size=40) == kid(of(x), of(y), subset_size=40)


def test_groups_average_to_the_value():
    (found,) = kid_full(of(gaussian(60, 4, 0)), of(gaussian(50, 4, 1, 0.3)))
    assert len(found.groups) == 10
    assert np.mean(found.groups) == pytest.approx(found.value, rel=1e-9)


def _replicates(shift, count, m=60, d=4):
    """(value, error) against one real set, of the generated side, and against a fresh one each time, of both."""
    fixed = of(gaussian(m, d, 99_999))
    runs = []
    for s in range(count):
        generated = of(gaussian(m, d, s, shift))
        (a,), (b,) = kid_full(fixed, generated), kid_full(of(gaussian(m, d, 50_000 + s)), generated)
        runs.append((a.value, a.details["error_generated"], b.value, b.error))
    return np.array(runs).T


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_error_is_the_spread_of_fresh_samples(shift):
    value, error, fresh, of_both = _replicates(shift, 400)
    assert np.sqrt(np.mean(error**2)) == pytest.approx(value.std(), rel=0.2)
    assert np.sqrt(np.mean(of_both**2)) == pytest.approx(fresh.std(), rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shift", "least", "least_of_both"), [(0.0, 0.9, 0.89), (0.2, 0.92, 0.895), (0.5, 0.925, 0.925)]
)
def test_intervals_cover(shift, least, least_of_both):
    """Without a shift, or a small one for so many images, the estimate is skewed, and its normal interval covers 90 %."""
    value, error, fresh, of_both = _replicates(shift, 2000, m=200)
    for values, errors, bound in ((value, error, least), (fresh, of_both, least_of_both)):
        covered = np.mean(np.abs(values - values.mean()) < 1.96 * errors)
        assert bound < covered < 0.97


def test_bad_input():
    x, y = gaussian(20, 4, 0), gaussian(20, 4, 1)
    with pytest.raises(ValueError, match="subset_size=20"):
        kid(of(x), of(y))
    with pytest.raises(ValueError, match="subsets"):
        kid(of(x), of(y), subsets=0)
    with pytest.raises(ValueError, match="4 dimensions.*3"):
        kid_full(of(x), of(y[:, :3]))
    with pytest.raises(ValueError, match="at least 4 images"):
        kid_full(of(x), of(y[:3]))
    with pytest.raises(ValueError, match="device"):
        kid_full(of(x), of(y), device="nowhere")
    with pytest.raises(ValueError, match="gamma"):
        kid_full(of(x), of(y), gamma=-1.0)
    with pytest.raises(ValueError, match="statistics"):
        kid_full(of(x), of(y, "spatial"))
    y[7, 2], y[9, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match="image 7 are not finite"):
        kid_full(of(x), of(y))
