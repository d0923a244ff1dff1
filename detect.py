"""Find objects in pictures and videos:

python detect.py [CONFIG] --checkpoint PATH SOURCE ... [--output DIR] [--threshold 0.3] [--batch N] [--heatmaps]
    [--crops] [--no-pictures] [key.sub=value ...]

SOURCE: a picture, a video, a folder (searched recursively), a glob pattern, a text file (.txt, .lst) with a path per
line, or the number of a camera, which is recorded until Ctrl-C. CONFIG may be left out for checkpoints of train.py.

Writes to DIR (by default detect_<checkpoint> beside the checkpoint): pictures/ with boxes, detections.jsonl with an
object per line, results.json in COCO's result format, and where asked for heatmaps/ and crops/. Exit codes:
0 done, 1 something could not be read (the rest is done) or a fault ended the run, 2 bad input.
"""

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before PyTorch is loaded, see nnet/runtime/threads.py

import configs
from db import write_results
from nnet.api import DetectedObjects, ImageDetector, load_detector
from nnet.detection.pipeline import Loaded, detect_batches
from nnet.detection.sources import Frame, Source, count_frames, find_sources, read_sources
from nnet.detection.warnings import MemoryWatch
from nnet.drawing.output import Output
from nnet.families.options import SHOWN_SCORE
from nnet.runtime.background import WriteBehind
from nnet.runtime.console import progress_bar, set_up_logging, warn
from nnet.runtime.devices import set_up_backends
from nnet.runtime.errors import exit_code
from nnet.runtime.files import make_folder

logger = logging.getLogger("nnet.detect")


def detect(detector: ImageDetector, sources: Sequence[Source], args: argparse.Namespace) -> int:
    """Detect in all sources, beside reading and writing. Returns the exit code."""
    skipped: list[str] = []

    def skip(message: str) -> None:
        skipped.append(message)
        logger.warning("skipped %s", message)

    def load(batch: list[Frame]) -> Loaded[list[Frame]]:
        return Loaded(batch, detector.detector.prepare([frame.image for frame in batch]))

    options, watch = detector.config.test, MemoryWatch(detector.detector)
    size = args.batch or options.batch
    frames_done, begun = 0, time.perf_counter()
    output, records = Output(args.output), Records(args.output)
    with (
        closing(records),
        closing(output),
        WriteBehind() as behind,
        progress_bar(desc="detecting", unit="image", total=count_frames(sources)) as bar,
        closing(read_sources(sources, skip, options.workers)) as frames,
        closing(until_interrupted(frames, sources)) as wanted,
        closing(detect_batches(detector.detector, watched(batches(wanted, detector, size), watch), load)) as detected,
    ):
        for batch, boxes in detected:
            for frame, own in zip(batch, boxes, strict=True):
                found = detector.describe(frame.image, own, args.threshold)
                records.add(frame, found)
                if args.pictures:
                    behind(output.draw, frame, found)
                if args.heatmaps:
                    behind(output.draw_heatmaps, frame, found, detector.heatmaps(frame.image))
                if args.crops:
                    behind(output.cut, frame, found)
                frames_done += 1
                bar.set_postfix(objects=f"{len(records.results):,}", refresh=False)
                bar.update()
    seconds = time.perf_counter() - begun
    share = detector.detector.seconds["network"] / seconds
    print(
        f"{len(records.results):,} objects in {frames_done:,} images; {seconds:.1f} s, {frames_done / seconds:.1f} "
        f"images/s, {share:.0%} of the time in the network; results in {args.output}"
    )
    return 1 if skipped else 0


def batches(frames: Iterable[Frame], detector: ImageDetector, size: int) -> Iterator[list[Frame]]:
    """Up to `size` consecutive frames whose canvases have one size."""
    batch: list[Frame] = []
    for frame in frames:
        sizes = [detector.detector.canvas_sizes(*one.image.shape[:2]) for one in (*batch[:1], frame)]
        if batch and sizes[0] != sizes[1]:
            yield batch
            batch = []
        batch.append(frame)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def watched(batches: Iterable[list[Frame]], watch: MemoryWatch) -> Iterator[list[Frame]]:
    """The batches. Warns of images that need much memory before they are detected."""
    for batch in batches:
        warn(watch(*batch[0].image.shape[:2], len(batch)))
        yield batch


