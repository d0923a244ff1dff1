"""Running the pairs of a study as processes of train.py and test.py, several at a time."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from tqdm import tqdm

from db import DataError
from nnet.runtime.console import progress_bar
from nnet.runtime.files import FolderLock, make_folder
from nnet.runtime.signals import Signals
from nnet.runtime.threads import available_cores
from nnet.studies.plan import Pair

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]  # of the scripts
LOG = "log.txt"  # what train.py and test.py have printed
POLL = 0.2  # seconds
SHOWN_EVERY = 5.0  # seconds between looks at the figures of running trainings
ORPHAN = 60.0  # seconds that a process of an ablate.py that was killed has to end
# What a process runs before its program: should ablate.py be killed, Linux sends it a SIGTERM, and it saves and ends.
FOLLOW = (
    "import ctypes, os, sys; "
    "prctl = getattr(ctypes.CDLL(None), 'prctl', None) if sys.platform == 'linux' else None; "
    f"prctl and prctl(1, {int(signal.SIGTERM)}); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Slot(NamedTuple):
    """The part of the machine that a run may use."""

    threads: int  # of each process; 0: what the process may use
    processes: int  # of torchrun
    gpus: str  # CUDA_VISIBLE_DEVICES; empty: as ablate.py

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line for these arguments of Python."""
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}"]
        script = str(ROOT / arguments[0])
        return [sys.executable, "-c", FOLLOW, *(torchrun if self.processes > 1 else []), script, *arguments[1:]]

    def environment(self) -> dict[str, str]:
        return dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": self.gpus} if self.gpus else {})


class Failure(NamedTuple):
    """A run that has not finished."""

    pair: Pair
    reason: str
    log: Path


