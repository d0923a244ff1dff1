"""The errors of TIDE: against stored figures of the package tidecv, and cases by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from db import AnnotationIndex
from nnet.analysis.tide import judge, pairing_figures, tide_figures
from sample.targets import PenaltyOptions
from tests.nnet.analysis.annotations import BOX, index_of

SHORT_NAMES = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}


def as_index(content: dict) -> AnnotationIndex:
    """The index of annotations in COCO's format, without images on the disk."""
    ids, categories = [image["id"] for image in content["images"]], [c["id"] for c in content["categories"]]
    boxes = np.array([entry["bbox"] for entry in content["annotations"]])
    return AnnotationIndex.build(
        image_ids=ids,
        sizes=[[200, 200]] * len(ids),
        names=[f"{i}.jpg" for i in ids],
        folders=["."],
        box_image=[ids.index(entry["image_id"]) for entry in content["annotations"]],
        boxes=np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]),
        extents=boxes[:, 2:],
        labels=[categories.index(entry["category_id"]) for entry in content["annotations"]],
        crowd=[entry["iscrowd"] for entry in content["annotations"]],
        category_ids=categories,
        category_names=[c["name"] for c in content["categories"]],
    )


@pytest.mark.parametrize("file", ["tide_toy.json", "tide_crowds.json"])
def test_agrees_with_tidecv(file):
    """Of a run on the toy data, and of random boxes with crowds and equal scores; see tide_figures.py."""
    content = json.loads(Path(__file__).with_name(file).read_text())
    index, stored = as_index(content), content["tidecv"]
    figures = tide_figures(judge(index, content["results"]), index)
    assert figures["AP50"] == pytest.approx(stored["AP50"] / 100, abs=1e-9)
    for name, (errors, cost) in stored["kinds"].items():
        assert figures[SHORT_NAMES[name]] == {"errors": errors, "cost": pytest.approx(cost / 100, abs=1e-9)}, name


def detection(box, score, category=3, image=1):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


@pytest.mark.parametrize(
    "kind, box, category",
    [
        ("true_positive", BOX, 3),
        ("classification", BOX, 7),
        ("localisation", [30, 10, 40, 40], 3),  # IoU 1/3
        ("both", [30, 10, 40, 40], 7),
        ("background", [100, 10, 40, 40], 3),
        ("background", [100, 10, 40, 40], 7),
    ],
)
def test_kinds_of_one_detection(tmp_path, kind, box, category):
    index = index_of(tmp_path, (1, 3, BOX, 0))
    judged = judge(index, [detection(box, 0.9, category)])
    assert [d.kind for d in judged] == [kind]
    figures = tide_figures(judged, index)
    assert figures["AP50"] == (1 if kind == "true_positive" else 0)
    assert figures["missed"]["errors"] == (1 if kind in ("both", "background") else 0)
    if kind in ("classification", "localisation"):  # fixed, it is right: nothing else is wrong
        assert figures[kind] == {"errors": 1, "cost": 1.0 if kind == "localisation" else pytest.approx(1)}


def test_a_second_detection_is_a_duplicate(tmp_path):
    index = index_of(tmp_path, (1, 3, BOX, 0), (1, 3, [100, 10, 40, 40], 0))
    results = [detection(BOX, 0.8), detection([11, 10, 40, 40], 0.9), detection([100, 10, 40, 40], 0.7)]
    judged = judge(index, results)
    assert [(d.detection, d.kind) for d in judged] == [(1, "true_positive"), (0, "duplicate"), (2, "true_positive")]
    figures = tide_figures(judged, index)
    # At recalls above 0.5 the precision is 2/3, and 1 without the duplicate
    assert figures["duplicate"]["cost"] == pytest.approx(50 / 101 / 3)


def test_pairings_cost_what_removing_them_gains(tmp_path):
    first, second = [10, 10, 40, 40], [120, 10, 40, 40]
    index = index_of(tmp_path, (1, 3, first, 0), (1, 3, second, 0))
    pair = [10, 10, 150, 40]  # top-left corner of the first, bottom-right corner of the second object
    results = [detection(pair, 0.9), detection(first, 0.8), detection(second, 0.7)]
    figures = pairing_figures(judge(index, results), index, results, PenaltyOptions())
    assert figures["wrong_pairing"] == {"errors": 1, "cost": pytest.approx(1 - 2 / 3)}
    assert figures["wrong_corner"] == figures["imprecise"] == {"errors": 0, "cost": 0.0}


def test_without_detections_or_objects(tmp_path):
    index = index_of(tmp_path, (1, 3, BOX, 0), images=2)
    figures = tide_figures(judge(index, []), index)
    assert figures["AP50"] == 0 and figures["missed"] == {"errors": 1, "cost": 0.0}
    judged = judge(index, [detection(BOX, 0.9, image=2)])
    assert [d.kind for d in judged] == ["background"]
