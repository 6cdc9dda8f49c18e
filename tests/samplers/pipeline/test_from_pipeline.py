"""A pipeline as a denoiser: the pipeline's own latents, gradients, one turn of its loop a call, and clear refusals."""

import inspect
import weakref

import pytest
import torch
from late import diffusers
from pipelines import PIPELINES, recorded

import fewstep
from fewstep import Denoiser, sample
from fewstep.samplers.pipeline.suspend import suspendable

BLENDING = ("sd_inpaint", "flux_inpaint")


def tiny(name, **changes):
    """(pipeline, denoiser made of it)."""
    pipe, call = PIPELINES[name].make()
    return pipe, Denoiser.from_pipeline(pipe, **{**call, **changes})


def noise(shape, seed=7, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def own_run(pipe, call, n=5):
    """(first state, last state, result, table) of the pipeline with our ddim."""
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, solver="ddim")
    with recorded(pipe.scheduler) as states:
        result = pipe(**call, num_inference_steps=n, generator=torch.Generator().manual_seed(0))[0]
    return states[0], states[-1], result, pipe.scheduler._bound.tableau


@pytest.mark.parametrize("name", [name for name in PIPELINES if name not in BLENDING])
@pytest.mark.one_in(3)
def test_sampling_equals_the_pipeline_itself(name):
    pipe, call = PIPELINES[name].make()
    denoiser = Denoiser.from_pipeline(pipe, **call)
    start, end, result, table = own_run(pipe, call)
    drawn = denoiser.initial_noise(torch.Generator().manual_seed(0))
    assert drawn.shape == denoiser.shape == start.shape
    ours = sample(denoiser, start, solver=table)
    assert torch.allclose(ours, end, rtol=1e-5, atol=1e-6)
    assert denoiser.nfe == table.nfe
    if "strength" not in call:  # where an image enters, the first noise level depends on the number of steps
        assert torch.equal(drawn, start)
    else:
        assert 0 < denoiser.t_start < denoiser.schedule.t_max
    assert torch.allclose(torch.as_tensor(denoiser.decode(ours)), torch.as_tensor(result), atol=1e-5)


@pytest.mark.parametrize("name", BLENDING)
def test_blending_pipelines_are_refused(name):
    _, denoiser = tiny(name)
    with pytest.raises(ValueError, match="changes its latents between steps"):
        sample(denoiser, noise(denoiser.shape), solver="ddim", nfe=4, t_start=denoiser.t_start)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "pixart"])
def test_gradients_equal_finite_differences(name):
    pipe, call = PIPELINES[name].make()
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.double()
    call = {key: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for key, v in call.items()}
    words = call["prompt_embeds"].requires_grad_()
    denoiser = Denoiser.from_pipeline(pipe, **call)
    x = noise(denoiser.shape, dtype=torch.float64).requires_grad_()

    def loss(x):
        return sample(denoiser, x, solver="ddim", nfe=3).square().mean()

    gradients = torch.autograd.grad(loss(x), (x, words))
    for at, gradient, seed in zip((x, words), gradients, (8, 9), strict=True):
        direction = noise(at.shape, seed, torch.float64)
        with torch.no_grad():
            values = []
            for h in (1e-4, -2e-4):
                at += h * direction
                values.append(float(loss(x)))
            at += 1e-4 * direction
        expected = (values[0] - values[1]) / 2e-4
        tolerance = 1e-3 if name == "flux" else 1e-5  # Flux rounds its times and positions to float32
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=tolerance)


def test_a_call_is_one_turn_and_a_start_one_more():
    pipe, denoiser = tiny("sd")
    calls = []
    pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    x = noise((1, 4, 16, 16))
    for _ in range(2):
        sample(denoiser, x, solver="dpmpp_2m", nfe=6)
    assert (denoiser.nfe, len(calls)) == (12, 13)


def test_a_prompt_is_encoded_once():
    pipe, denoiser = tiny("ldm")
    encoded = []
    pipe.bert.register_forward_hook(lambda *_: encoded.append(1))
    for _ in range(3):
        sample(denoiser, noise((1, 4, 4, 4)), solver="ddim", nfe=4)
    assert len(encoded) == 2  # the prompt and the empty prompt


def test_a_used_up_loop_is_started_again(monkeypatch):
    _, denoiser = tiny("sdxl")
    x = noise((1, 4, 16, 16))
    expected = sample(denoiser, x, solver="ddim", nfe=8)
    monkeypatch.setattr("fewstep.samplers.pipeline.as_denoiser.TURNS", 4)
    _, short = tiny("sdxl")
    assert torch.equal(sample(short, x, solver="ddim", nfe=8), expected)


