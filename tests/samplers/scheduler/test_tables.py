"""`Scheduler.from_config(config, solver=table)`: a table as object, path or JSON, and a function, play as in `sample`."""

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from pipelines import PIPELINES, generate

import fewstep
from fewstep import Denoiser, NoiseSchedule, build, sample
from fewstep.samplers import SOLVERS, Node, Row, Solution, Tableau

CONFIG = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "sample"}
DISCRETE = NoiseSchedule.from_config(CONFIG)
CLOCK = 1e-7  # pipelines are shown times in float32, sample in float64
NETWORK = lambda x, tau: torch.tanh(x) * (1 - tau.to(x) / 2000)  # noqa: E731


def play(scheduler, x, n, begin=0):
    scheduler.set_timesteps(n)
    if begin:
        scheduler.set_begin_index(begin)
    for t in scheduler.timesteps[begin:]:
        x = scheduler.step(NETWORK(x, t), t, x).prev_sample
    return x


def wanted(table, x):
    return sample(Denoiser(NETWORK, DISCRETE, "sample"), x, table)


def start():
    return torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def changed(table, name="mine"):
    """The same steps under a name nobody knows."""
    return replace(table, name=name)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "heun", "bdia", "deis"])
def test_a_table_plays_as_in_sample(solver, tmp_path):
    table = build(solver, DISCRETE, 6)
    path, x = tmp_path / "table.json", start()
    table.save(path)
    want = wanted(table, x)
    for given in (table, str(path), path, table.to_dict()):
        scheduler = fewstep.Scheduler.from_config(CONFIG, solver=given)
        torch.testing.assert_close(play(scheduler, x, 6), want, rtol=0, atol=CLOCK)
    again = fewstep.Scheduler.from_config(scheduler.config)
    for copied in (
        again,
        copy.deepcopy(scheduler),
        pickle.loads(pickle.dumps(scheduler)),
        fewstep.Scheduler(**CONFIG, solver=table),
    ):
        torch.testing.assert_close(play(copied, x, 6), want, rtol=0, atol=CLOCK)
    scheduler.save_pretrained(tmp_path / "saved")
    torch.testing.assert_close(
        play(fewstep.Scheduler.from_pretrained(tmp_path / "saved"), x, 6), want, rtol=0, atol=CLOCK
    )
    torch.testing.assert_close(sample(Denoiser(NETWORK, DISCRETE, "sample"), x, str(path)), want, rtol=0, atol=0)


def test_in_a_pipeline_that_is_saved(tmp_path):
    pipe, call = PIPELINES["ddpm"].make()
    table = changed(build("dpmpp_2m", NoiseSchedule.from_config(pipe.scheduler.config), 5))
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, solver=table)
    one = generate(pipe, call)[1]
    pipe.save_pretrained(tmp_path)
    again = type(pipe).from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert again.scheduler.config.solver["name"] == "mine"
    torch.testing.assert_close(generate(again, call)[1], one)


def euler(path, *, shrink=0.0):
    """ddim, written as anybody would."""
    rows = []
    for _, s, t in path.steps():
        q = t.sigma / s.sigma
        rows.append(Row(s, "x0", {"input": q, 0: t.alpha - s.alpha * q}))
    return Solution(rows, order=1)


def cubic(schedule, n, t_start, t_end):
    return np.linspace(t_start ** (1 / 3), t_end ** (1 / 3), n + 1) ** 3


def test_functions_play_and_are_not_saved(tmp_path):
    x = start()
    scheduler = fewstep.Scheduler.from_config(CONFIG, solver=euler, grid=cubic)
    want = wanted(build("ddim", DISCRETE, 7, cubic), x)
    torch.testing.assert_close(play(scheduler, x, 7), want, rtol=0, atol=CLOCK)
    for again in (fewstep.Scheduler.from_config(scheduler.config), pickle.loads(pickle.dumps(scheduler))):
        torch.testing.assert_close(play(again, x, 7), want, rtol=0, atol=CLOCK)
    with pytest.raises(ValueError, match=r"solver is the function 'euler', which cannot be saved: register it"):
        scheduler.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.json"))
    ours = fewstep.Scheduler.from_config(CONFIG, solver=SOLVERS["ddim"].fn)  # a registered function is its name
    assert ours.config.solver == "ddim"
    rest = build(euler, DISCRETE, 4, cubic)
    half = fewstep.Scheduler.from_config(CONFIG, solver=euler, grid=cubic)
    torch.testing.assert_close(
        play(half, x, 4, 2), wanted(build("ddim", DISCRETE, None, rest.times[2:]), x), rtol=0, atol=CLOCK
    )


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "heun"])
def test_a_run_from_the_middle_starts_afresh_where_a_name_made_the_table(solver):
    table, x = build(solver, DISCRETE, 7), start()
    by_table = fewstep.Scheduler.from_config(CONFIG, solver=table)
    got = play(by_table, x, 7, 4)
    ends = np.cumsum((0, *table.groups))
    rest = build(solver, DISCRETE, None, table.times[ends[list(ends).index(4) :]])
    torch.testing.assert_close(got, wanted(rest, x), rtol=0, atol=CLOCK)
    assert by_table.step_index == 7


