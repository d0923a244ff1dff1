"""Evaluate a checkpoint:

python test.py CONFIG --checkpoint PATH [--split val|test|train] [--output DIR] [--truth NAME ...]
    [--analyses NAME ...] [--draw N [--pictures NAME ...] [--beside CONFIG CHECKPOINT [key.sub=value ...]]]
    [key.sub=value ...]

Writes to DIR (runs/<name of the config>/<split> by default) the detections in COCO's result format, metrics.json with
COCO's 12 figures, the false discovery rates and the analyses, and pictures. Exit codes: 0 done, 1 stopped by a fault,
2 bad input.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

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
from models.cornernet import KeypointNetwork
from nnet import checkpoint, figures
from nnet.analyses import SURE, ap_by_objects, corner_ap, error_shares, find_corners, judge, objects_of
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
from nnet.inference import Detector, DetectSettings
from nnet.pictures import write_image
from nnet.precision import layout
from nnet.truth import CENTERS, MAPS, keypoint_of
from sample import Penalty, read_image

ANALYSES = ("corners", "objects", "errors")  # metrics.json: corner_AP, AP_by_objects, errors
TRUTHS = (*MAPS, CENTERS)
PICTURES = tuple(figures.PICTURES)


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
        "--beside",
        nargs="+",
        default=[],
        metavar=("CONFIG", "CHECKPOINT"),
        help="with --draw: detections of another network, too; options of its config may follow",
    )
    named = {
        "truth": (TRUTHS, "what is taken from the annotation in place of the prediction"),
        "analyses": (ANALYSES, "figures beyond COCO's"),
        "pictures": (PICTURES, "what --draw draws; by default row"),
    }
    for option, (names, what) in named.items():
        what = f"{what}: any of {', '.join(names)}"
        parser.add_argument(f"--{option}", nargs="+", default=[], metavar="NAME", help=what)
    args = parser.parse_intermixed_args(argv)
    if args.draw < 0:
        parser.error("--draw takes a number of images, 0 or more")
    if len(args.beside) == 1:
        parser.error("--beside takes a config and a checkpoint")
    for value in args.beside[2:]:
        if not value.startswith(("model.", "test.")):
            parser.error(f"--beside CONFIG CHECKPOINT takes the other network's model. and test. options, not {value}")
    for option in ("beside", "pictures"):
        if getattr(args, option) and not args.draw:
            parser.error(f"--{option} draws: say with --draw how many images")
    for option, (names, _) in named.items():
        given = getattr(args, option)
        args.overrides += [value for value in given if "=" in value]  # what follows the names is taken for names
        given = {value for value in given if "=" not in value}
        if not given <= set(names):
            parser.error(f"--{option} takes any of {', '.join(names)}, not {', '.join(sorted(given - set(names)))}")
        setattr(args, option, [name for name in names if name in given])  # once each, in one order
    args.pictures = args.pictures or ["row"]
    return args


def load_network(config: configs.Config, weights: Path, index: CocoIndex, data: str) -> tuple[KeypointNetwork, dict]:
    """A config's network with the weights of a checkpoint, for the categories of the index (of `data`); its state."""
    state = checkpoint.load(weights)
    if "categories" in state:
        same_categories(index, *state["categories"], f"the network of {weights}", data)
    checkpoint.changed_options(state, configs.to_dict(config), weights)  # raises where the network is another
    network = build_network(index.num_classes, **asdict(config.model))
    checkpoint.load_weights(network, state["model"], weights)
    return network.to(memory_format=layout(config.test.channels_last)), state


def detector_of(
    config: configs.Config, network: KeypointNetwork, device: torch.device, truth: Sequence[str] = (), **changed
) -> Detector:
    """A config's detector; `changed` are values of its section `test` that differ."""
    settings = DetectSettings(**asdict(config.test))._replace(**changed)
    return make_detector(network, settings, config.data.input_size, device, truth=truth)


def check_wanted(args: argparse.Namespace, network: KeypointNetwork, annotated: bool) -> None:
    """ConfigError where the network or the data have not what an option is about."""
    wanted = {f"--truth {name}": keypoint_of(name) for name in args.truth}
    wanted |= {f"--analyses {name}": None if name == "objects" else "top_left" for name in args.analyses}
    if args.draw:
        of_corners = {"targets", "heatmaps", "errors"}
        wanted |= {f"--pictures {name}": "top_left" if name in of_corners else None for name in args.pictures}
    for option, keypoint in wanted.items():
        if keypoint and keypoint not in network.keypoints:
            raise configs.ConfigError(f"{option}: the network of {args.config} does not predict it")
        if not annotated and option not in ("--pictures row", "--pictures heatmaps"):
            raise configs.ConfigError(f"{option}: data.{args.split} has no annotated boxes")


