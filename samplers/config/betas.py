"""The published beta tables of discrete-time models, as tables of alpha^2, and what zero terminal SNR makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fewstep.checks import unknown
from fewstep.samplers.schedule.base import Array


def _alpha_bar_betas(alpha_bar: Any, n: int, cap: float = 0.999) -> Array:
    """beta_i = 1 - abar((i + 1) / n) / abar(i / n), capped."""
    t = np.arange(n + 1) / n
    return np.minimum(1 - alpha_bar(t[1:]) / alpha_bar(t[:-1]), cap)


def _laplace_alpha_bar(t: Array) -> Array:
    lam2 = -0.5 * np.sign(0.5 - t) * np.log(1 - 2 * np.abs(0.5 - t) + 1e-6)
    return np.sqrt(1 / (1 + np.exp(-lam2)))


BETAS = {
    "linear": lambda b0, b1, n: np.linspace(b0, b1, n),
    "scaled_linear": lambda b0, b1, n: np.linspace(b0**0.5, b1**0.5, n) ** 2,
    "sigmoid": lambda b0, b1, n: b0 + (b1 - b0) / (1 + np.exp(-np.linspace(-6, 6, n))),
    "squaredcos_cap_v2": lambda b0, b1, n: _alpha_bar_betas(lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2, n),
    "exp": lambda b0, b1, n: _alpha_bar_betas(lambda t: np.exp(-12.0 * t), n),
    "laplace": lambda b0, b1, n: _alpha_bar_betas(_laplace_alpha_bar, n),
}
_BETA_ALIASES = {"squaredcos": "squaredcos_cap_v2", "cosine": "squaredcos_cap_v2"}


def betas(name: str, beta_start: float = 1e-4, beta_end: float = 0.02, n: int = 1000) -> Array:
    """The beta table of a published schedule, n float64 values.

    "linear" and "scaled_linear" (linear in sqrt beta) run from beta_start to beta_end, "sigmoid" too, along a logistic
    curve; "squaredcos_cap_v2", "exp" and "laplace" come from a formula for alpha^2 and ignore the two ends.
    """
    name = _BETA_ALIASES.get(name, name)
    if name not in BETAS:
        raise unknown("beta schedule", name, BETAS)
    if n < 1:
        raise ValueError(f"a beta table needs at least one entry; got n={n}.")
    return BETAS[name](float(beta_start), float(beta_end), int(n))


def zero_terminal_snr(alphas_cumprod: ArrayLike, floor: float = 0.0) -> Array:
    """Table whose last entry is pure noise: alpha_n <- (alpha_n - alpha_T) alpha_0 / (alpha_0 - alpha_T).

    (Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2023, arXiv 2305.08891.) With `floor` > 0
    the last alpha^2 is that number instead of 0 (2**-24 in diffusers); entries that would fall below it are replaced by
    a log-linear descent to it, so the table still decreases.
    """
    a = np.sqrt(np.asarray(alphas_cumprod, np.float64))
    a = (a - a[-1]) * a[0] / (a[0] - a[-1])
    if floor > 0:
        kept = np.flatnonzero(a > np.sqrt(floor))
        index = np.arange(len(a))
        levels = np.append(np.log(a[kept]), 0.5 * np.log(floor))
        a = np.where(a > np.sqrt(floor), a, np.exp(np.interp(index, np.append(kept, index[-1]), levels)))
    return a**2


def wuerstchen_table(s: float = 0.008, scaler: float = 1.0, n: int = 1000, clipped: bool = True) -> Array:
    """alpha^2 = cos((r + s) / (1 + s) pi / 2)^2 / cos(s / (1 + s) pi / 2)^2 at r = 1/n .. 1, within [1e-4, 0.9999].

    scaler: r <- r^scaler below 1, 1 - (1 - r)^scaler above. Ties at the two limits are broken by 1e-9, so that it falls;
    clipped=False: as the formula has it, from which r can be read. (Pernias et al., Wuerstchen, 2023, arXiv 2306.00637.)
    """
    r = np.arange(1, n + 1) / n
    r = r**scaler if scaler < 1 else 1 - (1 - r) ** scaler
    scale = 0.5 * np.pi / (1 + s)
    table = (np.cos((r + s) * scale) / np.cos(s * scale)) ** 2
    return np.asarray(np.clip(table, 1e-4, 0.9999) * (1 - 1e-9 * np.arange(n))) if clipped else np.asarray(table)
