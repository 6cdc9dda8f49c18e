"""What every driver promises, from the registry: one call, the same words about the run, and the network it is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from problems import Gaussian, Mixture, starts
from torch import Tensor

from fewstep.samplers import SOLVERS, Denoiser, NoiseSchedule, build, sample

VP = NoiseSchedule.vp_linear()
DRIVERS = {name: entry for name, entry in SOLVERS.items() if entry.kind == "driver"}
LEVELS = torch.linspace(np.log(0.01), np.log(100.0), 40, dtype=torch.float64)


def level_logits(y: Tensor) -> Tensor:
    """A noise-level classifier of unit data: the level whose variance is nearest to what is seen."""
    seen = 0.5 * (y.flatten(1).square().mean(1) - 1).clamp(min=1e-4).log()
    return -((LEVELS - seen[:, None].double()) ** 2)


EXTRA: dict[str, dict[str, Any]] = {"dlg": {"classifier": level_logits, "nfe": 40}, "picard": {"nfe": 20},
                                    "predictor_corrector": {"nfe": 20}}  # fmt: skip
named = pytest.mark.parametrize("name", DRIVERS)


def test_the_drivers_of_the_field_are_there() -> None:
    assert set(DRIVERS) == {"dpm_adaptive", "gotta_go_fast", "rk45", "predictor_corrector", "picard", "dlg"}


@named
def test_one_call_tells_what_it_did(name: str) -> None:
    calls = []
    inner = Mixture().denoiser(VP, vector_time=True)

    def fn(x: Tensor, tau: Tensor) -> Tensor:
        calls.append(len(x))
        return inner.fn(x, tau)

    denoiser, x = Denoiser(fn, VP, vector_time=True), starts(VP, 1.0, 4)
    got, info = sample(denoiser, x, name, noise_seeds=range(4), return_info=True, **EXTRA.get(name, {}))
    assert got.shape == x.shape and torch.isfinite(got).all()
    assert info.status == "done" and info.calls == len(calls) == denoiser.nfe
    assert info.nfe >= info.calls if name == "picard" else info.nfe == info.calls
    assert info.accepted > 0 and info.rejected >= 0 and info.seconds > 0 and info.tableau is None
    again = sample(denoiser, x, name, noise_seeds=range(4), **EXTRA.get(name, {}))
    assert torch.equal(got, again)


@named
def test_a_driver_is_not_a_table(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' chooses its steps as it goes and has no table"):
        build(name, VP, 10)


@named
def test_bad_arguments_are_named_before_any_call(name: str) -> None:
    denoiser, x = Mixture().denoiser(VP, vector_time=True), starts(VP, 1.0, 2)
    extra = EXTRA.get(name, {})
    for how, said in (
        ({"t_start": 0.1, "t_end": 0.5}, "goes down in time"),
        ({"nfe": 0}, "`nfe` must be a whole number"),
        ({"noise_seeds": [1]}, "1 noise seeds for a batch of 2"),
        ({"no_such_option": 1}, "has no option 'no_such_option'"),
        ({"mu": x}, "leave `mu` away"),
    ):
        with pytest.raises(ValueError, match=said):
            sample(denoiser, x, name, **{**extra, **how})
    assert denoiser.nfe == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DRIVERS if DRIVERS[name].adaptive])
def test_a_conditioned_network_sees_its_whole_batch(name: str) -> None:
    """One label a sample: every call has all of them, whoever has arrived; results are those of the samples alone."""
    means = (-1.5, 0.2, 2.0)

    def network(means: tuple[float, ...]) -> Denoiser:
        parts = [Gaussian(mean, 0.02 + 0.3 * abs(mean)).denoiser(VP, vector_time=True) for mean in means]

        def fn(x: Tensor, tau: Tensor) -> Tensor:
            assert len(x) == len(means)
            each = tau.expand(len(x))
            return torch.cat([part.fn(x[i : i + 1], each[i : i + 1]) for i, part in enumerate(parts)])

        return Denoiser(fn, VP, vector_time="whole")

    x = starts(VP, 1.0, 3)
    whole, info = sample(network(means), x, name, noise_seeds=range(3), return_info=True)
    assert len(set(info.each)) > 1  # they do not arrive together
    for i, mean in enumerate(means):
        alone = sample(network((mean,)), x[i : i + 1], name, noise_seeds=[i])
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match='False, True or "whole"'):
        Denoiser(lambda x, tau: x, VP, vector_time="yes")


@named
def test_an_empty_batch_comes_back_empty(name: str) -> None:
    """As from tables, with whatever noise; wrong options are told all the same."""
    schedule = NoiseSchedule.vp_linear()
    denoiser = Denoiser(lambda x, tau: torch.tanh(x), schedule, vector_time=True)
    for x in (torch.randn(0, 3, 4), torch.randn(0, 3, 4, dtype=torch.float64)):
        for how in (dict[str, Any](), {"noise_seeds": []}):
            for solver in (name, "ddpm", "sa_solver"):
                end, info = sample(denoiser, x, solver, 8, return_info=True, **how)
                assert end.shape == x.shape and end.dtype == x.dtype and info.status == "done"
    with pytest.raises(ValueError, match="nonsense"):
        sample(denoiser, torch.randn(0, 3), name, nonsense=1)


@pytest.mark.parametrize("name", ["dpm_adaptive", "rk45", "gotta_go_fast"])
@pytest.mark.parametrize("check", ["none", "end"])
def test_nan_is_told_as_nan(name: str, check: str) -> None:
    """From the start, from some time on, in one sample only; not as a step that became too small."""
    schedule = NoiseSchedule.vp_linear()

    def late(x: Tensor, tau: Tensor) -> Tensor:
        return torch.where(tau.reshape(-1, 1) > 0.3, torch.tanh(x), torch.full_like(x, float("nan")))

    def one(x: Tensor, tau: Tensor) -> Tensor:
        return torch.where((torch.arange(3) == 1)[:, None], torch.full_like(x, float("nan")), torch.tanh(x))

    for network, where in ((lambda x, tau: x * float("nan"), "t = 1"), (late, r"t = 0\.[23]"), (one, "t = 1")):
        with pytest.warns(UserWarning, match=rf"{name}.*not finite \(NaN\) in \d of 3 samples right after {where}"):
            sample(Denoiser(network, schedule), torch.randn(3, 4), name, check=check)
