"""What pipelines demand of a scheduler, one rule a test; the pipelines themselves are in test_pipelines."""

import copy
import importlib
import inspect
import json
import os
import pickle
import sys

import diffusers
import numpy as np
import pytest
import torch
from diffusers import SchedulerMixin
from pipelike import Network, run
from problems import Gaussian

from fewstep import Scheduler
from fewstep.samplers import SOLVERS

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
FLOW = diffusers.FlowMatchEulerDiscreteScheduler
TABLES = [name for name, entry in SOLVERS.items() if entry.kind == "tableau"]
SEVERAL = [name for name in TABLES if SOLVERS[name].calls != 1 or SOLVERS[name].plan]
PROBLEM = Gaussian(1.0, 0.4)


def vp(solver="dpmpp_2m", **options):
    return Scheduler.from_config({"_class_name": "DDIMScheduler", **SD, "clip_sample": False}, solver, **options)


def flow(solver="dpmpp_2m", shift=3.0, **options):
    return Scheduler.from_config(FLOW(shift=shift), solver, **options)


def network(scheduler, prediction="epsilon"):
    return Network(PROBLEM, prediction, getattr(scheduler, "alphas_cumprod", None))


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*(shape or (2, 4, 8, 8)), generator=torch.Generator().manual_seed(seed), dtype=dtype)


# 1. class and configuration


