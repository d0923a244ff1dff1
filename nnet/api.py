"""Detection in Python:

from nnet.api import load_detector

detector = load_detector("runs/toy/last.pt")
found = detector("photo.jpg")
found.save("found.jpg")

docs/api.md explains it. detect.py uses the same. This module stands above the folders of nnet: it reads configs.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch

import configs
from db import COCO_CATEGORIES, DataError
from nnet.detection.detector import Detector
from nnet.detection.inputs import Channels, ImageLike, to_bgr
from nnet.detection.loading import build_detector, read_network
from nnet.detection.suppression import Found
from nnet.drawing.detected import DetectedObjects
from nnet.families.options import SHOWN_SCORE
from nnet.runtime import checkpoint
from nnet.runtime.devices import choose_device

__all__ = ["DetectedObjects", "ImageDetector", "load_detector"]


class ImageDetector:
    """Finds objects in images. Made by load_detector.

    Attributes:
        detector: the network, and how it is tested.
        config: all options.
        class_names, category_ids: of the classes.
        batch_size: number of images that pass the network together, where their sizes allow it.
    """

    def __init__(
        self,
        detector: Detector,
        config: configs.Config,
        category_ids: Sequence[int],
        class_names: Sequence[str],
        batch_size: int = 4,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected 1 or more")
        self.detector = detector
        self.config = config
        self.category_ids = tuple(category_ids)
        self.class_names = tuple(class_names)
        self.batch_size = batch_size

    @overload
    def __call__(self, image: ImageLike, threshold: float = ..., channels: Channels = ...) -> DetectedObjects: ...

    @overload
    def __call__(
        self, image: Sequence[ImageLike], threshold: float = ..., channels: Channels = ...
    ) -> list[DetectedObjects]: ...

    def __call__(
        self, image: ImageLike | Sequence[ImageLike], threshold: float = SHOWN_SCORE, channels: Channels = "bgr"
    ) -> DetectedObjects | list[DetectedObjects]:
        """The objects in an image, or in each of a list of images.

        Args:
            image: a path, an array (H, W, 3) uint8 BGR, a PIL image, or a list of them. Other arrays are converted or
                refused, see nnet.detection.inputs.array_to_bgr.
            threshold: objects with a lower score are left out.
            channels: order of the colours of arrays.

        Raises:
            DataError (a ValueError): an image cannot be read or is refused.
            TypeError: not an image.
        """
        if not isinstance(image, list | tuple):
            return self.detect([to_bgr(image, channels)], threshold)[0]
        images = [to_bgr(one, channels) for one in image]
        # Images whose canvases have the same size are neighbours in this order
        sizes = [self.detector.canvas_sizes(*one.shape[:2]) for one in images]
        order = sorted(range(len(images)), key=sizes.__getitem__)
        found: dict[int, DetectedObjects] = {}
        while order:
            same = [i for i in order[: self.batch_size] if sizes[i] == sizes[order[0]]]
            found |= zip(same, self.detect([images[i] for i in same], threshold), strict=True)
            order = order[len(same) :]
        return [found[i] for i in range(len(images))]

    def detect(self, images: Sequence[np.ndarray], threshold: float = SHOWN_SCORE) -> list[DetectedObjects]:
        """The objects in images (H, W, 3) uint8 BGR with canvases of one size, which pass the network together."""
        found = self.detector.batch(images)
        return [self.describe(image, own, threshold) for image, own in zip(images, found, strict=True)]

    def describe(self, image: np.ndarray, found: Found, threshold: float = SHOWN_SCORE) -> DetectedObjects:
        """The objects among the detections of an image (H, W, 3) uint8 BGR."""
        order = np.argsort(-found.scores, kind="stable")
        found = found.take(order[found.scores[order] >= threshold])
        decimals = self.config.test.result_decimals
        return DetectedObjects(*found, image, self.class_names, self.category_ids, decimals)

    def heatmaps(self, image: ImageLike, channels: Channels = "bgr") -> dict[str, np.ndarray]:
        """By kind of keypoint, the scores 0..1 of the best class at each pixel of the image: (H, W) float32."""
        return self.detector.heatmaps(to_bgr(image, channels))


def load_detector(
    path: str | PathLike[str],
    config: str | PathLike[str] | None = None,
    *,
    device: str | torch.device | None = None,
    precision: str | None = None,
    overrides: Sequence[str] = (),
    batch_size: int = 4,
) -> ImageDetector:
    """The detector of a checkpoint.

    Args:
        path: a checkpoint of train.py, a released .pkl, or a network exported by export.py (.onnx, .pt2).
        config: YAML file of the network. Checkpoints of train.py and exported networks hold theirs; released ones need
            it.
        device: "auto" (CUDA if available), "cpu", "cuda" or "cuda:N"; by default what the config says.
        precision: "float32", "bfloat16" or "float16"; by default what the config says.
        overrides: options that differ from the config's, as "key.sub=value".
        batch_size: number of images of a list that pass the network together.

    Raises:
        CheckpointError, ConfigError, DataError (ValueErrors): a file is missing or damaged, the checkpoint is of
            another network than the config's, an option is invalid, or the device is not available.
    """
    path = Path(path)
    state = read_network(path)
    changes = [*overrides, *([f"test.precision={precision}"] if precision is not None else [])]
    options = read_config(state, path, config, changes)
    place = find_device(options.runtime.device if device is None else str(device))
    ids, names = state.get("categories", (list(COCO_CATEGORIES), list(COCO_CATEGORIES.values())))
    detector = build_detector(state, path, options, len(ids), place)
    return ImageDetector(detector, options, ids, names, batch_size)


def read_config(
    state: dict[str, Any], path: Path, config: str | PathLike[str] | None, overrides: Sequence[str]
) -> configs.Config:
    """The config in the file `config`, or that of the checkpoint's content, with overrides. Raises CheckpointError."""
    if config is not None:
        options = configs.load(config, overrides)
    elif "config" in state:
        options = configs.from_dict(state["config"], str(path), overrides)
    else:
        raise checkpoint.CheckpointError(
            f"checkpoint {path} does not hold its config: name one as well, such as configs/cornernet_hg104.yaml"
        )
    checkpoint.changed_options(state, configs.to_dict(options), path)
    return options


def find_device(name: str) -> torch.device:
    """The device "auto", "cpu", "cuda" or "cuda:N". Raises DataError if there is no such device."""
    if name in ("auto", "cpu", "cuda"):
        return choose_device(name)
    kind, _, number = name.partition(":")
    if kind != "cuda" or not number.isdecimal():
        raise DataError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    if int(number) >= torch.cuda.device_count():
        raise DataError(f"device {name!r}: this machine has {torch.cuda.device_count()} GPUs that PyTorch can use")
    return torch.device(name)
