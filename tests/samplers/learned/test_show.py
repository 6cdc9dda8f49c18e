"""`fewstep show` tells what is in the table, with warnings where they are due; estimates and comparisons count honestly."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import call
from learned_problems import MIXTURES, SHAPES, ring
from PIL import Image

from fewstep import Artefact, Denoiser, NoiseSchedule, build, sample
from fewstep.samplers import Learned
from fewstep.samplers.artefact import corrections as rebase
from fewstep.samplers.learned.estimate import estimate
from fewstep.samplers.learned.learning import learn
from fewstep.samplers.learned.planning import planned
from fewstep.samplers.learned.playing import arithmetic as tables
from fewstep.samplers.learned.problem.problem import Problem
from fewstep.samplers.learned.rehearsal import extrapolated, rehearse, stand_in
from fewstep.samplers.learned.report import showing, table_pictures
from fewstep.samplers.learned.report.comparing import compare_learned, used_seeds
from fewstep.samplers.learned.report.views import View, recipe_of, row_sums, views, weights
from fewstep.samplers.learned.tasks.learner_entry import METHODS

VP = NoiseSchedule.vp_linear()
HOW: dict[str, Any] = {"shape": (2,), "dtype": torch.float64, "batch_size": 128}


def smooth() -> Denoiser:
    """Of images of two channels: a network that looks at its neighbours."""
    kernel = torch.ones(2, 1, 3, 3, dtype=torch.float64) / 9

    def fn(x: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        return torch.tanh(1.5 * torch.nn.functional.conv2d(x, kernel, padding=1, groups=2))

    return Denoiser(fn, NoiseSchedule.vp_linear(), "sample")


def shifted(nfe: int = 5, size: float = 0.2, grid: str = "quadratic") -> Learned:
    """A table with corrections of some size, another grid and other network times."""
    table = build("dpmpp_2m", VP, nfe, grid)
    moved = rebase.on_times(table, table.times * [1.0, *[0.97] * (nfe - 1), 1.0])
    delta = np.zeros((nfe, 2))
    delta[1:] = size, -size
    made = tables.corrected(moved, delta)
    return Learned(replace(made, model_times=made.model_times * 0.99), base={"grid": grid})


@pytest.fixture(scope="module")
def artefact() -> Artefact:
    """Learned on the ring at 4 and 6 evaluations."""
    how: dict[str, Any] = {"seeds": range(128), "guard_seeds": range(1000, 1128), "rivals": False, **HOW}
    return learn(ring(), "dpmpp_2m", [4, 6], "iia", window=2, cache=False, progress=False, **how)


def test_weights_are_those_of_the_outputs_in_the_result() -> None:
    """The weight of evaluation k is what the result grows by when that output grows by one."""
    table = shifted().tableau
    x_T = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).double()

    def drawn(extra: int | None) -> torch.Tensor:
        calls = iter(range(table.nfe))
        fn = lambda x, tau: torch.full_like(x, 0.3) + float(next(calls) == extra)  # noqa: E731
        return sample(Denoiser(fn, VP, "sample"), x_T, table)

    found = [float((drawn(k) - drawn(None)).mean()) for k in range(table.nfe)]
    assert weights(table) == pytest.approx(found, abs=1e-9)
    assert weights(table) == pytest.approx(tables.unrolled(table).outputs[-1], abs=1e-12)


def test_consistent_corrections_leave_the_row_sums(artefact: Artefact) -> None:
    for learned in artefact.tables:
        base = tables.base_of(learned.tableau)
        assert row_sums(learned.tableau) == pytest.approx(row_sums(base), abs=1e-9)
        assert not np.allclose(learned.tableau.W, tables.widened(base, learned.tableau.history).W)


def test_show_tells_rows_weights_and_figures(artefact: Artefact, tmp_path: Path) -> None:
    artefact.save(tmp_path / "a.json")
    result = call("show", tmp_path / "a.json", "--nfe", 4)
    assert result.exit_code == 0, result.output
    (learned,) = [t for t in artefact.tables if t.nfe == 4]
    assert str(learned.tableau) in result.stdout
    for weight in weights(learned.tableau):
        assert f"{weight:.5g}" in result.stdout
    test = learned.report["test"]
    for told in (
        f"{test['rms']['ratio']:.3f}",
        learned.report["best_fixed_recipe"],
        "stage iia",
        f"status: {learned.status}",
    ):
        assert told in result.stdout
    assert f"{learned.report['learned']['test']['tail95']:.4g}" in result.stdout
    assert "nfe 6" not in result.stdout and "nfe 6" in call("show", tmp_path / "a.json").stdout


def test_what_it_is_worth_elsewhere_is_shown(artefact: Artefact, tmp_path: Path) -> None:
    """The transfer matrix, where learning made one."""
    (view, _) = views(artefact)
    row = {"at": "guidance_scale 7.5", "learned": 0.02, "fixed": 0.04, "ratio": 0.5}
    with_matrix = replace(view, report={**view.report, "transfer": [row, {**row, "fixed": 0.0, "ratio": None}]})
    assert showing.elsewhere(view) is None and "guidance_scale 7.5" in showing.text(with_matrix)
    assert "elsewhere" not in showing.text(view)


def test_the_fixed_recipe_is_the_one_it_was_learned_from(artefact: Artefact) -> None:
    for learned in artefact.tables:
        fixed = recipe_of(learned)
        told = learned.report["best_fixed_recipe"]
        assert told.startswith(f"{fixed.name} on {learned.base['grid']}")
        errors = [t.report["best_fixed"]["test"]["rms"] for t in artefact.tables if t is learned]
        problem = Problem(ring(), **HOW)
        part = problem.part(range(1000, 1128))
        reference = sample(part.denoiser, part.x_T, "dpmpp_3m", 200)
        rms = float((problem.draw(fixed, part) - reference).square().mean().sqrt())
        assert rms == pytest.approx(errors[0], rel=0.02)


def test_a_plain_table_is_shown_too(tmp_path: Path) -> None:
    table = build("unipc", VP, 6)
    table.save(tmp_path / "t.json")
    result = call("show", tmp_path / "t.json", "--out", tmp_path / "t.png")
    assert result.exit_code == 0 and str(table) in result.stdout and "status" not in result.stdout, result.output
    assert "warning" not in result.stdout and Image.open(tmp_path / "t.png").width > 500


def test_weights_of_every_element_are_shown_by_their_means(tmp_path: Path) -> None:
    table = shifted(4).tableau
    wide = replace(table, W=table.W[..., None] * np.ones(3))
    (learned,) = views(Artefact((Learned(wide),), {"prediction": "sample"}))
    assert weights(wide) == pytest.approx(weights(table)) and "means" in showing.text(learned)
    assert tables.amplification(wide) == pytest.approx(tables.amplification(table))


def test_stochastic_tables_and_singular_ends_are_drawn(tmp_path: Path) -> None:
    cosine = NoiseSchedule.flow()
    found = [View("a", build("er_sde", VP, 5)), View("b", build("dpmpp_2m", cosine, 4))]
    table_pictures.write(found, tmp_path / "x.png", "x")
    assert all("nan" not in showing.text(view) for view in found)
    assert Image.open(tmp_path / "x.png").height > 400


def test_page_has_tables_and_picture(artefact: Artefact, tmp_path: Path) -> None:
    artefact.save(tmp_path / "a.json")
    assert call("show", tmp_path / "a.json", "--out", tmp_path / "a.html").exit_code == 0
    page = (tmp_path / "a.html").read_text()
    assert page.count("<table") == 6 and "data:image/png" in page and "status: learned" in page


def test_picture_has_both_grids_where_they_are() -> None:
    """Learned and fixed boundaries lie on the axis at their own log-SNR, and network times that moved above them."""
    from matplotlib.figure import Figure

    learned = shifted()
    view = View("x", learned.tableau, recipe_of(learned), "learned")
    axes = Figure().subplots()
    table_pictures._draw_grid(axes, view)
    drawn = [(line.get_marker(), line.get_xdata()) for line in axes.lines if len(line.get_xdata()) > 2]
    assert drawn[0][1] == pytest.approx(learned.tableau.nodes.lam) and drawn[0][0] == "o"
    told = VP.nodes(VP.time_of_model(learned.tableau.model_times)).lam
    assert drawn[1][1] == pytest.approx(told) and drawn[1][0] == "|"
    assert drawn[2][1] == pytest.approx(build("dpmpp_2m", VP, 5, "quadratic").nodes.lam)


BEWARE = {
    "large weights": ({"tableau": shifted(size=30.0).tableau}, "dangerous"),
    "no gain": ({"status": "no-gain"}, "best fixed recipe"),
    "rounding": ({"report": {"size": {"learned": {"bf16": 1.7}}}}, "1.7 times"),
    "interrupted": ({"stages": [{"method": "iia", "options": {}, "interrupted": True}]}, "interrupted"),
    "times": ({"tableau": replace(shifted().tableau, model_times=shifted().tableau.model_times * 2)}, "extrapolated"),
}


@pytest.mark.parametrize("case", BEWARE)
def test_warnings(case: str) -> None:
    changed, told = BEWARE[case]
    learned = replace(shifted(), **changed)
    (view,) = views(Artefact((learned,), {"prediction": "sample"}))
    assert any(told in said for said in showing.cautions(view))
    (view,) = views(Artefact((shifted(),), {"prediction": "sample"}))
    assert showing.cautions(view) == []


def test_evaluations_on_top_of_each_other_are_told() -> None:
    times = build("dpmpp_2m", VP, 4).times.copy()
    times[2] = times[1] - 1e-6
    assert any("wasted" in said for said in showing.cautions(View("x", build("dpmpp_2m", VP, grid=times))))


def test_between_guidances_is_said_to_be_interpolated() -> None:
    both = [replace(shifted(size=s), guidance=g) for s, g in ((0.1, 1.0), (0.2, 3.0))]
    artefact = Artefact(tuple(both), {"prediction": "sample"})
    assert [view.title for view in views(artefact)] == [
        "dpmpp_2m, nfe 5, guidance 1",
        "dpmpp_2m, nfe 5, guidance 3",
    ]
    (view,) = views(artefact, guidance=2.0)
    assert any("interpolated" in said for said in showing.cautions(view))
    with pytest.raises(ValueError, match="beyond"):
        views(artefact, guidance=5.0)


WRONG = {
    "missing": (["show", "none.json"], "no file"),
    "picture": (["show", "a.json", "--out", "a.docx"], ".png"),
    "nfe": (["show", "a.json", "--nfe", "9"], "nfe 9"),
    "guidance": (["show", "a.json", "--guidance", "2"], "guidance"),
    "nfe of a table": (["show", "t.json", "--nfe", "9"], "one table of 6"),
    "cut": (["show", "cut.json"], "not a saved table"),
    "foreign": (["show", "foreign.json"], "not a saved table"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_is_one_sentence(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Artefact((shifted(),), {"prediction": "sample"}).save("a.json")
    build("unipc", VP, 6).save("t.json")
    Path("cut.json").write_text(Path("a.json").read_text()[:300])
    Path("foreign.json").write_text("[1, 2]")
    arguments, told = WRONG[case]
    result = call(*arguments)
    assert result.exit_code == 2 and result.stdout == "", result.output
    (sentence,) = result.stderr.strip().splitlines()
    assert sentence.startswith("Error: ") and told in sentence
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ring", pytest.param("sixteen", marks=pytest.mark.slow)])
def test_estimate_is_what_is_spent(name: str) -> None:
    """Every stage of auto within 30 %: estimated on the stand-in, and counted where it is really done; newton at most.

    How many rounds newton goes on is the network's to say: it ends where a round helps no more.
    """
    how = {**HOW, "shape": SHAPES[name]}
    seeds: dict[str, Any] = {"seeds": range(64), "guard_seeds": range(1000, 1032)}
    told = estimate(MIXTURES[name](), nfe=4, method=[("auto", {"steps": 40})], **seeds, **how)
    plan = planned(None, solver="auto", nfe=4, method=[("auto", {"steps": 40})], **seeds)
    counted = {c.stage: c for c in rehearse(plan, Problem(MIXTURES[name](), **how))}
    assert (
        {c.stage for c in told.stages} == set(counted) >= {"reference", "fixed recipes", "oss", "iia", "joint", "guard"}
    )
    for cost in told.stages:
        real = counted[cost.stage]
        if cost.stage == "newton":
            assert real.evaluations <= 1.3 * cost.evaluations, cost
            continue
        assert cost.evaluations == pytest.approx(real.evaluations, rel=0.3), cost
        assert cost.backward == pytest.approx(real.backward, rel=0.3), cost
    assert counted["joint"].backward > 0 and told.memory is not None and told.disk > 0


@pytest.mark.slow
def test_estimate_calls_the_model_a_few_times_only() -> None:
    denoiser = ring()
    told = estimate(denoiser, nfe=5, method="iia", seeds=range(32), guard_seeds=range(1000, 1032), **HOW)
    assert denoiser.nfe <= 5 and told.evaluations > 1000
    assert json.loads(told.to_json())["evaluations"] == told.evaluations and "evaluations" in told.text()
    twice = estimate(
        {1.0: ring(), 3.0: ring()}, nfe=5, method="iia", seeds=range(32), guard_seeds=range(1000, 1032), **HOW
    )
    assert twice.evaluations == 2 * told.evaluations


@pytest.mark.parametrize("schedule", [NoiseSchedule.flow(), NoiseSchedule.edm(), VP], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_stand_in_is_an_exact_network(schedule: NoiseSchedule, prediction: str) -> None:
    """Whatever it is asked to predict, it says the same x0, and it has gradients only where the model has."""
    own = Denoiser(lambda x, tau: x, schedule, prediction)
    problem = stand_in(Problem(own, **HOW))
    x = torch.linspace(-1, 1, 8).double().reshape(4, 2)
    t = 0.4 * schedule.t_max
    plain = stand_in(Problem(Denoiser(lambda x, tau: x, schedule, "sample"), **HOW))
    assert problem.model.x0(x, t) == pytest.approx(plain.model.x0(x, t), abs=1e-9)
    x.requires_grad_()
    assert problem.model(x, t).requires_grad
    assert not stand_in(Problem(own, **HOW), gradients=False).model(x, t).requires_grad


def test_comparison_is_paired_and_counts_the_worse(artefact: Artefact) -> None:
    told = compare_learned(artefact, ring(), nfe=[4], seeds=range(5000, 5064), against=["unipc"], **HOW)
    assert [row.recipe.split()[0] for row in told.rows] == ["dpmpp_2m", "unipc"] and not told.worse
    row, problem = told.rows[0], Problem(ring(), **HOW)
    part = problem.part(range(5000, 5064))
    reference = sample(part.denoiser, part.x_T, "dpmpp_3m", 400, grid="logsnr", lower_order_final=False)
    errors = [
        (problem.draw(table, part) - reference).square().mean(1).sqrt()
        for table in (artefact.table(4), build("dpmpp_2m", VP, 4, row.recipe.split()[2]))
    ]
    assert row.learned["rms"] == pytest.approx(float(errors[0].square().mean().sqrt()), rel=0.02)
    assert row.fixed["median"] == pytest.approx(float(errors[1].quantile(0.5)), rel=0.05)
    assert row.test["worse"] == pytest.approx(float((errors[0] > errors[1]).double().mean()), abs=0.05)


def test_a_table_is_equal_to_itself() -> None:
    """The best fixed recipe under the name of a learned one is neither better nor worse."""
    fixed = (
        compare_learned(Artefact((shifted(),), {"prediction": "sample"}), ring(), seeds=range(64), **HOW).rows[0].recipe
    )
    grid = fixed.split()[2]
    options = {"lower_order_final": "lower_order_final=True" in fixed}
    same = Artefact(
        (Learned(build("dpmpp_2m", VP, 5, grid, **options), base={"grid": grid}),), {"prediction": "sample"}
    )
    told = compare_learned(same, ring(), seeds=range(64), **HOW)
    assert told.rows[0].verdict == "equal" and not told.worse


def test_seeds_of_learning_are_refused(artefact: Artefact) -> None:
    assert used_seeds(artefact) == {*range(128), *range(1000, 1128)}
    with pytest.raises(ValueError, match="--seed 1128"):
        compare_learned(artefact, ring(), seeds=range(1100, 1200), **HOW)


def test_another_model_is_noticed(artefact: Artefact) -> None:
    other = ring()
    other.fn = lambda x, tau, fn=other.fn: 0.98 * fn(x, tau)  # type: ignore[misc]
    told = compare_learned(artefact, other, nfe=[4], seeds=range(5000, 5016), **HOW)
    assert any("weights are not those" in note for note in told.notes)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if "cache" not in METHODS[name].learns])
def test_estimate_of_every_method(name: str) -> None:
    """Each method alone, within 30 % of what it spends when it is really run,."""
    options = {"nodes": 8} if name == "brute" else {"size": 3} if name == "filter" else {}
    seeds: dict[str, Any] = {"seeds": range(128), "guard_seeds": range(1000, 1032)}
    plan = planned(None, solver="epd" if name == "epd" else "dpmpp_2m", nfe=4, method=[(name, options)], **seeds)
    problem = (
        (lambda: Problem(smooth(), **{**HOW, "shape": (2, 6, 6)}))
        if name == "filter"
        else lambda: Problem(ring(), **HOW)
    )
    told = sum(cost.evaluations for cost in extrapolated(plan, lambda: stand_in(problem())))
    counted = sum(cost.evaluations for cost in rehearse(plan, problem()))
    assert told == pytest.approx(counted, rel=0.3)
