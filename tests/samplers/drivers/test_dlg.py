"""Denoising Langevin-Gibbs: trained noise-level classifiers know the level, and chains end on the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from problems import Mixture, energy_distance, starts
from torch import Tensor, nn

import fewstep
import fewstep.demo
from fewstep.samplers import Denoiser, NoiseSchedule, sample

DATA, STDS, LEVELS, COUNT = Mixture(), torch.tensor([0.35, 0.25, 0.4], dtype=torch.float64), (0.02, 20.0), 40
RHO = torch.from_numpy(np.geomspace(*LEVELS, COUNT))
SCHEDULES = {
    "vp": (NoiseSchedule.vp_linear(), "epsilon"),
    "edm": (NoiseSchedule.edm(0.002, 20.0), "sample"),
    "flow": (NoiseSchedule.flow(), "flow_prediction"),
}
everywhere = pytest.mark.parametrize("kind", SCHEDULES)


def clean(n: int, seed: int) -> Tensor:
    """Samples of the mixture."""
    g = torch.Generator().manual_seed(seed)
    k = torch.multinomial(DATA.log_weights.exp(), n, True, generator=g)
    return DATA.means[k] + STDS[k, None] * torch.randn(n, 2, generator=g, dtype=torch.float64)


def exact(y: Tensor) -> Tensor:
    """The perfect classifier, (B, levels): log density of y at every level."""
    variance = STDS**2 + RHO[:, None] ** 2  # (levels, components)
    gap = (y.double()[:, None] - DATA.means).square().sum(-1)  # (B, components)
    logs = DATA.log_weights - variance.log() - 0.5 * gap[:, None] / variance
    return logs.logsumexp(-1)


def fit(network: nn.Module, data: Tensor, rho: Tensor, rounds: int, batch: int, rate: float) -> nn.Module:
    """Trained to tell the level of noise on data, by cross entropy."""
    optimiser = torch.optim.Adam(network.parameters(), rate)
    for _ in range(rounds):
        level, rows = torch.randint(len(rho), (batch,)), torch.randint(len(data), (batch,))
        noise = rho[level].view(-1, *(1,) * (data.ndim - 1)) * torch.randn(batch, *data.shape[1:], dtype=data.dtype)
        loss = nn.functional.cross_entropy(network((data[rows] + noise).float()), level)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval().requires_grad_(False)


class PointLevels(nn.Module):
    """A small network of bounded features of a point."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, COUNT))

    def forward(self, y: Tensor) -> Tensor:
        y = y.float()
        far = 1 + y.square().sum(1, keepdim=True)
        return self.body(torch.cat([y / far.sqrt(), far.log(), y.tanh(), far.rsqrt()], 1))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    torch.manual_seed(0)
    return fit(PointLevels(), clean(20000, 9), RHO, rounds=1000, batch=512, rate=3e-3)


def chains(kind: str, n: int) -> tuple[Denoiser, Tensor]:
    schedule, prediction = SCHEDULES[kind]
    return DATA.denoiser(schedule, prediction, vector_time=True), starts(schedule, schedule.t_max, n, 3)


def run(kind: str, n: int, classifier: Callable[[Tensor], Tensor] = exact, nfe: int = 40, **options: Any) -> Any:
    denoiser, x = chains(kind, n)
    options = {"levels": LEVELS, "step": 0.05, "init": 5, "noise_seeds": range(n), **options}
    return sample(denoiser, x, "dlg", nfe, classifier=classifier, return_info=True, **options)


def test_trained_classifier_knows_the_level(trained: nn.Module) -> None:
    """As well as can be: its cross entropy is near that of the perfect one, and high levels are met within a factor 3."""
    torch.manual_seed(1)
    level = torch.randint(COUNT, (4000,))
    y = clean(4000, 11) + RHO[level, None] * torch.randn(4000, 2, dtype=torch.float64)
    ours, best = (float(nn.functional.cross_entropy(f(y).double(), level)) for f in (trained, exact))
    assert best - 0.05 < ours < best + 0.1 < np.log(COUNT) - 0.4
    high = RHO[level] > 2
    ratio = (RHO[trained(y).argmax(1)] / RHO[level])[high].log().abs()
    assert float((ratio < np.log(3)).float().mean()) > 0.8


@pytest.mark.slow
@everywhere
def test_chains_end_on_the_mixture(kind: str, trained: nn.Module) -> None:
    """Closer to it than where they started, and about as close as its own samples are (0.002)."""
    n = 1000
    target = clean(n, 1)
    denoiser, x = chains(kind, n)
    start = sample(denoiser, x, "dpmpp_2m", 5, "karras")
    start = start + 0.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, info = run(kind, n, trained, 60, burn_in=35)
    assert info.nfe == info.calls == 60 and info.status == "done" and y.isfinite().all()
    far, near = energy_distance(start, target), energy_distance(y, target)
    print(
        f"\n{kind}: energy distance {far:.4f} at the start, {near:.4f} at the end, {energy_distance(clean(n, 2), target):.4f}"
    )
    assert near < 0.01 and near < 0.4 * far
    nearest = torch.cdist(y, DATA.means)
    share = torch.bincount(nearest.argmin(1), minlength=3) / n
    assert float((share - DATA.log_weights.exp()).abs().max()) < 0.08
    assert float((nearest.min(1).values < 3.5 * 0.4).float().mean()) > 0.99


