"""What ends a run, or does not: images that cannot be read, signals, workers that die, errors in words."""

import signal

import numpy as np
import pytest
import torch
import torch.distributed as dist

from db import DataError
from nnet.faults import RunError, Signals, UnreadableCount, stopping_reason
from sample import Batch
from sample.loader import Unreadable as UnreadableSample


def batch(images, unreadable):
    none = torch.zeros(0, dtype=torch.int64)
    pixels = torch.from_numpy(np.zeros((images, 3, 8, 8), np.uint8))
    return Batch(pixels, torch.zeros(0, 4), none, none, None, torch.arange(images), list(unreadable))


def test_unreadable_images_are_told_once_and_end_the_run_past_one_percent():
    bad = UnreadableSample("a.jpg", "the file is empty")
    count = UnreadableCount(1000)
    assert count.add(batch(4, [bad])) == ["skipped a.jpg: the file is empty"]
    assert count.add(batch(4, [bad])) == []
    assert (count.seen, count.failures) == (10, 2)
    count.judge(199, 199)  # too early to tell
    count.judge(200, 2)
    with pytest.raises(RunError, match=r"3 of the 200 images seen .* more than 1% \(a\.jpg: the file is empty\)"):
        count.judge(200, 3)
    small = UnreadableCount(16)
    small.judge(15, 1)
    with pytest.raises(RunError, match="1 of the 16 images"):
        small.judge(16, 1)


@pytest.mark.parametrize("number", Signals.STOP)
def test_a_signal_asks_to_stop_and_only_a_second_ctrl_c_acts_at_once(number, monkeypatch):
    acted = []
    before = signal.signal(number, lambda *_: acted.append(1))
    signals = Signals()
    try:
        signal.raise_signal(number)
        signal.raise_signal(number)  # the same once more, passed on by torchrun
        assert signals.stop == number and not acted
        monkeypatch.setattr(Signals, "SAME", 0.0)
        signal.raise_signal(number)
        assert acted == ([1] if number == signal.SIGINT else [])
    finally:
        signals.restore()
        signal.signal(number, before)


def test_a_dead_worker_is_reported_after_the_step():
    def report(number, frame):
        raise RuntimeError("DataLoader worker is killed")

    before = signal.signal(signal.SIGCHLD, report)
    signals, steps = Signals(), []
    try:
        signals.watch_workers()
        with pytest.raises(RuntimeError, match="worker is killed"):
            with signals.held():
                signal.raise_signal(signal.SIGCHLD)
                steps.append(1)
        assert steps == [1]
        with pytest.raises(RuntimeError, match="worker is killed"):
            signal.raise_signal(signal.SIGCHLD)
    finally:
        signals.restore()
        signal.signal(signal.SIGCHLD, before)


@pytest.mark.parametrize(
    "error, said",
    [
        (DataError("no such file"), "no such file"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "train.batch smaller"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."), "train.workers"),
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), "another process of this run"),
        (dist.DistStoreError("Timed out after 4 seconds waiting for clients. 1/2 clients joined."), "never began"),
    ],
)
def test_what_ended_a_run_in_words(error, said):
    assert said in stopping_reason(error)


def test_a_fault_of_the_program_keeps_its_traceback():
    assert stopping_reason(RuntimeError("shape mismatch")) is None
    assert stopping_reason(KeyError("timed out")) is None
