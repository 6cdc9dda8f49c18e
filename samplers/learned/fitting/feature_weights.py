"""Weights of past features by least squares, row by row, along the states and features that the table itself visits.

With D_j = F_j - F_1 of the features F_1, F_2, ... that a run has computed, and f what the network would compute here,

    c = argmin sum over samples of |f - F_1 - sum_j c_j D_j|^2 + ridge |f|^2 |c|^2,      w = (1 - sum c, c_2, c_3, ...).

All of it is in inner products of features, which are summed in float64: those of every two rows along the path with the whole
network say, without another call, what the weights of any choice of rows would be. Matrices over channels are fitted
to f - F_1 alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from fewstep.samplers.blocks.block_cache import BlockCache
from fewstep.samplers.blocks.block_run import BlockRun, Feature, Past
from fewstep.samplers.blocks.channel_maps import changes, channels_last
from fewstep.samplers.learned.fitting.on_policy import OnPolicy, Way
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

MIX_RIDGE = 1e-4  # of the mean square of a change
LARGEST = 10.0  # of a weight; the ridge is raised where one would be larger


def weights_of(products: Array, ridge: float) -> Array:
    """w (n,) of the formula above. products: (n + 1, n + 1) inner products of F_1 .. F_n and, last, f."""
    n = len(products) - 1
    moved = np.eye(n + 1) - np.eye(n + 1)[0]  # D_1 = 0, D_2 .. D_n, f - F_1
    moved[0] = 0.0
    inner = moved @ products @ moved.T
    while True:
        size, across = np.linalg.eigh(inner[1:n, 1:n])
        size = np.maximum(size, 0.0) + ridge * products[-1, -1]
        along = across.T @ inner[1:n, -1]
        c = across @ np.divide(along, size, out=np.zeros_like(along), where=size > 0)
        w = np.array([1 - c.sum(), *c])
        if np.abs(w).max() <= LARGEST:
            return w
        ridge = max(4 * ridge, 1e-12)


def weights_for(products: Sequence[Array], left_out: Array, window: int, ridge: float) -> Array:
    """(nfe, groups, window) weights of a choice. products: of every group (nfe, nfe), of the features of every two rows."""
    found = np.zeros((*left_out.shape, window))
    for k, g in zip(*np.nonzero(left_out), strict=True):
        rows = np.flatnonzero(np.logical_not(left_out[:k, g]))[::-1][:window]
        at = np.array([*rows, k])
        found[k, g, : len(rows)] = weights_of(products[g][np.ix_(at, at)], ridge)
    return found


def inner_products(features: Sequence[Feature]) -> Array:
    """(n, n) float64."""
    flat = torch.stack([_flat(feature) for feature in features])
    return np.asarray((flat @ flat.T).cpu())


def _flat(feature: Feature) -> Tensor:
    return torch.cat([leaf.detach().double().flatten() for leaf in feature if isinstance(leaf, Tensor)])


@dataclass(frozen=True)
class Mixing:
    """Products of changes (n, n), and of changes with f - F_1 (n, channels), summed over places; slots: which matrices act."""

    slots: list[int]
    inner: Tensor
    outer: Tensor
    places: int
    full: int  # matrices there are

    @classmethod
    def of(cls, past: Past, feature: Feature, entry: Tensor | None, window: int) -> Mixing:
        """Of one call. ValueError for a group that returns several tensors."""
        if len(feature) != 1:
            raise ValueError(
                f"l2p: mix=True is for blocks that return one tensor; these return {len(feature)}: leave it away"
            )
        features = [each[0] for each in past.features]
        slots, change = changes(features, past.inputs, entry, window)
        A = change.flatten(0, -2).double()
        b = channels_last(feature[0].double() - features[0].double()).flatten(0, -2)
        return cls(slots, A.T @ A, A.T @ b, len(A), window - 1 if entry is None else 2 * window - 1)

    def __add__(self, other: Mixing) -> Mixing:
        inner, outer = self.inner + other.inner, self.outer + other.outer
        return replace(self, inner=inner, outer=outer, places=self.places + other.places)

    def maps(self) -> Array:
        """(matrices, channels, channels) of least squares. ValueError for fewer places than make that sound."""
        n, channels = self.outer.shape
        if self.places < 2 * n:
            raise ValueError(
                f"l2p: mix=True fits {n} numbers for each channel, to {self.places} places: give more samples, or window=1"
            )
        found = np.zeros((self.full, channels, channels))
        if n and float(self.inner.trace()) > 0:
            ridge = MIX_RIDGE * self.inner.trace() / n * torch.eye(n, dtype=torch.float64, device=self.inner.device)
            solved = torch.linalg.solve(self.inner + ridge, self.outer)
            found[self.slots] = solved.view(len(self.slots), channels, channels).cpu().numpy()
        return found


class FeaturePath(OnPolicy):
    """Training samples on their way through a table that leaves blocks out, each with features of its own.

    Args:
        network: whose blocks they are. cache: groups and costs. left_out: (nfe, groups) what is left out, with weights fitted
            as the samples come there: the row is asked with the whole network once, and once without. None: nothing, and
            `every` are the products of every two rows. mix: with matrices over channels, in the place of weights.
        finish: what is made of the cache at the end, as matrices cost something themselves.
    """

    def __init__(
        self, task: Task, start: Tableau, network: Module, cache: BlockCache, left_out: Array | None = None,
        ridge: float = 0.0, mix: bool = False,
        *, finish: Callable[[BlockCache], BlockCache] | None = None,
    ):  # fmt: skip
        super().__init__(task, start, "l2p")
        self.network, self.cache, self.ridge, self.mix = network, cache, ridge, mix
        self.left_out = np.zeros(cache.weights.shape[:2], bool) if left_out is None else left_out
        self.every = [np.zeros((start.nfe, start.nfe)) for _ in cache.groups]
        self.finish = finish
        self._here: dict[int, Any] = {}
        self._alone = Lock()  # ways may be asked beside one another
        self._runs: dict[int, BlockRun] = {}

    def call(self, k: int) -> None:
        if self.left_out[k].any():
            self._fit(k)
        super().call(k)

    def asked(self, k: int, way: Way) -> Tensor:
        return self._ask(k, way)

    def finished(self, table: Tableau) -> Tableau:
        return replace(table, cache=self.cache if self.finish is None else self.finish(self.cache))

    @torch.no_grad()
    def _fit(self, k: int) -> None:
        """The weights of row k, from what the network would have computed there."""
        self._here.clear()
        self.task.problem.spent += sum(len(way.part.seeds) for way in self.ways)
        self.task.problem.threads.map(lambda way: self._ask(k, way, looks=True), self.ways)
        weights, maps = self.cache.weights.copy(), dict(self.cache.maps)
        for g in np.flatnonzero(self.left_out[k]):
            found = np.ones(1) if self.mix else weights_of(self._here[int(g)], self.ridge)
            weights[k, g, : len(found)] = found
        if self.mix:
            maps[k] = self._here[0].maps()
        self.cache = replace(self.cache, weights=weights, maps=maps)

    def _ask(self, k: int, way: Way, looks: bool = False) -> Tensor:
        way.part.denoiser.prepare(way.input.to(way.part.x_T.device, way.part.x_T.dtype))
        with self._alone:
            run = self._runs.setdefault(id(way), BlockRun(self.cache, self.network, self._watch, self.mix))
        run.cache = self.cache
        with run.at(k, looks):
            return super().asked(k, way)

    def _watch(self, g: int, k: int, past: Past, feature: Feature, entry: Tensor | None) -> None:
        """Sums of inner products: of a row that is looked at, or of all pairs where nothing is left out."""
        if not self.left_out.any():
            found = inner_products([feature, *past.features])[0]
            with self._alone:
                for j, value in enumerate(found):
                    self.every[g][k, k - j] += value
                    self.every[g][k - j, k] = self.every[g][k, k - j]
        elif self.left_out[k, g] and self.mix:
            part = Mixing.of(past, feature, entry, self.cache.window)
            with self._alone:
                self._here[g] = part if g not in self._here else self._here[g] + part
        elif self.left_out[k, g]:
            found = inner_products([*past.features, feature])
            with self._alone:
                self._here[g] = self._here.get(g, 0.0) + found


def played(path: OnPolicy) -> Tableau:
    """A table through which all samples have gone by its own lines."""
    for k in range(path.table.nfe):
        path.call(k)
        path.advance(k, path.table.W[k])
    return path.table
