"""inspect: what a data file, the data of a stage or that of a recipe holds, and what to change before training."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from tinybert_cli import configuration, data, input_limits, tasks
from tinybert_cli.config import Data, Distill, Eval, Export, Finetune, GenSoftLabels, Stage
from tinybert_cli.data.splits import with_label_names
from tinybert_cli.errors import ConfigErrors, InputError, did_you_mean
from tinybert_cli.escaping import printable, shell_word
from tinybert_cli.helpers import data_settings, new_splits, text_lengths
from tinybert_cli.inspection import columns, summary
from tinybert_cli.inspection.summary import Split, Summary
from tinybert_cli.types import Rows
from tinybert_cli.wording import counted

STREAMED = 16_384  # rows that are read of a stream
MOST_LABELS = 20  # rows of the table of labels
MOST_NAMED = 12  # columns in a line
WIDTH = 80  # of the table of labels
LABEL_WIDTH = 24


@dataclass(frozen=True)
class Request:
    """What the user asks for on the command line."""

    source: str
    overrides: Sequence[str] = ()
    """`KEY=VALUE` settings of the config; for data files `task`, `model` and those of `data`."""
    task: str | None = None
    text: Sequence[str] = ()
    label: Sequence[str] = ()
    model: str | None = None
    """Whose tokens are counted; None = the model that the training starts from."""

    def settings(self) -> list[str]:
        """All settings as `KEY=VALUE`."""
        given = {"data.text_column_names": self.text, "data.label_column_name": self.label}
        chosen = [f"{key}={json.dumps(names if len(names) > 1 else names[0])}" for key, names in given.items() if names]
        return [*self.overrides, *([] if self.task is None else [f"task={self.task}"]), *chosen]


@dataclass
class _Source:
    """The data to inspect, and the model that reads it."""

    name: str
    rows: dict[str, Rows]
    data: Data
    task: str
    models: Sequence[str]  # the first one that can be read counts the tokens
    lines: list[str] = field(default_factory=list)  # what was read, and how
    notes: list[str] = field(default_factory=list)
    next: str = ""


@dataclass(frozen=True)
class Inspection:
    """A summary of data, and how the data was read."""

    source: str
    task: str
    model: str | None  # whose tokens were counted
    data: Data
    lines: Sequence[str]
    notes: Sequence[str]
    next: str
    summary: Summary


def run(request: Request, checks: configuration.Checks) -> Iterator[Inspection]:
    """Reads and checks the data; one inspection for a data set, or for each data set of a recipe.

    Args:
        checks: of every command, see `configuration.load`.

    Raises:
        ConfigErrors: the config or a setting is invalid.
        InputError: the data cannot be read, or its task and columns are unclear.
    """
    is_config = _is_config(request.source)
    with new_splits.collected_warnings() as warnings:
        for read in _from_config(request, checks) if is_config else [_from_data(request)]:
            task = tasks.find(read.task)
            notes = list(read.notes)
            model, tokenizer, positions = _tokenizer(read, task, notes)
            result = summary.summarize(read.rows, read.data, task, tokenizer, model or "", positions)
            if is_config:
                result.errors[:0] = result.unlabeled
            else:  # `init` moves rows without a label to another file
                result.warnings[:0] = result.unlabeled
            result.warnings[:0] = dict.fromkeys(warnings)
            warnings.clear()
            yield Inspection(read.name, read.task, model, read.data, read.lines, notes, read.next, result)


# -- what is inspected -----------------------------------------------------------------------------------------


def _is_config(source: str) -> bool:
    """Whether it is a YAML file, a stage of one, or a folder of them."""
    path, _ = configuration.split_address(source)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix in (".yaml", ".yml")]
        return any(file.name == "recipe.yaml" or configuration.stage_of(file) for file in files)
    return path.suffix in (".yaml", ".yml")


def _from_config(request: Request, checks: configuration.Checks) -> Iterator[_Source]:
    """Each data set of the stages once."""
    path, name = configuration.split_address(request.source)
    command = None if path.is_dir() or name is not None else configuration.stage_of(path)
    if command is not None:
        stage = configuration.load(command, path, request.settings(), checks.get(command, {}))
        command_line = f"tinybert {command} {shell_word(request.source)}"
        yield _of_stage(stage, request.source, [stage], request.model, command_line)
        return
    stages = configuration.load_recipe(path, request.settings(), checks)
    if name is not None and name not in [stage.name for stage in stages]:
        raise ConfigErrors(
            f"the recipe has no stage '{name}'", hint=did_you_mean(name, [stage.name for stage in stages])
        )
    seen: list[tuple[str, Data]] = []
    for one in [stage for stage in stages if name in (None, stage.name)]:
        if (one.config.task, one.config.data) not in seen:
            seen.append((one.config.task, one.config.data))
            configs = [one.config, *(stage.config for stage in stages)]
            title = f"{path}, stage {one.name}"
            yield _of_stage(one.config, title, configs, request.model, f"tinybert run {shell_word(str(path))}")


def _of_stage(stage: Stage, name: str, stages: Sequence[Stage], model: str | None, following: str) -> _Source:
    """The rows of a stage.

    Args:
        stages: those whose models count the tokens; a model that does not exist yet is passed over.
    """
    settings = stage.data
    rows: dict[str, Rows] = {}
    notes = []
    for split in get_args(data.Split):
        if not data.has(settings, split):
            continue
        try:
            rows[split] = (
                data.first_rows(settings, split, STREAMED) if settings.streaming else data.read(settings, split)
            )
            if settings.streaming and len(rows[split]) == STREAMED:
                notes.append(f"{split} is a stream: only its first {STREAMED:,} rows were read")
        except InputError as error:
            if not rows or data.sources(settings, [split]).keys() != {"data.dataset_name"}:
                raise
            notes.append(f"{split} was not read: {error.what}")  # not every dataset of the Hub has every split
    if not rows:
        raise InputError("the config names no data", where=name, hint="set data.train_file")
    names = [model] if model is not None else [other for one in stages for other in _models_of(one)]
    files = "; ".join(f"{split}: {_origins(part)}" for split, part in rows.items())
    lines = [f"{name}: {files}", f"task: {stage.task}", *_column_lines(settings, stage.task)]
    return _Source(name, rows, settings, stage.task, list(dict.fromkeys(names)), lines, notes, following)


def _models_of(stage: Stage) -> list[str]:
    """The models whose tokenizer reads the texts."""
    match stage:
        case Finetune():
            return [stage.model.from_] if stage.model.from_ is not None else []
        case Distill():
            return [stage.student.from_] if stage.student.from_ is not None else []
        case GenSoftLabels():
            return stage.model_names
        case Eval():
            return list(stage.models.values())
        case Export():
            return [stage.model]
    return []


def _origins(rows: Rows) -> str:
    names = [origin for origin, _ in rows.origins]
    return f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"


def _from_data(request: Request) -> _Source:
    """A data file or folder: its task and columns are chosen as by `init`, unless they are given."""
    source, overrides = request.source, request.settings()
    config = data_settings.load(overrides)
    given = config.data.model_dump(exclude_unset=True)
    task_is_given = any(text.startswith("task=") for text in overrides)
    task = config.task if task_is_given else None
    given_model = config.model.from_ if config.model.from_ != data_settings.NO_MODEL else None
    model = request.model or given_model or text_lengths.default_model()
    read = new_splits.read_source(source, {}, given)
    rows = read.rows["train"]
    chosen = dict(given)
    total = sum(map(len, read.rows.values()))
    kind = new_splits.describe_source(source, Data.model_validate(read.settings))
    more = ", ..." if len(rows.columns) > MOST_NAMED else ""
    lines = [f"{source}: {kind}; {counted(total, 'row')}; columns {', '.join(list(rows.columns)[:MOST_NAMED])}{more}"]
    if task == "language-modeling" or (task is None and len(rows.columns) == 1):
        task = "language-modeling"
        chosen.setdefault("text_column_names", next(iter(rows.columns)))
        settings = Data.model_validate(chosen)
        lines += [f"task: {task}: texts without labels (--task)", *_column_lines(settings, task)]
    else:
        guess = _guess(rows, task, config.data, given)
        task = guess.task
        chosen["text_column_names"] = guess.text[0] if len(guess.text) == 1 else guess.text
        chosen["label_column_name"] = guess.label
        if guess.separator is not None:
            chosen["label_separator"] = guess.separator
        settings = Data.model_validate(chosen)
        label = guess.label if isinstance(guess.label, str) else ", ".join(guess.label)
        lines += [
            f"task: {task}: {guess.reasons['task']} (--task)",
            f"text: {' + '.join(guess.text)} (--text)",
            f"label: {label} (--label)",
        ]
    splits = {name: with_label_names(part, settings) for name, part in read.rows.items()}
    following = "" if task == "language-modeling" else _init_command(request, config.task if task_is_given else None)
    return _Source(source, splits, settings, task, [model], lines, [], following)


def _init_command(request: Request, task: str | None) -> str:
    """`init` for this data, with what was given for `inspect`: it chooses the same columns then."""
    options = {
        "--data": request.source, "--task": task, "--text": ",".join(request.text), "--label": ",".join(request.label),
        "--model": request.model,
    }  # fmt: skip
    words = [word for name, value in options.items() if value for word in (name, value)]
    settings = [setting for setting in request.overrides if setting.startswith("data.")]
    return " ".join(["tinybert init mine", *map(shell_word, [*words, *settings])])


def _guess(rows: Rows, task: str | None, settings: Data, given: Mapping[str, Any]) -> columns.Guess:
    label = settings.label_column_name
    return columns.guess(
        rows,
        task=task,
        text=settings.text_columns if "text_column_names" in given else (),
        label=([label] if isinstance(label, str) else label) if "label_column_name" in given else (),
        separator=settings.label_separator,
    )


def _column_lines(settings: Data, task: str) -> list[str]:
    lines = [f"text: {' + '.join(settings.text_columns)}"]
    return lines if task == "language-modeling" else [*lines, f"label: {settings.label_column}"]


def _tokenizer(read: _Source, task: tasks.Task, notes: list[str]) -> tuple[str | None, Any | None, int | None]:
    """The first model that can be read, its tokenizer, and the most tokens that it takes."""
    from tinybert_cli import models

    if isinstance(task, tasks.GenerationTask):
        notes.append("tokens are not counted in translation: the vocabulary belongs to the model")
        return None, None, None
    reason = "the config names no model"
    for name in read.models:
        try:
            source = models.locate(name)
            positions = input_limits.max_positions(models.read_config(source))
            return name, models.load_tokenizer(source), positions
        except InputError as error:
            reason = error.what if reason == "the config names no model" else reason
    notes.append(f"tokens are not counted: {reason}")
    return None, None, None


# -- output ----------------------------------------------------------------------------------------------------


def as_json(inspection: Inspection) -> dict[str, Any]:
    """Everything, for programs; lengths in tokens."""
    result = inspection.summary
    return {
        "source": inspection.source,
        "task": inspection.task,
        "model": inspection.model,
        "text_columns": inspection.data.text_columns,
        "label_column": None if inspection.task == "language-modeling" else inspection.data.label_column,
        "max_seq_length": inspection.data.max_seq_length,
        "splits": {name: _split_as_json(split, inspection.data) for name, split in result.splits.items()},
        "labels": [asdict(label) for label in result.labels],
        "facts": result.facts,
        "notes": list(inspection.notes),
        "errors": result.errors,
        "warnings": result.warnings,
    }


def _split_as_json(split: Split, settings: Data) -> dict[str, Any]:
    plain = {key: value for key, value in asdict(split).items() if key != "tokens"}
    if split.tokens is None:
        return {**plain, "tokens": None}
    tokens = split.tokens
    return {
        **plain,
        "tokens": {
            "p50": tokens.at(0.5), "p90": tokens.at(0.9), "p95": tokens.at(0.95), "p99": tokens.at(0.99),
            "max": tokens.lengths[-1], "longer_than_max_seq_length": tokens.share_above(settings.max_seq_length),
            "unknown": tokens.unknown, "unknown_words": list(tokens.unknown_words),
        },
    }  # fmt: skip


def split_table(inspection: Inspection) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of splits."""
    splits = inspection.summary.splits
    counted, length = any(split.tokens is not None for split in splits.values()), _limit(inspection)
    header = ["split", "rows", "repeated"]
    if counted:
        header += ["median", "95 %", "99 %", "max", *([f">{length}"] if length else []), "[UNK]"]
    return header, [_split_row(name, split, length) for name, split in splits.items()]


