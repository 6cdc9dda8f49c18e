"""Metrics and extractors are registered at any time, from outside too, and are then known everywhere; bad ones are refused."""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from imagesets import blobs, written
from torch import Tensor

import fewstep.registry
from fewstep import eval as fe
from fewstep.cli import main

OWN_METRICS = [
    "fid",
    "sfid",
    "kid",
    "kid_full",
    "is",
    "prdc",
    "fid_inf",
    "is_inf",
    "cmmd",
    "fid_debiased",
    "energy",
    "sliced",
    "mind",
    "f_score",
    "fid_per_class",
    "intra_fid",
    "fvd",
    "clip_score",
    "pick_score",
    "lpips_pairs",
]
OWN_EXTRACTORS = ["inception", "digits", "dinov2", "clip", "i3d", "videomae"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    for name, seed in (("real", 0), ("generated", 1)):
        written(root / name, pixels=blobs(8, seed))
    return root


@pytest.fixture
def clean() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    yield
    for registry, own in ((fe.METRICS, OWN_METRICS), (fe.EXTRACTORS, OWN_EXTRACTORS)):
        for name in set(registry) - set(own):
            registry.remove(name)


def gap(real: fe.Features, generated: fe.Features, *, power: float = 1.0) -> list[fe.Result]:
    """Distance of the means."""
    difference = real.statistics["main"].mean - generated.statistics["main"].mean
    return [fe.Result("gap", float(difference.norm() ** power))]


def thumbnails(size: int = 4) -> fe.Extractor:
    pool = torch.nn.AdaptiveAvgPool2d(size)
    return fe.Function(lambda images: pool(images.float()).flatten(1), 3 * size * size, "anything")


class Means(fe.Extractor):
    """Mean of each channel."""

    protocol, layers, parts = "own", {"means": 3}, {"main": "means"}

    def prepare(self, images: Tensor) -> Tensor:
        return images.float()

    def taps(self, x: Tensor, layers: Any) -> dict[str, Tensor]:
        return {"means": x.mean((2, 3))}


def run(*args: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in args], prog_name="fewstep")
    assert result.exit_code == code, result.output + str(result.exception)
    return result.stdout if code == 0 else result.stderr


def test_the_library_s_own_keep_their_order() -> None:
    assert list(fe.METRICS) == OWN_METRICS and list(fe.EXTRACTORS) == OWN_EXTRACTORS
    assert [line.split()[0] for line in run("metrics").splitlines()] == [*OWN_METRICS, "rmse", "psnr", "lpips"]


def test_a_metric_and_an_extractor_registered_after_the_first_look_are_known_everywhere(
    folders: Path, clean: None
) -> None:
    assert "gap" not in fe.METRICS and "thumbnails" not in fe.EXTRACTORS
    assert fe.metric("gap", reference="ours", statistics=("main",))(gap) is gap
    assert fe.register_extractor("thumbnails")(thumbnails) is thumbnails
    assert fe.register_extractor("means")(Means) is Means
    assert list(fe.METRICS) == [*OWN_METRICS, "gap"] and list(fe.EXTRACTORS) == [*OWN_EXTRACTORS, "thumbnails", "means"]

    sides = [Path(folders / name) for name in ("real", "generated")]
    expected = [
        np.mean([float(blob.mean()) for blob in blobs(8, seed)]) for seed in (0, 1)
    ]  # grey: three equal channels, so that the distance of the means is sqrt(3) times that of one
    report = fe.evaluate(*sides, ("gap", "fid"), extractor="means", progress=False)
    assert report["gap"].value == pytest.approx(3**0.5 * abs(expected[0] - expected[1]), rel=1e-5)
    assert (report["gap"].extractor, report["gap"].label, report["fid"].label) == ("means", "gap-means", "FD-means")
    squared = fe.evaluate(*sides, ("gap",), extractor="means", options={"gap": {"power": 2}}, progress=False)
    assert squared["gap"].value == pytest.approx(report["gap"].value ** 2)
    with pytest.raises(ValueError, match="unknown option of gap 'powers'. Did you mean 'power'"):
        fe.evaluate(*sides, ("gap",), extractor="means", options={"gap": {"powers": 2}}, progress=False)

    assert fe.extractor("thumbnails", size=2).layers == {"main": 12}
    assert fe.fid(*sides, extractor="thumbnails", progress=False).label == "FD-thumbnails"  # not "anything"
    said = run("eval", *sides, "--metrics", "gap,fid", "--extractor", "means", "--metric-option", "gap.power=2")
    assert "gap-means" in said and "FD-means" in said
    assert "gap" in [line.split()[0] for line in run("metrics").splitlines()]


