"""From decoded corners to results, against the released implementation and by hand."""

import json

import numpy as np
import pytest
import torch

from db import evaluate, load_index, to_results
from models.cornernet import KeypointMaps, cornernet
from models.hourglass import feature_size
from nnet.centers import centers_to_image, keep_triplets
from nnet.inference import Detector, DetectSettings, paste, place_original, suppress, to_image

# How the goldens were made: settings by the names of their files.
CORNERNET = DetectSettings()
CENTERNET = DetectSettings(outside=5.0)
PUBLISHED = {
    "cornernet_single": CORNERNET,
    "cornernet_multi": CORNERNET._replace(scales=(0.5, 0.75, 1.0, 1.25, 1.5), merge=True),
    "centernet_single": CENTERNET,
    "centernet_multi": CENTERNET._replace(scales=(0.6, 1.0, 1.2, 1.5, 1.8), merge=True),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_golden_post(goldens, shared_data, name):
    """Decoded corners and centers of several images -> the same result list and the same COCO figures."""
    settings = PUBLISHED[name]
    expected = json.loads((goldens / f"post_{name}.json").read_text())
    decoded = np.load(goldens / f"post_{name}.npz")
    root = shared_data / "coco_tiny"
    annotations = root / "annotations" / f"instances_{expected['split']}.json"
    index = load_index([annotations], [root / expected["split"]])
    positions = {index.path(i).rsplit("/", 1)[-1]: i for i in range(len(index))}
    assert list(settings.scales) == expected["scales"]
    results, image_ids = [], []
    for image, file in enumerate(expected["files"]):
        i = positions[file]
        image_ids.append(int(index.image_ids[i]))
        placements = [place_original(*index.sizes[i].tolist(), scale) for scale in expected["scales"]]
        parts = [
            to_image(decoded[f"dets_{image}_{n}"], placement, settings.outside)
            for n, placement in enumerate(placements)
        ]
        rows = np.concatenate(parts)
        if name.startswith("centernet"):
            n = expected["scales"].index(1)
            rows = keep_triplets(
                rows[rows[:, 4] > -1], centers_to_image(decoded[f"centers_{image}_{n}"], placements[n])
            )
        results += to_results(index, i, *suppress(rows, settings), decimals=2)
    assert results == expected["results"]
    figures = evaluate([annotations], results, image_ids)
    stats = [-1 if v is None else v for v in figures.values()]
    assert stats == pytest.approx(expected["ap_stats"], abs=1e-12)


def test_placement_by_hand():
    placement = place_original(100, 301, 0.5, divisor=128)
    assert placement == ((127, 255), (63 - 25, 127 - 75), (50, 150), (0.5, 0.5))
    image = np.full((100, 301, 3), 200, np.uint8)
    canvas = paste(image, placement)
    assert canvas.shape == (127, 255, 3)
    assert (canvas[38:88, 52:202] == 200).all() and canvas.astype(int).sum() == 200 * 50 * 150 * 3


def test_an_image_as_large_as_the_canvas_is_pasted_as_a_training_crop_is():
    """The released code halves sizes by integer division: the last row and column are lost."""
    image = np.random.default_rng(0).integers(1, 255, (127, 255, 3), dtype=np.uint8)
    canvas = paste(image, place_original(127, 255, 1.0, divisor=128))
    assert np.array_equal(canvas[:126, :254], image[:126, :254])
    assert not canvas[126].any() and not canvas[:, 254].any()


def row(x1, y1, x2, y2, score=0.9, label=0):
    return [x1, y1, x2, y2, score, 0.8, 0.7, label]


def test_boxes_return_to_the_image_and_those_of_the_mirror_image_too():
    placement = place_original(100, 301, 0.5, divisor=128)
    cells = 64  # across the canvas of 255 pixels
    box = np.array([20.0, 12.0, 40.0, 20.0])
    mirrored = [cells - box[2], box[1], cells - box[0], box[3]]
    rows = np.array([[row(*box)], [row(*mirrored)]], np.float32)
    found = to_image(rows, placement)
    expected = [(20 * 255 / 64 - 52) / 0.5, (12 * 127 / 32 - 38) / 0.5, (40 * 255 / 64 - 52) / 0.5]
    expected.append((20 * 127 / 32 - 38) / 0.5)
    np.testing.assert_allclose(found[0, :4], expected, rtol=1e-5)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    assert rows[0, 0, 0] == 20  # what was given is left alone


def test_boxes_are_clipped_to_the_image():
    placement = place_original(100, 301, 0.5, divisor=128)
    found = to_image(np.array([[row(-5, -5, 99, 99)]], np.float32), placement)
    np.testing.assert_allclose(found[0, :4], [0, 0, 300, 100])


def test_suppress_by_class_and_drops_rejected_pairs():
    rows = np.array(
        [row(0, 0, 10, 10, 0.9), row(0, 0, 10, 10, 0.8, 1), row(0, 0, 10, 10, 0.5), row(5, 5, 6, 6, -1)], np.float32
    )
    found = suppress(rows, DetectSettings(as_published=False))
    assert found.labels.tolist() == [0, 0, 1]
    assert found.scores == pytest.approx([0.9, 0.5 * np.exp(-1 / 0.5), 0.8], rel=1e-5)
    none = suppress(rows[3:], DetectSettings())
    assert [len(v) for v in none] == [0, 0, 0]


def test_the_best_detections_and_ties_at_the_last():
    rows = np.array([row(20 * i, 0, 20 * i + 5, 5, s) for i, s in enumerate([0.9, 0.5, 0.5, 0.3])], np.float32)
    assert suppress(rows, DetectSettings(detections=2)).scores.tolist() == pytest.approx([0.9, 0.5, 0.5])
    assert len(suppress(rows, DetectSettings(detections=1)).scores) == 1


def test_stale_rows_stay_only_as_published():
    rows = np.array([row(0, 0, 10, 10, 0.9), row(0, 0, 10, 10, 0.002), row(0, 0, 10, 10, 0.003)], np.float32)
    kept, stale = (suppress(rows, DetectSettings(as_published=v)) for v in (False, True))
    assert len(kept.scores) == 1 and len(stale.scores) == 3


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (64, 64), (90, 33)])
@pytest.mark.parametrize(
    "settings",
    [
        DetectSettings(),
        DetectSettings(scales=(0.5, 1.5), merge=True, mirror=False),
        DetectSettings(resize="fit", as_published=False),
    ],
)
def test_any_image(size, settings):
    torch.manual_seed(0)
    network = cornernet(2, stacks=1, stem_width=4, widths=[4, 6], blocks=[1, 1], pool_width=2)
    detector = Detector(network, settings._replace(embedding_distance=9.0), (32, 48), torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = detector(image)
    assert np.isfinite(found.boxes).all()
    assert (found.boxes[:, 2] <= size[1] + 1).all() and (found.boxes[:, 3] <= size[0] + 1).all()
    maps = detector.heatmaps(image)
    assert {name: m.shape for name, m in maps.items()} == {"top_left": size, "bottom_right": size}


class Oracle(torch.nn.Module):
    """Answers every canvas with the maps of given boxes, in canvas pixels, also mirrored."""

    divisor = 8

    def __init__(self, boxes):
        super().__init__()
        self.boxes = boxes

    def forward(self, images):
        batch, _, height, width = images.shape
        h, w = feature_size((height, width))
        maps = {}
        for name, columns in (("top_left", (0, 1)), ("bottom_right", (2, 3))):
            heat, tag = torch.full((batch, 1, h, w), -9.0), torch.zeros(batch, 1, h, w)
            offset = torch.zeros(batch, 2, h, w)
            for view in range(batch):
                for number, box in enumerate(self.boxes):
                    x1, y1, x2, y2 = (v * n / m for v, n, m in zip(box, (w, h, w, h), (width, height) * 2, strict=True))
                    if view == 1:
                        x1, x2 = w - x2, w - x1
                    x, y = ((x1, y1, x2, y2)[c] for c in columns)
                    heat[view, 0, int(y), int(x)] = 5.0
                    tag[view, 0, int(y), int(x)] = 3.0 * number
                    offset[view, :, int(y), int(x)] = torch.tensor([x - int(x), y - int(y)])
            maps[name] = KeypointMaps(heat, tag, offset)
        return [maps]


@pytest.mark.parametrize("resize", ["original", "fit"])
@pytest.mark.parametrize("size", [(60, 100), (100, 60)])
def test_what_the_network_sees_is_what_comes_back(resize, size):
    """Boxes given to an oracle where the image lies on the canvas are the detections, in both kinds of placement."""
    truth = np.array([[4.0, 6.0, 30.0, 40.0], [20.0, 10.0, 50.0, 55.0]])
    detector = Detector(Oracle([]), DetectSettings(resize=resize, as_published=False), (63, 63), torch.device("cpu"))
    image = np.zeros((*size, 3), np.uint8)
    _, placement = detector.place(image, 1.0)
    detector.network.boxes = [
        [v * placement.scale[1 - n % 2] + placement.border[1 - n % 2] for n, v in enumerate(box)] for box in truth
    ]
    found = detector(image)
    best = found.boxes[found.scores > 0.9]
    assert len(best) >= 2
    for box in truth:
        assert np.abs(best - box).max(1).min() < 0.02
