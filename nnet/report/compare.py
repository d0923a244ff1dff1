"""Differences between two finished runs: python -m nnet.report.compare RUN RUN [--resamples N] [--seed N]

Prints every figure of both, the difference, and its 95% interval from resampling the images (paired bootstrap). RUN is
a folder that test.py has written to. Exit codes: 0 done, 2 bad input.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
from pathlib import Path

import configs
from nnet.analysis.bootstrap import LEVEL, RESAMPLES, Difference, Differences, compare_runs
from nnet.report.runs import Run, check_pair, load_run
from nnet.runtime.console import progress_bar
from nnet.runtime.errors import exit_code
from sample.statistics import aligned


def compare(first: Run, second: Run, resamples: int, seed: int) -> Differences:
    """The differences of all figures, and of the AP by class, with a progress bar."""
    pairs = ((run.evaluation, run.discovery) for run in (first, second))
    with progress_bar(total=resamples, desc="resampling", unit="resample") as bar:
        return compare_runs(*pairs, first.index.category_names, resamples, seed, bar.update)


def table(first: Run, second: Run, differences: Differences) -> str:
    """The differences as text."""
    rows = [("figure (%)", "A", "B", "B - A", f"{LEVEL:.0%} interval", "")]
    classes = {f"AP {name}": difference for name, difference in differences.classes.items()}
    for name, difference in (*differences.figures.items(), *classes.items()):
        rows.append((name, *cells(difference)))
    lines = [f"A: {first.name}", f"B: {second.name}", "", *(line.rstrip() for line in aligned(rows))]
    return "\n".join([*lines, "", "*: the interval is without 0. -: nothing to measure."])


def cells(difference: Difference) -> tuple[str, str, str, str, str]:
    """Both values, the change, its interval in percent, and a star where it is without 0."""
    if math.isnan(difference.change):
        return ("-",) * 4 + ("",)
    first, second, low, high = (100 * value for value in difference)
    interval = "-" if math.isnan(low) else f"{low:+.1f} to {high:+.1f}"
    return f"{first:.1f}", f"{second:.1f}", f"{second - first:+.1f}", interval, "*" if difference.significant else ""


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the bootstrap."""
    parser.add_argument(
        "--resamples", type=int, default=RESAMPLES, metavar="N", help="of the images, for intervals (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the resampling (%(default)s)")


def check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with a message where an option is out of range."""
    if args.resamples < 1:
        parser.error("--resamples takes a number of at least 1")
    if args.seed < 0:
        parser.error("--seed takes a number of at least 0")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m nnet.report.compare", description=__doc__.partition(":")[0] + ".")
    parser.add_argument("runs", nargs=2, type=Path, metavar="RUN", help="a folder that test.py has written to")
    add_options(parser)
    args = parser.parse_args(argv)
    check_options(parser, args)

    def script() -> None:
        first, second = map(load_run, args.runs)
        check_pair(first, second)
        print(table(first, second, compare(first, second, args.resamples, args.seed)))

    return exit_code(script, configs.ConfigError)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that closes early, such as `| head`, ends it quietly
    sys.exit(main())
