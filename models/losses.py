"""The training loss (CornerNet, Section 3): focal on heatmaps, pull and push on embeddings, smooth L1 on offsets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from external.focal_loss import focal_loss
from models.cornernet import Predictions

EPS = 1e-4  # the released code's: clamp of the scores, and what is added to the counts of objects


class KeypointTarget(Protocol):
    """Targets of one kind of keypoint; N objects in all images of the batch together.

    heatmap: (B, classes, h, w), 1 at the keypoints. cells: (N,) y * w + x. offsets: (N, 2) x, y in cells.
    """

    heatmap: Tensor
    cells: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class LossOptions:
    """Exponents and weights of equations 1, 5 and 8: the config's `loss:` section."""

    focal_alpha: NonNegativeFloat = 2.0
    """Exponent of the score in the focal loss (equation 1)."""
    focal_beta: NonNegativeFloat = 4.0
    """Exponent of the penalty reduction around a keypoint (equation 1)."""
    pull: NonNegativeFloat = 0.1
    """Weight of the pull loss (equation 4)."""
    push: NonNegativeFloat = 0.1
    """Weight of the push loss (equation 5)."""
    offset: NonNegativeFloat = 1.0
    """Weight of the offset loss (equation 3)."""
    margin: NonNegativeFloat = 1.0
    """Distance between the embeddings of two objects below which they are pushed apart (Delta in equation 5)."""


class LossTerms(NamedTuple):
    """The weighted total, to be minimised, and its unweighted terms. Scalars."""

    total: Tensor
    focal: Tensor
    pull: Tensor
    push: Tensor
    offset: Tensor


def embedding_loss(
    top_left: Tensor, bottom_right: Tensor, image_index: Tensor, margin: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Pull and push (equations 4 and 5), summed over the images of the batch.

    top_left, bottom_right: (N,) embeddings of the N objects' corners. image_index: (N,) the image of each object.
    As released, push runs over all ordered pairs of an image, the diagonal included, less the diagonal's share: for
    an image with one object that is a constant of about 1.
    """
    mean = (top_left + bottom_right) / 2
    together = image_index[:, None] == image_index[None, :]  # (N, N) in one image
    # Objects in the image of each, (N,). Float32 also for float64 maps, as released; not by bincount, for whose result
    # the host would wait.
    count = together.sum(1, dtype=torch.float32)
    pull = (((top_left - mean) ** 2 + (bottom_right - mean) ** 2) / (count + EPS)).sum()

    distance = (mean[:, None] - mean[None, :]).abs()  # (N, N)
    pair = F.relu(margin - distance) - 1 / (count + EPS)[:, None]
    pair = pair / ((count - 1) * count + EPS)[:, None]
    push = torch.where(together, pair, 0).sum()
    return pull, push


def at_cells(maps: Tensor, image_index: Tensor, cells: Tensor) -> Tensor:
    """Values of maps (B, C, h, w) at the cells (N,) of the images image_index (N,): (N, C)."""
    return maps.flatten(2)[image_index, :, cells]


def stack_loss(
    maps: Predictions, targets: Mapping[str, KeypointTarget], image_index: Tensor, weights: LossWeights
) -> LossTerms:
    """Equation 8 for the predictions of one stack, in float32 at least; nothing the host would wait for.

    Every kind of keypoint adds its heatmap and its offset; the two corners, which have embeddings, are grouped.
    image_index: (N,) the image of each object, in the order of the targets' cells. Raises ValueError where the targets
    are of other kinds of keypoint.
    """
    if maps.keys() != targets.keys():
        raise ValueError(f"the network predicts {', '.join(maps)}, but the targets are of {', '.join(targets)}")
    embeddings, focal, offset = {}, [], []
    objects = torch.tensor(len(image_index), dtype=torch.float32) + EPS
    for name, target in targets.items():
        wide = torch.promote_types(maps[name].heatmap.dtype, torch.float32)
        embedding, offsets = (m if m is None else m.to(wide) for m in maps[name][1:])
        focal.append(focal_loss(maps[name].heatmap, target.heatmap, weights.focal_alpha, weights.focal_beta, EPS))
        predicted = at_cells(offsets, image_index, target.cells)  # (N, 2)
        offset.append(F.smooth_l1_loss(predicted, target.offsets.to(wide), reduction="sum") / objects)
        if embedding is not None:
            embeddings[name] = at_cells(embedding, image_index, target.cells)[:, 0]  # (N,)
    focal, offset = sum(focal), sum(offset)
    pull, push = embedding_loss(**embeddings, image_index=image_index, margin=weights.margin)
    total = focal + weights.pull * pull + weights.push * push + weights.offset * offset
    return LossTerms(total, focal, pull, push, offset)


def detection_loss(
    outputs: Sequence[Predictions],
    targets: Mapping[str, KeypointTarget],
    image_index: Tensor,
    weights: LossWeights = DEFAULT_WEIGHTS,
) -> LossTerms:
    """Equation 8, averaged over the stacks in `outputs`; see stack_loss."""
    stacks = [stack_loss(maps, targets, image_index, weights) for maps in outputs]
    return LossTerms(*(sum(values) / len(stacks) for values in zip(*stacks, strict=True)))
