"""What a script shows: a progress bar, and log messages above it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

LOGGER = "nnet"  # the loggers of all modules are below this one


class ProgressHandler(logging.Handler):
    """Writes messages above the progress bar: to stdout on rank 0, to stderr on the other ranks.

    to_stderr: write to stderr on rank 0 too.
    """

    def __init__(self, rank: int, to_stderr: bool = False):
        super().__init__()
        self.rank = rank
        self.to_stderr = to_stderr or rank > 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Rank 0 shows all messages, the other ranks warnings only."""
        return self.rank == 0 or record.levelno >= logging.WARNING

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr if self.to_stderr else sys.stdout)


def set_up_logging(rank: int = 0, to_stderr: bool = False) -> None:
    """Show the messages of this process, see ProgressHandler. Replaces an earlier set-up."""
    logger = logging.getLogger(LOGGER)
    logger.handlers = [ProgressHandler(rank, to_stderr)]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def warn(texts: Iterable[str]) -> None:
    """Show warnings. With several processes, rank 0 does."""
    for text in texts:
        logging.getLogger(LOGGER).info("warning: %s", text)


def progress_bar(*args: Any, **options: Any) -> tqdm:
    """A progress bar. Where stderr is a file, it is updated every 20 seconds only."""
    return tqdm(*args, dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 20, **options)
