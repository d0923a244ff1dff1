"""Measures speed and memory of a training step with different options for precision and memory:

python -m benchmarks.training [CONFIG] [key=value ...] [--steps N] [--variants NAME ...]

Prints a Markdown table. The data is random and in memory, so that only the step is measured: colour, targets, network,
loss, gradients and optimiser, for all micro-batches of train.batch in one process. Each variant runs in a separate
process. Its peak memory is the maximum resident set size of the process, which includes PyTorch's libraries; on CUDA it
is the peak memory of tensors.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from statistics import median

import numpy as np
import torch

import configs
from nnet.families import Family, build_family
from nnet.runtime.devices import choose_device, set_up_backends
from nnet.runtime.distributed import Group
from nnet.training.metrics import peak_memory
from nnet.training.step import NonFinite, UpdateStep
from sample.colour import ColourDraw, draw_colour
from sample.dataset import Batch
from sample.targets import BatchObjects

# The options that a variant sets. "a+b" sets those of both. Options that are not set are off.
VARIANTS = {
    "float32": {},
    "tf32": {"tf32": True},  # CUDA only
    "channels_last": {"channels_last": True},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "compile": {"compile": True},
    "checkpointing": {"checkpointing": True},
    "fused_adam": {"fused_adam": True},
}
OFF = {"precision": "float32"} | dict.fromkeys("tf32 channels_last compile checkpointing fused_adam".split(), False)
TOGETHER = ["channels_last+fused_adam", "channels_last+bfloat16", "channels_last+bfloat16+checkpointing"]
OBJECTS = 7  # per image, as in COCO


def draw_batch(images: int, size: tuple[int, int], classes: int, rng: np.random.Generator) -> Batch:
    """A batch of random images and boxes of all sizes."""
    height, width = size
    count = images * OBJECTS
    corner = rng.uniform(0, 0.8, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.02, 1, (count, 2)) * (1 - corner)], 1)
    colour = [draw_colour(rng) for _ in range(images)]
    pixels = torch.from_numpy(rng.integers(0, 256, (images, 3, *size), dtype=np.uint8))
    objects = BatchObjects(
        torch.from_numpy(boxes * (width - 1, height - 1, width - 1, height - 1)),
        torch.from_numpy(rng.integers(0, classes, count)),
        torch.arange(images).repeat_interleave(OBJECTS),
    )
    draws = ColourDraw(*(torch.from_numpy(np.stack(part)) for part in zip(*colour, strict=True)))
    return Batch(pixels, objects, draws, torch.arange(images), [])


def measure(config: configs.Config, classes: int, steps: int) -> dict:
    """The seconds of each step after the first ("seconds") and of the first ("first"), and peak memory in GB."""
    set_up_backends(config.runtime)
    torch.manual_seed(config.seed)
    family = build_family(classes, config.model, config.penalty, config.loss)
    step, batches = prepare(config, family)
    return time_steps(step, batches, steps)


def prepare(config: configs.Config, family: Family) -> tuple[UpdateStep, list[Batch]]:
    """The training step of a config for this family, and random micro-batches for it."""
    batch = config.train.batch
    step = UpdateStep(family, config.train, len(batch), Group(choose_device(config.runtime.device)))
    rng = np.random.default_rng(config.seed)
    return step, [draw_batch(n, tuple(config.data.input_size), family.classes, rng) for n in batch]


def time_steps(step: UpdateStep, batches: list[Batch], steps: int) -> dict:
    """Time steps on the same data. Returns the values of `measure`."""
    device, seconds = step.group.device, []
    for _ in range(steps + 1):
        synchronise(device)
        begun = time.perf_counter()
        try:
            step([batch.to(device) for batch in batches])
        except NonFinite as error:
            raise SystemExit(f"non-finite loss terms: {', '.join(error.terms)}") from None
        synchronise(device)
        seconds.append(time.perf_counter() - begun)
    return {"first": seconds[0], "seconds": seconds[1:], "memory": peak_memory(device)}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def with_variant(config: configs.Config, variant: str) -> configs.Config:
    """The config with the options of a variant."""
    chosen = OFF | {name: value for part in variant.split("+") for name, value in VARIANTS[part].items()}
    runtime = replace(config.runtime, tf32=chosen.pop("tf32"))
    return replace(config, train=replace(config.train, **chosen), runtime=runtime)


def table(rows: dict[str, dict | None], images: int) -> str:
    """The Markdown table of the results by variant. The result of a variant that failed is None."""
    head = "| | seconds per step: median (least to most) | images/s | first step, s | peak memory, GB | time | memory |"
    lines = [head, "| --- | --- | --- | --- | --- | --- | --- |"]
    base = rows.get("float32")
    for name, row in rows.items():
        if row is None:
            lines.append(f"| {name} | failed | | | | | |")
            continue
        seconds, memory = median(row["seconds"]), row["memory"]
        spread = f"{min(row['seconds']):.3g} to {max(row['seconds']):.3g}"
        cells = [f"{seconds:.3g} ({spread})", f"{images / seconds:.2f}", f"{row['first']:.1f}", f"{memory:.2f}"]
        cells += [f"{seconds / median(base['seconds']):.2f}", f"{memory / base['memory']:.2f}"] if base else ["", ""]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure speed and memory of a training step.")
    parser.add_argument(
        "config", nargs="?", default="configs/toy.yaml", metavar="CONFIG", help="(default: %(default)s)"
    )
    parser.add_argument("--steps", type=int, default=20, help="number of steps to time, after one that is not timed")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--variants", nargs="+", metavar="NAME", help=f"{', '.join(VARIANTS)}, or a+b (default: many)")
    parser.add_argument("--alone", action="store_true", help="measure one variant in this process, and print JSON")
    overrides, rest = configs.split_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_intermixed_args(rest)
    config = configs.load(args.config, overrides)
    device = choose_device(config.runtime.device)
    if not args.variants:
        args.variants = [name for name in [*VARIANTS, *TOGETHER] if name != "tf32" or device.type == "cuda"]
    if unknown := [part for name in args.variants for part in name.split("+") if part not in VARIANTS]:
        parser.error(f"unknown variant {unknown[0]}: choose from {', '.join(VARIANTS)}")
    if device.type == "cpu" and any("tf32" in name for name in args.variants):
        parser.error("tf32 has no effect on the CPU: measure it with runtime.device=cuda")
    if args.alone:
        print(json.dumps(measure(with_variant(config, args.variants[0]), args.classes, args.steps)))
        return 0

    rows = {}
    for variant in args.variants:
        command = [sys.executable, "-m", "benchmarks.training", args.config, *overrides, "--alone"]
        command += ["--steps", str(args.steps), "--classes", str(args.classes), "--variants", variant]
        # Without caches of earlier runs, so that the time of the first step includes compilation
        environment = {**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
        rows[variant] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
        print(f"{variant}: {rows[variant] or 'failed'}", file=sys.stderr)
    set_up_backends(config.runtime)
    threads = torch.get_num_threads()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} threads"
    print(f"{' '.join([args.config, *overrides])}: {where}, PyTorch {torch.__version__}\n")
    print(table(rows, sum(config.train.batch)))
    return 0 if all(rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
