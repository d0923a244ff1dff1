"""Evaluate a checkpoint:

python test.py CONFIG --checkpoint PATH [--split val|test|train] [--output DIR] [--draw N] [--truth center]
    [key.sub=value ...]

Writes to DIR (runs/<name of the config>/<split> by default) the detections in COCO's result format, metrics.json with
COCO's 12 figures and the false discovery rates, and pictures. Exit codes: 0 done, 1 stopped by a fault, 2 bad input.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

import configs
from db import (
    CocoIndex,
    GroundTruth,
    evaluate,
    false_discovery,
    results_name,
    submission_note,
    to_results,
    write_results,
)
from models import build_network
from nnet import checkpoint
from nnet.distributed import Group
from nnet.experiment import (
    choose_device,
    detect_all,
    exit_code,
    load_split,
    make_detector,
    make_folder,
    same_categories,
    set_up_backends,
    split_files,
)
from nnet.faults import RunError, UnreadableCount
from nnet.inference import Detector, DetectSettings, Found
from nnet.pictures import class_colour, draw_boxes, draw_detections, side_by_side, write_image
from sample import read_image


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint.", epilog="Options: configs/schema.py")
    parser.add_argument("config", help="YAML file, as those in configs/")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="options that differ from the config's")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="PATH", help="one of train.py's, or a released .pkl"
    )
    parser.add_argument("--split", choices=["val", "test", "train"], default="val", help="which data (default: val)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the results (default: runs/<config>/<split>)"
    )
    parser.add_argument(
        "--draw", type=int, default=0, metavar="N", help="draw the first N images with their detections"
    )
    parser.add_argument(
        "--truth", choices=["center"], help="take what is annotated in place of what is predicted (CenterNet, Table 5)"
    )
    args = parser.parse_intermixed_args(argv)
    if args.draw < 0:
        parser.error("--draw takes a number of images, 0 or more")
    return args


def test(config: configs.Config, args: argparse.Namespace, output: Path, group: Group) -> int:
    weights, split_name = args.checkpoint, args.split
    split = getattr(config.data, split_name)
    if split is None:
        raise configs.ConfigError(f"data.{split_name} is null in this config: name its images and annotations")
    index = load_split(config.data.root, **asdict(split), require_boxes=split_name != "test")
    state = checkpoint.load(weights)
    if "categories" in state:
        same_categories(index, *state["categories"], f"the network of {weights}", f"data.{split_name}")
    checkpoint.changed_options(state, configs.to_dict(config), weights)  # raises where the network is another
    network = build_network(index.num_classes, **asdict(config.model))
    checkpoint.load_weights(network, state["model"], weights)
    if args.truth and args.truth not in network.keypoints:
        raise configs.ConfigError(f"--truth {args.truth}: the network of {args.config} does not predict it")
    if args.truth and not len(index.boxes):
        raise configs.ConfigError(f"--truth {args.truth}: data.{split_name} has no annotated boxes")
    settings = DetectSettings(**asdict(config.test))
    detector = make_detector(
        network, settings, config.data.input_size, group.device, true_centers=args.truth == "center"
    )
    make_folder(output)

    decimals = 2 if config.test.as_published else None
    results, unreadable, to_draw, begun = [], [], [], time.perf_counter()
    for i, _, found in detect_all(detector, index, group, unreadable.append):
        results += to_results(index, i, *found, decimals)
        if i < args.draw:
            to_draw.append((i, found))  # without the image: there may be many
    seconds, images = time.perf_counter() - begun, len(group.share(len(index)))
    results, unreadable = group.gather(results), group.gather(unreadable)
    if group.first:
        results.sort(key=lambda result: result["image_id"])  # as one process leaves them
        _, files = split_files(config.data.root, split.images, split.annotations)
        annotated = len(index.boxes) > 0
        path = output / results_name(annotated, files[0].stem, f"{Path(args.config).stem}-{weights.stem}")
        write_results(path, results)
        metrics = {
            "checkpoint": str(weights),
            "iteration": state.get("iteration"),
            "split": split_name,
            "images": len(index),
            "unreadable": len(unreadable),
            "detections": len(results),
            "truth": args.truth,
            "seconds_per_image": seconds / len(index),
            "seconds_per_image_of": {part: total / images for part, total in detector.seconds.items()},
        }
        if annotated:
            truth = GroundTruth(files)
            figures, rates = (f(truth, results, index.image_ids) for f in (evaluate, false_discovery))
            print(figures.table)
            shown = ", ".join(f"{k} {v:.3f}" for k, v in rates.items() if v is not None)
            print(f" False discovery rates: {shown}")
            metrics |= figures | rates | {"AP_per_class": figures.per_class}
        elif path.name != "results.json":
            print(submission_note(path))
        else:
            print(f"{files[0]} has no boxes: nothing to compare the detections with")
        metrics["config"] = configs.to_dict(config)
        (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    # Last, for the results are worth more than the pictures.
    for i, found in to_draw:
        path = output / "pictures" / f"{int(index.image_ids[i]):012d}.jpg"
        draw_image(path, detector, read_image(index.path(i), tuple(index.sizes[i].tolist())), found, index, i)
    if group.first:
        print(f"{len(results):,} detections in {len(index):,} images; results, metrics.json and pictures in {output}")
        for line in unreadable:
            print(f"skipped {line}", file=sys.stderr)
        if len(unreadable) > UnreadableCount.LIMIT * len(index):
            raise RunError(
                f"{len(unreadable)} of {len(index)} images could not be read; the figures count them as without "
                "detections. Repair them, or remove their entries from the annotation file"
            )
    return 0


def draw_image(path: Path, detector: Detector, image: np.ndarray, found: Found, index: CocoIndex, i: int) -> None:
    """Ground truth, detections, and how they come about, side by side."""
    boxes, labels = index.annotations(i)
    names = index.category_names
    truth = draw_boxes(image, boxes, [names[label] for label in labels], [class_colour(label) for label in labels])
    pictures = {"ground truth": truth} if len(boxes) else {}
    pictures["detections"] = draw_detections(image, *found, names)
    pictures |= detector.pictures(image, (boxes, labels))
    write_image(path, side_by_side(list(pictures.values()), list(pictures)))


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def run() -> int:
        config = configs.load(args.config, args.overrides)
        name = f"{args.split}_truth_{args.truth}" if args.truth else args.split
        output = args.output or Path("runs") / Path(args.config).stem / name
        set_up_backends(config.train.threads, config.train.tf32)
        with Group(choose_device(config.train.device), config.train.collective_timeout) as group:
            return test(config, args, output, group)

    return exit_code(run, configs.ConfigError)


if __name__ == "__main__":
    sys.exit(main())
