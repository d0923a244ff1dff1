"""Training samples: what they depend on, and unreadable images."""

import os

import numpy as np
import pytest

from db import DataError
from sample.augment import AugmentOptions
from sample.batch import collate
from sample.dataset import TrainingSet
from tests.sample.data import assert_same, damage, load_batches


def test_epochs_differ_and_seeds_differ(index):
    dataset = TrainingSet(index, (64, 64), AugmentOptions(), 0)
    other = TrainingSet(index, (64, 64), AugmentOptions(), 1)
    assert not np.array_equal(dataset[0, 5].sample.image, dataset[1, 5].sample.image)
    assert not np.array_equal(dataset[0, 5].sample.image, other[0, 5].sample.image)


def test_no_augmentation(index):
    dataset = TrainingSet(index, (64, 64), None, 0)
    assert np.array_equal(dataset[0, 5].sample.image, dataset[7, 5].sample.image)
    assert dataset[0, 5].sample.colour is None
    still = AugmentOptions(crop=False, mirror=0.0, colour=0, lighting=0)
    assert_same(load_batches(index, 0, 3, augment=still), load_batches(index, 0, 3, augment=None))
    mirrored = TrainingSet(index, (64, 64), AugmentOptions(crop=False, colour=0, lighting=0), 0)
    seen = [np.array_equal(mirrored[epoch, 5].sample.image, dataset[0, 5].sample.image) for epoch in range(20)]
    assert 0 < sum(seen) < 20


def test_unreadable_is_replaced_and_reported(index):
    dataset = TrainingSet(index, (64, 64), AugmentOptions(), 0)
    following = dataset[4, 0]
    damage(index, 10)
    os.remove(index.path(11))
    sample = dataset[4, 10]
    assert sample.image_id == index.image_ids[0] and np.array_equal(sample.sample.image, following.sample.image)
    assert sample.unreadable == [
        (index.path(10), "the file is cut short"),
        (index.path(11), "No such file or directory"),
    ]
    batch = collate([dataset[4, 11], dataset[4, 1], dataset[4, 10]])
    assert [path for path, _ in batch.unreadable] == [index.path(i) for i in (11, 10, 11)]


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unreadable(index, workers):
    for i in range(10):
        damage(index, i)
    assert TrainingSet(index, (64, 64), None, 0)[0, 1].image_id == index.image_ids[10]
    with pytest.raises(DataError) as caught:
        load_batches(index, 0, 3, workers)
    assert str(caught.value) == (
        f"{index.path(0)}: the file is cut short. None of 10 consecutive images of the index, from this one on, "
        "can be read: check the image folder."
    )
