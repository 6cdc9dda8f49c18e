"""Statistics and features as files: one .npz that all peers can read, and every layout of theirs.

    mu, sigma          mean (d,) and covariance (d, d) of the main layer: pytorch-fid, TTUR, EDM, ADM, clean-fid
    mu_s, sigma_s      the same of the spatial layer (sFID): ADM
    features | feats | reps    feature vectors (n, d): ours, clean-fid's KID files, dgm-eval
    n, meta, factor    ours: count, JSON of what they were made under, L with L L^T = sigma

An ADM file's `arr_0` are images, and not those that its mu and sigma are of. A .pt file is a tensor of features (n, d).
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, fields
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewstep.eval.gaussian.covariance import Gaussian
from fewstep.eval.gaussian.features import Features, Meta
from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.output.files import whole
from fewstep.version import __version__

ROWS = ("features", "feats", "reps")
MOMENTS = {"main": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
SUFFIXES = (".npz", ".pt", ".pkl")
_HERE = Path(__file__).parents[1]  # eval/: what is bundled lies there


def bundled() -> dict[str, Path]:
    """Statistics that come with the library, by name."""
    return {path.stem: path for path in sorted(_HERE.glob("*.npz"))}


def located(path: str | PathLike[str]) -> Path:
    """The file itself: a path, or the name of bundled statistics where no such path exists."""
    given = Path(path).expanduser()
    return given if given.exists() else bundled().get(str(path), given)


def holds_statistics(path: str | PathLike[str]) -> bool:
    """Whether a file has moments or feature vectors in it, by its name and the names of its arrays."""
    file = located(path)
    if not file.is_file() or file.suffix.lower() not in SUFFIXES:
        return False
    if file.suffix.lower() != ".npz":
        return True
    return bool(_names(file) & {"mu", *ROWS})


def _names(file: Path) -> set[str]:
    try:
        with zipfile.ZipFile(file) as archive:
            return {Path(name).stem for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError) as error:
        raise ValueError(f"{file} cannot be read as .npz ({error}): is the file whole?") from error


def load(path: str | PathLike[str], device: Any = None) -> Features:
    """Statistics and features of a file of any known layout.

    Raises:
        ValueError: no such file, an unknown layout, a pickle, broken or unfit arrays.
    """
    file = located(path)
    if not file.is_file():
        raise ValueError(f"{path} does not exist; bundled statistics are: {', '.join(bundled()) or 'none'}.")
    if file.suffix.lower() == ".pkl":
        raise ValueError(
            f"{file} is a pickle, which could run code; save its mu and sigma as .npz: np.savez(F, mu=, sigma=)."
        )
    if file.suffix.lower() == ".pt":
        return _of_tensor(file)
    names = _names(file)
    if not names & {"mu", *ROWS}:
        raise ValueError(
            f"{file} holds {', '.join(sorted(names)) or 'nothing'}; statistics need mu and sigma, "
            f"features one of {', '.join(ROWS)}."
        )
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return _of_arrays(file, arrays, device)
    except (OSError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ValueError(f"{file} cannot be read ({error}): is the file whole?") from error


def _of_tensor(file: Path) -> Features:
    try:
        rows = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{file} cannot be read as a tensor of features ({type(error).__name__}).") from error
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2:
        raise ValueError(f"{file} must hold one tensor of features (n, d).")
    return of_rows(rows.float().numpy(), Meta(source=str(file)))


def of_rows(rows: np.ndarray, meta: Meta) -> Features:
    """Features that are all there: their moments follow."""
    statistics = FeatureStatistics(rows.shape[1])
    for start in range(0, len(rows), 4096):
        statistics.update(np.asarray(rows[start : start + 4096], np.float32))
    return Features(len(rows), {"main": statistics}, {"main": rows}, meta)


def _of_arrays(file: Path, arrays: Any, device: Any) -> Features:
    told = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
    known = {field.name for field in fields(Meta)}
    meta = Meta(**{"source": str(file), **{k: v for k, v in told.items() if k in known}})
    n = int(arrays["n"]) if "n" in arrays else None
    rows: dict[str, np.ndarray] = {}
    for name in ROWS:
        if name in arrays:
            rows["main"] = arrays[name].astype(np.float32)
    found = of_rows(rows["main"], meta) if rows and "mu" not in arrays else Features(n, {}, rows, meta)
    for part, (mu, sigma) in MOMENTS.items():
        if mu in arrays and sigma in arrays:
            factor = arrays["factor"] if part == "main" and "factor" in arrays else None
            try:
                gaussian = Gaussian.of(arrays[mu], arrays[sigma], factor, device)
            except ValueError as error:
                raise ValueError(f"{file}, {mu} and {sigma}: {error}") from error
            found.statistics[part] = FeatureStatistics.of(gaussian, n)
            if part == "main" and rows and rows["main"].shape == (n, gaussian.dim):
                found.statistics[part].sketch.add(torch.from_numpy(rows["main"]), np.arange(len(rows["main"])))
                if not np.isfinite(found.statistics[part].sketch.rows).all():
                    raise ValueError(f"{file}: its features are NaN or infinite; write it again.")
    found.layers = told.get("layers", {})
    return found


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
        arrays["features"] = np.asarray(features.rows["main"], np.float16 if half else np.float32)
    target = Path(path)
    if target.suffix.lower() != ".npz":
        raise ValueError(f"statistics are written as .npz; got {str(path)!r}.")
    with whole(target) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **arrays)


def save_statistics(path: str | PathLike[str], statistics: FeatureStatistics) -> None:
    """The same of the statistics of a main layer alone."""
    save(path, Features(statistics.n, {"main": statistics}))
