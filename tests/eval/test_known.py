"""References by name: nothing is fetched unasked, what is there is checked, and values are those of ADM's and EDM's own way."""

import hashlib

import numpy as np
import pytest
import scipy.linalg
import torch
from click.testing import CliRunner
from PIL import Image

from fewstep import eval as fe
from fewstep.cli import main
from fewstep.eval.gaussian.features import Meta
from fewstep.eval.gaussian.statfile import load, save
from fewstep.eval.published import known
from fewstep.eval.published.known import KNOWN, Known, place_of

D = 24


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None, raising=False)
    return tmp_path


def rows(seed, n=300):
    random = np.random.default_rng(seed)
    return (random.normal(size=(n, D)) @ random.normal(size=(D, D))).astype(np.float32)


def moments(x):
    """As EDM sums them: sum x x^T - n mu mu^T, divided by n - 1."""
    x = x.astype(np.float64)
    mu = x.sum(0) / len(x)
    return mu, (x.T @ x - np.outer(mu, mu) * len(x)) / (len(x) - 1)


def published(place, monkeypatch, name="ours-edm", **facts):
    """A file in EDM's layout at an address, and its entry."""
    mu, sigma = moments(rows(0))
    np.savez(place / "theirs.npz", mu=mu, sigma=sigma)
    entry = Known("noise", (place / "theirs.npz").as_uri(), n=300, **facts)
    monkeypatch.setitem(KNOWN, name, entry)
    return entry, mu, sigma


def generated(seed=1):
    found = fe.Features(None)
    x = rows(seed)
    found.n, found.meta = len(x), Meta("inception", "tf", "abc", source="images", published=True)
    found.statistics["main"] = fe.FeatureStatistics(D).update(x)
    return found, x


def test_a_name_is_fetched_only_when_that_is_allowed(cache, monkeypatch, capsys):
    entry, mu, sigma = published(cache, monkeypatch)
    found, x = generated()
    with pytest.raises(FileNotFoundError, match=r"ours-edm \(theirs.npz, file:.*--download.*fewstep stats FOLDER"):
        fe.fid("ours-edm", found)
    assert not entry.path.exists()
    result = fe.fid("ours-edm", found, download=True)
    mine = hashlib.sha256(entry.path.read_bytes()).hexdigest()
    assert mine in capsys.readouterr().err
    assert entry.path.with_name("theirs.npz.sha256").read_text() == f"{mine}  theirs.npz\n"
    assert result.label == "FID" and result.n_real == 300 and "ours-edm" in str(load("ours-edm").meta.source)
    (cache / "theirs.npz").unlink()
    assert float(fe.fid("ours-edm", found)) == float(result)  # from now on it is here
    entry.path.write_bytes(entry.path.read_bytes() + b" ")
    with pytest.raises(ValueError, match="is not what was published as ours-edm.*sha256"):
        fe.fid("ours-edm", found)


def test_a_published_sha256_is_checked(cache, monkeypatch):
    entry, *_ = published(cache, monkeypatch, sha256="0" * 64)
    with pytest.raises(FileNotFoundError, match="cannot fetch .*hash"):
        place_of("ours-edm", download=True)
    assert not entry.path.exists()
    published(cache, monkeypatch, sha256=hashlib.sha256((cache / "theirs.npz").read_bytes()).hexdigest())
    assert load("ours-edm", download=True).n == 300 and not entry.path.with_name("theirs.npz.sha256").exists()


def test_a_file_of_that_name_comes_first(cache, monkeypatch):
    _, mu, sigma = published(cache, monkeypatch)
    monkeypatch.chdir(cache)
    np.savez("ours-edm.npz", mu=mu, sigma=sigma)
    (cache / "ours-edm.npz").rename(cache / "ours-edm")
    assert known.named("ours-edm") is None and known.named(3) is None


def test_a_pickle_is_never_read(cache):
    with pytest.raises(ValueError, match="imagenet512-edm2 is published as a pickle, which could run code"):
        load("imagenet512-edm2", download=True)


def test_edms_own_value(cache, monkeypatch):
    """|mu - mu_ref|^2 + tr(C + C_ref - 2 sqrtm(C C_ref)), with their sums, from the file in their layout."""
    _, mu_ref, ref = published(cache, monkeypatch)
    found, x = generated()
    mu, sigma = moments(x)
    theirs = np.square(mu - mu_ref).sum() + np.trace(sigma + ref - 2 * np.real(scipy.linalg.sqrtm(sigma @ ref)))
    assert float(fe.fid("ours-edm", found, download=True)) == pytest.approx(float(theirs), rel=1e-9)


class Random(fe.Extractor):
    """Pool and spatial features as fixed random functions of small images."""

    name, protocol, layers = "inception", "tf", {"2048": D, "sfid": D}
    parts, published = {"main": "2048", "spatial": "sfid"}, True

    def prepare(self, images):
        return images.float().flatten(1) / 255

    def taps(self, x, layers):
        A = torch.randn(len(self.layers), x.shape[1], D, generator=torch.Generator().manual_seed(5))
        return {layer: (x @ A[k]).relu() for k, layer in enumerate(self.layers) if layer in layers}


