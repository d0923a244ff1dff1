"""Warnings before detection: more objects than can be found, images that need much memory."""

from __future__ import annotations

import numpy as np
import torch
from torch.func import functional_call

from db import AnnotationIndex
from models.cost import MemoryCounter
from nnet.detection.detector import Detector
from nnet.runtime.memory import GIGABYTE, available_memory

SMALL = 2_000_000  # pixels: the memory of smaller images is not estimated
SHARE = 0.5  # fraction of the available memory above which there is a warning


def before_evaluation(index: AnnotationIndex, detector: Detector) -> list[str]:
    """What an evaluation on all images of an index cannot find, or has too little memory for."""
    return too_many_objects(index, detector) + MemoryWatch(detector)(*largest(index), detector.options.batch)


def too_many_objects(index: AnnotationIndex, detector: Detector) -> list[str]:
    """A warning if images have more objects than can be found, with the options that find more."""
    limit = detector.family.most_objects(detector.options)
    images = np.repeat(np.arange(len(index)), np.diff(index.first))[~index.crowd]
    counts = np.bincount(images, minlength=len(index))
    crowded, most = int((counts > limit).sum()), int(counts.max(initial=0))
    if not crowded:
        return []
    raised = detector.family.limits.format(most=most, pairs=10 * most)
    return [
        f"{crowded:,} of {len(index):,} images have more objects (up to {most:,}) than the {limit:,} that can be "
        f"found; to find more: {raised}"
    ]


def largest(index: AnnotationIndex) -> tuple[int, int]:
    """(height, width) of the image with the most pixels."""
    return tuple(index.sizes[index.sizes.astype(np.int64).prod(1).argmax()].tolist())


class MemoryWatch:
    """Warns of images that need much of the available memory at their own resolution. Called with their sizes."""

    def __init__(self, detector: Detector):
        self.detector = detector
        self.largest = SMALL  # pixels of the largest images so far

    def __call__(self, height: int, width: int, images: int = 1) -> list[str]:
        """A line if `images` images of this size need much memory, unless it has warned of images at least as large."""
        options, canvases = self.detector.options, self.detector.canvas_sizes(height, width)
        if not canvases or height * width * images <= self.largest:
            return []
        self.largest = height * width * images
        canvas = max(canvases)
        need = network_memory(self.detector, canvas, images * (2 if options.mirror else 1))
        free = free_memory(self.detector.device)
        if need <= SHARE * free:
            return []
        return [
            f"an image of {width}x{height} takes about {need / GIGABYTE:.1f} GB at its own resolution, and "
            f"{free / GIGABYTE:.1f} GB are available: test.resize=fit or smaller test.scales take less"
        ]


def network_memory(detector: Detector, canvas: tuple[int, int], images: int) -> int:
    """Bytes of the activations of a forward pass, in float32, at their peak. Computed on meta tensors."""
    network = detector.family.network
    state = {name: value.to("meta") for name, value in network.state_dict().items()}
    with MemoryCounter() as memory, torch.no_grad():
        functional_call(network, state, (torch.empty(images, 3, *canvas, device="meta"),))
    return memory.peak


def free_memory(device: torch.device) -> float:
    """Bytes that can be allocated on the device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
