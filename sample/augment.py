"""Augmentations: from an annotated image to the network's square input (CornerNet, Section 4.1).

An augmentation is a class: `draw` makes its random choices, and `apply` is deterministic given them, so that a sample
can be made again from its draws. `augmentations` builds the list that a config asks for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import cv2
import numpy as np
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from sample.colour import ColourDraw, draw_colour
from sample.geometry import Size, clip_boxes, fit_image, mirror, place, resize_window
from sample.saccade import LEAST_SHARE, ZoomedCrop, ZoomOptions, areas, cut_crop, draw_crop, scale_boxes, too_small

Scale = Annotated[PositiveFloat, Field(json_schema_extra={"most": 16})]
Unit = Annotated[float, Field(ge=0, le=1)]


class Sample(NamedTuple):
    """An image with its n boxes."""

    image: np.ndarray  # (H, W, 3) uint8, BGR
    boxes: np.ndarray  # (n, 4) float64, x1, y1, x2, y2 in pixels of the image
    labels: np.ndarray  # (n,) int64
    colour: ColourDraw | None = None  # colour augmentation, applied later on the device
    ignored: np.ndarray | None = None  # (n,) bool: objects that are neither to be found nor background; None: none


class Augmentation(ABC):
    """Changes a sample. Called with a sample and a random generator."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.apply(sample, self.draw(sample, rng))

    @abstractmethod
    def draw(self, sample: Sample, rng: np.random.Generator) -> Any:
        """Make the random choices for this sample."""

    @abstractmethod
    def apply(self, sample: Sample, drawn: Any) -> Sample:
        """The sample changed as drawn. The arguments are left unchanged."""


class Crop(NamedTuple):
    """Size and place of a crop."""

    scale: float  # size of the crop relative to the input size
    center_x: int  # pixels of the image
    center_y: int


@dataclass(frozen=True)
class RandomCrop(Augmentation):
    """A crop of random scale and place, resized to the input."""

    input_size: Size
    scales: tuple[float, ...]
    border: int  # pixels

    def draw(self, sample: Sample, rng: np.random.Generator) -> Crop:
        height, width = sample.image.shape[:2]
        scale = self.scales[rng.integers(len(self.scales))]
        border_x, border_y = fitting_border(self.border, width), fitting_border(self.border, height)
        center_x = int(rng.integers(border_x, width - border_x))
        center_y = int(rng.integers(border_y, height - border_y))
        return Crop(scale, center_x, center_y)

    def apply(self, sample: Sample, drawn: Crop) -> Sample:
        height, width = (max(int(side * drawn.scale), 1) for side in self.input_size)
        window = place(sample.image, drawn.center_x, drawn.center_y, (height, width))
        image, lies = resize_window(*window, self.input_size)
        boxes, labels = clip_boxes(lies.boxes_to_input(sample.boxes), sample.labels, self.input_size)
        return sample._replace(image=image, boxes=boxes, labels=labels)


def fitting_border(border: int, size: int) -> int:
    """The border, halved until it leaves room for a center."""
    while size - border <= border:
        border //= 2
    return border


@dataclass(frozen=True)
class ZoomToReference(Augmentation):
    """A crop in which one of the objects has a random size (CornerNet-Saccade). Objects are ignored of which half or
    less is in the crop."""

    input_size: Size
    options: ZoomOptions

    def draw(self, sample: Sample, rng: np.random.Generator) -> ZoomedCrop:
        return draw_crop(sample.image.shape[:2], sample.boxes, self.input_size, rng)

    def apply(self, sample: Sample, drawn: ZoomedCrop) -> Sample:
        image, offset, (x1, y1, x2, y2) = cut_crop(sample.image, drawn, self.input_size, self.options.full)
        boxes = scale_boxes(sample.boxes, drawn.scale) - np.tile(offset, 2)
        clipped = boxes.clip([x1, y1] * 2, [x2 - 1, y2 - 1] * 2)
        kept = (clipped[:, 2:] > clipped[:, :2]).all(1)
        ignored = areas(clipped[kept]) <= LEAST_SHARE * areas(boxes[kept])
        return sample._replace(image=image, boxes=clipped[kept], labels=sample.labels[kept], ignored=ignored)


