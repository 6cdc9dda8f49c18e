"""Matrices over channels beside the weights of a feature cache: by hand, exact where features are linear, kept in the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chains import INNER, SHAPE, VP, Chain, cache, cached, chain, noise
from learned_problems import base, task

import fewstep
from fewstep import sample
from fewstep.samplers import Artefact, BlockCache, Denoiser, Learned, Tableau
from fewstep.samplers.blocks.channel_maps import changes, gained
from fewstep.samplers.learned import METHODS

ONES = {2: [1.0], 4: [1.0]}


def mixed(maps: int = 1, width: int = 24, size: float = 0.05) -> Tableau:
    """Rows 2 and 4 left out, with matrices (maps, width, width) at random."""
    made = {k: size * np.random.default_rng(k).standard_normal((maps, width, width)) for k in ONES}
    table = cached(ONES)
    return replace(table, cache=replace(cache(ONES), maps=made))


@pytest.mark.parametrize("shape", [(3, 24), (3, 5, 24), (3, 24, 4, 2)])
def test_matrices_by_hand(shape: tuple[int, ...]) -> None:
    """On vectors, tokens and pictures: sum_j M_j (F_j - F_1) + sum_j N_j (X - X_j)."""
    F1, F2, X1, X2, x = torch.randn(5, *shape, dtype=torch.float64)
    maps = torch.randn(5, 24, 24, dtype=torch.float64)  # window 3: M_2, M_3, N_1, N_2, N_3
    slots, change = changes([F1, F2], [X1, X2], x, 3)
    assert slots == [0, 2, 3]
    axis = 1 if len(shape) == 4 else -1
    on = lambda z, M: torch.tensordot(z.movedim(axis, -1), M, 1).movedim(-1, axis)  # noqa: E731
    wanted = on(F2 - F1, maps[0]) + on(x - X1, maps[2]) + on(x - X2, maps[3])
    torch.testing.assert_close(gained(maps, slots, change, F1), wanted, rtol=0, atol=1e-12)


def test_zero_matrices_change_nothing_and_others_are_the_same_in_any_batch() -> None:
    _, denoiser = chain()
    x = noise(4)
    plain = sample(denoiser, x, cached(ONES))
    assert torch.equal(sample(denoiser, x, mixed(size=0.0)), plain)
    found = sample(denoiser, x, mixed())
    assert float((found - plain).abs().max()) > 1e-4
    alone = torch.cat([sample(denoiser, one[None], mixed()) for one in x])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-12)
    half = Denoiser(Chain().bfloat16().requires_grad_(False), VP, "sample")
    assert sample(half, x.bfloat16(), mixed()).dtype == torch.bfloat16


def test_linear_blocks_are_had_exactly() -> None:
    """What the group adds is a matrix times what comes in: it is found, and the blocks need not be computed."""
    network, denoiser = chain("linear")
    made = task(denoiser, SHAPE, 6, 160, 24)
    start, errors = base(made), {}
    for mix in (False, True):
        how: dict[str, Any] = {"rows": "even", "window": 2, "samples": 160, "refit": False, "mix": mix}
        table = METHODS.find("l2p").fn(made, start, **how)
        part = made.problem.part(made.valid)
        errors[mix] = float((made.problem.draw(table, part) - made.problem.draw(start, part)).abs().max())
        if mix:
            assert set(table.cache.maps) == {1, 3, 5}
    assert errors[True] < 0.02 * errors[False]
    # of 2 * 24 * 32 + 5 * 24^2 numbers a full row multiplies by, the group has 3 * 24^2; matrices take 1 to 3 times 24^2
    costs, block, whole = table.cache.costs[1::2], 24**2, 2 * 24 * 32 + 5 * 24**2
    np.testing.assert_allclose(costs, 1 - (3 - np.array([1, 3, 3])) * block / whole)


def test_the_file_keeps_them(tmp_path: Path) -> None:
    """Large arrays in safetensors beside the JSON."""
    _, denoiser = chain()
    maps = {k: 0.05 * np.random.default_rng(k).standard_normal((3, 24, 24)) for k in ONES}
    weights = np.pad(cache(ONES).weights, ((0, 0), (0, 0), (0, 1)))  # a window of two
    table = replace(cached(ONES), cache=BlockCache(INNER, weights, cache(ONES).costs, maps))
    table.save(tmp_path / "table.json")
    big = Artefact((Learned(table),), {"prediction": "sample"})
    big.save(tmp_path / "artefact.json")
    wanted = sample(denoiser, noise(3), table)
    assert len(list(tmp_path.glob("artefact*.safetensors"))) == 1
    for path in ("table.json", "artefact.json"):
        assert torch.equal(sample(denoiser, noise(3), fewstep.load(tmp_path / path)), wanted)


def test_bad_input() -> None:
    network, denoiser = chain()
    for maps in (
        {0: np.zeros((1, 4, 4))},
        {2: np.zeros((2, 4, 4))},
        {2: np.zeros((1, 4, 3))},
        {2: np.full((1, 4, 4), np.inf)},
    ):
        with pytest.raises(ValueError, match="`maps` of a feature cache are finite matrices"):
            replace(cache(ONES), maps=maps)
    with pytest.raises(ValueError, match="matrices for 8 channels, and 'blocks.3' returns 24"):
        sample(denoiser, noise(2), mixed(width=8))
    made = task(denoiser, SHAPE, 5, 16, 16)
    with pytest.raises(ValueError, match="give more samples"):
        made.run("l2p", base(made), rows="even", mix=True)
    with pytest.raises(ValueError, match="one group of blocks; got 2"):
        made.run("l2p", base(made), blocks=[["blocks.1"], ["blocks.2"]], mix=True)
    assert not any("forward" in vars(block) for block in network.blocks)
