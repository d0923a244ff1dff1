"""Speed and memory of a training step, by option of precision and memory:

python -m benchmarks.training [CONFIG] [key=value ...] [--steps N] [--variants NAME ...]

Prints a Markdown table. Data is drawn at random in memory, so that the step alone is measured: colour, targets,
network, loss, gradients, optimiser, for the micro-batches of train.batch, all on this process. Each variant runs in a
process of its own; its peak memory is the most that the system has given it, PyTorch's own code included, or on CUDA
the most that tensors took.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from statistics import median

import numpy as np
import torch

import configs
from models import build_network
from models.losses import LossWeights
from nnet.distributed import Group
from nnet.experiment import choose_device, set_up_backends
from nnet.log import peak_memory
from nnet.training import NotFinite, Step, StepOptions, build_step
from sample import Batch, Penalty
from sample.colour import ColourDraw, draw_colour

# The options of `train:` that a variant sets; "a+b" sets those of both. The others are off.
VARIANTS = {
    "float32": {},
    "tf32": {"tf32": True},  # of CUDA alone
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
    """A batch of noise with boxes of all sizes."""
    height, width = size
    count = images * OBJECTS
    corner = rng.uniform(0, 0.8, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.02, 1, (count, 2)) * (1 - corner)], 1)
    colour = [draw_colour(rng) for _ in range(images)]
    return Batch(
        torch.from_numpy(rng.integers(0, 256, (images, 3, *size), dtype=np.uint8)),
        torch.from_numpy(boxes * (width - 1, height - 1, width - 1, height - 1)),
        torch.from_numpy(rng.integers(0, classes, count)),
        torch.arange(images).repeat_interleave(OBJECTS),
        ColourDraw(*(torch.from_numpy(np.stack(part)) for part in zip(*colour, strict=True))),
        torch.arange(images),
        [],
    )


def measure(config: configs.Config, classes: int, steps: int) -> dict:
    """Seconds of each step after a first that is not counted, of that first, and peak memory in GB."""
    set_up_backends(config.train.threads, config.train.tf32)
    torch.manual_seed(config.seed)
    step, batches = prepare(config, classes, build_network(classes, **asdict(config.model)))
    return time_steps(step, batches, steps)


def prepare(config: configs.Config, classes: int, network: torch.nn.Module) -> tuple[Step, list[Batch]]:
    """The steps of a config with this network, and random data for one of them."""
    c = config.train
    penalty, weights = Penalty(**asdict(config.penalty)), LossWeights(**asdict(config.loss))
    options = StepOptions(*(getattr(c, name) for name in StepOptions._fields))
    group = Group(choose_device(c.device))
    step = build_step(network, classes, penalty, weights, options, len(c.batch), group)
    rng = np.random.default_rng(config.seed)
    return step, [draw_batch(n, tuple(config.data.input_size), classes, rng) for n in c.batch]


def time_steps(step: Step, batches: list[Batch], steps: int) -> dict:
    """As `measure`, of steps on the same data again and again."""
    device, seconds = step.group.device, []
    for _ in range(steps + 1):
        synchronise(device)
        begun = time.perf_counter()
        made = step([batch.to(device) for batch in batches])
        synchronise(device)
        seconds.append(time.perf_counter() - begun)
        if isinstance(made, NotFinite):
            raise SystemExit(f"not finite: {', '.join(made.terms)}")
    return {"first": seconds[0], "seconds": seconds[1:], "memory": peak_memory(device)}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def options_of(variant: str) -> dict:
    """The options of `train:` of a variant."""
    return OFF | {name: value for part in variant.split("+") for name, value in VARIANTS[part].items()}


def table(rows: dict[str, dict | None], images: int) -> str:
    """Markdown; a variant that failed is None."""
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
    parser = argparse.ArgumentParser(description="Speed and memory of a training step.")
    parser.add_argument("options", nargs="*", metavar="CONFIG | key=value", help="default: configs/toy.yaml")
    parser.add_argument("--steps", type=int, default=20, help="steps that are timed, after one that is not")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--variants", nargs="+", metavar="NAME", help=f"{', '.join(VARIANTS)}, or a+b (default: many)")
    parser.add_argument("--alone", action="store_true", help="measure the one variant here, and print figures as JSON")
    args = parser.parse_intermixed_args(argv)
    named = args.options and "=" not in args.options[0]
    path, *overrides = args.options if named else ["configs/toy.yaml", *args.options]
    config = configs.load(path, overrides)
    device = choose_device(config.train.device)
    if not args.variants:
        args.variants = [name for name in [*VARIANTS, *TOGETHER] if name != "tf32" or device.type == "cuda"]
    if unknown := [part for name in args.variants for part in name.split("+") if part not in VARIANTS]:
        parser.error(f"unknown variant {unknown[0]}: choose from {', '.join(VARIANTS)}")
    if device.type == "cpu" and any("tf32" in name for name in args.variants):
        parser.error("tf32 makes no difference on the CPU: measure it with train.device=cuda")
    if args.alone:
        chosen = replace(config.train, **options_of(args.variants[0]))
        print(json.dumps(measure(replace(config, train=chosen), args.classes, args.steps)))
        return 0

    rows = {}
    for variant in args.variants:
        command = [sys.executable, "-m", "benchmarks.training", path, *overrides, "--alone"]
        command += ["--steps", str(args.steps), "--classes", str(args.classes), "--variants", variant]
        # The first step is to show how long compiling takes: nothing of it is taken from an earlier run.
        environment = {**os.environ, "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
        rows[variant] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
        print(f"{variant}: {rows[variant] or 'failed'}", file=sys.stderr)
    threads = config.train.threads or torch.get_num_threads()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {threads} threads"
    print(f"{' '.join([path, *overrides])}: {where}, PyTorch {torch.__version__}\n")
    print(table(rows, sum(config.train.batch)))
    return 0 if all(rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
