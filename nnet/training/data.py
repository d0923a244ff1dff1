"""The data of a run, and the messages about it before the run starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from db import AnnotationIndex, DataError, DataOptions, load_split
from nnet.detection.loading import report_suspicions, same_categories
from nnet.runtime.distributed import Group
from nnet.training.options import TrainOptions


def load_training_data(data: DataOptions, options: TrainOptions) -> tuple[AnnotationIndex, AnnotationIndex | None]:
    """The training split, and the validation split if the run measures something on it. Raises DataError."""
    index = load_split(data, "train")
    report_suspicions(index, "data.train", training=True)
    if not (options.validate_every or options.ap_every):
        return index, None
    val_index = load_split(data, "val")
    report_suspicions(val_index, "data.val")
    same_categories(val_index, index.category_ids, index.category_names, "data.train", "data.val")
    if options.ap_every and not len(val_index.boxes):
        raise DataError(
            "data.val has no objects to measure an AP on: set train.ap_every=0, or use annotations with boxes"
        )
    return index, val_index


def check_batch_norm(network: nn.Module, batch: Sequence[int], input_size: Sequence[int]) -> None:
    """Raise DataError where a micro-batch has too few values for BatchNorm at the bottom of the network."""
    if min(batch) == 1 and all(n <= network.divisor for n in input_size):
        raise DataError(
            f"data.input_size {list(input_size)} leaves one cell at the bottom of the network, too few for the "
            "BatchNorm statistics of a micro-batch of one image: use larger images, or larger numbers in train.batch"
        )


def summary(
    network: nn.Module, index: AnnotationIndex, iterations: int, batch: Sequence[int], group: Group, output: Path
) -> str:
    """The size of the network, of the data and of the run, in one line."""
    parameters = sum(p.numel() for p in network.parameters())
    return (
        f"{parameters:,} parameters, {index.num_classes} classes, {len(index):,} images with {len(index.boxes):,} "
        f"objects; {iterations:,} iterations of {sum(batch)} images on {group.size} x {group.device.type}; "
        f"output in {output}"
    )
