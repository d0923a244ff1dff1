"""From samples to a batch, and its way from a worker process to the trainer."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from db import DataError
from sample.colour import ColourDraw
from sample.dataset import Batch, TrainingSample, Unreadable
from sample.targets import BatchObjects

ALIGNMENT = 64  # bytes: alignment of the tensors in a packed batch


class Packed(NamedTuple):
    """A batch on its way from a worker to the trainer, with all tensors in one piece of shared memory.

    Sent by itself, each tensor would take a shared file of its own, to be created, sent and mapped.
    """

    memory: Tensor  # uint8
    places: list[tuple[torch.dtype, tuple[int, ...], int]]  # type, shape and first byte of each; images (B, H, W, 3)
    unreadable: list[Unreadable]

    def unpack(self) -> Batch:
        """The batch. Its tensors are views of the shared memory."""
        storage, start = self.memory.untyped_storage(), self.memory.storage_offset()
        images, *rest = (
            torch.empty(0, dtype=dtype).set_(storage, (start + first) // dtype.itemsize, shape)
            for dtype, shape, first in self.places
        )
        return _batch(images, rest, self.unreadable)


def collate(samples: list[TrainingSample] | DataError) -> Batch | DataError:
    """The batch of these samples."""
    if isinstance(samples, DataError):
        return samples
    images, rest, unreadable = _columns(samples)
    return _batch(torch.from_numpy(np.stack(images)), map(torch.from_numpy, rest), unreadable)


def pack(samples: list[TrainingSample] | DataError) -> Packed | DataError:
    """As `collate`, in shared memory: what workers do.

    Where the system has memory files, the batch is written to one before it is mapped. That takes half the time of
    touching fresh pages one by one.
    """
    if isinstance(samples, DataError):
        return samples
    images, rest, unreadable = _columns(samples)
    shapes = [(len(images), *images[0].shape), *(array.shape for array in rest)]
    types = [torch.uint8, *(torch.from_numpy(array).dtype for array in rest)]
    sizes = [math.prod(shape) * dtype.itemsize for shape, dtype in zip(shapes, types, strict=True)]
    *firsts, end = itertools.accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0)
    descriptor = _memory_file()
    if descriptor is not None:
        with open(descriptor, "wb") as file:
            for image in images:
                file.write(np.ascontiguousarray(image))
            for array, first in zip(rest, firsts[1:], strict=True):
                file.seek(first)
                file.write(np.ascontiguousarray(array))
            file.truncate(end)
            storage = torch.UntypedStorage._new_shared_fd_cpu(descriptor, end)
        memory = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (end,))
    else:
        memory = torch.empty(end, dtype=torch.uint8).share_memory_()
        for array, first, size in zip([np.stack(images), *rest], firsts, sizes, strict=True):
            if size:
                memory[first : first + size] = torch.from_numpy(array).flatten().view(torch.uint8)
    return Packed(memory, list(zip(types, shapes, firsts, strict=True)), unreadable)


def _memory_file() -> int | None:
    """The descriptor of a new file in memory. None where the system has none."""
    try:
        return os.memfd_create("batch")
    except (AttributeError, OSError):
        return None


def _columns(samples: list[TrainingSample]) -> tuple[Sequence[np.ndarray], list[np.ndarray], list[Unreadable]]:
    """The images, and the rest of a batch as arrays: boxes, labels and image_index of the objects, the same of the
    ignored ones, image_ids, and the colour draws."""
    shown, image_ids, unreadable = zip(*samples, strict=True)
    images, boxes, labels, colour, flags = zip(*shown, strict=True)
    counts = [len(part) for part in boxes]
    columns = np.concatenate(boxes), np.concatenate(labels), np.repeat(np.arange(len(boxes)), counts)
    ignored = np.zeros(sum(counts), bool) if flags[0] is None else np.concatenate(flags)
    rest = [column[which] for which in (~ignored, ignored) for column in columns]
    draws = [np.stack(part) for part in zip(*colour, strict=True)] if colour[0] is not None else []
    return images, [*rest, np.array(image_ids, np.int64), *draws], sum(unreadable, [])


def _batch(images: Tensor, rest: Iterable[Tensor], unreadable: list[Unreadable]) -> Batch:
    """A batch of images (B, H, W, 3), whose memory stays as it is (channels_last), and the rest as of _columns."""
    rest = list(rest)
    objects, ignored, (image_ids, *colour) = BatchObjects(*rest[:3]), BatchObjects(*rest[3:6]), rest[6:]
    draws, ignored = ColourDraw(*colour) if colour else None, ignored if len(ignored.boxes) else None
    return Batch(images.permute(0, 3, 1, 2), objects, draws, image_ids, unreadable, ignored)
