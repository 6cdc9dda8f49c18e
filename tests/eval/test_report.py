"""A report says every digit, reads back as it was, and has the remarks that its numbers call for."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep.eval.gaussian.features import Meta
from fewstep.eval.report.evaluation_report import Report, plain
from fewstep.eval.report.remarks import notes
from fewstep.eval.report.result import Result


def fid(value: float = 1 / 3, **facts: object) -> Result:
    usual = {"n": 50_000, "n_real": 60_000, "extractor": "inception", "protocol": "tf", "layer": "2048", "hash": "ab12"}
    return Result("fid", value, **{**usual, "published": True, **facts})  # type: ignore[arg-type]


def kid() -> Result:
    details = {
        "sd": np.float64(0.1),
        "subsets": np.arange(3),
        "slope": torch.tensor(2.0),
        "path": Path("a"),
        "x": np.inf,
    }
    under = {"n": 50_000, "n_real": 60_000, "extractor": "inception", "published": True}
    return Result("kid", 0.01, 1e-3, (0.008, 0.012), "U-statistic", details=details, **under)


def test_a_report_is_a_mapping_of_results() -> None:
    report = Report([fid(), kid()], {"generated": "x"})
    assert list(report) == ["fid", "kid"] and len(report) == 2 and "kid" in report
    assert report["fid"].value == 1 / 3 and float(report["kid"]) == 0.01 and "FID 0.333333" in repr(report)
    with pytest.raises(KeyError, match="'sfid' was not measured; this report has fid, kid"):
        report["sfid"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_report_of_what_is_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="FID is .*features"):
        Report([fid(value)])


def test_no_report_of_nothing_or_of_the_same_twice() -> None:
    with pytest.raises(ValueError, match="at least one result"):
        Report([])
    with pytest.raises(ValueError, match="'fid' was given twice"):
        Report([fid(), fid()])


def test_json_has_every_digit_and_reads_back(tmp_path: Path) -> None:
    groups = tuple(np.random.default_rng(0).normal(size=10))
    first = fid(np.nextafter(3.0, 4.0), groups=groups, interval=(np.float32(0.1), 5.0))
    report = Report([first, kid()], {"seeds": range(2), "real": Path("r")})
    text = report.to_json(tmp_path / "deep" / "r.json")
    back = Report.from_json(tmp_path / "deep" / "r.json")
    assert back["fid"].value == first.value and back["fid"].groups == groups and back["fid"].hash == "ab12"
    assert back["fid"].interval == (float(np.float32(0.1)), 5.0)
    assert back["kid"].details == {"sd": 0.1, "subsets": [0, 1, 2], "slope": 2.0, "path": "a", "x": None}
    assert back.to_json() == text == Report.from_json(text).to_json() and back.about == {"seeds": [0, 1], "real": "r"}
    told = json.loads(text)
    assert told["library"].startswith("fewstep ") and told["results"][0]["label"] == "FID"
    assert "NaN" not in text and "Infinity" not in text and [p.name for p in tmp_path.rglob("*.*")] == ["r.json"]


@pytest.mark.parametrize("text", ['{"rows": []}', "{", '{"about": {}, "notes": [], "results": [{"name": 3}]}'])
def test_other_json_is_no_report(text: str) -> None:
    with pytest.raises(ValueError, match="is no report.*Report.to_json"):
        Report.from_json(text)


def test_plain_keeps_what_json_has() -> None:
    value = {"a": [1, 2.5, None, True, "s"], "b": {"c": (1,)}}
    assert plain(value) == {"a": [1, 2.5, None, True, "s"], "b": {"c": [1]}}
    assert plain({1: {"d": {3}}, "n": [float("nan")], "t": torch.float16}) == {
        "1": {"d": [3]},
        "n": [None],
        "t": "torch.float16",
    }


def test_the_table_says_value_interval_counts_and_features() -> None:
    under = {"n": 1000, "extractor": "digits", "protocol": "28x28", "layer": "f"}
    digits = Result("fid", 12.25, 0.5, (11.25, 13.25), "influences of 100 of the images", **under)
    head, line, *below = Report([digits]).table().splitlines()
    assert head.split("  ")[0] == "metric" and "95 % interval" in head
    assert line.split("  ")[0] == "FD-digits" and "28x28, layer f, fp32" in line
    assert line.split()[-6:] == ["fp32", "12.25", "[11.25,", "13.25]", "1000", "-"]
    assert below == ["interval of FD-digits: influences of 100 of the images"]
    assert Report([fid(n=10)]).table().splitlines()[-1].startswith("note: FID of 10 images is far above")


def said(results: list[Result], real: Meta | None = None, generated: Meta | None = None) -> str:
    return "\n".join(notes(results, real, generated))


def test_usual_numbers_need_no_remark() -> None:
    png = Meta("inception", "tf", "ab12", source="a folder", lossy=False, published=True)
    assert notes([fid(), kid()], png, png) == []


def test_remarks_on_numbers_of_images() -> None:
    assert "FID of 2047 images is far above its value at many" in said([fid(n=2047)])
    assert (
        said([fid(n=2048)])
        == "FID is of 2048 images, papers' of 50000; it falls with N, so compare it only at equal N."
    )
    assert "not recorded" in said([fid(n=None)])
    assert "reference of FID has 2000 images" in said([fid(n_real=2000)])
    assert said([fid(n=100, extractor="digits"), Result("kid", 0.1, n=100, extractor="inception")]) == ""


def test_remarks_on_how_images_and_features_were_made() -> None:
    jpeg, png = Meta(protocol="tf", source="a", lossy=True), Meta(protocol="tf", source="b", lossy=False)
    assert "reference images are lossy files and the generated ones are not" in said([fid()], jpeg, png)
    assert "generated images are lossy files" in said([fid()], png, jpeg)
    assert said([fid()], jpeg, jpeg) == said([fid()], Meta(source="c", protocol="tf"), jpeg) == ""
    assert "3 unreadable generated images" in said([fid()], png, Meta(protocol="tf", skipped=3))
    assert "taken for 'tf' ones" in said([fid()], Meta(source="ref.npz"), png)
    assert said([fid(precision="bf16"), kid().under(precision="bf16")]).count("bf16") == 1


def test_the_page_has_table_pictures_facts_and_remarks(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "sheet.png")
    Report([fid(n=300), kid()], {"generated": "a <b> folder"}).to_html(tmp_path / "r.html", [tmp_path / "sheet.png"])
    page = (tmp_path / "r.html").read_text()
    assert "<h1>FID, KID</h1>" in page and ">0.333333" in page and "[0.008, 0.012]" in page
    assert "a &lt;b&gt; folder" in page and "FID of 300 images" in page and page.count("data:image/png;base64,") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html", "sheet.png"]
