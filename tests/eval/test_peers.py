"""From folders of PNG files to numbers: those of torch-fidelity, pytorch-fid and clean-fid, with one set of random weights."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy
import torch
from imagesets import written
from random_inception import random_state, smooth_images

from fewstep import eval as fe
from fewstep.eval.extractors.inception import InceptionV3
from fewstep.eval.gaussian.frechet import frechet

N, SIZE = 10, (40, 32)


def folder(root, images):
    names = [f"{k:03d}.png" for k in range(len(images))]
    return written(root, names, images.permute(0, 2, 3, 1).numpy())


@pytest.fixture(scope="module")
def state():
    """With wider logits: an inception score further from 1."""
    weights = random_state()
    return {**weights, "fc.weight": 5 * weights["fc.weight"]}


@pytest.fixture(scope="module")
def extractors(state):
    return {protocol: InceptionV3(state, protocol=protocol) for protocol in ("tf", "pytorch-fid", "clean")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Real images, and generated ones with less contrast: their features overlap in part."""
    real, other = smooth_images(N, *SIZE), smooth_images(N, *SIZE, seed=1)
    generated = (127.5 + 0.6 * (other - 127.5)).round().to(torch.uint8)
    return [
        folder(tmp_path_factory.mktemp(name), images) for name, images in (("real", real), ("generated", generated))
    ]


@pytest.fixture(scope="module")
def report(extractors, folders):
    options = {"kid": {"subsets": 20, "subset_size": 6}, "is": {"splits": 3}, "prdc": {"k": 3}}
    return fe.evaluate(*folders, ("fid", "kid", "is", "prdc"), extractor=extractors["tf"], options=options)


@pytest.fixture
def pytorch_fid(state, monkeypatch):
    """Its module of scores, with our weights in place of its download."""
    from pytorch_fid import fid_score, inception

    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
    # It asks for sqrtm(A, disp=False), which newer versions of scipy no longer take.
    monkeypatch.setattr(fid_score, "linalg", SimpleNamespace(sqrtm=lambda A, disp: (scipy.linalg.sqrtm(A), 0.0)))
    return fid_score


@pytest.mark.slow
def test_four_metrics_are_torch_fidelitys(state, folders, report, tmp_path):
    from torch_fidelity import calculate_metrics

    torch.save(state, tmp_path / "weights.pth")
    theirs = calculate_metrics(
        input1=str(folders[1]),
        input2=str(folders[0]),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(tmp_path / "weights.pth"),
        feature_layer_prc="2048",
        **{metric: True for metric in ("isc", "fid", "kid", "prc")},
        isc_splits=3,
        kid_subsets=20,
        kid_subset_size=6,
        prc_neighborhood=3,
        cuda=False,
        cache=False,
        verbose=False,
    )
    pairs = {
        "frechet_inception_distance": report["fid"].value,
        "kernel_inception_distance_mean": report["kid"].value,
        "kernel_inception_distance_std": report["kid"].details["sd"],
        "inception_score_mean": report["is"].value,
        "inception_score_std": report["is"].details["sd"],
        "precision": report["precision"].value,
        "recall": report["recall"].value,
    }
    for name, found in pairs.items():
        print(f"{name}: {found:.8g}, {found / theirs[name] - 1:.1e}")
        assert found == pytest.approx(theirs[name], rel=1e-4), name
    assert 0 < theirs["recall"] < 1 and 0 < theirs["precision"] < 1 and theirs["precision"] != theirs["recall"]


@pytest.mark.slow
def test_statistics_are_those_of_pytorch_fid_and_files_go_both_ways(extractors, folders, pytorch_fid, tmp_path):
    """Its mu and sigma, from images and from our file; our FID from its file, from ours and from images."""
    network = extractors["pytorch-fid"]
    theirs, ours = tmp_path / "theirs.npz", tmp_path / "ours.npz"
    pytorch_fid.save_fid_stats([str(folders[0]), str(theirs)], 50, "cpu", 2048, num_workers=0)
    fe.stats(folders[0], ours, extractor=network)
    mu, sigma = pytorch_fid.compute_statistics_of_path(str(ours), None, 50, 2048, "cpu")
    with np.load(theirs) as file:
        assert np.abs(mu - file["mu"]).max() < 1e-5 * file["mu"].max()
        assert np.abs(sigma - file["sigma"]).max() < 1e-5 * file["sigma"].max()
    generated = fe.stats(folders[1], extractor=network)
    from_images = fe.fid(folders[0], generated, extractor=network)
    assert fe.fid(ours, generated).value == pytest.approx(from_images.value, rel=1e-9)
    assert fe.fid(theirs, generated).value == pytest.approx(from_images.value, rel=1e-4)
    assert from_images.value > 0.01 * np.trace(sigma)  # there is a distance to agree on


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Matrix is singular")
def test_fid_is_pytorch_fids_number(state, pytorch_fid, tmp_path):
    """Of its layer of 64 dimensions, with more images than that: its root of a 2048 x 2048 product takes half a minute."""
    real, generated = (smooth_images(70, 16, 16, seed=seed) for seed in (2, 3))
    paths = [folder(tmp_path / "real", real), folder(tmp_path / "generated", generated // 2)]
    expected = pytorch_fid.calculate_fid_given_paths([str(path) for path in paths], 50, "cpu", 64, num_workers=0)
    network = InceptionV3(state, protocol="pytorch-fid")
    network.parts = {"main": "64"}
    found = fe.fid(*paths, extractor=network)
    print(f"{found.value:.8g}, {found.value / expected - 1:.1e}")
    assert found.layer == "64" and found.value == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_kid_and_features_are_clean_fids(state, extractors, folders, monkeypatch):
    from cleanfid import fid as clean
    from pytorch_fid import inception

    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
    network = inception.InceptionV3([3], resize_input=False, normalize_input=False).eval()

    def features(path):
        return clean.get_folder_features(
            str(path),
            lambda x: network((x - 128) / 128)[0].flatten(1),
            num_workers=0,
            batch_size=8,
            device=torch.device("cpu"),
            verbose=False,
        )

    real, generated = map(features, folders)
    ours = fe.evaluate(
        *folders,
        ("fid", "kid"),
        extractor=extractors["clean"],
        options={"kid": {"subsets": 1, "subset_size": N}},
    )
    expected = clean.kernel_distance(real.astype(float), generated.astype(float), num_subsets=1, max_subset_size=N)
    assert ours["kid"].value == pytest.approx(expected, rel=1e-4)
    gaussians = [fe.FeatureStatistics(2048).update(rows).gaussian() for rows in (real, generated)]
    assert ours["fid"].value == pytest.approx(frechet(*gaussians).value, rel=1e-4)


@pytest.mark.slow
def test_protocols_are_told_apart(folders, report, extractors, tmp_path):
    """Statistics that say their protocol are refused under another one."""
    fe.stats(folders[0], tmp_path / "clean.npz", extractor=extractors["clean"], number=2)
    with pytest.raises(ValueError, match="'clean'.*'tf'"):
        fe.fid(tmp_path / "clean.npz", folders[1], extractor=extractors["tf"])
    assert report["fid"].protocol == "tf" and report["fid"].n == report["fid"].n_real == N
