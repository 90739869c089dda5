"""inspect: what a data set or the data of a config looks like to the model, and what is suspicious about it."""

from __future__ import annotations

import random
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli import configuration, data, models, tasks
from tinybert_cli.config import Data, Stage
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.escaping import printable
from tinybert_cli.helpers import new_splits, text_lengths
from tinybert_cli.inspection import columns, findings
from tinybert_cli.types import Encoded, Rows

SPLITS: tuple[data.Split, ...] = ("train", "validation", "test", "unlabeled")
SAMPLE = 20_000  # rows of a split whose tokens are counted
UNLIMITED = 2**20  # tokens: no text is cut while its tokens are counted
MOST_LABELS = 30  # listed with their counts
EXAMPLE = 70  # characters of an example


@dataclass(frozen=True)
class Request:
    """What the user asks for on the command line."""

    source: Path
    overrides: Sequence[str] = ()
    task: str | None = None
    text: Sequence[str] = ()
    label: Sequence[str] = ()
    model: str | None = None


@dataclass(frozen=True)
class Subject:
    """The rows to inspect, how a config reads them, and the model that is to read them."""

    name: str
    task: tasks.Task
    data: Data
    rows: Mapping[str, Rows]
    model: str | None
    choices: Sequence[str] = ()  # what was guessed, with the option that changes it


@dataclass
class Inspection:
    """Everything that was seen, for the terminal or as JSON."""

    name: str
    task: str
    rows: dict[str, int]
    choices: list[str] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)  # class → rows, or statistics of numbers
    tokens: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)  # label → a text


def run(request: Request, checks: configuration.Checks) -> Iterator[Inspection]:
    """One inspection for a data set, or for each data set of a config or recipe.

    Args:
        checks: of the configs of all commands.

    Raises:
        ConfigErrors: the config is invalid.
        InputError: the data cannot be read or interpreted.
    """
    with new_splits.collected_warnings() as warnings:
        for subject in _subjects(request, checks):
            inspection = inspect(subject)
            inspection.warnings[:0] = warnings
            warnings.clear()
            yield inspection


def inspect(subject: Subject) -> Inspection:
    """All checks of one data set."""
    result = Inspection(
        subject.name, subject.task.name, {name: len(rows) for name, rows in subject.rows.items()}, [*subject.choices]
    )
    if isinstance(subject.task, tasks.PredictionTask):
        _add_labels(result, subject, subject.task)
    elif isinstance(subject.task, tasks.Translation):
        for name, rows in subject.rows.items():
            if name != "unlabeled":
                result.warnings += subject.task.pair_warnings(rows, subject.data)
    first = next(iter(subject.rows))
    result.warnings += findings.contradictions(subject.rows[first], subject.data, subject.task)
    result.warnings += findings.leaks(subject.rows, subject.data)
    for name, rows in subject.rows.items():
        result.remarks += findings.repeated(name, rows, subject.data)
    if subject.model is not None and isinstance(subject.task, tasks.PredictionTask | tasks.GenerationTask):
        _add_tokens(result, subject, subject.model)
    return result


# -- what to inspect -------------------------------------------------------------------------------------------


def _subjects(request: Request, checks: configuration.Checks) -> Iterator[Subject]:
    if request.source.suffix in (".yaml", ".yml") or "#" in request.source.name or _is_recipe(request.source):
        yield from _of_configs(request, checks)
    else:
        yield _of_data(request)


def _is_recipe(source: Path) -> bool:
    return source.is_dir() and any(path.suffix in (".yaml", ".yml") for path in source.iterdir())


def _of_configs(request: Request, checks: configuration.Checks) -> Iterator[Subject]:
    """Each data set of the stages once, with the model of the first stage that reads it."""
    given = {"--task": request.task, "--text": request.text, "--label": request.label}
    if options := [name for name, value in given.items() if value]:
        raise ConfigError(
            f"{', '.join(options)} are for data files; a config names its own",
            hint="change them by KEY=VALUE, for example data.text_column_names=body",
        )
    seen: list[tuple[str, Data]] = []
    for stage in configuration.load_recipe(request.source, request.overrides, checks):
        config = stage.config
        if (config.task, config.data) in seen:
            continue
        seen.append((config.task, config.data))
        splits = [split for split in SPLITS if data.has(config.data, split)]
        rows: dict[str, Rows] = {
            split: data.read(config.data, split) for split in splits if _exists(config.data, split)
        }
        if not rows:
            raise InputError(f"{stage.file}: no split of its data can be read", hint="set data.train_file")
        yield Subject(str(stage.file), tasks.find(config.task), config.data, rows, request.model or _model_of(config))


