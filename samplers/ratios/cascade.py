"""Ratios of dynamic compensation as a smooth function of step, number of steps and guidance: learned once, used for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fewstep.samplers.building.compiling import build
from fewstep.samplers.ratios.compensation import compensated
from fewstep.samplers.schedule.base import Array, NoiseSchedule
from fewstep.samplers.table.tableau import Tableau

POWERS = (4, 3, 3)  # of a cascade in step / nfe, guidance and nfe


@dataclass(frozen=True)
class Cascade:
    """Ratios as a polynomial: cubic in step / nfe, quadratic in guidance and in nfe, 36 coefficients.

    coefficients: (4, 3, 3). nfe, guidance, ratio: ranges of what it was fitted to, outside which it is not used: what is
    asked for and what comes out are held within them. guidance and nfe count from -1 to 1 over their ranges.
    """

    coefficients: tuple[tuple[tuple[float, ...], ...], ...]
    nfe: tuple[int, int]
    guidance: tuple[float, float]
    ratio: tuple[float, float]

    def ratios(self, nfe: int, guidance: float) -> Array:
        """(nfe,), the first two 1."""
        found = np.ones(nfe)
        for i in range(2, nfe):
            value = float(self._powers(i, nfe, guidance) @ np.ravel(self.coefficients))
            found[i] = np.clip(value, *self.ratio)
        return found

    def _powers(self, i: int, nfe: int, guidance: float) -> Array:
        steps, scales, lengths = (np.arange(n) for n in POWERS)
        g, n = _within(guidance, self.guidance), _within(nfe, self.nfe)
        return np.einsum("i,j,k->ijk", (i / nfe) ** steps, g**scales, n**lengths).ravel()

    def content(self) -> dict[str, Any]:
        """As JSON; `Cascade(**content)` gives it back."""
        return asdict(self)


def _within(value: float, ends: tuple[float, float]) -> float:
    """-1 .. 1 within two ends, held there; 0 where they are one."""
    low, high = ends
    return float(np.clip((2 * value - low - high) / (high - low), -1, 1)) if high > low else 0.0


def cascade(lattice: Mapping[tuple[int, float], Sequence[float] | Array]) -> Cascade:
    """The least-squares cascade through ratios learned for several (nfe, guidance).

    Raises:
        ValueError: a lattice without any ratio to be fitted, or with another number of ratios than evaluations.
    """
    known = [(i, n, float(g), float(r)) for (n, g), ratios in lattice.items() for i, r in enumerate(ratios) if i >= 2]
    if not known or any(len(ratios) != n for (n, _), ratios in lattice.items()):
        raise ValueError(
            "a cascade is fitted to {(nfe, guidance): ratios}, with nfe ratios each and some nfe of at least 3; got "
            f"{ {key: len(ratios) for key, ratios in lattice.items()} } ratios"
        )
    _, n, g, values = (np.array(column) for column in zip(*known, strict=True))
    ranges: dict[str, Any] = {
        name: (v.min().item(), v.max().item())
        for name, v in zip(("nfe", "guidance", "ratio"), (n, g, values), strict=True)
    }
    empty = Cascade((), **ranges)
    powers = np.stack([empty._powers(i, n, g) for i, n, g, _ in known])
    told = _told(len({i / n for i, n, _, _ in known}), len(set(g)), len(set(n)))
    fitted = np.zeros(POWERS)
    fitted[told] = np.linalg.lstsq(powers[:, told.ravel()], values, rcond=1e-10)[0]
    nested = tuple(tuple(tuple(map(float, row)) for row in plane) for plane in fitted)
    return Cascade(nested, **ranges)


def _told(*values: int) -> Array:
    """Which powers so many different values on each axis can tell apart: two know no square, which would share the constant."""
    steps, scales, lengths = (np.arange(most) < known for most, known in zip(POWERS, values, strict=True))
    return np.asarray(steps[:, None, None] & scales[None, :, None] & lengths)


def covers(told: Mapping[str, Any] | None, nfe: Any, guidance: float | None) -> bool:
    """Whether what an artefact tells of a cascade is for so many evaluations and this guidance scale.

    told: "cascade", its content; "base", of what it moves: "solver", "options", "grid", "ends" and "time" of the parabola;
    "guided", whether guidance was part of it; "holds".
    """
    if not told or not told["holds"] or isinstance(nfe, bool) or nfe is None or not float(nfe).is_integer():
        return False
    known = Cascade(**told["cascade"])
    scale = known.guidance[0] if guidance is None else guidance
    if told["guided"] != (guidance is not None):
        return False
    return known.nfe[0] <= nfe <= known.nfe[1] and known.guidance[0] <= scale <= known.guidance[1]


def foretold(told: Mapping[str, Any], schedule: NoiseSchedule, nfe: int, guidance: float | None) -> Tableau:
    """The table of an artefact's cascade: its base solver, moved by the ratios for this place."""
    base, known = told["base"], Cascade(**told["cascade"])
    t_start, t_end = base["ends"]
    table = build(base["solver"], schedule, int(nfe), base["grid"], t_start=t_start, t_end=t_end, **base["options"])
    return compensated(table, known.ratios(int(nfe), known.guidance[0] if guidance is None else guidance), base["time"])
