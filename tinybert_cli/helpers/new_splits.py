"""The splits of a new recipe: files as given, or parts of the training rows, without rows that cannot be used."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinybert_cli import strict_json
from tinybert_cli.config import Data
from tinybert_cli.data import delimited, local_datasets, parallel_files, readers, splits
from tinybert_cli.errors import InputError, nearest
from tinybert_cli.helpers import split_column
from tinybert_cli.inspection import splitting
from tinybert_cli.inspection.columns import Guess
from tinybert_cli.inspection.unlabelled_rows import unlabelled_rows
from tinybert_cli.label_values import all_hidden, as_boolean, as_number, as_text, in_quotes, is_missing
from tinybert_cli.types import Rows
from tinybert_cli.wording import counted, verb

SHARE = 0.15  # of the rows, for validation and for test
MOST_HELD_OUT = 5_000  # rows of validation and of test that are cut off
BINS = 10  # of numbers, to split them alike

SCORED = ("validation", "test")


@dataclass
class Splits:
    """The rows of each split, and where a recipe reads them."""

    rows: dict[str, Rows]
    settings: dict[str, Any]  # of `data`: the files as given
    new: set[str] = field(default_factory=set)  # splits that have to be written
    notes: list[str] = field(default_factory=list)


def read_source(source: str, given: Mapping[str, str | None], settings: Mapping[str, Any]) -> Splits:
    """All rows of the files, or of the folder, that the user names.

    Args:
        source: a data file, or a folder with splits.
        given: the files named for other splits.
        settings: of `data`, from the command line.

    Raises:
        InputError: a file or folder is missing, empty or unreadable.
    """
    files = {f"{name}_file": path for name, path in given.items() if path is not None}
    for path in (source, *files.values()):
        _check_exists(path)
    plain = {**settings, **_named_source(Path(source), settings), **files}
    data = Data.model_validate({key: value for key, value in plain.items() if key != "label_names"})
    result = Splits({}, plain)
    for name in ("train", *SCORED, "unlabeled"):
        if splits.has(data, name):  # type: ignore[arg-type]  # one of the names of Split
            result.rows[name] = splits.read(data, name)  # type: ignore[arg-type]
    _divide_by_column(result, data, plain)
    return result


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """The warnings of the readers, once each."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tinybert")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        messages[:] = dict.fromkeys(messages)


def describe_source(source: str, data: Data) -> str:
    """The kind of a data file, for the first line."""
    path = Path(source)
    if path.is_dir():
        return f"a folder with {local_datasets.contents(path)}"
    kind = readers.format_of(path)
    if kind in ("csv", "tsv"):
        default = "," if kind == "csv" else "\t"
        return f"{kind}, delimiter {delimited.delimiter_of(path, data, default=default)}"
    return "parallel text files" if parallel_files.parallel_files(path) else kind


def completed(read: Splits, guess: Guess, *, seed: int) -> Splits:
    """With the rows that can be used, and with validation and test rows cut off from train where there are none."""
    result = Splits(dict(read.rows), dict(read.settings), set(read.new), list(read.notes))
    for name in ("train", *SCORED):
        if name in result.rows:
            _leave_out(result, name, guess)
    rows = result.rows["train"]
    missing = [name for name in SCORED if name not in result.rows]
    if missing:
        context = guess.text[1:] if guess.task == "question-answering" else guess.text
        given = [result.rows[name] for name in SCORED if name in result.rows]
        free = _in_no_other(rows, given, context)
        if not free:
            raise InputError(
                f"every row of train is in another file, too: none is left for {' and '.join(missing)}",
                hint="name files: --validation FILE --test FILE",
            )
        divided = rows.select(free)
        shares = {name: min(SHARE, MOST_HELD_OUT / len(divided)) for name in missing}
        groups, parts = _divided(divided, context, _strata(divided, guess), shares, seed)
        for name in missing:
            result.rows[name] = divided.select(parts[name])
        held_out = {free[index] for name in missing for index in parts[name]}
        result.rows["train"] = rows.select([index for index in range(len(rows)) if index not in held_out])
        result.new |= {"train", *missing}
        result.notes += _together(divided, groups, context, whole=len(context) == len(guess.text))
        result.notes += _shared(result.rows, missing, context)
    _check_overlap(result, guess)
    if "unlabeled" in result.rows:
        _select_unlabeled(result, guess)
    return result


