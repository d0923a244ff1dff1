"""Signals that end a run, held back until the run can stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Signals:
    """Turns signals into requests, so that they do not interrupt a step.

    SIGINT, SIGTERM and SIGUSR1 (which clusters send before they preempt) become a request, in `stop`, to end the run
    after the current step. Further signals change nothing, since clusters and torchrun send them again while the state
    is being saved. Only a second Ctrl-C, from a user who does not want to wait, acts immediately. PyTorch's report of a
    dead worker is an exception raised by a signal handler; within `held` it is deferred to the end of the block.

    Attributes:
        stop: number of the signal that asked to stop, or None.
        deferring: whether exceptions raised by signals are deferred.
    """

    # Some systems lack SIGUSR1 and SIGCHLD.
    STOP = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    CHILD = getattr(signal, "SIGCHLD", None)
    DEFAULT = signal.SIGTERM  # reported where the signal has reached another process
    SAME = 3.0  # seconds within which one Ctrl-C may arrive twice: from the terminal and from torchrun

    def __init__(self):
        self.stop: int | None = None
        self.previous = {s: signal.signal(s, self._request) for s in self.STOP}
        self.deferring = False
        self.deferred = None

    def _request(self, number: int, frame) -> None:
        if self.stop is None:
            self.stop, self.asked = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self.asked > self.SAME:
            signal.signal(number, self.previous[number])
            signal.raise_signal(number)

    def watch_workers(self) -> None:
        """Defer PyTorch's reports of dead workers. Call it after the first workers have started."""
        report = signal.getsignal(self.CHILD) if self.CHILD else None
        if callable(report):
            self.previous[self.CHILD] = report
            signal.signal(self.CHILD, self._child)

    def _child(self, number: int, frame) -> None:
        if self.deferring:
            self.deferred = number, frame
        else:
            self.previous[number](number, frame)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within the block, no signal raises an exception."""
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False
        if self.deferred:
            (number, frame), self.deferred = self.deferred, None
            self.previous[number](number, frame)

    def restore(self) -> None:
        """Install the previous handlers again."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