@pytest.mark.parametrize(("name", "count"), [("sd", 3), ("flux", 2), ("sdxl", 2), ("ddpm", 4)])
def test_any_batch_size(name, count):
    _, denoiser = tiny(name)
    batch = noise((count, *denoiser.shape[1:]))
    together = denoiser(batch, 0.5)
    own = denoiser.shape[0]
    for start in range(0, count - own + 1, own):
        part = slice(start, start + own)
        assert torch.allclose(denoiser(batch[part], 0.5), together[part], rtol=1e-4, atol=1e-5)


def test_changed_embeddings_are_seen():
    _, call = PIPELINES["sd"].make()
    words = call["prompt_embeds"].clone()
    _, denoiser = tiny("sd", prompt_embeds=words)
    x = noise((1, 4, 16, 16))
    before = denoiser(x, 0.5)
    words.mul_(2.0)
    _, fresh = tiny("sd", prompt_embeds=words.clone())
    assert not torch.equal(denoiser(x, 0.5), before)
    assert torch.equal(denoiser(x, 0.5), fresh(x, 0.5))


def test_grad_mode_is_the_callers():
    _, denoiser = tiny("sd")
    x = noise((1, 4, 16, 16)).requires_grad_()
    with torch.no_grad():
        assert not denoiser(x, 0.5).requires_grad
    assert torch.is_grad_enabled()
    assert denoiser(x, 0.5).requires_grad
    with torch.inference_mode():
        assert torch.isfinite(denoiser(x.detach(), 0.5)).all()
    assert denoiser(x, 0.5).requires_grad


