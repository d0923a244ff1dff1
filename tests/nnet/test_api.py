"""load_detector: the objects in images of any kind, one by one and together."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import configs
import db
from configs import ConfigError
from nnet.api import DetectedObjects, load_detector
from nnet.families import build_family
from nnet.runtime import checkpoint
from nnet.runtime.checkpoint import CheckpointError
from tests.builders import save_detector

TINY = "test: {embedding_distance: 9, as_published: false}\n"
CATEGORIES = [[3, 5, 9], ["cat", "dog", "kite"]]
FAMILIES = {
    "cornernet": [],
    "centernet": ["model.detector=centernet", "test.corners=100", "test.pairs=1000"],
    "anchors": ["model.detector=anchors", "test.score_threshold=0"],
}


@pytest.fixture(scope="module")
def saved(config, tmp_path_factory):
    """Path of a checkpoint of fresh weights, with its config."""
    path = tmp_path_factory.mktemp("saved") / "last.pt"
    save_detector(path, configs.load(config), CATEGORIES)
    return path


@pytest.fixture(scope="module")
def detector(saved):
    return load_detector(saved)


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


def equal(one, other, tolerance=0.0):
    assert one.labels.tolist() == other.labels.tolist()
    np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=tolerance)
    np.testing.assert_allclose(one.boxes, other.boxes, rtol=tolerance, atol=tolerance)


def test_what_is_found(detector, picture):
    found = detector(picture, threshold=0)
    assert isinstance(found, DetectedObjects) and len(found) > 5
    assert found.boxes.shape == (len(found), 4) and found.labels.shape == found.scores.shape == (len(found),)
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert found.names == [CATEGORIES[1][label] for label in found.labels]
    direct = detector.detector(picture)
    assert sorted(map(tuple, found.boxes.tolist())) == sorted(map(tuple, direct.boxes.tolist()))
    np.testing.assert_array_equal(found.image, picture)
    best = detector(picture, threshold=float(found.scores[2]))
    assert len(best) == (found.scores >= found.scores[2]).sum() < len(found)
    equal(found.take(found.scores >= found.scores[2]), best)


def test_the_same_from_a_path_an_array_and_a_pil_image(detector, picture, tmp_path):
    cv2.imwrite(str(tmp_path / "p.png"), picture)
    expected = detector(picture, threshold=0)
    pil = Image.fromarray(picture[..., ::-1])
    for image in (tmp_path / "p.png", str(tmp_path / "p.png"), pil, picture.astype(np.uint16) << 8, picture / 255):
        equal(detector(image, 0), expected)
    equal(detector(picture[..., ::-1], 0, channels="rgb"), expected)


@pytest.mark.parametrize("options", [*FAMILIES.values(), ["test.mirror=false"], ["test.scales=[0.5,1.5]"]], ids=str)
def test_together_as_one_by_one(config, tmp_path, options):
    """Also images whose canvases differ in size, in any order."""
    save_detector(tmp_path / "x.pt", configs.load(config, options), CATEGORIES, seed=2)
    detector = load_detector(tmp_path / "x.pt", batch_size=3)
    rng = np.random.default_rng(1)
    sizes = [(70, 90), (200, 30), (60, 99), (70, 90), (40, 150), (8, 8), (127, 127)]
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    single = [detector(image, 0) for image in images]
    assert sum(map(len, single)) > 20
    calls = []
    network = detector.detector.family.network
    network.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    for one, other, image in zip(single, detector(images, 0), images, strict=True):
        equal(one, other, 1e-5)
        np.testing.assert_array_equal(other.image, image)
    assert len(calls) < len(images) * len(detector.config.test.scales)
    assert detector([]) == []


def test_fit_puts_images_of_all_sizes_together(saved):
    detector = load_detector(saved, overrides=["test.resize=fit"])
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((70, 90), (200, 30), (8, 8))]
    for one, other in zip([detector(image, 0) for image in images], detector(images, 0), strict=True):
        equal(one, other, 1e-5)


def test_a_batch_of_other_sizes_is_refused(detector, picture):
    with pytest.raises(ValueError, match="canvases of one size"):
        detector.detect([picture, np.zeros((300, 300, 3), np.uint8)])


def test_draw_save_and_crops(detector, picture, tmp_path):
    found = detector(picture, threshold=0)
    drawn = found.draw()
    assert drawn.shape == picture.shape and drawn.dtype == np.uint8 and (drawn != picture).any()
    np.testing.assert_array_equal(found.image, picture)
    found.save(tmp_path / "new" / "found.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new" / "found.png")), drawn)
    crops = found.crops()
    assert len(crops) == len(found) and all(crop.size for crop in crops)
    one = replace(found.take(np.array([0])), boxes=np.array([[1.5, 2, 4.2, 9]], np.float32))
    np.testing.assert_array_equal(one.crops()[0], picture[2:9, 1:5])
    assert str(one).startswith("1 object: ") and found.names[0] in str(one)


def test_without_objects(detector, picture):
    found = detector(picture, threshold=1.0)
    assert len(found) == 0 and str(found) == "0 objects" and found.crops() == [] and found.to_coco() == []
    drawn = found.draw()
    np.testing.assert_array_equal(drawn, picture)
    drawn[:] = 0
    assert picture.any()


def test_to_coco(detector, picture):
    found = detector(picture, threshold=0)
    results = found.to_coco(17)
    db.results.check_results(results)
    x1, y1, x2, y2 = found.boxes[0]
    assert results[0] == {
        "image_id": 17,
        "category_id": CATEGORIES[0][found.labels[0]],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "score": found.scores[0],
    }
    rounded = replace(found, decimals=2).to_coco()[0]
    assert rounded["bbox"] == [round(float(v), 2) for v in results[0]["bbox"]]


def test_heatmaps(detector, picture):
    heatmaps = detector.heatmaps(picture)
    assert heatmaps.keys() == {"top_left", "bottom_right"}
    assert all(scores.shape == (70, 90) for scores in heatmaps.values())


def test_options(saved, config):
    detector = load_detector(
        saved, config, device="cpu", precision="bfloat16", overrides=["test.detections=3"], batch_size=2
    )
    assert detector.config.test.precision == "bfloat16" and detector.config.test.detections == 3
    assert detector.detector.device.type == "cpu" and detector.batch_size == 2
    assert load_detector(saved, device=torch.device("cpu")).detector.device.type == "cpu"


def test_released_checkpoints_have_the_classes_of_coco(config, tmp_path):
    """A .pkl holds weights alone: its config is named."""
    options = configs.load(config)
    family = build_family(80, options.model, options.penalty, options.loss)
    torch.save(family.network.state_dict(), tmp_path / "released.pkl")
    with pytest.raises(CheckpointError, match="does not hold its config: name one"):
        load_detector(tmp_path / "released.pkl")
    detector = load_detector(tmp_path / "released.pkl", config)
    assert len(detector.class_names) == 80
    assert detector.class_names[0] == "person" and detector.category_ids[-1] == 90


def test_cocos_categories(shared_data):
    annotations = shared_data / "coco_tiny" / "annotations" / "instances_val2017.json"
    index = db.load_index([annotations], [shared_data / "coco_tiny" / "val2017"])
    assert db.COCO_CATEGORIES == dict(zip(index.category_ids, index.category_names, strict=True))


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"device": "tpu"}, ValueError, "device 'tpu': expected auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, ValueError, "device 'cuda:99': this machine has"),
        ({"precision": "int8"}, ConfigError, "command line: test.precision: expected"),
        ({"overrides": ["test.scale=2"]}, ConfigError, "did you mean test.scales"),
        ({"overrides": ["model.detector=centernet"]}, CheckpointError, "is of another network"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"config": "none.yaml"}, ConfigError, "config none.yaml does not exist"),
    ],
)
def test_bad_options_are_refused(saved, arguments, error, words):
    with pytest.raises(error) as raised:
        load_detector(saved, **arguments)
    assert words in str(raised.value) and "\n" not in str(raised.value)


def test_checkpoints_of_another_network_are_refused(saved, tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_detector(tmp_path / "none.pt")
    state = checkpoint.load(saved)
    other = {"categories": [[1], ["cat"]]}
    checkpoint.save(tmp_path / "other.pt", {k: v for k, v in state.items() if k != "format"} | other)
    with pytest.raises(CheckpointError, match="is of another network") as error:
        load_detector(tmp_path / "other.pt")
    assert "\n" not in str(error.value)
