"""What a network returns and what a row wants of it: outputs as combinations of x0 and eps, and the way between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fewstep.samplers.schedule.base import Array, Nodes

# what a network returns: a name, or nodes -> (P, Q) of its output P x0 + Q eps
Prediction = str | Callable[[Nodes], tuple[np.ndarray, np.ndarray]]
# what a row's m is: a name, or (coefficient of x0, coefficient of eps), numbers or arrays of one sample's shape; on a
# schedule between two laws also a third, of the score, which the denoiser adds
Form = str | tuple[Any, ...]
FORMS = {"x0": (1.0, 0.0), "eps": (0.0, 1.0), "flow": (-1.0, 1.0)}


def form_pair(form: Form) -> tuple[Any, Any]:
    """(A, B) with m = A x0 + B eps."""
    return FORMS[form] if isinstance(form, str) else (form[0], form[1])


def score_weight(form: Form) -> float:
    """C with m = A x0 + B eps + C score."""
    return 0.0 if isinstance(form, str) or len(form) < 3 else float(form[2])


def prediction_coefficients(prediction: Prediction, nodes: Nodes) -> tuple[np.ndarray, np.ndarray]:
    """(P, Q) of a network output o = P x0 + Q eps."""
    if callable(prediction):
        return prediction(nodes)
    zero, one = np.zeros_like(nodes.alpha), np.ones_like(nodes.alpha)
    if prediction == "trigflow":
        # dx/dt of x = cos t x0 + s sin t eps; the scale s of the noise is sigma / sin t
        sine = np.sqrt((1 - nodes.alpha) * (1 + nodes.alpha))
        return -sine, nodes.alpha * np.divide(nodes.sigma, sine, out=one, where=sine > 0)
    table = {
        "epsilon": (zero, one),
        "sample": (one, zero),
        "v_prediction": (-nodes.sigma, nodes.alpha),
        "flow_prediction": (-one, one),
        "inverted_flow_prediction": (one, -one),
        "score": (zero, -1.0 / np.where(nodes.sigma > 0, nodes.sigma, np.inf)),
    }
    if prediction not in table:
        raise ValueError(f"unknown prediction {prediction!r}; expected one of {', '.join([*table, 'trigflow'])}")
    return table[prediction]


def convert(prediction: Prediction, forms: Sequence[Form], nodes: Nodes) -> tuple[Array, Array]:
    """(p, q) with m = p x + q o, where m = A x0 + B eps (the forms) and o = P x0 + Q eps (the prediction).

        p = (B P - A Q) / det,   q = (A sigma - B alpha) / det,   det = sigma P - alpha Q

    Both are (n, *shape), with the shape of the forms' arrays. On a mean-reverting schedule `mean_weight` completes them.
    Raises ValueError where the output carries no information on m: eps at alpha = 0, x0 at sigma = 0.
    """
    A, B = _pairs(forms)
    P, Q, alpha, sigma = (_like(v, A) for v in (*prediction_coefficients(prediction, nodes), nodes.alpha, nodes.sigma))
    det = sigma * P - alpha * Q
    top_p, top_q = B * P - A * Q, A * sigma - B * alpha
    bad = (det == 0) & ((top_p != 0) | (top_q != det))
    if bad.any():
        k = int(np.argwhere(bad)[0, 0])
        raise ValueError(
            f"a network that predicts {prediction!r} says nothing about {forms[k]} at t = {nodes.t[k]:.6g} "
            f"(alpha = {nodes.alpha[k]:.3g}, sigma = {nodes.sigma[k]:.3g}); start below it (t_start=) or use a "
            "v, x0 or flow prediction"
        )
    same = det == 0
    det = np.where(same, 1.0, det)
    return np.where(same, 0.0, top_p / det), np.where(same, 1.0, top_q / det)


def mean_weight(p: Array, beta: Array) -> Array:
    """r with m = p x + q o + r mu where x holds beta mu: what is left of x without it, r = -p beta."""
    return -p * _like(beta, p)


def _pairs(forms: Sequence[Form]) -> Array:
    """The coefficients (A, B) of the forms, (2, n, *shape)."""
    pairs = [np.broadcast_arrays(*form_pair(form)) for form in forms]
    shape = np.broadcast_shapes(*(pair[0].shape for pair in pairs))
    return np.stack([np.stack([np.broadcast_to(part, shape) for part in pair]) for pair in pairs], 1).astype(float)


def _like(column: Array, cells: Array) -> Array:
    """(n,) beside (n, *shape)."""
    return np.reshape(column, (-1, *(1,) * (cells.ndim - 1)))
