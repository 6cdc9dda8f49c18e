"""What pipelines demand of a scheduler's class and configuration, one rule a test."""

import importlib
import inspect

import numpy as np
import pytest
import torch
from contracted import FLOW, SD, flow, noise, vp
from late import diffusers

import fewstep


def test_signatures_name_what_pipelines_inspect():
    def names(method):
        return [p for p in inspect.signature(method).parameters if p != "self"]

    times = ["num_inference_steps", "device", "sigmas", "mu", "timesteps"]
    assert names(fewstep.Scheduler.set_timesteps)[:5] == times
    of_one_class = {"original_inference_steps", "max_timesteps", "intermediate_timesteps"}
    assert of_one_class <= set(names(fewstep.Scheduler.set_timesteps))
    step = ["model_output", "timestep", "sample", "eta", "generator", "variance_noise", "return_dict"]
    assert names(fewstep.Scheduler.step)[:7] == step
    kinds = {p.kind for p in inspect.signature(fewstep.Scheduler.__init__).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    assert issubclass(fewstep.Scheduler, diffusers.SchedulerMixin) and issubclass(
        fewstep.Scheduler, diffusers.ConfigMixin
    )
    assert fewstep.Scheduler.order == 1
    assert "__getattr__" not in fewstep.Scheduler.__dict__


@pytest.mark.parametrize("made", ["Scheduler()", "vp()", "flow()", "flow heun"])
def test_attributes_before_set_timesteps(made):
    scheduler = {"Scheduler()": fewstep.Scheduler, "vp()": vp, "flow()": flow, "flow heun": lambda: flow("heun")}[
        made
    ]()
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
    scheduler = fewstep.Scheduler(num_train_timesteps=1000, trained_betas=np.array([0.1, 0.3]))
    np.testing.assert_allclose(scheduler.betas, [0.1, 0.3], rtol=1e-6)
    assert "0.3" in scheduler.to_json_string()


def test_config_access_through_the_object_warns_as_elsewhere():
    with pytest.warns(FutureWarning, match="num_train_timesteps"):
        assert vp().num_train_timesteps == 1000


def readable():
    """Every diffusers scheduler whose config is a noise schedule, constructed with its defaults."""
    for name in dir(diffusers):
        if not name.endswith("Scheduler") or "Flax" in name:
            continue
        try:
            yield getattr(diffusers, name)()
        except (ImportError, ValueError, TypeError):
            continue


def test_every_class_is_read_or_refused_in_words():
    read = []
    for theirs in readable():
        try:
            ours = fewstep.Scheduler.from_config(theirs, "ddim")
        except ValueError as error:
            assert "schedule" in str(error) or type(theirs).__name__ in str(error), (theirs, error)
            continue
        ours.set_timesteps(4, mu=0.5)
        assert len(ours.timesteps) == 4 + (type(theirs).__name__ == "SCMScheduler")  # which shows its end
        read.append(type(theirs).__name__)
    assert {"DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler", FLOW} < set(read)
    assert len(read) > 20


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("DDIMScheduler", {**SD, "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False}),
        ("PNDMScheduler", {**SD, "skip_prk_steps": True}),
        ("EulerDiscreteScheduler", {**SD, "use_karras_sigmas": True, "sigma_max": 10.0}),
        ("HeunDiscreteScheduler", {}),
        (FLOW, {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.6}),
        ("EDMEulerScheduler", {"sigma_data": 0.7}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_conversion_and_back_keeps_every_entry(name, config, tmp_path):
    theirs = getattr(diffusers, name)(**config)
    ours = fewstep.Scheduler.from_config(theirs.config, solver="unipc", order=2)
    back = type(theirs).from_config(ours.config)
    ours.save_pretrained(tmp_path)
    saved = type(theirs).from_config(fewstep.Scheduler.from_pretrained(tmp_path).config)
    for key in inspect.signature(type(theirs)).parameters:
        assert back.config[key] == theirs.config[key]
        assert saved.config[key] == theirs.config[key]
    again = fewstep.Scheduler.from_config(back.config)
    assert again.config.solver == "unipc" and again.config.solver_options == {"order": 2}
    for scheduler in (ours, again, fewstep.Scheduler.from_pretrained(tmp_path)):
        scheduler.set_timesteps(6, mu=0.8)
    assert ours._model.schedule == again._model.schedule == scheduler._model.schedule
    assert torch.equal(ours.sigmas, again.sigmas) and torch.equal(ours.sigmas, scheduler.sigmas)


def test_defaults_of_another_class_do_not_become_choices():
    """DDIM's default spacing is "leading"; converted without a word, DPM++ runs its own, "linspace"."""
    ours = fewstep.Scheduler.from_config(diffusers.DDIMScheduler(**SD).config)
    theirs = diffusers.DPMSolverMultistepScheduler.from_config(diffusers.DDIMScheduler(**SD).config)
    said = fewstep.Scheduler.from_config(diffusers.DDIMScheduler(**SD, timestep_spacing="trailing").config)
    for scheduler in (ours, theirs, said):
        scheduler.set_timesteps(10)
    assert torch.equal(ours.timesteps, theirs.timesteps) and not torch.equal(ours.timesteps, said.timesteps)
    assert "timestep_spacing" not in ours.config and ours.config.get("steps_offset", 1) == 1


def test_from_config_replaces_entries_and_options():
    a = fewstep.Scheduler.from_config(diffusers.DDIMScheduler(**SD), timestep_spacing="trailing")
    b = fewstep.Scheduler.from_config(a, use_karras_sigmas=True)
    assert b.config.timestep_spacing == "trailing" and b.config.use_karras_sigmas
    c = fewstep.Scheduler.from_config(b, "unipc", order=2)
    assert fewstep.Scheduler.from_config(c).config.solver_options == {"order": 2}
    assert fewstep.Scheduler.from_config(c, "ddim").config.solver_options == {}
    assert fewstep.Scheduler.from_config(c, order=3).config.solver_options == {"order": 3}


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
    assert fewstep.Scheduler.from_config(diffusers.PNDMScheduler(**SD), "ddim")._model.post is None
    assert fewstep.Scheduler.from_config(diffusers.DDIMScheduler(**SD), "ddim")._model.post is not None
    assert fewstep.Scheduler.from_config(diffusers.DDIMScheduler(**SD), "dpmpp_2m")._model.post is None


def test_a_corrected_config_is_read_again():
    """Stable Diffusion pipelines replace the whole config at construction; Cosmos registers entries."""
    scheduler = fewstep.Scheduler.from_config(diffusers.DDIMScheduler(clip_sample=True), "ddim")
    assert scheduler._model.post is not None
    corrected = {**scheduler.config, "clip_sample": False}
    scheduler._internal_dict = type(scheduler.config)(corrected)
    scheduler.set_timesteps(3)
    assert scheduler._model.post is None
    scheduler.register_to_config(beta_end=0.01)
    assert float(scheduler.betas[-1]) == pytest.approx(0.01, rel=1e-4)


def test_saved_name_can_be_loaded_again():
    assert (fewstep.Scheduler.__module__, fewstep.Scheduler.__name__) == (
        "fewstep.samplers.scheduler",
        "Scheduler",
    )
    module = importlib.import_module(fewstep.Scheduler.__module__)
    assert module.SchedulerMixin is diffusers.SchedulerMixin
    folder = fewstep.Scheduler.__module__.split(".")[-2]
    assert not hasattr(importlib.import_module("diffusers.pipelines"), folder)
