"""Multi-label classification: one text or a pair of texts, any number of C classes, none included."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.metrics.comparison import rank_correlation
from tinybert_cli.metrics.multi_label import THRESHOLDS, MultiLabelMetric
from tinybert_cli.metrics.probabilities import EPSILON, sigmoid
from tinybert_cli.tasks.base import PredictionTask, check_complete, missing, text_usage
from tinybert_cli.tasks.encoding import encode_texts
from tinybert_cli.tasks.label_names import agreed_names, class_index, unknown_label
from tinybert_cli.types import Array, Predictions, Rows

SEPARATOR = "|"  # between the names in one cell of a CSV file


class MultiLabelClassification(PredictionTask):
    name = "multi-label-classification"
    head = "sequence-classification"
    problem = "multi_label_classification"
    pipeline = "text-classification"
    recipe = "go-emotions"
    output_type = "classes"
    tuned_settings = (THRESHOLDS,)
    main_metric = "f1_micro"
    metrics: ClassVar[Mapping[str, bool]] = {
        "f1_micro": True,
        "f1_macro": True,
        "precision_micro": True,
        "recall_micro": True,
        "accuracy": True,
        "map": True,
        "loss": False,
    }
    slice_metric = "accuracy"
    extra_metrics = ("hamming_loss", "f1", "precision", "recall")

    encode = staticmethod(encode_texts)

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        values = itertools.chain.from_iterable(row or [] for row in _label_lists(rows, data) or [])
        return agreed_names(rows, data, values, model_names=model_names)

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        """1 for every class of a row, else 0 (N, C); NaN in a row without labels."""
        lists = _label_lists(rows, data)
        if lists is None:
            return None
        indices = {name: index for index, name in enumerate(names)}
        labels = np.zeros((len(lists), len(names)), dtype=np.float32)
        for row, values in enumerate(lists):
            if values is None:
                labels[row] = np.nan
                continue
            for value in values:
                index = class_index(value, indices)
                if index is None:
                    raise unknown_label(value, names, rows.location(row))
                labels[row, index] = 1
        return labels

    def metric(self, rows: Rows, data: Data, names: Sequence[str]) -> MultiLabelMetric | None:
        labels = self.labels(rows, data, names)
        if labels is None:
            return None
        check_complete(labels, rows)
        return MultiLabelMetric(labels, list(names))

    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        """Some labels predicted by a model may be missing, but not all labels of a row."""
        check_complete(np.where(missing(labels).all(-1), np.nan, 0.0), rows)
        if not (labels == 1).any():
            raise InputError(
                f"none of {len(labels):,} rows has a label: there is nothing to learn",
                where=rows.location(0),
                hint=f"a list of names in each row, or names separated by '{SEPARATOR}'",
            )

    def apply_thresholds(self, logits: Array, row_offsets: Array | None, settings: Mapping[str, Any]) -> Array:
        """Minus the logit of each class's threshold, so that a class is predicted from 0 on."""
        thresholds = settings.get(THRESHOLDS)
        if thresholds is None:
            return logits
        if len(thresholds) != logits.shape[-1] or not all(0 < value < 1 for value in thresholds):
            raise InputError(
                f"config.json has {len(thresholds)} thresholds for {logits.shape[-1]} classes, or one not in 0 to 1",
                hint="one number between 0 and 1 for each class, or none at all: then it is 0.5",
            )
        values = np.asarray(thresholds, dtype=np.float64)
        shifted: Array = (logits - (np.log(values) - np.log1p(-values))).astype(np.float32)
        return shifted

    def predictions(
        self, logits: Array, row_offsets: Array | None, names: Sequence[str], rows: Rows, data: Data
    ) -> Predictions:
        """The confidence of a row is that of its least confident decision."""
        return Predictions(_names_of(logits >= 0, names), _least_confidence(logits), logits)

    def hard_labels(self, logits: Array, row_offsets: Array | None, min_confidence: float) -> tuple[Array, Array]:
        probabilities = sigmoid(logits)
        confident = np.maximum(probabilities, 1 - probabilities) >= min_confidence
        return np.where(confident, probabilities >= 0.5, np.nan).astype(np.float32), confident.any(-1)

    def fidelity(self, predictions: Predictions, reference: Predictions) -> dict[str, float]:
        """`agreement`: share of rows with the same classes; `kl`: mean divergence from the reference per class."""
        logits, reference_logits = predictions.known_logits, reference.known_logits
        p, q = sigmoid(reference_logits), sigmoid(logits)
        divergence = _divergence(p, q) + _divergence(1 - p, 1 - q)
        return {
            "agreement": float(((logits >= 0) == (reference_logits >= 0)).all(-1).mean()),
            "kl": max(0.0, float(np.mean(divergence))),
            "confidence_correlation": rank_correlation(_least_confidence(reference_logits), _least_confidence(logits)),
        }

    def ensemble(self, logits: Sequence[Array], weights: Sequence[float]) -> Array:
        """The logits of the weighted mean of the probabilities; of a single model its logits."""
        if len(logits) == 1:
            return logits[0]
        mean = np.average([sigmoid(values) for values in logits], axis=0, weights=weights)
        log_odds: Array = np.log(mean.clip(EPSILON)) - np.log((1 - mean).clip(EPSILON))
        return log_odds.astype(np.float32)

    def format_prediction(
        self, texts: Sequence[str], logits: Array, names: Sequence[str], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The probabilities are the model's own; the thresholds are applied in the prediction."""
        shifted = self.apply_thresholds(logits, None, config)
        (prediction,), (confidence,) = _names_of(shifted >= 0, names), _least_confidence(shifted)
        probabilities = dict(zip(names, sigmoid(logits[0]).tolist(), strict=True))
        return {"prediction": prediction, "confidence": float(confidence), "probabilities": probabilities}

    def limitations(self, names: Sequence[str]) -> str:
        return (
            f"A class is predicted if its probability reaches its value in `{THRESHOLDS}` of config.json, in the order "
            "of `id2label`; 0.5 if there is none. Other programs do not read this setting."
        )

    def usage(self, folder: str, data: Data) -> str:
        return text_usage(folder, ", top_k=None", data)


def _divergence(p: Array, q: Array) -> Array:
    result: Array = p * (np.log(p.clip(EPSILON)) - np.log(q.clip(EPSILON)))
    return result


def _least_confidence(logits: Array) -> Array:
    """The confidence (N,) of the least confident decision of each row."""
    probabilities = sigmoid(logits)
    confidence: Array = np.maximum(probabilities, 1 - probabilities).min(-1)
    return confidence


def _label_lists(rows: Rows, data: Data) -> list[list[object] | None] | None:
    """The labels of each row as they are in the data."""
    if data.label_column_name not in rows.columns:
        return None
    lists: list[list[object] | None] = []
    for index, value in enumerate(rows.column(data.label_column_name)):
        if isinstance(value, str):
            lists.append([name.strip() for name in value.split(SEPARATOR) if name.strip()])
        elif value is None or (isinstance(value, list) and all(isinstance(name, str | int) for name in value)):
            lists.append(value)
        else:
            raise InputError(
                f"expected a list of labels, found {value!r}",
                where=rows.location(index),
                hint=f"a list of names, or names separated by '{SEPARATOR}'",
            )
    return lists


def _names_of(selected: Array, names: Sequence[str]) -> list[list[str]]:
    return [[name for name, is_selected in zip(names, row, strict=True) if is_selected] for row in selected]