@pytest.mark.slow
@everywhere
@pytest.mark.parametrize("gibbs", ["argmax", "sample"])
def test_exact_classifier_and_gibbs_steps(kind: str, gibbs: str) -> None:
    target = clean(500, 1)
    y, _ = run(kind, 500, gibbs=gibbs, nfe=40)
    assert energy_distance(y, target) < 0.03


@pytest.mark.parametrize("base", ["ddim", "heun", "dpmpp_3m", "unipc", "deis"])
def test_the_way_down_is_the_base_s(base: str) -> None:
    """Without moves and noise, a chain that is told its level plays the base from there, each its own table."""
    schedule, _ = SCHEDULES["edm"]
    denoiser, x = chains("edm", 3)
    rho = np.geomspace(0.1, 20.0, 4)
    x = x * torch.tensor([rho[i] / 20.0 for i in (1, 2, 3)])[:, None]
    told = lambda y: torch.eye(4)[[1, 2, 3]][: len(y)]  # noqa: E731
    y = sample(denoiser, x, "dlg", 6, classifier=told, levels=(0.1, 20.0), init=0, burn_in=0, n_skip=0, base=base)
    for i, level in enumerate(rho[1:]):
        alone = sample(denoiser, x[i : i + 1], base, 6, "karras", t_start=float(level))
        assert float((y[i] - alone[0]).abs().max()) < 1e-9


@pytest.mark.parametrize("nfe", [26, 27, 33])
def test_counts_and_progress(nfe: int) -> None:
    """Exactly nfe evaluations, one a call; VP ends at sigma > 0 and takes one of them for the last denoising."""
    denoiser, x = chains("vp", 4)
    seen: list[int] = []
    run_options = {"classifier": exact, "levels": LEVELS, "init": 5, "step": 0.05, "noise_seeds": range(4)}
    y, info = sample(denoiser, x, "dlg", 27, callback=lambda p: seen.append(p.nfe), return_info=True, **run_options)
    assert info.nfe == denoiser.nfe == 27 and seen == list(range(1, 28))
    y, info = sample(denoiser, x, "dlg", nfe + 1, denoise=False, return_info=True, **run_options)
    assert info.nfe == nfe + 1
    assert run("edm", 2, nfe=None)[1].nfe == 35


def test_the_lowest_level_of_the_last_moves_is_kept() -> None:
    """A classifier that reads its answer off a list: the way down starts at the lowest of the window, not of the burn-in."""
    answers = iter([0, 5, 1, 7, 4, 6, 9])  # of the checks, the start, and five moves
    denoiser, x = chains("edm", 1)
    shown: list[float] = []

    def script(y: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.tensor([next(answers)]), 10).float()

    network = denoiser.fn
    watched = Denoiser(lambda x, t: shown.append(float(t)) or network(x, t), denoiser.schedule, "sample", True)
    sample(watched, x, "dlg", 6, classifier=script, levels=(0.1, 10.0), init=0, burn_in=2, n_skip=3, base="ddim")
    rho = np.geomspace(0.1, 10.0, 10)
    assert shown == pytest.approx([rho[i] for i in (5, 1, 7, 4, 6, 4)])


def test_samples_are_their_own_and_seeds_repeat() -> None:
    for gibbs in ("argmax", "sample"):
        whole, _ = run("vp", 5, gibbs=gibbs)
        again, _ = run("vp", 5, gibbs=gibbs, noise="brownian")
        denoiser, x = chains("vp", 5)
        alone, _ = sample(
            denoiser, x[3:4], "dlg", 40, classifier=exact, levels=LEVELS, step=0.05, init=5, gibbs=gibbs,
            noise_seeds=[3], return_info=True,
        )  # fmt: skip
        assert float((alone[0] - whole[3]).abs().max()) < 1e-12
        assert torch.equal(whole, run("vp", 5, gibbs=gibbs)[0]) and not torch.equal(whole, again)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_state_keeps_its_dtype(dtype: torch.dtype) -> None:
    denoiser, x = chains("flow", 3)
    y = sample(denoiser, x.to(dtype), "dlg", 40, classifier=exact, levels=LEVELS, step=0.05, noise_seeds=range(3))
    assert y.dtype == dtype and y.isfinite().all()


