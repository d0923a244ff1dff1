"""From an image to its detections (CornerNet, Section 4.2): scales, mirror image, network, decoding, suppression."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from db import Objects
from nnet.detection.suppression import Found, suppress
from nnet.families.base import Family, Points, View, best_class
from nnet.families.options import DetectionOptions
from nnet.families.placement import Placement, fit, paste, place_original, scores_on_image
from nnet.runtime.precision import Precision, layout
from sample.colour import normalise
from sample.geometry import Size


class Detector:
    """A network and how it is tested. Call it with an image.

    Attributes:
        family: the network, and its decoding.
        seconds: time spent so far on "load" (reading, resizing), "network", "decode" and "nms".
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

        truth: names of the predictions that the annotation replaces, see Family.truths. Raises ValueError for others.
        """
        for name in truth:
            if name not in family.truths:
                raise ValueError(f"the annotation cannot replace {name}: the network does not predict them")
        family.network.to(device).eval()
        self.family = family
        self.options = options
        self.input_size = tuple(input_size)
        self.device = device
        self.autocast = Precision(options.precision, device).autocast
        self.truth = frozenset(truth)
        self.seconds: Counter[str] = Counter()

    def __call__(self, image: np.ndarray, objects: Objects | None = None) -> Found:
        """Detections of an image (H, W, 3) uint8 BGR, H and W at least 1.

        objects: the annotation, needed where it replaces predictions.
        """
        before = self.seconds["load"] + self.seconds["network"]
        with self.timed("decode"):  # `propose` makes the views, whose own times are subtracted below
            candidates = self.family.propose(self.views(image, objects), self.options)
        self.seconds["decode"] -= self.seconds["load"] + self.seconds["network"] - before
        with self.timed("nms"):
            return suppress(candidates, self.options)

    def batch(self, images: Sequence[np.ndarray]) -> list[Found]:
        """Detections of several images, each (H, W, 3) uint8 BGR, which pass the network together.

        They equal those of single images up to rounding. Raises ValueError if their `canvas_sizes` differ.
        """
        if len(images) == 1:
            return [self(images[0])]
        if len({self.canvas_sizes(*image.shape[:2]) for image in images}) > 1:
            raise ValueError("images of a batch must have canvases of one size")
        views: list[list[View]] = [[] for _ in images]
        for scale in self.options.scales:
            with self.timed("load"):
                placed = [self.place(image, scale) for image in images]
            maps = self.predict(*(canvas for canvas, _ in placed))
            rows = 2 if self.options.mirror else 1  # of the batch, per image
            for i, (_, placement) in enumerate(placed):
                views[i].append(View(scale, placement, select(maps, slice(i * rows, (i + 1) * rows))))
        with self.timed("decode"):
            candidates = [self.family.propose(iter(own), self.options) for own in views]
        with self.timed("nms"):
            return [suppress(own, self.options) for own in candidates]

    def canvas_sizes(self, height: int, width: int) -> tuple[Size, ...]:
        """Sizes, at each scale, of the canvases of an image of this size."""
        if self.options.resize == "fit":
            return ()  # those of all images are equal
        network = self.family.network
        scales = self.options.scales
        return tuple(place_original(height, width, s, network.stride, network.divisor).canvas for s in scales)

    def views(self, image: np.ndarray, objects: Objects | None = None) -> Iterator[View]:
        """What the network predicts for the image at each scale of the options."""
        for scale in self.options.scales:
            yield self.view(image, scale, objects)

    def view(self, image: np.ndarray, scale: float = 1.0, objects: Objects | None = None) -> View:
        """What the network predicts for the image at one scale, or the annotation in its place.

        Raises:
            ValueError: predictions are to be replaced, and there is no annotation.
        """
        if self.truth and objects is None:
            names = ", ".join(sorted(self.truth))
            raise ValueError(f"the annotation cannot replace {names}: the image has no annotation")
        with self.timed("load"):
            canvas, placement = self.place(image, scale)
        view = View(scale, placement, self.predict(canvas), self.truth, objects)
        return self.family.substitute(view) if self.truth else view

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

    @torch.inference_mode()
    def predict(self, *canvases: np.ndarray) -> Any:
        """Predictions of the last stack for n canvases (H, W, 3).

        With `mirror`, each canvas is followed by its mirror image: a batch of 2 * n.
        """
        mirror = self.options.mirror
        views = [view for canvas in canvases for view in ([canvas, canvas[:, ::-1]] if mirror else [canvas])]
        with self.timed("network"):
            images = torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)
            images = images.contiguous(memory_format=layout(self.options.channels_last)).to(self.device)
            with self.autocast():
                return self.family.network(normalise(images))[-1]

    def heatmaps(self, image: np.ndarray, objects: Objects | None = None) -> dict[str, np.ndarray]:
        """By kind of keypoint, the scores 0..1 of the best class at each pixel of the image: (H, W) float32."""
        view = self.view(image, 1.0, objects)
        return {
            name: scores_on_image(best_class(logits[0]).cpu().numpy(), view.placement, image.shape[:2])
            for name, logits in self.family.heatmaps(view.maps).items()
        }

    def corners(self, image: np.ndarray, objects: Objects | None = None) -> dict[str, Points]:
        """By kind, the best corners of an image at its own scale, in its pixels, offsets added."""
        return self.family.corners(self.view(image, 1.0, objects), self.options)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Add the time of the block to `seconds`. Waits for the GPU, so that each part has its own time."""
        begun = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[part] += time.perf_counter() - begun


def select(maps: Any, rows: slice) -> Any:
    """These rows of a batch of predictions: tensors, or None, in dicts, lists and named tuples."""
    if isinstance(maps, dict):
        return {name: select(part, rows) for name, part in maps.items()}
    if isinstance(maps, tuple):
        return type(maps)(*(select(part, rows) for part in maps))
    if isinstance(maps, list):
        return [select(part, rows) for part in maps]
    return None if maps is None else maps[rows]
