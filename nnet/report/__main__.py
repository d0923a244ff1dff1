"""Write a page about a finished run, or about two: python -m nnet.report RUN [RUN]
    [--output DIR] [--heatmaps N] [--resamples N] [--seed N]

RUN is a folder that test.py has written to. Writes DIR/index.html, with pictures beside it; DIR is RUN/report by
default, and of two runs RUN/report_<name of the other>. Exit codes: 0 done, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import configs
from nnet.detection.detector import Detector
from nnet.detection.loading import build_detector, load_checkpoint
from nnet.report.compare import add_options, check_options
from nnet.report.runs import Run, check_pair, load_run
from nnet.report.write import HEATMAPS, write_report
from nnet.runtime.devices import choose_device, set_up_backends
from nnet.runtime.errors import exit_code


def find_detector(run: Run) -> Detector | None:
    """The detector of a run, None where its checkpoint no longer exists."""
    config = run.config
    if not run.checkpoint.is_file():
        print(f"{run.name}: no heatmaps: there is no {run.checkpoint} any more")
        return None
    set_up_backends(config.runtime)
    state = load_checkpoint(run.checkpoint, configs.to_dict(config), run.index, f"data.{run.metrics['split']}")
    device, truth = choose_device(config.runtime.device), run.metrics.get("truth", ())
    return build_detector(state, run.checkpoint, config, run.index.num_classes, device, truth)


def default_output(runs: list[Path]) -> Path:
    """The folder of the page."""
    other = "_".join(part for part in runs[-1].resolve().parts[-2:] if part not in runs[0].resolve().parts)
    return runs[0] / ("report" if len(runs) == 1 else f"report_{other or runs[-1].name}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m nnet.report", description="Write a page about a finished run, or about two."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="one or two folders of test.py")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the page (default: RUN/report)")
    parser.add_argument(
        "--heatmaps", type=int, default=HEATMAPS, metavar="N", help="of the N images with the most errors (%(default)s)"
    )
    add_options(parser)
    args = parser.parse_args(argv)
    check_options(parser, args)
    if len(args.runs) > 2:
        parser.error("RUN: name one or two")
    if args.heatmaps < 0:
        parser.error("--heatmaps takes a number of images, 0 or more")

    def script() -> None:
        runs = [load_run(folder) for folder in args.runs]
        if len(runs) > 1:
            check_pair(*runs)
        detectors = [find_detector(run) if args.heatmaps else None for run in runs]
        output = args.output or default_output(args.runs)
        print(write_report(output, runs, detectors, args.heatmaps, args.resamples, args.seed))

    return exit_code(script, configs.ConfigError)


if __name__ == "__main__":
    sys.exit(main())
