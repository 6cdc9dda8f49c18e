"""Which rows of a table can ask the network together: rows whose inputs need no output that was made since the first of them.

The stages of a step that start from one carry and from outputs of earlier steps are such rows. One network call of K inputs
takes the time of one and the work of K, where the machine has room for it; the numbers are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

CARRY, INPUT, M = 0, 1, 2


def together(table: Any) -> tuple[int, ...]:
    """How many rows each network call can ask for, first to last; all 1 for solvers that know no such rows.

    A row is followed by another of the same call if that one's input has no weight on outputs of the call, by whatever way,
    and nothing is drawn between them.
    """
    sizes: list[int] = []
    while (start := sum(sizes)) < table.nfe:
        fed = [False, False]  # whether carry and input contain an output of this call
        k = start
        while k + 1 < table.nfe and not table.draws(k):
            fed = [_reads(table, k, line, fed, k - start + 1) for line in (CARRY, INPUT)]
            if fed[INPUT]:
                break
            k += 1
        sizes.append(k - start + 1)
    return tuple(sizes)


def since(table: Any) -> np.ndarray:
    """(nfe,) of every row: how many of the newest outputs the next input may not read, as it is asked together with them."""
    sizes = together(table)
    return np.concatenate([[*range(1, n), 0] for n in sizes]).astype(int)


def _reads(table: Any, k: int, line: int, fed: list[bool], own: int) -> bool:
    """Whether a line of row k has weight on one of the `own` newest outputs, or on a register that contains one."""
    W = table.W[k, line]
    by_state = any(fed[i] and bool(np.any(W[i])) for i in (CARRY, INPUT))
    F = np.zeros(1) if table.filters is None else table.filters[k]
    by_filter = bool(np.any(F[1 : 1 + own])) or (fed[INPUT] and bool(np.any(F[0])))
    return by_state or by_filter or bool(np.any(W[M : M + min(own, table.history)]))
