"""Distances class by class against a direct computation, with labels from folders, tensors, files and in a Meter."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor

import fewstep.eval as fe
from fewstep.cli import main

HOW: dict[str, Any] = {"progress": False}


def thumbnails() -> fe.Extractor:
    """Features of 12 numbers."""
    pool = torch.nn.AdaptiveAvgPool2d(2)
    return fe.Function(lambda images: pool(images.float()).flatten(1), 12, "thumbnails")


def pictures(n: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def directly(real: Tensor, generated: Tensor, real_labels: Any, labels: Any) -> dict[str, float]:
    """numpy's covariances of each class."""
    found = {}
    for label in sorted(set(map(str, np.asarray(labels).tolist()))):
        sides = []
        for images, classes in ((real, real_labels), (generated, labels)):
            rows = thumbnails()(images).double().numpy()[[str(c) == label for c in np.asarray(classes).tolist()]]
            sides += [rows.mean(0), np.cov(rows.T)]
        found[label] = fe.frechet_distance(*sides)
    return found


def test_each_class_and_their_mean_are_computed_directly() -> None:
    real, generated = pictures(90, 0), pictures(70, 1)
    theirs, ours = torch.arange(90) % 3, [i * 7 % 3 for i in range(70)]
    expected = directly(real, generated, theirs, ours)
    report = fe.evaluate(
        real, generated, ("fid_per_class", "intra_fid"), extractor=thumbnails(), labels=ours, real_labels=theirs,
        batch_size=16, **HOW,
    )  # fmt: skip
    assert list(report) == ["fid[0]", "fid[1]", "fid[2]", "intra_fid"]
    for label, value in expected.items():
        assert report[f"fid[{label}]"].value == pytest.approx(value, rel=1e-9)
    assert report["intra_fid"].value == pytest.approx(np.mean(list(expected.values())), rel=1e-9)
    assert report["fid[1]"].label == "FD-thumbnails[1]" or report["fid[1]"].label == "FD[1]-thumbnails"
    assert (report["fid[1]"].n, report["fid[1]"].n_real) == (ours.count(1), 30)
    assert report["fid[1]"].interval is not None and report["intra_fid"].details["fewest"] == min(
        map(ours.count, range(3))
    )


def test_labels_of_folders_of_files_and_of_a_meter_are_one(tmp_path: Path) -> None:
    real, generated = pictures(40, 0), pictures(30, 1)
    theirs, ours = ["cat", "dog"] * 20, ["dog"] * 12 + ["cat"] * 18
    for name, images, labels in (("real", real, theirs), ("generated", generated, ours)):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            place = tmp_path / name / label
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i}.png")
    expected = directly(real, generated, theirs, ours)
    how: dict[str, Any] = {"extractor": thumbnails(), **HOW}
    by_folder = fe.evaluate(tmp_path / "real", tmp_path / "generated", ("fid_per_class",), **how)
    assert [by_folder[f"fid[{c}]"].value for c in ("cat", "dog")] == pytest.approx(list(expected.values()), rel=1e-9)
    fe.stats(tmp_path / "real", tmp_path / "real.npz", rows=True, **how)
    by_file = fe.evaluate(tmp_path / "real.npz", generated, ("fid_per_class",), labels=ours, **how)
    assert by_file["fid[dog]"].value == pytest.approx(expected["dog"], rel=1e-9)
    meter = fe.Meter(None, ("fid_per_class",), extractor=thumbnails(), batch_size=8)
    meter.update(real, real=True, labels=theirs)
    meter.update(generated[:13], labels=ours[:13])
    state = meter.state_dict()
    other = fe.Meter(None, ("fid_per_class",), extractor=thumbnails(), batch_size=8)
    other.load_state_dict(state)
    other.update(generated[13:20], labels=ours[13:20])
    third = fe.Meter(None, ("fid_per_class",), extractor=thumbnails(), batch_size=8)
    third.update(generated[20:], labels=ours[20:])
    report = other.merge(third).compute()
    assert [report[f"fid[{c}]"].value for c in ("cat", "dog")] == pytest.approx(list(expected.values()), rel=1e-9)


