"""Small networks with weights on mixtures: the exact answer and a part that begins at zero, so that tuning has room."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fewstep.samplers import Denoiser, NoiseSchedule


class Ring(nn.Module):
    """E[x0 | x] of eight narrow modes on a circle under VP-linear, and a small network beside it; prediction "sample"."""

    def __init__(self, width: int = 32, seed: int = 0) -> None:
        super().__init__()
        angle = torch.arange(8) * 2 * math.pi / 8
        self.register_buffer("means", math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], -1))
        self.std, self.schedule = 0.1, NoiseSchedule.vp_linear()
        self.inner = nn.Sequential(
            nn.Linear(4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.inner.parameters():
                p.uniform_(-0.4, 0.4, generator=generator)
            self.inner[4].weight.zero_()
            self.inner[4].bias.zero_()

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        t = float(self.schedule.time_of_model(float(tau)))
        alpha, sigma = float(self.schedule.alpha(t)), float(self.schedule.sigma(t))
        variance = alpha**2 * self.std**2 + sigma**2
        gap = x[:, None] - alpha * self.means
        chosen = torch.softmax(-0.5 * gap.square().sum(-1) / variance, -1)
        x0 = ((self.means + alpha * self.std**2 / variance * gap) * chosen[..., None]).sum(1)
        told = torch.cat([x, x.new_tensor([[alpha, sigma]]).expand(len(x), 2)], 1)
        return x0 + self.inner(told)

    def denoiser(self) -> Denoiser:
        """With this module as its function."""
        return Denoiser(self, self.schedule, "sample")

    def data(self, n: int, seed: int = 7) -> Tensor:
        """Samples of the mixture."""
        generator = torch.Generator().manual_seed(seed)
        which = torch.randint(8, (n,), generator=generator)
        return self.means[which] + self.std * torch.randn(n, 2, generator=generator)
