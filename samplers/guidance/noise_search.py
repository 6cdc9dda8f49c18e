"""Search over the initial noise by a reward that is a black box: best of n, and steps from the best so far.

x' = sqrt(1 - step^2) x + step z        stays N(0, sigma^2) where x is, however often it is done
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import whole, within
from fewstep.samplers.guidance.guidance_entry import method
from fewstep.samplers.guidance.particle_reward import Tilt
from fewstep.samplers.noise.brownian import unit_normal
from fewstep.samplers.noise.draws import onto
from fewstep.samplers.run.denoiser import Denoiser
from fewstep.samplers.sampling.loop import sample

NOISES = 2**32  # counter of candidates, beside those of the draws of x_T and of steps


@dataclass(frozen=True)
class Found:
    """The best samples: x0 and x_T (B, *shape), rewards (B,); history (rounds + 1, B): of the best so far; failed: rewards that
    were none; calls: evaluations of the network, a sample.
    """

    x0: Tensor
    x_T: Tensor
    rewards: Tensor
    history: Tensor
    failed: int
    calls: int


@method("best_of", kind="noise")
def best_of(
    denoiser: Denoiser,
    x_T: Tensor,
    reward: Callable[[Any], Any],
    n: int = 8,
    solver: Any = "dpmpp_2m",
    nfe: int = 8,
    *,
    rounds: int = 0,
    step: float = 0.3,
    decode: Callable[[Tensor], Any] | bool = False,
    seeds: int | Sequence[int] = 0,
    **how: Any,
) -> Found:
    """Each sample from the best of n noises by a black-box reward of x0, and `rounds` more of n each near the best so far.

        x_T' = sqrt(1 - step^2) x_T + step z

    rounds=0 is best-of-n, of independent noises, the first of them x_T itself; more is zero-order search. A noise whose
    reward raises or is not finite loses, and is counted.

    Args:
        x_T: (B, *shape), unit noise times sigma, as `initial_noise` gives it. reward: a batch -> B numbers, larger is better.
        n: noises a round. solver, nfe, how: as `sample` takes them. rounds, step: of the search; step in (0, 1].
        decode: True: the reward sees decoded images (`denoiser.decode`); or a function of latents.
        seeds: of the noises, one a sample, or the first of consecutive ones.

    Cost: n (1 + rounds) nfe evaluations a sample. No gradients.

    Raises: ValueError for numbers out of range, a reward of another shape, and where all rewards of a sample failed.

    Reference: Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps; Ma, Tong, Jia, Hu, Su, Zhang, Yang,
    Li, Jaakkola, Jia, Xie; 2025; arXiv:2501.09732.
    """
    whole("n", n, hint="It counts noises")
    whole("rounds", rounds, 0, hint="It counts rounds after the first")
    within("step", step, 0, 1, hint="It is the share of new noise")
    if decode is True and not callable(decode := getattr(denoiser, "decode", False)):
        raise ValueError("decode=True is for Denoiser.from_pipeline, which knows how; give a function of latents")
    told = list(range(int(seeds), int(seeds) + len(x_T))) if isinstance(seeds, int) else [int(s) for s in seeds]
    if len(told) != len(x_T):
        raise ValueError(f"`seeds` must be one int, or one a sample, {len(x_T)}; got {len(told)}")
    tilt = Tilt(reward, "x", lambda lam: 1.0, False, decode if callable(decode) else None)
    schedule = denoiser.schedule
    start = how.get("t_start") or getattr(denoiser, "t_start", None) or schedule.t_max
    sigma = float(schedule.sigma(float(start)))
    best: Tried | None = None
    centre, history, failed, before = x_T, [], 0, denoiser.nfe
    for k in range(n * (1 + rounds)):
        z = sigma * onto(x_T, [unit_normal(seed, (0, NOISES, k), tuple(x_T.shape[1:])) for seed in told])
        if k and k % n == 0 and best is not None:
            centre = best[1]  # of all that this round tries
        tried = x_T if k == 0 else z if k < n else (1 - step**2) ** 0.5 * centre + step * z
        with torch.no_grad():
            x0 = sample(denoiser, tried, solver, nfe, **how)
        value, _ = tilt.at(x0, None, 0.0)
        failed += int(value.isnan().sum())
        one = (x0, tried, value.nan_to_num(nan=-torch.inf))
        best = one if best is None else _better(best, one)
        if (k + 1) % n == 0:
            history.append(best[2])
    assert best is not None
    if bool(torch.isneginf(best[2]).any()):
        raise ValueError("the reward raised or was not finite for every noise of a sample: there is no best one")
    return Found(*best, torch.stack(history), failed, denoiser.nfe - before)


Tried = tuple[Tensor, Tensor, Tensor]


def _better(one: Tried, other: Tried) -> Tried:
    """Of each sample the one with the larger reward; the first of equal ones."""
    wins = other[2] > one[2]
    wide = wins.view(-1, *[1] * (one[0].ndim - 1))
    return torch.where(wide, other[0], one[0]), torch.where(wide, other[1], one[1]), torch.where(wins, other[2], one[2])
