"""A bit that flips in any file of evaluation is found, or changes nothing: never another number, never a traceback."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from places import BEFORE
from tiny_features import EXTRACTOR, D

from fewstep.eval import Curves, Features, FeatureStatistics, Report, Result, evaluate, fid
from fewstep.eval.gaussian.features import Meta
from fewstep.eval.gaussian.statfile import load, located, save
from fewstep.eval.images import image_set
from fewstep.eval.passes.collect import collect
from fewstep.eval.report.curve_points import Point
from fewstep.output.seal import SEAL

FEW, MANY = 6, 110  # flips of a kind of file


def rows(n: int, d: int = D, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed))


def statistics(path: Path, n: int, features: bool = False) -> Path:
    x = rows(n)
    meta = Meta("inception", "tf", "abc", source="images", published=True)
    kept = {"main": x.numpy()} if features else {}
    save(path, Features(n, {"main": FeatureStatistics(D).update(x)}, kept, meta))
    return path


def told(path: Path) -> Any:
    """All that a file of statistics says, as numbers and text."""
    found = load(path)
    main = found.statistics["main"].gaussian()
    arrays = [main.mean, main.cov, main.factor, *(torch.from_numpy(np.array(x)) for x in found.rows.values())]
    about = (found.n, found.layers, {**vars(found.meta), "source": ""})
    return about, [x.numpy().tobytes() for x in arrays]


def images(path: Path) -> Any:
    made = image_set(path)
    return [image.numpy().tobytes() for _, some in made.stream(8) for image in some]


def report(path: Path) -> Path:
    results = [
        Result("fid", 12.5, 0.25, (12.0, 13.0), "a way", n=99, extractor="inception", hash="abc", groups=(1.0, 2.5))
    ]
    Report(results, {"real": "a", "seconds": 1.5}).to_json(path)
    return path


def curves(path: Path) -> Path:
    points = [Point("ddim", n, Report([Result("rmse", 1 / n, n=4, groups=(0.1, 0.2 / n))]), "karras") for n in (4, 8)]
    Curves(points, {"model": "demo", "pairs": 2}, ["a note"]).to_json(path)
    return path


def foreign(path: Path) -> Path:
    x = rows(300).numpy()
    np.savez(path, mu=x.mean(0), sigma=np.cov(x.T))
    return path


def tensor(path: Path) -> Path:
    torch.save(rows(50), path)
    return path


def pictures(path: Path, save_arrays: Callable[..., None]) -> Path:
    save_arrays(path, np.random.default_rng(0).integers(0, 255, (6, 8, 8, 3), np.uint8))
    return path


# Name -> (a file that is made at a path, what it says).
KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "few.npz": (lambda path: statistics(path, D - 2), told),
    "many.npz": (lambda path: statistics(path, 400), told),
    "features.npz": (lambda path: statistics(path, 60, True), told),
    "before.npz": (lambda path: Path(shutil.copy(BEFORE / "statistics.npz", path)), told),
    "bundled.npz": (lambda path: Path(shutil.copy(located("mnist"), path)), told),
    "foreign.npz": (foreign, told),
    "features.pt": (tensor, told),
    "stored.npz": (lambda path: pictures(path, np.savez), images),
    "packed.npz": (lambda path: pictures(path, np.savez_compressed), images),
    "report.json": (report, lambda path: Report.from_json(path).as_dict()),
    "curves.json": (curves, lambda path: Curves.from_json(path).as_dict()),
}


def flipped(data: bytes, random: np.random.Generator) -> bytes:
    """One bit is another."""
    made = bytearray(data)
    made[random.integers(len(made))] ^= 1 << int(random.integers(8))
    return bytes(made)


def attack(file: Path, says: Callable[[], Any], times: int, seed: int) -> dict[str, int]:
    """How many flips of a file were refused in a sentence that names it, and how many changed nothing."""
    random, data, right = np.random.default_rng(seed), file.read_bytes(), says()
    counts = {"refused": 0, "the same": 0}
    for _ in range(times):
        file.write_bytes(flipped(data, random))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = says()
        except ValueError as error:
            assert file.parent.name in str(error) and len(str(error).splitlines()) == 1, repr(error)
            counts["refused"] += 1
        else:
            assert found == right, f"{file.name} says something else"
            counts["the same"] += 1
    file.write_bytes(data)
    assert says() == right
    return counts


@pytest.mark.parametrize("times", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", KINDS)
def test_a_flip_in_a_file_is_found_or_changes_nothing(tmp_path: Path, name: str, times: int) -> None:
    make, says = KINDS[name]
    file = make(tmp_path / name)
    counts = attack(file, lambda: says(file), times, times)
    if times == MANY:
        assert counts["refused"] > times / 2, counts


# Shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for k in range(20):
        Image.fromarray(random.integers(0, 255, (8, 8, 3), np.uint8)).save(made / f"{k:02d}.png")
    return made


def seen(folder: Path, state: Path) -> Any:
    found = collect(image_set(folder), EXTRACTOR, rows=("main",), batch_size=8, kept=30, resume=state)
    main = found.statistics["main"]
    return found.n, np.array(found.rows["main"]).tobytes(), main.mean.numpy().tobytes(), main.cov.numpy().tobytes()


def again(source: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    return Path(shutil.copytree(source, to))


@pytest.mark.parametrize("times", [FEW, pytest.param(2 * MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".npz", ".f32"])
def test_a_flip_in_a_shard_is_found_or_changes_nothing(folder: Path, tmp_path: Path, suffix: str, times: int) -> None:
    seen(folder, tmp_path / "state")
    (file,) = (tmp_path / "state").rglob(f"*{suffix}")
    inner = file.relative_to(tmp_path / "state")

    def says() -> Any:
        return seen(folder, again(tmp_path / "state", tmp_path / "copy"))

    counts = attack(file, says, times, times)
    assert suffix == ".npz" or counts["the same"] == 0, f"{inner}: {counts}"


@pytest.mark.parametrize("times", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suffix", [".npz", ".f32"])
def test_a_flip_in_a_shard_of_the_release_before_is_found(tmp_path: Path, suffix: str, times: int) -> None:
    """It carries no hash, and its parts tell of each other."""
    state = shutil.copytree(BEFORE / "eval-resume", tmp_path / "state")
    file = sorted(state.rglob(f"*{suffix}"))[0]
    how: dict[str, Any] = {"metrics": ("fid", "kid_full"), "extractor": "digits", "progress": False}

    def says() -> Any:
        copy = again(state, tmp_path / "copy")
        found = evaluate(str(BEFORE / "images.npz"), str(BEFORE / "other.npz"), resume=str(copy), **how)
        return [result.value for result in found.values()]

    random, data, right = np.random.default_rng(times), file.read_bytes(), says()
    for _ in range(times):
        file.write_bytes(flipped(data, random))
        try:
            assert says() == right
        except ValueError as error:
            assert "Remove it" in str(error)


# Images in a .npy, which carries no sum of ours nor of others: what its header says is checked, and floats must fit their range


@pytest.mark.parametrize("times", [40, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("way", ["file", "folder"])
def test_a_flip_in_the_header_of_an_npy_is_found_or_changes_nothing(
    tmp_path: Path, way: str, dtype: Any, times: int
) -> None:
    """One in the pixels of an image can be none that any reader knows: it stays one number of one image."""
    drawn = np.random.default_rng(0).integers(1, 255, (6, 8, 8, 3)).astype(dtype)
    file = tmp_path / "x.npy"
    np.save(file, drawn if way == "file" else drawn[0])
    how = {} if dtype == np.uint8 else {"range": (0, 255)}
    data, random = file.read_bytes(), np.random.default_rng(times)
    begin = len(data) - (drawn if way == "file" else drawn[0]).nbytes

    def says() -> np.ndarray:
        (found,) = [images for _, images in image_set(file if way == "file" else tmp_path, **how).stream(8)]
        return np.stack([image.numpy() for image in found])

    right, refused = says(), 0
    for at in [*range(begin), *random.integers(begin, len(data), begin)][:: max(1, 2 * begin // times)]:
        made = bytearray(data)
        made[at] ^= 1 << int(random.integers(8))
        file.write_bytes(made)
        try:
            found = says()
        except ValueError as error:
            assert "x.npy" in str(error) and len(str(error).splitlines()) == 1, repr(error)
            refused += 1
        else:
            assert found.shape == right.shape, at
            assert (found != right).sum() <= (at >= begin), f"{at} of {begin} changes the others"
    assert refused > times / 8
    for longer in (data + b"\0", data + data, data[:-1]):
        file.write_bytes(longer)
        with pytest.raises(ValueError, match=r"x\.npy.*has \d+ bytes, and its header tells of \d+|mmap|cut off"):
            says()


# Statistics that were changed and not damaged


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a | {"factor": 100 * a["factor"]}, "sha256"),
        (lambda a: a | {"sigma": 1.1 * a["sigma"]}, "sha256"),
        (lambda a: a | {"n": np.array(401)}, "sha256"),
    ],
)
def test_a_sealed_file_that_another_tool_changed_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    with np.load(statistics(tmp_path / "s.npz", 400)) as arrays:
        np.savez(tmp_path / "s.npz", **change(dict(arrays)))
    with pytest.raises(ValueError, match=f"s.npz .*{said}.*keep only mu and sigma"):
        load(tmp_path / "s.npz")


BY_OTHERS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "factor": (lambda a: a | {"factor": 100 * a["factor"]}, "the factor is not one of the covariance"),
    "sigma": (lambda a: a | {"sigma": 1.1 * a["sigma"]}, "the factor is not one of the covariance"),
    "shape of factor": (lambda a: a | {"factor": a["factor"][1:]}, "the factor is not one"),
    "nan in factor": (lambda a: a | {"factor": np.nan * a["factor"]}, "the factor is not one"),
    "negative n": (lambda a: a | {"n": np.array(-5)}, "n, the number of images, is -5; .*at least 2"),
    "n of one": (lambda a: a | {"n": np.array(1)}, "is 1; .*at least 2"),
    "huge n": (lambda a: a | {"n": np.array(10**18)}, "is 1000000000000000000; it is a whole number"),
    "half n": (lambda a: a | {"n": np.array(2.5)}, "is 2.5; it is a whole number"),
    "n as a list": (lambda a: a | {"n": np.array([4, 5])}, "it is a whole number"),
    "complex sigma": (lambda a: a | {"sigma": a["sigma"] + 0j}, "are real numbers; got complex128"),
    "complex mu": (lambda a: a | {"mu": a["mu"] * 1j}, "are real numbers; got complex128"),
    "text": (lambda a: a | {"mu": np.array(["a"] * D)}, "are real numbers; got <U1"),
    "asymmetric": (lambda a: a | {"sigma": np.triu(a["sigma"])}, "not symmetric"),
    "indefinite": (lambda a: {"mu": a["mu"], "sigma": a["sigma"] - 0.2 * a["sigma"].diagonal().mean()}, "semidefinite"),
    "no sigma": (lambda a: {"mu": a["mu"]}, "one of mu and sigma"),
    "meta": (lambda a: a | {"meta": np.array("[3]")}, "meta is not the JSON"),
    "deep meta": (lambda a: a | {"meta": np.array("[" * 10**5)}, "meta is not the JSON"),
    "wrong meta": (lambda a: a | {"meta": np.array('{"extractor": 5}')}, "meta is not the JSON"),
    "wrong layers": (lambda a: a | {"meta": np.array('{"layers": [1]}')}, "meta is not the JSON"),
}


@pytest.mark.parametrize("name", BY_OTHERS)
def test_what_can_be_checked_of_files_without_a_hash_is(tmp_path: Path, name: str) -> None:
    change, said = BY_OTHERS[name]
    with np.load(statistics(tmp_path / "s.npz", 400)) as arrays:
        np.savez(tmp_path / "s.npz", **{k: v for k, v in change(dict(arrays)).items() if k != SEAL})
    with pytest.raises(ValueError, match=f"s.npz.*{said}"):
        load(tmp_path / "s.npz")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [2, 5, 400])
def test_honest_statistics_of_any_rank_and_precision_are_taken(tmp_path: Path, n: int, dtype: Any) -> None:
    """Of fewer images than dimensions, rounded to float32, without a spread at all."""
    x = rows(n, 64).numpy()
    np.savez(tmp_path / "s.npz", mu=x.mean(0).astype(dtype), sigma=np.cov(x.T).astype(dtype))
    assert float(fid(tmp_path / "s.npz", tmp_path / "s.npz")) < 1e-3
    np.savez(tmp_path / "zero.npz", mu=x[0], sigma=np.zeros((64, 64)))
    assert float(fid(tmp_path / "zero.npz", tmp_path / "zero.npz")) == 0
