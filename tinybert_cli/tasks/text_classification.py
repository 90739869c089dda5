"""Text classification: one text or a pair of texts, one of C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.metrics import classification
from tinybert_cli.tasks.base import Exam, PredictionTask, Window, check_complete, encode_texts, text_usage
from tinybert_cli.tasks.label_names import agreed_names, position_of, unknown_label
from tinybert_cli.types import NO_LABEL, Array, Rows


class TextClassification(PredictionTask):
    name = "text-classification"
    head = "sequence-classification"
    problem = "single_label_classification"
    pipeline = "text-classification"
    outputs = "class"
    main_metric = "accuracy"
    metrics: ClassVar[Mapping[str, bool]] = {
        "accuracy": True,
        "f1_macro": True,
        "mcc": True,
        "loss": False,
        "ece": False,
    }
    sliced = "accuracy"
    detailed = ("f1_weighted", "brier", "precision", "recall")

    encode = staticmethod(encode_texts)

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        values = rows.columns.get(data.label_column_name, [])
        for index, value in enumerate(values):
            if isinstance(value, (list, dict)):
                raise InputError(
                    f"a label is a name or a whole number, not {value!r}",
                    where=rows.location(index),
                    hint="several labels to a text are another task: multi-label-classification",
                )
        return agreed_names(rows, data, values, model_names=model_names)

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        if data.label_column_name not in rows.columns:
            return None
        position = {name: index for index, name in enumerate(names)}
        values = rows.column(data.label_column_name)
        if all(value == -1 for value in values):  # how the Hub marks the rows of a hidden test set
            return None
        labels = np.full(len(values), NO_LABEL, dtype=np.int64)
        for index, value in enumerate(values):
            if value not in (None, "") or value in position:
                place = position_of(value, position)
                if place is None:
                    raise unknown_label(value, names, rows.location(index))
                labels[index] = place
        return labels

    def exam(self, rows: Rows, data: Data, names: Sequence[str]) -> Exam | None:
        labels = self.labels(rows, data, names)
        if labels is None:
            return None
        check_complete(labels, rows)
        return ClassExam(labels, list(names), [names[label] for label in labels])

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

    def hard_answers(self, logits: Array, offsets: Array | None, min_confidence: float) -> tuple[Array, Array]:
        probabilities = classification.softmax(logits)
        sure = probabilities.max(-1) >= min_confidence
        return np.where(sure, probabilities.argmax(-1), NO_LABEL), sure

    def answers(
        self, logits: Array, offsets: Array | None, names: Sequence[str], rows: Rows, data: Data
    ) -> dict[str, list[Any]]:
        probabilities = classification.softmax(logits)
        best = probabilities.argmax(-1)
        return {"prediction": [names[i] for i in best], "confidence": probabilities.max(-1).tolist()}

    def reply(
        self, text: str, windows: Sequence[Window], names: Sequence[str], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        ((logits, _),) = windows
        shares = classification.softmax(logits)
        return {
            "prediction": names[int(shares.argmax())],
            "confidence": float(shares.max()),
            "probabilities": dict(zip(names, shares.tolist(), strict=True)),
        }

    def fidelity(self, logits: Array, reference: Array, offsets: Array | None) -> dict[str, float]:
        return classification.fidelity(logits, reference)

    ensemble = staticmethod(classification.ensemble)

    def usage(self, folder: str, *, pair: bool) -> str:
        return text_usage(folder, "", pair=pair)


@dataclass(frozen=True)
class ClassExam(Exam):
    """One of C classes for every row: A = N."""

    labels: Array  # (N,)
    names: list[str]
    words: list[str]

    def score(self, logits: Array) -> dict[str, float]:
        return classification.score(logits, self.labels)

    def details(self, logits: Array) -> dict[str, float]:
        return classification.details(logits, self.labels, self.names)

    def resampled(self, logits: Array, *, resamples: int, seed: int) -> dict[str, Array]:
        return classification.resampled(logits, self.labels, self.names, resamples=resamples, seed=seed)

    def discordant(self, logits: Array, reference: Array) -> dict[str, float]:
        return classification.discordant(self.credit(logits) == 1, self.credit(reference) == 1)

    def credit(self, logits: Array) -> Array:
        right: Array = logits.argmax(-1) == self.labels
        return right.astype(np.float64)

    def trivial(self) -> float:
        return float(np.bincount(self.labels).max() / len(self.labels))

    def best_order(self, logits: Array) -> tuple[list[int], float]:
        return classification.best_order(logits, self.labels)

    def calibrated(self, logits: Array) -> dict[str, float]:
        return classification.calibrated(logits, self.labels)

    def certainty(self, logits: Array) -> tuple[list[float], list[bool]]:
        return classification.softmax(logits).max(-1).tolist(), (logits.argmax(-1) == self.labels).tolist()

    def confusion(self, logits: Array) -> Array:
        return classification.confusion(logits, self.labels, len(self.names))
