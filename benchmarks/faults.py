"""Kills a training run repeatedly, and checks that nothing is lost:

python -m benchmarks.faults [--kills 40] [--seed 0] [--output FILE]

First, a small run on toy data is completed without interruption: the reference run. Then the same run is killed with
SIGKILL at random moments and resumed each time until it is finished. Half of the kills happen between the start of the
process and two seconds into training, the other half while a checkpoint is written. If a run finishes before all kills
are done, another one is started. Prints a table, and writes it to FILE. The exit code is 1 if a checkpoint was
corrupted, a run hung, or a result differs from that of the reference run.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from tqdm import tqdm

from db.toy import draw_toy
from nnet.runtime import checkpoint
from nnet.training.metrics import read_metrics

ROOT = Path(__file__).resolve().parent.parent
ITERATIONS = 150
HANG = 120  # seconds without a step, or without exiting, after which a run counts as hung
TRAINING = 2.0  # latest kill in seconds of training, for kills that are not aimed at a save
# Most parameters are in the innermost level, which has few pixels: a step is fast, and a save takes as long as a step.
CONFIG = """
model:
  backbone: {stacks: 1, stem_width: 4, widths: [8, 8, 160], blocks: [1, 1, 1]}
  pool_width: 4
  bn_init: ones
data:
  root: %s
  input_size: [95, 95]
  train: {images: [train], annotations: [annotations/instances_train.json]}
  test: null
augment: {border: 32}
train: {batch: [2, 3], iterations: %d, lr_drops: [100], workers: 1, log_every: 1, validate_every: 0, snapshot_every: 1}
runtime: {threads: 1, device: cpu}
"""


@dataclass
class Tally:
    """Counts of the kills and of their effects."""

    kills: int = 0
    saving: int = 0  # kills that left a partially written checkpoint
    starting: int = 0  # kills before the first step after a start
    corrupt: int = 0  # checkpoints that cannot be loaded
    hangs: int = 0
    lost: int = 0  # largest number of iterations that were logged but are in no checkpoint
    runs: int = 0  # completed runs
    unequal: list[str] = field(default_factory=list)  # differences from the reference run

    def rows(self, seconds: float) -> list[tuple[str, str]]:
        return [
            ("kills", f"{self.kills}"),
            ("kills while a checkpoint was being written", f"{self.saving}"),
            ("kills before the first step", f"{self.starting}"),
            ("corrupt checkpoints", f"{self.corrupt}"),
            ("hangs", f"{self.hangs}"),
            ("most iterations lost by a kill (with a snapshot after each)", f"{self.lost}"),
            ("runs that were killed and resumed until finished", f"{self.runs}"),
            ("weights, optimiser state and log equal those of the reference run", "; ".join(self.unequal) or "yes"),
            ("minutes", f"{seconds / 60:.1f}"),
        ]

    @property
    def good(self) -> bool:
        return not (self.corrupt or self.hangs or self.unequal)


class Hang(Exception):
    """A run makes no step, or does not exit."""


def start(config: Path, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "train.py", str(config), "--output", str(folder), "--resume"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=(folder.parent / "stderr.txt").open("a"),
        start_new_session=True,
    )


def rows(folder: Path) -> list[dict]:
    return read_metrics(folder / "metrics.jsonl")


def partial(folder: Path) -> set[tuple[str, int]]:
    """The unfinished checkpoint files in the folder of a run: their names and inodes."""
    found = set()
    for path in folder.glob(".[0-9]*.pt.*.partial"):
        with suppress(FileNotFoundError):  # it was finished in the meantime
            found.add((path.name, path.stat().st_ino))
    return found


def wait(process: subprocess.Popen, condition, seconds: float = HANG) -> bool:
    """Wait until a condition holds. Returns False if the process exits first. Raises Hang after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return False
        if time.monotonic() > end:
            raise Hang
        time.sleep(0.002)
    return True


def wait_to_kill(process: subprocess.Popen, folder: Path, aim: bool, random: Random, ready: float) -> bool:
    """Wait for a random moment at which to kill the run. Returns False if the run ends before.

    aim: choose a moment at which a checkpoint is being written.
    ready: seconds from the start of the process to its first step.
    """
    if not aim:
        try:
            process.wait(random.uniform(0, ready + TRAINING))
        except subprocess.TimeoutExpired:
            return True
        return False
    done = len(rows(folder))
    if not wait(process, lambda: len(rows(folder)) != done):
        return False
    time.sleep(random.uniform(0, 1))
    while True:
        if not wait(process, lambda: partial(folder)):
            return False
        time.sleep(random.uniform(0, 0.03))
        if partial(folder):
            return True


