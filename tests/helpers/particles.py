"""Mixtures to be combined, their exact laws by quadrature, and the distance of weighted particles to them."""

import itertools

import numpy as np
import torch
from problems import Mixture

from fewstep import NoiseSchedule, sample

FIRST = Mixture([[-3.0], [0.5], [3.0]], [0.6, 0.5, 0.8], [0.3, 0.4, 0.3])
SECOND = Mixture([[-2.0], [1.0], [4.0]], [0.8, 0.7, 0.6], [0.4, 0.35, 0.25])
PLANE = Mixture()
OTHER = Mixture(((0.9, -0.2), (-0.8, 0.6)), (0.5, 0.4), (0.5, 0.5))
SHORT = Mixture([[-1.0], [0.2], [1.2]], [0.3, 0.25, 0.35], [0.3, 0.4, 0.3])  # of unit size, for VP and flow
LONG = Mixture([[-0.7], [0.6]], [0.45, 0.4], [0.5, 0.5])
EDM = NoiseSchedule.edm(0.02, 20.0)
TARGETS = {
    "q^2": ([FIRST], [2.0]),
    "q^0.5": ([FIRST], [0.5]),
    "q1 q2": ([FIRST, SECOND], [1.0, 1.0]),
    "q_c^2 q_u^-1": ([FIRST, SECOND], [2.0, -1.0]),
}


def rng(seed):
    return torch.Generator().manual_seed(seed)


def log_density(mixture, x):
    """log q up to a constant at x (N, D)."""
    gap = torch.as_tensor(x)[:, None] - mixture.means
    distance = (gap**2 / mixture.variances).sum(-1) + x.shape[1] * mixture.variances.log()[:, 0]
    return torch.logsumexp(mixture.log_weights - 0.5 * distance, 1).numpy()


def log_target(mixtures, exponents, x):
    return sum(b * log_density(m, x) for m, b in zip(mixtures, exponents, strict=True))


def marginals(log_p, dimensions, half=12.0):
    """(grid, distribution function) of every coordinate of exp(log_p), by quadrature."""
    grid = np.linspace(-half, half, 20001 if dimensions == 1 else 601)
    mesh = np.stack(np.meshgrid(*[grid] * dimensions, indexing="ij"), -1).reshape(-1, dimensions)
    p = log_p(mesh)
    p = np.exp(p - p.max()).reshape(*[len(grid)] * dimensions)
    for axis in range(dimensions):
        other = p.sum(tuple(a for a in range(dimensions) if a != axis))
        cut = np.concatenate([[0.0], np.cumsum((other[1:] + other[:-1]) / 2)])
        yield grid, cut / cut[-1]


def distance(x, weights, log_p, half=12.0):
    """Largest Kolmogorov-Smirnov distance of a coordinate of the weighted sample x (B, D)."""
    x, weights = x.double().numpy(), np.asarray(weights, float)
    found = []
    for k, (grid, cut) in enumerate(marginals(log_p, x.shape[1], half)):
        order = np.argsort(x[:, k])
        exact, steps = np.interp(x[order, k], grid, cut), np.cumsum(weights[order])
        found.append(max(np.abs(steps - exact).max(), np.abs(steps - weights[order] - exact).max()))
    return max(found)


def drawn(target, shape, solver="dpmpp_2m_sde", nfe=60, hook=True, seed=1, **options):
    """(x0, weights) of a run, or of the same denoiser without weights."""
    x_T = target.initial_noise(shape, rng(seed), t_start=options.get("t_start"), dtype=torch.float64)
    look = {"hook": target} if hook else {}
    x0 = sample(target.denoiser, x_T, solver, nfe, generator=rng(seed + 1), **options, **look)
    return x0, target.weights.numpy() if hook else np.full(len(x0), 1 / len(x0))


def networks(mixtures, schedule=EDM, predictions=("sample",)):
    return [m.denoiser(schedule, p) for m, p in zip(mixtures, itertools.cycle(predictions), strict=False)]
