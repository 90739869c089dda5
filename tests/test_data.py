"""Readers, splits, label datasets and batches: values are read unchanged, and errors give the location."""

from __future__ import annotations

import codecs
import gzip
import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tinybert_cli import data
from tinybert_cli.config import Data
from tinybert_cli.data import BucketBatches, Examples, SoftLabels
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.inspection import duplicates
from tinybert_cli.types import Encoded, Layout, Rows, concatenated_ranges

TEXTS = ["the soup was warm", "a dull evening", "we laughed, twice"]
LABELS = ["good", "bad", "good"]


def write(path: Path, text: str | bytes) -> Path:
    raw = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def rows_of(*paths: Path, **settings: Any) -> Rows:
    return data.read(Data(train_file=[str(path) for path in paths], **settings), "train")


def read_error(*paths: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        rows_of(*paths)
    return caught.value


def file_content(file_format: str) -> str:
    records = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
    if file_format == "json":
        return json.dumps(records, indent=1)
    if file_format == "jsonl":
        return "".join(json.dumps(record) + "\n" for record in records)
    if file_format == "tsv":
        return "text\tlabel\n" + "".join(f"{record['text']}\t{record['label']}\n" for record in records)
    return "text,label\n" + "".join(f'"{record["text"]}",{record["label"]}\n' for record in records)


# -- file formats ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("file_format", ["csv", "tsv", "json", "jsonl"])
def test_every_text_format_gives_the_same_rows(file_format: str, suffix: str, tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / f"train.{file_format}{suffix}", file_content(file_format)))
    assert rows.columns == {"text": TEXTS, "label": LABELS}


def test_parquet_gives_the_same_rows(tmp_path: Path) -> None:
    data.write_table(tmp_path / "train.parquet", {"text": TEXTS, "label": LABELS})
    assert rows_of(tmp_path / "train.parquet").columns == {"text": TEXTS, "label": LABELS}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_txt_has_one_text_per_line_and_skips_blank_lines(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"more.txt{suffix}", "one\r\n\r\n  two  \nthree")
    assert rows_of(path).columns == {"text": ["one", "two", "three"]}


def test_txt_splits_lines_at_line_feeds_only(tmp_path: Path) -> None:
    text = "first half\u2028second half\x85end"
    assert rows_of(write(tmp_path / "more.txt", text + "\nnext")).columns == {"text": [text, "next"]}


@pytest.mark.parametrize("file_format", ["csv", "json", "jsonl"])
def test_byte_order_mark_is_not_part_of_the_first_column(file_format: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"train.{file_format}", codecs.BOM_UTF8 + file_content(file_format).encode())
    assert list(rows_of(path).columns) == ["text", "label"]


def test_csv_accepts_windows_line_endings_and_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "text,label\r\nfine,good\r\n\r\npoor,bad\r\n")
    assert rows_of(path).columns == {"text": ["fine", "poor"], "label": ["good", "bad"]}


@pytest.mark.parametrize("cell", ["NA", "null", "NaN", "None", "", " ", "007", "1.50", "true"])
def test_cells_of_a_csv_stay_text(cell: str, tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", f"text,label\n{cell},good\nother,bad\n")
    assert rows_of(path).column("text") == [cell, "other"]


def test_csv_quoted_cells_may_contain_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", 'text,label\n"a, ""b""\nc",good\n')
    assert rows_of(path).column("text") == ['a, "b"\nc']


def test_json_null_stays_a_missing_value(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", '{"text": "a", "label": null}\n{"text": "b", "label": 1}\n')
    assert rows_of(path).column("label") == [None, 1]


def test_list_of_files_is_concatenated_in_order(tmp_path: Path) -> None:
    first = write(tmp_path / "b.jsonl", '{"text": "one", "label": "x"}\n{"text": "two", "label": "y"}\n')
    second = write(tmp_path / "a.csv.gz", "label,text\nz,three\n")
    assert rows_of(first, second).columns == {"text": ["one", "two", "three"], "label": ["x", "y", "z"]}


def test_concatenated_files_with_different_columns_are_rejected(tmp_path: Path) -> None:
    first = write(tmp_path / "a.csv", "text,label\none,x\n")
    second = write(tmp_path / "b.csv", "text,stars\ntwo,5\n")
    error = read_error(first, second)
    assert error.what == f"columns differ from those of {first}: label, stars"
    assert error.where == str(second)


# -- invalid files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.csv", "train.json", "train.jsonl", "train.txt", "train.csv.gz"])
@pytest.mark.parametrize("content", ["", "\n \n"])
def test_empty_file_is_rejected(name: str, content: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    assert read_error(path).what == f"'{path}' is empty"


def test_csv_with_only_a_header_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "text,label\n")
    assert read_error(path).what == f"'{path}' has a header but no rows"


def test_empty_json_list_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "train.json", "[]")
    assert read_error(path).what == f"no rows in {path}"


def test_ragged_csv_row_is_rejected_with_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "text,label\nfine,good\nwell, sort of,good\npoor,bad\n")
    error = read_error(path)
    assert error.what == "3 cells, but the header has 2"
    assert error.where == f"{path}:3"


def test_csv_with_an_unclosed_quote_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", 'text,label\nfine,good\n"never closed,bad\n')
    error = read_error(path)
    assert error.what.startswith("malformed CSV: ")
    assert error.where == f"{path}:3"


def test_csv_with_duplicate_column_names_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "text,label,text\na,b,c\n")
    assert read_error(path).where == f"{path}:1"


