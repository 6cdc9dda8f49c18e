"""Other yardsticks: what is lowered, chosen and tested by is the user's loss, or one of decoded images."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call as cli
from learned_problems import Axes, base, ring, task
from torch import Tensor
from worded_pipelines import worded

from fewstep.samplers.artefact.loading import load
from fewstep.samplers.learned import learn
from fewstep.samplers.learned.descent.descent import descend
from fewstep.samplers.learned.descent.objectives import DescentOptions
from fewstep.samplers.learned.estimate import estimate
from fewstep.samplers.learned.learning_run import stage_folder
from fewstep.samplers.learned.parameters.knobs import Knobs
from fewstep.samplers.learned.planning import planned
from fewstep.samplers.learned.playing.differentiable import play
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.problem.teacher import Teacher
from fewstep.samplers.learned.report.showing import text
from fewstep.samplers.learned.report.views import views
from fewstep.samplers.learned.tasks.learner_task import Task
from fewstep.samplers.learned.yardsticks.decoding import _whole, decoded
from fewstep.samplers.learned.yardsticks.yardstick import LATENT, Yardstick, require_fit, yardstick

QUICK: dict[str, Any] = {
    "shape": (2,), "nfe": 4, "method": "joint", "steps": 8, "seeds": range(64), "guard_seeds": range(1000, 1064),
    "progress": False, "cache": False, "dtype": "float64", "rivals": False,
}  # fmt: skip


def squares(x0: Tensor, reference: Tensor) -> Tensor:
    return (x0.double() - reference.double()).flatten(1).square().mean(1)


def halves(weight: float) -> Any:
    """The first half of the coordinates counts so much, the other one the rest."""

    def weighed(x0: Tensor, reference: Tensor) -> Tensor:
        first, last = (x0 - reference).double().flatten(1).square().chunk(2, 1)
        return weight * first.mean(1) + (1 - weight) * last.mean(1)

    return weighed


@pytest.mark.slow
def test_the_mean_square_as_a_loss_is_no_loss(tmp_path: Path) -> None:
    """Bit for bit the same table; the provenance, the report and the name of kept stages know it."""
    plain, own = learn(ring(), **QUICK), learn(ring(), loss=squares, **QUICK)
    a, b = (found.tables[0].tableau for found in (plain, own))
    assert np.array_equal(a.W, b.W) and np.array_equal(a.times, b.times)
    assert plain.report["judged_by"] == "latent error" and "loss" not in plain.provenance
    own.save(tmp_path / "own.json")
    again = load(tmp_path / "own.json")
    assert again.provenance["loss"] == {"name": f"{__name__}.squares", "source": yardstick(squares).source}
    assert again.report["judged_by"] == f"{__name__}.squares"
    assert again.report["beside"]["latent error"]["test"]["gain"] == own.report["test"]["gain"], "the one beside it"
    assert f"judged by {__name__}.squares" in text(views(again)[0]) and "by latent error: gain" in text(views(again)[0])


def test_kept_stages_know_the_loss(tmp_path: Path) -> None:
    """By name, source, and what a function holds."""
    problem = Problem(ring(), shape=(2,))
    losses = [None, squares, halves(0.5), halves(0.9), "pixels"]
    arguments = {"solver": "auto", "nfe": 4, "method": "iia", "seeds": range(64), "guard_seeds": range(100, 140)}
    plans = [planned(ring(), loss=loss, **arguments) for loss in (*losses, squares)]
    plans.append(planned(ring(), loss=squares, judge="latent", **arguments))
    *folders, again, latent = (stage_folder(tmp_path, plan, problem) for plan in plans)
    assert len({*folders, latent}) == len(losses) + 1 and again == folders[1]


def test_what_counts_more_becomes_better() -> None:
    """Tables learned by one half of the coordinates are nearer there than those learned by the other half."""
    stds = torch.cat([torch.full((4,), 0.1), torch.full((4,), 1.0)])[None]
    model = Axes(torch.zeros(1, 8), stds, torch.ones(1)).denoiser()
    errors = {}
    for weight in (0.02, 0.98):
        own = Yardstick("half", halves(weight))
        made = task(model, (8,), 2, 64, 64, loss=own, judged=own)
        knobs = Knobs(base(made), made.problem.prediction, ("grid", "coef", "tau"), 3, True)
        found = descend(made, knobs, DescentOptions(steps=60, batch=64, remember=True))
        part = made.problem.part(range(20_000, 20_064))
        gap = made.problem.draw(found, part) - made.teacher.end(part)
        errors[weight] = [float(half.square().mean()) for half in gap.chunk(2, 1)]
    assert errors[0.98][0] < 0.8 * errors[0.02][0] and errors[0.02][1] < 0.8 * errors[0.98][1], errors


def test_gradients_are_those_of_the_loss() -> None:
    """What a descent goes down is the loss of the ends of `play`, by autograd and by differences."""
    own = Yardstick("half", halves(0.9))
    made = task(ring(), (2,), 3, 16, 16, loss=own)
    part = made.train_parts()[0]
    knobs = Knobs(base(made), made.problem.prediction, ("grid", "coef", "tau"), 2, True)
    truth = made.teacher.end(part)

    def lost() -> Tensor:
        x0 = play(part, knobs.start, knobs.coefficients())[-1]
        return own.of(made.problem, part, x0, truth).mean()

    for value in knobs.parameters.values():
        found = torch.autograd.grad(lost(), value)[0]
        for i in range(len(value)):
            ends = []
            for step in (1e-5, -1e-5):
                with torch.no_grad():
                    value[i] += step
                    ends.append(float(lost()))
                    value[i] -= step
            assert float(found[i]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-8)


@pytest.mark.slow
def test_the_guard_judges_by_the_loss_or_by_latent_error() -> None:
    """A table that is better in one half alone: taken by that half, told beside it."""
    found = {j: learn(ring(), loss=halves(0.98), judge=j, **{**QUICK, "steps": 20}) for j in ("loss", "latent")}
    name = next(iter(found["latent"].report["beside"]))
    assert found["loss"].report["judged_by"] == name and found["latent"].report["judged_by"] == "latent error"
    assert set(found["loss"].report["beside"]) == {"latent error"}
    assert found["latent"].provenance["judge"] == "latent"
    told = [found[j].report["guard"]["looks"][-1]["gain"]["ratio"] for j in found]
    assert told[0] == pytest.approx(found["loss"].report["test"]["gain"]["ratio"]) and told[0] != told[1]


@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda x0, truth: (x0 - truth).square().mean(), r"one number a sample, floats of shape \(2,\) for 2 samples"),
        (lambda x0, truth: (x0 - truth).square(), r"returned torch.float64 \(2, 2\): end it with"),
        (lambda x0, truth: [0.0, 0.0], "returned list"),
        (lambda x0, truth: -squares(x0, truth), "0 where a sample is its reference and more elsewhere"),
        (lambda x0, truth: squares(x0, truth) / 0, "must be finite"),
        (lambda x0, truth: squares(x0.detach(), truth), "must have a gradient"),
        (lambda x0, truth: squares(x0, truth) + 1, "must be 0 where a sample is its reference"),
        (lambda x0, truth: squares(x0, truth).mean().expand(len(x0)), "must see each sample by itself"),
        ("lpips", "pip install lpips"),
        ("features:digits", r"images of shape \(B, 1 or 3, H, W\)"),
        ("pixel", "pixels"),
        (3.0, "a name or a function"),
    ],
)
def test_bad_losses_are_refused_before_any_work(loss: Any, match: str) -> None:
    asked, network = [0], ring()

    def counted(x: Tensor, tau: Tensor) -> Tensor:
        asked[0] += 1
        return network(x, tau)

    model = type(network)(counted, network.schedule, network.prediction)
    with pytest.raises(ValueError, match=match):
        learn(model, loss=loss, **{**QUICK, "method": "auto", "steps": 5})
    assert asked[0] == 0
    with pytest.raises(ValueError, match="judge"):
        learn(model, loss=squares, judge="both", **QUICK)


@pytest.mark.slow
def test_a_method_keeps_its_own_words() -> None:
    """How a descent sums the errors of a batch is still said as before; an estimate takes what learning takes."""
    plan = planned(
        ring(), solver="auto", nfe=4, method="joint", seeds=range(64), guard_seeds=range(100, 140), loss="log"
    )
    assert plan.stages == (("joint", {"loss": "log"}),) and plan.loss.fn is None
    how: dict[str, Any] = {"shape": (2,), "seeds": range(16), "guard_seeds": range(100, 116), "method": "iia", "nfe": 3}
    assert estimate(ring(), loss=squares, **how).evaluations > 0


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_decoded_images_have_gradients(name: str) -> None:
    """The decoder alone gives what the pipeline makes of its latents, packed or not, and its gradient is autograd's."""
    pipe, call = worded(name)
    problem = Problem(pipe, call={**call, "prompt": ["a", "b", "c"]})
    part = problem.part(range(6))
    x = torch.randn(part.x_T.shape, generator=torch.Generator().manual_seed(0))
    images = decoded(problem, part, x)
    assert images.shape[:2] == (6, 3) and torch.allclose(images, _whole(part, x), atol=1e-4)
    own = yardstick("pixels")
    require_fit(own, problem, range(6))
    spent, x = problem.spent, x.requires_grad_()
    found = torch.autograd.grad(own.of(problem, part, x, 0.5 * x.detach()).sum(), x)[0]
    other = decoded(problem, part, 0.5 * x.detach())
    want = torch.autograd.grad((_whole(part, x) - other).double().flatten(1).square().mean(1).sum(), x)[0]
    assert torch.allclose(found, want, atol=1e-3 * float(want.abs().max())) and problem.spent == spent


