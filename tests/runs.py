"""What tests of whole runs share: starting train.py in this process, and comparing what two runs have left."""

import torch

import train as train_script
from nnet import checkpoint
from nnet.log import read_metrics


def main(config, output, *arguments):
    return train_script.main([config, *arguments, "--output", str(output)])


def same(a, b, path="state"):
    """Assert that two nested states are equal bit for bit."""
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


def same_runs(one, other):
    """Assert that two folders hold the same end state and the same rows, apart from what a clock or memory says."""
    a, b = checkpoint.load(one / "last.pt"), checkpoint.load(other / "last.pt")
    a.pop("config"), b.pop("config")  # the number of workers, say, may differ
    same(a, b)
    varying = ("images_per_second", "data_wait", "memory_gb")
    rows = [
        [{k: v for k, v in row.items() if k not in varying} for row in read_metrics(folder / "metrics.jsonl")]
        for folder in (one, other)
    ]
    assert rows[0] == rows[1]
