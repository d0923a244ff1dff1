"""A look into a run: targets beside predictions for TensorBoard, and a profiler trace of some steps."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from db import AnnotationIndex
from nnet.drawing.heatmaps import draw_heatmap
from nnet.drawing.images import side_by_side
from nnet.families.base import best_class
from nnet.families.placement import fit
from nnet.training.step import Objective
from sample.colour import normalise
from sample.dataset import TrainingSet

logger = logging.getLogger(__name__)

TRACED = 3  # steps of a trace, after as many steps of warm-up


@torch.no_grad()
def draw_predictions(
    objective: Objective, index: AnnotationIndex, size: tuple[int, int], device: torch.device
) -> Iterator[tuple[str, np.ndarray]]:
    """Target and predicted heatmaps of each kind of keypoint over the images of the index.

    Yields for each image, shown whole at `size`, its name and a picture (H, W, 3) uint8 BGR. Yields nothing for a
    network without heatmaps.
    """
    family = objective.family
    if not family.network.keypoints:
        return
    family.network.eval()
    samples = TrainingSet(index, size, None, 0)
    for i in range(len(index)):
        image, boxes, labels, *_ = samples[0, i].sample
        _, placement = fit(image, size, family.network.stride)
        targets = family.targets(torch.from_numpy(boxes), torch.from_numpy(labels), placement)
        images = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))[None]).to(device)  # (1, 3, H, W)
        with objective.autocast():
            predicted = family.heatmaps(family.network(normalise(images))[-1])
        pictures = {}
        for name, target in targets.items():
            title = name.replace("_", "-")
            pictures[f"{title} target"] = draw_heatmap(image, target.numpy())
            pictures[f"{title} predicted"] = draw_heatmap(image, best_class(predicted[name][0]).cpu().numpy())
        yield Path(index.path(i)).stem, side_by_side(list(pictures.values()), list(pictures))


class Trace:
    """A profiler trace of some steps, written to `path`. None: no trace.

    A run that is too short is traced as far as it goes.
    """

    def __init__(self, path: Path | None, steps: int):
        """steps: number of steps that the run will make."""
        self.path, self.profile = path, None
        if path and steps:
            before = min(TRACED, steps - 1)
            schedule = torch.profiler.schedule(wait=0, warmup=before, active=min(TRACED, steps - before), repeat=1)
            self.profile = torch.profiler.profile(schedule=schedule, on_trace_ready=self._write, profile_memory=True)
            self.profile.start()
        self.written = not path

    def _write(self, profile: torch.profiler.profile) -> None:
        profile.export_chrome_trace(str(self.path))
        self.written = True

    def step(self) -> None:
        """Call it after each step."""
        if self.profile:
            self.profile.step()

    def stop(self) -> None:
        """Call it at the end of the run, even if that ends early."""
        if self.profile:
            self.profile.stop()
        if not self.written:
            logger.info("no trace in %s: too few steps were made", self.path)
