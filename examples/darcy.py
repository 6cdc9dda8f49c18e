"""Darcy flow, -div(a grad u) = 1 on the unit square with u = 0 around it: fields, their residual, and a small prior of them.

A state holds two channels of n x n cells, x = (log a / LOG, (u - MEAN) / STD). a is that of a two-phase material, 2 or 1/2,
with smooth walls: log a = log 2 tanh(1.5 g), g a Gaussian random field. Fluxes between cells use the geometric mean of a.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor, nn
from tqdm import tqdm

from fewstep import Denoiser, NoiseSchedule
from fewstep.samplers import guidance

LOG, MEAN, STD = 0.5, 0.035, 0.023  # scales of log a and of u
GEOMETRY = guidance.GaussianField(0.2)
SCHEDULE = NoiseSchedule.edm(0.005, 80.0, 1.0)


def fields(count: int, n: int = 32, seed: int = 0) -> Tensor:
    """Solved pairs, states (count, 2, n, n) float32: sample k belongs to the seed seed + k."""
    g = GEOMETRY.draw((n, n), range(seed, seed + count), torch.float64).numpy()
    logs = math.log(2) * np.tanh(1.5 * g)
    u = np.stack([solve(one) for one in tqdm(logs, desc="solving", disable=count < 500)])
    return torch.from_numpy(np.stack([logs / LOG, (u - MEAN) / STD], 1)).float()


def solve(log_a: np.ndarray) -> np.ndarray:
    """u of -div(a grad u) = 1 on the cells of log a, (n, n), by a sparse direct solver."""
    n = len(log_a)
    number = np.arange(n * n).reshape(n, n)
    system = sparse.lil_matrix((n * n, n * n))
    diagonal = np.zeros((n, n))
    for axis in (0, 1):
        low, high = (np.take(number, range(k, n - 1 + k), axis).ravel() for k in (0, 1))
        flux = np.exp((log_a.ravel()[low] + log_a.ravel()[high]) / 2) * n**2
        system[low, high], system[high, low] = -flux, -flux
        np.add.at(diagonal.reshape(-1), np.concatenate([low, high]), np.concatenate([flux, flux]))
        walls = np.concatenate([np.take(number, 0, axis), np.take(number, n - 1, axis)])
        np.add.at(diagonal.reshape(-1), walls, 2 * np.exp(log_a.ravel()[walls]) * n**2)  # half a cell to the wall
    system.setdiag(diagonal.ravel())
    return spsolve(system.tocsr(), np.ones(n * n)).reshape(n, n)


def residual(x: Tensor) -> Tensor:
    """-div(a grad u) - 1 of states (B, 2, n, n) in every cell, (B, n, n): zero for solved pairs."""
    log_a, u, n = LOG * x[:, 0], MEAN + STD * x[:, 1], x.shape[-1]
    total = -torch.ones_like(u)
    for axis in (1, 2):
        a, v = log_a.movedim(axis, -1), u.movedim(axis, -1)
        inner = -((a[..., 1:] + a[..., :-1]) / 2).exp() * (v[..., 1:] - v[..., :-1])
        first, last = -2 * a[..., :1].exp() * v[..., :1], 2 * a[..., -1:].exp() * v[..., -1:]
        flux = n**2 * torch.cat([first, inner, last], -1)
        total = total + (flux[..., 1:] - flux[..., :-1]).movedim(-1, axis)
    return total


def smoothed(x: Tensor) -> Tensor:
    """The residual in units of u: what the Laplace operator's inverse makes of it, over STD; no derivatives of noise."""
    n = x.shape[-1]
    k = torch.arange(1, n + 1, dtype=torch.float64)
    S = torch.sin(math.pi * torch.outer(k, torch.arange(n) + 0.5) / n)  # eigenvectors of the operator with a = 1
    S = (S / S.norm(dim=1, keepdim=True)).to(x)
    power = ((2 * n * torch.sin(math.pi * k / (2 * n))) ** 2).to(x)
    return S.T @ ((S @ residual(x) @ S.T) / (power[:, None] + power)) @ S / STD


