"""Batches of training samples, made ahead by worker processes."""

from __future__ import annotations

import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling

from db import DataError
from sample.batch import Packed, collate, pack
from sample.dataset import Batch, Key, TrainingSet

JOINED_WITHIN = 5.0  # seconds in which a killed worker ends


class Loader(DataLoader):
    """PyTorch's DataLoader that raises the DataErrors of its workers as they are, and RuntimeError when one dies or
    does not answer."""

    def __iter__(self) -> Batches:
        try:
            iterator = super().__iter__()  # starts the workers now, not with the first batch
        except OSError as error:
            raise OSError(
                f"the data loading processes cannot be started: {error}. What they share with this process is in "
                "/dev/shm on most systems: free some space there, enlarge it (docker run --shm-size), or try fewer "
                "train.workers"
            ) from error
        return Batches(iterator, self.timeout)


class Batches(Iterator[Batch]):
    """The batches of a loader, and its worker processes.

    PyTorch waits for `timeout` seconds for a batch to be announced. After that it fetches the batch's memory from the
    worker, and waits for as long as that takes: for ever, if the worker is stopped (SIGSTOP). Here a worker that does
    not answer in time is killed, which ends the waiting.
    """

    def __init__(self, iterator: Iterator, timeout: float):
        """timeout: seconds, 0 without limit."""
        self.iterator = iterator
        self.timeout = timeout
        self.workers = list(getattr(iterator, "_workers", []))
        self.watch = Watch(self.workers, timeout)
        self.late = False  # whether a batch did not come in time
        if self.workers and timeout:
            # Bound to the class: an iterator that refers to itself would outlive its last use, with its workers.
            fetch, iterator_of = type(iterator)._try_get_data, weakref.ref(iterator)
            watch = self.watch
            iterator._try_get_data = lambda seconds: watch.over(lambda: fetch(iterator_of(), seconds))

    def __next__(self) -> Batch:
        try:
            batch = next(self.iterator)
        except (EOFError, OSError, RuntimeError) as error:
            try:
                self._explain(error)
                raise
            finally:
                if self.late:
                    self.close()
        if isinstance(batch, DataError):
            raise batch
        return batch.unpack() if isinstance(batch, Packed) else batch

    def _explain(self, error: Exception) -> None:
        """Raise RuntimeError for a worker that died or does not answer; nothing for other errors."""
        stopped = [worker.pid for worker in self.workers if is_stopped(worker.pid)]
        self.late = "timed out" in str(error)
        if self.watch.killed or stopped:
            self.late = True
            who = ", ".join(map(str, self.watch.killed or stopped))
            what = "did not answer (it may have been stopped), and was killed" if self.watch.killed else "is stopped"
            raise RuntimeError(
                f"DataLoader timed out after {self.timeout:g} seconds: worker process {who} {what}"
            ) from error
        if isinstance(error, (EOFError, OSError)):
            # A worker died while its batch was being fetched. Its connections close before the signal of its death
            # arrives. PyTorch's handler of that signal raises a RuntimeError that names the process: wait for it.
            time.sleep(1)
            raise RuntimeError(f"DataLoader worker died: exited unexpectedly ({error!r})") from error

    def close(self) -> None:
        """End the workers, also those that are stopped or hang. Otherwise Python would wait for them at its end."""
        if not self.workers:
            return
        if self.iterator._worker_pids_set:  # no error is raised for these workers from here on
            signal_handling._remove_worker_pids(id(self.iterator))
            self.iterator._worker_pids_set = False
        for worker in self.workers:
            if self.late or is_stopped(worker.pid):
                worker.kill()
        self.iterator._shutdown_workers()
        for worker in self.workers:
            worker.kill()
            worker.join(JOINED_WITHIN)


class Watch:
    """Kills workers that let this process wait for too long.

    Attributes:
        killed: ids of their processes.
    """

    GRACE = 2.0  # seconds beyond the timeout, so that PyTorch's own limit comes first

    def __init__(self, workers: list[BaseProcess], timeout: float):
        self.workers = workers
        self.timeout = timeout
        self.killed: list[int] = []

    def over(self, wait: Callable[[], Any]) -> Any:
        """What `wait` returns. If it takes longer than the timeout, workers are killed, which ends it."""
        timer = threading.Timer(self.timeout + self.GRACE, self.kill)
        timer.daemon = True
        timer.start()
        try:
            return wait()
        finally:
            timer.cancel()

    def kill(self) -> None:
        """Kill the workers that are stopped, or all of them if that cannot be told."""
        chosen = [worker for worker in self.workers if is_stopped(worker.pid)] or self.workers
        self.killed = [worker.pid for worker in chosen]
        for worker in chosen:
            worker.kill()


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process. False where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):
        return False


def make_loader(
    dataset: TrainingSet,
    batches: Iterable[list[Key]],
    workers: int,
    timeout: float,
    device: torch.device | str,
) -> Loader:
    """Batches in the order of `batches`, in pinned memory if `device` is CUDA.

    Args:
        workers: number of worker processes. 0: this process loads.
        timeout: seconds that a worker may need for its next batch. 0: no limit.

    Iterating raises DataError as TrainingSet does, and RuntimeError when a worker dies (within seconds) or exceeds the
    timeout. `close` the iterator at the end.
    """
    _single_thread()  # before the fork: OpenCV's threads do not survive it
    # Forked workers share the index. Where forking is unavailable or unsafe (macOS), each gets a copy.
    fork = workers > 0 and sys.platform == "linux"
    # The config chooses the number of workers, even if there are fewer cores.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    return Loader(
        dataset,
        batch_sampler=batches,
        collate_fn=pack if workers > 0 else collate,
        num_workers=workers,
        timeout=timeout if workers > 0 else 0,
        prefetch_factor=4 if workers > 0 else None,
        pin_memory=torch.device(device).type == "cuda",
        worker_init_fn=_single_thread,
        multiprocessing_context="fork" if fork else None,
        generator=torch.Generator(),  # its own: iterating must not change PyTorch's random state
    )


def _single_thread(worker: int = 0) -> None:
    """Limit OpenCV to one thread per process: the workers already share the cores."""
    cv2.setNumThreads(0)
