"""Training runs in this process: starting them, and comparing what two of them have left."""

from pathlib import Path
from typing import Any

import torch

import train as train_script
from tests.processes import read_rows

VARYING = ("images_per_second", "data_wait", "memory_gb")  # figures of a row that two equal runs do not share


def main(config: object, output: object, *arguments: object) -> int:
    """Run train.py with a config, an output folder and further arguments; returns its exit code."""
    return train_script.main([str(a) for a in (config, *arguments, "--output", output)])


def same(a: Any, b: Any, path: str = "state") -> None:
    """Assert that two nested states are equal bit for bit; `path` names them in the message."""
    assert type(a) is type(b), path
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{i}]")
    else:
        assert a == b, path


def same_runs(one: Path, other: Path) -> None:
    """Assert that two runs have the same final state and the same rows, apart from the config and from VARYING."""
    a, b = (torch.load(folder / "last.pt", weights_only=True) for folder in (one, other))
    a.pop("config"), b.pop("config")  # the number of workers, say, may differ
    same(a, b)
    rows = [
        [{k: v for k, v in row.items() if k not in VARYING} for row in read_rows(folder)] for folder in (one, other)
    ]
    assert rows[0] == rows[1]
