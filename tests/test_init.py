"""init --data: the task and columns of a file, its splits, and a recipe whose stages load."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from tinybert_cli import cli, configuration
from tinybert_cli.config import Data
from tinybert_cli.data import splits
from tinybert_cli.errors import ConfigError, ConfigErrors, InputError, OutputError
from tinybert_cli.helpers import init, new_recipe, new_splits, shipped_recipes, text_lengths
from tinybert_cli.inspection import columns, splitting
from tinybert_cli.stages.checks import CHECKS
from tinybert_cli.types import Rows

QUEUES = {
    "billing": "The invoice of the contract is wrong",
    "login": "The password of the portal does not work",
    "shipping": "The parcel with the router has not arrived",
}
NAMES = [
    "teacher", "teacher-labels", "student", "student-labels", "student2", "student2-direct", "student2-plain", "eval",
    "export",
]  # fmt: skip
WORDS = ["amber", "basin", "cedar", "delta", "ember", "flint", "grove", "heath", "inlet", "jetty", "knoll", "ledge"]


def tickets(count: int = 60, **more: Any) -> list[dict[str, Any]]:
    """Rows with an id, a date, a text and one of three queues; no two texts are similar."""
    cities = list(itertools.permutations(WORDS, 3))
    random.Random(3).shuffle(cities)
    rows = []
    for index in range(count):
        queue = list(QUEUES)[index % 3]
        city = " ".join(cities[index])
        text = f"{QUEUES[queue]}, says the office in {city}."
        rows.append({"id": f"T-{index}", "created": f"2026-03-{1 + index % 28:02d}", "message": text, "queue": queue})
        rows[-1] |= {name: value(index) if callable(value) else value for name, value in more.items()}
    return rows


def write(file: Path, rows: Sequence[dict[str, Any]], delimiter: str = ",") -> str:
    if file.suffix == ".jsonl":
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return str(file)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(file)


def guess(rows: Sequence[dict[str, Any]], **choice: Any) -> columns.Guess:
    return columns.guess(
        Rows({name: [row.get(name) for row in rows] for name in rows[0]}, (("file", len(rows)),)), **choice
    )


@pytest.fixture(autouse=True)
def without_tokenizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lengths from words, and models that cannot be downloaded: nothing depends on what is installed."""
    monkeypatch.setattr(text_lengths, "default_model", lambda: text_lengths.BERT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def write_recipe(data: str, folder: Path = Path("mine"), **options: Any) -> tuple[dict[str, Any], list[str]]:
    """The recipe in the folder, as plain data, and the lines that init prints."""
    lines = list(init.run(init.Request(folder, data, **options)))
    return yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")), lines


def read(recipe: dict[str, Any], split: Any) -> Rows:
    return splits.read(Data.model_validate(recipe["data"]), split)


# -- the task and its columns ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t"), ("d.jsonl", "")])
def test_tickets_in_any_file_format_are_classes_of_the_message(name: str, delimiter: str) -> None:
    recipe, lines = write_recipe(write(Path(name), tickets(), delimiter))
    assert recipe["task"] == "text-classification"
    assert recipe["data"]["text_column_names"] == "message" and recipe["data"]["label_column_name"] == "queue"
    assert recipe["data"]["label_names"] == ["billing", "login", "shipping"]
    assert "not used: id, created" in lines
    assert any("delimiter" in line for line in lines) == (name[0] in "abc")


def test_two_numbered_texts_are_a_pair() -> None:
    rows = tickets(
        sentence1=lambda i: f"one text {i} of two", sentence2=lambda i: f"other text {i} here", label=lambda i: i % 2
    )
    found = guess([{key: row[key] for key in ("sentence1", "sentence2", "label")} for row in rows])
    assert (found.task, found.text, found.label) == ("text-classification", ["sentence1", "sentence2"], "label")


def test_a_column_of_lists_is_several_labels() -> None:
    found = guess(
        [{"text": row["message"], "tags": [row["queue"], "new"][: 1 + i % 2]} for i, row in enumerate(tickets())]
    )
    assert (found.task, found.label) == ("multi-label-classification", "tags")


def test_cells_with_a_separator_are_several_labels() -> None:
    rows = [
        {"text": row["message"], "labels": f"{row['queue']};{'new' if i % 4 else 'old'}"}
        for i, row in enumerate(tickets())
    ]
    found = guess(rows)
    assert (found.task, found.label, found.separator) == ("multi-label-classification", "labels", ";")
    recipe, _ = write_recipe(write(Path("a.csv"), rows))
    assert recipe["data"]["label_separator"] == ";"
    assert recipe["data"]["label_names"] == ["billing", "login", "new", "old", "shipping"]


def test_two_classes_of_several_labels_are_several_labels() -> None:
    rows = [{"text": row["message"], "genres": "drama|crime" if i % 3 else "comedy"} for i, row in enumerate(tickets())]
    assert guess(rows).separator == "|"


def test_a_chosen_task_of_several_labels_needs_only_one_row_of_several() -> None:
    texts = [row["message"] for row in tickets()]
    rows = [{"text": text, "tags": ("food", "price")[i % 2] if i else "food|price"} for i, text in enumerate(texts)]
    assert guess(rows).task == "text-classification"
    assert guess(rows, task="multi-label-classification").separator == "|"
    assert guess(rows, task="multi-label-classification", separator=";").separator == ";"


def test_numbers_that_may_be_several_labels_are_asked_for() -> None:
    texts = [row["message"] for row in tickets()]
    cells = [str(i % 13) if i % 4 else f"{i % 5},{7 + i % 5}" for i in range(len(texts))]
    rows = [{"text": text, "labels": cell} for text, cell in zip(texts, cells, strict=True)]
    with pytest.raises(InputError, match="a number with a decimal comma, or two labels"):
        guess(rows)
    assert guess(rows, task="regression").task == "regression"
    assert guess(rows, task="multi-label-classification").separator == guess(rows, separator=",").separator == ","
    of_three = [{**rows[0], "labels": "1,2,3"}, *rows[1:]]
    assert guess(of_three).task == "multi-label-classification"
    decimals = [{**row, "labels": f"{i % 5},{i % 10}0"} for i, row in enumerate(rows)]
    assert guess(decimals).task == "regression"
    prices = [{**row, "labels": f"{i + 1},000,000"} for i, row in enumerate(rows)]
    with pytest.raises(InputError, match="numbers with signs"):
        guess(prices)


def test_several_columns_of_0_and_1_are_one_class_each() -> None:
    rows = [
        {"text": row["message"], "rude": i % 2, "spam": int(i % 3 == 0), "old": int(i % 5 == 0)}
        for i, row in enumerate(tickets())
    ]
    found = guess(rows)
    assert (found.task, found.label) == ("multi-label-classification", ["rude", "spam", "old"])


def test_fractions_are_a_regression() -> None:
    found = guess(tickets(score=lambda i: f"{i % 50 / 10:.1f}", queue=""))
    assert (found.task, found.label) == ("regression", "score")


def test_decimals_of_parquet_are_numbers() -> None:
    found = guess(tickets(price=lambda i: Decimal(f"{i}.50"), queue=""))
    assert (found.task, found.label) == ("regression", "price")
    assert guess(tickets(label=lambda i: Decimal(i % 3))).task == "text-classification"


def test_whole_numbers_written_as_floats_are_classes() -> None:
    found = guess(tickets(label=lambda i: float(i % 2)))
    assert (found.task, found.label) == ("text-classification", "label")


def test_words_and_tags_of_equal_lengths_are_token_classification() -> None:
    rows = [
        {"tokens": row["message"].split(), "ner_tags": ["B-X", *["O"] * (len(row["message"].split()) - 1)]}
        for row in tickets()
    ]
    found = guess([{**row, "pos_tags": ["N"] * len(row["tokens"])} for row in rows])
    assert (found.task, found.text, found.label) == ("token-classification", ["tokens"], "ner_tags")


def test_a_conll_file_is_token_classification() -> None:
    lines = [
        f"{word} {'B-X' if word == 'office' else 'O'}" for row in tickets() for word in [*row["message"].split(), ""]
    ]
    Path("a.conll").write_text("\n".join(line if line.strip() != "O" else "" for line in lines), encoding="utf-8")
    recipe, _ = write_recipe("a.conll")
    assert recipe["task"] == "token-classification" and recipe["data"]["label_names"] == ["O", "B-X"]


def squad(count: int = 30) -> dict[str, Any]:
    def paragraph(index: int) -> dict[str, Any]:
        context = tickets(count)[index]["message"]
        questions = [
            {"id": f"{index}-{number}", "question": f"Where is office number {index}?", "answers": [{"text": "office", "answer_start": context.index("office")}]}
            for number in range(2)
        ]  # fmt: skip
        return {"context": context, "qas": questions}

    return {"data": [{"title": "offices", "paragraphs": [paragraph(index) for index in range(count)]}]}


def test_a_squad_file_is_question_answering_and_no_context_is_in_two_splits() -> None:
    Path("a.json").write_text(json.dumps(squad()), encoding="utf-8")
    recipe, _ = write_recipe("a.json")
    assert recipe["task"] == "question-answering" and recipe["data"]["text_column_names"] == ["question", "context"]
    contexts = [set(read(recipe, name).column("context")) for name in ("train", "validation", "test")]
    assert sum(map(len, contexts)) == len(set.union(*contexts)) == 30


def test_two_languages_are_a_translation() -> None:
    rows = [{"en": row["message"], "de": f"Das ist {row['message']}"} for row in tickets()]
    recipe, _ = write_recipe(write(Path("a.jsonl"), rows))
    assert recipe["task"] == "translation" and recipe["data"]["label_column_name"] == "de"
    assert recipe["stages"][-1]["format"] == "ctranslate2"


def test_a_translation_recipe_fits_its_teacher() -> None:
    rows = [{"en": row["message"], "de": f"Das ist {row['message']}"} for row in tickets()]
    data = write(Path("a.jsonl"), rows)
    for name, config in {"bert": {}, "m2m_100": {"is_encoder_decoder": True}}.items():
        Path(name).mkdir()
        (Path(name) / "config.json").write_text(json.dumps({"model_type": name, **config}))
    with pytest.raises(ConfigError, match="--model has no effect in translation"):
        write_recipe(data, model="m2m_100")
    with pytest.raises(InputError, match="translation needs an encoder-decoder model"):
        write_recipe(data, teacher="bert")
    with pytest.raises(ConfigError, match="translates between several languages"):
        write_recipe(data, teacher="m2m_100")
    languages = ["data.source_language=en", "data.target_language=de"]
    recipe, lines = write_recipe(data, teacher="m2m_100", settings=languages)
    assert recipe["data"]["target_language"] == "de" and "student2-plain" in recipe["stages"][-2]["models"]
    assert any("students of all its encoder layers + 1 and 2 + 1 layers" in line for line in lines)


def test_translation_with_named_columns_needs_no_names_of_languages() -> None:
    rows = [{"English": row["message"], "German": f"Das ist {row['message']}"} for row in tickets()]
    found = guess(rows, task="translation", text=["German"], label=["English"])
    assert (found.task, found.text, found.label) == ("translation", ["German"], "English")
    with pytest.raises(InputError, match="--text COLUMN --label COLUMN"):
        guess(rows, task="translation")


def test_answers_whose_positions_are_a_column_of_their_own_are_no_numbers_to_predict() -> None:
    rows = [
        {"question": f"Which office is number {index}?", "context": row["message"], "answer": f"amber basin {index}",
         "answer_start": 10 + index % 30}
        for index, row in enumerate(tickets())
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"'answer_start' is where an answer begins.*(\n.*)*answers: \{"):
        guess(rows)
    with pytest.raises(InputError, match="'answer_start' is where an answer begins"):
        guess(rows, task="question-answering")
    assert guess(rows, label=["answer_start"]).task == "regression"
    assert guess([{**row, "label": "ab"[index % 2]} for index, row in enumerate(rows)]).label == "label"


@pytest.mark.parametrize("form", [
    ",".join, " ".join, str, list, lambda tags: tags[0],
], ids=["commas", "spaces", "list as text", "list beside a text", "a word per row"])  # fmt: skip
def test_tags_of_words_without_these_words_are_no_labels(form: Any) -> None:
    rows = [
        {"text": row["message"], "tags": form(["O", "B-X"] if index % 2 else ["B-X", "O"])}
        for index, row in enumerate(tickets())
    ]
    with pytest.raises(InputError, match="'tags' has tags of words, but no column has a list of as many words"):
        guess(rows)
    assert guess([{**row, "label": "ab"[index % 2]} for index, row in enumerate(rows)]).label == "label"


def test_the_options_override_the_guess() -> None:
    found = guess(
        tickets(title=lambda i: f"title {i} of it", stars=lambda i: i % 5),
        task="regression",
        text=["title"],
        label=["stars"],
    )
    assert (found.task, found.text, found.label) == ("regression", ["title"], "stars")


def test_a_known_name_decides_between_several_columns_of_classes() -> None:
    assert guess(tickets(category=lambda i: "ab"[i % 2], channel=lambda i: "xy"[i % 2])).label == "category"


def test_columns_of_classes_without_a_known_name_are_asked_for() -> None:
    rows = tickets(channel=lambda i: "xy"[i % 2])
    with pytest.raises(InputError, match=r"2 columns may be the label: queue: 3 classes .*--label queue"):
        try:
            guess(rows)
        except InputError as error:
            raise InputError(str(error).replace("\n", " ")) from error
    assert guess(rows, choose=lambda _, names: names[-1]).label == "channel"


# -- columns that cannot be labels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "phrase"),
    [
        (lambda i: "open", "queue: one value, 'open'"),
        (lambda i: f"2026-03-{1 + i % 28:02d}", "queue: dates"),
        (lambda i: i, "queue: an id"),
        (lambda i: f"note {i} about the case", "queue: texts of 5 words"),
        (lambda i: "", "queue: empty"),
    ],
)
def test_a_file_without_a_label_lists_what_its_columns_hold(queue: Any, phrase: str) -> None:
    with pytest.raises(InputError) as caught:
        guess(tickets(queue=queue))
    assert phrase in str(caught.value) and "--text COLUMN --label COLUMN" in str(caught.value)