@pytest.mark.filterwarnings("ignore:Matrix is singular")
def test_adms_own_values(cache, monkeypatch):
    """np.cov and sqrtm on pool and spatial features, from a file with mu, sigma, mu_s, sigma_s and images of its own."""
    random = np.random.default_rng(0)
    real, fake = (random.integers(0, 256, (60, 5, 5, 3), np.uint8) for _ in range(2))
    network = Random()

    def of(images, layer):
        x = network(torch.from_numpy(images).permute(0, 3, 1, 2), [layer])[layer].double().numpy()
        return x.mean(0), np.cov(x, rowvar=False)

    (mu, sigma), (mu_s, sigma_s) = of(real, "2048"), of(real, "sfid")
    np.savez(cache / "VIRTUAL.npz", mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s, arr_0=real[:20])
    layout = "mu, sigma, mu_s, sigma_s, arr_0 (images)"
    monkeypatch.setitem(KNOWN, "ours-adm", Known("noise", (cache / "VIRTUAL.npz").as_uri(), n=60, layout=layout))
    report = fe.evaluate(
        "ours-adm",
        fake,
        ("fid", "sfid", "prdc"),
        extractor=network,
        download=True,
        progress=False,
        options={"prdc": {"k": 3}},
    )
    for name, layer, a, A in (("fid", "2048", mu, sigma), ("sfid", "sfid", mu_s, sigma_s)):
        b, B = of(fake, layer)
        theirs = (a - b) @ (a - b) + np.trace(A) + np.trace(B) - 2 * np.trace(scipy.linalg.sqrtm(A @ B).real)
        assert float(report[name]) == pytest.approx(float(theirs), rel=1e-8)
    assert report["fid"].label == "FID" and report["sfid"].label == "sFID" and report["fid"].n_real == 60
    assert 0 <= float(report["precision"]) <= 1  # of the images in the file


def test_all_are_listed_with_what_is_known(cache):
    said = CliRunner().invoke(main, ["stats", "--known"])
    assert said.exit_code == 0 and not (cache / "torch").exists()
    for name in ("cifar10-edm", "imagenet64-edm", "imagenet64-adm", "imagenet256-adm", "imagenet512-adm", "ffhq64-edm",
                 "lsun-bedroom256-adm", "coco30k-t2i"):  # fmt: skip
        known = KNOWN[name]
        assert f"{name}: " in said.output and known.url in said.output and known.protocol in said.output
        assert known.sha256 in ("",) or len(known.sha256) == 64
    assert "sha256 not recorded" in said.output and "N 50000" in said.output and "N not recorded" in said.output


# What is said, and what it is called ----------------------------------------------------------------------------------


def test_statistics_of_nobody_knows_what_are_not_called_fid(tmp_path):
    for k in range(2):
        mu, sigma = moments(rows(k))
        np.savez(tmp_path / f"{k}.npz", mu=mu, sigma=sigma)
    report = fe.evaluate(tmp_path / "0.npz", tmp_path / "1.npz")
    assert report["fid"].label == "FD (features unknown)" and "FID " not in str(report["fid"])
    assert "do not record that they are of Inception's published weights" in report.table()
    ours = fe.evaluate(tmp_path / "0.npz", generated()[0])
    assert ours["fid"].label == "FD-inception (weights unknown)" and "The reference statistics" in ours.table()


def test_a_layer_is_in_the_name_and_in_the_file(tmp_path):
    for layer, label in (("64", "FD-inception-64"), ("2048", "FID"), ("", "FID")):
        result = fe.Result("fid", 1.0, extractor="inception", published=True, layer=layer)
        assert result.label == label
    assert fe.Result("kid", 1.0, extractor="inception", published=True, layer="768").label == "KID-inception-768"


def test_precisions_that_differ_are_told():
    one, other = generated(1)[0], generated(2)[0]
    one.meta = Meta("inception", "tf", "abc", "bf16", source="ref", published=True)
    report = fe.evaluate(one, other)
    assert report["fid"].precision == "fp32 vs bf16"
    assert "reference's features were computed in bf16, the generated ones in fp32" in report.table()


INDEFINITE = [[1.0, 2.0], [2.0, 1.0]]


def test_indefinite_matrices_are_no_covariances_at_any_door(tmp_path):
    from fewstep.eval.gaussian.covariance import Gaussian
    from fewstep.eval.gaussian.frechet import frechet

    bad = Gaussian.of(np.zeros(2), INDEFINITE)
    good = Gaussian.of(np.zeros(2), np.eye(2))
    by_hand = fe.Features(9, {"main": fe.FeatureStatistics.of(bad, 9)})
    fine = fe.Features(9, {"main": fe.FeatureStatistics.of(good, 9)})
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(2), sigma=INDEFINITE)
    save(tmp_path / "sealed.npz", by_hand, factor=False)
    doors = [
        lambda: fe.frechet_distance(np.zeros(2), INDEFINITE, np.zeros(2), INDEFINITE),
        lambda: fe.frechet_distance(np.zeros(2), np.eye(2), np.zeros(2), INDEFINITE),
        *(lambda a=a, b=b: frechet(a, b) for a, b in ((bad, bad), (good, bad), (bad, good))),
        *(lambda a=a, b=b: fe.fid(a, b) for a, b in ((by_hand, fine), (fine, by_hand), (by_hand, by_hand))),
        *(lambda f=f: fe.fid(tmp_path / f, fine) for f in ("theirs.npz", "sealed.npz")),
        lambda: fe.FeatureStatistics.load(tmp_path / "sealed.npz"),
        lambda: save(tmp_path / "with.npz", by_hand),
    ]
    for door in doors:
        with pytest.raises(ValueError, match="covariance is not semidefinite"):
            door()


