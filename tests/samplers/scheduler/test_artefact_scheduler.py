"""A learned artefact inside diffusers pipelines: same images as `sample`, saved with the pipeline, refused elsewhere."""

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from late import diffusers
from learnt import artefact, learned_table
from pipelike import EDMNetwork, Network, run
from pipelines import PIPELINES, generate
from problems import Mixture, starts

import fewstep
from fewstep import Artefact, Denoiser, sample
from fewstep.samplers import SOLVERS, Learned, NoiseSchedule, Statistics, build
from fewstep.samplers.building.resuming import resume

BETAS = np.linspace(1e-4, 0.02, 1000)
DISCRETE = NoiseSchedule.discrete(np.cumprod(1 - BETAS))
CONFIG = {"_class_name": "DDIMScheduler", "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
NETWORK = Network(Mixture(), "epsilon", np.cumprod(1 - BETAS))


@pytest.fixture(scope="module")
def made():
    return artefact(DISCRETE, 4, 6)


def guided():
    return Artefact(
        tuple(Learned(learned_table(DISCRETE, 5, seed=i), g) for i, g in enumerate((1.0, 3.0))),
        {"prediction": "epsilon"},
    )


def played(scheduler):
    return scheduler._table.tableau


# playing


@pytest.mark.parametrize("nfe", [4, 6])
def test_a_run_is_that_of_sample(made, nfe):
    scheduler = fewstep.Scheduler.from_config(CONFIG, learned=made)
    scheduler.set_timesteps(nfe)
    table = made.table(nfe)
    assert scheduler.timesteps.dtype == torch.float32 and len(scheduler.sigmas) == nfe + 1
    assert np.array_equal(scheduler.timesteps.numpy(), table.model_times.astype(np.float32))
    assert np.allclose(scheduler.sigmas, table.nodes.sigma / table.nodes.alpha, rtol=1e-6)
    x = starts(DISCRETE, 1.0)
    seen = []

    def network(state, tau):  # what the scheduler shows is what `sample` shows, in float32
        seen.append(float(tau))
        return NETWORK(state, tau)

    got = run(scheduler, network, x)
    assert seen == scheduler.timesteps.tolist() and got.dtype == torch.float64
    want = sample(Denoiser(lambda x, tau: NETWORK(x, tau.float()), DISCRETE), x, made, nfe)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def digits():
    pipe = fewstep.load_demo_pipeline()
    pipe.set_progress_bar_config(disable=True)
    denoiser = Denoiser.from_pipeline(pipe, class_labels=[1, 7])
    return pipe, denoiser, artefact(denoiser.schedule, 4, 5)


def generators():
    return [torch.Generator().manual_seed(seed) for seed in (0, 1)]


@torch.no_grad()
def test_a_pipeline_draws_what_sample_draws_and_keeps_it(digits, tmp_path):
    pipe, denoiser, made = digits
    pipe = copy.copy(pipe)
    want = denoiser.decode(sample(denoiser, denoiser.initial_noise(generators()), made, 5))
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, learned=made)
    images = pipe([1, 7], num_inference_steps=5, generator=generators()).images
    assert all(np.array_equal(a, b) for a, b in zip(images, want, strict=True))
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("**/five.json"))
    again = type(pipe).from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is fewstep.Scheduler and again.scheduler.config["learned"] == made.to_dict()
    images = again([1, 7], num_inference_steps=5, generator=generators()).images
    assert all(np.array_equal(a, b) for a, b in zip(images, want, strict=True))
    with pytest.raises(ValueError, match="no table for nfe 6, only for nfe 4, 5"):
        again([1, 7], num_inference_steps=6)


def test_a_denoiser_of_a_learned_pipeline_is_that_of_the_model(digits):
    """Learning again, or comparing solvers, on a pipeline that plays an artefact already."""
    pipe, denoiser, made = digits
    pipe = copy.copy(pipe)
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, learned=made)
    again = Denoiser.from_pipeline(pipe, class_labels=[1, 7])
    assert again.schedule == denoiser.schedule and again.prediction == denoiser.prediction
    x = denoiser.initial_noise(generators())
    with torch.no_grad():
        assert torch.equal(again(x, 0.5), denoiser(x, 0.5))