@pytest.mark.parametrize("name", ["id", "created", "message"])
def test_an_id_a_date_or_a_text_given_as_label_is_rejected(name: str) -> None:
    with pytest.raises(InputError, match=f"the column '{name}' cannot be the label"):
        guess(tickets(), label=[name])


@pytest.mark.parametrize("first", ["I love this,pos", "Great,neg", "Bad thing and a long text,pos", "good,3.5"])
def test_a_file_without_column_names_is_rejected(first: str) -> None:
    number = first.endswith("5")
    rows = [
        f"text number {i} here,{i / 7:.2f}" if number else f"text {i} here,{'pos' if i % 2 else 'neg'}"
        for i in range(60)
    ]
    Path("a.csv").write_text("\n".join([first, *rows, ""]), encoding="utf-8")
    with pytest.raises(InputError, match="the first line looks like a row"):
        write_recipe("a.csv")


def test_a_column_named_like_one_of_its_labels_is_accepted() -> None:
    rows = [f"text {i} here,{'spam' if i % 2 else 'ham'}" for i in range(60)]
    Path("a.csv").write_text("\n".join(["message,spam", *rows, ""]), encoding="utf-8")
    assert write_recipe("a.csv")[0]["data"]["label_column_name"] == "spam"
    Path("b.csv").write_text("\n".join(["Ticket,spam", *rows, ""]), encoding="utf-8")
    recipe, _ = write_recipe("b.csv", folder=Path("other"), text=["Ticket"], label=["spam"])
    assert recipe["data"]["text_column_names"] == "Ticket"