def check(folder: Path) -> tuple[int, bool]:
    """The iteration of the newest checkpoint of a killed run (0 if there is none), and whether all can be loaded."""
    newest, whole = 0, True
    for path in sorted(folder.glob("*.pt")):
        try:
            newest = max(newest, checkpoint.load(path)["iteration"])
        except checkpoint.CheckpointError as error:
            tqdm.write(f"corrupt: {error}")
            whole = False
    return newest, whole


def differences(run: Path, undisturbed: Path) -> list[str]:
    """The differences between a finished run and the reference run."""

    def tensors(value, name: str = "") -> dict[str, torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return {name: value}
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return {k: v for key, part in pairs for k, v in tensors(part, f"{name}.{key}").items()}

    found = []
    a, b = (checkpoint.load(folder / "last.pt") for folder in (run, undisturbed))
    for part in ("model", "optimizer", "random"):
        one, other = tensors(a[part]), tensors(b[part])
        if one.keys() != other.keys() or not all(torch.equal(one[k], other[k]) for k in one):
            found.append(f"{part} differs")
    logs = [[(row["iteration"], row["loss"], row["gradient_norm"]) for row in rows(f)] for f in (run, undisturbed)]
    if logs[0] != logs[1]:
        found.append("metrics.jsonl differs")
    if [row[0] for row in logs[1]] != list(range(1, ITERATIONS + 1)):
        found.append("metrics.jsonl has duplicate or missing rows")
    if list(run.glob(".*")):
        found.append("temporary files are left over")
    return found


def finish(process: subprocess.Popen, tally: Tally) -> None:
    """Wait until a run exits. A run that hangs is killed and counted."""
    try:
        if process.wait(HANG + ITERATIONS) != 0:
            tally.unequal.append(f"exit code {process.returncode}")
    except subprocess.TimeoutExpired:
        tally.hangs += 1
        os.killpg(process.pid, signal.SIGKILL)


def run(kills: int, seed: int, folder: Path) -> Tally:
    """Run the whole test in an empty folder."""
    random, tally = Random(seed), Tally()
    draw_toy(folder / "toy", seed=0, images=40, size=95)
    config = folder / "config.yaml"
    config.write_text(CONFIG % (folder / "toy", ITERATIONS))
    undisturbed = folder / "undisturbed"
    begun = time.monotonic()
    process = start(config, undisturbed)
    wait(process, lambda: rows(undisturbed))
    ready = time.monotonic() - begun
    finish(process, tally)
    if tally.hangs or tally.unequal:
        tally.unequal.append("the reference run failed")
        return tally
    size = (undisturbed / "last.pt").stat().st_size
    tqdm.write(f"reference: {ITERATIONS} iterations in {time.monotonic() - begun:.0f} s, checkpoints {size:,} bytes")

    aims = [i % 2 == 0 for i in range(kills)]
    random.shuffle(aims)
    current = folder / "run_0"
    with tqdm(total=kills, desc="kills", dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 20) as bar:
        while tally.kills < kills:
            before = check(current)[0], partial(current)
            process = start(config, current)
            try:
                killed = wait_to_kill(process, current, aims[tally.kills], random, ready)
            except Hang:
                tally.hangs += 1
                killed = True
            if not killed:  # the run has finished
                finish(process, tally)
                compare(current, undisturbed, tally)
                current = folder / f"run_{tally.runs}"
                continue
            process.kill()
            process.wait()
            logged = [row["iteration"] for row in rows(current)]
            newest, whole = check(current)
            tally.kills += 1
            saving = bool(partial(current) - before[1])
            tally.saving += saving
            tally.starting += newest == before[0] and not saving
            tally.corrupt += not whole
            tally.lost = max(tally.lost, max(logged, default=0) - newest)
            bar.update()
            bar.set_postfix(
                iteration=newest, saving=tally.saving, corrupt=tally.corrupt, hangs=tally.hangs, lost=tally.lost
            )
    finish(start(config, current), tally)
    compare(current, undisturbed, tally)
    return tally


def compare(current: Path, undisturbed: Path, tally: Tally) -> None:
    tally.runs += 1
    tally.unequal += [f"run {tally.runs}: {text}" for text in differences(current, undisturbed)]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description="Kill and resume a run repeatedly."
    )
    parser.add_argument("--kills", type=int, default=40, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write the table to FILE")
    args = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults_") as folder:
        tally = run(args.kills, args.seed, Path(folder))
        if not tally.good:
            print((Path(folder) / "stderr.txt").read_text()[-3000:], file=sys.stderr)
    lines = ["| | |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in tally.rows(time.monotonic() - begun))]
    table = "\n".join(lines) + "\n"
    print(table, end="")
    if args.output:
        args.output.write_text(table)
    return 0 if tally.good else 1


if __name__ == "__main__":
    sys.exit(main())
