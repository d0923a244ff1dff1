"""Convert a data set to COCO's format:

python -m db.convert voc FOLDER [--zero-based] | yolo DATA.yaml  [--train SPLIT] [--val SPLIT] [--hold-out FRACTION]
    [--output DIR]

Writes instances_train.json and instances_val.json to DIR (FOLDER/annotations by default), reads them as training does,
and prints the `data:` section of a config. Images stay where they are. Exit codes: 0 done, 1 some images could not be
read and were left out, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import DataError
from .base import Source
from .voc import VOC
from .write import Converted, convert, data_section
from .yolo import YOLO


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m db.convert", description="Convert a data set to COCO's format.")
    formats = parser.add_subparsers(dest="format", required=True, metavar="voc|yolo")
    voc = formats.add_parser("voc", help="Pascal VOC: an XML file per image")
    voc.add_argument("source", type=Path, metavar="FOLDER", help="holds Annotations and JPEGImages, or train and val")
    voc.add_argument("--zero-based", action="store_true", help="coordinates count from 0, not from 1")
    yolo = formats.add_parser("yolo", help="YOLO: a data.yaml and a text file per image")
    yolo.add_argument("source", type=Path, metavar="DATA.yaml", help="or the folder that holds data.yaml")
    for each in (voc, yolo):
        each.add_argument("--train", metavar="SPLIT", help="split to train on (default: train)")
        each.add_argument("--val", metavar="SPLIT", help="split to validate on (default: val or valid)")
        each.add_argument(
            "--hold-out", type=float, metavar="FRACTION", help="take this part of the training images to validate on"
        )
        each.add_argument("--output", type=Path, metavar="DIR", help="default: the folder `annotations` of the data")
    args = parser.parse_args(argv)
    if args.hold_out is not None and (args.val or not 0 < args.hold_out < 1):
        parser.error("--hold-out takes a number between 0 and 1, and makes the split that --val would name")
    return args


def report(source: Source, written: list[Converted]) -> int:
    """Say what was written, on stderr: stdout has the YAML alone. Returns the exit code."""
    for split in written:
        index = split.index
        message = f"{split.path}: {len(index):,} images, {len(index.boxes):,} objects, {index.num_classes} classes"
        print(message, file=sys.stderr)
    for note in source.notes():
        print(f"note: {note}", file=sys.stderr)
    unreadable = [message for split in written for message in split.unreadable]
    for message in unreadable:
        print(f"left out {message}", file=sys.stderr)
    return 1 if unreadable else 0


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        source = VOC(args.source, args.zero_based) if args.format == "voc" else YOLO(args.source)
        written = convert(source, args.output or source.root / "annotations", args.train, args.val, args.hold_out)
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    code = report(source, written)
    print(data_section(source.root, written), end="")
    return code


if __name__ == "__main__":
    sys.exit(main())
