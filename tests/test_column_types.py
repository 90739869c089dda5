"""Columns that no stage reads: stored unchanged or as text, decided before a teacher runs."""

from __future__ import annotations

import datetime
import decimal
import json
import math
import uuid
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import Configs, run, sentences, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinybert_cli import data as data_module
from tinybert_cli.data.readers import read_file
from tinybert_cli.errors import InputError
from tinybert_cli.stages import gen_soft_labels
from tinybert_cli.types import Rows

Capture = pytest.CaptureFixture[str]
DATE = datetime.date(2026, 1, 2)
ID = uuid.UUID(int=7)

COLUMNS: dict[str, tuple[list[Any], list[Any]]] = {  # values → what is stored
    "numbers and texts": ([1, "x2", None], ["1", "x2", None]),
    "no keys": ([{}, {}, None], ["{}", "{}", None]),
    "other keys": ([{"a": 1}, {"b": [2]}], ['{"a": 1}', '{"b": [2]}']),
    "no keys inside": ([[{}], []], ["[{}]", "[]"]),
    "long integers": ([10**20, 7], ["1" + "0" * 20, "7"]),
    "mixed lists": ([[1, "a"], [2.5]], ['[1, "a"]', "[2.5]"]),
    "truth and numbers": ([True, 1], ["true", "1"]),
    "unknown objects": ([ID, None], [str(ID), None]),
    "integers and floats": ([1, 2.5], [1.0, 2.5]),
    "nothing": ([None, None], [None, None]),
    "empty lists": ([[], []], [[], []]),
    "same keys": ([{"a": 1, "b": [{"c": "x"}]}, None], [{"a": 1, "b": [{"c": "x"}]}, None]),
    "dates": ([DATE, None], [DATE, None]),
    "decimals": ([decimal.Decimal("1.50"), None], [decimal.Decimal("1.50"), None]),
    "bytes": ([b"\xff", b""], [b"\xff", b""]),
}


@pytest.mark.parametrize(("values", "stored"), COLUMNS.values(), ids=COLUMNS)
def test_a_column_is_stored_unchanged_or_as_text(values: list[Any], stored: list[Any], tmp_path: Path) -> None:
    data_module.write_table(tmp_path / "t.parquet", {"column": values})
    assert read_file(tmp_path / "t.parquet").columns == {"column": stored}


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def same(value: Any, stored: Any) -> bool:
    """Whether a stored value is the value, a float for an integer, or its text."""
    if isinstance(stored, str) and not isinstance(value, str):
        return bool(json.loads(stored) == value)
    numbers = not isinstance(value, bool) and isinstance(value, int | float) and isinstance(stored, float)
    return bool(stored == value) and (numbers or type(stored) is type(value))


@given(values=st.lists(JSON_VALUES, min_size=1, max_size=6))
@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_values_can_be_read_back(values: list[Any], tmp_path: Path) -> None:
    data_module.write_table(tmp_path / "t.parquet", {"column": values})
    stored = read_file(tmp_path / "t.parquet").columns["column"]
    assert all(map(same, values, stored)), stored


def test_all_shards_have_the_types_of_all_rows(tmp_path: Path) -> None:
    rows = Rows({"id": [1, "x2"], "n": [1, None]}, (("t", 2),))
    types = data_module.column_types([rows])
    for index in range(2):
        data_module.write_table(tmp_path / f"{index}.parquet", rows.select([index]).columns, types)
    assert [read_file(tmp_path / f"{index}.parquet").columns for index in range(2)] == [
        {"id": ["1"], "n": [1]}, {"id": ["x2"], "n": [None]},
    ]  # fmt: skip


def test_labelling_stores_columns_that_it_does_not_read(
    configs: Configs, data: Path, teacher: Path, tmp_path: Path
) -> None:
    extra = [{"id": 1, "meta": {}, "big": 10**19 + 1}, {"id": "x2", "meta": {"a": 1}, "big": None, "when": "today"}]
    rows = [{**row, **extra[index % 2]} for index, row in enumerate(sentences("train"))]
    write_rows(data / "train.jsonl", rows)
    events = run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher))
    (warning,) = [event["message"] for event in events if event["event"] == "warning"]
    assert warning.startswith("columns stored as text") and warning.endswith(": id, meta, big")
    loaded = datasets.Dataset.from_parquet(str(tmp_path / "labels/train-00000-of-00001.parquet"))
    assert loaded["id"][:2] == ["1", "x2"] and loaded["meta"][:2] == ["{}", '{"a": 1}']
    assert loaded["big"][:2] == [str(10**19 + 1), None] and loaded["when"][:2] == [None, "today"]


@pytest.mark.parametrize("name", ["teacher_logits", "teacher_prediction"])
def test_a_column_that_the_label_dataset_adds_is_rejected_before_the_teacher_is_loaded(
    name: str, configs: Configs, data: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(data / "train.jsonl", [{**row, name: 1} for row in sentences("train")])
    monkeypatch.setattr(gen_soft_labels, "load_predictor", lambda *args, **options: pytest.fail("it was loaded"))
    with pytest.raises(InputError, match=f"the data has a column '{name}'"):
        run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher))


def test_nan_in_a_column_stays_nan(tmp_path: Path) -> None:
    data_module.write_table(tmp_path / "t.parquet", {"column": [1.5, math.nan]})
    assert math.isnan(read_file(tmp_path / "t.parquet").columns["column"][1])
