"""Evaluate a checkpoint:

python test.py CONFIG --checkpoint PATH [--split val|test|train] [--output DIR] [--truth NAME ...] [--analyses NAME ...]
    [--draw N [--pictures NAME ...] [--beside CONFIG CHECKPOINT]] [--report] [key.sub=value ...]
    [beside.key.sub=value ...]

Writes to DIR the detections in COCO's result format, metrics.json with COCO's 12 figures, figures by class, the false
discovery rates and the analyses, pictures, and a page about all of it. DIR is by default beside the checkpoint:
<split>, or <split>_truth_<names>; for another config than the run's, in a folder of that config's name. The results of
another checkpoint are not overwritten without --overwrite. Exit codes: 0 done, 1 stopped by a fault, 2 bad input.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before PyTorch is loaded, see nnet/runtime/threads.py

import cv2
import torch

import configs
from db import (
    AnnotationIndex,
    UnreadableImage,
    evaluate,
    false_discovery,
    load_split,
    read_image,
    results_name,
    submission_note,
    write_results,
)
from models.keypoints import CORNERS
from nnet import analysis
from nnet.analysis.base import Analysis
from nnet.analysis.classes import class_figures, class_table
from nnet.detection.detector import Detector, UnpredictedTruth
from nnet.detection.images import UNREADABLE_LIMIT, detect_images
from nnet.detection.loading import build_detector, load_checkpoint, report_suspicions
from nnet.detection.suppression import Found
from nnet.detection.warnings import before_evaluation
from nnet.drawing import pictures
from nnet.drawing.images import write_image
from nnet.drawing.pictures.base import Picture, Shown
from nnet.drawing.pictures.beside import beside
from nnet.families import FAMILIES
from nnet.report.runs import Run
from nnet.report.write import write_report
from nnet.runtime.console import set_up_logging, warn
from nnet.runtime.devices import choose_device, set_up_backends
from nnet.runtime.discovery import classes_in
from nnet.runtime.distributed import Group
from nnet.runtime.errors import RunError, exit_code
from nnet.runtime.files import make_folder, refuse_other_results

ANALYSES: dict[str, type[Analysis]] = classes_in(analysis, Analysis)
PICTURES: dict[str, type[Picture]] = classes_in(pictures, Picture)
TRUTHS = tuple(dict.fromkeys(name for family in FAMILIES for name in family.truths))


def test(config: configs.Config, args: argparse.Namespace, output: Path, group: Group) -> int:
    """Detect, gather, evaluate, analyse, draw. Returns the exit code."""
    index = load_split(config.data, args.split, require_boxes=args.split != "test")
    report_suspicions(index, f"data.{args.split}")
    detector, state = load_detector(config, args.config, args.checkpoint, index, args.split, group.device, args.truth)
    other = None
    if args.beside:
        other_config = configs.load(args.beside[0], args.beside_overrides)
        other, _ = load_detector(other_config, *args.beside, index, args.split, group.device)
    check_wanted(args, detector, annotated=len(index.boxes) > 0)
    warn(before_evaluation(index, detector))
    analyses = [ANALYSES[name](index, detector, config.penalty) for name in args.analyses]
    make_folder(output)
    if not args.overwrite:
        refuse_other_results(output / "metrics.json", args.checkpoint, state.get("iteration"))

    outcome = detect(detector, index, analyses, args.draw, group)
    results, unreadable = group.gather(outcome.results), group.gather(outcome.unreadable)
    records = [group.gather(records) for records in outcome.records]
    if group.first:
        results.sort(key=lambda result: result["image_id"])  # the order that a run with one process gives
        metrics = describe(args, state, index, results, unreadable, outcome, detector)
        metrics |= measure(index, results, output, args)
        for tool, own in zip(analyses, records, strict=True):
            metrics[tool.key] = tool.figures(own, results)
            print(f"{tool.key}: {json.dumps(metrics[tool.key])}")
        metrics["config"] = configs.to_dict(config)
        (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    # Last, since the results matter more than the pictures
    missing = []
    for i, found in outcome.to_draw:
        try:
            draw(index, i, found, detector, other, args, config, output / "pictures")
        except (UnreadableImage, OSError, cv2.error) as error:
            missing.append(f"no picture of {index.path(i)}: {error}")
    missing = group.gather(missing)
    if group.first:
        for message in missing:
            print(message, file=sys.stderr)
        if args.report:
            page = write_report(output / "report", [Run(output, config, index, metrics, results)], [detector])
            print(f"report: {page}")
        report(results, unreadable, len(index), output)
        if missing:
            raise RunError(f"{len(missing)} images could not be drawn ({missing[0]}); results and figures are complete")
    return 0


def load_detector(
    config: configs.Config,
    name: str,
    path: str | Path,
    index: AnnotationIndex,
    split: str,
    device: torch.device,
    truth: Sequence[str] = (),
) -> tuple[Detector, dict[str, Any]]:
    """The detector of a config with the weights of a checkpoint, and the checkpoint's content.

    name: file name of the config, for messages.
    """
    path = Path(path)
    state = load_checkpoint(path, configs.to_dict(config), index, f"data.{split}")
    try:
        return build_detector(state, path, config, index.num_classes, device, truth), state
    except UnpredictedTruth as error:
        raise configs.ConfigError(f"--truth {error.name}: the network of {name} does not predict it") from None


def check_wanted(args: argparse.Namespace, detector: Detector, annotated: bool) -> None:
    """Raise ConfigError where the network or the data lack what an option needs."""
    wanted = [(f"--truth {name}", False, True) for name in args.truth]
    wanted += [(f"--analyses {name}", ANALYSES[name].needs_corners, True) for name in args.analyses]
    wanted += [("--report", False, True)] if args.report else []
    for name in args.pictures if args.draw else []:
        wanted.append((f"--pictures {name}", PICTURES[name].needs_corners, PICTURES[name].needs_objects))
    for option, needs_corners, needs_objects in wanted:
        if needs_corners and not set(CORNERS) <= set(detector.family.network.keypoints):
            raise configs.ConfigError(f"{option} needs corners, which the network of {args.config} does not predict")
        if needs_objects and not annotated:
            raise configs.ConfigError(f"{option}: data.{args.split} has no annotated boxes")


class Outcome(NamedTuple):
    """What this process has detected.

    results: in COCO's format. records: of each analysis. to_draw: position in the index and detections of the images to
    draw; the images are read again, to save memory. seconds: of the loop without the analyses. images: number of
    images.
    """

    results: list[dict]
    unreadable: list[str]
    records: list[list]
    to_draw: list[tuple[int, Found]]
    seconds: float
    images: int


def detect(
    detector: Detector, index: AnnotationIndex, analyses: Sequence[Analysis], draw: int, group: Group
) -> Outcome:
    """Detect in this process's share of the images. Every analysis sees every image of the share."""
    results, unreadable, to_draw, aside = [], [], [], 0.0
    records = [[] for _ in analyses]
    begun = time.perf_counter()
    for detected in detect_images(detector, index, group, unreadable.append):
        results += detected.results
        if detected.position < draw:
            to_draw.append((detected.position, detected.found))
        seen = time.perf_counter()
        for tool, own in zip(analyses, records, strict=True):
            own += tool.see(detected)
        aside += time.perf_counter() - seen
    seconds = time.perf_counter() - begun - aside
    return Outcome(results, unreadable, records, to_draw, seconds, len(group.share(len(index))))