def test(config: configs.Config, args: argparse.Namespace, output: Path, group: Group) -> int:
    weights, split_name = args.checkpoint, args.split
    split = getattr(config.data, split_name)
    if split is None:
        raise configs.ConfigError(f"data.{split_name} is null in this config: name its images and annotations")
    index = load_split(config.data.root, **asdict(split), require_boxes=split_name != "test")
    network, state = load_network(config, weights, index, f"data.{split_name}")
    annotated = len(index.boxes) > 0
    check_wanted(args, network, annotated)
    detector = detector_of(config, network, group.device, args.truth)
    # Corners have a detector of their own: of one view, and its time is none of detection's
    single = (
        detector_of(config, network, group.device, args.truth, mirror=False) if "corners" in args.analyses else None
    )
    other = None
    if args.beside:
        other_config = configs.load(args.beside[0], args.beside[2:])
        other_network, _ = load_network(other_config, Path(args.beside[1]), index, f"data.{split_name}")
        other = detector_of(other_config, other_network, group.device)
    penalty = Penalty(**asdict(config.penalty))
    make_folder(output)

    decimals = 2 if config.test.as_published else None
    results, unreadable, corners, judged, to_draw, aside = [], [], [], [], [], 0.0
    begun = time.perf_counter()
    for i, image, found in detect_all(detector, index, group, unreadable.append):
        results += to_results(index, i, *found, decimals)
        if i < args.draw:
            to_draw.append((i, found))  # without the image: there may be many
        detected = time.perf_counter()
        if single:
            for kind, points in find_corners(single, image, index.annotations(i)).items():
                corners.append((i, kind, np.column_stack(points)))
        if "errors" in args.analyses:
            sure = found.scores >= SURE
            judged += judge(found.boxes[sure], found.labels[sure], objects_of(index, i), penalty).tolist()
        aside += time.perf_counter() - detected
    seconds, images = time.perf_counter() - begun - aside, len(group.share(len(index)))
    results, unreadable, corners, judged = map(group.gather, (results, unreadable, corners, judged))
    if group.first:
        results.sort(key=lambda result: result["image_id"])  # as one process leaves them
        _, files = split_files(config.data.root, split.images, split.annotations)
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
            "seconds_per_image": seconds / images,
            "seconds_per_image_of": {part: total / images for part, total in detector.seconds.items()},
        }
        if annotated:
            truth = GroundTruth(files)
            evaluation, rates = (f(truth, results, index.image_ids) for f in (evaluate, false_discovery))
            print(evaluation.table)
            shown = ", ".join(f"{k} {v:.3f}" for k, v in rates.items() if v is not None)
            print(f" False discovery rates: {shown}")
            metrics |= evaluation | {f"AP{100 * t:.0f}": evaluation.by_iou[t] for t in (0.6, 0.7, 0.8, 0.9)}
            metrics |= rates | {"AP_per_class": evaluation.per_class}
            if "corners" in args.analyses:
                metrics["corner_AP"] = corner_ap(index, corners, penalty)
            if "objects" in args.analyses:
                metrics["AP_by_objects"] = ap_by_objects(index, truth, results)
            if "errors" in args.analyses:
                metrics["errors"] = error_shares(judged)
            for name in ("corner_AP", "AP_by_objects", "errors"):
                if name in metrics:
                    print(f"{name}: {json.dumps(metrics[name])}")
        elif path.name != "results.json":
            print(submission_note(path))
        else:
            print(f"{files[0]} has no boxes: nothing to compare the detections with")
        metrics["config"] = configs.to_dict(config)
        (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    # Last, for the results are worth more than the pictures.
    for i, found in to_draw:
        image, truth = read_image(index.path(i), tuple(index.sizes[i].tolist())), objects_of(index, i)
        shown = figures.Shown(image, truth, found, index.category_names, penalty)
        pictures = {name: figures.PICTURES[name](shown, detector) for name in args.pictures}
        if other:
            titles = [f"{Path(name).stem} ({path})" for name, path in ((args.config, weights), args.beside[:2])]
            pictures["beside"] = figures.beside(shown, dict(zip(titles, (found, other(image)), strict=True)))
        for name, picture in pictures.items():
            ending = "" if name == "row" else f"_{name}"
            write_image(output / "pictures" / f"{int(index.image_ids[i]):012d}{ending}.jpg", picture)
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


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def run() -> int:
        config = configs.load(args.config, args.overrides)
        name = "_".join([args.split, *(["truth", *args.truth] if args.truth else [])])
        output = args.output or Path("runs") / Path(args.config).stem / name
        set_up_backends(config.train.threads, config.train.tf32)
        with Group(choose_device(config.train.device), config.train.collective_timeout) as group:
            return test(config, args, output, group)

    return exit_code(run, configs.ConfigError)


if __name__ == "__main__":
    sys.exit(main())
