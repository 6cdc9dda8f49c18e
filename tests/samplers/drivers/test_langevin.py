"""Predictor-corrector: exactly the evaluations asked for, the published moves, marginals, and what correctors gain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import Gaussian, Mixture, energy_distance, in_turn, starts
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule, build, sample
from fewstep.samplers.noise.draws import Draw
from fewstep.samplers.noise.sources import NoiseSource

SCHEDULES = {
    "vp": (NoiseSchedule.vp_linear(), "epsilon"),
    "edm": (NoiseSchedule.edm(), "sample"),
    "ve": (NoiseSchedule.ve(0.01, 50.0), "score"),
    "flow": (NoiseSchedule.flow(), "flow_prediction"),
}
everywhere = pytest.mark.parametrize("kind", SCHEDULES)


def problem(kind: str, data: Mixture, n: int = 6, shape: tuple[int, ...] = (2,)) -> tuple[Denoiser, Tensor]:
    schedule, prediction = SCHEDULES[kind]
    return data.denoiser(schedule, prediction), starts(schedule, schedule.t_max, n, shape=shape)


@pytest.mark.parametrize("predictor", ["reverse_diffusion", "ddim", "dpmpp_2m", "heun", "unipc"])
@pytest.mark.parametrize("n_corr", [0, 1, 2])
def test_spends_exactly_nfe(predictor: str, n_corr: int) -> None:
    for kind in SCHEDULES:
        for nfe in (1, 2, 5, 9, 16):
            denoiser, x = problem(kind, Mixture())
            y, info = sample(
                denoiser, x, "predictor_corrector", nfe, predictor=predictor, n_corr=n_corr, return_info=True
            )
            assert info.nfe == info.calls == denoiser.nfe == nfe and y.isfinite().all()


def test_the_last_steps_are_corrected_first() -> None:
    """11 evaluations with one correction a step: six steps, of which the first has none; an explicit grid has all."""
    schedule = SCHEDULES["vp"][0]
    shown: list[float] = []
    network = Mixture().denoiser(schedule).fn
    watched = Denoiser(lambda x, tau: shown.append(float(tau)) or network(x, tau), schedule)
    x = starts(schedule, 1.0, 2)
    sample(watched, x, "predictor_corrector", 11, predictor="ddim", grid="uniform")
    times = build("ddim", schedule, 6, "uniform").model_times
    assert shown == pytest.approx([times[0], *(t for t in times[1:] for _ in range(2))])
    _, info = sample(watched, x, "predictor_corrector", grid=[1.0, 0.5, 0.2, 0.01], n_corr=2, return_info=True)
    assert info.nfe == 9 and info.accepted == 3
    assert sample(watched, x, "predictor_corrector", return_info=True)[1].nfe == 10


def test_without_corrections_it_is_the_predictor() -> None:
    denoiser, x = problem("vp", Mixture())
    seeds = range(len(x))
    for name in ("ddim", "dpmpp_2m", "ddpm"):
        y = sample(denoiser, x, "predictor_corrector", 8, predictor=name, n_corr=0, denoise=False, noise_seeds=seeds)
        assert torch.equal(y, sample(denoiser, x, name, 8, noise_seeds=seeds))


@everywhere
@pytest.mark.parametrize("predictor", ["reverse_diffusion", "dpmpp_2m", "unipc"])
@pytest.mark.parametrize("per_sample", [True, False])
def test_moves_are_the_published_ones(kind: str, predictor: str, per_sample: bool) -> None:
    """Against the rule written out as a hook of the predictor alone, which moves its state after every step.

    With batch-mean norms this is the published corrector; per sample, the same with norms of its own and their bound.
    """
    N, snr = 7, 0.3
    schedule = SCHEDULES[kind][0]
    denoiser, x = problem(kind, Mixture(), shape=(2,))
    seeds = tuple(range(len(x)))
    tableau = build(predictor, schedule, N)
    source = NoiseSource(seeds)

    def correct(p: Any) -> Tensor | None:
        k = p.index + 1
        if k == N:
            return None
        t, alpha, sigma, lam = (float(v[k]) for v in tableau.nodes)
        score = -denoiser.eps(p.x, t) / sigma
        z = source(Draw(k + 1, tableau.slots, lam, lam), p.x)
        a = (alpha / float(tableau.nodes.alpha[k + 1])) ** 2 if kind == "vp" else 1.0
        noise_norm, score_norm = z.norm(dim=1, keepdim=True), score.norm(dim=1, keepdim=True)
        if per_sample:
            e = 2 * a * (snr * noise_norm / score_norm) ** 2
            e = e.clamp(max=2 * a * snr**2 * (alpha**2 + sigma**2))
        else:
            e = 2 * a * (snr * noise_norm.mean() / score_norm.mean()) ** 2
        return p.x + e * score + (2 * e) ** 0.5 * z

    options = {"predictor": predictor, "snr": snr, "per_sample": per_sample, "denoise": False}
    y = sample(denoiser, x, "predictor_corrector", 2 * N - 1, noise_seeds=seeds, **options)
    longhand = sample(denoiser, x, predictor, N, noise_seeds=seeds, hook=correct)
    assert float((y - longhand).abs().max()) < 1e-10


def test_the_last_noise_is_left_out() -> None:
    """The published end, the mean of the last row; where sigma ends at 0 there is no noise to leave out."""
    denoiser, x = problem("ve", Gaussian(), n=400, shape=(16,))
    run = {"predictor": "euler_maruyama", "noise_seeds": range(400), "t_end": 0.1}
    noisy, mean = (sample(denoiser, x, "predictor_corrector", 40, denoise=d, **run) for d in (False, True))
    schedule, nodes = SCHEDULES["ve"][0], build("euler_maruyama", SCHEDULES["ve"][0], 20, t_end=0.1).nodes
    step = float(nodes.sigma[-2] ** 2 - nodes.sigma[-1] ** 2) ** 0.5
    assert 0.5 * step < float((noisy - mean).std()) < 2 * step and schedule.kind == "ve"
    denoiser, x = problem("edm", Gaussian())
    ends = [sample(denoiser, x, "predictor_corrector", 8, denoise=d, noise_seeds=range(6)) for d in (False, True)]
    assert torch.equal(*ends)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "predictor"), in_turn(SCHEDULES, ["reverse_diffusion", "ddpm"]))
def test_gaussian_marginals(kind: str, predictor: str) -> None:
    """Mean and deviation of 60 samples of 2,000 elements at 200 evaluations: within 1.5 % (the estimates: 0.6 %, 0.2 %)."""
    data, schedule = Gaussian(), SCHEDULES[kind][0]
    denoiser, _ = problem(kind, data)
    alpha, sigma = float(schedule.alpha(schedule.t_max)), float(schedule.sigma(schedule.t_max))
    unit = torch.randn(60, 2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = alpha * data.mean + (alpha**2 * data.std**2 + sigma**2) ** 0.5 * unit
    y = sample(denoiser, x, "predictor_corrector", 200, predictor=predictor, noise_seeds=range(60))
    assert abs(float(y.mean()) / data.mean - 1) < 0.015
    assert abs(float(y.std()) / data.std - 1) < 0.015


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vp", "edm"])
def test_correctors_help_at_few_steps(kind: str) -> None:
    """Energy distance to the mixture, whose own samples are within 0.001 of each other.

    Corrections at every one of 10 steps of DDPM halve the distance; moves of the mixture's own size (snr 0.4) beat 20
    steps without corrections too, the default snr does not.
    """
    data, n = Mixture(), 1500
    schedule = SCHEDULES[kind][0]
    g = torch.Generator().manual_seed(0)
    clean = []
    for _ in range(2):
        k = torch.multinomial(data.log_weights.exp(), n, True, generator=g)
        spread = torch.randn(n, 2, generator=g, dtype=torch.float64)
        clean.append(data.means[k] + torch.tensor([0.35, 0.25, 0.4], dtype=torch.float64)[k, None] * spread)
    denoiser, _ = problem(kind, data)
    x = starts(schedule, schedule.t_max, n, 3)

    def distance(solver: str, nfe: int, **options: Any) -> float:
        return energy_distance(sample(denoiser, x, solver, nfe, noise_seeds=range(n), **options), clean[0])

    pc = {"predictor": "ddpm", "per_sample": False}
    ten, twenty = distance("ddpm", 10), distance("ddpm", 20)
    corrected, strong = (distance("predictor_corrector", 20, snr=snr, **pc) for snr in (0.16, 0.4))
    print(f"\n{kind}: ddpm 10 {ten:.4f}, 20 {twenty:.4f}; corrected {corrected:.4f}, snr 0.4 {strong:.4f}")
    assert energy_distance(*clean) < 0.003
    assert corrected < 0.6 * ten and strong < 0.5 * twenty


def test_samples_are_their_own_or_the_batch_s() -> None:
    denoiser, x = problem("vp", Mixture())
    run = {"predictor": "ddpm", "n_corr": 2}
    for per_sample in (True, False):
        whole = sample(denoiser, x, "predictor_corrector", 12, noise_seeds=range(6), per_sample=per_sample, **run)
        alone = sample(denoiser, x[2:3], "predictor_corrector", 12, noise_seeds=[2], per_sample=per_sample, **run)
        assert torch.equal(whole[2:3], alone) == per_sample


def test_seeds_generators_and_brownian_paths() -> None:
    denoiser, x = problem("flow", Mixture())
    for noise in ({"noise_seeds": range(6)}, {"noise_seeds": range(6), "noise": "brownian"}):
        a, b = (sample(denoiser, x, "predictor_corrector", 12, n_corr=2, **noise) for _ in range(2))
        assert torch.equal(a, b)
    a, b, c = (
        sample(denoiser, x, "predictor_corrector", 12, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )
    assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_state_keeps_its_dtype_and_progress_is_told(dtype: torch.dtype) -> None:
    denoiser, x = problem("vp", Mixture())
    seen: list[int] = []
    y = sample(denoiser, x.to(dtype), "predictor_corrector", 10, callback=lambda p: seen.append(p.nfe))
    assert y.dtype == dtype and y.isfinite().all() and seen == [2, 4, 6, 8, 10]


def test_a_score_of_zero_moves_by_a_bounded_step() -> None:
    flat = Denoiser(lambda x, tau: torch.zeros_like(x), SCHEDULES["edm"][0], "epsilon")
    assert sample(flat, torch.zeros(3, 4), "predictor_corrector", 6, t_end=0.1).isfinite().all()
    with pytest.raises(ValueError, match="not finite"):
        sample(flat, torch.zeros(3, 4), "predictor_corrector", 6, t_end=0.1, per_sample=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"predictor": "picard"}, "has no table"),
        ({"predictor": "nobody"}, "nobody"),
        ({"predictor_options": {"zeal": 1}}, "zeal"),
        ({"n_corr": -1}, "n_corr"),
        ({"n_corr": 1.5}, "n_corr"),
        ({"snr": 0}, "snr"),
        ({"snr": 2.0}, "snr"),
        ({"per_sample": 3}, "per_sample"),
        ({"denoise": "yes"}, "denoise"),
    ],
)
def test_bad_input_is_named_before_any_call(options: dict[str, Any], words: str) -> None:
    denoiser, x = problem("vp", Mixture())
    with pytest.raises(ValueError, match=words):
        sample(denoiser, x, "predictor_corrector", 6, **options)
    assert denoiser.nfe == 0