def describe(
    args: argparse.Namespace,
    state: dict[str, Any],
    index: AnnotationIndex,
    results: list[dict],
    unreadable: list[str],
    outcome: Outcome,
    detector: Detector,
) -> dict[str, Any]:
    """The part of metrics.json that says what was run, and how long it took."""
    return {
        "checkpoint": str(args.checkpoint),
        "iteration": state.get("iteration"),
        "split": args.split,
        "images": len(index),
        "unreadable": len(unreadable),
        "detections": len(results),
        "truth": args.truth,
        "seconds_per_image": outcome.seconds / outcome.images,
        "seconds_per_image_of": {part: total / outcome.images for part, total in detector.seconds.items()},
    }


def measure(index: AnnotationIndex, results: list[dict], output: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Write the result file, and compute COCO's figures and the false discovery rates where there are annotations."""
    annotated, source = len(index.boxes) > 0, Path(index.sources[0] if index.sources else args.split)
    path = output / results_name(annotated, source.stem, f"{Path(args.config).stem}-{args.checkpoint.stem}")
    write_results(path, results)
    if not annotated:
        note = f"{source} has no boxes: nothing to compare the detections with"
        print(note if path.name == "results.json" else submission_note(path))
        return {}
    evaluation, rates = evaluate(index, results), false_discovery(index, results)
    by_class = class_figures(evaluation.matches, index.category_names)
    print(f"{evaluation.table}\n{class_table(by_class)}")
    shown = ", ".join(f"{k} {v:.3f}" for k, v in rates.items() if v is not None)
    print(f" False discovery rates: {shown}")
    by_iou = {f"AP{100 * t:.0f}": evaluation.by_iou[t] for t in (0.6, 0.7, 0.8, 0.9)}
    return evaluation | by_iou | rates | {"AP_per_class": evaluation.per_class, "by_class": by_class}


def draw(
    index: AnnotationIndex,
    i: int,
    found: Found,
    detector: Detector,
    other: Detector | None,
    args: argparse.Namespace,
    config: configs.Config,
    folder: Path,
) -> None:
    """Draw the pictures of image i."""
    image = read_image(index.path(i), tuple(index.sizes[i].tolist()))
    shown = Shown(image, index.objects(i), found, index.category_names, config.penalty)
    drawn = {name: PICTURES[name]().draw(shown, detector) for name in args.pictures}
    if other:
        titles = [f"{Path(name).stem} ({path})" for name, path in ((args.config, args.checkpoint), args.beside)]
        drawn["beside"] = beside(shown, dict(zip(titles, (found, other(image)), strict=True)))
    for name, picture in drawn.items():
        ending = "" if name == "row" else f"_{name}"
        write_image(folder / f"{int(index.image_ids[i]):012d}{ending}.jpg", picture)


def report(results: list[dict], unreadable: list[str], images: int, output: Path) -> None:
    """Say what was written. Raises RunError where too many images could not be read."""
    print(f"{len(results):,} detections in {images:,} images; results, metrics.json and pictures in {output}")
    for message in unreadable:
        print(f"skipped {message}", file=sys.stderr)
    if len(unreadable) > UNREADABLE_LIMIT * images:
        raise RunError(
            f"{len(unreadable)} of {images} images could not be read; the figures count them as without "
            "detections. Repair them, or remove their entries from the annotation file"
        )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Evaluate a checkpoint.", epilog="Options: python -m configs CONFIG")
    parser.add_argument("config", help="YAML file, as those in configs/")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="options that differ from the config's")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="PATH",
        help="of train.py, a released .pkl, or an exported network (.onnx, .pt2)",
    )
    parser.add_argument("--split", choices=["val", "test", "train"], default="val", help="which data (default: val)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the results (default: <split> beside the checkpoint)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the results of another checkpoint")
    parser.add_argument("--draw", type=int, default=0, metavar="N", help="draw the detections of the first N images")
    parser.add_argument(
        "--beside",
        nargs=2,
        default=[],
        metavar=("CONFIG", "CHECKPOINT"),
        help="with --draw: also draw the detections of another network; beside.key.sub=value are options of its config",
    )
    parser.add_argument("--report", action="store_true", help="also write a page about the results, report/index.html")
    named = {
        "truth": (TRUTHS, "predictions that the annotation replaces"),
        "analyses": (tuple(ANALYSES), "figures beyond COCO's"),
        "pictures": (tuple(PICTURES), "what --draw draws (default: row)"),
    }
    for option, (names, what) in named.items():
        what = f"{what}: any of {', '.join(names)}"
        parser.add_argument(f"--{option}", nargs="+", default=[], metavar="NAME", help=what)
    overrides, rest = configs.split_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_intermixed_args(rest)
    args.beside_overrides = [text.removeprefix("beside.") for text in overrides if text.startswith("beside.")]
    args.overrides += [text for text in overrides if not text.startswith("beside.")]
    check_arguments(parser, args)
    for option, (names, _) in named.items():
        given = set(getattr(args, option))
        if not given <= set(names):
            parser.error(f"--{option} takes any of {', '.join(names)}, not {', '.join(sorted(given - set(names)))}")
        setattr(args, option, [name for name in names if name in given])  # once each, in one order
    args.pictures = args.pictures or ["row"]
    return args


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a message where arguments are out of range or lack one that they need."""
    if args.draw < 0:
        parser.error("--draw takes a number of images, 0 or more")
    if args.beside_overrides and not args.beside:
        parser.error("beside.key=value is an option of the other network: name it with --beside")
    for text in args.beside_overrides:
        if not text.startswith(("model.", "test.")):
            parser.error(f"--beside CONFIG CHECKPOINT takes the other network's model. and test. options, not {text}")
    for option in ("beside", "pictures"):
        if getattr(args, option) and not args.draw:
            parser.error(f"--{option} draws: say with --draw how many images")


def default_output(args: argparse.Namespace) -> Path:
    """A folder beside the checkpoint. If the config is not the run's, it lies in a folder of the config's name."""
    folder, config = args.checkpoint.parent, Path(args.config).stem
    if config not in (folder.absolute().name, "config"):  # config.yaml: the run's own
        folder /= config
    return folder / "_".join([args.split, *(["truth", *args.truth] if args.truth else [])])


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def script() -> int:
        config = configs.load(args.config, args.overrides)
        output = args.output or default_output(args)
        set_up_backends(config.runtime)
        with Group(choose_device(config.runtime.device), config.runtime.collective_timeout) as group:
            set_up_logging(group.rank)
            warn(configs.without_effect(config, args.config, args.overrides))
            return test(config, args, output, group)

    return exit_code(script, configs.ConfigError)


if __name__ == "__main__":
    sys.exit(main())
