"""torchvision's FCOS, RetinaNet and Faster R-CNN as a family of detectors.

Networks, losses, sampling and post-processing are torchvision's. Images and boxes come from this repository's sampler,
and detections go to its evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from models.decode import Detections
from models.layers import torchvision
from nnet.families.base import REJECTED, Candidates, Family, View, candidates_from_cells, to_host
from nnet.families.options import DetectionOptions
from nnet.training.step import Objective, UpdateStep
from sample.colour import normalise
from sample.dataset import Batch

DETECTIONS = 100  # per image
SCORE = 0.01  # score below which a box is dropped. torchvision's 0.05 and 0.2 (FCOS) cut off the tail that AP measures
ANCHOR_SHARE = 1 / 16  # side of the smallest anchors as a share of the input's, as 32 pixels are of 512
ROI_SHARE = 224 / 512  # side of a box that is pooled from the level of stride 16, likewise
POOLED = 7  # cells of a pooled box along each side
GROUPS = 32  # of GroupNorm in the heads of FCOS and RetinaNet, torchvision's number
LEVELS = 5
# The last part of each backbone at strides 4, 8, 16 and 32, and its channels
STAGES = {
    "resnet18": [("layer1", 64), ("layer2", 128), ("layer3", 256), ("layer4", 512)],
    "mobilenet_v3_large": [("3", 24), ("6", 40), ("12", 112), ("16", 960)],
}
RATIOS = (0.5, 1.0, 2.0)  # height / width of anchors


@dataclass(frozen=True)
class PeerSettings:
    """What a peer leaves to its user. `peer.NAME=VALUE` on the command line changes it for all peers."""

    lr: PositiveFloat
    """Learning rate. Its schedule is that of the config."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with a momentum of 0.9."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay."""
    backbone: Literal["resnet18", "mobilenet_v3_large"] = "resnet18"
    """torchvision's network below the feature pyramid."""
    width: Annotated[int, Field(ge=2 * GROUPS, multiple_of=GROUPS)] = 128
    """Channels of the feature pyramid and of the heads on it. GroupNorm needs two per group."""
    finest: Literal[4, 8] = 8
    """Stride of the finest of the five levels of the pyramid."""


class PeerTerms(NamedTuple):
    """The sum of torchvision's losses."""

    loss: Tensor


