"""One row of a table, as a solver family writes it: a network call, and two lines of terms over named registers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fewstep.samplers.schedule.base import Node
from fewstep.samplers.schedule.outputs import Form

Terms = Mapping[Any, Any]  # {register: coefficient, a number or an array of one sample's shape}
CARRY, INPUT, CONST = "carry", "input", "const"
KEEP: Terms = {CARRY: 1.0}


def noise(s: Node, t: Node, path: int = 0) -> tuple[str, float, float, int]:
    """Noise register: the increment from node s to node t of the sample's Brownian path number `path`.

    Path 0 runs along the whole grid, once. Noise that goes back up (Restart) has a path of its own for every jump.
    """
    return ("z", s.lam, t.lam, path)


@dataclass(frozen=True)
class Row:
    """One network call and the two linear maps after it.

    at: node of the call. form: what the output is converted to. input, carry: terms {register: coefficient}, where a
    register is CARRY, INPUT, an int j for m_{k-j}, noise(s, t) or CONST; carry=None means "same as input".
    """

    at: Node
    form: Form
    input: Terms
    carry: Terms | None = None
