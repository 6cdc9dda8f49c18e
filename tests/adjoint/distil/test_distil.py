"""Score distillation: gradients as they are defined, paths that are DDIM where they must be, sweeps that are the steps."""

from __future__ import annotations

from typing import Any

import learned_problems
import numpy as np
import pytest
import torch
from torch import Tensor
from tunable import Ring

from fewstep import sample
from fewstep.samplers import NoiseSchedule, guidance

DENOISER = learned_problems.ring(NoiseSchedule.flow())
SCHEDULE = DENOISER.schedule
TIMES = np.array([0.95, 0.8, 0.6, 0.4, 0.2, 0.05])


def own_noise(seeds: list[int]) -> Tensor:
    each = [torch.randn(2, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
    return torch.stack(each)


def by_ddim(seeds: list[int]) -> Tensor:
    grid = np.append(TIMES, SCHEDULE.t_end)
    return sample(DENOISER, float(SCHEDULE.sigma(TIMES[0])) * own_noise(seeds), "ddim", grid=grid)


@pytest.mark.parametrize("mode", ["cfd", "dsd"])
def test_one_path_a_seed_is_ddim(mode: str) -> None:
    """Gradient descent with the steps that its docstring names draws what DDIM draws from the seed's noise."""
    loss = guidance.distil(DENOISER, mode, times=TIMES, seeds=[3, 4, 5])
    rho = [*(float(SCHEDULE.sigma(t) / SCHEDULE.alpha(t)) for t in TIMES), 0.0]
    x = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    for k in range(len(TIMES)):
        (g,) = torch.autograd.grad(loss(x, step=k), x)
        x = (x - (1.0 if mode == "dsd" else 1 - rho[k + 1] / rho[k]) * g).detach().requires_grad_()
    torch.testing.assert_close(x.detach(), by_ddim([3, 4, 5]), rtol=1e-9, atol=1e-9)


def test_gradients_are_what_they_are_called() -> None:
    """x - D(x_t), nothing through the network, w before it; of one particle VSD is SDS."""
    x = torch.tensor([[0.3, -1.0]], dtype=torch.float64, requires_grad=True)
    found = {}
    for mode, student in (("sds", None), ("vsd", "particles")):
        loss = guidance.distil(
            DENOISER, mode, student=student, generator=torch.Generator().manual_seed(1), weight="sigma2"
        )
        (found[mode],) = torch.autograd.grad(loss(x), x)
    generator = torch.Generator().manual_seed(1)
    t = SCHEDULE.t_end + (0.02 + float(torch.rand((), generator=generator)) * 0.96) * (SCHEDULE.t_max - SCHEDULE.t_end)
    e = torch.randn(1, 2, generator=generator, dtype=torch.float64)
    alpha, sigma = float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t))
    want = sigma**2 * (x.detach() - DENOISER.x0(alpha * x.detach() + sigma * e, t))
    torch.testing.assert_close(found["sds"], want)
    torch.testing.assert_close(found["vsd"], want)


def test_inversion_leads_back() -> None:
    loss = guidance.distil(DENOISER, "sdi", times=[0.5])
    x = sample(DENOISER, own_noise([1, 2, 3]), "dpmpp_2m", 30)
    e = loss.noises.at(x, 0.5, 0)
    state = float(SCHEDULE.alpha(0.5)) * x + float(SCHEDULE.sigma(0.5)) * e
    again = sample(DENOISER, state, "dpmpp_2m", 30, t_start=0.5)
    torch.testing.assert_close(again, x, rtol=0, atol=2e-2)


def test_particles_keep_apart_where_sds_pulls_them_to_a_mode() -> None:
    """Mean distance to the nearest other particle after the same steps from the same start."""

    def ended(mode: str, student: Any) -> Tensor:
        loss = guidance.distil(DENOISER, mode, student=student, generator=torch.Generator().manual_seed(0))
        x = own_noise(list(range(48)))
        for _ in range(150):
            x = x - 0.1 * loss.gradient(x, loss._time(0), 0)
        return x

    apart = [
        float((torch.cdist(x, x) + torch.eye(len(x)) * 9).min(1).values.mean())
        for x in (ended("sds", None), ended("vsd", "particles"))
    ]
    assert apart[1] > 1.5 * apart[0]


