"""The training loss (CornerNet, Section 3): focal on heatmaps, pull and push on embeddings, smooth L1 on offsets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from pydantic import NonNegativeFloat
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from external.focal_loss import focal_loss
from models.keypoints import Predictions

EVERY = slice(None)
PAIRS_AT_ONCE = 2**22  # of objects, in the push loss: bounds its memory to about 150 MB
EPS = 1e-4  # as released: the clamp of the scores, and the term added to the counts of objects


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
    attention: NonNegativeFloat = 1.0
    """model.detector saccade: weight of the attention loss."""
    attention_twice_averaged: bool = True
    """model.detector saccade: divide the attention loss by the number of stacks once more than the other terms, as the
    released code does. false: average it over the stacks as the others."""


class LossTerms(NamedTuple):
    """The loss to minimise, and its unweighted terms. The names are those of the log.

    Scalars from `stack_loss`; (stacks,) from the loss of a family.

    To add a term, add a field here and compute it in `stack_loss`.
    """

    loss: Tensor
    focal: Tensor
    pull: Tensor
    push: Tensor
    offset: Tensor


def embedding_loss(
    top_left: Tensor, bottom_right: Tensor, image_index: Tensor, margin: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Pull and push (equations 4 and 5), summed over the images of the batch.

    As released, push sums over all ordered pairs of an image, including each object with itself, and subtracts 1 / n
    from each pair to cancel the latter. For an image with one object and margin 1 it is a constant of about 1.

    Args:
        top_left, bottom_right: (N,) embeddings of the corners of the N objects.
        image_index: (N,) image of each object.
    """
    mean = (top_left + bottom_right) / 2
    # Number of objects in the image of each object, (N,). Of PyTorch's default type: float32 even for float64 maps, as
    # released. bincount would make the host wait for its result.
    ordered = image_index.sort().values
    first, after = (torch.searchsorted(ordered, image_index, right=right) for right in (False, True))
    count = (after - first).to(torch.get_default_dtype())
    pull = (((top_left - mean) ** 2 + (bottom_right - mean) ** 2) / (count + EPS)).sum()
    if len(mean) ** 2 <= PAIRS_AT_ONCE:
        return pull, push_of(mean, image_index, count, margin)
    return pull, PushInParts.apply(mean, image_index, count, margin)


class PushInParts(torch.autograd.Function):
    """`push_of` all objects, in parts of at most PAIRS_AT_ONCE pairs (or one object).

    The pairs of a part are computed again in the backward pass, so that none are kept. Equal up to rounding.
    """

    @staticmethod
    def forward(ctx, mean: Tensor, image_index: Tensor, count: Tensor, margin: float) -> Tensor:
        ctx.save_for_backward(mean, image_index, count)
        ctx.margin = margin
        total = mean.new_zeros(())
        for part in PushInParts.parts(len(mean)):
            total += push_of(mean, image_index, count, margin, part)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None, None]:
        mean, image_index, count = ctx.saved_tensors
        total = torch.zeros_like(mean)
        for part in PushInParts.parts(len(mean)):
            with torch.enable_grad():
                own = mean.detach().requires_grad_()
                total += torch.autograd.grad(push_of(own, image_index, count, ctx.margin, part), own)[0]
        return grad * total, None, None, None

    @staticmethod
    def parts(objects: int) -> list[slice]:
        rows = max(1, PAIRS_AT_ONCE // objects)
        return [slice(first, first + rows) for first in range(0, objects, rows)]


def push_of(mean: Tensor, image_index: Tensor, count: Tensor, margin: float, part: slice = EVERY) -> Tensor:
    """The push loss of the pairs whose first object is in `part`, n of the N objects.

    mean: (N,) mean embeddings. count: (N,) number of objects in the image of each object.
    """
    together = image_index[part, None] == image_index[None, :]  # (n, N): in the same image
    distance = (mean[part, None] - mean[None, :]).abs()  # (n, N)
    pair = F.relu(margin - distance) - 1 / (count[part] + EPS)[:, None]
    pair = pair / ((count[part] - 1) * count[part] + EPS)[:, None]
    return torch.where(together, pair, 0).sum()


def at_cells(maps: Tensor, image_index: Tensor, cells: Tensor) -> Tensor:
    """Values of maps (B, C, h, w) at the cells (N,) of the images image_index (N,): (N, C)."""
    return maps.flatten(2)[image_index, :, cells]


def stack_loss(
    maps: Predictions, targets: Mapping[str, KeypointTarget], image_index: Tensor, weights: LossOptions
) -> LossTerms:
    """Equation 8 for the predictions of one stack, in float32 or wider. No value is copied from the device, so the CPU
    does not wait.

    Every kind of keypoint adds its heatmap to the focal loss and its offset to the offset loss. The focal loss of a
    kind is divided by its number of positive cells in the micro-batch (external/focal_loss), the offset loss by the
    number of objects. The two kinds that have embeddings are grouped.

    Args:
        image_index: (N,) image of each object, in the order of the targets' cells.

    Raises:
        ValueError: the targets are of other kinds of keypoint than the predictions.
    """
    if maps.keys() != targets.keys():
        raise ValueError(f"the network predicts {', '.join(maps)}, but the targets are of {', '.join(targets)}")
    embeddings, focal, offset = [], [], []
    objects = torch.tensor(float(len(image_index))) + EPS
    for name, target in targets.items():
        wide = torch.promote_types(maps[name].heatmap.dtype, torch.float32)
        embedding, offsets = (m if m is None else m.to(wide) for m in maps[name][1:])
        focal.append(focal_loss(maps[name].heatmap, target.heatmap, weights.focal_alpha, weights.focal_beta, EPS))
        predicted = at_cells(offsets, image_index, target.cells)  # (N, 2)
        offset.append(F.smooth_l1_loss(predicted, target.offsets.to(wide), reduction="sum") / objects)
        if embedding is not None:
            embeddings.append(at_cells(embedding, image_index, target.cells)[:, 0])  # (N,)
    focal, offset = sum(focal), sum(offset)
    pull, push = embedding_loss(*embeddings, image_index, weights.margin)
    loss = focal + weights.pull * pull + weights.push * push + weights.offset * offset
    return LossTerms(loss, focal, pull, push, offset)


def detection_loss(
    outputs: Sequence[Predictions],
    targets: Mapping[str, KeypointTarget],
    image_index: Tensor,
    weights: LossOptions | None = None,
) -> LossTerms:
    """Equation 8, averaged over the stacks in `outputs`; see stack_loss."""
    stacks = [stack_loss(maps, targets, image_index, weights or LossOptions()) for maps in outputs]
    return LossTerms(*(sum(values) / len(stacks) for values in zip(*stacks, strict=True)))
