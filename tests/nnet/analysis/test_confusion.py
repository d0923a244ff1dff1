"""The confusion matrix and the figures by class, of cases by hand."""

import numpy as np
import pytest

from db import evaluate
from nnet.analysis.classes import class_figures, class_table
from nnet.analysis.confusion import Confusion, confusion_matrix
from sample.targets import PenaltyOptions
from tests.nnet.analysis.annotations import BOX, index_of

OTHER, FAR = [100, 10, 40, 40], [140, 50, 30, 30]
RING, CROSS = 3, 7


def detection(category, box, score, image=1):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def by_hand(tmp_path):
    """Two rings and two crosses in three images, and a crowd of rings."""
    index = index_of(
        tmp_path, (1, RING, BOX, 0), (1, CROSS, OTHER, 0), (2, CROSS, BOX, 0), (2, RING, OTHER, 1), (3, RING, BOX, 0),
        images=3,
    )  # fmt: skip
    results = [
        detection(RING, BOX, 0.9),  # right
        detection(RING, BOX, 0.6),  # a duplicate: background
        detection(RING, OTHER, 0.8),  # a cross taken for a ring
        detection(RING, FAR, 0.7),  # background
        detection(CROSS, FAR, 0.2),  # its score does not count
        detection(RING, [100, 10, 30, 30], 0.9, image=2),  # in the crowd: not counted
        detection(CROSS, BOX, 0.4, image=3),  # the ring has a right detection, although its score is lower
        detection(RING, BOX, 0.3, image=3),
    ]
    return index, results


def test_matrix_by_hand(tmp_path):
    index, results = by_hand(tmp_path)
    matrix = confusion_matrix(index, results, evaluate(index, results).matches)
    # columns: ring, cross, missed
    assert matrix.tolist() == [[2, 0, 0], [1, 0, 1], [2, 1, 0]]
    figures = Confusion(index, None, PenaltyOptions()).figures([], results)
    assert figures == {"min_score": 0.3, "classes": ["ring", "cross"], "matrix": matrix.tolist()}


def test_a_detection_takes_the_object_that_it_overlaps_most(tmp_path):
    index = index_of(tmp_path, (1, CROSS, [10, 10, 40, 40], 0), (1, RING, [14, 10, 40, 40], 0))
    results = [detection(RING, [14, 10, 40, 40], 0.9), detection(RING, [10, 10, 40, 40], 0.8)]
    assert confusion_matrix(index, results, evaluate(index, results).matches).tolist() == [
        [1, 0, 0],
        [1, 0, 0],
        [0] * 3,
    ]


def test_without_detections_all_are_missed(tmp_path):
    index, _ = by_hand(tmp_path)
    assert confusion_matrix(index, [], evaluate(index, []).matches).tolist() == [[0, 0, 2], [0, 0, 2], [0, 0, 0]]


def test_figures_by_class(tmp_path):
    index, results = by_hand(tmp_path)
    evaluation = evaluate(index, results)
    figures = class_figures(evaluation.matches, index.category_names)
    assert figures["ring"] == {
        "AP": evaluation.per_class["ring"],
        "AP50": pytest.approx(np.mean([1] * 51 + [2 / 5] * 50)),  # by score: right, false, false, false, right
        "precision": 2 / 5,
        "recall": 1.0,
        "objects": 2,
        "true_positives": 2,
        "false_positives": 3,
    }
    assert figures["cross"]["precision"] == figures["cross"]["recall"] == 0
    figures["cross"] |= {"AP": None, "precision": None}
    text = class_table(figures)
    assert [line.split()[0] for line in text.splitlines()[:3]] == ["class", "ring", "cross"]
    assert text.splitlines()[1].split()[3:] == ["0.400", "1.000", "2", "2", "3"]
    assert text.splitlines()[2].split()[1] == text.splitlines()[2].split()[3] == "-"
