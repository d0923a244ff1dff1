"""What the kinds of errors cost: TIDE (Bolya et al., "A General Toolbox for Identifying Object Detection Errors",
ECCV 2020).

The figures are those of the authors' package tidecv, including its treatment of crowds: detections in a crowd do not
count for AP, but may stand for an error that can be fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask

from db import AnnotationIndex
from nnet.analysis.base import Analysis
from nnet.analysis.errors import FALSE_POSITIVE_IOU, classify
from nnet.analysis.errors import KINDS as PAIRING_KINDS
from sample.targets import PenaltyOptions

BACKGROUND_IOU = 0.1  # up to this IoU with every object, a detection is of the background
DETECTIONS = 100  # the best of an image that are judged
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
RECALLS = np.arange(101) / 100  # as tidecv: some of them differ from linspace's in the last bit


class Tide(Analysis):
    """The six kinds of errors of TIDE, and the AP50 that each costs."""

    name = "tide"
    key = "TIDE"

    def figures(self, records: list[Any], results: list[dict]) -> dict[str, Any]:
        return tide_figures(judge(self.index, results), self.index)


class Judged(NamedTuple):
    """A detection, and what is wrong with it."""

    detection: int  # position in the results
    image: int  # position in the index
    score: float
    label: int
    kind: str  # one of KINDS, or "true_positive"
    ignored: bool  # it lies in a crowd
    row: int  # row in index.boxes of the matched object, or of the object that a fix of the error would match; -1


def judge(index: AnnotationIndex, results: list[dict]) -> list[Judged]:
    """The best DETECTIONS detections of each image, image by image, by descending score (Section 2.2)."""
    labels = {c: k for k, c in enumerate(index.category_ids)}
    positions = {image_id: i for i, image_id in enumerate(index.image_ids.tolist())}
    by_image: list[list[int]] = [[] for _ in range(len(index))]
    for d, result in enumerate(results):
        by_image[positions[result["image_id"]]].append(d)
    judged = []
    for i, own in enumerate(by_image):
        own = sorted(own, key=lambda d: -results[d]["score"])[:DETECTIONS]
        if own:
            boxes = np.array([results[d]["bbox"] for d in own], np.float64)
            classes = np.array([labels[results[d]["category_id"]] for d in own])
            for d, kind in zip(own, judge_image(index, i, boxes, classes), strict=True):
                judged.append(Judged(d, i, results[d]["score"], labels[results[d]["category_id"]], *kind))
    return judged


def judge_image(index: AnnotationIndex, i: int, boxes: np.ndarray, labels: np.ndarray) -> list[tuple[str, bool, int]]:
    """Kind, whether it is ignored, and row of the object, of the detections of an image.

    Args:
        boxes: (n, 4) x, y, width, height, by descending score. labels: (n,).
    """
    rows = np.arange(index.first[i], index.first[i + 1])
    annotated = np.hstack([index.boxes[rows, :2], index.extents[rows]])
    crowd = index.crowd[rows]
    rows, objects, crowds = rows[~crowd], annotated[~crowd], annotated[crowd]
    same = labels[:, None] == index.labels[rows]  # (n, m)
    iou = mask.iou(boxes, objects, [False] * len(objects)) if len(objects) else np.zeros((len(boxes), 0))
    matched = match(np.where(same, iou, 0))
    ignored = matched < 0
    if len(crowds):
        inside = mask.iou(boxes, crowds, [True] * len(crowds)) > FALSE_POSITIVE_IOU
        of_class = labels[:, None] == index.labels[index.first[i] : index.first[i + 1]][crowd]
        ignored &= (inside & of_class).any(1)
    else:
        ignored &= False
    taken = np.isin(np.arange(len(rows)), matched)
    found = []
    for d, m in enumerate(matched):
        kind, m = ("true_positive", m) if m >= 0 else kind_of_error(iou[d], same[d], taken)
        found.append((kind, bool(ignored[d]), int(rows[m]) if m >= 0 else -1))
    return found


def match(iou: np.ndarray) -> np.ndarray:
    """The object that each detection takes, or -1: the one that it overlaps most of those that are left.

    iou: (n, m), by descending score of the detections.
    """
    iou, matched = iou.copy(), np.full(len(iou), -1)
    for d in range(len(iou) if iou.size else 0):
        best = iou[d].argmax()
        if iou[d, best] >= FALSE_POSITIVE_IOU:
            matched[d] = best
            iou[:, best] = 0
    return matched


def kind_of_error(iou: np.ndarray, same: np.ndarray, taken: np.ndarray) -> tuple[str, int]:
    """The kind of a false detection, and the object that it would match without the error, -1 if none.

    Args:
        iou: (m,) with the objects. same: (m,) whether they are of its class. taken: (m,) by a true positive.
    """
    if not len(iou):
        return "background", -1
    of_class, of_others = np.where(same, iou, 0), np.where(same, 0, iou)
    near, other = int(of_class.argmax()), int(of_others.argmax())
    if BACKGROUND_IOU <= of_class[near] <= FALSE_POSITIVE_IOU:
        return "localisation", -1 if taken[near] else near
    if of_others[other] >= FALSE_POSITIVE_IOU:
        return "classification", -1 if taken[other] else other
    if (of_class * taken).max() >= FALSE_POSITIVE_IOU:
        return "duplicate", -1
    return ("background" if iou.max() <= BACKGROUND_IOU else "both"), -1


def tide_figures(judged: list[Judged], index: AnnotationIndex) -> dict[str, Any]:
    """AP50, and by kind the number of errors and the AP50 that is gained when all errors of this kind are fixed."""
    fixable = {d.row for d in judged if d.kind != "true_positive" and d.row >= 0}
    right = {d.row for d in judged if d.kind == "true_positive"}
    missed = [row for row in np.flatnonzero(~index.crowd).tolist() if row not in right and row not in fixable]
    objects = np.bincount(index.labels[~index.crowd], minlength=index.num_classes)
    best: dict[int, Judged] = {}  # by object, the best detection whose fix would match it
    for d in judged:
        if d.kind != "true_positive" and d.row >= 0 and (d.row not in best or best[d.row].score < d.score):
            best[d.row] = d
    ap50 = mean_ap(points(judged, index), objects)
    figures: dict[str, Any] = {"AP50": ap50}
    for kind in KINDS[:-1]:
        fixed = mean_ap(points(judged, index, lambda d, kind=kind: d.kind == kind, best), objects)
        figures[kind] = {"errors": sum(d.kind == kind for d in judged), "cost": max(fixed - ap50, 0.0)}
    left = objects - np.bincount(index.labels[missed], minlength=index.num_classes)
    fixed = mean_ap(points(judged, index, lambda d: False, best), left)
    figures["missed"] = {"errors": len(missed), "cost": max(fixed - ap50, 0.0)}
    return figures


Points = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Labels (n,) int, scores (n,) and whether they are true positives (n,) bool, of detections."""


