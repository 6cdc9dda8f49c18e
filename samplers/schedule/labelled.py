"""Networks in diffusers that see c_in x and a label of sigma: raw F of EDM, and x0 of a discrete model in its VE state.

EDM's x0 = c_skip x + c_out F(c_in x, label) is read as one more prediction type.

c_skip = sigma_data^2 / c^2, c_out = +-sigma sigma_data / c, c_in = 1 / c with c^2 = sigma^2 + sigma_data^2.
(Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv:2206.00364, Table 1.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from fewstep.checks import unknown
from fewstep.samplers.schedule.base import Array, Nodes, log, schedule_class
from fewstep.samplers.schedule.continuous import EDM, SigmaTime
from fewstep.samplers.schedule.outputs import Prediction


@schedule_class
@dataclass(frozen=True, eq=False)
class LabelledEDM(EDM):
    """EDM whose network is shown log(sigma) / 4, or 2 arctan(sigma) / pi in the audio convention.

    consistency: the network is a consistency model (Song et al., 2023, arXiv:2303.01469, Appendix C): it is shown
    250 log(sigma), and sigma - sigma_min takes the place of sigma in c_skip and in the factor of c_out.
    """

    audio: bool = False
    consistency: bool = False

    def model_time(self, t: ArrayLike) -> Array:
        t = np.asarray(t, np.float64)[()]
        return np.arctan(t) * 2 / np.pi if self.audio else (250.0 if self.consistency else 0.25) * log(t)

    def time_of_model(self, tau: ArrayLike) -> Array:
        tau = np.asarray(tau, np.float64)[()]
        return np.tan(tau * np.pi / 2) if self.audio else np.exp(tau / 250 if self.consistency else 4 * tau)

    def input_scale(self, sigma: Array) -> list[float]:
        """c_in."""
        return (1 / np.hypot(sigma, self.sigma_data)).tolist()

    def output(self, prediction: str) -> Prediction:
        """(P, Q) of F = P x0 + Q eps = (sigma / sigma_data x0 - sigma_data eps) / c; models trained on v return -F."""
        signs = {"epsilon": 1.0, "v_prediction": -1.0}
        if prediction not in signs:
            raise unknown("prediction type of an EDM model", prediction, signs)

        def coefficients(nodes: Nodes) -> tuple[Array, Array]:
            if self.consistency:
                # x0 = a x + b F, so F = (x0 - a x) / b
                above, data = nodes.sigma - self.sigma_min, self.sigma_data
                a = data**2 / (above**2 + data**2)
                b = np.maximum(above, 1e-12) * data / np.hypot(nodes.sigma, data)
                return (1 - a) / b, -a * nodes.sigma / b
            c = signs[prediction] * np.hypot(nodes.sigma, self.sigma_data)
            return nodes.sigma / (self.sigma_data * c), -self.sigma_data / c

        return coefficients


@schedule_class
@dataclass(frozen=True, eq=False, repr=False)
class ScaledVE(SigmaTime):
    """A table of alpha^2 in the state x / alpha: alpha = 1, t = sigma / alpha of the table; networks see training steps.

    For networks of which the pipeline itself makes x0 out of that state, as latent upscalers' do.
    """

    table: bytes = field(repr=False)  # alpha^2, float64

    @property
    def _levels(self) -> Array:
        return np.sqrt(1 / np.frombuffer(self.table, np.float64) - 1)

    def __repr__(self) -> str:
        return f"ScaledVE({self.num_train_timesteps} steps, sigma {self.t_min:.3g}..{self.t_max:.3g})"

    @property
    def num_train_timesteps(self) -> int:  # type: ignore[override]
        return len(self.table) // 8

    t_max = property(lambda self: float(self._levels[-1]))  # type: ignore[assignment]
    t_min = property(lambda self: float(self._levels[0]))  # type: ignore[assignment]

    def model_time(self, t: ArrayLike) -> Array:
        """The (fractional) training step of a level, log sigma linear between steps."""
        steps = np.interp(log(np.asarray(t, np.float64)), np.log(self._levels), np.arange(self.num_train_timesteps))
        return np.asarray(steps)[()]

    def time_of_model(self, tau: ArrayLike) -> Array:
        """Level of a training step."""
        steps = np.arange(self.num_train_timesteps)
        return np.asarray(np.exp(np.interp(np.asarray(tau, np.float64), steps, np.log(self._levels))))[()]

    def input_scale(self, sigma: Array) -> list[float]:
        """c_in = 1 / sqrt(1 + sigma^2): the network sees the variance-preserving state."""
        return (1 / np.hypot(sigma, 1.0)).tolist()