@torch.no_grad()
@pytest.mark.parametrize("name", ["sd3", "flux", "sd3_img2img", "flux_img2img"])
def test_flow_pipelines_play_it(name):
    """They pass an even ramp of sigmas, shift or not: the learned times are their own."""
    pipe, call = PIPELINES[name].make()
    config = {**pipe.scheduler.config}
    made = artefact(NoiseSchedule.from_config(config), 5, prediction="flow_prediction", moved=("grid", "coef"))
    pipe.scheduler = fewstep.Scheduler.from_config(config, learned=made)
    image, latents = generate(pipe, call)
    assert np.isfinite(np.asarray(image, float)).all() and torch.isfinite(latents).all()
    assert np.allclose(played(pipe.scheduler).times, made.table().times)


@torch.no_grad()
def test_image_to_image_begins_in_the_middle(made):
    scheduler = fewstep.Scheduler.from_config(CONFIG, learned=made)
    scheduler.set_timesteps(6)
    scheduler.set_begin_index(2)
    x0, noise = starts(DISCRETE, 0.0), starts(DISCRETE, 1.0, seed=1)
    nodes = made.table(6).nodes
    x = scheduler.add_noise(x0, noise, scheduler.timesteps[2:3])
    torch.testing.assert_close(x, nodes.alpha[2] * x0 + nodes.sigma[2] * noise)
    rest = resume(
        made.table(6), 2, SOLVERS["dpmpp_2m"]
    )  # the solver without corrections, on the learned times that remain
    assert np.array_equal(rest.times, made.table(6).times[2:])
    assert np.array_equal(rest.model_times, made.table(6).model_times[2:])
    got = run(scheduler, NETWORK, x, begin=2)
    want = sample(Denoiser(lambda x, tau: NETWORK(x, tau.float()), DISCRETE), x, rest)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)


def test_levels_of_shown_times_are_those_of_the_run(made):
    """A network may be told another time than that of its input: noise is added at the level of the input."""
    scheduler = fewstep.Scheduler.from_config(CONFIG, learned=made)
    scheduler.set_timesteps(4)
    one, zero = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    for i, t in enumerate(scheduler.timesteps):
        assert float(scheduler.add_noise(zero, one, t[None])[0, 0]) == pytest.approx(
            made.table(4).nodes.sigma[i], abs=1e-9
        )


def test_guidance_chooses_and_travels(tmp_path):
    for guidance in (1.0, 2.2):
        scheduler = fewstep.Scheduler.from_config(CONFIG, learned=guided(), guidance=guidance)
        scheduler.save_pretrained(tmp_path)
        for one in (
            scheduler,
            fewstep.Scheduler.from_pretrained(tmp_path),
            fewstep.Scheduler.from_config(scheduler.config),
        ):
            one.set_timesteps(5)
            assert np.array_equal(played(one).W, guided().table(5, guidance).W)
    changed = fewstep.Scheduler.from_config(scheduler.config, guidance=9.0, outside="clamp")
    changed.set_timesteps(5)
    assert np.array_equal(played(changed).W, guided().table(5, 3.0).W)
    base = fewstep.Scheduler.from_config(CONFIG, learned=guided(), guidance=3.0, outside="base")
    base.set_timesteps(8)
    assert np.array_equal(played(base).W, guided().table(8, 3.0, outside="base").W)


def test_an_edm_model_plays_what_was_learned_through_its_pipeline():
    """Its network is shown log(sigma) / 4, behind a preconditioning."""
    config = diffusers.EDMDPMSolverMultistepScheduler().config
    schedule = fewstep.Scheduler.from_config(config)._model.schedule
    made = Artefact((Learned(learned_table(schedule, 6)),), {"prediction": schedule.output("epsilon")})
    assert made.model["prediction"] == "preconditioned" and Artefact.from_dict(made.to_dict()) == made
    scheduler = fewstep.Scheduler.from_config(config, learned=made)
    scheduler.set_timesteps(6)
    x = starts(schedule, schedule.t_max)
    network = EDMNetwork(Mixture(), schedule.sigma_data)
    got = run(scheduler, network, x)
    plain = Mixture().denoiser(NoiseSchedule.edm(schedule.sigma_min, schedule.sigma_max, schedule.sigma_data), "sample")
    with pytest.warns(UserWarning, match="not measured"):
        table = made.table(schedule=plain.schedule, prediction="sample", strict=False)
    told = np.maximum(np.exp(4 * made.table().model_times), schedule.sigma_min)  # no less than what it was trained on
    assert torch.isfinite(got).all() and np.allclose(table.model_times, told)
    assert float((got - sample(plain, x, table)).abs().max()) < 0.1  # told sigma enters c_skip here, and nothing there


