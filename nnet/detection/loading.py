"""A family with the weights of a checkpoint, for the categories of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from db import AnnotationIndex, DataError, inspect_annotations
from nnet.families.base import Family
from nnet.runtime import checkpoint
from nnet.runtime.console import warn
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


def load_checkpoint(path: Path, config: Mapping[str, Any], index: AnnotationIndex, source: str) -> dict[str, Any]:
    """The content of a checkpoint of the config's network and the index's categories.

    Args:
        config: all options, as nested dicts. source: where the index comes from, for messages.

    Raises:
        CheckpointError: damaged, or of another network.
        DataError: the categories differ.
    """
    state = checkpoint.load(path)
    if "categories" in state:
        with checkpoint.taking("categories", path):
            same_categories(index, *state["categories"], f"the network of {path}", source)
    checkpoint.changed_options(state, config, path)
    return state


def load_weights(family: Family, state: Mapping[str, Any], path: Path, channels_last: bool) -> None:
    """Copy the weights of a checkpoint into the network. Raises CheckpointError."""
    checkpoint.load_weights(family.network, state["model"], path)
    family.network.to(memory_format=layout(channels_last))
