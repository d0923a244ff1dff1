"""Training samples in batches: which images when, made by worker processes."""

from __future__ import annotations

import itertools
import math
import os
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from db import AnnotationIndex, DataError, UnreadableImage, read_image

from .augment import Augment, Size, apply_crop, apply_fit, draw_crop, draw_flip
from .colour import ColourDraw, draw_colour

Key = tuple[int, int]  # epoch, position of the image in the index

ALIGNMENT = 64  # bytes: where tensors begin in memory
IN_A_ROW = 10  # so many unreadable images one after the other end the run


class Unreadable(NamedTuple):
    """An image that could not be used, and why."""

    path: str
    reason: str


class Sample(NamedTuple):
    """One training image with its n boxes."""

    image: np.ndarray  # (H, W, 3) uint8, BGR, at the input size
    boxes: np.ndarray  # (n, 4) float64, in input pixels
    labels: np.ndarray  # (n,) int64
    colour: ColourDraw | None
    image_id: int
    unreadable: list[Unreadable]  # the images this one stands in for


class Batch(NamedTuple):
    """B images with N boxes in all, any number each."""

    images: Tensor  # (B, 3, H, W) uint8, BGR
    boxes: Tensor  # (N, 4) float64: x1, y1, x2, y2 in input pixels
    labels: Tensor  # (N,) int64
    image_index: Tensor  # (N,) int64: position in the batch of the image that each box lies in
    colour: ColourDraw | None  # None: no colour augmentation
    image_ids: Tensor  # (B,) int64
    unreadable: list[Unreadable]  # images that others stand in for

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device; the copy does not wait when the batch is in pinned memory."""

        def moved(value):
            return value.to(device, non_blocking=True) if isinstance(value, Tensor) else value

        colour = self.colour and ColourDraw(*map(moved, self.colour))
        return Batch(*map(moved, self))._replace(colour=colour)


class Packed(NamedTuple):
    """A batch on its way from a worker to the trainer, all its tensors in one piece of memory that both have.

    One tensor by itself would have a piece of its own: a file to be made, sent for and mapped, for each of them.
    """

    memory: Tensor  # uint8
    places: list[tuple[torch.dtype, tuple[int, ...], int]]  # type, shape and first byte of each: images (B, H, W, 3)
    unreadable: list[Unreadable]

    def unpack(self) -> Batch:
        """The batch, its tensors where they lie."""
        storage, start = self.memory.untyped_storage(), self.memory.storage_offset()
        images, *rest = (
            torch.empty(0, dtype=dtype).set_(storage, (start + first) // dtype.itemsize, shape)
            for dtype, shape, first in self.places
        )
        return _batch(images, rest, self.unreadable)


class TrainingSet(Dataset):
    """Training samples by key (epoch, i), i a position in the index.

    A sample depends on (seed, epoch, i) and nothing else. An unreadable image is replaced by the next one of the index
    that can be read, and reported in `Sample.unreadable`. Without `augment` the whole image is shown, the same in every
    epoch.

    Raises:
        DataError: on access, when 10 images in a row (or all there are) cannot be read.
    """

    def __init__(self, index: AnnotationIndex, input_size: Size, augment: Augment | None, seed: int) -> None:
        self.index = index
        self.input_size = tuple(input_size)
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> Sample:
        epoch, first = key
        unreadable = []
        for step in range(min(IN_A_ROW, len(self))):
            i = (first + step) % len(self)
            try:
                image = read_image(self.index.path(i), tuple(self.index.sizes[i].tolist()))
            except UnreadableImage as error:
                unreadable.append(Unreadable(error.path, error.reason))
            else:
                return self._sample(epoch, i, image, unreadable)
        path, reason = unreadable[0]
        raise DataError(
            f"{path}: {reason}. Nor can the next {len(unreadable) - 1} images of the index be read: "
            "check the image folder."
        )

    def __getitems__(self, keys: list[Key]) -> list[Sample] | DataError:
        """What the DataLoader calls.

        An error is handed over as a value: raised in a worker, it would come back as the text of a traceback.
        """
        try:
            return [self[key] for key in keys]
        except DataError as error:
            return error

    def _sample(self, epoch: int, i: int, image: np.ndarray, unreadable: list[Unreadable]) -> Sample:
        boxes, labels = self.index.annotations(i)
        augment, colour = self.augment, None
        rng = np.random.default_rng((self.seed, epoch, i))
        if augment is not None and augment.crop:
            crop = draw_crop(rng, *image.shape[:2], augment)
            shown = apply_crop(image, boxes, labels, crop, self.input_size)
        else:
            flip = augment is not None and draw_flip(rng, augment)
            shown = apply_fit(image, boxes, labels, flip, self.input_size)
        if augment is not None and (augment.colour or augment.lighting):
            colour = draw_colour(rng, augment.colour, augment.lighting)
        return Sample(*shown, colour, int(self.index.image_ids[i]), unreadable)


def collate(samples: list[Sample] | DataError) -> Batch | DataError:
    """Put samples together."""
    if isinstance(samples, DataError):
        return samples
    images, rest, unreadable = _columns(samples)
    return _batch(torch.from_numpy(np.stack(images)), map(torch.from_numpy, rest), unreadable)


def pack(samples: list[Sample] | DataError) -> Packed | DataError:
    """As `collate`, in memory that another process can be given: what workers do.

    Where the system has files in memory, one is written to before it is mapped: that takes half the time of touching
    fresh pages one by one.
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
            memory[first : first + size] = torch.from_numpy(array).flatten().view(torch.uint8)
    return Packed(memory, list(zip(types, shapes, firsts, strict=True)), unreadable)


