"""Guidance between steps and around pipelines: replacement, hooks as callbacks of stock pipelines, and the examples."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from late import diffusers
from PIL import Image
from pipelines import PIPELINES
from places import EXAMPLES
from problems import Gaussian, starts
from torch import Tensor

import fewstep
from fewstep import Denoiser, NoiseSchedule, sample
from fewstep.samplers import guidance
from fewstep.samplers.config.reading import schedule_from_config

VP = NoiseSchedule.vp_linear()
SEEDS = [11, 12, 13]


def picture(seed: int = 5) -> Tensor:
    return starts(VP, 0.0, 3, seed=seed, shape=(3, 4, 4))


@pytest.mark.parametrize("solver", ["ddim", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde"])
@pytest.mark.parametrize("kind", ["inpainting", "colourisation", "means"])
def test_what_is_known_is_there_at_the_end(kind: str, solver: str) -> None:
    """Known pixels, gray values and means equal the measurement, on deterministic and stochastic solvers."""
    known = torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    A = {
        "inpainting": guidance.mask(known),
        "colourisation": guidance.colour((0.3, 0.6, 0.1)),
        "means": guidance.downsample(2),
    }[kind]
    y = A(picture())
    for fresh in (False, True):
        hook = guidance.replacement(y, A, VP, SEEDS, fresh=fresh)
        run: dict[str, Any] = {"hook": hook, "t_end": 0.0, "noise_seeds": SEEDS}
        x0 = sample(Gaussian().denoiser(VP), starts(VP, 1.0, 3, shape=(3, 4, 4)), solver, 8, **run)
        torch.testing.assert_close(A(x0), y, rtol=1e-10, atol=1e-10)
        assert float((x0 - picture()).norm()) > 1.0  # what is not known was drawn


def test_noise_of_what_is_known() -> None:
    """One z a run, or one a step; the sample's own, whatever the batch; of the level of the new state."""
    A = guidance.mask(torch.ones(3, 4, 4))
    y, x_T, states = A(picture()), starts(VP, 1.0, 3, shape=(3, 4, 4)), []
    for fresh, seeds, rows in (
        (False, SEEDS, slice(0, 3)),
        (True, SEEDS, slice(0, 3)),
        (True, SEEDS[1:2], slice(1, 2)),
    ):
        hook, seen = guidance.replacement(y[rows], A, Gaussian().denoiser(VP), seeds, fresh=fresh), []

        def watched(progress: Any, hook: Any = hook, seen: Any = seen, rows: Any = rows) -> Tensor:
            x = hook(progress)
            seen.append((x - float(VP.alpha(progress.t)) * y[rows]) / float(VP.sigma(progress.t)))
            return x

        sample(Gaussian().denoiser(VP), x_T[rows], "ddim", 5, hook=watched, t_end=0.05)
        states.append(seen)
    one, fresh, alone = states
    for z in one[1:]:
        torch.testing.assert_close(z, one[0], rtol=1e-9, atol=1e-9)
    assert all(0.5 < float(z.std()) < 1.5 for z in fresh)
    assert float((fresh[1] - fresh[0]).norm()) > 1.0
    torch.testing.assert_close(alone[2], fresh[2][1:2], rtol=1e-9, atol=1e-9)


def test_noise_of_what_is_known_may_be_a_field() -> None:
    """Where the denoiser's noise is smooth, so is what is put in place."""
    smooth = Denoiser(lambda x, tau: 0 * x, VP, "sample", field=guidance.GaussianField(0.2, dims=1))
    y, x = torch.zeros(3, 16, dtype=torch.float64), starts(VP, 1.0, 3, shape=(16,))
    rough = {}
    for name, given in (("field", smooth), ("white", VP)):
        hook = guidance.replacement(y, guidance.mask(torch.ones(16)), given, SEEDS)
        seen: list[Tensor] = []
        sample(smooth, x, "ddim", 1, hook=lambda p, h=hook, s=seen: s.append(h(p)), t_end=0.5)
        rough[name] = float((seen[0].diff(dim=1)).std() / seen[0].std())
    assert rough["field"] < 0.5 < 1.0 < rough["white"]


def correlated() -> Denoiser:
    """Two pixels with covariance 0.9, each of variance 1."""
    cov = torch.tensor([[1.0, 0.9], [0.9, 1.0]], dtype=torch.float64)

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        alpha, sigma = float(VP.alpha(float(tau))), float(VP.sigma(float(tau)))
        total = alpha**2 * cov + sigma**2 * torch.eye(2, dtype=torch.float64)
        return sigma * x @ torch.linalg.inv(total)

    return Denoiser(fn, VP)


