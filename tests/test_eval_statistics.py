"""Streaming statistics are those of all rows at once, whatever the batches, their order and who saw them; files keep them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.eval.features import Features, Meta
from fewstep.eval.frechet import Gaussian
from fewstep.eval.metrics.fid import fid, influences
from fewstep.eval.statfile import holds_statistics, load, of_rows, save
from fewstep.eval.statistics import CHUNK, FeatureStatistics, group_of


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
    st.integers(1, 4),
    st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_streaming_equals_all_at_once(n, cuts, groups, seed):
    x = rows(n, 6, seed)
    edges = [0, *sorted(min(c, n) for c in cuts), n]
    streamed = FeatureStatistics(6, groups)
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        streamed.update(x[a:b])
    y = x.double()
    assert streamed.n == n
    torch.testing.assert_close(streamed.mean, y.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(streamed.cov, torch.cov(y.T), rtol=0, atol=1e-13 * float(torch.cov(y.T).abs().max() + 1))
    for g, part in enumerate(streamed.parts):
        mine = y[group_of(np.arange(n), groups) == g]
        assert part.n == len(mine)
        if part.n:
            torch.testing.assert_close(part.mean, mine.mean(0), rtol=1e-13, atol=0)


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
    (result,) = fid(reference, Features(1000, {"main": FeatureStatistics(4, 10).update(x)}))
    drawn = []
    for _ in range(50):
        again = centres[np.arange(1000) % 10] + random.normal(size=(1000, 4))
        drawn.append(float(fid(reference, Features(1000, {"main": FeatureStatistics(4).update(again)}))[0]))
    assert result.error < 8 * np.std(drawn)


@pytest.mark.parametrize("n", [100, 5000])
def test_shards_in_any_order_give_the_same(n):
    x, whole = rows(n, 40), FeatureStatistics(40, 3)
    whole.update(x)
    for order in ([0, 1, 2, 3], [3, 0, 2, 1]):
        shards = []
        for k in order:
            index = np.arange(k, n, 4)
            shards.append(FeatureStatistics(40, 3).update(x[index], index))
        merged = shards[0]
        for shard in shards[1:]:
            merged.merge(shard)
        same(merged, whole)
        for a, b in zip(merged.parts, whole.parts, strict=True):
            same(a, b)


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
    assert many.groups[0].n_waiting < CHUNK and many.groups[0].merged > 4000


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
        (lambda s: s.merge(FeatureStatistics(3, 2)), "groups"),
        (lambda s: s.update(torch.zeros(1, 3)).cov, "at least 2 samples; got 1"),
        (lambda s: s.mean, "at least 1 samples; got 0"),
        (lambda s: FeatureStatistics(0), "at least one dimension"),
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


# Error bars of FID


def sides(n, d, groups, seed):
    real = Gaussian.of(torch.zeros(d), torch.eye(d).double())
    x = torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 1.2 + 0.1
    generated = Features(n, {"main": FeatureStatistics(d, groups).update(x)})
    return Features(None, {"main": FeatureStatistics.of(real, None)}), generated, x


def test_influences_are_the_jackknife():
    n, d, G = 4000, 8, 20
    real, generated, x = sides(n, d, G, 0)
    a = real.statistics["main"].gaussian()
    found = influences(a, generated.statistics["main"].gaussian(), generated.statistics["main"])
    whole = float(fid(real, generated)[0])
    left_out = []
    for g in range(G):
        rest = np.flatnonzero(group_of(np.arange(n), G) != g)
        left_out.append(float(fid(real, of_rows(x[rest].numpy(), Meta()))[0]))
    jackknife = (G - 1) * (whole - np.array(left_out))
    assert abs(np.corrcoef(found, jackknife)[0, 1]) > 0.999
    assert found.std() == pytest.approx(jackknife.std(), rel=0.05)
    assert found.mean() == pytest.approx(0, abs=1e-10)


def test_the_interval_says_what_another_draw_would_give():
    values, errors = [], []
    for seed in range(60):
        real, generated, _ = sides(600, 6, 10, seed)
        (result,) = fid(real, generated)
        values.append(result.value)
        errors.append(result.error)
        assert result.interval[0] < result.value < result.interval[1] and len(result.groups) == 10
        assert np.mean(result.groups) == pytest.approx(result.value, rel=1e-9)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)


def test_without_groups_there_is_no_interval():
    real, generated, _ = sides(100, 4, 1, 0)
    (result,) = fid(real, generated)
    assert result.interval is None and result.error is None and result.groups == ()
    real, generated, _ = sides(100, 4, 5, 0)
    assert fid(real, generated, interval=False)[0].interval is None
