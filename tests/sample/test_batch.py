"""Batches, and their way through shared memory."""

import errno
import os
import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch

from models.keypoints import CORNERS
from sample.augment import AugmentOptions
from sample.batch import collate, pack
from sample.colour import normalise
from sample.dataset import TrainingSet
from sample.targets import Grid, PenaltyOptions, box_targets
from tests.sample.data import assert_same, load_batches


def test_batches(index):
    batches = load_batches(index, 0, 4)
    assert [len(batch.images) for batch in batches] == [2, 3] * 4
    for batch in batches:
        objects = batch.objects
        assert batch.images.shape[1:] == (3, 64, 64) and batch.images.dtype == torch.uint8
        assert objects.boxes.dtype == torch.float64 and objects.boxes.shape == (len(objects.labels), 4)
        assert objects.labels.dtype == objects.image_index.dtype == batch.image_ids.dtype == torch.int64
        assert batch.image_ids.shape == (len(batch.images),) and batch.unreadable == []
        x = normalise(batch.images, batch.colour)
        assert x.dtype == torch.float32 and x.shape == batch.images.shape
        grid = Grid(len(batch.images), 3, (64, 64), (16, 16))
        for target in box_targets(CORNERS, objects, grid, PenaltyOptions()).values():
            assert len(target.cells) == len(objects.labels)
        assert_same([batch], [batch.to("cpu")])
    assert batches[0].to("meta").images.device.type == batches[0].to("meta").colour.order.device.type == "meta"


@pytest.mark.parametrize("colour", [0.4, 0.0])
@pytest.mark.parametrize("files", ["there", "unknown", "refused"])
def test_packed_batch_is_the_batch(index, files, colour, monkeypatch):
    """In a memory file where the system has them and permits one, and without."""

    def refuse(name):
        raise OSError(errno.EPERM, "refused")

    if files == "unknown":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    if files == "refused":
        monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    dataset = TrainingSet(index, (95, 95), AugmentOptions(colour=colour, lighting=colour), 0)
    samples = dataset.__getitems__([(3, i) for i in range(4)])
    made, packed = collate(samples), pack(samples)
    assert packed.memory.is_shared()
    found = pickle.loads(ForkingPickler.dumps(packed)).unpack()
    assert (found.colour is None) == (made.colour is None) == (colour == 0)
    tensors = ((batch.images, *batch.objects, batch.image_ids) for batch in (made, found))
    for one, other in zip(*tensors, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    assert made.images.stride() == found.images.stride()
    assert all(map(torch.equal, made.colour or (), found.colour or ()))


def test_packed_without_boxes(index):
    dataset = TrainingSet(index, (95, 95), AugmentOptions(), 0)
    samples = dataset.__getitems__([(0, 0), (0, 4)])  # neither has any
    found = pack(samples).unpack().objects
    assert found.boxes.shape == (0, 4) and len(found.labels) == len(found.image_index) == 0
