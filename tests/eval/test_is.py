"""Inception score: the published protocol, scores that are known, and an error that is one."""

import numpy as np
import pytest
import torch
from featured import gaussian, mapped, of

from fewstep.eval.metrics.inception_score import inception_score


def score(logits, **options):
    return inception_score(None, of(logits, "logits"), **options)[0]


def brute(p):
    q = p.mean(0)
    return np.exp(np.mean(np.sum(p * np.log(p / q), axis=1)))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("splits", [1, 7, 10])
def test_protocol_is_that_of_torch_fidelity(shuffle, splits):
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = gaussian(137, 21, 0, scale=3)
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits, shuffle, 2020)
    ours = score(logits, splits=splits, shuffle=shuffle)
    assert ours.value == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert ours.details["sd"] == pytest.approx(theirs["inception_score_std"], rel=1e-9, abs=1e-12)


def test_equals_the_textbook():
    logits = gaussian(50, 4, 1, scale=2)
    p = np.exp(logits.astype(float))
    assert score(logits, splits=1).value == pytest.approx(brute(p / p.sum(1, keepdims=True)), rel=1e-12)


def test_known_scores():
    """One class each, all equally often: as many as classes. One answer for all: 1. Both also where softmax underflows."""
    for sure in (60.0, 2000.0):
        logits = sure * np.eye(5)[np.arange(100) % 5]
        assert score(logits, splits=2, shuffle=False).value == pytest.approx(5, rel=1e-12)
    constant = np.tile(gaussian(1, 6, 0), (40, 1))
    assert score(constant).value == pytest.approx(1, abs=1e-12)
    assert score(constant).error == pytest.approx(0, abs=1e-12)


def test_sorted_folders_need_the_shuffle():
    logits = 60 * np.eye(5)[np.arange(1000) // 200]
    assert score(logits, splits=5, shuffle=False).value == pytest.approx(1, rel=1e-9)
    assert score(logits, splits=5).value > 4.8


def test_blocks_and_files_change_nothing(tmp_path):
    logits = gaussian(5000, 3, 2, scale=2)  # a split is more than one block
    plain, from_file = score(logits, splits=2), of(logits, "logits")
    from_file.rows["logits"] = mapped(logits, tmp_path / "rows.bin")
    assert inception_score(None, from_file, splits=2)[0] == plain
    order = np.random.default_rng(0).permutation(5000)
    assert score(logits[order], splits=1).value == pytest.approx(score(logits, splits=1).value, rel=1e-12)
    assert np.mean(plain.groups) == pytest.approx(plain.value, rel=1e-12)


@pytest.mark.parametrize("splits", [1, 10])
def test_error_is_the_spread_of_fresh_samples(splits):
    runs = [score(gaussian(400, 4, s, scale=2), splits=splits) for s in range(300)]
    values, errors = np.array([r.value for r in runs]), np.array([r.error for r in runs])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(values.std(), rel=0.15)


def test_bad_input():
    logits = gaussian(19, 4, 0)
    with pytest.raises(ValueError, match="at least 20 images"):
        score(logits)
    with pytest.raises(ValueError, match="splits"):
        score(logits, splits=0)
    logits[3, 1] = np.nan
    with pytest.raises(ValueError, match="image 3 are not finite"):
        score(logits, splits=2)
