"""From an image to its detections (CornerNet, Section 4.2): scales, mirror image, network, decoding, suppression."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from db import Objects
from nnet.detection.suppression import Found, suppress
from nnet.families.base import Family, Points, View, best_class, select
from nnet.families.options import DetectionOptions
from nnet.families.placement import Placement, fit, paste, place_original, scores_on_image
from nnet.runtime.precision import Precision
from nnet.runtime.timing import Stopwatch
from nnet.runtime.transfer import Upload
from sample.geometry import Size


class Prepared(NamedTuple):
    """Images whose canvases have the same sizes, as the network takes them. One entry per scale of the options.

    canvases: (n, 3, H, W) uint8 in the layout of the options, in pinned memory if the network runs on CUDA. With
    `mirror`, each image is followed by its mirror image: 2 n. placements: of each image on its canvas. images: the
    images themselves instead, if the family looks at parts of them.
    """

    canvases: list[Tensor]
    placements: list[list[Placement]]
    images: Sequence[np.ndarray] = ()


class UnpredictedTruth(ValueError):
    """The annotation is to replace predictions that the network does not make. name: of the predictions."""

    def __init__(self, name: str):
        super().__init__(f"the annotation cannot replace {name}: the network does not predict them")
        self.name = name


class Detector:
    """A network and how it is tested. Call it with an image.

    The work on an image has three parts: `prepare` and `decode`, which other threads may call, and `run_network`.

    Attributes:
        family: the network, and its decoding.
    """

    def __init__(
        self,
        family: Family,
        options: DetectionOptions,
        input_size: tuple[int, int],
        device: torch.device,
        truth: Collection[str] = (),
    ):
        """input_size: (height, width) of the training images, used by `resize: fit` only.

        truth: names of the predictions that the annotation replaces, see Family.truths. Raises UnpredictedTruth for
            others.
        """
        for name in truth:
            if name not in family.truths:
                raise UnpredictedTruth(name)
        family.network.to(device).eval()
        self.family = family
        self.options = options
        self.input_size = tuple(input_size)
        self.device = device
        self.autocast = Precision(options.precision, device).autocast
        self.truth = frozenset(truth)
        self.upload = Upload(device)
        self.watch = Stopwatch(device)

    @property
    def seconds(self) -> Counter[str]:
        """Time spent so far on "load" (reading, resizing), "network", "decode" and "nms".

        Parts that run in several threads at a time overlap. On CUDA, "decode" includes waiting for the network.
        """
        return self.watch.seconds()

    def __call__(self, image: np.ndarray, objects: Objects | None = None) -> Found:
        """Detections of an image (H, W, 3) uint8 BGR, H and W at least 1.

        objects: the annotation, needed where it replaces predictions.
        """
        return self.batch([image], [objects])[0]

    def batch(self, images: Sequence[np.ndarray], objects: Sequence[Objects | None] | None = None) -> list[Found]:
        """Detections of several images, each (H, W, 3) uint8 BGR, which pass the network together.

        They equal those of single images up to rounding. Raises ValueError if their `canvas_sizes` differ.
        """
        return self.decode(self.run_network(self.prepare(images), objects))

    def prepare(self, images: Sequence[np.ndarray]) -> Prepared:
        """Images (H, W, 3) uint8 BGR on their canvases, at each scale.

        Raises ValueError if their `canvas_sizes` differ.
        """
        if len({self.canvas_sizes(*image.shape[:2]) for image in images}) > 1:
            raise ValueError("images of a batch must have canvases of one size")
        if not self.family.whole_images:
            return Prepared([], [], images)
        prepared = Prepared([], [])
        for scale in self.options.scales:
            with self.timed("load"):
                canvases, placements = zip(*(self.place(image, scale) for image in images), strict=True)
                prepared.canvases.append(self.stack(canvases))
                prepared.placements.append(list(placements))
        return prepared

    def run_network(self, prepared: Prepared, objects: Sequence[Objects | None] | None = None) -> list[list[View]]:
        """What the network predicts for each image at each scale, or where the family looks. In the first case, the
        host does not wait for a GPU.

        objects: the annotation of each image. Raises ValueError where predictions are to be replaced without it.
        """
        count = len(prepared.images or prepared.placements[0])
        objects = objects or [None] * count
        self.check_annotated(objects)
        if prepared.images:
            return [list(self.views(image, own)) for image, own in zip(prepared.images, objects, strict=True)]
        rows = 2 if self.options.mirror else 1  # of the batch, per image
        views: list[list[View]] = [[] for _ in range(count)]
        for scale, canvases, placements in zip(self.options.scales, *prepared[:2], strict=True):
            maps = self.predict(canvases)
            for i, (placement, own) in enumerate(zip(placements, objects, strict=True)):
                part = maps if count == 1 else select(maps, slice(i * rows, (i + 1) * rows))
                views[i].append(View(scale, placement, part, self.truth, own))
        return views

    def decode(self, views: Sequence[Sequence[View]]) -> list[Found]:
        """Detections of each image from its views."""
        with self.timed("decode"):
            candidates = [self.family.propose(map(self.substitute, own), self.options) for own in views]
        with self.timed("nms"):
            return [suppress(own, self.options) for own in candidates]

    def canvas_sizes(self, height: int, width: int) -> tuple[Size, ...]:
        """Sizes, at each scale, of the canvases of an image of this size."""
        if self.options.resize == "fit" or not self.family.whole_images:
            return ()  # those of all images are equal
        network = self.family.network
        scales = self.options.scales
        return tuple(place_original(height, width, s, network.stride, network.divisor).canvas for s in scales)

    def views(self, image: np.ndarray, objects: Objects | None = None) -> Iterator[View]:
        """What the network predicts for the image, at each scale of the options or where the family looks."""
        return self.family.views(image, self, objects)

    def view(self, image: np.ndarray, scale: float = 1.0, objects: Objects | None = None) -> View:
        """What the network predicts for the image at one scale, or the annotation in its place.

        Raises:
            ValueError: predictions are to be replaced, and there is no annotation.
        """
        self.check_annotated([objects])
        with self.timed("load"):
            canvas, placement = self.place(image, scale)
        return self.substitute(View(scale, placement, self.predict(self.stack([canvas])), self.truth, objects))

    def substitute(self, view: View) -> View:
        """The view with the annotation in place of predictions, where that is asked for."""
        return self.family.substitute(view) if self.truth else view

    def check_annotated(self, objects: Sequence[Objects | None]) -> None:
        """Raise ValueError if predictions are to be replaced by an annotation that is missing."""
        if self.truth and any(own is None for own in objects):
            names = ", ".join(sorted(self.truth))
            raise ValueError(f"the annotation cannot replace {names}: the image has no annotation")

    def place(self, image: np.ndarray, scale: float) -> tuple[np.ndarray, Placement]:
        """The canvas (H, W, 3) uint8 of an image at a scale, and how the image lies on it."""
        network = self.family.network
        if self.options.resize == "original":
            placement = place_original(*image.shape[:2], scale, network.stride, network.divisor)
            canvas = paste(image, placement)
        else:
            size = tuple(max(1, round(n * scale)) for n in self.input_size)
            canvas, placement = fit(image, size, network.stride)
        return canvas, placement._replace(exact_mirror=not self.options.as_published)

    def stack(self, canvases: Sequence[np.ndarray]) -> Tensor:
        """n canvases (H, W, 3), uint8 or float32, as a batch (n, 3, H, W), or (2 n, 3, H, W), see Prepared.canvases.

        NumPy and OpenCV copy, not PyTorch: its threads are for the network, and these copies run beside it.
        """
        mirror = self.options.mirror
        views = [view for canvas in canvases for view in ([canvas, cv2.flip(canvas, 1)] if mirror else [canvas])]
        if self.options.channels_last:
            images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
        else:
            planes = np.empty((len(views), 3, *views[0].shape[:2]), views[0].dtype)
            for view, channels in zip(views, planes, strict=True):
                for number, channel in enumerate(channels):
                    cv2.extractChannel(view, number, channel)
            images = torch.from_numpy(planes)
        return images.pin_memory() if self.device.type == "cuda" else images

    @torch.inference_mode()
    def predict(self, images: Tensor, **how: Any) -> Any:
        """Predictions of the last stack for images that `stack()` put into a batch. `how` is passed to the network."""
        with self.watch.on_device("network"), self.autocast():
            return self.family.predict(self.upload(images), self.options.mirror, **how)

    def heatmaps(self, image: np.ndarray, objects: Objects | None = None) -> dict[str, np.ndarray]:
        """By kind of keypoint, the scores 0..1 of the best class at each pixel of the image: (H, W) float32."""
        view = self.family.overview(image, self, objects)
        return {
            name: scores_on_image(best_class(logits[0]).cpu().numpy(), view.placement, image.shape[:2])
            for name, logits in self.family.heatmaps(view.maps).items()
        }

    def corners(self, image: np.ndarray, objects: Objects | None = None) -> dict[str, Points]:
        """By kind, the best corners of an image at its own scale, in its pixels, offsets added."""
        return self.family.corners(self.family.overview(image, self, objects), self.options)

    def timed(self, part: str) -> AbstractContextManager[None]:
        """Context that adds the time of the block to `seconds`."""
        return self.watch.on_host(part)
