"""The device, the CPU threads and the memory that a process uses."""

from __future__ import annotations

import ctypes
import platform

import torch

from db import DataError
from nnet.runtime.options import RuntimeOptions
from nnet.runtime.threads import available_cores


def choose_device(name: str) -> torch.device:
    """The device of this name: "cpu", "cuda", or "auto" (CUDA if available). DataError if CUDA is unavailable."""
    if name == "cuda" and not torch.cuda.is_available():
        built = "finds no GPU" if torch.version.cuda else "is built for the CPU alone"
        raise DataError(f"runtime.device is cuda, but this PyTorch ({torch.__version__}) {built}: use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory instead of returning it to the system. Returns whether it does.

    Otherwise every new tensor of 32 MB or more takes page faults again, which cost several times as much as filling it
    (docs/performance.md). A process keeps the maximum that it has used at a time, plus fragmentation. PyTorch's CUDA
    allocator keeps freed memory anyway.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # from malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(*option) == 1 for option in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 2**26)))


def set_up_backends(options: RuntimeOptions) -> None:
    """Set PyTorch's CPU threads, TF32 and the handling of freed memory for this process."""
    keep_freed_memory()
    # PyTorch's own number respects OMP_NUM_THREADS, which torchrun sets, but not the container's CPU quota.
    torch.set_num_threads(options.threads or min(torch.get_num_threads(), available_cores()))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
