"""`make gpu`: its dry run on the CPU, its page, and results that outlive crashes of the parts."""

import json
import os
import sys

import pytest

from benchmarks import gpu
from benchmarks.parts import Results, run_apart

PARTS = """
import os, signal, sys, time
from pathlib import Path
from benchmarks.parts import Results, run_here

def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def fail(): raise RuntimeError("no such kernel")
def wait(): time.sleep(60)
def begin(end):
    yield {"value": 3}
    end()
parts = {"first": lambda: {"value": 1}, "crash": crash, "fail": fail, "wait": wait, "last": lambda: {"value": 2}}
parts |= {f"begin, {name}": lambda name=name: begin(parts[name]) for name in ("crash", "fail", "wait")}
run_here(parts, sys.argv[2:], Results(Path(sys.argv[1])))
"""


def run(tmp_path, monkeypatch, seconds: float = 60, **limits: float) -> tuple[dict, list[str]]:
    """Run the parts of PARTS with these limits. Returns the results, and the names of the parts as reported."""
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    results, reported = Results(tmp_path / "results.json"), []
    command = lambda left: [sys.executable, "-c", PARTS, str(results.path), *left]  # noqa: E731
    run_apart(limits, command, results, seconds, lambda name, figures: reported.append(name))
    return results.read(), reported


def test_a_part_that_crashes_fails_or_hangs_does_not_stop_the_others(tmp_path, monkeypatch):
    found, reported = run(tmp_path, monkeypatch, first=20, crash=20, fail=20, wait=0.5, last=20)
    assert reported == ["first", "crash", "fail", "wait", "last"]
    assert [found[name]["status"] for name in reported] == ["ok", "failed", "failed", "failed", "ok"]
    assert "SIGSEGV" in found["crash"]["error"] and found["fail"]["error"] == "RuntimeError: no such kernel"
    assert found["wait"]["error"] in ("stopped after 0 s", "stopped after 1 s")
    assert (found["first"]["value"], found["last"]["value"]) == (1, 2)


@pytest.mark.parametrize("end, error", [("crash", "SIGSEGV"), ("fail", "no such kernel"), ("wait", "stopped after")])
def test_what_a_failed_part_has_measured_is_kept(tmp_path, monkeypatch, end, error):
    name = f"begin, {end}"
    found, _ = run(tmp_path, monkeypatch, **{name: 2 if end == "wait" else 20})
    assert found[name]["status"] == "failed" and error in found[name]["error"] and found[name]["value"] == 3


def test_earlier_results_are_kept(tmp_path):
    for number in (1, 2):
        for suffix in ("json", "md"):
            (tmp_path / f"gpu.{suffix}").write_text(f"{number} {suffix}")
        gpu.keep_earlier(tmp_path)
    found = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert found == {f"gpu-{n}.{suffix}": f"{n} {suffix}" for n in (1, 2) for suffix in ("json", "md")}


@pytest.mark.parametrize("age, newer", [(-5, False), (5, True)])
def test_a_cuda_library_older_than_its_source_is_not_a_build(tmp_path, age, newer):
    source, library = tmp_path / "csrc" / "a_cuda.cu", tmp_path / "_CUDA.abi3.so"
    source.parent.mkdir()
    source.touch()
    assert not gpu.newer_library(source)
    library.touch()
    begun = source.stat().st_mtime
    os.utime(library, (begun + age, begun + age))
    assert gpu.newer_library(source) == newer


def test_no_time_left(tmp_path, monkeypatch):
    found, reported = run(tmp_path, monkeypatch, seconds=0, first=20, last=20)
    assert reported == ["first", "last"]
    assert {figures["status"] for figures in found.values()} == {"skipped"}


def test_page_of_partial_results():
    step = {"seconds": 2.0, "memory": 100.0, "hours": 277.8}
    results = {
        "machine": {"status": "ok", "seconds": 1, "facts": {"gpu": "A"}},
        "tests": {"status": "ok", "tests": {"passed": 3, "failed": 1}, "failures": ["tests/a.py::test_a"], "note": "b"},
        "step_tf32": {"status": "ok", "variant": "tf32", "steps": {"paper": step | {"batch": [25, 24]}}},
        "decode": {"status": "failed", "error": "RuntimeError: a\nb"},
    }
    page = gpu.page(results)
    assert "gpu: A" in page and "dry run" not in page and "3 passed, 1 failed" in page and "tests/a.py::test_a" in page
    assert "| tf32 | 49 | 25 + 24 | 2 | 24.5 | 100 | 278 |" in page
    assert "decode: RuntimeError: a b" in page
    assert "dry run" not in gpu.page({"machine": {"status": "failed", "error": "no driver"}})


@pytest.mark.slow
def test_dry_run(tmp_path, capfd):
    """Parts of each kind at tiny sizes on the CPU: one JSON file, one page."""
    parts = ["machine", "build", "tests", "pool_forward", "decode", *list(gpu.STEPS)[:2], "test_path"]
    assert set(gpu.parts("cpu")) == set(gpu.LIMITS) - {"step_parts"}
    assert gpu.main(["--device", "cpu", "--output", str(tmp_path), "--parts", *parts]) == 0, capfd.readouterr()
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert list(found) == parts
    assert {figures["status"] for figures in found.values()} == {"ok"}
    assert found["tests"]["tests"]["passed"] > 0 and not found["tests"]["failures"]
    for name in parts[5:7]:
        steps = found[name]["steps"]
        assert sum(steps["paper"]["batch"]) == 4 and len(steps["paper"]["batch"]) == 2 and steps["paper"]["hours"] > 0
        assert steps["largest"]["batch"] == [3]
    page = (tmp_path / "gpu.md").read_text()
    cells = [row["cells"] for name in ("pool_forward", "test_path") for row in found[name]["rows"]]
    assert "dry run" in page and cells and all(row in page for row in cells) and page.count("\n### ") == 3
