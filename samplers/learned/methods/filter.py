"""filter: a small convolution of the state and past outputs as one more term of every row, down the gradient of the error.

What no weights can reach, as they act on a picture as a whole. A few hundred to a few thousand numbers, no network calls more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from fewstep.checks import whole
from fewstep.samplers.learned.descent.curvature import even as evened
from fewstep.samplers.learned.descent.descent import descend
from fewstep.samplers.learned.descent.objectives import DescentOptions
from fewstep.samplers.learned.descent.stages import Rates, follows
from fewstep.samplers.learned.parameters.filters import Filters
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.tasks.learner_entry import learner
from fewstep.samplers.learned.tasks.learner_task import Task, enough
from fewstep.samplers.table.tableau import Tableau


@learner(
    "filter",
    learns=("grid", "coef", "tau", "filter"),
    gradients=True,
    reference="Learning to Solve Generative ODEs Beyond the Linear Span; Kim, Lee, Singh, Kim; 2026; arXiv:2606.08672; here "
    "linear, each channel by itself",
)
def filter(  # noqa: A001
    task: Task,
    start: Tableau,
    *,
    size: int = 5,
    window: int = 3,
    shared: bool = False,
    free: Sequence[str] = ("grid", "coef", "tau", "state"),
    loss: Any = "mixed",
    steps: int = 150,
    batch: int = 16,
    lr: Rates = None,
    even: int = 16,
    remember: bool = True,
) -> Tableau:
    """Depthwise filters of `size` x `size` over a row's input and its `window` newest outputs, beside the other knobs.

    A run with filters goes on as any other, in `sample`, `Scheduler` and `adjoint`; it cannot be moved to another schedule, nor
    be corrected by methods after this one.

    Args:
        size: odd. window: outputs read. shared: one filter for all channels. free: other knobs that are turned with them, see
            `Knobs`; () for none. loss, steps, batch, lr, even, remember: see `DescentOptions`.

    Raises:
        ValueError: samples that are no images (C, H, W), an even size, fewer training samples than numbers to be fitted, each
            sample counted once for every place in it.
    """
    shape = task.problem.shape
    whole("size", size, hint="It is the side of a filter")
    whole("window", window, hint="It counts outputs")
    if len(shape) != 3 or min(shape[1:]) < size or size % 2 == 0:
        raise ValueError(
            f"filter needs samples that are images (C, H, W), H and W at least `size`, which is odd; got samples of shape "
            f"{shape} and size {size!r}. Other samples: joint, or epd"
        )
    if start.elementwise:
        raise ValueError(f"{start.name}: a table with a weight for every element takes no filters; take a scalar one")
    if not follows(task, "filter"):
        return start
    bare = replace(start, filters=None) if start.filters is not None else start
    knobs = Knobs(bare, task.problem.prediction, tuple(free), start.nfe, consistent=False)
    if even and knobs.parameters:
        evened(task, knobs, even)
    every = Filters(start, knobs, window, 1 if shared else shape[0], size)
    enough(knobs.count + -(-every.parameters["filter"].numel() // prod(shape[1:])), task.train, "method 'filter'")
    recipe = DescentOptions(loss=loss, steps=steps, batch=batch, lr=lr, remember=remember)
    until = None if task.seconds is None else time.monotonic() + task.seconds
    return descend(task, every, recipe, tag="filter", until=until)
