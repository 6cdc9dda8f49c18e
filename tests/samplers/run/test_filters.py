"""Filters of a table: by hand, free rows and lowered ones alike, in every batch, through files, `Scheduler` and `adjoint`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fewstep
from fewstep import adjoint, sample
from fewstep.samplers import Denoiser, NoiseSchedule, Tableau, build
from fewstep.samplers.artefact.artefact import Artefact
from fewstep.samplers.artefact.learned_table import Learned
from fewstep.samplers.run.step import spatial

VP = NoiseSchedule.vp_linear()
WIDE = torch.float64


def problem(prediction: str = "sample") -> tuple[Denoiser, Tensor, list[Tensor]]:
    torch.manual_seed(0)
    net = torch.nn.Conv2d(2, 2, 3, padding=1).double()
    x = torch.randn(3, 2, 8, 6, dtype=WIDE)
    return Denoiser(lambda x, tau: torch.tanh(net(x)), VP, prediction), x, list(net.parameters())


def filtered(solver: str = "dpmpp_2m", nfe: int = 5, channels: int = 2, size: float = 0.02, **options: Any) -> Tableau:
    base = build(solver, VP, nfe, **options)
    F = size * np.random.default_rng(0).standard_normal((nfe, 1 + base.history, channels, 3, 3))
    return replace(base, filters=F, conserves="")


def test_a_filter_by_hand() -> None:
    """Each channel by itself, zero outside, the centre tap at the place itself."""
    x, m = torch.randn(2, 3, 2, 5, 4, dtype=WIDE).unbind(1)[:2]
    F = torch.randn(2, 2, 3, 3, dtype=WIDE)
    found, wanted = spatial(F, (x, m)), torch.zeros_like(x)
    for c in range(2):
        for r, u in enumerate((x, m)):
            wide = torch.nn.functional.pad(u[:, c], (1, 1, 1, 1))
            for i in range(3):
                for j in range(3):
                    wanted[:, c] += F[c, r, i, j] * wide[:, i : i + 5, j : j + 4]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-13)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "heun", "dpmpp_3m", "epd", "ddpm"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_lowered_rows_are_free_rows(solver: str, prediction: str) -> None:
    """In one step after the other as in the table; zero filters change no bit; a sample is the same in any batch."""
    denoiser, x, _ = problem(prediction)
    table = filtered(solver, channels=1 if prediction == "sample" else 2)
    how: dict[str, Any] = {"noise_seeds": [1, 2, 3]} if table.stochastic else {}
    found = sample(denoiser, x, table, **how)
    from fewstep.adjoint.gradient.free_table import _numbers

    free = adjoint.Free(table, *map(torch.from_numpy, _numbers(denoiser, table)))
    again = adjoint.sample(denoiser, x.clone().requires_grad_(), free, **how)
    torch.testing.assert_close(found, again.detach(), rtol=1e-10, atol=1e-10)
    none, zero = (replace(table, filters=F) for F in (None, 0 * table.filters))
    assert torch.equal(sample(denoiser, x, zero, **how), sample(denoiser, x, none, **how))
    assert float((found - sample(denoiser, x, none, **how)).detach().abs().max()) > 1e-3
    alone = [sample(denoiser, one[None], table, **{k: [v[i]] for k, v in how.items()}) for i, one in enumerate(x)]
    torch.testing.assert_close(torch.cat(alone), found, rtol=1e-12, atol=1e-12)


def test_gradients_are_autograds() -> None:
    """To x_T and weights by every exact way, and to the filters themselves, which is how they are learned."""
    denoiser, x, weights = problem()
    table, x = filtered(), x.requires_grad_()
    found = {}
    for method in ("direct", "checkpoint", "revolve", "segments"):
        found[method] = torch.autograd.grad(
            adjoint.sample(denoiser, x, table, method=method).square().sum(), [x, *weights]
        )
    for method in ("checkpoint", "revolve", "segments"):
        for one, other in zip(found[method], found["direct"], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    from fewstep.adjoint.gradient.free_table import _numbers

    F = torch.from_numpy(table.filters.copy()).requires_grad_()
    free = adjoint.Free(table, *map(torch.from_numpy, _numbers(denoiser, table)), F)
    (slope,) = torch.autograd.grad(adjoint.sample(denoiser, x.detach(), free).square().sum(), [F])
    along, h = torch.randn(F.shape, dtype=WIDE, generator=torch.Generator().manual_seed(1)), 1e-5
    ends = [
        float(sample(denoiser, x.detach(), replace(table, filters=(F.detach() + s * h * along).numpy())).square().sum())
        for s in (1, -1)
    ]
    assert float((slope * along).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6)
    for method, said in (("reversible", "has no inverse here"), ("adjoint_deis", "part of no differential equation")):
        with pytest.raises(ValueError, match=said):
            adjoint.sample(denoiser, x, table, method=method)


def test_files_keep_every_bit(tmp_path: Path) -> None:
    """In the JSON where small, in safetensors beside it where large; a version that older readers refuse."""
    denoiser, x, _ = problem()
    for size in (5, 40):
        table = filtered(nfe=size)
        table.save(tmp_path / "table.json")
        back = fewstep.load(tmp_path / "table.json")
        assert np.array_equal(back.filters, table.filters)
        artefact = Artefact((Learned(table),), {"prediction": "sample"})
        assert artefact.tables[0].kind == "filter"
        artefact.save(tmp_path / "artefact.json")
        again = fewstep.load(tmp_path / "artefact.json")
        assert again == artefact and Artefact.from_dict(artefact.to_dict()) == artefact
        assert torch.equal(sample(denoiser, x, again), sample(denoiser, x, table))
        assert json.loads((tmp_path / "artefact.json").read_text())["version"] == 2
        assert bool(list(tmp_path.glob("*.safetensors"))) == (table.filters.size > 1000)
    plain = Artefact((Learned(build("dpmpp_2m", VP, 5)),), {"prediction": "sample"})
    assert plain.to_dict()["version"] == 1 and build("ddim", VP, 2).to_dict()["version"] == 2
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="cannot be moved: it would have filters"):
        artefact.table(schedule=NoiseSchedule.vp_cosine(), strict=False)
    with pytest.warns(UserWarning, match="the filters .*stay behind"):
        artefact.to_diffusers()


def test_a_scheduler_plays_filters() -> None:
    config = {"_class_name": "DDIMScheduler", "prediction_type": "sample"}
    schedule = NoiseSchedule.from_config(config)
    base = build("dpmpp_2m", schedule, 5)
    table = replace(base, filters=0.02 * np.random.default_rng(0).standard_normal((5, 3, 2, 3, 3)), conserves="")
    scheduler = fewstep.Scheduler.from_config(config, learned=Artefact((Learned(table),), {"prediction": "sample"}))
    scheduler.set_timesteps(5)
    denoiser, x, _ = problem()
    state = x
    for t in scheduler.timesteps:
        state = scheduler.step(denoiser.fn(state, t), t, state).prev_sample
    torch.testing.assert_close(state, sample(Denoiser(denoiser.fn, schedule, "sample"), x, table), rtol=0, atol=1e-12)


def test_bad_input() -> None:
    denoiser, x, _ = problem()
    table = filtered()
    for shape in ((3, 4), (3, 3, 8, 6), (3, 2, 4, 8, 6)):
        with pytest.raises(ValueError, match="its filters are for images of 2 channels"):
            sample(denoiser, torch.zeros(shape), table)
    for F in (
        np.zeros((5, 2, 2, 2, 2)),
        np.zeros((4, 2, 2, 3, 3)),
        np.zeros((5, 9, 2, 3, 3)),
        np.full((5, 2, 2, 3, 3), np.nan),
    ):
        with pytest.raises(ValueError, match="`filters` must be finite"):
            replace(table, filters=F)
    with pytest.raises(ValueError, match="conserves nothing exactly"):
        replace(table, conserves="x0")
