"""The shipped artefacts of the embedded digits: complete, played by every road, better where they say so."""

from __future__ import annotations

import pytest
import torch

import fewstep
from fewstep import Artefact, Denoiser, build, load_demo_artefact, sample
from fewstep.samplers.learned.problem.problem import Problem, squared_errors

NFES = {None: tuple(range(3, 11)), 3.0: (5, 8)}


@pytest.fixture(scope="module", params=NFES, ids=str)
def guidance(request: pytest.FixtureRequest) -> float | None:
    return request.param  # type: ignore[no-any-return]


def test_every_table_is_better_than_the_best_fixed_recipe(guidance: float | None) -> None:
    """Measured on seeds that learning had not seen, by the report inside; what is played is what was measured."""
    artefact = load_demo_artefact(guidance)
    assert isinstance(artefact, Artefact) and artefact.nfes == NFES[guidance]
    assert artefact.guidances == (() if guidance is None else (guidance,))
    for learned in artefact.tables:
        test = learned.report["test"]
        assert learned.status == "learned" and learned.tableau.nfe == learned.nfe
        assert test["gain"]["interval"][1] < 1 and test["rms"]["ratio"] < 1 and test["median"]["ratio"] < 1
        assert learned.report["size"]["learned"]["amplification"] < 20


@pytest.mark.slow
def test_a_pipeline_plays_it(guidance: float | None) -> None:
    pipe, calls = fewstep.load_demo_pipeline(), []
    pipe.scheduler = fewstep.Scheduler.from_config(
        pipe.scheduler.config, learned=load_demo_artefact(guidance), guidance=guidance
    )
    forward = pipe.unet.forward
    pipe.unet.forward = lambda *args, **how: calls.append(1) or forward(*args, **how)  # type: ignore[func-returns-value]
    for nfe in NFES[guidance]:
        calls.clear()
        scale = {} if guidance is None else {"guidance_scale": guidance}
        found = pipe([3, 8], num_inference_steps=nfe, output_type="pt", **scale).images
        assert torch.isfinite(found).all() and len(calls) == nfe


@pytest.mark.slow
def test_fresh_samples_are_nearer_to_a_long_run(guidance: float | None) -> None:
    """12 seeds that neither learning nor its guard had, in five evaluations, against solvers on their usual grids."""
    problem = Problem("demo", guidance=guidance)
    part = problem.part(range(7000, 7012))
    truth = problem.draw(build("dpmpp_3m", problem.schedule, 40, "logsnr"), part)

    def error(table: object) -> float:
        return float(squared_errors(problem.draw(table, part), truth).mean().sqrt())  # type: ignore[arg-type]

    learned, share = error(load_demo_artefact(guidance).table(5, guidance)), 0.9 if guidance else 0.6
    for solver, grid in (("dpmpp_2m", "uniform"), ("unipc", "quadratic"), ("res_multistep", "uniform")):
        assert learned < share * error(build(solver, problem.schedule, 5, grid)), solver


def test_five_evaluations_begin_late() -> None:
    """x_T is taken as a state at which the network already sees something; the figures are those that the library promises."""
    (five,) = (t for t in load_demo_artefact().tables if t.nfe == 5)
    assert five.tableau.times[0] < 0.9 * five.tableau.schedule.t_max
    test = five.report["test"]
    assert test["samples"] == 256 and test["rms"]["ratio"] <= 0.85 and test["median"]["ratio"] <= 0.6


def test_another_model_is_refused() -> None:
    """It belongs to the digits' schedule and prediction."""
    from fewstep import NoiseSchedule

    denoiser = Denoiser(lambda x, tau: 0 * x, NoiseSchedule.flow(), "flow_prediction")
    with pytest.raises(ValueError, match="was learned on"):
        sample(denoiser, torch.zeros(1, 1, 28, 28), load_demo_artefact(), nfe=5)
    with pytest.raises(ValueError, match="for guidance 3; got guidance 2"):
        load_demo_artefact(2.0)
