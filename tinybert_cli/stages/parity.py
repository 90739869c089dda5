"""Verification of an export: how far it differs from the original on real rows, alone, in batches and padded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli import data, formats, loops, metrics, tasks
from tinybert_cli.config import Data, Verify
from tinybert_cli.errors import InputError
from tinybert_cli.metrics.probabilities import sigmoid, softmax
from tinybert_cli.metrics.regression import concordance
from tinybert_cli.types import Array, Layout, Predictions, Rows
from tinybert_cli.wording import counted

BATCH_SIZE = 32
TIMED_ROWS = 64  # rows whose batch-1 latency is measured, original and export in turn
MIN_AGREEMENT, MAX_METRIC_DROP = 0.99, 0.01  # the defaults of `verify`
ROUNDING = 1e-9  # of a difference of two metrics: 0.95 - 0.94 is above 0.01
CALIBRATION_ROWS = 64  # windows on which int8 measures the ranges of activations
PROBABILITIES: Mapping[str, Callable[[Array], Array]] = {"class": softmax, "classes": sigmoid}
LOWER_IS_WORSE = {"agreement", "concordance", "metric_difference"}
HIGHER_IS_WORSE = {"max_abs_logit_difference", "mean_abs_logit_difference", "max_probability_difference"}


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
    measured: data.Examples  # rows on which int8 measures activations: others than those that are compared, if any

    def sample(self) -> dict[str, Any]:
        """Two rows as the model takes them, to trace it with."""
        batch = self.examples.__getitems__(self._batches[0][:2])
        return {name: value for name, value in batch.items() if name in loops.MODEL_INPUTS}

    def calibration(self) -> Iterator[dict[str, Array]]:
        """Unpadded batches of one window, of which int8 measures the activations."""
        windows = np.unique(np.linspace(0, len(self.measured) - 1, CALIBRATION_ROWS).astype(int))
        for window in windows.tolist():
            batch = self.measured.__getitems__([window])
            yield {name: value.numpy() for name, value in batch.items() if name in loops.MODEL_INPUTS}

    def compare(self, exported: Any, weights: Path, *, exact: bool = False) -> tuple[dict[str, float], Predictions]:
        """How far the export differs, its size and its latency on the same rows; and its predictions.

        Fewer bits than float32 are compared in three kinds of batches, whose worst numbers count: rows of similar
        length, single rows, and rows of any length, so with padding.
        """
        numbers, predictions = self.differences(exported)
        if not exact:
            numbers["agreement_b32"] = numbers["agreement"]
            others = {
                "b1": [[index] for index in range(len(self.examples))],
                "padded": [list(part) for part in np.array_split(range(len(self.examples)), self._splits)],
            }
            for name, batches in others.items():
                other, _ = self.differences(exported, batches)
                numbers[f"agreement_{name}"] = other["agreement"]
                for key in LOWER_IS_WORSE & other.keys():
                    numbers[key] = min(numbers[key], other[key])
                for key in HIGHER_IS_WORSE & other.keys():
                    numbers[key] = max(numbers[key], other[key])
        single = self.examples.timing_batches(1, None, TIMED_ROWS)
        times = loops.latencies({"original": self.model, "export": exported}, {"original": single, "export": single})
        original_ms, export_ms = np.median(times["original"]), np.median(times["export"])
        numbers["latency_ms_b1"] = float(export_ms)
        numbers["latency_ratio_b1"] = float(original_ms / export_ms)
        numbers["bytes"] = weights.stat().st_size
        numbers["bytes_ratio"] = self.bytes / numbers["bytes"]
        return numbers, predictions

    def differences(
        self, exported: Any, batches: Sequence[list[int]] | None = None
    ) -> tuple[dict[str, float], Predictions]:
        """How far the export differs on the rows, in these batches of windows; and its predictions."""
        original_logits = self._original_logits
        logits = loops.predict_all(exported, self.examples, self._batches if batches is None else batches)
        difference = np.abs(original_logits - logits)
        original, predictions = self._predictions(original_logits), self._predictions(logits)
        numbers = {
            "max_abs_logit_difference": float(difference.max()),
            "mean_abs_logit_difference": float(difference.mean()),
            "agreement": self.task.fidelity(predictions, original)["agreement"],
        }
        if self.task.output_type == "value":  # the agreement is a correlation, which no shift changes
            numbers["concordance"] = concordance(
                *(one.known_logits[:, 0].astype(float) for one in (predictions, original))
            )
        probabilities = PROBABILITIES.get(self.task.output_type)
        if probabilities is not None:
            numbers["max_probability_difference"] = float(
                np.abs(probabilities(original_logits) - probabilities(logits)).max()
            )
        elif original.confidences is not None and predictions.confidences is not None:
            numbers["max_probability_difference"] = float(np.abs(original.confidences - predictions.confidences).max())
        if self.metric is not None:
            before, after = (metrics.score(self.metric, one)[self.task.main_metric] for one in (original, predictions))
            numbers["metric_difference"] = after - before
        return numbers, predictions

    @cached_property
    def _original_logits(self) -> Array:
        return loops.predict_all(self.model, self.examples, self._batches)

    def _predictions(self, logits: Array) -> Predictions:
        tuned = self.model.config.to_dict()
        return self.task.decide(logits, self.layout, self.names, self.rows, self.settings, tuned)

    @property
    def _batches(self) -> Sequence[list[int]]:
        return data.sorted_batches(self.examples.lengths, BATCH_SIZE)

    @property
    def _splits(self) -> int:
        return -(-len(self.examples) // BATCH_SIZE)


def violations(numbers: Mapping[str, float], verify: Verify, *, exact: bool) -> list[str]:
    """The requirements of `verify` that are not met; `atol` applies to float32 only (`exact`)."""
    failures = []
    if exact and not numbers["max_abs_logit_difference"] <= verify.atol:  # NaN fails too
        failures.append(f"logits differ by {numbers['max_abs_logit_difference']:.2g}, more than atol {verify.atol:g}")
    least = least_agreement(verify)
    most = MAX_METRIC_DROP if verify.max_metric_drop is None else verify.max_metric_drop
    if not numbers["agreement"] >= least:
        failures.append(f"agreement {numbers['agreement']:.4f}, less than min_agreement {least:g}")
    elif not numbers.get("concordance", 1.0) >= least:
        failures.append(
            f"the numbers are shifted or have another scale: concordance {numbers['concordance']:.4f}, less than "
            f"min_agreement {least:g}"
        )
    drop = -numbers.get("metric_difference", 0.0)
    if not drop <= most + ROUNDING:
        failures.append(f"the metric drops by {drop:.4f}, more than max_metric_drop {most:g}")
    return failures


def missing_labels(rows: Rows, settings: Data, verify: Verify) -> str:
    """A warning that rows without labels show no metric.

    Raises:
        InputError: the settings limit its decrease.
    """
    reason = tasks.no_labels_error(rows, settings)
    if verify.max_metric_drop is not None:
        raise InputError(
            f"verify.max_metric_drop needs labels: {reason.what}",
            where=reason.where,
            hint=reason.hint or "give verify.split rows with labels, or leave max_metric_drop out",
        )
    return f"the rows have no labels ({reason.what}), so that only the agreement is verified, and no metric"


def too_few_rows(compared: int, measured: int | None, verify: Verify) -> list[str]:
    """Warnings if one row is a larger share than the export may change, and if int8 measures few rows.

    Args:
        compared: the number of rows on which the export is compared with the original.
        measured: that of windows on which int8 measures the ranges of activations; None: it is not int8.
    """
    least = least_agreement(verify)
    wanted = 1 if least >= 1 else round(1 / (1 - least))
    warnings = []
    if compared < wanted:
        warnings.append(
            f"{counted(compared, 'row')} cannot show an agreement of {least:g}, because one of them is "
            f"{1 / compared:.1%}: give `verify.split` and `verify.max_samples` {counted(wanted, 'row')} or more"
        )
    if measured is not None and measured < CALIBRATION_ROWS:
        warnings.append(
            f"the ranges of int8 are measured on {counted(measured, 'row')}, and other texts may exceed them: "
            f"give `verify.split` {counted(CALIBRATION_ROWS, 'row')} or more"
        )
    return warnings


def least_agreement(verify: Verify) -> float:
    return MIN_AGREEMENT if verify.min_agreement is None else verify.min_agreement


def load_module(form: formats.Format, folder: Path, load_model: Callable[[Path], Any]) -> Any:
    """The export as a torch module; `load_model` opens a folder of transformers, computing in float32."""
    return load_model(folder) if form.load is None else loops.SessionModule(form.load(folder))