def test_the_bound_holds_for_singular_covariances():
    """Of whole numbers, so that C is exact; the truth by the samples themselves, whose nuclear norm has no root of eps."""
    from fewstep.eval.gaussian.covariance import Gaussian
    from fewstep.eval.gaussian.frechet import frechet

    for seed in range(4):
        random = np.random.default_rng(seed)
        A, B = (random.integers(-9, 10, (40, 7)).astype(float) for _ in range(2))
        truth = (A**2).sum() + (B**2).sum() - 2 * np.linalg.svd(A.T @ B, compute_uv=False).sum()
        found = frechet(Gaussian.of(np.zeros(40), A @ A.T), Gaussian.of(np.zeros(40), B @ B.T))
        assert abs(found.value - truth) <= found.bound < 1e-3 * truth
        same = frechet(Gaussian.of(np.zeros(40), A @ A.T), Gaussian.of(np.zeros(40), A @ A.T))
        assert same.value <= same.bound


class Layers(Random):
    """With logits, and rows of length one for cmmd."""

    name = "layers"
    layers, parts = {"m": 8, "l": 5, "s": 6}, {"main": "m", "logits": "l", "spatial": "s"}

    def taps(self, x, layers):
        found = {"m": torch.nn.functional.normalize(x[:, :8] + 1e-3, dim=1), "l": x[:, :5], "s": x[:, :6]}
        return {layer: found[layer] for layer in layers}


@pytest.mark.filterwarnings("ignore")
def test_black_and_constant_sets_have_values_in_every_metric():
    noise = np.random.default_rng(0).integers(0, 256, (30, 5, 5, 3), np.uint8)
    black, grey = np.zeros_like(noise), np.full_like(noise, 127)
    options = {"kid": {"subset_size": 10}, "fid_inf": {"fits": 2}, "is_inf": {"fits": 2}, "is": {"splits": 2}}
    names = ["fid", "sfid", "kid", "kid_full", "is", "prdc", "fid_inf", "is_inf", "cmmd"]
    for real, fake in ((black, black), (black, noise), (noise, black), (grey, black)):
        report = fe.evaluate(real, fake, names, extractor=Layers(), options=options, progress=False)
        assert all(np.isfinite(r.value) and np.isfinite(r.interval or 0).all() for r in report.values())


# Options of peers -----------------------------------------------------------------------------------------------------


def invoked(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_options_of_peers_mean_what_they_mean_there(tmp_path):
    (tmp_path / "a").mkdir()
    for k, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (4, 28, 28), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "a" / f"{k}.png")
    plain = invoked("fid", "mnist", tmp_path / "a", "--json", "-", "--device", "cpu")
    theirs = invoked(
        "fid", "--input1", tmp_path / "a", "--input2", "mnist", "--cpu", "--num-workers", 0, "--silent", "--json", "-",
        "--samples-find-deep",
    )  # fmt: skip
    assert plain.exit_code == theirs.exit_code == 0, theirs.output
    assert [line for line in plain.stdout.splitlines() if '"value"' in line] == [
        line for line in theirs.stdout.splitlines() if '"value"' in line
    ]
    saved = invoked("fid", "--save-stats", tmp_path / "a", tmp_path / "s.npz", "--extractor", "digits")
    assert saved.exit_code == 0 and load(tmp_path / "s.npz").n == 4, saved.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fid", "mnist", "mnist-test", "--kid"), "--metrics fid,kid,is,prdc"),
        (("eval", "mnist", "mnist-test", "--kid-subset-size", "9"), "--metric-option kid.subset_size=1000"),
        (("fid", "--images", "x"), "REAL first"),
        (("fid", "mnist", "mnist-test", "--input1", "x"), "not both"),
        (("fid", "mnist", "mnist-test", "--gpu", "1", "--cpu"), "give one of them"),
        (("fid", "mnist"), "Missing argument 'GENERATED'"),
        (("stats", "mnist"), "Missing option '--out'"),
        (("eval", "mnist", "mnist-test", "--save-stats"), "fewstep stats IMAGES --out"),
        (("fid", "mnist", "mnist-test", "--dims", "100"), "'100' is not one of '64', '192', '768', '2048'"),
        (("fid", "mnist", "mnist-test", "--feature-extractor-internal-dtype", "float64"), "computed in float32"),
    ],
)  # fmt: skip
def test_what_peers_say_otherwise_is_said(arguments, said):
    result = invoked(*arguments)
    assert result.exit_code == 2 and said in result.output, result.output