def test_statistics_remember_a_registered_extractor(folders: Path, tmp_path: Path, clean: None) -> None:
    fe.register_extractor("means")(Means)
    fe.stats(folders / "real", tmp_path / "ref.npz", extractor="means", progress=False)
    assert fe.fid(tmp_path / "ref.npz", folders / "generated", progress=False).label == "FD-means"


def test_the_direction_of_a_registered_metric_is_that_of_its_curves(clean: None) -> None:
    from fewstep.eval.report.curve_points import Point

    @fe.metric("brightness", statistics=("main",), higher_is_better=True)
    def brightness(real: fe.Features, generated: fe.Features) -> list[fe.Result]:
        return [fe.Result("brightness", float(generated.statistics["main"].mean.sum()), groups=(1.0, 1.1))]

    features = {}
    for solver, seed in (("dark", 0), ("bright", 1)):
        pixels = (blobs(8, 0) // (2 - seed)).astype(np.uint8)
        features[solver] = fe.evaluate(
            pixels, pixels, ("brightness",), extractor="digits", layout="NHW", progress=False
        )
    values = {solver: report["brightness"].value for solver, report in features.items()}
    curves = fe.Curves([Point(solver, 5, report) for solver, report in features.items()])
    assert curves.higher_is_better("brightness") and "more is better" in curves.title("brightness")
    assert curves.best("brightness", 5) == max(values, key=values.__getitem__)
    again = fe.Report.from_dict(json.loads(features["bright"].to_json()))
    assert again["brightness"].higher_is_better


def test_notebooks_register_again_and_outsiders_can_be_removed(clean: None) -> None:
    fe.metric("gap", statistics=("main",))(gap)
    fe.metric("gap", reference="second thoughts", statistics=("main",))(gap)
    assert fe.METRICS["gap"].reference == "second thoughts"
    fe.METRICS.remove("gap")
    with pytest.raises(ValueError, match="unknown metric 'gap'"):
        fe.METRICS.find("gap")
    with pytest.raises(ValueError, match="belongs to the library"):
        fe.METRICS.remove("fid")


def no_keywords(real: Any, generated: Any, power: float = 1.0) -> list[fe.Result]:
    return []


def no_default(real: Any, generated: Any, *, power: float) -> list[fe.Result]:
    return []


def anything(real: Any, generated: Any, **more: Any) -> list[fe.Result]:
    return []


def one_set(generated: Any) -> list[fe.Result]:
    return []


class NoTaps(fe.Extractor):
    def prepare(self, images: Tensor) -> Tensor:
        return images


class Needy(Means):
    def __init__(self, path: str) -> None:
        super().__init__()


MAIN = {"statistics": ("main",)}
BAD_METRICS: dict[str, tuple[Any, dict[str, Any], Any, str]] = {
    "a name that exists": (
        "fid",
        MAIN,
        gap,
        "'fid' exists already, by fewstep.eval.metrics.fid_and_sfid: take another",
    ),
    "in another spelling": ("FID_inf", MAIN, gap, "'FID_inf' exists already.*take another name"),
    "of a paired error": ("rmse", MAIN, gap, "'rmse' exists already, as an error of paired images: take another name"),
    "no name": (3, MAIN, gap, "is a word of letters"),
    "a name with a dot": ("my.gap", MAIN, gap, "is a word of letters"),
    "no function": ("gap", MAIN, Means, "is no metric but .*: a metric is a function"),
    "an object": ("gap", MAIN, 3.0, "'gap' is no metric but float: a metric is a function"),
    "options by place": ("gap", MAIN, no_keywords, r"every option by its name, after the \*, with a default"),
    "an option without default": ("gap", MAIN, no_default, r"every option by its name, after the \*, with a default"),
    "options without names": ("gap", MAIN, anything, "every option by its name"),
    "one set": ("gap", MAIN, one_set, "two sets by place"),
    "no needs": ("gap", {}, gap, r"needs no features at all: say which, statistics=\('main',\)"),
    "unknown needs": ("gap", {"rows": ("middle",)}, gap, "tuple of parts among main, logits, spatial; got"),
    "needs as text": ("gap", {"rows": "main"}, gap, "tuple of parts among main, logits, spatial; got 'main'"),
    "unknown facts": ("gap", {**MAIN, "better": "high"}, gap, "'better'; it can say statistics, rows, real"),
}
BAD_EXTRACTORS: dict[str, tuple[Any, Any, str]] = {
    "a name that exists": ("digits", Means, "'digits' exists already, by fewstep.eval.extractors.digits: take another"),
    "in another spelling": ("DINO v2", Means, "is a word of letters"),
    "no name": ("", Means, "is a word of letters"),
    "a class of something else": ("means", torch.nn.Linear, "Linear is no extractor: derive it from"),
    "an object": ("means", 3, "'means' is no extractor but int: register a subclass of fewstep.eval.Extractor"),
    "half a class": ("means", NoTaps, "'means' lacks taps: define what fewstep.eval.Extractor asks for"),
    "needs an argument": ("means", Needy, "made from its name alone: give path a default"),
}


@pytest.mark.parametrize("case", BAD_METRICS)
def test_bad_metrics_are_refused_in_one_sentence(case: str, clean: None) -> None:
    name, facts, compute, said = BAD_METRICS[case]
    with pytest.raises(ValueError, match=said) as error:
        fe.metric(name, **facts)(compute)
    assert "\n" not in str(error.value) and list(fe.METRICS) == OWN_METRICS


@pytest.mark.parametrize("case", BAD_EXTRACTORS)
def test_bad_extractors_are_refused_in_one_sentence(case: str, clean: None) -> None:
    name, make, said = BAD_EXTRACTORS[case]
    with pytest.raises(ValueError, match=said) as error:
        fe.register_extractor(name)(make)
    assert "\n" not in str(error.value) and list(fe.EXTRACTORS) == OWN_EXTRACTORS


def test_an_extractor_that_is_made_is_given_itself(clean: None) -> None:
    with pytest.raises(ValueError, match="'means' is made already: register its class"):
        fe.register_extractor("means")(Means())  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: torch.nn.Linear(3, 3), "'mine' made Linear: its function returns an Extractor"),
        (lambda: type("Silent", (Means,), {"parts": {"logits": "means"}})(), "names a layer for 'main'"),
        (lambda: type("Lost", (Means,), {"parts": {"main": "median"}})(), "names a layer for 'main'"),
    ],
)
def test_what_a_function_makes_is_looked_at(make: Any, said: str, clean: None) -> None:
    fe.register_extractor("mine")(make)
    with pytest.raises(ValueError, match=said):
        fe.extractor("mine")


