"""What a number of network evaluations is spent on, decided before the first.

With B evaluations for a table of n, samples times calls, that is the budget over the tables and guidances:

    reference     T = B / 200 steps, 60 at most and 4 n at least
    guard         0.35 B for its seeds: the reference of each, and two tables on it
    seeds         0.25 B for the reference of the others, three quarters to learn on and one to choose on
    judgement     a reference of 2 T for a few; two tables on as many training seeds as choose, and rounded to bfloat16
    screening     a fifth of what is left: grids by one solver, then solvers on the best of these grids
    iia           n a training seed, from the best recipe
    late          the same for a share, where it fits; for up to 3 from a quarter of what is left at last
    joint         25 steps in batches of 8, else left out; all that is left at last, in batches of 16 from 50 steps on
    oss           nodes x n a seed on 4 to 12 of them, and iia again, from half of what is left, else left out

Nothing goes beyond it: a stage that would is ended, and the best table up to there goes to the guard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

OVERHEAD = 40  # evaluations that look whether the network can be learned on, and of its hash
LEAST_SEEDS = 8, 8  # to learn and choose on, and of the guard
MOST_SEEDS = 256, 1024
LEAST_STEPS, MOST_STEPS = 4, 60  # of the reference: the first times nfe
GUARD, SEEDS = 0.35, 0.25  # of the budget, for the guard's seeds and for those that are learned and chosen on
FEWEST_STEPS = 25  # of joint
SMALL_BATCH, BATCH = 8, 16  # of joint
ROUNDED = 32  # samples that are also drawn in bfloat16, at most


@dataclass(frozen=True, kw_only=True)
class Means:
    """evaluations: of one guidance. seeds, guard: how many. steps: of the reference. checked: seeds of its longer run.

    screening: for each nfe, evaluations that recipes may take. auto: its options, for each nfe.
    """

    evaluations: int
    seeds: int
    guard: int
    steps: int
    checked: int
    screening: dict[int, int]
    auto: dict[int, dict[str, Any]]

    def told(self) -> dict[str, Any]:
        """As JSON."""
        return {
            **asdict(self),
            **{name: {str(n): v for n, v in getattr(self, name).items()} for name in ("screening", "auto")},
        }

    @property
    def valid(self) -> int:
        """Seeds to choose on."""
        return max(4, self.seeds // 4)

    def after(self, nfe: int) -> int:
        """Evaluations that the guard and the report of one table take, the reference of their seeds left aside."""
        return judgement(nfe, self.valid, self.guard)


def in_bfloat16(guard: int) -> int:
    """Samples that are also drawn in bfloat16."""
    return min(ROUNDED, max(2, guard // 4))


def judgement(nfe: int, valid: int, guard: int) -> int:
    """Two tables on the guard's seeds, on as many training seeds as choose, and on a few in bfloat16."""
    return 2 * nfe * (guard + valid + in_bfloat16(guard))


def least(nfes: Sequence[int], steps: int | None = None) -> int:
    """The smallest budget of one guidance: fewest seeds, shortest reference, four recipes, one stage."""
    seeds, guard = LEAST_SEEDS
    T, valid = steps or LEAST_STEPS * max(nfes), max(4, seeds // 4)
    fixed = (seeds + guard) * T + 2 * 2 * T + OVERHEAD
    return fixed + sum(judgement(n, valid, guard) + n * (4 * valid + seeds) for n in nfes)


def means(
    budget: int,
    nfes: Sequence[int],
    guidances: int,
    most: tuple[int, int] = MOST_SEEDS,
    steps: int | None = None,
    remember: bool = True,
) -> Means:
    """The rule above. most: seeds and guard's seeds there are. steps: of the reference, where they are told.

    Raises:
        ValueError: a budget too small for any stage.
    """
    B = budget // guidances
    if B < least(nfes, steps):
        raise ValueError(
            f"`budget` is {budget:,} network evaluations, and the fewest that seeds, their reference, one stage and the guard "
            f"take are {guidances * least(nfes, steps):,}: give that many, fewer `nfe`, or fewer `guidance`"
        )
    each, n = B / len(nfes), max(nfes)
    T = steps or int(max(LEAST_STEPS * n, min(each / 200, MOST_STEPS)))
    guard = min(max(LEAST_SEEDS[1], int(GUARD * B / (T + 2 * sum(nfes)))), most[1], MOST_SEEDS[1])
    seeds = min(max(LEAST_SEEDS[0], int(SEEDS * B / T)), most[0], MOST_SEEDS[0])
    valid = max(4, seeds // 4)
    checked = 2 if B < 4000 else 4 if B < 16000 else 16
    left = B - OVERHEAD - (seeds + guard) * T - 2 * checked * T - sum(judgement(n, valid, guard) for n in nfes)
    screening, auto = {}, {}
    for n in nfes:
        own = left * n // sum(nfes)
        screening[n] = max(4 * valid * n, own // 5)
        auto[n] = _stages(n, own - screening[n], seeds - valid, valid, remember)
    return Means(
        evaluations=B, seeds=seeds, guard=guard, steps=T, checked=min(checked, valid), screening=screening, auto=auto
    )


def _stages(n: int, left: int, train: int, valid: int, remember: bool) -> dict[str, Any]:
    """Options of auto for what is left of one table."""
    each = n * (train + valid)
    left -= each  # iia
    shares = int(left >= each)
    left -= shares * each
    batch = max(1, min(SMALL_BATCH, train))
    step = _step(n, batch, valid, remember)
    joint = int(FEWEST_STEPS * step)
    joint = joint if left >= joint else 0
    left -= joint
    nodes = (4 + 4 * n) * n
    search = min(12, train, int(left // 2 - each) // nodes) if n > 1 else 0
    search = search if search >= 4 else 0
    left -= (search * nodes + each) if search else 0
    more = max(0, min(3 - shares, int(left // 4 // each))) if shares else 0
    left -= more * each
    even = 8 if joint and left > 8 * 8 * n else 0
    left -= even * 8 * n
    if joint and joint + left >= 2 * FEWEST_STEPS * _step(n, min(BATCH, train), valid, remember):
        batch = min(BATCH, train)
    steps = int((joint + left) // _step(n, batch, valid, remember)) if joint else 0
    return {
        "refine": ("joint",) if joint else (), "steps": max(1, min(steps, 600)), "batch": batch, "remember": remember,
        "samples": train, "search": int(search), "shares": tuple(sorted((0.75, 1.0, 0.5)[: shares + more])), "even": even,
        "twice": False,
    }  # fmt: skip


def _step(n: int, batch: int, valid: int, remember: bool) -> float:
    """Evaluations of one step of joint, every tenth of which asks the validation seeds."""
    return n * (batch * (1 if remember else 2) + valid / 10)
