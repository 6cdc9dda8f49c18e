"""What pipelines demand of `step`, `add_noise` and copies, one rule a test; pipelines themselves are in test_pipelines."""

import importlib
import os
import pickle
import sys

import pytest
import torch
from contracted import TABLES, flow, network, noise, seeded, vp
from parts import flow_euler
from pipelike import run

import fewstep


def test_both_kinds_of_return():
    scheduler, x, output = vp(), noise(), noise(seed=1)
    scheduler.set_timesteps(4)
    pair = scheduler.step(output, scheduler.timesteps[0], x, return_dict=False)
    scheduler.set_timesteps(4)
    named = scheduler.step(output, scheduler.timesteps[0], x)
    alpha, sigma = network(scheduler).level(scheduler.timesteps[0])
    assert isinstance(pair, tuple) and len(pair) == 2
    torch.testing.assert_close(pair[1], (x - sigma * output) / alpha, rtol=1e-4, atol=1e-4)
    previous, clean = pair
    for got in (
        (previous, clean),
        tuple(pair),
        pair[:],
        (named.prev_sample, named.pred_original_sample),
        named.to_tuple(),
    ):
        assert torch.equal(got[0], pair[0]) and torch.equal(got[1], pair[1])
    assert torch.equal(pair[-1], clean) and torch.equal(pickle.loads(pickle.dumps(pair))[1], clean)


@pytest.mark.parametrize("sample", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("output", [torch.float32, torch.bfloat16])
def test_dtype_of_the_sample_is_kept(sample, output):
    scheduler, x = vp("unipc"), noise().to(sample)
    scheduler.set_timesteps(6)
    for t in scheduler.timesteps:
        x, clean = scheduler.step(network(scheduler)(x, t).to(output), t, x, return_dict=False)
        assert x.dtype == clean.dtype == sample


@pytest.mark.parametrize("name", ["dpmpp_2m", "heun", "unipc"])
def test_half_precision_is_accumulated_in_float32(name):
    """With the same network outputs, 40 bf16 steps end one rounding away from the float32 run."""
    scheduler, x = flow(name), noise()
    outputs = [0.5 * noise(seed=i) for i in range(40)]
    ends = {}
    for dtype in (torch.float32, torch.bfloat16):
        scheduler.set_timesteps(40)
        state = x.bfloat16().to(dtype)
        for t, output in zip(scheduler.timesteps, outputs, strict=True):
            state = scheduler.step(output, t, state, return_dict=False)[0]
        ends[dtype] = state
    assert torch.equal(ends[torch.float32].bfloat16(), ends[torch.bfloat16])


def test_a_learned_variance_is_split_off():
    a, b, x = vp(), vp(), noise()
    output = noise(seed=5)
    for scheduler in (a, b):
        scheduler.set_timesteps(3)
    split = a.step(torch.cat([output, 100 * output], 1), 999, x)
    plain = b.step(output, 999, x)
    assert torch.equal(split.prev_sample, plain.prev_sample)
    assert torch.equal(split.pred_original_sample, plain.pred_original_sample)


@pytest.mark.parametrize("given", ["noise", "noise and a generator", "a generator", "a list of generators", "nothing"])
def test_a_step_takes_its_noise_from_what_it_is_given(given):
    """DDIM with eta = 1, written out: b x0 + sqrt(e^2 - v^2) eps + v z with v = e / s sqrt(1 - a^2 / b^2)."""
    scheduler, x, eps, z = vp("ddim"), noise(), noise(seed=1), noise(seed=9)
    one, several = seeded(3)[0], seeded(4, 5)
    how = {
        "noise": {"variance_noise": z},
        "noise and a generator": {"variance_noise": z, "generator": one},
        "a generator": {"generator": one},
        "a list of generators": {"generator": several},
        "nothing": {},
    }[given]
    drawn = {
        "a generator": lambda: torch.randn(x.shape, generator=seeded(3)[0]),
        "a list of generators": lambda: torch.stack([torch.randn(x[0].shape, generator=g) for g in seeded(4, 5)]),
        "nothing": lambda: torch.randn(x.shape),
    }
    scheduler.set_timesteps(4)
    (a, s), (b, e) = (network(scheduler).level(t) for t in scheduler.timesteps[:2])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        got = scheduler.step(eps, scheduler.timesteps[0], x, eta=1.0, **how).prev_sample
        torch.manual_seed(6)
        z = drawn[given]() if given in drawn else z
    v = e / s * (1 - a**2 / b**2) ** 0.5
    want = b * (x - s * eps) / a + (e**2 - v**2) ** 0.5 * eps + v * z
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_solver_without_noise_reads_neither_eta_nor_noise():
    scheduler, x, eps = vp(), noise(), noise(seed=1)
    scheduler.set_timesteps(4)
    plain = scheduler.step(eps, 999, x).prev_sample
    for generator in (None, seeded(3)[0], seeded(4, 5)):
        scheduler.set_timesteps(4)
        got = scheduler.step(eps, 999, x, eta=1.0, generator=generator, variance_noise=noise(seed=9)).prev_sample
        assert torch.equal(got, plain)


def test_steps_out_of_order():
    scheduler, x = vp(), noise()
    with pytest.raises(ValueError, match="set_timesteps"):
        scheduler.step(x, 999, x)
    scheduler.set_timesteps(2)
    run(scheduler, network(scheduler), x)
    assert scheduler.step_index == 2
    with pytest.raises(ValueError, match="every step"):
        scheduler.step(x, 0, x)
    scheduler.set_timesteps(2)
    with pytest.raises(ValueError, match="shape"):
        scheduler.step(x[:, :3], 999, x)
    with pytest.raises(ValueError, match="negative"):
        scheduler.set_begin_index(-1)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.one_in(3)
def test_begin_index_gives_the_answer_from_there(name):
    """From any network call on, the run is exact for a network whose x0 never changes, and groups are whole again."""

    def constant(scheduler, begin):
        nodes = scheduler._table.tableau.nodes
        x0, eps = noise(1, 2, 3, 3), noise(1, 2, 3, 3, seed=1)
        x = float(nodes.alpha[begin]) * x0 + float(nodes.sigma[begin]) * eps
        for t in scheduler.timesteps[begin:]:
            x = scheduler.step(eps - x0, t, x, return_dict=False)[0]
        return x, float(nodes.alpha[-1]) * x0 + float(nodes.sigma[-1]) * eps

    scheduler = flow(name)
    for n in (5, 9):
        for begin in range(n):
            scheduler.set_timesteps(n)
            scheduler.set_begin_index(begin)
            assert scheduler.begin_index == begin
            got, want = constant(scheduler, begin)
            assert scheduler.step_index == n
            assert torch.isfinite(got).all()
            if not scheduler._bound.tableau.stochastic:
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["heun", "dpm_3", "etd_rk4", "pndm", "dpmpp_2m", "unipc"])
def test_slices_are_located_by_place(name):
    """A pipeline that only slices `timesteps` runs as one that also sets the begin index; values are never compared."""
    for begin in range(8):
        ends = []
        for say in (True, False):
            scheduler = vp(name)
            scheduler.set_timesteps(8)
            if say:
                scheduler.set_begin_index(begin)
            ends.append(run(scheduler, network(scheduler), noise(), begin))
        assert torch.equal(*ends)


