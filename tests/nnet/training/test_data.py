"""The data of a run, and what it says about the network's input."""

from types import SimpleNamespace

import pytest

from db import DataError, DataOptions, Split
from nnet.training.data import check_batch_norm, load_training_data
from nnet.training.options import TrainOptions
from tests.builders import changed_toy

TRAIN, VAL = (Split((name,), (f"annotations/instances_{name}.json",)) for name in ("train", "val"))


def load(folder, val=VAL, train=TRAIN, **options):
    return load_training_data(DataOptions(root=str(folder), train=train, val=val), TrainOptions(**options))


@pytest.mark.parametrize(
    "options, validated",
    [
        ({"validate_every": 0, "ap_every": 0}, False),
        ({"validate_every": 5, "ap_every": 0}, True),
        ({"validate_every": 0, "ap_every": 5}, True),
    ],
)
def test_the_validation_split_is_read_only_where_it_is_used(toy, options, validated):
    index, val_index = load(toy, **options)
    assert len(index) == 16 and (len(val_index) if val_index else 0) == (4 if validated else 0)
    if not validated:
        assert load(toy, val=Split(("none",), ("none.json",)), **options)[1] is None


def test_a_validation_split_of_other_categories(toy, tmp_path):
    def rename(content, folder):
        content["categories"][0]["name"] = "other"

    folder = changed_toy(toy, tmp_path, rename)
    with pytest.raises(DataError, match="data.val lists other categories than data.train"):
        load(folder)


@pytest.mark.parametrize("size, batch, fine", [((64, 64), [1, 2], False), ((64, 65), [1], True), ((64, 64), [2], True)])
def test_one_value_is_too_few_for_batch_norm(size, batch, fine):
    network = SimpleNamespace(divisor=64)
    if fine:
        check_batch_norm(network, batch, size)
    else:
        with pytest.raises(DataError, match=r"data.input_size \[64, 64\] leaves one cell at the bottom"):
            check_batch_norm(network, batch, size)
