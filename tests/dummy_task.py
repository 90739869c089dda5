"""Ratings: a task that only the tests have. The whole task is this file; its row is {"rating": Rating()}.

One text per row, one of C ratings in their order, 0 to C - 1. Head and problem type are those of text-classification.

Shapes: N rows, C ratings, R sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.metrics import Metric, Statistics
from tinybert_cli.tasks.base import PredictionTask
from tinybert_cli.tasks.encoding import encode_texts
from tinybert_cli.types import Array, Layout, Predictions, Rows


@dataclass(frozen=True)
class RatingMetric(Metric):
    """`closeness`: 1 - |error| / (C - 1), averaged; `exact`: share of correct ratings."""

    labels: Array  # (N,)
    highest: int  # C - 1

    @property
    def references(self) -> list[int]:
        references: list[int] = self.labels.tolist()
        return references

    def statistics(self, predictions: Predictions) -> Statistics:
        error = np.abs(np.asarray(predictions.values) - self.labels)[:, None]
        return {"rows": np.ones(error.shape), "error": error / self.highest, "exact": (error == 0).astype(float)}

    def from_sums(self, sums: Mapping[str, Array]) -> dict[str, Array]:
        rows = sums["rows"][:, 0]
        return {"closeness": 1 - sums["error"][:, 0] / rows, "exact": sums["exact"][:, 0] / rows}

    def row_scores(self, statistics: Statistics) -> Array:
        scores: Array = 1 - statistics["error"][:, 0]
        return scores

    def label_slices(self) -> dict[str, Array]:
        return {str(rating): self.labels == rating for rating in range(self.highest + 1)}

    def majority_baseline(self) -> float:
        errors = [np.abs(self.labels - rating).mean() for rating in range(self.highest + 1)]
        return float(1 - min(errors) / self.highest)


class Rating(PredictionTask):
    name = "rating"
    head = "sequence-classification"
    problem = "single_label_classification"
    pipeline = "text-classification"
    output_type = "class"
    main_metric = "closeness"
    metrics: ClassVar[Mapping[str, bool]] = {"closeness": True, "exact": True}
    slice_metric = "closeness"
    extra_metrics: ClassVar[Mapping[str, bool]] = {}
    has_confidence = False

    encode = staticmethod(encode_texts)

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        if model_names is not None:
            return list(model_names)
        return [f"{rating} stars" for rating in range(1 + max(rows.column(data.label_column_name)))]

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        return np.array(rows.columns[data.label_column_name]) if data.label_column_name in rows.columns else None

    def metric(self, rows: Rows, data: Data, names: Sequence[str]) -> RatingMetric | None:
        labels = self.labels(rows, data, names)
        return None if labels is None else RatingMetric(labels, len(names) - 1)

    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        if len(np.unique(labels)) < 2:
            raise InputError("all ratings are the same")

    def predictions(
        self, logits: Array, layout: Layout | None, names: Sequence[str], rows: Rows, data: Data
    ) -> Predictions:
        return Predictions(logits.argmax(-1).tolist(), logits=logits)

    def hard_labels(self, logits: Array, layout: Layout | None, min_confidence: float) -> tuple[Array, Array]:
        return logits.argmax(-1), np.ones(len(logits), dtype=bool)

    def fidelity(self, predictions: Predictions, reference: Predictions) -> dict[str, float]:
        return {"agreement": float(np.mean(np.asarray(predictions.values) == np.asarray(reference.values)))}

    def ensemble(self, logits: Sequence[Array], weights: Sequence[float], layout: Layout | None = None) -> Array:
        mean: Array = np.average(np.stack(logits), axis=0, weights=np.asarray(weights))
        return mean

    def format_prediction(
        self,
        texts: Sequence[str],
        logits: Array,
        layout: Layout | None,
        names: Sequence[str],
        config: Mapping[str, Any],
    ) -> dict[str, Any]:
        return {"prediction": "*" * int(logits.argmax()) or "no stars", "rating": int(logits.argmax())}

    def usage(self, folder: str, data: Data) -> str:
        return f'from transformers import pipeline\n\npipeline("text-classification", "{folder}")("A fine film.")'
