"""Measures what test.py spends outside the network, without and with reading ahead of it and decoding behind it:

python -m benchmarks.pipeline [CONFIG] [key=value ...] [--checkpoint PATH] [--images N]
    [--rounds N] [--variants W:B ...] [--classes N]

Prints a Markdown table: for each number of workers W and batch B (test.workers, test.batch) the seconds per image, the
network's share of them, and the time of each part in its thread. Without --checkpoint the weights are random; the
images are drawn, in the sizes of COCO's. All variants have the same images, and run in turn in each round.

The exit code is 1 if the detections of variants with the same batch differ, or if the share of time outside the network
exceeds 3% in the last variant.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

import configs
from benchmarks.data import draw_photographs
from benchmarks.measure import Spread
from benchmarks.network import settle_statistics
from db import AnnotationIndex
from nnet.detection.detector import Detector
from nnet.detection.images import detect_images
from nnet.detection.loading import load_weights
from nnet.families import Family, build_family
from nnet.runtime import checkpoint
from nnet.runtime.devices import choose_device, set_up_backends
from nnet.runtime.distributed import Group
from nnet.runtime.errors import exit_code

LIMIT = 0.03  # target: share of the time that is spent outside the network
PARTS = ("load", "network", "decode", "nms")


class Variant:
    """A detector with its number of workers and its batch, and what was measured of it."""

    def __init__(self, text: str, family: Family, config: configs.Config, device: torch.device):
        workers, _, batch = text.partition(":")
        options = replace(config.test, workers=int(workers), batch=int(batch or 1))
        self.detector = Detector(family, options, config.data.input_size, device)
        self.batch = options.batch
        self.name = f"{workers} workers, batch {self.batch}"
        self.rounds: list[dict[str, float]] = []
        self.results: list[dict] = []

    def run(self, index: AnnotationIndex, group: Group) -> None:
        """Detect in all images."""
        before, begun = self.detector.seconds, time.perf_counter()
        found = [
            result for one in detect_images(self.detector, index, group, print, leave=False) for result in one.results
        ]
        total, after = time.perf_counter() - begun, self.detector.seconds
        self.rounds.append({"all": total} | {part: after[part] - before[part] for part in PARTS})
        self.results = sorted(found, key=lambda result: result["image_id"])

    def share(self) -> float:
        """The part of the time in which the network did not run."""
        return median(1 - times["network"] / times["all"] for times in self.rounds)

    def cells(self, images: int) -> str:
        seconds = Spread.of([times["all"] / images for times in self.rounds])
        parts = [f"{1e3 * median(times[part] for times in self.rounds) / images:.3g}" for part in PARTS]
        return f"| {self.name} | {seconds} | {self.share():.1%} | {' | '.join(parts)} |"


def load_family(config: configs.Config, path: Path | None, classes: int) -> Family:
    """The family of the config, with the weights of a checkpoint or random ones."""
    state = checkpoint.load(path) if path else {}
    torch.manual_seed(config.seed)
    classes = len(state["categories"][0]) if "categories" in state else classes
    family = build_family(classes, config.model, config.penalty, config.loss)
    if path:
        load_weights(family, state, path, config.test.channels_last)
    else:
        settle_statistics(family.network, torch.randn(2, 3, *config.data.input_size))
    return family


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Measure what test.py spends outside the network.")
    parser.add_argument("config", nargs="?", default="configs/centernet_hg52.yaml", help="(default: %(default)s)")
    parser.add_argument("--checkpoint", type=Path, metavar="PATH", help="weights (default: random)")
    parser.add_argument("--images", type=int, default=12, metavar="N")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", default=["0:1", "2:1"], metavar="W:B")
    parser.add_argument("--classes", type=int, default=80, help="of random weights (default: %(default)s)")
    overrides, rest = configs.split_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_intermixed_args(rest)
    # Random embeddings are far apart: without this option, no corners would be paired
    overrides = [*([] if args.checkpoint else ["test.embedding_distance=1e9"]), *overrides]
    config = configs.load(args.config, overrides)
    set_up_backends(config.runtime)
    group = Group(choose_device(config.runtime.device))
    family = load_family(config, args.checkpoint, args.classes)
    with tempfile.TemporaryDirectory(prefix="benchmarks_") as folder:
        names = tuple(f"class {number}" for number in range(family.classes))
        index = replace(
            draw_photographs(Path(folder), args.images),
            category_ids=tuple(range(1, family.classes + 1)),
            category_names=names,
        )
        variants = [Variant(text, family, config, group.device) for text in args.variants]
        for number in range(args.rounds + 1):
            for variant in variants:
                variant.run(index.limit(1) if number == 0 else index, group)  # the first is not timed
                if number == 0:
                    variant.rounds.clear()
    print(f"{args.config}: {args.images} images, {torch.get_num_threads()} threads, PyTorch {torch.__version__}\n")
    print("| test.workers, test.batch | s per image | outside the network | load, ms | network | decode | nms |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for variant in variants:
        print(variant.cells(args.images))
    first = {variant.batch: variant.results for variant in reversed(variants)}
    same = all(variant.results == first[variant.batch] for variant in variants)
    print(f"\nThe detections of variants with the same batch are {'equal' if same else 'NOT equal'}.")
    return 0 if same and variants[-1].share() <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(exit_code(main, configs.ConfigError))
