"""The options of an experiment, composed of the options that each part declares for itself.

The defaults are the Hourglass-104 run of CornerNet (Law & Deng, IJCV 2019) as the released code trained and tested it.
A YAML file in this folder says what its experiment does differently. `python -m configs CONFIG` prints every option
with its explanation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from db.splits import DataOptions
from models.cornernet import CornerNetOptions
from models.losses import LossOptions
from nnet.families import ModelOptions, family_of
from nnet.families.options import DetectionOptions
from nnet.runtime.options import RuntimeOptions
from nnet.training.options import TrainOptions
from sample.augment import AugmentOptions
from sample.targets import PenaltyOptions


@dataclass(frozen=True)
class Config:
    """All options of an experiment."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the initial weights, the sampling and the augmentation."""
    model: ModelOptions = field(default_factory=CornerNetOptions)
    """The network."""
    data: DataOptions = field(default_factory=DataOptions)
    """The data."""
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    """Augmentation of the training samples."""
    penalty: PenaltyOptions = field(default_factory=PenaltyOptions)
    """Penalty reduction around ground-truth keypoints."""
    loss: LossOptions = field(default_factory=LossOptions)
    """Exponents and weights of the loss."""
    train: TrainOptions = field(default_factory=TrainOptions)
    """Training."""
    test: DetectionOptions = field(default_factory=DetectionOptions)
    """Testing."""
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    """Device, threads and communication."""

    def __post_init__(self):
        family_of(self.model).check(self)
