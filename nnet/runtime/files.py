"""Folders for output: made, locked while a run writes to them, and kept from being overwritten."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import IO

from db import DataError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"


def make_folder(path: Path) -> None:
    """Make a folder for output. Raises DataError if it cannot be made or written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise DataError(f"cannot write to the folder {path} ({error.strerror}): name another with --output") from None


class FolderLock:
    """Keeps other processes from a folder, until `release` or the end of this process, however it ends.

    The lock is one of POSIX's record locks: child processes do not inherit it. File systems without them do not lock.
    Raises DataError if another process holds the lock.
    """

    def __init__(self, folder: Path):
        self.path = folder / LOCK
        self.file: IO[str] | None = None
        if fcntl is None:
            return
        while self.file is None:
            file = open(self.path, "a+", encoding="utf-8")
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise DataError(
                    f"{folder} is in use by {holder}: wait for it, stop it, or name another folder with --output"
                ) from None
            except OSError:  # no locks on this file system
                pass
            with contextlib.suppress(FileNotFoundError):  # else it was released, and removed, in the meantime
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                    self.file = file
        with contextlib.suppress(OSError):  # a full disk: the message has no name then
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()

    def release(self) -> None:
        """Let other processes write to the folder."""
        if self.file is not None:
            self.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.file.close()
            self.file = None


def refuse_other_results(path: Path, checkpoint: Path, iteration: int | None) -> None:
    """Raise DataError if a metrics.json holds the results of another checkpoint, or of another iteration of it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        before, its_iteration = Path(found["checkpoint"]), found["iteration"]
    except (OSError, ValueError, LookupError, TypeError):  # no results, or none of test.py
        return
    if before.absolute() != checkpoint.absolute() or its_iteration != iteration:
        raise DataError(
            f"{path.parent} holds the results of {before}{words(its_iteration)}, not of {checkpoint}"
            f"{words(iteration)}: name another folder with --output, or replace them with --overwrite"
        )


def words(iteration: int | None) -> str:
    return "" if iteration is None else f" after {iteration:,} iterations"
