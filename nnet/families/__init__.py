"""What a detector is: each family brings its network, its loss and its decoding behind the interface in base.py.

In reading order: base, placement, cornernet, centernet, anchors, saccade/, exported, ground_truth, options.
"""

from __future__ import annotations

from typing import Union

from models.losses import LossOptions
from nnet.families.anchors import Anchors
from nnet.families.base import Family
from nnet.families.centernet import CenterNet
from nnet.families.cornernet import CornerNet
from nnet.families.saccade.family import Saccade
from sample.targets import PenaltyOptions

FAMILIES = (CornerNet, CenterNet, Anchors, Saccade)
ModelOptions = Union[tuple(family.Options for family in FAMILIES)]  # noqa: UP007 - made from the list


def build_family(classes: int, model: ModelOptions, penalty: PenaltyOptions, loss: LossOptions) -> Family:
    """The family of these options, with fresh weights. Raises MissingPackage where a package is missing.

    classes: number of classes. model, penalty, loss: the sections of a config.
    """
    return family_of(model)(classes, model, penalty, loss)


def family_of(model: ModelOptions) -> type[Family]:
    """The family of these options."""
    return {family.Options: family for family in FAMILIES}[type(model)]
