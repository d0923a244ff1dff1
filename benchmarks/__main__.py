"""Compares each part of the repository with a baseline or a limit, and checks the targets:

python -m benchmarks [NAME ...] [--device cpu|cuda] [--full] [--json FILE] [--data DIR] [--list]

Prints a Markdown table, row by row: our time or size (median and quartiles), what it is compared with in the same
rounds, the ratio of the two, the target and whether it is met. The exit code is 1 if a target is missed or a benchmark
fails, and 2 for invalid arguments. See docs/performance.md. `python -m benchmarks.loader`, `.training` and `.faults`
measure data loading, training steps and reliability in more detail.
"""

import argparse
import difflib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from benchmarks import data, detection, losses, network, pools
from benchmarks.measure import HEAD, RULE, Row, Setting, machine, use_own_stream
from db import DataError
from nnet.runtime.devices import keep_freed_memory
from nnet.runtime.errors import exit_code


class Benchmark(NamedTuple):
    """A benchmark: a function that yields rows of the table. full: slow, runs only with --full or by name."""

    about: str
    run: Callable[[Setting], Iterator[Row]]
    full: bool = False
    devices: Sequence[str] = ("cpu", "cuda")


BENCHMARKS = {
    "pool_forward": Benchmark("directional max pools, each direction and layout", pools.pool_forward),
    "pool_backward": Benchmark("their backward passes", pools.pool_backward),
    "corner_pooling": Benchmark("two pools and their sum, forward + backward, and its memory", pools.corner_pooling),
    "focal_loss": Benchmark("focal loss of one heatmap, forward + backward", losses.focal),
    "decode": Benchmark("decoding of maps to pairs of corners", detection.decode),
    "soft_nms": Benchmark("soft-NMS and merging of 500 and 2000 boxes", detection.suppression, devices=("cpu",)),
    "sample": Benchmark("a training sample: time, and bytes transferred", data.sample, devices=("cpu",)),
    "index": Benchmark("annotation index of the size of COCO train2017", data.index, devices=("cpu",)),
    "test_path": Benchmark("Hourglass-104 from an image to boxes", network.test_path, full=True),
    "lite": Benchmark("CornerNet-Squeeze and CornerNet-Saccade beside CornerNet", network.lite, full=True),
    "training_step": Benchmark("Hourglass-104, a training step of 2 images", network.training_step, full=True),
    "step_parts": Benchmark("that step against its layers", network.step_parts, full=True, devices=("cuda",)),
    "largest_batch": Benchmark("images that fit in a step", network.largest_batch, full=True, devices=("cuda",)),
}


def choose(names: Sequence[str], device: str, full: bool) -> dict[str, Benchmark]:
    """The named benchmarks, or without names all for the device (the slow ones only if `full`).

    Raises DataError for an unknown name, and for a benchmark that does not run on the device.
    """
    for name in names:
        if name not in BENCHMARKS:
            near = difflib.get_close_matches(name, BENCHMARKS, 1, cutoff=0)
            raise DataError(f"unknown benchmark {name!r}: did you mean {near[0]}? --list shows all")
        if device not in BENCHMARKS[name].devices:
            raise DataError(f"{name} runs only on {' and '.join(BENCHMARKS[name].devices)}, not on {device}")
    if names:
        return {name: BENCHMARKS[name] for name in dict.fromkeys(names)}
    return {name: b for name, b in BENCHMARKS.items() if device in b.devices and (full or not b.full)}


def measure(
    chosen: dict[str, Benchmark], setting: Setting, save: Callable[[list[Row]], None]
) -> tuple[list[Row], list]:
    """Run benchmarks. Prints each row as soon as it is measured, and calls `save` with all rows after each benchmark.

    Returns the rows, and a message for each benchmark that failed.
    """
    rows, failed = [], []
    with tqdm(total=len(chosen), desc="benchmarks", dynamic_ncols=True, disable=not sys.stderr.isatty()) as bar:
        bar.write(f"{HEAD}\n{RULE}")
        for name, benchmark in chosen.items():
            bar.set_postfix_str(name)
            try:
                for row in benchmark.run(setting):
                    rows.append(row)
                    bar.write(row.cells())
            except (RuntimeError, OSError, MemoryError, subprocess.CalledProcessError) as error:  # run the others
                failed.append(f"{name}: {error}")
            save(rows)
            bar.update()
    return rows, failed


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare each part with a baseline.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure (default: all but the slow ones)")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and exit")
    parser.add_argument("--full", action="store_true", help="include the Hourglass-104 benchmarks, which take minutes")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results and machine facts to FILE")
    parser.add_argument("--data", type=Path, metavar="DIR", help="COCO in its 2017 layout, for `sample` (else drawn)")
    parser.add_argument("--seconds", type=float, default=2.0, help="approximate time per comparison")
    parser.add_argument("--threads", type=int, default=0, help="threads of PyTorch (default: PyTorch's choice)")
    parser.add_argument("--small", action="store_true", help="tiny sizes for a quick check: targets are not evaluated")
    return exit_code(partial(run, parser.parse_args(argv)))


def run(args: argparse.Namespace) -> int:
    if args.list:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:15} {benchmark.about} ({', '.join(benchmark.devices)}{'; with --full' * benchmark.full})")
        return 0
    chosen = choose(args.names, args.device, args.full)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise DataError(f"--device cuda, but this PyTorch ({torch.__version__}) finds no GPU")
    if args.threads < 0:
        raise DataError(f"--threads: expected a number of threads, 0 for PyTorch's choice, got {args.threads}")
    if not 0 <= args.seconds < float("inf"):
        raise DataError(f"--seconds: expected a number of seconds, got {args.seconds}")
    if args.data and not (args.data / "annotations" / "instances_train2017.json").is_file():
        raise DataError(f"--data: there is no annotations/instances_train2017.json in {args.data}")
    if args.json:
        try:
            args.json.open("a").close()
        except OSError as error:
            raise DataError(f"cannot write {args.json} ({error.strerror}): name another file with --json") from None
    if args.threads:
        torch.set_num_threads(args.threads)
    setting = Setting(torch.device(args.device), args.seconds, args.small, args.data)
    use_own_stream(setting.device)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # PyTorch's profiler otherwise logs when it starts and stops
    facts = machine(setting) | {"freed memory is kept": keep_freed_memory()}

    def save(rows: list[Row]) -> None:
        if args.json:
            figures = {"machine": facts, "rows": [row.figures() for row in rows]}
            args.json.write_text(json.dumps(figures, indent=1) + "\n")

    rows, failed = measure(chosen, setting, save)
    missed = [row for row in rows if row.met is False]
    print("\n" + "; ".join(f"{name}: {value}" for name, value in facts.items()))
    for row in missed:
        print(f"missed: {row.benchmark}, {row.case}: {row.ratio.median:.3g}, target {row.target:.3g}", file=sys.stderr)
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if missed or failed else 0


if __name__ == "__main__":
    sys.exit(main())
