"""The stream of micro-batches and the processes that make it."""

import errno
import os
import pickle
import signal
import time
from multiprocessing.reduction import ForkingPickler

import cv2
import numpy as np
import pytest
import torch

from db import CocoIndex, DataError
from sample import (
    CORNERS,
    Augment,
    MicroBatches,
    Penalty,
    TrainingSet,
    box_targets,
    make_loader,
    normalise,
    validation_batches,
)
from sample import loader as loader_module


@pytest.fixture
def index(tmp_path):
    """Twelve images of several sizes; image i has i % 4 boxes."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(40, 90, (12, 2))
    names = [f"{i:02}.jpg" for i in range(12)]
    boxes, labels = [], []
    for i, (height, width) in enumerate(sizes):
        image = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / names[i]), cv2.resize(image, (int(width), int(height))))
        for _ in range(i % 4):
            x1, y1 = rng.uniform(0, 20, 2)
            boxes.append([x1, y1, x1 + rng.uniform(5, 20), y1 + rng.uniform(5, 20)])
            labels.append(rng.integers(3))
    return CocoIndex(
        image_ids=np.arange(12) * 10 + 5,
        sizes=sizes.astype(np.int32),
        names=np.array([os.fsencode(name) for name in names]),
        folder_of=np.zeros(12, np.int16),
        folders=(str(tmp_path),),
        first=np.concatenate([[0], np.cumsum(np.arange(12) % 4)]),
        boxes=np.array(boxes),
        labels=np.array(labels),
        crowd=np.zeros(len(boxes), bool),
        category_ids=(1, 2, 3),
        category_names=("a", "b", "c"),
    )


def damage(index, i):
    with open(index.path(i), "r+b") as file:
        file.truncate(os.path.getsize(index.path(i)) // 2)


def run(index, start, end, workers=0, batch=(2, 3), seed=1, mine=None, augment=Augment()):  # noqa: B008
    dataset = TrainingSet(index, (64, 64), augment, seed)
    batches = MicroBatches(len(index), batch, seed, start, end, mine)
    return list(make_loader(dataset, batches, workers, 60, "cpu"))


def assert_same(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.unreadable == other.unreadable
        for name in ("images", "boxes", "labels", "image_index", "image_ids"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
        assert (one.colour is None) == (other.colour is None)
        for part, same in zip(one.colour or (), other.colour or (), strict=True):
            assert torch.equal(part, same)


def test_batches(index):
    batches = run(index, 0, 4)
    assert [len(batch.images) for batch in batches] == [2, 3] * 4
    for batch in batches:
        assert batch.images.shape[1:] == (3, 64, 64) and batch.images.dtype == torch.uint8
        assert batch.boxes.dtype == torch.float64 and batch.boxes.shape == (len(batch.labels), 4)
        assert batch.labels.dtype == batch.image_index.dtype == batch.image_ids.dtype == torch.int64
        assert batch.image_ids.shape == (len(batch.images),) and batch.unreadable == []
        x = normalise(batch.images, batch.colour)
        assert x.dtype == torch.float32 and x.shape == batch.images.shape
        there = batch.boxes, batch.labels, batch.image_index, len(batch.images), 3
        for target in box_targets(CORNERS, *there, (64, 64), (16, 16), Penalty()).values():
            assert len(target.cells) == len(batch.labels)
        assert_same([batch], [batch.to("cpu")])
    assert batches[0].to("meta").images.device.type == batches[0].to("meta").colour.order.device.type == "meta"


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_no_difference(index, workers):
    damage(index, 3)
    assert_same(run(index, 0, 6), run(index, 0, 6, workers))


def test_opencv_threads_do_not_survive_the_fork(index):
    cv2.setNumThreads(4)
    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (3000, 3000))
    assert len(run(index, 0, 2, workers=2)) == 4


def test_resume_equals_the_run_through(index):
    through = run(index, 0, 9)
    assert_same(through[2 * 7 :], run(index, 7, 9, workers=1))


def test_epochs_differ_and_seeds_differ(index):
    keys = [keys for keys in MicroBatches(12, [4], 0, 0, 300)]
    stream = [key for some in keys for key in some]
    orders = [[i for epoch, i in stream[12 * e : 12 * (e + 1)]] for e in range(100)]
    assert all(sorted(order) == list(range(12)) for order in orders)
    assert len({tuple(order) for order in orders}) == 100
    assert [epoch for epoch, _ in stream] == [e for e in range(100) for _ in range(12)]
    dataset = TrainingSet(index, (64, 64), Augment(), 0)
    assert not np.array_equal(dataset[0, 5].image, dataset[1, 5].image)
    assert not np.array_equal(dataset[0, 5].image, TrainingSet(index, (64, 64), Augment(), 1)[0, 5].image)


def test_micro_batches_are_dealt(index):
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


def test_no_augmentation(index):
    dataset = TrainingSet(index, (64, 64), None, 0)
    assert np.array_equal(dataset[0, 5].image, dataset[7, 5].image) and dataset[0, 5].colour is None
    still = Augment(crop=False, mirror=0.0, colour=0, lighting=0)
    assert_same(run(index, 0, 3, augment=still), run(index, 0, 3, augment=None))
    mirrored = TrainingSet(index, (64, 64), Augment(crop=False, colour=0, lighting=0), 0)
    seen = [np.array_equal(mirrored[epoch, 5].image, dataset[0, 5].image) for epoch in range(20)]
    assert 0 < sum(seen) < 20


def test_validation(index):
    dataset = TrainingSet(index, (64, 96), None, 0)
    batches = list(make_loader(dataset, validation_batches(len(index), 5), 2, 60, "cpu"))
    assert torch.cat([batch.image_ids for batch in batches]).tolist() == index.image_ids.tolist()
    assert [tuple(batch.images.shape) for batch in batches] == [(5, 3, 64, 96), (5, 3, 64, 96), (2, 3, 64, 96)]
    assert sum(len(batch.boxes) for batch in batches) == len(index.boxes)


def test_unreadable_is_replaced_and_reported(index):
    dataset = TrainingSet(index, (64, 64), Augment(), 0)
    following = dataset[4, 0]
    damage(index, 10)
    os.remove(index.path(11))
    sample = dataset[4, 10]
    assert sample.image_id == index.image_ids[0] and np.array_equal(sample.image, following.image)
    assert sample.unreadable == [
        (index.path(10), "the file is cut short"),
        (index.path(11), "No such file or directory"),
    ]
    batch = loader_module.collate([dataset[4, 11], dataset[4, 1], dataset[4, 10]])
    assert [path for path, _ in batch.unreadable] == [index.path(i) for i in (11, 10, 11)]


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_unreadable(index, workers):
    for i in range(10):
        damage(index, i)
    assert TrainingSet(index, (64, 64), None, 0)[0, 1].image_id == index.image_ids[10]
    with pytest.raises(DataError) as caught:
        run(index, 0, 3, workers)
    assert str(caught.value) == (
        f"{index.path(0)}: the file is cut short. Nor can the next 9 images of the index be read: "
        "check the image folder."
    )


class Hanging(TrainingSet):
    def __getitem__(self, key):
        if self.seed == key[0]:
            time.sleep(600)
        return super().__getitem__(key)


def test_killed_worker_ends_the_run(index):
    batches = MicroBatches(12, [2], 99, 0, 1000)
    stream = make_loader(Hanging(index, (64, 64), None, 4), batches, 2, 0, "cpu")
    others = torch.multiprocessing.active_children()  # of tests before, on their way out
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"DataLoader worker .*(killed by signal|exited unexpectedly)"):
        for n, _ in enumerate(stream):
            if n == 1:
                children = [child for child in torch.multiprocessing.active_children() if child not in others]
                assert len(children) == 2
                os.kill(children[0].pid, signal.SIGKILL)
    assert time.monotonic() - started < 30


def test_hung_worker_ends_the_run(index):
    stream = make_loader(Hanging(index, (64, 64), None, 0), MicroBatches(12, [2], 0, 0, 9), 1, 1, "cpu")
    with pytest.raises(RuntimeError, match="timed out after 1"):
        list(stream)


def test_workers_start_with_the_iteration(index):
    """So that whoever wants to hold back PyTorch's report of a dead worker finds its handler."""
    others = torch.multiprocessing.active_children()
    stream = iter(make_loader(TrainingSet(index, (64, 64), None, 0), MicroBatches(12, [2], 0, 0, 9), 2, 0, "cpu"))
    assert len([child for child in torch.multiprocessing.active_children() if child not in others]) == 2
    assert callable(signal.getsignal(signal.SIGCHLD))
    assert len(list(stream)) == 9