@pytest.mark.slow
def test_a_student_learns_the_law_of_the_images() -> None:
    net = Ring()
    loss = guidance.distil(net.denoiser(), "vsd", student=Ring(seed=1).denoiser())
    images = torch.full((32, 2), 0.3)
    student: Any = loss.student
    optimizer = torch.optim.Adam(student.fn.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        value = loss.student_loss(images)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    image = images.clone().requires_grad_()
    loss(image).backward()
    assert image.grad is not None and bool(image.grad.isfinite().all())


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"mode": "sdx"}, "unknown mode"),
        ({"mode": "vsd"}, "`student` goes with"),
        ({"mode": "vsd", "student": "others"}, "unknown student"),
        ({"mode": "cfd", "steps": 5}, "`seeds`"),
        ({"mode": "cfd", "seeds": [1]}, "`steps`"),
        ({"mode": "sds", "weight": "snr"}, "unknown weight"),
        ({"mode": "sds", "span": (0.5, 0.1)}, "`span`"),
        ({"mode": "sdi", "times": [0.1, 0.5]}, "must fall"),
    ],
)
def test_bad_input(own: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        guidance.distil(DENOISER, **own)


def test_bad_images() -> None:
    loss = guidance.distil(DENOISER, "cfd", times=[0.5], seeds=[1, 2])
    with pytest.raises(ValueError, match="one an image"):
        loss(torch.zeros(3, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="a batch of images"):
        loss(torch.zeros(3))
    with pytest.raises(ValueError, match="beyond the 1"):
        loss(torch.zeros(2, 2, dtype=torch.float64), step=1)


def descent(lr: float = 0.05) -> tuple[Any, Any, Any]:
    """Adam on a bent valley, as drift and update of a state (place, m, v)."""

    def gradient(x: Tensor, k: int) -> Tensor:
        noise = 0.02 * torch.randn(2, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        return torch.stack([x[0] - 1 + 4 * x[0] * (x[0] ** 2 - x[1]), 2 * (x[1] - x[0] ** 2)]) + noise

    def update(state: Any, g: Tensor, k: int) -> Any:
        x, m, v = state
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        return x - lr * (m / (1 - 0.9 ** (k + 1))) / ((v / (1 - 0.99 ** (k + 1))).sqrt() + 1e-8), m, v

    start = torch.tensor([-1.0, 1.5], dtype=torch.float64)
    return gradient, update, (start, torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize(("tolerance", "near"), [(0.0, 1e-12), (0.05, 0.05)])
def test_sweeps_are_the_steps_one_after_another(tolerance: float, near: float) -> None:
    gradient, update, state = descent()
    drift = lambda states, numbers: [gradient(s[0], k) for s, k in zip(states, numbers, strict=True)]  # noqa: E731
    found = guidance.picard_steps(drift, update, state, 120, window=8, tolerance=tolerance)
    for k in range(120):
        state = update(state, gradient(state[0], k), k)
    assert float((found.state[0] - state[0]).norm()) <= near
    if tolerance:
        assert found.sweeps < 80 and found.drifts <= 8 * found.sweeps


def test_sweeps_refuse() -> None:
    with pytest.raises(ValueError, match="one gradient a state"):
        guidance.picard_steps(lambda s, n: s[:1], lambda s, g, k: s, torch.zeros(2), 4)
    with pytest.raises(ValueError, match="`steps`"):
        guidance.picard_steps(lambda s, n: s, lambda s, g, k: s, torch.zeros(2), 0)
    with pytest.raises(ValueError, match="not finite"):
        guidance.picard_steps(lambda s, n: list(s), lambda s, g, k: s / 0, torch.ones(2), 4)
