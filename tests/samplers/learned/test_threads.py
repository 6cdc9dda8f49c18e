"""Pieces of a batch beside one another give what the whole batch gives, gradients too."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch
from late import diffusers
from learned_problems import ring
from torch import Tensor

import fewstep
from fewstep.samplers import Denoiser, build
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.playing.differentiable import play, play_beside
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.problem.threads import Threads

ALL: Any = ("grid", "coef", "tau", "state"), 4, False


@pytest.fixture(scope="module")
def demo() -> Problem:
    problem = Problem("demo")
    problem.threads = Threads(2)  # also where the tests compute with one
    return problem


def test_order_and_threads() -> None:
    cores = torch.get_num_threads()
    seen = Threads(3).map(lambda i: (i, threading.get_ident(), torch.get_num_threads()), range(12))
    assert [i for i, *_ in seen] == list(range(12))
    assert threading.get_ident() not in {ident for _, ident, _ in seen} and {n for *_, n in seen} == {1}
    after: list[int] = []
    late = threading.Thread(target=lambda: after.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert after == [cores] and torch.get_num_threads() == cores
    assert Threads(1).map(lambda i: threading.get_ident(), range(3)) == [threading.get_ident()] * 3


@pytest.mark.parametrize("graded", [False, True])
def test_gradients_as_the_caller_has_them(graded: bool) -> None:
    with torch.set_grad_enabled(graded):
        assert Threads(2).map(lambda i: torch.is_grad_enabled(), range(4)) == [graded] * 4


def test_an_error_waits_for_the_others() -> None:
    done, begun = list[int](), threading.Event()

    def work(i: int) -> None:
        if i == 0:
            begun.wait()
            raise KeyboardInterrupt
        begun.set()
        time.sleep(0.1)
        done.append(i)

    with pytest.raises(KeyboardInterrupt):
        Threads(2).map(work, range(2))
    assert done == [1]


def test_draw_in_pieces(demo: Problem) -> None:
    part, table = demo.part(range(5)), build("unipc", demo.schedule, 4)
    pieces = demo.pieces(part)
    assert [piece.seeds for piece in pieces] == [(0, 1), (2, 3, 4)] and demo.pieces(pieces[0]) == (pieces[0],)
    before = demo.spent
    torch.testing.assert_close(demo.draw(table, part), demo.drawn(table, part), rtol=0, atol=1e-3)
    assert demo.spent - before == 20
    tau = torch.tensor(400.0)
    torch.testing.assert_close(demo.ask(part, part.x_T, tau), part.denoiser.call(part.x_T, tau), rtol=0, atol=1e-4)


def test_teacher_in_pieces(demo: Problem) -> None:
    part = demo.part(range(4))
    whole, pieces = (
        Teacher(p, nfe=6, cache=False).path(p.part(range(4))) for p in (Problem("demo", batch_size=4), demo)
    )
    assert pieces.x.shape == (7, *part.x_T.shape) and pieces.v.shape == (6, *part.x_T.shape)
    torch.testing.assert_close(pieces.x, whole.x, rtol=0, atol=1e-3)


def test_functions_and_caches_stay_whole() -> None:
    problem = Problem(ring(), shape=(2,))
    assert problem.threads.count == 1 and len(problem.pieces(problem.part(range(8)))) == 1
    pipe = fewstep.load_demo_pipeline()
    assert Problem(pipe, classes=[3]).threads.count == torch.get_num_threads()
    hooks = diffusers.hooks
    hooks.HookRegistry.check_if_exists_or_initialize(pipe.unet.mid_block).register_hook(hooks.ModelHook(), "remembers")
    assert Problem(pipe, classes=[3]).threads.count == 1


@pytest.mark.parametrize("moved", [False, True])
def test_gradients_in_pieces(demo: Problem, moved: bool) -> None:
    part, start = demo.part(range(5)), build("deis", demo.schedule, 4)
    knobs = Knobs(start, demo.prediction, *ALL)
    x = part.x_T.clone().requires_grad_(moved)
    wanted = [*knobs.parameters.values(), *([x] if moved else [])]
    found = []
    for player in (lambda *a, **how: play(*a, **how), lambda *a, **how: play_beside(demo, *a, **how)):
        states = player(part, start, knobs.coefficients(), x, remember=True)
        loss = states[-1].double().square().mean() + states[2].double().abs().mean()
        found.append([loss.detach(), *torch.autograd.grad(loss, wanted)])
    for a, b in zip(*found, strict=True):
        assert float((a - b).norm()) < 1e-3 * float(a.norm())


def test_no_way_back_through_the_first_call() -> None:
    """x_T and the first time are what they are; with an x_T that moves there is one."""
    inner, graded = ring(), list[bool]()

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        graded.append(torch.is_grad_enabled())
        return inner.fn(x, tau)

    problem = Problem(Denoiser(fn, inner.schedule, inner.prediction), shape=(2,), dtype=torch.float64)
    part, start = problem.part(range(4)), build("deis", problem.schedule, 4)
    knobs = Knobs(start, problem.prediction, *ALL)
    graded.clear()
    for x in (part.x_T, part.x_T.clone().requires_grad_()):
        play(part, start, knobs.coefficients(), x, remember=True)
    assert graded == [False, True, True, True] + [True] * 4