def test_signatures_name_what_pipelines_inspect():
    def names(method):
        return [p for p in inspect.signature(method).parameters if p != "self"]

    assert names(Scheduler.set_timesteps) == ["num_inference_steps", "device", "sigmas", "mu", "timesteps"]
    step = ["model_output", "timestep", "sample", "eta", "generator", "variance_noise", "return_dict"]
    assert names(Scheduler.step)[:7] == step
    kinds = {p.kind for p in inspect.signature(Scheduler.__init__).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert issubclass(Scheduler, (SchedulerMixin,)) and issubclass(Scheduler, diffusers.ConfigMixin)
    assert Scheduler.order == 1
    assert "__getattr__" not in Scheduler.__dict__


@pytest.mark.parametrize("scheduler", [Scheduler(), vp(), flow(), flow("heun")])
def test_attributes_before_set_timesteps(scheduler):
    assert scheduler.timesteps.shape == (1000,) and len(scheduler.sigmas) == 1001
    assert (scheduler.timesteps.diff() < 0).all() and (scheduler.sigmas.diff() < 0).all() and scheduler.sigmas[-1] == 0
    assert scheduler.init_noise_sigma == 1.0
    assert scheduler.num_inference_steps is scheduler.step_index is scheduler.begin_index is None
    assert len(scheduler) == 1000
    x = noise()
    assert scheduler.scale_model_input(x, 17) is x
    assert (
        hasattr(scheduler, "alphas_cumprod") == hasattr(scheduler, "betas") == (scheduler._model.schedule.kind == "vp")
    )


def test_tables_of_a_discrete_model_are_those_of_the_class():
    theirs = diffusers.DDIMScheduler(**SD)
    for name in ("betas", "alphas", "alphas_cumprod"):
        torch.testing.assert_close(getattr(vp(), name), getattr(theirs, name), rtol=1e-5, atol=1e-7)


def test_numpy_betas_of_another_length_than_the_training():
    scheduler = Scheduler(num_train_timesteps=1000, trained_betas=np.array([0.1, 0.3]))
    np.testing.assert_allclose(scheduler.betas, [0.1, 0.3], rtol=1e-6)
    assert "0.3" in scheduler.to_json_string()


def test_config_access_through_the_object_warns_as_elsewhere():
    with pytest.warns(FutureWarning, match="num_train_timesteps"):
        assert vp().num_train_timesteps == 1000


CLASSES = [name for name in dir(diffusers) if name.endswith("Scheduler") and "Flax" not in name]


def readable():
    """Every diffusers scheduler whose config is a noise schedule, constructed with its defaults."""
    for name in CLASSES:
        try:
            yield getattr(diffusers, name)()
        except (ImportError, ValueError, TypeError):
            continue


def test_every_class_is_read_or_refused_in_words():
    read = []
    for theirs in readable():
        try:
            ours = Scheduler.from_config(theirs, "ddim")
        except ValueError as error:
            assert "schedule" in str(error) or "supported" in str(error) or "prediction" in str(error), (theirs, error)
            continue
        ours.set_timesteps(4, mu=0.5)
        assert len(ours.timesteps) == 4
        read.append(type(theirs).__name__)
    assert {"DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler", FLOW.__name__} < set(read)
    assert len(read) > 20


@pytest.mark.parametrize(
    "theirs",
    [
        diffusers.DDIMScheduler(**SD, set_alpha_to_one=False, steps_offset=1, clip_sample=False),
        diffusers.PNDMScheduler(**SD, skip_prk_steps=True),
        diffusers.EulerDiscreteScheduler(**SD, use_karras_sigmas=True, sigma_max=10.0),
        diffusers.HeunDiscreteScheduler(),
        FLOW(shift=3.0, use_dynamic_shifting=True, base_shift=0.6),
        diffusers.EDMEulerScheduler(sigma_data=0.7),
    ],
    ids=lambda s: type(s).__name__,
)
def test_conversion_and_back_keeps_every_entry(theirs, tmp_path):
    ours = Scheduler.from_config(theirs.config, solver="unipc", order=2)
    back = type(theirs).from_config(ours.config)
    ours.save_pretrained(tmp_path)
    saved = type(theirs).from_config(Scheduler.from_pretrained(tmp_path).config)
    for key in inspect.signature(type(theirs)).parameters:
        assert back.config[key] == theirs.config[key]
        assert saved.config[key] == theirs.config[key]
    again = Scheduler.from_config(back.config)
    assert again.config.solver == "unipc" and again.config.solver_options == {"order": 2}
    for scheduler in (ours, again, Scheduler.from_pretrained(tmp_path)):
        scheduler.set_timesteps(6, mu=0.8)
    assert ours._model.schedule == again._model.schedule == scheduler._model.schedule
    assert torch.equal(ours.sigmas, again.sigmas) and torch.equal(ours.sigmas, scheduler.sigmas)


def test_defaults_of_another_class_do_not_become_choices():
    """DDIM's default spacing is "leading"; converted without a word, DPM++ runs its own, "linspace"."""
    ours = Scheduler.from_config(diffusers.DDIMScheduler(**SD).config)
    theirs = diffusers.DPMSolverMultistepScheduler.from_config(diffusers.DDIMScheduler(**SD).config)
    said = Scheduler.from_config(diffusers.DDIMScheduler(**SD, timestep_spacing="trailing").config)
    for scheduler in (ours, theirs, said):
        scheduler.set_timesteps(10)
    assert torch.equal(ours.timesteps, theirs.timesteps) and not torch.equal(ours.timesteps, said.timesteps)
    assert "timestep_spacing" not in ours.config and ours.config.get("steps_offset", 1) == 1


def test_from_config_replaces_entries_and_options():
    a = Scheduler.from_config(diffusers.DDIMScheduler(**SD), timestep_spacing="trailing")
    b = Scheduler.from_config(a, use_karras_sigmas=True)
    assert b.config.timestep_spacing == "trailing" and b.config.use_karras_sigmas
    c = Scheduler.from_config(b, "unipc", order=2)
    assert Scheduler.from_config(c).config.solver_options == {"order": 2}
    assert Scheduler.from_config(c, "ddim").config.solver_options == {}
    assert Scheduler.from_config(c, order=3).config.solver_options == {"order": 3}


def test_folk_names_and_named_grids():
    by_name = vp(solver="DPM++ 2M Karras")
    by_grid = vp("dpmpp_2m", grid="karras")
    array = vp("dpmpp_2m", grid=np.linspace(1.0, 0.0, 7))
    for scheduler in (by_name, by_grid, array):
        scheduler.set_timesteps(6)
    assert torch.equal(by_name.sigmas, by_grid.sigmas)
    np.testing.assert_allclose(array._table.tableau.times, np.linspace(1, 0, 7))
    array.set_timesteps(3)
    assert len(array.timesteps) == 3


def test_latents_are_not_clipped_unless_a_config_says_so():
    """A config that never heard of clip_sample is not read with DDIM's default, which is True."""
    assert Scheduler.from_config(diffusers.PNDMScheduler(**SD), "ddim")._model.post is None
    assert Scheduler.from_config(diffusers.DDIMScheduler(**SD), "ddim")._model.post is not None
    assert Scheduler.from_config(diffusers.DDIMScheduler(**SD), "dpmpp_2m")._model.post is None


def test_a_corrected_config_is_read_again():
    """Stable Diffusion pipelines replace the whole config at construction; Cosmos registers entries."""
    scheduler = Scheduler.from_config(diffusers.DDIMScheduler(clip_sample=True), "ddim")
    assert scheduler._model.post is not None
    corrected = {**scheduler.config, "clip_sample": False}
    scheduler._internal_dict = type(scheduler.config)(corrected)
    scheduler.set_timesteps(3)
    assert scheduler._model.post is None
    scheduler.register_to_config(beta_end=0.01)
    assert float(scheduler.betas[-1]) == pytest.approx(0.01, rel=1e-4)


def test_saved_name_can_be_loaded_again():
    assert (Scheduler.__module__, Scheduler.__name__) == ("fewstep.samplers.scheduler", "Scheduler")
    module = importlib.import_module(Scheduler.__module__)
    assert module.SchedulerMixin is SchedulerMixin
    folder = Scheduler.__module__.split(".")[-2]
    assert not hasattr(importlib.import_module("diffusers.pipelines"), folder)


# 2. set_timesteps


@pytest.mark.parametrize("make", [vp, flow])
@pytest.mark.parametrize("name", TABLES)
def test_n_evaluations_whatever_the_solver(name, make):
    scheduler = make(name)
    for n in (1, 2, 3, 5, 8, 13):
        scheduler.set_timesteps(n)
        assert len(scheduler.timesteps) == n == scheduler.num_inference_steps and len(scheduler.sigmas) == n + 1
        assert scheduler.sigmas.device.type == "cpu" and scheduler.timesteps.ndim == 1
        assert scheduler.timesteps[0].expand(3).shape == (3,)


def test_timesteps_are_whole_for_discrete_networks_and_float32_for_others():
    for scheduler, dtype in ((vp(), torch.int64), (vp("heun"), torch.float32), (flow(), torch.float32)):
        scheduler.set_timesteps(5)
        assert scheduler.timesteps.dtype == dtype


def test_set_timesteps_forgets_the_previous_run():
    scheduler, x = vp("unipc"), noise()
    scheduler.set_timesteps(5)
    first = run(scheduler, network(scheduler), x)
    scheduler.set_begin_index(2)
    scheduler.set_timesteps(5)
    assert scheduler.step_index is scheduler.begin_index is None
    for t in scheduler.timesteps[:3]:
        scheduler.step(noise(seed=3), t, noise(seed=4))
    scheduler.set_timesteps(5)
    assert torch.equal(run(scheduler, network(scheduler), x), first)


def test_writing_into_what_was_handed_out_changes_no_other_run():
    a, b = vp(), vp()
    a.set_timesteps(5)
    a.sigmas[-1] = 7.0
    a.timesteps[0] = 7
    for scheduler in (a, b):
        scheduler.set_timesteps(5)
        assert scheduler.sigmas[-1] == 0 and scheduler.timesteps[0] == 999


@pytest.mark.parametrize(
    "kwargs", [{}, {"shift_terminal": 0.1}, {"time_shift_type": "linear"}, {"use_karras_sigmas": True}]
)
def test_flow_levels_equal_the_class(kwargs):
    given = np.linspace(1.0, 1 / 8, 8)
    for dynamic in (False, True):
        theirs = FLOW(shift=3.0, use_dynamic_shifting=dynamic, **kwargs)
        ours = Scheduler.from_config(theirs, "euler")
        for call in (
            {"num_inference_steps": 8},
            {"sigmas": given},
            {"sigmas": list(given)},
            {"sigmas": given, "timesteps": given * 900},
        ):
            theirs.set_timesteps(**call, mu=0.9)
            ours.set_timesteps(**call, mu=0.9)
            torch.testing.assert_close(ours.sigmas, theirs.sigmas.float(), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(ours.timesteps, theirs.timesteps.float(), rtol=1e-5, atol=1e-3)


def test_timesteps_alone_are_shown_as_given():
    scheduler = vp()
    scheduler.set_timesteps(timesteps=[900, 500, 77])
    assert scheduler.timesteps.tolist() == [900, 500, 77] and scheduler.num_inference_steps == 3
    table = scheduler.alphas_cumprod.double()[[900, 500, 77]]
    torch.testing.assert_close(scheduler.sigmas[:3].double(), ((1 - table) / table).sqrt(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", SEVERAL)
def test_explicit_curves_cost_their_length(name):
    for scheduler, sigmas in (
        (flow(name, shift=1.0), np.linspace(1.0, 0.1, 7)),
        (vp(name), np.geomspace(14.0, 0.03, 7)),
    ):
        scheduler.set_timesteps(sigmas=sigmas)
        assert len(scheduler.timesteps) == 7 and float(scheduler.sigmas[0]) == pytest.approx(sigmas[0], rel=1e-3)
        assert scheduler.sigmas[-1] == 0
    scheduler.set_timesteps(timesteps=[990, 800, 600, 400, 200, 100, 10])
    assert len(scheduler.timesteps) == 7 and scheduler.timesteps[0] == 990


@pytest.mark.parametrize(
    "call, words",
    [
        ({"num_inference_steps": 0}, "at least 1"),
        ({"num_inference_steps": 2.5}, "whole number"),
        ({}, "number of steps"),
        ({"sigmas": [1.0, 0.5, 0.6]}, "decrease"),
        ({"sigmas": [1.0, float("nan")]}, "finite"),
        ({"sigmas": [1.0, 0.5], "timesteps": [900]}, "lengths differ"),
        ({"num_inference_steps": 3, "sigmas": [1.0, 0.5]}, "lengths differ"),
        ({"timesteps": [10, 500]}, "decrease"),
    ],
)
@pytest.mark.parametrize("make", [vp, flow])
def test_bad_timesteps(make, call, words):
    with pytest.raises(ValueError, match=words):
        make().set_timesteps(**call)


def test_mu_is_ignored_or_required():
    scheduler = flow()
    scheduler.set_timesteps(5)
    plain = scheduler.sigmas
    scheduler.set_timesteps(5, mu=3.0)
    assert torch.equal(scheduler.sigmas, plain)
    for grid in (None, "flow"):
        dynamic = Scheduler.from_config(FLOW(use_dynamic_shifting=True), grid=grid)
        with pytest.raises(ValueError, match="mu"):
            dynamic.set_timesteps(5)
        dynamic.set_timesteps(5, mu=1.0)
        few = dynamic.sigmas
        dynamic.set_timesteps(5, mu=2.0)
        assert (dynamic.sigmas[1:-1] > few[1:-1]).all()


def singles():
    """One option at a time, on every kind of config."""
    spacings = [{"timestep_spacing": s} for s in ("linspace", "leading", "trailing")]
    maps = [{f"use_{m}": True} for m in ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")]
    rest = [{"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}, {"final_sigmas_type": "sigma_min"}]
    more = [{"beta_schedule": b} for b in ("linear", "squaredcos_cap_v2")] + [
        {"steps_offset": 1, "set_alpha_to_one": False}
    ]
    yield from ({**SD, **option} for option in spacings + maps + rest + more)
    for option in (
        {},
        {"shift": 3.0},
        {"shift_terminal": 0.1},
        {"use_dynamic_shifting": True},
        {"use_karras_sigmas": True},
    ):
        yield {"_class_name": FLOW.__name__, "num_train_timesteps": 1000, "shift": 1.0, **option}
    yield {**SD, "use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}


@pytest.mark.parametrize("name", TABLES)
def test_one_step_with_every_option(name):
    for config in singles():
        scheduler = Scheduler.from_config(config, name)
        for n in (1, 2):
            scheduler.set_timesteps(n, mu=1.0)
            x = noise(1, 2, 2, 2)
            for t in scheduler.timesteps:
                x = scheduler.step(0.5 * x, t, x, return_dict=False)[0]
            assert x.isfinite().all(), config


# 3. stepping


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


def test_generators_eta_and_noise_are_accepted():
    scheduler, x = vp(), noise()
    for generator in (None, torch.Generator(), [torch.Generator(), torch.Generator()]):
        scheduler.set_timesteps(2)
        scheduler.step(x, 999, x, eta=1.0, generator=generator, variance_noise=noise(seed=9))


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


@pytest.mark.parametrize("mid", [0, 3, 5])
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "dict"])
def test_copies_go_their_own_way(how, mid):
    scheduler, x = vp("unipc"), noise()
    net = network(scheduler)
    scheduler.set_timesteps(5)
    times = list(scheduler.timesteps)
    for t in times[:mid]:
        x = scheduler.step(net(x, t), t, x, return_dict=False)[0]
    if how == "dict":  # panoramas keep one state a view
        other = vp("unipc")
        other.__dict__.update(copy.deepcopy(scheduler.__dict__))
    else:
        other = copy.deepcopy(scheduler) if how == "deepcopy" else pickle.loads(pickle.dumps(scheduler))
    assert other.step_index == scheduler.step_index and other.config == scheduler.config
    ends = []
    for each in (scheduler, other):
        y = x
        for t in times[mid:]:
            y = each.step(net(y, t), t, y, return_dict=False)[0]
        ends.append(y)
        assert each.step_index == 5
    torch.testing.assert_close(*ends, rtol=1e-6, atol=1e-6)


def test_long_tables_copy_and_pickle():
    scheduler = vp()
    scheduler.set_timesteps(1000)
    scheduler.step(noise(), 999, noise())
    for other in (copy.deepcopy(scheduler), pickle.loads(pickle.dumps(scheduler))):
        assert other.step_index == 1
    assert copy.deepcopy(scheduler.__dict__)["_step"] is scheduler._step


def test_two_runs_at_once():
    a, b = vp("unipc"), vp("unipc")
    net = network(a)
    alone = []
    for seed in (0, 1):
        a.set_timesteps(6)
        alone.append(run(a, net, noise(seed=seed)))
    a.set_timesteps(6)
    b.set_timesteps(6)
    x, y = noise(seed=0), noise(seed=1)
    for t in a.timesteps:
        x = a.step(net(x, t), t, x, return_dict=False)[0]
        y = b.step(net(y, t), t, y, return_dict=False)[0]
    assert torch.equal(x, alone[0]) and torch.equal(y, alone[1])


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "unipc", "heun"])
def test_tokens_with_times_of_their_own(name):
    """Video conditioning: tokens wait, less noisy, until the run comes down to their time, then join it."""
    clean, eps = noise(1, 6, 4), noise(1, 6, 4, seed=1)
    own = torch.tensor([[1.0, 1.0, 0.7, 0.4, 0.0, 0.0]])  # 0: a frame that is given
    ends = []
    for scheduler in (flow(name), FLOW(shift=3.0)):
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


def test_from_pretrained_takes_solver_and_options(tmp_path):
    diffusers.DDIMScheduler(**SD).save_pretrained(tmp_path)
    scheduler = Scheduler.from_pretrained(tmp_path, solver="unipc", order=2)
    assert (scheduler.config.solver, scheduler.config.solver_options) == ("unipc", {"order": 2})
    scheduler, unused = Scheduler.from_config(scheduler.config, return_unused_kwargs=True)
    assert isinstance(unused, dict)


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
        Scheduler.from_config({"hidden_size": 3})
    with pytest.raises(ValueError, match="scheduler"):
        Scheduler.from_config("stabilityai/some-model")
    with pytest.raises(ValueError, match="learned"):
        vp(learned="five.json")
    with pytest.raises(ValueError, match="prediction"):
        Scheduler(prediction_type="noise")


def test_the_saved_config_is_plain_json(tmp_path):
    scheduler = vp("unipc", order=[1, 2, 3, 2, 1], grid=[1.0, 0.8, 0.5, 0.2, 0.1, 0.0])
    scheduler.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "Scheduler" and saved["solver_options"] == {"order": [1, 2, 3, 2, 1]}
    loaded = Scheduler.from_pretrained(tmp_path)
    loaded.set_timesteps(5)
    assert [len(loaded.timesteps), loaded._table.tableau.name] == [5, "unipc"]


KIT = os.environ.get("FEWSTEP_DIFFUSERS_TESTS")
if KIT:  # a checkout of diffusers: its own test of what all schedulers have in common
    sys.path.insert(0, KIT)
    common = importlib.import_module("tests.schedulers.test_schedulers").SchedulerCommonTest

    class TestCommon(common):
        scheduler_classes = (Scheduler,)
        forward_default_kwargs = (("num_inference_steps", 25),)

        def get_scheduler_config(self, **kwargs):
            return {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, **kwargs}

    del common