def _memory_file() -> int | None:
    """The descriptor of a new file in memory; None where the system has or grants none."""
    try:
        return os.memfd_create("batch")
    except (AttributeError, OSError):
        return None


def _columns(samples: list[Sample]) -> tuple[Sequence[np.ndarray], list[np.ndarray], list[Unreadable]]:
    """The images, and what else a batch holds, as arrays: boxes, labels, image_index, image_ids, and the draws."""
    images, boxes, labels, colour, image_ids, unreadable = zip(*samples, strict=True)
    owners = np.repeat(np.arange(len(boxes)), [len(part) for part in boxes])
    rest = [np.concatenate(boxes), np.concatenate(labels), owners, np.array(image_ids, np.int64)]
    draws = [np.stack(part) for part in zip(*colour, strict=True)] if colour[0] is not None else []
    return images, rest + draws, sum(unreadable, [])


def _batch(images: Tensor, rest: Iterable[Tensor], unreadable: list[Unreadable]) -> Batch:
    """A batch of images (B, H, W, 3), which stay as they lie in memory (channels_last), and the rest as of _columns."""
    boxes, labels, image_index, image_ids, *colour = rest
    colour = ColourDraw(*colour) if colour else None
    return Batch(images.permute(0, 3, 1, 2), boxes, labels, image_index, colour, image_ids, unreadable)


