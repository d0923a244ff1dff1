"""What several test modules build: changed copies of the toy data, checkpoints of fresh weights, harmful pickles."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

import configs
from nnet.families import build_family
from nnet.runtime import checkpoint


def changed_toy(toy: Path, parent: Path, change: Callable[[dict, Path], dict | str | None]) -> Path:
    """Copy the toy data into a folder `toy` of `parent`, and change its training annotations; returns the copy.

    `change` takes the content of the annotation file and the copy's folder. It may change both in place, or return the
    file's new content, as an object for JSON or as text.
    """
    folder = parent / "toy"
    shutil.copytree(toy, folder)
    path = folder / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    content = change(content, folder) or content
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def save_detector(path: Path, config: configs.Config, categories: list[list], seed: int = 0) -> None:
    """Save a network as train.py does: with its config and the ids and names of its categories.

    Its weights are random, such that it finds objects anywhere in an image.
    """
    torch.manual_seed(seed)
    family = build_family(len(categories[0]), config.model, config.penalty, config.loss)
    for parameter in family.network.parameters():
        if parameter.dim() == 4:
            torch.nn.init.kaiming_normal_(parameter)
            if parameter.shape[-1] == 1:  # those of the heads are among them
                parameter.data *= 0.1
    state = {"model": family.network.state_dict(), "config": configs.to_dict(config), "categories": categories}
    checkpoint.save(path, state)


class CommandWhenUnpickled:
    """An object whose unpickling runs a command, which makes a file `ran` in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.system, (f"touch {self.folder}/ran",)