def test_the_unknown_hears_of_the_known() -> None:
    """A pixel beside a known one goes most of the way to its conditional mean, 0.9 y (not all: the method is approximate)."""
    base = correlated()
    A, n = guidance.mask(torch.tensor([1.0, 0.0])), 300
    y = torch.tensor([[1.5, 0.0]], dtype=torch.float64)
    hook = guidance.replacement(y, A, VP, range(n), fresh=True)
    x0 = sample(base, starts(VP, 1.0, n), "euler_ancestral", 40, hook=hook, t_end=0.0, noise_seeds=range(n))
    assert 0.55 < float(x0[:, 1].mean()) / (0.9 * 1.5) < 0.85
    torch.testing.assert_close(x0[:, :1], y[:, :1].expand(n, 1), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_multistep_solvers_keep_their_order() -> None:
    """With one z, what is known moves on a smooth path; impute, the form for predicted x0, is a smooth denoiser."""
    base = correlated()
    A, x = guidance.mask(torch.tensor([1.0, 0.0])), starts(VP, 0.9, 8)
    y = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    counts = (30, 60, 120)
    ends: dict[str, Any] = {"grid": "logsnr", "t_start": 0.9, "t_end": 0.1}
    ways: dict[str, tuple[Denoiser, Any]] = {
        "replacement": (base, guidance.replacement(y, A, VP, range(8))),
        "impute": (guidance.impute(base, y, A), None),
    }
    for name, (denoiser, hook) in ways.items():
        runs = {n: sample(denoiser, x, "dpmpp_2m", n, hook=hook, **ends) for n in (*counts, 600)}
        errors = [float((runs[n] - runs[600]).norm()) for n in counts]
        assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(2.0, abs=0.3), name


def tiny(kind: str = "sd", scheduler: Any = None, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A tiny pipeline with a scheduler of its config, and its call for latents of two samples."""
    pipe, call = PIPELINES[kind].make()
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **options)
    return pipe, {**call, "output_type": "latent", "num_images_per_prompt": 2}


def run(pipe: Any, call: dict[str, Any], hook: Any = None, **more: Any) -> Tensor:
    end = {} if hook is None else {"callback_on_step_end": guidance.callback(hook)}
    found: Tensor = pipe(**call, num_inference_steps=6, generator=torch.Generator().manual_seed(0), **end, **more)[0]
    return found


def around(pipe: Any, call: dict[str, Any]) -> tuple[Denoiser, Tensor]:
    """The pipeline as a denoiser, and the noise that it starts from."""
    denoiser = Denoiser.from_pipeline(pipe, **{k: v for k, v in call.items() if k != "output_type"})
    return denoiser, denoiser.initial_noise(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc", "heun"])
def test_a_callback_is_the_hook_of_sample(solver: str) -> None:
    """Same latents with our Scheduler: what multistep solvers remember, and the anchor of stages, are moved alike."""
    pipe, call = tiny(scheduler=fewstep.Scheduler, solver=solver)
    schedule = NoiseSchedule.from_config(pipe.scheduler.config)
    known = torch.zeros(1, 16, 16)
    known[..., :8] = 1.0
    y = known * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    hook = guidance.replacement(y, guidance.mask(known), schedule, [1, 2])
    got = run(pipe, call, hook)
    denoiser, x_T = around(pipe, call)
    table = fewstep.Scheduler.from_config(pipe.scheduler.config)
    table.set_timesteps(6)
    assert table._table is not None
    with torch.no_grad():
        expected = sample(denoiser, x_T, table._table.tableau, hook=hook)
        free = sample(denoiser, x_T, table._table.tableau)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert float((got - free).norm()) > 1.0
    alpha, sigma = (float(v[-1]) for v in table._table.tableau.nodes[1:3])
    near = float((known * (got - alpha * y)).abs().max())
    assert near <= 6 * sigma + 1e-4


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "heun", "euler_ancestral"])
def test_latents_handed_back_as_they_were_change_nothing(solver: str) -> None:
    """A hook that returns a copy, or nothing, leaves the run as it is, bit for bit."""
    pipe, call = tiny(scheduler=fewstep.Scheduler, solver=solver)
    plain = run(pipe, call)
    assert torch.equal(run(pipe, call, lambda p: p.x.clone()), plain)
    assert torch.equal(run(pipe, call, lambda p: None), plain)


STOCK = {
    "DDIMScheduler": "ddim",
    "EulerDiscreteScheduler": "euler",
    "DPMSolverMultistepScheduler": "dpmpp_2m",
    "UniPCMultistepScheduler": "unipc",  # whose corrector goes on from the state before the hook: not moved here
}


@pytest.mark.parametrize("name", list(STOCK))
def test_stock_schedulers_show_the_same_states(name: str) -> None:
    """Times and states that a hook sees in a stock run are those of the same solver here, and what it returns is taken over."""
    found = []
    pipe, call = tiny(scheduler=getattr(diffusers, name))
    stock = pipe.scheduler
    schedule = schedule_from_config(stock.config)
    for scheduler in (stock, fewstep.Scheduler.from_config(stock.config, solver=STOCK[name])):
        pipe.scheduler, seen = scheduler, []

        def hook(p: Any, seen: Any = seen) -> Tensor:
            seen.append((p.index, p.nfe, float(schedule.alpha(p.t)), float(schedule.sigma(p.t)), p.x))
            return p.x + (0.0 if name.startswith("UniPC") else 0.5 * float(schedule.sigma(p.t)))

        found.append((seen, run(pipe, call, hook)))
    (stock_seen, stock_end), (ours_seen, ours_end) = found
    for one, other in zip(stock_seen, ours_seen, strict=True):
        assert one[:2] == other[:2]
        np.testing.assert_allclose(one[2:4], other[2:4], rtol=2e-3, atol=2e-3)
        assert float((one[4] - other[4]).norm() / other[4].norm()) < 2e-2
    assert float((stock_end - ours_end).norm() / ours_end.norm()) < 2e-2


def test_flow_pipelines() -> None:
    """The stock flow scheduler tells its level too; everything known comes out as given."""
    pipe, call = PIPELINES["sd3"].make()
    call = {**call, "output_type": "latent"}
    y = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    hook = guidance.replacement(y, guidance.mask(torch.ones(1, 16, 16)), NoiseSchedule.flow(shift=3.0), [1])
    torch.testing.assert_close(run(pipe, call, hook), y, rtol=1e-5, atol=1e-5)


def test_what_a_callback_cannot_do_is_told() -> None:
    pipe, call = tiny(scheduler=fewstep.Scheduler, solver="ddim")
    for message, hook in (
        ("does not see predicted x0", lambda p: p.x0),
        ("must return latents of shape", lambda p: p.x[:1]),
        ("must return latents of shape .*got a function", lambda p: lambda x: x),
    ):
        with pytest.raises(ValueError, match=message):
            run(pipe, call, hook)
    with pytest.raises(ValueError, match="needs the latents"):
        run(pipe, call, lambda p: None, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    with pytest.raises(ValueError, match="`hook` must be a function"):
        guidance.callback(3)  # type: ignore[arg-type]
    y = torch.ones(1, 1, 2, 2)
    for message, arguments in (
        ("has no pseudo-inverse", (y, guidance.blur(1.0), VP, [1])),
        ("`schedule` must be a NoiseSchedule", (y, guidance.mask(torch.ones(2, 2)), None, [1])),
    ):
        with pytest.raises(ValueError, match=message):
            guidance.replacement(*arguments)
    hook = guidance.replacement(y, guidance.mask(torch.ones(2, 2)), VP, [1, 2, 3])
    with pytest.raises(ValueError, match="3 noise seeds for a batch of 2"):
        sample(Gaussian().denoiser(VP), starts(VP, 1.0, 2, shape=(1, 2, 2)), "ddim", 3, hook=hook)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: Any) -> Path:
    """A tiny StableDiffusionPipeline with a tokenizer and a text encoder, on disk."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("text")
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "a": 3}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    pipe, _ = PIPELINES["sd"].make()
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"max_position_embeddings": 7, "bos_token_id": 0, "eos_token_id": 1, "projection_dim": 8}
    torch.manual_seed(0)
    text = {
        "tokenizer": CLIPTokenizer(
            str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=7, pad_token="<|endoftext|>"
        ),
        "text_encoder": CLIPTextModel(CLIPTextConfig(vocab_size=4, **sizes, **ends)),
    }
    pipe.register_modules(**text)
    pipe.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def example(name: str, *arguments: Any) -> str:
    """The output of an example's command."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = CliRunner().invoke(module.main, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
def test_example_of_classes(tmp_path: Path) -> None:
    output = example("guide_classes", "--images", 6, "--evaluations", 6, "--out", tmp_path / "rows.png")
    spent = [int(n) for n in re.findall(r"(\d+) evaluations", output)]
    right = dict(
        zip(("none", "cfg", "interval", "apg", "cfg_pp"), re.findall(r"([\d.]+) % right", output), strict=False)
    )
    assert len(spent) == 6 and max(spent) <= 6 and min(spent) >= 5
    assert all(float(share) > 60 for share in right.values())
    with Image.open(tmp_path / "rows.png") as drawn:
        drawn.verify()


@pytest.mark.parametrize("method", ["cfg", "apg", "cfg_pp"])
def test_example_of_a_pipeline(saved: Path, tmp_path: Path, method: str) -> None:
    """Three rows; the known pixels of the one that knows them are nearer."""
    photo = tmp_path / "photo.png"
    Image.new("RGB", (32, 32), (180, 120, 90)).save(photo)
    out = tmp_path / "out.png"
    output = example(
        "guide_pipeline", saved, "--prompt", "a a", "--method", method, "--nfe", 4, "--image", photo, "--out", out
    )
    off = [float(v) for v in re.findall(r"off by ([\d.]+)", output)]
    assert len(off) == 3 and off[2] < 0.9 * off[1]
    with Image.open(out) as drawn:
        assert drawn.size == (96, 32)
