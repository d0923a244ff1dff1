import json
from types import SimpleNamespace

import numpy as np
import pytest

from db import DataError, results_name, submission_note, to_results, write_results
from db.results import check_results

INDEX = SimpleNamespace(image_ids=np.array([5, 7]), category_ids=(1, 3))


def test_conversion_and_rounding():
    boxes = np.array([[0.004, 1.25, 10.009, 2.5]], dtype=np.float64)
    (full,) = to_results(INDEX, 1, boxes, [0.125], [1], None)
    assert full == {"image_id": 7, "category_id": 3, "bbox": [0.004, 1.25, 10.009 - 0.004, 1.25], "score": 0.125}
    (two,) = to_results(INDEX, 0, boxes, [0.126], [0], 2)
    assert two == {"image_id": 5, "category_id": 1, "bbox": [0.0, 1.25, round(10.009 - 0.004, 2), 1.25], "score": 0.13}
    assert to_results(INDEX, 0, np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=int), 2) == []


def test_width_is_rounded_after_the_subtraction():
    (row,) = to_results(INDEX, 0, np.array([[0.006, 0.0, 1.014, 1.0]]), [1.0], [0], 2)
    assert row["bbox"] == [0.01, 0.0, 1.01, 1.0]  # the other way round: 1.01 - 0.01 = 1.0


def test_golden_results_have_the_form(goldens):
    for path in sorted(goldens.glob("post_*.json")):
        for row in json.loads(path.read_text())["results"]:
            x, y, w, h = row["bbox"]
            box = np.array([[x, y, x + w, y + h]])
            label = INDEX.category_ids.index(row["category_id"]) if row["category_id"] in INDEX.category_ids else 0
            (again,) = to_results(INDEX, 0, box, [row["score"]], [label], 2)
            assert again["bbox"] == row["bbox"] and again["score"] == row["score"]


def test_write_and_read(tmp_path):
    results = to_results(INDEX, 0, np.float32([[1, 2, 3.3, 4.7]]), np.float32([0.3]), np.array([1]), None)
    path = tmp_path / "new" / "results.json"
    write_results(path, results)
    assert json.loads(path.read_text()) == results
    with pytest.raises(DataError, match=r"results\.json: not written: .*NaN"):
        write_results(path, [{"score": float("nan")}])
    assert json.loads(path.read_text()) == results and [p.name for p in path.parent.iterdir()] == ["results.json"]


GOOD = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({}, "not COCO results: a dict"),
        ([3], r"\[0\] is a int"),
        ([GOOD, {"image_id": 1}], r"\[1\]\.category_id is missing"),
        ([GOOD | {"bbox": [1, 2]}], r"\[0\]\.bbox is \[1, 2\]"),
        ([GOOD | {"score": float("nan")}], r"\[0\]: .*finite"),
        ([GOOD | {"image_id": "1"}], r"\[0\]: image_id and category_id must be whole"),
    ],
)
def test_bad_results(results, message):
    with pytest.raises(DataError, match=message):
        check_results(results)


def test_names_and_note():
    assert results_name(False, "image_info_test-dev2017", "my net_2") == "detections_test-dev2017_my-net-2_results.json"
    assert results_name(True, "image_info_x", "x") == results_name(False, "mine", "x") == "results.json"
    note = submission_note("out/detections_test-dev2017_x_results.json")
    assert "out/detections_test-dev2017_x_results.zip" in note and "\n" not in note
