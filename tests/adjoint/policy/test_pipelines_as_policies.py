"""Policies that are pipelines: with guidance, with adapters, and in loops that others own."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from pipelines import PIPELINES

import fewstep
from fewstep import Denoiser, adjoint


def made(name: str, solver: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A tiny pipeline whose scheduler is ours and takes notes."""
    pipe, call = PIPELINES[name].make()
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, solver=solver, solver_options=options)
    pipe.scheduler.records = True
    return pipe, {**call, "num_inference_steps": 4, "output_type": "latent"}


@pytest.mark.parametrize(
    ("name", "solver", "options"),
    [
        ("sd", "dpmpp_2m_sde", {}),
        ("flux", "flow_sde", {"w": "grpo", "scale": 0.49}),
        pytest.param("sd3", "flow_sde", {"w": "cps", "scale": 0.7}, marks=pytest.mark.slow),
        pytest.param("sdxl", "seeds", {}, marks=pytest.mark.slow),
    ],
)
def test_a_loop_of_others_is_a_rollout(name: str, solver: str, options: dict[str, Any]) -> None:
    """What a recording Scheduler kept has ratio 1 under the same pipeline as a function, guidance and all."""
    pipe, call = made(name, solver, **options)
    latents = pipe(**call, generator=torch.Generator().manual_seed(3))[0]
    t = pipe.scheduler.trajectory
    assert torch.equal(t.sample, latents) or t.sample.numel() == latents.numel()
    denoiser = Denoiser.from_pipeline(pipe, **{k: v for k, v in call.items() if k != "num_inference_steps"})
    with torch.no_grad():
        assert bool((t.ratio(denoiser) == 1).all())
    same = adjoint.rollout(denoiser, t.states[0], t.tableau, generator=torch.Generator().manual_seed(5))
    assert same.rows == t.rows and bool((same.ratio(denoiser) == 1).all())
    network = getattr(pipe, "unet", None) or pipe.transformer
    weight = next(p for p in network.parameters() if p.ndim > 1).requires_grad_()
    same.log_prob(denoiser).sum().backward()
    assert weight.grad is not None and bool(weight.grad.any())
    step = 1e-3 * weight.grad / weight.grad.norm() / weight.grad.norm().clamp_min(1.0)
    before = float(same.log_prob().sum())
    with torch.no_grad():
        weight += step
        rise = float(same.log_prob(denoiser).sum()) - before
    assert rise == pytest.approx(float((step * weight.grad).sum()), rel=0.2)


def test_what_is_no_record() -> None:
    """Not asked for, not at its end, edited on its way, deterministic; copies take no notes of the run they left."""
    pipe, call = made("sd", "dpmpp_2m_sde")
    pipe.scheduler.records = False
    pipe(**call)
    with pytest.raises(ValueError, match=r"set scheduler.records = True before it"):
        _ = pipe.scheduler.trajectory
    pipe.scheduler.records = True

    def edit(pipe: Any, i: int, t: Any, kept: dict[str, Any]) -> dict[str, Any]:
        return {"latents": kept["latents"] + 0.1} if i == 1 else {}

    pipe(**call, callback_on_step_end=edit)
    with pytest.raises(ValueError, match="changed the state before step 2"):
        _ = pipe.scheduler.trajectory
    scheduler = fewstep.Scheduler(solver="ddpm")
    scheduler.records = True
    scheduler.set_timesteps(4)
    x = torch.zeros(1, 3)
    x = scheduler.step(x, scheduler.timesteps[0], x).prev_sample
    with pytest.raises(ValueError, match="taken 1 of its 4 steps"):
        _ = scheduler.trajectory
    for other in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        with pytest.raises(ValueError, match="within a run"):
            other.step(x, scheduler.timesteps[1], x)
    pipe, call = made("sd", "ddim")
    with pytest.raises(ValueError, match="ddim draws no noise"):
        pipe(**call)


def test_adapters_by_peft() -> None:
    """LoRA: gradients reach the adapter alone, and without it the network is the frozen one."""
    peft = pytest.importorskip("peft")
    pipe, call = made("sd", "ddpm")
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"))
    adapter = [p for p in pipe.unet.parameters() if p.requires_grad]
    del call["num_inference_steps"]
    denoiser = Denoiser.from_pipeline(pipe, **call)
    x_T = denoiser.initial_noise(torch.Generator().manual_seed(0))
    t = adjoint.rollout(denoiser, x_T, "ddpm", 4, noise_seeds=range(len(x_T)))
    optimiser = torch.optim.SGD(adapter, 1e-2)
    (-t.log_prob(denoiser).sum() / t.size).backward()
    optimiser.step()
    with torch.no_grad():
        pipe.unet.disable_adapters()
        frozen = t.means(denoiser)
        assert bool((t.ratio(frozen) == 1).all())
        pipe.unet.enable_adapters()
        assert float(t.kl(denoiser, frozen).sum()) > 0
        assert float((t.log_prob(denoiser) - t.log_prob()).sum()) > 0