class Peer(Family):
    """A detector of torchvision. Its network maps a list of images (3, H, W) and, in training, targets to losses or
    detections.

    `propose` passes the detections on as they are: with the options of `detection_options`, no second suppression
    follows.
    """

    Terms = PeerTerms

    def __init__(self, network: nn.Module, classes: int, finest: int, first_label: int = 0):
        """first_label: torchvision's number of the first class."""
        network.transform.resize = as_given
        # What KeypointNetwork states. The canvas of a whole image is a multiple of the divisor, less one.
        network.stride, network.divisor, network.keypoints, network.recomputed = finest, 32, (), ()
        self.network = network
        self.classes = classes
        self.first_label = first_label

    def loss(
        self,
        outputs: Sequence[Mapping[str, Tensor]],
        batch: Batch,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> PeerTerms:
        """outputs: torchvision's losses by name."""
        return PeerTerms(torch.stack([sum(losses.values()) for losses in outputs]))

    def truth(self, batch: Batch) -> list[dict[str, Tensor]]:
        """The objects of each image, as torchvision takes them."""
        boxes, labels, image_index = batch.objects
        boxes = boxes.float()
        seen = (boxes[:, 2:] > boxes[:, :2]).all(1)  # a sliver may lose its width in float32
        own = [seen & (image_index == i) for i in range(len(batch.images))]
        return [{"boxes": boxes[mine], "labels": labels[mine] + self.first_label} for mine in own]

    def predict(self, images: Tensor, mirror: bool, **how: Any) -> Detections:
        """Detections (B, DETECTIONS) in pixels of the canvas. Rows beyond those found have the score REJECTED."""
        assert not mirror
        found = self.network(list(normalise(images)))
        boxes = images.new_zeros((len(images), DETECTIONS, 4), dtype=torch.float32)
        scores, labels = torch.full_like(boxes[..., 0], REJECTED), torch.zeros_like(boxes[..., 0], dtype=torch.int64)
        for i, own in enumerate(found):
            count = len(own["scores"])
            boxes[i, :count], scores[i, :count] = own["boxes"], own["scores"]
            labels[i, :count] = own["labels"] - self.first_label
        return Detections(boxes, scores, labels, None)

    def propose(self, views: Iterator[View], options: DetectionOptions) -> Candidates:
        return Candidates.join([self.boxes(view) for view in views])

    def boxes(self, view: View) -> Candidates:
        """The detections of one view in pixels of the image."""
        found = to_host(view.maps)
        height, width = (c / n for c, n in zip(view.placement.cells, view.placement.canvas, strict=True))
        boxes = found.boxes * np.array([width, height] * 2, found.boxes.dtype)  # pixels of the canvas -> cells
        return candidates_from_cells(found._replace(boxes=boxes), view.placement)


class PeerObjective(Objective):
    """The loss of a peer, whose network itself compares its predictions with the objects."""

    def __call__(self, network: nn.Module, batch: Batch) -> PeerTerms:
        images = normalise(batch.images.contiguous(memory_format=self.memory_format), batch.colour)
        with self.autocast():
            losses = network(list(images), self.family.truth(batch))
        return self.family.loss([losses], batch)


def as_given(image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
    """In place of torchvision's resizing: the image has the size of the input already."""
    return image, target


def detection_options(options: DetectionOptions) -> DetectionOptions:
    """The options with which a Detector adds nothing to torchvision's post-processing.

    Boxes are placed as `options` say. A suppression above an IoU of 1 suppresses nothing.
    """
    passed = {"nms": "hard", "nms_overlap": 1.0, "nms_floor": 0.0, "merge": False, "detections": DETECTIONS}
    return replace(options, scales=(1.0,), mirror=False, as_published=False, **passed)


def adopt(update: UpdateStep, settings: PeerSettings) -> None:
    """Give the update step of a peer its objective and optimiser."""
    kinds = {"adamw": torch.optim.AdamW, "sgd": partial(torch.optim.SGD, momentum=0.9)}
    given = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": update.fused or None}
    update.optimizer = kinds[settings.optimizer](update.network.parameters(), **given)
    update.objective = PeerObjective(*update.objective)


def backbone(settings: PeerSettings) -> nn.Module:
    """ResNet-18 or MobileNetV3-Large with BatchNorm and a pyramid of five levels, all from scratch and all trained.

    From stride 8, the last two levels are strided convolutions as in torchvision's RetinaNet and FCOS. From stride 4,
    the last one is a subsampled copy as in its Faster R-CNN.
    """
    utils = torchvision("models.detection.backbone_utils")
    pyramid = torchvision("ops.feature_pyramid_network")
    width, stages = settings.width, STAGES[settings.backbone]
    # torchvision's MobileNetV3 has a momentum of 0.01, whose running statistics lag behind a short training.
    net = getattr(torchvision("models"), settings.backbone)(weights=None, norm_layer=nn.BatchNorm2d)
    if settings.finest == 8:
        stages, extra = stages[1:], pyramid.LastLevelP6P7(width, width)
    else:
        extra = pyramid.LastLevelMaxPool()
    names = {name: str(level) for level, (name, _) in enumerate(stages)}
    channels = [count for _, count in stages]
    return utils.BackboneWithFPN(getattr(net, "features", net), names, channels, width, extra_blocks=extra)


def anchors(sizes: Sequence[Sequence[float]], ratios: Sequence[float]) -> nn.Module:
    """Anchors of these sides in pixels at each level."""
    generator = torchvision("models.detection.anchor_utils").AnchorGenerator
    return generator(tuple(map(tuple, sizes)), (tuple(ratios),) * LEVELS)


def sides(input_size: tuple[int, int], per_level: int) -> list[list[int]]:
    """Sides of the anchors of each level, which double from level to level."""
    first = ANCHOR_SHARE * max(input_size)
    return [[round(first * 2 ** (level + part / per_level)) for part in range(per_level)] for level in range(LEVELS)]


def common(prefix: str = "") -> dict[str, Any]:
    """Arguments that all three networks have. The images are normalised before."""
    return {
        "image_mean": [0.0] * 3,
        "image_std": [1.0] * 3,
        f"{prefix}score_thresh": SCORE,
        f"{prefix}detections_per_img": DETECTIONS,
    }


def fcos(classes: int, input_size: tuple[int, int], settings: PeerSettings) -> Peer:
    """FCOS. Its reference boxes have the size of the stride of their level."""
    grid = anchors([[settings.finest * 2**level] for level in range(LEVELS)], [1.0])
    network = torchvision("models.detection").FCOS(backbone(settings), classes, anchor_generator=grid, **common())
    return Peer(network, classes, settings.finest)


def retinanet(classes: int, input_size: tuple[int, int], settings: PeerSettings) -> Peer:
    """RetinaNet with nine anchors per cell, and GroupNorm in the heads as in torchvision's second version of it."""
    priors = anchors(sides(input_size, 3), RATIOS)
    heads = torchvision("models.detection.retinanet").RetinaNetHead
    head = heads(settings.width, 3 * len(RATIOS), classes, norm_layer=partial(nn.GroupNorm, GROUPS))
    model = torchvision("models.detection").RetinaNet
    network = model(backbone(settings), classes, anchor_generator=priors, head=head, **common())
    return Peer(network, classes, settings.finest)


def faster_rcnn(classes: int, input_size: tuple[int, int], settings: PeerSettings) -> Peer:
    """Faster R-CNN. Class 0 is the background.

    There are fewer proposals than for images of 800 pixels: 128 instead of 512 are trained on, and 300 instead of 1000
    are classified. The layers that classify them are as wide as torchvision's for a pyramid of 256 channels, and
    narrower in proportion for others.
    """
    trunk, hidden = backbone(settings), 4 * settings.width
    parts = torchvision("models.detection.faster_rcnn")
    levels = [str(level) for level in range(4 if settings.finest == 4 else 3)]
    pool = torchvision("ops").MultiScaleRoIAlign(levels, POOLED, 2, canonical_scale=round(ROI_SHARE * max(input_size)))
    network = parts.FasterRCNN(
        trunk,
        box_head=parts.TwoMLPHead(settings.width * POOLED**2, hidden),
        box_predictor=parts.FastRCNNPredictor(hidden, classes + 1),
        rpn_anchor_generator=anchors(sides(input_size, 1), RATIOS),
        box_roi_pool=pool,
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=500,
        rpn_post_nms_top_n_test=300,
        box_batch_size_per_image=128,
        **common("box_"),
    )
    return Peer(network, classes, settings.finest, first_label=1)


PEERS = {"fcos": fcos, "retinanet": retinanet, "faster_rcnn": faster_rcnn}
SETTINGS = {
    "fcos": PeerSettings(lr=1e-3),
    "retinanet": PeerSettings(lr=1e-3, width=64, finest=4),  # finer cells and narrower heads cost the same
    "faster_rcnn": PeerSettings(lr=5e-4, finest=4),
}
