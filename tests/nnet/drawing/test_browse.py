"""python -m nnet.drawing.browse."""

import json

import cv2
import numpy as np
import pytest
import torch

from db import load_index
from nnet.drawing import browse
from nnet.drawing.pictures.base import CYAN, GREEN, ORANGE
from sample.augment import AugmentOptions
from sample.colour import normalise
from sample.dataset import TrainingSet
from sample.loader import make_loader
from sample.order import MicroBatches
from sample.targets import PenaltyOptions
from tests.nnet.drawing.images import has

TINY = ""
KINDS = ("top_left", "bottom_right", "center")


@pytest.fixture(scope="module")
def samples(toy):
    index = load_index(toy / "annotations" / "instances_train.json", toy / "train")
    return TrainingSet(index, (95, 127), AugmentOptions(border=20), seed=5)


def test_views_are_the_first_samples_of_a_run(samples):
    views = browse.view_samples(samples, 5, 5, KINDS, 4, PenaltyOptions())
    loader = make_loader(samples, MicroBatches(len(samples), [2, 3], 5, 0, 1), 0, 0, "cpu")
    at = 0
    for batch in loader:
        inputs = normalise(batch.images, batch.colour)
        for b in range(len(inputs)):
            view, mine = views[at], batch.objects.image_index == b
            assert view.image_id == batch.image_ids[b]
            np.testing.assert_array_equal(view.boxes, batch.objects.boxes[mine])
            np.testing.assert_array_equal(view.labels, batch.objects.labels[mine])
            np.testing.assert_array_equal(view.image, browse.as_picture(inputs[b]))
            assert view.cells == (24, 32) and tuple(view.targets) == KINDS
            centers = (view.boxes[:, :2] + view.boxes[:, 2:]) / 2 * [32 / 127, 24 / 95]
            np.testing.assert_allclose(browse.exact_points(view.targets["center"], 32), centers)
            at += 1
    assert at == 5


def test_picture_of_an_input_without_colour_is_the_image():
    image = torch.randint(0, 256, (1, 3, 9, 11), dtype=torch.uint8)
    shown = browse.as_picture(normalise(image)[0])
    np.testing.assert_array_equal(shown, image[0].permute(1, 2, 0))


def test_cells_of_a_keypoint(samples):
    view = next(v for v in browse.view_samples(samples, 8, 5, KINDS, 4, PenaltyOptions()) if len(v.boxes))
    for name in KINDS:
        picture = browse.draw_cells(view, name, 0)
        assert picture.shape == (browse.PANEL, browse.PANEL, 3)
        assert has(picture, GREEN) and has(picture, CYAN) and has(picture, ORANGE)


@pytest.mark.parametrize("kinds", [KINDS, ()])
def test_sheet(samples, kinds):
    views = browse.view_samples(samples, 3, 5, kinds, 4, PenaltyOptions())
    views[1] = views[1]._replace(boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64), radii=np.zeros(0))
    if kinds:
        views[1] = views[1]._replace(
            targets={k: t._replace(cells=t.cells[:0], offsets=t.offsets[:0]) for k, t in views[1].targets.items()}
        )
    sheet = browse.contact_sheet(views, samples.index)
    one = browse.contact_sheet(views[:1], samples.index)
    assert one.shape[0] < sheet.shape[0] and sheet.shape[1] > 2 * one.shape[1]
    assert sheet.dtype == np.uint8


def test_command(config, tmp_path, capsys):
    output = tmp_path / "out"
    assert browse.main([config, "--n", "3", "--output", str(output), "augment.mirror=0"]) == 0
    printed = capsys.readouterr().out
    values = json.loads((output / "statistics.json").read_text())
    assert (output / "statistics.txt").read_text() in printed and "samples.png" in printed
    assert cv2.imread(str(output / "samples.png")).shape[0] > 2 * browse.PANEL
    assert values["data_set"]["images"] == 16 == values["samples"]["samples"]
    assert values["samples"]["output_size"] == [24, 24]
    assert set(values["samples"]["shared_cells"]) == {"top_left", "bottom_right"}
    assert values["config"]["augment"]["mirror"] == 0
    assert browse.main([config, "--n", "0", "--samples", "4", "--output", str(tmp_path / "other")]) == 0
    assert [path.name for path in sorted((tmp_path / "other").iterdir())] == ["statistics.json", "statistics.txt"]


def test_bad_input(config, tmp_path, capsys):
    assert browse.main(["no.yaml"]) == 2
    assert browse.main([config, "data.root=nowhere", "--output", str(tmp_path / "a")]) == 2
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert browse.main([config, "--output", str(tmp_path / "file")]) == 2
    assert "--output" in capsys.readouterr().err
    assert browse.main([config, "--n", "17", "--output", str(tmp_path / "b")]) == 0  # goes on in the next epoch
    with pytest.raises(SystemExit):
        browse.main([config, "--n", "-1"])
