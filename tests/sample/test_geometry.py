"""Placing images on the network's input."""

import numpy as np
import pytest

import sample.geometry
from sample.geometry import fit_image, place
from tests.sample.data import picture


def test_place():
    image = picture(7, 9)
    window, shift = place(image, 0, 0, (4, 5))
    assert shift == (2, 2)
    assert not window[:2].any() and not window[:, :2].any()
    assert np.array_equal(window[2:, 2:4], image[:2, :2])  # 2 + 2 of the 5 columns: the odd one stays zero
    assert not window[:, 4].any()
    window, shift = place(image, 4, 3, (20, 20))
    assert np.array_equal(window[shift[1] : shift[1] + 7, shift[0] : shift[0] + 9], image)
    assert int(window.sum()) == int(image.sum())
    assert not place(image, 100, -50, (4, 4))[0].any()


@pytest.mark.parametrize("size", [(1, 3000), (3000, 7), (200, 900), (64, 64), (81, 33)])
@pytest.mark.parametrize("input_size", [(64, 64), (47, 96)])
def test_a_long_image_fits_without_its_window(size, input_size, monkeypatch):
    """Equal up to rounding. The window of a 1x60000 image would take 10 GB."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected, lies = fit_image(image, input_size)
    monkeypatch.setattr(sample.geometry, "WINDOW", 0)
    found, also_lies = fit_image(image, input_size)
    assert also_lies == lies
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("input_size", [(64, 64), (48, 96), (100, 40)])
@pytest.mark.parametrize("size", [(50, 80), (81, 33), (1, 1), (64, 64)])
def test_fit_shows_all(size, input_size):
    fitted, lies = fit_image(np.full((*size, 3), 255, np.uint8), input_size)
    assert fitted.shape == (*input_size, 3)
    whole = np.array([[0.0, 0.0, size[1], size[0]]])
    there = lies.boxes_to_input(whole)
    # One axis is filled, up to the pixel that rounding may cost
    assert (there >= 0).all() and (there <= [*input_size[::-1]] * 2).all()
    filled = (there[0, 2:] - there[0, :2]) / input_size[::-1]
    assert filled.max() > 0.97
