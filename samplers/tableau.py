"""A solver is a table.

Registers: `carry` (anchor state), `input` (what the network sees next), the last outputs m_k, m_{k-1}, ... (converted to
the row's form), the noises z of the row and optionally one constant. After network call k

    m_k            = p_k * input + q_k * output
    [carry, input] = W_k @ [carry, input, m_k .. m_{k-H+1}, z_1 .. z_Z, const]

A solver family writes rows with `Row`; `Tableau.from_rows` packs them into W (nfe, 2, R), float64, and proves on the spot
that a constant x0 and a constant eps are integrated exactly through every row. The sample is `input` after the last row.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .schedule import Node, Nodes, NoiseSchedule

Terms = Mapping[Any, float]  # {register: coefficient}
# what a network returns: a name, or nodes -> (P, Q) of its output P x0 + Q eps
Prediction = str | Callable[[Nodes], tuple[np.ndarray, np.ndarray]]
CARRY, INPUT, CONST = "carry", "input", "const"
KEEP: Terms = {CARRY: 1.0}
# what a row's m is, as (coefficient of x0, coefficient of eps)
FORMS = {"x0": (1.0, 0.0), "eps": (0.0, 1.0), "flow": (-1.0, 1.0)}


def noise(slot: int = 0) -> tuple[str, int]:
    """Name of noise register `slot` in a row."""
    return ("z", slot)


@dataclass(frozen=True)
class Row:
    """One network call and the two linear maps after it.

    at: node of the call. form: what the output is converted to. input, carry: terms {register: coefficient}, where a
    register is CARRY, INPUT, an int j for m_{k-j}, noise(slot) or CONST; carry=None means "same as input".
    """

    at: Node
    form: str
    input: Terms
    carry: Terms | None = None


@dataclass(frozen=True, eq=False)
class Tableau:
    """A compiled solver: rows of coefficients in float64, self-validating, executable by `sample` and `Scheduler`.

    Attributes:
        name: solver name. schedule: the NoiseSchedule it was compiled for.
        nodes: t, alpha, sigma, lam of every network input and, last, of the returned sample; arrays (nfe + 1,).
        model_times: (nfe,) what the network is shown. W: (nfe, 2, R). prologue: (2, R) or None (identity).
        forms: (nfe,) what each m_k is: "x0", "eps" or "flow". history: H. slots: Z. constant: has a const register.
        order: convergence order as nfe grows. groups: network calls of each nominal step.
    """

    name: str
    schedule: NoiseSchedule
    nodes: Nodes
    model_times: np.ndarray
    W: np.ndarray
    forms: tuple[str, ...]
    order: int
    history: int
    slots: int = 0
    constant: bool = False
    prologue: np.ndarray | None = None
    groups: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

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
        model_times: np.ndarray | None = None,
        prologue: Terms | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Tableau:
        """Pack rows (and an optional prologue, terms of the first input) into W."""
        used = [k for row in rows for terms in (row.input, row.carry or {}) for k in terms] + list(prologue or {})
        history = 1 + max((k for k in used if isinstance(k, int)), default=0)
        slots = 1 + max((k[1] for k in used if isinstance(k, tuple)), default=-1)
        constant = CONST in used
        columns: list[Hashable] = [
            CARRY,
            INPUT,
            *range(history),
            *(("z", i) for i in range(slots)),
            *([CONST] * constant),
        ]
        place = {register: i for i, register in enumerate(columns)}

        def pack(carry: Terms, inputs: Terms) -> np.ndarray:
            out = np.zeros((2, len(columns)))
            for line, terms in zip(out, (carry, inputs), strict=True):
                for register, value in terms.items():
                    line[place[register]] += value
            return out

        W = np.stack([pack(r.input if r.carry is None else r.carry, r.input) for r in rows])
        nodes = Nodes(*(np.array([getattr(n, f) for n in (*(r.at for r in rows), end)], float) for f in Nodes._fields))
        if model_times is None:
            model_times = schedule.model_time(nodes.t[:-1])
        return cls(
            name, schedule, nodes, np.asarray(model_times, float), W, tuple(r.form for r in rows), order, history, slots,
            constant, None if prologue is None else pack({INPUT: 1.0}, prologue), tuple(groups), dict(options or {}),
        )  # fmt: skip

    def __post_init__(self) -> None:
        if not (np.isfinite(self.W).all() and np.isfinite(self.model_times).all()):
            raise ValueError(f"{self.name}: a coefficient is not finite; {self._advice()}")
        if self.W.shape != (self.nfe, 2, self.registers) or sum(self.groups) != self.nfe:
            raise ValueError(
                f"{self.name}: W has shape {self.W.shape} and groups {self.groups} for {self.nfe} evaluations"
            )
        if not self.constant:
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

    @cached_property
    def stochastic(self) -> bool:
        """Whether any row draws noise."""
        z = slice(2 + self.history, 2 + self.history + self.slots)
        return bool(np.any(self.W[:, :, z])) or (self.prologue is not None and bool(np.any(self.prologue[:, z])))

    def _prove_consistency(self) -> None:
        """Constant x0 = X and eps = E make x(t) = alpha X + sigma E exact for any ODE row, start to end.

        The state is carried as its coefficients on {X, E, z_1, z_2, ...}. Noise rows must keep the X part at alpha and
        the variance of the rest at sigma^2 (with E a unit Gaussian), which is checked for x0 rows: there m has no noise.
        """
        if self.stochastic and set(self.forms) != {"x0"}:
            return
        width = 2 + self.slots * (self.nfe + 1)
        state = np.zeros((2, width))
        state[:, :2] = self.nodes.alpha[0], self.nodes.sigma[0]
        if self.prologue is not None:
            state = self._advance(self.prologue, state, [], self._draws(0, width))
        outputs: list[np.ndarray] = []
        size = np.abs(self.nodes.alpha) + np.abs(self.nodes.sigma)
        for k in range(self.nfe):
            m = np.zeros(width)
            m[:2] = FORMS[self.forms[k]]
            outputs = [m, *outputs][: self.history]
            state = self._advance(self.W[k], state, outputs, self._draws(k + 1, width))
            got = np.array([state[1, 0], np.linalg.norm(state[1, 1:])])
            want = np.array([self.nodes.alpha[k + 1], self.nodes.sigma[k + 1]])
            if not np.allclose(got, want, rtol=0, atol=1e-8 * size[k + 1] * max(1.0, np.abs(self.W[k]).sum())):
                raise ValueError(
                    f"{self.name}: row {k} does not integrate a constant x0 and eps exactly (reaches alpha, sigma = "
                    f"{got[0]:.9g}, {got[1]:.9g}; expected {want[0]:.9g}, {want[1]:.9g}); {self._advice()}"
                )

    def _draws(self, row: int, width: int) -> np.ndarray:
        """Unit vectors of the noise slots of a row, (Z, width)."""
        return np.eye(width)[2 + row * self.slots : 2 + (row + 1) * self.slots]

    def _advance(self, W: np.ndarray, state: np.ndarray, outputs: list[np.ndarray], draws: np.ndarray) -> np.ndarray:
        blank = [np.zeros(state.shape[1])] * (self.history - len(outputs))
        return W[:, : 2 + self.history + self.slots] @ np.vstack([state, *outputs, *blank, draws])

    def conversion(self, prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
        """(p, q), each (nfe,), with m_k = p_k x + q_k output for a network that predicts `prediction`."""
        return convert(prediction, self.forms, Nodes(*(c[:-1] for c in self.nodes)))

    def save(self, path: Any) -> None:
        """Write the table as JSON with exact float64; `fewstep.load` reads it back."""
        from .storage import save

        save(self, path)

    def __str__(self) -> str:
        head = f"{self.name}: order {self.order}, {self.nfe} evaluations, {'SDE' if self.stochastic else 'ODE'}"
        names = ["carry", "input", *(f"m[-{j}]" if j else "m" for j in range(self.history))]
        names += [f"z{i}" for i in range(self.slots)] + ["const"] * self.constant
        lines = [head, f"{'row':>3} {'t':>10} {'model t':>9} form  to    " + " ".join(f"{n:>10}" for n in names)]
        for k in range(self.nfe):
            same = np.array_equal(self.W[k, 0], self.W[k, 1])
            for line, label in enumerate(("carry", "input")):
                if (same or np.array_equal(self.W[k, 0], np.eye(self.registers)[0])) and label == "carry":
                    continue
                left = f"{k:>3} {self.times[k]:>10.6g} {self.model_times[k]:>9.5g} {self.forms[k]:<5} "
                cells = " ".join(f"{v:>10.6f}" if v else f"{'.':>10}" for v in self.W[k, line])
                lines.append(left + f"{'both' if same else label:<5} " + cells)
        return "\n".join([*lines, f"end {self.times[-1]:>10.6g}"])


def prediction_coefficients(prediction: Prediction, nodes: Nodes) -> tuple[np.ndarray, np.ndarray]:
    """(P, Q) of a network output o = P x0 + Q eps."""
    if callable(prediction):
        return prediction(nodes)
    zero, one = np.zeros_like(nodes.alpha), np.ones_like(nodes.alpha)
    table = {
        "epsilon": (zero, one),
        "sample": (one, zero),
        "v_prediction": (-nodes.sigma, nodes.alpha),
        "flow_prediction": (-one, one),
        "score": (zero, -1.0 / np.where(nodes.sigma > 0, nodes.sigma, np.inf)),
    }
    if prediction not in table:
        raise ValueError(f"unknown prediction {prediction!r}; expected one of {', '.join(table)}")
    return table[prediction]


def convert(prediction: Prediction, forms: Sequence[str], nodes: Nodes) -> tuple[np.ndarray, np.ndarray]:
    """(p, q) with m = p x + q o, where m = A x0 + B eps (the forms) and o = P x0 + Q eps (the prediction).

        p = (B P - A Q) / det,   q = (A sigma - B alpha) / det,   det = sigma P - alpha Q

    Raises ValueError where the output carries no information on m: eps at alpha = 0, x0 at sigma = 0.
    """
    P, Q = prediction_coefficients(prediction, nodes)
    A, B = np.array([FORMS[f] for f in forms]).T
    det = nodes.sigma * P - nodes.alpha * Q
    top_p, top_q = B * P - A * Q, A * nodes.sigma - B * nodes.alpha
    bad = (det == 0) & ((top_p != 0) | (top_q != det))
    if bad.any():
        k = int(np.argmax(bad))
        raise ValueError(
            f"a network that predicts {prediction!r} says nothing about {forms[k]} at t = {nodes.t[k]:.6g} "
            f"(alpha = {nodes.alpha[k]:.3g}, sigma = {nodes.sigma[k]:.3g}); start below it (t_start=) or use a "
            "v, x0 or flow prediction"
        )
    same = det == 0
    det = np.where(same, 1.0, det)
    return np.where(same, 0.0, top_p / det), np.where(same, 1.0, top_q / det)