def _limit(inspection: Inspection) -> int | None:
    """The most tokens of a row; None in language modeling, which joins the rows and divides them into blocks."""
    return None if inspection.task == "language-modeling" else inspection.data.max_seq_length


def _split_row(name: str, split: Split, length: int | None) -> list[str]:
    row = [name, f"{split.rows:,}", f"{split.repeated:,}"]
    if split.tokens is not None:
        tokens = split.tokens
        row += [f"{number:,}" for number in (tokens.at(0.5), tokens.at(0.95), tokens.at(0.99), tokens.lengths[-1])]
        row += [*([f"{tokens.share_above(length):.1%}"] if length else []), f"{tokens.unknown:.1%}"]
    return row


def split_legend(inspection: Inspection) -> list[str]:
    """What the columns of the table mean."""
    result, lines = inspection.summary, ["repeated: rows whose text is also in an earlier row of the split"]
    sampled = [name for name, split in result.splits.items() if split.tokens and split.counted_rows < split.rows]
    if any(split.tokens for split in result.splits.values()):
        length = _limit(inspection)
        does = "are cut" if tasks.cuts_long_texts(tasks.find(inspection.task)) else "are split into windows"
        lines.append(f"median to max: tokens per row, counted with {inspection.model}")
        lines += [f">{length}: rows longer than max_seq_length, which {does}"] if length else []
        lines.append("[UNK]: tokens that stand for words that the vocabulary does not have")
    if sampled:
        lines.append(f"tokens were counted in {summary.SAMPLE:,} random rows of {', '.join(sampled)}")
    return lines


