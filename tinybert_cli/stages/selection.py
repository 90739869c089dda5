"""Whether `eval` scores a model on the rows that its checkpoint was selected on, which makes its score optimistic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinybert_cli import artifacts, models


def selected_on(sources: Mapping[str, models.Source], inputs: Mapping[str, Any], split: str) -> list[str]:
    """The models whose checkpoint is the best of several on these rows.

    Args:
        inputs: of the eval, as in its manifest.
    """
    rows = _rows(inputs, split)
    return [name for name, source in sources.items() if rows and rows == _rows_of_selection(source)]


def statement(names: list[str]) -> str:
    """What this means for the scores, in one sentence."""
    one = len(names) == 1
    subject = f"the checkpoint of {names[0]} was" if one else f"the checkpoints of {', '.join(names)} were"
    scores = "score is" if one else "scores are"
    return f"{subject} selected on these rows, so the {scores} optimistic: score others too (split: test)"


def _rows_of_selection(source: models.Source) -> Any:
    if source.folder is None or not artifacts.has_manifest(source.folder):
        return None
    manifest = artifacts.read_manifest(source.folder)
    training = {**manifest["settings"].get("training", {}), **_resolved_training(manifest)}
    if training.get("keep") != "best" or training.get("eval_strategy", "no") == "no":
        return None
    return _rows(manifest["inputs"], "validation")


def _resolved_training(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the settings that were `auto`."""
    prefix = "training."
    resolved = manifest.get("resolved") or {}
    return {key.removeprefix(prefix): value for key, value in resolved.items() if key.startswith(prefix)}


def _rows(inputs: Mapping[str, Any], split: str) -> Any:
    """What identifies the rows of a split, wherever their files are; None without any."""
    if files := inputs.get(f"data.{split}_file"):
        return [{key: value for key, value in file.items() if key != "path"} for file in files]
    dataset = inputs.get("data.dataset_name")
    return {**dataset, "split": split} if dataset and split in ("train", "validation", "test") else None
