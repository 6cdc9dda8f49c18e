"""From images back to noise: exact where the solver is, to the tolerance of iterations for DDIM, as noises of an SDE."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from problems import Mixture
from torch import Tensor

from fewstep import adjoint, sample
from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule

SCHEDULES = {"vp": NoiseSchedule.vp_linear(), "edm": NoiseSchedule.edm(), "flow": NoiseSchedule.flow()}
EXACT = ("bdia", "o_belm", "alf", "reversible_heun", "edict", "rex")
SEEDS = range(32)


@functools.cache
def problem(kind: str = "vp", dtype: torch.dtype = torch.float64) -> tuple[Denoiser, Tensor, Tensor]:
    """(denoiser, images, the noise that the flow takes to them)."""
    schedule = SCHEDULES[kind]
    denoiser = Mixture().denoiser(schedule, "flow_prediction" if kind == "flow" else "epsilon")
    x_T = schedule.initial_noise((32, 2), torch.Generator().manual_seed(0), dtype=dtype)
    return denoiser, sample(denoiser, x_T, "dpmpp_3m", 60), x_T


def off(x: Tensor, y: Tensor) -> float:
    return float((x - y).norm() / y.norm())


@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.one_in(3)
def test_exact_solvers_come_back_to_the_image(kind: str, name: str) -> None:
    """Any image, also one that no solver made, is met again to rounding by the pair of states; x_T is near the flow's own."""
    denoiser, images, x_T = problem(kind)
    found = adjoint.invert(denoiser, images, name, 50, return_state=True)
    assert off(found.replay(denoiser), images) < 1e-10
    assert found.x_T.shape == images.shape and found.x_T.dtype == images.dtype
    other = images + 0.3
    assert off(adjoint.invert(denoiser, other, name, 20, return_state=True).replay(denoiser), other) < 1e-10
    if name in ("alf", "bdia", "reversible_heun"):
        assert off(found.x_T, x_T) < 0.1


@pytest.mark.parametrize("kind", SCHEDULES)
def test_alf_needs_no_pair(kind: str) -> None:
    """Started from x_T alone, the usual sampler: the error falls fast with nfe."""
    denoiser, images, _ = problem(kind)
    errors = [off(sample(denoiser, adjoint.invert(denoiser, images, "alf", n), "alf", n), images) for n in (20, 50)]
    assert errors[0] < 0.05 and errors[1] < 1e-3


def test_single_precision_comes_back_too() -> None:
    denoiser, images, _ = problem(dtype=torch.float32)
    found = adjoint.invert(denoiser, images, "alf", 50, return_state=True)
    assert found.x_T.dtype == torch.float32 and off(found.replay(denoiser), images) < 1e-5


def test_ddim_by_iteration() -> None:
    """Plain inversion is off by O(1/nfe); every iteration takes a share of what is left, down to the exact inverse."""
    denoiser, images, _ = problem()
    errors = []
    for iterations in (1, 4, 40):
        x_T = adjoint.invert(denoiser, images, "ddim", 50, iterations=iterations, tol=0)
        errors.append(off(sample(denoiser, x_T, "ddim", 50), images))
    assert errors[0] > 0.02 and errors[1] < 0.2 * errors[0] and errors[2] < 1e-10
    before = denoiser.nfe
    found = adjoint.invert(denoiser, images, "ddim", 50, return_state=True)
    assert denoiser.nfe - before < 7 * 50 and 0 < found.residual <= 1e-3
    assert off(found.replay(denoiser), images) < 1e-2
    with pytest.warns(UserWarning, match="open by .* after 2 iterations"):
        adjoint.invert(denoiser, images, "ddim", 5, iterations=2)


def test_another_condition_makes_an_edit() -> None:
    """A denoiser with other data, played from the same pair, leads to that data."""
    denoiser, images, _ = problem()
    found = adjoint.invert(denoiser, images, "alf", 40, return_state=True)
    moved = Mixture(means=((4.0, 4.0),), stds=(0.3,), weights=(1.0,)).denoiser(SCHEDULES["vp"])
    assert off(found.replay(moved).mean(0), torch.tensor([4.0, 4.0], dtype=torch.float64)) < 0.1


