"""Colour augmentation and normalisation of a whole batch, on the device. Channels are in BGR order."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MEAN = (0.40789654, 0.44719302, 0.47026115)
STD = (0.28863828, 0.27408164, 0.27809835)
GREY = (0.114, 0.587, 0.299)  # luma weights (ITU-R BT.601)
# Principal components of the colours of the training images: variances, and directions in the columns.
EIGENVALUES = (0.2141788, 0.01817699, 0.00341571)
EIGENVECTORS = (
    (-0.58752847, -0.69563484, 0.41340352),
    (-0.5832747, 0.00994535, -0.81221408),
    (-0.56089297, 0.71832671, 0.41158938),
)
BRIGHTNESS, CONTRAST, SATURATION = range(3)


class ColourDraw(NamedTuple):
    """Draws of the colour augmentation: arrays (3,) of one image, or tensors (B, 3) of a batch."""

    order: np.ndarray | Tensor  # int64: BRIGHTNESS, CONTRAST and SATURATION in the order of application
    alphas: np.ndarray | Tensor  # float32: weight of the image in the first, second and third blend
    lighting: np.ndarray | Tensor  # float32: shift along each of the three principal components


def draw_colour(rng: np.random.Generator, strength: float = 0.4, lighting: float = 0.1) -> ColourDraw:
    """Draw the colour augmentation of one image."""
    order = rng.permutation(3)
    alphas = 1 + rng.uniform(-strength, strength, 3)
    return ColourDraw(order, alphas.astype(np.float32), rng.normal(0, lighting, 3).astype(np.float32))


def normalise(images: Tensor, draws: ColourDraw | None = None) -> Tensor:
    """Images (B, 3, H, W) uint8 -> the network's float32 input: 0..1, augmented, minus mean, over deviation.

    Brightness blends the image with black, contrast with its mean grey, saturation with its grey. Grey is taken before
    all three. In any order, the result is `keep` x image + `flat` x mean grey + `grey` x grey, with three numbers per
    image. This takes one pass over the pixels, and the host waits for no result. Values are not clamped to 0..1.

    Args:
        draws: of the batch. None: no augmentation.
    """
    x = images.float() / 255
    mean, std, luma_weights, components = _constants(images.device)
    if draws is None:
        return (x - mean) / std

    keep = torch.ones_like(draws.alphas[:, 0])  # (B,)
    flat, grey = torch.zeros_like(keep), torch.zeros_like(keep)
    for kind, alpha in zip(draws.order.unbind(1), draws.alphas.unbind(1), strict=True):
        keep = alpha * keep
        flat = alpha * flat + (1 - alpha) * (kind == CONTRAST)
        grey = alpha * grey + (1 - alpha) * (kind == SATURATION)
    lighting = (components * draws.lighting[:, None]).sum(2)  # (B, 3)

    luma = (x * luma_weights).sum(1, keepdim=True)  # (B, 1, H, W)
    keep, flat, grey = (value.view(-1, 1, 1, 1) for value in (keep, flat, grey))
    shift = flat * luma.mean((2, 3), keepdim=True) + lighting[:, :, None, None] - mean  # (B, 3, 1, 1)
    return (keep * x + grey * luma + shift) / std


@lru_cache
def _constants(device: torch.device) -> tuple[Tensor, ...]:
    """Mean, standard deviation and grey weights (3, 1, 1), and the scaled components (3, 3).

    Cached per device, since a copy to the device makes the host wait.
    """
    components = torch.tensor(EIGENVECTORS) * torch.tensor(EIGENVALUES)
    mean, std, grey = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD, GREY))
    return tuple(value.to(device) for value in (mean, std, grey, components))
