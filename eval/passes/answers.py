"""Whether features that were kept are of the network that draws now: what it answers is kept beside them.

Weights do not tell: the scale of an adapter, or any attribute of Python, changes the images and no tensor. Answers of one
network differ by the rounding of machines, so they are compared and not hashed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fewstep.eval.gaussian.arrayfile import arrays_in, write_arrays
from fewstep.output.seal import Damaged

APART = 5e-3  # of their size, between answers of one network on two machines


def check_answers(path: Path, answers: np.ndarray | None) -> None:
    """Keep the answers in a file, or compare them with those that lie there. ValueError: they are another network's."""
    if answers is None:
        return
    if not path.exists():
        write_arrays(path, {"answers": answers})
        return
    remedy = f"Remove {path.parent}: its images are drawn again"
    before = arrays_in(path, remedy=remedy).get("answers")
    if before is None or before.dtype.kind != "f":
        raise Damaged(f"{path} does not hold the answers of a network. {remedy}")
    if before.shape != answers.shape or np.abs(before - answers).max() > APART * np.abs(before).max():
        raise ValueError(
            f"{path.parent} holds what another network drew: this one has its weights and answers otherwise (an adapter's "
            "scale, an attribute). Give another folder to resume in"
        )
