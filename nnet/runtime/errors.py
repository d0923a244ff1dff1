"""Errors that end a run, in words for the user, and their exit codes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

import torch
import torch.distributed as dist

from db import DataError
from models.layers import MissingPackage
from nnet.runtime.checkpoint import CheckpointError
from nnet.runtime.memory import out_of_cpu_memory

RUN_FAILED, BAD_INPUT = 1, 2


class RunError(RuntimeError):
    """A run has to stop. The message says why and what to do."""


def exit_code(main: Callable[[], int | None], *bad_input: type[Exception]) -> int:
    """Run `main` and return its exit code.

    Bad input becomes one line on stderr and exit code 2. A run that had to stop becomes one line and exit code 1. A
    fault of the program keeps its traceback.

    Args:
        bad_input: further exceptions that mean bad input.
    """
    for stream in (sys.stdout, sys.stderr):
        # File names may have bytes that are not text, and terminals may lack characters
        with suppress(AttributeError, ValueError, OSError):
            stream.reconfigure(errors="backslashreplace")
    try:
        return main() or 0
    except (DataError, CheckpointError, MissingPackage, *bad_input) as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # all processes of a torchrun report the same error
            print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        reason = stopping_reason(error)
        if reason is None:
            raise
        print(f"error: {reason}", file=sys.stderr)
        return RUN_FAILED


def loading_failed(split: str, reason: str) -> str:
    """Why a worker did not give a batch, for the user."""
    full = "; /dev/shm, which the workers share with this process, is full" * ("No space left" in reason)
    return (
        f"loading {split} data failed: {reason}{full}. A worker that was killed has often run out of memory (try fewer "
        "train.workers); one that timed out waits for its disk (train.worker_timeout)"
    )


def stopping_reason(error: Exception) -> str | None:
    """What ended a run, for the user. None if the error is a fault of the program."""
    text = str(error).strip()
    if isinstance(error, (DataError, RunError, OSError)):
        return text
    last = (text.splitlines() or ["unknown"])[-1].rstrip(".")
    if out_of_cpu_memory(error):
        return (
            f"out of memory ({last or type(error).__name__}): in training, make the numbers in train.batch smaller "
            "(and more of them), or try fewer train.workers, train.checkpointing or train.precision=bfloat16; in "
            "testing, try test.resize=fit, or smaller test.scales"
        )
    if isinstance(error, torch.OutOfMemoryError):
        return (
            f"out of GPU memory ({last}): make the numbers in train.batch smaller (and more of them), or try "
            "train.checkpointing or train.precision=bfloat16"
        )
    if "DataLoader" in text:
        return loading_failed("training", last)
    of_gloo = any(word in text.lower() for word in ("gloo", "timed out", "connection closed", "connection reset"))
    if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and of_gloo):
        return (
            "another process of this run has ended, never started, or has not answered for as long as "
            f"runtime.collective_timeout: {last}"
        )
    return None
