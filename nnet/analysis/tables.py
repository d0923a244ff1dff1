"""Compare finished runs with the papers' tables: python -m nnet.analysis.tables [RUNS] [--table NAME ...]

Prints each table of configs/published/ as GitHub Markdown. Every method has a row of published figures, and below it a
row of ours with the difference from the published ones and the command. Ours are read from the metrics.json that
test.py writes: RUNS/<config>/<split>/metrics.json, or, with the checkpoint of another config's run,
RUNS/*/<config>/<split>/metrics.json. They are blank if there is no such run.

Exit codes: 0 done, 2 bad input, also if a metrics.json could not be used (all other rows are printed).
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import configs
from configs import ConfigError, load, to_dict, upgrade
from nnet import analysis
from nnet.analysis.base import Analysis
from nnet.runtime.discovery import classes_in

PUBLISHED = Path(configs.__file__).parent / "published"
# Name in metrics.json -> name for test.py --analyses
ANALYSES = {kind.key: kind.name for kind in classes_in(analysis, Analysis).values()}


class Row(NamedTuple):
    """A method of a table."""

    method: str  # as the paper calls it
    run: str  # folder of the results of test.py: <config>/<split> or <config>/<split>_truth_<what>
    published: list[float | None]  # one per figure of the table: percent, or seconds

    @property
    def config(self) -> Path:
        """The config of the run, relative to the repository's root."""
        return Path("configs", f"{self.run.partition('/')[0]}.yaml")


class Table(NamedTuple):
    """A table of a paper."""

    title: str
    figures: list[str]  # names of metrics.json; "a.b" is b in the mapping a, written by an analysis of test.py
    rows: list[Row]


def read_tables(folder: Path = PUBLISHED) -> dict[str, Table]:
    """The tables of every YAML file in a folder by name: <file>.<table>, such as centernet.table4."""
    return {
        f"{path.stem}.{name}": Table(table["title"], table["figures"], [Row(*row) for row in table["rows"]])
        for path in sorted(folder.glob("*.yaml"))
        for name, table in yaml.safe_load(path.read_text(encoding="utf-8")).items()
    }


def read_metrics(path: Path, figures: list[str]) -> dict[str, Any]:
    """The content of a metrics.json, with these figures (numbers or null). Empty if there is no such file.

    Figures of the test split are null until those of COCO's server are added to the file. So are the figures of an
    analysis that did not run.

    Raises:
        ConfigError: the file is not JSON, or lacks a figure. The message names the file.
    """
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # also of text that is not UTF-8
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(metrics, dict):
        raise ConfigError(f"{path}: expected a mapping of figures, as test.py writes it")
    for name in figures:
        group, _, rest = name.partition(".")
        if rest and group not in metrics:
            metrics[name] = None
        elif rest:
            value: Any = metrics
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            metrics[name] = value
    lacking = [name for name in figures if name not in metrics]
    if metrics.get("split") == "test":
        metrics |= dict.fromkeys(lacking)
    elif lacking:
        raise ConfigError(f"{path} lacks {', '.join(lacking)}: run test.py again")
    for name in figures:
        value = metrics[name]
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not number:
            raise ConfigError(f"{path}: {name}: expected a number or null, got {value!r}")
    return metrics


def find_run(runs: Path, run: str) -> Path:
    """The folder of the results of <config>/<split>. Raises ConfigError if several runs have one."""
    others = sorted(path.parent for path in runs.glob(f"*/{run}/metrics.json"))
    folders = [runs / run] if (runs / run / "metrics.json").exists() else others
    if len(folders) > 1:
        raise ConfigError(f"several runs have results of {run}: {', '.join(map(str, folders))}; keep one of them")
    return folders[0] if folders else runs / run


def command(row: Row, metrics: dict[str, Any], figures: Sequence[str] = ()) -> str:
    """The command line of test.py that gives these figures.

    That of a finished run has its checkpoint and all options that differ from the config's, without data.root, which
    does not change the figures.
    """
    split, _, truth = row.run.partition("/")[2].partition("_truth_")
    words = ["test.py", row.config.as_posix()]
    words += ["--checkpoint", str(metrics["checkpoint"])] if "checkpoint" in metrics else []
    words += ["--split", split] if split != "val" else []
    words += ["--truth", *truth.split("_")] if truth else []
    analyses = dict.fromkeys(ANALYSES[name.partition(".")[0]] for name in figures if "." in name)
    words += ["--analyses", *analyses] if analyses else []
    file = PUBLISHED.parent / row.config.name
    if isinstance(metrics.get("config"), dict) and file.is_file():
        changed = differences(to_dict(load(file)), upgrade(metrics["config"]))
        words += [text for text in changed if not text.startswith("data.root=")]
    return shlex.join(words)