def test_features_of_the_embedded_digits() -> None:
    """A named extractor on a pipeline of pixels, as a task judges and descends by it."""
    problem, own = Problem("demo", batch_size=4), yardstick("features:digits")
    require_fit(own, problem, range(4))
    made = Task(problem, Teacher(problem, nfe=8, cache=False), 2, (0, 1, 2, 3), (4, 5, 6, 7), loss=own, judged=own)
    found = made.errors(base(made), made.valid_parts())
    assert found.shape == (4,) and bool(((found > 0) & (found < 10)).all())
    assert not torch.equal(found, made.errors(base(made), made.valid_parts(), LATENT))
    x = made.train_parts()[0].x_T.clone().requires_grad_()
    part = made.train_parts()[0]
    slope = torch.autograd.grad(own.of(problem, part, x, made.teacher.end(part)).sum(), x)[0]
    assert bool(slope.isfinite().all()) and float(slope.norm()) > 0


@pytest.mark.slow
def test_learned_by_features() -> None:
    """Learned, judged, told."""
    how: dict[str, Any] = {
        "nfe": 3, "method": "iia", "seeds": range(16), "guard_seeds": range(1000, 1008), "teacher": {"nfe": 40},
        "progress": False, "cache": False, "rivals": False, "classes": range(10),
    }  # fmt: skip
    found = learn("demo", loss="features:digits", **how)
    assert found.report["judged_by"] == "features:digits" and found.provenance["loss"] == {"name": "features:digits"}
    assert np.isfinite(found.report["learned"]["test"]["rms"]) and "latent error" in found.report["beside"]


def test_lpips_through_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("lpips")
    package.__spec__ = ModuleSpec("lpips", None)
    seen = []

    class Distance(torch.nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            seen.append(a.shape)
            return (a - b).square().mean((1, 2, 3), keepdim=True)

    package.LPIPS = Distance  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", package)
    problem = Problem("demo", batch_size=4)
    require_fit(yardstick("lpips"), problem, range(4))
    assert seen[0][1] == 3, "grey images repeat their channel"


def test_command_line(tmp_path: Path) -> None:
    """`--loss NAME`, and what it says of a name that is none."""
    assert "pixels, lpips, features" in cli("learn", "--help").output.replace("\n", " ")
    how = ("learn", "demo", "--nfe", 2, "--method", "iia", "-n", 8, "--guard", 8, "--teacher-nfe", 40, "--no-cache")
    told = cli(*how, "--loss", "pixel")
    assert told.exit_code == 2 and "pixels" in told.output
    told = cli(*how, "--loss", "lpips", "--out", tmp_path / "a.json")
    assert told.exit_code == 2 and "pip install lpips" in told.output
