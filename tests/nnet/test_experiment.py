"""What train.py and test.py share."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from nnet import experiment

FAULTS = """
import resource, torch
from nnet.experiment import keep_freed_memory
assert keep_freed_memory()
def faults(pages):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(pages * 4096, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(20_000)
print(faults(20_000))
"""


def test_freed_memory_is_kept() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("not glibc")
    root = Path(experiment.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", FAULTS], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 2000


def test_other_c_libraries_are_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(experiment.platform, "libc_ver", lambda: ("", ""))
    assert experiment.keep_freed_memory() is False
