"""The checkpoints of one run: which are written, which are kept, and which one a run goes on from."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from db import DataError
from nnet import checkpoint
from nnet.checkpoint import CheckpointError

PATTERN = "[0-9]" * 8 + ".pt"


class Snapshots:
    """Checkpoints in `folder`: NNNNNNNN.pt after so many iterations, last.pt the newest, best.pt that of the best AP.

    keep: how many of the newest are kept. keep_every: those of multiples of this iteration stay as well; 0 for none.
    """

    def __init__(self, folder: Path, keep: int, keep_every: int = 0):
        self.folder = folder
        self.keep = keep
        self.keep_every = keep_every
        self.last = folder / "last.pt"

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
        return path, state

    def clear(self, start: int, resumed: Path | None) -> list[str]:
        """Remove what is not of a run that goes on from the checkpoint `resumed` of iteration `start`.

        That is files that were being written, later snapshots, and a best.pt of a later iteration; last.pt becomes
        `resumed`. Returns the names of the snapshots removed.
        """
        for file in self.folder.glob(".*.partial"):
            file.unlink()
        if resumed is None:
            return []
        if resumed.resolve().parent == self.folder.resolve() and resumed.resolve() != self.last.resolve():
            replace_by_link(resumed, self.last)
        later = [file for file in sorted(self.folder.glob(PATTERN)) if int(file.stem) > start]
        best = self.folder / "best.pt"
        if later and best.exists() and torch.load(best, mmap=True, weights_only=True)["iteration"] > start:
            later.append(best)
        for file in later:
            file.unlink()
        return [file.name for file in later]

    def save(self, state: dict[str, Any]) -> None:
        """Write the snapshot of state["iteration"], let last.pt be it, and remove old ones.

        Whenever this is interrupted, each of the files is whole, the old one or the new one. Raises OSError.
        """
        path = self.path(state["iteration"])
        checkpoint.save(path, state)
        replace_by_link(path, self.last)
        for file in sorted(self.folder.glob(PATTERN))[: -self.keep]:
            if not (self.keep_every and int(file.stem) % self.keep_every == 0):
                file.unlink()

    def mark_best(self, iteration: int) -> None:
        """Let best.pt be the snapshot of this iteration. Raises OSError."""
        replace_by_link(self.path(iteration), self.folder / "best.pt")

    def path(self, iteration: int) -> Path:
        return self.folder / f"{iteration:08d}.pt"


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
