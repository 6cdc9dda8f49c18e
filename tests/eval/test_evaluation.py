"""`evaluate`: every kind of set against every other, one extractor, and what cannot be compared is refused in words."""

import numpy as np
import pytest
import torch
from imagesets import blobs, written
from PIL import Image

import fewstep
from fewstep import eval as fe
from fewstep.eval.extractors import Function
from fewstep.eval.gaussian.statfile import bundled, load


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    for name, seed in (("real", 0), ("generated", 1)):
        images = blobs(60, seed)
        written(root / name, [f"{k:02d}.png" for k in range(60)], images)
        np.savez(root / f"{name}.npz", arr_0=np.repeat(images[..., None], 3, -1))
    return root


ALL = ("fid", "kid", "kid_full", "is", "is_inf", "prdc", "fid_inf")
SMALL = {
    "kid": {"subsets": 5, "subset_size": 20},
    "fid_inf": {"fits": 5, "smallest": 20},
    "is_inf": {"fits": 5, "smallest": 20},
    "is": {"splits": 3},
}


def test_all_metrics_in_one_pass(sets):
    calls = []
    digits = fe.extractor("digits")
    watched = digits.taps
    digits.taps = lambda x, layers: (calls.append(len(x)), watched(x, layers))[1]
    with pytest.warns(UserWarning):
        report = fe.evaluate(
            sets / "real", sets / "generated", ALL, extractor=digits, options=SMALL, batch_size=16, progress=False
        )
    assert sum(calls) == 120
    assert list(report) == [*ALL[:5], "precision", "recall", "density", "coverage", "fid_inf"]
    for name, result in report.items():
        assert (result.n, result.extractor, result.protocol, result.hash) == (60, "digits", "28x28", digits.hash)
        assert result.n_real == (None if name in ("is", "is_inf") else 60)
        assert result.layer == ("logits" if name in ("is", "is_inf") else "features")
        assert result.interval is None or result.interval[0] <= result.value <= result.interval[1]
    assert report["fid"].interval is not None and "FD-digits" in report.table()
    assert report.about["extractor_hash"] == digits.hash


def test_every_kind_of_set_gives_the_same_value(sets, tmp_path):
    how = {"extractor": "digits", "progress": False}
    value = float(fe.fid(sets / "real", sets / "generated", **how))
    real, generated = (np.load(sets / f"{name}.npz")["arr_0"] for name in ("real", "generated"))
    ref = tmp_path / "ref.npz"
    fe.stats(sets / "real", ref, rows=True, **how)
    for a, b in (
        (sets / "real.npz", sets / "generated.npz"),
        (real, torch.tensor(generated).permute(0, 3, 1, 2)),
        (ref, sets / "generated"),
        (fe.stats(real, **how), iter(np.array_split(generated, 7))),
        (load(ref), generated),
    ):
        assert float(fe.fid(a, b, **how)) == pytest.approx(value, rel=1e-6)
    assert float(fe.fid(ref, ref)) < 1e-9
    whole = fe.evaluate(sets / "real", generated, ("kid_full", "prdc"), **how)
    from_file = fe.evaluate(ref, generated, ("kid_full", "prdc"), progress=False)
    assert [float(whole[m]) for m in whole] == pytest.approx([float(from_file[m]) for m in whole], abs=1e-6)


