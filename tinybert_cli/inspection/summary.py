"""What a data set holds, split by split, and what to change before a model is trained on it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tinybert_cli import tasks
from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.inspection import duplicates, vocabulary
from tinybert_cli.inspection.unlabelled_rows import unlabelled_rows
from tinybert_cli.inspection.vocabulary import TokenCounts
from tinybert_cli.label_values import as_number, in_quotes
from tinybert_cli.metrics.proportions import wilson
from tinybert_cli.tasks.label_names import of_positions
from tinybert_cli.types import Array, Rows
from tinybert_cli.wording import counted, verb

SAMPLE = 2_000  # rows of a split whose tokens are counted
WINDOWED = 0.5  # share of the rows that are split into windows: above it, there is a warning
CUT = 0.01  # share of the rows that are cut: above it, there is a warning
STEP = 8  # a proposed `max_seq_length` is a multiple
FEW = 10  # rows of a class
FEW_SCORED = 100  # validation rows
UNBALANCED = 10  # times as many rows of one class as of another
LISTED = 5


@dataclass(frozen=True)
class Split:
    """The rows of one split."""

    rows: int
    without_text: int
    without_label: int | None  # None = the split has no labels
    repeated: int  # rows whose text occurs in an earlier row
    tokens: TokenCounts | None  # of at most SAMPLE rows; None = not counted
    counted_rows: int = 0


@dataclass(frozen=True)
class Label:
    """A class, with its rows in each split and a row of it."""

    name: str
    counts: Mapping[str, int]
    example: str


@dataclass
class Summary:
    """The result of an inspection."""

    splits: dict[str, Split]
    labels: list[Label] = field(default_factory=list)  # in their order; empty: no classes
    facts: list[str] = field(default_factory=list)  # of labels that are no classes, and examples
    unlabeled: list[str] = field(default_factory=list)  # about rows without a label, which stop a stage
    errors: list[str] = field(default_factory=list)  # that would stop a stage
    warnings: list[str] = field(default_factory=list)


def summarize(
    splits: Mapping[str, Rows], data: Data, task: tasks.Task, tokenizer: Any | None, model: str, positions: int | None
) -> Summary:
    """Counts and checks all rows; tokens are counted in a sample.

    Args:
        tokenizer: of the model that the training starts from; None = tokens are not counted.
        positions: the most tokens that the model can take; None = no limit.

    Raises:
        InputError: a text column is missing, or a row has something else than text there.
    """
    result = Summary({})
    for name, rows in splits.items():
        result.splits[name] = _split(name, rows, data, task, tokenizer)
    _check_rows(result, splits, data, task)
    if isinstance(task, tasks.PredictionTask):
        _check_labels(result, splits, data, task)
    elif isinstance(task, tasks.Translation):
        _check_pairs(result, splits, data, task)
    for name in ("train", *duplicates.SCORED):
        if name in splits:
            result.warnings += duplicates.contradiction_warnings(name, splits[name], data, task.name)
    result.warnings += duplicates.leaks_between(splits, data)
    result.warnings += _token_warnings(result, splits, data, task, model, positions)
    return result


# -- rows and tokens -------------------------------------------------------------------------------------------


def _split(name: str, rows: Rows, data: Data, task: tasks.Task, tokenizer: Any | None) -> Split:
    columns = [rows.column(column) for column in data.text_columns]
    for column_name, column in zip(data.text_columns, columns, strict=True):
        for index, value in enumerate(column):
            if not isinstance(value, str | list) and value is not None:
                raise InputError(f"'{column_name}': expected text, found {value!r}", where=rows.location(index))
    tokens, sample = None, vocabulary.sample_of(len(rows), SAMPLE)
    if tokenizer is not None and len(rows):
        texts = [["" if column[index] is None else column[index] for index in sample] for column in columns]
        tokens = vocabulary.count_tokens(tokenizer, texts)
    return Split(
        len(rows),
        len(_without_text(rows, data)),
        None if name == "unlabeled" else _count(_without_label(rows, data, task)),
        duplicates.repeated(rows, data),
        tokens,
        len(sample),
    )


def _without_text(rows: Rows, data: Data) -> list[int]:
    columns = [rows.column(name) for name in data.text_columns]
    return [index for index, texts in enumerate(zip(*columns, strict=True)) if not all(map(_has_text, texts))]


def _has_text(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else bool(value)


def _without_label(rows: Rows, data: Data, task: tasks.Task) -> list[int] | None:
    names = data.label_columns
    if not isinstance(task, tasks.PredictionTask | tasks.Translation) or not all(
        name in rows.columns for name in names
    ):
        return None
    return unlabelled_rows(rows, task.name, names)


def _count(rows: list[int] | None) -> int | None:
    return None if rows is None else len(rows)


def _check_rows(result: Summary, splits: Mapping[str, Rows], data: Data, task: tasks.Task) -> None:
    for name, split in result.splits.items():
        if split.without_text and task.name != "language-modeling":
            at = _without_text(splits[name], data)
            what = "no text" if len(data.text_columns) == 1 else "an empty text"
            result.warnings.append(f"{_rows(len(at), name)} {what} ({_numbers(at, splits[name])}): remove them")
        if split.without_label and split.without_label < split.rows and name in ("train", *duplicates.SCORED):
            at = _without_label(splits[name], data, task) or []
            where = f" ({_numbers(at, splits[name])})" if at else ""
            result.unlabeled.append(
                f"{_rows(split.without_label, name)} no label{where}: add the labels, or move these rows to a file "
                "without labels, data.unlabeled_file; tinybert init does that"
            )
    scored = result.splits.get("validation")
    if isinstance(task, tasks.PredictionTask) and scored is not None and scored.rows < FEW_SCORED:
        low, high = wilson(0.9 * scored.rows, scored.rows)
        result.warnings.append(
            f"validation has {counted(scored.rows, 'row')}: the 95 % interval of an accuracy of 0.90 on them is "
            f"{low:.2f} to {high:.2f}; add rows"
        )


def _token_warnings(
    result: Summary,
    splits: Mapping[str, Rows],
    data: Data,
    task: tasks.Task,
    model: str,
    positions: int | None,
) -> Iterator[str]:
    """About the first split that has long texts, or unknown words; those of the others are in the table."""
    counted = {name: (split, split.tokens) for name, split in result.splits.items() if split.tokens is not None}
    for name, (split, tokens) in counted.items():
        above = tokens.share_above(data.max_seq_length)
        if tasks.cuts_long_texts(task) and above > CUT:
            yield _cut_warning(name, split, above, data.max_seq_length, positions, model)
            break
        if isinstance(task, tasks.PredictionTask) and not tasks.cuts_long_texts(task) and above > WINDOWED:
            yield _window_warning(name, tokens, above, data.max_seq_length, positions)
            break
    for name, (_, tokens) in counted.items():
        if tokens.unknown > vocabulary.UNKNOWN:
            texts = splits[name].head(SAMPLE).column(data.text_columns[0])
            yield vocabulary.unknown_message(name, tokens.unknown, tokens.unknown_words, texts, model)
            break


def _window_warning(name: str, tokens: TokenCounts, above: float, length: int, positions: int | None) -> str:
    wanted = min(-(-tokens.at(0.95) // STEP) * STEP, positions or 2**20)
    what = f"{above:.1%} of the rows of {name} are longer than max_seq_length {length} and are split into windows"
    if wanted <= length:
        return f"{what}, as the model takes no more"
    return f"{what}; with data.max_seq_length: {wanted} {1 - tokens.share_above(wanted):.0%} of them stay whole"


def _cut_warning(name: str, split: Split, cut: float, length: int, positions: int | None, model: str) -> str:
    assert split.tokens is not None  # the caller has checked it
    about = "about " if split.counted_rows < split.rows else ""
    wanted = -(-split.tokens.at(0.99) // STEP) * STEP
    what = f"{about}{cut:.1%} of the rows of {name} are longer than max_seq_length {length} and would be cut"
    if positions is not None and length >= positions:
        return f"{what}; {model} takes no more than {positions} tokens: split long texts, or start from another model"
    if positions is not None and wanted > positions:
        return f"{what}; set data.max_seq_length: {positions}, the most that {model} takes"
    return f"{what}; set data.max_seq_length: {wanted}, which cuts 1 % or less"


# -- labels ----------------------------------------------------------------------------------------------------


def _check_labels(result: Summary, splits: Mapping[str, Rows], data: Data, task: tasks.PredictionTask) -> None:
    """Labels as the stages read them; what would stop a stage is an error."""
    labelled = [name for name in ("train", *duplicates.SCORED) if result.splits.get(name) and name in splits]
    labelled = [name for name in labelled if result.splits[name].without_label is not None]
    arrays: dict[str, Array] = {}
    names: list[str] | None = None
    for name in labelled:
        try:
            names = names or task.label_names(splits[name], data, model_names=None)
            labels = task.labels(splits[name], data, names)
        except InputError as error:
            result.errors.append(f"{name}: {_on_one_line(error)}")
            continue
        if labels is None:
            result.warnings.append(f"the labels of {name} are withheld, so that models cannot be scored on it")
            continue
        arrays[name] = labels
        positions = of_positions(task.label_statements(splits[name], data, names))
        result.warnings += [f"{name}: {statement}" for statement in positions]
        if name == "train":
            result.warnings += task.label_warnings(splits[name], data, names)
            if not result.splits[name].without_label:
                try:
                    task.check_trainable(labels, names, splits[name])
                except InputError as error:
                    result.errors.append(f"{name}: {_on_one_line(error)}")
    if not arrays or names is None:
        if "train" in splits and not labelled:
            result.warnings.append(f"train has no column '{data.label_column}': finetune needs gold labels")
        return
    if task.output_type == "value":
        result.facts += [_range(name, labels) for name, labels in arrays.items()]
    elif task.output_type == "span":
        result.facts += [_answers(name, labels) for name, labels in arrays.items()]
    else:
        counts = {name: _counts(labels, len(names)) for name, labels in arrays.items()}
        examples = _examples(splits, arrays, names, data, task)
        result.labels = [
            Label(label, {name: count[index] for name, count in counts.items()}, examples[index])
            for index, label in enumerate(names)
        ]
        if "train" in arrays:
            result.warnings += class_warnings(arrays["train"], names, task)
        result.warnings += _new_classes(result.labels)
        if data.label_names is None and len(names) > 1 and all(as_number(name) is not None for name in names):
            result.warnings.append(
                f"the labels are numbers, and models would answer with them: set data.label_names to the names of "
                f"{', '.join(names[:LISTED])}{', ...' if len(names) > LISTED else ''} in this order"
            )


def _counts(labels: Array, classes: int) -> list[int]:
    if labels.ndim == 2:
        return [int(count) for count in np.nansum(labels, axis=0)]
    counts: list[int] = np.bincount(labels[labels >= 0], minlength=classes).tolist()
    return counts


def _examples(
    splits: Mapping[str, Rows],
    arrays: Mapping[str, Array],
    names: Sequence[str],
    data: Data,
    task: tasks.PredictionTask,
) -> list[str]:
    """The first text, or word, of each class; empty where it has none."""
    examples = [""] * len(names)
    for name, labels in arrays.items():
        texts: Sequence[Any] = _texts(splits[name], data, words=task.name == "token-classification")
        for index in range(len(names)):
            holders = np.flatnonzero(labels[:, index] == 1 if labels.ndim == 2 else labels == index)
            if not examples[index] and len(holders):
                examples[index] = next((texts[at] for at in holders[:LISTED] if texts[at].strip()), "")
    return examples


def _texts(rows: Rows, data: Data, *, words: bool) -> list[str]:
    columns = [rows.column(name) for name in data.text_columns]
    if words:
        return [str(word) for row in columns[0] for word in row or []]
    return [" | ".join(map(str, texts)) for texts in zip(*columns, strict=True)]


def _range(name: str, labels: Array) -> str:
    values = labels[~np.isnan(labels)]
    middle = np.median(values)
    return f"{name}: values from {values.min():g} to {values.max():g}, median {middle:g}, mean {values.mean():.3g}"


def _answers(name: str, labels: Array) -> str:
    lengths = [end - begin for begin, end in labels.tolist() if end > begin >= 0]
    usual = f", {int(np.median(lengths))} characters long (median)" if lengths else ""
    return f"{name}: {counted(len(lengths), 'question')} with an answer{usual}, {len(labels) - len(lengths):,} without"


def class_warnings(labels: Array, names: Sequence[str], task: tasks.PredictionTask) -> Iterator[str]:
    """Warnings about classes with few training rows, or with far fewer than another one.

    Args:
        labels: of the training rows.
    """
    known = {name: count for name, count in zip(names, _counts(labels, len(names)), strict=True) if count}
    few = [name for name, count in known.items() if count < FEW]
    unit = "words" if task.name == "token-classification" else "rows"
    if few:
        listed = ", ".join(f"{quoted(name)} {known[name]}" for name in few[:LISTED])
        more = ", ..." if len(few) > LISTED else ""
        remedy = f"add {unit}, or merge classes with data.label_names"
        yield f"classes with fewer than {FEW} training {unit}: {listed}{more}; {remedy}"
    if task.output_type == "class" and unit == "rows" and known:
        most, least = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
        ratio = known[most] / known[least]
        if ratio >= UNBALANCED:
            yield (
                f"{quoted(most)} has {ratio:.0f} times as many training rows as {quoted(least)}: look at "
                "f1_macro besides accuracy; class_weights: balanced in finetune gives rare classes more weight"
            )


def _new_classes(labels: Sequence[Label]) -> Iterator[str]:
    for split in duplicates.SCORED:
        new = [quoted(label.name) for label in labels if label.counts.get(split) and label.counts.get("train") == 0]
        if new:
            yield f"classes of {split} that train does not have: {', '.join(new[:LISTED])}; add training rows of them"


# -- translation -----------------------------------------------------------------------------------------------


def _check_pairs(result: Summary, splits: Mapping[str, Rows], data: Data, task: tasks.Translation) -> None:
    for name, rows in splits.items():
        try:
            result.warnings += task.check_pairs(rows, data) if name == "train" else task.pair_warnings(rows, data)
        except InputError as error:
            result.errors.append(f"{name}: {_on_one_line(error)}")
            continue
        if data.label_column in rows.columns and len(rows):
            sources, targets = rows.column(data.text_columns[0]), rows.column(data.label_column)
            ratio = np.median(
                [len(_first(target)) / len(source) for source, target in zip(sources, targets, strict=True)]
            )
            result.facts.append(f"{name}: a translation has {ratio:.2f} times the characters of its source (median)")


def _first(target: Any) -> str:
    return str(target[0]) if isinstance(target, list) else str(target)


def _on_one_line(error: InputError) -> str:
    where = f" ({error.where})" if error.where else ""
    return f"{error.what}{where}{f'; {error.hint}' if error.hint else ''}"


def quoted(name: str) -> str:
    """A class name, in quotes if it is empty or begins or ends with a space."""
    return name if name and name == name.strip() else in_quotes(name)


# -- words -----------------------------------------------------------------------------------------------------


def _rows(count: int, split: str) -> str:
    return f"{counted(count, 'row')} of {split} {verb(count, 'has', 'have')}"


def _numbers(indices: Sequence[int], rows: Rows) -> str:
    """Where the first rows are, as numbers in their files."""
    locations = [rows.location(index) for index in itertools.islice(indices, LISTED)]
    by_file = Counter(location.rpartition(", row ")[0] for location in locations)
    numbers = ", ".join(location.rpartition(", row ")[2] for location in locations)
    more = ", ..." if len(indices) > LISTED else ""
    return f"row {numbers}{more}" if len(by_file) == 1 else "; ".join(locations) + more
