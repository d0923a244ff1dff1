"""Installing the repository: from a clone alone."""

import subprocess
import sys


def test_a_wheel_is_refused_with_a_line_that_says_what_to_do(repository, tmp_path):
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and list(tmp_path.iterdir()) == []
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: this project runs from a clone") and "pip install --no-build-isolation -e ." in line
