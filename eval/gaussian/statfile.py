"""Statistics and features as files: one .npz that all peers can read, and every layout of theirs.

    mu, sigma          mean (d,) and covariance (d, d) of the main layer: pytorch-fid, TTUR, EDM, ADM, clean-fid
    mu_s, sigma_s      the same of the spatial layer (sFID): ADM
    features | feats | reps    feature vectors (n, d): ours, clean-fid's KID files, dgm-eval
    n, meta, factor    ours: count, JSON of what they were made under, L with L L^T = sigma

An ADM file's `arr_0` are images, and not those that its mu and sigma are of. A .pt file is a tensor of features (n, d).
Ours carry the sha256 of their arrays; of all others what can be checked is: shapes, symmetry, semidefiniteness, the count,
and that the factor is one of sigma.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep.eval.gaussian.arrayfile import BYTES, arrays_in, members, write_arrays
from fewstep.eval.gaussian.covariance import Gaussian
from fewstep.eval.gaussian.features import Features, Meta
from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.eval.published.known import KNOWN, named, place_of
from fewstep.output.places import kept
from fewstep.output.seal import SEAL, Damaged
from fewstep.version import __version__

ROWS = ("features", "feats", "reps")
MOMENTS = {"main": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
SUFFIXES = (".npz", ".pt", ".pkl")
REMEDY = (
    "Write it again with fewstep stats, or keep only mu and sigma if the change was meant: np.savez(F, mu=, sigma=)"
)
MOST = 10**12  # images that anybody could have looked at
_READ = ("meta", "n", "factor", "labels", *ROWS, *(name for pair in MOMENTS.values() for name in pair))
_TYPES = {"lossy": (bool, type(None)), "published": (bool, type(None)), "skipped": (int,)}  # of Meta; all else is text
_HERE = Path(__file__).parents[1]  # eval/: what is bundled lies there


def bundled() -> dict[str, Path]:
    """Statistics that come with the library, by name."""
    return {path.stem: path for path in sorted(_HERE.glob("*.npz"))}


def located(path: str | PathLike[str]) -> Path:
    """The file itself: a path, or the name of bundled or known statistics where no such path exists."""
    given = Path(path).expanduser()
    if (name := named(path)) is not None:
        return KNOWN[name].path
    return given if given.exists() else bundled().get(str(path), given)


def holds_statistics(path: str | PathLike[str]) -> bool:
    """Whether a file has moments or feature vectors in it, by its name and the names of its arrays."""
    if named(path) is not None:
        return True
    file = located(path)
    if not file.is_file() or file.suffix.lower() not in SUFFIXES:
        return False
    if file.suffix.lower() != ".npz":
        return True
    return bool(members(file, REMEDY).keys() & {"mu", *ROWS})


def load(path: str | PathLike[str], device: Any = None, download: bool = False) -> Features:
    """Statistics and features of a file of any known layout, or of bundled or known statistics by name.

    download: of known statistics that are not on this machine.

    Raises:
        ValueError: no such file, an unknown layout, a pickle, broken or unfit arrays.
    """
    if (name := named(path)) is not None:
        return _published(name, load(place_of(name, download), device))
    file = located(path)
    if not file.is_file():
        raise ValueError(
            f"{path} does not exist; bundled statistics are: {', '.join(bundled()) or 'none'}; fewstep stats --known lists "
            "published ones."
        )
    if file.suffix.lower() == ".pkl":
        raise ValueError(
            f"{file} is a pickle, which could run code; save its mu and sigma as .npz: np.savez(F, mu=, sigma=)."
        )
    if file.suffix.lower() == ".pt":
        return _of_tensor(file)
    names = members(file, REMEDY)
    if not names.keys() & {"mu", *ROWS}:
        raise ValueError(
            f"{file} holds {', '.join(sorted(names)) or 'nothing'}; statistics need mu and sigma, "
            f"features one of {', '.join(ROWS)}."
        )
    arrays = arrays_in(file, _READ, REMEDY)
    try:
        return _of_arrays(file, arrays, device)
    except ValueError as error:
        if isinstance(error, Damaged):
            raise
        raise ValueError(f"{file}: {error}") from error


def _published(name: str, found: Features) -> Features:
    """Known statistics under what their publisher tells of them: they are of Inception's published weights."""
    known = KNOWN[name]
    found.meta = Meta("inception", known.protocol, source=f"{name} ({known.images})", published=True)
    if found.n is None and known.n is not None:
        found.n = known.n
        found.statistics = {
            part: FeatureStatistics.of(statistics.gaussian(), known.n) for part, statistics in found.statistics.items()
        }
    return found