def test_repeated_times_are_located_by_place():
    sigmas, timesteps = [10.0, 9.0, 4.0, 1.0], [999, 999, 500, 500]
    for begin in range(4):
        scheduler = vp()
        scheduler.set_timesteps(sigmas=sigmas, timesteps=timesteps)
        t = scheduler.timesteps[begin:][0]
        scheduler.step(noise(), t.expand(2), noise())
        assert scheduler.step_index == begin + 1
    scheduler.set_timesteps(sigmas=sigmas, timesteps=timesteps)
    scheduler.step(noise(), 999, noise())
    assert scheduler.step_index == 1


def test_times_off_the_grid_mean_the_nearest():
    scheduler = vp()
    for timestep, index in ((0, 4), (999, 0), (torch.tensor(390), 3), (torch.tensor([610.0, 610.0]), 2)):
        scheduler.set_timesteps(5)
        scheduler.step(noise(), timestep, noise())
        assert scheduler.step_index == index + 1


def test_a_begin_index_behind_the_end_is_refused_at_the_step():
    scheduler = vp()
    scheduler.set_timesteps(3)
    scheduler.set_begin_index(3)
    with pytest.raises(ValueError, match="begin index"):
        scheduler.step(noise(), 0, noise())


@pytest.mark.parametrize("make", [vp, flow])
@pytest.mark.parametrize("method", ["add_noise", "scale_noise"])
def test_noise_levels(make, method):
    x0, eps = noise(2, 3, 4), noise(2, 3, 4, seed=1)
    scheduler = make("heun")

    def noised(timestep):
        add = method == "add_noise"
        return scheduler.add_noise(x0, eps, timestep) if add else scheduler.scale_noise(x0, timestep, eps)

    def level(i):
        nodes = scheduler._table.tableau.nodes
        return float(nodes.alpha[i]) * x0 + float(nodes.sigma[i]) * eps

    tau = torch.tensor([800, 30])
    alpha, sigma = (torch.tensor(v).float().view(2, 1, 1) for v in scheduler._model.levels(None, tau.double().numpy()))
    torch.testing.assert_close(noised(tau), alpha * x0 + sigma * eps)
    scheduler.set_timesteps(7)
    for i in range(7):
        torch.testing.assert_close(noised(scheduler.timesteps[i : i + 1]), level(i))
    both = noised(scheduler.timesteps[[1, 5]])
    torch.testing.assert_close(both, torch.stack([level(1)[0], level(5)[1]]))
    scheduler.set_begin_index(2)
    torch.testing.assert_close(noised(scheduler.timesteps[2:3]), level(2))
    for i in range(2, 6):  # inpainting asks for the level of the next timestep
        scheduler.step(eps, scheduler.timesteps[i], x0)
        torch.testing.assert_close(noised(scheduler.timesteps[i + 1 : i + 2]), level(i + 1))