def test_texts_inside_mappings_are_rejected_with_what_to_do() -> None:
    with pytest.raises(InputError, match="write what is in 'translation' as columns of their own"):
        guess([{"translation": {"en": row["message"], "de": "Ja"}} for row in tickets()])


@pytest.mark.parametrize("value", [b"The parcel", 17, ["The", "parcel"]])
def test_a_text_that_is_none_is_rejected_as_every_stage_would(value: Any) -> None:
    rows = tickets()
    rows[7]["message"] = value
    given = Rows({name: [row[name] for row in rows] for name in rows[0]}, (("file", len(rows)),))
    found = columns.Guess("text-classification", ["message"], "queue", {})
    other = Rows({"message": [row["message"] for row in tickets()]}, (("other", len(rows)),))
    for parts in (
        {"train": given},
        {"train": replace(given, columns={**given.columns, **other.columns}), "unlabeled": given},
    ):
        with pytest.raises(InputError, match=r"'message': expected text, found .*(\n.*)*file, row 8"):
            new_splits.completed(new_splits.Splits(parts, {}), found, seed=1)


def test_a_text_that_is_nan_is_none() -> None:
    write(
        Path("a.jsonl"),
        [{**row, "message": float("nan") if i % 4 == 0 else row["message"]} for i, row in enumerate(tickets())],
    )
    recipe, lines = write_recipe("a.jsonl")
    assert "15 rows of train have no text: left out" in lines
    assert None not in read(recipe, "train").column("message")


def test_a_split_with_numbers_as_labels_beside_names_is_an_error_that_names_a_mapping() -> None:
    write(Path("test.jsonl"), [{**row, "queue": index % 3} for index, row in enumerate(tickets(80)[60:])])
    data = write(Path("a.jsonl"), tickets())
    with pytest.raises(InputError, match="labels of test are numbers, those of train are names") as caught:
        write_recipe(data, test="test.jsonl")
    assert caught.value.hint is not None
    mapping = "=".join(caught.value.hint.partition("such as ")[2].split(": ", 1))
    recipe, _ = write_recipe(data, test="test.jsonl", settings=[mapping])
    assert read(recipe, "test").column("queue")[:4] == ["billing", "login", "shipping", "billing"]


def test_an_id_with_few_values_is_no_label() -> None:
    assert guess(tickets(customer_id=lambda i: i % 4)).label == "queue"


def test_fractions_given_as_classes_are_rejected() -> None:
    with pytest.raises(InputError, match="a fraction is not an index"):
        write_recipe(write(Path("a.csv"), tickets(label=lambda i: i % 8 / 8)), task="text-classification")


@pytest.mark.parametrize(
    ("name", "content", "phrase"),
    [
        ("a.csv", "<!DOCTYPE html>\n<html><body>Not found, sorry</body></html>\n", "is a web page"),
        ("a.csv", "PK\x03\x04book", "is a zip or Excel file"),
        ("a.xlsx", "PK\x03\x04book", "save the table as CSV in UTF-8"),
        ("a.zip", "PK\x03\x04book", "unpack it, and name a file in it"),
        ("a.csv", "text,label\n", "has a header but no rows"),
        ("a.csv", "sep=;\n", "has no header"),
        ("a.json", '{"rows": 3}', "too few to split|cannot tell"),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": ', "malformed JSON"),
    ],
)
def test_a_file_that_is_no_table_of_rows_is_named(name: str, content: str, phrase: str) -> None:
    Path(name).write_text(content, encoding="latin-1")
    with pytest.raises(InputError) as caught:
        write_recipe(name)
    assert re.search(phrase, str(caught.value)) and not Path("mine").exists()


@pytest.mark.parametrize("form", ["{:,.2f}", "{:.2f} EUR", "${:.2f}", "{:.0f}%"])
def test_numbers_with_signs_are_named_with_what_to_write(form: str) -> None:
    rows = tickets(queue=lambda i: form.format(1_000 + 37 * i))
    with pytest.raises(InputError, match=r"write it as plain numbers, such as 1234\.5"):
        guess(rows)
    with pytest.raises(InputError, match="numbers with signs that are not read"):
        guess(rows, label=["queue"], task="regression")


def test_decimal_commas_of_a_semicolon_file_are_a_regression() -> None:
    rows = [
        {"text": row["message"], "score": f"{index % 50 / 10:.1f}".replace(".", ",")}
        for index, row in enumerate(tickets())
    ]
    recipe, _ = write_recipe(write(Path("a.csv"), rows, ";"))
    assert recipe["task"] == "regression"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(encoding: str) -> None:
    Path("a.csv").write_bytes(Path(write(Path("plain.csv"), tickets())).read_text().encode(encoding))
    recipe, lines = write_recipe("a.csv")
    assert recipe["data"]["text_column_names"] == "message" and "columns id, created" in lines[0]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "gb18030"])
