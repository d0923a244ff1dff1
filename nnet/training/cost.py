"""Print what the network of a config costs: python -m nnet.training.cost CONFIG ... [key.sub=value ...]
    [--classes N] [--depth N] [--json]

Parameters and floating-point operations by part, and the peak memory of activations, at data.input_size; of several
configs, a table with a row per config. They are computed without data, GPU or memory for the network, see
models/cost.py. Exit codes: 0 done, 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import configs
from db import DataError, load_split
from models.cost import Cost, measure
from nnet.families import build_family
from nnet.runtime.console import progress_bar
from nnet.runtime.errors import exit_code
from nnet.training.data import check_batch_norm
from nnet.training.step import checkpoint_activations
from sample.statistics import aligned

COCO_CLASSES = 80
STATE = 16  # bytes per parameter in training: the weight, its gradient, and Adam's two moments


def network_cost(config: configs.Config, classes: int, depth: int = 2) -> Cost:
    """The cost of a config's network. The training pass is that of the largest micro-batch. Raises DataError."""
    with torch.device("meta"):
        family = build_family(classes, config.model, config.penalty, config.loss)
    network = family.network
    check_batch_norm(network, config.train.batch, config.data.input_size)
    if config.train.checkpointing:
        checkpoint_activations(network, network.recomputed)
    return measure(network, config.data.input_size, max(config.train.batch), depth)


def number_of_classes(config: configs.Config) -> tuple[int, str]:
    """The number of classes of data.train, or of COCO where the data cannot be read, and where it is from."""
    try:
        return load_split(config.data, "train").num_classes, "of data.train"
    except DataError:
        return COCO_CLASSES, "as COCO, since data.train cannot be read; see --classes"


def report(cost: Cost, size: tuple[int, int]) -> str:
    """The cost as a table and sentences."""
    rows = [("part", "parameters", "GFLOP, testing", "GFLOP, training")]
    whole = ("total", cost.parameters, cost.testing, cost.training)
    for name, parameters, testing, training in [*(part for part in cost.parts if any(part[1:])), whole]:
        rows.append((name, f"{parameters:,}", f"{testing / 1e9:,.1f}", f"{training / 1e9:,.1f}"))
    images = f"{cost.images} image{'s' if cost.images > 1 else ''}"
    state, activations = STATE * cost.parameters, cost.training_memory
    return "\n".join(
        [
            *aligned(rows),
            "",
            f"GFLOP are of the forward pass with one image of {size[0]}x{size[1]}, with 2 FLOP per multiply-add. "
            "Training predicts from every stack.",
            f"Training step: {cost.step / 1e9:,.0f} GFLOP per image (forward and backward pass).",
            f"Peak memory of activations in float32: {memory(cost.testing_memory)} in testing, 1 image; "
            f"{memory(activations)} in training, micro-batch of {images}.",
            f"Weights, gradients and Adam's moments: {memory(state)}; with the activations of training: "
            f"{memory(state + activations)}.",
        ]
    )


def table(costs: Sequence[tuple[str, Cost]]) -> str:
    """The costs of several configs, with their paths, in Markdown."""
    lines = [
        "| config | parameters | GFLOP, testing | GFLOP, training step | activations per micro-batch |",
        "| --- | --- | --- | --- | --- |",
    ]
    for path, cost in costs:
        cells = [Path(path).stem, f"{cost.parameters / 1e6:.1f}M", gflop(cost.testing), gflop(cost.step)]
        images = f"{cost.images} image{'s' if cost.images > 1 else ''}"
        lines.append(f"| {' | '.join(cells)} | {memory(cost.training_memory)}, {images} |")
    return "\n".join(lines)


def gflop(operations: float) -> str:
    """A number of operations in 10^9, for the reader."""
    billions = operations / 1e9
    return f"{billions:,.0f}" if billions >= 100 else f"{billions:.1f}" if billions >= 1 else f"{billions:.2g}"


def memory(size: int) -> str:
    """A number of bytes for the reader."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m nnet.training.cost",
        description="Print parameters, GFLOP and memory of the network of a config, or of several.",
        epilog="Options may be changed by key.sub=value, anywhere on the command line.",
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="YAML file, as those in configs/")
    parser.add_argument("--classes", type=int, metavar="N", help="number of classes (default: that of data.train)")
    parser.add_argument("--depth", type=int, default=2, metavar="N", help="how deep the parts lie (default: 2)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    overrides, rest = configs.split_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(rest)
    args.overrides = overrides
    for option in ("classes", "depth"):
        value = getattr(args, option)
        if value is not None and value < 1:
            parser.error(f"--{option} takes a number of at least 1")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def script() -> None:
        costs, described = [], []
        for path in progress_bar(args.configs, desc="networks", disable=len(args.configs) == 1, leave=False):
            config = configs.load(path, args.overrides)
            classes, origin = (args.classes, "as given") if args.classes else number_of_classes(config)
            cost, size = network_cost(config, classes, args.depth), config.data.input_size
            costs.append((path, cost))
            if args.json:
                values = {"config": path, "input_size": list(size), "classes": classes}
                described.append(values | cost._asdict() | {"parts": [part._asdict() for part in cost.parts]})
            else:
                title = f"{path}: images of {size[0]}x{size[1]}, {classes} classes ({origin})"
                described.append(f"{title}\n\n{report(cost, size)}")
        if args.json:
            print(json.dumps(described if len(described) > 1 else described[0], indent=1))
        else:
            print(table(costs) if len(costs) > 1 else described[0])

    return exit_code(script, configs.ConfigError)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that closes early, such as `| head`, ends it quietly
    sys.exit(main())
