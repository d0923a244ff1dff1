"""How an image lies on the canvas, and the way back to its pixels."""

import numpy as np
import pytest

from nnet.families.placement import boxes_from_cells, paste, place_original, to_canvas
from sample.geometry import mirror

STRIDE = 4


def test_placement_by_hand():
    placement = place_original(100, 301, 0.5, STRIDE, divisor=128)
    assert placement == ((127, 255), (32, 64), (63 - 25, 127 - 75), (50, 150), (0.5, 0.5), False)
    image = np.full((100, 301, 3), 200, np.uint8)
    canvas = paste(image, placement)
    assert canvas.shape == (127, 255, 3)
    assert (canvas[38:88, 52:202] == 200).all() and canvas.astype(int).sum() == 200 * 50 * 150 * 3


def test_an_image_as_large_as_the_canvas_is_pasted_as_a_training_crop_is():
    """The released code halves sizes by integer division: the last row and column are lost."""
    image = np.random.default_rng(0).integers(1, 255, (127, 255, 3), dtype=np.uint8)
    canvas = paste(image, place_original(127, 255, 1.0, STRIDE, divisor=128))
    assert np.array_equal(canvas[:126, :254], image[:126, :254])
    assert not canvas[126].any() and not canvas[:, 254].any()


def test_boxes_return_to_the_image_and_those_of_the_mirror_image_too():
    placement = place_original(100, 301, 0.5, STRIDE, divisor=128)
    cells = 64  # across the canvas of 255 pixels
    box = np.array([20.0, 12.0, 40.0, 20.0])
    mirrored = [cells - box[2], box[1], cells - box[0], box[3]]
    boxes = np.array([[box], [mirrored]], np.float32)
    found, far = boxes_from_cells(boxes, placement)
    expected = [(20 * 255 / 64 - 52) / 0.5, (12 * 127 / 32 - 38) / 0.5, (40 * 255 / 64 - 52) / 0.5]
    expected.append((20 * 127 / 32 - 38) / 0.5)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)
    assert boxes[0, 0, 0] == 20  # the argument is unchanged
    assert far.tolist() == [False, False]


@pytest.mark.parametrize("exact, shift", [(False, 1 / 0.5), (True, 0)])
def test_what_training_mirrors_comes_back_as_the_options_say(exact, shift):
    """The released test puts the boxes of the mirror image one pixel of the canvas too far to the right."""
    placement = place_original(100, 301, 0.5, STRIDE, divisor=128)._replace(exact_mirror=exact)
    box = np.array([[40.0, 20.0, 111.5, 90.25]])
    canvas = to_canvas(box, placement)
    views = np.stack([canvas, mirror(np.zeros((127, 255, 3), np.uint8), canvas)[1]])
    cells = views * np.tile([64 / 255, 32 / 127], 2)
    found, _ = boxes_from_cells(cells.astype(np.float32), placement)
    np.testing.assert_allclose(found[0], box[0], rtol=1e-4)
    np.testing.assert_allclose(found[1], box[0] + [shift, 0, shift, 0], rtol=1e-4)


def test_boxes_are_clipped_to_the_image():
    placement = place_original(100, 301, 0.5, STRIDE, divisor=128)
    found, _ = boxes_from_cells(np.array([[[-5, -5, 99, 99]]], np.float32), placement)
    np.testing.assert_allclose(found[0], [0, 0, 300, 100])


def test_boxes_on_the_canvas():
    placement = place_original(100, 301, 0.5, STRIDE, divisor=128)  # borders of 38 and 52 pixels
    assert to_canvas(np.array([[0.0, 10, 300, 100]]), placement).tolist() == [[52, 43, 202, 88]]


def test_the_stride_of_the_network_gives_the_cells():
    assert place_original(100, 301, 0.5, 8, divisor=128).cells == (16, 32)
