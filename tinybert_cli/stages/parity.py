"""Verification of an export: how far it differs from the original on real rows, and which parts int8 hurts most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli import data, formats, loops, metrics, tasks
from tinybert_cli.config import Data, Verify
from tinybert_cli.types import Array, Layout, Predictions, Rows

BATCH_SIZE = 32
TIMED_ROWS = 64  # rows whose batch-1 latency is measured, original and export in turn
MIN_AGREEMENT, MAX_METRIC_DROP = 0.99, 0.01  # the defaults of `verify`
NAMED_PARTS = 3  # parts that are named when int8 is rejected


@dataclass(frozen=True)
class Parity:
    """The original model and the rows on which an export is compared with it."""

    task: tasks.PredictionTask
    model: Any
    names: list[str]  # the classes in the order of the outputs
    rows: Rows
    settings: Data
    examples: data.Examples
    layout: Layout | None  # see `Encoded`
    metric: metrics.Metric | None  # None if the rows have no labels
    bytes: int  # of the original's weights

    def sample(self) -> dict[str, Any]:
        """Two rows as the model takes them, to trace it with."""
        batch = self.examples.__getitems__(self._batches[0][:2])
        return {name: value for name, value in batch.items() if name in loops.MODEL_INPUTS}

    def compare(self, exported: Any, weights: Path) -> tuple[dict[str, float], Predictions]:
        """How far the export differs, its size and its latency on the same rows; and its predictions."""
        original_logits, logits = self._logits(self.model), self._logits(exported)
        difference = np.abs(original_logits - logits)
        original, predictions = self._predictions(original_logits), self._predictions(logits)
        numbers = {
            "max_abs_logit_difference": float(difference.max()),
            "mean_abs_logit_difference": float(difference.mean()),
            "agreement": self.task.fidelity(predictions, original)["agreement"],
        }
        if self.metric is not None:
            before, after = (metrics.score(self.metric, one)[self.task.main_metric] for one in (original, predictions))
            numbers["metric_difference"] = after - before
        single = self.examples.timing_batches(1, None, TIMED_ROWS)
        times = loops.latencies({"original": self.model, "export": exported}, {"original": single, "export": single})
        original_ms, export_ms = np.median(times["original"]), np.median(times["export"])
        numbers["latency_ms_b1"] = float(export_ms)
        numbers["latency_ratio_b1"] = float(original_ms / export_ms)
        numbers["bytes"] = weights.stat().st_size
        numbers["bytes_ratio"] = self.bytes / numbers["bytes"]
        return numbers, predictions

    def sensitivity(
        self,
        quantize: Callable[[Path, Path, Sequence[str]], object],
        parts: Sequence[str],
        load: Callable[[Path], Any],
        weights: Path,
        folder: Path,
        target: Path,
        exclude: Sequence[str],
    ) -> list[tuple[str, float]]:
        """Each part of the model, and the mean change of the logits when only this part is int8; the largest first.

        Args:
            quantize: writes an int8 file: (float32 file, int8 file, parts that stay float32).
            weights: the float32 file; `target`: the file in `folder` to write int8 to.
        """
        original = self._logits(self.model)
        changes = []
        for part in parts:
            quantize(weights, target, [*exclude, *(other for other in parts if other != part)])
            changes.append((part, float(np.abs(self._logits(load(folder)) - original).mean())))
        return sorted(changes, key=lambda change: -change[1])

    def _logits(self, module: Any) -> Array:
        return loops.predict_all(module, self.examples, self._batches)

    def _predictions(self, logits: Array) -> Predictions:
        tuned = self.model.config.to_dict()
        return self.task.decide(logits, self.layout, self.names, self.rows, self.settings, tuned)

    @property
    def _batches(self) -> list[list[int]]:
        return data.sorted_batches(self.examples.lengths, BATCH_SIZE)


def violations(numbers: Mapping[str, float], verify: Verify, *, exact: bool) -> list[str]:
    """The requirements of `verify` that are not met; `atol` applies to float32 only (`exact`)."""
    failures = []
    if exact and not numbers["max_abs_logit_difference"] <= verify.atol:  # NaN fails too
        failures.append(f"logits differ by {numbers['max_abs_logit_difference']:.2g}, more than atol {verify.atol:g}")
    least = least_agreement(verify)
    most = MAX_METRIC_DROP if verify.max_metric_drop is None else verify.max_metric_drop
    if not numbers["agreement"] >= least:
        failures.append(f"agreement {numbers['agreement']:.4f}, less than min_agreement {least:g}")
    drop = -numbers.get("metric_difference", 0.0)
    if drop > most:
        failures.append(f"the metric drops by {drop:.4f}, more than max_metric_drop {most:g}")
    return failures


def least_agreement(verify: Verify) -> float:
    return MIN_AGREEMENT if verify.min_agreement is None else verify.min_agreement


def sensitivity_in_words(changes: Sequence[tuple[str, float]]) -> str:
    worst = ", ".join(f"{part} {change:.3f}" for part, change in changes[:NAMED_PARTS])
    return f"parts whose int8 form changes the logits most: {worst}; try quantize_exclude: [{changes[0][0]}]"


def load_module(form: formats.Format, folder: Path, load_model: Callable[[Path], Any]) -> Any:
    """The export as a torch module; `load_model` opens a folder of transformers, computing in float32."""
    return load_model(folder) if form.load is None else loops.SessionModule(form.load(folder))