def points(
    judged: Iterable[Judged],
    index: AnnotationIndex,
    fix: Callable[[Judged], bool] | None = None,
    best: Mapping[int, Judged] | None = None,
) -> Points:
    """The detections for AP, after the errors that are to be fixed became true positives, or were removed.

    best: by object, the detection that becomes a true positive; others are removed.
    """
    found = []
    if fix is not None:  # tidecv has the errors first then, which matters for equal scores
        judged = sorted(judged, key=lambda d: d.kind == "true_positive")
    for d in judged:
        if d.kind == "true_positive":
            found.append((d.label, d.score, True))
        elif fix is None or not fix(d):
            if not d.ignored:
                found.append((d.label, d.score, False))
        elif best and best.get(d.row) is d:
            found.append((int(index.labels[d.row]), d.score, True))
    labels, scores, right = zip(*found, strict=True) if found else ((), (), ())
    return np.array(labels, np.int64), np.array(scores, np.float64), np.array(right, bool)


def mean_ap(found: Points, objects: np.ndarray) -> float:
    """Mean AP of the classes that have objects or detections; 0 without objects. objects: (C,) number by class."""
    labels, scores, right = found
    values = []
    for k, number in enumerate(objects.tolist()):
        own = labels == k
        if number or own.any():
            order = np.argsort(-scores[own], kind="stable")
            hits = np.cumsum(right[own][order])
            precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
            first = np.searchsorted(hits / max(number, 1), RECALLS, side="left")
            sampled = np.concatenate([precision, [0.0]])[np.minimum(first, len(precision))]
            values.append(sampled.mean() if number else 0.0)
    return float(np.mean(values)) if values else 0.0


def pairing_figures(
    judged: list[Judged], index: AnnotationIndex, results: list[dict], penalty: PenaltyOptions
) -> dict[str, dict[str, float | int]]:
    """CornerNet's kinds of false detections (see `classify`): their number, and the AP50 gained without them."""
    kinds: dict[int, str] = {}
    by_image: dict[int, list[Judged]] = {}
    for d in judged:
        by_image.setdefault(d.image, []).append(d)
    for i, own in by_image.items():
        boxes = np.array([results[d.detection]["bbox"] for d in own], np.float64)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([d.label for d in own])
        for d, kind in zip(own, classify(boxes, labels, index.objects(i), penalty), strict=True):
            kinds[d.detection] = PAIRING_KINDS[kind]
    objects = np.bincount(index.labels[~index.crowd], minlength=index.num_classes)
    ap50 = mean_ap(points(judged, index), objects)
    figures = {}
    for kind in PAIRING_KINDS[1:]:
        left = [d for d in judged if d.kind == "true_positive" or kinds[d.detection] != kind]
        cost = mean_ap(points(left, index), objects) - ap50
        number = sum(d.kind != "true_positive" and kinds[d.detection] == kind for d in judged)
        figures[kind] = {"errors": number, "cost": max(cost, 0.0)}
    return figures
