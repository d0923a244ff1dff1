"""Intervals of the paired bootstrap, in cases of known answer."""

import math

import numpy as np
import pytest

from db import AnnotationIndex, evaluate, false_discovery
from db.evaluation import DISCOVERY_IOUS
from nnet.analysis.bootstrap import compare_runs, paired_bootstrap

IMAGES = 100
BOXES = np.array([[10, 10, 50, 50], [100, 10, 140, 50]])  # of each image, in one class


def index_of_pairs(images=IMAGES):
    """Images with two objects each."""
    return AnnotationIndex.build(
        image_ids=range(1, images + 1),
        sizes=[[100, 200]] * images,
        names=[f"{i}.jpg" for i in range(images)],
        folders=["."],
        box_image=np.repeat(np.arange(images), 2),
        boxes=np.tile(BOXES, (images, 1)),
        labels=np.zeros(2 * images, int),
        category_ids=(3,),
        category_names=("ring",),
    )


def finding(which):
    """Results that find these objects, (images, 2) bool, exactly, and nothing else."""
    rows = zip(*np.nonzero(which), strict=True)
    boxes = [[10, 10, 40, 40], [100, 10, 40, 40]]
    return [{"image_id": int(i) + 1, "category_id": 3, "bbox": boxes[n], "score": 0.9} for i, n in rows]


def compared(first, second, **options):
    """The differences of two runs that find these objects."""
    index = index_of_pairs()
    runs = [[evaluate(index, found, iou_thresholds=ious) for ious in (None, DISCOVERY_IOUS)]
            for found in (finding(first), finding(second))]  # fmt: skip
    return compare_runs(*map(tuple, runs), index.category_names, **options)


def everything():
    return np.ones((IMAGES, 2), bool)


def test_interval_of_a_binomial():
    """A run that finds the objects of half of the images: in resamples, the number of such images is binomial."""
    half = everything()
    half[::2] = False
    figures, by_class = compared(everything(), half, resamples=1500)
    cumulative = np.cumsum([math.comb(IMAGES, n) / 2**IMAGES for n in range(IMAGES + 1)])
    low, high = (int(np.searchsorted(cumulative, level)) for level in (0.025, 0.975))
    assert (low, high) == (40, 60)
    # The precision is 1, so AP is the share of the 101 recalls that are reached
    found = figures["AP"]
    assert (found.first, found.second) == (pytest.approx(1), pytest.approx(51 / 101))
    assert found.low == pytest.approx((low + 1) / 101 - 1, abs=0.011)  # at most one image off
    assert found.high == pytest.approx((high + 1) / 101 - 1, abs=0.011)
    assert found.significant and figures["AR100"].second == pytest.approx(0.5) and by_class["ring"] == found
    assert np.isnan(figures["APl"].change) and not figures["APl"].significant  # no large objects


def test_a_difference_that_all_images_share_is_certain():
    second = everything()
    second[:, 1] = False
    found = compared(everything(), second, resamples=50)[0]["AP50"]
    assert found.change == found.low == found.high == pytest.approx(51 / 101 - 1)


def test_both_runs_see_the_same_resamples():
    some = np.random.default_rng(0).random((IMAGES, 2)) < 0.5
    figures, by_class = compared(some, some, resamples=50)
    for name, found in (figures | by_class).items():
        if not np.isnan(found.first):
            assert found.low == found.high == 0 and not found.significant, name


def test_figures_are_those_of_the_runs():
    some = np.random.default_rng(1).random((IMAGES, 2)) < 0.7
    index = index_of_pairs()
    expected = evaluate(index, finding(some)) | false_discovery(index, finding(some))
    figures, _ = compared(everything(), some, resamples=1)
    for name, value in expected.items():
        assert figures[name].second == pytest.approx(np.nan if value is None else value, nan_ok=True), name


def test_the_seed_decides():
    values = np.random.default_rng(0).random(20)

    def figures(run, weights):
        return {"mean": run * (weights @ values) / 20}

    one, same, other = (paired_bootstrap(figures, 20, 120, seed)["mean"] for seed in (0, 0, 1))
    assert one == same and one.second == other.second == pytest.approx(values.mean())
    assert (one.low, one.high) != (other.low, other.high) and one.low < values.mean() < one.high
