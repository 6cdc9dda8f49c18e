"""Dynamic compensation: before a step uses the newest output, it moves it along the parabola through the last three.

    m'_i = sum_n l_n(s_i) of (s_i: m_i, s_{i-1}: m'_{i-1}, s_{i-2}: m'_{i-2})  at  s' = s_{i-1} + rho_i (s_i - s_{i-1}),

and m'_i takes the place of m_i in everything that follows. Outputs so far are m' = (1 + Lambda) m, Lambda lower
triangular, so that a table with compensation is a table. rho = 1 is no compensation; the first two stay there. One number
a step can be a smooth function of step, number of steps and guidance: a `Cascade`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fewstep.samplers.artefact.corrections import CARRY, INPUT, M, widened
from fewstep.samplers.learned.methods.closed_form import OnPolicy
from fewstep.samplers.learned.playing.arithmetic import shared_lines
from fewstep.samplers.learned.problem.clock import Clock
from fewstep.samplers.learned.tasks.learner_entry import method
from fewstep.samplers.learned.tasks.task import Task, enough
from fewstep.samplers.schedule.base import Array
from fewstep.samplers.table.tableau import Tableau

DC = "DC-Solver: Improving Predictor-Corrector Diffusion Sampler via Dynamic Compensation; Zhao et al.; 2024; arXiv:2409.03755"  # noqa: E501
POWERS = (4, 3, 3)  # of a cascade in step / nfe, guidance and nfe


class Compensation:
    """What ratios do to the rows of a table; `time`: "t" or "lam", the coordinate s.

    Raises:
        ValueError: steps of several calls, or a weight for every element.
    """

    def __init__(self, base: Tableau, time: str = "t"):
        if max(base.groups) > 1 or base.elementwise:
            what = "a weight for every element" if base.elementwise else "several calls a step"
            raise ValueError(f"dc extrapolates outputs of earlier steps, one a step; {base.name} has {what}")
        if time not in ("t", "lam"):
            raise ValueError(f'dc: `time` must be "t" or "lam"; got {time!r}')
        t, n = base.times, base.nfe
        s = t if time == "t" else Clock(base.schedule, float(t[0]), float(t[-1])).c(t)
        self.base, self._s, self._both = widened(base, n), s, shared_lines(base)
        self.free = [i for i in range(2, n) if base.forms[i] == base.forms[i - 1] == base.forms[i - 2]]
        self.moved = np.zeros((n, n))  # Lambda, over m_0 ..

    def bends(self, i: int) -> Array:
        """(2, nfe): Lambda_i = d bends[0] + d^2 bends[1] with d = rho_i - 1, given the rows before."""
        q = (self._s[i - 1] - self._s[i - 2]) / (self._s[i] - self._s[i - 1])
        one = np.eye(len(self.moved))
        newest, middle, oldest = one[i], *(one[j] + self.moved[j] for j in (i - 1, i - 2))
        return np.stack(
            [(2 + q) / (1 + q) * newest - (1 + q) / q * middle + oldest / (q * (1 + q)),
             newest / (1 + q) - middle / q + oldest / (q * (1 + q))]
        )  # fmt: skip

    def set(self, i: int, ratio: float) -> None:
        """Compensate output i, after those before it."""
        d = ratio - 1
        self.moved[i] = np.array([d, d * d]) @ self.bends(i)

    def weight(self, k: int) -> float:
        """Of m'_k in input_{k+1}, beside the state: a corrector in the carry line sees the output as it was."""
        W = self.base.W[k]
        return float(W[INPUT, M] if self._both[k] else W[INPUT, M] - self._slope(k) * W[CARRY, M])

    def _slope(self, k: int) -> float:
        """Of the corrected state in the prediction."""
        W = self.base.W[k]
        column = int(np.argmax(np.abs(W[CARRY, :M])))
        return float(W[INPUT, column] / W[CARRY, column]) if W[CARRY, column] else 0.0

    def lines(self, k: int) -> Array:
        """Row k, (2, R), on the outputs as the network gave them."""
        W = self.base.W[k].copy()
        moved = self.moved[k::-1, k::-1]  # of m'_k, m'_{k-1}, ... over m_k, m_{k-1}, ...
        outputs = slice(M, M + k + 1)
        if self._both[k]:
            W[:, outputs] += W[:, outputs] @ moved
            return W
        slope = self._slope(k)
        rest = W[INPUT, outputs] - slope * W[CARRY, outputs]
        carried = W[CARRY, M + 1 : M + k + 1] @ moved[1:]
        W[INPUT, outputs] += slope * carried + rest @ moved
        W[CARRY, outputs] += carried
        return W


