"""Boxes of annotations that have a segmentation only."""

import json

import numpy as np
import pytest
from pycocotools import mask as rle

from db import DataError, load_index


def load(tmp_path, *annotations):
    (tmp_path / "1.jpg").touch()
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 20, "width": 30}],
        "categories": [{"id": 1, "name": "one"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, **a} for i, a in enumerate(annotations)],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    return load_index(tmp_path / "a.json", tmp_path)


def test_boxes_from_segmentations(tmp_path):
    mask = np.zeros((20, 30), np.uint8, order="F")
    mask[3:9, 5:17] = 1
    compressed = rle.encode(mask)
    compressed["counts"] = compressed["counts"].decode()
    runs = {"size": [20, 30], "counts": [21, 5, 15, 5, 554]}  # columns from the top: 2 columns of 5 pixels
    index = load(
        tmp_path,
        {"segmentation": [[1, 2, 8.5, 3, 4, 10], [0.5, 5, 3, 5, 3, 6]]},
        {"segmentation": compressed, "bbox": None, "area": 7},
        {"segmentation": runs},
        {"bbox": [1, 1, 2, 2], "segmentation": [[0, 0, 9, 0, 9, 9]]},
    )
    expected = [[0.5, 2, 8.5, 10], [5, 3, 17, 9], [1, 1, 3, 6], [1, 1, 3, 3]]
    np.testing.assert_allclose(index.boxes, expected)
    assert index.areas.tolist() == [64, 7, 10, 4]


@pytest.mark.parametrize("segmentation", [[], [[1, 2, 3]], None, 5, {"size": [20, 30]}, [["a", "b"]]])
def test_bad_segmentations(tmp_path, segmentation):
    with pytest.raises(DataError, match=r"a\.json: annotations\[1\] has no bbox, and its segmentation is neither"):
        load(tmp_path, {"bbox": [0, 0, 1, 1]}, {"segmentation": segmentation})


def test_neither_box_nor_segmentation(tmp_path):
    with pytest.raises(DataError, match=r"annotations\[0\]\.bbox is missing"):
        load(tmp_path, {"area": 3})
