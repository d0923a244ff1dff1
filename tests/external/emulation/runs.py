"""Runs of tests on the emulated CUDA kernels, each in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.external.emulation.build import ROOT, compiler

# Thread orders and grid sizes under which the kernels are tested
RUNS = {"forward": ("--order", "forward"), "random": ("--order", "random", "--max-blocks", "2")}
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer"
CRASHES = (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS)


def start(*arguments: object, sanitize: bool = False) -> subprocess.Popen:
    """Start `python -m tests.external.emulation` with some arguments. Its stdout and stderr are one pipe of text.

    sanitize: with AddressSanitizer and UBSan, which end the process at the first finding.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if sanitize:
        environment |= {
            "CXXFLAGS": SANITIZERS,
            "LDFLAGS": SANITIZERS,
            "LD_PRELOAD": " ".join(_library(name) for name in ("libasan.so", "libubsan.so")),
            "ASAN_OPTIONS": "detect_leaks=0",
        }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.external.emulation", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finding(process: subprocess.Popen) -> str | None:
    """Wait for a process of `start`. Returns what it found, or None if all tests passed.

    A finding is the name of a failed test, the message with which the process was aborted, or the signal that ended it.

    Raises RuntimeError if the process ended in any other way.
    """
    output, _ = process.communicate()
    message = re.search(r"emulated CUDA, line \d+: (.*)|(AddressSanitizer: \S+)|runtime error: (.*)", output)
    if message:
        return next(text for text in message.groups() if text)
    if process.returncode == 0 and " passed" in output:
        return None
    if process.returncode in CRASHES:  # an access out of bounds
        return signal.Signals(-process.returncode).name
    failed = re.search(r"^FAILED \S+::(\w+)", output, re.MULTILINE)
    if process.returncode != 1 or failed is None:
        raise RuntimeError(f"exit status {process.returncode}:\n{output[-4000:]}")
    return failed[1]


def _library(name: str) -> str:
    """Path of a library of the compiler."""
    done = subprocess.run([*compiler(), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return str(Path(done.stdout.strip()).resolve())
