"""Whether two sets of samples, drawn in pairs, have one law: their energy distance, beside that of pairs whose sides are drawn.

    E = 2 E|X - Y| - E|X - X'| - E|Y - Y'|    is zero for equal laws alone, and here over E|X - X'|.

If the laws are equal, changing the sides of pairs at random changes nothing: E among such changes says what chance does.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHANGES = 500


class Apart(NamedTuple):
    """Energy distance over the mean distance within a set; its 95 % quantile if the laws were equal; chance of such a one."""

    distance: float
    by_chance: float
    p: float


def apart(x: Tensor, y: Tensor, seed: int = 0) -> Apart:
    """Of x and y (n, *shape), x_i and y_i a pair."""
    n = len(x)
    both = torch.cat([x, y]).flatten(1).double()
    D = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist").cpu()
    same = torch.arange(2 * n) % n
    D[same[:, None] == same[None]] = 0.0  # pairs share their noise, and are no independent draws
    within = float(D[:n, :n].sum() / (n * (n - 1)))
    sides = torch.randint(0, 2, (CHANGES, n), generator=torch.Generator().manual_seed(seed)) * 2.0 - 1
    first = torch.ones(1, n)
    signs = torch.cat([torch.cat([s, -s], 1) for s in (first, sides)]).double()  # (1 + CHANGES, 2 n)
    E = -((signs @ D) * signs).sum(1) / (n * (n - 1)) / max(within, 1e-300)
    found, chance = E[0], E[1:]
    p = (1 + int((chance >= found).sum())) / (1 + len(chance))
    return Apart(float(found), float(chance.quantile(0.95)), p)
