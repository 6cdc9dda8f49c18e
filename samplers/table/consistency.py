"""What a table proves about itself when it is made: data that are one point are followed exactly, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np

from fewstep.samplers.schedule.outputs import form_pair

ADVICE = "check that the grid decreases strictly and that sigma = 0 or alpha = 0 appear only at its ends"


def prove(table: Any) -> None:
    """For data that is one point X (and mean M), x(t) = M + alpha (X - M) + sigma E goes exactly from row to row.

    The state is carried as its coefficients on {X, E, M, z_1, z_2, ...}; the network knows x0 = X and hence
    eps = (x - alpha X - (1 - alpha) M) / sigma. X must keep alpha, M what is left of one, and the noises together
    the variance sigma^2, as far as `table.conserves` says; an ODE row that claims "x0 eps" keeps E itself at sigma.

    Raises:
        ValueError: a row that ends elsewhere, beyond rounding.
    """
    if not table.conserves:
        return
    mean, shape = float(table.schedule.kind == "mean-reverting"), table.W.shape[3:]
    width = 3 + table.slots * table.nfe
    at, size = table.nodes, np.abs(table.nodes.alpha) + np.abs(table.nodes.sigma)
    state = np.zeros((2, width, *shape))
    state[:, :3] = _columns([at.alpha[0], at.sigma[0], mean * (1 - at.alpha[0])], shape)
    outputs: list[np.ndarray] = []
    for k in range(table.nfe):
        x0, drift = np.zeros((2, width, *shape))
        x0[0], drift[0], drift[2] = 1.0, at.alpha[k], mean * (1 - at.alpha[k])
        A, B = form_pair(table.forms[k])
        eps = (state[1] - drift) / at.sigma[k] if np.any(B) else 0.0
        outputs = [A * x0 + B * eps, *outputs][: table.history]
        state = _advance(table, k, state, outputs)
        got = [state[1, 0], np.linalg.norm(state[1, [1, *range(3, width)]], axis=0), state[1, 2]]
        want = [at.alpha[k + 1], at.sigma[k + 1], mean * (1 - at.alpha[k + 1])]
        if "eps" not in table.conserves:
            got[1] = want[1]
        slack = 1e-8 * size[k + 1] * max(1.0, np.abs(table.W[k]).sum(1).max())
        if not np.allclose(np.stack(np.broadcast_arrays(*got)), _columns(want, shape), rtol=0, atol=slack):
            raise ValueError(
                f"{table.name}: row {k} does not integrate a constant x0 and eps exactly (reaches alpha, sigma = "
                f"{np.ravel(got[0])[0]:.9g}, {np.ravel(got[1])[0]:.9g}; expected {want[0]:.9g}, {want[1]:.9g}); {ADVICE}"
            )


def _advance(table: Any, k: int, state: np.ndarray, outputs: list[np.ndarray]) -> np.ndarray:
    """W_k applied to coefficients on {X, E, M, noises}: (2, width, *shape)."""
    width, shape = state.shape[1], state.shape[2:]
    blank = [np.zeros((width, *shape))] * (table.history - len(outputs))
    units = np.zeros((table.slots + table.constant, width, *shape))
    for i in range(table.slots):
        units[i, 3 + k * table.slots + i] = 1.0
    units[table.slots :, 2] = 1.0  # the mean
    registers = np.stack([*state, *outputs, *blank, *units])
    return np.asarray((table.W[k][:, :, None] * registers).sum(1))


def _columns(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers as an array (n, *shape) of constant elements."""
    return np.broadcast_to(np.reshape(np.asarray(values, float), (-1, *(1,) * len(shape))), (len(values), *shape))