def compensated(base: Tableau, ratios: Sequence[float] | Array, time: str = "t") -> Tableau:
    """A table with its newest outputs moved by ratios (nfe,); ones are the table itself, to the last bit.

    Raises:
        ValueError: another number of ratios, one that is not finite, or not 1 for one of the first two.
    """
    found = np.asarray(ratios, float)
    if found.shape != (base.nfe,) or not np.isfinite(found).all() or (found[:2] != 1).any():
        raise ValueError(f"dc: expected {base.nfe} finite ratios, one a step, the first two 1; got {ratios!r}")
    if (found == 1).all():
        return base
    way = Compensation(base, time)
    for i in way.free:
        way.set(i, float(found[i]))
    return replace(way.base, W=np.stack([way.lines(k) for k in range(base.nfe)]))


def learned_ratios(task: Task, start: Tableau, time: str = "t", bounds: tuple[float, float] = (0.5, 1.5)) -> Array:
    """(nfe,) ratios, one after the other so that the next state comes closest to the teacher's; no call beyond the run's.

    With d = rho - 1 the distance |r - w (d a + d^2 c)|^2 is a polynomial of degree four: its least point is among the roots
    of its derivative and the bounds.
    """
    way, plan = OnPolicy(task, start, "dc"), Compensation(start, time)
    enough(len(plan.free), task.train, "dc")
    ratios = np.ones(start.nfe)
    for k in range(start.nfe):
        way.call(k)
        if k in plan.free:
            toward = plan.weight(k) * plan.bends(k)[:, k::-1]
            found = way.products(k, plan.lines(k), toward)
            (aa, ac), (_, cc) = found.regressors.sum(0)
            a, c = found.missing.sum(0)
            ratios[k] = 1 + _least(np.array([cc, 2 * ac, aa - 2 * c, -2 * a, 0.0]), bounds[0] - 1, bounds[1] - 1)
            plan.set(k, ratios[k])
        way.advance(k, plan.lines(k))
    return ratios


def _least(polynomial: Array, low: float, high: float) -> float:
    """Where a polynomial, highest power first, is least in [low, high]; 0 where nothing is less."""
    roots = np.roots(np.polyder(polynomial))
    inside = [float(z.real) for z in roots if abs(z.imag) < 1e-9 * max(1.0, abs(z)) and low < z.real < high]
    return min([0.0, low, high, *sorted(inside)], key=lambda d: float(np.polyval(polynomial, d)))


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
    fitted = np.linalg.lstsq(powers, values, rcond=1e-10)[0].reshape(POWERS)
    nested = tuple(tuple(tuple(map(float, row)) for row in plane) for plane in fitted)
    return Cascade(nested, **ranges)


@method("dc", learns=("coef",), reference=DC)
def dc(
    task: Task,
    start: Tableau,
    *,
    time: str = "t",
    bounds: tuple[float, float] = (0.5, 1.5),
    cascade: Cascade | Mapping[str, Any] | None = None,
) -> Tableau:
    """Dynamic compensation: one ratio a step by which the newest output is moved along the parabola of the last three.

    Args:
        task: Task. start: deterministic table of one call a step. time: coordinate of the parabola, "t" (that of the
            schedule, as published for discrete ones) or "lam". bounds: of the ratios.
        cascade: Cascade or its content: the ratios are its own for the problem's guidance, and nothing is learned.

    Raises:
        ValueError: an option outside its range, steps of several calls, noise, fewer samples than ratios.

    Reference: DC-Solver: Improving Predictor-Corrector Diffusion Sampler via Dynamic Compensation; Zhao, Wang, Zhou, Lu;
    2024; arXiv:2409.03755. Exact minima, of distances to the teacher at the next node, in place of gradient descent.
    """
    if not (len(bounds) == 2 and -np.inf < bounds[0] <= 1 <= bounds[1] < np.inf):
        raise ValueError(f"dc: `bounds` must be two finite numbers around 1, such as (0.5, 1.5); got {bounds!r}")
    if cascade is None:
        ratios = learned_ratios(task, start, time, (float(bounds[0]), float(bounds[1])))
    else:
        known = cascade if isinstance(cascade, Cascade) else Cascade(**cascade)
        guidance = task.problem.guidance
        if guidance is None and known.guidance[0] < known.guidance[1]:
            low, high = known.guidance
            raise ValueError(f"dc: the cascade depends on guidance, {low:g} to {high:g}: say which, guidance=")
        ratios = known.ratios(start.nfe, known.guidance[0] if guidance is None else guidance)
    table = compensated(start, ratios, time)
    if table is not start:
        task.offer(table)
    return table