def test_noise_is_added_in_float32():
    scheduler, x0, eps = flow(), noise().bfloat16(), noise(seed=1).bfloat16()
    out = scheduler.add_noise(x0, eps, torch.tensor([1.0]))
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, (0.999 * x0.float() + 0.001 * eps.float()).bfloat16())


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "unipc", "heun"])
def test_tokens_with_times_of_their_own(name):
    """Video conditioning: tokens wait, less noisy, until the run comes down to their time, then join it."""
    clean, eps = noise(1, 6, 4), noise(1, 6, 4, seed=1)
    own = torch.tensor([[1.0, 1.0, 0.7, 0.4, 0.0, 0.0]])  # 0: a frame that is given
    ends = []
    for scheduler in (flow(name), flow_euler(shift=3.0)):
        scheduler.set_timesteps(12)
        x = own[..., None] * eps + (1 - own[..., None]) * clean
        for t in scheduler.timesteps:
            tau = torch.minimum(t.expand(own.shape), 1000 * own)
            s = tau[..., None] / 1000
            velocity = torch.where(s > 0, (x - torch.tanh(clean)) / s.clamp_min(1e-3), 0.0)  # a network sure of tanh
            moved = scheduler.step(-velocity, t, x, per_token_timesteps=tau, return_dict=False)[0]
            x = torch.where((t / 1000 - 1e-6 < own)[..., None], moved, x)
        ends.append(x)
        assert torch.equal(x[:, 4:], clean[:, 4:])
        torch.testing.assert_close(x[:, :4], torch.tanh(clean[:, :4]), rtol=1e-4, atol=1e-4)
    if name == "euler":
        torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="flow"):
        scheduler = vp()
        scheduler.set_timesteps(2)
        scheduler.step(x, 999, x, per_token_timesteps=own)


def test_errors_name_the_remedy():
    with pytest.raises(ValueError, match="dpmpp_2m"):
        vp("dpmp_2m")
    with pytest.raises(ValueError, match="karras"):
        vp(grid="karas")
    with pytest.raises(ValueError, match="order"):
        vp("unipc", ordre=2)
    with pytest.raises(ValueError, match="order"):
        vp("unipc", order=9).set_timesteps(5)
    with pytest.raises(ValueError, match="no noise schedule"):
        fewstep.Scheduler.from_config({"hidden_size": 3})
    with pytest.raises(ValueError, match="scheduler"):
        fewstep.Scheduler.from_config("stabilityai/some-model")
    with pytest.raises(ValueError, match="learned"):
        vp(learned="five.json")
    with pytest.raises(ValueError, match="prediction"):
        fewstep.Scheduler(prediction_type="noise")


KIT = os.environ.get("FEWSTEP_DIFFUSERS_TESTS")
if KIT:  # a checkout of diffusers: its own test of what all schedulers have in common
    sys.path.insert(0, KIT)
    common = importlib.import_module("tests.schedulers.test_schedulers").SchedulerCommonTest

    class TestCommon(common):
        scheduler_classes = (fewstep.Scheduler,)
        forward_default_kwargs = (("num_inference_steps", 25),)

        def get_scheduler_config(self, **kwargs):
            return {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, **kwargs}

    del common
