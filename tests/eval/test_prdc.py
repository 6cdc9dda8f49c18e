"""Precision, recall, density, coverage: hand-made cases, the textbook, a peer, and errors that are ones."""

import numpy as np
import pytest
import torch
from featured import gaussian, mapped, of

from fewstep.eval.metrics.prdc import prdc, wilson


def four(x, y, **options):
    return {r.metric: r for r in prdc(of(x), of(y), **options)}


def values(x, y, **options):
    return [r.value for r in prdc(of(x), of(y), **options)]


def brute(x, y, k):
    x, y = x.astype(float), y.astype(float)

    def distances(a, b):
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))

    r_x, r_y = (np.sort(distances(z, z), axis=1)[:, k] for z in (x, y))
    d = distances(x, y)
    inside = d < r_x[:, None]
    return [
        (d <= r_x[:, None]).any(0).mean(),
        (d <= r_y[None]).any(1).mean(),
        inside.sum() / (k * len(y)),
        inside.any(1).mean(),
    ]


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_equals_the_textbook(k, shift):
    x, y = gaussian(90, 5, 0), gaussian(70, 5, 1, shift, 0.8)
    assert values(x, y, k=k) == pytest.approx(brute(x, y, k), abs=1e-12)


@pytest.mark.parametrize("parts", [True, False])
def test_precision_and_recall_are_those_of_torch_fidelity(parts):
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = gaussian(256, 16, 0), gaussian(128, 16, 1, 0.3, 0.7)  # shares of 2^n are exact in its float32
    theirs = prc_features_to_metric(
        torch.from_numpy(y).double(),
        torch.from_numpy(x).double(),
        prc_neighborhood=3,
        prc_batch_size=100,
        save_cpu_ram=parts,
        verbose=False,
    )
    ours = four(x, y, k=3)
    assert theirs["precision"] != theirs["recall"]
    assert ours["precision"].value == pytest.approx(theirs["precision"], abs=1e-9)
    assert ours["recall"].value == pytest.approx(theirs["recall"], abs=1e-9)


def line(*points):
    return np.array(points, dtype=np.float32)[:, None]


def test_by_hand():
    """k = 1 on a line. Real 0, 1, 3 have radii 1, 1, 2; generated 0.5, 10, 12 have 9.5, 2, 2."""
    x, y = line(0, 1, 3), line(0.5, 10, 12)
    # 0.5 lies in the balls of 0 and of 1, not in 3's; every real point lies in the ball of 0.5
    assert values(x, y, k=1) == pytest.approx([1 / 3, 1, 2 / 3, 2 / 3])


def test_on_the_sphere():
    """A generated point at exactly the radius: in for precision (<=), out for density and coverage (<)."""
    x, y = line(0, 1, 100), line(-1, 500)
    for far in (0, 1000):  # far from the origin, rounding decides nothing
        precision, _, density, coverage = values(x + far, y + far, k=1)
        assert (precision, density, coverage) == (0.5, 0, 0)


def test_ends():
    x = gaussian(60, 6, 0)
    assert values(x, x) == pytest.approx([1, 1, 1, 1])
    assert values(x, x, block=7) == pytest.approx([1, 1, 1, 1])
    assert values(x, x + 1000) == [0, 0, 0, 0]
    one_mode = four(x, x[:1] + gaussian(60, 6, 1, scale=1e-3))
    assert one_mode["precision"].value == 1 and one_mode["recall"].value < 0.05 and one_mode["coverage"].value < 0.3


def test_copies_of_one_image():
    """k + 1 equal real images have balls of no radius: a copy of them is precise and covers nothing."""
    x = np.concatenate([np.tile(gaussian(1, 4, 0), (4, 1)), 50 + gaussian(8, 4, 1)])
    precision, _, density, coverage = values(x, np.tile(x[:1], (5, 1)), k=3)
    assert (precision, density, coverage) == (1, 0, 0)


def test_blocks_files_and_order_change_nothing(tmp_path):
    x, y = gaussian(83, 5, 0, 20.0), gaussian(61, 5, 1, 20.3)
    plain = prdc(of(x), of(y))
    for block in (3, 61, 64):
        assert prdc(of(x), of(y), block=block) == plain
    from_file = of(y)
    from_file.rows["main"] = mapped(y, tmp_path / "rows.bin")
    assert prdc(of(x), from_file) == plain
    order = np.random.default_rng(0).permutation(83)
    assert values(x[order], y[::-1]) == pytest.approx([r.value for r in plain], abs=1e-12)


def test_errors_are_the_spread_of_fresh_samples():
    """Precision and density: calibrated. Coverage: never too small, and not useless."""
    x = gaussian(150, 3, 99)
    runs = [four(x, gaussian(150, 3, s, 0.4)) for s in range(200)]
    for name, low, high in (("precision", 0.85, 1.15), ("density", 0.85, 1.15), ("coverage", 1.0, 3.0)):
        spread = np.std([run[name].value for run in runs])
        assert low < np.sqrt(np.mean([run[name].error ** 2 for run in runs])) / spread < high, name
    assert all(run["recall"].error is None for run in runs)


def test_recall_interval_covers_over_real_images():
    y = gaussian(150, 3, 99)
    runs = [four(gaussian(150, 3, s, 0.8), y)["recall"] for s in range(200)]
    mean = np.mean([run.value for run in runs])
    assert np.mean([run.interval[0] <= mean <= run.interval[1] for run in runs]) > 0.9


def test_wilson_interval():
    assert wilson(0.0, 10)[0] == 0 and wilson(0.0, 10)[1] == pytest.approx(0.2775, abs=1e-4)  # Wilson's own bounds
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(1.0, 10)[1] == 1


def test_bad_input():
    x, y = gaussian(20, 4, 0), gaussian(20, 4, 1)
    with pytest.raises(ValueError, match="`prdc.k` must be a whole number, at least 1; got 0"):
        prdc(of(x), of(y), k=0)
    with pytest.raises(ValueError, match="at least 21 images a set; got 20"):
        prdc(of(x), of(y), k=20)
    with pytest.raises(ValueError, match="4 dimensions"):
        prdc(of(x), of(y[:, :2]))
    x[5] = np.inf
    with pytest.raises(ValueError, match="image 5 are not finite"):
        prdc(of(x), of(y))
