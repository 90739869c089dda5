"""What the validation rows of a training have chosen, so that its score on them is optimistic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinybert_cli.metrics.span_metric import NEVER

CHECKPOINT, THRESHOLDS = "checkpoint", "thresholds"


def choice_of(training: Mapping[str, Any], tuned: Mapping[str, Any]) -> str | None:
    """The checkpoint, or only the thresholds of its predictions; None if the rows have chosen nothing.

    The best of several checkpoints is chosen, and so is the last one where early stopping may end the training.

    Args:
        training: the settings of the training, resolved as far as they are known.
        tuned: the settings of config.json that were tuned on these rows.
    """
    stops = training.get("early_stopping_patience") not in (None, "auto")  # auto: only if the best one is kept
    if training.get("eval_strategy", "no") != "no" and (training.get("keep") == "best" or stops):
        return CHECKPOINT
    return THRESHOLDS if any(value != NEVER for value in tuned.values()) else None


def choice_in(manifest: Mapping[str, Any]) -> str | None:
    """The same of a finished run; None if it is no training."""
    prefix, resolved = "training.", manifest.get("resolved") or {}
    values = {key.removeprefix(prefix): value for key, value in resolved.items() if key.startswith(prefix)}
    training = {**manifest["settings"].get("training", {}), **values}
    return choice_of(training, manifest.get("tuned_settings", {})) if training else None
