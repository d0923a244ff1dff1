"""Colour augmentation and normalisation."""

import cv2
import numpy as np
import torch

from sample.colour import (
    BRIGHTNESS,
    CONTRAST,
    EIGENVALUES,
    EIGENVECTORS,
    MEAN,
    SATURATION,
    STD,
    ColourDraw,
    draw_colour,
    normalise,
)
from tests.sample.data import golden_crops

KINDS = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION}


def to_batch(draws):
    return ColourDraw(*(torch.from_numpy(np.stack(part)) for part in zip(*draws, strict=True)))


def reference(image, draw):
    """One image (H, W, 3), one step after the other, in float64."""
    x = image.astype(np.float64) / 255
    grey = x @ np.array([0.114, 0.587, 0.299])
    for kind, alpha in zip(draw.order, draw.alphas.astype(np.float64), strict=True):
        other = {BRIGHTNESS: 0.0, CONTRAST: grey.mean(), SATURATION: grey[:, :, None]}[int(kind)]
        x = alpha * x + (1 - alpha) * other
    x = x + np.array(EIGENVECTORS) @ (np.array(EIGENVALUES) * draw.lighting)
    return (x - MEAN) / STD


def test_golden_colour(golden, shared_data):
    expected = np.load(golden("augment.npz"))
    images, draws = [], []
    for draw, make in golden_crops(golden, shared_data):
        images.append(make((511, 511)).image.transpose(2, 0, 1))
        order = np.array([KINDS[name] for name in draw["colour_order"]])
        draws.append(ColourDraw(order, np.float32(draw["colour_alphas"]), np.float32(draw["lighting_alpha"])))
    result = normalise(torch.from_numpy(np.stack(images)), to_batch(draws))
    for n in range(len(images)):
        np.testing.assert_allclose(result[n, :, ::73].permute(1, 2, 0), expected[f"{n}_rows"], rtol=0, atol=1e-5)


def test_every_order_in_one_batch():
    rng = np.random.default_rng(0)
    draws = [draw_colour(rng) for _ in range(40)]
    assert len({tuple(draw.order) for draw in draws}) == 6
    images = [
        cv2.GaussianBlur(rng.integers(0, 256, (24, 31, 3), dtype=np.uint8), (5, 5), 0) // (1 + n % 3) for n in range(40)
    ]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    result = normalise(batch, to_batch(draws))
    assert result.dtype == torch.float32 and result.shape == (40, 3, 24, 31)
    for n in range(40):
        np.testing.assert_allclose(result[n].permute(1, 2, 0), reference(images[n], draws[n]), rtol=0, atol=1e-5)


def test_no_draws_and_neutral_draws():
    images = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)
    expected = (images.permute(0, 2, 3, 1).numpy() / 255 - MEAN) / STD
    np.testing.assert_allclose(normalise(images).permute(0, 2, 3, 1), expected, atol=1e-6)
    neutral = to_batch([draw_colour(np.random.default_rng(n), 0.0, 0.0) for n in range(2)])
    np.testing.assert_allclose(normalise(images, neutral).permute(0, 2, 3, 1), expected, atol=1e-6)


def test_draws():
    rng = np.random.default_rng(0)
    draws = to_batch([draw_colour(rng) for _ in range(2000)])
    assert 0.6 <= draws.alphas.min() < 0.61 and 1.39 < draws.alphas.max() <= 1.4
    assert abs(draws.lighting.std() - 0.1) < 0.005
