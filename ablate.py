"""Run a study: a config in several variants, each trained and tested with several seeds.

python ablate.py STUDY.yaml [--output DIR] [--jobs N] [--processes N]
python ablate.py STUDY.yaml [--output DIR] [--processes N] --slurm | --only INDEX
python ablate.py STUDY.yaml [--output DIR] --table | --list

Writes to DIR (runs/<name of the study> by default) DIR/VARIANT/seedN for each run, with what train.py and test.py
write, and table.md, table.json and curves.png. What is done is skipped, what was stopped is resumed. Exit codes: 0
done, 1 some runs have failed, 2 bad input, 128 + n stopped by signal n with the state of all trainings saved.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from configs import ConfigError
from configs.study import load_study
from db.files import write_text
from nnet.runtime.console import progress_bar, set_up_logging, warn
from nnet.runtime.errors import RUN_FAILED, RunError, exit_code
from nnet.runtime.files import FolderLock, make_folder
from nnet.studies.plan import Pair, Study
from nnet.studies.results import Results
from nnet.studies.running import Runner, share_machine
from nnet.studies.slurm import array_script
from nnet.studies.summary import summarise
from nnet.studies.tables import write_results


def ablate(study: Study, args: argparse.Namespace) -> int:
    """Run what is not done, then write the results. Returns the exit code."""
    pairs = study.pairs(args.output)
    warn(study.warnings)
    if args.list:
        return list_pairs(pairs)
    if args.table:
        return write_tables(study, pairs, args)
    if args.only is not None and args.only >= len(pairs):
        raise ConfigError(f"--only {args.only}: the study has the runs 0 to {len(pairs) - 1} (--list)")
    for pair in pairs:
        pair.check()
    study.check_data()
    make_folder(args.output)
    if args.slurm:
        return write_array(study, pairs, args)
    if args.only is not None:  # no lock: the tasks of an array job work side by side
        return run(study, [pairs[args.only]], args)
    lock = FolderLock(args.output)
    try:
        code = run(study, pairs, args)
        return code if code > RUN_FAILED else write_tables(study, pairs, args) or code
    finally:
        lock.release()


def run(study: Study, pairs: Sequence[Pair], args: argparse.Namespace) -> int:
    """Train and test these pairs. Returns the exit code."""
    devices = {variant.training["runtime"]["device"] for variant in study.variants}
    slots = share_machine(min(args.jobs or 1, len(pairs)), args.processes, "cpu" if devices == {"cpu"} else "auto")
    runner = Runner(pairs, slots, study.path.stem)
    if number := runner.run():
        print("stopped; the same command continues", file=sys.stderr)
        return 128 + number
    warn(summarise(pairs, progress_bar))
    for failure in runner.failures:
        print(f"error: {failure.pair.name}: {failure.reason} (see {failure.log})", file=sys.stderr)
    return RUN_FAILED if runner.failures else 0


def write_tables(study: Study, pairs: Sequence[Pair], args: argparse.Namespace) -> int:
    """Write the results of what is finished."""
    warn(summarise(pairs, progress_bar))
    finished = [pair for pair in pairs if pair.metrics()]
    if not finished:
        raise RunError(f"no run of {study.path} is finished in {args.output}: there is no table")
    print(write_results(Results(study, pairs), args.output, shlex.join(["python", "ablate.py", str(study.path)])))
    return 0


def write_array(study: Study, pairs: Sequence[Pair], args: argparse.Namespace) -> int:
    """Write an sbatch script that runs what is not done."""
    waiting = [number for number, pair in enumerate(pairs) if pair.metrics() is None]
    command = ["ablate.py", str(study.path), "--output", str(args.output)]
    if not waiting:
        print(f"all runs are done; the table: {shlex.join(['python', *command, '--table'])}")
        return 0
    path = args.output / "study.sbatch"
    script = array_script(study.path.stem, str(args.output), waiting, len(pairs), command, args.processes)
    write_text(path, script)
    print(f"submit: sbatch {shlex.quote(str(path))}\nthen: {shlex.join(['python', *command, '--table'])}")
    return 0


def list_pairs(pairs: Sequence[Pair]) -> int:
    """Print number, folder and state of each run."""
    for number, pair in enumerate(pairs):
        state = "done" if pair.metrics() else "started" if pair.folder.exists() else "to do"
        print(f"{number:3} {pair.folder}: {state}")
    return 0


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run a study: a config in several variants, with several seeds.")
    parser.add_argument("study", type=Path, metavar="STUDY.yaml", help="a study, as those in configs/studies/")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the study (default: runs/<study>)")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time; they share the cores (default: 1)")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="of each run, under torchrun, one per GPU (default: 1)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--slurm", action="store_true", help="write an sbatch array script instead, one task per run")
    what.add_argument("--only", type=int, metavar="INDEX", help="this run only, without the table: a task of --slurm")
    what.add_argument("--table", action="store_true", help="write the table of what is finished, and run nothing")
    what.add_argument("--list", action="store_true", help="print the runs with their state")
    args = parser.parse_args(argv)
    for name, least in (("jobs", 1), ("processes", 1), ("only", 0)):
        if (value := getattr(args, name)) is not None and value < least:
            parser.error(f"--{name} takes a number of at least {least}")
    idle = args.table or args.list
    if args.jobs and (idle or args.slurm or args.only is not None):
        parser.error("--jobs has no effect with --slurm, --only, --table and --list")
    if args.processes > 1 and idle:
        parser.error("--processes has no effect with --table and --list")
    args.output = args.output or Path("runs") / args.study.stem
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)

    def script() -> int:
        set_up_logging(0)
        return ablate(load_study(args.study), args)

    return exit_code(script, ConfigError)


if __name__ == "__main__":
    sys.exit(main())
