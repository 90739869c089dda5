"""Finished exports of the models of an evaluation, for its page; their numbers are those of `export`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tinybert_cli import artifacts, tasks
from tinybert_cli.errors import InputError
from tinybert_cli.reports import evaluation_html, finished_evals

Metrics = Mapping[str, float]


def beside(
    folder: Path,
    models: Mapping[str, Metrics],
    checksums: Mapping[str, str],
    *,
    metric: str,
    reference: str,
    beams: int | None = None,
    machine: str | None = None,
    devices: Iterable[str] = (),
) -> dict[str, dict[str, float]]:
    """The exports in the folders beside that of the evaluation, by name; damaged ones are left out.

    The score of an export is that of its source model plus the difference that `export` has measured; an export
    without such a number is left out.

    Args:
        folder: the output folder of the evaluation.
        models: model → its metrics.
        checksums: model → checksum of its manifest, for the models that tinybert has made.
        metric: the main metric.
        beams: of the translations that the evaluation has scored, see `finished_evals.measured_difference`.
        machine, devices: on which the evaluation has measured latencies; None = not recorded. The latency of an
            export, which is that of a CPU, is left out if it cannot be compared with these.
    """
    is_on_cpu = all(device == "cpu" for device in devices)
    names = {checksum: name for name, checksum in checksums.items()}
    exports: dict[str, dict[str, float]] = {}
    for file in sorted(folder.resolve().parent.glob("*/manifest.json")):
        try:
            manifest = artifacts.read_manifest(file.parent)
            if manifest["command"] != "export" or manifest["checksum"] in names:
                continue
            source = names.get(manifest["inputs"]["model"].get("manifest", ""))
            measured = artifacts.read_metrics(file.parent)
        except (InputError, KeyError, AttributeError):  # of another tool, or damaged
            continue
        difference = finished_evals.measured_difference(measured, beams)
        if source is not None and difference is not None and metric in models[source]:
            numbers = _numbers(measured, models[source], models[reference], metric, difference)
            if not is_on_cpu or len({machine, manifest.get("machine")} - {None}) > 1:
                numbers.pop("latency_ms_b1", None)
            exports[f"{file.parent.name} (of {source})"] = numbers
    return exports


def checksums(inputs: Mapping[str, Any]) -> dict[str, str]:
    """The checksums of the manifests of the models that an evaluation has scored, for those that have one."""
    described = {key.removeprefix("models."): value for key, value in inputs.items() if key.startswith("models.")}
    return {name: value["manifest"] for name, value in described.items() if "manifest" in value}


def add_to_page(folder: Path) -> bool:
    """Adds the exports that were finished after an evaluation to its page; whether the page has changed.

    Raises:
        InputError: the evaluation cannot be read, or matplotlib is not installed.
    """
    file = folder / "report.html"
    if not file.is_file():  # matplotlib was missing
        return False
    manifest = artifacts.read_manifest(folder)
    events = {event["model"]: event for event in artifacts.read_rows(folder, "model")}
    reference = next((name for name, event in events.items() if event.get("is_reference")), None)
    if reference is None:  # of a version that did not log it
        return False
    metric = events[reference]["metric"]
    exports = beside(
        folder, events, checksums(manifest["inputs"]),
        metric=metric, reference=reference, beams=finished_evals.beams_of(manifest["settings"]),
        machine=manifest.get("machine"), devices=manifest.get("devices", {}).values(),
    )  # fmt: skip
    if not exports:
        return False
    task = tasks.find_scored_task(manifest["settings"]["task"])
    page = file.read_text(encoding="utf-8")
    text = evaluation_html.with_exports(
        page,
        evaluation_html.Evaluation(
            title=folder.name, lead="", metric=metric, slice_metric=task.slice_metric,
            more_is_better=task.objective(metric)[1] > 0, reference=reference, models=events, confidences={},
            classes=[], confusion_matrices={}, slice_sizes={}, regressions={}, exports=exports,
            baselines=[name for name, event in events.items() if event.get("is_baseline")],
        ),
    )  # fmt: skip
    if text == page:
        return False
    artifacts.write_text(file, text)
    return True


def _numbers(
    measured: Metrics, source: Metrics, reference: Metrics, metric: str, difference: float
) -> dict[str, float]:
    numbers = {key: measured[key] for key in ("bytes", "latency_ms_b1") if key in measured}
    numbers |= {key: source[key] for key in ("parameters",) if key in source}
    numbers[metric] = source[metric] + difference
    if reference.get(metric):
        numbers["retention"] = numbers[metric] / reference[metric]
    return numbers
