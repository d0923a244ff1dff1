"""Compares ways to run a network for one image on the CPU: PyTorch, ONNX Runtime, and PyTorch's AOTInductor:

python -m benchmarks.export [NETWORK ...] [--ways WAY ...] [--threads N] [--rounds N] [--json FILE]

NETWORK: any of toy, hourglass52, hourglass104 (default: all), with random weights. Each way runs in a process of its
own, which measures its peak memory. The ways of a network are timed in turn, round by round, from uint8 images to
boxes, without mirror image and suppression. Prints a Markdown table: seconds per image (median and quartiles), the
ratio to `eager`, the peak memory and the size of the file.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

import configs
from benchmarks.measure import Setting, Spread, machine
from models.decode import best
from models.standard_ops import LONGEST, highest
from nnet.export.files import write_compiled, write_onnx, write_pt2
from nnet.export.graph import output_names, trace
from nnet.families import Family, build_family
from nnet.runtime.devices import keep_freed_memory
from nnet.runtime.exported import FORMAT, open_exported, without_chatter
from nnet.runtime.precision import Precision, layout

OPTIONS = ["test.mirror=false"]
NETWORKS = {  # config, side of the image
    "toy": ("configs/toy.yaml", 191),
    "hourglass52": ("configs/cornernet_hg52.yaml", 511),
    "hourglass104": ("configs/cornernet_hg104.yaml", 511),
}
CLASSES = {"toy": 6}  # others: COCO's
# Way -> options of testing (eager), or how the file is written
EAGER = {
    "eager": [],
    "eager, channels_last": ["test.channels_last=true"],
    "eager, channels_last, bfloat16": ["test.channels_last=true", "test.precision=bfloat16"],
}
EXPORTED: dict[str, tuple[Callable, str, list[str]]] = {
    "ONNX Runtime": (write_onnx, ".onnx", []),
    "pt2": (write_pt2, ".pt2", []),
    "AOTInductor": (write_compiled, ".pt2", []),
    "AOTInductor, bfloat16": (write_compiled, ".pt2", ["test.precision=bfloat16"]),
}
WAYS = (*EAGER, *EXPORTED)


def build(network: str, options: Sequence[str]) -> tuple[configs.Config, Family]:
    """Config and family of a network with random weights."""
    config = configs.load(NETWORKS[network][0], [*OPTIONS, *options])
    torch.manual_seed(0)
    family = build_family(CLASSES.get(network, 80), config.model, config.penalty, config.loss)
    family.network.eval().to(memory_format=layout(config.test.channels_last))
    return config, family


def write(network: str, way: str, path: Path) -> None:
    """Export a network."""
    writer, _, options = EXPORTED[way]
    config, family = build(network, options)
    decoder = family.decoder(config.test, False, highest if writer is write_onnx else best)
    dtype = getattr(torch, config.test.precision)
    with without_chatter():
        program = trace(family, decoder, False, dtype)
        metadata = {
            "format": FORMAT,
            "outputs": output_names(family, decoder),
            "config": configs.to_dict(config),
            "categories": [list(range(family.classes)), [f"class {number}" for number in range(family.classes)]],
            "stride": family.network.stride,
            "divisor": family.network.divisor,
            "largest_side": LONGEST * family.network.stride,
            "device": "cpu",
        }
        writer(program, metadata, path)


def prepare(network: str, way: str, path: Path) -> Callable[[], Any]:
    """What is timed: one image from uint8 to boxes."""
    side = NETWORKS[network][1]
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, side, side), dtype=np.uint8))
    if way in EXPORTED:
        file = open_exported(path)
        return lambda: file(images)
    config, family = build(network, EAGER[way])
    decoder = family.decoder(config.test, False, best)
    autocast = Precision(config.test.precision, torch.device("cpu")).autocast
    shaped = images.contiguous(memory_format=layout(config.test.channels_last))

    @torch.inference_mode()
    def run() -> Any:
        with autocast():
            maps = family.predict(shaped, mirror=False)
        return decoder(maps, images)

    return run


def work(network: str, way: str, path: Path, threads: int) -> None:
    """A process that times one way: each line on stdin asks for one call, and its seconds are the answer."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    if not path.exists() and way in EXPORTED:
        write(network, way, path)
        print("written", flush=True)
        return
    run = prepare(network, way, path)
    run(), run()
    print("ready", flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        run()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps([time.perf_counter() - begun, memory]), flush=True)


def start(network: str, way: str, path: Path, threads: int) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.export", network, "--way", way, "--file", str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, "--threads", str(threads)], stdin=pipe, stdout=pipe, text=True)


def measure(network: str, ways: Sequence[str], args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Seconds per round, peak memory and file size of each way."""
    found: dict[str, dict[str, Any]] = {way: {"seconds": [], "size": None} for way in ways}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        processes = {}
        for number, way in enumerate(ways):
            path = Path(folder) / f"{number}{EXPORTED[way][1] if way in EXPORTED else ''}"
            if way in EXPORTED:
                begun = time.perf_counter()
                with start(network, way, path, args.threads) as process:
                    process.communicate()
                found[way]["export"] = time.perf_counter() - begun
                found[way]["size"] = path.stat().st_size
            processes[way] = stack.enter_context(start(network, way, path, args.threads))
            stack.callback(processes[way].stdin.close)
            if processes[way].stdout.readline() != "ready\n":
                raise RuntimeError(f"{network}, {way}: the process has failed")
        for number in range(args.rounds):
            for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
                process = processes[way]
                process.stdin.write("\n")
                process.stdin.flush()
                seconds, memory = json.loads(process.stdout.readline())
                found[way]["seconds"].append(seconds)
                found[way]["memory"] = memory
    return found


def table(network: str, found: dict[str, dict[str, Any]]) -> str:
    """Rows of the Markdown table."""
    lines, base = [], found["eager"]["seconds"]
    for way, figures in found.items():
        ratio = statistics.median(a / b for a, b in zip(figures["seconds"], base, strict=True))
        size = "" if figures["size"] is None else f"{figures['size'] / 1e6:.1f} MB"
        export = f"{figures['export']:.0f} s" if "export" in figures else ""
        cells = [network, way, f"{Spread.of(figures['seconds'])}", f"{ratio:.3g}", f"{figures['memory'] / 1e9:.2f} GB"]
        lines.append(f"| {' | '.join([*cells, size, export])} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.export", description="Compare ways to run a network.")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"any of {', '.join(NETWORKS)} (default: all)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="images per way (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # the processes that are started
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in args.networks:
        if name not in NETWORKS:
            parser.error(f"unknown network {name!r}: any of {', '.join(NETWORKS)}")
    if args.way:
        work(args.networks[0], args.way, args.file, args.threads)
        return 0
    print("| network | way | seconds per image | times eager | peak memory | file | export |\n|" + " --- |" * 7)
    figures = {}
    for network in args.networks or NETWORKS:
        figures[network] = measure(network, ["eager", *(way for way in args.ways if way != "eager")], args)
        print(table(network, figures[network]), flush=True)
    facts = machine(Setting()) | {"threads": args.threads}
    print("\n" + "; ".join(f"{name}: {facts[name]}" for name in ("cpu", "threads", "torch", "python")))
    if args.json:
        args.json.write_text(json.dumps({"machine": facts, "networks": figures}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
