"""`unit_normal` for many seeds on a device: the same counter-based numbers as numpy's, without a word to the host.

A block of four 64-bit words is Philox 4x64 of (counter, seed), ten rounds of

    (c0, c1, c2, c3)  <-  (hi(M1 c2) ^ c1 ^ k0,  lo(M1 c2),  hi(M0 c0) ^ c3 ^ k1,  lo(M0 c0)),    k += W,

and its 32-bit halves, low ones first, are read one after another by the Ziggurat: a word chooses a layer, a sign and a point in
it, which 98.8 % of the time is the number; else the words after it decide. Here all words are looked at as if each began a
number; which of them do follows from the few that need more than one.

Equal to numpy's bit for bit, save numbers beyond 3.654 (one in 4,000), which are a logarithm that libraries round differently.

Reference: Parallel Random Numbers: As Easy as 1, 2, 3; Salmon, Moraes, Dror, Shaw; 2011. The Ziggurat Method for Generating
Random Variables; Marsaglia, Tsang; 2000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

M0, M1 = 0xD2E7470EE14C6C93, 0xCA5A826395121157
W0, W1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
ROUNDS, HALF = 10, 0xFFFFFFFF
R = 3.6541528853610088  # where the tail begins; each of the 256 layers has the area V
V = 0.00492867323399
MOST = 8  # trials of a number in the tail: another is needed once in 10^9 of these
TURNS = 12  # numbers in a row whose words decide about the next one's: 13 come once in 10^20


def signed(word: int) -> int:
    """64 bits as torch holds them."""
    return (word & (2**64 - 1)) - (2**64 if word >> 63 & 1 else 0)


def normals(seeds: Sequence[int], place: tuple[int, int, int], shape: Sequence[int], device: torch.device) -> Tensor:
    """Unit Gaussians (len(seeds), *shape), float32: of each seed what `unit_normal(seed, place, shape)` is."""
    n = math.prod(shape)
    count = n + n // 32 + 10 * math.isqrt(n) + 64  # a number takes 1.02 words in the mean
    words = uniform_words(seeds, place, count, device)
    return ziggurat(words, n).view(len(seeds), *shape)


def uniform_words(seeds: Sequence[int], place: tuple[int, int, int], count: int, device: torch.device) -> Tensor:
    """(len(seeds), at least `count`) 32-bit words in the order of `next_uint32`, int64."""
    keys = torch.tensor([[signed(int(seed))] for seed in seeds], dtype=torch.int64).to(device, non_blocking=True)
    first = torch.arange(1, count // 8 + 2, device=device).expand(len(seeds), -1)
    rest = [torch.full((), signed(p), dtype=torch.int64, device=device).expand_as(first) for p in place]
    block = [first, *rest]
    for n in range(ROUNDS):
        k0, k1 = keys + signed(n * W0), signed(n * W1)
        (hi0, lo0), (hi1, lo1) = _product(M0, block[0]), _product(M1, block[2])
        block = [hi1 ^ block[1] ^ k0, lo1, hi0 ^ block[3] ^ k1, lo0]
    words = torch.stack(block, -1)
    return torch.stack([words & HALF, words >> 32 & HALF], -1).flatten(1)


def _product(m: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """Upper and lower 64 bits of m x, both without sign."""
    m_hi, m_lo = m >> 32, m & HALF
    x_hi, x_lo = x >> 32 & HALF, x & HALF
    u = (m_lo * x_lo >> 32 & HALF) + m_hi * x_lo
    v = (u & HALF) + m_lo * x_hi
    return m_hi * x_hi + (u >> 32 & HALF) + (v >> 32 & HALF), x * signed(m)


class Layers(NamedTuple):
    """Of the Ziggurat: points below `inside` are in the next layer too, `width` is that of a point, `height` exp(-x^2 / 2)."""

    inside: Tensor
    width: Tensor
    height: Tensor


@cache
def layers(device: torch.device) -> Layers:
    """Layers of equal area, f(x_i) = f(x_{i+1}) + V / x_{i+1} from x_255 = r down; layer 0 is the one with the tail."""

    def f(x: float) -> float:
        return math.exp(-0.5 * x * x)

    x = [0.0] * 256
    x[255] = R
    for i in range(254, 0, -1):
        x[i] = math.sqrt(-2 * math.log(f(x[i + 1]) + V / x[i + 1]))
    base = V / f(R)
    inside = [R / base, 0.0, *(x[i - 1] / x[i] for i in range(2, 256))]
    width = [base, *x[1:]]
    height = [1.0, *map(f, x[1:])]
    with torch.inference_mode(False):
        return Layers(
            torch.tensor([round(share * 2**23) for share in inside], device=device),
            torch.from_numpy((np.array(width) / 2**23).astype(np.float32)).to(device),
            torch.tensor(height, dtype=torch.float32, device=device),
        )


def ziggurat(words: Tensor, n: int) -> Tensor:
    """The first n numbers (B, n) that each row of words (B, L) leads to."""
    table = layers(words.device)
    layer, point = words & 0xFF, words >> 9 & 0x7FFFFF
    size = point.float() * table.width[layer]
    value = torch.where(words >> 8 & 1 == 1, -size, size)
    fast = point < table.inside[layer]
    uniform = (words >> 8).float() * 2.0**-24  # as the second and later words of a number
    tail, trials = _tails(uniform)
    beyond = ~fast & (layer == 0)
    value = torch.where(beyond, torch.where(point >> 8 & 1 == 1, -tail, tail), value)
    upper = table.height[(layer - 1).clamp_min(0)]
    lower = table.height[layer]
    edge = (upper - lower) * _later(uniform, 1) + lower
    under = edge.double() < torch.exp(-0.5 * size.double().square())
    length = torch.where(fast, 1, torch.where(beyond, 1 + 2 * trials, 2))
    emits = _begins(length) & (fast | beyond | under)
    rank = (emits.cumsum(1) - 1).clamp_max(n)
    found = value.new_zeros(len(words), n + 1)
    return found.scatter_(1, torch.where(emits, rank, n), value)[:, :n]


def _later(x: Tensor, k: int) -> Tensor:
    """At every place of a row what is k places later; zeros behind the end."""
    return torch.nn.functional.pad(x[:, k:], (0, k))


def _tails(uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Beyond r: r + a, a = E_1 / r, of the first pair of exponential numbers with 2 E_2 > a^2; and which pair it is."""
    exponential = -torch.log1p(-uniform.double())
    a, twice = (exponential / R).float(), 2 * exponential.float()
    a = np.float32(1 / R).item() * exponential.float()
    found, which = torch.zeros_like(a), torch.zeros_like(a, dtype=torch.int64)
    for k in range(MOST, 0, -1):
        one, two = _later(a, 2 * k - 1), _later(twice, 2 * k)
        good = (two > one * one) | (k == MOST)
        found, which = torch.where(good, one, found), torch.where(good, k, which)
    return np.float32(R).item() + found, which


def _begins(length: Tensor) -> Tensor:
    """Which words begin a number, or a trial at one: those that none before them has taken."""
    place = torch.arange(length.shape[1], device=length.device).expand_as(length)
    begins = torch.ones_like(length, dtype=torch.bool)
    for _ in range(TURNS):
        reached = torch.where(begins, place + length, 0).cummax(1).values
        begins = torch.nn.functional.pad(reached[:, :-1], (1, 0)) <= place
    return begins
