"""What a run starts from: fresh weights, the weights of another run (--init), or a checkpoint (--resume)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from db import AnnotationIndex, DataError
from nnet.detection.loading import same_categories
from nnet.runtime import checkpoint
from nnet.runtime.distributed import Group
from nnet.training.metrics import Window
from nnet.training.snapshots import Snapshots
from nnet.training.step import UpdateStep

logger = logging.getLogger(__name__)


class Start(NamedTuple):
    """Where a run starts.

    iteration: number of updates that are done. random: state of the random generators after them; None for a new run.
    """

    iteration: int = 0
    random: dict[str, Tensor] | None = None


def start_from(
    resume: str | None,
    init: Path | None,
    config: Mapping[str, Any],
    index: AnnotationIndex,
    update: UpdateStep,
    window: Window,
    snapshots: Snapshots,
    group: Group,
) -> Start:
    """Load what --resume or --init ask for. Nothing is written.

    Args:
        resume: path of a checkpoint; "" for the newest one of the run's folder; None without --resume.
        init: path of a checkpoint whose weights are used where they fit.
        config: all options, as nested dicts.

    Raises:
        DataError, CheckpointError: the checkpoint is unusable or does not fit, or the folder holds another run.
    """
    start, messages = Start(), []
    if found := snapshots.find(resume):
        start, messages = resume_from(*found, config, index, update, window)
    elif init:
        left_out = checkpoint.load_what_fits(update.network, checkpoint.tested_weights(checkpoint.load(init)), init)
        messages = [f"left out of {init}, and initialised instead: {'; '.join(left_out)}"] if left_out else []
    elif resume is not None:
        messages = [f"no checkpoint in {snapshots.folder}: starting a new run"]
    total, squares = group.sum_counts(start.iteration, start.iteration**2)
    if squares * group.size != total**2:  # the iterations of the processes have a variance
        raise DataError(
            f"the processes found different checkpoints: {snapshots.folder} must be on storage shared by all processes"
        )
    for message in messages:
        logger.info(message)
    return start


def resume_from(
    path: Path,
    state: Mapping[str, Any],
    config: Mapping[str, Any],
    index: AnnotationIndex,
    update: UpdateStep,
    window: Window,
) -> tuple[Start, list[str]]:
    """Load the state of a checkpoint. Returns also what to report. Raises DataError and CheckpointError."""
    with checkpoint.taking("categories", path):
        same_categories(index, *state["categories"], f"the run of {path}", "data.train")
    changed = checkpoint.changed_options(state, config, path)
    update.load(state, path)
    with checkpoint.taking("window", path):
        sums, terms = state["window"], len(update.objective.family.Terms._fields)
        if sums["steps"] and (sums["terms"].dim() != 2 or len(sums["terms"]) != terms or sums["norm"].dim() != 0):
            raise ValueError(f"expected sums of {terms} loss terms, got {list(sums['terms'].shape)}")
        window.load(sums)
    with checkpoint.taking("random", path):
        torch.Generator().set_state(state["random"]["cpu"])  # it is restored later, see Trainer.load_batches
    messages = [f"resumed from {path} after {state['iteration']} of {config['train']['iterations']} iterations"]
    if changed:
        messages.append(f"with other options than before: {'; '.join(changed)}")
    return Start(state["iteration"], state["random"]), messages


def random_state() -> dict[str, Tensor]:
    """State of PyTorch's random generators, for a checkpoint."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
