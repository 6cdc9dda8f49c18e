"""A Meter says what one evaluation of all images says, however they come, and leaves everything around it as it was."""

import io
import random

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_features import EXTRACTOR, REFERENCE, D

from fewstep import eval as fe
from fewstep.eval.images.arrays import Array
from fewstep.eval.meter.meter import Meter

IMAGES = torch.randint(0, 255, (300, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
REAL = IMAGES[:120] // 2 + 40
METRICS, OPTIONS = ("fid", "kid_full", "kid", "prdc"), {"kid": {"subset_size": 50, "subsets": 20}}


def meter(**how):
    return Meter(REAL, METRICS, extractor=EXTRACTOR, options=OPTIONS, **how)


@pytest.fixture(scope="module")
def whole():
    return fe.evaluate(REAL, IMAGES, METRICS, extractor=EXTRACTOR, options=OPTIONS)


def assert_same(report, other, within=1e-12):
    assert set(report) == set(other)
    for name in report:
        a, b = report[name], other[name]
        assert a.value == pytest.approx(b.value, rel=within) and (a.n, a.n_real) == (b.n, b.n_real)
        assert a.error == (None if b.error is None else pytest.approx(b.error, rel=1e-9))
        assert a.groups == pytest.approx(b.groups, rel=1e-9) and a.features == b.features


@pytest.mark.parametrize("split", [[300], [1, 2, 61, 64, 172], [7] * 42 + [6]])
def test_any_split_gives_what_one_evaluation_does(whole, split):
    counted = meter()
    for part in IMAGES.split(split):
        assert counted.update(part) is counted
        if counted.n % 3 == 0 and counted.n >= 50:
            counted.compute()  # looks, and changes nothing
    assert_same(counted.compute(), whole)
    assert counted.n == 300


def test_forms_of_images_and_both_sides(whole):
    counted = Meter(None, METRICS, extractor=EXTRACTOR, options=OPTIONS)
    counted.update(REAL[:100], real=True)
    counted.update(REAL[100:].numpy(), True)
    pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in IMAGES[:20]]
    counted.update(pictures[0]).update(pictures[1:])
    counted.update(IMAGES[20:60].permute(0, 2, 3, 1).numpy()).update(IMAGES[60:100].float() / 255, range=(0, 1))
    counted.update(iter([IMAGES[100:120], IMAGES[120:200]])).update(IMAGES[200:])
    assert_same(counted.compute(), whole)
    counted.reset(real=False)
    assert_same(counted.update(IMAGES).compute(), whole)
    counted.reset()
    with pytest.raises(ValueError, match="2 real images, and was given 0"):
        counted.update(IMAGES).compute()


def test_features_directly(whole):
    counted = meter()
    for part in EXTRACTOR(IMAGES).split(50):
        counted.update(part)
    assert_same(counted.compute(), whole, 1e-6)
    counted.reset()
    counted.update({"main": EXTRACTOR(IMAGES[:64])})
    counted.update(fe.stats(IMAGES[64:], extractor=EXTRACTOR, rows=True, progress=False))
    assert_same(counted.compute(), whole, 1e-6)


def test_own_numbers_bring_any_order_back(whole):
    order, counted = np.random.default_rng(0).permutation(300), meter()
    for part in np.split(order, [10, 100, 250]):
        counted.update(IMAGES[part], index=part)
    assert_same(counted.compute(), whole)
    with pytest.raises(ValueError, match="given twice"):
        counted.update(IMAGES[:3], index=[1, 2, 3]).compute()


def test_a_state_goes_on(whole):
    counted = meter()
    for part in IMAGES[:150].split(70):
        counted.update(part)
    kept = io.BytesIO()
    torch.save(counted.state_dict(), kept)
    kept.seek(0)
    counted.update(IMAGES[150:])
    again = meter()
    again.load_state_dict(torch.load(kept, weights_only=True))
    assert again.n == 150
    again.update(IMAGES[150:])
    assert_same(again.compute(), whole)
    assert_same(counted.compute(), whole)
    state = counted.state_dict()
    state["generated"]["place"] = ["own", 1, 2]  # of another number of processes: numbers go on where nobody has any
    again.load_state_dict(state)
    again.update(IMAGES[:40])
    numbers = np.concatenate([again._held[False].shard.indices, again._held[False].numbers])
    assert again.compute()["fid"].n == 340 == len(np.unique(numbers))
    with pytest.raises(ValueError, match="state of a Meter of fid"):
        again.load_state_dict(Meter(REFERENCE, extractor=EXTRACTOR).state_dict())
    with pytest.raises(ValueError, match="no state of a Meter"):
        again.load_state_dict({"fid": 1})


def test_meters_merge(whole):
    one, other = meter(), meter()
    one.update(IMAGES[:133])
    assert_same(one.merge(other.update(IMAGES[133:])).compute(), whole)
    assert other.n == 167 and one.n == 300
    one, other = meter(), meter()  # numbers that are apart stay
    one.update(IMAGES[1::2], index=np.arange(1, 300, 2))
    assert_same(one.merge(other.update(IMAGES[::2], index=np.arange(0, 300, 2))).compute(), whole)
    with pytest.raises(ValueError, match="cannot take one of fid"):
        one.merge(Meter(REFERENCE, extractor=EXTRACTOR))


def test_more_rows_than_are_kept_merge_to_the_same_moments():
    rows = torch.rand(6000, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    parts = [Meter(REFERENCE, extractor=EXTRACTOR).update(part) for part in rows.split([2500, 500, 3000])]
    together = parts[0].merge(parts[1]).merge(parts[2]).compute()["fid"]
    alone = Meter(REFERENCE, extractor=EXTRACTOR).update(rows).compute()["fid"]
    assert together.value == pytest.approx(alone.value, rel=1e-12) and together.n == 6000
    assert together.error == pytest.approx(alone.error, rel=0.1)


def test_memory_is_flat():
    """What is held after many updates is what was held after the first sample of rows was full."""
    counted = Meter(REFERENCE, extractor=EXTRACTOR)

    def held():
        shard = counted._held[False].shard
        tensors = [*vars(shard.statistics["main"].moments).values(), shard.statistics["main"].sketch._rows]
        sizes = [x.nbytes for x in tensors if hasattr(x, "nbytes")]
        return sum(sizes), len(counted._held[False].images)

    for k in range(200):
        counted.update(torch.roll(IMAGES[:64], k, 3))
        if k == 40:
            before = held()
    assert held() == before and counted.n == 200 * 64


def states():
    return torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()


def assert_states(before):
    now = states()
    assert torch.equal(before[0], now[0]) and before[1:] == now[1:]


def test_global_generators_stay_as_they_are(tmp_path):
    for k in range(6):
        Image.fromarray(IMAGES[k].permute(1, 2, 0).numpy()).save(tmp_path / f"{k}.png")

    class Drawing(torch.utils.data.Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, i):
            return (np.random.rand(8, 8, 3) * random.random() * float(torch.rand(())) * 255).astype(np.uint8)

    before = states()
    fe.extractor("digits")
    counted = Meter("mnist")
    counted.update(IMAGES[:20]).update(Drawing())
    counted.compute()
    counted.state_dict()
    fe.fid("mnist", str(tmp_path), workers=1, progress=False)
    fe.stats(Drawing(), extractor="digits", progress=False)
    fe.evaluate(None, IMAGES[:40], ("is",), extractor="digits", progress=False)
    assert_states(before)


class Noisy(torch.nn.Module):
    """Features with dropout."""

    def __init__(self):
        super().__init__()
        self.drop, self.linear = torch.nn.Dropout(0.5), torch.nn.Linear(12, D)

    def forward(self, images):
        return self.linear(self.drop(torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)))


def test_an_extractor_is_in_eval_mode_and_afterwards_as_before():
    network = fe.Function(Noisy(), D, "noisy")
    network.eval()
    want = float(fe.fid(REAL, IMAGES, extractor=network, progress=False))
    network.train()
    network.function.linear.eval()
    modes = [m.training for m in network.modules()]
    counted = Meter(REAL, extractor=network).update(IMAGES[:100]).update(IMAGES[100:])
    assert float(counted.compute()["fid"]) == want == float(fe.fid(REAL, IMAGES, extractor=network, progress=False))
    assert [m.training for m in network.modules()] == modes


BAD = [
    (lambda: meter().compute(), "at least 2 generated images, and was given 0"),
    (lambda: meter().update(IMAGES[:1]).compute(), "at least 2 generated images, and was given 1"),
    (lambda: meter().update(IMAGES[:10]).compute(), "kid needs at least 50 images"),
    (
        lambda: Meter("mnist").update(torch.rand(4, 12)),
        "of 12 numbers were given as main, and those of the reference have 64",
    ),
    (lambda: Meter(REAL, extractor=EXTRACTOR).update(torch.rand(4, 13)), "13 numbers .* those of tiny have 12"),
    (lambda: Meter(None).update(torch.rand(4, 12)).update(torch.rand(4, 13)), "13 numbers .* the others have 12"),
    (lambda: Meter("mnist", ("fid",)).update(fe.stats(REAL, extractor=EXTRACTOR, rows=True)), "different extractors"),
    (lambda: Meter("mnist", extractor=EXTRACTOR).update(IMAGES), "different extractors"),
    (lambda: meter().update(REFERENCE), "without vectors"),
    (lambda: Meter("mnist").update({"pool": torch.rand(4, 64)}), "unknown part of features 'pool'"),
    (lambda: Meter("mnist").update({"main": torch.rand(4, 64), "logits": torch.rand(3, 10)}), r"\[3, 4\] samples"),
    (lambda: Meter(None, ("is",)).update(torch.rand(4, 64)), "logits are missing"),
    (lambda: meter().update(IMAGES, real=True), "has its reference already"),
    (lambda: Meter(None, ("is",)).update(IMAGES, real=True), "leave real=True away"),
    (lambda: Meter(REAL, ("is",)), "leave `reference` away"),
    (lambda: meter(number=3), "takes no number"),
    (lambda: meter(processes="mine"), "unknown `processes`"),
    (lambda: meter(wait=0), "wait"),
    (lambda: meter().update(IMAGES[:3], index=[1, 2]), "`index` numbers the images, 3 of them"),
    (lambda: meter().update(torch.rand(3, 3, 8, 8)), r"say range="),
    (lambda: meter().update(torch.full((4, D), float("nan"))), "NaN"),
]


@pytest.mark.parametrize(("call", "said"), BAD)
def test_bad_input(call, said):
    with pytest.raises(ValueError, match=said):
        call()


def test_images_of_a_device_stay_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a network on a GPU is given them, computed on a CPU: the report of the images one by one, and the same refusals."""
    images = torch.rand(50, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    images[7, 0, 3, 3] = float("nan")
    images[11] = 0.0
    one = fe.Meter("mnist", ("fid",), batch_size=16, range=(0, 1), skip_bad=True)
    with pytest.warns(UserWarning, match="passed over: 1"):
        one.update(images)
    chosen = Array.whole
    monkeypatch.setattr(Array, "whole", lambda self, blocks, device: chosen(self, blocks, torch.device("cuda")))
    monkeypatch.setattr("fewstep.eval.feed.waiting.Waiting.full", property(lambda self: self.count >= 30))
    monkeypatch.setattr(Array, "image", None)  # none is looked at by itself
    other = fe.Meter("mnist", ("fid",), batch_size=16, range=(0, 1), skip_bad=True)
    with pytest.warns(UserWarning, match="passed over|black"):
        for start in (0, 3, 20):
            other.update(buffer := images[start : {0: 3, 3: 20, 20: 50}[start]].clone())
            buffer.zero_()
        again = fe.Meter("mnist", ("fid",), batch_size=16, range=(0, 1), skip_bad=True)
        again.load_state_dict(other.state_dict())
        found = [float(meter.compute()["fid"]) for meter in (one, other, again)]
    assert one.compute()["fid"].n == other.compute()["fid"].n == again.compute()["fid"].n == 49
    assert found[1] == pytest.approx(found[0], rel=1e-6)  # other images share a batch
    assert found[1] == pytest.approx(found[2], rel=1e-12)
    strict = fe.Meter("mnist", ("fid",), range=(0, 1))
    strict.update(images)
    with pytest.raises(ValueError, match="image 7 of a Meter is not finite"):
        strict.compute()
