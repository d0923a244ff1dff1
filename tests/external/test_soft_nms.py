"""Soft-NMS: the C code and its fallback in Python, compared with the released implementation's recorded outputs, with
each other and with cases computed by hand.
"""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from external import soft_nms as package
from external.soft_nms import METHODS, soft_nms, soft_nms_merge

needs_compiled = pytest.mark.skipif(package.lib is None, reason="C module not built")


@pytest.fixture(params=[pytest.param("compiled", marks=needs_compiled), "python"])
def implementation(request, monkeypatch) -> str:
    if request.param == "python":
        monkeypatch.setattr(package, "lib", None)
    return request.param


def random_boxes(n: int, seed: int, spread: float = 40.0) -> np.ndarray:
    random = np.random.RandomState(seed)
    corner = random.uniform(0, spread, (n, 2))
    scores = random.uniform(0, 1, (n, 3)) ** 3
    return np.concatenate([corner, corner + random.uniform(0, spread, (n, 2)), scores], axis=1).astype(np.float32)


def test_golden_soft_nms(goldens: Path, implementation: str) -> None:
    """Equal to the last bit, including float32 rounding and the stale rows."""
    arrays = np.load(goldens / "soft_nms.npz")
    checked = 0
    for key in arrays:
        case, *kind = key.split("_")
        if kind == ["boxes"] or kind[-1] == "keep":
            continue
        boxes, wanted, keep = arrays[f"{case}_boxes"], arrays[key], int(arrays[key + "_keep"])
        if kind[0].startswith("soft"):
            found = soft_nms(boxes, method=METHODS[int(kind[0].removeprefix("soft"))])
        else:
            method = METHODS[int(kind[0].removeprefix("merge"))]
            found = soft_nms_merge(boxes, method=method, exponent=float(kind[1]))
        np.testing.assert_array_equal(found.boxes, wanted, err_msg=key)
        np.testing.assert_array_equal(found.kept, np.arange(len(boxes)) < keep, err_msg=key)
        checked += 1
    assert checked > 0


@needs_compiled
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 150),
    classes=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([4.0, 40.0, 400.0]),
    method=st.sampled_from(METHODS),
    sigma=st.sampled_from([0.5, 0.02]),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 0.9]),
    floor=st.sampled_from([0.0, 0.001, 0.1, 2.0]),
    merge=st.booleans(),
    ties=st.booleans(),
)
def test_python_equals_compiled(n, classes, seed, spread, method, sigma, overlap, floor, merge, ties) -> None:
    boxes, labels = random_boxes(n, seed, spread), np.random.RandomState(seed).randint(classes, size=n) - 1
    if ties:
        boxes = (boxes * 8).round() / 8
    function = soft_nms_merge if merge else soft_nms
    found = function(boxes, labels, method, sigma, overlap, floor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "lib", None)
        python = function(boxes, labels, method, sigma, overlap, floor)
    np.testing.assert_array_equal(found.labels, python.labels)
    np.testing.assert_array_equal(found.kept, python.kept)
    # exp and pow may differ in the last bit between C libraries
    np.testing.assert_allclose(found.boxes, python.boxes, rtol=1e-6, atol=0)


def test_classes_are_independent(implementation: str) -> None:
    """One call for all classes equals one call per class, in the order of the labels."""
    boxes, labels = random_boxes(200, 3), np.random.RandomState(3).choice([7, -2, 0, 10**12], 200)
    for function in (soft_nms, soft_nms_merge):
        found = function(boxes, labels)
        apart = [function(boxes[labels == label]) for label in np.unique(labels)]
        np.testing.assert_array_equal(found.boxes, np.concatenate([one.boxes for one in apart]))
        np.testing.assert_array_equal(found.kept, np.concatenate([one.kept for one in apart]))
        np.testing.assert_array_equal(found.labels, np.sort(labels))
        assert 0 < found.kept.sum() < 200


@needs_compiled
def test_exponential() -> None:
    """The compiled decay equals the C library's exponential, rounded to float32, to the last bit."""
    random = np.random.RandomState(0)
    width = np.concatenate([random.uniform(0, 100, 20_000), np.arange(1, 400)]).astype(np.float32)
    for sigma in (0.5, 0.004, 1e-3):
        pairs = np.zeros((len(width), 2, 5), np.float32)  # a box [0, 99] x [0, 99], and one of a smaller width in it
        pairs[:, :, 2:4] = 99
        pairs[:, 1, 2] = width
        pairs[:, :, 4] = 1, 0.5
        found = soft_nms(pairs.reshape(-1, 5), np.repeat(np.arange(len(width)), 2), sigma=sigma, floor=-1.0)
        python = [package._python_soft_nms(pair, package.Settings(2, sigma, 0.5, -1.0, False, 1.0)) for pair in pairs]
        assert set(python) == {2}
        np.testing.assert_array_equal(found.boxes, pairs.reshape(-1, 5))


