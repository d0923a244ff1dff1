"""AP by number of objects, on data small enough to check by hand."""

import pytest

from nnet.analysis.objects import ObjectCount, ap_by_objects
from tests.nnet.analysis.annotations import BOX, index_of


def test_ap_by_objects(tmp_path):
    many = [(2, 3, [5 * n, 5 * n, 5, 5], 0) for n in range(5)]
    index = index_of(tmp_path, (1, 3, BOX, 0), (1, 7, BOX, 1), *many, images=3)
    results = [{"image_id": 1, "category_id": 3, "bbox": BOX, "score": 0.9}]
    groups = ap_by_objects(index, results)
    assert groups["1-4"] == {"images": 1, "AP": pytest.approx(1), "AP50": pytest.approx(1)}
    assert groups["5-9"] == {"images": 1, "AP": 0, "AP50": 0}
    assert groups["10-19"] == groups["20+"] == {"images": 0, "AP": None, "AP50": None}
    tool = ObjectCount(index, None, None)
    assert tool.see(None) == [] and tool.figures([], results) == groups  # the results are all that it needs


def test_objects_of_an_image(tmp_path):
    index = index_of(tmp_path, (1, 7, BOX, 1), (1, 3, BOX, 0))
    assert index.objects(0).labels.tolist() == [0, 1] and index.objects(0).crowd.tolist() == [False, True]
