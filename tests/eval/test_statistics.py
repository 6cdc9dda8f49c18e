"""Streaming statistics are those of all rows at once, whatever the batches, their order and who saw them; files keep them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.eval.gaussian.covariance import Gaussian
from fewstep.eval.gaussian.features import Features, Meta
from fewstep.eval.gaussian.moments import CHUNK
from fewstep.eval.gaussian.sketch import ranks
from fewstep.eval.gaussian.statfile import holds_statistics, load, of_rows, save
from fewstep.eval.gaussian.statistics import FeatureStatistics
from fewstep.eval.metrics.fid_and_sfid import fid, influences
from fewstep.eval.metrics.groups import group_of
from fewstep.eval.report.paired_difference import difference


def rows(n, d, seed=0):
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=random).relu() + 3 * torch.rand(d, generator=random)).float()


def same(a, b, rtol=1e-12):
    scale = b.cov.abs().max()
    assert a.n == b.n
    torch.testing.assert_close(a.mean, b.mean, rtol=rtol, atol=0)
    torch.testing.assert_close(a.cov, b.cov, rtol=0, atol=float(rtol * scale))


@given(
    st.integers(2, 3 * CHUNK),
    st.lists(st.integers(0, 700), min_size=1, max_size=6),
    st.integers(1, 900),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_streaming_equals_all_at_once(n, cuts, kept, seed):
    x = rows(n, 6, seed)
    edges = [0, *sorted(min(c, n) for c in cuts), n]
    streamed = FeatureStatistics(6, kept)
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        streamed.update(x[a:b])
    y = x.double()
    assert streamed.n == n
    torch.testing.assert_close(streamed.mean, y.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(streamed.cov, torch.cov(y.T), rtol=0, atol=1e-13 * float(torch.cov(y.T).abs().max() + 1))
    lowest = np.sort(np.argsort(ranks(np.arange(n)))[:kept])
    assert np.array_equal(np.sort(streamed.sketch.index), lowest)
    assert np.array_equal(streamed.sketch.ordered(), x[lowest].numpy())


@pytest.mark.parametrize("groups", [2, 10])
def test_groups_are_even_and_follow_no_period(groups):
    """Of classes drawn in turn, or one after the other, every group has its share."""
    found = group_of(np.arange(1200), groups)
    assert (np.sort(found.reshape(-1, groups), 1) == np.arange(groups)).all()
    for classes in (np.arange(1200) % 10, np.arange(1200) % 9, np.arange(1200) // 120):
        shares = [np.bincount(classes[found == g], minlength=classes.max() + 1) for g in range(groups)]
        even = 1200 / groups / (classes.max() + 1)
        assert np.abs(np.array(shares) - even).max() < 0.8 * even


def test_error_of_classes_drawn_in_turn_is_that_of_their_sampling():
    """Class means far apart, as many of each class: none of that spread is sampling error."""
    random = np.random.default_rng(0)
    centres = 10 * random.normal(size=(10, 4))
    x = centres[np.arange(1000) % 10] + random.normal(size=(1000, 4))
    reference = Features(
        10**6, {"main": FeatureStatistics(4).update(centres.repeat(100, 0) + random.normal(size=(1000, 4)))}
    )
    (result,) = fid(reference, Features(1000, {"main": FeatureStatistics(4).update(x)}))
    drawn = []
    for _ in range(50):
        again = centres[np.arange(1000) % 10] + random.normal(size=(1000, 4))
        drawn.append(float(fid(reference, Features(1000, {"main": FeatureStatistics(4).update(again)}))[0]))
    assert result.error < 8 * np.std(drawn)


@pytest.mark.parametrize(("n", "d"), [(100, 40), (5000, 40), (30, 40), (1500, 2000)])
def test_shards_in_any_order_give_the_same(n, d):
    x, whole = rows(n, d), FeatureStatistics(d, 300)
    whole.update(x)
    for order in ([0, 1, 2, 3], [3, 0, 2, 1]):
        shards = []
        for k in order:
            index = np.arange(k, n, 4)
            shards.append(FeatureStatistics(d, 300).update(x[index], index))
        merged = shards[0]
        for shard in shards[1:]:
            merged.merge(shard)
        same(merged, whole)
        assert np.array_equal(merged.sketch.ordered(), whole.sketch.ordered())
        assert np.array_equal(np.sort(merged.sketch.index), np.sort(whole.sketch.index))


def test_statistics_that_were_looked_at_go_on():
    """What is asked for in between is what a fresh start would give, and stays as it was when more is added."""
    x = rows(3000, 5)
    looked, asked = FeatureStatistics(5), []
    for k in range(0, 3000, 250):
        looked.update(x[k : k + 250])
        fresh = FeatureStatistics(5).update(x[: k + 250])
        same(looked, fresh)
        asked.append((looked.gaussian(), fresh.cov))
    for gaussian, cov in asked:
        torch.testing.assert_close(gaussian.cov, cov, rtol=0, atol=1e-12 * float(cov.abs().max()))


def test_memory_of_the_caller_is_not_kept():
    x, reused, statistics = rows(700, 5), torch.zeros(100, 5), FeatureStatistics(5)
    for part in x.split(100):
        reused.copy_(part)
        statistics.update(reused)
    reused.fill_(1e9)
    same(statistics, FeatureStatistics(5).update(x))
    assert np.array_equal(statistics.sketch.ordered(), x.numpy())


def test_merging_leaves_the_other_as_it_was():
    x = rows(2000, 5)
    other = FeatureStatistics(5).update(x[1000:])
    before = other.cov.clone()
    first = FeatureStatistics(5).update(x[:1000]).merge(other)
    first.update(x[:7])
    assert torch.equal(other.cov, before) and other.n == 1000 and first.n == 2007


def test_few_rows_stay_rows_and_many_do_not():
    few = FeatureStatistics(600).update(rows(500, 600))
    assert few.gaussian().thin and few.gaussian().factor.shape == (600, 499)
    many = FeatureStatistics(4)
    for k in range(50):
        many.update(rows(100, 4, k))
    assert many.moments.waiting < CHUNK and many.moments.merged > 4000 and len(many.moments.chunk) == CHUNK
    assert few.moments.n == 0 and few.moments.scatter is None  # no matrix of 600 x 600
    few.update(rows(101, 600))
    assert few.moments.n == 601 and not few.gaussian().thin


def test_what_is_held_does_not_grow():
    """Bytes of everything that lives on between batches."""

    def held(n):
        statistics = FeatureStatistics(40, 300)
        for k in range(0, n, 1000):
            statistics.update(rows(1000, 40, k))
        tensors = [v for v in vars(statistics.moments).values() if isinstance(v, torch.Tensor)]
        arrays = [v for v in vars(statistics.sketch).values() if isinstance(v, np.ndarray)]
        return sum(t.nbytes for t in tensors) + sum(a.nbytes for a in arrays)

    assert held(2000) == held(50_000) < 8 * (40 * 40 + CHUNK * 40 + 40) + 4 * 300 * 40 + 8 * 300 + 1


def test_half_precision_and_integers_become_float64():
    x = rows(50, 3)
    assert FeatureStatistics(3).update(x.bfloat16()).mean.dtype == torch.float64
    assert FeatureStatistics(3).update(x.numpy()).cov.dtype == torch.float64


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda s: s.update(torch.full((2, 3), float("nan")), [7, 9]), "sample 7, 9 are NaN"),
        (lambda s: s.update(torch.zeros(2, 4)), r"\(B, 3\)"),
        (lambda s: s.merge(FeatureStatistics(4)), "3 and 4 dimensions"),
        (lambda s: s.merge(FeatureStatistics(3, 2)), "2048 and 2 kept rows"),
        (lambda s: s.update(torch.zeros(2, 3), [1]), "index of 2 samples"),
        (lambda s: FeatureStatistics(3, 0), "`kept` must be a whole number, at least 1; got 0"),
        (lambda s: s.update(torch.zeros(1, 3)).cov, "at least 2 samples; got 1"),
        (lambda s: s.mean, "at least 1 samples; got 0"),
        (lambda s: FeatureStatistics(0), "`dim` must be a whole number, at least 1; got 0"),
    ],
)
def test_bad_input(act, said):
    with pytest.raises(ValueError, match=said):
        act(FeatureStatistics(3))


# Files


@pytest.mark.parametrize("n", [30, 900])
def test_a_file_keeps_everything_exactly(tmp_path, n):
    x, s = rows(n, 40), rows(n, 50, 1)
    meta = Meta("inception", "tf", "abc", source="images/", lossy=False)
    sides = {"main": FeatureStatistics(40).update(x), "spatial": FeatureStatistics(50).update(s)}
    save(tmp_path / "r.npz", Features(n, sides, {"main": x.numpy()}, meta, {"main": "2048"}))
    again = load(tmp_path / "r.npz")
    assert again.n == n and again.layers == {"main": "2048"} and np.array_equal(again.rows["main"], x.numpy())
    assert (again.meta.extractor, again.meta.protocol, again.meta.hash) == ("inception", "tf", "abc")
    assert again.meta.version.startswith("fewstep")
    for part, statistics in sides.items():
        assert torch.equal(again.statistics[part].mean, statistics.mean)
        assert torch.equal(again.statistics[part].cov, statistics.cov)
    L = again.statistics["main"].gaussian().factor
    torch.testing.assert_close(L @ L.T, sides["main"].cov, rtol=0, atol=1e-12)
    assert again.statistics["main"].gaussian().thin == (n == 30)


def test_statistics_of_peers(tmp_path):
    x = rows(300, 8).numpy()
    mu, sigma = x.mean(0, dtype=np.float64), np.cov(x.T.astype(np.float64))
    np.savez(tmp_path / "fid.npz", mu=mu, sigma=sigma)  # pytorch-fid, TTUR, EDM, clean-fid
    np.savez(tmp_path / "adm.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8), mu=mu, sigma=sigma, mu_s=mu, sigma_s=sigma)
    np.savez(tmp_path / "kid.npz", feats=x)
    np.savez(tmp_path / "dgm.npz", reps=x, model="inception")
    torch.save(torch.tensor(x), tmp_path / "features.pt")
    for name in ("fid", "adm", "kid", "dgm", "features"):
        path = tmp_path / f"{name}.{'pt' if name == 'features' else 'npz'}"
        assert holds_statistics(path)
        found = load(path)
        assert found.n == (None if name in ("fid", "adm") else 300)
        np.testing.assert_allclose(found.statistics["main"].cov, sigma, atol=1e-12)
        assert ("spatial" in found.statistics) == (name == "adm")
        assert FeatureStatistics.load(path).mean == pytest.approx(mu, rel=1e-12)
    with pytest.raises(ValueError, match="how many samples"):
        load(tmp_path / "fid.npz").statistics["main"].update(x)


def test_statistics_of_ones_own_are_read_by_peers(tmp_path):
    statistics = FeatureStatistics(6).update(rows(50, 6))
    statistics.save(tmp_path / "ref.npz")
    with np.load(tmp_path / "ref.npz") as arrays:  # as pytorch-fid does
        np.testing.assert_array_equal(arrays["mu"], statistics.mean)
        np.testing.assert_array_equal(arrays["sigma"], statistics.cov)
        assert json.loads(str(arrays["meta"]))["extractor"] == ""


@pytest.mark.parametrize("kind", ["absent", "pickle", "empty", "cut", "other", "wrong", "broken", "pt"])
def test_files_that_are_none(tmp_path, kind):
    path, said = tmp_path / "r.npz", "does not exist"
    x = rows(20, 3).numpy()
    if kind == "pickle":
        path, said = tmp_path / "r.pkl", "could run code"
        path.write_bytes(b"")
    elif kind == "empty":
        path.write_bytes(b"")
        said = "cannot be read"
    elif kind == "cut":
        np.savez(path, mu=x.mean(0), sigma=np.cov(x.T))
        path.write_bytes(path.read_bytes()[:-80])
        said = "cannot be read"
    elif kind == "other":
        np.savez(path, a=x)
        said = "statistics need mu and sigma"
    elif kind == "wrong":
        np.savez(path, mu=x.mean(0), sigma=np.eye(4))
        said = r"mu and sigma: a mean of shape \(d,\)"
    elif kind == "broken":
        np.savez(path, mu=x.mean(0), sigma=np.full((3, 3), np.nan))
        said = "NaN"
    elif kind == "pt":
        path, said = tmp_path / "r.pt", "cannot be read as a tensor"
        path.write_bytes(b"no tensor")
    with pytest.raises(ValueError, match=said):
        load(path)


def test_a_file_is_an_npz(tmp_path):
    with pytest.raises(ValueError, match="written as .npz"):
        FeatureStatistics(2).update(torch.rand(3, 2)).save(tmp_path / "r.json")
    assert not list(tmp_path.iterdir())


def test_a_file_with_all_features_has_an_interval(tmp_path):
    real, generated, x = sides(500, 4, 0)
    (expected,) = fid(real, generated)
    save(tmp_path / "all.npz", Features(500, dict(generated.statistics), {"main": x.float().numpy()}))
    save(tmp_path / "moments.npz", generated)
    (found,), (bare,) = (fid(real, load(tmp_path / f"{name}.npz")) for name in ("all", "moments"))
    assert found.error == pytest.approx(expected.error, rel=1e-6) and found.groups == pytest.approx(expected.groups)
    assert bare.value == pytest.approx(expected.value, rel=1e-9) and bare.interval is None and bare.groups == ()
    x[7] = np.nan
    save(tmp_path / "broken.npz", Features(500, dict(generated.statistics), {"main": x.float().numpy()}))
    with pytest.raises(ValueError, match="features are NaN"):
        load(tmp_path / "broken.npz")


# Error bars of FID


def sides(n, d, seed, kept=None, scale=1.2, shift=0.1):
    """A standard Gaussian as the real side, n samples of another one, and these."""
    real = Gaussian.of(torch.zeros(d), torch.eye(d).double())
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * scale + shift
    generated = Features(n, {"main": FeatureStatistics(d, kept).update(x)})
    return Features(None, {"main": FeatureStatistics.of(real, None)}), generated, x


def influences_of(real, generated):
    (a, b), side = (f.statistics["main"].gaussian() for f in (real, generated)), generated.statistics["main"]
    return influences(a, b, side.n, [torch.from_numpy(side.sketch.ordered())]).numpy()


@pytest.mark.parametrize("n", [400, pytest.param(1600, marks=pytest.mark.slow)])
def test_influences_are_the_jackknife(n):
    """Of every sample: n times the distance less n - 1 times that without it."""
    real, generated, x = sides(n, 8, 0)
    found, whole = influences_of(real, generated), float(fid(real, generated)[0])
    jackknife = np.array(
        [(n - 1) * (whole - float(fid(real, of_rows(np.delete(x.numpy(), i, 0), Meta()))[0])) for i in range(n)]
    )
    assert np.corrcoef(found, jackknife)[0, 1] > 0.999
    assert found.std() == pytest.approx(jackknife.std(), rel=20 / n)
    assert found.mean() == pytest.approx(0, abs=1e-10)


def test_influences_of_groups_are_the_block_jackknife():
    n, G = 4000, 20
    real, generated, x = sides(n, 8, 0, 5000)
    of_each = group_of(np.arange(n), G)
    found = np.array([influences_of(real, generated)[of_each == g].mean() for g in range(G)])
    whole = float(fid(real, generated)[0])
    left_out = [float(fid(real, of_rows(x[of_each != g].numpy(), Meta()))[0]) for g in range(G)]
    jackknife = (G - 1) * (whole - np.array(left_out))
    assert np.corrcoef(found, jackknife)[0, 1] > 0.999
    assert found.std() == pytest.approx(jackknife.std(), rel=0.05)


@pytest.mark.parametrize("kept", [600, 100])
def test_the_interval_says_what_another_draw_would_give(kept):
    results = []
    for seed in range(60):
        real, generated, _ = sides(600, 6, seed, kept)
        (result,) = fid(real, generated)
        results.append(result)
        assert result.interval[0] < result.value < result.interval[1] and len(result.groups) == 10
        assert np.mean(result.groups) == pytest.approx(result.value, rel=1e-9)
        assert result.method.startswith(f"influences of {kept} of the generated images, first order")
    errors = [result.error for result in results]
    of_groups = [np.std(result.groups, ddof=1) / np.sqrt(10) for result in results]
    for found in (errors, of_groups):
        assert np.sqrt(np.mean(np.square(found))) == pytest.approx(np.std([float(r) for r in results]), rel=0.3)
    assert np.std(errors) < 2 * np.mean(errors) / np.sqrt(kept)  # k samples tell a spread to some 1 / sqrt(2 k)


def test_a_sample_tells_the_error_that_all_rows_tell():
    real, generated, _ = sides(20_000, 6, 0, 20_000)
    (every,) = fid(real, generated)
    real, generated, _ = sides(20_000, 6, 0)
    (some,) = fid(real, generated)
    assert len(generated.statistics["main"].sketch) == 2048 and some.value == every.value
    assert some.error == pytest.approx(every.error, rel=0.1) and some.error != every.error


@pytest.mark.parametrize("kept", [1000, 200])
@pytest.mark.slow
def test_paired_differences_cover_and_are_narrower(kept):
    """Two solvers on the same noise, drawn again and again: their true difference is in 95 % of the intervals."""
    real, *_ = sides(2, 5, 0)
    far = [float(fid(real, sides(400_000, 5, 77, 1, scale, 0.4)[1])[0]) for scale in (1.3, 1.31)]
    inside, paired, alone = 0, [], []
    for seed in range(200):
        a, b = (fid(real, sides(1000, 5, seed, kept, scale, 0.4)[1])[0] for scale in (1.3, 1.31))
        _, error, (low, high) = difference(a, b)
        inside += low < far[0] - far[1] < high
        paired.append(error)
        alone.append(np.hypot(a.error, b.error))
    assert 0.88 < inside / 200 <= 0.99
    assert np.mean(paired) < 0.1 * np.mean(alone)


def test_where_there_is_no_interval():
    real, generated, _ = sides(19, 4, 0)
    for found in (fid(real, generated), fid(*sides(100, 4, 0)[:2], interval=False)):
        assert found[0].interval is None and found[0].error is None and found[0].groups == ()
    rest = sides(100, 4, 1)[1].statistics["main"]
    known = FeatureStatistics.of(rest.gaussian(), 100).update(sides(100, 4, 2)[2])  # half of it was never seen
    assert fid(real, Features(200, {"main": known}))[0].interval is None
    assert fid(real, Features(100, {"main": rest}))[0].interval is not None
