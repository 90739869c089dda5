"""Regression: one text or a pair of texts, one number."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import HIDDEN, as_number, have_decimal_commas, read_number
from tinybert_cli.metrics.regression import RegressionMetric, pearson
from tinybert_cli.tasks.base import PredictionTask, check_complete, text_usage
from tinybert_cli.tasks.encoding import encode_texts
from tinybert_cli.tasks.onnx_examples import VALUE, text_example
from tinybert_cli.types import Array, Layout, Predictions, Rows


class Regression(PredictionTask):
    name = "regression"
    head = "sequence-classification"
    problem = "regression"
    pipeline = "text-classification"
    recipe = "stsb"
    output_type = "value"
    main_metric = "pearson"
    metrics: ClassVar[Mapping[str, bool]] = {
        "pearson": True,
        "spearman": True,
        "r2": True,
        "mae": False,
        "loss": False,
    }
    has_confidence = False
    agreement_counts_rows = False
    slice_metric = "nearness"
    extra_metrics: ClassVar[Mapping[str, bool]] = {"nearness": True}

    encode = staticmethod(encode_texts)

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        """One name, that of the label column."""
        return list(model_names or [data.label_column])

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        if data.label_column not in rows.columns:
            return None
        values = rows.column(data.label_column)
        if all(value is None or as_number(value) == HIDDEN for value in values):
            return None
        comma = have_decimal_commas(values)
        numbers = [_number(value, rows, index, comma=comma) for index, value in enumerate(values)]
        return np.array(numbers, dtype=np.float32)

    def label_statements(self, rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
        if not have_decimal_commas(rows.columns.get(data.label_column, [])):
            return []
        return ["labels have a decimal comma: 3,5 means 3.5"]

    def metric(self, rows: Rows, data: Data, names: Sequence[str]) -> RegressionMetric | None:
        labels = self.labels(rows, data, names)
        if labels is None:
            return None
        check_complete(labels, rows)
        return RegressionMetric(labels)

    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        check_complete(labels, rows)
        if np.ptp(labels) == 0:
            one = len(labels) == 1
            have = "the only row has the value" if one else f"all {len(labels):,} rows have the same value,"
            raise InputError(
                f"{have} {labels[0]:g}: there is nothing to learn",
                where=rows.location(0),
                hint="check data.label_column_name",
            )

    def predictions(
        self, logits: Array, layout: Layout | None, names: Sequence[str], rows: Rows, data: Data
    ) -> Predictions:
        return Predictions(logits[:, 0].tolist(), None, logits)

    def hard_labels(self, logits: Array, layout: Layout | None, min_confidence: float) -> tuple[Array, Array]:
        """A number has no confidence: every row is selected."""
        return logits[:, 0], np.full(len(logits), min_confidence == 0)

    def fidelity(self, predictions: Predictions, reference: Predictions) -> dict[str, float]:
        """`agreement` is Pearson's correlation of both models' numbers; and their mean absolute difference."""
        values = predictions.known_logits[:, 0].astype(np.float64)
        reference_values = reference.known_logits[:, 0].astype(np.float64)
        agreement = 1.0 if np.array_equal(values, reference_values) else pearson(values, reference_values)
        return {"agreement": agreement, "mean_difference": float(np.abs(values - reference_values).mean())}

    def ensemble(self, logits: Sequence[Array], weights: Sequence[float], layout: Layout | None = None) -> Array:
        """The weighted mean of the numbers."""
        mean: Array = np.average(logits, axis=0, weights=weights).astype(np.float32)
        return mean

    def format_prediction(
        self,
        texts: Sequence[str],
        logits: Array,
        layout: Layout | None,
        names: Sequence[str],
        config: Mapping[str, Any],
    ) -> dict[str, Any]:
        return {"prediction": float(logits[0, 0])}

    def limitations(self, names: Sequence[str]) -> str:
        return (
            "The model predicts a number for any text, however different the text is from its training data, and gives "
            "no confidence."
        )

    def onnx_example(self, data: Data, names: Sequence[str]) -> str:
        return text_example(VALUE, pair=len(data.text_columns) == 2)

    def usage(self, folder: str, data: Data) -> str:
        return text_usage(folder, ', function_to_apply="none"', data)


def _number(value: object, rows: Rows, index: int, *, comma: bool) -> float:
    if value is None or value == "":
        return math.nan
    number = read_number(value, comma=comma)
    if number is None:
        hint = "check data.label_column_name"
        if isinstance(value, str) and _WITH_COMMAS.fullmatch(value):
            hint = "the comma may divide thousands or decimals: write the number with a point and without commas"
        raise InputError(f"expected a number, found '{value}'", where=rows.location(index), hint=hint)
    return number


_WITH_COMMAS = re.compile(r"\s*[+-]?\d[\d.,]*\s*")
