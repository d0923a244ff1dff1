"""Folders for output."""

import tempfile
from pathlib import Path

from db import DataError


def make_folder(path: Path) -> None:
    """Make a folder for output. Raises DataError if it cannot be made or written to."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise DataError(f"cannot write to the folder {path} ({error.strerror}): name another with --output") from None
