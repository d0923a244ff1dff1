"""An anchor box detector on the hourglasses (CornerNet, Section 4.4.4): RetinaNet's heads, anchors, matching and
losses, by torchvision, on the features that the hourglasses make while upsampling.

Boxes are x1, y1, x2, y2 in pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.decode import Detections
from models.hourglass import HourglassOptions, StackedHourglass
from models.layers import ConvBlock, init_batch_norm, torchvision

ANCHORS = 9  # per cell: three sizes of three aspect ratios
FOREGROUND, BACKGROUND = 0.5, 0.4  # IoU of an anchor with an object; anchors in between are ignored by the loss


@dataclass(frozen=True)
class AnchorOptions:
    """RetinaNet's heads on stacked hourglasses: the config's `model:` section with `detector: anchors`."""

    detector: Literal["anchors"] = "anchors"
    """What is built."""
    backbone: HourglassOptions = field(default_factory=HourglassOptions)
    """Network that computes the features: the inner levels of every hourglass, at strides 8 to 128 by default."""
    bn_init: Literal["uniform", "ones"] = "uniform"
    """Initial BatchNorm weights: U(0, 1), which was PyTorch's default in 2018, or 1."""


class AnchorPredictions(NamedTuple):
    """What one stack predicts: per level, finest first, for n = h * w * ANCHORS anchors in the order of `anchors`.

    logits: (B, n, classes).
    deltas: (B, n, 4): the box relative to its anchor, in the encoding of torchvision's BoxCoder.
    """

    logits: list[Tensor]
    deltas: list[Tensor]


class AnchorTerms(NamedTuple):
    """The loss to minimise, and its terms, which have equal weights. Scalars."""

    loss: Tensor
    classification: Tensor
    regression: Tensor


class AnchorNetwork(nn.Module):
    """Hourglasses, and for each of them a convolution block per level and RetinaNet's heads, shared by the levels.

    As in CornerNet, features go through a convolution block before predictions are made from them. It brings all levels
    to the width of the backbone. The attributes are those of KeypointNetwork.
    """

    keypoints = ()

    def __init__(self, backbone: StackedHourglass, widths: Sequence[int], classes: int, bn_init: str = "uniform"):
        """backbone: with pyramid=True. widths: channels of its levels."""
        super().__init__()
        retinanet = torchvision("models.detection.retinanet")
        self.backbone = backbone
        stacks, width = range(backbone.stacks), backbone.width
        self.features = nn.ModuleList(nn.ModuleList(ConvBlock(w, width, 3) for w in widths) for _ in stacks)
        self.heads = nn.ModuleList(retinanet.RetinaNetHead(width, ANCHORS, classes) for _ in stacks)
        self.stride = backbone.stride
        self.divisor = backbone.divisor
        self.recomputed = backbone.recomputed
        init_batch_norm(self, bn_init)

    def forward(self, images: Tensor, every_stack: bool | None = None) -> list[AnchorPredictions]:
        """As KeypointNetwork.forward."""
        stacks = self.backbone(images)
        every_stack = self.training if every_stack is None else every_stack
        return [self.predict(s, stacks[s]) for s in (range(len(stacks)) if every_stack else [len(stacks) - 1])]

    def predict(self, stack: int, levels: Sequence[Tensor]) -> AnchorPredictions:
        """levels: (B, widths[i], h, w) each."""
        found = [self.heads[stack]([f(x)]) for f, x in zip(self.features[stack], levels, strict=True)]
        return AnchorPredictions(
            [level["cls_logits"] for level in found], [level["bbox_regression"] for level in found]
        )


def anchor_network(classes: int, options: AnchorOptions) -> AnchorNetwork:
    """RetinaNet's heads on stacked hourglasses, with fresh weights. Raises MissingPackage without torchvision."""
    backbone = StackedHourglass(options.backbone, pyramid=True)
    return AnchorNetwork(backbone, options.backbone.widths[1:], classes, options.bn_init)