def test_a_network_of_one_time_runs_one_chain() -> None:
    schedule, prediction = SCHEDULES["vp"]
    denoiser, x = DATA.denoiser(schedule, prediction), starts(schedule, 1.0, 2)
    options: dict[str, Any] = {"classifier": exact, "levels": LEVELS, "step": 0.05}
    assert sample(denoiser, x[:1], "dlg", 35, **options).isfinite().all()
    before = denoiser.nfe
    with pytest.raises(ValueError, match="vector_time"):
        sample(denoiser, x, "dlg", 35, **options)
    assert denoiser.nfe == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classifier": None}, "classifier.*missing"),
        ({"classifier": lambda y: y[:, :1]}, "logits of shape"),
        ({"classifier": lambda y: 3}, "logits of shape"),
        ({"levels": (1.0, 0.1)}, "levels"),
        ({"levels": (0.0, 0.1)}, "levels"),
        ({"step": 0}, "step"),
        ({"burn_in": -1}, "burn_in"),
        ({"n_skip": 1.5}, "n_skip"),
        ({"init": -1}, "init"),
        ({"init_noise": -1}, "init_noise"),
        ({"gibbs": "maybe"}, "gibbs"),
        ({"denoise": 3}, "denoise"),
        ({"base": "ddpm"}, "ODE solver"),
        ({"base": "nobody"}, "nobody"),
        ({"base_options": {"zeal": 1}}, "zeal"),
        ({"nfe": 31}, "at least 32"),
        ({"grid": [1.0, 0.5, 0.1]}, "grid"),
    ],
)
def test_bad_input_is_named_before_any_call(options: dict[str, Any], words: str) -> None:
    denoiser, x = chains("vp", 3)
    with pytest.raises(ValueError, match=words):
        sample(denoiser, x, **{"solver": "dlg", "nfe": 40, "classifier": exact, "levels": LEVELS, **options})
    assert denoiser.nfe == 0


def test_start_without_a_finite_level_is_named() -> None:
    denoiser, x = chains("flow", 3)
    for options, words in (({}, "levels"), ({"levels": LEVELS, "init": 0}, "alpha = 0")):
        with pytest.raises(ValueError, match=words):
            sample(denoiser, x, "dlg", 40, classifier=exact, **options)
    assert denoiser.nfe == 0


class DigitLevels(nn.Module):
    """A tiny convolutional network; the median difference of neighbouring pixels leads it."""

    def __init__(self, levels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 16, 3, 2, 1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(33, 64), nn.SiLU(), nn.Linear(64, levels))

    def forward(self, y: Tensor) -> Tensor:
        y = y.float()
        fine = (y[..., 1:] - y[..., :-1]).abs().flatten(1).median(1, keepdim=True).values.log()
        size = (1 + y.square().mean((1, 2, 3), keepdim=True)).sqrt()
        features = self.body(torch.cat([y / size, y.clamp(-2, 2)], 1))
        return self.head(torch.cat([features, fine], 1))


@pytest.mark.slow
def test_embedded_digits() -> None:
    """A classifier of noise trained on the model's own digits, and chains that stay digits of their class."""
    pipe = fewstep.load_demo_pipeline()
    schedule = NoiseSchedule.from_config(pipe.scheduler.config)

    def digits(labels: Tensor) -> Denoiser:
        def fn(x: Tensor, tau: Tensor) -> Tensor:
            with torch.no_grad():
                return pipe.unet(x, tau.expand(len(x)), labels).sample

        return Denoiser(fn, schedule, "epsilon", vector_time=True)

    torch.manual_seed(0)
    labels, ends, count = torch.arange(128) % 10, (0.05, 20.0), 60
    rho = torch.from_numpy(np.geomspace(*ends, count)).float()
    data = sample(digits(labels), torch.randn(128, 1, 28, 28), "dpmpp_2m", 8)
    network = fit(DigitLevels(count), data[:112], rho, rounds=900, batch=64, rate=3e-3)
    level = torch.randint(count, (400,))
    noisy = data[112:].repeat(25, 1, 1, 1) + rho[level].view(-1, 1, 1, 1) * torch.randn(400, 1, 28, 28)
    ratio = (rho[network(noisy).argmax(1)] / rho[level]).log().abs()
    right = float((ratio < np.log(1.5)).float().mean())
    chain = torch.arange(10)
    y, info = sample(
        digits(chain), torch.randn(10, 1, 28, 28), "dlg", 40, classifier=network, levels=ends, step=0.1,
        init_noise=0.3, noise_seeds=range(10), return_info=True,
    )  # fmt: skip
    kept = float((fewstep.demo.load_demo_classifier()(y.clamp(-1, 1)).argmax(1) == chain).float().mean())
    print(f"\nlevels within a factor 1.5: {right:.2f}; digits of their class: {kept:.1f}; nfe {info.nfe}")
    assert right > 0.9 and kept >= 0.8 and info.nfe == 40
