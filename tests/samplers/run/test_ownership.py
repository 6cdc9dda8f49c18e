"""State that others own: buffers that a network uses again, and inputs that it writes into."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep import adjoint
from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, guidance, sample

VP = NoiseSchedule.vp_linear()
NAMES = [name for name in SOLVERS if name != "dlg"]  # whose network takes a time for every sample
HISTORY = (
    "deis",
    "ipndm",
    "pndm",
    "lms",
)  # of answers as they came; heun on long steps is on x0, which is made of them
MODES = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


def honest(x: Tensor, tau: Tensor) -> Tensor:
    return torch.tanh(x) * VP.sigma(float(tau))


class Buffered:
    """The same network, whose output is always in the same memory."""

    def __init__(self) -> None:
        self.buffer = torch.empty(3, 4)

    def __call__(self, x: Tensor, tau: Tensor) -> Tensor:
        return self.buffer.copy_(honest(x, tau))


def writing(x: Tensor, tau: Tensor) -> Tensor:
    return x.copy_(honest(x, tau))


def played(name: str, fn: Any, x: Tensor, prediction: str) -> Tensor:
    result: Tensor = sample(Denoiser(fn, VP, prediction), x, name, 12, noise_seeds=[1, 2, 3], check="none")
    return result


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*stopped before its end")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_every_solver_is_right_or_refuses(mode: str, prediction: str) -> None:
    refused = set()
    context: AbstractContextManager[None] = MODES[mode]()
    with context:
        for name in NAMES:
            x_T = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
            want = played(name, honest, x_T.clone(), prediction)
            for fn in (Buffered(), writing):
                x = x_T.clone()
                try:
                    got = played(name, fn, x, prediction)
                except ValueError as error:
                    assert ("in memory that held" if isinstance(fn, Buffered) else "in place") in str(error), error
                    refused.add((name, fn is writing))
                    continue
                assert torch.equal(got, want), (name, fn)
                assert torch.equal(x, x_T), (name, fn)
                played(name, fn, x_T + 1, prediction)  # a later run leaves the result of an earlier one alone
                assert torch.equal(got, want), (name, fn)
    if prediction == "epsilon":
        assert {(name, False) for name in HISTORY} <= refused


def test_a_constant_is_no_buffer() -> None:
    zero = torch.zeros(3, 4)
    x = torch.randn(3, 4)
    for name in HISTORY:
        assert torch.equal(sample(Denoiser(lambda x, tau: zero, VP), x, name, 8),
                           sample(Denoiser(lambda x, tau: zero.clone(), VP), x, name, 8))  # fmt: skip


def test_memory_of_others_has_no_counter() -> None:
    """A foreign runtime writes into an array, wrapped anew at every call."""
    array = torch.empty(3, 4).numpy()

    def foreign(x: Tensor, tau: Tensor) -> Tensor:
        array[:] = honest(x, tau).numpy()
        return torch.from_numpy(array)

    with pytest.raises(ValueError, match="in memory that held an earlier output"):
        sample(Denoiser(foreign, VP), torch.randn(3, 4), "deis", 8)


def test_half_precision_shows_the_network_a_copy() -> None:
    """The rule is one for all precisions; x_T at least stays."""
    x = torch.randn(3, 4).bfloat16()
    before = x.clone()
    with pytest.raises(ValueError, match="in place"):
        sample(Denoiser(lambda x, tau: x.mul_(0.5), VP), x, "deis", 8)
    assert torch.equal(x, before)


@pytest.mark.parametrize("fn", [Buffered(), writing], ids=["buffered", "writing"])
def test_gradients(fn: Any) -> None:
    """deis keeps outputs; the way back makes each call again."""
    x = torch.randn(3, 4, requires_grad=True)
    with pytest.raises(ValueError, match="in place|in memory that held"), torch.no_grad():
        adjoint.sample(Denoiser(fn, VP), x.detach(), "deis", 6)
    if fn is writing:
        with pytest.raises(ValueError, match="in place"):
            adjoint.sample(Denoiser(fn, VP), x, "deis", 6)


def test_two_outputs_of_one_guidance() -> None:
    network = Buffered()
    one, other = Denoiser(network, VP), Denoiser(lambda x, tau: network(x, tau), VP)
    with pytest.raises(ValueError, match="in memory that held an earlier output"):
        sample(guidance.cfg(one, other, 3.0), torch.randn(3, 4), "ddim", 4)