def test_a_metric_that_gives_no_results_is_told(folders: Path, clean: None) -> None:
    @fe.metric("number", statistics=("main",))
    def number(real: fe.Features, generated: fe.Features) -> Any:
        return 3.0

    assert "metric 'number' gave 3.0: its function returns a list of fewstep.eval.Result" in run(
        "eval", folders / "real", folders / "generated", "--metrics", "number", "--extractor", "digits", code=2
    )


def test_unknown_names_list_near_ones(clean: None) -> None:
    fe.register_extractor("thumbnails")(thumbnails)
    with pytest.raises(ValueError, match="unknown extractor 'thumbnail'. Did you mean 'thumbnails'?"):
        fe.extractor("thumbnail")
    with pytest.raises(ValueError, match="'thumbnails' takes no sizes; it takes size"):
        fe.extractor("thumbnails", sizes=3)


PLUGIN = """
from fewstep import eval as fe

@fe.metric("of_a_package", statistics=("main",))
def compute(real, generated):
    return [fe.Result("of_a_package", 4.25)]

@fe.register_extractor("of_a_package")
def make():
    return fe.Function(lambda images: images.float().mean((2, 3)), 3)
"""


def test_an_installed_package_brings_its_own_by_its_entry_point(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: None
) -> None:
    (tmp_path / "a_package_of_metrics.py").write_text(PLUGIN)
    info = tmp_path / "a_package_of_metrics-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-package-of-metrics\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fewstep]\nmine = a_package_of_metrics\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    monkeypatch.setattr(fewstep.registry, "_loaded", False)
    assert "of_a_package" in run("metrics")
    both = ("--metrics", "of_a_package", "--extractor", "of_a_package", "--json", "-")
    (told,) = json.loads(run("eval", folders / "real", folders / "generated", *both))["results"]
    assert (told["value"], told["extractor"]) == (4.25, "of_a_package")


def test_looking_which_there_are_imports_no_network_s_package() -> None:
    script = """
import sys
from fewstep import eval as fe
assert list(fe.EXTRACTORS)[:4] == ["inception", "digits", "dinov2", "clip"] and "fid" in fe.METRICS
print([name for name in ("transformers", "torchvision", "diffusers") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_imports_no_torch() -> None:
    script = """
import sys
from click.testing import CliRunner
from fewstep.cli import COMMANDS, main
for command in ("fid", "eval", "stats", "metrics", "compare"):
    assert CliRunner().invoke(main, [command, "--help"]).exit_code == 0
print([name for name in ("torch", "numpy", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