def differences(config: dict[str, Any], run: dict[str, Any], prefix: str = "") -> list[str]:
    """Options of a run that differ from a config, as `key.sub=value`, without those that only one of them has."""
    texts = []
    for key, value in run.items():
        if key in config and isinstance(value, dict) and isinstance(config[key], dict):
            texts += differences(config[key], value, f"{prefix}{key}.")
        elif key in config and value != config[key]:
            texts.append(f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return texts


def show(name: str, value: float | None, published: float | None = None) -> str:
    """A value in the paper's unit and decimals, with its signed difference from the published one, if any."""
    decimals = 3 if name == "seconds_per_image" else 1
    if value is None:
        return ""
    text = f"{value:.{decimals}f}"
    if published is None:
        return text
    # The difference of the rounded values, so that the three numbers agree. + 0.0 turns -0.0 into 0.0.
    return f"{text} ({round(float(text) - published, decimals) + 0.0:+.{decimals}f})"


def markdown(table: Table, runs: Path) -> tuple[str, list[str]]:
    """A table in Markdown, and a message for every metrics.json that could not be used."""
    lines, problems = [["method", "", *table.figures, "command"]], []
    for row in table.rows:
        try:
            metrics = read_metrics(find_run(runs, row.run) / "metrics.json", table.figures)
        except ConfigError as error:
            metrics = {}
            problems.append(str(error))
        ours = []
        for name, published in zip(table.figures, row.published, strict=True):
            value = metrics.get(name)
            percent = value is not None and name != "seconds_per_image"
            ours.append(show(name, 100 * value if percent else value, published))
        lines.append([row.method, "published", *map(show, table.figures, row.published), ""])
        lines.append(["", "ours", *ours, f"`{command(row, metrics, table.figures)}`"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] = 0  # commands are long
    lines.insert(1, ["-" * max(width, 3) for width in widths])
    lines = [
        [cell.replace("|", "\\|").ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    ]
    text = "\n".join(f"| {' | '.join(line).rstrip()} |" for line in lines)
    return f"### {table.title}\n\n{text}\n", problems


def choose(tables: dict[str, Table], names: list[str]) -> dict[str, Table]:
    """The tables of these names, in the order of the files. The name of a file stands for all of its tables.

    Raises:
        ConfigError: there is no table of that name. The message lists all tables.
    """
    for name in names:
        if not is_table(name, tables):
            near = difflib.get_close_matches(name, tables, 1, 0.75)
            hint = f"did you mean {near[0]}? Tables" if near else "tables"
            raise ConfigError(f"--table: there is no table {name}; {hint}: {', '.join(tables)}")
    return {key: table for key, table in tables.items() if not names or {key, key.partition(".")[0]} & set(names)}


def is_table(name: str, tables: dict[str, Table]) -> bool:
    """Whether this is the name of a table, or of a file of tables."""
    return any(name in (table, table.partition(".")[0]) for table in tables)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options of the command line. The last name after --table may be RUNS: a folder, and no table's name."""
    parser = argparse.ArgumentParser(
        prog="python -m nnet.analysis.tables", description="Compare finished runs with the papers' tables."
    )
    parser.add_argument("runs", nargs="?", type=Path, metavar="RUNS", help="folder of the runs (default: runs)")
    parser.add_argument(
        "--table",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="such as centernet.table4 (default: all). RUNS may follow",
    )
    args = parser.parse_args(argv)
    if args.table and args.runs is None:
        *names, last = args.table
        if not is_table(last, read_tables()) and (os.sep in last or Path(last).is_dir()):
            args.table, args.runs = names, Path(last)
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    problems: dict[str, None] = {}  # each once, though several tables may contain the run
    try:
        tables = choose(read_tables(), args.table)
        if args.runs is not None and not args.runs.is_dir():
            raise ConfigError(f"there is no folder {args.runs}: name the one that holds <config>/<split>/metrics.json")
        for table in tables.values():
            text, found = markdown(table, args.runs or Path("runs"))
            print(text)
            problems |= dict.fromkeys(found)
    except ConfigError as error:
        problems[str(error)] = None
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 2 if problems else 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that closes early, such as `| head`, ends it quietly
    sys.exit(main())
