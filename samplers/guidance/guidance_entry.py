"""The registry of guidance: who is known by which name, with which facts. A module registers itself with @method.

@guidance.method("towards", kind="restoring")
def towards(denoiser, image, scale=1.0):
    return guidance.Guided(denoiser, lambda call: scale * (image - call.x0))

guidance.towards(denoiser, image)      # from then on, and `fewstep guidance` lists it
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from fewstep.checks import whole
from fewstep.registry import Registry

HOMES = (
    "fewstep.samplers.guidance.classifier_free",
    "fewstep.samplers.guidance.classifier_gradient",
    "fewstep.samplers.guidance.experts",
    "fewstep.samplers.guidance.posterior",
    "fewstep.samplers.guidance.posterior_draw",
    "fewstep.samplers.guidance.latent",
    "fewstep.samplers.guidance.loss_guidance",
    "fewstep.samplers.guidance.data_consistency",
    "fewstep.samplers.guidance.polyak_step",
    "fewstep.samplers.guidance.hooks",
    "fewstep.samplers.guidance.pde",
    "fewstep.samplers.guidance.pde_published",
    "fewstep.samplers.guidance.blocks_of_state",
    "fewstep.samplers.guidance.feynman_kac",
    "fewstep.samplers.guidance.tilted_posterior",
    "fewstep.samplers.guidance.noise_search",
    "fewstep.adjoint.optimise.momentum_steps",
    "fewstep.adjoint.optimise.quasi_newton_steps",
    "fewstep.adjoint.optimise.adversarial",
    "fewstep.adjoint.distil.score_distillation",
)
KINDS = {
    "scale": "a condition made stronger",
    "composition": "denoisers made of denoisers",
    "restoring": "samples that fit a measurement, a loss or an equation",
    "particles": "weighted samples of a tilted density",
    "noise": "the initial noise optimised",
    "distilling": "images, or what renders them, pulled to a model's samples",
}
OPERATORS = ("", "any", "linear", "pinv")  # that a measurement may come from; "": it takes no measurement
# of the package `guidance` that are no methods: nothing can be registered by these
RESERVED = (
    "GUIDANCE", "method", "Guided", "Operator", "GaussianField", "PointField", "adjoint_residual", "noise_prior_penalty",
    "callback", "picard_steps", "mask", "points", "downsample", "blur", "colour", "matrix", "phase", "fourier", "projection",
)  # fmt: skip
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry:
    """A registered method of guidance.

    kind: a word of KINDS. operator: what maps samples to its measurement: "any" differentiable one, a "linear" one, one with
    a pseudo-inverse ("pinv"), or "" where it takes no measurement. gradients: vector-Jacobian products of the network a call
    at default options. reference: title, authors, year, arXiv; by default what the docstring says after "Reference:".
    """

    name: str
    fn: Callable[..., Any]
    kind: str
    operator: str = ""
    gradients: int = 0
    reference: str = ""

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise ValueError(f"guidance {self.name!r} must be a function; got {type(self.fn).__name__}")
        for what, value, known in (("kind", self.kind, tuple(KINDS)), ("operator", self.operator, OPERATORS)):
            if value not in known:
                raise ValueError(f"`{what}` must be one of {', '.join(map(repr, known))}; got {value!r}")
        whole("gradients", self.gradients, 0, hint="It counts vector-Jacobian products of the network a call")
        if not self.reference:
            found = re.search(r"References?: (.*?)(?:\n\s*\n|$)", inspect.cleandoc(self.fn.__doc__ or ""), re.DOTALL)
            object.__setattr__(self, "reference", " ".join(found[1].split()) if found else "")

    @cached_property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        return inspect.cleandoc(self.fn.__doc__ or "").split("\n", 1)[0]

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """Option name -> default."""
        parameters = inspect.signature(self.fn).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}


GUIDANCE: Registry[Entry] = Registry("guidance", Entry, HOMES, "@guidance.method(name, kind=...)")


def method(name: str, *, kind: str, operator: str = "", gradients: int = 0, reference: str = "") -> Callable[[F], F]:
    """Registers a function under a name, as `guidance.NAME`, at any time and from anywhere; see `Entry` for the facts.

    Raises: ValueError for a name that is no word or is taken, an unknown kind or operator.
    """

    def register(fn: F) -> F:
        if name in RESERVED:
            raise ValueError(f"guidance.{name} is something else already: take another name")
        entry = Entry(name, fn, kind, operator, gradients, reference)
        GUIDANCE.add(name, entry, fn.__module__)
        return fn

    return register
