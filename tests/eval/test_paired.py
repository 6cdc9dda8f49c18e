"""Paired errors: those of the single images, whatever the batch; against the right reference; bad input before any model."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import fewstep
from fewstep.eval.report.curves import Curves
from fewstep.eval.shared_noise.measures import MEASURES
from fewstep.eval.shared_noise.paired_cells import result
from fewstep.eval.shared_noise.pairs import paired
from fewstep.samplers.pipeline.source import Source

SHORT = {"solver": "dpmpp_2m", "nfe": 8, "grid": "karras"}


@pytest.fixture(scope="module")
def found() -> Curves:
    return paired("demo", ("ddim", "dpmpp_2m"), (2, 4), pairs=3, seed=5, reference=SHORT)


def test_rmse_and_psnr_are_those_of_the_images(found: Curves) -> None:
    (batch,) = Source("demo").batches(range(5, 8))
    grid = batch.denoiser.schedule.default_grid
    truth = batch.draw(**SHORT)
    for solver in found.solvers:
        x0 = batch.draw(solver=solver, nfe=4, grid=grid)
        rmse, psnr = found.result("rmse", solver, 4), found.result("psnr", solver, 4)
        assert rmse is not None and psnr is not None and rmse.n == psnr.n == 3
        expected = np.sqrt(((x0 - truth).double().numpy() ** 2).reshape(3, -1).mean(1))
        assert rmse.groups == pytest.approx(expected, rel=1e-6) and rmse.value == pytest.approx(
            expected.mean(), rel=1e-6
        )
        assert rmse.details["median"] == np.median(rmse.groups) and rmse.details["worst"] == max(rmse.groups)
        pixels = [np.stack([np.asarray(i, float) for i in batch.images(x)]).reshape(3, -1) for x in (x0, truth)]
        squares = ((pixels[0] - pixels[1]) ** 2).mean(1)
        assert psnr.groups == pytest.approx(20 * np.log10(255) - 10 * np.log10(squares), rel=1e-12)
        assert psnr.details["worst"] == min(psnr.groups) and psnr.layer == "pixels" and rmse.layer == "x0"


def test_a_pipeline_in_other_batches_gives_the_same(found: Curves) -> None:
    one = paired(
        fewstep.load_demo_pipeline(),
        ("dpmpp_2m",),
        (4,),
        pairs=3,
        seed=5,
        reference=SHORT,
        batch_size=2,
        classes=range(10),
    )
    a, b = (c.result("rmse", "dpmpp_2m", 4) for c in (found, one))
    assert a is not None and b is not None and a.groups == pytest.approx(b.groups, rel=1e-4)
    assert one.about["model"] == type(fewstep.load_demo_pipeline()).__name__ and found.about["model"] == "demo"


def test_what_the_errors_are_to_is_told(found: Curves) -> None:
    assert found.about["reference"] == "8 evaluations of dpmpp_2m on karras" and found.about["reference_shift"] > 0
    assert "the reference moved by an RMSE of" in found.notes[0] and "too near" in found.notes[1]
    assert "Student's t over the images" in found.text() and "order" in found.table("rmse").head


def test_noise_is_compared_with_its_own_path_and_needs_no_other_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.eval.shared_noise import solver_errors

    monkeypatch.setattr(solver_errors, "LONGER", 3)
    found = paired("demo", ("dpmpp_2m_sde",), (2,), pairs=2, metrics=("rmse",))
    (batch,) = Source("demo").batches(range(2))
    how: dict[str, Any] = {"solver": "dpmpp_2m_sde", "grid": batch.denoiser.schedule.default_grid, "noise": "brownian"}
    rmse = found.result("rmse", "dpmpp_2m_sde", 2)
    assert rmse is not None
    assert rmse.groups == pytest.approx(
        solver_errors.image_errors(batch.draw(nfe=2, **how), batch.draw(nfe=6, **how)).tolist()
    )
    assert found.about["reference_shift"] is None
    assert set(found.samples) == {("dpmpp_2m_sde", 2), ("reference of dpmpp_2m_sde", 6)}
    assert found.notes == ["dpmpp_2m_sde: to their own runs of 6 evaluations on the same Brownian paths"]


def test_a_solver_that_chooses_its_steps_has_only_the_points_it_can_afford(monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.eval.shared_noise import solver_errors

    monkeypatch.setattr(solver_errors, "LADDER", (64.0,))
    found = paired("demo", ("dpm_adaptive",), (1, 500), pairs=1, metrics=("rmse",), reference=SHORT)
    (point,) = found.points
    assert point.nfe == 500 and point.grid == "its own" and point.report["rmse"].interval is None
    assert "±" not in found.text().split("\n")[2]


def test_identical_pictures_have_a_finite_psnr() -> None:
    u = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    other = u.clone()
    other[1, 0, 0, 0] = 1
    assert MEASURES["psnr"][0](u, other) == pytest.approx([10 * np.log10(255**2 * 16)] * 2)
    other[1] = 255
    assert MEASURES["psnr"][0](u, other)[1] == 0


def test_an_interval_of_errors_does_not_fall_below_zero() -> None:
    found = result("rmse", np.array([0.0, 1.0]))
    assert found.interval is not None and found.interval[0] == 0 and found.interval[1] > 5 and found.value == 0.5


def test_lpips_through_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("lpips")
    package.__spec__ = ModuleSpec("lpips", None)

    def lpips(net: str, verbose: bool) -> Any:
        def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            assert net == "alex" and a.shape == b.shape == (2, 3, 28, 28) and -1 <= float(a.min()) < float(a.max()) <= 1
            return (a - b).abs().mean((1, 2, 3), keepdim=True)

        return distance

    package.LPIPS = lpips  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", package)
    found = paired("demo", ("ddim",), (2,), pairs=2, metrics=("lpips",), reference=SHORT).result("lpips", "ddim", 2)
    assert (
        found is not None and len(found.groups) == 2 and all(0 < d < 2 for d in found.groups) and found.label == "LPIPS"
    )


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"solvers": ("dpmp_2m",)}, "unknown solver 'dpmp_2m'.*dpmpp_2m"),
        ({"solvers": ()}, "at least one solver; got none"),
        ({"solvers": ("ddim", "ddim")}, "each solver is named once"),
        ({"nfe": (0,)}, "at least 1; got 0"),
        ({"nfe": ()}, "at least one nfe"),
        ({"grid": "karas"}, "karras"),
        ({"pairs": 0}, "`pairs` must be a whole number, at least 1; got 0"),
        ({"metrics": ("rsme",)}, "unknown paired metric 'rsme'.*rmse"),
        ({"metrics": ("lpips",)}, "pip install lpips"),
        ({"options": {"oder": 3}}, "oder"),
    ],
)
def test_bad_input_before_a_model_is_loaded(how: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=words):
        paired("/no/such/model", **how)
