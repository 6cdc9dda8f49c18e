"""Maximum mean discrepancy of two sets in one pass over blocks of the kernel, with the standard error of each side.

    MMD^2(P, Q) = E k(x, x') + E k(y, y') - 2 E k(x, y)

Given the y's, the unbiased estimate is, up to a constant, the mean over pairs i != j of

    h(x_i, x_j) = k(x_i, x_j) - f(x_i) - f(x_j),     f(x) = mean_j k(x, y_j),

a U-statistic of order two, whose variance for m samples is known in closed form:

    Var = [ 4 (m - 2) zeta_1 + 2 zeta_2 ] / (m (m - 1)),   zeta_1 = Var E(h | x),   zeta_2 = Var h.

Both are estimated without bias from the row sums and the sum of squares of h. Where the y's are a sample too their variance,
given the x's, is added, and what both have of the cross term is taken off once:

    Var = Var_x + Var_y - 4 zeta_xy / (m n),   zeta_xy = Var( k(x, y) - f(x) - g(y) ).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fewstep.eval.metrics.blocks import Blocks, half_tiles, tiles

Kernel = Callable[[Tensor, Tensor], Tensor]  # float64 (a, d), (b, d) -> (a, b)


@dataclass(frozen=True)
class Side:
    """One set's part of the discrepancy, given the other set.

    Attributes:
        mean: of h over pairs of different samples.
        error: its standard error.
        influence: (m,) what each sample adds to the mean, to first order; its own mean is 0.
        diagonal: mean of k(x, x).
    """

    mean: float
    error: float
    influence: Tensor
    diagonal: float


@dataclass(frozen=True)
class Discrepancy:
    """MMD^2 of x and y; `cross` is the mean of k(x, y), and `mixed` the variance of what k(x, y) is beyond f(x) + g(y)."""

    x: Side
    y: Side
    cross: float
    mixed: float

    @property
    def unbiased(self) -> float:
        """The U-statistic; it may be negative."""
        return self.x.mean + self.y.mean + 2 * self.cross

    @property
    def error(self) -> float:
        """Standard error of `unbiased`, of both sides' sampling."""
        shared = 4 * self.mixed / (len(self.x.influence) * len(self.y.influence))
        one, other = self.x.error**2, self.y.error**2
        return max(one + other - shared, one, other) ** 0.5

    @property
    def biased(self) -> float:
        """The V-statistic: the means are over all pairs, a sample with itself among them."""
        within = 0.0
        for side in (self.x, self.y):
            m = len(side.influence)
            within += ((m - 1) * (side.mean + 2 * self.cross) + side.diagonal) / m
        return within - 2 * self.cross


def discrepancy(x: Blocks, y: Blocks, kernel: Kernel) -> Discrepancy:
    """MMD^2 from all pairs of rows; each set needs at least four."""
    f_x, f_y, shift, squares = x.filled(0), y.filled(0), None, 0.0
    for i, j, k in tiles(x, y, kernel):
        f_x[i] += k.sum(1) / len(y)
        f_y[j] += k.sum(0) / len(x)
        shift = k.mean() if shift is None else shift  # no digits are lost in what follows
        squares += float((k - shift).square().sum())
    mean, pairs = f_x.mean(), len(x) * len(y)
    of_pairs = squares / pairs - float((mean - (shift if shift is not None else 0)) ** 2)
    mixed = of_pairs - float(f_x.var(correction=0) + f_y.var(correction=0))
    unbiased_mixed = max(mixed, 0.0) * pairs / ((len(x) - 1) * (len(y) - 1))
    return Discrepancy(_side(x, f_x, kernel), _side(y, f_y, kernel), float(mean), unbiased_mixed)


def _side(x: Blocks, f: Tensor, kernel: Kernel) -> Side:
    m, row = len(x), x.filled(0)
    squares: Tensor | float = 0.0
    diagonal: Tensor | float = 0.0
    for i, j, k in half_tiles(x, kernel):
        h = k - f[i, None] - f[None, j]
        if i == j:
            diagonal = diagonal + k.diagonal().sum()
            h.fill_diagonal_(0)
        else:
            row[j] += h.sum(0)
        row[i] += h.sum(1)
        squares = squares + (1 if i == j else 2) * h.square().sum()
    squares, diagonal = float(squares), float(diagonal)  # once, and not a tile
    pairs = m * (m - 1)
    mean = float(row.sum()) / pairs
    row -= (m - 1) * mean  # sums of h - mean: no variance changes, and no digits are lost below
    squares -= pairs * mean**2
    return Side(mean, _variance(row, squares) ** 0.5, 2 * row / (m - 1), diagonal / m)


def _variance(row: Tensor, squares: float) -> float:
    """Variance of the mean of centred h from its row sums and the sum of its squares (over i != j)."""
    m, rows = len(row), float(row.square().sum())
    triples = m * (m - 1) * (m - 2)
    apart = (2 * squares - 4 * rows) / (triples * (m - 3))  # mean of h_ij h_kl with all four different: (E h)^2
    zeta_1 = max((rows - squares) / triples - apart, 0.0)  # mean of h_ij h_ik; below 0 by chance where it is about 0
    zeta_2 = max(squares / (m * (m - 1)) - apart, 0.0)
    return (4 * (m - 2) * zeta_1 + 2 * zeta_2) / (m * (m - 1))


def unbiased(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """MMD^2 of two small sets, without an error."""
    return _within(x, kernel) + _within(y, kernel) - 2 * float(kernel(x, y).mean())


def _within(x: Tensor, kernel: Kernel, block: int = 256) -> float:
    """Mean of k over pairs of different rows; each block meets itself and what follows it, which counts twice."""
    total = 0.0
    for i in range(0, len(x), block):
        k = kernel(x[i : i + block], x[i:])
        itself = k[:, : len(k)]
        total += float(2 * k.sum() - itself.sum() - itself.diagonal().sum())
    return total / (len(x) * (len(x) - 1))