def test_malformed_json_line_is_rejected_with_line_and_column(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", '{"text": "a"}\n{"text": oops}\n{"text": "c"}\n')
    error = read_error(path)
    assert error.what.startswith("malformed JSON: ")
    assert error.where == f"{path}:2:10"


def test_blank_lines_before_malformed_json_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", '{"text": "a"}\r\n\r\n  \n{"text": oops}\r\n')
    assert read_error(path).where == f"{path}:4:10"


def test_malformed_json_list_is_rejected_with_line_and_column(tmp_path: Path) -> None:
    path = write(tmp_path / "train.json", '[\n {"text": "a"},\n {"text": }\n]')
    assert read_error(path).where == f"{path}:3:11"


def test_json_line_that_is_not_an_object_is_rejected_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", '{"text": "a"}\n"b"\n')
    assert read_error(path).where == f"{path}:2"


def test_json_key_that_is_missing_in_some_rows_is_null_there(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", '{"text": "a", "title": "t"}\n{"text": "b"}\n{"text": "c", "label": 1}\n')
    expected = {"text": ["a", "b", "c"], "title": ["t", None, None], "label": [None, None, 1]}
    assert rows_of(path).columns == expected


@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz"])
def test_text_that_is_not_utf8_is_rejected_with_file_and_line(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, "text,label\nplain,good\ncafé,bad\n".encode("latin-1"))
    error = read_error(path)
    assert error.what == f"'{path}' is not UTF-8"
    assert error.where == f"{path}:3"


def damaged(raw: bytes, damage: str) -> bytes:
    return {
        "cut short": raw[: len(raw) // 2],
        "not gzip at all": b"text,label\nfine,good\n",
        "a byte flipped": raw[:20] + bytes([raw[20] ^ 0xFF]) + raw[21:],
        "wrong checksum": raw[:-8] + bytes(4) + raw[-4:],
    }[damage]


@pytest.mark.parametrize("damage", ["cut short", "not gzip at all", "a byte flipped", "wrong checksum"])
def test_damaged_gzip_is_rejected(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "train.csv.gz"
    path.write_bytes(damaged(gzip.compress(file_content("csv").encode()), damage))
    assert read_error(path).what.startswith(f"'{path}' is not a complete gzip file: ")


def test_invalid_parquet_file_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "train.parquet", "text,label\nfine,good\n")
    assert read_error(path).what.startswith(f"cannot read '{path}': ")


def test_unknown_file_format_is_rejected_with_the_known_formats(tmp_path: Path) -> None:
    path = write(tmp_path / "train.data", "text")
    error = read_error(path)
    assert error.what == f"cannot read '{path}': unknown file format"
    assert (
        error.hint
        == "one of: csv, tsv, json, jsonl, parquet, txt, conll; .gz too; of two text files, line by line: NAME.{en,de}"
    )
    assert read_error(write(tmp_path / "train.xlsx", "text")).hint == "save the table as CSV in UTF-8"


def test_missing_file_is_rejected_with_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", file_content("jsonl"))
    error = read_error(tmp_path / "trian.jsonl")
    assert error.what == f"'{tmp_path / 'trian.jsonl'}' does not exist"
    assert error.where == "data.train_file"
    assert error.hint == "did you mean 'train.jsonl'?"


def test_folder_instead_of_a_file_is_rejected(tmp_path: Path) -> None:
    assert read_error(tmp_path).what == f"'{tmp_path}' is a folder, not a file"


def test_missing_column_is_rejected_with_the_nearest_name(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", "sentence,label\nfine,good\n")
    with pytest.raises(InputError) as caught:
        rows_of(path).column("sentense")
    assert caught.value.what == f"no column 'sentense' in {path}"
    assert caught.value.hint == "did you mean 'sentence'?; columns here: sentence, label"
    with pytest.raises(InputError) as caught:
        rows_of(path).column("x")
    assert caught.value.hint == "columns here: sentence, label"


def test_split_without_a_source_is_rejected_with_the_missing_setting() -> None:
    with pytest.raises(ConfigError) as caught:
        data.read(Data(train_file="a.csv"), "validation")
    assert caught.value.key == ("data",)
    assert caught.value.hint == "set data.validation_file"


# -- conll ---------------------------------------------------------------------------------------------------

CONLL = """-DOCSTART- -X- O O

EU NNP I-NP B-ORG
rejects VBZ I-VP O

# PRP I-NP O
one CD I-NP O
"""


def read_conll(path: Path, **settings: Any) -> dict[str, list[Any]]:
    return rows_of(path, text_column_names="tokens", label_column_name="ner_tags", **settings).columns


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_conll_has_one_word_per_line_and_blank_lines_between_sentences(
    ending: str, separator: str, suffix: str, tmp_path: Path
) -> None:
    text = CONLL.replace(" ", separator).replace("\n", ending)
    columns = read_conll(write(tmp_path / f"ner.conll{suffix}", text))
    assert columns["tokens"] == [["EU", "rejects"], ["#", "one"]]
    assert columns["ner_tags"] == [["B-ORG", "O"], ["O", "O"]]


def test_conll_column_names_come_from_the_config(tmp_path: Path) -> None:
    names = ["tokens", "pos_tags", "chunk_tags", "ner_tags"]
    columns = read_conll(write(tmp_path / "ner.conll", CONLL), conll_column_names=names)
    assert list(columns) == names and columns["pos_tags"] == [["NNP", "VBZ"], ["PRP", "CD"]]
    assert list(read_conll(tmp_path / "ner.conll")) == ["tokens", "column_2", "column_3", "ner_tags"]


def test_conll_reads_chinese_characters_and_skips_comments(tmp_path: Path) -> None:
    columns = read_conll(write(tmp_path / "zh.conll", "# id = 1\n我 O\n在 O\n北 B-LOC\n京 I-LOC\n\n\n。 O\n"))
    assert columns["tokens"] == [["我", "在", "北", "京"], ["。"]]


def test_conll_without_tags_has_no_label_column(tmp_path: Path) -> None:
    assert read_conll(write(tmp_path / "ner.conll", "EU\nrejects\n\none\n")) == {"tokens": [["EU", "rejects"], ["one"]]}


def test_conll_line_with_missing_columns_is_rejected_with_its_line(tmp_path: Path) -> None:
    error = read_error(write(tmp_path / "ner.conll", "EU B-ORG\nrejects\n. O\n"))
    assert error.what == "1 columns, but most lines have 2"
    assert error.where == f"{tmp_path / 'ner.conll'}:2"


def test_conll_with_fewer_columns_than_names_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 columns, but 3 are named: tokens, pos, ner_tags"):
        read_conll(write(tmp_path / "ner.conll", "EU O\n"), conll_column_names=["tokens", "pos", "ner_tags"])


# -- SQuAD format --------------------------------------------------------------------------------------------

SQUAD = {
    "version": "v2.0",
    "data": [
        {"title": "Sea", "paragraphs": [{"context": "The sea is salt.", "qas": [
            {"id": "1", "question": "What is salt?", "answers": [{"text": "The sea", "answer_start": 0},
                                                                {"text": "sea", "answer_start": 4}]},
            {"id": "2", "question": "Who?", "is_impossible": True, "answers": [],
             "plausible_answers": [{"text": "sea", "answer_start": 4}]},
        ]}]},
        {"paragraphs": [{"context": "It rains.", "qas": [{"id": "3", "question": "What?", "answers": []}]}]},
    ],
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 2])
def test_nested_squad_gives_one_row_per_question(indent: int | None, tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "dev.json", json.dumps(SQUAD, indent=indent)))
    assert rows.column("id") == ["1", "2", "3"] and rows.column("title") == ["Sea", "Sea", ""]
    assert rows.column("context") == ["The sea is salt."] * 2 + ["It rains."]
    assert rows.column("answers") == [
        {"text": ["The sea", "sea"], "answer_start": [0, 4]}, *[{"text": [], "answer_start": []}] * 2
    ]  # fmt: skip


def test_json_object_with_a_data_list_gives_its_rows(tmp_path: Path) -> None:
    rows = rows_of(write(tmp_path / "rows.json", json.dumps({"version": 1, "data": [{"text": "a"}, {"text": "b"}]})))
    assert rows.columns == {"text": ["a", "b"]}


def test_malformed_squad_is_rejected(tmp_path: Path) -> None:
    broken = {"data": [{"paragraphs": [{"qas": []}, {"qas": [{"id": "1", "question": "q"}]}]}]}
    error = read_error(write(tmp_path / "dev.json", json.dumps(broken)))
    assert error.what == "not in SQuAD format: 'context'" and error.where == f"{tmp_path / 'dev.json'}, question 1"


def test_nested_squad_without_answers_has_rows_without_gold_labels(tmp_path: Path) -> None:
    entries = [{"id": "1", "question": "q"}, {"id": "2", "question": "r"}]
    article = {"paragraphs": [{"context": "c", "qas": entries}]}
    rows = rows_of(write(tmp_path / "dev.json", json.dumps({"data": [article]})))
    assert rows.column("question") == ["q", "r"] and rows.column("answers") == [None, None]
    entries[0]["answers"] = [{"text": "c", "answer_start": 0}]  # type: ignore[assignment]
    rows = rows_of(write(tmp_path / "dev.json", json.dumps({"data": [article]})))
    assert rows.column("answers") == [{"text": ["c"], "answer_start": [0]}, None]


# -- label names ---------------------------------------------------------------------------------------------


def test_labels_are_replaced_by_the_names_in_the_config(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv", "text,label\na,1\nb,2\nc,5\n")
    rows = rows_of(file, label_names={"1": "bad", "2": "bad", "5": "good"})
    assert rows.column("label") == ["bad", "bad", "good"] and rows.class_names == {"label": ["bad", "good"]}


def test_labels_in_lists_get_names_and_missing_labels_stay_missing(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", '{"label": [1, 0]}\n{"label": []}\n{"label": null}\n{"label": -1}\n')
    assert rows_of(file, label_names={"0": "no", "1": "yes"}).column("label") == [["yes", "no"], [], None, -1]


def with_features(path: Path, columns: dict[str, list[Any]], **features: Any) -> Path:
    """A Parquet file as the `datasets` library writes it, with its features in the metadata."""
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def class_label(*names: str) -> dict[str, Any]:
    return {"names": list(names), "_type": "ClassLabel"}


@pytest.mark.parametrize(
    ("feature", "labels", "expected"),
    [
        (class_label("no", "yes"), [1, 0, None, -1], ["yes", "no", None, None]),
        ({"feature": class_label("no", "yes"), "_type": "Sequence"}, [[1, 1], []], [["yes", "yes"], []]),
        ({"feature": class_label("no", "yes"), "_type": "List"}, [[0], None], [["no"], None]),
        ([class_label("no", "yes")], [[0, 1]], [["no", "yes"]]),
        ({"dtype": "int64", "_type": "Value"}, [1, 0], [1, 0]),
        (class_label("no", "yes"), [-1, -1], [-1, -1]),
    ],
)
def test_class_names_in_parquet_metadata_replace_integers(
    feature: Any, labels: list[Any], expected: list[Any], tmp_path: Path
) -> None:
    rows = rows_of(with_features(tmp_path / "rows.parquet", {"label": labels}, label=feature))
    assert rows.column("label") == expected


def test_class_names_in_parquet_metadata_are_those_that_datasets_writes(tmp_path: Path) -> None:
    features = datasets.Features({"label": datasets.ClassLabel(names=["no", "yes"]),
                                  "tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"]))})  # fmt: skip
    datasets.Dataset.from_dict({"label": [1], "tags": [[0, 1]]}, features).to_parquet(str(tmp_path / "rows.parquet"))
    rows = rows_of(tmp_path / "rows.parquet")
    assert rows.columns == {"label": ["yes"], "tags": [["O", "B-PER"]]}
    assert rows.class_names == {"label": ["no", "yes"], "tags": ["O", "B-PER"]}


def test_label_beyond_the_names_in_parquet_metadata_is_an_error(tmp_path: Path) -> None:
    file = with_features(tmp_path / "rows.parquet", {"label": [1, 2]}, label=class_label("no", "yes"))
    with pytest.raises(InputError, match="the label 2 has no name; the data names 2") as caught:
        rows_of(file)
    assert caught.value.where == f"{file}, row 2"


@pytest.mark.parametrize("names", [["bad", "good"], {"0": "bad", "1": "good"}, {"no": "bad", "yes": "good"}])
def test_names_in_the_config_replace_those_of_the_data(names: Any, tmp_path: Path) -> None:
    file = with_features(tmp_path / "rows.parquet", {"label": [1, 0]}, label=class_label("no", "yes"))
    rows = rows_of(file, label_names=names)
    assert rows.column("label") == ["good", "bad"] and rows.class_names == {"label": ["bad", "good"]}


def test_names_in_the_config_may_order_those_of_the_data(tmp_path: Path) -> None:
    file = with_features(tmp_path / "rows.parquet", {"label": [1, 0]}, label=class_label("no", "yes"))
    assert rows_of(file, label_names=["yes", "no"]).column("label") == ["yes", "no"]


def test_a_name_in_the_config_that_another_class_of_the_data_has_is_rejected(tmp_path: Path) -> None:
    file = with_features(tmp_path / "rows.parquet", {"label": [1, 0]}, label=class_label("neg", "pos"))
    with pytest.raises(InputError, match="gives the class 'neg' of the data the name 'pos', which another") as caught:
        rows_of(file, label_names=["pos", "negative"])
    assert caught.value.hint is not None and 'data.label_names: {"neg": "pos", "pos": "negative"}' in caught.value.hint
    assert rows_of(file, label_names={"neg": "pos", "pos": "negative"}).column("label") == ["negative", "pos"]


def test_fewer_names_in_the_config_than_in_the_data_are_rejected(tmp_path: Path) -> None:
    file = with_features(tmp_path / "rows.parquet", {"label": [1, 0]}, label=class_label("no", "maybe", "yes"))
    with pytest.raises(InputError, match=r"data\.label_names has 2 names, but the data has 3 classes: no, maybe, yes"):
        rows_of(file, label_names=["bad", "good"])


def test_label_without_a_name_is_rejected_with_its_row(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv", "text,label\na,1\nb,2\n")
    with pytest.raises(InputError, match=r"the label '2' has no name in data\.label_names") as caught:
        rows_of(file, label_names={"0": "no", "1": "yes"})
    assert caught.value.where == f"{file}, row 2" and caught.value.hint == "labels with a name: 0, 1"


# -- local dataset folders and the Hub -----------------------------------------------------------------------


def test_local_dataset_folder_is_read_by_split_names(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", '{"text": "t"}\n')
    write(tmp_path / "dev.csv.gz", "text\nv\n")
    write(tmp_path / "developers.csv", "text\nx\n")
    write(tmp_path / "README.md", "train and test")
    for number in (1, 0):
        data.write_table(tmp_path / f"test-{number:05d}-of-00002.parquet", {"text": [f"shard {number}"]})
    settings = Data(dataset_name=str(tmp_path), validation_split_name="dev")
    texts = {split: data.read(settings, split).column("text") for split in ("train", "validation", "test")}
    assert texts == {"train": ["t"], "validation": ["v"], "test": ["shard 0", "shard 1"]}


def test_local_dataset_folder_prefers_exact_split_names(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", '{"text": "t"}\n')
    write(tmp_path / "train-v1.1.json", '[{"text": "t"}]')
    write(tmp_path / "test-v1.1.json", '[{"text": "t"}]')
    settings = Data(dataset_name=str(tmp_path))
    assert data.read(settings, "train").column("text") == ["t"] and not data.has(settings, "test")


def test_local_dataset_folder_has_only_the_splits_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", '{"text": "t"}\n')
    settings = Data(dataset_name=str(tmp_path))
    assert [data.has(settings, split) for split in ("train", "test", "unlabeled")] == [True, False, False]


def test_hub_dataset_is_assumed_to_have_every_split_except_unlabeled() -> None:
    settings = Data(dataset_name="some-org/some-data")
    assert [data.has(settings, split) for split in ("train", "test", "unlabeled")] == [True, True, False]


def test_file_takes_precedence_over_the_dataset(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", '{"text": "of the folder"}\n')
    file = write(tmp_path / "mine.jsonl", '{"text": "of the file"}\n')
    assert rows_of(file, dataset_name=str(tmp_path)).column("text") == ["of the file"]


def test_sources_contain_files_and_hub_datasets_with_their_revision(tmp_path: Path) -> None:
    file = write(tmp_path / "v.csv", "text\na\n")
    settings = Data(
        dataset_name="org/name", dataset_config_name="sst2", dataset_revision="v1", validation_file=str(file)
    )
    assert data.sources(settings, ["train", "validation"]) == {
        "data.dataset_name": {"hub_id": "org/name", "config": "sst2", "revision": "v1"},
        "data.validation_file": [file],
    }


@pytest.mark.parametrize("message", ["Couldn't reach 'org/name' on the Hub\nsecond line", ""])
def test_unreachable_hub_is_an_error_with_a_hint(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: object, **kwargs: object) -> None:
        raise ConnectionError(message)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError) as caught:
        data.read(Data(dataset_name="org/name"), "train")
    assert "cannot load the dataset 'org/name'" in caught.value.what
    assert "second line" not in caught.value.what
    assert caught.value.hint is not None
    assert "data.train_file" in caught.value.hint
    assert "hf download --repo-type dataset org/name" in caught.value.hint


def test_offline_hub_dataset_is_an_error_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library itself, in offline mode."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="hf download --repo-type dataset made-up-org/no-such-data"):
        data.read(Data(dataset_name="made-up-org/no-such-data"), "train")


def test_unknown_split_of_a_dataset_keeps_the_library_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*args: object, **kwargs: object) -> None:
        raise ValueError("Unknown split \"validation\". Should be one of ['train'].")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(InputError, match="Unknown split"):
        data.read(Data(dataset_name="org/name"), "validation")


def test_dataset_is_loaded_with_its_split_name_and_label_names(monkeypatch: pytest.MonkeyPatch) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    loaded = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    arguments: list[object] = []

    def load_dataset(*args: object, **kwargs: object) -> datasets.Dataset:
        arguments.extend([args, kwargs])
        return loaded

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    settings = Data(dataset_name="org/name", dataset_config_name="c", dataset_revision="r", validation_split_name="dev")
    rows = data.read(settings, "validation")
    assert rows.columns == {"text": ["a", "b"], "label": ["yes", "no"]}
    assert rows.class_names == {"label": ["no", "yes"]}
    assert rows.location(1) == "org/name[dev], row 2"
    assert arguments == [("org/name", "c"), {"split": "dev", "revision": "r"}]


def test_label_names_of_list_columns_come_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    tags = datasets.List(datasets.ClassLabel(names=["O", "B-PER"]))
    features = datasets.Features({"tokens": datasets.List(datasets.Value("string")), "tags": tags})
    loaded = datasets.Dataset.from_dict({"tokens": [["Ada", "wrote"]], "tags": [[1, 0]]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: loaded)
    rows = data.read(Data(dataset_name="org/name", text_column_names="tokens", label_column_name="tags"), "train")
    assert rows.columns == {"tokens": [["Ada", "wrote"]], "tags": [["B-PER", "O"]]}
    assert rows.class_names == {"tags": ["O", "B-PER"]}


# -- rows ----------------------------------------------------------------------------------------------------


@pytest.fixture
def five_rows() -> Rows:
    return Rows({"text": list("abcde")}, (("one.csv", 2), ("two.csv", 3)), {"label": ["no", "yes"]})


def test_location_counts_rows_from_one_in_each_file(five_rows: Rows) -> None:
    assert [five_rows.location(i) for i in range(5)] == [
        "one.csv, row 1", "one.csv, row 2", "two.csv, row 1", "two.csv, row 2", "two.csv, row 3",
    ]  # fmt: skip


def test_location_after_select_is_the_original_row(five_rows: Rows) -> None:
    assert [five_rows.select([4, 1]).location(i) for i in range(2)] == ["two.csv, row 3", "one.csv, row 2"]


def test_location_after_two_selects_and_a_head_is_the_original_row(five_rows: Rows) -> None:
    selected = five_rows.select([4, 3, 0]).select([2, 1, 0]).head(2)
    assert [(text, selected.location(i)) for i, text in enumerate(selected.column("text"))] == [
        ("a", "one.csv, row 1"), ("d", "two.csv, row 2"),
    ]  # fmt: skip


def test_location_beyond_the_rows_is_an_index_error(five_rows: Rows) -> None:
    with pytest.raises(IndexError):
        five_rows.location(5)


def test_select_keeps_the_class_names(five_rows: Rows) -> None:
    assert five_rows.select([0]).class_names == {"label": ["no", "yes"]}


@pytest.mark.parametrize(("count", "expected"), [(None, "abcde"), (9, "abcde"), (5, "abcde"), (3, "abc")])
def test_head_takes_the_first_rows(five_rows: Rows, count: int | None, expected: str) -> None:
    assert "".join(five_rows.head(count).column("text")) == expected


def test_max_train_samples_and_max_eval_samples_limit_their_splits(tmp_path: Path) -> None:
    path = str(write(tmp_path / "rows.txt", "\n".join("abcdef")))
    settings = Data(
        train_file=path, unlabeled_file=path, validation_file=path, test_file=path,
        max_train_samples=4, max_eval_samples=2,
    )  # fmt: skip
    splits: tuple[data.Split, ...] = ("train", "unlabeled", "validation", "test")
    assert [len(data.read(settings, split)) for split in splits] == [4, 4, 2, 2]


def test_overlap_counts_validation_rows_that_occur_in_train() -> None:
    train = Rows({"text": ["a", "b", "c"]}, (("t", 3),))
    other = Rows({"text": ["b", "x", "b", "c"]}, (("v", 4),))
    (warning,) = duplicates.leaks_between({"train": train, "validation": other}, Data())
    assert warning.startswith("3 of 4 validation rows also occur in the training set")


def test_overlap_of_pairs_requires_both_texts_to_be_equal() -> None:
    settings = Data(text_column_names=["one", "two"])
    train = Rows({"one": ["a", "b"], "two": ["c", "d"]}, (("t", 2),))
    other = Rows({"one": ["a", "b"], "two": ["d", "c"]}, (("v", 2),))
    assert list(duplicates.leaks_between({"train": train, "validation": other}, settings)) == []


def encoded(lengths: list[int], truncated: int = 0, empty: list[int] | None = None) -> Encoded:
    ids = np.arange(1, sum(lengths) + 1, dtype=np.int32)
    tokens = {"input_ids": (ids, 0), "token_type_ids": (ids % 2, 9)}
    return Encoded(tokens, np.concatenate([[0], np.cumsum(lengths)]), truncated, empty or [])


def test_row_warnings_count_truncated_rows() -> None:
    (warning,) = data.row_warnings("train", encoded([2] * 8, truncated=2), Data(max_seq_length=64))
    assert warning["event"] == "warning"
    assert warning["message"] == "2 of 8 rows of train (25.0%) are longer than 64 tokens and were truncated"


def test_row_warnings_list_the_first_five_rows_without_text() -> None:
    (warning,) = data.row_warnings("test", encoded([2] * 9, empty=[0, 2, 3, 5, 6, 8]), Data())
    assert warning["message"] == "6 rows of test have no text (row 1, 3, 4, 6, 7)"


def test_row_warnings_are_empty_for_valid_rows() -> None:
    assert list(data.row_warnings("train", encoded([2, 3]), Data())) == []


# -- label datasets ------------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, np.ndarray[Any, Any]]:
    logits = np.random.default_rng(3).normal(size=(5, 3)).astype(np.float32)
    train = Rows({"text": ["a", "b", "c"], "label": ["x", "y", "z"]}, (("t", 3),))
    extra = Rows({"text": ["d", "e"]}, (("u", 2),))
    for name, rows, part in (
        ("train-00000-of-00001", train, logits[:3]),
        ("unlabeled-00000-of-00001", extra, logits[3:]),
    ):
        predictions = {"prediction": ["x"] * len(rows)}
        data.write_soft_labels(tmp_path / f"{name}.parquet", rows, part, None, columns=predictions, dtype="float32")
    return tmp_path, logits


def test_label_dataset_preserves_float32_logits_exactly(shards: tuple[Path, np.ndarray[Any, Any]]) -> None:
    folder, logits = shards
    soft_labels = data.read_soft_labels(folder, [path.name for path in folder.iterdir()])
    assert soft_labels.logits.dtype == np.float32
    np.testing.assert_array_equal(soft_labels.logits, logits)


def test_label_dataset_rows_without_a_label_have_none(shards: tuple[Path, np.ndarray[Any, Any]]) -> None:
    folder, _ = shards
    rows = data.read_soft_labels(folder, [path.name for path in folder.iterdir()]).rows
    assert rows.column("text") == ["a", "b", "c", "d", "e"]
    assert rows.column("label") == ["x", "y", "z", None, None]
    assert rows.column("prediction") == ["x"] * 5
    assert "teacher_logits" not in rows.columns


def test_unlabeled_shard_has_no_label_column(shards: tuple[Path, np.ndarray[Any, Any]]) -> None:
    names = pq.read_schema(shards[0] / "unlabeled-00000-of-00001.parquet").names
    assert names == ["text", "prediction", "teacher_logits"]


def test_label_dataset_in_float16_is_rounded_and_half_as_large(tmp_path: Path) -> None:
    logits = np.array([[1 / 3, -2.0], [1e-3, 4096.5]], dtype=np.float32)
    rows = Rows({"text": ["a", "b"]}, (("t", 2),))
    data.write_soft_labels(tmp_path / "train-0.parquet", rows, logits, None, columns={}, dtype="float16")
    column = pq.read_schema(tmp_path / "train-0.parquet").field("teacher_logits").type
    assert (str(column.value_type), column.list_size) == ("halffloat", 2)
    stored_logits = data.read_soft_labels(tmp_path, ["train-0.parquet"]).logits
    assert stored_logits.dtype == np.float32
    np.testing.assert_array_equal(stored_logits, logits.astype(np.float16).astype(np.float32))


def test_label_dataset_ignores_validation_rows(shards: tuple[Path, np.ndarray[Any, Any]]) -> None:
    folder, logits = shards
    rows = Rows({"text": ["a validation row"]}, (("v", 1),))
    data.write_soft_labels(
        folder / "validation-00000-of-00001.parquet", rows, logits[:1], None, columns={}, dtype="float32"
    )
    assert len(data.read_soft_labels(folder, [path.name for path in folder.iterdir()]).rows) == 5


def test_label_dataset_without_training_rows_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no rows of train or unlabeled"):
        data.read_soft_labels(tmp_path, ["validation-00000-of-00001.parquet", "manifest.json"])


@pytest.mark.parametrize("column", [0, 1, 2, 3])
def test_flipped_byte_in_a_shard_is_detected(column: int, shards: tuple[Path, np.ndarray[Any, Any]]) -> None:
    path = shards[0] / "train-00000-of-00001.parquet"
    chunk = pq.read_metadata(path).row_group(0).column(column)
    raw = bytearray(path.read_bytes())
    raw[first_page(chunk) + chunk.total_compressed_size - 1] ^= 0x10
    path.write_bytes(raw)
    with pytest.raises(InputError, match=re.escape(f"cannot read '{path}'")):
        data.read_soft_labels(path.parent, [path.name])


def first_page(chunk: Any) -> int:
    return chunk.dictionary_page_offset if chunk.dictionary_page_offset is not None else chunk.data_page_offset


def test_soft_labels_select_rows_and_logits_together() -> None:
    labels = SoftLabels(Rows({"text": list("abc")}, (("t", 3),)), np.array([[0.0], [1.0], [2.0]]))
    selected = labels.select(np.array([2, 0])).head(1)
    assert selected.rows.column("text") == ["c"]
    assert selected.logits.tolist() == [[2.0]]


@pytest.mark.parametrize("token_spans", [None, np.array([[0, -1, -1], [0, 0, 1], [1, 2, 3]], dtype=np.int32)])
def test_several_predictions_per_row_are_read_back_by_row(token_spans: Any, tmp_path: Path) -> None:
    rows = Rows({"tokens": [["a", "b"], [], ["c"]]}, (("t", 3),))
    logits = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], dtype=np.float32)
    layout = Layout(np.array([0, 2, 2, 3]), token_spans)
    data.write_soft_labels(tmp_path / "train-0.parquet", rows, logits, layout, columns={}, dtype="float32")
    soft_labels = data.read_soft_labels(tmp_path, ["train-0.parquet"])
    assert soft_labels.rows.columns.keys() == {"tokens"}
    assert soft_labels.layout is not None
    assert (soft_labels.logits.tolist(), soft_labels.layout.row_offsets.tolist()) == (logits.tolist(), [0, 2, 2, 3])
    selected = soft_labels.select(np.array([2, 0]))
    assert selected.rows.column("tokens") == [["c"], ["a", "b"]]
    assert selected.layout is not None
    assert (selected.logits[:, 0].tolist(), selected.layout.row_offsets.tolist()) == ([4.0, 0.0, 2.0], [0, 1, 3])
    spans = selected.layout.token_spans
    assert (spans is None) == (token_spans is None)
    assert spans is None or spans.tolist() == [[1, 2, 3], [0, -1, -1], [0, 0, 1]]


def test_soft_labels_head_beyond_the_rows_gives_all_rows() -> None:
    labels = SoftLabels(Rows({"text": list("abc")}, (("t", 3),)), np.zeros((3, 2)))
    assert [len(labels.head(count).rows) for count in (None, 2, 7)] == [3, 2, 3]


def test_soft_labels_head_counts_train_and_unlabeled_apart_and_no_augmented_examples(tmp_path: Path) -> None:
    shards = {"train-0.parquet": "ab", "augmented-0.parquet": "CDEF", "unlabeled-0.parquet": "ghi"}
    for name, letters in shards.items():
        rows = Rows({"text": list(letters)}, (("t", len(letters)),))
        data.write_soft_labels(tmp_path / name, rows, np.zeros((len(letters), 2)), None, columns={}, dtype="float32")
    labels = data.read_soft_labels(tmp_path, shards)
    heads = {count: "".join(labels.head(count).rows.column("text")) for count in (None, 3, 2, 1)}
    assert heads == {None: "abCDEFghi", 3: "abCDEFghi", 2: "abCDEFgh", 1: "ag"}  # examples of b only with b
    assert labels.originals.column("text") == list("abghi")


@pytest.mark.parametrize("in_memory", [True, False])
def test_labels_of_unlabeled_rows_are_no_gold_labels(
    in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinybert_cli.data.soft_labels.LARGE", 1 << 30 if in_memory else 0)
    shards = {"train-0.parquet": [2.5, 1.0], "augmented-0.parquet": [None], "unlabeled-0.parquet": [-1.0, -1.0]}
    for name, scores in shards.items():
        rows = Rows({"text": ["a"] * len(scores), "score": scores}, (("t", len(scores)),))
        data.write_soft_labels(tmp_path / name, rows, np.zeros((len(scores), 2)), None, columns={}, dtype="float32")
    labels = data.read_soft_labels(tmp_path, shards)
    assert list(labels.rows.column("score")) == [2.5, 1.0, None, -1.0, -1.0]
    gold = labels.with_gold_of_train(["score", "other"])
    assert list(gold.rows.column("score")) == [2.5, 1.0, None, None, None]
    assert list(labels.head(1).with_gold_of_train(["score"]).rows.column("score")) == [2.5, None]
    train = data.read_soft_labels(tmp_path, ["train-0.parquet"])
    assert train.with_gold_of_train(["score"]) is train


def test_missing_folder_is_rejected_with_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "teacher-labels").mkdir()
    with pytest.raises(InputError) as caught:
        data.existing_folder(str(tmp_path / "techer-labels"), "soft_labels")
    assert (caught.value.where, caught.value.hint) == ("soft_labels", "did you mean 'teacher-labels'?")


def test_folder_with_checkpoints_but_no_manifest_is_unfinished(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(InputError, match="is unfinished"):
        data.existing_folder(str(tmp_path), "soft_labels")


def test_folder_without_a_manifest_is_not_a_label_dataset(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a label dataset"):
        data.existing_folder(str(tmp_path), "soft_labels")


# -- batches -------------------------------------------------------------------------------------------------


@pytest.fixture
def examples() -> Examples:
    """Rows of 2, 1 and 3 tokens, with the ids 1 to 6."""
    return Examples.of(encoded([2, 1, 3]), labels=np.array([10, 11, 12]), teacher_logits=np.eye(3, dtype=np.float32))


def test_batch_is_padded_to_its_longest_row_in_the_given_order(examples: Examples) -> None:
    batch = examples.__getitems__([2, 0])
    assert batch["input_ids"].tolist() == [[4, 5, 6], [1, 2, 0]]
    assert batch["token_type_ids"].tolist() == [[0, 1, 0], [1, 0, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_batch_contains_the_targets_of_its_rows(examples: Examples) -> None:
    batch = examples.__getitems__([2, 0])
    assert batch["labels"].tolist() == [12, 10]
    assert batch["teacher_logits"].tolist() == [[0, 0, 1], [1, 0, 0]]


def test_batch_of_one_short_row_has_no_padding(examples: Examples) -> None:
    assert examples.__getitems__([1])["input_ids"].tolist() == [[3]]


def test_batch_has_the_dtypes_that_models_need(examples: Examples) -> None:
    batch = examples.__getitems__([0])
    assert [batch[name].dtype for name in ("input_ids", "attention_mask", "labels")] == [torch.int64] * 3
    assert batch["teacher_logits"].dtype == torch.float32


def test_lengths_are_tokens_per_row(examples: Examples) -> None:
    assert (len(examples), examples.lengths.tolist()) == (3, [2, 1, 3])


def test_batch_positions_index_the_flattened_tokens() -> None:
    examples = Examples(
        {"input_ids": (np.arange(1, 8), 0)}, np.array([0, 4, 7]), {"labels": np.array([10, 11, 12])},
        window_offsets=np.array([0, 2, 3]), positions=np.array([1, 3, 2]),
    )  # fmt: skip
    batch = examples.__getitems__([1, 0])
    ids = batch["input_ids"].flatten()
    assert ids[batch["positions"]].tolist() == [7, 2, 4]
    assert batch["labels"].tolist() == [12, 10, 11]
    assert examples.prediction_indices([1, 0]).tolist() == [2, 0, 1]
    assert "positions" not in examples.timing_batches(1, None, 2)[0]


LENGTHS = np.minimum(1 + np.random.default_rng(0).lognormal(2.2, 0.9, size=1003).astype(int), 128)


def padding(batches: list[list[int]]) -> float:
    """Share of the tokens of all batches that is padding."""
    total = sum(int(LENGTHS[rows].max()) * len(rows) for rows in batches)
    return 1 - int(LENGTHS.sum()) / total


@pytest.mark.parametrize("group_by_length", [True, False])
@pytest.mark.parametrize("size", [1, 8, 1003, 2000])
def test_an_epoch_contains_every_row_exactly_once(size: int, group_by_length: bool) -> None:
    batches = BucketBatches(LENGTHS, size, seed=1, group_by_length=group_by_length)
    epoch = list(batches)
    assert sorted(row for rows in epoch for row in rows) == list(range(1003))
    assert len(epoch) == len(batches) == -(-1003 // size)


def test_all_batches_except_one_are_full() -> None:
    sizes = sorted(len(rows) for rows in BucketBatches(LENGTHS, 8, seed=1))
    assert sizes == [3] + [8] * 125


def test_the_incomplete_batch_comes_last() -> None:
    assert len(LENGTHS) % 8
    assert [len(rows) for rows in BucketBatches(LENGTHS, 8, seed=3)][:-1] == [8] * (len(LENGTHS) // 8)


def test_batches_depend_only_on_seed_and_epoch() -> None:
    one, other = BucketBatches(LENGTHS, 8, seed=5), BucketBatches(LENGTHS, 8, seed=5)
    list(one)
    one.epoch = other.epoch = 2
    assert list(one) == list(other)


def test_epochs_have_different_batches() -> None:
    batches = BucketBatches(LENGTHS, 8, seed=5)
    first = list(batches)
    batches.epoch = 1
    assert {frozenset(rows) for rows in first} != {frozenset(rows) for rows in batches}


def test_seeds_give_different_batches() -> None:
    assert list(BucketBatches(LENGTHS, 8, seed=5)) != list(BucketBatches(LENGTHS, 8, seed=6))


def test_grouping_by_length_leaves_little_padding() -> None:
    grouped = padding(list(BucketBatches(LENGTHS, 8, seed=1)))
    at_random = padding(list(BucketBatches(LENGTHS, 8, seed=1, group_by_length=False)))
    assert grouped < 0.1
    assert at_random > 0.4


def test_grouped_batches_are_not_ordered_by_length() -> None:
    lengths = np.arange(8 * data.POOL)  # one pool
    longest = [int(lengths[rows].max()) for rows in BucketBatches(lengths, 8, seed=1)]
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.5


@pytest.mark.parametrize("indices", [[], [2], [3, 0, 0, 1], [1, 1]])
def test_concatenated_ranges_are_those_of_each_index(indices: list[int]) -> None:
    offsets = np.array([0, 2, 2, 7, 8])
    expected = [number for index in indices for number in range(offsets[index], offsets[index + 1])]
    result = concatenated_ranges(offsets, np.array(indices, dtype=np.int64))
    assert result.tolist() == expected and result.dtype == np.int64


def test_order_of_batches_is_that_of_earlier_versions() -> None:
    random = np.random.default_rng([4, 2])
    order = random.permutation(len(LENGTHS))
    pools = np.split(order, range(data.POOL * 3, len(order), data.POOL * 3))
    order = np.concatenate([rows[np.argsort(LENGTHS[rows], kind="stable")] for rows in pools])
    parts, full = np.split(order, range(3, len(order), 3)), len(order) // 3
    expected = [parts[index].tolist() for index in [*random.permutation(full), *range(full, len(parts))]]
    batches = BucketBatches(LENGTHS, 3, seed=4)
    batches.epoch = 2
    assert list(batches) == expected


def test_sorted_batches_start_with_the_longest_rows() -> None:
    assert list(data.sorted_batches(np.array([3, 9, 5, 9, 1]), 2)) == [[1, 3], [2, 0], [4]]


def test_sorted_batches_have_little_padding() -> None:
    assert padding(data.sorted_batches(LENGTHS, 8)) < 0.05


def test_timing_batches_contain_the_first_rows_at_their_lengths() -> None:
    batches = Examples.of(encoded([2, 1, 3, 4, 5])).timing_batches(2, None, rows=4)
    assert [tuple(batch["input_ids"].shape) for batch in batches] == [(2, 2), (2, 4)]
    assert batches[0]["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_timing_batches_repeat_rows_until_they_are_full() -> None:
    (batch,) = Examples.of(encoded([2, 1, 3])).timing_batches(8, None, rows=100)
    assert batch["input_ids"][:, 0].tolist() == [1, 3, 4, 1, 3, 4, 1, 3]


@pytest.mark.parametrize("length", [1, 7])
def test_timing_batches_of_a_given_length_have_no_padding(length: int) -> None:
    batches = Examples.of(encoded([2, 1, 3, 4, 5, 6])).timing_batches(2, length, rows=6)
    assert {tuple(batch["input_ids"].shape) for batch in batches} == {(2, length)}
    assert all(bool(batch["attention_mask"].all()) for batch in batches)
