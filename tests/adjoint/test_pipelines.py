"""Gradients through diffusers pipelines: latents, embeddings, guidance weight, weights, and the decoder within the loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adjoints import apart
from pipelines import PIPELINES
from torch import Tensor

from fewstep import Denoiser, adjoint, sample
from fewstep.samplers import guidance

WIDE = torch.float64


def double(name: str) -> tuple[Any, dict[str, Any]]:
    """A tiny pipeline and its call in float64."""
    pipe, call = PIPELINES[name].make()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.double()
    return pipe, {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in call.items()}


def start(denoiser: Any, dtype: torch.dtype = WIDE) -> Tensor:
    return torch.randn(denoiser.shape, generator=torch.Generator().manual_seed(1), dtype=dtype).requires_grad_()


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "pixart"])
def test_gradients_equal_autograd(name: str) -> None:
    """With respect to latents, prompt embeddings, the guidance weight where the pipeline takes a tensor, and weights."""
    pipe, call = double(name)
    words = call["prompt_embeds"].requires_grad_()
    network = getattr(pipe, "unet", None) or pipe.transformer
    weights = [p.requires_grad_() for p in list(network.parameters())[:3]]
    scale = torch.tensor(4.0, dtype=WIDE, requires_grad=True)
    guided = name in ("sd", "sdxl", "sd3")
    denoiser = Denoiser.from_pipeline(pipe, **{**call, **({"guidance_scale": scale} if guided else {})})
    x = start(denoiser)
    targets = [x, words, *weights, *([scale] if guided else [])]
    runs = []
    for method in ("direct", "checkpoint", *(["revolve"] if name == "sd" else [])):
        x0 = adjoint.sample(denoiser, x, "dpmpp_2m", 3, method=method)
        decoded = denoiser.decode(x0)
        value = x0.square().mean() + (decoded.square().mean() if torch.is_tensor(decoded) else 0.0)
        runs.append(torch.autograd.grad(value, targets))
    assert all(bool(g.any()) for g in runs[0])
    assert max(apart(run, runs[0]) for run in runs[1:]) <= 1e-12


def test_decoding_is_part_of_the_loss() -> None:
    """The pipeline's own VAE decoder passes gradients on; nothing in `pipe(...)` itself would."""
    pipe, call = double("sd")
    call["prompt_embeds"].requires_grad_()
    denoiser = Denoiser.from_pipeline(pipe, **{**call, "output_type": "pt"})
    x = start(denoiser)
    image = denoiser.decode(adjoint.sample(denoiser, x, "dpmpp_2m", 3))
    assert image.requires_grad
    (found,) = torch.autograd.grad(image.square().sum(), x)
    step = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=WIDE)
    with torch.no_grad():
        values = [denoiser.decode(sample(denoiser, x + h * step, "dpmpp_2m", 3)).square().sum() for h in (1e-5, -1e-5)]
    assert float((found * step).sum()) == pytest.approx(float(values[0] - values[1]) / 2e-5, rel=1e-4)
    pictures = Denoiser.from_pipeline(pipe, **{**call, "output_type": "np"})
    with pytest.raises(ValueError, match="output_type='np' has no gradient"):
        pictures.decode(adjoint.sample(pictures, x, "ddim", 1))


def test_guidance_in_one_batch_or_two_calls() -> None:
    """Two sequential calls give the sample and the gradients of the pipeline's own batch of two."""
    pipe, call = double("sd")
    words, empty = call["prompt_embeds"].requires_grad_(), call["negative_prompt_embeds"].requires_grad_()
    together = Denoiser.from_pipeline(pipe, **{**call, "guidance_scale": 5.0})
    shared = {k: v for k, v in call.items() if k not in ("prompt_embeds", "negative_prompt_embeds", "guidance_scale")}
    one, other = (Denoiser.from_pipeline(pipe, **shared, prompt_embeds=e, guidance_scale=1.0) for e in (words, empty))
    scale = torch.tensor(5.0, dtype=WIDE, requires_grad=True)
    apart_calls = guidance.cfg(one, other, scale)
    x = start(together)
    runs = []
    for denoiser in (together, apart_calls):
        for method in ("direct", "checkpoint"):
            x0 = adjoint.sample(denoiser, x, "dpmpp_2m", 3, method=method)
            runs.append([x0, *torch.autograd.grad(x0.square().sum(), [x, words, empty])])
    assert max(apart(run, runs[0]) for run in runs[1:]) <= 1e-12
    x0 = adjoint.sample(apart_calls, x, "dpmpp_2m", 3)
    (slope,) = torch.autograd.grad(x0.square().sum(), scale)
    with torch.no_grad():
        values = [sample(guidance.cfg(one, other, 5.0 + h), x, "dpmpp_2m", 3).square().sum() for h in (1e-5, -1e-5)]
    assert float(slope) == pytest.approx(float(values[0] - values[1]) / 2e-5, rel=1e-5)


def test_guidance_of_strangers_is_refused() -> None:
    from fewstep import NoiseSchedule

    one = Denoiser(lambda x, tau: x, NoiseSchedule.vp_linear())
    with pytest.raises(ValueError, match="must have one schedule and prediction type"):
        guidance.cfg(one, Denoiser(lambda x, tau: x, NoiseSchedule.flow(), "flow_prediction"), 2.0)
    with pytest.raises(ValueError, match="`conditional` must be a Denoiser"):
        guidance.cfg(lambda x, tau: x, one, 2.0)  # type: ignore[arg-type]


def test_training_mode_and_checkpointing_within_the_network() -> None:
    """A network that trains: dropout is played again; its own activation checkpointing changes nothing."""
    pipe, call = double("sd")
    pipe.unet.requires_grad_(True).train()
    denoiser = Denoiser.from_pipeline(pipe, **call)
    x, weights = start(denoiser), list(pipe.unet.parameters())[:4]
    plain = torch.autograd.grad(adjoint.sample(denoiser, x, "dpmpp_2m", 3).square().sum(), [x, *weights])
    pipe.unet.enable_gradient_checkpointing()
    again = torch.autograd.grad(adjoint.sample(denoiser, x, "dpmpp_2m", 3).square().sum(), [x, *weights])
    assert apart(again, plain) <= 1e-12
