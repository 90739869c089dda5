"""The teacher of a label dataset checked against gold labels, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinybert_cli import metrics, tasks
from tinybert_cli.config import GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.metrics.comparison import best_class_order, confusion_matrix
from tinybert_cli.types import Array, Predictions, Rows

MOST_REORDERED = 1_000  # classes; the best order of more takes too long
MOST_CONFUSED = 20  # classes whose confusion is recorded
CHECKED_ROWS = 1_000  # enough to see that a teacher does not beat the majority-class baseline
RESAMPLES = 1_000  # for the 95 % interval


@dataclass(frozen=True)
class CheckedRows:
    """Rows with gold labels."""

    split: str
    indices: list[int]
    metric: metrics.Metric


@dataclass(frozen=True)
class TeacherCheck:
    """The score of a teacher, and what it takes for what."""

    rows: int
    numbers: dict[str, float]  # teacher_<metric> with its interval, and majority_<metric>
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)  # gold → predicted → rows, or words

    def event(self) -> dict[str, Any]:
        confusion = {"confusion": self.confusion} if self.confusion else {}
        return {"event": "teacher check", "checked_rows": self.rows, **self.numbers, **confusion}


def check_gold_labels(config: GenSoftLabels, splits: Mapping[str, Rows], labels: Mapping[str, Array | None]) -> None:
    """InputError if the teacher is to be checked, and splits that have gold labels in other projects have none here."""
    expected = [split for split in splits if split != "unlabeled"]
    if not expected or any(labels[split] is not None for split in expected):
        return
    error = tasks.no_labels_error(splits[expected[0]], config.data)
    raise InputError(
        f"there are no gold labels to check the teacher with: {error.what}",
        where=error.where,
        hint=f"{error.hint}; or, without labels, set check_teacher: false",
    )


def rows_to_check(
    config: GenSoftLabels,
    task: tasks.PredictionTask,
    splits: Mapping[str, Rows],
    labels: Mapping[str, Array | None],
    names: Sequence[str],
    answered: Mapping[str, Array] | None = None,
) -> CheckedRows | None:
    """Up to CHECKED_ROWS rows with gold labels, drawn from the first split that has any.

    Args:
        answered: which rows (N,) of each split the teacher labels; None = all.
    """
    for split, rows in splits.items():
        gold = labels[split]
        if gold is None:
            continue
        indices = gold_rows(task, rows, config, gold)
        if answered is not None:
            indices = indices[answered[split][indices]]
        if len(indices):
            drawn = indices[np.sort(np.random.default_rng(config.seed).permutation(len(indices))[:CHECKED_ROWS])]
            metric = task.metric(rows.select(drawn.tolist()), config.data, names)
            return None if metric is None else CheckedRows(split, drawn.tolist(), metric)
    return None


def gold_rows(task: tasks.PredictionTask, rows: Rows, config: GenSoftLabels, gold: Array) -> Array:
    """The rows whose gold labels (P, ...) are complete."""
    complete: Array = np.asarray(~tasks.missing(gold).reshape(len(gold), -1).any(-1))
    if len(gold) == len(rows):
        return np.flatnonzero(complete)
    if task.name != "token-classification":
        return np.arange(len(rows) * bool(complete.all()))
    offsets = np.cumsum([0, *map(len, tasks.words_of(rows, config.data))])
    return np.array([row for row in range(len(rows)) if complete[offsets[row] : offsets[row + 1]].all()], dtype=int)


def check_teacher(
    config: GenSoftLabels,
    task: tasks.PredictionTask,
    predictions: Predictions,
    metric: metrics.Metric,
    names: Sequence[str],
) -> TeacherCheck:
    """The teacher's score, and that of the majority-class baseline.

    Raises:
        InputError: the teacher does not beat the baseline; says so if its classes seem to be in another order.
    """
    main = task.main_metric
    statistics = metric.statistics(predictions)
    score, majority = metrics.score(metric, predictions, statistics)[main], metric.majority_baseline()
    decisions = metric.class_logits(predictions)
    if score > majority or score == majority == 1:  # of rows with one label only
        numbers = {f"teacher_{main}": score, f"majority_{main}": majority}
        if config.answers:
            intervals = metrics.intervals(
                metric, predictions, statistics, [main], resamples=RESAMPLES, seed=config.seed
            )
            for low_or_high, value in zip(("low", "high"), intervals.get(main, ()), strict=False):
                numbers[f"teacher_{main}_{low_or_high}"] = value
        return TeacherCheck(len(predictions), numbers, {} if decisions is None else _confusion(*decisions, names))
    hint = "fine-tune the teacher on this data first, or set check_teacher: false"
    if not config.model_names:
        hint = (
            "what the answers call the labels may be mixed up: label_names below `teacher`; or set check_teacher: false"
        )
    if decisions is not None and len(names) <= MOST_REORDERED:
        logits, gold = decisions
        order = best_class_order(logits, gold)
        permuted = metrics.score(metric, Predictions(predictions.values, None, logits[:, order], predictions.layout))[
            main
        ]
        if permuted > max(majority, score) + 0.1:
            right = ", ".join(names[index] for index in order)
            hint = f"its classes seem to be {right}, in this order ({main} {permuted:.3f}): name the labels in the data"
            if not config.model_names:
                pairs = ", ".join(f"{name}: {names[gold]}" for gold, name in enumerate(names[i] for i in order))
                hint = f"the answers seem to mix up the labels ({main} {permuted:.3f} with label_names: {{{pairs}}})"
    raise InputError(
        f"the teacher does not beat the majority-class baseline: {main} {score:.3f}, majority {majority:.3f}",
        where=config.teacher_names,
        hint=hint,
    )


def _confusion(logits: Array, gold: Array, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """gold → predicted → how often, without zeros; empty for many classes."""
    if len(names) > MOST_CONFUSED:
        return {}
    matrix = confusion_matrix(logits, gold)
    return {
        name: {names[other]: int(count) for other, count in enumerate(row) if count}
        for name, row in zip(names, matrix, strict=True)
        if row.any()
    }
