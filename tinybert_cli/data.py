"""Rows in, batches out: reading files and datasets, and grouping rows of like length."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError, did_you_mean

Split = Literal["train", "validation", "test", "unlabeled"]
Array = np.ndarray[Any, np.dtype[Any]]

NO_LABEL = -100  # the class of a row that has none
POOL = 50  # batches that are sorted together: enough to leave next to no padding, few enough to stay random


@dataclass(frozen=True)
class Rows:
    """Some rows, column by column, and where each came from."""

    columns: dict[str, list[Any]]
    origins: tuple[tuple[str, int], ...]  # (file or dataset, number of its rows), in order
    label_names: list[str] | None = None  # if the data itself says so
    chosen: list[int] | None = None  # which of the rows there these are; None = all

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def column(self, name: str) -> list[Any]:
        """One column; InputError with the names that there are if it is missing."""
        if name not in self.columns:
            where = ", ".join(origin for origin, _ in self.origins)
            raise InputError(
                f"no column '{name}' in {where}",
                hint=f"{did_you_mean(name, self.columns)}; columns here: {', '.join(self.columns)}",
            )
        return self.columns[name]

    def place(self, index: int) -> str:
        """`file, row 17` for a complaint about row `index`; rows count from 1."""
        index = index if self.chosen is None else self.chosen[index]
        for origin, count in self.origins:
            if index < count:
                return f"{origin}, row {index + 1}"
            index -= count
        raise IndexError(index)

    def head(self, count: int | None) -> Rows:
        """The first `count` rows, or all."""
        return self if count is None or count >= len(self) else self.select(range(count))

    def select(self, rows: Sequence[int]) -> Rows:
        """Only these rows; complaints about them still say where they stand."""
        columns = {name: [values[row] for row in rows] for name, values in self.columns.items()}
        chosen = [row if self.chosen is None else self.chosen[row] for row in rows]
        return Rows(columns, self.origins, self.label_names, chosen)


def has(data: Data, split: Split) -> bool:
    """Whether the config names rows for this split; a dataset on the Hub is taken to have all but unlabeled ones."""
    on_hub = data.dataset_name is not None and not Path(data.dataset_name).is_dir()
    return _files(data, split) is not None or (on_hub and split != "unlabeled")


def sources(data: Data, splits: Iterable[Split]) -> dict[str, list[Path] | dict[str, str | None]]:
    """What the splits are read from: `data.<split>_file` → the files, or `data.dataset` → its name and revision."""
    found: dict[str, list[Path] | dict[str, str | None]] = {}
    for split in splits:
        files = _files(data, split)
        if files:
            found[f"data.{split}_file"] = [_existing(Path(file), split) for file in files]
        elif data.dataset_name and Path(data.dataset_name).exists():
            found["data.dataset_name"] = [Path(data.dataset_name)]
        elif data.dataset_name:
            found["data.dataset_name"] = {
                "hub_id": data.dataset_name,
                "config": data.dataset_config_name,
                "revision": data.dataset_revision,
            }
    return found


def read(data: Data, split: Split) -> Rows:
    """All rows of a split, cut to max_train_samples or max_eval_samples.

    Raises:
        ConfigError: the config names no source for this split.
        InputError: a source is missing, empty or unreadable; says file and line.
    """
    files = _files(data, split)
    if files:
        rows = _joined([_read_file(_existing(Path(file), split)) for file in files])
    elif data.dataset_name and split != "unlabeled":
        rows = _read_dataset(data, split)
    else:
        raise ConfigError(f"no rows for the split '{split}'", key=("data",), hint=f"set data.{split}_file")
    if not len(rows):
        raise InputError(f"no rows in {', '.join(origin for origin, _ in rows.origins)}", hint="the file has no data")
    return rows.head(data.max_train_samples if split in ("train", "unlabeled") else data.max_eval_samples)


def text_columns(data: Data) -> list[str]:
    """The names of the text columns, one or two."""
    return [data.text_column_names] if isinstance(data.text_column_names, str) else list(data.text_column_names)


def remarks(split: str, encoded: Encoded, data: Data) -> Iterator[dict[str, Any]]:
    """Warnings about rows that were cut or say nothing."""
    count = len(encoded.offsets) - 1
    if encoded.truncated:
        share = f"{encoded.truncated:,} of {count:,} rows of {split} ({encoded.truncated / count:.1%})"
        yield {"event": "warning", "message": f"{share} are longer than {data.max_seq_length} tokens and were cut"}
    if encoded.empty:
        where = ", ".join(str(row + 1) for row in encoded.empty[:5])
        yield {"event": "warning", "message": f"{len(encoded.empty):,} rows of {split} have no text (row {where})"}


def overlap(train: Rows, other: Rows, data: Data) -> Iterator[dict[str, Any]]:
    """A warning if rows of train stand in the evaluation rows too: scores on them flatter."""
    names = text_columns(data)
    seen = set(zip(*(train.column(name) for name in names), strict=True))
    twice = sum(row in seen for row in zip(*(other.column(name) for name in names), strict=True))
    if twice:
        yield {"event": "warning", "message": f"{twice:,} of {len(other):,} evaluation rows are in train as well: "
               "the scores will flatter"}  # fmt: skip


# -- label datasets ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """A label dataset: the rows that a teacher was shown, and its logits (N, C)."""

    rows: Rows
    logits: Array

    def select(self, rows: Array) -> Labels:
        return Labels(self.rows.select(rows.tolist()), self.logits[rows])

    def head(self, count: int | None) -> Labels:
        return self if count is None else self.select(np.arange(min(count, len(self.rows))))


def read_labels(folder: Path, files: Iterable[str]) -> Labels:
    """The train and unlabeled rows of a label dataset; what it holds of other splits is not for training."""
    shards = sorted(name for name in files if name.startswith(("train-", "unlabeled-")))
    if not shards:
        raise InputError(f"'{folder}' has no rows of train or unlabeled", hint="gen-soft-labels: splits: [train]")
    parts = [_read_file(folder / name) for name in shards]
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    columns = {name: [v for part in parts for v in part.columns.get(name, [None] * len(part))] for name in names}
    logits = np.asarray(columns.pop("teacher_logits"), dtype=np.float32)
    return Labels(Rows(columns, tuple(origin for part in parts for origin in part.origins)), logits)


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Columns as one Parquet file, with page checksums."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(dict(columns)), path, write_page_checksum=True)


def write_labels(path: Path, rows: Rows, logits: Array, *, columns: Mapping[str, Sequence[Any]], dtype: str) -> None:
    """One shard: the input columns, the `columns` of answers, and teacher_logits (N, C)."""
    import pyarrow as pa

    flat = pa.array(logits.astype(dtype).ravel(), type=pa.float16() if dtype == "float16" else pa.float32())
    answers = pa.FixedSizeListArray.from_arrays(flat, logits.shape[-1])
    write_table(path, {**rows.columns, **columns, "teacher_logits": answers})


def existing_folder(name: str, key: str) -> Path:
    """A folder that an earlier stage wrote; InputError with near names if it is not there or not finished."""
    path = Path(name)
    if not path.is_dir():
        near = did_you_mean(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
        raise InputError(
            f"there is no folder '{name}'",
            where=key,
            hint=near or "run the stage that writes it first: gen-soft-labels",
        )
    if not (path / "manifest.json").exists():
        what = "unfinished: run gen-soft-labels again" if (path / "checkpoints").exists() else "not a label dataset"
        raise InputError(f"'{name}' is {what}", where=key, hint="it has no manifest.json, which is written last")
    return path


# -- files ---------------------------------------------------------------------------------------------------


def _files(data: Data, split: Split) -> list[str] | None:
    """The files of a split: named one by one, or found in a local dataset folder by the split's name."""
    value = {
        "train": data.train_file,
        "validation": data.validation_file,
        "test": data.test_file,
        "unlabeled": data.unlabeled_file,
    }[split]
    if value is None and data.dataset_name and split != "unlabeled":
        folder = Path(data.dataset_name)
        found = [path for path in folder.glob(f"{_split_name(data, split)}[.-]*") if _kind(path) in _READERS]
        return [str(path) for path in sorted(found)] or None
    return [value] if isinstance(value, str) else value


