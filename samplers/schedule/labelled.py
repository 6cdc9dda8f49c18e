"""EDM networks in diffusers: raw F behind x0 = c_skip x + c_out F(c_in x, label), read as one more prediction type.

c_skip = sigma_data^2 / c^2, c_out = +-sigma sigma_data / c, c_in = 1 / c with c^2 = sigma^2 + sigma_data^2.
(Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv:2206.00364, Table 1.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fewstep.checks import unknown
from fewstep.samplers.schedule.base import Array, Nodes, log, schedule_class
from fewstep.samplers.schedule.continuous import EDM
from fewstep.samplers.schedule.outputs import Prediction


@schedule_class
@dataclass(frozen=True, eq=False)
class LabelledEDM(EDM):
    """EDM whose network is shown log(sigma) / 4, or 2 arctan(sigma) / pi in the audio convention."""

    audio: bool = False

    def model_time(self, t: ArrayLike) -> Array:
        t = np.asarray(t, np.float64)[()]
        return np.arctan(t) * 2 / np.pi if self.audio else 0.25 * log(t)

    def time_of_model(self, tau: ArrayLike) -> Array:
        tau = np.asarray(tau, np.float64)[()]
        return np.tan(tau * np.pi / 2) if self.audio else np.exp(4 * tau)

    def input_scale(self, sigma: Array) -> list[float]:
        """c_in."""
        return (1 / np.hypot(sigma, self.sigma_data)).tolist()

    def output(self, prediction: str) -> Prediction:
        """(P, Q) of F = P x0 + Q eps = (sigma / sigma_data x0 - sigma_data eps) / c; models trained on v return -F."""
        signs = {"epsilon": 1.0, "v_prediction": -1.0}
        if prediction not in signs:
            raise unknown("prediction type of an EDM model", prediction, signs)

        def coefficients(nodes: Nodes) -> tuple[Array, Array]:
            c = signs[prediction] * np.hypot(nodes.sigma, self.sigma_data)
            return nodes.sigma / (self.sigma_data * c), -self.sigma_data / c

        return coefficients
