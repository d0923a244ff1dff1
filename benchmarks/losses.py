"""Benchmark of the focal loss, compared with a copy of its map and with the published computation in plain PyTorch."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Row, Setting, timed_row
from benchmarks.pools import copying
from benchmarks.training import draw_batch
from external.focal_loss import focal_loss
from sample.targets import Grid, PenaltyOptions, box_targets


def published_focal_loss(logits: Tensor, target: Tensor, alpha: float = 2.0, beta: float = 4.0) -> Tensor:
    """The focal loss as published: positives and negatives are selected and summed separately."""
    score = torch.clamp(torch.sigmoid(logits), 1e-4, 1 - 1e-4)
    positive, negative = target.eq(1), target.lt(1)
    at_positive, at_negative = score[positive], score[negative]
    gain = (torch.log(at_positive) * torch.pow(1 - at_positive, alpha)).sum()
    weight = torch.pow(1 - target[negative], beta)
    penalty = (torch.log(1 - at_negative) * torch.pow(at_negative, alpha) * weight).sum()
    if at_positive.nelement() == 0:
        return -penalty
    return -(gain + penalty) / positive.float().sum()


def draw_maps(setting: Setting) -> tuple[Tensor, Tensor]:
    """Logits and targets of the top-left corners of a batch of 4 images: (4, 80, 128, 128) each."""
    images, classes, side = (1, 5, 32) if setting.small else (4, 80, 128)
    batch = draw_batch(images, (4 * side, 4 * side), classes, np.random.default_rng(0)).to(setting.device)
    grid = Grid(images, classes, (4 * side, 4 * side), (side, side))
    target = box_targets(["top_left"], batch.objects, grid, PenaltyOptions())["top_left"].heatmap
    logits = torch.randn(target.shape, generator=torch.Generator().manual_seed(0)) * 2 - 3
    return logits.to(setting.device).requires_grad_(), target


def focal(setting: Setting) -> Iterator[Row]:
    logits, target = draw_maps(setting)

    def both_ways(loss) -> Tensor:
        return torch.autograd.grad(loss(logits, target), logits)

    others = {"published": lambda: both_ways(published_focal_loss)}
    case = "forward + backward, one map " + "x".join(map(str, target.shape))
    works = (lambda: both_ways(focal_loss)), copying(logits.detach())
    eager = ["published"]  # it selects elements by boolean masks
    yield timed_row(setting, "focal_loss", case, *works, 10.0, others, from_memory=True, eager=eager)
