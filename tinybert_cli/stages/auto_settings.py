"""Training settings that are `auto`: their values, by the number of steps in an epoch and by the model.

Small sets need many epochs: fine-tuning on few rows fails from too few steps, not from too many (Mosbach et al. 2021;
Zhang et al. 2021). Small models need a larger learning rate than BERT-base, and so do models that have lost layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from tinybert_cli.config import Model, ResolvedTraining, Training

Start = Literal["whole", "cut", "random"]  # a model as it is, one cut out of another, one with random weights

LEAST_STEPS: dict[Start, int] = {"whole": 600, "cut": 800, "random": 2000}
RATE_FACTORS: dict[Start, float] = {"whole": 1.0, "cut": 2.0, "random": 5.0}
LEAST_EPOCHS, MOST_EPOCHS = 3, 100
RATE, HIDDEN_SIZE = 4e-5, 768  # a learning rate, and the hidden size that it is for
EVALUATIONS = 20
PATIENCE = 6  # in evaluations


def start_of(setting: Model) -> Start:
    """Where the training of a model of this setting starts from."""
    if setting.from_ is None or setting.initialize == "random":
        return "random"
    sizes = (
        setting.preset, setting.num_hidden_layers, setting.num_decoder_layers, setting.hidden_size,
        setting.num_attention_heads, setting.intermediate_size,
    )  # fmt: skip
    return "whole" if all(size is None for size in sizes) else "cut"


def auto_values(
    training: Training, start: Start, *, steps_per_epoch: int, hidden_size: int, selects_best: bool
) -> dict[str, Any]:
    """The values of the settings that are `auto`, by their dotted keys.

    Args:
        selects_best: whether the finished folder holds the checkpoint with the best validation score.
    """
    values: dict[str, Any] = {}
    epochs = training.num_train_epochs
    if epochs == "auto":
        if training.max_steps > 0:
            epochs = training.max_steps / steps_per_epoch
        else:
            enough = math.ceil(LEAST_STEPS[start] / steps_per_epoch)
            epochs = float(max(LEAST_EPOCHS, min(MOST_EPOCHS, enough)))
        values["num_train_epochs"] = epochs
    if training.learning_rate == "auto":
        values["learning_rate"] = float(f"{RATE * RATE_FACTORS[start] * HIDDEN_SIZE / hidden_size:.2g}")
    if training.eval_strategy == "auto":
        if training.max_steps > 0:
            epochs = training.max_steps / steps_per_epoch
        often = training.eval_steps is None and epochs <= EVALUATIONS
        values["eval_strategy"] = "epoch" if often else "steps"
        if training.eval_steps is None and not often:
            values["eval_steps"] = math.ceil(epochs / EVALUATIONS) * steps_per_epoch
    if training.early_stopping_patience == "auto":
        values["early_stopping_patience"] = PATIENCE if selects_best else None
    return {f"training.{name}": value for name, value in values.items()}


def with_values(training: Training, values: Mapping[str, Any]) -> ResolvedTraining:
    """The settings with values by the names of settings."""
    return ResolvedTraining(**{**training.model_dump(), **values})
