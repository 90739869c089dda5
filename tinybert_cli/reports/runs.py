"""report: reads finished runs and joins them into one row per model, from manifests and metrics only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts, formats, tasks
from tinybert_cli.errors import InputError
from tinybert_cli.reports import model_card

Row = dict[str, Any]

MODEL_WEIGHTS = (".safetensors", ".bin")  # endings of the files with weights in a model folder
TRAINING_COMMANDS = ("finetune", "distill")


@dataclass(frozen=True)
class Run:
    """A finished output folder of one stage: its manifest and its metrics."""

    folder: Path
    manifest: Mapping[str, Any]
    metrics: Mapping[str, float]

    @property
    def command(self) -> str:
        return str(self.manifest["command"])

    @property
    def checksum(self) -> str:
        """Checksum of the manifest, which identifies the model or label dataset in the manifests of later runs."""
        return str(self.manifest["checksum"])

    @property
    def wall_seconds(self) -> int:
        begin, end = (datetime.fromisoformat(self.manifest[name]) for name in ("start", "end"))
        return round((end - begin).total_seconds())

    @property
    def seconds(self) -> float:
        """Time of training where it was measured, else of the whole stage."""
        return self.metrics.get("train_runtime", self.wall_seconds)


@dataclass(frozen=True)
class Model:
    """One model scored on one set of rows; None = not measured."""

    name: str  # its folder or Hub id
    made_by: str | None = None  # the command, if its folder is among the runs
    scored_on: str | None = None
    scored_by: str | None = None  # folder of the run that computed the score
    metric: str | None = None  # the task's main metric
    more_is_better: bool = True
    quality: float | None = None  # value of that metric
    quality_low: float | None = None  # 95 % interval
    quality_high: float | None = None
    estimated: bool = False  # an export without a score: its source model's score plus the difference found by `export`
    retention: float | None = None
    agreement: float | None = None
    parameters: int | None = None
    bytes: int | None = None  # of the weights
    latency_ms_b1: float | None = None
    latency_ms_b32: float | None = None
    machine: str | None = None  # on which the latencies were measured
    seconds: float | None = None  # of training

    @property
    def rank(self) -> float:
        """Quality as a number where more is better; -inf without a score."""
        if self.quality is None:
            return float("-inf")
        return self.quality if self.more_is_better else -self.quality


@dataclass(frozen=True)
class Report:
    """All runs, and the models joined from them: grouped by the rows they were scored on, best first."""

    runs: Sequence[Run]
    models: Sequence[Model]
    labels: Sequence[Run] = field(default_factory=list)  # label datasets

    def notes(self) -> Iterator[str]:
        """Remarks that are needed to read the numbers correctly."""
        if any(model.estimated for model in self.models):
            yield "~ estimated: score of the source model plus the difference measured during export verification."
        machines = {model.machine for model in self.models if model.machine and model.latency_ms_b1 is not None}
        if len(machines) > 1:
            yield f"Latencies from different machines are not comparable: {'; '.join(sorted(machines))}."


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
    return Report(runs, _join(runs), [run for run in runs if run.command == "gen-soft-labels"])


def as_json(report: Report) -> Row:
    """`runs`: each run with all its metrics; `models`: the joined rows."""
    return {"runs": [_run_as_json(run) for run in report.runs], "models": [asdict(model) for model in report.models]}


def as_model(run: Run) -> Model:
    """The model (or label dataset) that a run produced, without a score."""
    outputs = run.manifest["outputs"]
    endings = (*MODEL_WEIGHTS, *(form.weights for form in formats.FORMATS.values()))
    weights = [entry["bytes"] for entry in outputs if entry["path"].endswith(endings)]
    return Model(
        str(run.folder),
        made_by=run.command,
        parameters=run.manifest.get("parameters"),
        bytes=sum(weights or [entry["bytes"] for entry in outputs]),
        latency_ms_b1=run.metrics.get("latency_ms_b1"),
        machine=run.manifest.get("machine"),
        seconds=run.seconds,
    )


# -- reading -------------------------------------------------------------------------------------------------


def _finished_runs(folder: Path) -> list[Path]:
    paths = [folder] if (folder / "manifest.json").is_file() else _manifest_folders(folder)
    if not paths:
        raise InputError(f"'{folder}' is not a finished run: it has no manifest.json", where=str(folder))
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


# -- joining: a model is identified by the checksum of its manifest, a set of rows by the hashes of its files ---

Key = tuple[str, str | None]  # (identity of the model, identity of the rows)


def _join(runs: Sequence[Run]) -> list[Model]:
    """One `Model` for each model and each set of rows; the last `eval` is used, or the training's score without one."""
    producers = {run.checksum: run for run in runs if run.command in (*TRAINING_COMMANDS, "export")}
    models: dict[Key, Model] = {}
    for run in sorted(runs, key=lambda run: (run.command == "eval", run.manifest["end"])):
        if run.command in TRAINING_COMMANDS:
            models[run.checksum, _rows_identity(run, "validation")] = _trained_model(run)
        if run.command == "eval":
            rows = _rows_identity(run, run.manifest["settings"]["split"])
            models |= {(identity, rows): model for identity, model in _evaluated_models(run, producers)}
    for run in runs:
        if run.command == "export":
            models |= _exported_models(run, models)
    with_score = {identity for (identity, _), model in models.items() if model.quality is not None}
    row_names = _unique_names({rows: model.scored_on for (_, rows), model in models.items()})
    joined = [
        replace(model, scored_on=row_names[rows])
        for (identity, rows), model in models.items()
        if model.quality is not None or identity not in with_score
    ]
    return sorted(joined, key=lambda model: (model.scored_on or "~", -model.rank, model.bytes or 0, model.name))


