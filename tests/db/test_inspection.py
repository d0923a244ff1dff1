"""What looks wrong in annotations: every kind of suspicion, and silence about good data."""

import os
from dataclasses import replace

import cv2
import numpy as np
import pytest

from db import AnnotationIndex, DataError, inspect_annotations
from db.inspection import other_sizes

SIZE = 40, 60  # height, width
BOXES = np.array([[20.0, 12, 50, 39.5], [0, 0, 60, 40], [40, 20, 60.9, 40.5]] * 40)


@pytest.fixture
def index(tmp_path):
    """Four images with thirty boxes each."""
    names = [f"{i}.png" for i in range(4)]
    for name in names:
        cv2.imwrite(str(tmp_path / name), np.zeros((*SIZE, 3), np.uint8))
    owners, labels = np.arange(120) // 30, np.zeros(120)
    return AnnotationIndex.build(
        image_ids=[1, 2, 3, 4],
        sizes=[SIZE] * 4,
        names=names,
        folders=[tmp_path],
        box_image=owners,
        boxes=BOXES,
        labels=labels,
        category_ids=[1],
        category_names=["a"],
        sources=["train.json"],
    )


def with_boxes(index, change):
    """The index with boxes changed by a function of x, y, width, height (120, 4)."""
    boxes = np.hstack([index.boxes[:, :2], index.extents])
    change(boxes)
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    return replace(index, boxes=corners, extents=boxes[:, 2:])


def as_corners(boxes):
    boxes[:, 2:] += boxes[:, :2]


def as_fractions(boxes):
    boxes /= [60, 40, 60, 40]


def put(rows, values):
    return lambda boxes: boxes.__setitem__(slice(rows), values)


@pytest.mark.parametrize(
    "change, parts",
    [
        (as_corners, ["80 of 120 boxes leave their image (0.png, 1.png, 2.png, ...)", "if they were x1, y1, x2, y2"]),
        (as_fractions, ["fractions of the image: multiply"]),
        (put(2, [70, 3, 5, 5]), ["2 of 120 boxes lie outside their image (0.png): nothing is learned from them"]),
        (put(2, [-9, 3, 5, 5]), ["2 of 120 boxes lie outside"]),
        (put(31, [50, 3, 15, 5]), ["31 of 120 boxes reach out of their image by more than 1 pixel (0.png, 1.png)"]),
        (put(3, [50, 3, 0, 5]), ["3 of 120 boxes have no width or no height (0.png): training leaves them out"]),
    ],
)
def test_boxes(index, change, parts):
    (text,) = inspect_annotations(with_boxes(index, change), training=True)
    assert text.startswith("train.json: ") and all(part in text for part in parts), text


def test_good_annotations_are_not_suspicious(index):
    assert inspect_annotations(index, training=True) == []


def test_crowds_alone(index):
    (text,) = inspect_annotations(replace(index, crowd=np.ones(120, bool)), training=True)
    assert "all objects are crowds" in text


def test_no_objects(index):
    empty = replace(index, boxes=np.zeros((0, 4)), extents=np.zeros((0, 2)), first=np.zeros(5, np.int64))
    with pytest.raises(DataError, match="^train.json: objects: 0 in 4 images"):
        inspect_annotations(empty, training=True)
    assert inspect_annotations(empty, training=False) == []


def test_other_sizes(index, tmp_path):
    sizes = index.sizes.copy()
    sizes[1] = 40, 61
    wrong = replace(index, sizes=sizes)
    with pytest.raises(DataError, match=r"1 of 4 images .* \(1.png is 60x40, annotated 61x40\): write their true"):
        inspect_annotations(wrong, training=True)
    (text,) = inspect_annotations(wrong, training=False)
    assert "1 of 4 images checked have another size" in text
    # What cannot be read is left to reading, and nothing but files is opened.
    (tmp_path / "1.png").write_bytes(b"no image")
    (tmp_path / "0.png").unlink()
    os.mkfifo(tmp_path / "0.png")
    assert other_sizes(wrong) == ([], 4)


@pytest.mark.parametrize("orientation, wrong", [(1, 1), (6, 0)])
def test_sizes_of_images_that_are_turned_by_their_tag(index, tmp_path, orientation, wrong):
    from PIL import Image

    image = Image.new("RGB", (40, 60))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "2.png", exif=exif)
    assert len(other_sizes(index)[0]) == wrong
