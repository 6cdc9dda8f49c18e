"""How learning is going: a line on a terminal that rewrites itself, elsewhere one every ten seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from fewstep.samplers.learned.tasks.learner_task import Progress

EVERY = 10.0  # seconds between plain lines


def line(p: Progress) -> str:
    """stage, step, and the error of the best table so far beside that of the first."""
    return (
        f"nfe {p.table.nfe}, {p.stage} {p.step}/{p.steps}: error {p.best:.4g} (first {p.base:.4g}), "
        f"{p.spent:,} evaluations, {p.seconds:.0f} s"
    )


@contextmanager
def shown(progress: bool | Callable[[Progress], Any]) -> Iterator[Callable[[Progress], Any] | None]:
    """What `Task.tell` is: the callable given, a display for True, None for False."""
    if callable(progress) or not progress:
        yield progress or None
        return
    terminal = sys.stderr.isatty()
    bar = tqdm(bar_format="{desc}", leave=False, disable=not terminal)
    spoken, stage = -EVERY, ""

    def tell(p: Progress) -> None:
        nonlocal spoken, stage
        if terminal:
            bar.set_description_str(line(p))
        elif p.seconds - spoken >= EVERY or p.stage != stage:
            print(line(p), file=sys.stderr, flush=True)
            spoken, stage = p.seconds, p.stage

    try:
        yield tell
    finally:
        bar.close()