def test_autocast_is_the_callers():
    _, denoiser = tiny("sd")
    x = noise((1, 4, 16, 16))
    full = denoiser(x, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        rough = denoiser(x, 0.5)
    assert 0 < float((rough - full).abs().max()) < 0.1 * float(full.abs().max())
    assert torch.equal(denoiser(x, 0.5), full)


def test_checkpointing_works_around_a_call():
    _, denoiser = tiny("sd")
    x = noise((1, 4, 16, 16)).requires_grad_()
    (plain,) = torch.autograd.grad(denoiser(x, 0.5).square().sum(), x)
    output = torch.utils.checkpoint.checkpoint(lambda x: denoiser(x, 0.5), x, use_reentrant=False)
    (again,) = torch.autograd.grad(output.square().sum(), x)
    assert torch.equal(again, plain)


def test_the_pipeline_and_global_randomness_are_untouched():
    pipe, denoiser = tiny("sd_img2img")
    before, state = dict(vars(pipe)), torch.get_rng_state()
    sample(denoiser, noise(denoiser.shape), solver="dpmpp_2m", nfe=4)
    assert vars(pipe) == before
    assert torch.equal(torch.get_rng_state(), state)


def test_an_error_in_the_network_arrives_and_does_no_lasting_harm():
    pipe, denoiser = tiny("sd")
    x = noise((1, 4, 16, 16))
    expected = denoiser(x, 0.5)

    def fail(*_):
        raise RuntimeError("out of tea")

    hook = pipe.unet.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of tea"):
        denoiser(x, 0.5)
    hook.remove()
    assert torch.equal(denoiser(x, 0.5), expected)


def test_a_call_within_a_call_is_refused():
    pipe, denoiser = tiny("sd")
    x = noise((1, 4, 16, 16))
    denoiser(x, 0.5)
    hook = pipe.unet.register_forward_pre_hook(lambda *_: denoiser(x, 0.5))
    with pytest.raises(ValueError, match="being evaluated already"):
        denoiser(x, 0.5)
    hook.remove()
    assert torch.isfinite(denoiser(x, 0.5)).all()


def test_closing_lets_the_suspended_pipeline_go():
    _, denoiser = tiny("sd")
    x = noise((1, 4, 16, 16))
    expected = denoiser(x, 0.5)
    loop = weakref.ref(denoiser.fn.run.loop)
    assert inspect.getgeneratorstate(loop()) == inspect.GEN_SUSPENDED
    denoiser.close()
    assert loop() is None
    assert torch.equal(denoiser(x, 0.5), expected)


def test_edm_networks_are_scaled_as_the_scheduler_would():
    pipe, call = PIPELINES["sdxl"].make()
    pipe.scheduler = diffusers.EDMDPMSolverMultistepScheduler()
    denoiser = Denoiser.from_pipeline(pipe, **call)
    start, end, _, table = own_run(pipe, call)
    assert torch.allclose(sample(denoiser, start, solver=table), end, rtol=1e-4, atol=1e-4)


MEANINGLESS = (
    "latents", "num_inference_steps", "timesteps", "sigmas", "denoising_start", "denoising_end",
    "control_guidance_start", "control_guidance_end", "skip_guidance_layers", "callback", "callback_steps",
    "callback_on_step_end", "callback_on_step_end_tensor_inputs", "eta", "return_dict",
)  # fmt: skip


@pytest.mark.parametrize("name", MEANINGLESS)
def test_arguments_without_meaning_are_refused(name):
    pipe, call = PIPELINES["sd"].make()
    with pytest.raises(ValueError, match=f"`{name}` makes no sense for a denoiser"):
        Denoiser.from_pipeline(pipe, **call, **{name: 3})


def test_no_other_argument_is_refused_as_meaningless():
    from fewstep.samplers.pipeline.as_denoiser import REFUSED

    assert set(REFUSED) == set(MEANINGLESS)


def test_bad_arguments_are_refused_before_the_network_runs():
    pipe, call = PIPELINES["sd"].make()
    pipe.unet.register_forward_pre_hook(lambda *_: pytest.fail("the network ran"))
    with pytest.raises(ValueError, match="Did you mean 'guidance_scale'"):
        Denoiser.from_pipeline(pipe, **call, guidence_scale=3.0)
    with pytest.raises(ValueError, match="expected a diffusers pipeline"):
        Denoiser.from_pipeline(pipe.unet)
    with pytest.raises(ValueError, match="prompt_embeds"):  # the pipeline's own check
        Denoiser.from_pipeline(pipe, guidance_scale=3.0)(noise((1, 4, 16, 16)), 0.5)


def test_a_state_of_another_shape_is_refused():
    _, denoiser = tiny("sd")
    with pytest.raises(ValueError, match=r"latents of shape \(1, 4, 16, 16\); got \(1, 4, 8, 8\)"):
        denoiser(noise((1, 4, 8, 8)), 0.5)


class Base:
    def scale(self, x):
        return 3 * x


def doubled(function):
    def wrapper(*args):
        return 2 * function(*args)

    wrapper.__wrapped__ = function
    return wrapper


OFFSET = 10


class Worker(Base):
    @doubled
    def work(self, x: "int", add=OFFSET, *, times: "int" = 2) -> "int":
        for _ in range(times):
            x = super().scale(self.step(x)) + add
        return x, [self.step(i) for i in range(2)]

    def step(self, x):
        return ("halt", x)


def test_a_suspended_function_keeps_defaults_closure_and_inner_scopes():
    run = suspendable(Worker.work, "step")(Worker(), 1)
    assert run.send(None) == ("halt", 1)
    assert run.send(5) == ("halt", 25)
    with pytest.raises(StopIteration) as end:
        run.send(1)
    assert end.value.value == (13, [("halt", 0), ("halt", 1)])


def test_tracebacks_of_a_suspended_function_show_its_own_lines():
    run = suspendable(Worker.work, "step")(Worker(), 1)
    run.send(None)
    with pytest.raises(TypeError) as error:
        run.send(None)
    lines, first = inspect.getsourcelines(Worker.work)
    entry = next(e for e in error.traceback if e.name == "work")
    assert first <= entry.lineno + 1 < first + len(lines)


def test_what_cannot_be_suspended_is_refused():
    with pytest.raises(ValueError, match="source is not to be had"):
        suspendable(len, "step")
    with pytest.raises(ValueError, match=r"does not call `.step\(...\)` itself"):
        suspendable(Base.scale, "step")


def test_the_result_of_a_run_is_independent_of_runs_beside_it():
    """Two denoisers of one pipeline, called in turn, do not disturb each other."""
    pipe, call = PIPELINES["sd3"].make()
    weak, strong = (Denoiser.from_pipeline(pipe, **{**call, "guidance_scale": w}) for w in (1.5, 6.0))
    x = noise(weak.shape)
    apart = [weak(x, 0.7), weak(x, 0.3), strong(x, 0.7), strong(x, 0.3)]
    mixed = [weak(x, 0.7), strong(x, 0.7), weak(x, 0.3), strong(x, 0.3)]
    assert all(torch.equal(apart[i], mixed[j]) for i, j in zip(range(4), (0, 2, 1, 3), strict=True))


def test_the_first_noise_is_what_the_pipeline_would_draw():
    """`initial_noise` draws what the pipeline would draw, packed as it packs."""
    pipe, denoiser = tiny("flux")
    _, call = PIPELINES["flux"].make()
    with recorded(pipe.scheduler) as states:
        pipe(**call, num_inference_steps=1, generator=torch.Generator().manual_seed(4))
    assert torch.equal(denoiser.initial_noise(torch.Generator().manual_seed(4)), states[0])
