"""A solver is a table.

Registers: `carry` (anchor state), `input` (what the network sees next), the last outputs m_k, m_{k-1}, ... (converted to
the row's form), the noises z of the row and optionally one constant. After network call k

    m_k            = p_k * input + q_k * output
    [carry, input] = W_k @ [carry, input, m_k .. m_{k-H+1}, z_1 .. z_Z, const]

A solver family writes rows with `Row`; `Tableau.from_rows` packs them into W (nfe, 2, R), float64, and proves on the spot
what its family claims to conserve. The sample is `input` after the last row. Entries may be arrays of one sample's shape;
W is (nfe, 2, R, *shape) then. A noise is an increment of a Brownian path in lam, so that every way of drawing it agrees
on what it belongs to. The constant is the mean of a mean-reverting process, else 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from fewstep.samplers.schedule.base import Node, Nodes, NoiseSchedule
from fewstep.samplers.schedule.outputs import Form, form_pair

Terms = Mapping[Any, Any]  # {register: coefficient, a number or an array of one sample's shape}
CARRY, INPUT, CONST = "carry", "input", "const"
KEEP: Terms = {CARRY: 1.0}


class Draw(NamedTuple):
    """A unit Gaussian of one row: W(end) - W(start), in units of its deviation, for Brownian path `path` in lam."""

    row: int  # 0 is the prologue, k + 1 the row after network call k
    slot: int
    start: float
    end: float
    path: int = 0


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


@dataclass(frozen=True, eq=False)
class Tableau:
    """A compiled solver: rows of coefficients in float64, self-validating, executable by `sample` and `Scheduler`.

    Attributes:
        name: solver name. schedule: the NoiseSchedule it was compiled for.
        nodes: t, alpha, sigma, lam of every network input and, last, of the returned sample; arrays (nfe + 1,).
        model_times: (nfe,) what the network is shown. W: (nfe, 2, R, *shape). prologue: (2, R) or None (identity).
        forms: (nfe,) what each m_k is: "x0", "eps", "flow" or a pair of arrays. history: H. slots: Z.
        constant: has a const register. spans: (nfe + 1, Z, 3), start, end and path of every noise; NaN where a row has
        none, row 0 the prologue's. conserves: which parts of alpha X + sigma E every row keeps exactly: "x0 eps", "x0" or
        "". order: convergence order as nfe grows (weak order where there is noise). groups: network calls of each
        nominal step. jumps: {step: node where it lands before noise takes it up to the next one}.
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
    prologue: np.ndarray | None = None
    groups: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    spans: np.ndarray | None = None
    conserves: str = "x0 eps"
    jumps: Mapping[int, Node] = field(default_factory=dict)

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
        prologue: Terms | None = None,
        options: Mapping[str, Any] | None = None,
        conserves: str = "x0 eps",
        jumps: Mapping[int, Node] | None = None,
    ) -> Tableau:
        """Pack rows (and an optional prologue, terms of the first input) into W."""
        lines: list[tuple[Terms, Terms]] = [({INPUT: 1.0}, prologue or {INPUT: 1.0})]
        lines += [(r.input if r.carry is None else r.carry, r.input) for r in rows]
        history = 1 + max((j for pair in lines for terms in pair for j in terms if isinstance(j, int)), default=0)
        draws = [list(dict.fromkeys(z for terms in pair for z in terms if isinstance(z, tuple))) for pair in lines]
        slots = max(map(len, draws))
        reverting = schedule.kind == "mean-reverting"
        constant = reverting or any(CONST in terms for pair in lines for terms in pair)
        registers = [CARRY, INPUT, *range(history), *(("z", i) for i in range(slots)), *([CONST] * constant)]
        place = {register: i for i, register in enumerate(registers)}
        cells = [np.shape(v) for pair in lines for terms in pair for v in terms.values()]
        packed = np.zeros((len(lines), 2, len(registers), *np.broadcast_shapes(*cells)))
        spans = np.full((len(lines), slots, 3), np.nan)
        for k, pair in enumerate(lines):
            spans[k, : len(draws[k])] = [z[1:] for z in draws[k]] or np.zeros((0, 3))
            for line, terms in zip(packed[k], pair, strict=True):
                for register, value in terms.items():
                    at = ("z", draws[k].index(register)) if isinstance(register, tuple) else register
                    line[place[at]] += value
        forms = tuple(r.form for r in rows)
        if reverting:
            _pull_to_mean(packed, forms, history)
        nodes = Nodes(*(np.array([getattr(n, f) for n in (*(r.at for r in rows), end)], float) for f in Nodes._fields))
        if model_times is None:
            model_times = schedule.model_time(nodes.t[:-1])
        return cls(
            name, schedule, nodes, np.asarray(model_times, float), packed[1:], forms, order, history, slots,
            constant, packed[0] if prologue else None, tuple(groups), dict(options or {}), spans if slots else None,
            conserves, dict(jumps or {}),
        )  # fmt: skip

    def __post_init__(self) -> None:
        if not (np.isfinite(self.W).all() and np.isfinite(self.model_times).all()):
            raise ValueError(f"{self.name}: a coefficient is not finite; {self._advice()}")
        if self.W.shape[:3] != (self.nfe, 2, self.registers) or sum(self.groups) != self.nfe:
            raise ValueError(
                f"{self.name}: W has shape {self.W.shape} and groups {self.groups} for {self.nfe} evaluations"
            )
        if self.slots and self.spans is None:
            raise ValueError(f"{self.name}: `spans` must say which increment each of the {self.slots} noises is")
        self._prove_consistency()

    def _advice(self) -> str:
        return "check that the grid decreases strictly and that sigma = 0 or alpha = 0 appear only at its ends"

    @property
    def nfe(self) -> int:
        """Network evaluations: one a row."""
        return len(self.forms)

    @property
    def times(self) -> np.ndarray:
        """(nfe + 1,) times of the network inputs and of the result, in the schedule's unit."""
        return self.nodes.t

    @property
    def registers(self) -> int:
        """R, columns of W."""
        return 2 + self.history + self.slots + self.constant

    @property
    def elementwise(self) -> bool:
        """Whether weights differ between the elements of a sample."""
        return self.W.ndim > 3

    @cached_property
    def stochastic(self) -> bool:
        """Whether any row draws noise."""
        z = slice(2 + self.history, 2 + self.history + self.slots)
        return bool(np.any(self.W[:, :, z])) or (self.prologue is not None and bool(np.any(self.prologue[:, z])))

    def draws(self, row: int) -> tuple[Draw, ...]:
        """The noises that a row reads: row 0 is the prologue, row k + 1 follows network call k."""
        if self.spans is None:
            return ()
        W, first = (self.W[row - 1] if row else self.prologue), 2 + self.history
        return tuple(
            Draw(row, i, float(start), float(end), int(path))
            for i, (start, end, path) in enumerate(np.nan_to_num(self.spans[row], posinf=np.inf, neginf=-np.inf))
            if W is not None and W[:, first + i].any()
        )

    def _prove_consistency(self) -> None:
        """For data that is one point X (and mean M), x(t) = M + alpha (X - M) + sigma E goes exactly from row to row.

        The state is carried as its coefficients on {X, E, M, z_1, z_2, ...}; the network knows x0 = X and hence
        eps = (x - alpha X - (1 - alpha) M) / sigma. X must keep alpha, M what is left of one, and the noises together
        the variance sigma^2, as far as `conserves` says; an ODE row that claims "x0 eps" keeps E itself at sigma.
        """
        if not self.conserves:
            return
        mean, shape = float(self.schedule.kind == "mean-reverting"), self.W.shape[3:]
        width = 3 + self.slots * (self.nfe + 1)
        at, size = self.nodes, np.abs(self.nodes.alpha) + np.abs(self.nodes.sigma)
        state = np.zeros((2, width, *shape))
        state[:, :3] = _columns([at.alpha[0], at.sigma[0], mean * (1 - at.alpha[0])], shape)
        if self.prologue is not None:
            state = self._advance(self.prologue, state, [], 0)
        outputs: list[np.ndarray] = []
        for k in range(self.nfe):
            x0, drift = np.zeros((2, width, *shape))
            x0[0], drift[0], drift[2] = 1.0, at.alpha[k], mean * (1 - at.alpha[k])
            A, B = form_pair(self.forms[k])
            eps = (state[1] - drift) / at.sigma[k] if np.any(B) else 0.0
            outputs = [A * x0 + B * eps, *outputs][: self.history]
            state = self._advance(self.W[k], state, outputs, k + 1)
            got = [state[1, 0], np.linalg.norm(state[1, [1, *range(3, width)]], axis=0), state[1, 2]]
            want = [at.alpha[k + 1], at.sigma[k + 1], mean * (1 - at.alpha[k + 1])]
            if "eps" not in self.conserves:
                got[1] = want[1]
            slack = 1e-8 * size[k + 1] * max(1.0, np.abs(self.W[k]).sum(1).max())
            if not np.allclose(np.stack(np.broadcast_arrays(*got)), _columns(want, shape), rtol=0, atol=slack):
                raise ValueError(
                    f"{self.name}: row {k} does not integrate a constant x0 and eps exactly (reaches alpha, sigma = "
                    f"{np.ravel(got[0])[0]:.9g}, {np.ravel(got[1])[0]:.9g}; expected {want[0]:.9g}, {want[1]:.9g}); "
                    f"{self._advice()}"
                )

    def _advance(self, W: np.ndarray, state: np.ndarray, outputs: list[np.ndarray], row: int) -> np.ndarray:
        """W applied to coefficients on {X, E, M, noises}: (2, width, *shape)."""
        width, shape = state.shape[1], state.shape[2:]
        blank = [np.zeros((width, *shape))] * (self.history - len(outputs))
        units = np.zeros((self.slots + self.constant, width, *shape))
        for i in range(self.slots):
            units[i, 3 + row * self.slots + i] = 1.0
        units[self.slots :, 2] = 1.0  # the mean
        registers = np.stack([*state, *outputs, *blank, *units])
        return np.asarray((W[:, :, None] * registers).sum(1))

    def save(self, path: Any) -> None:
        """Write the table as JSON with exact float64; `fewstep.load` reads it back."""
        from fewstep.samplers.table.stored import save

        save(self, path)

    def __str__(self) -> str:
        head = f"{self.name}: order {self.order}, {self.nfe} evaluations, {'SDE' if self.stochastic else 'ODE'}"
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


def _columns(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers as an array (n, *shape) of constant elements."""
    return np.broadcast_to(np.reshape(np.asarray(values, float), (-1, *(1,) * len(shape))), (len(values), *shape))


def _pull_to_mean(packed: np.ndarray, forms: Sequence[Form], history: int) -> None:
    """Fill the const column so that rows written for y = x - mu act on x: every line maps mu to mu.

    An output of a form with coefficient A of x0 contains A mu.
    """
    A = [form_pair(form)[0] for form in forms]
    for k, lines in enumerate(packed[1:]):
        inside = lines[:, 0] + lines[:, 1] + sum(lines[:, 2 + j] * A[k - j] for j in range(min(history, k + 1)))
        lines[:, -1] += 1.0 - inside
    packed[0, :, -1] += 1.0 - packed[0, :, :2].sum(1)
