"""inspect: what is suspicious about data, shown for a file or a config and warned about by the stages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Configs, run, write_base_model, write_rows

from tinybert_cli import tasks
from tinybert_cli.cli import app
from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.helpers import inspect
from tinybert_cli.inspection import findings
from tinybert_cli.stages.checks import CHECKS
from tinybert_cli.types import Rows

Write = Callable[..., Path]
TEXTS = ["a fine film .", "the plot was dull .", "great cast .", "a boring film .", "lovely , witty .", "weak plot ."]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("x.jsonl", [("a text", "label"), ...])` writes the rows."""
    return lambda name, rows: write_rows(tmp_path / name, [{"text": text, "label": label} for text, label in rows])


def rows_of(texts: list[Any], labels: list[Any]) -> Rows:
    return Rows({"text": texts, "label": labels}, (("x.jsonl", len(texts)),))


def one(source: Path, **options: Any) -> inspect.Inspection:
    (result,) = inspect.run(inspect.Request(source, **options), CHECKS)
    return result


# -- findings --------------------------------------------------------------------------------------------------


def test_equal_texts_with_different_labels_are_named_with_both_rows() -> None:
    rows = rows_of(["a", "b", "a", "a", "c"], ["x", "x", "y", "x", "x"])
    (warning,) = findings.contradictions(rows, Data(), tasks.find("text-classification"))
    assert warning.startswith("3 rows have the text of a row with another label (1 texts): 'a' is x in x.jsonl, row 1")
    assert "y in x.jsonl, row 3" in warning


@pytest.mark.parametrize(
    ("labels", "task"),
    [(["x", None], "text-classification"), (["1", 1.0], "text-classification"), ([1.0, 2.0], "regression")],
)
def test_labels_that_do_not_contradict_are_not_reported(labels: list[Any], task: str) -> None:
    assert not list(findings.contradictions(rows_of(["a", "a"], labels), Data(), tasks.find(task)))


def test_label_lists_of_equal_texts_are_compared() -> None:
    rows = rows_of([["a", "b"], ["a", "b"]], [["O", "B-X"], ["O", "O"]])
    assert list(findings.contradictions(rows, Data(), tasks.find("token-classification")))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A fine film.", "1 of 2 rows of test are also in train:"),
        ("a FINE film!", "1 of 2 rows of test are in train except for case"),
        ("a fine movie.", None),
    ],
)
def test_rows_of_two_splits_are_compared(text: str, expected: str | None) -> None:
    splits = {"train": rows_of(["A fine film.", "x"], ["p", "p"]), "test": rows_of(["y", text], ["p", "p"])}
    warnings = list(findings.leaks(splits, Data()))
    assert bool(warnings) == (expected is not None)
    assert expected is None or (warnings[0].startswith(expected) and "row 2" in warnings[0])


# -- the command -----------------------------------------------------------------------------------------------


def test_a_data_file_is_interpreted_and_counted(write: Write, base_model: Path) -> None:
    labels = ["good", "bad"] * 3
    result = one(write("x.jsonl", [*zip(TEXTS, labels, strict=True)] * 2), model=str(base_model))
    assert result.task == "text-classification" and result.rows == {"train": 12}
    assert result.labels == {"bad": 6, "good": 6} and result.examples == {"bad": TEXTS[1], "good": TEXTS[0]}
    assert any("6 of 12 rows of train repeat" in remark for remark in result.remarks)
    assert result.tokens["train"]["cut"] == 0 and result.tokens["train"]["longest"] == 7
    assert not result.warnings


def test_text_in_a_script_that_the_model_lacks_is_reported(write: Write, base_model: Path) -> None:
    rows = [("房间太小。", "差"), ("很好的酒店！", "好")] * 6
    result = one(write("x.jsonl", rows), model=str(base_model))
    assert result.tokens["train"]["unknown"] == 1.0
    assert any("100% of the tokens of train are unknown" in warning for warning in result.warnings)


