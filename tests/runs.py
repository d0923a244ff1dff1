"""Training runs in this process: starting them, disturbing them, and comparing what two of them have left.

python -m tests.runs FAULT train.py ARGUMENT ...

runs train.py, test.py or ablate.py as a process of its own, disturbed by one of FAULTS.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import ablate as ablate_script
import nnet.training.folder
import nnet.training.validation
import test as test_script
import train as train_script
from nnet.detection.detector import Detector
from nnet.runtime.checkpoint import ReportingFile
from nnet.studies import running, tables
from nnet.studies.running import Runner
from nnet.training.trainer import Trainer
from tests.processes import read_rows

if TYPE_CHECKING:
    import pytest

VARYING = ("images_per_second", "data_wait", "memory_gb")  # figures of a row that two equal runs do not share


def main(config: object, output: object, *arguments: object) -> int:
    """Run train.py with a config, an output folder and further arguments; returns its exit code."""
    return train_script.main([str(a) for a in (config, *arguments, "--output", output)])


def same(a: Any, b: Any, path: str = "state") -> None:
    """Assert that two nested states are equal bit for bit; `path` names them in the message."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


def same_runs(one: Path, other: Path) -> None:
    """Assert that two runs have the same final state and the same rows, apart from the config and from VARYING."""
    same_states(one / "last.pt", other / "last.pt")
    assert comparable_rows(one) == comparable_rows(other)


def same_states(one: Path, other: Path) -> None:
    """Assert that two checkpoints are equal bit for bit, apart from the config (such as the number of workers)."""
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    a.pop("config"), b.pop("config")
    same(a, b)


def comparable_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run without VARYING."""
    return [{k: v for k, v in row.items() if k not in VARYING} for row in read_rows(folder)]


def before_steps(monkeypatch: pytest.MonkeyPatch, actions: Mapping[int, Callable[[], Any]]) -> None:
    """Call functions before steps of the runs that follow in this process: {iteration: function}.

    They are called where a step begins: its batches are there, and the processes have agreed to make it.
    """
    original = Trainer.step

    def step(self: Trainer, micro_batches: list) -> None:
        actions.get(self.iteration + 1, lambda: None)()
        original(self, micro_batches)

    monkeypatch.setattr(Trainer, "step", step)


def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out TensorBoard's pictures of the runs that follow in this process, which take most of their time."""
    monkeypatch.setattr(nnet.training.validation, "draw_predictions", lambda *_: iter(()))


def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out curves.png of the runs that follow in this process, which takes longer than many steps."""
    monkeypatch.setattr(nnet.training.folder, "draw_curves", lambda *_: None)


# Faults of programs that are started as processes of their own

SLOW_SAVE = 10  # seconds of `slow_save`


def disturbed(fault: Callable[[], None], program: str) -> list[str]:
    """Arguments of Python that run a program with a fault."""
    return ["-m", "tests.runs", fault.__name__, program]


def hang_in_validation_loss() -> None:
    """Rank 0 hangs while it measures the validation loss."""
    if os.environ["RANK"] == "0":
        nnet.training.validation.validation_loss = hang


def hang_in_evaluation() -> None:
    """Rank 0 hangs while it computes COCO's figures on the validation split."""
    if os.environ["RANK"] == "0":
        nnet.training.validation.evaluate = hang


def hang(*_: Any) -> None:
    time.sleep(9999)


def slow_save() -> None:
    """The first save takes SLOW_SAVE seconds, in which it makes progress."""
    write, ends = ReportingFile.write, []

    def slow(self: ReportingFile, data: bytes) -> int:
        ends.append(ends[0] if ends else time.monotonic() + SLOW_SAVE)
        time.sleep(0.1 if time.monotonic() < ends[0] else 0)
        return write(self, data)

    ReportingFile.write = slow


def death_while_detecting() -> None:
    """Rank 1 is killed at its first image."""

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if os.environ["RANK"] == "1":
        Detector.run_network = die


def killed_in_training() -> None:
    """ablate.py and its programs are killed when a training has logged its fifth row."""
    kill_after_step(lambda run: len(run.commands) == 1 and len(read_rows(run.pair.folder)) >= 5)


def killed_in_testing() -> None:
    """They are killed when a test has printed something."""
    size = len("$ python test.py")

    def testing(run: running.Run) -> bool:
        return not run.commands and b"%|" in run.path.read_bytes()[run.start_of_log + size :]

    kill_after_step(testing)


def kill_after_step(due: Callable[[running.Run], bool]) -> None:
    step = Runner.step

    def step_and_die(self: Runner) -> None:
        step(self)
        if any(due(run) for run in self.active):
            for run in self.active:  # each is a process group, with its workers
                os.killpg(run.process.pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    Runner.step, running.POLL = step_and_die, 0.01


def killed_before_test() -> None:
    """ablate.py is killed where a training has ended, and its test has not begun."""
    kill_before(lambda command: command[0] == "test.py")


def killed_between_runs() -> None:
    """It is killed where the first pair has ended, and the second has not begun."""
    second = {"train.py", "model.corner_pooling=false", "seed=1"}
    kill_before(lambda command: second <= set(command))


def kill_before(due: Callable[[list[str]], bool]) -> None:
    start = running.start

    def start_or_die(slot: running.Slot, command: list[str], log: Any) -> Any:
        if due(command):
            os.kill(os.getpid(), signal.SIGKILL)
        return start(slot, command, log)

    running.start = start_or_die


def killed_in_table() -> None:
    """It is killed between the files of the table."""

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    tables.plot_panels = die


KILLS = (killed_in_training, killed_before_test, killed_in_testing, killed_between_runs, killed_in_table)
FAULTS = (hang_in_validation_loss, hang_in_evaluation, slow_save, death_while_detecting, *KILLS)
PROGRAMS = {"train.py": train_script, "test.py": test_script, "ablate.py": ablate_script}

if __name__ == "__main__":
    _, name, program, *arguments = sys.argv
    {fault.__name__: fault for fault in FAULTS}[name]()
    sys.exit(PROGRAMS[program].main(arguments))
