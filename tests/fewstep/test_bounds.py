"""What is kept is bounded by its bytes, and what is asked for by a stated limit: nothing grows with what was asked before."""

import gc
import threading
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import fewstep
from fewstep import Denoiser, NoiseSchedule, build, learn, sample
from fewstep.bounded import MEBIBYTE, Bounded, bounded
from fewstep.checks import MOST_EVALUATIONS, MOST_ROWS
from fewstep.cli import main
from fewstep.samplers.grids.making import make_grid

VP = NoiseSchedule.vp_linear()
ZERO = Denoiser(lambda x, tau: 0 * x, VP, "sample")
TOO_MANY = (MOST_ROWS + 1, 10**8, 10**20, 1e20)


def caches() -> tuple[Bounded, ...]:
    """Of bound runs, timetables and models; imported late, since schedulers load diffusers."""
    parts = (("binding", "bind"), ("timetable", "timetable"), ("model", "model"))
    return tuple(getattr(import_module(f"fewstep.samplers.scheduler.{file}"), name) for file, name in parts)


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def test_a_cache_forgets_what_was_asked_for_longest_ago():
    made = []

    @bounded(100, len)
    def text(n):
        """Docs."""
        made.append(n)
        return "x" * n

    assert text(40) is text(40) and text(30) is text(30) and made == [40, 30] and text.held == 70
    text(40)
    text(35)  # 105 bytes: the 30 go, which nobody asked for since
    assert (len(text), text.held, text.__doc__) == (2, 75, "Docs.")
    text(40), text(101), text(101)  # larger than all that may be kept: made anew each time
    assert made == [40, 30, 35, 101, 101] and text.held == 75
    text.clear()
    assert (len(text), text.held) == (0, 0)


def test_threads_share_a_cache_and_get_one_object():
    barrier = threading.Barrier(8)

    @bounded(1000, lambda found: 10)
    def thing(n):
        barrier.wait(5) if n == 0 else None
        return object()

    found = [[] for _ in range(8)]

    def ask(mine):
        mine.extend(thing(n) for n in (0, *range(1, 50)))

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in found]
    for one in threads:
        one.start()
    for one in threads:
        one.join(20)
    assert all(each == found[0] for each in found) and len(found[0]) == 50 and thing.held == 500


@pytest.mark.slow
def test_forty_runs_of_a_thousand_steps_hold_less_than_their_caches_may():
    """415 MiB when the caches counted entries."""
    scheduler = fewstep.Scheduler(solver="unipc")
    scheduler.set_timesteps(20)
    before = resident()
    for n in range(960, 1000):
        scheduler.set_timesteps(n)
    assert resident() - before < sum(cache.most for cache in caches())


def test_the_caches_of_schedulers_know_the_bytes_that_they_hold():
    for cache in caches():
        cache.clear()
    scheduler = fewstep.Scheduler(solver="dpmpp_2m")
    for n in (10, 20, 10, 20):
        scheduler.set_timesteps(n)
    assert tuple(len(cache) for cache in caches()) == (2, 2, 1)
    assert 30 * 5 * 2**10 < caches()[0].held < 30 * 20 * 2**10  # 6 to 20 KiB a step
    assert sum(cache.most for cache in caches()) == 128 * MEBIBYTE


@pytest.mark.parametrize("n", TOO_MANY)
def test_more_evaluations_than_a_run_may_have_are_refused_at_once(n):
    x, whole = torch.zeros(1, 2), int(n)
    scheduler = fewstep.Scheduler()
    refused = {
        "build": lambda: build("dpmpp_2m", VP, n),
        "sample": lambda: sample(ZERO, x, "dpmpp_2m", n),
        "groups": lambda: build("heun", VP, n),
        "afs": lambda: build("ddim", VP, n, afs=True),
        "grid": lambda: make_grid("karras", VP, whole),
        "steps": lambda: scheduler.set_timesteps(whole),
        "by name": lambda: fewstep.Scheduler(grid="karras").set_timesteps(whole),
        "angles": lambda: scheduler.set_timesteps(whole, max_timesteps=1.5),
        "learn": lambda: learn(ZERO, "dpmpp_2m", whole, shape=(2,), seeds=range(8), guard_seeds=range(8, 16)),
        "driver": lambda: sample(ZERO, x, "rk45", MOST_EVALUATIONS + whole),
    }
    for name, ask in refused.items():
        with pytest.raises(ValueError, match="000 (network evaluations )?at most; got"):
            ask()
            pytest.fail(f"{name} went on")
    assert scheduler.num_inference_steps is None


def test_curves_that_are_too_long_are_refused_and_the_longest_one_is_not():
    with pytest.raises(ValueError, match="10,000"):
        build("ddim", VP, grid=np.linspace(1, 0, MOST_ROWS + 2))
    with pytest.raises(ValueError, match="10,000"):
        fewstep.Scheduler(num_train_timesteps=50_000).set_timesteps(timesteps=np.arange(MOST_ROWS + 1)[::-1])
    assert len(make_grid("uniform", VP, MOST_ROWS)) == MOST_ROWS + 1


@pytest.mark.parametrize(
    "command", ["sample demo", "solvers ddim", "grids karras", "compare demo", "learn demo", "learn demo --estimate"]
)
def test_commands_say_the_limit(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for n in ("100000", "1" + 20 * "0"):
        said = CliRunner().invoke(main, [*command.split(), "--nfe", n])
        assert said.exit_code == 2 and ("10,000" in said.output or "10000" in said.output), said.output
    assert not list(tmp_path.iterdir())
