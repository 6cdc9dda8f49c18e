"""Curves: paired differences see what intervals hide; tables, pictures, JSON and page say what was measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from PIL import Image

import fewstep.eval as fe
from fewstep.eval.extractors import Function
from fewstep.eval.images.generated import Generated
from fewstep.eval.report.curve_points import Point
from fewstep.eval.report.curves import Curves, shown
from fewstep.eval.report.evaluation_report import Report
from fewstep.eval.report.page_data import page_data
from fewstep.eval.report.paired_difference import difference, mean_interval
from fewstep.eval.report.result import Result


def measured(metric: str, groups: np.ndarray, **facts: Any) -> Result:
    mean, error, interval = mean_interval(groups)
    facts = {"method": "jackknife", "n": 1000, "extractor": "digits", **facts}
    return Result(metric, mean, error, interval, groups=tuple(groups), **facts)


def curves(spread: float = 0.3, noise: float = 0.01, groups: int = 10) -> Curves:
    """Three solvers: "b" is 0.1 better than "a" everywhere, "c" is as good as "b" but for noise; their groups are shared."""
    rng = np.random.default_rng(0)
    points = []
    for nfe in (20, 5, 10):
        common = 100 / nfe + spread * rng.normal(size=groups)
        for solver, offset in (("a", 0.1), ("b", 0.0), ("c", 0.0)):
            mine = common + offset + noise * rng.normal(size=groups)
            results = [measured("fid", mine), measured("is", -mine)]
            points.append(Point(solver, nfe, Report(results, notes=["small N"]), "uniform"))
    return Curves(points, {"model": "demo", "seed": 0}, ["a note"])


def test_mean_interval_is_students() -> None:
    values = np.random.default_rng(1).normal(size=7)
    mean, error, interval = mean_interval(values)
    known = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean, error) == pytest.approx((values.mean(), scipy.stats.sem(values)), rel=1e-14)
    assert interval == pytest.approx((known.low, known.high), rel=1e-12)


def test_paired_difference_is_the_paired_t_test() -> None:
    a, b = np.random.default_rng(2).normal(size=(2, 12))
    value, error, interval = difference(measured("fid", a), measured("fid", b))
    known = scipy.stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (value, *interval) == pytest.approx((a.mean() - b.mean(), known.low, known.high), rel=1e-12)
    assert error == pytest.approx(np.std(a - b, ddof=1) / 12**0.5, rel=1e-12)


@pytest.mark.parametrize("sides", [(3, 4), (0, 0), (1, 1)])
def test_no_difference_without_common_groups(sides: tuple[int, int]) -> None:
    a, b = (Result("fid", 1.0, groups=tuple(range(n))) for n in sides)
    with pytest.raises(ValueError, match=f"same two or more groups.*got {sides[0]} and {sides[1]}"):
        difference(a, b)


def test_pairs_tell_apart_what_overlapping_intervals_do_not() -> None:
    found = curves()
    a, b = (found.result("fid", s, 5) for s in "ab")
    assert a is not None and b is not None and a.interval is not None and b.interval is not None
    assert a.interval[0] < b.interval[1]  # a is worse, and alone nobody could say so
    apart = found.difference("fid", 5, "a", "b")
    assert apart is not None and apart.sure and apart.better == "b" and apart.value == pytest.approx(0.1, abs=0.02)
    assert apart.error < a.error / 10 if a.error else False
    turned = found.difference("is", 5, "a", "b")
    assert turned is not None and turned.better == "b" and turned.value < 0
    same = found.difference("fid", 5, "b", "c")
    assert same is not None and not same.sure and same.better is None
    assert len(found.differences("fid")) == 3 * 3


def test_intervals_of_paired_differences_cover() -> None:
    """A true difference lies in its 95 % interval in 95 % of runs; of groups that share most of their variance."""
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(1000):
        common = rng.normal(size=10)
        a, b = (common + offset + 0.1 * rng.normal(size=10) for offset in (0.2, 0.0))
        _, _, (low, high) = difference(measured("fid", a), measured("fid", b))
        hits += low < 0.2 < high
    assert 0.93 < hits / 1000 < 0.97


def test_order_is_the_slope_of_each_image() -> None:
    rng = np.random.default_rng(4)
    size, order = np.exp(rng.normal(size=16)), 2 + 0.1 * rng.normal(size=16)
    points = [Point("a", n, Report([measured("rmse", size * n**-order)])) for n in (5, 10, 40)]
    found = Curves(points).order("rmse", "a")
    assert found is not None and found[0] == pytest.approx(order.mean(), rel=1e-12)
    assert found[1] == pytest.approx(scipy.stats.sem(order), rel=1e-9)
    assert Curves(points[:1]).order("rmse", "a") is None and curves().order("fid", "a") is None


def test_the_table_stars_the_best_and_its_equals() -> None:
    table = curves().table("fid")
    assert (
        table.best == {(i, j) for i in (1, 2) for j in (1, 2, 3)}
        and table.caption == "FD-digits, 1000 samples, less is better"
    )
    caption, head, *rows = table.text().splitlines()
    assert head.split() == ["solver", "nfe", "5", "nfe", "10", "nfe", "20"] and [r.split()[0] for r in rows] == list(
        "abc"
    )
    assert all("±" in cell for row in table.rows for cell in row[1:])
    assert curves().table("is").caption == "IS-digits, 1000 samples, more is better"
    assert {i for i, _ in curves().table("is").best} == {1, 2}


def test_a_solver_may_lack_a_number_of_evaluations() -> None:
    some = Curves([p for p in curves().points if (p.solver, p.nfe) != ("c", 5)])
    assert some.table("fid").rows[2][1] == "-" and some.nfes == [5, 10, 20]
    assert some.difference("fid", 5, "b", "c") is None and len(some.differences("fid")) == 7
    with pytest.raises(ValueError, match="given twice"):
        Curves([*some.points, some.points[0]])
    with pytest.raises(ValueError, match="at least one point"):
        Curves([])


def test_values_without_intervals_are_shown_and_starred() -> None:
    bare = Curves([Point(s, 5, Report([Result("cmmd", v)])) for s, v in (("a", 0.123456789), ("b", 2.0))])
    assert bare.table("cmmd").rows == [["a", "0.123457"], ["b", "2"]] and bare.table("cmmd").best == {(0, 1)}
    assert bare.differences("cmmd") == []


def test_a_column_has_the_decimals_of_its_narrowest_interval() -> None:
    assert shown([12.345, None, 1.0], [0.5, None, 0.031]) == ["12.345 ± 0.500", "-", "1.000 ± 0.031"]
    assert shown([12345.678, 2.0], [200.0, None]) == ["12346 ± 200", "2"]
    assert shown([1 / 3], [0.0]) == ["0.333333"]


def test_the_page_has_distances_to_the_best_which_are_paired() -> None:
    found = page_data(curves(), ())
    assert [metric["name"] for metric in found["metrics"]] == ["fid", "is"]
    for point in found["points"]:
        apart, name = point["values"]["fid"]["apart"], found["entrants"][point["entrant"]]["label"]
        assert (apart is None) == (curves().best("fid", point["nfe"]) == name)
        if name == "a":
            assert apart["value"] == pytest.approx(0.1, abs=0.02) and apart["half"] < 0.02


def test_text_and_json_say_everything(tmp_path: Path) -> None:
    found = curves()
    text = found.text()
    assert "interval of FD-digits, IS-digits: jackknife" in text and text.count("small N") == 1 and "a note" in text
    found.to_json(tmp_path / "c.json")
    back = Curves.from_json(tmp_path / "c.json")
    assert back.as_dict() == found.as_dict() and back.text() == text
    told = found.as_dict()["differences"]
    assert len(told) == 18 and told[0]["metric"] == "fid" and {d["better"] for d in told} == {"b", "c", None}


def test_the_legend_names_the_lines_and_bars_stand_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))[1])
    pictures = curves().pictures(tmp_path)
    assert [p.name for p in pictures] == ["curve-fid.png", "curve-is.png"] and len(drawn) == 2
    axes = drawn[0].axes[0]
    assert sorted(t.get_text() for t in axes.get_legend().get_texts()) == ["a", "b", "c"]
    assert axes.get_yscale() == "log" and drawn[1].axes[0].get_yscale() == "linear"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["5", "10", "20"]
    bars = [segment[0][0] for c in axes.collections for segment in c.get_segments()[:1]]
    assert len(bars) == len(set(bars)) == 3
    with Image.open(pictures[0]) as image:
        image.load()
        assert image.width > 800


def test_one_page(tmp_path: Path) -> None:
    found = curves()
    found.to_html(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for text in ("Solvers on demo", "a note", "small N", "at 5 evaluations", "paired by seeds", "jackknife"):
        assert text in page, text
    assert page.count("<table") >= 2 * 2 and "http:" not in page and "https:" not in page


# What follows draws with the embedded model.
SHORT = {"solver": "dpmpp_2m", "nfe": 8, "grid": "karras"}
EXTRACTOR = Function(lambda x: x[:, 0].unfold(1, 7, 7).unfold(2, 7, 7).float().mean((3, 4)).flatten(1), 16, "blocks")
SWEEP: dict[str, Any] = {
    "solvers": ("ddim", "dpmpp_2m"),
    "nfe": (2, 3),
    "metrics": ("fid", "kid_full", "rmse"),
    "number": 20,
    "seed": 3,
    "pairs": 2,
    "reference": SHORT,
    "evaluation": {"extractor": EXTRACTOR},
    "batch_size": 10,
}


@pytest.fixture(scope="module")
def real() -> torch.Tensor:
    return torch.randint(0, 256, (40, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def swept(real: torch.Tensor) -> Curves:
    return fe.curve("demo", real=real, **SWEEP)


@pytest.mark.slow
def test_a_point_is_the_evaluation_of_the_same_seeds(swept: Curves, real: torch.Tensor) -> None:
    assert [(p.solver, p.nfe) for p in swept.points] == [(s, n) for s in ("ddim", "dpmpp_2m") for n in (2, 3)]
    images = Generated("demo", "dpmpp_2m", 3, seeds=range(3, 23), batch_size=10)
    alone = fe.evaluate(real, images, ("fid", "kid_full"), extractor=EXTRACTOR, batch_size=10)
    for metric in ("fid", "kid_full"):
        found = swept.result(metric, "dpmpp_2m", 3)
        assert found is not None and found.groups and found.n == 20 and found.n_real == 40
        assert found.value == pytest.approx(float(alone[metric]), rel=1e-9)
        assert found.groups == pytest.approx(alone[metric].groups, rel=1e-9)
    errors = fe.paired("demo", ("dpmpp_2m",), (3,), 2, 3, reference=SHORT, metrics=("rmse",))
    found, expected = (c.result("rmse", "dpmpp_2m", 3) for c in (swept, errors))
    assert found is not None and expected is not None and found.groups == pytest.approx(expected.groups, rel=1e-5)
    assert swept.about["real"] == "an array (40, 3, 28, 28)" and swept.about["pairs"] == 2


@pytest.mark.slow
def test_a_folder_has_pictures_page_and_figures(swept: Curves, tmp_path: Path) -> None:
    written = swept.write(tmp_path / "out")
    assert [p.name for p in written] == [
        "curve-fid.png", "curve-kid_full.png", "curve-rmse.png", "samples.png", "report.html", "results.json"
    ]  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(p.name for p in written)
    assert Curves.from_json(written[-1]).text() == swept.text()
    assert swept.write(tmp_path / "one.html") == [tmp_path / "one.html"]
    assert (tmp_path / "one.html").read_text().count("data:image/png;base64,") == 5 * 2  # four points and the reference


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on(
    swept: Curves, real: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Any, int]] = []
    draw = Generated._pictures

    def counted(self: Generated, seeds: Sequence[int]) -> Any:
        if len(drawn) == limit:
            raise KeyboardInterrupt
        drawn.append((self.spec["solver"], self.spec["nfe"]))
        return draw(self, seeds)

    monkeypatch.setattr(Generated, "_pictures", counted)
    limit = 5  # two batches a point: in the middle of the third point
    with pytest.raises(KeyboardInterrupt):
        fe.curve("demo", real=real, state=tmp_path, **SWEEP)
    limit = 100
    again = fe.curve("demo", real=real, state=tmp_path, **SWEEP)
    assert set(drawn[5:]) == {("dpmpp_2m", 2), ("dpmpp_2m", 3)} and len(drawn) <= 5 + 4
    limit = len(drawn)  # all is there: nothing may be drawn again
    monkeypatch.setattr("fewstep.eval.shared_noise.trials.drawn", None)
    third = fe.curve("demo", real=real, state=tmp_path, **SWEEP)
    for found in (again, third):
        for metric in ("fid", "kid_full", "rmse"):
            for solver in ("ddim", "dpmpp_2m"):
                for n in (2, 3):
                    a, b = found.result(metric, solver, n), swept.result(metric, solver, n)
                    assert a is not None and b is not None and a.value == pytest.approx(b.value, rel=1e-9)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"metrics": ("fdi",)}, "unknown metric 'fdi'.*fid"),
        ({"metrics": ()}, "one metric or more, each once; got none"),
        ({"nfe": (5, 5)}, "one nfe or more, each once; got 5, 5"),
        ({"nfe": (0,)}, "at least 1; got 0"),
        ({"solvers": ("ddmi",)}, "unknown solver 'ddmi'.*ddim"),
        ({"solvers": ("dpm_adaptive",)}, "dpm_adaptive chooses its own steps"),
        ({"grid": "auto"}, "leave fid away, or name a grid"),
        ({"grid": "karas"}, "karras"),
        ({"number": 1}, "`number` must be a whole number, at least 2; got 1"),
        ({"real": None}, "give `real`"),
        ({"options": {"oder": 2}}, "oder"),
    ],
)
def test_bad_input_before_a_model_is_loaded(how: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fe.curve("/no/such/model", **{"solvers": ("ddim",), "real": "mnist", **how})


def test_curves_of_paired_metrics_need_no_real_images() -> None:
    found = fe.curve("demo", ("ddim", "dpm_adaptive"), (3,), metrics=("rmse",), pairs=2, reference=SHORT, grid="auto")
    assert [p.solver for p in found.points] == ["ddim"] and set(found.samples) == {("ddim", 3), ("reference", 8)}
