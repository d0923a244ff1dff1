"""Mean and spread of a variant's runs, and differences to another variant with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nnet.analysis.bootstrap import interval

DRAWS = 200_000  # of the interval over images and seeds

Interval = tuple[float, float]


class Measured(NamedTuple):
    """A figure of one run, and its values on resamples of the images: (R,), NaN with nothing to measure.

    None in place of the latter where only the figure is known.
    """

    value: float
    resampled: np.ndarray | None


class Spread(NamedTuple):
    """A figure over the seeds. deviation: standard deviation with n - 1; NaN with one seed."""

    mean: float
    deviation: float
    values: dict[int, float]  # by seed

    @classmethod
    def of(cls, values: Mapping[int, float]) -> Spread:
        """The spread of values by seed, at least one."""
        array = np.array(list(values.values()))
        return cls(float(array.mean()), deviation(array), dict(values))


class Change(NamedTuple):
    """The mean difference of two variants over their common seeds, with 95% intervals. NaN: not known.

    Attributes:
        seeds: number of seeds. deviation: of the differences by seed.
        images: over test images, with the networks as they are.
        both: over test images and seeds of training.
    """

    mean: float
    seeds: int
    deviation: float
    images: Interval
    both: Interval


def change(first: Mapping[int, Measured], second: Mapping[int, Measured]) -> Change | None:
    """The difference second - first of a figure, paired by seed and by image. None without a common seed.

    Runs are given by their seeds. Two sources of chance are crossed here: every network sees the same images.

    - Images: a resample of the images gives the difference of every seed on the same images, and their mean over the
      seeds is one value of the bootstrap. Its percentiles are the interval `images`.
    - Seeds: the mean of n differences has the standard error s / sqrt(n), and the error divided by it has Student's
      distribution with n - 1 degrees of freedom. The interval `both` are the percentiles of the sum: a value of the
      bootstrap, and s / sqrt(n) times a draw of that distribution. s is measured on one set of images and contains some
      of their chance, so that the interval is rather too wide.
    """
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    differences = np.array([second[seed].value - first[seed].value for seed in seeds])
    mean, spread, nothing = float(differences.mean()), deviation(differences), (math.nan, math.nan)
    runs = [(first[seed].resampled, second[seed].resampled) for seed in seeds]
    resampled, images = np.array([mean]), nothing
    if all(one is not None and other is not None for one, other in runs):
        resampled = np.mean([other - one for one, other in runs], axis=0)
        images = interval(resampled)
    resampled = resampled[~np.isnan(resampled)]
    both = nothing
    if len(seeds) > 1 and len(resampled):
        generator = np.random.default_rng(0)
        chance = generator.standard_t(len(seeds) - 1, DRAWS) * spread / math.sqrt(len(seeds))
        both = interval(np.resize(resampled, DRAWS) + chance)
    return Change(mean, len(seeds), spread, images, both)


def deviation(values: np.ndarray) -> float:
    """Standard deviation with n - 1; NaN for one value."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan
