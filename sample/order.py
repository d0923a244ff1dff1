"""Which images are in which micro-batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from db import DataError
from sample.dataset import Key


class MicroBatches:
    """The keys of each micro-batch of iterations `start` to `end` - 1: a batch sampler for the DataLoader.

    The epochs, each a permutation of all images drawn from (seed, epoch), form one endless sequence. Iteration t takes
    its positions t * sum(batch) to (t + 1) * sum(batch), split into micro-batches in order. So a run can start at any
    iteration without going through the ones before it.

    Args:
        images: number of images.
        batch: sizes of the micro-batches of one iteration.
        mine: numbers of the micro-batches that this process computes. None: all.

    Raises:
        DataError: there are fewer images than micro-batches in an iteration, or than images in one micro-batch.
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
        orders: dict[int, np.ndarray] = {}  # permutation of each epoch that is still needed
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
        # (seed, epoch, position) seeds the draws of an image. No image has this position.
        return np.random.default_rng((self.seed, epoch, self.images)).permutation(self.images)


def validation_batches(images: int, batch: int) -> list[list[Key]]:
    """The keys of every image once, in order, `batch` at a time."""
    return [[(0, i) for i in range(at, min(at + batch, images))] for at in range(0, images, batch)]
