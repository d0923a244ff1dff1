"""What goes wrong in a run, from outside and inside: signals, data that cannot be read, errors that end it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from db import DataError
from sample import Batch


class RunError(RuntimeError):
    """A run that has to stop: its message says why and what to do."""


def stopping_reason(error: Exception) -> str | None:
    """What ended a run, for the user; None if the error is a fault of the program."""
    text = str(error).strip()
    if isinstance(error, (DataError, RunError, OSError)):
        return text
    last = (text.splitlines() or ["unknown"])[-1].rstrip(".")
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"out of GPU memory ({last}): make the numbers in train.batch smaller (and more of them), or try "
            "train.checkpointing or train.precision=bfloat16"
        )
    if "DataLoader" in text:
        return (
            f"loading training data failed: {last}. A worker that was killed has often run out of memory (try fewer "
            "train.workers); one that timed out waits for its disk (train.worker_timeout)"
        )
    of_gloo = any(word in text.lower() for word in ("gloo", "timed out", "connection closed", "connection reset"))
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and of_gloo):
        return (
            "another process of this run has ended, never began, or has not answered for as long as "
            f"train.collective_timeout: {last}"
        )
    return None


class UnreadableCount:
    """Counts the images that could not be read, and ends a run that meets too many.

    The share is judged once a whole epoch or 200 images have been seen, whichever is less.
    """

    LIMIT = 0.01
    JUDGED_FROM = 200

    def __init__(self, images: int):
        self.judged_from = min(images, self.JUDGED_FROM)
        self.seen = 0
        self.failures = 0
        self.failed: dict[str, str] = {}  # path -> reason

    def add(self, batch: Batch) -> list[str]:
        """Count a batch. Returns a line for each image that failed for the first time."""
        self.seen += len(batch.images) + len(batch.unreadable)
        self.failures += len(batch.unreadable)
        news = [f"skipped {path}: {reason}" for path, reason in batch.unreadable if path not in self.failed]
        self.failed.update((path, reason) for path, reason in batch.unreadable)
        return news

    def judge(self, seen: int, failures: int) -> None:
        """Raise RunError if too many failed; the counts are those of all processes."""
        if seen >= self.judged_from and failures > self.LIMIT * seen:
            some = "; ".join(f"{path}: {reason}" for path, reason in list(self.failed.items())[:3])
            raise RunError(
                f"{failures} of the {seen} images seen could not be read, more than {self.LIMIT:.0%}"
                f"{f' ({some})' if some else ''}: repair or remove them, or their entries in the annotation file"
            )


class Signals:
    """Keeps signals from interrupting a step half way.

    SIGINT, SIGTERM and SIGUSR1 (with which clusters warn before they preempt) become a request, in `stop`, to end the
    run after the step that is under way. More of them change nothing, for clusters and torchrun send them again while
    the state is being saved; only a second Ctrl-C, from a human who does not want to wait, acts at once. PyTorch's
    report of a dead worker, which it raises wherever the process is, waits for the end of the step.
    """

    # SIGUSR1 and SIGCHLD are unknown to some systems.
    STOP = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    CHILD = getattr(signal, "SIGCHLD", None)
    SAME = 3.0  # seconds in which one Ctrl-C may arrive twice: torchrun passes on what the terminal sends to all

    def __init__(self):
        self.stop: int | None = None
        self.previous = {s: signal.signal(s, self._request) for s in self.STOP}
        self.holding = False
        self.late = None

    def _request(self, number: int, frame) -> None:
        if self.stop is None:
            self.stop, self.asked = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self.asked > self.SAME:
            signal.signal(number, self.previous[number])
            signal.raise_signal(number)

    def watch_workers(self) -> None:
        """To be called once PyTorch has installed its handler, with the first workers."""
        report = signal.getsignal(self.CHILD) if self.CHILD else None
        if callable(report):
            self.previous[self.CHILD] = report
            signal.signal(self.CHILD, self._child)

    def _child(self, number: int, frame) -> None:
        if self.holding:
            self.late = number, frame
        else:
            self.previous[number](number, frame)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, no signal raises an exception."""
        self.holding = True
        try:
            yield
        finally:
            self.holding = False
        if self.late:
            (number, frame), self.late = self.late, None
            self.previous[number](number, frame)

    def restore(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
