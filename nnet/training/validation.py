"""Measurements on the validation split while a network trains: loss, pictures, COCO figures."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import nn

from db import AnnotationIndex, DataError, Evaluation, evaluate
from nnet.detection.detector import Detector
from nnet.detection.images import detect_images
from nnet.runtime.distributed import Group
from nnet.runtime.errors import RunError, loading_failed
from nnet.runtime.signals import Signals
from nnet.training.faults import UnreadableCount
from nnet.training.metrics import MetricsLog, NoLog
from nnet.training.monitoring import draw_predictions
from nnet.training.step import Objective
from sample.dataset import Batch, TrainingSet
from sample.loader import make_loader
from sample.order import validation_batches

logger = logging.getLogger(__name__)

SHOWN = 4  # images whose targets and predictions are shown in TensorBoard


@dataclass
class Validation:
    """The validation split, and what it takes to measure a network on it. A signal cuts a measurement short.

    Attributes:
        index: of the split.
        detector: with the network that is trained.
        images: number of images that the loss is taken over, 0 for all. batch: images at a time.
        workers: data loading processes of the training; one loads for the loss if there are any. timeout: seconds that
            it may need for a batch.
    """

    index: AnnotationIndex
    detector: Detector
    objective: Objective
    images: int
    batch: int
    group: Group
    log: MetricsLog | NoLog
    signals: Signals
    workers: int = 0
    timeout: float = 0

    def loss(self, iteration: int) -> None:
        """Log the loss on the unaugmented images, and pictures. Rank 0 measures, the other ranks wait for it."""
        if self.group.first:
            self._loss(iteration)
        self.group.barrier()

    def _loss(self, iteration: int) -> None:
        size, device = self.detector.input_size, self.group.device
        index = self.index.limit(self.images)
        batches = validation_batches(len(index), self.batch)
        samples = TrainingSet(index, size, None, 0)
        try:
            with closing(iter(make_loader(samples, batches, min(1, self.workers), self.timeout, device))) as loader:
                terms = validation_loss(self.objective, self._readable(loader, len(index)), device)
        except DataError as error:  # bad validation data does not end the training
            logger.warning("iteration %d: no validation loss: %s", iteration, error)
            return
        except RuntimeError as error:
            if "DataLoader" in str(error) and self.signals.stop is None:
                raise RunError(loading_failed("validation", str(error).splitlines()[-1].rstrip("."))) from error
            raise
        if terms is None or self.signals.stop is not None:
            return
        self.log.row(iteration, **{f"val_{name}": value for name, value in terms._asdict().items()})
        logger.info("iteration %d: validation loss %.4g", iteration, terms.loss)
        for name, picture in draw_predictions(self.objective, index.limit(SHOWN), size, device):
            self.group.report_progress()
            self.log.picture(iteration, name, picture)

    def _readable(self, loader: Iterable[Batch], images: int) -> Iterator[Batch]:
        """The batches until a signal asks to stop. Unreadable images are reported."""
        unreadable = UnreadableCount(images)
        for batch in loader:
            if self.signals.stop is not None:
                return
            self.group.report_progress()
            for line in unreadable.add(batch):
                logger.warning("validation: %s", line)
            yield batch

    def precision(self) -> Evaluation | None:
        """COCO figures of the detections of all processes. None on the non-zero ranks, and when cut short."""
        self.detector.family.network.eval()
        self.group.share_buffers(self.detector.family.network)
        results = []
        detected = detect_images(
            self.detector, self.index, self.group, self._skipped, leave=False, stopped=self._stopped
        )
        for image in detected:
            results += image.results
        results = self.group.gather(results)
        stopped, *_ = self.group.sum_counts(self.signals.stop is not None)
        figures = None
        if self.group.first and not stopped:
            figures = evaluate(self.index, results)
        self.group.barrier()
        return figures

    def _stopped(self) -> bool:
        return self.signals.stop is not None

    @staticmethod
    def _skipped(message: str) -> None:
        logger.warning("skipped %s", message)


@torch.no_grad()
def validation_loss(objective: Objective, batches: Iterable[Batch], device: torch.device) -> tuple | None:
    """Mean loss terms over the batches, in evaluation mode, weighted by their number of images. None without
    batches."""
    network: nn.Module = objective.family.network
    network.eval()
    sums, images = 0, 0
    for batch in batches:
        count = len(batch.images)
        sums = sums + torch.stack(objective(network, batch.to(device))).mean(1) * count
        images += count
    return objective.family.Terms(*(sums / images).tolist()) if images else None
