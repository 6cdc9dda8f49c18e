"""Artefacts on other schedules and in other programs: by log-SNR, back again, in stock schedulers."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from late import diffusers
from learnt import ALL, BETAS, DISCRETE, VP, artefact, error, guided, learned_table
from pipelike import Network
from pipelike import run as piped
from problems import Mixture, starts

from fewstep import Artefact, sample
from fewstep.samplers import Learned, NoiseSchedule, build
from fewstep.samplers.artefact.corrections import base_of, remapped


@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_3m", "unipc", "dpmpp_2m_sde"])
def test_where_lam_is_kept_the_samples_are_the_same(solver):
    """x' = (alpha' / alpha) x: the same network in another schedule's units."""
    times = np.array([0.9, 0.7, 0.45, 0.3, 0.1, 0.02])
    table = learned_table(VP, 5, moved=("coef",), solver=solver, grid=times)
    flow = NoiseSchedule.flow()
    moved = remapped(table, flow)
    assert np.allclose(moved.nodes.lam, table.nodes.lam, rtol=0, atol=1e-9)
    x, problem = starts(VP, 0.9), Mixture()
    k = moved.nodes.alpha / table.nodes.alpha
    want = sample(problem.denoiser(VP), x, table, noise_seeds=range(16)) * k[-1]
    got = sample(problem.denoiser(flow), x * k[0], moved, noise_seeds=range(16))
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-7)


def test_another_representation_of_the_same_model():
    """A table of training steps played on the continuous schedule of the same betas, and back."""
    problem, linear = Mixture(), NoiseSchedule.vp_linear(0.1, 20.0)
    x = starts(VP, 1.0, 256)
    for here, there in ((DISCRETE, linear), (linear, DISCRETE)):
        made = artefact(here, 6, size=0.005)
        with pytest.warns(UserWarning, match="moved|not measured"):
            table = made.table(6, schedule=there, strict=False)
        assert (table.times[0], table.times[-1]) == (there.t_max, there.t_end) and table.conserves == "x0 eps"
        reference = sample(problem.denoiser(here), x, "dpmpp_3m", 300)
        own = error(sample(problem.denoiser(here), x, made), reference)
        moved = error(sample(problem.denoiser(there), x, table), reference)
        plain = error(sample(problem.denoiser(there), x, base_of(table)), reference)  # the solver itself, to that end
        assert moved < 1.15 * max(own, plain) + 0.02