def share_machine(jobs: int, processes: int, device: str) -> list[Slot]:
    """Parts of the machine for `jobs` runs of `processes` processes each.

    The cores are shared evenly. Where runs use CUDA and there are several GPUs, each process has one, and runs share
    GPUs only if there are too few.

    Raises:
        DataError: a run has more processes than there are GPUs.
    """
    cores = min(available_cores(), torch.get_num_threads())  # the latter respects OMP_NUM_THREADS
    threads = max(1, cores // (jobs * processes)) if jobs * processes > 1 else 0
    gpus = visible_gpus() if device != "cpu" else []
    if gpus and processes > len(gpus):
        raise DataError(f"--processes {processes}: there are {len(gpus)} GPUs")
    groups = [gpus[at : at + processes] for at in range(0, len(gpus) - processes + 1, processes)]
    if len(gpus) < 2:
        groups = [[]]
    return [Slot(threads, processes, ",".join(groups[job % len(groups)])) for job in range(jobs)]


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return names if names != [""] else [str(n) for n in range(torch.cuda.device_count())]


class Run:
    """A pair in progress: train.py, then test.py."""

    def __init__(self, pair: Pair, slot: Slot):
        self.pair, self.slot = pair, slot
        self.commands = [pair.train_command(slot.threads), pair.test_command(slot.threads)]
        self.path = pair.folder / LOG
        self.begun = time.monotonic()
        self.process: subprocess.Popen | None = None

    def advance(self) -> bool:
        """Start the next program if none is running. Returns whether one is running now.

        Raises:
            RuntimeError, DataError, OSError: a program has failed, or cannot be started.
        """
        code = self.process.poll() if self.process else 0
        if code is None:
            return True
        if code:
            raise RuntimeError(self.reason(code))
        if not self.commands:
            return False
        command = self.commands.pop(0)
        make_folder(self.pair.folder)
        with open(self.path, "ab") as log:
            self.start_of_log = log.tell()
            log.write(f"$ python {shlex.join(command)}\n".encode())
            log.flush()
            self.process = start(self.slot, command, log)
        return True

    def reason(self, code: int) -> str:
        """Why the program has failed: the last error that it has printed, or else its last line."""
        with open(self.path, "rb") as log:
            log.seek(self.start_of_log)
            lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        stopped = f"stopped by signal {-code}" if code < 0 else f"stopped by signal {code - 128}" if code > 128 else ""
        return (errors or [stopped or lines[-1]])[-1]

    def stop(self, number: int) -> None:
        """Send a signal to the program, if it is running."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)


def start(slot: Slot, command: Sequence[str], log: IO[bytes]) -> subprocess.Popen:
    """Start a program. Ctrl-C in the terminal does not reach it: this process passes signals on."""
    return subprocess.Popen(
        slot.command(command),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=slot.environment(),
        start_new_session=True,
    )


class Runner:
    """Runs pairs, as many at a time as there are slots.

    Attributes:
        failures: runs that have failed so far. The others go on.
    """

    def __init__(self, pairs: Sequence[Pair], slots: Sequence[Slot], name: str):
        """pairs: all of the study. name: of the study."""
        self.waiting = [pair for pair in pairs if pair.metrics() is None]
        self.count, self.done = len(pairs), len(pairs) - len(self.waiting)
        self.free, self.active = list(slots), []
        self.failures: list[Failure] = []
        self.iterations = {pair.folder: pair.iterations for pair in pairs if pair not in self.waiting}
        self.bar: tqdm = progress_bar(total=sum(pair.iterations for pair in pairs), desc=name, unit="step")
        self.shown = -SHOWN_EVERY

    def run(self) -> int:
        """Run all pairs that are not done. Returns the number of the signal that has stopped it, or 0."""
        if not self.waiting:
            self.bar.close()
            return 0
        signals = Signals()
        try:
            for pair in self.waiting:
                wait_for_orphan(pair, signals)
            while not signals.stop and (self.waiting or self.active):
                self.step()
                time.sleep(POLL)
            return self.finish(signals.stop) if signals.stop else 0
        finally:
            for run in self.active:  # an error, or a second Ctrl-C: they go on to save by themselves
                run.stop(signal.SIGTERM)
            self.bar.close()
            signals.restore()

    def step(self) -> None:
        """Start what can be started, and look at what is running."""
        while self.waiting and self.free:
            self.active.append(Run(self.waiting.pop(0), self.free.pop(0)))
        for run in list(self.active):
            try:
                running = run.advance()
            except (RuntimeError, DataError, OSError) as error:
                self.failures.append(Failure(run.pair, str(error), run.path))
                logger.warning("%s: failed: %s", run.pair.name, error)
                running = False
            else:
                if not running:
                    self.report(run)
            if not running:
                self.active.remove(run)
                self.free.append(run.slot)
        self.show()

    def report(self, run: Run) -> None:
        """Say what a run that has ended has given."""
        metrics = run.pair.metrics()
        if metrics is None:
            self.failures.append(Failure(run.pair, f"its {run.pair.folder}/metrics.json is incomplete", run.path))
            return
        self.done += 1
        minutes, seconds = divmod(round(time.monotonic() - run.begun), 60)
        value = metrics["AP"]
        shown = "-" if value is None else f"{100 * value:.1f}"
        logger.info("[%d/%d] %s: AP %s, %d:%02d min", self.done, self.count, run.pair.name, shown, minutes, seconds)

    def show(self) -> None:
        """Update the progress bar: iterations of all pairs, and beside it what runs now."""
        if time.monotonic() - self.shown < SHOWN_EVERY:
            return
        self.shown, texts = time.monotonic(), []
        for run in self.active:
            row = last_row(run.pair.folder / "metrics.jsonl")
            at = self.iterations[run.pair.folder] = row.get("iteration", 0)
            loss = f" loss {row['loss']:.3g}" if isinstance(row.get("loss"), float) else ""
            texts.append(f"{run.pair.name}: {f'{at}/{run.pair.iterations}{loss}' if run.commands else 'testing'}")
        self.bar.set_postfix_str(f"{self.done}/{self.count} runs; {'; '.join(texts)}", refresh=False)
        self.bar.update(sum(self.iterations.values()) - self.bar.n)

    def finish(self, number: int) -> int:
        """End what is running after a signal: trainings save their state. Returns the signal's number."""
        logger.info("stopping: %d running programs save their state", len(self.active))
        for run in self.active:
            run.stop(signal.SIGTERM)
        for run in self.active:
            if run.process:
                run.process.wait()
        return number


def wait_for_orphan(pair: Pair, signals: Signals) -> None:
    """Wait for a training of an ablate.py that was killed: it is about to save and end."""
    end = time.monotonic() + ORPHAN
    while pair.folder.is_dir() and not signals.stop and time.monotonic() < end:
        try:
            return FolderLock(pair.folder).release()
        except DataError:
            time.sleep(POLL)


def last_row(path: Path) -> dict[str, Any]:
    """The last complete row of a metrics.jsonl; empty if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            return row if isinstance(row := json.loads(line), dict) else {}
        except ValueError:
            continue
    return {}