def test_by_name_at_the_command_line(tmp_path: Path) -> None:
    for name, seed in (("real", 0), ("generated", 1)):
        for i, image in enumerate(pictures(16, seed)):
            place = tmp_path / name / str(i % 2)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i}.png")
    words = ["eval", str(tmp_path / "real"), str(tmp_path / "generated"), "--extractor", "digits"]
    result = CliRunner().invoke(main, [*words, "--metrics", "fid_per_class,intra_fid"])
    assert result.exit_code == 0 and "intra-FD-digits" in result.output and "[1]" in result.output, result.output


def test_labels_in_files_and_of_what_a_model_draws(tmp_path: Path) -> None:
    real, generated, ours = pictures(16, 0), pictures(16, 1), ["b", "a"] * 8
    for name, images in (("real", real), ("generated", generated)):
        np.savez(tmp_path / f"{name}.npz", images.permute(0, 2, 3, 1).numpy())
    (tmp_path / "labels.txt").write_text("\n".join(ours) + "\n", encoding="utf-8")
    np.save(tmp_path / "labels.npy", np.arange(16) // 8)
    words = ["eval", str(tmp_path / "real.npz"), str(tmp_path / "generated.npz"), "--extractor", "digits"]
    words += ["--metrics", "intra_fid", "--json", "-"]

    def told(*more: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, [*words, *more])
        return result.exit_code, result.output

    code, output = told("--labels", str(tmp_path / "labels.txt"), "--real-labels", str(tmp_path / "labels.txt"))
    how: dict[str, Any] = {"extractor": "digits", **HOW}
    expected = fe.evaluate(real, generated, ("intra_fid",), labels=ours, real_labels=ours, **how)["intra_fid"].value
    assert code == 0 and f"{expected:.9f}"[:8] in output, output
    code, output = told("--labels", str(tmp_path / "labels.npy"), "--real-labels", str(tmp_path / "labels.txt"))
    assert code == 2 and "the generated images have '0', and the real ones do not" in output, output
    code, output = told("--labels", str(tmp_path / "none.txt"))
    assert code == 2 and "there is no file" in output
    (tmp_path / "labels.txt").write_text("a\n\nb\n", encoding="utf-8")
    code, output = told("--labels", str(tmp_path / "labels.txt"))
    assert code == 2 and "line 2 of" in output

    seen: list[Any] = []

    @fe.metric("classes_of_test", rows=("main",), labelled=True, real=False)
    def classes_of_test(_: Any, drawn: Any) -> list[Any]:
        seen.append(drawn.labels.tolist())
        return [fe.Result("classes_of_test", 0.0)]

    try:
        how = {"evaluation": {"extractor": "digits", "progress": False}, "classes": [7, 3, 1]}
        fe.curve("demo", ("ddim",), (1, 2), None, ("classes_of_test",), 5, 1, **how)
    finally:
        fe.METRICS.remove("classes_of_test")
    assert seen == [["3", "1", "7", "3", "1"]] * 2


def test_bad_input(tmp_path: Path) -> None:
    real, generated = pictures(8, 0), pictures(8, 1)
    how: dict[str, Any] = {"extractor": thumbnails(), **HOW}
    ours = [0, 0, 0, 0, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="7 labels were given for 8 images, the generated images"):
        fe.evaluate(real, generated, ("intra_fid",), labels=ours[:7], real_labels=ours, **how)
    with pytest.raises(ValueError, match="the real images have no labels: put the images of each class into a folder"):
        fe.evaluate(real, generated, ("intra_fid",), labels=ours, **how)
    with pytest.raises(ValueError, match="whole numbers or words"):
        fe.evaluate(real, generated, ("intra_fid",), labels=torch.rand(8), real_labels=ours, **how)
    with pytest.raises(ValueError, match="the generated images have '2', and the real ones do not"):
        fe.evaluate(real, generated, ("intra_fid",), labels=[0, 0, 0, 2, 1, 1, 1, 2], real_labels=ours, **how)
    with pytest.raises(ValueError, match="class '1' has 1 image"):
        fe.evaluate(real, generated, ("intra_fid",), labels=[0] * 7 + [1], real_labels=ours, **how)
    meter = fe.Meter(real, ("intra_fid",), real_labels=ours, extractor=thumbnails())
    with pytest.raises(ValueError, match="3 labels were given for 8 images"):
        meter.update(generated, labels=[1, 2, 3])
    with pytest.raises(ValueError, match="the generated images have no labels"):
        meter.update(generated)
