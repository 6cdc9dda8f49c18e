"""Sliced distances, the energy distance and the F-score against what textbooks write, and MIND against its protocol."""

import numpy as np
import pytest
import torch
from featured import gaussian, of
from scipy.stats import wasserstein_distance

from fewstep.eval.metrics.energy import energy
from fewstep.eval.metrics.fscore import f_score
from fewstep.eval.metrics.prdc import prdc
from fewstep.eval.metrics.sliced import mind, sliced


def test_energy_distance_of_one_axis_is_scipys():
    """In one dimension the energy distance is twice the integral of (F - G)^2, whose root scipy gives, biased."""
    from scipy.stats import energy_distance

    x, y = gaussian(60, 1, 0), gaussian(47, 1, 1, 0.5, 1.3)
    (found,) = energy(of(x), of(y))
    assert found.details["biased"] == pytest.approx(energy_distance(x[:, 0], y[:, 0]) ** 2, rel=1e-5)
    assert energy(of(x), of(y), block=7)[0].value == pytest.approx(found.value, rel=1e-9)


def test_energy_distance_is_the_mean_over_pairs():
    x, y = gaussian(20, 3, 0).astype(float), gaussian(16, 3, 1, 0.7).astype(float)

    def mean(a, b, less=0):
        return sum(np.linalg.norm(p - q) for p in a for q in b) / (len(a) * (len(b) - less))

    expected = 2 * mean(x, y) - mean(x, x, 1) - mean(y, y, 1)
    assert float(energy(of(x), of(y))[0]) == pytest.approx(expected, rel=1e-5)


def test_energy_error_is_the_spread_of_fresh_samples():
    runs = [energy(of(gaussian(50, 3, s)), of(gaussian(50, 3, 900 + s, 0.5)))[0] for s in range(120)]
    spread = np.std([run.value for run in runs])
    assert np.sqrt(np.mean([run.error**2 for run in runs])) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("counts", [(30, 30), (24, 36), (7, 30)])
def test_sliced_of_one_axis_is_transport(counts):
    """Sums over quantiles, on a grid that both step functions fit."""
    x, y = gaussian(counts[0], 1, 0), gaussian(counts[1], 1, 1, 0.4, 1.5)
    fine = np.lcm(*counts)
    a, b = (np.repeat(np.sort(z[:, 0].astype(float)), fine // len(z)) for z in (x, y))
    (found,) = sliced(of(x), of(y), directions=3)
    assert found.value == pytest.approx(np.sqrt(np.mean((a - b) ** 2)), rel=1e-6)
    assert found.value >= wasserstein_distance(x[:, 0], y[:, 0])  # of order 1


def test_sliced_of_a_shift_is_known():
    """A shift alone moves every projection by u.s: E (u.s)^2 = |s|^2 / d."""
    x = gaussian(50, 8, 0)
    (found,) = sliced(of(x), of(x + 2), directions=4000)
    assert found.details["squared"] == pytest.approx(4.0, rel=0.05)
    assert float(sliced(of(x), of(x))[0]) == 0


def test_mind_is_three_d_times_the_mean_over_directions_of_the_protocol():
    x, y = gaussian(40, 5, 0), gaussian(55, 5, 1, 0.3)
    random = torch.Generator().manual_seed(2020)
    y = y[torch.randperm(55, generator=random)[:40].numpy()]
    u = torch.randn(100, 5, generator=random)
    u = (u / u.norm(dim=1, keepdim=True)).numpy()
    expected = 15 * np.mean((np.sort(x @ u.T, 0) - np.sort(y @ u.T, 0)) ** 2)
    (found,) = mind(of(x), of(gaussian(55, 5, 1, 0.3)), directions=100)
    assert found.value == pytest.approx(expected, rel=1e-5)
    assert found.details["images"] == 40
    assert mind(of(gaussian(2000, 5, 0)), of(gaussian(2000, 5, 1, 0.3)))[0].value == pytest.approx(
        3 * 5 * 0.09, rel=0.15
    )


def test_f_score_is_of_precision_and_recall():
    x, y = gaussian(80, 3, 0), gaussian(60, 3, 1, 0.8, 0.7)
    precision, recall, *_ = map(float, prdc(of(x), of(y), k=3))
    (one,), (two,) = f_score(of(x), of(y), k=3), f_score(of(x), of(y), k=3, beta=2)
    assert one.value == pytest.approx(2 * precision * recall / (precision + recall), rel=1e-12)
    assert two.value == pytest.approx(5 * precision * recall / (4 * precision + recall), rel=1e-12)
    assert one.interval[0] < one.value < one.interval[1] and one.higher_is_better
    (nothing,) = f_score(of(x), of(y + 100))
    assert nothing.value == 0


def test_bad_input():
    x = of(gaussian(20, 4, 0))
    with pytest.raises(ValueError, match="4 dimensions.*3"):
        energy(x, of(gaussian(20, 3, 0)))
    with pytest.raises(ValueError, match="directions"):
        mind(x, x, directions=0)
    with pytest.raises(ValueError, match="beta"):
        f_score(x, x, beta=0)
