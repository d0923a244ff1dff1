"""Gather finished runs into the papers' tables: python -m configs.tables [RUNS] [--table NAME ...]

Prints each table of configs/published/ as GitHub Markdown: a line of published figures, below it ours with the
difference, and the command. Ours are read from RUNS/<config>/<split>/metrics.json, as test.py writes it; they are blank
where no run is. Exit codes: 0 done, 2 bad input (also where some metrics.json could not be used; the rest is printed).
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from . import ConfigError, load, to_dict

PUBLISHED = Path(__file__).parent / "published"
ANALYSES = {"corner_AP": "corners", "AP_by_objects": "objects", "errors": "errors"}  # in metrics.json: test.py's name


class Row(NamedTuple):
    method: str  # as the paper calls it
    run: str  # folder that test.py writes to: <config>/<split> or <config>/<split>_truth_<what>
    published: list[float | None]  # one per figure of the table: percent, or seconds

    @property
    def config(self) -> Path:
        return Path("configs", f"{self.run.partition('/')[0]}.yaml")


class Table(NamedTuple):
    title: str
    figures: list[str]  # names of metrics.json; "a.b" is b in the mapping a, which an analysis of test.py writes
    rows: list[Row]


def read_tables(folder: Path = PUBLISHED) -> dict[str, Table]:
    """The tables of every YAML file in a folder by name: <file>.<table>, such as centernet.table4."""
    return {
        f"{path.stem}.{name}": Table(table["title"], table["figures"], [Row(*row) for row in table["rows"]])
        for path in sorted(folder.glob("*.yaml"))
        for name, table in yaml.safe_load(path.read_text(encoding="utf-8")).items()
    }


def read_metrics(path: Path, figures: list[str]) -> dict[str, Any]:
    """What a metrics.json holds, the figures (numbers or null) among it; empty where there is no such file.

    Figures of the test split are null before someone has added those that COCO's server gave, as are those of an
    analysis that test.py was not asked for.

    Raises:
        ConfigError: not JSON, or not all of the figures in it; the message names the file.
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


def command(row: Row, metrics: dict[str, Any], figures: Sequence[str] = ()) -> str:
    """test.py's command line for figures; of a finished run also its checkpoint and whatever options differ from the
    config's.

    data.root is left out, which says where the data is and not what it is.
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
        differences = _differences(to_dict(load(file)), metrics["config"])
        words += [text for text in differences if not text.startswith("data.root=")]
    return shlex.join(words)


def _differences(config: dict[str, Any], run: dict[str, Any], prefix: str = "") -> list[str]:
    """Options of a run that differ from a config, as `key.sub=value`; those that only one of them has are left out."""
    texts = []
    for key, value in run.items():
        if key in config and isinstance(value, dict) and isinstance(config[key], dict):
            texts += _differences(config[key], value, f"{prefix}{key}.")
        elif key in config and value != config[key]:
            texts.append(f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return texts


def show(name: str, value: float | None, published: float | None = None) -> str:
    """A value in the paper's unit and decimals, with its signed difference from the published one if that is given."""
    decimals = 3 if name == "seconds_per_image" else 1
    if value is None:
        return ""
    text = f"{value:.{decimals}f}"
    if published is None:
        return text
    # of the rounded value, so that the three numbers agree; + 0.0 turns -0.0 into 0.0
    return f"{text} ({round(float(text) - published, decimals) + 0.0:+.{decimals}f})"


def markdown(table: Table, runs: Path) -> tuple[str, list[str]]:
    """A table in Markdown, and a line on every metrics.json that could not be used."""
    lines, problems = [["method", "", *table.figures, "command"]], []
    for row in table.rows:
        try:
            metrics = read_metrics(runs / row.run / "metrics.json", table.figures)
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
    """The tables of these names, in their own order; the name of a file stands for all of its tables.

    Raises:
        ConfigError: there is no table of that name; the message lists those there are.
    """
    for name in names:
        if not any(name in (table, table.partition(".")[0]) for table in tables):
            near = difflib.get_close_matches(name, tables, 1, 0.75)
            hint = f"did you mean {near[0]}? Tables" if near else "tables"
            raise ConfigError(f"--table: there is no table {name}; {hint}: {', '.join(tables)}")
    return {key: table for key, table in tables.items() if not names or {key, key.partition(".")[0]} & set(names)}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m configs.tables", description="Gather runs into the papers' tables."
    )
    parser.add_argument("runs", nargs="?", type=Path, metavar="RUNS", help="folder of the runs (default: runs)")
    parser.add_argument(
        "--table",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="such as centernet.table4 (default: all)",
    )
    args = parser.parse_args()
    problems: dict[str, None] = {}  # each once, though several tables may show a run
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
    sys.exit(main())
