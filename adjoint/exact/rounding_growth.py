"""How far rounding grows on the way back through a table that is undone, and whether the states are still known after it."""

from __future__ import annotations

import numpy as np
import torch

from fewstep.adjoint.exact.inverse_rows import Block, blocks
from fewstep.samplers.schedule.outputs import form_pair
from fewstep.samplers.table.tableau import Tableau

LIMITS = {torch.float32: 1e-3, torch.float64: 1e-9}  # of the state: what rounding may grow to, to count as exact


def amplification(tableau: Tableau, strict: bool = True) -> float:
    """How far rounding of the end's pair has grown on the way back, at most, in units of the state.

    The largest norm of the product of the inverse maps of (c, x), relative to the registers' sizes, for data N(0, I): the
    network is x0 = alpha x / (alpha^2 + sigma^2), eps = sigma x / (alpha^2 + sigma^2), and the flow itself grows nowhere.
    strict=False: afresh from every row whose state before is kept.
    """
    sizes, at = _sizes(tableau), tableau.nodes
    pairs = np.array([form_pair(form) for form in tableau.forms], float)
    slopes = (pairs * np.stack([at.alpha, at.sigma], 1)[:-1]).sum(1) / (at.alpha**2 + at.sigma**2)[:-1]
    most, grown = 1.0, np.diag(sizes[-1])
    for part in reversed(blocks(tableau, strict)):
        grown = _undone(part, grown, slopes) if part.exact else np.diag(sizes[part.start])
        most = max(most, float(np.linalg.norm(grown / sizes[part.start][:, None], 2)))
    return most


def _undone(block: Block, after: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Deviations (2, 2) of (c, x) before a block, from those after it, for outputs that answer to x by `slopes`."""
    n = block.stop - block.start
    x = block.x[:2] @ after
    m = np.zeros((n, 2))
    for i in range(n):
        m[i] = slopes[block.start + i] * (block.inputs[i, 1] * x + block.inputs[i, 2 : 2 + n] @ m)
    c = x if block.c is None else block.c[: 3 + n] @ np.vstack([after, x, m])
    return np.stack([c, x])


def _sizes(tableau: Tableau) -> np.ndarray:
    """(nfe + 1, 2) sizes of carry and input before every row and at the end, for data and noise of size one."""
    state, sizes = np.zeros((2, 2)), []
    past: list[np.ndarray] = [np.zeros(2)] * tableau.history
    at = tableau.nodes
    for k in range(tableau.nfe + 1):
        state[1] = at.alpha[k], at.sigma[k]  # the noise of a row makes up what the decay of E leaves
        if k == 0:
            state[0] = state[1]
        sizes.append(np.hypot(*state.T))
        if k < tableau.nfe:
            past = [np.array(form_pair(tableau.forms[k]), float), *past][: tableau.history]
            W = tableau.W[k]
            drawn = W[:, 2 + tableau.history : 2 + tableau.history + tableau.slots]
            state = W[:, : 2 + tableau.history] @ np.stack([*state, *past])
            state[:, 1] = np.hypot(state[:, 1], np.linalg.norm(drawn, axis=1))
    return np.maximum(np.array(sizes), np.finfo(float).tiny)


def check_growth(tableau: Tableau, dtype: torch.dtype = torch.float32, strict: bool = True) -> float:
    """The amplification, if states of this dtype are still known after it: to 1e-3 of their size, to 1e-9 in float64.

    Raises:
        ValueError: rounding grows beyond that; a row cannot be undone.
    """
    grown, limit = amplification(tableau, strict), LIMITS.get(dtype, 1e-3)
    if not grown * torch.finfo(dtype).eps <= limit:
        raise ValueError(
            f"{tableau.name}: on the way back rounding grows {grown:.2g} times, {grown * torch.finfo(dtype).eps:.2g} of "
            f"states in {str(dtype).removeprefix('torch.')}; at most {limit:g} is expected. Take a solver or options that "
            'amplify less (rex_sde: form="flow"), fewer steps, float64 states, or keep the states (method="checkpoint")'
        )
    return grown
