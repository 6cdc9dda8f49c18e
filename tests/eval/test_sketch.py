"""A uniform sample of rows that depends on their indices alone: not on batches, their order, shards or how these are merged."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep.eval.gaussian.sketch import Sketch, ranks


def rows_of(index):
    """(B, 2) float64 that tell their index."""
    return torch.as_tensor(np.stack([index, -index], 1), dtype=torch.float64)


def sketch_of(parts, size):
    made = Sketch(2, size)
    for index in parts:
        made.add(rows_of(index), index)
        assert len(made._rows) <= 2 * size
    return made


def assert_kept(sketch, index):
    """The rows of lowest rank, each with its index."""
    expected = np.sort(index[np.argsort(ranks(index))[: sketch.size]])
    assert np.array_equal(np.sort(sketch.index), expected) and sketch.seen == len(index)
    assert np.array_equal(sketch.rows, rows_of(sketch.index)) and np.array_equal(sketch.ordered(), rows_of(expected))
    assert sketch.whole == (len(index) <= sketch.size)


@given(st.data(), st.integers(1, 60), st.integers(1, 4), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_batches_order_and_merging_change_nothing(data, size, shards, random):
    """Any set of indices, in any order, cut into any batches, dealt to any shards, merged in any order."""
    index = np.array(data.draw(st.lists(st.integers(0, 2**40), unique=True, max_size=200)), np.int64)
    batches = np.split(index, sorted(random.randint(0, len(index)) for _ in range(random.randint(0, 9))))
    parts = [sketch_of([b for k, b in enumerate(batches) if k % shards == s], size) for s in range(shards)]
    random.shuffle(parts)
    while len(parts) > 1:
        other, into = parts.pop(), random.choice(parts[: len(parts)])
        before = other.index.copy()
        into.merge(other)
        assert np.array_equal(other.index, before)
    assert_kept(parts[0], index)


@given(st.integers(2, 300), st.integers(1, 80), st.integers(1, 50))
@settings(max_examples=50, deadline=None)
def test_files_keep_it(n, size, cut):
    index = np.arange(n)
    first = sketch_of([index[:cut]], size)
    again = Sketch.of_arrays(size, {name: array.copy() for name, array in first.arrays().items()})
    again.add(rows_of(index[cut:]), index[cut:])
    assert_kept(again, index)


def test_longer_runs_keep_a_part_of_shorter_ones():
    short, long = (set(sketch_of([np.arange(n)], 100).index) for n in (1000, 5000))
    assert {i for i in long if i < 1000} == {i for i in short if i in long}
    assert long != short and len(long) == len(short) == 100


def test_ranks_are_one_to_one_and_look_random():
    index = np.arange(200_000)
    found = ranks(index)
    assert len(np.unique(found)) == len(index)
    bits = (found[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / np.sqrt(len(index))
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.01


@pytest.mark.parametrize("period", [2, 7, 10, 64, 1000])
@pytest.mark.parametrize("blocks", [False, True])
def test_every_class_has_its_share(period, blocks):
    """Classes drawn in turn, or one after the other: chi^2 of their counts is what a uniform sample has."""
    n, size = 50_000, 2048
    kept = sketch_of(np.array_split(np.arange(n), 7), size).index
    counts = np.bincount(kept * period // n if blocks else kept % period, minlength=period)
    expected = size / period
    chi2 = ((counts - expected) ** 2 / expected).sum()
    freedom = (period - 1) * (1 - size / n)  # without replacement
    assert abs(chi2 - freedom) < 4 * np.sqrt(2 * freedom)


def test_kept_rows_are_no_more_than_asked_for_however_long_it_runs():
    sketch = Sketch(3, 128)
    for k in range(400):
        sketch.add(torch.rand(50, 3), np.arange(50 * k, 50 * k + 50))
        assert len(sketch) <= 128 and len(sketch._rows) <= 128
    assert sketch.seen == 20_000 and sketch.rows.dtype == np.float32 and len(sketch) == 128


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int64]
)
def test_rows_are_kept_exactly(dtype):
    x = (100 * torch.rand(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).to(dtype)
    sketch = Sketch(4, 20)
    sketch.add(x, np.arange(30))
    assert np.array_equal(sketch.rows, x[sketch.index].double().numpy())
    assert sketch.rows.dtype == (np.float32 if dtype in (torch.float16, torch.bfloat16, torch.float32) else np.float64)


def test_precisions_may_be_mixed():
    fine = torch.tensor([[1 + 2**-50, 0.0]], dtype=torch.float64)
    sketch = Sketch(2, 8)
    sketch.add(torch.full((3, 2), 0.1), np.arange(3))
    sketch.add(fine, np.array([3]))
    sketch.add(torch.full((3, 2), 0.1), np.arange(4, 7))
    assert np.array_equal(sketch.ordered()[3], fine[0]) and np.array_equal(sketch.rows[0], np.float32([0.1, 0.1]))


def test_the_same_index_twice_is_two_rows():
    """Parts that both count from zero, as those do that name no indices."""
    sketch = sketch_of([np.arange(5)], 20)
    sketch.merge(sketch_of([np.arange(5)], 20))
    assert sketch.seen == len(sketch) == 10 and np.array_equal(sketch.rows, rows_of(sketch.index))
