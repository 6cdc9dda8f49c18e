"""Empirical model statistics: the coefficients l, s, b of DPM-Solver-v3 as functions of lam, one of each per element.

The network enters as N = sigma eps - l x, and f = N / alpha is taken to change along the flow as f' = s f + b does. All
three lie on nodes in lam; between them they are cubic splines, which are linear in the values at the nodes: the spline
through each unit vector gives weights, and weights times values give every element at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fewstep.lazy import optional
from fewstep.output.seal import OPEN, SEAL, check_tensors, whole_tensors
from fewstep.samplers.schedule.base import Array

FORMAT, VERSION = "fewstep.statistics", 1
NAMES = ("lam", "l", "s", "b")
EVERYWHERE = (-64.0, 64.0)  # lam of statistics that are the same at all times
SLACK = 1e-6  # nodes outside the range by less are at its end


@dataclass(frozen=True, eq=False)
class Statistics:
    """l, s and b on nodes in lam = log(alpha / sigma), float64; shape () where all elements are equal.

    Args:
        lam: (K,), increasing, K >= 2. l, s, b: (K, *shape), shape that of one sample (with 1 for an axis along which it
            does not vary). metadata: what they were estimated from, JSON.

    They belong to one model, guidance and resolution. `data_prediction()` and `noise_prediction()` are the cases in which
    DPM-Solver-v3 is DPM-Solver++ and DPM-Solver.

    Raises:
        ValueError: shapes that differ, nodes that do not increase, values that are not finite.

    Reference: DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics; Zheng, Lu, Chen, Zhu; 2023;
    arXiv:2310.13268.
    """

    lam: Array
    l: Array  # noqa: E741
    s: Array
    b: Array
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in NAMES:
            try:
                value = np.array(getattr(self, name), np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"statistics: `{name}` must be an array of numbers") from None
            if not np.isfinite(value).all():
                raise ValueError(
                    f"statistics: `{name}` has {int((~np.isfinite(value)).sum())} values that are not finite"
                )
            object.__setattr__(self, name, value)
        if self.lam.ndim != 1 or len(self.lam) < 2 or (np.diff(self.lam) <= 0).any():
            raise ValueError(
                f"statistics: `lam` must be at least 2 increasing numbers, from noise to data; got shape {self.lam.shape}"
            )
        for name in ("l", "s", "b"):
            got = getattr(self, name).shape
            if got != self.l.shape or got[:1] != self.lam.shape:
                raise ValueError(
                    f"statistics: l, s and b must all be (K, *shape), one row a node of the {len(self.lam)} in `lam`; got "
                    f"l {self.l.shape}, s {self.s.shape}, b {self.b.shape}"
                )

    @classmethod
    def data_prediction(cls) -> Statistics:
        """(l, s, b) = (1, 0, 0): N = -alpha x0, DPM-Solver++."""
        return cls._constant(1.0, 0.0, 0.0)

    @classmethod
    def noise_prediction(cls) -> Statistics:
        """(l, s, b) = (0, -1, 0): N = sigma eps, DPM-Solver."""
        return cls._constant(0.0, -1.0, 0.0)

    @classmethod
    def _constant(cls, *values: float) -> Statistics:
        l, s, b = (np.full(2, value) for value in values)  # noqa: E741
        return cls(np.array(EVERYWHERE), l, s, b)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, or () where all elements are equal."""
        return self.l.shape[1:]

    @cached_property
    def form(self) -> str | None:
        """ "x0" or "eps" where N is that up to a factor known beforehand, else None."""
        for name, one in (("x0", (1.0, 0.0, 0.0)), ("eps", (0.0, -1.0, 0.0))):
            if not self.shape and all((getattr(self, n) == v).all() for n, v in zip("lsb", one, strict=True)):
                return name
        return None

    @cached_property
    def biased(self) -> bool:
        """Whether b differs from 0 anywhere."""
        return bool(self.b.any())

    @cached_property
    def _splines(self) -> tuple[Any, Any]:
        """The splines through unit vectors and their integrals: lam -> weights (..., K)."""
        with optional("statistics of a model"):
            from scipy.interpolate import CubicSpline

        spline = CubicSpline(self.lam, np.eye(len(self.lam)))
        return spline, spline.antiderivative()

    def value(self, name: str, lam: ArrayLike) -> Array:
        """l, s or b at lam (n,): (n, *shape)."""
        return np.asarray(np.tensordot(self._splines[0](np.asarray(lam, np.float64)), getattr(self, name), 1))

    def integral(self, name: str, start: float, lam: ArrayLike) -> Array:
        """The integral of l, s or b from `start` to each lam (n,): (n, *shape)."""
        weights = self._splines[1](np.asarray(lam, np.float64)) - self._splines[1](start)
        return np.asarray(np.tensordot(weights, getattr(self, name), 1))

    def inside(self, lam: Array) -> bool:
        """Whether all lam lie within the nodes."""
        return bool(lam.min() >= self.lam[0] - SLACK and lam.max() <= self.lam[-1] + SLACK)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, whole or not at all; `load` gives the same numbers back to the last bit."""
        from safetensors.numpy import save_file

        about = {"format": FORMAT, "version": str(VERSION), "metadata": json.dumps(dict(self.metadata)), SEAL: OPEN}
        with whole_tensors(path) as part:
            save_file({name: np.ascontiguousarray(getattr(self, name)) for name in NAMES}, part, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Statistics:
        """Read what `save` wrote. ValueError for another kind of file, a changed or a newer one; FileNotFoundError for none."""
        from safetensors import SafetensorError, safe_open

        check_tensors(path, remedy="Copy it again, or estimate the statistics again")
        try:
            with safe_open(path, "numpy") as file:
                about, arrays = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
            told, version = json.loads(about.get("metadata", "{}")), int(about.get("version", 1))
        except (SafetensorError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a statistics file: {error}") from error
        if about.get("format") != FORMAT or set(arrays) != set(NAMES):
            raise ValueError(
                f"{path} holds no statistics: expected a file written by Statistics.save, with lam, l, s and b"
            )
        if version > VERSION:
            raise ValueError(f"{path} was saved by a newer fewstep (statistics version {version}); upgrade it")
        return cls(**arrays, metadata=told)
