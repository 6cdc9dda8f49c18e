"""Distances and scores at infinitely many images: of distributions whose own are known."""

import numpy as np
import pytest
from featured import gaussian, mapped, of

from fewstep.eval.gaussian.covariance import Gaussian
from fewstep.eval.gaussian.features import Features
from fewstep.eval.gaussian.frechet import frechet_distance
from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.eval.metrics.extrapolated import fid_inf, is_inf
from fewstep.eval.metrics.inception_score import inception_score


def standard(d):
    """The exact N(0, 1) as the real side."""
    return Features(None, {"main": FeatureStatistics.of(Gaussian.of(np.zeros(d), np.eye(d)), None)})


def distance(mean, scale, d, n, seed, **options):
    """(result, truth) for samples of N(mean, scale^2) against N(0, 1), in d dimensions."""
    (found,) = fid_inf(standard(d), of(gaussian(n, d, seed, mean, scale)), **options)
    return found, d * (mean**2 + (scale - 1) ** 2)


def test_line_through_prefixes_of_each_order():
    """The definition written out: numpy covariances of the first N of each order, and a line in 1/N."""
    y, fits, orders = gaussian(200, 3, 0, 0.3, 1.2), 5, np.random.RandomState(7)
    sizes, lines = np.linspace(20, 200, fits).astype(int), []
    for _ in range(3):
        order = orders.permutation(200)
        firsts = [y[order[:n]].astype(float) for n in sizes]
        values = [frechet_distance(np.zeros(3), np.eye(3), f.mean(0), np.cov(f.T)) for f in firsts]
        lines.append(np.polyfit(1 / sizes, values, 1))
    (found,) = fid_inf(standard(3), of(y), fits=fits, permutations=3, seed=7)
    slope, intercept = np.mean(lines, axis=0)
    assert found.value == pytest.approx(intercept, rel=1e-9)
    assert found.details["slope"] == pytest.approx(slope, rel=1e-9)
    assert found.details["sd"] == pytest.approx(np.std(lines, axis=0, ddof=1)[1], rel=1e-9)
    full = frechet_distance(np.zeros(3), np.eye(3), y.astype(float).mean(0), np.cov(y.astype(float).T))
    assert found.details["full"] == pytest.approx(full, rel=1e-10)


def test_known_distance_is_recovered_where_the_plain_one_is_biased():
    runs, truth = zip(*(distance(0.1, 1.1, 12, 600, s, permutations=2) for s in range(40)), strict=True)
    values, full = (np.array(z) for z in zip(*((r.value, r.details["full"]) for r in runs), strict=True))
    sure = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - truth[0]) < 4 * sure
    assert full.mean() - truth[0] > 8 * sure
    slope = np.mean([r.details["slope"] for r in runs])
    assert slope / 600 == pytest.approx(full.mean() - truth[0], rel=0.3)  # k / N is the bias that was there


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (0.3, 1.3)])
def test_error_is_the_spread_of_fresh_samples(mean, scale):
    runs = [distance(mean, scale, 3, 300, s, fits=8)[0] for s in range(80)]
    values, errors = np.array([r.value for r in runs]), np.array([r.error for r in runs])
    assert 0.8 < np.sqrt(np.mean(errors**2)) / values.std() < 1.6  # where the distance is 0 it has no first order


def logits(n, seed, classes=100, scale=3.0):
    return gaussian(n, classes, seed, scale=scale)


def true_score(classes=100, scale=3.0, n=60_000):
    """q is uniform by symmetry, so the mean entropy alone is to be measured: without bias, to 0.3 %."""
    x = scale * np.random.default_rng(12345).standard_normal((n, classes))
    p = np.exp(x - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return np.exp(np.log(classes) + np.mean(np.sum(p * np.log(p), axis=1)))


def test_known_score_is_recovered_where_the_plain_one_is_biased():
    runs = [is_inf(None, of(logits(500, s), "logits"), smallest=150, fits=8)[0] for s in range(60)]
    values, full = (np.array(z) for z in zip(*((r.value, r.details["full"]) for r in runs), strict=True))
    truth, sure = true_score(), values.std() / np.sqrt(len(values))
    assert abs(values.mean() - truth) < 4 * sure
    assert truth - full.mean() > 5 * sure
    assert all(r.details["slope"] < 0 for r in runs)
    errors = np.array([r.error for r in runs])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.35)


def test_full_score_is_that_of_one_split():
    y = of(logits(300, 0), "logits")
    (found,), (plain,) = is_inf(None, y), inception_score(None, y, splits=1)
    assert found.details["full"] == pytest.approx(plain.value, rel=1e-12)
    assert np.mean(found.groups) == pytest.approx(found.value, rel=1e-9)


def test_files_and_order_change_nothing_but_the_draw(tmp_path):
    y = gaussian(300, 4, 0, 0.3)
    from_file = of(y)
    from_file.rows["main"] = mapped(y, tmp_path / "rows.bin")
    (plain,) = fid_inf(standard(4), of(y))
    assert fid_inf(standard(4), from_file)[0] == plain
    (other,) = fid_inf(standard(4), of(y), seed=1)
    assert other.value != plain.value and abs(other.value - plain.value) < 4 * plain.error
    assert np.mean(plain.groups) == pytest.approx(plain.value, rel=1e-9)


def test_one_order_claims_no_error():
    (found,) = fid_inf(standard(4), of(gaussian(300, 4, 0)), permutations=1)
    assert found.error is None and found.interval is None


def test_bad_input():
    y = gaussian(300, 4, 0)
    with pytest.raises(ValueError, match="at least 150 images"):
        fid_inf(standard(4), of(y[:149]))
    with pytest.raises(ValueError, match="5 dimensions, the generated ones 4"):
        fid_inf(standard(5), of(y))
    with pytest.raises(ValueError, match="must be at most 150"):
        fid_inf(standard(4), of(y), smallest=299)
    with pytest.raises(ValueError, match="permutations"):
        is_inf(None, of(y, "logits"), permutations=0)
    with pytest.warns(UserWarning, match="no line in 1/N yet: give more images, or smallest=80"):
        fid_inf(standard(40), of(gaussian(300, 40, 0)), permutations=1)
    y[17, 0] = np.nan
    with pytest.raises(ValueError, match="image 17 are not finite"):
        fid_inf(standard(4), of(y))