class Prior(nn.Module):
    """E[x0 | x] of states on the main components of the data: EDM's preconditioning of each, and a residual MLP between them.

    D = mean + V (skip V^T (x - mean) + out F(in V^T (x - mean), sigma)): with F = 0 the best linear denoiser of each component.
    """

    def __init__(self, shape: tuple[int, ...], modes: int = 256, width: int = 384, depth: int = 3):
        super().__init__()
        size = math.prod(shape)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("basis", torch.zeros(size, modes))
        self.register_buffer("data", torch.ones(modes))  # variance of the components in the data, and in the noise
        self.register_buffer("noise", torch.ones(modes))
        self.enter, self.leave = nn.Linear(modes, width), nn.Linear(width, modes)
        self.level = nn.ModuleList(nn.Linear(32, 2 * width) for _ in range(depth))
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.outer = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        nn.init.zeros_(self.leave.weight)

    def fit(self, states: Tensor, field: guidance.GaussianField | None) -> None:
        """Mean and main components of states (N, 2, n, n), and what the noise has of each."""
        self.mean.copy_(states.mean(0))
        flat = (states - self.mean).flatten(1).double()
        values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
        V = vectors.flip(1)[:, : self.basis.shape[1]]
        spread = V if field is None else field.covariance(V.T.reshape(-1, *states.shape[1:])).flatten(1).T
        self.basis.copy_(V), self.data.copy_(values.flip(0)[: V.shape[1]]), self.noise.copy_((V * spread).sum(0))

    def components(self, c: Tensor, sigma: Tensor) -> Tensor:
        """D of components (B, modes) at sigma, (B,) or a number."""
        s = sigma.to(c.dtype).reshape(-1, 1)
        total = (self.data + s**2 * self.noise).sqrt()
        turns = 0.25 * s.log() * 2.0 ** torch.arange(-2, 14, device=c.device).to(c) / 8
        level = torch.cat([turns.sin(), turns.cos()], 1)
        h = self.enter(c / total)
        for gate, inner, outer in zip(self.level, self.inner, self.outer, strict=True):
            scale, shift = gate(level).chunk(2, 1)
            h = h + outer(nn.functional.silu(inner(nn.functional.silu(h * (1 + scale) + shift))))
        out = self.leave(nn.functional.silu(h))
        return (self.data / total**2) * c + s * (self.data * self.noise).sqrt() / total * out

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x] of states (B, 2, n, n)."""
        c = (x - self.mean).flatten(1) @ self.basis
        return self.mean + (self.components(c, sigma) @ self.basis.T).view_as(x)

    def denoiser(self, field: guidance.GaussianField | None) -> Denoiser:
        """It as a denoiser."""
        return Denoiser(self, SCHEDULE, "sample", field=field)


def symmetric(states: Tensor) -> Tensor:
    """All eight reflections and rotations of the square."""
    both = torch.cat([states, states.mT])
    both = torch.cat([both, both.flip(-1)])
    return torch.cat([both, both.flip(-2)])


def train(
    prior: Prior, states: Tensor, field: guidance.GaussianField | None, steps: int, minutes: float, batch: int = 256
) -> float:
    """The weighted denoising loss minimised with Adam for `steps` updates or `minutes`; the last loss, 1 for a linear D."""
    states = symmetric(states)
    prior.fit(states, field)
    c0 = (states - prior.mean).flatten(1) @ prior.basis
    draw, began, mean = torch.Generator().manual_seed(0), time.monotonic(), 1.0
    root = None if field is None else noise_root(prior, field, states.shape[1:])
    optimizer = torch.optim.Adam(prior.parameters(), 1e-3)
    average = torch.optim.swa_utils.AveragedModel(prior, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    bar = tqdm(range(steps), desc="training")
    for step in bar:
        progress = max(step / steps, (time.monotonic() - began) / 60 / minutes)
        if progress >= 1:
            break
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 100) * math.cos(math.pi / 2 * progress) ** 2
        pick = torch.randint(len(c0), (batch,), generator=draw)
        levels = (torch.arange(batch) + torch.rand(1, generator=draw)) / batch
        sigma = torch.exp(math.log(0.005) + levels * (math.log(80.0) - math.log(0.005)))
        z = torch.randn(batch, c0.shape[1] if root is None else root.shape[1], generator=draw)
        noise = (z if root is None else z @ root.T) * sigma[:, None]
        gap = prior.components(c0[pick] + noise, sigma) - c0[pick]
        s2 = sigma[:, None] ** 2 * prior.noise
        loss = (gap.square() * (prior.data + s2) / (prior.data * s2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(prior)
        mean += 0.02 * (float(loss.detach()) - mean)
        if step % 50 == 0:
            bar.set_postfix(loss=f"{mean:.4f}")
    prior.load_state_dict(average.module.state_dict())
    return mean


def noise_root(prior: Prior, field: guidance.GaussianField, shape: tuple[int, ...]) -> Tensor:
    """R with R R^T the covariance of the noise's components."""
    V = prior.basis.T.reshape(-1, *shape).double()
    K = V.flatten(1) @ field.covariance(V).flatten(1).T
    values, vectors = torch.linalg.eigh((K + K.T) / 2)
    return (vectors * values.clamp(min=0).sqrt()).float()


def saved(path: Path) -> Prior:
    """The prior in a file."""
    weights = load_file(path)
    prior = Prior(tuple(weights["mean"].shape), weights["basis"].shape[1], weights["enter.weight"].shape[0])
    prior.load_state_dict({name: w.float() for name, w in weights.items()})
    return prior.eval().requires_grad_(False)


def save(prior: Prior, path: Path) -> None:
    """Weights as safetensors."""
    save_file({name: w.contiguous() for name, w in prior.state_dict().items()}, path)