@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m_sde", "euler_ancestral", "sde_dpm", "er_sde"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_encoding_holds_the_image(kind: str, name: str) -> None:
    """x_T, noises and rest give the image to rounding; a sample's code is the same alone and in a batch."""
    denoiser, images, _ = problem(kind)
    code = adjoint.encode(denoiser, images, name, 20, noise_seeds=SEEDS)
    with torch.no_grad():
        again = adjoint.sample(denoiser, code.x_T, name, 20, z=code.z) + code.rest
    assert off(again, images) < 1e-12
    assert bool(code.rest.any()) == (kind != "vp")  # vp ends above sigma = 0, where the last row draws noise too
    alone = adjoint.encode(denoiser, images[3:4], name, 20, noise_seeds=[3])
    assert torch.allclose(alone.z[:, 0], code.z[:, 3], rtol=1e-9, atol=1e-9)


def test_encoded_noises_have_gradients() -> None:
    denoiser, images, _ = problem()
    code = adjoint.encode(denoiser, images, "ddpm", 10, noise_seeds=SEEDS)
    z = code.z.requires_grad_()
    adjoint.sample(denoiser, code.x_T, "ddpm", 10, z=z).sum().backward()
    assert z.grad is not None and bool(z.grad.flatten(1).any(1).all())


def test_bad_input() -> None:
    denoiser, images, _ = problem()
    before = denoiser.nfe
    for call, match in (
        (lambda: adjoint.invert(denoiser, images, "dpmpp_2m", 10), "dpmpp_2m: row 0 of 10 cannot be undone"),
        (lambda: adjoint.invert(denoiser, images, "ddpm", 10), "ddpm draws noise.*adjoint.encode"),
        (lambda: adjoint.invert(denoiser, images, "bdia", 80, gamma=0.5), "rounding grows"),
        (lambda: adjoint.invert(denoiser, images, "ddim", 5, iterations=0), "at least 1; got 0"),
        (lambda: adjoint.invert(denoiser, images, "ddim", 5, tol=-1.0), "`tol` must be a number, at least 0"),
        (lambda: adjoint.invert(denoiser, np.zeros(3), "ddim", 5), "must be a floating tensor"),
        (lambda: adjoint.encode(denoiser, images, "ddim", 5, noise_seeds=SEEDS), "ddim draws no noise"),
        (
            lambda: adjoint.encode(denoiser, images, "seeds", 6, noise_seeds=SEEDS),
            "one state and one noise in every row",
        ),
        (lambda: adjoint.encode(denoiser, images, "ddpm", 6, noise_seeds=[1]), "give one seed a sample"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
    assert denoiser.nfe == before
    assert all(SOLVERS[name].kind == "tableau" for name in EXACT)


def test_what_x_T_alone_misses_is_told() -> None:
    """edict and rex in few steps: the number of the warning is what the sample from x_T misses; the pair needs no warning."""
    denoiser, images, _ = problem()
    for name in ("edict", "rex"):
        with pytest.warns(UserWarning, match="from x_T alone misses the image by") as told:
            x_T = adjoint.invert(denoiser, images, name, 10)
        said = float(str(told[0].message).split("misses the image by ")[1].split()[0])
        assert said == pytest.approx(off(sample(denoiser, x_T, name, 10), images), rel=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adjoint.invert(denoiser, images, "edict", 10, return_state=True)
        adjoint.invert(denoiser, images, "alf", 50)
        calls = [denoiser.nfe]
        for check in (False, True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore" if check else "error")
                adjoint.invert(denoiser, images, "rex", 10, check=check)
            calls.append(denoiser.nfe)
    assert calls[2] - calls[1] == calls[1] - calls[0] + 10
