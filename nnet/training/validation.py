"""What is measured of a network while it trains, on the validation split: loss, pictures, COCO's figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from db import CocoIndex, DataError, Evaluation, evaluate, to_results
from nnet.distributed import Group
from nnet.experiment import detect_all
from nnet.faults import Signals, UnreadableCount
from nnet.inference import Detector
from nnet.log import NoLog, RunLog
from nnet.training import AnchorObjective, Objective
from nnet.watch import draw_predictions
from sample import Batch, TrainingSet, make_loader, validation_batches

SHOWN = 4  # images whose targets and predictions TensorBoard shows


@dataclass
class Validation:
    """The validation split, and all that it takes to measure a network on it. A signal cuts each measurement short.

    index: of the split. files: its annotation files. detector: with the network that is trained. images: how many the
    loss is taken over, 0 for all; batch: how many at a time.
    """

    index: CocoIndex
    files: list[Path]
    detector: Detector
    objective: Objective | AnchorObjective
    images: int
    batch: int
    group: Group
    log: RunLog | NoLog
    signals: Signals

    def loss(self, iteration: int) -> None:
        """Log the loss over the images, unchanged, and pictures. The first process measures, the others wait for it."""
        if self.group.first:
            self._loss(iteration)
        self.group.meet()

    def _loss(self, iteration: int) -> None:
        network, size, device = self.detector.network, self.detector.input_size, self.group.device
        index = self.index.limit(self.images)
        loader = make_loader(
            TrainingSet(index, size, None, 0), validation_batches(len(index), self.batch), 0, 0, device
        )
        try:
            terms = validation_loss(network, self.objective, self._readable(loader, len(index)), device)
        except DataError as error:  # bad validation data is no reason to end training
            self.log.say(f"iteration {iteration}: no validation loss: {error}")
            return
        if terms is None or self.signals.stop is not None:
            return
        self.log.row(iteration, **{f"val_{name}": value for name, value in zip(self.log.terms, terms, strict=True)})
        self.log.say(f"iteration {iteration}: validation loss {terms.total:.4g}")
        for name, picture in draw_predictions(network, self.objective, index.limit(SHOWN), size, device):
            self.group.working()
            self.log.picture(iteration, name, picture)

    def _readable(self, loader: Iterable[Batch], images: int) -> Iterator[Batch]:
        unreadable = UnreadableCount(images)
        for batch in loader:
            if self.signals.stop is not None:
                return
            self.group.working()
            for line in unreadable.add(batch):
                self.log.say(f"validation: {line}")
            yield batch

    def precision(self) -> Evaluation | None:
        """COCO's figures, of what all processes detect; None on those beside the first, and when cut short."""
        self.detector.network.eval()
        self.group.share_buffers(self.detector.network)
        decimals, results = 2 if self.detector.settings.as_published else None, []
        for i, _, found in detect_all(self.detector, self.index, self.group, self._skipped, leave=False):
            if self.signals.stop is not None:
                break
            results += to_results(self.index, i, *found, decimals)
        results = self.group.gather(results)
        stopped, *_ = self.group.counts(self.signals.stop is not None)
        figures = None
        if self.group.first and not stopped:
            figures = evaluate(self.files, results, self.index.image_ids)
        self.group.meet()
        return figures

    def _skipped(self, line: str) -> None:
        self.log.say(f"skipped {line}")


@torch.no_grad()
def validation_loss(
    network: nn.Module, objective: Objective | AnchorObjective, batches: Iterable[Batch], device: torch.device
) -> tuple | None:
    """Mean loss terms (as `objective.terms`) over the batches, in evaluation mode, weighted by their number of images.

    None without any.
    """
    network.eval()
    sums, images = 0, 0
    for batch in batches:
        count = len(batch.images)
        sums = sums + torch.stack(objective(network, batch.to(device))).mean(1) * count
        images += count
    return objective.terms(*(sums / images).tolist()) if images else None
