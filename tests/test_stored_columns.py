"""Large tables: columns in memory-mapped files, which read like the lists of a small table."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinybert_cli.config import Data
from tinybert_cli.data import (
    column_types,
    open_stream,
    parts,
    read,
    read_soft_labels,
    readers,
    soft_labels,
    stored_columns,
    stream_shards,
    write_soft_labels,
    write_table,
)
from tinybert_cli.data.parts import read_table
from tinybert_cli.data.readers import read_file
from tinybert_cli.data.stored_columns import StoredColumn, StoredColumns, joined_columns
from tinybert_cli.errors import InputError, UserError
from tinybert_cli.inspection import duplicates
from tinybert_cli.inspection.duplicates import contradictions
from tinybert_cli.scratch_files import scratch_files_in
from tinybert_cli.types import Rows

ROWS = [
    {"text": f"text {row}", "label": "good" if row % 3 else None, "number": row, "words": ["a"] * (row % 4), "mixed": 1}
    for row in range(25)
]
ROWS[17]["mixed"] = "one"


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LARGE", 0), ("SMALL", 0), ("PART", 4)):
        monkeypatch.setattr(parts, name, value)
    monkeypatch.setattr(readers, "BATCH", 4)
    monkeypatch.setattr(soft_labels, "LARGE", 0)


def written(folder: Path, form: str) -> Path:
    path = folder / f"rows.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist([{**row, "mixed": 1} for row in ROWS]), path)
    elif form == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    elif form == "csv":
        path.write_text("text,label\n" + "".join(f'"{row["text"]}, ä",{row["label"]}\n' for row in ROWS), "utf-8")
    else:
        path.write_text("".join(f" {row['text']}\r\n\n" for row in ROWS), "utf-8")
    return path


@pytest.mark.parametrize("form", ["csv", "jsonl", "txt", "parquet"])
def test_large_file_has_the_rows_and_locations_of_a_small_one(tmp_path: Path, form: str) -> None:
    path = written(tmp_path, form)
    large, small = read_table(path, Data()), read_file(path)
    assert isinstance(large.column("text"), StoredColumn)
    assert {name: list(values) for name, values in large.columns.items()} == small.columns
    assert [large.location(row) for row in (0, 24)] == [small.location(row) for row in (0, 24)]
    chosen, expected = large.select([20, 3]).select([1]), small.select([20, 3]).select([1])
    assert {name: list(values) for name, values in chosen.columns.items()} == expected.columns
    assert chosen.location(0) == expected.location(0) and large.head(7).column("text") == small.head(7).column("text")
    assert column_types([large]) == column_types([small])
    assert (
        large.column("text")[3:9] == small.column("text")[3:9] and large.column("text")[-1] == small.column("text")[-1]
    )


def test_class_names_of_a_large_parquet_file_are_those_of_the_whole_file(tmp_path: Path) -> None:
    feature = {"label": {"_type": "ClassLabel", "names": ["no", "yes"]}}
    metadata = {"huggingface": json.dumps({"info": {"features": feature}})}
    labels = [-1] * 6 + [1, 0] * 3
    table = pa.table({"text": list("abcdefghijkl"), "label": labels}, metadata=metadata)
    pq.write_table(table, tmp_path / "rows.parquet")
    rows = read_table(tmp_path / "rows.parquet", Data())
    assert list(rows.column("label")) == [None] * 6 + ["yes", "no"] * 3 and rows.class_names == {"label": ["no", "yes"]}


def test_malformed_line_of_a_large_file_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "jsonl")
    path.write_text(path.read_text("utf-8") + '{"text": \n{}\n', "utf-8")
    with pytest.raises(InputError) as info:
        read_table(path, Data())
    assert str(info.value.where).startswith(f"{path}:26")


def test_file_that_changes_while_it_is_read_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "csv")
    original: Callable[..., parts.Parts] = parts.open_parts

    def changing(file: Path, data: Data) -> parts.Parts:
        opened = original(file, data)
        os.utime(file, ns=(0, 0))
        return opened

    monkeypatch.setattr(parts, "open_parts", changing)
    with pytest.raises(InputError, match=r"rows\.csv' was changed while it was read"):
        read_table(path, Data())


def test_column_that_some_parts_lack_is_null_there() -> None:
    columns = StoredColumns()
    columns.append({"a": ["x"]}, 1)
    columns.append({"b": ["y", "z"]}, 2)
    assert {name: list(values) for name, values in columns.finish().items()} == {
        "a": ["x", None, None],
        "b": [None, "y", "z"],
    }


def test_large_label_dataset_reads_as_it_was_written(tmp_path: Path) -> None:
    texts, logits = [f"text {row}" for row in range(6)], np.arange(12, dtype=np.float32).reshape(6, 2)
    for number in range(2):
        part = slice(3 * number, 3 * number + 3)
        rows = Rows({"text": texts[part]}, (("t", 3),))
        name = f"train-0000{number}-of-00002.parquet"
        write_soft_labels(tmp_path / name, rows, logits[part], None, columns={}, dtype="float32")
    labels = read_soft_labels(tmp_path, [path.name for path in tmp_path.iterdir()])
    assert isinstance(labels.rows.column("text"), StoredColumn) and list(labels.rows.column("text")) == texts
    assert labels.logits.tolist() == logits.tolist() and labels.originals is labels.rows


def test_contradictions_of_stored_columns_are_found() -> None:
    columns = StoredColumns()
    columns.append({"text": ["a", "b", "a", "c", "b"], "label": ["x", "x", "y", "x", "x"]}, 5)
    rows = Rows(columns.finish(), (("t", 5),))
    assert contradictions(rows, Data(), "text-classification") == [[0, 2]]


@pytest.mark.parametrize("values", [[1, 2], [0.5, 1.0], [True, False], [["a"], ["b", "c"]], ["x", "y"]])
def test_parts_without_a_value_do_not_change_the_type_of_a_column(values: list[Any]) -> None:
    parts = [[None] * 3, values, [None, None], values, [None]]
    columns = StoredColumns()
    for part in parts:
        columns.append({"values": part}, len(part))
    column = columns.finish()["values"]
    assert isinstance(column, StoredColumn) and list(column) == [value for part in parts for value in part]
    empty = StoredColumns()
    empty.append({"values": [None, None]}, 2)
    both = joined_columns([column, empty.finish()["values"]])
    assert isinstance(both, StoredColumn) and list(both) == [*column, None, None]


def test_a_text_file_has_the_same_rows_at_any_size_and_as_a_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    blank = ["\xa0", "\u3000 ", "\x85", "\x0c", "\x0b", "\x1f", " \t", ""]
    text = "".join(f"{line}\nword {number}\xa0 \n" for number, line in enumerate(blank))
    path.write_text(text, encoding="utf-8", newline="")
    expected = [f"word {number}\xa0" for number in range(len(blank))]
    large = read(Data(train_file=str(path)), "train").columns["text"]
    assert isinstance(large, StoredColumn) and list(large) == expected
    monkeypatch.setattr(parts, "LARGE", 1 << 20)
    assert read(Data(train_file=str(path)), "train").columns["text"] == expected
    streamed = Data(train_file=str(path), streaming=True)
    (rows,) = stream_shards(open_stream(streamed, "train"), streamed, 100, most=None)
    assert list(rows.columns["text"]) == expected


def test_a_few_rows_of_a_large_column_are_selected_without_copying_it() -> None:
    count, length = 4_000, 1_000
    chunks = [[f"{index:0{length}}" for index in range(begin, begin + 100)] for begin in range(0, count, 100)]
    column = StoredColumn(pa.chunked_array([*chunks, pa.array([], pa.string())]))
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        selected = list(column.select([3_999, 7, 250, 7, 0]))
    finally:
        pa.set_memory_pool(before)
    assert selected == [f"{index:0{length}}" for index in (3_999, 7, 250, 7, 0)]
    assert 0 < pool.max_memory() < count * length / 20


def test_selected_rows_of_stored_columns_are_not_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_columns, "PART", 100)
    columns, texts = StoredColumns(), [f"{row:05d} {'x' * 200}" for row in range(5000)]
    columns.append({"text": texts}, len(texts))
    column, before = columns.finish()["text"], pa.total_allocated_bytes()
    indices = np.arange(0, 5000, 2)[::-1]
    selected = column.select(indices)
    assert isinstance(selected, StoredColumn) and list(selected) == [texts[index] for index in indices]
    assert pa.total_allocated_bytes() - before < 100_000  # of 500 kB


def test_table_in_row_groups_reads_as_it_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_labels, "ROW_GROUP", 4)
    columns = StoredColumns()
    columns.append({"text": list("abcdefghij")}, 10)
    stored = columns.finish()["text"]
    table = {"text": stored, "label": ["x", None] * 5, "confidence": np.linspace(0, 1, 10), "mixed": [1, "one"] * 5}
    write_table(tmp_path / "t.parquet", table)
    rows = pq.read_table(tmp_path / "t.parquet")
    assert rows.to_pydict() == {**{name: list(values) for name, values in table.items()}, "mixed": ["1", "one"] * 5}
    assert (
        rows.schema.field("text").type == pa.string() and pq.read_metadata(tmp_path / "t.parquet").num_row_groups == 3
    )


def test_rows_on_both_sides_of_large_splits_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "PART", 2)
    train = Rows({"text": ["a", "b", " ", "c", "b", "D"]}, (("t", 6),))
    other = Rows({"text": ["x", "b", " ", "c", "d", "b"]}, (("o", 6),))
    result = duplicates.leak(train, other, Data())
    assert (result.exact, result.similar, result.example) == (3, 1, (1, 1))


def test_full_disk_ends_the_reading_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.BytesIO):
        def write(self, values: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    path = written(tmp_path, "csv")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: FullDisk())
    with scratch_files_in(lambda: tmp_path), pytest.raises(UserError) as info:
        read(Data(train_file=str(path)), "train")
    assert info.value.where == str(tmp_path) and "another disk" in (info.value.hint or "")
    assert re.search(r"at least [1-9][\d,]* more are needed, and [1-9][\d,]* are free", info.value.what)


@pytest.mark.parametrize("forms", [("csv", "csv"), ("jsonl", "parquet"), ("csv", "txt.gz")])
def test_files_that_are_large_together_are_stored(
    forms: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = []
    for name, form in zip("ab", forms, strict=True):
        path, table = tmp_path / f"{name}.{form}", {"text": [f"{name} {row}" for row in range(9)]}
        if form == "parquet":
            pq.write_table(pa.table(table), path)
        elif form == "txt.gz":
            path.write_bytes(gzip.compress("\n".join(table["text"]).encode()))
        else:
            lines = [json.dumps({"text": text}) for text in table["text"]] if form == "jsonl" else table["text"]
            path.write_text("\n".join([*(["text"] if form == "csv" else []), *lines, ""]))
        paths.append(path)
    monkeypatch.setattr(parts, "LARGE", max(path.stat().st_size for path in paths))
    rows = read(Data(train_file=[str(path) for path in paths]), "train")
    assert isinstance(rows.column("text"), StoredColumn)
    assert list(rows.column("text")) == [f"{name} {row}" for name in "ab" for row in range(9)]
    assert rows.location(10) == f"{paths[1]}, row 2"
    alone = read(Data(train_file=str(paths[0])), "train")
    assert isinstance(alone.column("text"), list)


def test_columns_of_several_types_are_joined_as_a_list() -> None:
    columns = StoredColumns()
    columns.append({"a": ["x", None]}, 2)
    stored = columns.finish()["a"]
    assert joined_columns([stored, [1, 2]]) == ["x", None, 1, 2] and joined_columns([[], [3]]) == [3]
    both = joined_columns([stored, [], ["y"] * 3])
    assert isinstance(both, StoredColumn) and list(both) == ["x", None, "y", "y", "y"]