@pytest.mark.parametrize("colour", [0.4, 0.0])
@pytest.mark.parametrize("files", ["there", "unknown", "refused"])
def test_packed_batch_is_the_batch(index, files, colour, monkeypatch):
    """In a file in memory where the system has such and grants it, and without."""

    def refuse(name):
        raise OSError(errno.EPERM, "refused")

    if files == "unknown":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    if files == "refused":
        monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    dataset = TrainingSet(index, (95, 95), Augment(colour=colour, lighting=colour), 0)
    samples = dataset.__getitems__([(3, i) for i in range(4)])
    made, packed = loader_module.collate(samples), loader_module.pack(samples)
    assert packed.memory.is_shared()
    found = pickle.loads(ForkingPickler.dumps(packed)).unpack()
    assert (found.colour is None) == (made.colour is None) == (colour == 0)
    for one, other in zip([*made[:4], made.image_ids], [*found[:4], found.image_ids], strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
    assert made.images.stride() == found.images.stride()
    assert all(map(torch.equal, made.colour or (), found.colour or ()))


def test_packed_without_boxes(index):
    samples = TrainingSet(index, (95, 95), Augment(), 0).__getitems__([(0, 0), (0, 4)])  # neither has any
    found = loader_module.pack(samples).unpack()
    assert found.boxes.shape == (0, 4) and len(found.labels) == len(found.image_index) == 0