def _exists(settings: Data, split: data.Split) -> bool:
    """Whether the split can be read: a dataset need not have every one."""
    if getattr(settings, f"{split}_file", None) is not None:
        return True
    try:
        data.read(settings.model_copy(update={"max_train_samples": 1, "max_eval_samples": 1}), split)
    except InputError:
        if split == "train":
            raise
        return False
    return True


def _model_of(config: Stage) -> str | None:
    """The model that reads the rows, as far as it exists by now."""
    values = config.model_dump(by_alias=True)
    named = values.get("model") or values.get("student") or values.get("teacher") or values.get("models")
    if isinstance(named, Mapping):
        named = named.get("from") if "from" in named else next(iter(named.values()))
    return named[0] if isinstance(named, list) else named


def _of_data(request: Request) -> Subject:
    """A data file or a folder with splits, read as `tinybert init` reads it."""
    if request.overrides:
        raise ConfigError(
            f"KEY=VALUE is for configs, and '{request.source}' is none", hint="use --task, --text, --label or --model"
        )
    own = {"text_column_names": request.text, "label_column_name": request.label}
    settings = {key: names[0] if len(names) == 1 else list(names) for key, names in own.items() if names}
    read = new_splits.read_source(str(request.source), {}, settings)
    first = next(iter(read.rows.values()))
    guess = columns.guess(first, task=request.task, text=request.text, label=request.label)
    chosen: dict[str, Any] = {
        "text_column_names": guess.text[0] if len(guess.text) == 1 else guess.text,
        "label_column_name": guess.label,
    }
    if guess.separator is not None:
        chosen["label_separator"] = guess.separator
    label = guess.label if isinstance(guess.label, str) else ", ".join(guess.label)
    choices = [
        f"task: {guess.task}: {guess.reasons['task']} (--task)",
        f"text: {' + '.join(guess.text)}: {guess.reasons['text']} (--text)",
        f"label: {label}: {guess.reasons['label']} (--label)",
    ]
    settings = {key: value for key, value in read.settings.items() if key not in chosen}
    model = request.model or (None if guess.task == "translation" else text_lengths.default_model())
    read_by = Data.model_validate({**settings, **chosen})
    return Subject(str(request.source), tasks.find(guess.task), read_by, read.rows, model, choices)


# -- checks ----------------------------------------------------------------------------------------------------


def _add_labels(result: Inspection, subject: Subject, task: tasks.PredictionTask) -> None:
    """The labels of the first split with their counts, and an example of each."""
    first, rows = next(iter(subject.rows.items()))
    names = task.label_names(rows, subject.data, model_names=None)
    labels = task.labels(rows, subject.data, names)
    if labels is None:
        result.warnings.append(f"{first} has no labels: {tasks.no_labels_error(rows, subject.data).what}")
        return
    result.warnings += task.label_warnings(rows, subject.data, names)
    for name, part in subject.rows.items():
        if name not in (first, "unlabeled"):
            task.labels(part, subject.data, names)  # raises for a label that the first split does not have
    known = ~tasks.missing(labels)
    if task.output_type == "value":
        numbers = labels[known]
        result.labels = {
            "minimum": float(numbers.min()), "mean": float(numbers.mean()), "maximum": float(numbers.max()),
            "standard deviation": float(numbers.std()),
        }  # fmt: skip
    elif task.output_type == "span":
        answered = int((labels[:, 0] >= 0).sum())
        result.labels = {"with an answer": answered, "without an answer": int(known[:, 0].sum()) - answered}
    elif task.output_type == "classes":
        result.labels = dict(zip(names, map(int, np.nansum(labels, axis=0)), strict=True))
    else:
        result.labels = dict(zip(names, map(int, np.bincount(labels[known], minlength=len(names))), strict=True))
    if task.output_type == "class" and task.labels_of_rows is False and len(labels) == len(rows):
        for index, name in enumerate(names[:MOST_LABELS]):
            of_class = np.flatnonzero(labels == index)
            if len(of_class):
                result.examples[name] = _example(rows, subject.data, int(of_class[0]))
    if not known.all() and first == "train":
        count = int((~known).reshape(len(known), -1).any(axis=1).sum())
        result.warnings.append(f"{count:,} labels of {first} are missing; finetune needs all of them")


def _example(rows: Rows, settings: Data, index: int) -> str:
    texts = [rows.column(name)[index] for name in settings.text_columns]
    line = printable(" | ".join(" ".join(text) if isinstance(text, list) else str(text) for text in texts))
    return line if len(line) <= EXAMPLE else f"{line[:EXAMPLE]}..."


