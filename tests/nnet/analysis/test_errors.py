"""Kinds of false detections, on data small enough to check by hand."""

import numpy as np

from db import Objects
from nnet.analysis.errors import KINDS, Errors, classify, error_shares
from nnet.detection.images import Detected
from nnet.detection.suppression import Found
from nnet.families.options import SHOWN_SCORE
from sample.targets import PenaltyOptions
from tests.nnet.analysis.annotations import BOX, index_of

PENALTY = PenaltyOptions()


def test_kinds_of_errors():
    truth = Objects(
        np.array([[10.0, 10, 50, 50], [110, 10, 150, 50], [10, 60, 50, 100]]), np.array([0, 0, 1]), np.zeros(3, bool)
    )
    cases = {
        "right": [12, 10, 50, 50],
        "wrong_pairing": [10, 10, 150, 50],  # from the first object's corner to the second's
        "wrong_corner": [10, 10, 100, 50],  # IoU 40 / 90
        "imprecise": [16, 16, 44, 44],  # 8.5 pixels from both corners of the first, IoU 784 / 1600
    }
    boxes = np.array([*cases.values(), [10, 60, 50, 100], [10, 10, 50, 100]], np.float32)
    labels = np.array([0, 0, 0, 0, 0, 1])  # the fifth is another class's object; of the sixth so is the first corner
    kinds = classify(boxes, labels, truth, PENALTY)
    assert [KINDS[k] for k in kinds[:4]] == list(cases)
    assert [KINDS[k] for k in kinds[4:]] == ["wrong_corner", "wrong_corner"]
    # In the mirror image a pair is of what are the top-right corner of one object and the bottom-left one of another
    apart = Objects(np.array([[110.0, 10, 150, 50], [10, 60, 50, 100]]), np.zeros(2, int), np.zeros(2, bool))
    pair = classify(np.array([[10.0, 10, 150, 100]]), np.zeros(1, int), apart, PENALTY)
    assert [KINDS[k] for k in pair] == ["wrong_pairing"]
    none = Objects(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool))
    assert [KINDS[k] for k in classify(boxes[:1], labels[:1], none, PENALTY)] == ["wrong_corner"]
    assert classify(boxes[:0], labels[:0], truth, PENALTY).shape == (0,)


def test_shares_of_errors():
    figures = error_shares([0, 0, 1, 1, 1, 2])
    assert (figures["detections"], figures["false"], figures["wrong_pairing"]) == (6, 4, 3)
    assert figures["wrong_pairing_share"] == 0.75 and figures["wrong_corner_share"] == 0.25
    assert error_shares([])["wrong_corner_share"] is None


def test_the_analysis_judges_sure_detections(tmp_path):
    tool = Errors(index_of(tmp_path, (1, 3, BOX, 0)), None, PENALTY)
    boxes = np.array([[10, 10, 50, 50], [100, 10, 140, 50], [100, 10, 140, 50]], np.float32)
    found = Found(boxes, np.array([SHOWN_SCORE, 0.9, 0.29], np.float32), np.zeros(3, np.int64))
    records = tool.see(Detected(0, None, found._replace(scores=found.scores + np.float32(1e-6)), []))
    assert [KINDS[k] for k in records] == ["right", "wrong_corner"]
    figures = tool.figures(records * 2, [])
    assert (figures["detections"], figures["wrong_corner"], figures["wrong_corner_share"]) == (4, 2, 1)
