"""Compare detectors that are trained from scratch on the same images for the same time:

python -m benchmarks.peers CONFIG --output DIR [--detectors NAME ...] [--minutes M] [--clock wall|cpu] [--seeds S ...]
    [--points N] [key.sub=value ...] [peer.NAME=VALUE ...]
python -m benchmarks.peers --table DIR

The detectors are torchvision's FCOS, RetinaNet and Faster R-CNN, and CornerNet, CenterNet and CornerNet-Squeeze of this
repository. CONFIG describes a CornerNet. Its data, input size, augmentation, batch, and schedule of the learning rate
hold for all detectors. See docs/peers.md.

DIR/<detector>_seed<S>.json is written when a detector is done, and is not computed again. Several processes may share
DIR, each with its own detectors or seeds. The end, or --table, prints a Markdown table of what DIR holds, and draws
DIR/curves.png. Exit codes: 0 done, 1 stopped by a fault, 2 bad input.
"""

import argparse
import json
import math
import os
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before PyTorch is loaded, see nnet/runtime/threads.py

from pydantic import TypeAdapter, ValidationError

import configs
from benchmarks.measure import Setting, machine
from benchmarks.peers.contest import DETECTORS, compete, config_of, load_data
from benchmarks.peers.models import SETTINGS, PeerSettings
from benchmarks.peers.tables import differences, draw_curves, read_result, read_results, setting_of, table
from configs.reading import parse_override, value_words
from db import AnnotationIndex, DataError
from db.files import write_text
from models.layers import torchvision
from nnet.runtime.console import progress_bar
from nnet.runtime.devices import choose_device, set_up_backends
from nnet.runtime.errors import exit_code
from nnet.runtime.files import make_folder

PEER = "peer."
FACTS = ("cpu", "gpu", "threads", "torch", "python")
BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of training [{elapsed} in all{postfix}]"


def settings_of(name: str, changes: list[str]) -> PeerSettings | None:
    """The settings of a peer with `peer.NAME=VALUE`. None for a detector of this repository. Raises ConfigError."""
    if name not in SETTINGS:
        return None
    values = asdict(SETTINGS[name])
    for text in changes:
        values |= parse_override(text)["peer"]
    if unknown := [key for key in values if key not in PeerSettings.__dataclass_fields__]:
        known = ", ".join(PeerSettings.__dataclass_fields__)
        raise configs.ConfigError(f"command line: there is no setting {PEER}{unknown[0]}; there are {known}")
    try:
        return TypeAdapter(PeerSettings).validate_python(values)
    except ValidationError as error:
        (key, *_), given, why = (error.errors()[0][part] for part in ("loc", "input", "msg"))
        raise configs.ConfigError(f"command line: {PEER}{key}: {why}, got {value_words(given)}") from None


def contest_of(
    args: argparse.Namespace, config: configs.Config, splits: tuple[AnnotationIndex, AnnotationIndex]
) -> dict[str, Any]:
    """What all results of a folder have in common. config: of any of the detectors."""
    index, val_index = splits
    return {
        "config": args.config,
        "overrides": [text for text in args.overrides if not text.startswith(("data.root=", "runtime."))],
        "minutes": args.minutes,
        "points": args.points,
        "clock": args.clock,
        "input_size": list(config.data.input_size),
        "batch": sum(config.train.batch),
        "images": len(index),
        "val_images": len(val_index),
    }


def result_path(output: Path, name: str, seed: int) -> Path:
    return output / f"{name}_seed{seed}.json"


def is_done(path: Path, contest: dict[str, Any], settings: PeerSettings | None) -> bool:
    """Whether a result file is there. Raises DataError if it is of another contest."""
    if not path.exists():
        return False
    own = contest | {"settings": asdict(settings) if settings else None}
    if others := differences(setting_of(read_result(path)), own):
        raise DataError(f"{path} is of another contest, which differs in {others}: name another folder with --output")
    return True


def run(args: argparse.Namespace) -> int:
    if args.table:
        return show(args.table)
    settings = {name: settings_of(name, args.peer) for name in args.detectors}
    pairs = [(name, seed) for seed in args.seeds for name in args.detectors]
    chosen = {pair: config_of(pair[0], args.config, args.overrides, pair[1]) for pair in pairs}
    first = chosen[pairs[0]]
    device = choose_device(first.runtime.device)
    version = torchvision("version").__version__
    splits = load_data(first)
    contest = contest_of(args, first, splits)
    make_folder(args.output)

    def is_left(name: str, seed: int) -> bool:
        return not is_done(result_path(args.output, name, seed), contest, settings[name])

    left = [pair for pair in pairs if is_left(*pair)]  # results of another contest are reported before any work
    set_up_backends(first.runtime)
    facts = {key: value for key, value in machine(Setting(device)).items() if key in FACTS}
    about = {"contest": contest, "machine": facts | {"torchvision": version}, "command": args.command}
    for number, (name, seed) in enumerate(left, 1):
        if not is_left(name, seed):  # done by another process in the meantime
            continue
        title = f"{name}, seed {seed} ({number} of {len(left)})"
        with progress_bar(desc=title, total=60 * args.minutes, bar_format=BAR) as bar:
            how = settings[name], args.minutes, args.points, args.clock
            result = compete(name, chosen[name, seed], splits, *how, bar)
        write_text(result_path(args.output, name, seed), json.dumps(about | result, indent=1) + "\n")
    return show(args.output)


def show(folder: Path) -> int:
    """Print the table of a folder, and draw its curves."""
    results = read_results(folder)
    print(table(results))
    draw_curves(results, folder / "curves.png")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="Compare detectors that are trained from scratch on the same images for the same time.",
        epilog="key.sub=value changes an option of the config for all detectors, "
        f"peer.NAME=VALUE a setting of all peers: {', '.join(PeerSettings.__dataclass_fields__)}.",
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="YAML file of a CornerNet, as those in configs/")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=list(DETECTORS), metavar="NAME")
    parser.add_argument("--minutes", type=float, default=30.0, help="of training of each (default: %(default)g)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="S", help="(default: 0)")
    parser.add_argument("--points", type=int, default=8, help="measurements of each training (default: %(default)s)")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="what the minutes are of: wall time, or processor time per thread, for a machine with other work on it",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the results")
    parser.add_argument("--table", type=Path, metavar="DIR", help="print the table of DIR, and draw its curves")
    given = sys.argv[1:] if argv is None else argv
    overrides, rest = configs.split_overrides(given)
    args = parser.parse_intermixed_args(rest)
    args.peer = [text for text in overrides if text.startswith(PEER)]
    args.overrides = [text for text in overrides if not text.startswith(PEER)]
    args.command = shlex.join(["python", "-m", "benchmarks.peers", *given])
    if bool(args.table) == bool(args.config):
        parser.error("takes either CONFIG --output DIR or --table DIR")
    if args.config and not args.output:
        parser.error("say with --output where the results go")
    if args.peer and not set(args.detectors) & set(SETTINGS):
        parser.error(f"{args.peer[0]}: none of the detectors is a peer")
    if not (0 < args.minutes < math.inf) or args.points < 1 or min(args.seeds) < 0:
        parser.error("--minutes takes a number above 0, --points one of at least 1, --seeds numbers of at least 0")
    args.detectors, args.seeds = list(dict.fromkeys(args.detectors)), list(dict.fromkeys(args.seeds))
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    return exit_code(lambda: run(args), configs.ConfigError)


if __name__ == "__main__":
    sys.exit(main())
