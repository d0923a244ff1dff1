"""The training samples of a split, and the batches made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from db import AnnotationIndex, DataError, UnreadableImage, read_image
from sample.augment import AugmentOptions, Sample, augmentations
from sample.colour import ColourDraw
from sample.geometry import Size
from sample.targets import BatchObjects

Key = tuple[int, int]  # epoch, position of the image in the index

UNREADABLE_IN_A_ROW = 10  # this many consecutive unreadable images end the run


class Unreadable(NamedTuple):
    """An image that could not be used, and the reason."""

    path: str
    reason: str


class TrainingSample(NamedTuple):
    """A sample, the image it was made from, and the unreadable images that it replaces."""

    sample: Sample
    image_id: int
    unreadable: list[Unreadable]  # the unreadable images that this one replaces


class Batch(NamedTuple):
    """B images with N boxes in all, any number each."""

    images: Tensor  # (B, 3, H, W) uint8, BGR
    objects: BatchObjects  # boxes (N, 4) in input pixels, labels (N,), image_index (N,)
    colour: ColourDraw | None  # None: no colour augmentation
    image_ids: Tensor  # (B,) int64
    unreadable: list[Unreadable]  # images that were replaced by others
    ignored: BatchObjects | None = None  # objects that are neither to be found nor background; None: there are none

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device. From pinned memory, the copy is asynchronous."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with each of its tensors changed."""
        objects, ignored = (some and BatchObjects(*map(change, some)) for some in (self.objects, self.ignored))
        colour = self.colour and ColourDraw(*map(change, self.colour))
        return Batch(change(self.images), objects, colour, change(self.image_ids), self.unreadable, ignored)


class TrainingSet(Dataset):
    """Training samples by key (epoch, i), where i is a position in the index.

    A sample depends on (seed, epoch, i) and nothing else. An unreadable image is replaced by the next readable one of
    the index, and reported in the sample.

    Args:
        input_size: (height, width) of the samples in pixels.
        augment: None gives the whole image, the same in every epoch.

    Raises:
        DataError: on access, when 10 consecutive images (or all there are) cannot be read.
    """

    def __init__(self, index: AnnotationIndex, input_size: Size, augment: AugmentOptions | None, seed: int) -> None:
        self.index = index
        self.augmentations = augmentations(augment, tuple(input_size))
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key) -> TrainingSample:
        epoch, first = key
        unreadable = []
        for step in range(min(UNREADABLE_IN_A_ROW, len(self))):
            i = (first + step) % len(self)
            try:
                image = read_image(self.index.path(i), tuple(self.index.sizes[i].tolist()))
            except UnreadableImage as error:
                unreadable.append(Unreadable(error.path, error.reason))
            else:
                sample = self.augment(epoch, i, Sample(image, *self.index.annotations(i)))
                return TrainingSample(sample, int(self.index.image_ids[i]), unreadable)
        path, reason = unreadable[0]
        raise DataError(
            f"{path}: {reason}. None of {len(unreadable)} consecutive images of the index, from this one on, can be "
            "read: check the image folder."
        )

    def __getitems__(self, keys: list[Key]) -> list[TrainingSample] | DataError:
        """What the DataLoader calls.

        An error is returned as a value: raised in a worker, it would arrive as the text of a traceback.
        """
        try:
            return [self[key] for key in keys]
        except DataError as error:
            return error

    def augment(self, epoch: int, i: int, sample: Sample) -> Sample:
        """The sample that is made of image i and its boxes in this epoch."""
        rng = np.random.default_rng((self.seed, epoch, i))
        for augmentation in self.augmentations:
            sample = augmentation(sample, rng)
        return sample
