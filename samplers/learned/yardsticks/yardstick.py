"""What errors are measured by: the mean square difference of the states, or any differentiable number a sample.

    e_b = f(x0_b, reference_b) >= 0,    zero where both are one

f takes the place of a mean square: descents lower it, tables are chosen by sqrt(rms x median) of sqrt(e), and the guard tests
it.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewstep.checks import unknown
from fewstep.registry import Registry, source_of
from fewstep.samplers.learned.problem.problem import Part, Problem, squared_errors
from fewstep.samplers.learned.yardsticks.decoding import decoded

Loss = Callable[[Tensor, Tensor], Tensor]
JUDGES = ("loss", "latent")
SAME = 1e-3  # of a loss: what it may be where nothing differs, and by how much it may depend on the rest of the batch


@dataclass(frozen=True, eq=False)
class Yardstick:
    """A loss: `fn`, None for the mean square difference of the states; images: whether it compares decoded ones.

    source: hash of what the function is, "" for the library's own: a function that was changed is another one.
    """

    name: str
    fn: Loss | None = None
    source: str = ""
    images: bool = False

    def of(self, problem: Problem, part: Part, x0: Tensor, truth: Tensor) -> Tensor:
        """(B,) float64 of a part, differentiable in x0."""
        if self.fn is None:
            return (x0 - truth).double().flatten(1).square().mean(1)
        if self.images:
            x0 = decoded(problem, part, x0)
            with torch.no_grad():
                truth = decoded(problem, part, truth)
        return self.numbers(x0, truth)

    def numbers(self, x0: Tensor, truth: Tensor) -> Tensor:
        """(B,) float64 of what is compared. ValueError for a function that returns anything else, or less than 0."""
        assert self.fn is not None
        found = self.fn(x0, truth)
        if not isinstance(found, Tensor) or found.shape != (len(x0),) or not found.is_floating_point():
            got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"`loss` must return one number a sample, floats of shape ({len(x0)},) for {len(x0)} samples; {self.name} "
                f"returned {got}: end it with .flatten(1).mean(1)"
            )
        if bool((found.detach() < 0).any()):
            raise ValueError(
                f"`loss` must be 0 where a sample is its reference and more elsewhere; {self.name} returned "
                f"{float(found.detach().min()):.3g}: square it, or subtract its least value"
            )
        return found.double()

    @torch.no_grad()
    def judged(self, problem: Problem, part: Part, x0: Tensor, truth: Tensor) -> Tensor:
        """(B,) float64 on the CPU; inf where not finite."""
        if self.fn is None:
            return squared_errors(x0, truth)
        found = self.of(problem, part, x0, truth.to(x0.device)).cpu()
        return torch.where(found.isfinite(), found, torch.inf)

    def content(self) -> dict[str, str]:
        """As JSON."""
        return {"name": self.name, **({"source": self.source} if self.source else {})}


LATENT = Yardstick("latent error")
YARDSTICKS: Registry[Yardstick] = Registry("loss", Yardstick, ("fewstep.samplers.learned.yardsticks.ready_made",))
MAKERS: dict[str, Callable[[str], Yardstick]] = {}  # of "name:which"


def yardstick(loss: str | Loss | None) -> Yardstick:
    """The yardstick that is meant: None, a name, `name:which`, or a function f(x0, reference) -> (B,)."""
    if loss is None:
        return LATENT
    if isinstance(loss, str):
        name, colon, which = loss.partition(":")
        found = YARDSTICKS.find(name)
        if colon and name not in MAKERS:
            raise ValueError(f"loss {name!r} takes no choice; got {loss!r}")
        return MAKERS[name](which) if colon else found
    if not callable(loss):
        raise ValueError(f"`loss` must be a name or a function f(x0, reference) -> (B,); got {type(loss).__name__}")
    return Yardstick(_name(loss), loss, _source(loss))


def named(loss: Any) -> bool:
    """Whether a word is the name of a yardstick."""
    return isinstance(loss, str) and loss.partition(":")[0] in YARDSTICKS


def judge_of(loss: Yardstick, judge: str) -> Yardstick:
    """What tables are chosen and tested by."""
    if judge not in JUDGES:
        raise unknown("judge", judge, JUDGES)
    return loss if judge == "loss" else LATENT


def require_fit(loss: Yardstick, problem: Problem, seeds: Sequence[int]) -> None:
    """ValueError for a loss that cannot be learned by, asked on noise: before the network is asked anything.

    It gives one finite number of at least 0 a sample, 0 where nothing differs, each of its own sample alone, and has a
    gradient.
    """
    if loss.fn is None:
        return
    part = problem.part(seeds[:2])
    truth = part.x_T / part.x_T.double().square().mean().sqrt().to(part.x_T)
    x0 = (0.8 * truth).requires_grad_()
    with torch.enable_grad():
        found = loss.of(problem, part, x0, truth)
        slope = torch.autograd.grad(found.sum(), x0, allow_unused=True)[0] if found.requires_grad else None
    found = found.detach()
    if not bool(found.isfinite().all()):
        raise ValueError(f"`loss` must be finite; {loss.name} returned {found.tolist()} for two samples of noise")
    if slope is None or not bool(slope.isfinite().all()):
        raise ValueError(
            f"`loss` must have a gradient with respect to x0; that of {loss.name} has none, or one that is not finite: leave "
            "no .detach(), .item() or numpy in it, and no root of 0"
        )
    if bool((loss.judged(problem, part, truth, truth) > SAME * found.cpu() + 1e-12).any()):
        raise ValueError(
            f"`loss` must be 0 where a sample is its reference; {loss.name} is not: subtract what it is there"
        )
    seen = (decoded(problem, part, v.detach()) if loss.images else v.detach() for v in (x0, truth))
    with torch.no_grad():
        one = loss.numbers(*(v[:1] for v in seen))
    if abs(float(one) - float(found[0])) > SAME * abs(float(found[0])) + 1e-12:
        raise ValueError(
            f"`loss` must see each sample by itself; {loss.name} gives one {float(one):.4g} alone and {float(found[0]):.4g} "
            "beside another: take no mean over the batch"
        )


def _name(loss: Any) -> str:
    """Module and qualified name."""
    kind = loss if hasattr(loss, "__qualname__") else type(loss)
    return f"{kind.__module__}.{kind.__qualname__}"


def _source(loss: Any) -> str:
    """Hash of a function's source and of what it holds, or of a module's class and weights."""
    held = inspect.getclosurevars(loss).nonlocals if inspect.isfunction(loss) else vars(loss)
    if isinstance(loss, torch.nn.Module):
        held = loss.state_dict()
    found = hashlib.sha256(source_of(loss).encode())
    for name, value in sorted(held.items()):
        found.update(name.encode())
        tensor = isinstance(value, Tensor)
        found.update(value.detach().float().cpu().numpy().tobytes() if tensor else repr(value).encode())
    return found.hexdigest()[:16]
