"""Published statistics by name: where they are, of what, by which protocol. Nothing is fetched without being allowed.

What its publisher tells no sha256 of is checked by the one it had when it was fetched first, which is kept beside it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from fewstep.eval.published.fetching import fetched
from fewstep.output.files import whole
from fewstep.output.seal import digest_of_file

_EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/fid-refs"
_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches"
_CLEAN = "https://www.cs.cmu.edu/~clean-fid/stats"
_COCO = "https://github.com/boomb0om/text2image-benchmark/releases/download/v0.0.1"
_OURS = ("tf", "pytorch-fid", "clean")
_PAIR = "34 MB"  # of mu and sigma in float64, 2048 + 2048^2 numbers


@dataclass(frozen=True)
class Known:
    """A published file of statistics.

    Attributes:
        images: what they are of, in words.
        url: where it is published.
        protocol: how the features were made; "tf", "pytorch-fid" and "clean" are ours too.
        n: number of images; None where the publisher does not say.
        size: in words; "" is not recorded. A number of bytes where one is known exactly.
        sha256: "" is not recorded.
        layout: what is in it.
    """

    images: str
    url: str
    protocol: str = "tf"
    n: int | None = None
    size: str = ""
    sha256: str = ""
    layout: str = "mu, sigma"

    @property
    def path(self) -> Path:
        """Where it is kept: in the folder of Inception's weights."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rsplit("/", 1)[1]

    @property
    def recipe(self) -> str:
        """How to make such a file."""
        spatial = " --spatial" if "mu_s" in self.layout else ""
        protocol = self.protocol if self.protocol in _OURS else "clean"
        return f"fewstep stats FOLDER{spatial} --protocol {protocol} --out REF.npz, FOLDER being {self.images}"


def _adm(images: str, file: str, n: int | None = None, size: str = "") -> Known:
    return Known(images, f"{_ADM}/{file}", n=n, size=size, layout="mu, sigma, mu_s, sigma_s, arr_0 (images)")


def _clean(images: str, file: str, n: int, protocol: str = "clean") -> Known:
    return Known(images, f"{_CLEAN}/{file}.npz", protocol, n, _PAIR)


_TRAIN = 1_281_167  # images of ImageNet's training set
_PREPARED = "ImageNet's training set, prepared as EDM does (centre crop, 64x64)"
KNOWN = {
    "cifar10-edm": Known("the training set of CIFAR-10, 32x32", f"{_EDM}/cifar10-32x32.npz", n=50_000, size=_PAIR),
    "cifar10-clean": _clean("the training set of CIFAR-10, 32x32", "cifar10_clean_train_32", 50_000),
    "cifar10-tf": _clean("the training set of CIFAR-10, 32x32", "cifar10_legacy_tensorflow_train_32", 50_000, "tf"),
    "cifar10-pytorch-fid": _clean(
        "the training set of CIFAR-10, 32x32", "cifar10_legacy_pytorch_train_32", 50_000, "pytorch-fid"
    ),
    "imagenet64-edm": Known(_PREPARED, f"{_EDM}/imagenet-64x64.npz", n=_TRAIN, size=_PAIR),
    "imagenet64-edm-baseline": Known(
        "ImageNet's training set, prepared as ADM does (64x64)", f"{_EDM}/imagenet-64x64-baseline.npz", size=_PAIR
    ),
    "imagenet64-adm": _adm("ImageNet's training set, 64x64", "imagenet/64/VIRTUAL_imagenet64_labeled.npz", _TRAIN),
    "imagenet128-adm": _adm("ImageNet's training set, 128x128", "imagenet/128/VIRTUAL_imagenet128_labeled.npz", _TRAIN),
    "imagenet256-adm": _adm("ImageNet's training set, 256x256", "imagenet/256/VIRTUAL_imagenet256_labeled.npz", _TRAIN),
    "imagenet512-adm": _adm("ImageNet's training set, 512x512", "imagenet/512/VIRTUAL_imagenet512.npz", _TRAIN),
    "imagenet64-edm2": Known(
        "ImageNet's training set, 64x64", "https://nvlabs-fi-cdn.nvidia.com/edm2/dataset-refs/img64.pkl",
        layout="a pickle: fid (mu, sigma), fd_dinov2 (mu, sigma)",
    ),
    "imagenet512-edm2": Known(
        "ImageNet's training set, 512x512", "https://nvlabs-fi-cdn.nvidia.com/edm2/dataset-refs/img512.pkl",
        layout="a pickle: fid (mu, sigma), fd_dinov2 (mu, sigma)",
    ),
    "ffhq64-edm": Known(
        "FFHQ, 64x64", f"{_EDM}/ffhq-64x64.npz", n=70_000, size=_PAIR
    ),
    "ffhq256-clean": _clean("FFHQ, 256x256", "ffhq_clean_trainval70k_256", 70_000),
    "ffhq1024-clean": _clean("FFHQ, 1024x1024", "ffhq_clean_trainval70k_1024", 70_000),
    "afhqv2-64-edm": Known("AFHQv2, 64x64", f"{_EDM}/afhqv2-64x64.npz", size=_PAIR),
    "lsun-bedroom256-adm": _adm(
        "LSUN bedroom, 256x256", "lsun/bedroom/VIRTUAL_lsun_bedroom256.npz"
    ),
    "lsun-cat256-adm": _adm("LSUN cat, 256x256", "lsun/cat/VIRTUAL_lsun_cat256.npz"),
    "lsun-horse256-adm": _adm("LSUN horse, 256x256", "lsun/horse/VIRTUAL_lsun_horse256.npz"),
    "lsun-church256-clean": _clean("50000 images of LSUN church, 256x256", "lsun_church_clean_train_256", 50_000),
    "lsun-cat256-clean": _clean("50000 images of LSUN cat, 256x256", "lsun_cat_clean_train_256", 50_000),
    "lsun-horse256-clean": _clean("50000 images of LSUN horse, 256x256", "lsun_horse_clean_train_256", 50_000),
    "coco30k-t2i": Known(
        "30000 images of COCO's val2014", f"{_COCO}/MS-COCO_val2014_fid_stats.npz", "t2ibenchmark", 30_000, _PAIR
    ),
}  # fmt: skip