def _of_tensor(file: Path) -> Features:
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                size = sum(info.file_size for info in archive.infolist())
                if size > max(BYTES, 2 * file.stat().st_size):
                    raise ValueError(f"it would take {size >> 20} MiB")
                if (broken := archive.testzip()) is not None:  # torch does not look at check sums
                    raise ValueError(f"{broken} has another check sum than it carries")
        rows = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{file} cannot be read as a tensor of features ({_first_line(error)}).") from error
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(f"{file} must hold one tensor of features (n, d).")
    if rows.numel() * rows.element_size() > max(BYTES, 2 * file.stat().st_size):  # one row said many times
        raise ValueError(f"{file} tells of {tuple(rows.shape)} features, which it does not hold.")
    return of_rows(rows.float().numpy(), Meta(source=str(file)))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:120]


def of_rows(rows: np.ndarray, meta: Meta) -> Features:
    """Features that are all there: their moments follow."""
    statistics = FeatureStatistics(rows.shape[1])
    for start in range(0, len(rows), 4096):
        statistics.update(np.asarray(rows[start : start + 4096], np.float32))
    return Features(len(rows), {"main": statistics}, {"main": rows}, meta)


def _of_arrays(file: Path, arrays: dict[str, np.ndarray], device: Any) -> Features:
    meta, layers = _told(file, arrays)
    n = _count(arrays)
    vectors = [_rows(name, arrays[name]) for name in ROWS if name in arrays]
    rows = {"main": vectors[0]} if vectors else {}
    if rows and n is not None and len(rows["main"]) != n:
        raise ValueError(
            f"it has {len(rows['main'])} feature vectors, and says it was made of {n} images; write it again"
        )
    if rows and "mu" not in arrays:
        return _laid(of_rows(rows["main"], meta), layers, arrays.get("labels"))
    if not {"mu", "sigma"} <= arrays.keys():
        raise ValueError("it has one of mu and sigma; statistics need both")
    found = Features(n, {}, rows, meta)
    for part, (mu, sigma) in MOMENTS.items():
        if mu in arrays and sigma in arrays:
            factor = arrays.get("factor") if part == "main" else None
            try:
                gaussian = Gaussian.of(arrays[mu], arrays[sigma], factor, device)
                if SEAL not in arrays or factor is None:  # a factor proves it
                    gaussian.check()
            except ValueError as error:
                raise ValueError(f"{mu} and {sigma}: {error}") from error
            found.statistics[part] = FeatureStatistics.of(gaussian, n)
            if part == "main" and rows and rows["main"].shape == (n, gaussian.dim):
                _sampled(found.statistics[part], rows["main"])
    return _laid(found, layers, arrays.get("labels"))


def _laid(found: Features, layers: dict[str, str], labels: np.ndarray | None = None) -> Features:
    found.layers = layers
    rows = found.rows.get("main")
    if labels is not None and rows is not None:
        if labels.shape != (len(rows),) or labels.dtype.kind != "U":
            raise ValueError(f"its labels are {labels.dtype} {labels.shape} for {len(rows)} images; write it again")
        found.labels = labels
    return found


