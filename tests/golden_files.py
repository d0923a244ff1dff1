"""Golden vectors: the folder they are in, and the weights of the networks that made them."""

import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

Golden = Callable[[str], Path]  # path of a file of golden vectors, see `finder`


def golden_folder(name: str) -> Path:
    """Folder of the golden vectors `name` ("goldens" or "goldens_lite"): the environment variable of this name in
    capitals, else ../shared/NAME if it exists, else tests/NAME."""
    if os.environ.get(name.upper()):
        return Path(os.environ[name.upper()]).resolve()
    shared = ROOT.parent / "shared" / name
    return shared if (shared / "manifest.json").is_file() else ROOT / "tests" / name


def existing_folder(name: str) -> Path:
    """The same folder. The test fails if it has no manifest.json."""
    folder = golden_folder(name)
    if not (folder / "manifest.json").is_file():
        pytest.fail(f"the folder of golden vectors is {folder}, where there is no manifest.json (see {name.upper()})")
    return folder


def finder(folder: Path) -> Golden:
    """A function that gives the path of a file of `folder`, and skips the test where the folder does not have it."""

    def path(name: str) -> Path:
        if not (folder / name).is_file():
            pytest.skip(f"no {name} in the folder of golden vectors, {folder}")
        return folder / name

    return path


def released_weight(name: str, shape: Sequence[int]) -> torch.Tensor:
    """The parameter or buffer of this released name, by the formula of tests/goldens/README.md."""
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    g = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 4:
        g = g * np.sqrt(2 / (shape[1] * shape[2] * shape[3]))
    elif name.endswith("running_var"):
        g = 1 + 0.5 * np.tanh(g)
    elif name.endswith(".weight"):
        g = 0.5 + 0.1 * g
    else:
        last_of_heatmap = name.endswith(".1.bias") and ("_heats." in name or ".att_modules." in name)
        g = 0.1 * g - (2.19 if last_of_heatmap else 0)
    return torch.from_numpy(np.asarray(g, dtype=np.float32))


def released_state(names: Mapping[str, Sequence[int]]) -> dict[str, torch.Tensor]:
    """A checkpoint of these names and shapes, as released, with the weights of this formula."""
    return {name: released_weight(name, shape) for name, shape in names.items()}
