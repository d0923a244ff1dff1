"""The device, the threads and the memory of a process."""

import platform
import subprocess
import sys

import pytest
import torch

from db import DataError
from nnet.runtime import devices
from nnet.runtime.options import RuntimeOptions

HEAP = """
import ctypes
from nnet.runtime.devices import keep_freed_memory
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


def test_freed_memory_is_kept(repository) -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("not glibc")
    done = subprocess.run([sys.executable, "-c", HEAP], cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "False"]  # 3 GB stay with the process, and lie on its heap


def test_other_c_libraries_are_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(devices.platform, "libc_ver", lambda: ("", ""))
    assert devices.keep_freed_memory() is False


def test_device_by_name(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [str(devices.choose_device(name)) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(DataError, match="runtime.device is cuda, but this PyTorch .*: use auto or cpu"):
        devices.choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [devices.choose_device(name).type for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]


@pytest.fixture
def backends(monkeypatch):
    """Records the threads that are set, and restores the flags of TF32."""
    threads = []
    monkeypatch.setattr(devices, "keep_freed_memory", lambda: True)
    monkeypatch.setattr(devices, "available_cores", lambda: 5)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield threads
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("wanted, own, threads", [(3, 8, 3), (0, 8, 5), (0, 1, 1)])
def test_threads(backends, monkeypatch, wanted, own, threads) -> None:
    """PyTorch's own number, which respects OMP_NUM_THREADS, and the cores that the process may use: the smaller one."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: own)
    devices.set_up_backends(RuntimeOptions(threads=wanted))
    assert backends == [threads]


@pytest.mark.parametrize("wanted", [True, False])
def test_tf32(backends, wanted) -> None:
    devices.set_up_backends(RuntimeOptions(tf32=wanted))
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (wanted, wanted)
