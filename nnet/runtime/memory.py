"""Memory that this process may use, and out-of-memory errors."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from nnet.runtime.threads import ROOT, cgroup_folders

GIGABYTE = 1e9
# Files of a cgroup: limit and use, for v2 and v1; and the name of reclaimable page cache in memory.stat.
CGROUP_FILES = [
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
]


def available_memory(root: Path = ROOT) -> float:
    """Bytes that the process can still allocate: MemAvailable, limited by the cgroup of the process and its parents.

    Infinity where the system does not tell. `root`: folder that holds `proc` and `sys`.
    """
    available = [math.inf]
    with suppress(OSError, ValueError, KeyError):
        available.append(_table(root / "proc/meminfo")["MemAvailable:"] * 1024)
    for folder in cgroup_folders("memory", root):
        for limit, usage, cache in CGROUP_FILES:
            with suppress(OSError, ValueError):  # no such file, or no limit
                free = int((folder / limit).read_text()) - int((folder / usage).read_text())
                available.append(free + _table(folder / "memory.stat").get(cache, 0))
    return max(0, min(available))


def out_of_cpu_memory(error: Exception) -> bool:
    """Whether PyTorch, NumPy, OpenCV or Python lacked memory. PyTorch says so in the text of a RuntimeError."""
    said = "DefaultCPUAllocator", "Insufficient memory", "Cannot allocate memory"
    return isinstance(error, MemoryError) or (
        not isinstance(error, OSError) and any(text in str(error) for text in said)
    )


def _table(path: Path) -> dict[str, int]:
    """Numbers of a file by the word at the start of their line."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
