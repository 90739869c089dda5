"""The metrics of answers that are spans of a context; shapes as in `spans`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tinybert_cli.metrics.answer_texts import exact_match, normalized, overlap
from tinybert_cli.metrics.base import Metric, Statistics, Sums, column
from tinybert_cli.metrics.span_targets import answer_tokens
from tinybert_cli.metrics.spans import BEGIN, best_spans, by_row, log_softmax, null_score
from tinybert_cli.types import Array, Layout, Predictions

NULL_THRESHOLD = "null_score_diff_threshold"  # in config.json, as in run_qa.py: abstain if score(null) exceeds the
# score of the best span by more than this
NEVER = 1e4  # the threshold with which the model never abstains
UNANSWERABLE = "accuracy_unanswerable"


@dataclass(frozen=True)
class SpanMetric(Metric):
    """F1 and exact match of SQuAD, for all rows, for answerable and for unanswerable ones; and cross-entropy."""

    labels: Array  # (N, 2) first character and end of the gold answer, or NO_ANSWER
    contexts: list[str]
    gold: list[list[str]]  # the gold answers of each row; empty: the context has none

    @cached_property
    def references(self) -> list[str]:
        return [answers[0] if answers else "" for answers in self.gold]

    def statistics(self, predictions: Predictions) -> Statistics:
        answers = [normalized(answer) for answer in predictions.values]
        f1 = np.array([overlap(answer, gold) for answer, gold in zip(answers, self._normalized_gold, strict=True)])
        exact = np.array(
            [exact_match(answer, gold) for answer, gold in zip(answers, self._normalized_gold, strict=True)]
        )
        answerable = np.array([bool(answers) for answers in self.gold])
        losses = [
            _cross_entropy(logits, spans, label)
            for (logits, spans), label in zip(
                by_row(predictions.known_logits, predictions.layout), self.labels, strict=True
            )
        ]
        return {
            "rows": np.ones((len(f1), 1)),
            "f1": column(f1),
            "exact_match": column(exact),
            "loss": column(np.nan_to_num(losses)),
            "rows_with_loss": column(~np.isnan(losses)),
            "answered": column([bool(answer) for answer in answers]),
            "answerable": column(answerable),
            "f1_answerable": column(f1 * answerable),
            "exact_match_answerable": column(exact & answerable),
            "exact_match_unanswerable": column(exact & ~answerable),
        }

    def from_sums(self, sums: Sums) -> dict[str, Array]:
        rows, answerable = sums["rows"][:, 0], sums["answerable"][:, 0]
        metrics = {name: sums[name][:, 0] / rows for name in ("f1", "exact_match", "answered")}
        metrics["loss"] = sums["loss"][:, 0] / np.maximum(sums["rows_with_loss"][:, 0], 1)
        if any(self.gold):
            for name in ("exact_match_answerable", "f1_answerable"):
                metrics[name] = sums[name][:, 0] / np.maximum(answerable, 1)
        if not all(self.gold):
            unanswerable = np.maximum(rows - answerable, 1)
            metrics[UNANSWERABLE] = sums["exact_match_unanswerable"][:, 0] / unanswerable
        return metrics

    def proportion(self, name: str, statistics: Statistics) -> tuple[Array, Array] | None:
        answerable = statistics["answerable"][:, 0]
        if name in ("f1", "exact_match", "answered"):
            return statistics[name][:, 0], np.ones(len(answerable))
        if name in ("f1_answerable", "exact_match_answerable"):
            return statistics[name][:, 0], answerable
        return (statistics["exact_match_unanswerable"][:, 0], 1 - answerable) if name == UNANSWERABLE else None

    def row_scores(self, statistics: Statistics) -> Array:
        return np.asarray(statistics["f1"][:, 0])

    def correct(self, statistics: Statistics) -> Array:
        right: Array = statistics["exact_match"][:, 0] == 1
        return right

    def label_slices(self) -> dict[str, Array]:
        """By the number of words of the gold answer."""
        counts = np.array([len(answers[0]) for answers in self._normalized_gold])
        slices = {
            "none": counts == 0,
            "1 word": counts == 1,
            "2-3 words": (counts > 1) & (counts < 4),
            "longer": counts > 3,
        }
        return {name: rows for name, rows in slices.items() if rows.any()}

    def majority_baseline(self) -> float:
        """The score of never answering."""
        return float(np.mean([not answers for answers in self.gold]))

    def tune_thresholds(self, logits: Array, layout: Layout | None = None) -> dict[str, Any]:
        """The threshold with the best F1, as `find_all_best_thresh` of SQuAD 2.0's evaluation script.

        If every row has an answer, the model never abstains, as in SQuAD 1.1.
        """
        if all(self.gold):
            return {NULL_THRESHOLD: NEVER}
        differences, gains = np.zeros(len(self.gold)), np.zeros(len(self.gold))
        for index, (values, spans) in enumerate(by_row(logits, layout)):
            begin, end, score = next(iter(best_spans(values, spans, 1)), (0, 0, -np.inf))
            answer = normalized(self.contexts[index][begin:end])
            differences[index] = min(NEVER, null_score(values, spans) - score)
            gains[index] = overlap(answer, self._normalized_gold[index]) - float(not self.gold[index])
        order = np.argsort(differences, kind="stable")
        totals = np.concatenate([[0.0], np.cumsum(gains[order])])  # of answering the 0, 1, 2, ... most confident rows
        ordered = differences[order]
        totals[1:-1][ordered[1:] == ordered[:-1]] = -np.inf  # equal differences cannot be separated
        count = int(totals.argmax())
        above = ordered[count] if count < len(order) else ordered[-1] + 2
        below = ordered[count - 1] if count else ordered[0] - 2
        return {NULL_THRESHOLD: float((above + below) / 2)}

    def confidences(self, predictions: Predictions, statistics: Statistics) -> tuple[Array, Array]:
        assert predictions.confidences is not None
        return predictions.confidences, self.correct(statistics)

    @cached_property
    def _normalized_gold(self) -> list[list[list[str]]]:
        """The gold answers of each row that have words, normalized; one without words if none has, as in SQuAD."""
        return [list(filter(None, map(normalized, answers))) or [[]] for answers in self.gold]


def _cross_entropy(logits: Array, token_spans: Array, label: Array) -> float:
    """Mean over begin and end, and over the windows that hold the answer; NaN if no window does."""
    begin, end = label
    tokens = [pair for pair in answer_tokens(token_spans, begin, end) if begin < 0 or token_spans[pair[0], BEGIN] >= 0]
    log_probabilities = log_softmax(logits, token_spans)
    values = [log_probabilities[first, 0] + log_probabilities[last, 1] for first, last in tokens]
    return -float(np.mean(values)) / 2 if values else np.nan