def _sampled(statistics: FeatureStatistics, rows: np.ndarray) -> None:
    """The sample of the features beside their moments. ValueError: they cannot be those of the moments."""
    statistics.sketch.add(torch.from_numpy(rows), np.arange(len(rows)))
    if not np.isfinite(statistics.sketch.rows).all():
        raise ValueError("its features are NaN or infinite; write it again.")
    apart = np.abs(rows.mean(0, dtype=np.float64) - statistics.mean.cpu().numpy()).max()
    if apart > 1e-3 * np.abs(rows).max():  # they may have been kept in float16
        raise ValueError("its features do not have the mean mu that it tells; write it again.")


def _rows(name: str, rows: np.ndarray) -> np.ndarray:
    """Feature vectors in float32."""
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or len(rows) < 2 or not rows.size:
        raise ValueError(f"{name} is {rows.dtype} {rows.shape}; features are numbers (n, d) of two images at least")
    return rows.astype(np.float32)


def _count(arrays: dict[str, np.ndarray]) -> int | None:
    """The number of images, None where none is told."""
    if "n" not in arrays:
        return None
    n = arrays["n"]
    if n.size != 1 or n.dtype.kind not in "fiu" or not 2 <= n.item() <= MOST or n.item() != int(n.item()):
        raise ValueError(f"n, the number of images, is {str(n)[:40]}; it is a whole number, at least 2; write it again")
    return int(n.item())


def _told(file: Path, arrays: dict[str, np.ndarray]) -> tuple[Meta, dict[str, str]]:
    """What the features were made under, and the layers. ValueError for a text that does not say that."""
    told: Any = {}
    try:
        told = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
    except (ValueError, RecursionError):
        told = None
    layers: Any = told.get("layers", {}) if isinstance(told, dict) else None
    texts = isinstance(layers, dict) and all(isinstance(x, str) for pair in layers.items() for x in pair)
    known = {**asdict(Meta()), "source": str(file)}
    made = {name: told.get(name, usual) if texts else usual for name, usual in known.items()}
    if not texts or not all(isinstance(value, _TYPES.get(name, (str,))) for name, value in made.items()):
        raise ValueError(f"its meta is not the JSON that fewstep stats writes. {REMEDY}")
    return Meta(**made), layers


def save(path: str | PathLike[str], features: Features, factor: bool = True, half: bool = False) -> None:
    """Write a file that this library and its peers read; float64 moments, float32 features where there are any.

    factor: store L of the main covariance too, so that no later distance has to compute it. half: features in float16.
    """
    if features.meta.hash and not features.meta.version:
        features.meta = Meta(**{**asdict(features.meta), "version": f"fewstep {__version__}"})
    about = {**asdict(features.meta), "layers": features.layers}
    arrays: dict[str, Any] = {"meta": np.array(json.dumps(about))}
    if features.n is not None:
        arrays["n"] = np.array(features.n)
    for part, statistics in features.statistics.items():
        if part in MOMENTS:
            gaussian = statistics.gaussian()
            mu, sigma = MOMENTS[part]
            arrays[mu], arrays[sigma] = gaussian.mean.cpu().numpy(), gaussian.cov.cpu().numpy()
            if part == "main" and factor:
                arrays["factor"] = gaussian.factor.cpu().numpy()
    if "main" in features.rows:
        if features.labels is not None:
            arrays["labels"] = np.asarray(features.labels)
        arrays["features"] = np.asarray(features.rows["main"], np.float16 if half else np.float32)
    target = Path(path)
    if target.suffix.lower() != ".npz":
        raise ValueError(f"statistics are written as .npz; got {str(path)!r}.")
    kept(target, lambda place: write_arrays(place, arrays))


def save_statistics(path: str | PathLike[str], statistics: FeatureStatistics) -> None:
    """The same of the statistics of a main layer alone."""
    save(path, Features(statistics.n, {"main": statistics}))
