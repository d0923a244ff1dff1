"""The checkpoints of one run: which are written, which are kept, and which one a run goes on from."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from db import DataError
from nnet import checkpoint
from nnet.checkpoint import CheckpointError

PATTERN = "[0-9]" * 8 + ".pt"
STATE = {"iteration", "model", "optimizer", "scaler", "window", "random", "config", "categories"}  # of a run


class Snapshots:
    """Checkpoints in `folder`: NNNNNNNN.pt after so many iterations, last.pt the newest, best.pt that of the best AP.

    keep: how many of the newest are kept. keep_every: those of multiples of this iteration stay as well; 0 for none.

    Attributes:
        saved: the iteration of last.pt, 0 without one.
        failure: why the last attempt to save failed, if it did.
        best: the validation AP of best.pt, -1 without one.
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

    def newest(self) -> Path | None:
        """The checkpoint of the most iterations in the folder; None without one.

        That is last.pt, unless the run was killed between writing a snapshot and letting last.pt be it.
        """
        numbered = sorted(self.folder.glob(PATTERN))
        return numbered[-1] if numbered else self.last if self.last.exists() else None

    def find(self, resume: str | None) -> tuple[Path, dict[str, Any]] | None:
        """Path and content of the checkpoint to go on from; None to begin anew.

        resume: None for a new run, whose folder has to be without one; "" for the newest of the folder, where there is
        one; else a path. Raises DataError and CheckpointError.
        """
        newest = self.newest()
        if resume is None:
            if newest:
                raise DataError(
                    f"{self.folder} holds a run already: go on with --resume, or name another folder with --output"
                )
            return None
        path = Path(resume) if resume else newest
        if path is None:
            return None
        if newest and path.resolve().parent != self.folder.resolve():
            raise DataError(f"{self.folder} holds another run than {path}: name another folder with --output")
        state = checkpoint.load(path)
        if "optimizer" not in state:
            raise CheckpointError(f"checkpoint {path} holds weights alone: begin with them by --init, not --resume")
        if missing := sorted(STATE - state.keys()):
            raise CheckpointError(
                f"checkpoint {path} is of another version, which kept no {', '.join(missing)}: begin with its weights "
                "by --init, not --resume"
            )
        self.resumed, self.start = path, state["iteration"]
        return path, state

    def clear(self) -> list[str]:
        """Remove what is not of the run that begins now, or goes on from what was found.

        That is files that were being written, later snapshots, and a best.pt of a later iteration; last.pt becomes what
        was found, if that is in the folder. Returns the names of the snapshots removed.
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
        if later and best.exists() and torch.load(best, mmap=True, weights_only=True)["iteration"] > self.start:
            later.append(best)
        for file in later:
            file.unlink()
        return [file.name for file in later]

    def save(self, state: dict[str, Any], working: Callable[[], None] = lambda: None) -> bool:
        """Write the snapshot of state["iteration"], let last.pt be it, and remove old ones.

        Whenever this is interrupted, each of the files is whole, the old one or the new one. False, with the reason in
        `failure`, where it cannot be written. working: called again and again meanwhile.
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
        """Let best.pt be this iteration's snapshot, the newest, if its validation AP is the best. Raises OSError."""
        if precision > self.best and self.saved == iteration:
            replace_by_link(self.last, self.folder / "best.pt")
            self.best = precision


def replace_by_link(path: Path, name: Path) -> None:
    """Let `name` be another name of the file at `path`, or a copy where there are no hard links; at no moment half."""
    partial = name.with_name(f".{name.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(path, partial)
    except OSError:
        shutil.copyfile(path, partial)
    os.replace(partial, name)
    partial.unlink(missing_ok=True)  # still there where `name` was another name of the file already
