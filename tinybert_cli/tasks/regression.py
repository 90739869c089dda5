"""Regression: one text or a pair of texts, one number."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.tasks.base import Exam, PredictionTask, Window, check_complete, encode_texts, text_usage
from tinybert_cli.types import Array, Rows


class Regression(PredictionTask):
    name = "regression"
    head = "sequence-classification"
    problem = "regression"
    pipeline = "text-classification"
    outputs = "value"
    main_metric = "pearson"
    metrics: ClassVar[Mapping[str, bool]] = {
        "pearson": True,
        "spearman": True,
        "r2": True,
        "mae": False,
        "loss": False,
    }
    confident = False
    sliced = "nearness"
    detailed = ("nearness",)

    encode = staticmethod(encode_texts)

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        """One name, that of the column: what the number is."""
        return list(model_names or [data.label_column_name])

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        if data.label_column_name not in rows.columns:
            return None
        values = rows.column(data.label_column_name)
        if all(value in (-1, None) for value in values):  # how the Hub marks the rows of a hidden test set
            return None
        return np.array([_number(value, rows, index) for index, value in enumerate(values)], dtype=np.float32)

    def exam(self, rows: Rows, data: Data, names: Sequence[str]) -> Exam | None:
        labels = self.labels(rows, data, names)
        if labels is None:
            return None
        check_complete(labels, rows)
        return ValueExam(labels, labels.tolist())

    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        check_complete(labels, rows)
        if np.ptp(labels) == 0:
            raise InputError(
                f"all {len(labels):,} rows have the same value, {labels[0]:g}: there is nothing to learn",
                where=rows.location(0),
                hint="check data.label_column_name",
            )

    def hard_answers(self, logits: Array, offsets: Array | None, min_confidence: float) -> tuple[Array, Array]:
        """A number has no confidence: every row is as sure as the others."""
        return logits[:, 0], np.full(len(logits), min_confidence == 0)

    def answers(
        self, logits: Array, offsets: Array | None, names: Sequence[str], rows: Rows, data: Data
    ) -> dict[str, list[Any]]:
        return {"prediction": logits[:, 0].tolist()}

    def reply(
        self, text: str, windows: Sequence[Window], names: Sequence[str], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        ((logits, _),) = windows
        return {"prediction": float(logits[0])}

    def limit(self, names: Sequence[str]) -> str:
        return (
            "It answers any text with a number, however far the text is from those that it learned from, and does not "
            "say how sure it is."
        )

    def fidelity(self, logits: Array, reference: Array, offsets: Array | None) -> dict[str, float]:
        """`agreement` is the correlation of both models' numbers (Pearson); and how far they are apart."""
        ours, theirs = logits[:, 0].astype(np.float64), reference[:, 0].astype(np.float64)
        agreement = 1.0 if np.array_equal(ours, theirs) else _pearson(ours, theirs)
        return {"agreement": agreement, "mean_difference": float(np.abs(ours - theirs).mean())}

    def ensemble(self, logits: Sequence[Array], weights: Sequence[float]) -> Array:
        """The weighted mean of the numbers."""
        mean: Array = np.average(logits, axis=0, weights=weights).astype(np.float32)
        return mean

    def usage(self, folder: str, *, pair: bool) -> str:
        return text_usage(folder, ', function_to_apply="none"', pair=pair)


@dataclass(frozen=True)
class ValueExam(Exam):
    """One number for every row: A = N, C = 1."""

    labels: Array  # (N,)
    words: list[float]

    def score(self, logits: Array) -> dict[str, float]:
        """Pearson's and Spearman's correlation, R², mean absolute error, and mean squared error as `loss`."""
        from scipy.stats import rankdata

        said, gold = logits[:, 0].astype(np.float64), self.labels.astype(np.float64)
        errors = said - gold
        return {
            "pearson": _pearson(said, gold),
            "spearman": _pearson(rankdata(said), rankdata(gold)),
            "r2": float(1 - (errors**2).sum() / ((gold - gold.mean()) ** 2).sum()) if np.ptp(gold) else 0.0,
            "mae": float(np.abs(errors).mean()),
            "loss": float((errors**2).mean()),
        }

    def details(self, logits: Array) -> dict[str, float]:
        return {"nearness": float(self.credit(logits).mean())}

    def resampled(self, logits: Array, *, resamples: int, seed: int) -> dict[str, Array]:
        count = len(self.labels)
        random = np.random.default_rng(seed)
        near = self.credit(logits)
        found: dict[str, list[float]] = {}
        for _ in range(resamples):
            rows = random.integers(count, size=count)
            drawn = ValueExam(self.labels[rows], [])
            for name, value in (drawn.score(logits[rows]) | {"nearness": float(near[rows].mean())}).items():
                found.setdefault(name, []).append(value)
        return {name: np.array(values) for name, values in found.items()}

    def discordant(self, logits: Array, reference: Array) -> dict[str, float]:
        """Rows on which one of both is further off, and Wilcoxon's signed-rank test of how much."""
        from scipy.stats import wilcoxon

        worse = np.abs(logits[:, 0] - self.labels) - np.abs(reference[:, 0] - self.labels)
        p = float(wilcoxon(worse).pvalue) if worse.any() else 1.0
        return {"rows_lost": int((worse > 0).sum()), "rows_won": int((worse < 0).sum()), "wilcoxon_p": p}

    def credit(self, logits: Array) -> Array:
        """1 for the gold number itself, 0 where it is missed by the spread of all of them or more (N,)."""
        near: Array = 1 - np.abs(logits[:, 0] - self.labels) / max(float(np.ptp(self.labels)), 1e-12)
        return near.clip(0, 1).astype(np.float64)

    def trivial(self) -> float:
        """A model that always says the same is in no order at all."""
        return 0.0

    def kinds(self) -> dict[str, Array]:
        low, high = np.quantile(self.labels, [1 / 3, 2 / 3])
        return {
            "low": self.labels <= low,
            "middle": (self.labels > low) & (self.labels <= high),
            "high": self.labels > high,
        }


def _number(value: object, rows: Rows, index: int) -> float:
    if value is None or value == "":
        return math.nan
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise InputError(f"'{value}' is no number", where=rows.location(index), hint="check data.label_column_name")
    return number


def _pearson(ours: Array, theirs: Array) -> float:
    """0 where either does not vary."""
    a, b = ours - ours.mean(), theirs - theirs.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / scale) if scale > 0 else 0.0