def _add_tokens(result: Inspection, subject: Subject, model: str) -> None:
    """Lengths in tokens, what `max_seq_length` cuts, and unknown tokens, of a sample of each split."""
    try:
        tokenizer = _tokenizer(subject, models.locate(model))
    except InputError as error:
        result.remarks.append(f"tokens were not counted: {error.what}; --model names another tokenizer")
        return
    most, first = subject.data.max_seq_length, next(iter(subject.rows))
    for split, rows in subject.rows.items():
        count = min(len(rows), SAMPLE)
        sample = rows.select(sorted(random.Random(0).sample(range(len(rows)), count)))
        encoded: Encoded = subject.task.encode(
            sample, subject.data.model_copy(update={"max_seq_length": UNLIMITED}), tokenizer
        )
        lengths = np.diff(encoded.offsets)
        cut = int((lengths > most).sum())
        result.tokens[split] = {
            "rows": count, "median": int(np.median(lengths)), "p95": int(np.quantile(lengths, 0.95, method="higher")),
            "longest": int(lengths.max()), "cut": cut, "max_seq_length": most, "model": model,
        }  # fmt: skip
        if hasattr(tokenizer, "all_special_ids"):
            result.tokens[split]["unknown"] = findings.unknown_share(encoded, tokenizer)
            if split == first:
                result.warnings += findings.unknown_tokens(split, encoded, tokenizer, model)
        windows = isinstance(subject.task, tasks.PredictionTask) and subject.task.splits_long_texts
        if cut > count / 100 and not windows and split == first:
            result.warnings.append(
                f"{cut:,} of {count:,} rows of {split} are longer than {most} tokens and will be cut; "
                f"data.max_seq_length={_next_length(result.tokens[split]['p95'])} cuts 5 % of them at most"
            )
        if encoded.empty:
            numbers = ", ".join(sample.location(row) for row in encoded.empty[:3])
            result.warnings.append(f"{len(encoded.empty):,} rows of {split} have no text: {numbers}")


def _tokenizer(subject: Subject, source: models.Source) -> Any:
    if not isinstance(subject.task, tasks.Translation):
        return models.load_tokenizer(source)
    settings = subject.data
    return models.load_translation_tokenizer(
        source, source_language=settings.source_language, target_language=settings.target_language
    )


def _next_length(tokens: int) -> int:
    return -(-tokens // 8) * 8


# -- output ----------------------------------------------------------------------------------------------------


def as_lines(result: Inspection, width: int | None) -> Iterator[str]:
    """The inspection as text, wrapped to `width` columns; None = not wrapped."""
    for line in _lines(result):
        indent = " " * (len(line) - len(line.lstrip()) + 2)
        yield from [line] if width is None else textwrap.wrap(line, width, subsequent_indent=indent)


def _lines(result: Inspection) -> Iterator[str]:
    yield result.name
    yield from (f"  {choice}" for choice in result.choices)
    if not result.choices:
        yield f"  task: {result.task}"
    yield f"  rows: {', '.join(f'{name} {count:,}' for name, count in result.rows.items())}"
    if result.labels:
        yield f"  labels of {next(iter(result.rows))}:"
        yield from _label_lines(result)
    for split, tokens in result.tokens.items():
        sample = f" (of {tokens['rows']:,} rows)" if tokens["rows"] < result.rows[split] else ""
        unknown = f"; {tokens['unknown']:.1%} unknown" if tokens.get("unknown", 0) >= 0.001 else ""
        yield (
            f"  tokens of {split}{sample}: median {tokens['median']:,}, 95 % up to {tokens['p95']:,}, longest "
            f"{tokens['longest']:,}; {tokens['cut']:,} rows above max_seq_length {tokens['max_seq_length']}{unknown}"
        )
    if result.tokens:
        yield f"  tokens are those of {next(iter(result.tokens.values()))['model']} (--model)"
    yield from (f"  {remark}" for remark in result.remarks)
    yield from (f"  warning: {warning}" for warning in result.warnings)
    if not result.warnings:
        yield "  no warnings"


def _label_lines(result: Inspection) -> Iterator[str]:
    counts = list(result.labels.items())
    total = sum(count for _, count in counts)
    width = max(len(printable(name)) for name, _ in counts[:MOST_LABELS])
    for name, count in counts[:MOST_LABELS]:
        share = f" {count / total:6.1%}" if isinstance(count, int) and total else ""
        number = f"{count:>9,}" if isinstance(count, int) else f"{count:>9,.4g}"
        example = f"  {result.examples[name]}" if name in result.examples else ""
        yield f"    {printable(name):<{width}} {number}{share}{example}"
    if len(counts) > MOST_LABELS:
        yield f"    ... and {len(counts) - MOST_LABELS:,} more"


def as_plain(result: Inspection) -> dict[str, Any]:
    """The inspection for --json."""
    return {
        "source": result.name, "task": result.task, "rows": result.rows, "labels": result.labels,
        "tokens": result.tokens, "warnings": result.warnings, "remarks": result.remarks, "examples": result.examples,
        "choices": result.choices,
    }  # fmt: skip
