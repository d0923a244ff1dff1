"""What train.py and test.py share."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from nnet import experiment

HEAP = """
import ctypes
from nnet.experiment import keep_freed_memory
assert keep_freed_memory()
c = ctypes.CDLL(None)
c.sbrk.restype = c.malloc.restype = ctypes.c_void_p
c.sbrk.argtypes, c.malloc.argtypes, c.free.argtypes = [ctypes.c_ssize_t], [ctypes.c_size_t], [ctypes.c_void_p]
blocks = [c.malloc(2**26) for _ in range(50)]  # not touched: they take no memory
full = c.sbrk(0)
for block in reversed(blocks):
    c.free(block)
print(full - c.sbrk(0), any(block > full for block in blocks))
"""


def test_freed_memory_is_kept() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("not glibc")
    root = Path(experiment.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", HEAP], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "False"]  # 3 GB stay with the process, and lie on its heap


def test_other_c_libraries_are_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(experiment.platform, "libc_ver", lambda: ("", ""))
    assert experiment.keep_freed_memory() is False