class MicroBatches:
    """The keys of each micro-batch from iteration `start` to before `end`: a batch sampler for the DataLoader.

    The epochs, each an order of all images drawn from (seed, epoch), make one endless stream. Iteration t takes its
    positions t * sum(batch) to (t + 1) * sum(batch), cut into micro-batches in order, so it can be started at without
    going through those before it.

    Args:
        images: how many images there are.
        batch: the sizes of the micro-batches that make up one iteration.
        mine: which of them, by number, this process computes; all by default.

    Raises:
        DataError: there are fewer images than an iteration has micro-batches, or than one micro-batch has images.
    """

    def __init__(
        self,
        images: int,
        batch: Sequence[int],
        seed: int,
        start: int,
        end: int,
        mine: Sequence[int] | None = None,
    ) -> None:
        for count, what in ((len(batch), "more micro-batches"), (max(batch), "more images in a micro-batch")):
            if count > images:
                raise DataError(
                    f"batch {list(batch)} has {what} ({count}) than images to train on ({images}): "
                    "make the batch smaller, or add images."
                )
        self.images, self.batch, self.seed, self.start, self.end = images, list(batch), seed, start, end
        self.mine = list(range(len(batch)) if mine is None else mine)

    def __len__(self) -> int:
        return max(self.end - self.start, 0) * len(self.mine)

    def __iter__(self) -> Iterator[list[Key]]:
        edges = np.cumsum([0, *self.batch]).tolist()
        orders: dict[int, np.ndarray] = {}
        for t in range(self.start, self.end):
            first = t * edges[-1]
            orders = {epoch: order for epoch, order in orders.items() if epoch >= first // self.images}
            for number in self.mine:
                keys = []
                for position in range(first + edges[number], first + edges[number + 1]):
                    epoch, place = divmod(position, self.images)
                    if epoch not in orders:
                        orders[epoch] = self._order(epoch)
                    keys.append((epoch, int(orders[epoch][place])))
                yield keys

    def _order(self, epoch: int) -> np.ndarray:
        # An image's draws come from (seed, epoch, position in the index); one past the last position is nobody's.
        return np.random.default_rng((self.seed, epoch, self.images)).permutation(self.images)


def validation_batches(images: int, batch: int) -> list[list[Key]]:
    """The keys of every image once, in order, `batch` at a time."""
    return [[(0, i) for i in range(at, min(at + batch, images))] for at in range(0, images, batch)]


class Loader(DataLoader):
    """PyTorch's DataLoader, raising the DataErrors of its workers as they are, and RuntimeError whenever one dies."""

    def __iter__(self) -> Iterator[Batch]:
        return self._batches(super().__iter__())  # the workers start now, not with the first batch

    def _batches(self, batches: Iterator[Batch | Packed | DataError]) -> Iterator[Batch]:
        try:
            for batch in batches:
                if isinstance(batch, DataError):
                    raise batch
                yield batch.unpack() if isinstance(batch, Packed) else batch
        except (EOFError, OSError) as error:
            # A worker died while its batch was being fetched. Its connections close before the signal of its death
            # arrives, for which PyTorch's handler raises a RuntimeError that names the process: give it the time.
            time.sleep(1)
            raise RuntimeError(f"DataLoader worker died: exited unexpectedly ({error!r})") from error


def make_loader(
    dataset: TrainingSet,
    batches: Iterable[list[Key]],
    workers: int,
    timeout: float,
    device: torch.device | str,
) -> Loader:
    """Batches in the order of `batches`, made ahead by worker processes (0: by this one), in pinned memory for CUDA.

    Iterating raises DataError as `TrainingSet` does, and RuntimeError when a worker dies (within seconds) or needs more
    than `timeout` seconds for its next batch (0: any time).
    """
    _one_thread()  # before the fork: OpenCV's threads do not survive it
    # Forked workers share the index. Elsewhere, or where forking is not safe (macOS), it is copied to each.
    fork = workers > 0 and sys.platform == "linux"
    # How many workers is the config's choice, also where there are fewer cores.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    return Loader(
        dataset,
        batch_sampler=batches,
        collate_fn=pack if workers > 0 else collate,
        num_workers=workers,
        timeout=timeout if workers > 0 else 0,
        prefetch_factor=4 if workers > 0 else None,
        pin_memory=torch.device(device).type == "cuda",
        worker_init_fn=_one_thread,
        multiprocessing_context="fork" if fork else None,
        generator=torch.Generator(),  # its own, so that iterating leaves PyTorch's random state alone
    )


def _one_thread(worker: int = 0) -> None:
    """Keep OpenCV to one thread per process: the workers share the cores already."""
    cv2.setNumThreads(0)
