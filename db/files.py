"""Reading files whose names come from others, so that no name makes the reader wait or fills the memory; and writing
files atomically."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path

LIMIT = 2**32  # bytes: no file that is read whole is larger


def read_bytes(path: str | os.PathLike, limit: int = LIMIT) -> bytes:
    """The content of a regular file.

    A FIFO would make the reader wait for a writer, and a device such as /dev/zero has no end. They are refused.

    Args:
        limit: largest size in bytes.

    Raises:
        OSError: there is no such file, it is no regular file, it is too large, or it cannot be read. `strerror` is the
            reason.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL in the name, or a character that the file system cannot encode
        raise OSError(errno.EINVAL, f"not a file name: {error}") from None
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        if found.st_size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit:,} bytes")
        return file.read()


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8. Raises OSError; the old file is then unchanged."""
    partial = partial_of(path)
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """Name of an unfinished file beside `path`, which replaces it when it is complete.

    No other call gives the same name, so that two processes that write the same file leave a whole one.
    """
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.partial")
