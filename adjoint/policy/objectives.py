"""Losses of policy gradients, on log-probabilities (B, rows) and one reward a sample.

    advantages     A = (R - mean of its group) / (deviation of its group + small)
    reinforce      L = -mean_i A_i sum_k log p_ik                                               (DDPO-SF)
    clipped        L = -mean_ik min(r_ik A_i, clip(r_ik, 1 - low, 1 + high) A_i)                (PPO: DDPO-IS, GRPO)

with r = exp(log p - log p_old). The KL to a frozen network is `Trajectory.kl`, exact; add its mean times a weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import unknown

SCALES = ("group", "batch", "none")


def advantages(rewards: Tensor, groups: int | Sequence[int] | Tensor | None = None, *, scale: str = "group") -> Tensor:
    """Rewards less their group's mean, over its deviation: (B,), float64. Needs no critic.

    rewards: (B,), one a sample, without a graph. groups: size of consecutive groups, or a number a sample (one prompt each);
    None: all are one. scale: deviation of the "group" (GRPO), of the whole "batch" (of what is left when means are taken
    away), or "none" (Dr. GRPO: no weight on prompts that are easy or hard). A group of equal rewards has advantages of 0.

    Reference: DeepSeekMath; Shao et al.; 2024; arXiv:2402.03300. Understanding R1-Zero-Like Training; Liu et al.; 2025;
    arXiv:2503.20783.

    Raises:
        ValueError: rewards of another shape, or NaN among them; groups that do not fit.
    """
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    R = _rewards(rewards)
    place = _groups(groups, len(R)).to(R.device)
    count = torch.zeros(int(place.max()) + 1, dtype=R.dtype, device=R.device).index_add(0, place, torch.ones_like(R))
    mean = torch.zeros_like(count).index_add(0, place, R) / count
    A = R - mean[place]
    if scale == "none":
        return A
    each = (torch.zeros_like(count).index_add(0, place, A.square()) / count).sqrt()
    whole = A.square().mean().sqrt()
    # relative to the batch, so that no unit of rewards matters; what is left of equal rewards by rounding is nothing
    small = (1e-4 * whole + 1e-12 * R.abs().amax()).clamp_min(torch.finfo(R.dtype).tiny)
    return A / ((each[place] if scale == "group" else whole) + small)


def reinforce(log_prob: Tensor, advantages: Tensor) -> Tensor:
    """-mean of A times the log-probability of the whole run: the plain policy gradient, a number.

    Reference: Training Diffusion Models with Reinforcement Learning; Black, Janner, Du, Kostrikov, Levine; 2023;
    arXiv:2305.13301.
    """
    A = _beside(log_prob, advantages)
    return -(A * log_prob.sum(1)).mean()


def clipped(
    log_prob: Tensor, old: Tensor, advantages: Tensor, clip: float | tuple[float, float] = 0.2, *, size: float = 1.0
) -> Tensor:
    """-mean of min(r A, clip(r) A), r = exp((log_prob - old) / size): the surrogate of PPO a row, a number.

    clip: how far a ratio may go, down and up. size: the elements of a sample (`trajectory.size`) where ratios are of the mean
    over elements, as in public code of flow models, whose clip is 1e-4 or less; with the sum, ratios are far wider.

    Reference: Proximal Policy Optimization Algorithms; Schulman et al.; 2017; arXiv:1707.06347. Flow-GRPO; Liu et al.; 2025;
    arXiv:2505.05470.
    """
    low, high = clip if isinstance(clip, tuple) else (clip, clip)
    if not (0 < low < 1 and high > 0):
        raise ValueError(f"`clip` must be a number in 0..1, or two of them, down and up; got {clip!r}")
    if old.shape != log_prob.shape:
        raise ValueError(
            f"`old` belongs to another trajectory: {tuple(old.shape)} beside {tuple(log_prob.shape)}; it is "
            "trajectory.log_prob() of the same rows"
        )
    A = _beside(log_prob, advantages)[:, None]
    ratio = ((log_prob - old.detach()) / size).exp()
    return -torch.minimum(ratio * A, ratio.clamp(1 - low, 1 + high) * A).mean()


def _rewards(rewards: Any) -> Tensor:
    """(B,) finite, float64, without a graph."""
    if not isinstance(rewards, Tensor) or rewards.ndim != 1 or not len(rewards):
        got = tuple(rewards.shape) if isinstance(rewards, Tensor) else type(rewards).__name__
        raise ValueError(f"`rewards` must be a tensor with one number a sample, (B,); got {got}")
    R = rewards.detach().to(torch.float32 if rewards.device.type == "mps" else torch.float64)
    if not bool(torch.isfinite(R).all()):
        raise ValueError(
            f"{int((~torch.isfinite(R)).sum())} of {len(R)} rewards are not finite: mend the reward, or leave these samples out"
        )
    return R


def _groups(groups: Any, batch: int) -> Tensor:
    """A group's number for every sample, counted from 0."""
    if groups is None:
        return torch.zeros(batch, dtype=torch.long)
    if isinstance(groups, int) and not isinstance(groups, bool):
        if groups < 2 or batch % groups:
            raise ValueError(f"`groups` of {groups} do not fit {batch} samples: at least 2, and a divisor of the batch")
        return torch.arange(batch) // groups
    numbers = torch.as_tensor(groups)
    if numbers.shape != (batch,):
        raise ValueError(f"`groups` must name a group for each of the {batch} samples; got {tuple(numbers.shape)}")
    return numbers.unique(return_inverse=True)[1]


def _beside(log_prob: Tensor, advantages: Any) -> Tensor:
    """Advantages for the samples of log_prob."""
    if not isinstance(log_prob, Tensor) or log_prob.ndim != 2:
        raise ValueError("`log_prob` is (B, rows), what trajectory.log_prob(denoiser) gives")
    A = _rewards(advantages)
    if len(A) != len(log_prob):
        raise ValueError(f"{len(A)} advantages for {len(log_prob)} samples: one a sample")
    return A.to(log_prob)
