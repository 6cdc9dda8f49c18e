"""CMMD: the paper's biased estimate on vectors of length one."""

import numpy as np
import pytest
from featured import gaussian, of

from fewstep.eval.metrics.cmmd import cmmd


def unit(n, d, seed, mean=0.0):
    rows = gaussian(n, d, seed, mean)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute(x, y, sigma):
    def k(a, b):
        return np.exp(-((a[:, None].astype(float) - b[None]) ** 2).sum(-1) / (2 * sigma**2)).mean()

    return 1000 * (k(x, x) + k(y, y) - 2 * k(x, y))


@pytest.mark.parametrize("sigma", [10.0, 0.7])
@pytest.mark.parametrize("block", [2048, 7])
def test_equals_the_textbook(sigma, block):
    x, y = unit(31, 6, 0), unit(24, 6, 1, 0.4)
    (found,) = cmmd(of(x), of(y), sigma=sigma, block=block)
    assert found.value == pytest.approx(brute(x, y, sigma), rel=1e-9)
    assert found.value > found.details["unbiased"]


def test_a_set_with_itself_is_zero():
    x = unit(30, 6, 0)
    assert abs(float(cmmd(of(x), of(x))[0])) < 1e-10


def test_error_is_the_spread_of_fresh_samples():
    real = of(unit(80, 6, 12_345))
    runs = [cmmd(real, of(unit(80, 6, s, 0.2)), sigma=1.0)[0] for s in range(300)]
    values, errors = np.array([r.value for r in runs]), np.array([r.error for r in runs])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.2)


def test_bad_input():
    x = unit(20, 4, 0)
    y = unit(20, 4, 1)
    y[13] *= 1.5
    with pytest.raises(ValueError, match='generated image 13 .* 1.5. Use extractor="clip"'):
        cmmd(of(x), of(y))
    with pytest.raises(ValueError, match="sigma"):
        cmmd(of(x), of(x), sigma=0)
