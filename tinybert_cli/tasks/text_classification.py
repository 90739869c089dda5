"""Text classification: one text or a pair of texts, one of C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.metrics.classification import ClassificationMetric
from tinybert_cli.metrics.comparison import class_fidelity
from tinybert_cli.metrics.probabilities import mean_class_logits, softmax
from tinybert_cli.tasks.base import PredictionTask, check_complete, text_usage
from tinybert_cli.tasks.encoding import encode_texts
from tinybert_cli.tasks.label_names import agreed_names, class_index, unknown_label
from tinybert_cli.types import NO_LABEL, Array, Predictions, Rows


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
    extra_metrics = ("f1_weighted", "brier", "precision", "recall")

    encode = staticmethod(encode_texts)

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        values = rows.columns.get(data.label_column_name, [])
        for index, value in enumerate(values):
            if isinstance(value, (list, dict)):
                raise InputError(
                    f"expected a name or a whole number as the label, found {value!r}",
                    where=rows.location(index),
                    hint="for several labels per text: task: multi-label-classification",
                )
        return agreed_names(rows, data, values, model_names=model_names)

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        if data.label_column_name not in rows.columns:
            return None
        indices = {name: index for index, name in enumerate(names)}
        values = rows.column(data.label_column_name)
        if all(value == -1 for value in values):  # how the Hub marks the rows of a hidden test set
            return None
        labels = np.full(len(values), NO_LABEL, dtype=np.int64)
        for row, value in enumerate(values):
            if value not in (None, "") or value in indices:
                index = class_index(value, indices)
                if index is None:
                    raise unknown_label(value, names, rows.location(row))
                labels[row] = index
        return labels

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
            raise InputError(
                f"all {len(labels):,} rows have the same label, {label}: there is nothing to learn",
                where=rows.location(0),
                hint="check data.label_column_name, or shuffle the rows before data.max_train_samples cuts them",
            )

    def predictions(
        self, logits: Array, row_offsets: Array | None, names: Sequence[str], rows: Rows, data: Data
    ) -> Predictions:
        probabilities = softmax(logits)
        values = [names[index] for index in probabilities.argmax(-1)]
        return Predictions(values, probabilities.max(-1), logits)

    def hard_labels(self, logits: Array, row_offsets: Array | None, min_confidence: float) -> tuple[Array, Array]:
        probabilities = softmax(logits)
        confident = probabilities.max(-1) >= min_confidence
        return np.where(confident, probabilities.argmax(-1), NO_LABEL), confident

    def fidelity(self, predictions: Predictions, reference: Predictions) -> dict[str, float]:
        return class_fidelity(predictions.known_logits, reference.known_logits)

    ensemble = staticmethod(mean_class_logits)

    def format_prediction(
        self, texts: Sequence[str], logits: Array, names: Sequence[str], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        (probabilities,) = softmax(logits)
        return {
            "prediction": names[int(probabilities.argmax())],
            "confidence": float(probabilities.max()),
            "probabilities": dict(zip(names, probabilities.tolist(), strict=True)),
        }

    def usage(self, folder: str, data: Data) -> str:
        return text_usage(folder, "", data)
