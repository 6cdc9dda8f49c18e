"""A number that samples are to have more of."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fewstep.adjoint.tuning.losses.loss_entry import tuning_loss
from fewstep.adjoint.tuning.losses.loss_scene import Drawn, Scene


def values(drawn: Drawn, **_: Any) -> Tensor:
    """(N,) -r of the samples."""
    assert drawn.rewards is not None
    return -drawn.rewards.double()


@tuning_loss(
    "reward",
    reference="Directly Fine-Tuning Diffusion Models on Differentiable Rewards, Clark, Vicol, Swersky, Fleet, 2023, "
    "arXiv:2309.17400; Aligning Text-to-Image Diffusion Models with Reward Backpropagation, Prabhudesai et al., 2023, "
    "arXiv:2310.03739",
    needs=("reward",),
    judge=values,
)
def reward(scene: Scene) -> Tensor:
    """-mean r(images), by exact gradients; take "reward+hold" where samples shall stay samples."""
    assert scene.around.reward is not None
    return -rewarded(scene.around.reward, scene.images).double().mean()


def rewarded(function: Any, images: Tensor) -> Tensor:
    """(B,). ValueError for a reward of another shape, or one that is not finite."""
    found = function(images)
    if not isinstance(found, Tensor) or found.shape != images.shape[:1] or not found.is_floating_point():
        got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"`reward` must give one number an image, floats of shape ({len(images)},); it returned {got}: end it with "
            ".flatten(1).mean(1)"
        )
    if not bool(found.detach().isfinite().all()):
        raise ValueError(f"`reward` must be finite; it returned {found.detach().tolist()}"[:300])
    return found
