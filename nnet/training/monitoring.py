"""To look into a run: targets beside predictions on fixed images, for TensorBoard; a trace of some steps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from db import CocoIndex
from models.hourglass import feature_size
from nnet.inference import best_class
from nnet.pictures import draw_heatmap, side_by_side
from nnet.training import Objective
from sample import TrainingSet, box_targets, normalise

TRACED = 3  # steps of a trace, after as many to warm up


@torch.no_grad()
def draw_predictions(
    network: nn.Module, objective: Objective, index: CocoIndex, size: tuple[int, int], device: torch.device
) -> Iterator[tuple[str, np.ndarray]]:
    """For each image of the index, shown whole at `size`: its name, and a picture (H, W, 3) uint8 BGR of the target and
    the predicted heatmap of each kind of keypoint over it. Nothing of a network without keypoints."""
    if not objective.keypoints:
        return
    network.eval()
    samples = TrainingSet(index, size, None, 0)
    for i in range(len(index)):
        image, boxes, labels, *_ = samples[0, i]
        boxes, labels = torch.from_numpy(boxes), torch.from_numpy(labels)
        shape = 1, objective.classes, size, feature_size(size)
        targets = box_targets(objective.keypoints, boxes, labels, torch.zeros_like(labels), *shape, objective.penalty)
        views = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))[None]).to(device)
        with objective.autocast():
            maps = network(normalise(views))[-1]
        pictures = {}
        for name, target in targets.items():
            title = name.replace("_", "-")
            pictures[f"{title} target"] = draw_heatmap(image, target.heatmap[0].numpy())
            pictures[f"{title} predicted"] = draw_heatmap(image, best_class(maps[name].heatmap[0]).cpu().numpy())
        yield Path(index.path(i)).stem, side_by_side(list(pictures.values()), list(pictures))


class Trace:
    """A trace of some steps in the file `path`, of what there are where a run is short; None: no trace."""

    def __init__(self, path: Path | None, steps: int):
        """steps: how many will be made."""
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
        """To be called after each step."""
        if self.profile:
            self.profile.step()

    def stop(self) -> None:
        """To be called at the end, which may be an early one."""
        if self.profile:
            self.profile.stop()
        if not self.written:
            print(f"no trace in {self.path}: too few steps were made")
