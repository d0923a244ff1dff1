"""Errors that end a run: in words for the user, and as exit codes."""

import signal

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist

from db import DataError
from models.layers import MissingPackage
from nnet.runtime.checkpoint import CheckpointError
from nnet.runtime.errors import RunError, exit_code, stopping_reason


@pytest.mark.parametrize(
    "error, said",
    [
        (DataError("no such file"), "no such file"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "train.batch smaller"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."), "train.workers"),
        (RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), "another process of this run"),
        (dist.DistStoreError("Timed out after 4 seconds waiting for clients. 1/2 clients joined."), "never started"),
    ],
)
def test_what_ended_a_run_in_words(error, said):
    assert said in stopping_reason(error)


HUGE = 2**46  # bytes


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(HUGE, dtype=torch.uint8),
        lambda: np.ones(HUGE, np.uint8),
        lambda: bytearray(HUGE),
        lambda: cv2.resize(np.zeros((1, 1, 3), np.uint8), (2**30, 2**17)),
    ],
    ids=["PyTorch", "NumPy", "Python", "OpenCV"],
)
def test_too_little_memory_is_one_line(allocate, capsys):
    assert exit_code(allocate) == 1
    assert capsys.readouterr().err.startswith("error: out of memory (")


def test_names_that_are_not_text_are_shown(capsys):
    def fail():
        print("skipped a\udcff.jpg")
        raise DataError("b\udcff.jpg: no such file")

    assert exit_code(fail) == 2
    out, err = capsys.readouterr()
    assert out == "skipped a\\udcff.jpg\n" and err == "error: b\\udcff.jpg: no such file\n"


def test_a_fault_of_the_program_keeps_its_traceback():
    assert stopping_reason(RuntimeError("shape mismatch")) is None
    assert stopping_reason(KeyError("timed out")) is None


def raising(error):
    def main():
        raise error

    return main


class Special(Exception):
    """Bad input of a script."""


@pytest.mark.parametrize(
    "error, code, message",
    [
        (DataError("no such file"), 2, "error: no such file"),
        (CheckpointError("damaged"), 2, "error: damaged"),
        (MissingPackage("torchvision"), 2, "error: torchvision"),
        (Special("train.lr"), 2, "error: train.lr"),
        (RunError("diverged"), 1, "error: diverged"),
        (OSError(28, "No space left on device"), 1, "error: [Errno 28] No space left on device"),
        (KeyboardInterrupt(), 128 + signal.SIGINT, "interrupted"),
    ],
)
def test_exit_codes(error, code, message, capsys):
    assert exit_code(raising(error), Special) == code
    assert capsys.readouterr().err == message + "\n"


def test_exit_code_of_a_script(capsys):
    assert [exit_code(lambda value=value: value) for value in (None, 0, 143)] == [0, 0, 143]
    with pytest.raises(RuntimeError, match="shape mismatch"):
        exit_code(raising(RuntimeError("shape mismatch")))
    with pytest.raises(Special):  # unless the script names it as bad input
        exit_code(raising(Special()))


def test_bad_input_is_reported_by_the_first_process_of_a_machine(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert exit_code(raising(DataError("no such file"))) == 2
    assert capsys.readouterr().err == ""
