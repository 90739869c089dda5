"""Finished runs joined into models: one row per model, whichever stages trained, scored or exported it."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from tinybert_cli import formats, tasks
from tinybert_cli.reports import model_card
from tinybert_cli.reports.finished_evals import beams_of, measured_difference, own_metrics
from tinybert_cli.reports.training_choices import choice_in
from tinybert_cli.wording import counted

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
    """One model with its score on one set of rows; None = not measured."""

    name: str  # its folder or Hub id
    made_by: str | None = None  # the command, if its folder is among the runs
    scored_on: str | None = None
    scored_rows: int | None = None  # number of these rows
    scored_by: str | None = None  # folder of the run that computed the score
    evaluated: bool = False  # whether that run is an `eval`; else it is the training
    metric: str | None = None  # the task's main metric
    more_is_better: bool = True
    quality: float | None = None  # value of that metric
    quality_low: float | None = None  # 95 % interval
    quality_high: float | None = None
    estimated: bool = False  # an export without a score: its source model's score plus the difference found by `export`
    is_baseline: bool = False  # without a neural network, fitted by the run that scored it
    optimistic: bool = False  # whether the checkpoint or thresholds were selected on the rows of this score
    made_from: Sequence[str] = ()  # folders of models that were selected on these rows, which it was made from
    trained_on: bool = False  # whether they are training rows, also those of a model that it was made from
    retention: float | None = None
    agreement: float | None = None
    reference: str | None = None  # folder or Hub id of the model that these two are relative to
    parameters: int | None = None
    bytes: int | None = None  # of the weights
    latency_ms_b1: float | None = None
    latency_ms_b32: float | None = None
    machine: str | None = None  # on which the latencies were measured, with its GPU if it was used
    seconds: float | None = None  # of training

    @property
    def rank(self) -> float:
        """Quality as a number where more is better; -inf without a score."""
        if self.quality is None:
            return float("-inf")
        return self.quality if self.more_is_better else -self.quality


def as_model(run: Run) -> Model:
    """The model (or label dataset) that a run produced, without a score."""
    outputs = run.manifest["outputs"]
    sizes = {entry["path"]: entry["bytes"] for entry in outputs}
    names = (f"{form.subfolder}/{name}".lstrip("/") for form in formats.FORMATS.values() for name in form.files)
    exported = next((name for name in names if name in sizes), None)
    weights = [sizes[exported]] if exported else [sizes[name] for name in sizes if name.endswith(MODEL_WEIGHTS)]
    if run.command == "export" and "bytes" in run.metrics:  # of a translation model, in several files
        weights = [int(run.metrics["bytes"])]
    return Model(
        str(run.folder),
        made_by=run.command,
        parameters=run.manifest.get("parameters"),
        bytes=sum(weights or sizes.values()),
        latency_ms_b1=run.metrics.get("latency_ms_b1"),
        machine=run.manifest.get("machine"),
        seconds=run.seconds,
    )


def short_names(names: Iterable[str]) -> dict[str, str]:
    """name → name without the leading folders that all names have in common."""
    parts = {name: Path(name).parts for name in names}
    levels = zip(*(path[:-1] for path in parts.values()), strict=False)
    n_common = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    return {name: str(Path(*path[n_common:])) for name, path in parts.items()}


# -- joining: a model is identified by the checksum of its manifest, a set of rows by the hashes of its files ---

Scores = dict[str | None, Model]  # identity of the rows → the model with its score on them


def join(runs: Sequence[Run]) -> list[Model]:
    """One `Model` for each model, grouped by the rows of its score, best first.

    The score is that of an `eval`, and that of training without one. If evals scored a model on several sets of rows,
    it is the set on which most models were scored, so that as many models as possible can be compared; of several evals
    on the same rows it is the last.
    """
    producers = {run.checksum: run for run in runs if run.command in (*TRAINING_COMMANDS, "export")}
    scores: dict[str, Scores] = {}
    for run in sorted(runs, key=lambda run: (run.command == "eval", run.manifest["end"])):
        if run.command in TRAINING_COMMANDS:
            scores.setdefault(run.checksum, {})[_rows_identity(run, "validation")] = _trained_model(run)
        if run.command == "eval":
            rows = _rows_identity(run, run.manifest["settings"]["split"])
            for identity, model in _evaluated_models(run, producers):
                own = scores.setdefault(identity, {})
                own.pop(rows, None)  # the last one is last
                own[rows] = model
    counts = Counter(rows for own in scores.values() for rows, model in own.items() if model.evaluated)
    chosen = {identity: _chosen(own, counts) for identity, own in scores.items()}
    exports = [run for run in runs if run.command == "export" and run.checksum not in chosen]
    settings = {str(run.folder): run.manifest["settings"] for run in runs}
    chosen |= {run.checksum: _exported(run, chosen, settings) for run in exports}
    chosen |= _baselines(runs, {rows for rows, model in chosen.values() if model.quality is not None}, producers)
    row_names = _unique_names({rows: model.scored_on for rows, model in chosen.values()})
    group_sizes = Counter(rows for rows, model in chosen.values() if model.quality is not None)

    def order(item: tuple[str | None, Model]) -> tuple[Any, ...]:
        rows, model = item
        return (-group_sizes[rows], model.scored_on or "~", -model.rank, model.bytes or 0, model.name)

    joined = [(rows, replace(model, scored_on=row_names[rows])) for rows, model in chosen.values()]
    return [model for _, model in sorted(joined, key=order)]


def _chosen(scores: Scores, counts: Mapping[str | None, int]) -> tuple[str | None, Model]:
    """The rows and the score of a model to show, see `join`; `counts`: how many models evals scored on each."""

    def preference(item: tuple[str | None, Model]) -> tuple[bool, bool, int]:
        rows, model = item
        return model.quality is not None, model.evaluated, counts[rows]

    return max(reversed(scores.items()), key=preference)  # the first of equal ones is the last that was scored


def _trained_model(run: Run) -> Model:
    metric, more_is_better = _main_metric(run)
    is_selected = choice_in(run.manifest) is not None
    return replace(
        as_model(run),
        scored_on=_rows_name(run, "validation"),
        scored_rows=run.manifest.get("scored_rows"),
        scored_by=str(run.folder),
        metric=metric,
        more_is_better=more_is_better,
        quality=run.metrics.get(f"eval_{metric}"),
        quality_low=run.metrics.get(f"eval_{metric}_low"),
        quality_high=run.metrics.get(f"eval_{metric}_high"),
        optimistic=is_selected,
        made_from=[] if is_selected else run.manifest.get("models_selected_on_validation_rows", []),
        trained_on=run.manifest.get("trained_on_validation_rows", False),
    )


def _evaluated_models(run: Run, producers: Mapping[str, Run]) -> Iterator[tuple[str, Model]]:
    """(identity, model) for every model of an `eval` run."""
    settings = run.manifest["settings"]
    reference = _reference(run)
    for name in settings["models"]:
        identity, base = _evaluated(run, name, producers)
        scored = _scored(base, run, name, settings["split"], producers)
        yield (
            identity,
            replace(
                scored,
                optimistic=name in run.manifest.get("selected_on_these_rows", []),
                made_from=run.manifest.get("made_from_selected_on_these_rows", {}).get(name, []),
                trained_on=name in run.manifest.get("trained_on_these_rows", []),
                retention=1.0 if name == reference and (scored.quality or 0.0) > 0 else scored.retention,
            ),
        )


def _reference(run: Run) -> str:
    """The name in an `eval` of the model that the others are compared with."""
    settings = run.manifest["settings"]
    return str(settings["reference"] or next(iter(settings["models"])))


def _evaluated(run: Run, name: str, producers: Mapping[str, Run]) -> tuple[str, Model]:
    """The identity of a model of an `eval`, and the model without a score."""
    described = run.manifest["inputs"][f"models.{name}"]
    identity = described.get("manifest") or json.dumps({k: v for k, v in described.items() if k != "path"})
    if identity in producers:
        return identity, as_model(producers[identity])
    return identity, Model(_external_name(run.manifest["settings"]["models"][name], producers))


def _baselines(
    runs: Sequence[Run], compared_rows: set[str | None], producers: Mapping[str, Run]
) -> dict[str, tuple[str | None, Model]]:
    """Identity → rows and score of the baselines that evals and trainings have scored on these rows.

    Of equal ones it is the last, and that of an eval, which has latencies: those with the same name that were fitted on
    the same rows, or that were fitted on as many rows and have the same score, as on all rows and on their labels by a
    teacher.
    """
    baselines: dict[str, tuple[str | None, Model]] = {}
    scores: dict[str, str] = {}  # name, rows, number of training rows and score → identity
    for run in sorted(runs, key=lambda run: (run.command == "eval", str(run.manifest["end"]))):
        if run.command not in ("eval", *TRAINING_COMMANDS):
            continue
        split = run.manifest["settings"]["split"] if run.command == "eval" else "validation"
        rows = _rows_identity(run, split)
        if rows not in compared_rows:
            continue
        fitted_on = _without_paths(_training_inputs(run))
        for name in run.manifest.get("baselines", []):
            base = Model(str(run.folder / name), made_by="baseline", is_baseline=True)
            model = _scored(base, run, name, split, producers)
            identity = json.dumps([name, rows, fitted_on], sort_keys=True)
            score = json.dumps([name, rows, own_metrics(run.metrics, name).get("training_rows"), model.quality])
            baselines.pop(scores.get(score, identity), None)
            scores[score] = identity
            baselines[identity] = (rows, model)
    return baselines


def _scored(base: Model, run: Run, name: str, split: str, producers: Mapping[str, Run]) -> Model:
    """The model with its numbers in an `eval`, or the baseline with those in a training."""
    metric, more_is_better = _main_metric(run)
    metrics: dict[str, Any] = own_metrics(run.metrics, name)
    is_same_file = metrics.get("bytes", base.bytes) == base.bytes  # of an export in float16, float32 is scored
    timed_by_export = "latency_ms_b1" not in metrics and is_same_file and base.latency_ms_b1 is not None
    return replace(
        base,
        scored_on=_rows_name(run, split),
        scored_rows=run.manifest.get("scored_rows"),
        scored_by=str(run.folder),
        evaluated=run.command == "eval",
        metric=metric,
        more_is_better=more_is_better,
        quality=metrics.get(metric),
        quality_low=metrics.get(f"{metric}_low"),
        quality_high=metrics.get(f"{metric}_high"),
        retention=metrics.get("retention"),
        agreement=metrics.get("agreement"),
        reference=_evaluated(run, _reference(run), producers)[1].name if run.command == "eval" else None,
        parameters=metrics.get("parameters", base.parameters),
        bytes=metrics.get("bytes", base.bytes),
        latency_ms_b1=base.latency_ms_b1 if timed_by_export else metrics.get("latency_ms_b1"),
        latency_ms_b32=metrics.get("latency_ms_b32"),
        machine=base.machine if timed_by_export else _machine(run, name),
    )


def _machine(run: Run, name: str) -> str | None:
    """The machine of a run, and the device that a model ran on if it was not the CPU."""
    machine, device = run.manifest.get("machine"), run.manifest.get("devices", {}).get(name, "cpu")
    return machine if machine is None or device == "cpu" else f"{machine}, {device}"


def _external_name(location: str, producers: Mapping[str, Run]) -> str:
    """Name of an evaluated model that none of the runs produced; marked if its folder now holds another model."""
    is_replaced = os.path.realpath(location) in {os.path.realpath(run.folder) for run in producers.values()}
    return f"{location} (earlier version)" if is_replaced else location


def _exported(
    run: Run, models: Mapping[str, tuple[str | None, Model]], settings: Mapping[str, Mapping[str, Any]]
) -> tuple[str | None, Model]:
    """An export that no `eval` has scored, with the score that its source model gives it, if that has one.

    Args:
        settings: folder → settings of the run.
    """
    rows, source = models.get(run.manifest["inputs"]["model"].get("manifest") or "", (None, None))
    if source is None or source.quality is None or source.scored_by is None:
        return None, as_model(run)
    difference = measured_difference(run.metrics, beams_of(settings[source.scored_by]))
    if difference is None:
        return None, as_model(run)
    quality = source.quality + difference
    return rows, replace(
        as_model(run),
        scored_on=source.scored_on,
        scored_rows=source.scored_rows,
        scored_by=source.scored_by,
        evaluated=source.evaluated,
        metric=source.metric,
        more_is_better=source.more_is_better,
        quality=quality,
        estimated=True,
        optimistic=source.optimistic,
        made_from=source.made_from,
        trained_on=source.trained_on,
        retention=source.retention * quality / source.quality if source.retention and source.quality else None,
        reference=source.reference,
        parameters=source.parameters,
    )


def _main_metric(run: Run) -> tuple[str, bool]:
    """Name of the task's main metric, and whether more is better."""
    task = tasks.find(run.manifest["settings"]["task"])
    return task.main_metric, task.metrics[task.main_metric]