def _in_no_other(rows: Rows, given: Sequence[Rows], columns: Sequence[str]) -> list[int]:
    """The rows, by indices, with texts of no given split: test rows that are validation rows, too, are no test."""
    known = {key for other in given for key in _text_keys(other, columns, numbers=True)}
    return [index for index, key in enumerate(_text_keys(rows, columns, numbers=True)) if key not in known]


def _divided(
    rows: Rows, columns: Sequence[str], strata: Sequence[Hashable], shares: Mapping[str, float], seed: int
) -> tuple[list[list[int]], dict[str, list[int]]]:
    """The groups of rows that stay together, and the splits; numbers count, if nothing can be split without them."""
    groups = splitting.groups(rows, columns)
    try:
        return groups, splitting.split(groups, strata, shares, seed=seed)
    except InputError:
        groups = splitting.groups(rows, columns, numbers=True)
        return groups, splitting.split(groups, strata, shares, seed=seed)


def _shared(rows: Mapping[str, Rows], names: Sequence[str], columns: Sequence[str]) -> Iterator[str]:
    """Notes the rows of pairs one of whose texts is in train: one that many rows have does not keep them together."""
    for column in columns if len(columns) > 1 else ():
        known = {splitting.text_key(text) for text in rows["train"].column(column)}
        for name in names:
            count = sum(splitting.text_key(text) in known for text in rows[name].column(column))
            if count:
                total = len(rows[name])
                shared = f"{count:,} of {total:,} {name} rows {verb(count, 'shares its', 'share their')} {column}"
                yield f"{shared} with a row of train: for scores on new ones, name files (--validation, --test)"


def _together(rows: Rows, groups: Sequence[Sequence[int]], columns: Sequence[str], *, whole: bool) -> list[str]:
    """Notes the rows that are in one split with a row of equal or similar text; `whole`: `columns` are all texts."""
    joined = len(rows) - len(groups)
    equal = len(rows) - len({tuple(map(str, texts)) for texts in zip(*map(rows.column, columns), strict=True)})
    if not whole:
        return [_one_split(joined, "shares a context", "share a context", "with another one")] if joined else []
    notes = [_one_split(equal, "repeats", "repeat", "the text of another")] if equal else []
    similar = joined - equal
    if similar > 0:
        what = "from another only in case, punctuation, spaces or numbers"
        if len(columns) > 1:
            what += f", or {verb(similar, 'shares one of its', 'share one of their')} texts with it"
        notes.append(_one_split(similar, "differs", "differ", what))
    return notes


def _one_split(count: int, singular: str, plural: str, what: str) -> str:
    they = verb(count, "it is", "they are")
    return f"{counted(count, 'row')} {verb(count, singular, plural)} {what}: {they} in one split with it"


def as_jsonl(rows: Rows) -> Iterator[str]:
    """The rows as lines of JSON; dates and other values that JSON does not have are text."""
    names = list(rows.columns)
    for values in zip(*rows.columns.values(), strict=True):
        yield strict_json.dumps(json.loads(json.dumps(dict(zip(names, values, strict=True)), default=str)))


def _divide_by_column(result: Splits, data: Data, given: Mapping[str, Any]) -> None:
    """Divides the rows of a single file by its column with their splits, if it has one.

    Raises:
        InputError: a row has no split, or a split of the column is also given as a file.
    """
    named = [*data.text_columns, *data.label_columns]
    column = split_column.find(result.rows["train"], named) if "train_file" in given else None
    if column is None:
        return
    parts = split_column.divide(result.rows["train"], column)
    if twice := [name for name in parts if name != "train" and name in result.rows]:
        raise InputError(
            f"the column {in_quotes(column)} of {given['train_file']} has rows for {twice[0]}, and so has the file "
            f"{given[f'{twice[0]}_file']}",
            hint=f"leave out --{twice[0]}, or rename the column",
        )
    result.rows |= parts
    result.new |= parts.keys()
    result.notes.append(f"rows of {', '.join(parts)}: as the column {in_quotes(column)} divides them")


# -- sources ---------------------------------------------------------------------------------------------------