def test_moving_back_gives_the_table_back():
    table = learned_table(DISCRETE, moved=ALL)
    there = NoiseSchedule.flow(2.0)
    made = Artefact((Learned(table),), {"prediction": "epsilon"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        back = made.remapped(there).remapped(DISCRETE)
    assert np.allclose(back.table().W, table.W, atol=1e-7) and np.allclose(back.table().model_times, table.model_times)
    assert back.model["learned_on"] == made.model["schedule_hash"]


def test_what_a_schedule_does_not_reach_is_refused():
    narrow = NoiseSchedule.ve(1.0, 3.0)
    with pytest.raises(ValueError, match=r"boundaries.*reach beyond VE"):
        remapped(learned_table(DISCRETE), narrow)
    with pytest.raises(ValueError, match="reach beyond"):  # only the first two, which would become one
        remapped(build("dpmpp_2m", NoiseSchedule.vp_linear(), 40), NoiseSchedule.vp_cosine())
    with pytest.raises(ValueError, match=r"\(2, 2, 2\) calls, do not fit Discrete.*\(2, 2, 1, 1\)"):
        remapped(build("heun", VP, 6), DISCRETE)
    with pytest.raises(ValueError, match="mean-reverting"):
        remapped(learned_table(VP), NoiseSchedule.mean_reverting())
    with pytest.raises(ValueError, match="cannot be moved: it would have output 0 as x0 in place of eps"):
        eps = replace(learned_table(VP, moved=(), solver="deis"), conserves="")
        W = eps.W.copy()
        W[1, :, 3] += 0.1
        remapped(replace(eps, W=W), NoiseSchedule.flow())


# for other programs


def exported(made, **config):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return made.to_diffusers(**config)


CONFIG = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}


def grid_only(schedule, solver, **options):
    return Artefact(
        (Learned(learned_table(schedule, 6, moved=("grid",), solver=solver, **options)),), {"prediction": "epsilon"}
    )


def test_a_learned_grid_in_a_stock_multistep_scheduler():
    made = grid_only(DISCRETE, "dpmpp_2m")
    stock = diffusers.DPMSolverMultistepScheduler(**CONFIG, algorithm_type="dpmsolver++")
    stock.set_timesteps(timesteps=exported(made)["timesteps"])
    whole = DISCRETE.time_of_model(np.array(exported(made)["timesteps"], float))
    table = build("dpmpp_2m", DISCRETE, 6, [*whole, 0.0], limiter=False)
    x = starts(DISCRETE, 1.0, 4).double()
    want = sample(Mixture().denoiser(DISCRETE), x, table)
    torch.testing.assert_close(
        piped(stock, Network(Mixture(), "epsilon", np.cumprod(1 - BETAS)), x), want, rtol=0, atol=1e-4
    )


def test_a_learned_grid_in_a_stock_euler_scheduler():
    made = grid_only(DISCRETE, "euler")
    stock = diffusers.EulerDiscreteScheduler(**CONFIG)
    stock.set_timesteps(sigmas=exported(made)["sigmas"])
    x = starts(DISCRETE, 1.0, 4).double()
    want = sample(Mixture().denoiser(DISCRETE), x, made)
    first = made.table().nodes
    got = piped(stock, Network(Mixture(), "epsilon", np.cumprod(1 - BETAS)), x / first.alpha[0])
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-4)


def test_a_learned_grid_in_a_stock_flow_scheduler():
    schedule = NoiseSchedule.flow(3.0)
    made = grid_only(schedule, "euler")
    stock = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    stock.set_timesteps(sigmas=exported(made)["sigmas"])
    assert np.allclose(stock.sigmas, made.table().times, atol=1e-6)
    x = starts(schedule, 1.0, 4)
    want = sample(Mixture().denoiser(schedule, "flow_prediction"), x, made.table())
    got = piped(stock, Network(Mixture(), "flow_prediction"), x)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


def test_sigmas_for_custom_samplers():
    for schedule, level in ((DISCRETE, lambda n: n.sigma / n.alpha), (NoiseSchedule.flow(3.0), lambda n: n.sigma)):
        made = grid_only(schedule, "dpmpp_2m")
        sigmas = made.to_comfyui()
        assert np.allclose(sigmas, level(made.table().nodes)) and sigmas[-1] == 0.0 and isinstance(sigmas[0], float)
    with pytest.warns(UserWarning, match="corrections.*and the times shown.*stay behind"):
        artefact(DISCRETE, 5).to_comfyui()
    with pytest.warns(UserWarning, match="corrections of the solver's weights that"):
        Artefact((Learned(learned_table(VP, moved=("coef",))),), {"prediction": "epsilon"}).to_diffusers()


def test_whole_timesteps_stay_distinct():
    table = build("ddim", DISCRETE, 4, [1.0, 0.0025, 0.0022, 0.0018, 0.0])
    steps = exported(Artefact((Learned(table),), {"prediction": "epsilon"}))["timesteps"]
    assert steps == sorted(set(steps), reverse=True) and steps[0] == 999 and steps[-1] >= 0 and len(steps) == 4


def test_it_says_what_it_is():
    made = artefact(DISCRETE, 4, 6)
    text = str(made)
    assert "nfe 4" in text and "nfe 6" in text and "joint" in text and "gain 0.5" in text and "Discrete" in text
    assert made.report == {"nfe 4": {"gain": 0.5}, "nfe 6": {"gain": 0.5}} and artefact(VP, 5).report == {"gain": 0.5}
    assert made.nfes == (4, 6) and made.guidances == () and guided().guidances == (1.0, 3.0)
    assert guided().report == {"nfe 5, guidance 1": {}, "nfe 5, guidance 3": {}}
