"""Targets of regression that are far from the outputs of a new head: standardized in training, raw in the folder.

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

LARGEST, SMALLEST = 10.0, 0.1  # a head learns targets of this mean and deviation as they are


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


def output_scale(values: Array, model: PreTrainedModel) -> OutputScale | None:
    """The scale of the targets (N, ...); None if the head learns them as they are, or has no bias for their mean."""
    known = values[~np.isnan(values)].astype(np.float64)
    mean, deviation = float(known.mean()), float(known.std())
    is_usual = abs(mean) <= LARGEST and SMALLEST <= deviation <= LARGEST
    return None if is_usual or not deviation or _output_layer(model) is None else OutputScale(mean, deviation)


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
