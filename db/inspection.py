"""What looks wrong in the annotations of a split as a whole, and how to correct it."""

from __future__ import annotations

import os
import warnings

import numpy as np

from .errors import DataError
from .images import header_size
from .index import AnnotationIndex

TOLERANCE = 1.0  # pixels that a box may reach out of its image: annotation tools round
NEARLY_ALL = 0.99  # fraction of the boxes from which on a pattern counts as that of the file
CHECKED = 1000  # images whose size is read from the file's header; of more images, as many evenly chosen ones
MANY = 0.1  # fraction of the boxes that a mistaken format affects at least
WRONG_SIZES = 0.01  # fraction of images of another size that ends training anyway
SHOWN = 3  # names in a message


def inspect_annotations(index: AnnotationIndex, training: bool) -> list[str]:
    """What is suspicious in an index: one line for each suspicion, with counts and the first file names.

    training: whether the index is to train on.

    Raises:
        DataError: training cannot work: there are no objects, or more than 1% of the images have another size.
    """
    source = index.sources[0] if index.sources else "the annotations"
    if not len(index.boxes):
        if training:
            raise DataError(f"{source}: objects: 0 in {len(index):,} images: there is nothing to train on.")
        return []
    found = [*suspicious_boxes(index)]
    if index.crowd.all():
        found.append("all objects are crowds, which the evaluation ignores: set iscrowd to 0 for single objects")
    wrong, checked = other_sizes(index)
    if wrong:
        counts = f"{len(wrong):,} of {checked:,} images checked"
        text = f"{counts} have another size than annotated ({'; '.join(wrong[:SHOWN])})"
        advice = "write their true width and height into the annotation file"
        if training and len(wrong) > WRONG_SIZES * checked:
            raise DataError(f"{source}: {text}: {advice}.")
        found.append(f"{text}: {advice}")
    return [f"{source}: {text}" for text in found]


def suspicious_boxes(index: AnnotationIndex) -> list[str]:
    """What is suspicious in the boxes. There is at least one."""
    owners = np.repeat(np.arange(len(index)), np.diff(index.first))
    limits = index.sizes[owners][:, ::-1].astype(np.float64)  # (M, 2): width, height of the image
    first, last, extents, count = index.boxes[:, :2], index.boxes[:, 2:], index.extents, len(index.boxes)

    def some(which: np.ndarray) -> str:
        names = [os.fsdecode(bytes(index.names[i])) for i in dict.fromkeys(owners[which].tolist())]
        return f"{', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''}"

    leave = (first < -TOLERANCE).any(1) | (last > limits + TOLERANCE).any(1)
    outside = (first >= limits).any(1) | ((last <= 0) & (extents > 0)).any(1)
    flat = (extents == 0).any(1)
    as_corners = ((extents > first) & (extents <= limits + TOLERANCE)).all(1)
    fractions = (np.hstack([np.abs(first), extents]) <= 1).all(1)
    if fractions.mean() >= NEARLY_ALL:
        return [
            f"{fractions.sum():,} of {count:,} boxes have no number above 1 ({some(fractions)}): bbox is in pixels, "
            "not in fractions of the image: multiply by its width and height"
        ]
    found = []
    if leave.mean() > MANY and as_corners.mean() >= NEARLY_ALL:
        found.append(
            f"{leave.sum():,} of {count:,} boxes leave their image ({some(leave)}), and would not if they were "
            "x1, y1, x2, y2: bbox is x, y, width, height: write x2 - x1 and y2 - y1 as the last two"
        )
    elif (partly := leave & ~outside).any():
        found.append(
            f"{partly.sum():,} of {count:,} boxes reach out of their image by more than {TOLERANCE:g} pixel "
            f"({some(partly)}): training cuts them off at its edge; check bbox (x, y, width, height in pixels)"
        )
    if outside.any():
        found.append(
            f"{outside.sum():,} of {count:,} boxes lie outside their image ({some(outside)}): nothing is learned from "
            "them, and they count as missed; check bbox, and the width and height of the images"
        )
    if flat.any():
        found.append(
            f"{flat.sum():,} of {count:,} boxes have no width or no height ({some(flat)}): training leaves them out"
        )
    return found


def other_sizes(index: AnnotationIndex) -> tuple[list[str], int]:
    """The images whose header states another size than the index, in words, and how many images were checked.

    Files that cannot be read are not among them: reading the image will say what is wrong.
    """
    chosen = np.unique(np.linspace(0, len(index) - 1, min(CHECKED, len(index))).astype(np.int64))
    wrong = []
    for i in chosen:
        height, width = index.sizes[i].tolist()
        sizes = stated_sizes(index.path(i))
        if sizes and (height, width) not in sizes:
            found = "{1}x{0}".format(*sizes[0])
            wrong.append(f"{os.fsdecode(bytes(index.names[i]))} is {found}, annotated {width}x{height}")
    return wrong, len(chosen)


def stated_sizes(path: str) -> list[tuple[int, int]]:
    """(height, width) of an image as its header states it, and as its EXIF tag turns it. Empty if unknown."""
    if not os.path.isfile(path):
        return []
    try:
        with warnings.catch_warnings(), open(path, "rb") as file:
            warnings.simplefilter("ignore")  # about damaged EXIF tags
            return [size for turned in (False, True) if (size := header_size(file, turned))]
    except OSError:
        return []
