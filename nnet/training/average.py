"""An exponential moving average of the weights (train.ema)."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nnet.families.base import Family


class WeightAverage:
    """The average of a network's weights and running statistics over its updates.

    Attributes:
        family: the family with a network of the averaged weights.
    """

    def __init__(self, family: Family, decay: float):
        """family: its network is on its device."""
        self.family = copy.copy(family)
        self.family.network = copy.deepcopy(family.network).requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def add(self, network: nn.Module, iteration: int) -> None:
        """Move the average towards the weights after `iteration` iterations.

        The decay rises from 0.1, so that the initial weights, which are random, are soon forgotten.
        """
        pairs = list(zip(self.family.network.state_dict().values(), network.state_dict().values(), strict=True))
        averages, values = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        get_ema_multi_avg_fn(min(self.decay, (1 + iteration) / (10 + iteration)))(averages, values, iteration)
        for count, value in pairs:
            if not count.is_floating_point():  # BatchNorm's counts
                count.copy_(value)
