"""The distance of infinitely many images from few, and an interval that covers it: of distributions whose own is known."""

import numpy as np
import pytest
import torch
from featured import of

from fewstep.eval import evaluate, extractor
from fewstep.eval.gaussian.covariance import Gaussian
from fewstep.eval.gaussian.features import Features
from fewstep.eval.gaussian.frechet import frechet_distance
from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.eval.metrics.debiased import fid_debiased


class Population:
    """Features of spectrum 1/k about two means, of a real and a generated distribution; tails: one scale a sample."""

    def __init__(self, d: int, apart: float, tails: float = 0.0) -> None:
        random = np.random.default_rng(1)
        spread = np.arange(1, d + 1) ** -0.5
        self.d, self.tails = d, tails
        self.real = (np.zeros(d), np.diag(spread))
        shift = 0.2 * apart * random.standard_normal(d) * spread.mean()
        self.generated = (shift, np.diag(spread) @ (np.eye(d) + apart * random.standard_normal((d, d)) / d**0.5))
        (m, A), (_, B) = self.generated, self.real
        self.truth = frechet_distance(np.zeros(d), B @ B.T, m, A @ A.T)

    def draw(self, which: str, n: int, random: np.random.Generator) -> Features:
        """A sample with its statistics."""
        mean, A = getattr(self, which)
        z = random.standard_normal((n, self.d))
        if self.tails:
            z *= np.exp(self.tails * random.standard_normal((n, 1)) - self.tails**2)
        found = of(mean + z @ A.T)
        found.statistics["main"] = FeatureStatistics(self.d).update(found.rows["main"])
        return found

    @property
    def exact(self) -> Features:
        """The real distribution itself."""
        mean, A = self.real
        return Features(None, {"main": FeatureStatistics.of(Gaussian.of(mean, A @ A.T), None)})

    def runs(self, n: int, count: int, sides: str = "generated", seed: int = 0) -> tuple[float, float, float]:
        """Bias of the plain distance, of this one, and the share of intervals that hold the true distance."""
        plain, ours, covered = [], [], 0
        for random in np.random.default_rng(seed).spawn(count):
            real = self.exact if sides == "generated" else self.draw("real", n, random)
            (found,) = fid_debiased(real, self.draw("generated", n, random), sides=sides, splits=1)
            plain.append(found.details["full"])
            ours.append(found.value)
            low, high = found.interval
            covered += low <= self.truth <= high
        return float(np.mean(plain)) - self.truth, float(np.mean(ours)) - self.truth, covered / count


def test_distance_of_all_images_is_the_plain_one():
    population = Population(6, 0.5)
    real, generated = (population.draw(side, 100, np.random.default_rng(0)) for side in ("real", "generated"))
    (found,) = fid_debiased(real, generated)
    sides = [(side.statistics["main"].mean, side.statistics["main"].cov) for side in (real, generated)]
    assert found.details["full"] == pytest.approx(frechet_distance(*sides[0], *sides[1]), rel=1e-10)
    assert found.value == pytest.approx(found.details["full"] - found.details["bias"], rel=1e-12)
    assert np.mean(found.groups) == pytest.approx(found.value, rel=1e-9)
    assert fid_debiased(real, generated)[0] == found


def test_second_order_is_the_bias_of_normal_samples():
    """B_N of Gaussians whose covariances commute: tr C / N + 1/2 sum_ij r_i r_j / (r_i + r_j) (1 + [i = j]) / N."""
    random, spread = np.random.default_rng(0), np.array([1.0, 0.7, 0.4])
    rows = random.standard_normal((40_000, 3)) * spread
    exact = Features(None, {"main": FeatureStatistics.of(Gaussian.of(np.zeros(3), np.eye(3)), None)})
    (found,) = fid_debiased(exact, of(rows))
    pairs = spread[:, None] * spread / (spread[:, None] + spread) * (1 + np.eye(3))
    expected = ((spread**2).sum() + pairs.sum() / 2) / 40_000
    assert found.details["full"] - found.details["second_order"] == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("sides", ["generated", "both"])
def test_bias_is_a_tenth_of_the_plain_one(sides):
    plain, ours, covered = Population(16, 0.3).runs(200, 40, sides)
    assert abs(ours) < plain / 7 and covered > 0.85


@pytest.mark.slow
@pytest.mark.parametrize("apart", [0.15, 0.6])
@pytest.mark.parametrize(("d", "n", "count"), [(64, 1000, 1000), (64, 5000, 300), (256, 1000, 300), (256, 5000, 60)])
def test_interval_covers_the_true_distance(d, n, count, apart):
    """93 to 97 %, give or take a standard error of so many runs."""
    plain, ours, covered = Population(d, apart).runs(n, count)
    slack = np.sqrt(0.05 * 0.95 / count)
    assert abs(ours) < plain / 10
    assert 0.93 - slack < covered < 0.97 + slack


@pytest.mark.slow
@pytest.mark.parametrize(("tails", "sides"), [(0.3, "generated"), (0.0, "both")])
def test_interval_covers_with_long_tails_and_of_both_sides(tails, sides):
    plain, ours, covered = Population(32, 0.5, tails).runs(800, 400, sides)
    assert abs(ours) < plain / 10
    assert 0.9 < covered < 0.99


def test_by_name_with_and_without_vectors_of_the_real_side():
    images = torch.randint(0, 255, (150, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    how = {"extractor": extractor("digits"), "progress": False}
    report = evaluate("mnist", images, ("fid", "fid_debiased"), **how)
    assert report["fid_debiased"].label == "FD-debiased-digits"
    assert report["fid_debiased"].details["full"] == pytest.approx(report["fid"].value, rel=1e-6)
    assert "covers what is expected of 150 images" in report["fid"].method
    assert "covers the distance of infinitely many" in report["fid_debiased"].method
    both = {"options": {"fid_debiased": {"sides": "both"}}}
    assert evaluate(images[:140], images, ("fid_debiased",), **how, **both)["fid_debiased"].details["sides"] == "both"
    with pytest.raises(ValueError, match="lack all main features"):
        evaluate("mnist", images, ("fid_debiased",), **how, **both)


def test_bad_input():
    population = Population(6, 0.5)
    few = population.draw("generated", 20, np.random.default_rng(0))
    with pytest.raises(ValueError, match="sides.*both, generated"):
        fid_debiased(population.exact, few, sides="left")
    with pytest.raises(ValueError, match="more than 24 images.*has 20"):
        fid_debiased(Population(12, 0.5).exact, Population(12, 0.5).draw("generated", 20, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="splits"):
        fid_debiased(population.exact, few, splits=0)