def test_a_config_is_inspected_with_its_own_settings(write: Write, base_model: Path, tmp_path: Path) -> None:
    rows = [*zip(TEXTS, ["good", "bad", "good", "bad", "Good", "bad"], strict=True)]
    train, validation = write("train.jsonl", rows), write("validation.jsonl", rows[:2])
    config = tmp_path / "teacher.yaml"
    config.write_text(
        f"stage: finetune\ntask: text-classification\ndata: {{train_file: {train}, validation_file: {validation}, "
        f"max_seq_length: 6}}\nmodel: {base_model}\noutput_dir: {tmp_path}/out\n"
    )
    result = one(config)
    assert result.rows == {"train": 6, "validation": 2}
    assert any("differ only in case" in warning for warning in result.warnings)
    assert any("2 of 2 rows of validation are also in train" in warning for warning in result.warnings)
    assert any("1 of 6 rows of train are longer than 6 tokens" in warning for warning in result.warnings)
    longer = one(config, overrides=["data.max_seq_length=16"])
    assert not any("longer than" in warning for warning in longer.warnings)


def test_a_label_that_only_another_split_has_is_an_error(write: Write, tmp_path: Path) -> None:
    train = write("train.jsonl", [*zip(TEXTS, ["good", "bad"] * 3, strict=True)])
    test = write("test.jsonl", [("so so", "neutral")])
    config = tmp_path / "c.yaml"
    config.write_text(
        f"stage: finetune\ntask: text-classification\ndata: {{train_file: {train}, test_file: {test}}}\nmodel: none\n"
        "output_dir: out\n"
    )
    with pytest.raises(InputError, match="neutral"):
        one(config)


def test_a_model_that_does_not_exist_yet_leaves_tokens_uncounted(write: Write, tmp_path: Path) -> None:
    rows = [*zip(TEXTS, ["good", "bad"] * 3, strict=True)]
    result = one(write("x.jsonl", rows), model=str(tmp_path / "later"))
    assert not result.tokens and any("tokens were not counted" in remark for remark in result.remarks)


def test_the_command_prints_text_or_one_object(write: Write, base_model: Path) -> None:
    from typer.testing import CliRunner

    file = write("x.jsonl", [*zip(TEXTS, ["good", "bad"] * 3, strict=True)])
    text = CliRunner().invoke(app, ["inspect", str(file), "--model", str(base_model)])
    assert text.exit_code == 0 and "no warnings" in text.output
    as_json = CliRunner().invoke(app, ["inspect", str(file), "--model", str(base_model), "--json"])
    assert json.loads(as_json.output)["inspections"][0]["labels"] == {"bad": 3, "good": 3}
    assert CliRunner().invoke(app, ["inspect", str(file), "seed=1"]).exit_code == 2
    assert CliRunner().invoke(app, ["inspect", "missing.csv"]).exit_code == 3


# -- the stages ------------------------------------------------------------------------------------------------


def test_finetune_and_labels_warn_about_what_the_model_cannot_read(
    configs: Configs, tmp_path: Path, teacher: Path
) -> None:
    other = write_base_model(tmp_path / "other", words=("film", "##ly"))
    config = configs("finetune", "out", model=other, training__max_steps=1)
    messages = [row["message"] for row in run("finetune", config) if row["event"] == "warning"]
    assert any("tokens of train are unknown to" in message for message in messages)
    write_rows(tmp_path / "data" / "train.jsonl", [{"text": "房间 太小", "label": "good"}] * 4)
    config = configs("gen-soft-labels", "labels", teacher=teacher, check_teacher=False)
    messages = [row["message"] for row in run("gen-soft-labels", config) if row["event"] == "warning"]
    assert any("100% of the tokens of train are unknown to" in message for message in messages)


def test_finetune_warns_about_contradictory_labels(configs: Configs, base_model: Path, tmp_path: Path) -> None:
    rows = [{"text": "a fine film", "label": label} for label in ("good", "bad")] * 4
    write_rows(tmp_path / "data" / "train.jsonl", rows)
    config = configs("finetune", "out", model=base_model, training__max_steps=1)
    messages = [row["message"] for row in run("finetune", config) if row["event"] == "warning"]
    assert any("8 rows have the text of a row with another label (1 texts)" in message for message in messages)
