"""Explicit Runge-Kutta methods by their tables, for dy/dG = f(y, G) over a step from G_s to G_t = G_s + d:

y_i = y_s + d sum_{j<i} a_ij f_j,     f_i = f(y_i, G_s + c_i d),     y_t = y_s + d sum_j b_j f_j.

0    |
c_2  | a_21
c_3  | a_31  a_32
-----+----------------
     | b_1   b_2   b_3
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Weights = tuple[float, ...]
Y = TypeVar("Y")
F = TypeVar("F")


@dataclass(frozen=True)
class Butcher:
    """A method: its order, nodes c, rows a (the first is empty) and b.

    error: of an embedded pair, b less the weights of the method of one order less; its last slope may be that at the end
    of the step, with which the next one begins.
    """

    order: int
    c: Weights
    a: tuple[Weights, ...]
    b: Weights
    error: Weights = ()

    @classmethod
    def of(cls, order: int, rows: Sequence[Sequence[float]]) -> Butcher:
        """The method of rows a_2 .. a_s, then b, whose nodes are the sums of the rows."""
        *inner, last = (tuple(row) for row in rows)
        nodes = tuple(min(1.0, sum(row)) for row in inner)  # rounding may lead beyond the step
        return cls(order, (0.0, *nodes), ((), *inner), last)

    @property
    def stages(self) -> int:
        """Evaluations of one step."""
        return len(self.c)

    @property
    def lines(self) -> tuple[Weights, ...]:
        """Where each slope leads: the rows of the later stages, then b."""
        return (*self.a[1:], self.b)

    def slopes(
        self, move: Callable[[Weights, list[F]], Y], slope: Callable[[Y, float], F], first: F | None = None
    ) -> tuple[list[F], Y]:
        """(the slopes of one step, the state of its last stage).

        move: (a_i, slopes so far) -> y_i, whatever a state is. slope: (y_i, c_i) -> f_i. first: f_1 where it is known
        and there are more.
        """
        found, start = ([], 0) if first is None else ([first], 1)
        for c, row in zip(self.c[start:], self.a[start:], strict=True):
            state = move(row, found)
            found.append(slope(state, c))
        return found, state


BUTCHER: dict[str, Butcher] = {
    "euler": Butcher.of(1, [[1.0]]),
    "heun": Butcher.of(2, [[1.0], [1 / 2, 1 / 2]]),
    "midpoint": Butcher.of(2, [[1 / 2], [0.0, 1.0]]),
    "ralston": Butcher.of(2, [[2 / 3], [1 / 4, 3 / 4]]),
    "kutta3": Butcher.of(3, [[1 / 2], [-1.0, 2.0], [1 / 6, 4 / 6, 1 / 6]]),
    "heun3": Butcher.of(3, [[1 / 3], [0.0, 2 / 3], [1 / 4, 0.0, 3 / 4]]),
    "ralston3": Butcher.of(3, [[1 / 2], [0.0, 3 / 4], [2 / 9, 1 / 3, 4 / 9]]),
    "houwen3": Butcher.of(3, [[8 / 15], [1 / 4, 5 / 12], [1 / 4, 0.0, 3 / 4]]),
    "ssprk3": Butcher.of(3, [[1.0], [1 / 4, 1 / 4], [1 / 6, 1 / 6, 2 / 3]]),
    "rk4": Butcher.of(4, [[1 / 2], [0.0, 1 / 2], [0.0, 0.0, 1.0], [1 / 6, 1 / 3, 1 / 3, 1 / 6]]),
}

# order 5 with an error estimate of order 4; the slope of its last stage, at the end of the step, begins the next
DORMAND_PRINCE = Butcher(
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