def label_table(inspection: Inspection) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of labels, most frequent first; at most 80 columns wide."""
    labels = inspection.summary.labels
    splits = [name for name in inspection.summary.splits if any(name in label.counts for label in labels)]
    ordered = sorted(labels, key=lambda label: -sum(label.counts.values()))[:MOST_LABELS]
    counts = [[f"{label.counts.get(name, 0):,}" for name in splits] for label in ordered]
    widths = [max(map(len, column)) for column in zip(splits, *counts, strict=True)]
    longest = max(len("label"), *(_width(summary.quoted(label.name)) for label in ordered))
    room = WIDTH - min(longest, LABEL_WIDTH) - sum(width + 2 for width in widths) - 4
    rows = [
        [
            _shortened(summary.quoted(label.name), LABEL_WIDTH),
            _shortened(" ".join(label.example.split()), max(10, room)),
            *numbers,
        ]
        for label, numbers in zip(ordered, counts, strict=True)
    ]
    return ["label", "example", *splits], rows


def messages(inspection: Inspection) -> list[str]:
    """What is to be known besides the tables: facts, notes, errors and warnings."""
    result = inspection.summary
    hidden = len(result.labels) - MOST_LABELS
    lines = [f"{hidden:,} more labels (--json lists all)"] if hidden > 0 else []
    lines += [*result.facts, *(f"note: {text}" for text in inspection.notes)]
    problems = [*(f"error: {text}" for text in result.errors), *(f"warning: {text}" for text in result.warnings)]
    return [*lines, *(problems or ["no problems were detected"])]


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in printable(text))


def _shortened(text: str, width: int) -> str:
    """The text, cut to so many columns of a terminal."""
    text = printable(text)
    if _width(text) <= width:
        return text
    while text and _width(text) > width - 3:
        text = text[:-1]
    return f"{text.rstrip()}..."
