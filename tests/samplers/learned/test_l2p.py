"""l2p: weights of past features by least squares, rows by trial, compared with fixed recipes at equal cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from chains import SHAPE, chain
from learned_problems import base, sixteen, task

from fewstep.samplers import Denoiser, sample
from fewstep.samplers.blocks.block_cache import BlockCache
from fewstep.samplers.blocks.patching import patched
from fewstep.samplers.learned import METHODS, learn
from fewstep.samplers.learned.estimate import estimate
from fewstep.samplers.learned.fitting.feature_weights import FeaturePath, played, weights_for, weights_of

HOW: dict[str, Any] = {"shape": SHAPE, "dtype": "float64", "cache": False, "progress": False, "rivals": False}


def products(features: np.ndarray) -> np.ndarray:
    return features @ features.T


def test_features_on_a_line_are_extrapolated_and_equal_ones_are_kept() -> None:
    """F_1, F_2, ... newest first, then f."""
    a, b = np.random.default_rng(0).standard_normal((2, 50))
    line = np.stack([a + k * b for k in (3, 2, 1, 4)])
    found = weights_of(products(line), 1e-12)
    assert abs(found.sum() - 1) < 1e-12 and abs(found @ [3, 2, 1] - 4) < 1e-4
    np.testing.assert_allclose(weights_of(products(line[[0, 1, 3]]), 1e-12), [2, -1], atol=1e-4)
    np.testing.assert_allclose(weights_of(products(np.stack([a] * 4)), 1e-12), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(weights_of(products(line), np.inf), [1, 0, 0])  # the ridge leads to plain repetition


def test_least_squares_are_least_on_the_path() -> None:
    """Of what is missing along the very path, nothing that sums to one leaves less."""
    network, denoiser = chain()
    made = task(denoiser, SHAPE, 5, 16, 16)
    blank = BlockCache((("blocks.1", "blocks.2", "blocks.3"),), np.zeros((5, 1, 5)), np.ones(5))
    with patched(list(network.blocks[1:4])):
        path = FeaturePath(made, base(made), network, blank)
        played(path)
        left_out = np.array([[False], [False], [True], [True], [False]])
        weights = weights_for(path.every, left_out, 2, 0.0)
        G = path.every[0]
        for k in (2, 3):
            at = np.array([1, 0, k])

            def missing(w: np.ndarray, at: np.ndarray = at) -> float:
                d = np.array([*w, -1.0])
                return float(d @ G[np.ix_(at, at)] @ d)

            best = missing(weights[k, 0])
            assert best < missing(np.array([1.0, 0.0]))
            for step in (-0.01, 0.01):
                assert best < missing(weights[k, 0] + [step, -step])
        on_path = FeaturePath(made, base(made), network, replace(blank, weights=np.zeros((5, 1, 2))), left_out)
        played(on_path)
    np.testing.assert_allclose(on_path.cache.weights[2], weights[2], atol=1e-9)  # the path is the same up to there
    assert np.array_equal(on_path.cache.computed, ~left_out)
    assert not np.allclose(on_path.cache.weights[3], weights[3], atol=1e-9)


@pytest.mark.parametrize("rows", ["greedy", "even", [0, 1, 3]])
def test_a_row_costs_a_fraction(rows: Any) -> None:
    network, denoiser = chain()
    made = task(denoiser, SHAPE, 6, 24, 24)
    start = base(made)
    found = METHODS.find("l2p").fn(made, start, rows=rows, search=8, samples=24)
    assert found.nfe == 6 and int(found.cache.computed.all(1).sum()) == 3 and found.cache.computed[0].all()
    if rows == "even":
        assert found.cache.computed[:, 0].tolist() == [True, False] * 3
    linear = [24 * 32, 24 * 32, *[24 * 24] * 5]  # what is multiplied
    assert abs(found.cost - (6 - 3 * 3 * 24 * 24 / sum(linear))) < 1e-9
    for block in network.blocks:
        block.calls = 0
    sample(denoiser, made.problem.part([0]).x_T, found)
    assert network.counts == [6, 3, 3, 3, 6]
    assert np.allclose(found.cache.weights.sum(2)[~found.cache.computed], 1)
    assert not any("forward" in vars(block) for block in network.blocks)


def test_weights_that_are_learned_beat_repetition() -> None:
    _, denoiser = chain()
    made = task(denoiser, SHAPE, 6, 48, 48)
    start = base(made)
    repeated, plain, refit = (
        made.judge(METHODS.find("l2p").fn(made, start, rows="even", **how))
        for how in ({"window": 1, "refit": False}, {"refit": False}, {})
    )
    assert refit <= plain < repeated


def test_it_is_compared_at_equal_cost() -> None:
    """With fixed recipes of as many evaluations as it costs; the file keeps it, and a chain ends with it."""
    _, denoiser = chain()
    options = {"rows": "even", "samples": 24}
    found = learn(denoiser, "dpmpp_2m", 6, [("l2p", options)], seeds=range(48), guard_seeds=range(1000, 1032), **HOW)
    (one,) = found.tables
    cost = one.report["cost"]
    assert cost["best_fixed"] == np.ceil(cost["learned"] - 1e-9) < 6
    assert one.nfe == (6 if one.status == "learned" else cost["best_fixed"])
    played_table = one.tableau if one.status == "learned" else one.refused
    assert played_table.cache is not None and abs(played_table.cost - cost["learned"]) < 1e-12
    made = task(denoiser, SHAPE, 6, 24, 24)
    with pytest.raises(ValueError, match="let 'l2p' come last"):
        made.run("iia", played_table)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows": "odd"}, "`rows` must be"),
        ({"rows": [1, 2]}, "0 among them"),
        ({"rows": [0, 9]}, "from 0 to 4"),
        ({"full": 9}, "`full` must be 1..5"),
        ({"window": 0}, "past features"),
        ({"blocks": ["blocks.7"]}, "has no such block"),
        ({"blocks": ["blocks.3", "blocks.1"]}, "in the order of their calls"),
        ({"ridge": -1}, "`ridge` must be"),
    ],
)
def test_bad_input(options: dict[str, Any], said: str) -> None:
    network, denoiser = chain()
    made = task(denoiser, SHAPE, 5, 16, 16)
    with pytest.raises(ValueError, match=said):
        made.run("l2p", base(made), **options)
    assert not any("forward" in vars(block) for block in network.blocks)


def test_what_has_no_blocks_is_told() -> None:
    made = task(sixteen(), (16,), 4, 16, 16)
    with pytest.raises(ValueError, match="no network is found behind Denoiser"):
        made.run("l2p", base(made))
    _, denoiser = chain()
    made = task(denoiser, SHAPE, 5, 16, 16)
    with pytest.raises(ValueError, match="adds noise on the way"):
        made.run("l2p", base(made, "ddpm"), full=2)
    with pytest.raises(ValueError, match="Estimate without it"):
        estimate(denoiser, "dpmpp_2m", 4, "l2p", seeds=range(16), guard_seeds=range(100, 116), shape=SHAPE)


def test_no_product_is_no_cost() -> None:
    class Still(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.ModuleList(torch.nn.Tanh() for _ in range(4))

        def forward(self, x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                x = block(x)
            return x

    made = task(Denoiser(Still(), chain()[1].schedule, "sample"), SHAPE, 4, 16, 16)
    with pytest.raises(ValueError, match="its cost cannot be counted"):
        made.run("l2p", base(made))
