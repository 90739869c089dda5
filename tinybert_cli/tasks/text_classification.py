"""Text classification: one text or a pair of texts, one of C classes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import HIDDEN, all_hidden, is_missing
from tinybert_cli.metrics.class_values import ClassValues
from tinybert_cli.metrics.classification import ClassificationMetric
from tinybert_cli.metrics.comparison import class_fidelity
from tinybert_cli.metrics.probabilities import in_parts, mean_class_logits, most_probable, softmax
from tinybert_cli.scratch_files import GrowingArray
from tinybert_cli.tasks.base import PredictionTask, check_complete, missing, text_usage
from tinybert_cli.tasks.encoding import encode_texts
from tinybert_cli.tasks.label_lists import combined_names, is_list_text
from tinybert_cli.tasks.label_names import (
    agreed_names,
    are_names,
    label_indices,
    label_statements,
    name_warnings,
    unknown_label,
)
from tinybert_cli.tasks.onnx_examples import CLASS, text_example
from tinybert_cli.types import NO_LABEL, Array, Layout, Predictions, Rows

PART = 16_384  # labels that are Python numbers at a time


class TextClassification(PredictionTask):
    name = "text-classification"
    head = "sequence-classification"
    problem = "single_label_classification"
    pipeline = "text-classification"
    recipe = "sst2"
    output_type = "class"
    main_metric = "accuracy"
    metrics: ClassVar[Mapping[str, bool]] = {
        "accuracy": True,
        "f1_macro": True,
        "mcc": True,
        "loss": False,
        "ece": False,
    }
    slice_metric = "accuracy"
    extra_metrics: ClassVar[Mapping[str, bool]] = {
        "f1_weighted": True,
        "brier": False,
        "precision": True,
        "recall": True,
    }

    encode = staticmethod(encode_texts)

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        labels = rows.columns.get(data.label_column, [])
        for index, label in enumerate(labels):
            if isinstance(label, (list, dict)) or is_list_text(label):
                raise InputError(
                    f"expected a name or a whole number as the label, found {label!r}",
                    where=rows.location(index),
                    hint="for several labels per text: task: multi-label-classification",
                )
        return agreed_names(rows, data, labels, model_names=model_names)

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        if data.label_column not in rows.columns:
            return None
        values = rows.column(data.label_column)
        if all_hidden(values) and str(HIDDEN) not in names:
            return None
        index_of = label_indices(names)

        def label(row: int, value: object) -> int:
            index = index_of(value)
            if index is None and not is_missing(value):
                raise unknown_label(value, names, rows.location(row))
            return NO_LABEL if index is None else index

        labels, numbered = GrowingArray(np.int64), enumerate(values)
        while part := list(itertools.islice(numbered, PART)):
            labels.append(list(itertools.starmap(label, part)))
        return labels.finish()

    def label_warnings(self, rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
        """Classes that look alike, look like several labels, or have no rows."""
        labels = self.labels(rows, data, names)
        counts = np.bincount(labels[~missing(labels)], minlength=len(names)) if labels is not None else [0] * len(names)
        return [*name_warnings(dict(zip(names, map(int, counts), strict=True))), *combined_names(names)]

    def label_statements(self, rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
        return label_statements(rows.columns.get(data.label_column, []), rows, data, names)

    def labels_are_names(self, rows: Rows, data: Data, names: Sequence[str]) -> bool:
        return are_names(rows.columns.get(data.label_column, []), names)

    def metric(self, rows: Rows, data: Data, names: Sequence[str]) -> ClassificationMetric | None:
        labels = self.labels(rows, data, names)
        if labels is None:
            return None
        check_complete(labels, rows)
        return ClassificationMetric(labels, list(names))

    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        check_complete(labels, rows)
        present = np.unique(labels)
        if len(present) < 2:
            label = names[present[0]] if len(present) else "none"
            one = len(labels) == 1
            have = "the only row has the label" if one else f"all {len(labels):,} rows have the same label,"
            raise InputError(
                f"{have} {label}: there is nothing to learn",
                where=rows.location(0),
                hint="check data.label_column_name, or shuffle the rows before data.max_train_samples cuts them",
            )

    def predictions(
        self, logits: Array, layout: Layout | None, names: Sequence[str], rows: Rows, data: Data
    ) -> Predictions:
        indices, confidences = in_parts(most_probable, logits)
        return Predictions(ClassValues(indices, names), confidences, logits)

    def hard_labels(self, logits: Array, layout: Layout | None, min_confidence: float) -> tuple[Array, Array]:
        indices, confidences = in_parts(most_probable, logits)
        confident = confidences >= min_confidence
        return np.where(confident, indices, NO_LABEL), confident

    def fidelity(self, predictions: Predictions, reference: Predictions) -> dict[str, float]:
        return class_fidelity(predictions.known_logits, reference.known_logits)

    def ensemble(self, logits: Sequence[Array], weights: Sequence[float], layout: Layout | None = None) -> Array:
        return mean_class_logits(logits, weights)

    def format_prediction(
        self,
        texts: Sequence[str],
        logits: Array,
        layout: Layout | None,
        names: Sequence[str],
        config: Mapping[str, Any],
    ) -> dict[str, Any]:
        (probabilities,) = softmax(logits)
        return {
            "prediction": names[int(probabilities.argmax())],
            "confidence": float(probabilities.max()),
            "probabilities": dict(zip(names, probabilities.tolist(), strict=True)),
        }

    def onnx_example(self, data: Data, names: Sequence[str]) -> str:
        return text_example(CLASS, pair=len(data.text_columns) == 2)

    def usage(self, folder: str, data: Data) -> str:
        return text_usage(folder, "", data)