# travelling


def plays(scheduler, made, nfe=6):
    scheduler.set_timesteps(nfe)
    return np.array_equal(played(scheduler).W, made.table(nfe).W)


def test_a_path_an_artefact_and_a_dict_say_the_same(made, tmp_path):
    made.save(tmp_path / "a.json")
    for learned in (made, tmp_path / "a.json", str(tmp_path / "a.json"), made.to_dict()):
        assert plays(fewstep.Scheduler.from_config(CONFIG, learned=learned), made)
    (tmp_path / "a.json").unlink()
    assert plays(fewstep.Scheduler(beta_start=1e-4, beta_end=0.02, learned=made), made)


def test_saved_copied_pickled_and_lent_to_a_stock_class(made, tmp_path):
    scheduler = fewstep.Scheduler.from_config(CONFIG, learned=made)
    scheduler.save_pretrained(tmp_path)
    json.loads((tmp_path / "scheduler_config.json").read_text())
    stock = diffusers.DPMSolverMultistepScheduler.from_config(scheduler.config)
    ways = (
        fewstep.Scheduler.from_pretrained(tmp_path),
        copy.deepcopy(scheduler),
        pickle.loads(pickle.dumps(scheduler)),
    )
    for one in (*ways, fewstep.Scheduler.from_config(stock.config)):
        assert plays(one, made)
    scheduler.set_timesteps(6)
    x = starts(DISCRETE, 1.0)
    half = run_some(scheduler, x, 3)
    rest = [run_some(one, half, 6, 3) for one in (scheduler, pickle.loads(pickle.dumps(scheduler)))]
    assert torch.equal(*rest)


def run_some(scheduler, x, to, begin=0):
    for t in scheduler.timesteps[begin:to]:
        x = scheduler.step(NETWORK(x, t), t, x, return_dict=False)[0]
    return x


def test_equal_artefacts_share_what_was_compiled(made):
    one, other = (fewstep.Scheduler.from_config(CONFIG, learned=Artefact.from_dict(made.to_dict())) for _ in range(2))
    one.set_timesteps(6), other.set_timesteps(6)
    assert one._table is other._table and one._bound is other._bound


def test_weights_of_every_element_travel_in_the_config(tmp_path):
    random = np.random.default_rng(0)
    s, b = 0.1 * random.standard_normal((2, 4, 2, 64, 64))
    table = build("dpm_solver_v3", DISCRETE, 4, statistics=Statistics(np.array([-20.0, -5, 5, 20]), 1 + 0 * s, s, b))
    made = Artefact((Learned(table),), {"prediction": "epsilon", "shape": [2, 64, 64]})
    fewstep.Scheduler.from_config(CONFIG, learned=made).save_pretrained(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["scheduler_config.json"]
    again = fewstep.Scheduler.from_pretrained(tmp_path)
    assert plays(again, made, 4)
    x = torch.randn(2, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(run(again, lambda x, t: torch.tanh(x), x)).all()


def test_another_solver_takes_its_place(made):
    learned = fewstep.Scheduler.from_config(CONFIG, learned=made)
    other = fewstep.Scheduler.from_config(learned.config, "unipc")
    other.set_timesteps(9)
    assert played(other).name == "unipc" and other.config["learned"] is None
    assert plays(fewstep.Scheduler.from_config(other.config, learned=made), made)
    assert plays(fewstep.Scheduler.from_config(other.config, "DPM++ 2M", learned=made), made)


# refused


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"solver": "unipc"}, "brings its solver.*leave `solver` and `grid` away"),
        ({"solver": "dpmpp_2m_karras"}, "brings its solver"),
        ({"grid": "karras"}, "brings its solver"),
        ({"guidance": 3.0}, "no part of what this artefact learned"),
        ({"outside": "nearest"}, "`outside` must be one of"),
        ({"lower_order_final": False}, "leave grid=None and options"),
        ({"timestep_spacin": "trailing"}, "timestep_spacing"),
    ],
)
def test_what_contradicts_it_is_refused(made, how, said):
    with pytest.raises(ValueError, match=said):
        fewstep.Scheduler.from_config(CONFIG, learned=made, **how)


