"""Soft-NMS: the C code and its stand-in in Python, against the golden vectors, each other, and cases worked out by
hand.
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
    """Equal to the last bit: stale tail rows, float32 rounding and all."""
    arrays = np.load(goldens / "soft_nms.npz")
    checked = 0
    for key in arrays:
        case, *kind = key.split("_")
        if kind == ["boxes"] or kind[-1] == "keep":
            continue
        boxes, wanted, keep = arrays[f"{case}_boxes"], arrays[key], int(arrays[key + "_keep"])
        if kind[0].startswith("soft"):
            rows, kept = soft_nms(boxes, METHODS[int(kind[0].removeprefix("soft"))])
        else:
            rows, kept = soft_nms_merge(boxes, METHODS[int(kind[0].removeprefix("merge"))], exponent=float(kind[1]))
        np.testing.assert_array_equal(rows, wanted, err_msg=key)
        assert kept == keep, key
        checked += 1
    assert checked > 0


@needs_compiled
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 60),
    seed=st.integers(0, 10_000),
    method=st.sampled_from(METHODS),
    overlap=st.sampled_from([0.0, 0.3, 0.5, 0.9]),
    floor=st.sampled_from([0.0, 0.001, 0.1, 2.0]),
    merge=st.booleans(),
)
def test_python_equals_compiled(n: int, seed: int, method: str, overlap: float, floor: float, merge: bool) -> None:
    boxes = random_boxes(n, seed)
    function = soft_nms_merge if merge else soft_nms
    rows, keep = function(boxes, method, overlap=overlap, floor=floor)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "lib", None)
        python_rows, python_keep = function(boxes, method, overlap=overlap, floor=floor)
    assert keep == python_keep
    np.testing.assert_allclose(
        rows, python_rows, rtol=1e-6, atol=0
    )  # exp and pow may differ in the last bit between C libraries


def test_two_boxes(implementation: str) -> None:
    # with +1, both are 10 x 10; they share 5 x 10: IoU 1/3
    boxes = np.array([[5, 0, 14, 9, 0.5, 0.2, 0.4], [0, 0, 9, 9, 0.8, 0.6, 0.1]])
    third = 1 / 3
    for method, decay in [("hard", 0.0), ("linear", 1 - third), ("gaussian", math.exp(-(third**2) / 0.5))]:
        rows, keep = soft_nms(boxes, method, overlap=0.3)
        np.testing.assert_allclose(rows[0, :5], boxes[1, :5], rtol=1e-6)
        assert keep == (1 if method == "hard" else 2)
        if keep == 2:
            np.testing.assert_allclose(rows[1, :5], [5, 0, 14, 9, 0.5 * decay], rtol=1e-6)
        np.testing.assert_array_equal(rows[:, 5:], boxes[:, 5:].astype(np.float32))  # corner scores do not move

        merged, _ = soft_nms_merge(boxes, method, overlap=0.3, exponent=2)
        # the corner scores belong to the row, not the box: the kept box weighs 0.2 and 0.4
        weight = (1 - decay) ** 2
        assert merged[0, 0] == pytest.approx((0.2 * 0 + weight * 0.6 * 5) / (0.2 + weight * 0.6), rel=1e-5)
        assert merged[0, 2] == pytest.approx((0.4 * 9 + weight * 0.1 * 14) / (0.4 + weight * 0.1), rel=1e-5)

    rows, keep = soft_nms(boxes, "hard", overlap=0.4)
    assert keep == 2 and rows[1, 4] == np.float32(0.5)


def test_boxes_apart_and_touching(implementation: str) -> None:
    boxes = np.array([[0, 0, 9, 9, 0.9], [10, 0, 19, 9, 0.8], [50, 50, 60, 60, 0.7], [0, 0, -5, -5, 0.6]])
    rows, keep = soft_nms(boxes)
    assert keep == 4
    np.testing.assert_array_equal(rows, boxes.astype(np.float32))


def test_degenerate(implementation: str) -> None:
    for function in (soft_nms, soft_nms_merge):
        rows, keep = function(np.zeros((0, 7)))
        assert rows.shape == (0, 7) and rows.dtype == np.float32 and keep == 0
        zeros = np.zeros((5, 7))  # five identical points, scores 0
        rows, keep = function(zeros, floor=0.001)
        assert np.isfinite(rows).all() and keep == 1
        inverted = np.array([[9, 9, 0, 0, 0.5, 0.1, 0.1], [9, 9, 0, 0, 0.4, 0.1, 0.1]])
        assert function(inverted)[1] == 2
    identical = np.tile(np.array([[1.0, 2, 30, 40, 0.5, 0.5, 0.5]]), (4, 1))
    rows, keep = soft_nms(identical, "hard")
    assert keep == 1
    rows, _ = soft_nms_merge(identical, "hard")
    np.testing.assert_allclose(rows[0, :4], [1, 2, 30, 40])


def test_input_is_left_alone(implementation: str) -> None:
    boxes = random_boxes(20, 1)
    before = boxes.copy()
    rows, _ = soft_nms_merge(boxes)
    np.testing.assert_array_equal(boxes, before)
    assert rows is not boxes and not np.shares_memory(rows, boxes)
    wide = np.asfortranarray(boxes.astype(np.float64))  # another dtype and memory order
    np.testing.assert_array_equal(soft_nms_merge(wide)[0], rows)
    np.testing.assert_array_equal(soft_nms(boxes[:, :5].tolist())[0], soft_nms(boxes)[0][:, :5])


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
        (
            soft_nms,
            np.zeros((1, 5)),
            {"method": "softer"},
            "unknown soft-NMS method 'softer', expected one of hard, linear, gaussian",
        ),
        (soft_nms, np.zeros((1, 5)), {"sigma": 0.0}, "sigma above 0"),
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
        "import sys; sys.path.insert(0, sys.argv[1])\n"  # before this repository, should it be installed
        "from external.soft_nms import soft_nms\n"
        "import external.soft_nms\n"
        "print(soft_nms([[0, 0, 9, 9, 0.5]])[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"
    assert done.stderr.count("RuntimeWarning") == 1 and "pip install --no-build-isolation -e ." in done.stderr
