"""Words that processes leave for each other in the store of their group, whatever its backend: who waits knows for whom.

TURN-RANK    the word of a process at its turn-th meeting
"""

from __future__ import annotations

import time
from typing import Any

from torch.distributed import PrefixStore, distributed_c10d

LEFT = "?"  # the word of a process that has waited in vain, until it comes again
KEPT = 4  # meetings whose words are kept: whoever failed may have left the last ones before the others came


class Absent(TimeoutError):
    """Other processes did not come."""


def everybodys(rank: int, size: int, word: str, late: float | None = None) -> list[str]:
    """The words of all, in order of rank, when all have come; late: seconds that are waited.

    Absent: some did not come. Whoever waited can meet again.
    """
    store, turn = leave_word(rank, word)
    until = None if late is None else time.monotonic() + late
    missing = [other for other in range(size) if not _came(store, f"{turn}-{other}", until)]
    if missing:
        missing = [other for other in missing if not store.check([f"{turn}-{other}"])] or missing
        store.add(f"turn-{rank}", -1)
        store.set(f"{turn}-{rank}", LEFT)
        names = ", ".join(map(str, missing))
        raise Absent(
            f"process{'es' if len(missing) > 1 else ''} {names} of {size} did not come to this evaluation within {late:g} "
            "seconds: let all evaluate, say processes='alone' where one does it by itself, or wait longer (wait=600)"
        )
    words = [store.get(f"{turn}-{other}").decode() for other in range(size)]
    store.delete_key(f"{turn - KEPT}-{rank}")
    return words


def leave_word(rank: int, word: str) -> tuple[Any, int]:
    """Leave a word for the next meeting and wait for nobody; the store, and the number of the meeting."""
    store = PrefixStore("fewstep", distributed_c10d._get_default_store())
    turn = store.add(f"turn-{rank}", 1)
    store.set(f"{turn}-{rank}", word or " ")
    return store, turn


def _came(store: Any, key: str, until: float | None) -> bool:
    """Whether a word is there, or comes in time."""
    pause = 1e-4
    while not store.check([key]) or store.get(key) == LEFT.encode():
        if until is not None and time.monotonic() > until:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    return True