def test_two_boxes(implementation: str) -> None:
    # with 1 added to widths and heights, both are 10 x 10 and intersect in 5 x 10: the IoU is 1/3
    boxes = np.array([[5, 0, 14, 9, 0.5, 0.2, 0.4], [0, 0, 9, 9, 0.8, 0.6, 0.1]])
    third = 1 / 3
    for method, decay in [("hard", 0.0), ("linear", 1 - third), ("gaussian", math.exp(-(third**2) / 0.5))]:
        rows, _, kept = soft_nms(boxes, method=method, overlap=0.3)
        np.testing.assert_allclose(rows[0, :5], boxes[1, :5], rtol=1e-6)
        assert kept.tolist() == [True, method != "hard"]
        if kept.all():
            np.testing.assert_allclose(rows[1, :5], [5, 0, 14, 9, 0.5 * decay], rtol=1e-6)
        np.testing.assert_array_equal(rows[:, 5:], boxes[:, 5:].astype(np.float32))  # corner scores do not move

        merged = soft_nms_merge(boxes, method=method, overlap=0.3, exponent=2).boxes
        # corner scores stay in their row: the weights of the kept box are 0.2 and 0.4
        weight = (1 - decay) ** 2
        assert merged[0, 0] == pytest.approx((0.2 * 0 + weight * 0.6 * 5) / (0.2 + weight * 0.6), rel=1e-5)
        assert merged[0, 2] == pytest.approx((0.4 * 9 + weight * 0.1 * 14) / (0.4 + weight * 0.1), rel=1e-5)

    rows, _, kept = soft_nms(boxes, method="hard", overlap=0.4)
    assert kept.all() and rows[1, 4] == np.float32(0.5)


def test_boxes_apart_and_touching(implementation: str) -> None:
    boxes = np.array([[0, 0, 9, 9, 0.9], [10, 0, 19, 9, 0.8], [50, 50, 60, 60, 0.7], [0, 0, -5, -5, 0.6]])
    rows, _, kept = soft_nms(boxes)
    assert kept.all()
    np.testing.assert_array_equal(rows, boxes.astype(np.float32))


def test_degenerate_boxes(implementation: str) -> None:
    for function in (soft_nms, soft_nms_merge):
        rows, labels, kept = function(np.zeros((0, 7)))
        assert rows.shape == (0, 7) and rows.dtype == np.float32 and labels.shape == kept.shape == (0,)
        zeros = np.zeros((5, 7))  # five identical points with scores of 0
        rows, _, kept = function(zeros, floor=0.001)
        assert np.isfinite(rows).all() and kept.tolist() == [True] + [False] * 4
        inverted = np.array([[9, 9, 0, 0, 0.5, 0.1, 0.1], [9, 9, 0, 0, 0.4, 0.1, 0.1]])
        assert function(inverted).kept.all()
    identical = np.tile(np.array([[1.0, 2, 30, 40, 0.5, 0.5, 0.5]]), (4, 1))
    assert soft_nms(identical, method="hard").kept.tolist() == [True, False, False, False]
    rows = soft_nms_merge(identical, method="hard").boxes
    np.testing.assert_allclose(rows[0, :4], [1, 2, 30, 40])


def test_input_is_not_modified(implementation: str) -> None:
    boxes = random_boxes(20, 1)
    before = boxes.copy()
    rows = soft_nms_merge(boxes).boxes
    np.testing.assert_array_equal(boxes, before)
    assert rows is not boxes and not np.shares_memory(rows, boxes)
    wide = np.asfortranarray(boxes.astype(np.float64))  # another dtype and memory order
    np.testing.assert_array_equal(soft_nms_merge(wide).boxes, rows)
    np.testing.assert_array_equal(soft_nms(boxes[:, :5].tolist()).boxes, soft_nms(boxes).boxes[:, :5])


@pytest.mark.parametrize(
    ("function", "boxes", "options", "message"),
    [
        (soft_nms, np.zeros((3, 4)), {}, r"shape \(N, 5 or more\), got \(3, 4\)"),
        (soft_nms, np.zeros(7), {}, r"got \(7,\)"),
        (soft_nms_merge, np.zeros((3, 5)), {}, r"shape \(N, 7 or more\), got \(3, 5\)"),
        (soft_nms, np.array([["a"] * 5]), {}, "real numbers"),
        (soft_nms, np.zeros((1, 5), complex), {}, "real numbers"),
        (soft_nms, np.array([[0, 0, 1, 1, 0.5], [0, 0, np.nan, 1, 0.5]]), {}, "finite boxes.*row 1"),
        (soft_nms, np.array([[0, 0, 1e300, 1, 0.5]]), {}, "finite boxes.*row 0"),
        (soft_nms, np.array([[-1e16, 0, 1e16, 1, 0.5]]), {}, "up to 1e\\+15.*row 0"),
        (
            soft_nms,
            np.zeros((1, 5)),
            {"method": "softer"},
            "unknown soft-NMS method 'softer', expected one of hard, linear, gaussian",
        ),
        (soft_nms, np.zeros((2, 5)), {"labels": [1]}, r"integer label for each of 2 boxes, got int64 of shape \(1,\)"),
        (soft_nms, np.zeros((2, 5)), {"labels": [0.0, 1.0]}, "integer label.*float64"),
        (soft_nms, np.zeros((1, 5)), {"sigma": 0.0}, "sigma above 0"),
        (soft_nms, np.zeros((1, 5)), {"sigma": 1e-46}, "sigma above 0"),
        (soft_nms, np.zeros((1, 5)), {"overlap": math.nan}, "finite overlap"),
        (soft_nms_merge, np.zeros((1, 7)), {"exponent": -1.0}, "exponent of at least 0"),
    ],
)
def test_bad_input(function, boxes, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        function(boxes, **options)


def test_one_warning_without_module(tmp_path: Path) -> None:
    source = Path(package.__file__).parent
    target = tmp_path / "external" / "soft_nms"
    target.mkdir(parents=True)
    (target.parent / "__init__.py").touch()
    (target / "__init__.py").write_text((source / "__init__.py").read_text())
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"  # before this repository, which may be installed
        "from external.soft_nms import soft_nms\n"
        "import external.soft_nms\n"
        "print(*soft_nms([[0, 0, 9, 9, 0.5]]).kept)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
    assert done.stderr.count("RuntimeWarning") == 1 and "pip install --no-build-isolation -e ." in done.stderr
