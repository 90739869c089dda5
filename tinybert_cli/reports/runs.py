"""report: reads finished runs, from manifests and metrics only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts
from tinybert_cli.errors import InputError
from tinybert_cli.reports.joined_models import Model, Run, join, short_names
from tinybert_cli.wording import counted

Row = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """All runs, and the models joined from them: grouped by the rows they were scored on, best first."""

    runs: Sequence[Run]
    models: Sequence[Model]
    labels: Sequence[Run] = field(default_factory=list)  # label datasets

    def notes(self) -> Iterator[str]:
        """Remarks that are needed to read the numbers correctly."""
        yield from self._score_notes()
        yield from self._optimistic_notes()
        yield from self._baseline_notes()
        yield from self._reference_notes()
        if any(model.estimated for model in self.models):
            yield "~ estimated: score of the source model plus the difference measured during export verification."
        machines = {model.machine for model in self.models if model.machine and model.latency_ms_b1 is not None}
        if len(machines) > 1:
            yield f"Latencies from different machines or devices are not comparable: {'; '.join(sorted(machines))}."

    def _optimistic_notes(self) -> Iterator[str]:
        """The models whose scores are too good for their rows."""
        names = short_names(model.name for model in self.models)
        reasons: dict[str, Callable[[Model], object]] = {
            "Too good, because the rows of the score are training rows": lambda model: model.trained_on,
            "Optimistic, because the rows of the score selected the checkpoint or the thresholds": (
                lambda model: model.optimistic
            ),
            "Perhaps optimistic, because a model that it was made from was selected on these rows": (
                lambda model: model.made_from
            ),
        }
        for reason, applies in reasons.items():
            if listed := [names[model.name] for model in self.models if applies(model) and model.quality is not None]:
                yield f"{reason}: {', '.join(listed)}."

    def _baseline_notes(self) -> Iterator[str]:
        """The models that are no better than the best baseline on the same rows."""
        names = short_names(model.name for model in self.models)
        for rows in dict.fromkeys(model.scored_on for model in self.models if model.is_baseline):
            scored = [model for model in self.models if model.scored_on == rows and model.quality is not None]
            best = max((model for model in scored if model.is_baseline), key=lambda model: model.rank, default=None)
            if best is None:
                continue
            compared = [model for model in scored if not model.is_baseline]
            losers = [names[model.name] for model in compared if model.rank <= best.rank]
            if losers:
                yield f"No better than the baseline {names[best.name]}: {', '.join(losers)}."

    def _reference_notes(self) -> Iterator[str]:
        """What retention and agreement are relative to, if that is not the same model for all."""
        names = short_names(model.name for model in self.models)
        groups: dict[str, list[str]] = {}
        for model in self.models:
            if model.reference is not None and (model.retention is not None or model.agreement is not None):
                groups.setdefault(model.reference, []).append(names[model.name])
        if len(groups) > 1:
            each = "; ".join(f"{names.get(one, one)} for {', '.join(models)}" for one, models in groups.items())
            yield f"Retention and agreement are relative to different models: {each}."

    def _score_notes(self) -> Iterator[str]:
        """The rows of the scores, and which run computed them; with several sets of rows also the models of each."""
        groups: dict[tuple[str, str], list[Model]] = {}
        for model in self.models:
            if model.quality is not None:
                scored_by = (model.scored_by or "") if model.evaluated else "training"
                groups.setdefault((model.scored_on or "", scored_by), []).append(model)
        names = short_names(model.name for model in self.models)
        for (scored_on, scored_by), models in groups.items():
            rows = f" ({counted(models[0].scored_rows, 'row')})" if models[0].scored_rows else ""
            listed = f": {', '.join(names[model.name] for model in models)}" if len(groups) > 1 else ""
            yield f"Scored on {scored_on}{rows}, by {scored_by}{listed}."


def run(folders: Sequence[Path]) -> Report:
    """Reads the finished runs in these folders and below them; without folders, all runs under runs/.

    Raises:
        InputError: a given folder contains no finished run, or there is none under runs/.
    """
    paths = [path for folder in folders for path in _finished_runs(folder)] if folders else _manifest_folders("runs")
    if not paths:
        raise InputError("no finished run under runs/", hint="name the folders: tinybert report RUN...")
    unique = {os.path.realpath(path): path for path in paths}.values()
    runs = [Run(path, artifacts.read_manifest(path), artifacts.read_metrics(path)) for path in unique]
    return Report(runs, join(runs), [run for run in runs if run.command == "gen-soft-labels"])


def as_json(report: Report) -> Row:
    """`runs`: each run with all its metrics; `models`: the joined rows."""
    return {"runs": [_run_as_json(run) for run in report.runs], "models": [asdict(model) for model in report.models]}


# -- reading -------------------------------------------------------------------------------------------------


def _finished_runs(folder: Path) -> list[Path]:
    paths = [folder] if (folder / "manifest.json").is_file() else _manifest_folders(folder)
    if not paths:
        raise InputError(
            f"'{folder}' is not a finished run: it has no manifest.json",
            where=str(folder),
            hint="name the output_dir of a stage that is finished, or a folder with several of them",
        )
    return paths


def _manifest_folders(folder: str | Path) -> list[Path]:
    return sorted(file.parent for file in Path(folder).glob("**/manifest.json"))


def _run_as_json(run: Run) -> Row:
    return {
        "run": str(run.folder),
        "command": run.command,
        "seconds": run.wall_seconds,
        **({"parameters": run.manifest["parameters"]} if "parameters" in run.manifest else {}),
        "bytes": sum(entry["bytes"] for entry in run.manifest["outputs"]),
        **run.metrics,
    }
