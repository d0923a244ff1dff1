"""The figures of the finished runs of a study, from their metrics.json and study.json."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from db import DataError
from nnet.studies.plan import Pair, Study
from nnet.studies.statistics import Change, Measured, Spread, change
from nnet.studies.summary import CURVES, read_summary

logger = logging.getLogger(__name__)

SECONDS = ("training_seconds", "seconds_per_image")  # in study.json and in metrics.json


class Results:
    """The figures of the finished runs of a study, by variant, figure and seed.

    Attributes:
        measured: figures as fractions, and those of SECONDS. curves: by name, variant and seed: (iterations, values).
        finished: the pairs that have figures. images: number of test images. first: name of the first variant.
    """

    def __init__(self, study: Study, pairs: Sequence[Pair]):
        self.study, self.pairs = study, pairs
        self.first = study.variants[0].name
        names = [*study.options.figures, *SECONDS]
        self.measured: dict[str, dict[str, dict[int, Measured]]] = {
            variant.name: {name: {} for name in names} for variant in study.variants
        }
        self.curves: dict[str, dict[str, dict[int, tuple]]] = {name: {} for name in CURVES}
        self.changes: dict[tuple[str, str], Change | None] = {}
        self.finished: list[Pair] = []
        self.images = 0
        found = [(pair, metrics, read_summary(pair, metrics)) for pair in pairs if (metrics := pair.metrics())]
        if not found:
            raise DataError(f"no run of {study.path} is finished in {pairs[0].folder.parent.parent}")
        tests = Counter(test_of(summary) for *_, summary in found if summary)
        self.test = tests.most_common(1)[0][0] if tests else None
        for pair, metrics, summary in found:
            self._add(pair, metrics, summary)

    def _add(self, pair: Pair, metrics: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Add a finished run."""
        self.finished.append(pair)
        self.images = metrics["images"]
        paired = bool(summary) and test_of(summary) == self.test
        if summary and not paired:
            logger.warning("%s: tested on other annotations than most runs: not compared image by image", pair.name)
        own = self.measured[pair.variant.name]
        for name in self.study.options.figures:
            if (value := figure(metrics, name)) is not None:
                own[name][pair.seed] = Measured(value, fractions(summary, name) if paired else None)
        for name, value in ((name, {**metrics, **summary}.get(name)) for name in SECONDS):
            if value is not None:
                own[name][pair.seed] = Measured(value, None)
        for name, (x, y) in summary.get("curves", {}).items():
            if x and name in self.curves:
                self.curves[name].setdefault(pair.variant.name, {})[pair.seed] = (x, y)

    def spread(self, variant: str, name: str) -> Spread | None:
        """A figure of a variant over its seeds, None where it has none."""
        values = {seed: one.value for seed, one in self.measured[variant][name].items()}
        return Spread.of(values) if values else None

    def change(self, variant: str, name: str) -> Change | None:
        """The difference of a figure to the first variant. None without a common seed."""
        if (variant, name) not in self.changes:
            self.changes[variant, name] = change(self.measured[self.first][name], self.measured[variant][name])
        return self.changes[variant, name]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, NaN as None."""
        variants: dict[str, Any] = {}
        for variant, figures in self.measured.items():
            variants[variant] = {}
            for name in figures:
                spread = self.spread(variant, name)
                entry = variants[variant][name] = spread._asdict() if spread else {}
                if variant != self.first and (difference := self.change(variant, name)):
                    entry["difference"] = difference._asdict()
        runs = [[pair.variant.name, pair.seed] for pair in self.finished]
        found = {"study": self.study.path.stem, "first": self.first, "runs": runs}
        return without_nan(found | {"of": len(self.pairs), "images": self.images, "variants": variants})


def test_of(summary: Mapping[str, Any]) -> tuple:
    """Key of a test: equal keys mean the same images and resamples."""
    return tuple(summary["resampled"][name] for name in ("images", "number", "seed")) if summary else ()


def figure(metrics: Mapping[str, Any], name: str) -> float | None:
    """A figure of metrics.json; a.b is b in the mapping a. None where there is nothing to measure.

    Raises:
        DataError: there is no such figure.
    """
    value: Any = metrics
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = f": there are {', '.join(value)}" if isinstance(value, Mapping) and "." in name else ""
            raise DataError(f"metrics.json has no figure {name}{known}")
        value = value[part]
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise DataError(f"metrics.json: {name} is no number: name a figure in it, such as {name}.{next(iter(value))}")
    return value


def fractions(summary: Mapping[str, Any], name: str) -> np.ndarray | None:
    """A figure on resamples, None where it is not known."""
    resampled = summary["resampled"]
    if name not in resampled["values"]:
        return None
    return np.array([math.nan if n is None else n for n in resampled["values"][name]]) * resampled["step"]


def without_nan(value: Any) -> Any:
    """Plain values with None in place of NaN."""
    if isinstance(value, Mapping):
        return {str(name): without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
