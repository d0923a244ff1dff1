"""Programs of the repository as processes: started, watched and killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SECONDS = 120  # limit for everything that a test waits for, enough on a busy machine too

Start = Callable[..., subprocess.Popen]


@contextlib.contextmanager
def started_programs(folder: Path) -> Iterator[Start]:
    """Yield a function that starts programs in `folder`; at the end, kill what is left of them and of their children.

    The function takes the arguments of Python and environment variables by name: `start("train.py", config, RANK=0)`.
    Each program has a process group of its own. Its stdout and stderr are pipes of text: read them with `communicate`.
    """
    started = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(*command: object, **variables: object) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, *map(str, command)],
            cwd=folder,
            env=environment | {name: str(value) for name, value in variables.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            for pid in [*children(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(os.getpgid(pid), signal.SIGKILL)
            process.communicate(timeout=SECONDS)


def start_ranks(start: Start, size: int, *command: object, **variables: object) -> list[subprocess.Popen]:
    """Start the processes of a process group as torchrun would, but without torchrun's supervision."""
    port = free_port()
    return [start(*command, **rank_environment(rank, size, port), **variables) for rank in range(size)]


def rank_environment(rank: int, size: int, port: int) -> dict[str, object]:
    """The environment variables that torchrun sets for a process of one machine."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, **address}


def torchrun(*arguments: object, size: int = 2) -> list[object]:
    """Arguments of Python that run a program under torchrun, in `size` processes."""
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={size}", *arguments]


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, none if there is no such file. A line that is cut short is left out."""
    rows = []
    path = folder / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def wait_for_rows(process: subprocess.Popen, folder: Path, count: int = 1) -> None:
    """Wait until the metrics.jsonl of a run has `count` rows. Fails if the process ends before, or takes too long."""
    end = time.monotonic() + SECONDS
    while len(read_rows(folder)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no rows"
        time.sleep(0.01)


def children(pid: int, program: str = "train.py") -> list[int]:
    """Ids of the child processes that run `program` (its loader workers, or torchrun's ranks); none without /proc."""
    found = []
    with contextlib.suppress(FileNotFoundError):  # the process has ended
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if program in Path(f"/proc/{child}/cmdline").read_text():
                found.append(int(child))
    return found


def rank_of(pid: int) -> int:
    """Rank of a process in its process group, from its environment."""
    return int(re.search(r"\0RANK=(\d+)", Path(f"/proc/{pid}/environ").read_text())[1])
