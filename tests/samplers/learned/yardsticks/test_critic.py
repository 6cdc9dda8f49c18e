"""The adversary: it learns to tell, the knobs learn not to be told; without data it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from learned_problems import base, ring, task
from PIL import Image

from fewstep.samplers.artefact.loading import load
from fewstep.samplers.learned import learn
from fewstep.samplers.learned.descent.critic import Critic, data_of, discriminator
from fewstep.samplers.learned.methods.joint import joint

QUICK: dict[str, Any] = {
    "shape": (2,), "nfe": 4, "method": "joint", "steps": 6, "seeds": range(64), "guard_seeds": range(1000, 1064),
    "progress": False, "cache": False, "rivals": False, "solver": "dpmpp_2m",
}  # fmt: skip


def data(count: int = 256) -> torch.Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(3))


def test_the_critic_learns_to_tell_samples_from_data() -> None:
    made = task(ring(), (2,), 3, 16, 16)
    critic, far = Critic(made, data() + 3, 0.1, "mixed"), data(64)
    for group in critic.optimizer.param_groups:
        group["lr"] = 1e-2
    for _ in range(60):
        critic._learn(far.clone(), critic.data[:64])
    assert float((critic.network(critic.data[64:]).mean() - critic.network(far).mean()).detach()) > 0.5


def test_its_gradient_is_added_to_that_of_the_loss() -> None:
    """loss + weight softplus(D(y) - D(x0)), in x0, against differences."""
    made = task(ring(), (2,), 3, 16, 16)
    part = made.train_parts()[0]
    x = (made.teacher.end(part) + 0.1).requires_grad_()

    def value(x0: torch.Tensor) -> torch.Tensor:
        return Critic(made, data(), 0.7, "mse")([x0], part, made.teacher, None)

    slope = torch.autograd.grad(value(x), x)[0]
    plain = 2 * (x - made.teacher.end(part)).detach() / x.numel()
    assert not torch.allclose(slope, plain, rtol=1e-3)
    critic = Critic(made, data(), 0.0, "mse")
    assert torch.allclose(torch.autograd.grad(critic([x], part, made.teacher, None), x)[0], plain)


def test_learned_beside_a_critic_and_saved(tmp_path: Path) -> None:
    """Another way down than without; the file tells the data by shape and hash."""
    made = task(ring(), (2,), 3, 64, 64)
    how: dict[str, Any] = {"steps": 20, "batch": 32, "remember": True, "even": 0, "rounds": 1}
    with_it = joint(made, base(made), critic=data(), adversary=1.0, **how)
    assert not np.array_equal(with_it.W, joint(made, base(made), **how).W)
    found = learn(ring(), critic=data().numpy(), resume=tmp_path, **QUICK)
    found.save(tmp_path / "own.json")
    told = dict(load(tmp_path / "own.json").provenance["method"][0][1])["critic"]
    assert told["shape"] == [256, 2] and len(told["sha256"]) == 16 and json.dumps(told)


def test_pictures_become_data() -> None:
    grey = [Image.fromarray(np.full((4, 6), 8 * k, np.uint8)) for k in range(8)]
    found = data_of(grey)
    assert found is not None and found.shape == (8, 1, 4, 6) and float(found[0].max()) == -1
    assert discriminator((1, 28, 28))(torch.zeros(2, 1, 28, 28)).shape == (2, 1)


@pytest.mark.parametrize(
    ("critic", "match"),
    [
        (True, "without data"),
        ("images", "without data"),
        ([], "at least 8 pictures"),
        (torch.zeros(3, 2), "at least 8 pictures"),
        (torch.full((9, 2), float("nan")), "not finite"),
        ([torch.zeros(2)] * 8 + [torch.zeros(3)], "of one shape"),
    ],
)
def test_a_critic_without_data_is_refused_before_any_work(critic: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        learn(ring(), critic=critic, **QUICK)


def test_data_of_another_shape_and_weights_that_are_none() -> None:
    made = task(ring(), (2,), 3, 16, 16)
    with pytest.raises(ValueError, match=r"data of shape \(3,\), and samples are \(2,\)"):
        joint(made, base(made), critic=torch.zeros(8, 3))
    with pytest.raises(ValueError, match="`adversary`"):
        learn(ring(), critic=data(), adversary=-1.0, **QUICK)
