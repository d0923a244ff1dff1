"""The interface of a detector family, and the values that pass through it.

To add a family, write a class with this interface and add it to FAMILIES in nnet/families/__init__.py. Its options
become the config's `model:` section.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from db import Objects
from models.decode import Detections
from models.standard_ops import Best
from nnet.families.options import DetectionOptions
from nnet.families.placement import Placement, boxes_from_cells
from sample.colour import normalise
from sample.dataset import Batch

REJECTED = -1  # score of a box that is not a detection


class View(NamedTuple):
    """What the network predicts for an image at one scale."""

    scale: float
    placement: Placement
    maps: Any  # predictions of the last stack, for a batch of the image and, with test.mirror, its mirror image
    truth: frozenset[str] = frozenset()  # names of the predictions that the annotation replaces
    objects: Objects | None = None  # the annotation, where `truth` needs it
    title: str = ""  # why the network looks here, for pictures; "": it looks at whole images only
    found: Candidates | None = None  # what was found here, where further views depend on it


class Candidates(NamedTuple):
    """Boxes of an image before suppression."""

    boxes: np.ndarray  # (n, 4) float32, x1, y1, x2, y2 in pixels of the image
    scores: np.ndarray  # (n,) float32
    labels: np.ndarray  # (n,) int64 class numbers
    corner_scores: np.ndarray | None  # (n, 2) float32, top-left, bottom-right; None: not made of corners

    def take(self, which: np.ndarray) -> Candidates:
        """The candidates at these indices, or where this mask is true."""
        return Candidates(*(None if values is None else values[which] for values in self))

    @staticmethod
    def join(parts: Sequence[Candidates]) -> Candidates:
        """All candidates of the parts, in order."""
        columns = zip(*parts, strict=True)
        return Candidates(*(None if values[0] is None else np.concatenate(values) for values in columns))


class Points(NamedTuple):
    """Keypoints in an image."""

    points: np.ndarray  # (m, 2) float32, x, y in pixels
    labels: np.ndarray  # (m,) int64 class numbers
    scores: np.ndarray  # (m,) float32


class Evidence(NamedTuple):
    """Which boxes a family kept and removed, and the keypoints that decided, for pictures.

    keypoint: the kind of keypoint that decides, and `points` those of the image.
    regions: boxes (n, 4) -> the regions (n, 4) in which such a keypoint keeps a box.
    deciding: boxes (n, 4) and labels (n,) -> the index of the point that keeps each box, or -1: (n,).
    """

    kept: Candidates
    removed: Candidates
    keypoint: str
    points: Points
    regions: Callable[[np.ndarray], np.ndarray]
    deciding: Callable[[np.ndarray, np.ndarray], np.ndarray]


class Predictor(Protocol):
    """Runs the network on images for a family: nnet.detection.detector.Detector, which documents these."""

    options: DetectionOptions
    input_size: tuple[int, int]

    def view(self, image: np.ndarray, scale: float = 1.0, objects: Objects | None = None) -> View: ...

    def stack(self, canvases: Sequence[np.ndarray]) -> Tensor: ...

    def predict(self, images: Tensor, **how: Any) -> Any: ...

    def timed(self, part: str) -> AbstractContextManager: ...


class Family(ABC):
    """A kind of detector: network, loss and decoding.

    Attributes:
        Options: frozen dataclass of the config's `model:` section. Its first field, `detector`, is the family's name.
        Terms: NamedTuple of the loss terms. The first, `loss`, is minimised. The names are those of the log.
        truths: names of the predictions that the annotation can replace (test.py --truth).
        limits: the options that `most_objects` depends on, with values for {most} objects and {pairs} pairs of corners.
        claims: options outside `model:` that this family reads and not every other, by dotted name: an option
            ("test.centers") or a section ("penalty"). The config is warned about where it sets an option that only
            other families claim. Empty: not stated, and nothing is warned about.
        whole_images: whether the views of an image show the whole image, each at a scale of the options.
        network: maps images (B, 3, H, W) to predictions per stack, see KeypointNetwork.forward. It states `keypoints`,
            `stride`, `divisor` and `recomputed`.
        classes: number of classes.
    """

    Options: ClassVar[type]
    Terms: ClassVar[type]
    truths: tuple[str, ...] = ()
    limits: ClassVar[str] = "test.detections={most}"
    claims: ClassVar[tuple[str, ...]] = ()
    whole_images: ClassVar[bool] = True
    network: nn.Module
    classes: int

    @abstractmethod
    def loss(
        self, outputs: Sequence[Any], batch: Batch, memory_format: torch.memory_format = torch.contiguous_format
    ) -> tuple:
        """The loss terms of a batch, as `Terms` of tensors (stacks,).

        Args:
            outputs: predictions of each stack.
            batch: on the device of the outputs.
            memory_format: that of the predictions.
        """

    def predict(self, images: Tensor, mirror: bool, **how: Any) -> Any:
        """Predictions of the last stack for images (B, 3, H, W) uint8. `how` is passed to the network.

        mirror: every second image is the mirror image of the one before.
        """
        return self.network(normalise(images), **how)[-1]

    @abstractmethod
    def propose(self, views: Iterator[View], options: DetectionOptions) -> Candidates:
        """Boxes of an image, of all its views. Rejected boxes have the score REJECTED."""

    def most_objects(self, options: DetectionOptions) -> int:
        """The number of objects of an image that can be found."""
        return options.detections

    @classmethod
    def reads(cls, model: Any) -> tuple[str, ...]:
        """Those of `claims` that a network with these `Options` reads."""
        return cls.claims

    @classmethod
    def variant(cls, model: Any) -> str:
        """The end of the warning about an option that is not read, where an option of `model:` decides what is read:
        " without model.NAME"."""
        return ""

    def views(self, image: np.ndarray, predictor: Predictor, objects: Objects | None = None) -> Iterator[View]:
        """What the network sees of an image (H, W, 3) uint8 BGR.

        objects: the annotation, where it replaces predictions.
        """
        for scale in predictor.options.scales:
            yield predictor.view(image, scale, objects)

    def overview(self, image: np.ndarray, predictor: Predictor, objects: Objects | None = None) -> View:
        """One view of the whole image, for its heatmaps and corners."""
        return predictor.view(image, 1.0, objects)

    @classmethod
    def check(cls, config: Any) -> None:
        """Raise ValueError(dotted name of an option, what is wrong) for options that do not go with this family."""
        return None

    def heatmaps(self, maps: Any) -> dict[str, Tensor]:
        """Heatmaps (B, classes, h, w) of the predictions of one stack, as logits, by kind of keypoint."""
        return {}

    def corners(self, view: View, options: DetectionOptions) -> dict[str, Points]:
        """The best corners of an image by kind of corner, without those of its mirror image."""
        return {}

    def targets(self, boxes: Tensor, labels: Tensor, placement: Placement) -> dict[str, Tensor]:
        """Target heatmaps (classes, h, w) of an image by kind of keypoint; boxes (n, 4) in pixels of the canvas."""
        return {}

    def substitute(self, view: View) -> View:
        """The view with the predictions in `view.truth` replaced by the annotation."""
        raise ValueError(f"{', '.join(sorted(view.truth))} in place of predictions: the network does not predict them")

    def decoder(self, options: DetectionOptions, mirror: bool, best: Best) -> nn.Module | None:
        """Decoding in standard operators, for export.py. None: this family cannot be exported.

        mirror, best: see models.standard_ops.PairDecoder, whose interface the module has.
        """
        return None

    def evidence(self, views: Iterator[View], options: DetectionOptions) -> Evidence | None:
        """How the boxes of an image were chosen. None: the family has no test that removes boxes."""
        return None


def to_host(found: NamedTuple) -> NamedTuple:
    """The tensors (B, n) or (B, n, k) of a named tuple as float32 arrays, copied from the device all at once."""
    columns = [None if v is None else v.reshape(*v.shape[:2], -1).to(torch.float32) for v in found]
    present = [column for column in columns if column is not None]
    rows = torch.cat(present, 2).cpu().numpy()
    ends = np.cumsum([column.shape[2] for column in present])[:-1]
    parts = iter(np.split(rows, ends, 2))
    arrays = [None if v is None else next(parts).reshape(v.shape) for v in found]
    return type(found)(*arrays)


def candidates_from_cells(found: Detections, placement: Placement, outside: float = 0.0) -> Candidates:
    """Detections (B, n) in cells, as arrays, as the candidates of an image. See boxes_from_cells."""
    boxes, far = boxes_from_cells(found.boxes, placement, outside)
    scores = np.where(far, np.float32(REJECTED), found.scores.reshape(-1))
    corner_scores = None if found.corner_scores is None else found.corner_scores.reshape(-1, 2)
    return Candidates(boxes, scores, found.labels.reshape(-1).astype(np.int64), corner_scores)


def select(maps: Any, rows: slice) -> Any:
    """These rows of a batch of predictions: tensors or arrays, or None, in dicts, lists and named tuples."""
    if isinstance(maps, dict):
        return {name: select(part, rows) for name, part in maps.items()}
    if isinstance(maps, tuple):
        return type(maps)(*(select(part, rows) for part in maps))
    if isinstance(maps, list):
        return [select(part, rows) for part in maps]
    return None if maps is None else maps[rows]


def best_class(logits: Tensor) -> Tensor:
    """Scores of the best class: (classes, h, w) logits -> (h, w) in 0..1."""
    return logits.float().sigmoid().amax(0)
