"""Copies of a scheduler, requests that share one, and what is set on it or its config between runs."""

import copy
import json
import pickle

import pytest
import torch
from contracted import SD, flow, network, noise, vp
from late import diffusers
from pipelike import run

import fewstep


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


def test_from_pretrained_takes_solver_and_options(tmp_path):
    diffusers.DDIMScheduler(**SD).save_pretrained(tmp_path)
    scheduler = fewstep.Scheduler.from_pretrained(tmp_path, solver="unipc", order=2)
    assert (scheduler.config.solver, scheduler.config.solver_options) == ("unipc", {"order": 2})
    scheduler, unused = fewstep.Scheduler.from_config(scheduler.config, return_unused_kwargs=True)
    assert isinstance(unused, dict)


def test_the_saved_config_is_plain_json(tmp_path):
    scheduler = vp("unipc", order=[1, 2, 3, 2, 1], grid=[1.0, 0.8, 0.5, 0.2, 0.1, 0.0])
    scheduler.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == "Scheduler" and saved["solver_options"] == {"order": [1, 2, 3, 2, 1]}
    loaded = fewstep.Scheduler.from_pretrained(tmp_path)
    loaded.set_timesteps(5)
    assert [len(loaded.timesteps), loaded._table.tableau.name] == [5, "unipc"]


@pytest.mark.parametrize("told", ["a view", "a copy", "a number", "a whole number"])
def test_two_requests_on_one_scheduler_are_told_apart(told):
    """Whatever the order of their steps, the second request's first step or the first one's next is refused."""
    said = {"a view": lambda t: t, "a copy": torch.clone, "a number": float, "a whole number": int}[told]

    def request(scheduler, n, seed):
        scheduler.set_timesteps(n)
        x = noise(seed=seed)
        yield x
        for t in scheduler.timesteps:
            x = scheduler.step(network(scheduler)(x, t), said(t), x, return_dict=False)[0]
            yield x

    for make in (vp, flow):
        for orders in ("ababababab", "aabbab", "abbbaa", "aaabbbbba"):
            shared = make()
            runs = {"a": request(shared, 5, 0), "b": request(shared, 5, 1)}
            with pytest.raises(ValueError, match="deepcopy"):
                for who in orders:
                    next(runs[who])
        one, own = make(), {}
        for who, n, seed in (("a", 5, 0), ("b", 7, 1)):
            own[who] = request(copy.deepcopy(one), n, seed)
        for _ in range(6):
            ends = {who: next(run) for who, run in own.items()}
        *_, alone = request(one, 5, 0)
        assert torch.equal(ends["a"], alone)


@pytest.mark.parametrize("make", [vp, flow])
def test_times_told_in_other_units_or_types_are_followed(make):
    scheduler, ends = make(), []
    for said in (lambda t: t, float, int, lambda t: t.bfloat16(), lambda t: t.clone(), lambda t: t.expand(2)):
        scheduler.set_timesteps(6)
        x = noise()
        for t in scheduler.timesteps:
            x = scheduler.step(network(scheduler)(x, t), said(t), x, return_dict=False)[0]
        ends.append(x)
    scheduler.set_timesteps(6)
    scheduler.set_begin_index(0)
    x = noise()
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler)(x, t), t / 1000 - 2, x, return_dict=False)[0]
    assert all(torch.equal(x, end) for end in ends)


def test_a_network_that_writes_into_its_input_or_an_earlier_output_is_told():
    x, buffer = noise(), torch.empty(2, 4, 8, 8)
    scheduler = vp("deis")
    scheduler.set_timesteps(4)
    scaled = scheduler.scale_model_input(x, scheduler.timesteps[0])
    with pytest.raises(ValueError, match="changed its input in place"):
        scheduler.step(scaled.mul_(0.5), scheduler.timesteps[0], x)
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="an earlier output"):
        for t in scheduler.timesteps:
            x = scheduler.step(buffer.copy_(x).mul_(0.5), t, x, return_dict=False)[0]


def test_what_stock_classes_offer_beside_steps():
    x, eps, times = noise(4, 3), noise(4, 3, seed=1), torch.tensor([0, 10, 500, 990])
    stock = diffusers.DDPMScheduler(**SD)
    torch.testing.assert_close(vp().get_velocity(x, eps, times), stock.get_velocity(x, eps, times), rtol=0, atol=2e-6)
    assert torch.equal(flow().get_velocity(x, eps, times), eps - x)
    with pytest.raises(ValueError, match="no velocity"):
        fewstep.Scheduler.from_config(diffusers.EDMEulerScheduler().config).get_velocity(x, eps, times)
    stock, own = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), flow("euler")
    assert (own.shift, own.sigma_max) == (stock.shift, stock.sigma_max) and abs(own.sigma_min - stock.sigma_min) < 1e-8
    for shift in (5.0, 1.0, 3.0):
        for scheduler in (stock, own):
            scheduler.set_shift(shift)
            scheduler.set_timesteps(6)
        torch.testing.assert_close(own.sigmas, stock.sigmas, rtol=0, atol=2e-6)
        assert own.shift == shift and not hasattr(vp(), "shift")
    for wrong, scheduler in ((2.0, vp()), (0.0, flow()), ("3", flow())):
        with pytest.raises(ValueError, match="shift"):
            scheduler.set_shift(wrong)


def test_an_attribute_set_on_a_config_is_read():
    """As diffusers' own classes read it; an entry too, and two values of one name are refused."""
    made = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}

    def times(config):
        scheduler = config if hasattr(config, "timesteps") else fewstep.Scheduler.from_config(config, "unipc")
        scheduler.set_timesteps(6)
        return scheduler.timesteps

    want = times(diffusers.UniPCMultistepScheduler(**made, flow_shift=6.9).config)
    stock = diffusers.UniPCMultistepScheduler(**made, flow_shift=3.0)
    own, other = (fewstep.Scheduler.from_config(stock.config, "unipc") for _ in range(2))
    own.config.flow_shift = stock.config.flow_shift = 6.9
    other.config["flow_shift"] = 6.9
    for source in (own, other, own.config, stock, stock.config):
        assert torch.equal(times(source), want)
    assert own.config["flow_shift"] == own.config.flow_shift == other.config.flow_shift == 6.9
    other.config["flow_shift"], other.config.flow_shift = 2.0, 3.0
    with pytest.raises(ValueError, match="two values of 'flow_shift'"):
        times(other)
