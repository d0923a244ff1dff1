"""Options of testing a network: the config's `test:` section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from nnet.families.saccade.options import SaccadeDetectionOptions

Scale = Annotated[PositiveFloat, Field(json_schema_extra={"most": 16})]
Keypoints = Annotated[PositiveInt, Field(json_schema_extra={"most": 10_000})]
Boxes = Annotated[PositiveInt, Field(json_schema_extra={"most": 1_000_000})]

SHOWN_SCORE = 0.3  # score from which a detection, a corner or a center is drawn and judged, by default


@dataclass(frozen=True)
class DetectionOptions:
    """From an image to its detections. The defaults are the single-scale test of CornerNet (Section 4.2)."""

    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = (1.0,)
    """Scales at which the image is tested. The detections of all scales are joined."""
    mirror: bool = True
    """Test the mirrored image as well."""
    resize: Literal["original", "fit"] = "original"
    """original: the image's own resolution, padded with zeros, as published. fit: padded to the proportions of
    data.input_size and resized to it, for networks trained with augment.crop=false."""
    corners: Keypoints = 100
    """Number of best corners of each kind per image (K)."""
    pairs: Boxes = 1000
    """Number of best corner pairs per image. model.detector anchors: number of best boxes per level."""
    score_threshold: Annotated[float, Field(ge=0, le=1)] = 0.05
    """model.detector anchors: boxes with a lower score are dropped before suppression."""
    centers: Keypoints = 70
    """model.detector centernet: number of best centers per image, and as many of its mirror image."""
    center_match: Literal["first", "best"] = "first"
    """model.detector centernet: which of several centers inside its central region gives a box its score. first: the
    first of the image, then of its mirror image, as published. best: the one with the highest score (the paper does not
    say which)."""
    center_scales: Literal["one", "all"] = "one"
    """model.detector centernet: scales whose centers are used. one: only the scale next to 1, as published. all: every
    scale (the paper does not say)."""
    region_divisors: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (3, 5)
    """model.detector centernet: the central region of a box has its sides divided by the first number if the box is
    small, and by the second if it is large (n of CenterNet, Section 3.2)."""
    region_size: NonNegativeFloat = 150.0
    """model.detector centernet: a box is large if its area in pixels of the image is above the square of this."""
    outside: NonNegativeFloat = 0.0
    """Boxes that reach this many pixels of the resized image, or more, outside it are dropped. 0: none are."""
    nms_kernel: Annotated[int, Field(gt=0, json_schema_extra={"most": 255})] = 3
    """Side of the square, in heatmap cells, of which a keypoint is the maximum. Odd."""
    embedding_distance: NonNegativeFloat = 0.5
    """Corners whose embeddings differ by more than this are not paired."""
    edge_pairs: bool = True
    """false: drop pairs whose top-left corner is in the first row or column of heatmap cells, or whose bottom-right
    corner is in the last one. Their objects may reach outside the crop."""
    nms: Literal["hard", "linear", "gaussian"] = "gaussian"
    """Decay of soft-NMS, which runs per class."""
    nms_sigma: Annotated[PositiveFloat, Field(json_schema_extra={"least": 1e-6, "most": 1e6})] = 0.5
    """Width of the decay (nms: gaussian)."""
    nms_overlap: Annotated[float, Field(ge=0, le=1)] = 0.5
    """IoU above which a box is suppressed (nms: hard, linear)."""
    nms_floor: NonNegativeFloat = 0.001
    """Boxes whose score falls below this are dropped."""
    merge: bool = False
    """Replace a kept box by the weighted average of the boxes it suppresses (multi-scale testing)."""
    merge_exponent: PositiveFloat = 10.0
    """The weights of the average are (1 - decay) to this power."""
    detections: Boxes = 100
    """Number of best detections per image, over all classes."""
    as_published: bool = True
    """Keep the stale rows of the released soft-NMS, round results to 2 decimals, and undo the mirror image as released,
    which puts its boxes one pixel too far to the right. false: none of the three."""
    stale_rows: bool = True
    """false: do not keep the stale rows with as_published either. CornerNet-Saccade's release drops them."""
    saccade: SaccadeDetectionOptions = field(default_factory=SaccadeDetectionOptions)
    """model.detector saccade: where it looks."""
    channels_last: bool = False
    """Memory layout of images and features. The results are equal up to rounding."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Autocast type of the network."""
    workers: Annotated[NonNegativeInt, Field(json_schema_extra={"most": 256})] = 2
    """Threads that read, decode and resize images ahead of the network. One more turns its predictions into boxes
    behind it. 0: no threads. The results are the same."""
    batch: Annotated[PositiveInt, Field(json_schema_extra={"most": 10_000})] = 1
    """Images that pass the network together, where their canvases have one size. The results of 2 or more are equal to
    those of single images up to rounding."""

    @property
    def result_decimals(self) -> int | None:
        """Decimals of the boxes and scores of results. None: not rounded."""
        return 2 if self.as_published else None

    def unused(self) -> dict[str, str]:
        """Options without effect beside these others, with the reason."""
        found = {} if self.merge else {"merge_exponent": "test.merge is false"}
        found |= {} if self.as_published else {"stale_rows": "test.as_published is false"}
        other = "nms_overlap" if self.nms == "gaussian" else "nms_sigma"
        return found | {other: f"test.nms is {self.nms}"}

    def __post_init__(self):
        if self.nms_kernel % 2 == 0:
            raise ValueError("nms_kernel", f"must be odd and positive, got {self.nms_kernel}")
