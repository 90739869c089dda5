"""report: finished runs side by side, from their manifests and metrics alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts, tasks
from tinybert_cli.errors import InputError
from tinybert_cli.reports import model_card

Row = dict[str, Any]

WEIGHTS = (".safetensors", ".onnx", ".bin")
FITTED = ("finetune", "distill")


@dataclass(frozen=True)
class Run:
    """A finished folder: what it says of itself, and its numbers."""

    folder: Path
    manifest: Mapping[str, Any]
    metrics: Mapping[str, float]

    @property
    def command(self) -> str:
        return str(self.manifest["command"])

    @property
    def seconds(self) -> float:
        begin, end = (datetime.fromisoformat(self.manifest[name]) for name in ("start", "end"))
        return self.metrics.get("train_runtime", round((end - begin).total_seconds()))


@dataclass(frozen=True)
class Model:
    """One model as it was scored on one set of rows; what nobody measured is None."""

    name: str  # its folder, or its Hub id
    made_by: str | None = None  # the command, if its folder is among the runs
    scored_on: str | None = None
    scored_by: str | None = None  # the folder that its score is from
    metric: str | None = None  # the task's main metric
    more_is_better: bool = True
    quality: float | None = None  # the value of that metric ...
    quality_low: float | None = None  # ... and its 95 % interval
    quality_high: float | None = None
    estimated: bool = False  # an export that was not scored: its model's score, and the difference found in verifying
    retention: float | None = None
    agreement: float | None = None
    parameters: int | None = None
    bytes: int | None = None  # of the weights
    latency_ms_b1: float | None = None
    latency_ms_b32: float | None = None
    machine: str | None = None  # that the latencies are from
    seconds: float | None = None  # of training

    @property
    def rank(self) -> float:
        """Its quality, turned so that more is better; the worst if it has none."""
        if self.quality is None:
            return float("-inf")
        return self.quality if self.more_is_better else -self.quality


@dataclass(frozen=True)
class Report:
    """What is known of the runs: the models, the best of those scored on the same rows first, and what is no model."""

    runs: Sequence[Run]
    models: Sequence[Model]
    labels: Sequence[Run] = field(default_factory=list)  # label datasets

    def notes(self) -> Iterator[str]:
        """What has to be known to read the numbers."""
        if any(model.estimated for model in self.models):
            yield "~ was not scored itself: the score of the model it was exported from, and the difference found then."
        machines = {model.machine for model in self.models if model.machine and model.latency_ms_b1 is not None}
        if len(machines) > 1:
            yield f"Latencies are from different machines and do not compare: {'; '.join(sorted(machines))}."


def run(folders: Sequence[Path]) -> Report:
    """Reads finished runs: those folders, and the runs in a folder that is none itself; without any, all under runs/.

    Raises:
        InputError: there is no finished run in a folder that was named, or none at all.
    """
    found = [run for folder in folders for run in _finished(folder)] if folders else _below(Path("runs"))
    if not found:
        raise InputError("there is no finished run under runs/", hint="name the folders: tinybert report RUN...")
    once = {os.path.realpath(folder): folder for folder in found}.values()
    runs = [Run(folder, artifacts.read_manifest(folder), artifacts.read_metrics(folder)) for folder in once]
    return Report(runs, _models(runs), [run for run in runs if run.command == "gen-soft-labels"])


def table(report: Report) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the models, then the label datasets; a column that would be empty is left out."""
    names = short_names([*(model.name for model in report.models), *(str(run.folder) for run in report.labels)])
    metrics = {model.metric for model in report.models if model.metric}
    several = len({model.scored_on for model in report.models if model.quality is not None}) > 1
    columns: dict[str, Callable[[Model], str]] = {
        "model": lambda model: names[model.name],
        "made by": lambda model: model.made_by or "",
        f"{next(iter(metrics)) if len(metrics) == 1 else 'score'} (95 %)": lambda model: _quality(model, metrics),
        "retention": lambda model: _said("{:.1%}", model.retention),
        "ms, batch 1": lambda model: _said("{:.2f}", model.latency_ms_b1),
        "size": lambda model: _said("{:.1f} MB", model.bytes, 1e6),
        "parameters": lambda model: _said("{:.1f} M", model.parameters, 1e6),
        "agreement": lambda model: _said("{:.1%}", model.agreement),
        "ms, batch 32": lambda model: _said("{:.2f}", model.latency_ms_b32),
        "time": lambda model: _said("{:.1f} min", model.seconds, 60),
        "scored on": lambda model: (model.scored_on or "") if several else "",
    }
    shown = [*report.models, *(_as_model(run) for run in report.labels)]
    cells = {title: [cell(model) for model in shown] for title, cell in columns.items()}
    kept = [title for title, values in cells.items() if any(values)]
    return kept, [list(values) for values in zip(*(cells[title] for title in kept), strict=True)]


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """One table; text to the left, numbers to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|---|" + "---:|" * (len(header) - 2)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def as_json(report: Report) -> Row:
    """`runs`: each with all its metrics; `models`: what was found out of them."""
    return {"runs": [_row(run) for run in report.runs], "models": [asdict(model) for model in report.models]}


def short_names(names: Iterable[str]) -> dict[str, str]:
    """name → name without the folders that all of them have in common."""
    parts = {name: Path(name).parts for name in names}
    levels = zip(*(path[:-1] for path in parts.values()), strict=False)
    common = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))
    return {name: str(Path(*path[common:])) for name, path in parts.items()}


# -- from runs to models -------------------------------------------------------------------------------------


def _models(runs: Sequence[Run]) -> list[Model]:
    """Joins what the runs say of the same model, which a manifest knows by the checksum of its manifest."""
    own = {run.manifest["checksum"]: run for run in runs if run.command in (*FITTED, "export")}
    found: dict[tuple[str, str | None], Model] = {}  # (which model, which rows) → it
    for run in sorted(runs, key=lambda run: (run.command == "eval", run.manifest["end"])):  # the last word counts
        if run.command in FITTED:
            found[run.manifest["checksum"], _rows(run, "validation")] = _fitted(run)
        if run.command == "eval":
            rows = _rows(run, run.manifest["settings"]["split"])
            found |= {(identity, rows): model for identity, model in _scored(run, own)}
    for run in runs:
        if run.command == "export":
            found |= _exported(run, found, own)
    scored = {identity for (identity, _), model in found.items() if model.quality is not None}
    called = _unlike({rows: model.scored_on for (_, rows), model in found.items()})
    models = [
        replace(model, scored_on=called[rows])
        for (identity, rows), model in found.items()
        if model.quality is not None or identity not in scored
    ]
    return sorted(models, key=lambda model: (model.scored_on or "~", -model.rank, model.bytes or 0, model.name))


def _unlike(names: Mapping[str | None, str | None]) -> dict[str | None, str | None]:
    """The names of sets of rows; of different sets with the same name each with a number of its own."""
    alike = {name: [rows for rows, other in names.items() if other == name] for name in names.values()}
    return {
        rows: name if name is None or len(alike[name]) == 1 else f"{name} ({alike[name].index(rows) + 1})"
        for rows, name in names.items()
    }


def _fitted(run: Run) -> Model:
    metric, more_is_better = _main_metric(run)
    return replace(
        _as_model(run),
        scored_on=_rows_name(run, "validation"),
        scored_by=str(run.folder),
        metric=metric,
        more_is_better=more_is_better,
        quality=run.metrics.get(f"eval_{metric}"),
        quality_low=run.metrics.get(f"eval_{metric}_low"),
        quality_high=run.metrics.get(f"eval_{metric}_high"),
    )


def _scored(run: Run, own: Mapping[str, Run]) -> Iterator[tuple[str, Model]]:
    """Every model of an eval folder, with what identifies it."""
    metric, more_is_better = _main_metric(run)
    settings = run.manifest["settings"]
    reference = settings["reference"] or next(iter(settings["models"]))
    for name, where in settings["models"].items():
        described = run.manifest["inputs"][f"models.{name}"]
        identity = described.get("manifest") or json.dumps({k: v for k, v in described.items() if k != "path"})
        numbers: dict[str, Any] = {
            key.removeprefix(f"{name}."): value for key, value in run.metrics.items() if key.startswith(f"{name}.")
        }
        base = _as_model(own[identity]) if identity in own else Model(_called(where, own))
        yield (
            identity,
            replace(
                base,
                scored_on=_rows_name(run, settings["split"]),
                scored_by=str(run.folder),
                metric=metric,
                more_is_better=more_is_better,
                quality=numbers.get(metric),
                quality_low=numbers.get(f"{metric}_low"),
                quality_high=numbers.get(f"{metric}_high"),
                retention=1.0 if name == reference else numbers.get("retention"),
                agreement=numbers.get("agreement"),
                parameters=numbers.get("parameters", base.parameters),
                bytes=numbers.get("bytes", base.bytes),
                latency_ms_b1=numbers.get("latency_ms_b1", base.latency_ms_b1),
                latency_ms_b32=numbers.get("latency_ms_b32"),
                machine=run.manifest.get("machine"),
            ),
        )


def _called(where: str, own: Mapping[str, Run]) -> str:
    """A scored model that is none of the runs; one whose folder holds another by now is told apart from that."""
    made_anew = os.path.realpath(where) in {os.path.realpath(run.folder) for run in own.values()}
    return f"{where} (an earlier one)" if made_anew else where


def _exported(
    run: Run, found: Mapping[tuple[str, str | None], Model], own: Mapping[str, Run]
) -> dict[tuple[str, str | None], Model]:
    """An export wherever its model was scored, unless it was scored there itself."""
    checksum = run.manifest["checksum"]
    original = run.manifest["inputs"]["model"].get("manifest")
    difference = run.metrics.get("metric_difference")
    models: dict[tuple[str, str | None], Model] = {}
    for (identity, rows), model in found.items():
        if identity != original or (checksum, rows) in found or model.quality is None or difference is None:
            continue
        quality = model.quality + difference
        retention = model.retention * quality / model.quality if model.retention and model.quality else None
        models[checksum, rows] = replace(
            _as_model(run),
            scored_on=model.scored_on,
            scored_by=model.scored_by,
            metric=model.metric,
            more_is_better=model.more_is_better,
            quality=quality,
            estimated=True,
            retention=retention,
            parameters=model.parameters,
        )
    known = any(identity == checksum for identity, _ in found)
    return models or ({} if known else {(checksum, None): _as_model(run)})


def _as_model(run: Run) -> Model:
    """What a run says of what it made, but for its score."""
    outputs = run.manifest["outputs"]
    weights = [entry["bytes"] for entry in outputs if entry["path"].endswith(WEIGHTS)]
    return Model(
        str(run.folder),
        made_by=run.command,
        parameters=run.manifest.get("parameters"),
        bytes=sum(weights or [entry["bytes"] for entry in outputs]),
        latency_ms_b1=run.metrics.get("latency_ms_b1"),
        machine=run.manifest.get("machine"),
        seconds=run.seconds,
    )


def _main_metric(run: Run) -> tuple[str, bool]:
    task = tasks.find(run.manifest["settings"]["task"])
    return task.main_metric, task.metrics[task.main_metric]


def _rows(run: Run, split: str) -> str:
    """What identifies the rows that a run scored its models on, wherever they lie."""
    settings = run.manifest["settings"]
    described = [
        {key: value for key, value in file.items() if key != "path"}
        for value in _data_of(run, split).values()
        for file in (value if isinstance(value, list) else [value])
    ]
    named = [settings["task"], split, settings["data"][f"{split}_split_name"], settings["data"]["max_eval_samples"]]
    return json.dumps([*named, described], sort_keys=True)


def _rows_name(run: Run, split: str) -> str:
    samples = run.manifest["settings"]["data"]["max_eval_samples"]
    first = f"the first {samples:,} of " if samples else ""
    return f"{first}{split}, {model_card.data_names(_data_of(run, split))}"


def _data_of(run: Run, split: str) -> dict[str, Any]:
    """The inputs that hold this split."""
    described = model_card.data_inputs(run.manifest["inputs"])
    return {name: value for name, value in described.items() if name in (f"data.{split}_file", "data.dataset_name")}


# -- reading and showing -------------------------------------------------------------------------------------


def _finished(folder: Path) -> list[Path]:
    found = [folder] if (folder / "manifest.json").is_file() else _below(folder)
    if not found:
        raise InputError(f"'{folder}' is no finished run: it has no manifest.json", where=str(folder))
    return found


def _below(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob("**/manifest.json"))


def _row(run: Run) -> Row:
    begin, end = (datetime.fromisoformat(run.manifest[name]) for name in ("start", "end"))
    return {
        "run": str(run.folder),
        "command": run.command,
        "seconds": round((end - begin).total_seconds()),
        **({"parameters": run.manifest["parameters"]} if "parameters" in run.manifest else {}),
        "bytes": sum(entry["bytes"] for entry in run.manifest["outputs"]),
        **run.metrics,
    }


def _quality(model: Model, metrics: set[str]) -> str:
    if model.quality is None:
        return ""
    interval = "" if model.quality_low is None else f" ({model.quality_low:.3f}-{model.quality_high:.3f})"
    name = f" {model.metric}" if len(metrics) > 1 else ""
    return f"{'~' if model.estimated else ''}{model.quality:.4f}{interval}{name}"


def _said(form: str, value: float | None, unit: float = 1.0) -> str:
    return "" if value is None else form.format(value / unit)
