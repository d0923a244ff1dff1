"""Builds, tests and measures everything on a GPU, the most important first, in under 10 minutes. `make gpu` runs it:

python -m benchmarks.gpu [--output DIR] [--minutes N] [--device cuda|cpu] [--parts NAME ...]

Writes DIR/gpu.json after each row and step, and DIR/gpu.md, a page for docs/, after each part. A part that crashes or
takes too long does not stop the others. With --device cpu it is a dry run: all parts at tiny sizes, without building.
The exit code is 1 if a part failed or was skipped, or a test failed.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.parts import Figures, Part, Results, run_apart, run_here

ROOT = Path(__file__).resolve().parent.parent
# Seconds that each part may take. A machine with an H200 needs far less for most of them.
LIMITS = {
    "machine": 60,
    "build": 240,
    "tests": 150,
    "pool_forward": 60,
    "pool_backward": 60,
    "corner_pooling": 90,
    "focal_loss": 60,
    "decode": 60,
    "step_bfloat16": 120,
    "step_tf32": 120,
    "step_float32": 150,
    "test_path": 120,
    "step_parts": 120,
}
STEPS = {
    "step_bfloat16": "channels_last+bfloat16+fused_adam",
    "step_tf32": "channels_last+tf32+fused_adam",
    "step_float32": "channels_last+fused_adam",
}
TESTS = "(cuda or gpu) and not emulat"  # names of the tests that run on a GPU
TESTED = ("tests/external", "tests/models", "tests/sample", "tests/nnet")
KEPT_FREE = 0.06  # of the GPU's memory, when the largest batch is estimated


# The parts import what they need when they run, so that a build is used by those after it.


def machine_facts(device: str) -> Figures:
    import torch

    from benchmarks.measure import Setting, machine

    facts = machine(Setting(torch.device(device)))
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "memory": f"{properties.total_memory / 1e9:.0f} GB",
            "multiprocessors": properties.multi_processor_count,
            "compute capability": f"{properties.major}.{properties.minor}",
            "driver": nvidia_driver(),
        }
    wanted = ("gpu", "memory", "multiprocessors", "compute capability", "driver", "cuda", "torch", "python", "cpu")
    return {"facts": {name: facts[name] for name in wanted if name in facts}}


def nvidia_driver() -> str:
    """The version of NVIDIA's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"


def build(device: str) -> Figures:
    if device == "cpu":
        return {"note": "no build in a dry run"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    output = done.stdout + done.stderr
    # setup.py succeeds without nvcc and skips what does not compile: libraries of an earlier build may be left
    missing = [source.parent.parent.name for source in ROOT.glob("external/*/csrc/*.cu") if not newer_library(source)]
    if done.returncode or missing or "_CUDA is skipped" in output:
        raise RuntimeError(f"the CUDA kernels of {', '.join(missing) or 'a package'} were not built: {output[-1500:]}")
    from external import corner_pool, focal_loss

    unused = [package.__name__ for package in (corner_pool, focal_loss) if "cuda" not in package._DEVICES]
    if unused:
        raise RuntimeError(f"the CUDA kernels of {', '.join(unused)} do not load, see the warnings")
    libraries = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("external/*/_C*.so"))
    return {"note": f"built {', '.join(libraries)}"}


def newer_library(source: Path) -> bool:
    """Whether the CUDA library of a package is not older than its .cu file."""
    libraries = source.parent.parent.glob("_CUDA*.so")
    return any(path.stat().st_mtime >= source.stat().st_mtime for path in libraries)


def run_tests(device: str) -> Figures:
    """The tests for GPUs. What has run before the time limit counts. A crash of pytest is one of the failures."""
    chosen = [*TESTED, "-k", TESTS] if device == "cuda" else ["tests/benchmarks/test_gpu.py", "-k", "page"]
    # the tests of a file that cannot be imported do not keep the others from running
    options = ["-v", "-rE", "--continue-on-collection-errors", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *chosen]
    ended, crash = "all have run", []
    with tempfile.TemporaryFile("w+") as log:
        try:
            limit = LIMITS["tests"] - 10
            done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, timeout=limit)
            if done.returncode not in (0, 1):  # 1: tests failed
                ended, crash = "stopped before all have run", [f"pytest ended with exit code {done.returncode}"]
        except subprocess.TimeoutExpired:
            ended = "stopped before all have run"
        log.seek(0)
        output = log.read()
    found = re.findall(r"^(tests/.*?::.*?) (PASSED|FAILED|ERROR|SKIPPED)", output, re.MULTILINE)
    errors = re.findall(r"^ERROR (tests/\S+)", output, re.MULTILINE)  # files that cannot be imported
    if not found and not errors:
        raise RuntimeError(f"pytest did not run: {output[-1500:]}")
    counts = {word: sum(result == word.upper() for _, result in found) for word in ("passed", "failed", "skipped")}
    failures = sorted({*errors, *(name for name, result in found if result in ("FAILED", "ERROR"))})
    return {"tests": counts, "failures": crash + failures, "note": ended}


