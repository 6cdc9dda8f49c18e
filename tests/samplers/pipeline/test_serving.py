"""One pipeline, many requests: in threads and with interleaved steps, every result is bit for bit what it is alone."""

import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from pipelines import PIPELINES

import fewstep
from fewstep import Denoiser, sample

THREADS = 8


def request(pipe):
    """A request's own pipeline, as README says."""
    own = copy.copy(pipe)
    own.scheduler = copy.deepcopy(pipe.scheduler)
    return own


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def served(name, solver):
    """(pipeline with our scheduler, its call as a function of the request's number)."""
    if name == "demo":
        pipe, call = fewstep.load_demo_pipeline(), {"class_labels": [1, 2], "output_type": "np", "guidance_scale": 2.0}
    else:
        pipe, call = PIPELINES[name].make()
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = fewstep.Scheduler.from_config(pipe.scheduler.config, solver)

    def run(own, k):
        found = own(**call, num_inference_steps=3 + k % 3, generator=seeded(k))[0]
        return torch.as_tensor(found)

    return pipe, run


@pytest.mark.parametrize("name, solver", [("demo", "dpmpp_2m_sde"), ("sd", "unipc"), ("flux", "heun")])
def test_a_thread_pool_serves_one_pipeline(name, solver):
    pipe, run = served(name, solver)
    alone = [run(request(pipe), k) for k in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        for found, expected in zip(pool.map(lambda k: run(request(pipe), k), range(THREADS)), alone, strict=True):
            assert torch.equal(found, expected)
    assert pipe.scheduler.num_inference_steps is None  # nobody stepped the shared one
    assert torch.equal(run(request(pipe), 3), alone[3])


@pytest.mark.parametrize("name, solver", [("demo", "deis"), ("sd", "dpmpp_3m")])
def test_steps_of_requests_may_interleave(name, solver):
    """Every step of every request waits until all of them have come to theirs."""
    pipe, run = served(name, solver)
    alone = [run(request(pipe), 3 * k) for k in range(THREADS)]  # as many steps each
    together = threading.Barrier(THREADS)

    def in_turn(k):
        own = request(pipe)
        step = own.scheduler.step

        def waits(*args, **kwargs):
            together.wait(30)
            return step(*args, **kwargs)

        own.scheduler.step = waits
        return run(own, 3 * k)

    with ThreadPoolExecutor(THREADS) as pool:
        for found, expected in zip(pool.map(in_turn, range(THREADS)), alone, strict=True):
            assert torch.equal(found, expected)


def denoiser():
    pipe, call = PIPELINES["sd"].make()
    return Denoiser.from_pipeline(pipe, **call)


@torch.no_grad()
def test_copies_of_a_pipeline_denoiser_have_loops_of_their_own():
    one = denoiser()
    x = one.initial_noise(seeded(3))
    expected = sample(one, x, "dpmpp_2m", 4)
    one(x, 0.5)  # stands in the middle of its loop
    pickled = lambda one: pickle.loads(pickle.dumps(one))  # noqa: E731
    for again, shared in ((copy.copy, True), (copy.deepcopy, False), (pickled, False)):
        other = again(one)
        assert (other.fn.pipe.unet is one.fn.pipe.unet) == shared and other.fn.run is None
        assert torch.equal(other.initial_noise(), x)
        assert torch.equal(sample(other, x, "dpmpp_2m", 4), expected)
    assert torch.equal(sample(one, x, "dpmpp_2m", 4), expected)


@torch.no_grad()
def test_threads_each_with_a_copy_of_a_denoiser():
    one = denoiser()
    draws = [one.initial_noise(seeded(k)) for k in range(THREADS)]
    alone = [sample(one, x, "dpmpp_2m", 4) for x in draws]

    def run(x):
        with torch.no_grad():  # grad mode is a thread's own
            return sample(copy.copy(one), x, "dpmpp_2m", 4)

    with ThreadPoolExecutor(THREADS) as pool:
        assert all(map(torch.equal, pool.map(run, draws), alone))


def test_of_threads_on_one_denoiser_all_but_one_are_refused():
    one = denoiser()
    x = one.initial_noise(seeded(0))
    one(x, 0.5)
    inside, leave = threading.Event(), threading.Event()

    def wait(*_):
        inside.set()
        assert leave.wait(30)

    hook = one.fn.pipe.unet.register_forward_pre_hook(wait)
    with ThreadPoolExecutor(THREADS) as pool:
        first = pool.submit(one, x, 0.5)
        assert inside.wait(30)
        asks = (lambda: one(x, 0.4), lambda: one.shape, lambda: one.decode(x), lambda: one.initial_noise(seeded(1)))
        others = [pool.submit(ask) for ask in asks]
        told = [future.exception(30) for future in others]
        leave.set()
        hook.remove()
        assert torch.isfinite(first.result(30)).all()
    assert all(isinstance(error, ValueError) and "copy.copy(denoiser)" in str(error) for error in told), told
