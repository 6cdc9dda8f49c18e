"""What one run knows of the features of its network: nothing is shared with another run, and nothing outlives it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from fewstep.samplers.blocks.block_cache import BlockCache
from fewstep.samplers.blocks.channel_maps import changes, channels_last, gained
from fewstep.samplers.blocks.finding import network_with
from fewstep.samplers.blocks.patching import Forward, at_work, patched

Feature = list[Any]  # leaves of what a block returns, tensors among them
Watch = Callable[[int, int, "Past", Feature, "Tensor | None"], None]


@dataclass
class Past:
    """Of one group, in the n-th call of the network within a row (guidance may ask twice).

    features: newest first. inputs: what came in with them, where matrices need it. came: tensors that came into the first block
    in this row. shape: of the first of them when features were computed. against: which of them each leaf is told relative to.
    trees: of what the blocks return.
    """

    features: list[Feature] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    came: list[Tensor] = field(default_factory=list)
    shape: tuple[int, ...] | None = None
    against: list[int | None] = field(default_factory=list)
    trees: dict[int, tuple[list[Any], TreeSpec]] = field(default_factory=dict)


class BlockRun:
    """The features of one run. `with run.at(k):` around every call of the network in row k.

    Args:
        cache: which rows compute what. network: whose blocks they are. watch: told (group, row, past, the feature, what came in
            of its shape) of every feature that is computed. mixes: whether what comes in is kept, which matrices need.
    """

    def __init__(self, cache: BlockCache, network: Module, watch: Watch | None = None, mixes: bool = False):
        self.cache, self.watch, self.mixes = cache, watch, mixes or bool(cache.maps)
        self.maps: dict[int, Tensor] = {}  # of this run's rows, on their device
        self.blocks = [network.get_submodule(name) for name in cache.blocks]
        places = ((g, i) for g, group in enumerate(cache.groups) for i in range(len(group)))
        self.places = dict(zip(map(id, self.blocks), places, strict=True))
        self.k, self.looks = 0, False
        self.pasts: defaultdict[tuple[int, int], Past] = defaultdict(Past)
        self.calls: Counter[int] = Counter()

    def begin(self, k: int, looks: bool = False) -> None:
        """What comes belongs to row k. looks: it is computed whatever the table says, and not kept."""
        self.k, self.looks = k, looks
        self.calls.clear()

    @contextmanager
    def at(self, k: int, looks: bool = False) -> Iterator[None]:
        """The network's calls within belong to row k."""
        self.begin(k, looks)
        with at_work(self):
            yield

    def ask(self, block: Module, forward: Forward, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a block returns: what it computes, or what stands for that."""
        if id(block) not in self.places:
            return forward(*args, **kwargs)
        g, i = self.places[id(block)]
        past = self.pasts[g, self.calls[id(block)]]
        self.calls[id(block)] += 1
        weights = self.cache.weights[self.k, g]
        if i == 0:
            past.came = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        if self.looks or not weights.any():
            return self._computed(past, (g, i), forward(*args, **kwargs))
        self._require_alike(past, g)
        if i < len(self.cache.groups[g]) - 1:
            return blank(*past.trees[i])
        return self._predicted(past, i, weights.tolist())

    def _computed(self, past: Past, place: tuple[int, int], output: Any) -> Any:
        """What a block has computed, of which is kept what later rows need."""
        g, i = place
        leaves, tree = tree_flatten(output)
        if i < len(self.cache.groups[g]) - 1:
            past.trees[i] = [_outline(leaf) for leaf in leaves], tree
            return output
        if not past.came:
            raise ValueError(
                f"block {self.cache.groups[g][i]!r} was called before {self.cache.groups[g][0]!r}, or without a tensor: name "
                "the blocks of a group in the order of their calls"
            )
        against = [_against(leaf, past.came) for leaf in leaves]
        feature = [leaf if j is None else leaf - past.came[j] for leaf, j in zip(leaves, against, strict=True)]
        entry = None if against[0] is None else past.came[against[0]]
        if self.watch is not None:
            self.watch(g, self.k, past, feature, entry)
        if not self.looks:
            past.trees[i], past.against = ([_outline(leaf) for leaf in leaves], tree), against
            past.shape = tuple(past.came[0].shape)
            past.features = [feature, *past.features][: self.cache.window]
            if self.mixes and entry is not None:
                past.inputs = [entry, *past.inputs][: self.cache.window]
        past.came = []
        return output

    def _predicted(self, past: Past, i: int, weights: list[float]) -> Any:
        """The sum of features in the place of what the group's last block returns."""
        outlines, tree = past.trees[i]
        leaves = []
        for n, (leaf, j) in enumerate(zip(outlines, past.against, strict=True)):
            base = None if j is None else past.came[j]
            told = isinstance(leaf, Outline)
            features = [feature[n] for feature in past.features]
            gain = self._gain(past, features, base) if told and self.k in self.cache.maps else None
            leaves.append(_mixed(weights, features, base, gain) if told else leaf)
        past.came = []
        return tree_unflatten(leaves, tree)

    def _gain(self, past: Past, features: Sequence[Tensor], base: Tensor | None) -> Tensor:
        """What this row's matrices add."""
        slots, change = changes(features, past.inputs, base, self.cache.window)
        if self.k not in self.maps:
            self.maps[self.k] = torch.tensor(self.cache.maps[self.k], dtype=change.dtype, device=change.device)
        known, width = self.maps[self.k].shape[1], channels_last(features[0]).shape[-1]
        if known != width:
            raise ValueError(
                f"row {self.k} has matrices for {known} channels, and {self.cache.groups[0][-1]!r} returns {width}: this "
                "table was learned for another network"
            )
        return gained(self.maps[self.k], slots, change, features[0])

    def _require_alike(self, past: Past, g: int) -> None:
        """ValueError where the features are of another call than this one."""
        name = self.cache.groups[g][0]
        if past.shape is None:
            raise ValueError(
                f"row {self.k} asks the network more often than the rows whose features it takes, in which block {name!r} was "
                "not called: guidance must be the same in all rows of a table with a feature cache"
            )
        if past.came and tuple(past.came[0].shape) != past.shape:
            raise ValueError(
                f"block {name!r} is shown {tuple(past.came[0].shape)} in row {self.k}, and its features are of {past.shape}: "
                "batch, shape and guidance must stay the same through a run with a feature cache"
            )


def _against(leaf: Any, came: Sequence[Tensor]) -> int | None:
    """The first of what came in that has the shape of what goes out."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
        return None
    return next((j for j, t in enumerate(came) if t.shape == leaf.shape and t.dtype == leaf.dtype), None)


def _mixed(
    weights: Sequence[float], features: Sequence[Tensor], base: Tensor | None, gain: Tensor | None = None
) -> Tensor:
    """base + gain + sum_j w_j F_j in float32 at least, in the features' dtype."""
    wide = torch.promote_types(features[0].dtype, torch.float32)
    total = features[0].to(wide) * weights[0]
    for feature, weight in zip(features[1:], weights[1:], strict=False):
        if weight:
            total = total.add(feature.to(wide), alpha=weight)
    total = total if gain is None else total + gain
    return (total if base is None else total + base.to(wide)).to(features[0].dtype)


@dataclass(frozen=True)
class Outline:
    """Of a tensor that nobody reads, but for its shape."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def _outline(leaf: Any) -> Any:
    return Outline(leaf.shape, leaf.dtype, leaf.device) if isinstance(leaf, Tensor) else leaf


def blank(leaves: Sequence[Any], tree: TreeSpec) -> Any:
    """What a block within a group that is left out returns: zeros that take no memory."""
    made = [
        torch.zeros((), dtype=leaf.dtype, device=leaf.device).expand(leaf.shape) if isinstance(leaf, Outline) else leaf
        for leaf in leaves
    ]
    return tree_unflatten(made, tree)


@contextmanager
def block_run(asked: Any, cache: BlockCache | None) -> Iterator[BlockRun | None]:
    """The run of a table with this cache on whatever network is behind `asked`; None, and nothing done, without a cache.

    Raises:
        ValueError: no network there with the blocks of the cache.
    """
    if cache is None:
        yield None
        return
    run = BlockRun(cache, network_with(asked, cache.blocks))
    with patched(run.blocks):
        yield run
