"""The checkpoints of a run: which are written, which are kept, and which one a run resumes from."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from db import DataError
from db.files import partial_of
from nnet.runtime import checkpoint
from nnet.runtime.checkpoint import CheckpointError

logger = logging.getLogger(__name__)

PATTERN = "[0-9]" * 8 + ".pt"
STATE = {
    "iteration",
    "model",
    "optimizer",
    "scaler",
    "window",
    "random",
    "config",
    "categories",
}  # parts of a checkpoint


class Snapshots:
    """Checkpoints in `folder`: NNNNNNNN.pt by iteration, last.pt the newest, best.pt the one with the best AP.

    Args:
        keep: number of newest checkpoints to keep.
        keep_every: checkpoints of multiples of this iteration are kept too. 0: none.

    Attributes:
        saved: iteration of last.pt, 0 without one.
        failure: why the last attempt to save failed, if it did.
        best: validation AP of best.pt, -1 without one.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int = 0):
        self.folder = folder
        self.keep = keep
        self.keep_every = keep_every
        self.last = folder / "last.pt"
        self.resumed: Path | None = None
        self.start = self.saved = 0
        self.failure: OSError | None = None
        self.best = -1.0
        self.found = stamp(self.newest())

    def newest(self) -> Path | None:
        """The checkpoint with the most iterations in the folder. None without one.

        That is last.pt, unless the run was killed after writing a checkpoint and before linking last.pt to it.
        """
        numbered = sorted(self.folder.glob(PATTERN))
        return numbered[-1] if numbered else self.last if self.last.exists() else None

    def find(self, resume: str | None) -> tuple[Path, dict[str, Any]] | None:
        """Path and content of the checkpoint to resume from. None: a new run.

        resume: None for a new run, whose folder must not contain one; "" for the newest of the folder, where there is
        one; else a path. Raises DataError and CheckpointError.
        """
        newest = self.newest()
        self.found = stamp(newest)
        if resume is None:
            if newest:
                raise DataError(
                    f"{self.folder} holds a run already: resume it with --resume, or name another folder with --output"
                )
            return None
        path = Path(resume) if resume else newest
        if path is None:
            return None
        if newest and path.resolve().parent != self.folder.resolve():
            raise DataError(f"{self.folder} holds another run than {path}: name another folder with --output")
        state = checkpoint.load(path)
        if "optimizer" not in state:
            raise CheckpointError(f"checkpoint {path} holds weights alone: start from them with --init, not --resume")
        if missing := sorted(STATE - state.keys()):
            raise CheckpointError(
                f"checkpoint {path} is of another version, which stored no {', '.join(missing)}: start from its "
                "weights with --init, not --resume"
            )
        self.resumed, self.start = path, state["iteration"]
        return path, state

    def check_unchanged(self) -> None:
        """Raise DataError if another run has written a checkpoint to the folder since `find`."""
        if stamp(self.newest()) != self.found:
            raise DataError(
                f"{self.folder}: another run has written to it in the meantime: resume that run with --resume, or name "
                "another folder with --output"
            )

    def clear(self) -> list[str]:
        """Remove what does not belong to the run that starts, or resumes from the checkpoint that was found.

        That is partial files, checkpoints of later iterations, and a best.pt of a later iteration. last.pt becomes the
        checkpoint that was found, if that lies in the folder. Returns the names of the removed checkpoints.
        """
        for file in self.folder.glob(".*.partial"):
            file.unlink()
        if self.resumed is None:
            return []
        if self.resumed.resolve().parent == self.folder.resolve():
            if self.resumed.resolve() != self.last.resolve():
                replace_by_link(self.resumed, self.last)
            self.saved = self.start
        later = [file for file in sorted(self.folder.glob(PATTERN)) if int(file.stem) > self.start]
        best = self.folder / "best.pt"
        if later and best.exists() and iteration_of(best) > self.start:
            later.append(best)
        for file in later:
            file.unlink()
        return [file.name for file in later]

    def save(self, state: dict[str, Any], working: Callable[[], None] = lambda: None) -> bool:
        """Write the checkpoint of state["iteration"], link last.pt to it, and remove old ones.

        All files are replaced atomically. working: called regularly while writing.

        Returns:
            Whether it was written. If not, `failure` is the reason.
        """
        path = self.folder / f"{state['iteration']:08d}.pt"
        try:
            checkpoint.save(path, state, working)
            replace_by_link(path, self.last)
            self.saved = state["iteration"]
            for file in sorted(self.folder.glob(PATTERN))[: -self.keep]:
                if not (self.keep_every and int(file.stem) % self.keep_every == 0):
                    file.unlink()
        except OSError as error:
            self.failure = error
        return self.saved == state["iteration"]

    def keep_best(self, iteration: int, precision: float) -> None:
        """Link best.pt to the checkpoint of this iteration, the newest, if its AP is the best. Raises OSError."""
        if precision > self.best and self.saved == iteration:
            replace_by_link(self.last, self.folder / "best.pt")
            self.best = precision


def stamp(path: Path | None) -> tuple[Path, int] | None:
    """What changes when a checkpoint is written: its path and its time."""
    return path and (path, path.stat().st_mtime_ns)


def iteration_of(path: Path) -> int:
    """Iteration of a checkpoint, without reading all of it. -1 for one that is damaged."""
    try:
        iteration = torch.load(path, map_location="cpu", mmap=True, weights_only=True)["iteration"]
        return iteration if type(iteration) is int else -1
    except Exception as error:  # a damaged file raises many kinds
        logger.warning("%s cannot be read, and stays as it is: %s", path, error)
        return -1


def replace_by_link(path: Path, name: Path) -> None:
    """Make `name` a hard link to the file at `path`, or a copy where there are no hard links. Atomic."""
    partial = partial_of(name)
    try:
        os.link(path, partial)
    except OSError:
        shutil.copyfile(path, partial)
    os.replace(partial, name)
    partial.unlink(missing_ok=True)  # os.replace leaves it where `name` was a link to the file already
