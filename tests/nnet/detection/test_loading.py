"""A family with the weights of a checkpoint: what has to agree, and what does not."""

import pytest
import torch

from db import DataError, load_index
from nnet.detection.loading import load_checkpoint, load_weights, same_categories
from nnet.runtime import checkpoint
from nnet.runtime.checkpoint import CheckpointError
from tests.builders import small_family


@pytest.fixture(scope="module")
def index(toy):
    return load_index([toy / "annotations" / "instances_train.json"], [toy / "train"])


CONFIG = {"model": {"detector": "cornernet", "pool_width": 2, "bn_init": "ones"}, "train": {"lr": 1.0}}


def test_same_categories(index):
    ids, names = index.category_ids, index.category_names
    same_categories(index, list(ids), list(names), "the network", "data.val")
    renamed = [*names[:-1], "other"]
    with pytest.raises(DataError) as e:
        same_categories(index, ids, renamed, "the network", "data.val")
    text = str(e.value)
    assert "data.val lists other categories than the network (1 differ: " in text
    assert f"id {ids[-1]}: 'other' against {names[-1]!r}" in text
    with pytest.raises(DataError, match=f"id {ids[0]}: 'none' against"):
        same_categories(index, ids[1:], names[1:], "the network", "data.val")


def test_a_checkpoint_of_the_config_and_the_categories(index, tmp_path):
    path, categories = tmp_path / "c.pt", [list(index.category_ids), list(index.category_names)]
    checkpoint.save(path, {"model": {}, "config": CONFIG, "categories": categories, "iteration": 3})
    other = CONFIG | {"model": CONFIG["model"] | {"bn_init": "uniform"}, "train": {"lr": 2.0}}
    for config in (CONFIG, other):
        assert load_checkpoint(path, config, index, "data.val")["iteration"] == 3
    with pytest.raises(CheckpointError, match=r"of another network .*model\.pool_width: 2 -> 3"):
        load_checkpoint(path, {"model": CONFIG["model"] | {"pool_width": 3}}, index, "data.val")
    checkpoint.save(path, {"model": {}, "config": CONFIG, "categories": [[1], ["other"]]})
    with pytest.raises(DataError, match=f"than the network of {path}"):
        load_checkpoint(path, CONFIG, index, "data.val")
    checkpoint.save(path, {"model": {}})  # weights alone
    assert load_checkpoint(path, CONFIG, index, "data.val")["model"] == {}


@pytest.mark.parametrize("channels_last", [False, True])
def test_weights_in_the_memory_format_of_the_options(tmp_path, channels_last):
    source, target = small_family(seed=1), small_family(seed=2)
    load_weights(target, {"model": source.network.state_dict()}, tmp_path / "c.pt", channels_last)
    for own, given in zip(target.network.parameters(), source.network.parameters(), strict=True):
        assert torch.equal(own, given)
    kernel = next(p for p in target.network.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1)
    assert kernel.is_contiguous(memory_format=torch.channels_last) == channels_last
    with pytest.raises(CheckpointError, match="c.pt is of another network"):
        load_weights(target, {"model": small_family(classes=5).network.state_dict()}, tmp_path / "c.pt", False)