def test_another_encoding_is_an_error_with_the_command_that_converts_it(encoding: str) -> None:
    text = Path(write(Path("plain.csv"), tickets())).read_text().replace("invoice", "Überweisung")
    Path("a.csv").write_bytes(text.encode(encoding))
    with pytest.raises(InputError, match="is not UTF-8") as caught:
        write_recipe("a.csv")
    assert "iconv -f" in str(caught.value)


def test_an_address_is_no_file() -> None:
    with pytest.raises(InputError, match="is an address, not a file"):
        write_recipe("https://example.com/tickets.csv")


# -- splits ----------------------------------------------------------------------------------------------------


def test_splits_have_the_same_shares_of_every_label() -> None:
    recipe, _ = write_recipe(write(Path("a.csv"), tickets(200)))
    counts = {name: Counter(read(recipe, name).column("queue")) for name in ("train", "validation", "test")}
    assert {name: sum(count.values()) for name, count in counts.items()} == {"train": 140, "validation": 30, "test": 30}
    assert set(counts["test"].values()) == {10}


@pytest.mark.parametrize("flag", [int, bool, lambda is_set: str(is_set).lower()])
def test_splits_have_the_same_shares_of_rare_flags_however_they_are_written(flag: Any) -> None:
    rows = tickets(200, rude=lambda i: flag(i % 2 == 0), spam=lambda i: flag(i % 3 == 0), rare=lambda i: flag(i < 20))
    recipe, _ = write_recipe(write(Path("a.jsonl"), [{**row, "queue": ""} for row in rows]))
    assert recipe["data"]["label_column_name"] == ["rude", "spam", "rare"]
    rare = {name: read(recipe, name).column("rare").count(flag(True)) for name in ("train", "validation", "test")}
    assert rare == {"train": 14, "validation": 3, "test": 3}


def test_near_identical_texts_are_in_one_split() -> None:
    rows = tickets(60)
    copies = [{**row, "message": f"  {row['message'].upper()}!! ", "id": f"C-{i}"} for i, row in enumerate(rows)]
    recipe, lines = write_recipe(write(Path("a.csv"), rows + copies))
    texts = [
        {splitting.text_key(text) for text in read(recipe, name).column("message")}
        for name in ("train", "validation", "test")
    ]
    assert sum(map(len, texts)) == len(set.union(*texts))
    assert any(line.startswith("60 rows differ from another only in case, punctuation") for line in lines)


def test_rows_that_differ_only_in_numbers_are_not_called_repeated_or_leaked() -> None:
    rows = [{**row, "message": f"{row['message']} Order {number}"} for number in (11, 22) for row in tickets(60)]
    _, lines = write_recipe(write(Path("a.csv"), rows))
    together = "60 rows differ from another only in case, punctuation, spaces or numbers: they are in one split with it"
    assert together in lines and not any("repeat" in line or "are in train" in line for line in lines)
    numbered = [{"text": f"Is order {number} late?", "label": "ny"[number % 2]} for number in range(60)]
    recipe, lines = write_recipe(write(Path("b.csv"), numbered), folder=Path("numbered"))
    assert len(read(recipe, "test")) and not any("are in train" in line for line in lines)


def test_another_column_with_classes_is_named() -> None:
    rows = tickets(60, priority=lambda index: ("low", "high")[index % 2], category=lambda index: "abc"[index % 3])
    guessed = guess(rows)
    assert guessed.label == "category"
    assert guessed.reasons["label"].endswith("; 'queue', 'priority' have classes, too")
    assert "have classes" not in guess(rows, label=["queue"]).reasons["label"]


def test_a_validation_file_without_the_columns_is_an_error_or_named() -> None:
    train = write(Path("a.csv"), tickets())
    other = write(Path("b.csv"), [{"review": "Good.", "queue": "login"}] * 5)
    with pytest.raises(InputError, match="no column 'message' in "):
        write_recipe(train, validation=other)
    unlabeled = write(Path("c.csv"), [{"message": "The portal is down."}] * 5)
    _, lines = write_recipe(train, test=unlabeled)
    assert "the rows of test are not used for test: 'queue' is no column of c.csv" in lines


def test_texts_that_differ_in_a_number_are_near_identical() -> None:
    assert splitting.text_key("Order 12 is late.") == splitting.text_key("order 7 is late")
    assert splitting.text_key("12") != splitting.text_key("7")


def test_every_label_has_rows_in_train() -> None:
    rows = tickets(60)
    rows[7]["queue"] = "rare"
    recipe, _ = write_recipe(write(Path("a.csv"), rows), label=["queue"])
    assert "rare" in read(recipe, "train").column("queue")


def test_classes_with_few_training_rows_are_warnings_as_of_inspect() -> None:
    rows = tickets(90)
    rows[7]["queue"] = "rare"
    recipe, lines = write_recipe(write(Path("a.csv"), rows), label=["queue"])
    train = recipe["data"]["train_file"]
    inspected = CliRunner().invoke(cli.app, ["inspect", train, "--label", "queue", "--text", "message"]).stdout
    warnings = [line for line in lines if "training rows" in line]
    assert [warning.partition(":")[2] for warning in warnings] == [
        " classes with fewer than 10 training rows: rare 1; add rows, or merge classes with data.label_names",
        *(line.partition(":")[2] for line in inspected.splitlines() if "times as many training rows as rare" in line),
    ]
    assert len(warnings) == 2


def test_the_seed_decides_the_splits() -> None:
    groups, strata = [[index] for index in range(100)], [0] * 100
    one, again, other = (splitting.split(groups, strata, {"test": 0.2}, seed=seed) for seed in (1, 1, 2))
    assert one == again != other and len(one["test"]) == 20


def test_given_splits_are_read_where_they_are() -> None:
    train, dev, test = (
        write(Path(f"{name}.csv"), tickets(30)[part])
        for name, part in {"train": slice(0, 20), "dev": slice(20, 25), "test": slice(25, 30)}.items()
    )
    recipe, _ = write_recipe(train, validation=dev, test=test)
    assert [recipe["data"][f"{name}_file"] for name in ("train", "validation", "test")] == [train, dev, test]
    assert [file.name for file in Path("mine").iterdir()] == ["recipe.yaml"]


def test_test_rows_come_from_train_if_only_validation_is_given() -> None:
    dev = write(Path("dev.csv"), tickets(69)[60:])
    recipe, _ = write_recipe(write(Path("train.csv"), tickets(60)), validation=dev)
    assert recipe["data"]["validation_file"] == "dev.csv"
    assert len(read(recipe, "train")) == 51 and len(read(recipe, "test")) == 9


