"""Properties that hold for any text, any names and any column types: the same rows back, or an error that says where."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tinybert_cli.config import Data
from tinybert_cli.data.readers import read_file
from tinybert_cli.errors import InputError
from tinybert_cli.tasks.text_classification import TextClassification
from tinybert_cli.types import Rows

PROPERTY = settings(
    max_examples=120,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
LINE = TEXT.filter(lambda text: not set(text) & set("\t\n\r\0"))
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def read_or_refuse(file: Path, data: Data | None = None) -> dict[str, list[Any]] | None:
    """The columns of the file; None if it was refused with an error that names it."""
    try:
        return read_file(file, data).columns
    except InputError as error:
        assert file.name in str(error)
        return None


# -- readers -------------------------------------------------------------------------------------------------


@PROPERTY
@given(rows=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6))
def test_csv_that_python_writes_is_read_unchanged_or_refused(rows: list[tuple[str, str]], tmp_path: Path) -> None:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([("text", "label"), *rows])
    file = tmp_path / "t.csv"
    file.write_bytes(stream.getvalue().encode())
    columns = read_or_refuse(file, Data(delimiter=","))
    assert columns is None or columns == {"text": [text for text, _ in rows], "label": [label for _, label in rows]}


@PROPERTY
@given(rows=st.lists(st.tuples(LINE, LINE), min_size=1, max_size=6))
def test_tsv_without_tabs_in_its_cells_is_read_unchanged(rows: list[tuple[str, str]], tmp_path: Path) -> None:
    assume(any(text or label for text, label in rows))
    file = tmp_path / "t.tsv"
    file.write_bytes("".join("\t".join(row) + "\n" for row in [("text", "label"), *rows]).encode())
    assert read_file(file).columns == {"text": [text for text, _ in rows], "label": [label for _, label in rows]}


@PROPERTY
@given(
    rows=st.lists(st.fixed_dictionaries({"text": TEXT, "other": VALUE}), min_size=1, max_size=6), ascii=st.booleans()
)
def test_json_lines_of_any_values_are_read_unchanged(rows: list[dict[str, Any]], ascii: bool, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=ascii) + "\n" for row in rows), encoding="utf-8", newline="")
    assert read_file(file).columns == {name: [row[name] for row in rows] for name in ("text", "other")}


@PROPERTY
@given(
    rows=st.lists(st.fixed_dictionaries({"text": TEXT, "other": VALUE}), min_size=1, max_size=6), indent=st.booleans()
)
def test_a_json_list_of_any_values_is_read_unchanged(rows: list[dict[str, Any]], indent: bool, tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps(rows, ensure_ascii=False, indent=2 if indent else None), encoding="utf-8", newline="")
    assert read_file(file).columns == {name: [row[name] for row in rows] for name in ("text", "other")}


@PROPERTY
@given(texts=st.lists(TEXT, min_size=1, max_size=6), numbers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3))
def test_parquet_columns_are_read_unchanged(texts: list[str], numbers: list[int], tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    columns = {"text": texts, "numbers": [numbers] * len(texts)}
    pq.write_table(
        pa.table(columns, schema=pa.schema([("text", pa.string()), ("numbers", pa.list_(pa.int64()))])), file
    )
    assert read_or_refuse(file) == columns


@PROPERTY
@given(
    content=st.binary(max_size=200), ending=st.sampled_from(["csv", "tsv", "json", "jsonl", "txt", "conll", "parquet"])
)
def test_any_bytes_are_rows_or_an_error_that_names_the_file(content: bytes, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"t.{ending}"
    file.write_bytes(content)
    columns = read_or_refuse(file)
    assert columns is None or len({len(values) for values in columns.values()}) == 1


# -- labels --------------------------------------------------------------------------------------------------


@PROPERTY
@given(names=st.lists(TEXT, min_size=2, max_size=6, unique=True), draws=st.lists(st.integers(0, 5), max_size=8))
def test_any_label_names_are_read_back_or_refused(names: list[str], draws: list[int]) -> None:
    values = [*names, *(names[draw % len(names)] for draw in draws)]
    rows = Rows({"text": ["a"] * len(values), "label": values}, (("t.jsonl", len(values)),))
    task = TextClassification()
    try:
        found = task.label_names(rows, Data(), model_names=None)
        indices = task.labels(rows, Data(), found)
    except InputError as error:
        assert "t.jsonl" in str(error)
        return
    assert indices is not None
    known = [(value, int(index)) for value, index in zip(values, indices, strict=True) if value != ""]
    assert all(found[index] == value or float(found[index]) == float(value) for value, index in known)


@PROPERTY
@given(numbers=st.lists(st.integers(0, 9), min_size=2, max_size=8), names=st.permutations([str(n) for n in range(10)]))
def test_numbers_match_the_names_of_the_same_value(numbers: list[int], names: list[str]) -> None:
    rows = Rows({"text": ["a"] * len(numbers), "label": numbers}, (("t.jsonl", len(numbers)),))
    data = Data(label_names=names)
    indices = TextClassification().labels(rows, data, TextClassification().label_names(rows, data, model_names=None))
    assert indices is not None
    assert [names[index] for index in indices] == [str(number) for number in numbers]
