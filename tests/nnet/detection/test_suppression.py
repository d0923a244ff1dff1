"""From decoded corners to results, against the released implementation and by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from db import evaluate, load_index, to_results
from models.decode import Detections, Keypoints
from nnet.detection.suppression import suppress
from nnet.families.base import Candidates, View
from nnet.families.options import DetectionOptions
from nnet.families.placement import place_original
from tests.builders import small_family

# How the goldens were made: options by the names of their files.
CORNERNET = DetectionOptions()
CENTERNET = DetectionOptions(outside=5.0)
PUBLISHED = {
    "cornernet_single": CORNERNET,
    "cornernet_multi": replace(CORNERNET, scales=(0.5, 0.75, 1.0, 1.25, 1.5), merge=True),
    "centernet_single": CENTERNET,
    "centernet_multi": replace(CENTERNET, scales=(0.6, 1.0, 1.2, 1.5, 1.8), merge=True),
}


def as_detections(rows):
    """Rows (B, n, 8) of box, score, scores of both corners, class, as decoding returns them."""
    rows = torch.from_numpy(rows)
    return Detections(rows[..., :4], rows[..., 4], rows[..., 7], rows[..., 5:7])


def as_keypoints(rows):
    """Rows (B, m, 4) of x, y, class, score, as decoding returns them."""
    x, y, labels, scores = torch.from_numpy(rows).unbind(-1)
    return Keypoints(scores, labels, x, y)


@pytest.mark.parametrize("name", PUBLISHED)
def test_golden_post(goldens, shared_data, name, monkeypatch):
    """Decoded corners and centers of several images -> the same result list and the same COCO figures."""
    options = PUBLISHED[name]
    expected = json.loads((goldens / f"post_{name}.json").read_text())
    decoded = np.load(goldens / f"post_{name}.npz")
    root = shared_data / "coco_tiny"
    annotations = root / "annotations" / f"instances_{expected['split']}.json"
    index = load_index([annotations], [root / expected["split"]])
    positions = {index.path(i).rsplit("/", 1)[-1]: i for i in range(len(index))}
    assert list(options.scales) == expected["scales"]
    # In place of maps, the views hold the names of decoded arrays.
    monkeypatch.setattr("nnet.families.cornernet.decode_corners", lambda dets, *_: as_detections(decoded[dets]))
    monkeypatch.setattr("nnet.families.cornernet.decode_points", lambda centers, *_: as_keypoints(decoded[centers]))
    family = small_family(name.split("_")[0])
    results, image_ids = [], []
    for image, file in enumerate(expected["files"]):
        i = positions[file]
        image_ids.append(int(index.image_ids[i]))
        views = []
        for n, scale in enumerate(expected["scales"]):
            arrays = dict.fromkeys(("top_left", "bottom_right"), f"dets_{image}_{n}")
            placement = place_original(*index.sizes[i].tolist(), scale, stride=4)
            views.append(View(scale, placement, arrays | {"center": f"centers_{image}_{n}"}))
        found = suppress(family.propose(iter(views), options), options)
        results += to_results(index, i, *found, decimals=2)
    assert results == expected["results"]
    figures = evaluate(index, results, image_ids)
    stats = [-1 if v is None else v for v in figures.values()]
    assert stats == pytest.approx(expected["ap_stats"], abs=1e-12)


def row(x1, y1, x2, y2, score=0.9, label=0):
    return [x1, y1, x2, y2, score, 0.8, 0.7, label]


def candidates(*rows):
    rows = np.array(rows, np.float32)
    return Candidates(rows[:, :4], rows[:, 4], rows[:, 7].astype(np.int64), rows[:, 5:7])


def test_suppress_by_class_and_drops_rejected_pairs():
    pairs = candidates(row(0, 0, 10, 10, 0.9), row(0, 0, 10, 10, 0.8, 1), row(0, 0, 10, 10, 0.5), row(5, 5, 6, 6, -1))
    found = suppress(pairs, DetectionOptions(as_published=False))
    assert found.labels.tolist() == [0, 0, 1]
    assert found.scores == pytest.approx([0.9, 0.5 * np.exp(-1 / 0.5), 0.8], rel=1e-5)
    none = suppress(pairs.take(np.array([3])), DetectionOptions())
    assert [len(v) for v in none] == [0, 0, 0]


def test_boxes_that_are_not_finite_are_dropped():
    pairs = candidates(row(0, 0, np.nan, 10), row(0, 0, 10, 10, np.inf), row(5, 5, 6, 6))
    assert suppress(pairs, DetectionOptions()).boxes.tolist() == [[5, 5, 6, 6]]


def test_boxes_without_corners_are_suppressed_as_others_are():
    pairs = candidates(row(0, 0, 10, 10, 0.9), row(0, 0, 10, 10, 0.8, 1), row(0, 0, 10, 10, 0.5))
    with_corners, without = (suppress(p, DetectionOptions()) for p in (pairs, pairs._replace(corner_scores=None)))
    assert all(np.array_equal(a, b) for a, b in zip(with_corners, without, strict=True))


def test_the_best_detections_and_ties_at_the_last():
    pairs = candidates(*(row(20 * i, 0, 20 * i + 5, 5, s) for i, s in enumerate([0.9, 0.5, 0.5, 0.3])))
    assert suppress(pairs, DetectionOptions(detections=2)).scores.tolist() == pytest.approx([0.9, 0.5, 0.5])
    assert len(suppress(pairs, DetectionOptions(detections=1)).scores) == 1


def test_stale_rows_stay_only_as_published():
    pairs = candidates(row(0, 0, 10, 10, 0.9), row(0, 0, 10, 10, 0.002), row(0, 0, 10, 10, 0.003))
    kept, stale = (suppress(pairs, DetectionOptions(as_published=v)) for v in (False, True))
    assert len(kept.scores) == 1 and len(stale.scores) == 3
