"""Noise that a device draws by itself is numpy's, number for number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewstep.samplers.noise import philox, sources
from fewstep.samplers.noise.brownian import unit_normal
from fewstep.samplers.noise.draws import Draw

CPU, PLACE = torch.device("cpu"), (0, 2, 5)


def test_words_are_those_of_numpy() -> None:
    seeds = (0, 1, 2**63 + 5, -3, 2**64 - 1)
    for place in (PLACE, (1, 0, 2**40)):
        words = philox.uniform_words(seeds, place, 100, CPU)
        for row, seed in zip(words.tolist(), seeds, strict=True):
            raw = np.random.Philox(key=seed % 2**64, counter=[0, *(p % 2**64 for p in place)]).random_raw(len(row) // 2)
            assert row == [half for word in raw.tolist() for half in (word & 0xFFFFFFFF, word >> 32)]


@pytest.mark.parametrize("count", [1, 7, 1000, 60_000])
def test_numbers_are_those_of_numpy(count: int) -> None:
    """To the bit within 3.65; beyond it to the last one, which is a logarithm's."""
    seeds = range(8)
    want = np.stack([unit_normal(seed, PLACE, (count,)) for seed in seeds])
    got = philox.normals(seeds, PLACE, (count,), CPU).numpy()
    inside = np.abs(want) < philox.R
    assert np.array_equal(got[inside], want[inside]) and got.dtype == want.dtype
    assert np.abs(got - want).max() <= 5e-7
    if count > 10_000:
        assert (~inside).sum() > 50 and (got[~inside] == want[~inside]).mean() > 0.8


@pytest.mark.slow
def test_no_row_loses_its_place() -> None:
    """Six million numbers: a word too many or too few anywhere would change all that follow."""
    for first in range(0, 60, 4):
        seeds = range(first, first + 4)
        want = np.stack([unit_normal(seed, (0, 0, first), (100_000,)) for seed in seeds])
        assert np.abs(philox.normals(seeds, (0, 0, first), (100_000,), CPU).numpy() - want).max() <= 5e-7


@pytest.mark.slow
def test_the_host_reads_nothing() -> None:
    assert philox.normals((1, 2), PLACE, (3, 8, 8), torch.device("meta")).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_source_draws_the_same_there_and_here(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    source, draw, like = sources.NoiseSource((3, 5)), Draw(4, 1, 0.0, 0.0), torch.zeros(2, 3, 16, 16, dtype=dtype)
    here = source(draw, like)
    monkeypatch.setattr(sources, "DRAWN_THERE", ("cpu",))
    monkeypatch.setattr(sources, "MANY", 100)
    there = source(draw, like)
    assert there.dtype == dtype and torch.equal(there.float().clamp(-3.6, 3.6), here.float().clamp(-3.6, 3.6))


class Dictated:
    """numpy's generator, whose next 32-bit words are dictated through the state of a Mersenne twister."""

    def __init__(self) -> None:
        self.twister = np.random.MT19937(0)
        self.generator = np.random.Generator(self.twister)

    def words_read(self, word: int) -> int:
        """How many words a number takes that begins with this one."""
        state = self.twister.state
        key = np.full(624, untempered(1 << 31), np.uint32)
        key[0] = untempered(word)
        self.twister.state = {**state, "state": {"key": key, "pos": 0}}
        self.generator.standard_normal(dtype=np.float32)
        return int(self.twister.state["state"]["pos"])


def untempered(y: int) -> int:
    """What a Mersenne twister makes y of."""
    y ^= y >> 18
    y ^= y << 15 & 0xEFC60000
    found = y
    for _ in range(7):
        found = y ^ found << 7 & 0x9D2C5680
    y = found = found & 0xFFFFFFFF
    for _ in range(3):
        found = y ^ found >> 11
    return found


def test_every_layer_ends_where_numpy_s_does() -> None:
    numpy, inside = Dictated(), philox.layers(CPU).inside.tolist()
    for layer, end in enumerate(inside):
        assert numpy.words_read(end << 9 | layer) > 1
        assert end == 0 or numpy.words_read(end - 1 << 9 | layer) == 1