@pytest.mark.parametrize(("given", "new"), [("validation", "test"), ("test", "validation")])
def test_rows_that_a_given_split_has_too_are_not_held_out(given: str, new: str) -> None:
    copies = [{**row, "message": row["message"].upper()} for row in tickets(60)[:30]]
    file = write(Path("given.csv"), copies)
    recipe, lines = write_recipe(write(Path("train.csv"), tickets(60)), **{given: file})
    known = {splitting.text_key(text) for text in read(recipe, given).column("message")}
    held_out = {splitting.text_key(text) for text in read(recipe, new).column("message")}
    assert held_out and not held_out & known
    assert len(read(recipe, "train")) + len(read(recipe, new)) == 60
    assert any(line.startswith(f"30 of 30 {given} rows are in train, too") for line in lines)
    with pytest.raises(InputError, match=f"none is left for {new}"):
        write_recipe(write(Path("all.csv"), copies), Path("other"), **{given: file})


def test_rows_without_a_label_become_unlabelled_text() -> None:
    recipe, _ = write_recipe(write(Path("a.csv"), tickets(70, queue=lambda i: list(QUEUES)[i % 3] if i < 60 else "")))
    assert len(read(recipe, "unlabeled")) == 10
    assert recipe["stages"][1]["splits"] == ["train", "unlabeled"]


def test_a_row_without_any_of_several_labels_is_labelled() -> None:
    rows = [{"text": row["message"], "tags": ["", "a", "a|b"][index % 3]} for index, row in enumerate(tickets())]
    recipe, lines = write_recipe(write(Path("a.csv"), rows))
    assert recipe["task"] == "multi-label-classification" and "unlabeled_file" not in recipe["data"]
    assert sum(len(read(recipe, name)) for name in ("train", "validation", "test")) == len(rows)
    assert any("20 rows of train have an empty label cell: they have none of the classes" in line for line in lines)


@pytest.mark.parametrize("none", [[], None])
def test_questions_without_an_answer_are_labelled(none: list[Any] | None) -> None:
    context = [row["message"] for row in tickets()]
    rows = [
        {
            "question": f"Where is it, {text.split()[-1]}?", "context": text,
            "answers": [{"text": "office", "answer_start": text.index("office")}] if index % 2 else none,
            "is_impossible": index % 2 == 0,
        }
        for index, text in enumerate(context)
    ]  # fmt: skip
    recipe, _ = write_recipe(write(Path("a.jsonl"), rows))
    assert recipe["task"] == "question-answering" and "unlabeled_file" not in recipe["data"]
    assert sum(len(read(recipe, name)) for name in ("train", "validation", "test")) == len(rows)


def test_labels_with_a_single_text_each_cannot_be_split() -> None:
    rows = [{"message": f"{word} order", "queue": word} for word in [*WORDS, *QUEUES, *"abcdefghij"] for _ in range(9)]
    with pytest.raises(InputError, match="no rows can be taken out for validation and test") as caught:
        write_recipe(write(Path("a.csv"), rows))
    assert "--validation FILE --test FILE" in str(caught.value.hint) and not Path("mine").exists()


def test_a_folder_of_parquet_files_is_read_as_dataset() -> None:
    import datasets

    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    for name, part in {"train": slice(0, 40), "validation": slice(40, 50), "test": slice(50, 60)}.items():
        rows = [{"sentence": row["message"], "label": index % 2} for index, row in enumerate(tickets())][part]
        file = Path("hub/data") / f"{name}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(rows, features=features).to_parquet(str(file))
    recipe, _ = write_recipe("hub")
    assert recipe["data"]["dataset_name"] == "hub" and recipe["data"]["label_names"] == ["neg", "pos"]
    assert len(read(recipe, "validation")) == 10


def test_too_few_rows_to_split_are_rejected_and_nothing_is_written() -> None:
    with pytest.raises(InputError, match="12 rows with different texts are too few to split"):
        write_recipe(write(Path("a.csv"), tickets(12)))
    assert not Path("mine").exists()


def test_one_class_only_is_rejected() -> None:
    with pytest.raises(InputError, match="one value, 'open'"):
        write_recipe(write(Path("a.csv"), tickets(queue="open")), label=["queue"])


# -- the recipe ------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe_of_tickets() -> Iterator[dict[str, Any]]:
    recipe, _ = write_recipe(write(Path("a.csv"), tickets(200)))
    yield recipe


def test_every_stage_of_the_recipe_loads_with_its_checks(recipe_of_tickets: dict[str, Any]) -> None:
    stages = configuration.load_recipe(Path("mine/recipe.yaml"), [], CHECKS)
    assert [stage.name for stage in stages] == NAMES
    assert {stage.config.output_dir for stage in stages} == {f"runs/mine/{name}" for name in NAMES}


@pytest.mark.parametrize("kind", ["pairs", "multi", "number", "words", "squad", "languages"])
def test_the_recipe_of_every_task_loads_and_fits_the_schema(kind: str) -> None:
    rows = {
        "pairs": tickets(text1=lambda i: f"some text {i}", text2=lambda i: f"more text {i}", label=lambda i: i % 2),
        "multi": [{"text": row["message"], "labels": [row["queue"]]} for row in tickets()],
        "number": tickets(score=lambda i: i / 7),
        "words": [{"tokens": row["message"].split(), "tags": ["O"] * len(row["message"].split())} for row in tickets()],
        "squad": [{**row["qas"][0], "context": row["context"]} for row in squad(40)["data"][0]["paragraphs"]],
        "languages": [{"en": row["message"], "fr": row["message"][::-1]} for row in tickets()],
    }[kind]
    if kind == "words":
        for row in rows:
            row["tags"][0] = "B-X"
    recipe, _ = write_recipe(write(Path("a.jsonl"), rows))
    assert configuration.load_recipe(Path("mine/recipe.yaml"), [], CHECKS)
    schema = json.loads((Path(__file__).parents[1] / "configs/schemas/recipe.json").read_text())
    jsonschema.validate(recipe, schema)


def test_the_recipe_is_a_whole_cascade(recipe_of_tickets: dict[str, Any]) -> None:
    names = [stage["output_dir"].rpartition("/")[2] for stage in recipe_of_tickets["stages"]]
    assert names == NAMES
    assert recipe_of_tickets["stages"][-2]["split"] == "test" and recipe_of_tickets["stages"][-1]["quantize"] == "int8"


def test_the_recipe_names_its_schema_in_the_first_line(recipe_of_tickets: dict[str, Any]) -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    owner_and_name = project["urls"]["Repository"].removeprefix("https://github.com/")
    first, *_ = Path("mine/recipe.yaml").read_text().splitlines()
    assert (
        first
        == f"# yaml-language-server: $schema=https://raw.githubusercontent.com/{owner_and_name}/main/configs/schemas/recipe.json"
    )


def test_names_with_yaml_and_shell_characters_are_read_back() -> None:
    rows = [
        {
            "text: a #1": row["message"],
            "$LABEL": {"billing": "yes", "login": "a: b #c", "shipping": "${HOME}"}[row["queue"]],
        }
        for row in tickets()
    ]
    write_recipe(write(Path("a.csv"), rows), label=["$LABEL"])
    written = yaml.safe_load(Path("mine/recipe.yaml").read_text())
    Path("one.yaml").write_text(
        yaml.safe_dump({"task": written["task"], "data": written["data"], **written["stages"][0]})
    )
    data = configuration.load("finetune", "one.yaml").data
    assert data.text_column_names == "text: a #1" and data.label_column_name == "$LABEL"
    assert data.class_names == ["${HOME}", "a: b #c", "yes"]