def test_batches_change_nothing_to_nine_digits(sets):
    values = [
        float(fe.fid(sets / "real", sets / "generated", extractor="digits", batch_size=b, workers=w, progress=False))
        for b, w in ((64, 0), (7, 2))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_a_pipeline_is_a_set(tmp_path):
    pipe = fewstep.load_demo_pipeline()
    how = {"solver": "dpmpp_2m", "nfe": 2, "classes": range(10), "progress": False, "batch_size": 8}
    drawn = fe.fid("mnist", pipe, number=12, **how)
    folder = tmp_path / "images"
    for indices, images in fe.Generated("demo", "dpmpp_2m", 2, number=12, batch_size=8, keep=folder).read(
        [range(8), range(8, 12)]
    ):
        assert len(indices) == len(images)
    saved = fe.fid("mnist", folder, progress=False, batch_size=8)
    assert drawn.value == pytest.approx(saved.value, rel=1e-12) and drawn.n == saved.n == 12
    assert drawn.label == "FD-digits" and drawn.n_real == 60000
    assert "dpmpp_2m" in fe.evaluate("mnist", pipe, number=4, **how).about["generated"]


def test_an_adm_file_serves_both_its_statistics_and_its_images(sets, tmp_path):
    extractor = Function(lambda x: torch.nn.functional.adaptive_avg_pool2d(x.float(), (2, 2)).flatten(1), 12, "pooled")
    images = np.load(sets / "real.npz")["arr_0"]
    features = fe.stats(sets / "real", extractor=extractor, progress=False)
    moments = features.statistics["main"]
    np.savez(tmp_path / "adm.npz", arr_0=images[:30], mu=moments.mean + 1, sigma=moments.cov)
    report = fe.evaluate(tmp_path / "adm.npz", sets / "generated", ("fid", "prdc"), extractor=extractor, progress=False)
    direct = fe.evaluate(images[:30], sets / "generated", ("prdc",), extractor=extractor, progress=False)
    assert float(report["precision"]) == float(direct["precision"])
    assert report["fid"].n_real is None
    assert any("does not say" in note for note in report.notes)


def test_inception_score_needs_no_real_images(sets):
    (name,) = report = fe.evaluate(
        None, sets / "generated", ("is",), extractor="digits", options={"is": {"splits": 2}}, progress=False
    )
    assert name == "is" and 1 <= float(report["is"]) <= 10


def test_only_the_first_generated_images(sets):
    report = fe.evaluate(sets / "real", sets / "generated", extractor="digits", number=25, progress=False)
    assert (report["fid"].n, report["fid"].n_real) == (25, 60)


def test_skipped_images_are_counted_and_said(sets, tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in sorted((sets / "generated").iterdir())[:9]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "x.png").write_bytes(b"")
    with pytest.raises(ValueError, match="x.png.*skip_bad"):
        fe.fid("mnist", folder, progress=False)
    with pytest.warns(UserWarning, match="passed over"):
        report = fe.evaluate("mnist", folder, skip_bad=True, progress=False)
    assert report["fid"].n == 9 and any("passed over" in note for note in report.notes)


def test_one_lossy_side_is_said(sets, tmp_path):
    folder = tmp_path / "jpegs"
    folder.mkdir()
    for path in sorted((sets / "generated").iterdir())[:9]:
        Image.open(path).save(folder / f"{path.stem}.jpg")
    report = fe.evaluate(sets / "real", folder, extractor="digits", progress=False)
    assert any("lossy" in note for note in report.notes)


BAD = {
    "no metric": (lambda s: fe.evaluate(s / "real", s / "real", ("fit",)), "unknown metric 'fit'"),
    "twice": (lambda s: fe.evaluate(s / "real", s / "real", ("fid", "fid")), "named twice"),
    "no such option": (
        lambda s: fe.evaluate(s / "real", s / "real", ("kid",), options={"kid": {"subset": 3}}),
        "unknown option of kid 'subset'",
    ),
    "option of another": (lambda s: fe.evaluate(s / "real", s / "real", options={"kid": {}}), "not among the metrics"),
    "no reals": (lambda s: fe.evaluate(None, s / "real"), "give `real`"),
    "nothing there": (lambda s: fe.fid(s / "real", s / "nothing", extractor="digits"), "does not exist"),
    "solver without pipeline": (lambda s: fe.fid(s / "real", s / "real", solver="ddim"), "only a pipeline"),
    "extractor": (lambda s: fe.fid(s / "real", s / "real", extractor="digit"), "Did you mean 'digits'"),
    "protocol of digits": (
        lambda s: fe.fid(s / "real", s / "real", extractor="digits", protocol="tf"),
        "takes no protocol",
    ),
    "another extractor": (
        lambda s: fe.fid("mnist", s / "real", extractor=Function(lambda x: x.float().mean((2, 3)), 3, "means")),
        "different extractors cannot be compared",
    ),
    "no spatial layer": (lambda s: fe.evaluate(s / "real", s / "real", ("sfid",), extractor="digits"), "no 'spatial'"),
    "rows that are not there": (lambda s: fe.evaluate("mnist", s / "real", ("kid",)), "lack all main features"),
    "written as": (lambda s: fe.stats(s / "real", "ref.json", extractor="digits"), "written as .npz"),
    "too few for kid": (
        lambda s: fe.evaluate(s / "real", s / "real", ("fid", "kid"), extractor="digits"),
        "needs at least 1000",
    ),
    "too few for fid_inf": (
        lambda s: fe.evaluate("mnist", s / "real", ("fid_inf",), extractor="digits"),
        "150 images; the generated set has 60: give more, or fewer fits",
    ),
    "the second is not there": (lambda s: fe.fid(s / "real", s / "nowhere", extractor="digits"), "does not exist"),
    "one image": (lambda s: fe.fid(s / "real", blobs(1, 0), extractor="digits", layout="NHW"), "at least 2 images"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_the_first_network_call(sets, case, tmp_path, monkeypatch):
    from fewstep.eval.extractors import digits

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(digits.Digits, "taps", lambda *_: pytest.fail("a network was called"))
    act, said = BAD[case]
    with pytest.raises(ValueError, match=said):
        act(sets)
    assert not list(tmp_path.iterdir())


def test_statistics_of_other_weights_are_refused(sets, tmp_path):
    fe.stats(sets / "real", tmp_path / "ref.npz", extractor="digits", progress=False)
    other = fe.extractor("digits")
    with torch.no_grad():
        other.network.head.bias.add_(1)
    with pytest.raises(ValueError, match="different weights cannot be compared"):
        fe.fid(tmp_path / "ref.npz", sets / "generated", extractor=other, progress=False)


def test_dimensions_that_differ_are_refused(sets, tmp_path):
    np.savez(tmp_path / "ref.npz", mu=np.zeros(7), sigma=np.eye(7))
    with pytest.raises(ValueError, match="7 and 64 dimensions"):
        fe.fid(tmp_path / "ref.npz", sets / "generated", extractor="digits", progress=False)


def test_bundled_statistics_are_those_of_the_embedded_classifier():
    assert set(bundled()) == {"mnist", "mnist-test"}
    digits = fe.extractor("digits")
    for name, n in (("mnist", 60000), ("mnist-test", 10000)):
        found = load(name)
        assert found.n == n and found.meta.hash == digits.hash and found.meta.source.startswith("MNIST")
    assert len(load("mnist-test").rows["main"]) == 10000
    assert 0.01 < float(fe.fid("mnist", "mnist-test")) < 0.2  # two halves of one world


def test_public_names_are_what_they_say():
    for name in fe.__all__:
        assert callable(getattr(fe, name)) or name in ("METRICS", "EXTRACTORS"), name
    assert fewstep.eval is fe