@pytest.mark.parametrize(
    ("learned", "said"),
    [
        (5, "path of a saved one; got int"),
        ("no.json", "no file 'no.json'"),
        ({"W": []}, "not a saved table"),
        ([], "list"),
    ],
)
def test_what_is_no_artefact_is_refused(learned, said):
    with pytest.raises(ValueError, match=said):
        fewstep.Scheduler.from_config(CONFIG, learned=learned)


def test_a_config_that_was_tampered_with_is_refused(made, tmp_path):
    fewstep.Scheduler.from_config(CONFIG, learned=made).save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    content = json.loads(path.read_text())
    content["learned"]["tables"][0]["tableau"]["W"][1][1][2] += 0.1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="changed or damaged"):
        fewstep.Scheduler.from_pretrained(tmp_path)


def test_choices_without_an_artefact_are_refused():
    with pytest.raises(ValueError, match="`guidance` and `outside` choose among the tables of `learned`"):
        fewstep.Scheduler.from_config(CONFIG, "ddim", guidance=3.0)
    with pytest.raises(ValueError, match="guidance 1, 3: say which"):
        fewstep.Scheduler.from_config(CONFIG, learned=guided())
    learned = fewstep.Scheduler.from_config(CONFIG, learned=guided(), guidance=1.0)
    with pytest.raises(ValueError, match="leave grid='karras'"):
        fewstep.Scheduler.from_config(learned.config, grid="karras")


def test_times_of_the_caller_are_refused(made):
    scheduler = fewstep.Scheduler.from_config(CONFIG, learned=made)
    for how in ({"timesteps": [999, 500, 200, 0]}, {"sigmas": [14.0, 3.0, 1.0, 0.0]}):
        with pytest.raises(ValueError, match="times of its own.*without `timesteps` and `sigmas`"):
            scheduler.set_timesteps(**how)
    with pytest.raises(ValueError, match="num_inference_steps"):
        scheduler.set_timesteps()
    flow = fewstep.Scheduler.from_config(
        FLOW, learned=artefact(NoiseSchedule.flow(3.0), 4, prediction="flow_prediction", moved=("grid",))
    )
    for ramp in (
        np.linspace(1, 0.25, 4),
        np.append(np.linspace(1, 0.25, 4), 0.0),
        np.linspace(1000, 1, 4).astype(int) / 1000,
    ):
        flow.set_timesteps(sigmas=ramp, mu=0.8)
        assert flow.num_inference_steps == 4
    with pytest.raises(ValueError, match="times of its own"):
        flow.set_timesteps(sigmas=[1.0, 0.9, 0.5, 0.1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"beta_end": 0.018}, r"learned on Discrete.*hash.*this model has Discrete.*strict=False"),
        ({"prediction_type": "v_prediction"}, "learned on 'epsilon'; this model has 'v_prediction' predictions"),
        (FLOW, "learned on Discrete.*this model has Flow"),
    ],
)
def test_another_model_is_refused_or_warned_of(made, change, said, tmp_path):
    config = change if "shift" in change else {**CONFIG, **change}
    with pytest.raises(ValueError, match=said):
        fewstep.Scheduler.from_config(config, learned=made)
    with pytest.warns(UserWarning, match="gain was not measured"):
        scheduler = fewstep.Scheduler.from_config(config, learned=made, strict=False)
    scheduler.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fewstep.Scheduler.from_pretrained(tmp_path)
        again.set_timesteps(6)
    model = again._model
    assert model.learned.model["learned_on"] == made.model["schedule_hash"] and played(again).schedule == model.schedule
    x = starts(model.schedule, model.schedule.t_max)
    out = sample(Mixture().denoiser(model.schedule, model.prediction), x, model.learned, 6)
    fine = sample(Mixture().denoiser(model.schedule, model.prediction), x, "dpmpp_3m", 200)
    assert float((out - fine).square().mean().sqrt()) < 0.35


def test_zero_terminal_snr_is_what_it_was_learned_on():
    """A pipeline's denoiser starts at alpha = 0; a 2M scheduler of the same config would start just above."""
    config = {**CONFIG, "rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    for solver in ("ddim", None):
        schedule = fewstep.Scheduler.from_config(config, solver)._model.schedule
        assert (schedule.alpha(1.0) == 0) == (solver == "ddim")
        made = artefact(schedule, 5, prediction="v_prediction")
        scheduler = fewstep.Scheduler.from_config(config, learned=made)
        assert scheduler._model.schedule == schedule and plays(scheduler, made, 5)