def test_few_rows_get_small_batches_and_augmented_examples() -> None:
    few, _ = write_recipe(write(Path("few.csv"), tickets(200)))
    assert few["stages"][0]["training"]["per_device_train_batch_size"] == 16
    assert few["stages"][1]["augment"] == {"copies": 10}
    many, _ = write_recipe(write(Path("many.jsonl"), tickets(1_300) * 6), folder=Path("other"))
    assert many["stages"][0]["training"]["per_device_train_batch_size"] == 32
    assert "augment" not in many["stages"][1]


@pytest.mark.parametrize(
    ("task", "text", "rows", "layers", "matches"),
    [
        ("text-classification", ["a", "b"], 19_999, 6, True),
        ("regression", ["a", "b"], 19_999, 6, True),
        ("regression", "a", 100, 6, False),
        ("text-classification", ["a", "b"], 20_000, 6, False),
        ("text-classification", "a", 100, 6, False),
        ("token-classification", "a", 19_999, 6, True),
        ("token-classification", "a", 20_000, 6, False),
        ("question-answering", ["a", "b"], 19_999, 6, True),
        ("question-answering", ["a", "b"], 20_000, 6, False),
        ("regression", ["a", "b"], 100, 2, False),
    ],
)
def test_student2_learns_layers_first_where_few_pairs_are_read_or_few_texts_tagged(
    task: str, text: str | list[str], rows: int, layers: int, matches: bool
) -> None:
    made = yaml.safe_load(new_recipe.as_yaml(plan_of(task, layers, rows, {"text_column_names": text})))["stages"]
    stages = {stage["output_dir"].rpartition("/")[2]: stage for stage in made}
    assert ("student2-layers" in stages) is matches
    if matches:
        step, student2 = stages["student2-layers"], stages["student2"]
        assert step["teacher"] == step["student"]["from"] == stages["student"]["output_dir"]
        assert student2["student"] == step["output_dir"] and "layer_mapping" not in student2
        assert {"hidden_states", "attentions"} < step["losses"].keys() and step["training"]["keep"] == "last"


def test_layers_learned_from_many_rows_are_not_evaluated_in_between() -> None:
    plan = plan_of("text-classification", 6, 9_000, {"text_column_names": ["a", "b"]})
    plan.rows["unlabeled"] = 100_000
    made = yaml.safe_load(new_recipe.as_yaml(plan))["stages"]
    trainings = {stage["output_dir"].rpartition("/")[2]: stage.get("training", {}) for stage in made}
    assert "eval_steps" in trainings["student2"]
    assert trainings["student2-layers"]["eval_strategy"] == "no" and "eval_steps" not in trainings["student2-layers"]


def test_student2_without_the_student_is_trained_for_comparison(recipe_of_tickets: dict[str, Any]) -> None:
    stages = {stage["output_dir"].rpartition("/")[2]: stage for stage in recipe_of_tickets["stages"]}
    student, direct = stages["student"], stages["student2-direct"]
    assert direct["student"]["num_hidden_layers"] == stages["student2"]["student"]["num_hidden_layers"]
    assert direct["student"]["from"] == student["student"]["from"]
    changed = {"student", "output_dir"}
    assert {key: direct[key] for key in direct.keys() - changed} == {
        key: student[key] for key in student.keys() - changed
    }
    assert stages["eval"]["models"]["student2-direct"] == direct["output_dir"]


@pytest.mark.parametrize(("layers", "compared"), [(12, True), (3, True), (2, False), (1, False)])
def test_student2_without_the_student_is_left_out_where_it_would_be_the_student(layers: int, compared: bool) -> None:
    plan = plan_of("text-classification", layers, 100, {"text_column_names": "a"})
    assert ("student2-direct" in new_recipe.stages(plan)) is compared


def plan_of(task: str, layers: int, rows: int, data: dict[str, Any]) -> new_recipe.Plan:
    """The plan for data with so many rows to train on, and a teacher of so many layers."""
    base = text_lengths.BaseModel("a/b", layers, 32, 64, [5], None, "a/b")
    split = {"train": rows, "validation": 20, "test": 20}
    return new_recipe.Plan(task, "mine", "mine", "a.csv", data, split, base, None, None, 32, "why", 42)


def test_epochs_and_learning_rate_are_left_to_auto(recipe_of_tickets: dict[str, Any]) -> None:
    trainings = [stage["training"] for stage in recipe_of_tickets["stages"] if "training" in stage]
    assert len(trainings) == 5
    assert all(training["num_train_epochs"] == "auto" and "learning_rate" not in training for training in trainings)


def test_lengths_are_measured_over_all_splits() -> None:
    train, long = write(Path("a.csv"), tickets(60)), tickets(66)[60:]
    for row in long:
        row["message"] += " and so on" * 9
    recipe, _ = write_recipe(train, test=write(Path("test.csv"), long), validation=write(Path("dev.csv"), tickets(3)))
    assert recipe["data"]["max_seq_length"] == 72  # 17 + 27 words and marks, 1.5 tokens each, and 2 special ones


def test_settings_of_data_decide_how_the_file_is_read() -> None:
    Path("a.csv").write_text("a,b;c,d\n" + "".join(f"{i},text {i} of row;{i % 2},x\n" for i in range(30)))
    with pytest.raises(InputError, match=r"data\.delimiter"):
        write_recipe("a.csv")
    options: dict[str, Any] = {"settings": ["data.delimiter=;"], "text": ["a,b"], "label": ["c,d"]}
    recipe, _ = write_recipe("a.csv", **options)
    assert "delimiter" not in recipe["data"]  # its files are .jsonl
    for name in ("dev", "test"):
        Path(f"{name}.csv").write_text("a,b;c,d\n" + "".join(f"{i},{name} {i};{i % 2},x\n" for i in range(30)))
    recipe, _ = write_recipe("a.csv", Path("three"), validation="dev.csv", test="test.csv", **options)
    assert recipe["data"]["delimiter"] == ";"


@pytest.mark.parametrize("setting", ["data.delimiter=;", "data.doc_stride=4", "data.label_separator=;"])
def test_settings_of_data_that_nothing_would_read_are_errors(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting.partition("=")[0].removeprefix("data.") + "|several labels"):
        write_recipe(write(Path("a.jsonl"), tickets()), settings=[setting])
    assert not Path("mine").exists()


