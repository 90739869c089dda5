"""Finished evals of a model, for the card of its export: its score beside those of the baselines, from one eval."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts, tasks
from tinybert_cli.errors import InputError
from tinybert_cli.reports.baseline_table import Comparison
from tinybert_cli.wording import counted


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
                lead = (
                    "Before the export, `tinybert eval` scored the model beside baselines without a neural network, "
                    f"on the same {counted(manifest['scored_rows'], 'row')} of {manifest['settings']['split']}:"
                )
                finished[manifest["end"]] = Comparison(
                    lead, metric, more_is_better, own, scored, selected=selected or inherited,
                    trained=names[0] in manifest.get("trained_on_these_rows", []),
                )  # fmt: skip
        except (InputError, KeyError, AttributeError, TypeError):  # of another version, or damaged
            continue
    return finished[max(finished)] if finished else None


def own_metrics(numbers: Mapping[str, float], name: str) -> dict[str, float]:
    """The metrics of one model among those of an eval, `<model>.<metric>`."""
    prefix = f"{name}."
    return {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)}


def beams_of(settings: Mapping[str, Any]) -> int | None:
    """The beams of the search with which an eval or a training has scored translations; None in other tasks.

    Args:
        settings: those of the run; a training has no search and translates greedily.
    """
    if not isinstance(tasks.find(settings["task"]), tasks.GenerationTask):
        return None
    return int(settings.get("search", {}).get("beams", 1))


def measured_difference(exported: Mapping[str, float], beams: int | None) -> float | None:
    """The main metric of an export minus its model's, as `export` has measured it.

    Args:
        exported: the metrics of `export`.
        beams: of the score of the model, see `beams_of`. A translation export that was not verified with so many, such
            as one without beam search, has no such number: its translations can be worse by more than its conversion.
    """
    return exported.get("metric_difference" if beams is None else f"metric_difference_beam{beams}")
