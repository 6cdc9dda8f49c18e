"""Networks in plain torch for what is measured: nothing about times and memory depends on the values of weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep import Denoiser, NoiseSchedule

from .measuring import Place


class Block(nn.Module):
    """Two convolutions beside an identity, shifted by the embedding of the time."""

    def __init__(self, before: int, after: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, before), nn.GroupNorm(8, after)
        self.conv1, self.conv2 = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
        self.time = nn.Linear(embedding, after)
        self.skip = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time(e)[..., None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(y)))


class UNet(nn.Module):
    """(x (B, C, H, W), tau) -> eps of the same shape; channels double at each of the levels.

    width 64 and 4 levels with two blocks each have 29 million parameters, width 40 has 11 million.
    """

    def __init__(self, channels: int = 4, width: int = 64, levels: int = 4, blocks: int = 2) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(levels)]
        embedding = 4 * width
        self.width, self.into = width, nn.Conv2d(channels, width, 3, padding=1)
        self.embed = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.down, self.up, now = nn.ModuleList(), nn.ModuleList(), width
        for w in widths:
            self.down.append(nn.ModuleList([Block(now if k == 0 else w, w, embedding) for k in range(blocks)]))
            now = w
        for w in reversed(widths):
            self.up.append(nn.ModuleList([Block(now + w if k == 0 else w, w, embedding) for k in range(blocks)]))
            now = w
        self.out = nn.Conv2d(now, channels, 3, padding=1)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        half = torch.arange(self.width // 2, device=x.device, dtype=torch.float32)
        angle = tau.float().reshape(-1, 1).expand(len(x), 1) * torch.exp(-math.log(1e4) * half / len(half))
        e = self.embed(torch.cat([angle.sin(), angle.cos()], 1).to(x.dtype))
        h, kept = self.into(x), []
        for n, level in enumerate(self.down):
            h = F.avg_pool2d(h, 2) if n else h
            for block in level:
                h = block(h, e)
            kept.append(h)
        for n, level in enumerate(self.up):
            h = F.interpolate(h, scale_factor=2.0) if n else h
            h = torch.cat([h, kept.pop()], 1)
            for block in level:
                h = block(h, e)
        return self.out(h)

    @property
    def millions(self) -> float:
        """Parameters."""
        return sum(w.numel() for w in self.parameters()) / 1e6


def unet(place: Place, width: int, channels: int = 4) -> UNet:
    """One whose eps is moderate, in eval mode and without gradients of its weights; of a few thousand where sizes are small."""
    torch.manual_seed(0)
    made = UNet(channels, *((8, 2, 1) if place.small else (width,))).eval().requires_grad_(False)
    with torch.no_grad():
        made.out.weight.mul_(0.3)
    return made.to(place.device)


def denoiser(network: UNet) -> Denoiser:
    """It under the schedule of Stable Diffusion, with a time for every sample."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    schedule = NoiseSchedule.discrete((1 - betas).cumprod(0).numpy())
    return Denoiser(network, schedule, "epsilon", vector_time=True)
