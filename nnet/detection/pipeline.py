"""Detection with reading ahead of the network and decoding behind it, in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Generic, NamedTuple, TypeVar

import cv2

from db import Objects
from nnet.detection.detector import Detector, Prepared
from nnet.detection.suppression import Found
from nnet.runtime.background import read_ahead

Item = TypeVar("Item")

BEHIND = 2  # batches whose boxes may be computed while the network works on the next


class Loaded(NamedTuple, Generic[Item]):
    """A batch for the network, and the item it is made from.

    prepared: None where the item has no image for the network. objects: the annotation of each image.
    """

    item: Item
    prepared: Prepared | None
    objects: Sequence[Objects] | None = None


def detect_batches(
    detector: Detector,
    batches: Iterable[Item],
    load: Callable[[Item], Loaded],
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[Item, list[Found]]]:
    """The item of each batch with the detections of its images, in order.

    `test.workers` threads load and another one decodes, while the network runs in the caller's thread. Without workers
    each batch is loaded, detected and decoded in turn. The results are the same. Close the generator to stop early.

    Args:
        load: called in the threads.
        stopped: asked before each pass of the network. Once it is true, no further batch is detected.
    """
    workers = detector.options.workers
    if workers:
        cv2.setNumThreads(0)  # the threads work on several images already

    def run(loaded: Iterable[Loaded[Item]]) -> Iterator[tuple[Item, list]]:
        for item, prepared, objects in loaded:
            if stopped():
                return
            yield item, [] if prepared is None else detector.run_network(prepared, objects)

    def decode(run: tuple[Item, list]) -> tuple[Item, list[Found]]:
        return run[0], detector.decode(run[1])

    with (
        closing(read_ahead(batches, load, workers, 2 * workers)) as loaded,
        closing(read_ahead(run(loaded), decode, min(workers, 1), BEHIND)) as found,
    ):
        yield from found
