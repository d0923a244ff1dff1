"""The processes that make batches."""

import os
import signal
import sys
import time

import cv2
import numpy as np
import pytest
import torch

from sample.dataset import TrainingSet
from sample.loader import Watch, is_stopped, make_loader
from sample.order import MicroBatches, validation_batches
from tests.sample.data import assert_same, damage, load_batches


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_make_no_difference(index, workers):
    damage(index, 3)
    assert_same(load_batches(index, 0, 6), load_batches(index, 0, 6, workers))


def test_opencv_threads_do_not_survive_the_fork(index):
    cv2.setNumThreads(4)
    cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (3000, 3000))
    assert len(load_batches(index, 0, 2, workers=2)) == 4


def test_resume_equals_the_run_through(index):
    through = load_batches(index, 0, 9)
    assert_same(through[2 * 7 :], load_batches(index, 7, 9, workers=1))


def test_validation(index):
    dataset = TrainingSet(index, (64, 96), None, 0)
    batches = list(make_loader(dataset, validation_batches(len(index), 5), 2, 60, "cpu"))
    assert torch.cat([batch.image_ids for batch in batches]).tolist() == index.image_ids.tolist()
    assert [tuple(batch.images.shape) for batch in batches] == [(5, 3, 64, 96), (5, 3, 64, 96), (2, 3, 64, 96)]
    assert sum(len(batch.objects.boxes) for batch in batches) == len(index.boxes)


class Hanging(TrainingSet):
    def __getitem__(self, key):
        if self.seed == key[0]:
            time.sleep(600)
        return super().__getitem__(key)


def test_killed_worker_ends_the_run(index):
    batches = MicroBatches(12, [2], 99, 0, 1000)
    stream = make_loader(Hanging(index, (64, 64), None, 4), batches, 2, 0, "cpu")
    others = torch.multiprocessing.active_children()  # of earlier tests, still exiting
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's /proc")
@pytest.mark.parametrize("announced", [False, True])
def test_a_stopped_worker_ends_the_run(index, monkeypatch, announced):
    """Also one that is stopped after it announced a batch: PyTorch would wait for the batch's memory for ever."""
    monkeypatch.setattr(Watch, "GRACE", 0.5)
    dataset = (TrainingSet if announced else Hanging)(index, (64, 64), None, 0)
    stream = iter(make_loader(dataset, MicroBatches(12, [2], 0, 0, 9), 1, 1, "cpu"))
    (worker,) = stream.workers
    started = time.monotonic()
    assert not announced or stream.iterator._data_queue._reader.poll(30)
    os.kill(worker.pid, signal.SIGSTOP)
    while not is_stopped(worker.pid):
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match=rf"timed out after 1 seconds: worker process {worker.pid} "):
        list(stream)
    stream.close()
    assert not worker.is_alive() and time.monotonic() - started < 30


def test_a_full_shared_memory_says_where(index, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", full)
    with pytest.raises(OSError, match="No space left on device. What they share .* is in /dev/shm"):
        iter(make_loader(TrainingSet(index, (64, 64), None, 0), MicroBatches(12, [2], 0, 0, 9), 1, 1, "cpu"))


def test_workers_start_with_the_iteration(index):
    """A caller that wants to delay PyTorch's report of a dead worker finds its signal handler."""
    others = torch.multiprocessing.active_children()
    stream = iter(make_loader(TrainingSet(index, (64, 64), None, 0), MicroBatches(12, [2], 0, 0, 9), 2, 0, "cpu"))
    assert len([child for child in torch.multiprocessing.active_children() if child not in others]) == 2
    assert callable(signal.getsignal(signal.SIGCHLD))
    assert len(list(stream)) == 9