def _trained_model(run: Run) -> Model:
    metric, more_is_better = _main_metric(run)
    return replace(
        as_model(run),
        scored_on=_rows_name(run, "validation"),
        scored_by=str(run.folder),
        metric=metric,
        more_is_better=more_is_better,
        quality=run.metrics.get(f"eval_{metric}"),
        quality_low=run.metrics.get(f"eval_{metric}_low"),
        quality_high=run.metrics.get(f"eval_{metric}_high"),
    )


def _evaluated_models(run: Run, producers: Mapping[str, Run]) -> Iterator[tuple[str, Model]]:
    """(identity, model) for every model of an `eval` run."""
    metric, more_is_better = _main_metric(run)
    settings = run.manifest["settings"]
    reference = settings["reference"] or next(iter(settings["models"]))
    for name, location in settings["models"].items():
        described = run.manifest["inputs"][f"models.{name}"]
        identity = described.get("manifest") or json.dumps({k: v for k, v in described.items() if k != "path"})
        metrics: dict[str, Any] = {
            key.removeprefix(f"{name}."): value for key, value in run.metrics.items() if key.startswith(f"{name}.")
        }
        base = as_model(producers[identity]) if identity in producers else Model(_external_name(location, producers))
        yield (
            identity,
            replace(
                base,
                scored_on=_rows_name(run, settings["split"]),
                scored_by=str(run.folder),
                metric=metric,
                more_is_better=more_is_better,
                quality=metrics.get(metric),
                quality_low=metrics.get(f"{metric}_low"),
                quality_high=metrics.get(f"{metric}_high"),
                retention=1.0 if name == reference else metrics.get("retention"),
                agreement=metrics.get("agreement"),
                parameters=metrics.get("parameters", base.parameters),
                bytes=metrics.get("bytes", base.bytes),
                latency_ms_b1=metrics.get("latency_ms_b1", base.latency_ms_b1),
                latency_ms_b32=metrics.get("latency_ms_b32"),
                machine=run.manifest.get("machine"),
            ),
        )


def _external_name(location: str, producers: Mapping[str, Run]) -> str:
    """Name of an evaluated model that none of the runs produced; marked if its folder now holds another model."""
    is_replaced = os.path.realpath(location) in {os.path.realpath(run.folder) for run in producers.values()}
    return f"{location} (earlier version)" if is_replaced else location


def _exported_models(run: Run, models: Mapping[Key, Model]) -> dict[Key, Model]:
    """An export on each set of rows where its source model has a score and the export itself has none."""
    source = run.manifest["inputs"]["model"].get("manifest")
    difference = run.metrics.get("metric_difference")
    exported: dict[Key, Model] = {}
    for (identity, rows), model in models.items():
        has_own_score = (run.checksum, rows) in models
        if identity != source or has_own_score or model.quality is None or difference is None:
            continue
        quality = model.quality + difference
        retention = model.retention * quality / model.quality if model.retention and model.quality else None
        exported[run.checksum, rows] = replace(
            as_model(run),
            scored_on=model.scored_on,
            scored_by=model.scored_by,
            metric=model.metric,
            more_is_better=model.more_is_better,
            quality=quality,
            estimated=True,
            retention=retention,
            parameters=model.parameters,
        )
    is_evaluated = any(identity == run.checksum for identity, _ in models)
    return exported or ({} if is_evaluated else {(run.checksum, None): as_model(run)})


def _main_metric(run: Run) -> tuple[str, bool]:
    """Name of the task's main metric, and whether more is better."""
    task = tasks.find(run.manifest["settings"]["task"])
    return task.main_metric, task.metrics[task.main_metric]


def _rows_identity(run: Run, split: str) -> str:
    """Identifies the rows on which a run scored its models, independent of the folder of their files."""
    settings = run.manifest["settings"]
    described = [
        {key: value for key, value in file.items() if key != "path"}
        for value in _split_inputs(run, split).values()
        for file in (value if isinstance(value, list) else [value])
    ]
    selection = [settings["task"], split, settings["data"][f"{split}_split_name"], settings["data"]["max_eval_samples"]]
    return json.dumps([*selection, described], sort_keys=True)


def _rows_name(run: Run, split: str) -> str:
    samples = run.manifest["settings"]["data"]["max_eval_samples"]
    first = f"the first {samples:,} of " if samples else ""
    return f"{first}{split}, {model_card.data_names(_split_inputs(run, split))}"


def _split_inputs(run: Run, split: str) -> dict[str, Any]:
    """The data inputs in the manifest that contain this split."""
    described = model_card.data_inputs(run.manifest["inputs"])
    return {name: value for name, value in described.items() if name in (f"data.{split}_file", "data.dataset_name")}


def _unique_names(names: Mapping[str | None, str | None]) -> dict[str | None, str | None]:
    """Identity of the rows → name; different rows with the same name are numbered."""
    same_name = {name: [rows for rows, other in names.items() if other == name] for name in names.values()}
    return {
        rows: name if name is None or len(same_name[name]) == 1 else f"{name} ({same_name[name].index(rows) + 1})"
        for rows, name in names.items()
    }
