"""The registry of guidance: what it says about each method is so, and anybody can add to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from fewstep.samplers import Denoiser, NoiseSchedule, guidance, sample
from fewstep.samplers.guidance.guidance_entry import KINDS, OPERATORS, RESERVED

GUIDANCE = guidance.GUIDANCE
OWN = [name for name in guidance.__all__ if name not in RESERVED]


@pytest.fixture
def mine() -> Iterator[Callable[..., Any]]:
    """A method that somebody adds, and takes away again."""

    @guidance.method("towards", kind="restoring", reference="Nobody; 2026")
    def towards(denoiser: Denoiser, image: Tensor, scale: float = 1.0) -> Denoiser:
        """Predicted x0 drawn towards an image.

        Not published.
        """
        return guidance.Guided(denoiser, lambda call: scale * (image - call.x0))

    yield towards
    GUIDANCE.remove("towards")


def test_the_package_has_every_method_and_nothing_registers_over_the_rest() -> None:
    assert set(GUIDANCE) == set(OWN)
    assert {name for name, entry in GUIDANCE.items() if entry.kind == "noise"} == set(NOISE)
    for name, entry in GUIDANCE.items():
        assert getattr(guidance, name) is entry.fn
        assert entry.kind in KINDS and entry.operator in OPERATORS and entry.summary.endswith((".", ":"))
        assert entry.reference or name == "mixture"
        takes = "operator" in inspect.signature(entry.fn).parameters
        assert takes == bool(entry.operator), name


Y = torch.tensor([[0.3, -0.2]])
A = guidance.mask([1.0, 1.0, 0.0, 0.0])


def made(name: str, denoiser: Denoiser) -> Denoiser:
    """The guided denoiser of a method at its default options."""
    y = torch.cat([Y, torch.zeros(1, 2)], 1)
    special: dict[str, Callable[[], Denoiser]] = {
        "cfg": lambda: guidance.cfg(denoiser, denoiser, 2.0),
        "apg": lambda: guidance.apg(denoiser, denoiser, 2.0),
        "cfg_pp": lambda: guidance.cfg_pp(denoiser, denoiser, 0.5),
        "classifier": lambda: guidance.classifier(denoiser, lambda x, tau: x, 1),
        "product": lambda: guidance.product([denoiser, denoiser]),
        "mixture": lambda: guidance.mixture([denoiser, denoiser], lambda x, t: torch.ones(2, len(x))),
        "regions": lambda: guidance.regions([denoiser], [torch.ones(4)]),
        "intervals": lambda: guidance.intervals([denoiser, denoiser], [1.0]),
        "energy": lambda: guidance.energy(denoiser, lambda x0: x0.square().sum(1)),
        "parts": lambda: guidance.parts([(denoiser, slice(0, 4))]),
        "twisted": lambda: guidance.twisted(denoiser, y[0], A, noise_std=0.5, ess=0).denoiser,
        "fkc": lambda: guidance.fkc(denoiser, ess=0).denoiser,
    }
    return special[name]() if name in special else getattr(guidance, name)(denoiser, y, A)


NOISE = ("doodl", "d_flow", "adv_diff", "best_of")  # written out: a look into the registry imports them all
GRADED = [name for name in OWN if name not in ("replacement", "fun_dps", "distil", *NOISE)]


@pytest.mark.parametrize("name", GRADED)
def test_gradients_a_call(name: str) -> None:
    """Counted by a hook on the network's output, between pure noise and data."""
    pulled = []

    def network(x: Tensor, tau: Tensor) -> Tensor:
        output = torch.tanh(x)
        if output.requires_grad:
            output.register_hook(lambda g: pulled.append(1))
        return output

    denoiser = Denoiser(network, NoiseSchedule.vp_linear(), "sample")
    guided = made(name, denoiser)
    with torch.no_grad():
        sample(guided, torch.randn(3, 4), "ddim", 5, t_start=0.9, t_end=0.1)
    assert len(pulled) == 5 * GUIDANCE[name].gradients


def test_one_added_is_found_and_taken_away_again(mine: Callable[..., Any]) -> None:
    assert guidance.towards is mine and "towards" in GUIDANCE
    entry = GUIDANCE["towards"]
    assert (entry.kind, entry.summary, entry.options) == (
        "restoring",
        "Predicted x0 drawn towards an image.",
        {"scale": 1.0},
    )
    denoiser, image = Denoiser(lambda x, tau: 0 * x, NoiseSchedule.vp_linear(), "sample"), torch.ones(2, 3)
    x0 = sample(guidance.towards(denoiser, image), torch.randn(2, 3), "ddim", 4, t_end=1e-4)
    assert torch.allclose(x0, image, atol=0.05)
    GUIDANCE.remove("towards")
    with pytest.raises(AttributeError, match="towards"):
        _ = guidance.towards
    guidance.method("towards", kind="restoring")(mine)


def plain(denoiser: Any) -> Any:
    """Nothing."""
    return denoiser


@pytest.mark.parametrize(
    ("name", "how", "match"),
    [
        ("dps", {"kind": "restoring"}, "guidance 'dps' exists already"),
        ("mask", {"kind": "restoring"}, "guidance.mask is something else already"),
        ("my way", {"kind": "restoring"}, "is a word of letters"),
        ("mine", {"kind": "magic"}, "`kind` must be one of 'scale', 'composition'"),
        ("mine", {"kind": "scale", "operator": "affine"}, "`operator` must be one of"),
        ("mine", {"kind": "scale", "gradients": -1}, "`gradients` must be a whole number"),
    ],
)
def test_bad_input(name: str, how: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        guidance.method(name, **how)(plain)
    with pytest.raises(ValueError, match="belongs to the library"):
        GUIDANCE.remove("dps")
    with pytest.raises(ValueError, match="must be a function"):
        guidance.method("mine", kind="scale")(3)  # type: ignore[type-var]