def until_interrupted(frames: Iterator[Frame], sources: Sequence[Source]) -> Iterator[Frame]:
    """The frames until Ctrl-C, which is the regular end of a camera: those taken before it are still detected."""
    if not any(source.kind == "camera" for source in sources):
        yield from frames
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        for frame in frames:
            yield frame
            if pressed:
                return
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGINT, before)


class Records:
    """Writes the objects to detections.jsonl as they are found, and to results.json when it is closed.

    In results.json, image_id counts the images (and frames) from 1 on, in the order in which they were read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.lines = open(folder / "detections.jsonl", "w", encoding="utf-8", errors="backslashreplace")
        self.results: list[dict[str, Any]] = []
        self.images = 0

    def add(self, frame: Frame, found: DetectedObjects) -> None:
        self.images += 1
        where = {"file_name": frame.source.path} | ({} if frame.rate is None else {"frame": frame.number})
        for name, result in zip(found.names, found.to_coco(self.images), strict=True):
            box = dict(zip(("x", "y", "width", "height"), result["bbox"], strict=True))
            row = {"class": name, "category_id": result["category_id"], "score": result["score"], **box}
            self.lines.write(json.dumps(where | row, ensure_ascii=False) + "\n")
            self.results.append(result | where | {"category_name": name})
        self.lines.flush()

    def close(self) -> None:
        self.lines.close()
        write_results(self.folder / "results.json", self.results)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Find objects in pictures and videos.", epilog="Options: python -m configs CONFIG"
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="[CONFIG] SOURCE ...",
        help="the network's YAML file, needed for released .pkl checkpoints only; then pictures, videos, folders, glob "
        "patterns, lists (.txt), numbers of cameras; key.sub=value are options that differ from the config's",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="PATH",
        help="of train.py, a released .pkl, or an exported network (.onnx, .pt2)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the results (detect_<checkpoint> beside the checkpoint)",
    )
    parser.add_argument(
        "--threshold", type=float, default=SHOWN_SCORE, metavar="S", help="lowest score of an object (%(default)s)"
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="images that pass the network together (default: test.batch)"
    )
    parser.add_argument("--heatmaps", action="store_true", help="also draw the heatmap of each kind of keypoint")
    parser.add_argument("--crops", action="store_true", help="also cut the objects out")
    parser.add_argument("--no-pictures", dest="pictures", action="store_false", help="draw no boxes")
    overrides, rest = configs.split_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_intermixed_args(rest)
    args.overrides = overrides
    args.output = args.output or args.checkpoint.parent / f"detect_{args.checkpoint.stem}"
    named = [text for text in args.sources if Path(text).suffix.lower() in (".yaml", ".yml")]
    args.sources = [text for text in args.sources if text not in named]
    if len(named) > 1:
        parser.error(f"one CONFIG at most, not {', '.join(named)}")
    args.config = named[0] if named else None
    if not args.sources:
        parser.error("name a SOURCE: a picture, a video, a folder, a list, or the number of a camera")
    if not 0 <= args.threshold <= 1:
        parser.error("--threshold takes a score from 0 to 1")
    if args.batch is not None and args.batch < 1:
        parser.error("--batch takes a number of images, 1 or more")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def script() -> int:
        set_up_logging(to_stderr=True)
        sources = find_sources(args.sources, leave_out=args.output)
        detector = load_detector(args.checkpoint, args.config, overrides=args.overrides)
        if args.heatmaps and not detector.detector.family.network.keypoints:
            raise configs.ConfigError(f"--heatmaps: the network of {args.checkpoint} predicts none")
        set_up_backends(detector.config.runtime)
        warn(configs.without_effect(detector.config, args.config, args.overrides))
        make_folder(args.output)
        return detect(detector, sources, args)

    return exit_code(script, configs.ConfigError)


if __name__ == "__main__":
    sys.exit(main())
