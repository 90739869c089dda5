"""The splits that a config names, read from files, a local folder or the Hub, and warnings about their rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from tinybert_cli import events
from tinybert_cli.config import Data
from tinybert_cli.data import local_datasets
from tinybert_cli.data.hub_datasets import read_hub_dataset
from tinybert_cli.data.parallel_files import parallel_files, read_parallel
from tinybert_cli.data.parts import read_table
from tinybert_cli.data.readers import concatenate, existing_file, with_class_names
from tinybert_cli.errors import ConfigError, InputError, nearest
from tinybert_cli.label_values import HIDDEN, Matcher, as_number, example_mapping, is_missing
from tinybert_cli.types import Encoded, Rows
from tinybert_cli.wording import counted, verb

FIRST_ROWS = 5  # numbers of rows in a warning

Split = Literal["train", "validation", "test", "unlabeled"]


def has(data: Data, split: Split) -> bool:
    """Whether the config names rows for this split; a Hub dataset is assumed to have every split except `unlabeled`."""
    return bool(paths_of(data, split)) or (on_hub(data) and split != "unlabeled")


def sources(data: Data, splits: Iterable[Split]) -> dict[str, list[Path] | dict[str, str | None]]:
    """Where the splits are read from.

    Maps `data.<split>_file` to its files (or to its folder from save_to_disk), or `data.dataset_name` to the Hub id,
    configuration and revision.
    """
    result: dict[str, list[Path] | dict[str, str | None]] = {}
    for split in splits:
        if paths := [file for path in paths_of(data, split) for file in parallel_files(path).values() or [path]]:
            result[f"data.{split}_file"] = paths
        elif on_hub(data):
            result["data.dataset_name"] = {
                "hub_id": data.dataset_name,
                "config": data.dataset_config_name,
                "revision": data.dataset_revision,
            }
    return result


def read(data: Data, split: Split) -> Rows:
    """All rows of a split, cut to max_train_samples or max_eval_samples.

    Raises:
        ConfigError: the config names no source for this split.
        InputError: a source is missing, empty or unreadable; the message gives file and line.
    """
    if paths := paths_of(data, split):
        size = sum(path.stat().st_size for path in paths if path.is_file())
        rows = concatenate([_read_path(path, data, size) for path in paths])
    elif on_hub(data) and split != "unlabeled":
        rows = read_hub_dataset(data, split, split_name(data, split))
    else:
        raise no_source(data, split)
    if not len(rows):
        raise no_rows(origin for origin, _ in rows.origins)
    rows = with_label_names(rows, data)
    return rows.head(most_rows(data, split))


def most_rows(data: Data, split: Split) -> int | None:
    """The number of rows that the config limits a split to; None: all."""
    return data.max_train_samples if split in ("train", "unlabeled") else data.max_eval_samples


def no_source(data: Data, split: Split) -> InputError | ConfigError:
    """The error for a split that neither files nor a dataset have."""
    if data.dataset_name is None or split == "unlabeled":
        return ConfigError(f"no rows for the split '{split}'", key=("data",), hint=f"set data.{split}_file")
    folder, name = Path(data.dataset_name), split_name(data, split)
    return InputError(
        f"no files for the split '{name}' in '{folder}'; it has {local_datasets.contents(folder)}",
        where="data.dataset_name",
        hint=f"call them {name}.csv, {name}-00000-of-00002.parquet, ...; or set data.{split}_file",
    )


def no_rows(origins: Iterable[str]) -> InputError:
    """The error for files or a dataset without any row."""
    return InputError(f"no rows in {', '.join(origins)}", hint="the file has no data")


def with_label_names(rows: Rows, data: Data) -> Rows:
    """The rows, with the labels that the config maps, or the classes that the data names, replaced by its names.

    Raises:
        InputError: a label has no name.
    """
    column, classes = data.label_column, rows.class_names.get(data.label_column, [])
    if column not in rows.columns or data.class_names is None:
        return rows
    if isinstance(data.label_names, dict):
        names = dict(data.label_names)
        for index, name in enumerate(classes):  # the key of a class may be its name or its index
            if name not in names and str(index) in names:
                names[name] = names[str(index)]
    elif not classes or set(classes) == set(data.class_names):
        return rows
    elif len(classes) == len(data.class_names):
        names = dict(zip(classes, data.class_names, strict=True))
        _check_other_names(names, rows)
    else:
        raise InputError(
            f"data.label_names has {len(data.class_names)} names, but the data has {len(classes)} classes: "
            f"{', '.join(classes)}",
            where=rows.location(0),
            hint="one name for each, in this order; or leave label_names out",
        )

    matcher = Matcher(names)

    def name_of(value: Any, index: int) -> Any:
        if isinstance(value, list):
            return [name_of(label, index) for label in value]
        label = matcher.name(value)
        if label is not None:
            return names[label]
        if is_missing(value) or as_number(value) == HIDDEN:
            return value
        raise InputError(
            f"the label {value!r} has no name in data.label_names",
            where=rows.location(index),
            hint=f"labels with a name: {', '.join(names)}",
        )

    values = [name_of(value, index) for index, value in enumerate(rows.column(column))]
    class_names = {**rows.class_names, column: data.class_names}
    return replace(rows, columns={**rows.columns, column: values}, class_names=class_names)


def _check_other_names(names: dict[str, str], rows: Rows) -> None:
    """InputError if a list of names gives a class the name of another class of the data: the order is wrong."""
    taken = next(((own, name) for own, name in names.items() if name != own and name in names), None)
    if taken is not None:
        own, name = taken
        raise InputError(
            f"data.label_names gives the class '{own}' of the data the name '{name}', which another class has",
            where=rows.location(0),
            hint="list the names in the order of the classes of the data, "
            f"{', '.join(names)}; or, if it is meant, say which is which: {example_mapping(names)}",
        )


def row_warnings(split: str, encoded: Encoded, data: Data) -> Iterator[dict[str, Any]]:
    """Warnings about rows that were truncated or have no text."""
    count = len(encoded.offsets if encoded.layout is None else encoded.layout.row_offsets) - 1
    first = [row + 1 for row in encoded.empty[:FIRST_ROWS]]
    truncated, questions = encoded.truncated, encoded.cuts_questions
    yield from rows_warnings(split, count, truncated, len(encoded.empty), first, data, questions=questions)


def rows_warnings(
    split: str, count: int, truncated: int, empty: int, first: Iterable[int], data: Data, *, questions: bool = False
) -> Iterator[dict[str, Any]]:
    """The same, from their numbers among `count` rows, and the numbers of the first rows without text."""
    if truncated:
        share = f"{truncated:,} of {count:,} rows of {split} ({truncated / count:.1%})"
        are, were = verb(truncated, "is", "are"), verb(truncated, "was", "were")
        message = f"{share} {are} longer than {data.max_seq_length} tokens and {were} truncated"
        if questions:
            most = data.max_seq_length // 2
            what = f"a question of more than {most} tokens, half of max_seq_length, which was truncated"
            message = f"{share} {verb(truncated, 'has', 'have')} {what}"
        yield events.warning(message)
    if empty:
        have = f"{counted(empty, 'row')} of {split} {verb(empty, 'has', 'have')}"
        yield events.warning(f"{have} no text (row {', '.join(map(str, first))})")


def paths_of(data: Data, split: Split) -> list[Path]:
    """The files of a split: those that the config names, or those in a local dataset folder; empty if there are none.

    Raises:
        InputError: a file is missing or named twice, or it is not clear which files of the folder are the split.
    """
    value = {
        "train": data.train_file,
        "validation": data.validation_file,
        "test": data.test_file,
        "unlabeled": data.unlabeled_file,
    }[split]
    names = [value] if isinstance(value, str) else value or []
    paths = [Path(name) for name in names]
    for path in paths:
        for file in parallel_files(path).values() or [path]:
            existing_file(file, f"data.{split}_file")
    if repeated := [path for path in paths if paths.count(path) > 1]:
        raise InputError(f"'{repeated[0]}' is named twice", where=f"data.{split}_file", hint="name each file once")
    if paths or data.dataset_name is None or split == "unlabeled" or on_hub(data):
        return paths
    folder, name = Path(data.dataset_name), split_name(data, split)
    return local_datasets.split_paths(folder, name, data.dataset_config_name, key=f"data.{split}_file")


def on_hub(data: Data) -> bool:
    """Whether the dataset is one on the Hub.

    Raises:
        InputError: its name is that of a file, or of a folder that does not exist.
    """
    if data.dataset_name is None or Path(data.dataset_name).is_dir():
        return False
    path, parent = Path(data.dataset_name), Path(data.dataset_name).parent
    if path.is_file():
        raise InputError(f"'{path}' is a file", where="data.dataset_name", hint=f"set data.train_file: {path}")
    is_hub_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", data.dataset_name) and not data.dataset_name.startswith(".")
    if not is_hub_id or (parent != Path() and parent.is_dir()):
        suggestion = nearest(path.name, (child.name for child in parent.iterdir())) if parent.is_dir() else None
        raise InputError(f"there is no folder '{path}'", where="data.dataset_name", hint=suggestion)
    return True


def _read_path(path: Path, data: Data, size: int) -> Rows:
    """The rows of a file, of parallel text files, or of a folder from save_to_disk; `size`: bytes of all files."""
    if parallel_files(path):
        return read_parallel(path)
    return with_class_names(*local_datasets.read_saved(path)) if path.is_dir() else read_table(path, data, size=size)


def split_name(data: Data, split: Split) -> str:
    """The name of a split in the dataset."""
    names = {"train": data.train_split_name, "validation": data.validation_split_name, "test": data.test_split_name}
    return names.get(split, split)