def named(source: object) -> str | None:
    """The name of known statistics that a source is, where no file of that name exists."""
    return source if isinstance(source, str) and source in KNOWN and not Path(source).exists() else None


def place_of(name: str, download: bool = False) -> Path:
    """The file of known statistics on this machine, checked; fetched where it is absent and that is allowed.

    Raises:
        FileNotFoundError: absent and not allowed, or it cannot be had. ValueError: a pickle; not what it was.
    """
    known = KNOWN[name]
    if known.url.endswith(".pkl"):
        raise ValueError(
            f"{name} is published as a pickle, which could run code ({known.url}): save its mu and sigma as .npz on a machine "
            f"that may run it, np.savez(F, mu=, sigma=), or make your own: {known.recipe}"
        )
    beside = known.path.with_name(known.path.name + ".sha256")
    if not known.path.is_file():
        if not download:
            size = f"{known.size}, " if known.size else ""
            raise FileNotFoundError(
                f"{name} ({known.path.name}, {size}{known.url}) is not on this machine: allow the download (--download, "
                f"download=True), bring the file to {known.path}, or make your own: {known.recipe}"
            )
        return _fetched(known, beside)
    found, expected = digest_of_file(known.path), known.sha256
    if not expected and beside.is_file():
        expected = (beside.read_text(encoding="utf-8", errors="replace").split() or [""])[0]
    if expected and found != expected:
        raise ValueError(
            f"{known.path} is not what was published as {name}, or not all of it: its sha256 is {found}, expected {expected}. "
            f"Remove it and fetch it again (--download)"
        )
    if not known.sha256 and not beside.is_file():
        _remember(beside, found, known.path.name)
    return known.path


def _fetched(known: Known, beside: Path) -> Path:
    remedy = f"Bring the file to {known.path}, or make your own: {known.recipe}"
    path = fetched(known.url, known.path, known.sha256 or None, remedy)
    if not known.sha256:
        found = digest_of_file(path)
        _remember(beside, found, path.name)
        print(f"{path}: sha256 {found}, of which none is published; it is kept beside it", file=sys.stderr, flush=True)
    return path


def _remember(beside: Path, sha256: str, file: str) -> None:
    """In the form that sha256sum -c reads."""
    with whole(beside) as temporary:
        temporary.write_text(f"{sha256}  {file}\n", encoding="utf-8")
