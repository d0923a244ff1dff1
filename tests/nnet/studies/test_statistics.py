"""Intervals of the difference of two variants, in cases of known answer."""

import math

import numpy as np
import pytest

from nnet.analysis.bootstrap import resample
from nnet.studies import statistics
from nnet.studies.statistics import Measured, Spread, change

IMAGES = 60
WEIGHTS = np.concatenate(list(resample(IMAGES, 300, seed=0))) / IMAGES  # (R, N)


def measured(values):
    """A figure that is the mean of a value of each image (N,)."""
    return Measured(float(values.mean()), WEIGHTS @ values)


def drawn(r, seeds, of_seeds, of_images, of_both=0.01):
    """Two variants that differ by 0.1 on average, with these standard deviations of the difference."""
    first, second = {}, {}
    images = r.normal(0, of_images, IMAGES)
    for seed in range(seeds):
        common = r.random(IMAGES)  # which both variants share
        difference = 0.1 + r.normal(0, of_seeds) + images + r.normal(0, of_both, IMAGES)
        first[seed], second[seed] = measured(common), measured(common + difference)
    return first, second


@pytest.mark.parametrize(
    "of_seeds, of_images, images_cover",
    [(0.0, 0.3, (0.88, 0.99)), (0.05, 0.3, (0.5, 0.88)), (0.05, 0.0, (0.0, 0.2))],
)
def test_intervals_contain_the_truth_as_often_as_they_say(of_seeds, of_images, images_cover, monkeypatch):
    """The interval over images and seeds always does, the one over images only where seeds do not matter."""
    monkeypatch.setattr(statistics, "DRAWS", 3000)
    r, hits = np.random.default_rng(0), []
    for _ in range(300):
        found = change(*drawn(r, 3, of_seeds, of_images))
        hits.append([low < 0.1 < high for low, high in (found.images, found.both)])
    images, both = np.mean(hits, axis=0)
    assert images_cover[0] <= images <= images_cover[1]
    assert both >= 0.92


def test_seeds_are_paired():
    """What a seed does to both variants alike is no part of the intervals."""
    first, second = drawn(np.random.default_rng(1), 3, of_seeds=0, of_images=0, of_both=0)
    found = change(first, second)
    assert found.mean == pytest.approx(0.1) and found.seeds == 3
    for bounds in (found.images, found.both):
        assert bounds == pytest.approx((0.1, 0.1))


def test_only_common_seeds_are_compared():
    first, second = drawn(np.random.default_rng(2), 3, 0.05, 0.1)
    assert change(first, {1: second[1], 7: second[0]}) == change({1: first[1]}, {1: second[1]})
    assert change(first, {7: second[0]}) is None


def test_one_seed_says_nothing_of_others():
    first, second = drawn(np.random.default_rng(3), 1, 0.05, 0.3)
    found = change(first, second)
    assert math.isnan(found.deviation) and all(map(math.isnan, found.both))
    assert found.images[0] < found.mean < found.images[1]


def test_without_figures_of_images_the_interval_is_students():
    """Differences of 1, 2 and 3: the mean is 2, the deviation 1, and t of 2 degrees of freedom 4.303."""
    zero = {seed: Measured(0.0, None) for seed in range(3)}
    found = change(zero, {seed: Measured(seed + 1.0, None) for seed in range(3)})
    assert all(map(math.isnan, found.images)) and found.deviation == 1
    assert found.both == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5), abs=0.05)


def test_resamples_without_the_figure_are_left_out():
    first = {0: Measured(0.0, np.array([0.0, math.nan, 0.0]))}
    assert change(first, {0: Measured(1.0, np.array([1.0, math.nan, 1.0]))}).images == (1.0, 1.0)


def test_spread():
    found = Spread.of({1: 0.2, 2: 0.4})
    assert found.mean == pytest.approx(0.3) and found.deviation == pytest.approx(0.02**0.5)
    assert math.isnan(Spread.of({1: 0.2}).deviation)