def _rows_identity(run: Run, split: str) -> str:
    """Identifies the rows and labels on which a run scored its models, independent of the folder of their files.

    Translations that were searched with other numbers of beams are scores of another kind: they count as other rows.
    """
    settings = run.manifest["settings"]
    described = _without_paths(_split_inputs(run, split))
    data = settings["data"]
    named = [data.get("text_column_names"), data.get("label_column_name")]
    columns = [names if isinstance(names, list) else [names] for names in named]
    selection = [settings["task"], split, data[f"{split}_split_name"], data["max_eval_samples"], *columns]
    if (beams := beams_of(settings)) is not None:
        selection.append(beams)
    return json.dumps([*selection, described], sort_keys=True)


def _without_paths(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in file.items() if key != "path"}
        for value in inputs.values()
        for file in (value if isinstance(value, list) else [value])
    ]


def _rows_name(run: Run, split: str) -> str:
    samples = run.manifest["settings"]["data"]["max_eval_samples"]
    first = f"the first {samples:,} of " if samples else ""
    beams = beams_of(run.manifest["settings"])
    search = "" if beams is None else f", {counted(beams, 'beam')}"
    return f"{first}{split}, {model_card.data_names(_split_inputs(run, split))}{search}"


def _split_inputs(run: Run, split: str) -> dict[str, Any]:
    """The data inputs in the manifest that contain this split."""
    described = model_card.data_inputs(run.manifest["inputs"])
    return {name: value for name, value in described.items() if name in (f"data.{split}_file", "data.dataset_name")}


def _training_inputs(run: Run) -> dict[str, Any]:
    """The inputs in the manifest that contain the rows that baselines are fitted on."""
    inputs = run.manifest["inputs"]
    return {"label_dataset": inputs["label_dataset"]} if "label_dataset" in inputs else _split_inputs(run, "train")


def _unique_names(names: Mapping[str | None, str | None]) -> dict[str | None, str | None]:
    """Identity of the rows → name; different rows with the same name are numbered."""
    same_name = {name: [rows for rows, other in names.items() if other == name] for name in names.values()}
    return {
        rows: name if name is None or len(same_name[name]) == 1 else f"{name} ({same_name[name].index(rows) + 1})"
        for rows, name in names.items()
    }
