"""The time that the parts of a computation take, on the host or on a GPU."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Adds up seconds by name. Threads may share it: the times of parts that run at the same time overlap."""

    def __init__(self, device: torch.device):
        self.device = device
        self.lock = threading.Lock()
        self.totals: Counter[str] = Counter()
        self.pending: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def on_host(self, part: str) -> Iterator[None]:
        """Add the time of the block."""
        begun = time.perf_counter()
        yield
        with self.lock:
            self.totals[part] += time.perf_counter() - begun

    @contextmanager
    def on_device(self, part: str) -> Iterator[None]:
        """Add the time that the device takes for what the block asks of it. The host does not wait for a GPU."""
        if self.device.type != "cuda":
            with self.on_host(part):
                yield
            return
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(self.device)
        begun.record(stream)
        yield
        done.record(stream)
        with self.lock:
            self.pending.append((part, begun, done))
            self._collect(wait=False)

    def seconds(self) -> Counter[str]:
        """The seconds so far. Waits for the GPU."""
        with self.lock:
            self._collect(wait=True)
            return Counter(self.totals)

    def _collect(self, wait: bool) -> None:
        """Read the events that have happened, or all of them."""
        while self.pending and (wait or self.pending[0][2].query()):
            part, begun, done = self.pending.popleft()
            done.synchronize()
            self.totals[part] += begun.elapsed_time(done) / 1000
