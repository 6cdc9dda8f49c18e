"""Every kind of diffusers pipeline runs with our Scheduler, and with `ddim` gives what its stock scheduler gives."""

import copy

import pytest
import torch
from pipelines import PIPELINES, STEPS, generate

import fewstep

SOLVERS = ("ddim", "dpmpp_2m", "heun", "unipc")


def plugged(name, solver, **options):
    """(pipeline with our scheduler in place of the stock one, its call arguments)."""
    pipe, call = PIPELINES[name].make()
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, solver=solver, **options)
    return pipe, call


def distance(a, b):
    """Largest difference, relative to the size of b."""
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.one_in(3)
def test_ddim_equals_the_stock_scheduler(name):
    pipe, call = PIPELINES[name].make()
    assert type(pipe.scheduler).__name__ == PIPELINES[name].stock
    pixels, latents = generate(pipe, call)
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, solver="ddim")
    ours, our_latents = generate(pipe, call)
    assert distance(our_latents, latents) < 1e-5
    assert distance(torch.as_tensor(ours), torch.as_tensor(pixels)) < 2e-4


@pytest.mark.parametrize("solver", SOLVERS[1:])
@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.one_in(3)
def test_runs_and_costs_exactly_n(name, solver):
    pipe, call = plugged(name, solver)
    network = getattr(pipe, "unet", None) or pipe.transformer
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    pixels, latents = generate(pipe, call)
    assert torch.isfinite(torch.as_tensor(pixels)).all() and torch.isfinite(latents).all()
    strength = call.get("strength", 1.0)
    passes = 2 if name == "wan" else 1  # Wan's guidance calls its network twice a step
    assert len(calls) == passes * int(STEPS * strength)


@pytest.mark.parametrize("name", ["ddpm", "dit"])
def test_a_saved_pipeline_comes_back_with_our_scheduler(name, tmp_path):
    pipe, call = plugged(name, "unipc", order=3, grid="karras")
    _, expected = generate(pipe, call)
    pipe.save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path)
    assert type(loaded.scheduler) is fewstep.Scheduler
    assert (loaded.scheduler.config.solver, loaded.scheduler.config.grid) == ("unipc", "karras")
    assert loaded.scheduler.config.solver_options == {"order": 3}
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(generate(loaded, call)[1], expected)


def test_a_scheduler_is_given_at_loading(tmp_path):
    pipe, call = plugged("ddpm", "dpmpp_2m")
    _, expected = generate(pipe, call)
    PIPELINES["ddpm"].make()[0].save_pretrained(tmp_path)
    loaded = type(pipe).from_pretrained(tmp_path, scheduler=pipe.scheduler)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(generate(loaded, call)[1], expected)


@pytest.mark.parametrize("name", ["ddpm", "sd", "flux"])
def test_one_generator_a_sample_makes_samples_independent_of_the_batch(name):
    pipe, call = plugged(name, "dpmpp_2m")
    alone = {"batch_size": 1} if "batch_size" in call else {"num_images_per_prompt": 1}
    pair = {key: 2 for key in alone}
    _, both = generate(pipe, {**call, **pair}, generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)])
    _, second = generate(pipe, {**call, **alone}, generator=[torch.Generator().manual_seed(6)])
    assert distance(both[1:], second) < 1e-5


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun"])
def test_gradients_flow_through_stable_diffusion(solver):
    pipe, call = plugged("sd", solver)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for module in (pipe.unet, pipe.vae):
        module.double()
    call = {key: v.double() if torch.is_tensor(v) else v for key, v in call.items()} | {"output_type": "latent"}

    def loss(latents):
        run = type(pipe).__call__.__wrapped__  # the pipeline without its no_grad
        return run(pipe, **call, latents=latents, num_inference_steps=4, return_dict=False)[0].square().mean()

    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(loss(x.requires_grad_()), x)
    with torch.no_grad():
        expected = (loss(x + 1e-5 * direction) - loss(x - 1e-5 * direction)) / 2e-5
    assert float((gradient * direction).sum()) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("name", ["sd", "ltx"])
def test_a_copied_scheduler_has_a_run_of_its_own(name):
    pipe, call = plugged(name, "dpmpp_2m")
    _, expected = generate(pipe, call)
    original = pipe.scheduler
    at = original.step_index
    pipe.scheduler = copy.deepcopy(original)
    assert torch.equal(generate(pipe, call)[1], expected)
    assert original.step_index == at == len(original.timesteps) == STEPS


def test_pipelines_share_nothing_through_their_schedulers():
    """Two runs of one model, interleaved step by step, equal the two runs one after the other."""
    results = {}
    for order in ("one after the other", "interleaved"):
        pipes = [plugged("sd", "unipc")[0] for _ in range(2)]
        states = [torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in range(2)]
        for pipe in pipes:
            pipe.scheduler.set_timesteps(6)
        turns = [(i, k) for i in range(2) for k in range(6)]
        for i, k in turns if order == "one after the other" else sorted(turns, key=lambda turn: turn[1]):
            scheduler = pipes[i].scheduler
            t = scheduler.timesteps[k]
            states[i] = scheduler.step(torch.tanh(states[i]) * (1 + t / 1000), t, states[i], return_dict=False)[0]
        results[order] = torch.cat(states)
    assert torch.equal(*results.values())