def _check_exists(source: str) -> None:
    path = Path(source)
    if path.exists() or parallel_files.parallel_files(path):
        return
    if readers.is_address(source):
        raise InputError(f"'{source}' is an address, not a file", hint="download the file, and name it")
    hint = nearest(path.name, (other.name for other in path.parent.iterdir())) if path.parent.is_dir() else None
    if "/" in source and not path.suffix and not path.parent.exists():
        hint = f"for a dataset of the Hub, download it first: hf download --repo-type dataset {source} --local-dir DIR"
    raise InputError(f"'{source}' does not exist", hint=hint)


def _named_source(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A folder with splits as `dataset_name`; a file, or the only one in a folder, as `train_file`."""
    if not path.is_dir():
        return {"train_file": str(path)}
    data = Data.model_validate({**settings, "dataset_name": str(path)})
    if splits.has(data, "train"):
        return {"dataset_name": str(path)}
    files = [file for file in sorted(path.iterdir()) if file.is_file() and readers.format_of(file) in readers.READERS]
    if len(files) == 1:
        return {"train_file": str(files[0])}
    raise InputError(
        f"no files for the split 'train' in '{path}'; it has {local_datasets.contents(path)}",
        hint="name one of them; for init, also: --data TRAIN --validation FILE --test FILE",
    )


# -- rows ------------------------------------------------------------------------------------------------------


def _leave_out(result: Splits, name: str, guess: Guess) -> None:
    """Leaves out rows without text; rows without a label become unlabelled ones, or are left out of a test split."""
    rows = result.rows[name]
    labels = [guess.label] if isinstance(guess.label, str) else guess.label
    texts = [rows.column(column) for column in guess.text]  # raises, with the columns of this file
    _check_texts(rows, [*guess.text, *(labels if guess.task == "translation" else [])], guess)
    if name in SCORED and any(column not in rows.columns or all_hidden(rows.columns[column]) for column in labels):
        missing = [column for column in labels if column not in rows.columns]
        why = f"{in_quotes(missing[0])} is no column of {rows.origins[0][0]}" if missing else "they have no labels"
        result.notes.append(f"the rows of {name} are not used for {name}: {why}")
        del result.rows[name]
        result.new.discard(name)
        result.settings = {key: value for key, value in result.settings.items() if key != f"{name}_file"}
        return
    with_text = [index for index in range(len(rows)) if all(_has_text(column[index]) for column in texts)]
    without = {*unlabelled_rows(rows, guess.task, labels)}
    labelled = [index for index in with_text if index not in without]
    if len(labelled) < len(rows):
        result.new.add(name)
        result.rows[name] = rows.select(labelled)
    if len(with_text) < len(rows):
        result.notes.append(f"{_have(len(rows) - len(with_text), name)} no text: left out")
    if len(labelled) < len(with_text):
        used = "used as unlabelled text" if name == "train" and "unlabeled" not in result.rows else "left out"
        result.notes.append(f"{_have(len(with_text) - len(labelled), name)} no label: {used}")
        if used != "left out":
            result.rows["unlabeled"] = rows.select(sorted({*with_text} - {*labelled}))
    blank = sum(rows.column(labels[0])[index] == "" for index in labelled)
    if blank and guess.task == "multi-label-classification":
        they = verb(blank, "it has", "they have")
        result.notes.append(f"{_have(blank, name)} an empty label cell: {they} none of the classes")
    if not labelled:
        raise InputError(f"no row of {name} has both a text and a label", where=rows.origins[0][0])


def _have(count: int, name: str) -> str:
    return f"{counted(count, 'row')} of {name} {verb(count, 'has', 'have')}"


def _has_text(value: object) -> bool:
    return bool(value.strip()) if isinstance(value, str) else bool(value) and not is_missing(value)


def _check_texts(rows: Rows, names: Sequence[str], guess: Guess) -> None:
    """InputError for a value in a text column that is no text, or no list of words: no stage reads it."""
    lists = guess.task == "token-classification"
    form = "a list of words" if lists else "text"
    for name in names:
        for index, value in enumerate(rows.columns.get(name, [])):
            is_words = isinstance(value, list) and all(isinstance(word, str) for word in value)
            if not (is_missing(value) or (is_words if lists else isinstance(value, str))):
                raise InputError(
                    f"'{name}': expected {form}, found {value!r:.80}",
                    where=rows.location(index),
                    hint=f"write each value as {form}, or name another column with --text",
                )


def _select_unlabeled(result: Splits, guess: Guess) -> None:
    """The unlabelled rows with the text columns of the others, without texts of validation and test."""
    rows = result.rows["unlabeled"]
    if len(guess.text) == 1 and guess.text[0] not in rows.columns and len(rows.columns) == 1:
        rows = Rows({guess.text[0]: next(iter(rows.columns.values()))}, rows.origins)
    _check_texts(rows, guess.text, guess)
    known = {key for name in SCORED for key in _keys(result.rows[name], guess)}
    keys = list(_keys(rows, guess))
    selected = [index for index, key in enumerate(keys) if key not in known and any(key)]
    if len(selected) < len(rows):
        count = len(rows) - len(selected)
        are = f"{counted(count, 'unlabelled text')} {verb(count, 'is', 'are')}"
        result.notes.append(f"{are} empty, or in validation or test: left out")
    texts = Rows({name: rows.column(name) for name in guess.text}, rows.origins)
    result.rows["unlabeled"] = texts.select(selected)
    result.new.add("unlabeled")
    if not selected:
        del result.rows["unlabeled"]
        result.new.discard("unlabeled")


def _check_overlap(result: Splits, guess: Guess) -> None:
    """Notes rows of given validation and test files whose text is also in train; numbers make a difference."""
    train = set(_keys(result.rows["train"], guess, numbers=True))
    for name in SCORED:
        count = sum(key in train for key in _keys(result.rows[name], guess, numbers=True))
        if count:
            total = len(result.rows[name])
            what = f"{verb(count, 'is', 'are')} in train, too, apart from case, punctuation and spaces"
            result.notes.append(f"{count:,} of {total:,} {name} rows {what}: scores on them are too good")


def _keys(rows: Rows, guess: Guess, *, numbers: bool = False) -> Iterator[tuple[str, ...]]:
    return _text_keys(rows, guess.text, numbers=numbers)


def _text_keys(rows: Rows, names: Sequence[str], *, numbers: bool) -> Iterator[tuple[str, ...]]:
    for texts in zip(*map(rows.column, names), strict=True):
        yield tuple(splitting.text_key(text, numbers=numbers) for text in texts)


# -- strata ----------------------------------------------------------------------------------------------------


def _strata(rows: Rows, guess: Guess) -> list[Hashable]:
    """What is to be split alike: the label; of several the rarest; of a number the tenth in which it is."""
    if guess.task == "translation":
        return [None] * len(rows)
    if isinstance(guess.label, list):
        names, columns = guess.label, [rows.column(name) for name in guess.label]
        flags = zip(*columns, strict=True)
        return _rarest([[name for name, flag in zip(names, row, strict=True) if _is_set(flag)] for row in flags])
    values = rows.column(guess.label)
    if guess.task == "question-answering":
        return [bool(value) and bool(value.get("text", True) if isinstance(value, dict) else True) for value in values]
    if guess.task == "token-classification":
        return _rarest(
            [sorted({as_text(tag).partition("-")[2] or as_text(tag) for tag in row or []}) for row in values]
        )
    if guess.task == "multi-label-classification":
        return _rarest([_labels_of(value, guess.separator) for value in values])
    if guess.task == "regression":
        return _bins([_number(value) for value in values])
    return list(map(as_text, values))


def _is_set(flag: object) -> bool:
    return as_boolean(flag) == "true" or bool(as_number(flag))


def _labels_of(value: Any, separator: str | None) -> list[str]:
    if isinstance(value, list):
        return list(map(as_text, value))
    cell = str(value).strip("[](){} ")
    return [part.strip(" '\"") for part in cell.split(separator or ",") if part.strip()]


def _rarest(labels: Sequence[Sequence[str]]) -> list[Hashable]:
    counts = Counter(label for row in labels for label in row)
    return [min(row, key=lambda label: (counts[label], label), default=None) for row in labels]


def _bins(numbers: Sequence[float]) -> list[Hashable]:
    order = sorted(range(len(numbers)), key=lambda index: (numbers[index], index))
    bins: list[Hashable] = [0] * len(numbers)
    for rank, index in enumerate(order):
        bins[index] = rank * BINS // len(numbers)
    return bins


def _number(value: Any) -> float:
    return float(str(value).replace(",", "."))