def test_settings_of_data_name_the_columns() -> None:
    more: dict[str, Any] = {
        "title": lambda i: f"{WORDS[i % 12]} and {WORDS[i // 12]}",
        "label": lambda i: ["low", "high"][i % 2],
    }
    file = write(Path("a.csv"), tickets(**more))
    assert write_recipe(file, Path("guessed"))[0]["data"]["label_column_name"] == "label"
    settings = ["data.label_column_name=queue", "data.text_column_names=[title, message]"]
    recipe, lines = write_recipe(file, settings=settings)
    own = {key: recipe["data"][key] for key in ("text_column_names", "label_column_name", "label_names")}
    assert own["text_column_names"] == ["title", "message"] and own["label_column_name"] == "queue"
    assert own["label_names"] == list(QUEUES) and "text: title + message: as given (--text)" in lines


def test_the_separator_of_labels_is_the_one_in_the_settings() -> None:
    cells = ["food|drink;price", "price", "food|drink"]
    file = write(Path("a.csv"), tickets(queue="", genres=lambda i: cells[i % 3]))
    assert write_recipe(file, Path("guessed"))[0]["data"]["label_separator"] == "|"
    recipe, lines = write_recipe(file, settings=["data.label_separator=;"])
    assert recipe["data"]["label_separator"] == ";" and recipe["data"]["label_names"] == ["food|drink", "price"]
    assert any("separated by ';'" in line for line in lines)


@pytest.mark.parametrize("names", [("train", "dev", "test"), ("Training", "valid", ""), ("TRAIN", "", "testing")])
def test_a_column_with_the_split_of_each_row_divides_the_rows(names: tuple[str, str, str]) -> None:
    splits_of = [next(name for name in (names[i % 8 % 3], names[0]) if name) for i in range(120)]
    recipe, lines = write_recipe(write(Path("a.csv"), tickets(120, Split=lambda i: splits_of[i])))
    rows = {name: read(recipe, name) for name in ("train", "validation", "test")}
    assert sum(map(len, rows.values())) == 120 and all("Split" not in part.columns for part in rows.values())
    for name, split in zip(names[1:], ("validation", "test"), strict=True):
        assert not name or len(rows[split]) == splits_of.count(name)
    assert any(line.endswith("as the column 'Split' divides them") for line in lines)


