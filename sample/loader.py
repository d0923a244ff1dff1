"""Batches of training samples, made ahead by worker processes."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterable, Iterator

import cv2
import torch
from torch.utils.data import DataLoader

from db import DataError
from sample.batch import Packed, collate, pack
from sample.dataset import Batch, Key, TrainingSet


class Loader(DataLoader):
    """PyTorch's DataLoader that raises the DataErrors of its workers as they are, and RuntimeError when one dies."""

    def __iter__(self) -> Iterator[Batch]:
        return self._batches(super().__iter__())  # starts the workers now, not with the first batch

    def _batches(self, batches: Iterator[Batch | Packed | DataError]) -> Iterator[Batch]:
        try:
            for batch in batches:
                if isinstance(batch, DataError):
                    raise batch
                yield batch.unpack() if isinstance(batch, Packed) else batch
        except (EOFError, OSError) as error:
            # A worker died while its batch was being fetched. Its connections close before the signal of its death
            # arrives. PyTorch's handler of that signal raises a RuntimeError that names the process: wait for it.
            time.sleep(1)
            raise RuntimeError(f"DataLoader worker died: exited unexpectedly ({error!r})") from error


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
    timeout.
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
