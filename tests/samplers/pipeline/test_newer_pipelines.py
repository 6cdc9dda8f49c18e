"""Pipelines of models with ways of their own: what the stock scheduler gives, ours gives; a second-order solver runs."""

import pytest
import torch
from newer_pipelines import NEWER

import fewstep

pytestmark = pytest.mark.usefixtures("quiet")

STEPS = 4
EULER = ("euler", {})
SAME = {  # the solver that the stock class plays; where it is Euler's, ours is the same under both names
    "wan22": ("unipc", {"order": 2}),
    "audio": ("dpmpp_2m_sde", {}),
    "deep_floyd": ("dpmpp_2m", {}),
    "deep_floyd_larger": ("dpmpp_2m", {}),
}
SLOW = ("ltx2", "svd", "audio", "deep_floyd_larger", "wan22")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NEWER]


def results(pipe, call, steps=STEPS):
    """What the pipeline returns, latents where it has some: a tensor for each of its modalities."""
    kind = "pt" if "deep" in type(pipe).__module__ or "IF" in type(pipe).__name__ else "latent"
    call = {**call, "output_type": kind, "num_inference_steps": steps, "return_dict": False}
    out = pipe(**call, generator=torch.Generator().manual_seed(0))
    out = out if isinstance(out, (tuple, list)) else (out,) if torch.is_tensor(out) else out.to_tuple()
    return [part for part in out if torch.is_tensor(part)]


@pytest.mark.parametrize("name", NAMES)
def test_as_the_stock_scheduler_and_a_second_order_solver_runs(name):
    pipe, call = NEWER[name].make()
    assert type(pipe.scheduler).__name__ == NEWER[name].stock
    want, (solver, options) = results(pipe, call), SAME.get(name, EULER)
    for played, more in {solver: options, **({"ddim": {}} if name not in SAME else {})}.items():
        pipe, call = NEWER[name].make()
        pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler, played, limiter=False, **more)
        if name == "audio":  # its class needs a package for its noise: both run without
            pipe.scheduler._draw = lambda step, like, *_: [torch.zeros_like(like) for _ in step.draws]
        got = results(pipe, call)
        assert len(got) == len(want) > 0
        for ours, theirs in zip(got, want, strict=True):
            assert float((ours - theirs).abs().max() / theirs.abs().max()) < 2e-4, played
    pipe, call = NEWER[name].make()
    networks = [pipe.components[key] for key in ("unet", "transformer", "transformer_2") if pipe.components.get(key)]
    calls = []
    for network in networks:
        network.register_forward_hook(lambda *_: calls.append(1))
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler, "heun")
    assert all(torch.isfinite(part).all() for part in results(pipe, call))
    assert len(calls) in (STEPS, 2 * STEPS, 3 * STEPS)  # guidance calls some networks several times
