"""Detection with reading ahead and decoding behind: the same results, in threads of their own, and a clean end."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from nnet.detection.detector import Detector
from nnet.detection.images import detect_images, positions_in_batches
from nnet.detection.pipeline import Loaded, detect_batches
from nnet.families.options import DetectionOptions
from tests.builders import small_family
from tests.nnet.detection.test_images import Rank, index_of
from tests.nnet.oracles import CPU

OPTIONS = DetectionOptions(embedding_distance=9.0)
# Two stacks and levels enough for rounding to add up
NETWORK = {"stacks": 2, "stem_width": 8, "widths": (8, 12, 16), "blocks": (1, 1, 2)}


def detector_of(name="cornernet", **options):
    family = small_family(name, classes=3, backbone=NETWORK, pool_width=4, bn_init="ones")
    return Detector(family, replace(OPTIONS, **options), (95, 95), CPU)


@pytest.mark.parametrize("name, options", [("cornernet", {}), ("centernet", {"scales": (0.5, 1.0), "batch": 2})])
def test_workers_change_no_bit(toy, name, options):
    index = index_of(toy, 5)
    found = [
        list(detect_images(detector_of(name, workers=workers, **options), index, Rank(), pytest.fail))
        for workers in (0, 2)
    ]
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert one.position == two.position and one.results == two.results
            assert np.array_equal(one.image, two.image)
            assert all(np.array_equal(a, b) for a, b in zip(one.found, two.found, strict=True))


def test_images_of_one_canvas_pass_together(toy):
    """The toy's images have several sizes. In batches, results are equal up to rounding."""
    index = index_of(toy, 8)
    detector = detector_of(batch=3)
    batches = list(positions_in_batches(detector, index, range(8)))
    assert sorted(sum(batches, [])) == list(range(8)) and max(map(len, batches)) in (2, 3)
    for own in batches:
        assert len({detector.canvas_sizes(*index.sizes[i]) for i in own}) == 1
    single = {d.position: d for d in detect_images(detector_of(), index, Rank(), pytest.fail)}
    for together in detect_images(detector, index, Rank(), pytest.fail):
        for a, b in zip(together.found, single[together.position].found, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_the_network_runs_here_and_the_rest_in_threads():
    detector, ran = detector_of(workers=2), []
    for part in ("prepare", "run_network", "decode"):
        setattr(detector, part, recorded(part, getattr(detector, part), ran))
    images = [np.zeros((40, 50, 3), np.uint8)] * 4
    batches = detect_batches(detector, images, lambda image: Loaded(0, detector.prepare([image])))
    assert [(item, len(found)) for item, found in batches] == [(0, 1)] * 4
    threads = {part: {thread for name, thread in ran if name == part} for part in ("prepare", "run_network", "decode")}
    assert threads["run_network"] == {threading.main_thread()}
    assert threading.main_thread() not in threads["prepare"] | threads["decode"]
    assert not threads["prepare"] & threads["decode"]


def recorded(part, function, ran):
    def call(*arguments):
        ran.append((part, threading.current_thread()))
        return function(*arguments)

    return call


@pytest.mark.parametrize("workers", [0, 2])
def test_it_stops_before_the_next_pass_of_the_network(toy, workers):
    detector, passes = detector_of(workers=workers), []
    run = detector.run_network
    detector.run_network = lambda *batch: passes.append(1) or run(*batch)
    found = detect_images(detector, index_of(toy, 9), Rank(), pytest.fail, stopped=lambda: len(passes) == 2)
    assert [d.position for d in found] == [0, 1] and len(passes) == 2


@pytest.mark.parametrize("part", ["prepare", "run_network", "decode"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_fault_of_any_part_is_raised_and_no_thread_is_left(toy, part, workers):
    detector, before = detector_of(workers=workers), threading.active_count()

    def fail(*_):
        raise ZeroDivisionError(part)

    setattr(detector, part, fail)
    with pytest.raises(ZeroDivisionError, match=part):
        list(detect_images(detector, index_of(toy, 5), Rank(), pytest.fail))
    assert threading.active_count() == before
