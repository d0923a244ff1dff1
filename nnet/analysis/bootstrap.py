"""Differences between two runs, with intervals from resampling the images (paired bootstrap)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from db import Evaluation, Matches

RESAMPLES = 1000
LEVEL = 0.95  # of the intervals
SIZES = {"s": "small", "m": "medium", "l": "large"}

Values = dict[str, np.ndarray]
"""By name, a figure for each of R weightings of the images: (R,), NaN where there is nothing to measure."""


class Difference(NamedTuple):
    """A figure of two runs. All are NaN where there is nothing to measure."""

    first: float
    second: float
    low: float  # interval of second - first
    high: float

    @property
    def change(self) -> float:
        return self.second - self.first

    @property
    def significant(self) -> bool:
        """Whether the interval is without 0."""
        return self.low > 0 or self.high < 0


class Differences(NamedTuple):
    """The differences between two runs, by name."""

    figures: dict[str, Difference]
    classes: dict[str, Difference]  # of the AP of each class


def coco_values(matches: Matches, weights: np.ndarray) -> tuple[Values, Values]:
    """COCO's 12 figures with AP at further IoU thresholds, and the AP of each class by its number.

    Args:
        matches: at COCO's 10 thresholds. weights: (R, N) int, how often each image counts.
    """
    by_area = {
        area: np.stack([own.average_precision(weights) for own in classes])  # (C, T, R)
        for area, classes in matches.classes.items()
    }
    whole = by_area["all"]
    values = {"AP": mean(whole)}
    values |= {f"AP{n}": mean(whole[:, matches.threshold(n / 100)]) for n in (50, 60, 70, 75, 80, 90)}
    values |= {f"AP{size}": mean(by_area[area]) for size, area in SIZES.items()}
    for limit in (1, 10, 100):
        values[f"AR{limit}"] = mean(np.stack([own.recall(weights, limit) for own in matches.classes["all"]]))
    for size, area in SIZES.items():
        values[f"AR{size}"] = mean(np.stack([own.recall(weights, 100) for own in matches.classes[area]]))
    return values, {str(k): mean(own) for k, own in enumerate(whole)}


def false_discovery_values(matches: Matches, weights: np.ndarray) -> Values:
    """CenterNet's false discovery rates, see db.false_discovery. matches: at IoU thresholds 0.05 to 0.50."""
    classes = matches.classes
    whole = np.stack([own.average_precision(weights) for own in classes["all"]])
    values = {"FD": mean(whole)} | {f"FD{n}": mean(whole[:, matches.threshold(n / 100)]) for n in (5, 25, 50)}
    for size, area in SIZES.items():
        values[f"FD{size}"] = mean(np.stack([own.average_precision(weights) for own in classes[area]]))
    return {name: 1 - value for name, value in values.items()}


def mean(values: np.ndarray) -> np.ndarray:
    """Mean over classes and thresholds without NaN, as COCO takes it: (..., R) -> (R,)."""
    values = values.reshape(-1, values.shape[-1])
    there = ~np.isnan(values)
    number = there.sum(0)
    return np.where(number, np.where(there, values, 0).sum(0) / np.maximum(number, 1), np.nan)


def all_values(coco: Matches, discovery: Matches, weights: np.ndarray) -> tuple[Values, Values]:
    """All figures, and the AP of each class by its number. Arguments as above."""
    values, by_class = coco_values(coco, weights)
    return values | false_discovery_values(discovery, weights), by_class


def resample(images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each image counts in each of the resamples, in parts (up to 50, images). The same for every run."""
    generator = np.random.default_rng(seed)
    for done in range(0, resamples, 50):
        yield generator.multinomial(images, np.full(images, 1 / images), min(50, resamples - done))


def interval(values: np.ndarray) -> tuple[float, float]:
    """Percentile interval of values, NaN among which are left out; NaN where there are no others."""
    values = values[~np.isnan(values)]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(values) else (np.nan, np.nan)
    return float(low), float(high)


def paired_bootstrap(
    figures: Callable[[int, np.ndarray], Values],
    images: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Difference]:
    """Figures of two runs and percentile intervals of their difference, over resamples of the images.

    Each resample draws `images` images with replacement, the same ones for both runs.

    Args:
        figures: (run 0 or 1, weights (R, N)) -> values.
        progress: called with the number of resamples that are done.
    """
    once = np.ones((1, images), np.int64)
    plain = [figures(run, once) for run in (0, 1)]
    changes: dict[str, list[np.ndarray]] = {name: [] for name in plain[0]}
    for weights in resample(images, resamples, seed):
        first, second = (figures(run, weights) for run in (0, 1))
        for name, own in changes.items():
            own.append(second[name] - first[name])
        progress(len(weights))
    found = {}
    for name, own in changes.items():
        bounds = interval(np.concatenate(own))
        found[name] = Difference(float(plain[0][name][0]), float(plain[1][name][0]), *bounds)
    return found


def compare_runs(
    first: tuple[Evaluation, Evaluation],
    second: tuple[Evaluation, Evaluation],
    names: tuple[str, ...],
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Differences:
    """The differences of all figures, and of the AP by class.

    Args:
        first, second: of each run, the evaluation at COCO's thresholds, and at those of the false discovery rates.
        names: of the classes.
    """
    matches = [tuple(evaluation.matches for evaluation in run) for run in (first, second)]

    def figures(run: int, weights: np.ndarray) -> Values:
        values, by_class = all_values(*matches[run], weights)
        return values | {f"class {k}": value for k, value in by_class.items()}

    found = paired_bootstrap(figures, matches[0][0].images, resamples, seed, progress)
    by_class = {name: found.pop(f"class {k}") for k, name in enumerate(names)}
    return Differences(found, by_class)
