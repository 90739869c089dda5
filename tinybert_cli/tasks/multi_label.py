"""Multi-label classification: one text or a pair of texts, any number of C classes, none included."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics.comparison import rank_correlation
from tinybert_cli.metrics.multi_label import THRESHOLDS, MultiLabelMetric
from tinybert_cli.metrics.probabilities import EPSILON, sigmoid
from tinybert_cli.tasks.base import PredictionTask, check_complete, missing, text_usage
from tinybert_cli.tasks.encoding import encode_texts
from tinybert_cli.tasks.label_lists import OTHER_SEPARATORS, SEPARATOR, combined_names, read_label_lists
from tinybert_cli.tasks.label_names import (
    agreed_names,
    are_names,
    check_equal,
    label_indices,
    label_statements,
    name_warnings,
    names_in_data,
    unknown_label,
)
from tinybert_cli.tasks.onnx_examples import CLASSES, text_example
from tinybert_cli.types import Array, Layout, Predictions, Rows


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
    extra_metrics: ClassVar[Mapping[str, bool]] = {
        "hamming_loss": False,
        "f1": True,
        "precision": True,
        "recall": True,
    }

    encode = staticmethod(encode_texts)

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        known = _known_names(rows, data) or model_names
        read = read_label_lists(rows, data, known)
        if isinstance(data.label_column_name, list):
            return _names_of_columns(data.label_column_name, rows, data, model_names)
        if read is not None and read.vectors is not None and known is None:
            length = next(len(row) for row in read.vectors if row is not None)
            return [str(index) for index in range(length)]
        labels = itertools.chain.from_iterable(row or [] for row in (read and read.lists) or [])
        return agreed_names(rows, data, labels, model_names=model_names)

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        """1 for every class of a row, else 0 (N, C); NaN in a row without labels."""
        read = read_label_lists(rows, data, names)
        if read is None:
            return None
        if read.vectors is not None:
            missing_row = [np.nan] * len(names)
            return np.array([missing_row if row is None else row for row in read.vectors], dtype=np.float32)
        labels = np.zeros((len(rows), len(names)), dtype=np.float32)
        index_of = label_indices(names)
        for row, values in enumerate(read.lists or []):
            if values is None:
                labels[row] = np.nan
            for value in values or []:
                index = index_of(value)
                if index is None:
                    raise unknown_label(value, names, rows.location(row))
                labels[row, index] = 1
        return labels

    def label_warnings(self, rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
        """Classes that look alike, look like several labels, or have no rows."""
        labels = self.labels(rows, data, names)
        counts = [0] * len(names) if labels is None else np.nansum(labels, axis=0).astype(int).tolist()
        given = _known_names(rows, data) is not None
        combined = [] if given else combined_names(names, (*OTHER_SEPARATORS, SEPARATOR))
        return [*name_warnings(dict(zip(names, counts, strict=True))), *combined]

    def label_statements(self, rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
        read = read_label_lists(rows, data, names)
        labels = itertools.chain.from_iterable(row or [] for row in (read and read.lists) or [])
        return label_statements(labels, rows, data, names)

    def labels_are_names(self, rows: Rows, data: Data, names: Sequence[str]) -> bool:
        read = read_label_lists(rows, data, names)
        if read is None or read.lists is None:
            return False
        return are_names(itertools.chain.from_iterable(row or [] for row in read.lists), names)

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

    def apply_thresholds(self, logits: Array, layout: Layout | None, settings: Mapping[str, Any]) -> Array:
        """Minus the logit of each class's threshold, so that a class is predicted from 0 on."""
        values = _thresholds(settings, logits.shape[-1])
        if values is None:
            return logits
        shifted: Array = (logits - (np.log(values) - np.log1p(-values))).astype(np.float32)
        return shifted

    def predictions(
        self, logits: Array, layout: Layout | None, names: Sequence[str], rows: Rows, data: Data
    ) -> Predictions:
        """The confidence of a row is that of its least confident decision."""
        return Predictions(_names_of(logits >= 0, names), _least_confidence(logits), logits)

    def hard_labels(self, logits: Array, layout: Layout | None, min_confidence: float) -> tuple[Array, Array]:
        probabilities = sigmoid(logits)
        confident = np.maximum(probabilities, 1 - probabilities) >= min_confidence
        return np.where(confident, probabilities >= 0.5, np.nan).astype(np.float32), confident.any(-1)

    def fidelity(self, predictions: Predictions, reference: Predictions) -> dict[str, float]:
        """`agreement`: share of rows with the same classes; `kl`: mean divergence from the reference per class."""
        logits, reference_logits = predictions.known_logits, reference.known_logits
        divergence = _divergence(reference_logits, logits) + _divergence(-reference_logits, -logits)
        return {
            "agreement": float(((logits >= 0) == (reference_logits >= 0)).all(-1).mean()),
            "kl": max(0.0, float(np.mean(divergence))),
            "confidence_correlation": rank_correlation(_least_confidence(reference_logits), _least_confidence(logits)),
        }

    def ensemble(self, logits: Sequence[Array], weights: Sequence[float], layout: Layout | None = None) -> Array:
        """The logits of the weighted mean of the probabilities; of a single model its logits."""
        if len(logits) == 1:
            return logits[0]
        mean = np.average([sigmoid(values) for values in logits], axis=0, weights=weights)
        log_odds: Array = np.log(mean.clip(EPSILON)) - np.log((1 - mean).clip(EPSILON))
        return log_odds.astype(np.float32)

    def mean_settings(
        self, settings: Sequence[Mapping[str, Any]], weights: Sequence[float], names: Sequence[str]
    ) -> dict[str, Any]:
        """The weighted mean of the thresholds: what all models decide, their mean probability decides, too."""
        own = [_thresholds(one, len(names)) for one in settings]
        if all(values is None for values in own):
            return {}
        complete = [np.full(len(names), 0.5) if values is None else values for values in own]
        return {THRESHOLDS: np.average(complete, axis=0, weights=weights).tolist()}

    def format_prediction(
        self,
        texts: Sequence[str],
        logits: Array,
        layout: Layout | None,
        names: Sequence[str],
        config: Mapping[str, Any],
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

    def onnx_example(self, data: Data, names: Sequence[str]) -> str:
        return text_example(CLASSES.format(thresholds=THRESHOLDS), pair=len(data.text_columns) == 2)

    def usage(self, folder: str, data: Data) -> str:
        return text_usage(folder, ", top_k=None", data)


def _thresholds(settings: Mapping[str, Any], classes: int) -> Array | None:
    """The thresholds (C,) in config.json; None if it has none.

    Raises:
        InputError: there is not one for each class, or one is not a probability.
    """
    thresholds = settings.get(THRESHOLDS)
    if thresholds is None:
        return None
    hint = "one number between 0 and 1 for each class, or none at all: then it is 0.5"
    if not isinstance(thresholds, list):
        raise InputError(f"`{THRESHOLDS}` in config.json is no list: {thresholds!r:.80}", hint=hint)
    if len(thresholds) != classes or not all(isinstance(one, int | float) and 0 < one < 1 for one in thresholds):
        raise InputError(
            f"config.json has {len(thresholds)} thresholds for {classes} classes, or one not in 0 to 1", hint=hint
        )
    return np.asarray(thresholds, dtype=np.float64)


def _divergence(reference: Array, logits: Array) -> Array:
    """p log(p / q) with p and q the probabilities of these logits; -log p is log(1 + exp(-logit))."""
    x, y = reference.astype(np.float64), logits.astype(np.float64)
    result: Array = sigmoid(x) * (np.logaddexp(0, -y) - np.logaddexp(0, -x))
    return result


def _least_confidence(logits: Array) -> Array:
    """The confidence (N,) of the least confident decision of each row."""
    probabilities = sigmoid(logits)
    confidence: Array = np.maximum(probabilities, 1 - probabilities).min(-1)
    return confidence


def _known_names(rows: Rows, data: Data) -> list[str] | None:
    columns = data.label_column_name
    return names_in_data(rows, data) or (columns if isinstance(columns, list) else None)


def _names_of_columns(columns: list[str], rows: Rows, data: Data, model_names: Sequence[str] | None) -> list[str]:
    """The names of one column per class: those of the columns, or those that the config gives them."""
    given = data.label_names
    names = [given.get(column, column) for column in columns] if isinstance(given, dict) else given or columns
    if len(names) != len(columns) or len(set(names)) < len(names):
        raise ConfigError(
            f"{len(columns)} columns in `data.label_column_name`, but `data.label_names` has {len(set(names))} names",
            key=("data", "label_names"),
            hint="one name per column, in the same order; or leave it out: the columns name the classes",
        )
    check_equal(names, model_names, rows)
    return names


def _names_of(selected: Array, names: Sequence[str]) -> list[list[str]]:
    return [[name for name, is_selected in zip(names, row, strict=True) if is_selected] for row in selected]
