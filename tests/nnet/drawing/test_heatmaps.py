"""Heatmaps over images; central regions and centers on them."""

import numpy as np

from nnet.drawing.heatmaps import draw_heatmap, draw_regions
from nnet.drawing.images import LEGIBLE_SIDE
from tests.nnet.drawing.images import grey


def test_heatmap_is_bright_where_it_is_high():
    heatmap = np.zeros((2, 32, 32), np.float32)
    heatmap[0, 8, 24], heatmap[1, 24, 8] = 1.0, 0.5
    picture = draw_heatmap(grey(128, 128), heatmap)
    assert picture.shape == (LEGIBLE_SIDE, LEGIBLE_SIDE, 3)
    cell = LEGIBLE_SIDE / 32
    peak, half, none = (
        picture[int((y + 0.5) * cell), int((x + 0.5) * cell)].astype(int) for y, x in ((8, 24), (24, 8), (2, 2))
    )
    assert peak.sum() > half.sum() and half[2] > none[2] + 50  # red rises with the score
    assert len(set(none.tolist())) == 1  # grey without
    assert np.array_equal(picture, draw_heatmap(grey(128, 128), heatmap.max(axis=0)))
    assert draw_heatmap(grey(128, 128), np.full((4, 4), np.nan)).max() < 128


def test_regions_and_centers_lie_where_their_coordinates_say():
    image, factor = grey(60, 120), LEGIBLE_SIDE / 120
    regions, centers = np.array([[20, 10, 60, 40]]), np.array([[40.0, 25.0], [100.0, 50.0]])
    picture = draw_regions(image, np.zeros((4, 4)), regions, [(0, 255, 0)], centers, [(255, 0, 0), (0, 0, 255)])
    assert picture.shape == (240, 480, 3) and (image == 128).all()
    for place, colour in (
        ((40, 10), (0, 255, 0)),
        ((60, 25), (0, 255, 0)),
        (centers[0], (255, 0, 0)),
        (centers[1], (0, 0, 255)),
    ):
        x, y = ((np.array(place) + 0.5) * factor - 0.5).round().astype(int)
        strongest = picture[y - 1 : y + 2, x - 1 : x + 2, np.argmax(colour)].max()
        assert strongest > 200 and picture[y + 12, x + 12].tolist() == [70, 70, 70]  # 0.55 of grey around it


def test_no_regions_and_no_centers():
    nothing = draw_regions(grey(60, 120), np.zeros((4, 4)), np.zeros((0, 4)), [], np.zeros((0, 2)), [])
    assert np.array_equal(nothing, draw_heatmap(grey(60, 120), np.zeros((4, 4))))
