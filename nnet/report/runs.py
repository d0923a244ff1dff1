"""Finished runs of test.py, as pages and tables take them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import configs
from db import AnnotationIndex, DataError, Evaluation, evaluate, load_split
from db.evaluation import DISCOVERY_IOUS
from nnet.analysis.tables import read_metrics, read_tables
from nnet.analysis.tide import Judged, judge
from nnet.training.metrics import read_metrics as read_log


@dataclass(frozen=True)
class Run:
    """What test.py has found, and on which data.

    Attributes:
        folder: that it has written to.
        config: all options. metrics: the content of metrics.json. results: in COCO's format.
    """

    folder: Path
    config: configs.Config
    index: AnnotationIndex
    metrics: dict[str, Any]
    results: list[dict]

    @property
    def name(self) -> str:
        return self.folder.as_posix()

    @property
    def checkpoint(self) -> Path:
        return Path(self.metrics["checkpoint"])

    @cached_property
    def evaluation(self) -> Evaluation:
        """COCO's figures."""
        return evaluate(self.index, self.results)

    @cached_property
    def discovery(self) -> Evaluation:
        """AP at the thresholds of the false discovery rates."""
        return evaluate(self.index, self.results, iou_thresholds=DISCOVERY_IOUS)

    @cached_property
    def judged(self) -> list[Judged]:
        """The detections with their kinds of errors."""
        return judge(self.index, self.results)

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The rows of the training's log, which is beside the checkpoint. Empty if there is none."""
        return read_log(self.checkpoint.parent / "metrics.jsonl")

    @cached_property
    def published(self) -> dict[str, tuple[float, str]]:
        """By figure, the published value in percent and the table it is from, where a paper has this run.

        As in nnet.analysis.tables, the run is known by its folder, <config>/<split>.
        """
        run, found = "/".join(self.folder.resolve().parts[-2:]), {}
        for table in read_tables().values():
            for row in table.rows:
                if row.run == run:
                    for figure, value in zip(table.figures, row.published, strict=True):
                        if value is not None:
                            found.setdefault(figure, (value, table.title))
        return found


def load_run(folder: Path) -> Run:
    """A finished run from its folder.

    Raises:
        ConfigError, DataError: the folder was not written by test.py, a file is damaged, or the data cannot be read.
    """
    path = folder / "metrics.json"
    metrics = read_metrics(path, [])
    if not metrics:
        near = [found.parent for found in sorted(folder.glob("*/metrics.json"))]
        hint = f"did you mean {near[0]}?" if near else "name a folder that test.py has written to"
        raise DataError(f"{folder}: no metrics.json there: {hint}")
    lacking = [key for key in ("config", "split", "checkpoint") if key not in metrics]
    if lacking:
        raise DataError(f"{path} lacks {', '.join(lacking)}: run test.py again")
    config = configs.from_dict(metrics["config"], str(path))
    if metrics["split"] not in ("train", "val", "test"):
        raise DataError(f"{path}: split: expected train, val or test, got {metrics['split']!r}")
    index = load_split(config.data, metrics["split"], require_boxes=False)
    return check(Run(folder, config, index, metrics, read_results(folder / "results.json")))


def check(run: Run) -> Run:
    """The run, if its images are annotated and its results are about them. Raises DataError."""
    if not len(run.index.boxes):
        raise DataError(f"{run.folder}: data.{run.metrics['split']} has no annotated boxes to compare detections with")
    try:
        run.evaluation  # noqa: B018
    except DataError as error:
        raise DataError(f"{run.folder / 'results.json'}: {error}") from None
    return run


def read_results(path: Path) -> Any:
    """The content of a result file. Raises DataError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}): run test.py again") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}): run test.py again") from None


def check_pair(first: Run, second: Run) -> None:
    """DataError unless both runs were tested on the same images and objects."""
    if first.folder.resolve() == second.folder.resolve():
        raise DataError(f"{first.folder}: name two different runs")
    one, other = first.index, second.index
    for name in ("image_ids", "first", "boxes", "labels", "crowd", "category_ids"):
        if not np.array_equal(getattr(one, name), getattr(other, name)):
            raise DataError(
                f"{first.folder} and {second.folder} were tested on different annotations ({len(one)} and {len(other)} "
                "images): test both on the same data"
            )
