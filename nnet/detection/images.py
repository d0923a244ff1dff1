"""Detection over the images of an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from db import AnnotationIndex, UnreadableImage, read_image, to_results
from nnet.detection.detector import Detector
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
) -> Iterator[Detected]:
    """Detections image by image, with a progress bar. With several processes, this one's share of the images.

    Args:
        unreadable: called with a message for each image that cannot be read, which is skipped.
        leave: whether the progress bar stays on the screen.
    """
    count = 0
    shown = {"desc": "detecting", "unit": "image", "leave": leave, "disable": not group.first}
    with progress_bar(group.share(len(index)), **shown) as bar:
        for i in bar:
            group.report_progress()
            try:
                with detector.timed("load"):
                    image = read_image(index.path(i), tuple(index.sizes[i].tolist()))
            except UnreadableImage as error:
                unreadable(str(error))
                continue
            found = detector(image, index.objects(i))
            count += len(found.scores)
            bar.set_postfix(boxes=f"{count:,}", refresh=False)
            results = to_results(index, i, found.boxes, found.scores, found.labels, detector.options.result_decimals)
            yield Detected(i, image, found, results)
