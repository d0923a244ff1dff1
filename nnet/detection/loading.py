"""A detector with the weights of a checkpoint, for the categories of a data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from db import AnnotationIndex, DataError, inspect_annotations
from nnet.detection.detector import Detector
from nnet.families import build_family
from nnet.families.base import Family
from nnet.families.exported import ExportedFamily, check_options
from nnet.runtime import checkpoint
from nnet.runtime.console import warn
from nnet.runtime.exported import is_exported, open_exported
from nnet.runtime.precision import layout


def same_categories(index: AnnotationIndex, ids: Sequence[int], names: Sequence[str], whose: str, source: str) -> None:
    """Raise DataError unless the index has these categories.

    Args:
        whose: what has the categories, for the message. source: where the index comes from.
    """
    if (tuple(index.category_ids), tuple(index.category_names)) == (tuple(ids), tuple(names)):
        return
    own, theirs = dict(zip(ids, names, strict=True)), dict(zip(index.category_ids, index.category_names, strict=True))
    differing = sorted(i for i in own.keys() | theirs.keys() if own.get(i) != theirs.get(i))
    example = "; ".join(f"id {i}: {own.get(i, 'none')!r} against {theirs.get(i, 'none')!r}" for i in differing[:5])
    raise DataError(
        f"{source} lists other categories than {whose} ({len(differing)} differ: {example}): use annotations with the "
        "same category ids and names"
    )


def report_suspicions(index: AnnotationIndex, split: str, training: bool = False) -> None:
    """Log what looks wrong in the annotations. Raises DataError if the network cannot be trained on them."""
    warn(f"{split}: {text}" for text in inspect_annotations(index, training))


def read_network(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, or of an exported network: then the file itself is under "exported".

    Raises CheckpointError and MissingPackage.
    """
    if not is_exported(path):
        return checkpoint.load(path)
    file = open_exported(path)
    return file.state | {"exported": file}


def build_detector(
    state: Mapping[str, Any], path: Path, config: Any, classes: int, device: torch.device, truth: Collection[str] = ()
) -> Detector:
    """The detector of a config (configs.Config) with the weights of a checkpoint, or with an exported network.

    Args:
        state: of read_network or load_checkpoint. path: where it was read from, for messages.
        truth: names of the predictions that the annotation replaces.

    Raises:
        CheckpointError: the weights are of another network, or an export has fixed other options than the config's.
        UnpredictedTruth: the network does not predict `truth`.
    """
    family = load_family(state, path, config, classes)
    return Detector(family, config.test, config.data.input_size, device, truth)


def load_family(state: Mapping[str, Any], path: Path, config: Any, classes: int) -> Family:
    """The family of a detector, see build_detector."""
    if "exported" in state:
        check_options(state["exported"], config.test)
        return ExportedFamily(state["exported"])
    family = build_family(classes, config.model, config.penalty, config.loss)
    load_weights(family, state, path, config.test.channels_last)
    return family


def load_checkpoint(path: Path, config: Mapping[str, Any], index: AnnotationIndex, source: str) -> dict[str, Any]:
    """The content of a checkpoint of the config's network and the index's categories. See read_network.

    Args:
        config: all options, as nested dicts. source: where the index comes from, for messages.

    Raises:
        CheckpointError: damaged, or of another network.
        DataError: the categories differ.
    """
    state = read_network(path)
    if "categories" in state:
        with checkpoint.taking("categories", path):
            same_categories(index, *state["categories"], f"the network of {path}", source)
    checkpoint.changed_options(state, config, path)
    return state


def load_weights(family: Family, state: Mapping[str, Any], path: Path, channels_last: bool) -> None:
    """Copy the weights of a checkpoint into the network. Raises CheckpointError."""
    checkpoint.load_weights(family.network, checkpoint.tested_weights(state), path)
    family.network.to(memory_format=layout(channels_last))