def _split_name(data: Data, split: Split) -> str:
    names = {"train": data.train_split_name, "validation": data.validation_split_name, "test": data.test_split_name}
    return names.get(split, split)


def _kind(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[2].lower()


def _existing(path: Path, split: str) -> Path:
    if path.is_file():
        return path
    what = "is a folder, not a file" if path.is_dir() else "does not exist"
    near = did_you_mean(path.name, (p.name for p in path.parent.iterdir())) if path.parent.is_dir() else None
    raise InputError(f"'{path}' {what}", where=f"data.{split}_file", hint=near)


def _read_file(path: Path) -> Rows:
    if _kind(path) not in _READERS:
        raise InputError(f"cannot read '{path}': unknown kind of file", hint=f"one of: {', '.join(_READERS)}; .gz too")
    columns = _READERS[_kind(path)](path)
    return Rows(columns, ((str(path), len(next(iter(columns.values()), []))),))


def _text(path: Path) -> str:
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"'{path}' is not a whole gzip file: {error}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(f"'{path}' is not UTF-8", where=f"{path}:{line}", hint="convert it: iconv -t UTF-8") from error
    if not text.strip():
        raise InputError(f"'{path}' is empty")
    return text


def _csv(path: Path, delimiter: str = ",") -> dict[str, list[Any]]:
    """Every cell as the text it is: `NA`, `null` and the empty cell are no missing values."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader)
        columns: dict[str, list[Any]] = {name: [] for name in header}
        if len(columns) != len(header):
            raise InputError(f"'{path}' has two columns of the same name", where=f"{path}:1")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{len(cells)} cells, but the header has {len(header)}",
                    where=f"{path}:{reader.line_num}",
                    hint="a cell with a comma, quote or line break in it must stand in double quotes",
                )
            for name, cell in zip(header, cells, strict=True):
                columns[name].append(cell)
    except csv.Error as error:
        raise InputError(f"malformed CSV: {error}", where=f"{path}:{reader.line_num}") from error
    if not columns[header[0]]:
        raise InputError(f"'{path}' has a header but no rows")
    return columns


def _tsv(path: Path) -> dict[str, list[Any]]:
    return _csv(path, "\t")


def _txt(path: Path) -> dict[str, list[Any]]:
    return {"text": [line.strip() for line in _text(path).split("\n") if line.strip()]}


def _json(path: Path) -> dict[str, list[Any]]:
    """One object per line, or one list of objects."""
    text = _text(path)
    records: list[tuple[int, Any]] = []
    try:
        if text.lstrip().startswith("["):
            records = [(1, record) for record in json.loads(text)]
        else:
            records = [(n, json.loads(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
    except json.JSONDecodeError as error:
        line = error.lineno if text.lstrip().startswith("[") else _bad_line(text)
        raise InputError(f"malformed JSON: {error.msg}", where=f"{path}:{line}:{error.colno}") from error
    columns: dict[str, list[Any]] = {}
    for line, record in records:
        if not isinstance(record, dict):
            raise InputError("expected one JSON object per line", where=f"{path}:{line}")
        if columns and record.keys() != columns.keys():
            odd = sorted(record.keys() ^ columns.keys())
            raise InputError(f"other keys than in the first row: {', '.join(odd)}", where=f"{path}:{line}")
        for name, value in record.items():
            columns.setdefault(name, []).append(value)
    return columns


def _bad_line(text: str) -> int:
    for number, line in enumerate(text.split("\n"), 1):
        try:
            json.loads(line if line.strip() else "0")
        except json.JSONDecodeError:
            return number
    return 1


def _parquet(path: Path) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return dict(pq.read_table(path, page_checksum_verification=True).to_pydict())
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"cannot read '{path}': {error}") from error


_READERS: dict[str, Callable[[Path], dict[str, list[Any]]]] = {
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
    "jsonl": _json,
    "parquet": _parquet,
    "txt": _txt,
}


def _joined(parts: Sequence[Rows]) -> Rows:
    first = parts[0]
    for part in parts[1:]:
        odd = sorted(part.columns.keys() ^ first.columns.keys())
        if odd:
            raise InputError(f"other columns than in {first.origins[0][0]}: {', '.join(odd)}", where=part.origins[0][0])
    columns = {name: [value for part in parts for value in part.columns[name]] for name in first.columns}
    return Rows(columns, tuple(origin for part in parts for origin in part.origins), first.label_names)


def _read_dataset(data: Data, split: Split) -> Rows:
    import datasets

    assert data.dataset_name is not None
    name = _split_name(data, split)
    try:
        loaded = datasets.load_dataset(
            data.dataset_name, data.dataset_config_name, split=name, revision=data.dataset_revision
        )
    except ValueError as error:  # an unknown configuration or split; the message lists what there is
        raise InputError(f"cannot load the dataset '{data.dataset_name}': {error}") from error
    except (OSError, datasets.exceptions.DatasetsError) as error:  # among them every way of having no network
        message, _, _ = str(error).partition("\n")
        raise InputError(
            f"cannot load the dataset '{data.dataset_name}': {message}",
            hint="without network: set data.train_file and data.validation_file to local files, or fill the cache "
            f"where there is one: hf download --repo-type dataset {data.dataset_name}",
        ) from error
    feature = loaded.features.get(data.label_column_name)
    names = list(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    return Rows(loaded.to_dict(), ((f"{data.dataset_name}[{name}]", len(loaded)),), names)


# -- batches -------------------------------------------------------------------------------------------------


class Encoded(Protocol):
    """Tokenized rows as a task gives them."""

    @property
    def tokens(self) -> Mapping[str, tuple[Array, int]]: ...
    @property
    def offsets(self) -> Array: ...
    @property
    def truncated(self) -> int: ...
    @property
    def empty(self) -> list[int]: ...


@dataclass(frozen=True)
class Examples(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Tokenized rows, unpadded, in flat arrays: 67,000 sentences take 4 MB."""

    tokens: Mapping[str, tuple[Array, int]]  # name → (all values in one row (ΣT,), the value of padding)
    offsets: Array  # (N + 1,) where each row begins
    targets: Mapping[str, Array] = field(default_factory=dict)  # name → (N, ...): labels, teacher_logits

    @classmethod
    def of(cls, encoded: Encoded, **targets: Array) -> Examples:
        return cls(encoded.tokens, encoded.offsets, targets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Array:
        """Tokens of each row, (N,)."""
        return np.diff(self.offsets)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The rows as one batch, padded to the longest of them: input_ids and so on (B, T), targets (B, ...)."""
        rows = np.asarray(indices)
        lengths = self.lengths[rows]
        mask = np.arange(lengths.max()) < lengths[:, None]  # (B, T)
        taken = np.concatenate([np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows])
        batch = {"attention_mask": torch.from_numpy(mask.astype(np.int64))}
        for name, (values, padding) in self.tokens.items():
            padded = np.full(mask.shape, padding, dtype=np.int64)
            padded[mask] = values[taken]
            batch[name] = torch.from_numpy(padded)
        return batch | {name: torch.from_numpy(values[rows]) for name, values in self.targets.items()}

    def timing_batches(self, size: int, length: int | None, rows: int) -> list[dict[str, Tensor]]:
        """The first `rows` rows in batches of `size`, with their own lengths or all of `length` tokens (B, T)."""
        count = min(rows, len(self)) // size * size or size
        chosen = np.arange(max(count, size)) % len(self)
        batches = [self.__getitems__(part.tolist()) for part in np.split(chosen, range(size, len(chosen), size))]
        return batches if length is None else [_of_length(batch, length) for batch in batches[: max(3, 64 // size)]]

    def select(self, rows: Array) -> Examples:
        """Only these rows, in this order."""
        lengths = self.lengths[rows]
        taken = np.concatenate([np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows])
        return Examples(
            {name: (values[taken], padding) for name, (values, padding) in self.tokens.items()},
            np.concatenate([[0], np.cumsum(lengths)]),
            {name: values[rows] for name, values in self.targets.items()},
        )


def _of_length(batch: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """The same rows, their tokens repeated or cut so that each has `length` of them, none of it padding."""
    repeats = -(-length // batch["input_ids"].shape[1])
    shown = {name: values.repeat(1, repeats)[:, :length] for name, values in batch.items()}
    return {**shown, "attention_mask": torch.ones_like(shown["attention_mask"])}


class BucketBatches(torch.utils.data.Sampler[list[int]]):
    """Shuffled batches of like lengths: shuffle, sort within pools of batches, shuffle the batches.

    The order depends on `seed` and `epoch` alone, so that a resumed run goes on with the same batches.
    """

    def __init__(self, lengths: Array, batch_size: int, *, seed: int, group_by_length: bool = True) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.group_by_length = group_by_length
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        if self.group_by_length:
            pool = POOL * self.batch_size
            order = np.concatenate(
                [
                    rows[np.argsort(self.lengths[rows], kind="stable")]
                    for rows in np.split(order, range(pool, len(order), pool))
                ]
            )
        batches = np.split(order, range(self.batch_size, len(order), self.batch_size))
        for index in random.permutation(len(batches)):
            yield batches[index].tolist()


def sorted_batches(lengths: Array, batch_size: int) -> list[list[int]]:
    """Batches for prediction, longest rows first: next to no padding, and too little memory shows at once."""
    order = np.argsort(-lengths, kind="stable")
    return [rows.tolist() for rows in np.split(order, range(batch_size, len(order), batch_size))]
