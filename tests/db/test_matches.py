"""Matches: their figures are those of pycocotools, also where images count several times."""

import numpy as np
import pytest

from db import AnnotationIndex, evaluate, to_results
from db.matches import RECALLS


def random_data(images=12, seed=0):
    """An index of random boxes in two classes, some of them crowds, and detections near them, some of equal scores."""
    r = np.random.default_rng(seed)
    owners = np.sort(r.integers(0, images, 5 * images))
    corner, extents = r.uniform(0, 100, (len(owners), 2)), r.choice([12, 40, 120], (len(owners), 1)) * [1, 0.8]
    boxes, labels = np.hstack([corner, corner + extents]), r.integers(0, 2, len(owners))
    index = build(range(images), owners, boxes, labels, r.random(len(owners)) < 0.1)
    results = []
    for i in range(images):
        objects = index.objects(i)
        near = objects.boxes + r.normal(0, 4, objects.boxes.shape)
        far = r.uniform(0, 60, (6, 4)) + [0, 0, 60, 60]
        found = np.concatenate([near, near[:2] + 1, far])
        guesses = np.concatenate([objects.labels, objects.labels[:2], r.integers(0, 2, 6)])
        results += to_results(index, i, found, r.random(len(found)).round(2), guesses, None)
    return index, results


def build(ids, owners, boxes, labels, crowd):
    return AnnotationIndex.build(
        image_ids=ids,
        sizes=[[300, 300]] * len(ids),
        names=[f"{i}.jpg" for i in ids],
        folders=["."],
        box_image=owners,
        boxes=boxes,
        labels=labels,
        crowd=crowd,
        category_ids=(3, 7),
        category_names=("ring", "cross"),
    )


def repeated(index, results, weights):
    """The data with every image as often as its weight says."""
    parts, found, ids = [], [], []
    for i, times in enumerate(weights.tolist()):
        for _ in range(times):
            new, (boxes, labels, crowd) = len(ids), index.objects(i)
            parts.append((np.full(len(boxes), new), boxes, labels, crowd))
            found += [result | {"image_id": new} for result in results if result["image_id"] == i]
            ids.append(new)
    return build(ids, *map(np.concatenate, zip(*parts, strict=True))), found


@pytest.mark.parametrize("weights", [np.ones(12, int), np.array([0, 3, 1, 0, 2, 1, 1, 0, 2, 1, 0, 1])])
def test_figures_equal_those_of_pycocotools(weights):
    index, results = random_data()
    matches = evaluate(index, results).matches
    expected = evaluate(*repeated(index, results, weights))
    both = np.stack([np.ones(12, int), weights])
    found = np.array([own.average_precision(both)[:, 1] for own in matches.classes["all"]])
    assert found.mean(1) == pytest.approx([expected.per_class[name] for name in ("ring", "cross")], abs=1e-12)
    assert found.mean(0) == pytest.approx(list(expected.by_iou.values()), abs=1e-12)
    for area in ("small", "medium", "large"):
        found = [own.average_precision(both)[:, 1] for own in matches.classes[area]]
        assert np.mean(found) == pytest.approx(expected[f"AP{area[0]}"], abs=1e-12), area
    for limit in (1, 10, 100):
        found = [own.recall(both, limit)[:, 1] for own in matches.classes["all"]]
        assert np.mean(found) == pytest.approx(expected[f"AR{limit}"], abs=1e-12), limit


def test_precision_at_recalls_is_that_of_pycocotools():
    index, results = random_data(seed=1)
    evaluation = evaluate(index, results)
    precision = evaluation.coco.eval["precision"][:, :, :, 0, -1]  # (IoU thresholds, recalls, classes)
    for k, own in enumerate(evaluation.matches.classes["all"]):
        t = evaluation.matches.threshold(0.6)
        assert len(RECALLS) == 101 and own.precision_at_recalls(t) == pytest.approx(precision[t, :, k], abs=1e-12)


def test_matches_name_detections_and_objects():
    index, results = random_data(seed=2)
    matches = evaluate(index, results).matches
    for k, own in enumerate(matches.classes["all"]):
        for d, image, score, row in zip(own.detections, own.images, own.scores, own.objects[0], strict=True):
            assert results[d]["image_id"] == image and results[d]["score"] == score
            assert results[d]["category_id"] == index.category_ids[k]
            if row >= 0:
                assert index.labels[row] == k and index.first[image] <= row < index.first[image + 1]
        assert own.annotated.sum() == ((index.labels == k) & ~index.crowd).sum()


def test_without_objects_or_detections():
    index, _ = random_data()
    ring = index.take([0])
    nothing = evaluate(ring, []).matches.classes["all"][0]
    once = np.ones((1, 1), int)
    assert (nothing.average_precision(once) == 0).all() and (nothing.recall(once, 100) == 0).all()
    assert (nothing.precision_at_recalls(0) == 0).all()
    assert np.isnan(nothing.average_precision(0 * once)).all() and np.isnan(nothing.recall(0 * once, 100)).all()
