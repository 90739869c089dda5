"""Finished evals of a model, for the card of its export: its score beside those of the baselines, from one eval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts
from tinybert_cli.errors import InputError


@dataclass(frozen=True)
class Comparison:
    """Scores of a model and of baselines on the same rows, by the same eval."""

    metric: str  # the task's main metric
    more_is_better: bool
    split: str
    rows: int
    model: Mapping[str, float]  # all metrics of the model, and its size and latency where they were measured
    baselines: Mapping[str, Mapping[str, float]]  # name → the same
    selected: bool  # whether these rows have selected the checkpoint of the model, or of one that it was made from

    @property
    def best(self) -> str:
        """The name of the baseline with the best score."""
        sign = 1 if self.more_is_better else -1
        return max(self.baselines, key=lambda name: sign * self.baselines[name][self.metric])

    @property
    def is_beaten(self) -> bool:
        """Whether the model is no better than the best baseline."""
        sign = 1 if self.more_is_better else -1
        return sign * self.model[self.metric] <= sign * self.baselines[self.best][self.metric]


def beside(folder: Path, model: Any, *, task: str, metric: str, more_is_better: bool) -> Comparison | None:
    """The last eval with baselines that scored the model, in the folders beside `folder`; None if there is none.

    Evals of another model in the same folder, of other tasks, or damaged ones are left out.

    Args:
        folder: the output folder of the export.
        model: the model as the manifest of the export describes it.
        metric: the main metric of the task.
    """
    checksum = model.get("manifest") if isinstance(model, Mapping) else None
    finished: dict[str, Comparison] = {}
    for file in folder.resolve().parent.glob("*/manifest.json") if checksum else ():
        try:
            manifest = artifacts.read_manifest(file.parent)
            if manifest["command"] != "eval" or manifest["settings"]["task"] != task:
                continue
            described = {name: manifest["inputs"][f"models.{name}"] for name in manifest["settings"]["models"]}
            names = [name for name, one in described.items() if one.get("manifest") == checksum]
            numbers = artifacts.read_metrics(file.parent)
            baselines = {name: own_metrics(numbers, name) for name in manifest.get("baselines", [])}
            scored = {name: own for name, own in baselines.items() if metric in own}
            if names and scored and metric in (own := own_metrics(numbers, names[0])):
                selected = names[0] in manifest.get("selected_on_these_rows", [])
                inherited = names[0] in manifest.get("made_from_selected_on_these_rows", {})
                finished[manifest["end"]] = Comparison(
                    metric, more_is_better, manifest["settings"]["split"], manifest["scored_rows"], own, scored,
                    selected or inherited,
                )  # fmt: skip
        except (InputError, KeyError, AttributeError, TypeError):  # of another version, or damaged
            continue
    return finished[max(finished)] if finished else None


def own_metrics(numbers: Mapping[str, float], name: str) -> dict[str, float]:
    """The metrics of one model among those of an eval, `<model>.<metric>`."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)}
