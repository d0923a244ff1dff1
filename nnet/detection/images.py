"""Detection over the images of an index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import NamedTuple

import numpy as np

from db import AnnotationIndex, UnreadableImage, read_image, to_results
from nnet.detection.detector import Detector
from nnet.detection.pipeline import Loaded, detect_batches
from nnet.detection.suppression import Found
from nnet.runtime.console import progress_bar
from nnet.runtime.distributed import Group

UNREADABLE_LIMIT = 0.01  # fraction of unreadable images that a run or its figures tolerate


class Detected(NamedTuple):
    """An image and its detections."""

    position: int  # of the image in the index
    image: np.ndarray  # (H, W, 3) uint8, BGR
    found: Found
    results: list[dict]  # in COCO's result format


def detect_images(
    detector: Detector,
    index: AnnotationIndex,
    group: Group,
    unreadable: Callable[[str], None],
    leave: bool = True,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Detected]:
    """Detections image by image, with a progress bar. With several processes, this one's share of the images.

    They come in the order of the index, or with `test.batch` above 1 by the size of their canvases.

    Args:
        unreadable: called with a message for each image that cannot be read, which is skipped.
        leave: whether the progress bar stays on the screen.
        stopped: asked before each pass of the network. Once it is true, no further image is detected.
    """
    share = group.share(len(index))
    decimals = detector.options.result_decimals
    count = 0

    def load(positions: list[int]) -> Loaded[Readings]:
        return load_images(detector, index, positions)

    with (
        progress_bar(desc="detecting", unit="image", total=len(share), leave=leave, disable=not group.first) as bar,
        closing(detect_batches(detector, positions_in_batches(detector, index, share), load, stopped)) as batches,
    ):
        for (messages, images), found in batches:
            for message in messages:
                unreadable(message)
            bar.update(len(messages))
            for (i, image), own in zip(images, found, strict=True):
                group.report_progress()
                count += len(own.scores)
                bar.set_postfix(boxes=f"{count:,}", refresh=False)
                bar.update()
                yield Detected(i, image, own, to_results(index, i, own.boxes, own.scores, own.labels, decimals))


class Readings(NamedTuple):
    """The images of a batch that could be read, with their positions, and a message for each of the others."""

    unreadable: list[str]
    images: list[tuple[int, np.ndarray]]


def load_images(detector: Detector, index: AnnotationIndex, positions: Iterable[int]) -> Loaded[Readings]:
    """Read the images at these positions, and prepare them for the network."""
    readings = Readings([], [])
    with detector.timed("load"):
        for i in positions:
            try:
                readings.images.append((i, read_image(index.path(i), tuple(index.sizes[i].tolist()))))
            except UnreadableImage as error:
                readings.unreadable.append(str(error))
    if not readings.images:
        return Loaded(readings, None)
    prepared = detector.prepare([image for _, image in readings.images])
    return Loaded(readings, prepared, [index.objects(i) for i, _ in readings.images])


def positions_in_batches(detector: Detector, index: AnnotationIndex, positions: Iterable[int]) -> Iterator[list[int]]:
    """Positions of images that pass the network together: up to `test.batch`, with canvases of one size."""
    size = detector.options.batch
    if size == 1:
        yield from ([i] for i in positions)
        return
    alike: dict[tuple, list[int]] = {}
    for i in positions:
        alike.setdefault(detector.canvas_sizes(*index.sizes[i].tolist()), []).append(i)
    for own in alike.values():
        yield from (own[first : first + size] for first in range(0, len(own), size))
