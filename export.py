"""Export a network as a file that runs without this repository:

python export.py [CONFIG] --checkpoint PATH --format onnx|pt2 [--output FILE] [--overwrite] [--maps]
    [--precision float32|float16|bfloat16] [--compile] [key.sub=value ...]

The file maps uint8 images (B, 3, H, W) of any B, H and W to boxes, see docs/export.md. Before it is put in place, its
results are compared with the network's on images of three sizes. CONFIG may be left out for checkpoints of train.py.
Exit codes: 0 done, 1 the file's results differ or a fault ended the run, 2 bad input.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import configs
from db import DataError
from models.decode import best
from models.standard_ops import LONGEST, highest
from nnet.api import ImageDetector, load_detector
from nnet.export.files import FORMATS, writer
from nnet.export.graph import output_names, trace
from nnet.export.parity import TOLERANCES, Compared, compare
from nnet.runtime.console import progress_bar, set_up_logging, warn
from nnet.runtime.devices import set_up_backends
from nnet.runtime.errors import RunError, exit_code
from nnet.runtime.exported import FORMAT, is_exported, open_exported, without_chatter
from nnet.runtime.files import make_folder

PADDING = (
    "Each side of the image, of n pixels, is padded with zeros to n | (divisor - 1). The image lies in the middle: it "
    "begins at pixel canvas // 2 - n // 2."
)


def export(detector: ImageDetector, args: argparse.Namespace) -> None:
    """Trace, write, compare, put in place. Raises RunError if the results differ."""
    family, config = detector.detector.family, detector.config
    mirror = config.test.mirror and not args.maps
    decoder = family.decoder(config.test, mirror, highest if args.format == "onnx" else best)
    if decoder is None:
        raise configs.ConfigError(
            f"model.detector {config.model.detector} cannot be exported: its decoding is not written in standard "
            "operators. cornernet and centernet can"
        )
    dtype = getattr(torch, args.precision)
    with (
        tempfile.TemporaryDirectory(dir=args.output.parent, prefix=".export_") as folder,
        without_chatter(),
        progress_bar(total=3 + 6, unit="step") as bar,
    ):
        path = Path(folder) / args.output.name
        bar.set_description("tracing")
        program = trace(family, None if args.maps else decoder, mirror, dtype)
        bar.update()
        bar.set_description("compiling" if args.compile else "writing")
        metadata = describe(detector, args, output_names(family, None if args.maps else decoder))
        writer(args.format, args.compile)(program, metadata, path)
        del program
        bar.update()
        bar.set_description("loading")
        file = open_exported(path)
        bar.update()
        bar.set_description("comparing")
        compared = []
        for one in compare(family, file, config.test, args.precision):
            compared.append(one)
            bar.write(row(one))
            bar.update()
        bar.set_description("done")
        del file
        judge(compared, args)
        for part in sorted(Path(folder).iterdir(), reverse=True):  # FILE.data before FILE
            os.replace(part, args.output.parent / part.name)


def describe(detector: ImageDetector, args: argparse.Namespace, outputs: Sequence[str]) -> dict[str, Any]:
    """The file's metadata."""
    config, network = detector.config, detector.detector.family.network
    test = config.test
    options = configs.to_dict(config)
    options["test"] |= {"precision": args.precision, "channels_last": False}
    return {
        "format": FORMAT,
        "detector": config.model.detector,
        "outputs": list(outputs),
        "class_names": list(detector.class_names),
        "category_ids": list(detector.category_ids),
        "stride": network.stride,
        "divisor": network.divisor,
        "padding": PADDING,
        "largest_side": LONGEST * network.stride,
        "mirror": test.mirror and not args.maps,
        "thresholds": {name: getattr(test, name) for name in ("embedding_distance", "nms_kernel", "corners", "pairs")},
        "precision": args.precision,
        "device": detector.detector.device.type,
        "compiled": args.compile,
        "checkpoint": args.checkpoint.name,
        "categories": [list(detector.category_ids), list(detector.class_names)],
        "config": options,
    }


def row(compared: Compared) -> str:
    """A line about a comparison."""
    largest = ", ".join(f"{name} {value:.2g}" for name, value in compared.differences.items())
    return f"{compared.case:24} {compared.count:>6,} {compared.of}   largest difference: {largest}"


def judge(compared: Sequence[Compared], args: argparse.Namespace) -> None:
    """Raise RunError if any comparison has found differences above the tolerance."""
    problems = [problem for one in compared for problem in one.problems]
    tolerance = TOLERANCES[args.precision]
    if problems:
        raise RunError(
            f"the exported network differs from the network: {problems[0]}"
            + (f" (and {len(problems) - 1} other differences)" if problems[1:] else "")
            + f". {args.output} was not written"
        )
    if not any(one.count for one in compared):
        raise RunError(
            "the exported network cannot be compared: the network finds no box in the drawn images. Is it trained, and "
            f"is test.embedding_distance right? {args.output} was not written"
        )
    limits = f"boxes {tolerance.boxes:g} pixels, scores {tolerance.scores:g}"
    if args.maps:
        limits = f"maps {tolerance.maps:g} of their scale"
    print(f"equal to the network up to {limits}")


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Export a network as ONNX or .pt2.", epilog="Options: python -m configs CONFIG"
    )
    parser.add_argument("config", nargs="?", help="YAML file of the network, needed for released .pkl checkpoints only")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="options that differ from the config's")
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="PATH", help="of train.py, or a released .pkl"
    )
    parser.add_argument(
        "--format", choices=list(FORMATS), required=True, help="onnx: for ONNX Runtime and others; pt2: for PyTorch"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="(default: the checkpoint's path with .onnx or .pt2)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--maps", action="store_true", help="return the maps of the network, for your own decoding")
    parser.add_argument("--precision", choices=list(TOLERANCES), help="of a .pt2 (default: test.precision)")
    parser.add_argument("--compile", action="store_true", help="compile a .pt2 for this machine, by AOTInductor")
    overrides, rest = configs.split_overrides(sys.argv[1:] if argv is None else argv)
    args = parser.parse_intermixed_args(rest)
    args.overrides = overrides
    args.output = args.output or args.checkpoint.with_suffix(FORMATS[args.format])
    if args.output.suffix.lower() != FORMATS[args.format]:
        parser.error(f"--format {args.format} writes a file {FORMATS[args.format]}, not {args.output}")
    if args.compile and args.format != "pt2":
        parser.error("--compile makes a .pt2: give it with --format pt2")
    if args.format == "onnx" and args.precision not in (None, "float32"):
        parser.error(f"--precision {args.precision} is for --format pt2; ONNX files hold float32")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def script() -> None:
        set_up_logging(to_stderr=True)
        if is_exported(args.checkpoint):
            raise DataError(f"{args.checkpoint} is exported already: export its checkpoint")
        writer(args.format, args.compile)  # raises if a package or a compiler is missing
        make_folder(args.output.parent)
        if args.output.exists() and not args.overwrite:
            raise DataError(f"{args.output} exists: name another file with --output, or replace it with --overwrite")
        detector = load_detector(args.checkpoint, args.config, device="cpu", overrides=args.overrides)
        args.precision = args.precision or detector.config.test.precision
        if args.format == "onnx" and args.precision != "float32":
            raise DataError(f"test.precision={args.precision} is for --format pt2; ONNX files hold float32")
        if detector.config.test.channels_last:
            warn(["test.channels_last has no effect here: the tensors of an exported network are contiguous"])
        set_up_backends(detector.config.runtime)
        export(detector, args)

    return exit_code(script, configs.ConfigError)


if __name__ == "__main__":
    sys.exit(main())