@dataclass(frozen=True)
class IgnoreSmall(Augmentation):
    """Small objects are ignored as well. Nothing is random."""

    input_size: Size

    def draw(self, sample: Sample, rng: np.random.Generator) -> None:
        return None

    def apply(self, sample: Sample, drawn: None = None) -> Sample:
        return sample._replace(ignored=sample.ignored | too_small(sample.boxes, self.input_size))


@dataclass(frozen=True)
class Fit(Augmentation):
    """The whole image, padded to the input's proportions and resized. Nothing is random."""

    input_size: Size

    def draw(self, sample: Sample, rng: np.random.Generator) -> None:
        return None

    def apply(self, sample: Sample, drawn: None = None) -> Sample:
        image, lies = fit_image(sample.image, self.input_size)
        boxes, labels = clip_boxes(lies.boxes_to_input(sample.boxes), sample.labels, self.input_size)
        return sample._replace(image=image, boxes=boxes, labels=labels)


class Fitted(NamedTuple):
    """Size and place of a whole image on the input."""

    scale: float  # relative to the size at which the image just fits
    x: float  # share of the free columns, or of those outside the input, that are to the left of the input: 0..1
    y: float  # the same for the rows above it


@dataclass(frozen=True)
class RandomFit(Augmentation):
    """The whole image, resized to a random size and put at a random place of the input, whose edge may cut it."""

    input_size: Size
    scales: tuple[float, float]

    def draw(self, sample: Sample, rng: np.random.Generator) -> Fitted:
        return Fitted(float(np.exp(rng.uniform(*np.log(self.scales)))), *rng.random(2).tolist())

    def apply(self, sample: Sample, drawn: Fitted) -> Sample:
        (height, width), (rows, columns) = sample.image.shape[:2], self.input_size
        ratio = drawn.scale * min(rows / height, columns / width)
        resized = cv2.resize(sample.image, (max(1, round(width * ratio)), max(1, round(height * ratio))))
        left, top = round((columns - resized.shape[1]) * drawn.x), round((rows - resized.shape[0]) * drawn.y)
        image, shift = place(resized, columns // 2 - left, rows // 2 - top, self.input_size)
        boxes = sample.boxes * np.tile([resized.shape[1] / width, resized.shape[0] / height], 2) + np.tile(shift, 2)
        boxes, labels = clip_boxes(boxes, sample.labels, self.input_size)
        return sample._replace(image=image, boxes=boxes, labels=labels)


@dataclass(frozen=True)
class Turn(Augmentation):
    """One of the eight turns and flips of a square. Boxes are turned exactly: x -> width - x, unlike in Mirror."""

    def draw(self, sample: Sample, rng: np.random.Generator) -> tuple[bool, ...]:
        """Whether rows and columns are exchanged; then, whether left and right, and top and bottom are."""
        return tuple((rng.random(3) < 0.5).tolist())

    def apply(self, sample: Sample, drawn: tuple[bool, ...]) -> Sample:
        image, boxes = sample.image, sample.boxes.copy()
        exchanged, *flipped = drawn
        if exchanged:
            image, boxes = image.transpose(1, 0, 2), boxes[:, [1, 0, 3, 2]]
        for axis in (axis for axis in (0, 1) if flipped[axis]):  # x, y
            image = np.flip(image, 1 - axis)
            boxes[:, [axis, axis + 2]] = image.shape[1 - axis] - boxes[:, [axis + 2, axis]]
        return sample._replace(image=np.ascontiguousarray(image), boxes=boxes)


@dataclass(frozen=True)
class Mirror(Augmentation):
    """A left-right flip with some probability."""

    probability: float

    def draw(self, sample: Sample, rng: np.random.Generator) -> bool:
        return bool(rng.random() < self.probability)

    def apply(self, sample: Sample, drawn: bool) -> Sample:
        if not drawn:
            return sample
        image, boxes = mirror(sample.image, sample.boxes)
        return sample._replace(image=image, boxes=boxes)


@dataclass(frozen=True)
class Colour(Augmentation):
    """Brightness, contrast, saturation and PCA lighting. Only drawn here; sample.colour.normalise applies them."""

    strength: float
    lighting: float

    def draw(self, sample: Sample, rng: np.random.Generator) -> ColourDraw:
        return draw_colour(rng, self.strength, self.lighting)

    def apply(self, sample: Sample, drawn: ColourDraw) -> Sample:
        return sample._replace(colour=drawn)


# Further augmentations that a config can name in `augment.extra`: classes without constructor arguments.
EXTRA: dict[str, type[Augmentation]] = {}


@dataclass(frozen=True)
class AugmentOptions:
    """How training samples vary (CornerNet, Section 4.1): the config's `augment:` section."""

    crop: bool = True
    """Random square crop. false: the whole image, padded to the input's proportions and resized."""
    fit_scales: tuple[Scale, Scale] | None = None
    """Without crop: [least, most] size of the whole image relative to that at which it just fits the input, drawn
    log-uniformly. Its place is random as well, and the input may cut off a part. null: it fits, in the middle."""
    turns: bool = False
    """One of the eight turns and flips of a square, before everything else: for images without an upright direction,
    such as those of microscopes. `mirror` can then be 0."""
    zoom: ZoomOptions | None = None
    """Crops in which one of the objects has a random size (CornerNet-Saccade), in place of crops of `scales` and
    `border`. Objects that are small, or half outside, are ignored. null: crops of `scales` and `border`."""
    scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = field(
        # Computed as in the released code: 1.0 comes out just below 1, so that crop has 510 of 511 pixels.
        default_factory=lambda: tuple(np.arange(0.6, 1.4, 0.1).tolist())
    )
    """Sizes of the crop relative to the input size."""
    border: NonNegativeInt = 128
    """Pixels between the center of a crop and the edge of the image, at least. Halved for small images."""
    mirror: Unit = 0.5
    """Probability of a left-right flip."""
    colour: Unit = 0.4
    """Brightness, contrast and saturation change by factors of 1 +- this. 0: off."""
    lighting: NonNegativeFloat = 0.1
    """Standard deviation of the PCA lighting noise. 0: off."""
    extra: tuple[str, ...] = ()
    """Further augmentations, applied in this order after the others: names in sample.augment.EXTRA."""

    def unused(self) -> dict[str, str]:
        """Options without effect beside these others, with the reason."""
        reason = "augment.crop is false" if not self.crop else "augment.zoom is set" if self.zoom else None
        found = dict.fromkeys(("scales", "border"), reason) if reason else {}
        return found | ({"fit_scales": "augment.crop is true"} if self.crop else {})

    def __post_init__(self):
        if self.zoom and not self.crop:
            raise ValueError("zoom", "is a kind of crop: needs augment.crop, or be null")
        if self.fit_scales and self.fit_scales[0] > self.fit_scales[1]:
            raise ValueError("fit_scales", f"must be [least, most], got {list(self.fit_scales)}")
        for name in self.extra:
            if name not in EXTRA:
                raise ValueError("extra", f"there is no augmentation {name}; there are {sorted(EXTRA) or 'none'}")


def augmentations(options: AugmentOptions | None, input_size: Size) -> list[Augmentation]:
    """The augmentations in the order in which they are applied. None: only fit the whole image to the input."""
    if options is None:
        return [Fit(input_size)]
    fit = RandomFit(input_size, options.fit_scales) if options.fit_scales else Fit(input_size)
    steps = [RandomCrop(input_size, options.scales, options.border) if options.crop else fit]
    steps.append(Mirror(options.mirror))
    if options.zoom:
        steps = [ZoomToReference(input_size, options.zoom), steps[1], IgnoreSmall(input_size)]
    if options.turns:
        steps.insert(0, Turn())
    if options.colour or options.lighting:
        steps.append(Colour(options.colour, options.lighting))
    return steps + [EXTRA[name]() for name in options.extra]
