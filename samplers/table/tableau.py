"""A solver is a table.

Registers: `carry` (anchor state), `input` (what the network sees next), the last outputs m_k, m_{k-1}, ... (converted to
the row's form), the noises z of the row and optionally one constant. After network call k

    m_k            = p_k * input + q_k * output
    [carry, input] = W_k @ [carry, input, m_k .. m_{k-H+1}, z_1 .. z_Z, const]  (+ a small filter of input and m, where learned)

A solver family writes rows with `Row`; `Tableau.from_rows` packs them into W (nfe, 2, R), float64, and proves on the spot
what its family claims to conserve. The sample is `input` after the last row. Entries may be arrays of one sample's shape;
W is (nfe, 2, R, *shape) then. A noise is an increment of a Brownian path in lam, so that every way of drawing it agrees
on what it belongs to. The constant is the mu of a process that has one, else 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from fewstep.lazy import door
from fewstep.samplers.blocks.block_cache import BlockCache
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.schedule.base import Node, Nodes, NoiseSchedule
from fewstep.samplers.schedule.outputs import Form
from fewstep.samplers.table.consistency import check_filters, check_rows, prove
from fewstep.samplers.table.jumps import jump_of, target_times
from fewstep.samplers.table.packing import pack
from fewstep.samplers.table.row import Row


@dataclass(frozen=True, eq=False)
class Tableau:
    """A compiled solver: rows of coefficients in float64, self-validating, executable by `sample` and `Scheduler`.

    Attributes:
        name: solver name. schedule: the NoiseSchedule it was compiled for.
        nodes: t, alpha, sigma, lam of every network input and, last, of the returned sample; arrays (nfe + 1,).
        model_times: (nfe,) what the network is shown. W: (nfe, 2, R, *shape).
        forms: (nfe,) what each m_k is: "x0", "eps", "flow" or a pair of arrays (a third: of the score). history: H. slots: Z.
        constant: has a const register. spans: (nfe, Z, 3), start, end and path of every noise; NaN where a row has none.
        conserves: which parts of alpha X + sigma E every row keeps exactly: "x0 eps", "x0" or "".
        order: convergence order as nfe grows (weak order where there is noise).
        filters: (nfe, 1 + window, C or 1, k, k) of input, m_k, m_{k-1}, ...: what a row adds to its input line, and to carry
            where that is the same, each channel convolved by itself (run/step.py); None but for learned tables.
        cache: which rows leave which blocks of the network out, and what stands for these; None but for learned tables.
        begins: what x_T is multiplied by to be the first state: sigma there over that of x_T, where a table begins later.
        groups: network calls of each nominal step. jumps: {step: node where it lands before noise takes it up to the
            next one}.
    """

    name: str
    schedule: NoiseSchedule
    nodes: Nodes
    model_times: np.ndarray
    W: np.ndarray
    forms: tuple[Form, ...]
    order: int
    history: int
    slots: int = 0
    constant: bool = False
    groups: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    spans: np.ndarray | None = None
    conserves: str = "x0 eps"
    jumps: Mapping[int, Node] = field(default_factory=dict)
    filters: np.ndarray | None = None
    cache: BlockCache | None = None
    begins: float = 1.0
    amplification: float = field(init=False, repr=False, default=1.0)
    compiled_by: ClassVar[Any] = None  # the solver's entry, where a table is as that made it; see building/resuming.py

    @classmethod
    def from_rows(
        cls,
        name: str,
        schedule: NoiseSchedule,
        rows: Sequence[Row],
        end: Node,
        *,
        order: int,
        groups: Sequence[int],
        model_times: Sequence[float] | np.ndarray | None = None,
        options: Mapping[str, Any] | None = None,
        conserves: str = "x0 eps",
        jumps: Mapping[int, Node] | None = None,
    ) -> Tableau:
        """Pack rows into W. end: the node of what is returned; order, groups, ... as above."""
        packed = pack(rows, schedule, end)
        nodes = Nodes(*(np.array([getattr(n, f) for n in (*(r.at for r in rows), end)], float) for f in Nodes._fields))
        if model_times is None:
            model_times = schedule.model_time(nodes.t[:-1])
        return cls(
            name, schedule, nodes, np.asarray(model_times, float), packed.W, tuple(r.form for r in rows), order,
            packed.history, packed.slots, packed.constant, tuple(groups), dict(options or {}),
            packed.spans if packed.slots else None, conserves, dict(jumps or {}),
        )  # fmt: skip

    def __post_init__(self) -> None:
        check_rows(self)
        if self.filters is not None:
            check_filters(self)
        object.__setattr__(self, "amplification", prove(self))

    @property
    def nfe(self) -> int:
        """Network evaluations: one a row."""
        return len(self.forms)

    @property
    def cost(self) -> float:
        """What it costs, in evaluations of the whole network: `nfe`, less where rows leave blocks of it out."""
        return float(self.nfe) if self.cache is None else float(self.cache.costs.sum())

    @property
    def times(self) -> np.ndarray:
        """(nfe + 1,) times of the network inputs and of the result, in the schedule's unit."""
        return self.nodes.t

    @property
    def registers(self) -> int:
        """R, columns of W."""
        return 2 + self.history + self.slots + self.constant

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        forms = (part for form in self.forms if not isinstance(form, str) for part in form)
        arrays = (*self.nodes, self.model_times, self.W, self.spans, self.filters, *forms)
        own = 0 if self.cache is None else self.cache.nbytes
        return own + sum(int(np.asarray(array).nbytes) for array in arrays if array is not None)

    @property
    def elementwise(self) -> bool:
        """Whether weights differ between the elements of a sample."""
        return self.W.ndim > 3

    @cached_property
    def stochastic(self) -> bool:
        """Whether any row draws noise."""
        z = slice(2 + self.history, 2 + self.history + self.slots)
        return bool(np.any(self.W[:, :, z]))

    @cached_property
    def target_times(self) -> np.ndarray:
        """(nfe,) where each call is meant to lead, in the network's unit: the second time of a flow map."""
        return target_times(self)

    @cached_property
    def both(self) -> np.ndarray:
        """(nfe,) whether a row writes the same into carry and input."""
        return np.array([np.array_equal(lines[0], lines[1]) for lines in self.W])

    def widened(self, history: int) -> Tableau:
        """The same table with room for `history` outputs, at least as many as it has."""
        extra = history - self.history
        if extra <= 0:
            return self
        return replace(self, W=np.insert(self.W, [2 + self.history] * extra, 0.0, axis=2), history=history)

    def draws(self, k: int) -> tuple[Draw, ...]:
        """The noises that row k reads, the one after network call k."""
        if self.spans is None:
            return ()
        first = 2 + self.history
        found = tuple(
            Draw(k + 1, i, float(start), float(end), int(path))
            for i, (start, end, path) in enumerate(np.nan_to_num(self.spans[k], posinf=np.inf, neginf=-np.inf))
            if self.W[k, :, first + i].any()
        )
        if self.schedule.jump_scale is None:
            return found
        return tuple(jump_of(self, draw, len(found) == 1) for draw in found)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, the content of a saved table."""
        content: dict[str, Any] = door("fewstep.samplers.table.stored:to_dict")(self)
        return content

    def save(self, path: Any) -> None:
        """Write the table as JSON with exact float64; `fewstep.load` reads it back."""
        door("fewstep.samplers.table.stored:save")(self, path)

    def __str__(self) -> str:
        head = f"{self.name}: order {self.order}, {self.nfe} evaluations, {'SDE' if self.stochastic else 'ODE'}"
        if self.filters is not None:
            head += f"; filters of {self.filters.size} numbers, not shown"
        if self.cache is not None:
            head += f"; {self.cache}, cost {self.cost:.3g} evaluations"
        if self.elementwise:
            head += f"; weights of shape {self.W.shape[3:]}, their means shown"
        W = self.W.reshape(*self.W.shape[:3], -1).mean(-1)
        names = ["carry", "input", *(f"m[-{j}]" if j else "m" for j in range(self.history))]
        names += [f"z{i}" for i in range(self.slots)] + ["const"] * self.constant
        lines = [head, f"{'row':>3} {'t':>10} {'model t':>9} form  to    " + " ".join(f"{n:>10}" for n in names)]
        for k in range(self.nfe):
            form = self.forms[k] if isinstance(self.forms[k], str) else "own"
            same = np.array_equal(W[k, 0], W[k, 1])
            for line, label in enumerate(("carry", "input")):
                if (same or np.array_equal(W[k, 0], np.eye(self.registers)[0])) and label == "carry":
                    continue
                left = f"{k:>3} {self.times[k]:>10.6g} {self.model_times[k]:>9.5g} {form:<5} "
                cells = " ".join(f"{v:>10.6f}" if v else f"{'.':>10}" for v in W[k, line])
                lines.append(left + f"{'both' if same else label:<5} " + cells)
        return "\n".join([*lines, f"end {self.times[-1]:>10.6g}"])
