"""predict on files with columns: which texts are read, what is written, and what is rejected."""

from __future__ import annotations

import csv
import gzip
import io
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_config, sentences, write_rows, write_sentences
from conftest import run as run_stage
from typer.testing import CliRunner

from tinybert_cli.cli import app
from tinybert_cli.data.readers import read_file
from tinybert_cli.errors import InputError
from tinybert_cli.helpers import predict, predict_tables
from tinybert_cli.metrics.entities import entities
from tinybert_cli.types import Rows

ROWS = [{"id": str(index), "message": row["text"]} for index, row in enumerate(sentences("test"))]


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, words)])


def write_table(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    if path.name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    text = io.StringIO()
    if "jsonl" in path.name:
        text.writelines(f"{json.dumps(row)}\n" for row in rows)
    else:
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if "tsv" in path.name else ",")
        writer.writeheader()
        writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def read_output(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return list(csv.DictReader(io.StringIO(path.read_text())))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz", "a.jsonl.gz"])
def test_texts_come_from_the_named_column_of_a_table(name: str, teacher: Path, tmp_path: Path) -> None:
    done = run(teacher, "--file", write_table(tmp_path / name), "--text", "message")
    assert done.exit_code == 0, done.stderr
    assert [line.split("\t")[2] for line in done.stdout.splitlines()] == [row["message"] for row in ROWS]


def test_the_column_of_training_is_the_default(teacher: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.csv", [{"n": "1", "text": "a fine film"}])
    assert run(teacher, "--file", table).stdout.startswith("good\t")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_output_has_the_input_columns_and_predictions_in_order(ending: str, teacher: Path, tmp_path: Path) -> None:
    file, table = tmp_path / f"answers.{ending}", write_table(tmp_path / "a.csv")
    done = run(teacher, "--file", table, "--text", "message", "--output", file)
    assert done.exit_code == 0 and done.stdout == "" and "written: " in done.stderr and "24 rows" in done.stderr
    expected = list(predict.run(str(teacher), [row["message"] for row in ROWS]))
    rows = read_output(file)
    assert [(row["id"], row["message"], row["prediction"]) for row in rows] == [
        (row["id"], row["message"], output["prediction"]) for row, output in zip(ROWS, expected, strict=True)
    ]
    assert [float(row["confidence"]) for row in rows] == pytest.approx([row["confidence"] for row in expected])
    assert ("probabilities" in rows[0]) == (ending != "csv")
    assert not list(tmp_path.glob(".*partial"))


def test_an_existing_output_is_only_replaced_with_force(teacher: Path, tmp_path: Path) -> None:
    file, table = tmp_path / "answers.csv", write_table(tmp_path / "a.csv")
    file.write_text("mine")
    words = (teacher, "--file", table, "--text", "message", "--output", file)
    assert run(*words).exit_code == 4 and file.read_text() == "mine"
    assert run(*words, "--force").exit_code == 0 and len(read_output(file)) == len(ROWS)


def test_a_failed_run_leaves_no_output(teacher: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.jsonl", [{"message": "fine"}, {"message": None}])
    done = run(teacher, "--file", table, "--text", "message", "--output", tmp_path / "answers.csv")
    assert done.exit_code == 3 and "the column 'message' is null" in done.stderr and "a.jsonl, row 2" in done.stderr
    assert sorted(path.name for path in tmp_path.glob("a*")) == ["a.jsonl"]


def test_a_missing_column_is_an_error_that_names_those_of_the_file(teacher: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.csv")
    wrong = run(teacher, "--file", table, "--text", "mesage")
    assert wrong.exit_code == 3 and "did you mean 'message'?; columns here: id, message" in wrong.stderr
    default = run(teacher, "--file", table)
    assert "was trained on the column text" in default.stderr and "columns here: id, message" in default.stderr


@pytest.mark.parametrize(("named", "recorded"), [(["a"], ["question", "context"]), (["a", "b"], ["text"])])
def test_a_wrong_number_of_columns_is_an_error(named: list[str], recorded: list[str]) -> None:
    rows = Rows({"a": ["x"], "b": ["y"]}, (("file.csv", 1),))
    with pytest.raises(InputError, match=f"but --text names {len(named)} column"):
        predict_tables.texts_of(rows, named, recorded, "model")


GIVEN = [["fine,great", "film"], ["ca", "n't", "New", "(cold)"], ["New York", "is", "...", "warm"], ["", "dull"]]


def test_given_words_are_tagged_as_eval_tags_them(base_model: Path, tmp_path: Path) -> None:
    rows = [{"tokens": words, "tags": ["B-X", *["O"] * (len(words) - 1)]} for words in GIVEN]
    folder = write_sentences(tmp_path / "data")
    for split in ("train", "validation"):
        write_rows(folder / f"{split}.jsonl", rows)
    settings = {
        "task": "token-classification", "data__text_column_names": "tokens", "data__label_column_name": "tags",
    }  # fmt: skip
    tagger = make_config("finetune", folder, tmp_path / "tagger", model=base_model, training__max_steps=4, **settings)
    run_stage("finetune", tagger)
    scored: dict[str, Any] = {"models": {"tagger": str(tmp_path / "tagger")}, "latency": None, "baselines": []}
    run_stage("eval", make_config("eval", folder, tmp_path / "eval", **scored, **settings))
    expected = read_output(tmp_path / "eval" / "predictions.parquet")
    answers = tmp_path / "answers.jsonl"
    done = run(tmp_path / "tagger", "--file", folder / "validation.jsonl", "--output", answers)
    assert done.exit_code == 0, done.stderr
    for words, row, tagged in zip(GIVEN, read_output(answers), expected, strict=True):
        texts = [
            " ".join(words[begin:end])
            for _, begin, end in entities(tagged["tagger_prediction"], prefixed=True, outside=True)
        ]
        assert [entity["text"] for entity in row["prediction"]] == texts
        assert row["confidence"] == pytest.approx(tagged["tagger_confidence"], abs=1e-6)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("text\nfine, but dull\n", "must be in double quotes; or save the file as .jsonl or .parquet"),
        ("a;text,b\n1;2,3\n", "save the file as .jsonl or .parquet"),
    ],
)
def test_the_hint_of_a_malformed_csv_names_no_setting(content: str, remedy: str, teacher: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text(content)
    done = run(teacher, "--file", file)
    assert done.exit_code == 3 and remedy in done.stderr and "data." not in done.stderr


def test_a_list_of_words_is_no_text_of_a_classifier() -> None:
    rows = Rows({"text": [["a", "film"]]}, (("file.jsonl", 1),))
    with pytest.raises(InputError, match="which is no text"):
        predict_tables.texts_of(rows, [], ["text"], "model")


def test_two_columns_make_pairs_and_a_tab_stays_in_its_text() -> None:
    rows = Rows({"q": ["who\twrote"], "c": ["Ada did."]}, (("file.csv", 1),))
    texts = predict_tables.texts_of(rows, ["q", "c"], ["question", "context"], "model")
    assert texts == [("who\twrote", "Ada did.")]


AWKWARD = ["one\rtwo", "a,b", 'say "yes"', "first\nsecond", "x\r\ny", " edges ", "Zoë\u2028film"]


def test_csv_gives_every_cell_back(teacher: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.jsonl", [{"text": "fine", "note": note} for note in AWKWARD])
    done = run(teacher, "--file", table, "--output", tmp_path / "answers.csv")
    assert done.exit_code == 0, done.stderr
    with (tmp_path / "answers.csv").open(newline="") as file:
        assert [row["note"] for row in csv.DictReader(file)] == AWKWARD
    assert read_file(tmp_path / "answers.csv").column("note") == AWKWARD


def test_tsv_has_no_quotes_and_refuses_what_it_cannot_hold(teacher: Path, tmp_path: Path) -> None:
    notes = ['say "yes"', '"', "a,b"]
    table = write_table(tmp_path / "a.jsonl", [{"text": "fine", "note": note} for note in notes])
    done = run(teacher, "--file", table, "--output", tmp_path / "answers.tsv")
    assert done.exit_code == 0, done.stderr
    lines = (tmp_path / "answers.tsv").read_text().splitlines()
    assert [line.split("\t")[1] for line in lines] == ["note", *notes]
    for note in ("a\tb", "a\nb", "a\rb"):
        table = write_table(tmp_path / "b.jsonl", [{"text": "fine", "note": "x"}, {"text": "fine", "note": note}])
        done = run(teacher, "--file", table, "--output", tmp_path / "other.tsv")
        assert done.exit_code == 3 and "b.jsonl, row 2" in done.stderr and "a tab or a line break" in done.stderr
        assert not (tmp_path / "other.tsv").exists()


def test_parquet_keeps_the_types_of_its_columns(teacher: Path, tmp_path: Path) -> None:
    times = np.array(["2024-01-01T00:00:00.123456789", "2024-01-02"], dtype="datetime64[ns]")
    columns = {
        "text": pa.array(["fine", "bad"]),
        "id": pa.array([2**63 + 1, 5], pa.uint64()),
        "time": pa.array(times),
        "price": pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)),
        "share": pa.array([0.1, 1.5], pa.float32()),
        "kind": pa.array(["a", "b"]).dictionary_encode(),
        "tags": pa.array([["x"], []], pa.list_(pa.large_string())),
    }
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "a.parquet")
    done = run(teacher, "--file", tmp_path / "a.parquet", "--output", tmp_path / "answers.parquet")
    assert done.exit_code == 0 and "are text" not in done.stderr, done.stderr
    written = pq.read_table(tmp_path / "answers.parquet").select(list(columns))
    assert written.schema.field("kind").type == pa.string()
    assert written.drop_columns(["kind"]).equals(table.drop_columns(["kind"]))


def test_columns_that_parquet_stores_as_text_are_named(teacher: Path, tmp_path: Path) -> None:
    rows = [{"text": "fine", "id": 2**63 + 1, "n": 1}, {"text": "bad", "id": "x", "n": 2}]
    done = run(teacher, "--file", write_table(tmp_path / "a.jsonl", rows), "--output", tmp_path / "answers.parquet")
    assert done.exit_code == 0 and "no common type in Parquet are text: id" in done.stderr
    assert [row["id"] for row in read_output(tmp_path / "answers.parquet")] == [str(2**63 + 1), "x"]


def test_a_column_that_the_output_adds_is_rejected(teacher: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.csv", [{"text": "fine", "prediction": "x"}])
    done = run(teacher, "--file", table, "--output", tmp_path / "b.csv")
    assert done.exit_code == 3 and "has a column 'prediction', which --output adds" in done.stderr
    assert not (tmp_path / "b.csv").exists()


def test_a_column_that_the_output_adds_to_some_rows_is_rejected_before_the_first_prediction(tmp_path: Path) -> None:
    rows = Rows({"text": ["a", "b"], "cut": ["x", "y"]}, (("file.csv", 2),))
    outputs = [{"text": text, "prediction": text} for text in "ab"]
    for name in ("out.jsonl", "out.parquet"):
        given = iter(outputs)
        with pytest.raises(InputError, match="a column 'cut', which --output adds"):
            predict_tables.write(tmp_path / name, [(rows, given)], tmp_path / "file.csv", sometimes=["cut"])
        assert not (tmp_path / name).exists() and len(list(given)) == 1  # stopped at the first row
    predict_tables.write(tmp_path / "out.csv", [(rows, outputs)], tmp_path / "file.csv", sometimes=["cut"])
    assert (tmp_path / "out.csv").read_text() == "text,cut,prediction\na,x,a\nb,y,b\n"


def test_a_column_that_only_other_tasks_add_stays(teacher: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "a.csv", [{"text": "fine", "score": "3", "begin": "0"}])
    for name in ("b.csv", "b.jsonl"):
        done = run(teacher, "--file", table, "--output", tmp_path / name)
        assert done.exit_code == 0, done.stderr
        (row,) = read_output(tmp_path / name)
        assert (row["score"], row["begin"], row["prediction"]) == ("3", "0", "good")


def test_tuned_thresholds_are_part_of_the_output(teacher: Path) -> None:
    config = json.loads((teacher / "config.json").read_text())
    (teacher / "manifest.json").unlink()
    multi = {
        "tinybert_task": "multi-label-classification", "problem_type": "multi_label_classification",
        "thresholds": [0.25, 0.5],
    }  # fmt: skip
    (teacher / "config.json").write_text(json.dumps({**config, **multi}))
    labels = list(config["id2label"].values())
    assert json.loads(run(teacher, "fine", "--json").stdout)["thresholds"] == {labels[0]: 0.25, labels[1]: 0.5}
    assert f"note: thresholds: {labels[0]} 0.25, {labels[1]} 0.5" in run(teacher, "fine").stderr


def test_several_labels_are_one_cell_that_label_separator_splits(tmp_path: Path) -> None:
    rows = Rows({"text": ["a", "b"]}, (("file.csv", 2),))
    outputs = [{"text": "a", "prediction": ["x", "y"]}, {"text": "b", "prediction": []}]
    predict_tables.write(tmp_path / "out.csv", [(rows, outputs)], tmp_path / "file.csv")
    assert (tmp_path / "out.csv").read_text() == "text,prediction\na,x|y\nb,\n"


def test_the_prompt_reads_a_line_at_a_time_until_the_end() -> None:
    stderr = io.StringIO()
    assert list(predict.prompted(io.StringIO("one\n\ntwo"), stderr)) == ["one", "two"]
    assert stderr.getvalue() == "> > > > \n"


def test_a_text_file_has_no_columns(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fine\n")
    done = run(teacher, "--file", tmp_path / "a.txt", "--text", "message")
    assert done.exit_code == 2 and "one text per line and no columns" in done.stderr