def anchors(size: tuple[int, int], levels: int, finest: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """RetinaNet's anchors for images of this (height, width): per level (h * w * ANCHORS, 4) float32, row by row.

    At stride s their areas are (4 s)^2, (5 s)^2 and (6.3 s)^2, rounded down, with heights of 0.5, 1 and 2 widths. The
    anchors of a cell are centred on a multiple of s, which is the pixel that the strided convolutions centre it on.

    Args:
        levels: number of levels. finest: stride of the first level; each further level doubles it.
    """
    strides = [finest * 2**level for level in range(levels)]
    sizes = tuple(tuple(int(4 * s * 2 ** (third / 3)) for third in range(3)) for s in strides)
    generator = torchvision("models.detection.anchor_utils").AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * levels)
    generator.set_cell_anchors(torch.float32, torch.device(device))
    # Its forward() takes size // cells as the stride, which is too small where the size is not a multiple of the
    # stride.
    return generator.grid_anchors([[-(-n // s) for n in size] for s in strides], [(s, s) for s in strides])


def match(boxes: Tensor, priors: Tensor) -> Tensor:
    """For each anchor (n, 4), the number of the matched object (N, 4), -1 for background, or -2 for ignored: (n,).

    As in RetinaNet, every object is matched at least by the anchors with the highest IoU. There may be no objects.
    """
    if not len(boxes):
        return torch.full((len(priors),), -1, device=priors.device)
    matcher = torchvision("models.detection._utils").Matcher(FOREGROUND, BACKGROUND, allow_low_quality_matches=True)
    return matcher(torchvision("ops").box_iou(boxes, priors))


def box_coder() -> Any:
    """Encodes boxes as deltas relative to anchors, and decodes them."""
    return torchvision("models.detection._utils").BoxCoder((1.0, 1.0, 1.0, 1.0))


def anchor_loss(
    outputs: Sequence[AnchorPredictions],
    boxes: Tensor,
    labels: Tensor,
    image_index: Tensor,
    size: tuple[int, int],
    finest: int,
) -> list[AnchorTerms]:
    """RetinaNet's loss of each stack, in float32: focal on classes, L1 on deltas.

    Both are summed over an image, divided by its number of foreground anchors, and averaged over images.

    Args:
        boxes, labels, image_index: (N, 4), (N,) and (N,), of the objects of all images.
        size: (height, width) of the images. finest: stride of the first level.
    """
    priors = torch.cat(anchors(size, len(outputs[0].logits), finest, boxes.device))
    sigmoid_focal_loss = torchvision("ops").sigmoid_focal_loss
    images = len(outputs[0].logits[0])
    boxes = boxes.float()
    terms = [[0.0, 0.0] for _ in outputs]
    for i in range(images):
        mine = image_index == i
        matched = match(boxes[mine], priors)  # (n,)
        foreground = matched >= 0
        known = matched != -2
        objects = matched[foreground]
        classes, deltas = labels[mine][objects], box_coder().encode_single(boxes[mine][objects], priors[foreground])
        count = max(1, len(objects)) * images
        for stack, maps in enumerate(outputs):
            logits = torch.cat([level[i] for level in maps.logits]).float()  # (n, classes)
            target = torch.zeros_like(logits)
            target[foreground, classes] = 1
            predicted = torch.cat([level[i] for level in maps.deltas]).float()[foreground]
            terms[stack][0] += sigmoid_focal_loss(logits[known], target[known], reduction="sum") / count
            terms[stack][1] += F.l1_loss(predicted, deltas, reduction="sum") / count
    return [AnchorTerms(sum(values), *values) for values in terms]


def decode_anchors(
    maps: AnchorPredictions, size: tuple[int, int], finest: int, k: int = 1000, threshold: float = 0.05
) -> Detections:
    """The k best scores of each level as boxes. Scores below `threshold` are rejected (-1). See Detections.

    Boxes are in pixels of the network's input, of this `size` (height, width). An anchor may give several boxes, of
    different classes.
    """
    found = []
    for logits, deltas, priors in zip(
        maps.logits, maps.deltas, anchors(size, len(maps.logits), finest, maps.logits[0].device), strict=True
    ):
        scores, index = logits.float().sigmoid().flatten(1).topk(min(k, logits[0].numel()))  # (B, m)
        anchor, label = index // logits.shape[-1], index % logits.shape[-1]
        picked = deltas.float().gather(1, anchor[..., None].expand(-1, -1, 4))  # (B, m, 4)
        boxes = box_coder().decode_single(picked.reshape(-1, 4), priors[anchor].reshape(-1, 4)).view_as(picked)
        found.append((boxes, torch.where(scores >= threshold, scores, -1.0), label))
    boxes, scores, labels = (torch.cat(values, 1) for values in zip(*found, strict=True))
    order = scores.argsort(dim=1, descending=True, stable=True)
    boxes = boxes.gather(1, order[..., None].expand_as(boxes))
    return Detections(boxes, scores.gather(1, order), labels.gather(1, order), None)
