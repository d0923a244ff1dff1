"""Which images are in which micro-batch."""

import time

import pytest

from db import DataError
from sample.order import MicroBatches


def test_every_epoch_is_another_permutation():
    keys = [keys for keys in MicroBatches(12, [4], 0, 0, 300)]
    stream = [key for some in keys for key in some]
    orders = [[i for epoch, i in stream[12 * e : 12 * (e + 1)]] for e in range(100)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 100
    assert [epoch for epoch, _ in stream] == [e for e in range(100) for _ in range(12)]


def test_micro_batches_are_dealt():
    whole = list(MicroBatches(12, [2, 3, 1], 5, 0, 10))
    first, second = (list(MicroBatches(12, [2, 3, 1], 5, 0, 10, mine)) for mine in ([0, 2], [1]))
    assert [keys for pair in zip(first[::2], second, first[1::2], strict=True) for keys in pair] == whole
    assert len(MicroBatches(12, [2, 3, 1], 5, 4, 10, [0, 2])) == 12
    assert list(MicroBatches(12, [2, 3, 1], 5, 7, 7)) == []


def test_starting_late_costs_nothing():
    started = time.perf_counter()
    keys = next(iter(MicroBatches(118_287, [4] + [5] * 9, 0, 499_000, 500_000)))
    assert time.perf_counter() - started < 1
    assert keys[0][0] == 499_000 * 49 // 118_287


def test_more_than_there_are_images():
    with pytest.raises(DataError, match=r"more images in a micro-batch \(13\) than images to train on \(12\)"):
        MicroBatches(12, [1, 13], 0, 0, 1)
    with pytest.raises(DataError, match=r"more micro-batches \(13\) than images to train on \(12\)"):
        MicroBatches(12, [1] * 13, 0, 0, 1)
    MicroBatches(12, [12, 12], 0, 0, 1)