def benchmark(name: str, device: str) -> Iterator[Figures]:
    """The rows of a benchmark of `python -m benchmarks`."""
    from benchmarks.__main__ import BENCHMARKS
    from benchmarks.measure import HEAD, RULE

    rows = []
    for row in BENCHMARKS[name].run(setting_of(device)):
        rows.append(row.figures() | {"cells": row.cells()})
        yield {"head": [HEAD, RULE], "rows": rows}


def setting_of(device: str) -> Any:
    import torch

    from benchmarks.measure import Setting, use_own_stream
    from nnet.runtime.devices import keep_freed_memory

    keep_freed_memory()
    chosen = torch.device(device)
    use_own_stream(chosen)
    return Setting(chosen, seconds=0.5 if device == "cuda" else 0.0, small=device == "cpu")


def training_steps(variant: str, device: str) -> Iterator[Figures]:
    """Hourglass-104: a step of the paper's batch, and of the largest batch that fits on the GPU."""
    setting = setting_of(device)
    batch = largest_batch(setting, variant) if device == "cuda" else 3
    paper = 49 if device == "cuda" else 4
    pieces = -(-paper // batch)
    split = tuple(paper // pieces + (i < paper % pieces) for i in range(pieces))  # micro-batches that fit
    steps = {}
    for name, chosen in {"paper": split, "largest": (batch,)}.items():
        steps[name] = measured_step(setting, variant, chosen)
        yield {"variant": variant, "steps": steps}


def measured_step(setting: Any, variant: str, batch: tuple[int, ...], steps: int = 3) -> Figures:
    """Median seconds of a step with these micro-batches, and the peak memory of its tensors in GB."""
    from dataclasses import replace
    from statistics import median

    import torch

    from benchmarks.network import class_count, step_config
    from benchmarks.training import measure, with_variant

    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        variant = "+".join(part for part in variant.split("+") if part != "tf32")
    config = step_config(setting)
    config = with_variant(replace(config, train=replace(config.train, batch=batch)), variant)
    found = measure(config, class_count(setting), 1 if setting.small else steps)
    seconds = median(found["seconds"])
    hours = seconds * config.train.iterations / 3600
    return {"batch": list(batch), "seconds": seconds, "memory": found["memory"], "hours": hours}


def largest_batch(setting: Any, variant: str) -> int:
    """The largest number of images that fit: estimated from two small batches, and tried."""
    import torch

    few, more = (measured_step(setting, variant, (count,), 1)["memory"] for count in (2, 6))
    whole = torch.cuda.mem_get_info()[0] / 1e9 + torch.cuda.memory_reserved() / 1e9
    count = int((whole * (1 - KEPT_FREE) - few) / ((more - few) / 4)) + 2
    while count > 6:
        try:
            measured_step(setting, variant, (count,), 1)
            return count
        except torch.OutOfMemoryError:
            count = int(count * 0.94)
    return 6


def parts(device: str) -> Mapping[str, Part]:
    """All parts by name, in the order in which they run."""
    first = {"machine": machine_facts, "build": build, "tests": run_tests}
    made = {name: partial(part, device) for name, part in first.items()}
    for name in LIMITS:
        if name in STEPS:
            made[name] = partial(training_steps, STEPS[name], device)
        elif name not in made:
            made[name] = partial(benchmark, name, device)
    if device == "cpu":
        del made["step_parts"]  # it measures on CUDA only
    return made


def page(results: Figures) -> str:
    """The section of docs/gpu.md with the results."""
    sections = (facts_section, tests_section, steps_section, rows_section, problems_section)
    return "\n".join(["## Results", "", *(line for section in sections for line in section(results))])


def facts_section(results: Figures) -> Iterator[str]:
    facts = results.get("machine", {}).get("facts", {})
    if facts and "gpu" not in facts:
        yield "A dry run at tiny sizes on the CPU: none of these figures means anything.\n"
    yield "Made by `make gpu`. Machine: " + ("; ".join(f"{k}: {v}" for k, v in facts.items()) or "unknown") + "."
    yield ""
    yield "| part | result | seconds |"
    yield "| --- | --- | --- |"
    for name, figures in results.items():
        yield f"| {name} | {figures['status']} | {figures.get('seconds', '')} |"
    yield ""


def tests_section(results: Figures) -> Iterator[str]:
    figures = results.get("tests", {})
    if "tests" in figures:
        yield "### Tests\n"
        yield ", ".join(f"{count} {name}" for name, count in figures["tests"].items()) + f"; {figures['note']}."
        yield from (f"- {name}" for name in figures["failures"])
        yield ""


def steps_section(results: Figures) -> Iterator[str]:
    measured = {name: results[name] for name in STEPS if "steps" in results.get(name, {})}
    if not measured:
        return
    yield "### Training step of Hourglass-104, 511x511\n"
    yield "The paper's run has 500,000 iterations of 49 images, here in micro-batches that fit on the GPU.\n"
    yield "| options | images | micro-batches | s per step | images/s | peak memory, GB | the paper's run, hours |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for figures in measured.values():
        for kind, step in figures["steps"].items():
            images, seconds = sum(step["batch"]), step["seconds"]
            cells = [figures["variant"], images, " + ".join(map(str, step["batch"])), f"{seconds:.3g}"]
            cells += [f"{images / seconds:.3g}", f"{step['memory']:.3g}"]
            cells.append(f"{step['hours']:.0f}" if kind == "paper" else "")
            yield f"| {' | '.join(map(str, cells))} |"
    yield ""


def rows_section(results: Figures) -> Iterator[str]:
    rows = [row for figures in results.values() for row in figures.get("rows", ())]
    head = next((figures["head"] for figures in results.values() if "head" in figures), ())
    if rows:
        yield "### Each part compared with a baseline\n"
        yield "The columns are explained in [performance.md](performance.md). Pools, loss and decoding are timed as"
        yield "CUDA graphs (messages on stderr name what cannot be captured), and the L2 cache is flushed before each"
        yield "call of the pools and of the loss.\n"
        yield from (*head, *(row["cells"] for row in rows), "")


def problems_section(results: Figures) -> Iterator[str]:
    problems = {name: figures["error"] for name, figures in results.items() if "error" in figures}
    if problems:
        yield "### Problems\n"
        yield from (f"- {name}: {' '.join(error.split())}" for name, error in problems.items())
        yield ""


def keep_earlier(folder: Path) -> None:
    """Rename the results of an earlier run to gpu-1.json, gpu-1.md and so on, so that they are not overwritten."""
    taken = {path.stem for path in folder.glob("gpu-*")}
    number = next(n for n in count(1) if f"gpu-{n}" not in taken)
    for path in (folder / "gpu.json", folder / "gpu.md"):
        if path.is_file():
            path.rename(folder / f"gpu-{number}{path.suffix}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Build, test and measure on a GPU.")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu", help="(default: build/gpu)")
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything (default: %(default)s)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a dry run")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, metavar="NAME", help=f"of {', '.join(LIMITS)}")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    args.output = args.output.absolute()
    available = parts(args.device)
    names = [name for name in args.parts or available if name in available]
    results = Results(args.output / "gpu.json")
    if args.child:
        run_here(available, names, results)
        return 0
    names = list(dict.fromkeys(["machine", *names]))  # no figure without its machine
    args.output.mkdir(parents=True, exist_ok=True)
    keep_earlier(args.output)
    common = [sys.executable, "-m", "benchmarks.gpu", "--child", "--device", args.device, "--output", str(args.output)]

    def report(name: str, figures: Figures) -> None:
        print(f"{name}: {figures['status']} {figures.get('error', '')}", flush=True)
        (args.output / "gpu.md").write_text(page(results.read()))

    os.chdir(ROOT)
    limits = {name: LIMITS[name] for name in names}
    run_apart(limits, lambda left: [*common, "--parts", *left], results, args.minutes * 60, report)
    print(f"results: {args.output / 'gpu.md'} and gpu.json")
    found = results.read()
    bad = [name for name, f in found.items() if f["status"] != "ok" or f.get("failures")]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
