"""Targets of regression: standardized in training, in their own unit in the folder.

A new head starts near 0, and a few hundred steps at the learning rate of fine-tuning hardly move its bias: a model that
is trained on targets with a mean of 3 ranks the rows well, and its numbers are far off.

A model with outputs z is trained on (y - mean) / deviation; its folder holds the head that computes z * deviation +
mean, so that every program reads the numbers in their own unit.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from tinybert_cli.types import Array

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LARGEST, SMALLEST = 10.0, 0.1  # the mean and deviation up to which earlier versions trained on targets as they are


@dataclass(frozen=True)
class OutputScale:
    """Mean and standard deviation of the targets."""

    mean: float
    deviation: float

    def to_standard(self, values: Array) -> Array:
        """Numbers in standard units."""
        return ((values.astype(np.float64) - self.mean) / self.deviation).astype(np.float32)

    def from_standard(self, values: Array) -> Array:
        """Outputs in the unit of the targets."""
        return (values.astype(np.float64) * self.deviation + self.mean).astype(np.float32)

    def restored(self, model: PreTrainedModel) -> PreTrainedModel:
        """A copy of a model of standard units, with outputs in the unit of the targets."""
        result = copy.deepcopy(model)
        _rescale(result, self.deviation, self.mean)
        return result

    def standardize(self, model: PreTrainedModel) -> None:
        """Changes a model with outputs in the unit of the targets to standard units."""
        _rescale(model, 1 / self.deviation, -self.mean / self.deviation)


def output_scale(values: Array, model: PreTrainedModel, *, only_unusual: bool = False) -> OutputScale | None:
    """The scale of the targets (N, ...); None if all are equal, or if the head has no bias for their mean.

    Args:
        only_unusual: None for targets near 0 and 1 as well, for runs that an earlier version has started.
    """
    known = values[~np.isnan(values)].astype(np.float64)
    mean, deviation = float(known.mean()), float(known.std())
    is_usual = abs(mean) <= LARGEST and SMALLEST <= deviation <= LARGEST
    if (only_unusual and is_usual) or not deviation or _output_layer(model) is None:
        return None
    return OutputScale(mean, deviation)


def _rescale(model: PreTrainedModel, factor: float, offset: float) -> None:
    layer = _output_layer(model)
    assert layer is not None  # `output_scale`
    with torch.no_grad():
        for parameter, shift in ((layer.weight, 0.0), (layer.bias, offset)):
            parameter.copy_(parameter.double() * factor + shift)


def _output_layer(model: PreTrainedModel) -> torch.nn.Linear | None:
    """The last linear layer of the head, which computes the number."""
    inside = {id(module) for module in model.base_model.modules()}
    layers = [
        module for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == 1 and id(module) not in inside
    ]  # fmt: skip
    return layers[-1] if layers and layers[-1].bias is not None else None