def test_of_two_columns_with_splits_the_first_divides_the_rows() -> None:
    file = write(
        Path("a.csv"), tickets(set=lambda i: ("train", "test")[i % 4 // 3], split=lambda i: ("train", "test")[i % 2])
    )
    recipe, _ = write_recipe(file, label=["queue"])
    assert len(read(recipe, "test")) == 15 and "split" in read(recipe, "test").columns


def test_a_row_without_a_split_where_others_have_one_is_an_error() -> None:
    file = write(Path("a.csv"), tickets(split=lambda i: "" if i == 4 else ("train", "test")[i % 2]))
    with pytest.raises(InputError, match="but not of this one") as raised:
        write_recipe(file)
    assert raised.value.where == "a.csv, row 5"


def test_a_split_in_a_column_and_in_a_file_is_an_error() -> None:
    file = write(Path("a.csv"), tickets(split=lambda i: ("train", "test")[i % 2]))
    with pytest.raises(InputError, match="has rows for test, and so has the file b"):
        write_recipe(file, test=write(Path("b.csv"), tickets()))


@pytest.mark.parametrize(("label", "names"), [("split", ("train", "test")), ("queue", ("train", "red"))])
def test_a_column_that_is_a_label_or_has_other_values_divides_nothing(label: str, names: tuple[str, str]) -> None:
    recipe, _ = write_recipe(write(Path("a.csv"), tickets(split=lambda i: names[i % 2])), label=[label])
    assert "split" in read(recipe, "test").columns


def test_an_unknown_setting_is_a_config_error() -> None:
    with pytest.raises(ConfigErrors, match=r"did you mean 'data\.delimiter=;'"):
        write_recipe(write(Path("a.csv"), tickets()), settings=["data.delimter=;"])


def test_a_folder_that_is_not_empty_is_left_as_it_is() -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty"):
        write_recipe(write(Path("a.csv"), tickets()))
    assert [file.name for file in Path("mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("folder", ["notes.txt", "notes.txt/mine", "notes.txt/deep/mine", "x" * 300])
def test_a_folder_that_cannot_be_made_is_an_output_error(folder: str) -> None:
    Path("notes.txt").write_text("mine")
    data = write(Path("a.csv"), tickets())
    with pytest.raises(OutputError, match=r"name (a new|another) folder"):
        write_recipe(data, folder=Path(folder))
    with pytest.raises(OutputError, match=r"name (a new|another) folder"):
        shipped_recipes.copy(Path(folder), recipe="demo")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="for root, every folder can be written")
def test_a_read_only_folder_is_an_output_error() -> None:
    Path("locked").mkdir(mode=0o500)
    with pytest.raises(OutputError, match=r"'.*locked' is read-only"):
        write_recipe(write(Path("a.csv"), tickets()), folder=Path("locked/mine"))


def test_an_empty_folder_is_used() -> None:
    Path("mine").mkdir()
    write_recipe(write(Path("a.csv"), tickets()))
    assert Path("mine/recipe.yaml").is_file()


def test_without_network_lengths_come_from_words(recipe_of_tickets: dict[str, Any]) -> None:
    assert recipe_of_tickets["stages"][0]["model"] == "google-bert/bert-base-uncased"
    assert (
        recipe_of_tickets["data"]["max_seq_length"] == 40
    )  # 17 words and marks, 1.5 tokens each, 2 special ones, and a quarter more


def test_a_missing_file_is_an_input_error_with_the_nearest_name() -> None:
    write(Path("tickets.csv"), tickets())
    with pytest.raises(InputError, match=r"did you mean 'tickets\.csv'"):
        write_recipe("tikets.csv")


# -- a teacher that exists -------------------------------------------------------------------------------------


def sentences_file(data: Path) -> str:
    return str(data / "train.jsonl")


def test_a_teacher_replaces_the_first_stage(teacher: Path, data: Path) -> None:
    recipe, _ = write_recipe(sentences_file(data), teacher=str(teacher))
    assert [stage["stage"] for stage in recipe["stages"]][:2] == ["gen-soft-labels", "distill"]
    assert recipe["stages"][0]["teacher"] == recipe["stages"][-2]["models"]["teacher"] == str(teacher)
    assert recipe["data"]["label_names"] == ["bad", "good"]
    assert recipe["stages"][1]["student"]["num_hidden_layers"] == 2  # of 4


def without_label_names(teacher: Path, *, names: Sequence[str] = ("LABEL_0", "LABEL_1")) -> str:
    (teacher / "manifest.json").unlink()
    config = json.loads((teacher / "config.json").read_text())
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {name: index for index, name in enumerate(names)}
    (teacher / "config.json").write_text(json.dumps(config))
    return str(teacher)


def test_unnamed_classes_of_a_teacher_are_named_by_its_predictions(teacher: Path, data: Path) -> None:
    renamed = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    for row in renamed:
        row["label"] = {"good": "a", "bad": "z"}[row["label"]]  # sorted, they are in another order than the outputs
    recipe, lines = write_recipe(write(Path("a.jsonl"), renamed), teacher=without_label_names(teacher))
    assert recipe["data"]["label_names"] == ["z", "a"]
    assert any("LABEL_0 = z, LABEL_1 = a" in line for line in lines)


OUTPUTS = {"common": 2, "usual": 0, "rare": 3, "odd": 1}  # of a teacher whose classes are LABEL_0 to LABEL_3


def labelled_by_unnamed_classes(
    monkeypatch: pytest.MonkeyPatch, base_model: Path, outputs: dict[str, int]
) -> tuple[str, str]:
    """Rows of two common and two rare labels, and a teacher with these outputs for the rows of a label."""
    labels = ["common"] * 900 + ["usual"] * 900 + ["rare"] * 2 + ["odd"] * 2
    rows = [{"text": f"{label} {number}", "label": label} for number, label in enumerate(labels)]

    class Teacher:
        label_names = tuple(f"LABEL_{index}" for index in range(4))

        def predict(self, texts: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
            for (text,) in texts:
                output = outputs[text.split()[0]]
                yield {"probabilities": {name: float(name == f"LABEL_{output}") for name in self.label_names}}

    monkeypatch.setattr("tinybert_cli.predictor.load_predictor", lambda _: Teacher())
    model = AutoModelForSequenceClassification.from_pretrained(base_model, num_labels=4)
    model.save_pretrained(base_model)
    return write(Path("a.jsonl"), rows), str(base_model)


def test_unnamed_classes_with_few_rows_are_found(monkeypatch: pytest.MonkeyPatch, base_model: Path) -> None:
    file, teacher = labelled_by_unnamed_classes(monkeypatch, base_model, OUTPUTS)
    recipe, _ = write_recipe(file, teacher=teacher)
    assert recipe["data"]["label_names"] == ["usual", "odd", "common", "rare"]


def test_unnamed_classes_that_no_prediction_tells_apart_are_rejected(
    monkeypatch: pytest.MonkeyPatch, base_model: Path
) -> None:
    file, teacher = labelled_by_unnamed_classes(monkeypatch, base_model, {**OUTPUTS, "rare": 0, "odd": 0})
    with pytest.raises(InputError, match=r"do not tell which of them are 'odd', 'rare'") as caught:
        write_recipe(file, teacher=teacher)
    assert "'data.label_names=[" in str(caught.value)
    names = ["usual", "odd", "common", "rare"]
    recipe, _ = write_recipe(file, teacher=teacher, settings=[f"data.label_names={json.dumps(names)}"])
    assert recipe["data"]["label_names"] == names


def test_other_labels_than_the_teachers_are_rejected_with_the_mapping_to_complete(teacher: Path, data: Path) -> None:
    model = without_label_names(teacher, names=("Bad ones", "positive"))
    rows = [{"text": row["message"], "label": ("bad one", "good")[index % 2]} for index, row in enumerate(tickets())]
    with pytest.raises(InputError) as caught:
        write_recipe(write(Path("a.jsonl"), rows), teacher=model)
    message = str(caught.value)
    assert "bad one, good" in message and "Bad ones, positive" in message
    setting = message.partition("'data.")[2].partition("'")[0]
    assert setting == 'label_names={"bad one": "Bad ones", "good": "?"}'  # no class is guessed by its position
    complete = {"bad": "Bad ones", "good": "positive"}
    with pytest.raises(InputError, match="not the classes of the teacher"):
        write_recipe(
            sentences_file(data), teacher=model, settings=['data.label_names={"bad": "Bad ones", "good": "?"}']
        )
    settings = [f"data.label_names={json.dumps(complete)}"]
    recipe, _ = write_recipe(sentences_file(data), teacher=model, settings=settings)
    assert recipe["data"]["label_names"] == complete


def test_labels_in_other_case_are_mapped_to_the_teachers(teacher: Path, data: Path) -> None:
    recipe, _ = write_recipe(sentences_file(data), teacher=without_label_names(teacher, names=("BAD", "GOOD")))
    assert recipe["data"]["label_names"] == {"bad": "BAD", "good": "GOOD"}


def test_a_teacher_of_another_task_is_rejected(teacher: Path, data: Path) -> None:
    rows = [{"text": row["message"], "score": index / 7} for index, row in enumerate(tickets())]
    with pytest.raises(InputError, match="a model for text-classification, but the data looks like regression"):
        write_recipe(write(Path("a.jsonl"), rows), teacher=str(teacher))


# -- shipped recipes and the command line ----------------------------------------------------------------------


def test_every_shipped_recipe_is_listed_on_one_line() -> None:
    listed = shipped_recipes.descriptions()
    assert {"demo", "sst2", "tinybert-sst2"} <= listed.keys()
    assert all(
        "\n" not in text and text.endswith((*"abcdefghijklmnopqrstuvwxyz0123456789)",)) for text in listed.values()
    )


def test_a_shipped_recipe_is_described_by_its_data_and_not_by_its_first_stage() -> None:
    assert not any("stages: The teacher" in text for text in shipped_recipes.descriptions().values())


@pytest.mark.parametrize("name", sorted(shipped_recipes.names()))
def test_every_shipped_recipe_can_be_copied_and_loaded(name: str) -> None:
    written = shipped_recipes.copy(Path("mine"), recipe=name)
    files = [file for file in written if file.parent == Path("mine") and file.name[0].isdigit()]
    for file in files:
        command = configuration.stage_of(file)
        assert command and configuration.load(command, file).output_dir.startswith("runs/mine/")
    named = re.findall(r"^ *\w+: ((?:configs|mine)/.*)$", "\n".join(file.read_text() for file in written), re.MULTILINE)
    assert all(Path(path) in written for path in named), "a file that is not in the copy"


def test_a_copied_recipe_that_reads_models_of_another_one_names_its_command_first() -> None:
    *_, last = shipped_recipes.lines(Path("mine"), "text-classification", recipe="sweep-demo")
    assert last == "next: tinybert run mine/demo, then tinybert run mine"
    *_, last = shipped_recipes.lines(Path("answers"), "text-classification", recipe="llm-answers")
    assert last == "next: tinybert run answers"


def test_the_command_writes_a_recipe_and_ends_with_the_next_command() -> None:
    write(Path("tickets.csv"), tickets())
    command = [sys.executable, "-m", "tinybert_cli", "init", "mine", "--data", "tickets.csv"]
    done = subprocess.run(command, input="", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "next: tinybert run mine/recipe.yaml"


def test_without_a_terminal_nothing_is_asked() -> None:
    write(Path("tickets.csv"), tickets(channel=lambda i: "xy"[i % 2]))
    done = CliRunner().invoke(cli.app, ["init", "mine", "--data", "tickets.csv"])
    assert done.exit_code == 3 and "--label queue" in done.stderr and not Path("mine").exists()


def test_options_about_data_need_data() -> None:
    done = CliRunner().invoke(cli.app, ["init", "mine", "--teacher", "runs/teacher"])
    assert done.exit_code == 2 and "--teacher needs --data" in done.stderr
