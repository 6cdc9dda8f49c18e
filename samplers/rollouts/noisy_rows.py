"""What a table's noise does to its states: a row as a Gaussian transition, and the network calls that its mean depends on.

Row k of a table is linear in its noises, so that given what came before it the next state is

    x_{k+1} ~ N(mean_k, c_k^2),     c_k^2 = sum_i W_k[input, z_i]^2,

and its anchor moves along with what the state shows of the noise: by s_k (x_{k+1} - mean_k), s_k = W_k[carry, z] / c_k.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from fewstep.samplers.table.tableau import Tableau

ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class NoisyRows:
    """rows: those with noise, in order. deviations: c, (nfe, *shape of the weights), 0 where there is none. shares: s."""

    rows: tuple[int, ...]
    deviations: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, table: Tableau) -> NoisyRows:
        """Those of a table.

        Raises:
            ValueError: a table without noise; noise that is not Gaussian, or that the next state does not show.
        """
        first = 2 + table.history
        weights = table.W[:, :, first : first + table.slots]
        anchor, state = weights[:, 0], weights[:, 1]
        c = np.sqrt((state**2).sum(1))
        rows = tuple(k for k in range(table.nfe) if table.draws(k))
        if not rows:
            raise ValueError(
                f"{table.name} draws no noise on these steps, so that its states have no density: take a stochastic solver "
                "(ddpm, dpmpp_2m_sde, flow_sde), or give this one noise where it has an option for it, e.g. eta=1 of ddim"
            )
        size = np.where(c > 0, c, 1.0)
        shares = (anchor * state).sum(1) / size**2
        hidden = np.abs(anchor - shares[:, None] * state) > ROUNDING * size[:, None]
        for k in rows:
            _check_row(table, k, bool((c[k] == 0).any() or hidden[k].any()))
        return cls(rows, c, shares)


def _check_row(table: Tableau, k: int, unseen: bool) -> None:
    """ValueError for a row whose state does not tell its noise, and for noise that has another law."""
    if unseen:
        raise ValueError(
            f"{table.name}: row {k} adds noise that its next state does not show, so that this state has no density of its "
            "own: take a solver whose rows have one noise each, such as dpmpp_2m_sde"
        )
    if table.schedule.jump_scale is not None and any(draw.path for draw in table.draws(k)):
        raise ValueError(
            f"{table.name}: the noise of row {k} is not Gaussian on {type(table.schedule).__name__}: take a solver that "
            "does not jump back up there"
        )


def needed(table: Tableau, noisy: NoisyRows, rows: Collection[int], known: bool) -> set[int]:
    """The network calls that the means of `rows` depend on, where the states after noisy rows are known, or all (`known`)."""
    carry: set[int] = set()
    seen: set[int] = set()
    outputs: list[set[int]] = []
    asked: set[int] = set()
    for k in range(table.nfe):
        outputs = [{k} | seen, *outputs][: table.history]
        W = np.abs(table.W[k]).reshape(2, table.registers, -1).max(-1)
        registers = [carry, seen, *outputs]
        after, anchor = (_union(r for r, w in zip(registers, line, strict=False) if w) for line in (W[1], W[0]))
        same = np.array_equal(table.W[k, 0], table.W[k, 1])
        if table.filters is not None:
            after = after.union(*registers[1:])
        if k in rows:
            asked |= after
        if k in noisy.rows or known:
            carry = set() if same else anchor | (after if np.any(noisy.shares[k]) else set())
            seen = set()
        else:
            carry, seen = after if same else anchor, after
    return asked


def _union(sets: Iterable[set[int]]) -> set[int]:
    found: set[int] = set()
    return found.union(*sets)
