"""Which rows of a table compute which blocks of the network, and what stands for those that they leave out.

A network is a chain of blocks. A group g of them in a row has a feature f: what comes out of its last block, less what came
into its first where that has the same shape. Row k either computes the group, or leaves it out and takes

    f_k = sum_j w_kgj F_j,      sum_j w_kgj = 1,

with F_1, F_2, ... the newest features that the run has computed. As the weights sum to one, what does not change is kept.
Matrices over channels may stand beside the weights, see channel_maps.py.
Reference: Beyond Fixed Formulas: Data-Driven Linear Predictor for Efficient Diffusion Models; Shen et al.; 2026;
arXiv:2604.26365. Weight 1 on the newest alone: DeepCache; Ma, Fang, Wang; 2023; arXiv:2312.00858.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np

EXACT = 1e-6  # by which the sum of weights may differ from one


@dataclass(frozen=True, eq=False)
class BlockCache:
    """Part of a table of so many rows.

    Args:
        groups: of each group the paths of its blocks in the network, in the order in which they are called.
        weights: (nfe, groups, window) w above, newest first; zeros where a row computes the group.
        costs: (nfe,) what each row costs, in evaluations of the whole network.
        maps: of rows that leave the only group out, matrices (window - 1 or 2 window - 1, channels, channels); mostly none.

    Raises:
        ValueError: blocks that lie in one another, weights that do not sum to one or read what no row has computed.
    """

    groups: tuple[tuple[str, ...], ...]
    weights: np.ndarray
    costs: np.ndarray
    maps: Mapping[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", checked_groups(self.groups))
        n, groups = len(self.weights), len(self.groups)
        if self.weights.ndim != 3 or not n or self.weights.shape[1] != groups or not self.weights.shape[2]:
            raise ValueError(
                f"`weights` of a feature cache must be (nfe, {groups} groups, window); got shape {self.weights.shape}"
            )
        if self.costs.shape != (n,) or not ((self.costs > 0) & (self.costs <= 1)).all():
            raise ValueError(
                f"`costs` of a feature cache are {n} shares of an evaluation; got {self.costs.tolist()!r:.80}"
            )
        kept = np.cumsum(self.computed, 0) - self.computed  # features that there are before each row
        reads = np.where(self.weights != 0, np.arange(1, self.window + 1), 0).max(2)
        off = np.abs(self.weights.sum(2) - 1)
        if not np.isfinite(self.weights).all() or (reads > kept).any() or (off[~self.computed] > EXACT).any():
            raise ValueError(
                "`weights` of a feature cache must be finite, zero where a row computes the group, else sum to one, over "
                "features that earlier rows have computed"
            )
        for k, maps in self.maps.items():
            self._check_maps(k, maps)

    def _check_maps(self, k: int, maps: np.ndarray) -> None:
        """ValueError for matrices that row k cannot have."""
        few, all_ = self.window - 1, 2 * self.window - 1
        square = maps.ndim == 3 and maps.shape[1] == maps.shape[2] and len(maps) in (few, all_)
        there = len(self.groups) == 1 and 0 <= k < len(self.costs) and not self.computed[k, 0]
        if not there or not square or not np.isfinite(maps).all():
            raise ValueError(
                f"`maps` of a feature cache are finite matrices ({few} or {all_}, channels, channels) of rows that leave its "
                f"only group out; got shape {maps.shape} for row {k}"
            )

    @property
    def computed(self) -> np.ndarray:
        """(nfe, groups) whether a row computes a group."""
        return np.asarray(~self.weights.any(2))

    @property
    def window(self) -> int:
        """How many features of a group are kept."""
        return int(self.weights.shape[2])

    @property
    def blocks(self) -> tuple[str, ...]:
        """The paths of all blocks."""
        return tuple(name for group in self.groups for name in group)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        return int(self.weights.nbytes + self.costs.nbytes + sum(maps.nbytes for maps in self.maps.values()))

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, but for the arrays."""
        told = {"groups": [list(group) for group in self.groups], "weights": self.weights, "costs": self.costs}
        return {**told, "maps": {str(k): maps for k, maps in self.maps.items()}} if self.maps else told

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> BlockCache:
        """Inverse of `to_dict`."""
        groups = tuple(tuple(group) for group in content["groups"])
        maps = {int(k): np.array(each, float) for k, each in content.get("maps", {}).items()}
        return cls(groups, np.array(content["weights"], float), np.array(content["costs"], float), maps)

    def __str__(self) -> str:
        whole = int(self.computed.all(1).sum())
        return f"{len(self.blocks)} blocks of the network computed in {whole} of {len(self.weights)} rows"


def checked_groups(groups: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Groups of paths as tuples. ValueError for none, for what is no path, for blocks that lie in one another."""
    found = tuple((group,) if isinstance(group, str) else tuple(group) for group in groups)
    names = [name for group in found for name in group]
    if not found or not all(found) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(
            f"blocks are paths of modules in groups, e.g. [['blocks.1', 'blocks.2']]; got {list(groups)!r:.120}"
        )
    for one, other in permutations(names, 2):
        if one == other or one.startswith(f"{other}."):
            raise ValueError(f"block {one!r} lies in block {other!r} of the same feature cache: name one of them, once")
    return found