def test_a_run_from_the_middle_plays_the_rows_that_remain_of_a_table_made_by_hand():
    x = start()
    ddim = changed(build("ddim", DISCRETE, 6, "karras"))
    scheduler = fewstep.Scheduler.from_config(CONFIG, solver=ddim)
    want = wanted(build("ddim", DISCRETE, None, ddim.times[2:]), x)
    torch.testing.assert_close(play(scheduler, x, 6, 2), want, rtol=0, atol=CLOCK)
    heun = fewstep.Scheduler.from_config(CONFIG, solver=changed(build("heun", DISCRETE, 7)))
    torch.testing.assert_close(
        play(heun, x, 7, 2), wanted(build("heun", DISCRETE, None, build("heun", DISCRETE, 7).times[[2, 4, 6, 7]]), x),
        rtol=0, atol=CLOCK,
    )  # fmt: skip


def test_where_its_history_does_not_allow_it_the_places_are_told():
    two = fewstep.Scheduler.from_config(CONFIG, solver=changed(build("dpmpp_2m", DISCRETE, 5)))
    two.set_timesteps(5)
    with pytest.raises(ValueError, match="'mine' was made by hand and cannot begin at network call 2: row 2 reads the"):
        two.set_begin_index(2)
    heun = fewstep.Scheduler.from_config(CONFIG, solver=changed(build("heun", DISCRETE, 7)))
    heun.set_timesteps(7)
    with pytest.raises(ValueError, match="it can begin at 2, 4, 6"):
        heun.set_begin_index(3)


def other(nfe=4):
    return build("ddim", NoiseSchedule.vp_linear(), nfe)


def made_of(*args, **how):
    return fewstep.Scheduler.from_config(*args, **how)


REFUSED = {
    "another schedule": (lambda: made_of(CONFIG, solver=other()), "was compiled for VPLinear.*Build it for that"),
    "a grid beside it": (lambda: made_of(CONFIG, build("ddim", DISCRETE, 4), "karras"), "times of its own"),
    "options": (lambda: made_of(CONFIG, build("ddim", DISCRETE, 4), eta=0.3), "unknown option of solver 'ddim'"),
    "as learned": (lambda: made_of(CONFIG, learned=build("ddim", DISCRETE, 4).to_dict()), "is a saved table"),
    "no file": (lambda: made_of(CONFIG, "nowhere.json"), "there is no file 'nowhere.json'"),
    "compiled again": (lambda: build(build("ddim", DISCRETE, 4), DISCRETE, 4), "is a table already"),
    "a number": (lambda: made_of(CONFIG, 3), "`solver` must be a name"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_table_in_the_place_of_an_artefact_is_told_by_its_file(tmp_path):
    path = tmp_path / "table.json"
    build("ddim", DISCRETE, 4).save(path)
    with pytest.raises(ValueError, match="table.json is a saved table, not a learned artefact: give it as the solver"):
        fewstep.Scheduler.from_config(CONFIG, learned=path)


def test_other_numbers_of_steps_are_refused():
    scheduler = fewstep.Scheduler.from_config(CONFIG, solver=build("ddim", DISCRETE, 4))
    with pytest.raises(ValueError, match="table 'ddim' makes 4 network evaluations; got 5. Ask for 4"):
        scheduler.set_timesteps(5)
    with pytest.raises(ValueError, match="times of its own"):
        scheduler.set_timesteps(timesteps=[900, 500, 200, 10])


def test_an_artefact_as_solver_is_learned():
    made = fewstep.load_demo_artefact()
    config = fewstep.load_demo_pipeline().scheduler.config
    one, two = fewstep.Scheduler.from_config(config, solver=made), fewstep.Scheduler.from_config(config, learned=made)
    assert dict(one.config) == dict(two.config) and one.config.learned["hash"] == made.hash


def test_nodes_know_their_ratios():
    node = Node(*map(float, DISCRETE.nodes(0.4)))
    nodes = DISCRETE.nodes(np.array([0.4, 1.0]))
    assert node.S == node.alpha + node.sigma and node.r == node.sigma / node.S
    assert node.rho == pytest.approx(node.sigma / node.alpha, rel=1e-12)
    np.testing.assert_allclose(nodes.r[0], node.r)
    np.testing.assert_allclose(nodes.rho, nodes.sigma / nodes.alpha)
    pure = Node(1.0, 0.0, 1.0, -np.inf)
    assert (pure.rho, pure.r, pure.S) == (np.inf, 1.0, 1.0)


def test_tables_of_the_first_release_say_nothing_before_the_first_call():
    content = build("dpmpp_2m_sde", DISCRETE, 4).to_dict()
    del content["sha256"]  # which those tables have none of
    assert content["prologue"] is None and np.isnan(np.array(content["spans"], float)[0]).all()
    with pytest.raises(ValueError, match="a row before its first network call"):
        fewstep.Scheduler.from_config(CONFIG, solver={**content, "prologue": [[1.0] * 5] * 2})
    assert not hasattr(Tableau, "prologue")
