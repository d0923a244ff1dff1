"""Number of CPU cores that the process may use.

A container usually sees all cores of its machine, but may use them only for a share of the time: its CPU quota. More
threads than that share are suspended for the rest of each quota period, which slows training down several times.

Each parallel step of PyTorch ends when its last thread is done. GNU OpenMP has the others wait for it by spinning for
many milliseconds, on the core that a suspended thread could use: beside a busy process, steps take several times as
long (docs/performance.md). So the scripts set GOMP_SPINCOUNT to 1000, unless the environment has it: threads sleep
after about 0.1 ms. The variable is read when PyTorch is loaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def available_cores(root: Path = ROOT) -> int:
    """Number of CPU cores that the process may use, at least 1.

    That is the CPU affinity of the process, limited by the CPU quota of its cgroup. A fraction of a core is rounded up.
    Never raises: a limit that cannot be read counts as no limit.

    Args:
        root: folder that holds `proc` and `sys`.
    """
    return max(1, math.ceil(min(_affinity(), cpu_quota(root))))


def cpu_quota(root: Path = ROOT) -> float:
    """Number of cores that the cgroup of the process and its parents allow, as a fraction; infinity without a limit.

    Sources: cgroup v2, `cpu.max`; cgroup v1, `cpu.cfs_quota_us` and `cpu.cfs_period_us` (Linux kernel documentation,
    admin-guide/cgroup-v2 and scheduler/sched-bwc).
    """
    quotas = [math.inf]
    for folder in cgroup_folders("cpu", root):
        for read in (_quota_v2, _quota_v1):
            # No such file, no permission, "max" or -1 (no limit), or content of another form
            with suppress(OSError, ValueError, ZeroDivisionError):
                quotas.append(read(folder))
    return min(quotas)


def cgroup_folders(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """Folders of the cgroup of the process and of its parents, for cgroup v2 and for a controller of cgroup v1.

    A container often sees its own cgroup as the top of the tree, under a path that only the host knows, so that some of
    these folders may not exist.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, _, controllers_and_path = line.partition(":")
        controllers, _, path = controllers_and_path.partition(":")
        if not controllers:  # v2, alone or beside v1
            tops = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            tops = [mounts / controller, mounts / controllers]
        else:
            continue
        # ".." leads out of the cgroup namespace, to what the process cannot see
        below = PurePosixPath(*(name for name in path.split("/") if name not in ("", "..")))
        for top in dict.fromkeys(tops):
            yield from (top / folder for folder in (below, *below.parents))


def _quota_v2(folder: Path) -> float:
    quota, period = (folder / "cpu.max").read_text().split()
    return _cores(int(quota), int(period))


def _quota_v1(folder: Path) -> float:
    return _cores(*(int((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")))


def _cores(quota: int, period: int) -> float:
    if quota <= 0:
        raise ValueError("no limit")
    return quota / period


def _affinity() -> int:
    """Number of cores that the process may be scheduled on."""
    count = None
    with suppress(OSError):
        if hasattr(os, "process_cpu_count"):  # Python 3.13 and later; also respects PYTHON_CPU_COUNT
            count = os.process_cpu_count()
        elif hasattr(os, "sched_getaffinity"):  # Linux
            count = len(os.sched_getaffinity(0))
    return count or os.cpu_count() or 1
