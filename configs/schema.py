"""The options of an experiment: their names, types, defaults and meaning.

This file is the reference manual. The defaults are the paper's Hourglass-104 run (Law & Deng, IJCV 2019, sections 3 and
4.1) as its released code trained and tested it; a YAML file in this folder says what its experiment does differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Model:
    # What gives features to the predictions. hourglass: CornerNet's. The others are feature pyramids on torchvision's
    # ResNets, trained from scratch, of which the finest level (stride 4) is used; they have one stack and widths[0]
    # channels, and stem_width, the other widths and blocks do not apply.
    backbone: Literal["hourglass", "resnet101_fpn", "resnet18_fpn"] = "hourglass"
    # What is predicted. keypoints: corners, and centers. anchors: RetinaNet's boxes, by torchvision, at strides 8 and
    # up of every hourglass; pool_width, corner_pooling, penalty and loss do not apply then, and of test: neither
    # corners, centers, center_match, nms_kernel nor embedding_distance.
    head: Literal["keypoints", "anchors"] = "keypoints"
    stacks: int = 2  # hourglasses one after the other: 2 is Hourglass-104, 1 is Hourglass-52
    stem_width: int = 128  # channels of the 7x7 stride-2 convolution; the stride-2 block behind it has widths[0]
    widths: list[int] = field(default_factory=lambda: [256, 256, 384, 384, 384, 512])  # channels, outer level first
    blocks: list[int] = field(default_factory=lambda: [2, 2, 2, 2, 2, 4])  # residual blocks per level of widths
    pool_width: int = 128  # channels of the two corner-pooled branches of a prediction module
    corner_pooling: bool = True  # False: the two branches are summed unpooled (the paper's table on corner pooling)
    # CenterNet's three parts (Duan et al., ICCV 2019); with none of them the network is CornerNet.
    center_keypoints: bool = False  # central region exploration: predict centers; a box needs one of its class inside
    center_pooling: bool = False  # centers see the maxima of their row and column
    cascade_corner_pooling: bool = False  # corners look inside the object before they look along its boundary
    bn_init: Literal["uniform", "ones"] = "uniform"  # BatchNorm weights: U(0, 1), PyTorch's default in 2018, or 1


@dataclass(frozen=True)
class Split:
    images: list[str]  # folders, relative to data.root, searched in this order
    annotations: list[str]  # COCO-format JSON files, relative to data.root; several are joined
    limit: int = 0  # use the first so many images; 0 = all


@dataclass(frozen=True)
class Data:
    root: str = "data/coco"  # folder; relative paths start where the command is run
    input_size: list[int] = field(default_factory=lambda: [511, 511])  # [height, width] of training images, pixels
    train: Split = field(default_factory=lambda: Split(["train2017"], ["annotations/instances_train2017.json"]))
    val: Split = field(default_factory=lambda: Split(["val2017"], ["annotations/instances_val2017.json"]))
    test: Split | None = field(  # images without annotations, or null: none
        default_factory=lambda: Split(["test2017"], ["annotations/image_info_test-dev2017.json"])
    )


@dataclass(frozen=True)
class Augment:
    crop: bool = True  # random square crop; False: the whole image padded to a centred square, then resized
    # Crop side / input side. Counted up from 0.6 as in the released code, 1 comes out just below: 510 of 511 pixels.
    scales: list[float] = field(default_factory=lambda: np.arange(0.6, 1.4, 0.1).tolist())
    border: int = 128  # pixels: how near the image's edge the centre of a crop may come (halved for small images)
    mirror: float = 0.5  # probability of a left-right flip
    colour: float = 0.4  # brightness, contrast and saturation change by factors of 1 +- this; 0 = off
    lighting: float = 0.1  # standard deviation of the PCA lighting noise; 0 = off


@dataclass(frozen=True)
class Penalty:
    kind: Literal["object", "fixed", "none"] = "object"  # Gaussian around a corner: radius by object, fixed, one-hot
    overlap: float = 0.3  # IoU that a pair of corners inside the radius keeps with the object (kind: object)
    radius: float = 2.5  # heatmap cells (kind: fixed)
    rule: Literal["cornernet", "centernet"] = "cornernet"  # whose released formula for the radius
    center_divisor: float = 5.0  # a center's Gaussian has sigma = (2 radius + 1) / this; a corner's has 6


@dataclass(frozen=True)
class Loss:
    focal_alpha: float = 2.0  # focal exponent of the score (equation 1)
    focal_beta: float = 4.0  # exponent of the penalty reduction around a corner (equation 1)
    pull: float = 0.1  # weight of equation 4
    push: float = 0.1  # weight of equation 5
    offset: float = 1.0  # weight of equation 3
    margin: float = 1.0  # embedding distance up to which two objects push each other apart (Delta, equation 5)


@dataclass(frozen=True)
class Train:
    # Micro-batches of one iteration, in images. They are dealt over the processes there are (several on one are
    # accumulated). Each has its own BatchNorm statistics and loss normalisation, so that one GPU computes what the
    # paper's ten do.
    batch: list[int] = field(default_factory=lambda: [4, 5, 5, 5, 5, 5, 5, 5, 5, 5])
    iterations: int = 500_000  # optimiser steps
    lr: float = 2.5e-4  # Adam's learning rate, no weight decay
    lr_drops: list[int] = field(default_factory=lambda: [450_000])  # iterations at which lr is multiplied by lr_factor
    lr_factor: float = 0.1
    warmup: int = 0  # iterations over which lr rises linearly from 0; 0 = none, as published
    workers: int = 4  # data loading processes per training process; 0 = load in the training process
    worker_timeout: int = 50  # seconds without a batch after which the run ends with an error
    log_every: int = 10  # iterations between lines of metrics
    validate_every: int = 500  # iterations between validation losses; 0 = never
    validate_images: int = 64  # images a validation loss is taken over; 0 = the whole split
    ap_every: int = 0  # iterations between validation APs, each with a snapshot; 0 = never (test.py measures it)
    snapshot_every: int = 5000  # iterations between snapshots; 0 = at the end alone
    keep: int = 2  # newest snapshots that are kept
    keep_every: int = 0  # snapshots of multiples of this iteration are kept as well; 0 = none
    # What to do when loss or gradient is not finite: end the run, or skip the step.
    nan: Literal["stop", "skip"] = "stop"
    device: Literal["auto", "cpu", "cuda"] = "auto"  # also of test.py; auto: CUDA where there is one
    threads: int = 0  # CPU threads of PyTorch, also in test.py; 0 = PyTorch's choice
    # Speed and memory; the published run used none of them.
    channels_last: bool = False  # memory layout of images and features; same results up to rounding
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the network (autocast); the loss has float32
    tf32: bool = False  # on CUDA: float32 convolutions and products with 10 bits of mantissa
    compile: bool = False  # torch.compile: a faster network after some minutes of compiling
    checkpointing: bool = False  # blocks compute their activations again in the backward pass: less memory, slower
    fused_adam: bool = False  # one kernel for the optimiser's step
    sync_batch_norm: bool = False  # on CUDA: BatchNorm statistics over all processes' micro-batches, not each its own
    collective_timeout: int = 600  # seconds without an answer or progress of another process that end the run


@dataclass(frozen=True)
class Test:
    scales: list[float] = field(default_factory=lambda: [1.0])  # the image is tested at each, results are joined
    mirror: bool = True  # test the mirrored image as well
    # original: the image's own resolution, padded with zeros, as published; fit: padded to a centred square and
    # resized to data.input_size, for networks trained with augment.crop off.
    resize: Literal["original", "fit"] = "original"
    corners: int = 100  # best corners of each kind per image (K)
    pairs: int = 1000  # best corner pairs per image; with anchors, best boxes per level
    score_threshold: float = 0.05  # boxes of a lower score are dropped before suppression (model.head: anchors)
    centers: int = 70  # best centers per image (and as many of its mirror image), where the network predicts them
    # The center whose score a box takes. first: of those inside, the first of the image, else of its mirror image, as
    # published; best: the one of the highest score (the paper does not say which).
    center_match: Literal["first", "best"] = "first"
    # one: centers of the scale next to 1 alone, as published; all: of every scale (the paper does not say).
    center_scales: Literal["one", "all"] = "one"
    outside: float = 0.0  # pixels; boxes that reach as far outside the (resized) image are dropped; 0 = none are
    nms_kernel: int = 3  # heatmap cells: a corner is the maximum of a square of this side; odd
    embedding_distance: float = 0.5  # corners whose embeddings differ by more are no pair
    nms: Literal["hard", "linear", "gaussian"] = "gaussian"  # soft-NMS per class
    nms_sigma: float = 0.5  # nms: gaussian
    nms_overlap: float = 0.5  # IoU above which a box is suppressed (nms: hard, linear)
    nms_floor: float = 0.001  # boxes whose score falls below are dropped
    merge: bool = False  # a kept box becomes the weighted average of those it suppresses (multi-scale testing)
    merge_exponent: float = 10.0  # weights are (1 - decay) to this power
    detections: int = 100  # best detections per image, over all classes
    as_published: bool = True  # keep soft-NMS's stale rows and round to 2 decimals; False: do neither
    # Speed and memory; the published figures used neither.
    channels_last: bool = False  # memory layout of images and features; same results up to rounding
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the network (autocast)


@dataclass(frozen=True)
class Config:
    seed: int = 0  # of initial weights, sampling and augmentation
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    penalty: Penalty = field(default_factory=Penalty)
    loss: Loss = field(default_factory=Loss)
    train: Train = field(default_factory=Train)
    test: Test = field(default_factory=Test)


def check_values(config: Config, fail: Callable[[str, str], None]) -> None:
    """Check what types cannot say; fail(dotted key, what is wrong), which raises, is called for the first bad value."""

    def require(key: str, rule: Callable[[float], bool], text: str) -> None:
        value = config
        for name in key.split("."):
            value = getattr(value, name)
        for x in value if isinstance(value, list) else [value]:
            if not rule(x):
                fail(key, f"{text}, got {value}")

    def filled(key: str, values: list) -> None:
        if not values:
            fail(key, "expected at least one value, got []")

    model, data, train = config.model, config.data, config.train
    for key, values in [
        ("train.batch", train.batch),
        ("augment.scales", config.augment.scales),
        ("test.scales", config.test.scales),
    ]:
        filled(key, values)
    for name in ("train", "val", "test"):
        split = getattr(data, name)
        if split is not None:
            filled(f"data.{name}.images", split.images)
            filled(f"data.{name}.annotations", split.annotations)
            require(f"data.{name}.limit", lambda x: x >= 0, "must be 0 (all images) or more")
    if len(model.widths) < 2:
        fail("model.widths", f"an hourglass has at least 2 levels, got {model.widths}")
    if len(model.blocks) != len(model.widths):
        counts = f"model.widths has {len(model.widths)}, this {len(model.blocks)}"
        fail("model.blocks", f"needs one number per level of model.widths: {counts}")
    if model.backbone != "hourglass" and model.stacks != 1:
        fail("model.stacks", f"model.backbone {model.backbone} has one stack, got {model.stacks}")
    if model.head == "anchors" and model.backbone != "hourglass":
        fail("model.head", f"anchors need model.backbone hourglass, got {model.backbone}")
    if model.head == "anchors" and (model.center_keypoints or model.cascade_corner_pooling):
        fail("model.head", "anchors go with neither model.center_keypoints nor model.cascade_corner_pooling")
    if model.center_pooling and not model.center_keypoints:
        fail("model.center_pooling", "pools for center keypoints: needs model.center_keypoints, or be false")
    if model.cascade_corner_pooling and not model.corner_pooling:
        fail("model.cascade_corner_pooling", "is a kind of corner pooling: needs model.corner_pooling, or be false")
    if len(data.input_size) != 2:
        fail("data.input_size", f"expected two values, [height, width], got {data.input_size}")
    require("data.input_size", lambda x: x >= 16, "must be at least 16 pixels")
    if train.lr_drops != sorted(set(train.lr_drops)):
        fail("train.lr_drops", f"must be in rising order, got {train.lr_drops}")
    require("seed", lambda x: 0 <= x < 2**32, "must be from 0 to 2^32 - 1")
    require("test.nms_kernel", lambda x: x > 0 and x % 2 == 1, "must be odd and positive")
    require("penalty.center_divisor", lambda x: x > 0, "must be above 0")
    require("test.centers", lambda x: x > 0, "must be above 0")
    require("test.outside", lambda x: x >= 0, "must be 0 (no limit) or more")
    require("train.lr_factor", lambda x: 0 < x <= 1, "must be above 0, at most 1")
    require("penalty.overlap", lambda x: 0 < x < 1, "must lie between 0 and 1")
    for key in ("augment.mirror", "augment.colour", "test.nms_overlap", "test.score_threshold"):
        require(key, lambda x: 0 <= x <= 1, "must be from 0 to 1")
    above_zero = """
        model.stacks model.stem_width model.widths model.blocks model.pool_width
        augment.scales
        train.batch train.iterations train.lr train.lr_drops
        train.worker_timeout train.log_every train.keep train.collective_timeout
        test.scales test.corners test.pairs test.nms_sigma test.merge_exponent test.detections
    """
    zero_or_more = """
        augment.border augment.lighting penalty.radius
        loss.focal_alpha loss.focal_beta loss.pull loss.push loss.offset loss.margin
        train.warmup train.workers train.threads
        train.validate_every train.validate_images train.ap_every train.snapshot_every train.keep_every
        test.embedding_distance test.nms_floor
    """
    for key in above_zero.split():
        require(key, lambda x: x > 0, "must be above 0")
    for key in zero_or_more.split():
        require(key, lambda x: x >= 0, "must be 0 or more")
