"""The teacher of a label dataset checked against gold labels, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinybert_cli import metrics, tasks
from tinybert_cli.config import Answers, GenSoftLabels
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import example_list, example_mapping
from tinybert_cli.metrics.comparison import best_class_order, confusion_matrix, mcnemar
from tinybert_cli.metrics.regression import RegressionMetric, other_scale
from tinybert_cli.types import Array, Predictions, Rows
from tinybert_cli.wording import counted

MOST_REORDERED = 1_000  # classes; the best order of more takes too long
MOST_CONFUSED = 20  # classes whose confusion is recorded
CHECKED_ROWS = 1_000  # enough to see that a teacher does not beat the majority-class baseline
RESAMPLES = 1_000  # for the 95 % interval
CLEARLY, CHANCE = 0.1, 0.001  # gain and p-value from which another order of the classes counts as better


@dataclass(frozen=True)
class CheckedRows:
    """Rows with gold labels."""

    split: str
    indices: list[int]
    metric: metrics.Metric
    has_names: bool  # whether the data has the names of the labels, not integers


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
            selected = rows.select(drawn.tolist())
            metric = task.metric(selected, config.data, names)
            has_names = any(_labels_of(value) & set(names) for value in selected.column(config.data.label_column))
            return None if metric is None else CheckedRows(split, drawn.tolist(), metric, has_names)
    return None


def _labels_of(value: Any) -> set[str]:
    """The texts in the gold value of a row: its label, or its tags."""
    return {label for label in (value if isinstance(value, list) else [value]) if isinstance(label, str)}


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
    checked: CheckedRows,
    names: Sequence[str],
    of_models: Sequence[Predictions] = (),
) -> TeacherCheck:
    """The teacher's score, and that of the majority-class baseline.

    Args:
        predictions: of all teachers together.
        of_models: those of each teacher that is a model, if there are several teachers: the others may hide its faults.

    Raises:
        InputError: the teacher does not beat the baseline, or its classes seem to be in another order, or its numbers
            on another scale.
    """
    main, metric = task.main_metric, checked.metric
    statistics = metric.statistics(predictions)
    score, majority = metrics.score(metric, predictions, statistics)[main], metric.majority_baseline()
    decisions = metric.class_logits(predictions)
    check_meaning(config, predictions, checked, names)
    for model, own in zip(config.model_names, of_models, strict=False):
        check_meaning(config, own, checked, names, model)
    if _beats(score, majority):
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
    raise InputError(
        f"the teacher does not beat the majority-class baseline: {main} {score:.3f}, majority {majority:.3f}",
        where=config.teacher_names,
        hint=hint,
    )


def weak_teacher(
    task: tasks.PredictionTask, predictions: Predictions, checked: CheckedRows, name: str
) -> Iterator[str]:
    """A warning if one of several teachers is no better than the majority-class baseline, which the others may hide."""
    main, metric = task.main_metric, checked.metric
    score = metrics.score(metric, predictions, metric.statistics(predictions))[main]
    majority = metric.majority_baseline()
    if not _beats(score, majority):
        yield (
            f"{name} alone does not beat the majority-class baseline on {counted(len(predictions), 'row')} with gold "
            f"labels: {main} {score:.3f}, majority {majority:.3f}"
        )


def _beats(score: float, majority: float) -> bool:
    return score > majority or score == majority == 1  # of rows with one label only


def check_meaning(
    config: GenSoftLabels,
    predictions: Predictions,
    checked: CheckedRows,
    names: Sequence[str],
    teacher: str | Answers | None = None,
) -> None:
    """InputError if the classes of a teacher seem to be in another order, or its numbers on another scale.

    Args:
        teacher: the one of several teachers whose predictions these are; None: those of all together.
    """
    if isinstance(checked.metric, RegressionMetric):
        _check_scale(config, predictions, checked.metric, teacher)
    decisions = checked.metric.class_logits(predictions)
    better = _better_order(*decisions) if decisions is not None and len(names) <= MOST_REORDERED else None
    if decisions is None or better is None:
        return
    order, share = better
    logits, gold = decisions
    if isinstance(teacher, str):
        outputs = ", ".join(names[gold] for gold in np.argsort(order))
        hint = f"its outputs seem to be {outputs}: {same_order(names)}"
    else:
        hint = _reordering(checked, names, order, only_answers=teacher is not None or not config.model_names)
    raise InputError(
        f"the labels of the teacher seem to be mixed up: {(logits.argmax(-1) == gold).mean():.3f} of its decisions are "
        f"right, and {share:.3f} in another order",
        where=_name(config, teacher),
        hint=f"{hint}; or set check_teacher: false",
    )


def _check_scale(
    config: GenSoftLabels, predictions: Predictions, metric: RegressionMetric, teacher: str | Answers | None
) -> None:
    """InputError if the numbers of a teacher follow the labels, but are no nearer to them than their mean is."""
    numbers = predictions.known_logits[:, 0]
    line = other_scale(numbers, metric.labels)
    if line is None:
        return
    slope, intercept = line
    added = "" if abs(intercept) < 1e-3 * float(np.ptp(metric.labels)) else f" {intercept:+.4g}"
    only_answers = isinstance(teacher, Answers) or not config.model_names
    ranges = [f"{values.min():.4g} to {values.max():.4g}" for values in (numbers, metric.labels)]
    raise InputError(
        f"the numbers of the teacher seem to have another scale: they are {ranges[0]}, the labels {ranges[1]}, and the "
        f"mean of the labels is nearer to these; label = {slope:.4g} * number{added} fits",
        where=_name(config, teacher),
        hint=f"{'convert the answers' if only_answers else 'fine-tune the teacher on this data first'}; or set "
        "check_teacher: false",
    )


def _name(config: GenSoftLabels, teacher: str | Answers | None) -> str:
    return teacher.name if isinstance(teacher, Answers) else teacher or config.teacher_names


def same_order(names: Sequence[str]) -> str:
    """What to do with one of several teachers whose classes have another order."""
    return f"fine-tune it again with {example_list(names)}, or leave it out"


def _better_order(logits: Array, gold: Array) -> tuple[list[int], float] | None:
    """The output of each class that fits the gold labels best, and the share of right decisions with this order.

    None if the outputs fit nearly as well in their own order.
    """
    order = best_class_order(logits, gold)
    own, other = logits.argmax(-1) == gold, logits[:, order].argmax(-1) == gold
    constant = np.bincount(gold).max() / len(gold)
    is_better = other.mean() > max(own.mean(), constant) + CLEARLY and mcnemar(other, own)["mcnemar_p"] < CHANCE
    return (order, float(other.mean())) if is_better else None


def _reordering(checked: CheckedRows, names: Sequence[str], order: Sequence[int], *, only_answers: bool) -> str:
    """What to change: what the answers or the outputs of the model are called, or the integers in the data."""
    if only_answers:
        pairs = ", ".join(f"{name}: {names[gold]}" for gold, name in enumerate(names[index] for index in order))
        return f"label_names: {{{pairs}}} below `teacher`"
    if checked.has_names:
        outputs = [names[gold] for gold in np.argsort(order)]
        return f"its outputs seem to be {', '.join(outputs)}: write them in this order into id2label of its config.json"
    integers = np.argsort(order)  # of each output
    mapping = example_mapping({str(integer): name for integer, name in zip(integers, names, strict=True)})
    return f"the integers in the data seem to mean other classes: set {mapping}"


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
