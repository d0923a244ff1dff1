"""Measures how much slower decoding and a training step become beside a process that keeps one core busy:

python -m benchmarks.neighbour [--works decode step] [--variants SPINS:THREADS ...] [--rounds N]
    [--seconds S] [--json FILE] [--small]

Prints a Markdown table. A variant is how long the OpenMP threads spin before they sleep (a number of spins,
GOMP_SPINCOUNT; "default": OpenMP's own choice; "passive": not at all) and a number of threads (0: all). Each variant
runs in a separate process, since the policy is read when PyTorch is loaded. A round times the work quiet, then beside
the neighbour. The exit code is 1 if decoding takes more than twice its quiet time in the first variant, which is by
default what train.py and test.py use.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

import configs
from benchmarks.detection import draw_maps
from benchmarks.measure import Setting
from benchmarks.training import prepare
from models.decode import decode_corners
from nnet.families import build_family
from nnet.runtime.devices import set_up_backends

LIMIT = 2.0  # target: decoding beside the neighbour, in multiples of its quiet time
POLICIES = {"default": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}


def decode(small: bool) -> Callable[[], object]:
    """Decoding of the maps of an image of 511x767 and its mirror image."""
    maps = [draw_maps(Setting(torch.device("cpu"), 0, small, None), seed) for seed in (0, 1)]

    @torch.inference_mode()
    def work() -> object:
        return decode_corners(*maps, 10 if small else 100)

    return work


def step(small: bool) -> Callable[[], object]:
    """A training step of configs/toy.yaml."""
    config = configs.load("configs/toy.yaml", ["runtime.device=cpu", *(["train.batch=[1]"] if small else [])])
    torch.manual_seed(config.seed)
    update, batches = prepare(config, build_family(6, config.model, config.penalty, config.loss))
    return lambda: update(batches)


WORKS = {"decode": decode, "step": step}


@contextmanager
def neighbour() -> Iterator[None]:
    """A process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def measure(work: Callable[[], object], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each call, quiet and beside the neighbour, for `seconds` of each per round."""

    def timed() -> list[float]:
        times, end = [], time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            begun = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - begun))
        return times

    work(), work()
    found: dict[str, list[float]] = {"quiet": [], "beside": []}
    for _ in range(rounds):
        found["quiet"] += timed()
        with neighbour():
            found["beside"] += timed()
    return found


def run_alone(args: argparse.Namespace) -> None:
    """Measure one work in this process, and print JSON."""
    set_up_backends(configs.load("configs/toy.yaml", [f"runtime.threads={args.threads}"]).runtime)
    print(json.dumps(measure(WORKS[args.alone](args.small), args.rounds, args.seconds)))


def environment(policy: str) -> dict[str, str]:
    """The environment variables of a variant."""
    own = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")
    others = {key: value for key, value in os.environ.items() if key not in own}
    return others | (POLICIES[policy] if policy in POLICIES else {"GOMP_SPINCOUNT": policy})


def variant_rows(args: argparse.Namespace) -> Iterator[dict]:
    """Measure each work with each variant, in processes of their own."""
    for name in args.works:
        for variant in args.variants:
            policy, _, threads = variant.partition(":")
            command = [sys.executable, "-m", "benchmarks.neighbour", "--alone", name, "--threads", threads or "0"]
            command += ["--rounds", str(args.rounds), "--seconds", str(args.seconds), *["--small"] * args.small]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment(policy), check=True)
            yield {"work": name, "variant": variant, **json.loads(done.stdout.splitlines()[-1])}


def cells(row: dict) -> str:
    """A row of the table."""
    quiet, beside = sorted(row["quiet"]), sorted(row["beside"])
    ratio = median(beside) / median(quiet)
    shown = [f"{median(t):.3g} ({t[0]:.3g} to {t[-1]:.3g})" for t in (quiet, beside)]
    return f"| {row['work']} | {row['variant']} | {' | '.join(shown)} | {ratio:.2f} |"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure the effect of a process that keeps one core busy.")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), metavar="NAME")
    parser.add_argument("--variants", nargs="+", default=["1000:0", "default:0", "1000:1"], metavar="SPINS:THREADS")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="time of each half of a round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times to FILE")
    parser.add_argument(
        "--small", action="store_true", help="tiny sizes for a quick check: the target is not evaluated"
    )
    parser.add_argument("--alone", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.alone:
        run_alone(args)
        return 0
    print("| work | spins: threads | quiet, ms: median (range) | beside the neighbour, ms | ratio |")
    print("| --- | --- | --- | --- | --- |")
    rows = []
    for row in variant_rows(args):
        rows.append(row)
        print(cells(row), flush=True)
        if args.json:
            args.json.write_text(json.dumps(rows) + "\n")
    judged = next((row for row in rows if row["work"] == "decode"), None)
    missed = judged and not args.small and median(judged["beside"]) > LIMIT * median(judged["quiet"])
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
