"""Class names: numbers by value, booleans, names that look alike, and labels that could be read in two ways."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from conftest import Configs, run, write_rows
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tinybert_cli import configuration, tasks
from tinybert_cli.config import Data
from tinybert_cli.data import splits
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import as_boolean, as_number, as_text, in_quotes, is_missing, look_alikes
from tinybert_cli.stages import checks
from tinybert_cli.tasks.label_lists import read_label_lists
from tinybert_cli.types import Rows

TASK = tasks.find_prediction_task("text-classification")
COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


def rows_of(*labels: Any) -> Rows:
    return Rows({"text": ["a"] * len(labels), "label": list(labels)}, (("rows.jsonl", len(labels)),))


def names_of(*labels: Any, model_names: list[str] | None = None, **settings: Any) -> list[str]:
    return TASK.label_names(rows_of(*labels), Data(**settings), model_names=model_names)


def error_of(*labels: Any, model_names: list[str] | None = None, **settings: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        names_of(*labels, model_names=model_names, **settings)
    return caught.value


def indices_of(names: list[str], *labels: Any) -> list[int]:
    result = TASK.labels(rows_of(*labels), Data(), names)
    assert result is not None
    indices: list[int] = result.tolist()
    return indices


# -- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [b"good", date(2026, 3, 1), float("inf")])
def test_a_label_that_is_neither_text_nor_a_number_is_named(label: Any) -> None:
    error = error_of("good", label)
    assert error.what == f"a label is neither text nor a number nor a boolean: {label!r}"
    assert error.where == "rows.jsonl, row 2"


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ((1, 2, 3, 4, 5), ["1", "2", "3", "4", "5"]),
        ((30, 10, 20), ["10", "20", "30"]),
        (("2", "10", "1"), ["1", "2", "10"]),
        ((1.0, 2, "1"), ["1", "2"]),
        ((Decimal("1.00"), Decimal(2), "1"), ["1", "2"]),
        (("01", "02"), ["01", "02"]),
        (("1", "2", "other"), ["1", "2", "other"]),
        ((0, 3), ["0", "3"]),
        ((50_000, 60_000, 50_000, 60_000), ["50000", "60000"]),
    ],
)
def test_there_are_as_many_classes_as_labels(labels: tuple[Any, ...], names: list[str]) -> None:
    assert names_of(*labels) == names


@pytest.mark.parametrize("labels", [(1, 3, 5), ("1", "3", "5"), (1.0, 3.0, 5.0), ("1.0", "3.0", "5.0")])
def test_numbers_are_compared_by_value_with_names_that_are_numbers(labels: tuple[Any, ...]) -> None:
    assert indices_of(["1", "2", "3", "4", "5"], *labels) == [0, 2, 4]
    assert indices_of(["1.0", "2.0", "3.0", "4.0", "5.0"], *labels) == [0, 2, 4]
    assert indices_of(["1", "x", "3", "4", "5"], *labels) == [0, 2, 4]


def test_number_that_is_no_name_is_unknown_though_it_is_a_position() -> None:
    with pytest.raises(InputError, match="unknown label 0"):
        indices_of(["1", "2", "3"], 0)


@pytest.mark.parametrize("label", [1, 1.0, "1", "1.0"])
def test_numbers_are_positions_in_names_that_are_no_numbers(label: Any) -> None:
    assert indices_of(["no", "yes"], label) == [1]


def test_two_names_of_one_value_are_told_apart_by_their_text() -> None:
    assert indices_of(["1", "01"], "1", "01") == [0, 1]
    with pytest.raises(InputError, match="unknown label 1"):
        indices_of(["1", "01"], 1)


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        ((0.5, 1.0), 'data.label_names: ["0.5", "1"]; for measured numbers: task: regression'),
        (("0.5", "1.5"), 'data.label_names: ["0.5", "1.5"]'),
        ((-1, 0, 1), 'data.label_names: ["-1", "0", "1"]'),
    ],
)
def test_numbers_that_are_no_indices_need_label_names(labels: tuple[Any, ...], remedy: str) -> None:
    error = error_of(*labels)
    assert error.where == "rows.jsonl, row 1" and error.hint is not None and remedy in error.hint
    names = [as_text(label) for label in labels]
    assert names_of(*labels, label_names=names) == names and indices_of(names, *labels) == list(range(len(labels)))


def test_measured_numbers_are_too_many_for_classes() -> None:
    assert "100 different numbers" in error_of(*range(100)).what
    assert len(names_of(*range(100), *range(100))) == 100


def test_text_and_numbers_are_an_error_with_the_row_of_a_number() -> None:
    error = error_of("good", "good", 1)
    assert error.what == "the labels are of two types: 'good' and the number 1" and error.where == "rows.jsonl, row 3"


# -- numbers and the names of a model ------------------------------------------------------------------------


def test_positions_in_the_names_of_a_model_are_stated() -> None:
    rows = rows_of(0, 1, 1)
    names = TASK.label_names(rows, Data(), model_names=["bad", "good"])
    assert TASK.label_statements(rows, Data(), names) == [
        "integer labels are read as positions in the model's classes: 0 = bad, 1 = good"
    ]
    assert TASK.label_statements(rows, Data(label_names=["bad", "good"]), names) == []
    assert TASK.label_statements(rows_of("bad", "good"), Data(), names) == []


def test_positions_that_may_count_from_1_are_rejected() -> None:
    error = error_of(1, 2, 3, 4, model_names=["a", "b", "c", "d", "e"])
    assert error.what.startswith("the labels are numbers from 1 on") and error.where == "rows.jsonl, row 1"
    assert error.hint is not None and error.hint.endswith('data.label_names: ["a", "b", "c", "d", "e"]')
    assert names_of(1, 2, model_names=["a", "b", "c"], label_names=["a", "b", "c"]) == ["a", "b", "c"]


def test_position_beyond_the_classes_of_the_model_is_rejected() -> None:
    error = error_of(0, 2, model_names=["a", "b"])
    assert "labels that the model does not have: 2" in error.what and error.where == "rows.jsonl, row 2"


def test_classes_of_the_model_that_are_numbers_are_compared_by_value() -> None:
    assert names_of(1, 2, model_names=["1", "2", "3"]) == ["1", "2", "3"]
    assert "does not have: 0" in error_of(0, 2, model_names=["1", "2", "3"]).what


def test_text_labels_of_a_model_without_names_need_label_names() -> None:
    error = error_of("neg", "pos", model_names=["0", "1"])
    assert error.hint is not None and error.hint.startswith("the model does not name its classes")


def test_label_that_training_rows_lack_is_rejected_with_all_names() -> None:
    error = error_of(2, 0, model_names=["0", "1"])
    assert error.hint is not None
    assert error.hint.startswith('for a new model name all classes: data.label_names: ["0", "1", "2"];')
    error = error_of("c", model_names=["a", "b"])
    assert error.hint is not None and error.hint.endswith('data.label_names: ["a", "b", "c"]')


# -- booleans ------------------------------------------------------------------------------------------------


def test_booleans_are_classes_of_their_own_names() -> None:
    assert names_of(True, False) == ["false", "true"]
    assert names_of("True", "False", True) == ["False", "True"]


@pytest.mark.parametrize("names", [["true", "false"], ["True", "False"]])
@pytest.mark.parametrize("label", [True, "true", "True", "TRUE"])
def test_booleans_are_compared_by_value_with_boolean_names(names: list[str], label: Any) -> None:
    assert indices_of(names, label) == [0]


def test_booleans_are_not_positions() -> None:
    with pytest.raises(InputError, match="unknown label true") as caught:
        indices_of(["positive", "negative"], True)
    remedy = 'data.label_names: {"true": ..., "false": ...}'
    assert caught.value.hint is not None and remedy in caught.value.hint


def test_mapping_of_booleans_and_numbers_is_by_value(tmp_path: Any) -> None:
    for labels, names in (([True, False], {"true": "b", "false": "a"}), ([1.0, 0.0], {"0": "a", "1": "b"})):
        file = write_rows(tmp_path / "t.jsonl", [{"text": "a", "label": label} for label in labels])
        assert splits.read(Data(train_file=str(file), label_names=names), "train").column("label") == ["b", "a"]


# -- names that look alike -----------------------------------------------------------------------------------


def test_look_alikes_differ_in_case_spaces_or_encoding() -> None:
    names = ["good", "good ", "Good", "go\u200bod", COMPOSED, DECOMPOSED, "bad", "1", "01", "\uff11"]
    groups = look_alikes(names)
    assert sorted(map(len, groups)) == [2, 3, 4]


def test_look_alike_classes_are_a_warning_with_counts_and_a_mapping() -> None:
    rows = rows_of("good", "good", "good ", "Good", "bad")
    (warning,) = TASK.label_warnings(rows, Data(), TASK.label_names(rows, Data(), model_names=None))
    assert "'Good' (1), 'good' (2), 'good ' (1)" in warning
    assert warning.endswith('data.label_names: {"Good": "good", "bad": "bad", "good": "good", "good ": "good"}')


def test_mapping_of_a_warning_merges_the_classes(tmp_path: Any) -> None:
    rows = rows_of(COMPOSED, DECOMPOSED, DECOMPOSED, "tea")
    (warning,) = TASK.label_warnings(rows, Data(), TASK.label_names(rows, Data(), model_names=None))
    file = write_rows(tmp_path / "t.jsonl", [{"text": "a", "label": label} for label in rows.column("label")])
    (tmp_path / "c.yaml").write_text(
        f"stage: finetune\ntask: text-classification\nmodel: m\noutput_dir: o\ndata:\n  train_file: {file}\n"
        f"  {warning.partition('set data.')[2]}\n"
    )
    config = configuration.load("finetune", tmp_path / "c.yaml", [], checks.CHECKS["finetune"])
    assert splits.read(config.data, "train").column("label") == [DECOMPOSED] * 3 + ["tea"]


def test_equal_looking_words_are_written_with_code_points() -> None:
    with pytest.raises(InputError) as caught:
        indices_of([COMPOSED, "tea"], DECOMPOSED)
    assert caught.value.what == r'unknown label "cafe\u0301"'
    assert caught.value.hint is not None and r'"caf\u00e9"' in caught.value.hint
    assert in_quotes("p\u0430per", ["paper"]) == r'"p\u0430per"'
    assert in_quotes("\u6b63\u9762", ["\u8d1f\u9762"]) == "'\u6b63\u9762'"


def test_equal_looking_names_of_data_and_model_are_written_with_code_points() -> None:
    error = error_of(COMPOSED, "tea", model_names=[DECOMPOSED, "tea"])
    assert r"caf\u00e9" in error.what and r"cafe\u0301" in error.what


def test_space_at_the_end_of_a_label_is_in_the_error() -> None:
    with pytest.raises(InputError, match="unknown label 'good '") as caught:
        indices_of(["bad", "good"], "good ")
    assert caught.value.hint is not None and "differs from 'good' only in case, spaces" in caught.value.hint


def test_classes_that_do_not_occur_are_a_warning() -> None:
    rows, settings = rows_of(0, 2, 2), Data(label_names=["a", "b", "c", "d"])
    assert TASK.label_warnings(rows, settings, ["a", "b", "c", "d"]) == ["2 of 4 classes do not occur: b, d"]


def test_class_that_consists_of_two_others_is_a_warning() -> None:
    rows = rows_of("food", "complaint", "food, complaint", "food/complaint")
    (warning,) = TASK.label_warnings(rows, Data(), TASK.label_names(rows, Data(), model_names=None))
    assert warning.startswith("2 classes look like several labels: 'food, complaint', 'food/complaint'")


@pytest.mark.parametrize("cell", ["['food', 'complaint']", '["food"]', "[]", "[1, 0]"])
def test_list_text_is_not_a_class(cell: str) -> None:
    error = error_of("food", cell)
    assert error.where == "rows.jsonl, row 2" and error.hint is not None and "multi-label" in error.hint


# -- any labels ----------------------------------------------------------------------------------------------

LABELS = st.lists(st.text(min_size=1), min_size=1, max_size=8)


@given(LABELS)
@example([COMPOSED, DECOMPOSED, "good", "good ", "1", "01", "1.0", "-1", "true", "True"])
def test_any_text_labels_are_the_names_or_an_error_with_a_row(labels: list[str]) -> None:
    try:
        names = names_of(*labels)
    except InputError as error:
        assert error.where is not None
        return
    indices = indices_of(names, *labels)
    assert [names[index] for index in indices] == [label if label in names else as_text(label) for label in labels]


@given(st.lists(st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text()), min_size=1, max_size=6))
def test_any_labels_have_an_index_or_are_an_error_with_a_row(labels: list[Any]) -> None:
    try:
        names = names_of(*labels)
        result = TASK.labels(rows_of(*labels), Data(), names)
        TASK.label_warnings(rows_of(*labels), Data(), names)
    except InputError as error:
        assert error.where is not None or error.what.startswith("no labels in rows.jsonl")
        return
    assert result is not None and ((result == -100) == [is_missing(label) for label in labels]).all()


def is_name(label: str) -> bool:
    """Whether the label is text only; numbers and booleans may also be positions, or parts of a vector."""
    return as_number(label) is None and as_boolean(label) is None


@settings(deadline=None)
@given(
    st.lists(st.text().filter(is_name), max_size=5),
    st.sampled_from([repr, json.dumps, lambda labels: str(tuple(labels))]),
)
def test_any_list_text_gives_its_labels(labels: list[str], write: Any) -> None:
    multi_label = Rows({"text": ["a"], "label": [write(labels)]}, (("rows.jsonl", 1),))
    if labels:
        read = read_label_lists(multi_label, Data(), None)
        assert read is not None and read.lists == [labels]


@given(st.lists(st.lists(st.text(), min_size=1, max_size=4), min_size=1, max_size=4))
def test_any_lists_of_names_are_read_back(lists: list[list[str]]) -> None:
    task, rows = tasks.find_prediction_task("multi-label-classification"), rows_of(*lists)
    try:
        names = task.label_names(rows, Data(), model_names=None)
        labels = task.labels(rows, Data(), names)
    except InputError as error:
        assert error.where is not None or error.what.startswith("no labels in rows.jsonl")
        return
    assert labels is not None and len(labels) == len(lists)


# -- stages --------------------------------------------------------------------------------------------------


def test_plan_states_how_integer_labels_are_read(data: Any, configs: Configs, teacher: Any) -> None:
    write_rows(data / "validation.jsonl", [{"text": "fine", "label": index % 2} for index in range(8)])
    rows = run("eval", configs("eval", "out", models={"t": str(teacher)}, latency=None), dry_run=True)
    (plan,) = [row for row in rows if row["event"] == "plan"]
    assert plan["assumptions"] == ["integer labels are read as positions in the model's classes: 0 = bad, 1 = good"]


@pytest.mark.parametrize("settings", [{"data__label_column_name": "lable"}, {"splits": ["test"]}])
def test_teacher_check_without_gold_labels_is_an_error(
    settings: dict[str, Any], data: Any, configs: Configs, teacher: Any
) -> None:
    write_rows(data / "test.jsonl", [{"text": "fine", "label": -1}] * 4)
    with pytest.raises(InputError, match="there are no gold labels to check the teacher with") as caught:
        run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, **settings))
    assert caught.value.hint is not None and caught.value.hint.endswith("or, without labels, set check_teacher: false")
    run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, check_teacher=False, **settings))


def test_plan_states_that_a_model_does_not_name_its_classes(data: Any, configs: Configs, teacher: Any) -> None:
    for name in ("good", "bad"):
        file = teacher / "config.json"
        file.write_text(file.read_text().replace(f'"{name}"', f'"LABEL_{int(name == "good")}"'))
    (teacher / "manifest.json").unlink()
    write_rows(data / "validation.jsonl", [{"text": "fine", "label": index % 2} for index in range(8)])
    rows = run("eval", configs("eval", "out", models={"t": str(teacher)}, latency=None), dry_run=True)
    (plan,) = [row for row in rows if row["event"] == "plan"]
    (statement,) = plan["assumptions"]
    assert statement.endswith("does not name its classes: the labels 0 to 1 are its outputs in their order")


def test_teacher_check_uses_the_rows_that_have_labels(data: Any, configs: Configs, teacher: Any) -> None:
    rows = [{"text": "fine great", "label": "good"}, {"text": "dull weak", "label": "bad"}] * 4
    write_rows(data / "train.jsonl", [*rows, {"text": "fine", "label": None}])
    events = run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher))
    assert [row["checked_rows"] for row in events if row["event"] == "teacher check"] == [8]


@pytest.mark.parametrize("name", ["nan", "N/A", "None", "?", " "])
def test_a_class_that_seems_to_mean_no_label_is_a_warning(name: str) -> None:
    rows = Rows({"text": ["a"] * 3, "label": ["good", name, "good"]}, (("rows", 3),))
    (warning,) = TASK.label_warnings(rows, Data(), TASK.label_names(rows, Data(), model_names=None))
    assert warning.startswith(f"1 label is '{name}', a class of its own: if it means that there is no label")


def test_as_many_classes_as_rows_are_a_warning() -> None:
    texts = [f"text {number}" for number in range(30)]
    rows = Rows({"text": texts, "label": texts}, (("rows", 30),))
    names = TASK.label_names(rows, Data(), model_names=None)
    assert any(
        text.startswith("30 classes for 30 labels: check that data.label_column_name")
        for text in TASK.label_warnings(rows, Data(), names)
    )
