"""Finished exports of the models of an evaluation, for its page; their numbers are those of `export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tinybert_cli import artifacts
from tinybert_cli.errors import InputError

Metrics = Mapping[str, float]


def beside(
    folder: Path, models: Mapping[str, Metrics], checksums: Mapping[str, str], *, metric: str, reference: str
) -> dict[str, dict[str, float]]:
    """The exports in the folders beside that of the evaluation, by name; damaged ones are left out.

    The score of an export is that of its source model plus the difference that `export` has measured.

    Args:
        folder: the output folder of the evaluation.
        models: model → its metrics.
        checksums: model → checksum of its manifest, for the models that tinybert has made.
        metric: the main metric.
    """
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
        if source is not None and "metric_difference" in measured and metric in models[source]:
            exports[f"{file.parent.name} (of {source})"] = _numbers(measured, models[source], models[reference], metric)
    return exports


def _numbers(measured: Metrics, source: Metrics, reference: Metrics, metric: str) -> dict[str, float]:
    numbers = {key: measured[key] for key in ("bytes", "latency_ms_b1") if key in measured}
    numbers |= {key: source[key] for key in ("parameters",) if key in source}
    numbers[metric] = source[metric] + measured["metric_difference"]
    if reference.get(metric):
        numbers["retention"] = numbers[metric] / reference[metric]
    return numbers
