"""Forms of answers that are easily mistaken for others: what is read, what is counted, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from answer_samples import (
    CONTEXT,
    NAMES,
    QUESTION,
    TAGS,
    TEXTS,
    WORDS,
    classes,
    probabilities,
    qa,
    spans,
    tags,
    teacher_of,
)

from tinybert_cli import tasks
from tinybert_cli.answers import AnswerTeacher
from tinybert_cli.errors import InputError
from tinybert_cli.metrics.probabilities import sigmoid

# -- counts --------------------------------------------------------------------------------------------------


def test_an_answer_to_several_rows_is_counted_once(tmp_path: Path) -> None:
    answers = [{"text": "bad", "answer": "hm"}, {"text": "ok", "answer": "positive"}]
    teacher = teacher_of(tmp_path, answers, {"text": ["bad", "bad", "bad", "ok", "ok"]})
    (warning,) = teacher.warnings()
    assert "no label from 1 of 2 answers: not understood" in warning and teacher.not_understood == 1
    assert teacher.facts()["kinds"] == {"unmapped": 1, "label": 1}


def test_an_answer_with_several_votes_is_counted_once(tmp_path: Path) -> None:
    teacher = classes(tmp_path, [["hm", "so so", "positive"], "positive"], votes=True)
    assert teacher.not_understood == 1 and teacher.facts()["kinds"]["label"] == 2
    assert probabilities(teacher) == [[0, 1], [0, 1], None]


def test_rows_with_a_tie_are_counted_row_by_row(tmp_path: Path) -> None:
    answers = [{"text": "one", "answer": NAMES}]
    teacher = teacher_of(tmp_path, answers, {"text": [*TEXTS, "one"]}, votes=True)
    assert teacher.tally.counts["ties"] == 2 and teacher.tally.counts["votes"] == 1


# -- numbers -------------------------------------------------------------------------------------------------


def numbers(teacher: AnswerTeacher) -> list[float | None]:
    labels = teacher.labels["train"]
    return [
        round(float(value), 6) if answered else None
        for value, answered in zip(labels.logits[:, 0], labels.answered, strict=True)
    ]


def numbers_in_csv(folder: Path, values: Sequence[str], **setting: Any) -> list[float | None]:
    texts = [f"text {index}" for index in range(len(values))]
    lines = "".join(f'{text},"{value}"\n' for text, value in zip(texts, values, strict=True))
    own = teacher_of(
        folder, f"text,answer\n{lines}", {"text": texts}, task="regression", names=["score"], file="llm.csv", **setting
    )
    return numbers(own)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-3", 0.001),
        ("1e-05", 0.00001),
        (".5", 0.5),
        ("5.", 5.0),
        (" +2 ", 2.0),
        ("3,5", 3.5),
        ("0,125", 0.125),
        ("Score: 1e-3", 0.001),
        ("Score: .5", 0.5),
        ("Score: 3,5.", 3.5),
        ("1,250", None),  # a thousand, or one and a quarter
        ("1,234.5", None),
        ("3 - 4", None),
        ("4/5", None),
        pytest.param("9" * 400, None, id="400 digits"),
        ("1e39", None),  # more than float32 can hold
    ],
)
def test_numbers_are_read_as_those_of_gold_labels(tmp_path: Path, text: str, number: float | None) -> None:
    assert numbers_in_csv(tmp_path, ["1", "-2.5", text]) == [1, -2.5, number]


def test_a_file_may_prove_the_decimal_comma(tmp_path: Path) -> None:
    assert numbers_in_csv(tmp_path, ["3,5", "1,250", "Score: 2,750"]) == [3.5, 1.25, 2.75]


def test_the_plan_has_the_decimal_comma(tmp_path: Path) -> None:
    teacher = classes(tmp_path, ["3,5"], task="regression", names=["score"])
    assert "a comma is the decimal point, such as 3,5 is 3.5" in teacher.statements()[0]


@pytest.mark.parametrize(
    "value", [pytest.param(10**400, id="400 digits"), {"score": 3}, [[1, 2]], True, [None], [], {}, [{"a": 1}]]
)
def test_values_that_are_no_number_are_counted(tmp_path: Path, value: Any) -> None:
    teacher = classes(tmp_path, [1, value], task="regression", names=["score"])
    assert numbers(teacher) == [1, None, None] and teacher.not_understood == 1


# -- lists of numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "votes", "expected"),
    [
        ([[2, 1, 0], [3, 0, 0]], True, [0.667, 0.333, 0]),  # 3 is no position
        ([[2, 1, 0], [0, 0]], True, [0.333, 0.333, 0.333]),  # two numbers are no counts of three labels
        ([[2, 2, 0], [0, 0, 0]], True, [0.333, 0, 0.667]),  # counts are not all 0
        ([[2, 1, 0], [0.5, 0.25, 0.25]], False, [0.667, 0.333, 0]),
        ([[0, 1, 0]], False, [0, 1, 0]),
    ],
)
def test_other_lists_prove_whether_numbers_are_counts_or_positions(
    tmp_path: Path, values: list[Any], votes: bool, expected: list[float]
) -> None:
    assert probabilities(classes(tmp_path, values, names=list("abc"), votes=votes))[0] == expected


@pytest.mark.parametrize(("value", "votes"), [([2, 1, 0], True), ([2, 1, 0], False), ([0, 1, 0], True)])
def test_a_list_that_could_be_counts_or_positions_is_refused(tmp_path: Path, value: Any, votes: bool) -> None:
    with pytest.raises(InputError, match="could be 3 labels, or a number for each label"):
        classes(tmp_path, [value], names=list("abc"), votes=votes)


def test_votes_that_are_names_are_no_counts(tmp_path: Path) -> None:
    assert probabilities(classes(tmp_path, [[1, 2, 2]], names=list("123"), votes=True))[0] == [0.333, 0.667, 0]
    renamed = {"0": "a", "1": "b", "2": "c"}
    teacher = classes(tmp_path, [[1, 2, 2]], names=list("abc"), votes=True, label_names=renamed)
    assert probabilities(teacher)[0] == [0, 0.333, 0.667]


# -- several labels per row -----------------------------------------------------------------------------------


def label_sets(folder: Path, values: Sequence[Any], names: str = "abc", **setting: Any) -> AnswerTeacher:
    return classes(folder, values, task="multi-label-classification", names=list(names), **setting)


def independent(teacher: AnswerTeacher) -> list[list[float] | None]:
    labels = teacher.labels["train"]
    return [
        row if answered else None
        for row, answered in zip(sigmoid(labels.logits).round(3).tolist(), labels.answered, strict=True)
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([1, 0, 1], [1, 0, 1]),
        ([0, 0, 0], [0, 0, 0]),
        ("[1, 0, 1]", [1, 0, 1]),
        ("[1 0 1]", [1, 0, 1]),  # NumPy
        ("1, 0, 1", [1, 0, 1]),
        ("1|1|1", [1, 1, 1]),
        (["1", "0", "1"], [1, 0, 1]),
        ([True, False, True], [1, 0, 1]),
        ("[True, False, True]", [1, 0, 1]),
        ([0.9, 0.1, 0.8], [0.9, 0.1, 0.8]),
        ("0.9, 1e-3, 0.8", [0.9, 0.001, 0.8]),
        ([0, 2], [1, 0, 1]),
        ([0, 1, 2], [1, 1, 1]),
        ([0], [1, 0, 0]),
        (0, [1, 0, 0]),
        ("0|2", [1, 0, 1]),
        ("['a', 'c']", [1, 0, 1]),
        ("a, c,", [1, 0, 1]),
        ({"a": True, "b": False, "c": True}, [1, 0, 1]),
    ],
)
def test_a_list_of_numbers_is_a_vector_or_positions(tmp_path: Path, value: Any, expected: list[float]) -> None:
    assert independent(label_sets(tmp_path, [value]))[0] == expected


@pytest.mark.parametrize("value", [[1, 1], [1, 0], [0.9, 0.1], [0, 5], [1, 0, 1, 0], [0.5, 2, 0.1], [None, 0.5, 3]])
def test_numbers_that_are_neither_a_vector_nor_positions_are_counted(tmp_path: Path, value: list[Any]) -> None:
    teacher = label_sets(tmp_path, [["a"], value])
    if value == [1, 0]:  # two positions
        assert independent(teacher)[1] == [1, 1, 0]
    else:
        assert independent(teacher)[1] is None and teacher.not_understood == 1


@pytest.mark.parametrize("value", [[0, 1], [1, 0], "1|0", "[0, 1]"])
def test_a_list_that_could_be_a_vector_or_positions_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match="could be positions of labels, or a number for each label") as error:
        label_sets(tmp_path, [["a"], value], "ab")
    assert str(error.value.where).endswith("llm.jsonl, row 2") and "{'a': " in str(error.value.hint)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0, 1], [1, 1]], [0, 1]),  # positions do not repeat
        ([[0, 1], [0.5, 0.25]], [0, 1]),
        ([[0, 1], [1]], [1, 1]),  # a vector has two numbers
        ([[0, 1], []], [1, 1]),
        ([[0, 1], 1], [1, 1]),
    ],
)
def test_other_answers_of_the_file_prove_what_a_list_is(
    tmp_path: Path, values: list[Any], expected: list[float]
) -> None:
    assert independent(label_sets(tmp_path, values, "ab"))[0] == expected


def test_named_numbers_are_labels(tmp_path: Path) -> None:
    names = {"0": "a", "1": "b"}
    teacher = label_sets(tmp_path, [[0, 1], [1, 1]], "ab", label_names=names)
    assert independent(teacher)[:2] == [[1, 1], None]


def test_the_plan_says_that_lists_are_vectors(tmp_path: Path) -> None:
    (statement,) = label_sets(tmp_path, [[1, 0, 1]]).statements()
    assert "lists have a number for each label, such as '[1, 0, 1]' is a, c" in statement


@pytest.mark.parametrize(
    "value", [{"a": 0.9}, {"label": "a", "score": 0.9}, [{"label": "a", "score": 0.9}], [[{"label": "a", "score": 0.9}]],
              {"a": 0.9, "b": None, "c": ""}, [0.9, None, None]],
)  # fmt: skip
def test_labels_without_a_score_are_counted(tmp_path: Path, value: Any) -> None:
    teacher = label_sets(tmp_path, [value])
    assert independent(teacher)[0] == [0.9, 0, 0]
    (warning,) = teacher.warnings()
    assert "in 1 answer, no number for some of the labels, which counts as 0: none for b, c" in warning
    with pytest.raises(InputError, match="no number for some of the labels") as error:
        label_sets(tmp_path, [value], unmapped="refuse")
    assert "top_k=None" in str(error.value.hint)


# -- labels with scores --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([{"label": "negative", "score": 0.9}], [0.9, 0.1]),
        ([[{"label": "negative", "score": 0.9}]], [0.9, 0.1]),
        ([[{"label": "negative", "score": 0.9}, {"label": "positive", "score": 0.1}]], [0.9, 0.1]),
        ({"label": 0, "score": 0.9}, [0.9, 0.1]),
        ({"label": "negative", "score": None}, [1, 0]),
        ([[0.25, 0.75]], [0.25, 0.75]),
        ({"positive": "0,75", "negative": "0.25"}, [0.25, 0.75]),
    ],
)
def test_the_output_of_a_pipeline_is_read(tmp_path: Path, value: Any, expected: list[float]) -> None:
    assert probabilities(classes(tmp_path, [value]))[0] == expected


def test_the_output_of_a_zero_shot_pipeline_is_read_for_several_labels(tmp_path: Path) -> None:
    teacher = label_sets(tmp_path, [{"sequence": "one", "labels": ["c", "a", "b"], "scores": [0.9, 0.2, 0.1]}])
    assert independent(teacher)[0] == [0.2, 0.1, 0.9]


UNREADABLE = [
    {"foo": 1}, {"foo": [1]}, {"foo": {"bar": 1}}, {"foo": None, "bar": True}, [{"foo": 1}], [[]], [[["x"]]], [[], []],
    [{"label": ["a"], "score": 0.9}], {"label": {"a": 1}, "score": 0.9}, [{"label": "a"}, {"foo": 1}], [{}, {}],
    True, [True], [None], [None, None, "x"], 10**400, [10**400], {"p": "", "q": "1"}, "1" * 5000, ["1" * 5000],
    {"1" * 5000: 1.0}, {"label": "a", "score": {"b": 1}, "x": "b"}, {"a": [0.5]}, {"a": {"b": 1}}, [0, 2, {"a": 1}],
]  # fmt: skip


@pytest.mark.parametrize("key", ["label", "answer"])
def test_a_stated_answer_that_is_no_label_is_not_replaced_by_another_text(tmp_path: Path, key: str) -> None:
    """Neither as an object nor in a fence of Markdown."""
    stated = {key: "neutral", "reason": "positive"}
    values = [stated, f"```json\n{json.dumps(stated)}\n```", {"tone": "positive", "reason": "Warm."}]
    assert probabilities(classes(tmp_path, values)) == [None, None, [0, 1]]
    values = [{key: None, "reason": "positive"}, {key: "Positive.", "reason": "negative"}, "negative"]
    assert probabilities(classes(tmp_path, values)) == [None, [0, 1], [1, 0]]


def test_words_for_labels_may_differ_in_case_or_punctuation(tmp_path: Path) -> None:
    """Each is what it is mapped to; one that is none of them exactly is not guessed."""
    words = {"yes": "positive", "yes?": "negative"}
    assert probabilities(classes(tmp_path, ["yes", "yes?", "Yes"], label_names=words)) == [[0, 1], [1, 0], None]


@pytest.mark.parametrize(
    ("values", "task"),
    [
        ([1, 2, 1], "text-classification"),
        (["1", "positive", "1.0"], "text-classification"),
        ([[1, 2], [1]], "multi-label-classification"),
    ],
)
def test_positions_of_which_none_is_0_are_refused(tmp_path: Path, values: list[Any], task: str) -> None:
    """They may be counted from 1."""
    names = ["negative", "positive", "mixed"]
    with pytest.raises(InputError, match="are numbers from 1 on: positions of labels are counted from 0") as error:
        classes(tmp_path, values, task=task, names=names)
    assert '{label_names: {"1": "negative", "2": "positive", "3": "mixed"}}' in str(error.value.hint)
    named = {"1": "negative", "2": "positive", "3": "mixed"}
    assert classes(tmp_path, values, task=task, names=names, label_names=named).labelled["train"] == len(values)


@pytest.mark.parametrize("value", UNREADABLE, ids=lambda value: str(value)[:40] if value != 10**400 else "long")
@pytest.mark.parametrize("task", ["text-classification", "multi-label-classification"])
def test_forms_that_cannot_be_read_are_counted(tmp_path: Path, value: Any, task: str) -> None:
    teacher = classes(tmp_path, ["a", value], task=task, names=["a", "b", "c", "d"])
    assert not teacher.labels["train"].answered[1] and teacher.not_understood == 1
    with pytest.raises(InputError):
        classes(tmp_path, ["a", value], task=task, names=["a", "b", "c", "d"], unmapped="refuse")


def test_a_value_deeper_than_the_stack_is_counted(tmp_path: Path) -> None:
    deep: Any = ["x", "y"]
    for _ in range(800):
        deep = [deep, "z"]
    assert classes(tmp_path, ["negative", deep]).not_understood == 1


TWICE = [
    [{"label": "negative", "score": 0.9}, {"label": "negative", "score": 0.1}], '{"negative": 0.9, "negative": 0.1}'
]  # fmt: skip
TWO_WORDS = [
    [{"label": "negative", "score": 0.9}, {"label": "neg", "score": 0.1}], {"negative": 0.9, "neg": 0.1},
    {"negative": 0.9, "0": 0.1},
]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "value"),
    [
        *(("text-classification", value) for value in TWICE),
        *(("multi-label-classification", value) for value in [*TWICE, *TWO_WORDS]),
    ],
)
def test_two_numbers_for_one_label_are_not_understood(tmp_path: Path, value: Any, task: str) -> None:
    teacher = classes(tmp_path, ["positive", value], task=task, label_names={"neg": "negative"})
    assert not teacher.labels["train"].answered[1] and teacher.not_understood == 1


def test_numbers_of_several_words_for_one_label_are_added(tmp_path: Path) -> None:
    """If a row has one label; in multi-label they are two statements about one label."""
    words = {"joy": "positive", "love": "positive", "anger": "negative"}
    value = {"joy": 0.5, "love": 0.3, "anger": 0.2}
    assert probabilities(classes(tmp_path, [value], label_names=words))[0] == pytest.approx([0.2, 0.8])
    assert classes(tmp_path, ["joy", value], task="multi-label-classification", label_names=words).not_understood == 1


def test_a_distribution_need_not_name_the_labels_without_probability(tmp_path: Path) -> None:
    teacher = classes(tmp_path, [{"b": 0.75, "a": 0.25}], names=["a", "b", "c"])
    assert probabilities(teacher)[0] == [0.25, 0.75, 0] and not list(teacher.warnings())


@pytest.mark.parametrize(
    "value",
    [{"positive": 0.3}, {"labels": ["positive"], "scores": [0.3]}, {"label": "positive", "probs": {"positive": 0.3}}],
    ids=str,
)
def test_the_probability_of_one_label_leaves_the_rest_to_the_others(tmp_path: Path, value: Any) -> None:
    teacher = classes(tmp_path, [value, {"positive": 1}, {"negative": 0.9}])
    assert probabilities(teacher) == [[0.7, 0.3], [0.0, 1.0], [0.9, 0.1]]
    (warning,) = teacher.warnings()
    assert "another one is more probable, and is learned: positive with 0.3" in warning


def test_an_empty_cell_counts_as_null_does(tmp_path: Path) -> None:
    cells = {"answer_column_name": ["negative", "positive"]}
    lines = [{"text": "one", "negative": None, "positive": 1}, {"text": "two", "negative": 0.3, "positive": 0.7},
             {"text": "three", "negative": None, "positive": None}]  # fmt: skip
    of_csv = teacher_of(
        tmp_path, "text,negative,positive\none,,1\ntwo,0.3,0.7\nthree,,\n", {"text": TEXTS}, file="llm.csv", **cells
    )
    of_json = teacher_of(tmp_path, lines, {"text": TEXTS}, **cells)
    for teacher in (of_csv, of_json):
        assert probabilities(teacher) == [[0, 1], [0.3, 0.7], None]
        assert teacher.tally.counts["incomplete"] == 1 and teacher.tally.counts["empty"] == 1


@pytest.mark.parametrize(("cell", "hint"), [("high", "leave it empty"), ("-0.1", "log-probabilities")])
def test_the_hint_for_a_wrong_cell_fits(tmp_path: Path, cell: str, hint: str) -> None:
    with pytest.raises(InputError, match="expected a probability") as error:
        teacher_of(
            tmp_path, f"text,negative,positive\none,{cell},1\n", {"text": TEXTS}, file="llm.csv",
            answer_column_name=["negative", "positive"],
        )  # fmt: skip
    assert hint in str(error.value.hint)


# -- confidence ----------------------------------------------------------------------------------------------


def stated(folder: Path, confidences: Sequence[float | None], names: Sequence[str]) -> AnswerTeacher:
    answers = [
        {"text": text, "answer": names[0], "sure": value} for text, value in zip(TEXTS, confidences, strict=True)
    ]
    return teacher_of(folder, answers, {"text": TEXTS}, names=names, confidence_column_name="sure")


def test_a_stated_label_that_is_not_the_most_probable_is_counted(tmp_path: Path) -> None:
    teacher = stated(tmp_path, [0.3, 0.9, 1], NAMES)
    assert probabilities(teacher) == [[0.3, 0.7], [0.9, 0.1], [1, 0]]
    (warning,) = teacher.warnings()
    assert "in 1 answer, the confidence of the label is so low" in warning and "negative with 0.3 (" in warning
    in_object = classes(tmp_path, [{"label": "negative", "score": 0.3}])
    assert in_object.tally.counts["doubtful"] == 1


@pytest.mark.parametrize(("confidence", "count"), [(0.3, 1), (1 / 3, 0), (0.4, 0)])
def test_of_three_labels_a_third_is_enough(tmp_path: Path, confidence: float, count: int) -> None:
    assert stated(tmp_path, [confidence, 1, 1], list("abc")).tally.counts["doubtful"] == count


@pytest.mark.parametrize("empty", [None, "", " "])
def test_an_empty_confidence_counts_as_1_with_a_warning(tmp_path: Path, empty: str | None) -> None:
    teacher = stated(tmp_path, [0.9, empty, empty], NAMES)
    assert probabilities(teacher) == [[0.9, 0.1], [1, 0], [1, 0]]
    (warning,) = teacher.warnings()
    assert "in 2 answers, an empty confidence counts as 1: " in warning and "llm.jsonl, row 2" in warning
    for key in ("confidence", "score"):
        in_object = classes(tmp_path, [{"label": "negative", key: empty}, {"label": "positive"}])
        assert in_object.tally.counts["certain"] == 1


def test_a_confidence_in_the_only_label_is_no_error(tmp_path: Path) -> None:
    assert stated(tmp_path, [0.3, 1, 1], ["a"]).labelled == {"train": 3}


# -- spans with a label --------------------------------------------------------------------------------------


def tagged(folder: Path, words: list[str], value: Any, **setting: Any) -> AnswerTeacher:
    """Answers to two rows: the first one is the value, the second one a tag per word."""
    answers = [{"text": " ".join(words), "answer": value}, {"text": " ".join(WORDS[2]), "answer": ["O", "O"]}]
    columns = {"tokens": [words, WORDS[2]]}
    return teacher_of(folder, answers, columns, task="token-classification", names=TAGS, **setting)


ADA = ["Ada", "saw", "Paul"]
ROME = ["Rome", "and", "Rome"]
LOC, PER = {"text": "Rome", "label": "LOC"}, {"text": "Rome", "label": "PER"}


@pytest.mark.parametrize(
    ("words", "value", "kind"),
    [
        (ADA, [[0, 3, "PER"], [0, 3, "LOC"]], "overlapping"),
        (ADA, [[0, 3, "LOC"], {"text": "Ada", "label": "PER"}], "overlapping"),
        (ADA, [{"text": "Ada", "label": "LOC"}, {"text": "Ada", "label": "PER"}], "overlapping"),
        (ADA, [{"start": 0, "end": 3, "labels": ["PER", "LOC"]}], "overlapping"),
        (ADA, [[0, 2, "PER"], [1, 3, "LOC"]], "overlapping"),  # parts of one word
        (ROME, [LOC, PER], "several"),
        (ROME, [{**LOC, "text": "Rome "}, PER], "several"),
        (ROME, [LOC, PER, LOC], "several"),
        (ADA, [[0, 60, "PER"]], "lost"),  # beyond the text
        (ADA, [[0, 10**400, "PER"]], "lost"),
    ],
)
def test_two_labels_for_the_same_words_label_nothing(tmp_path: Path, words: list[str], value: Any, kind: str) -> None:
    teacher = tagged(tmp_path, words, value)
    assert tags(teacher) == [None, ["O", "O"]] and teacher.tally.counts[kind] == 1


@pytest.mark.parametrize(
    ("words", "value", "expected"),
    [
        (ADA, [[0, 3, "PER"], [0, 3, "PER"], [0, 3, "per"]], ["B-PER", "O", "O"]),
        (ROME, [LOC, {"text": "Rome", "label": "loc"}], ["B-LOC", "O", "B-LOC"]),
        (ROME, [{**LOC, "start": 0, "end": 4}, {**PER, "start": 9, "end": 13}], ["B-LOC", "O", "B-PER"]),
        (ADA, [[0, 3, "PER"], [0, 3, "DATE"]], ["B-PER", "O", "O"]),  # DATE is ignored
        (ADA, {"start": 0, "end": 3, "label": "PER"}, ["B-PER", "O", "O"]),
    ],
)
def test_spans_with_one_label_may_repeat(tmp_path: Path, words: list[str], value: Any, expected: list[str]) -> None:
    assert tags(tagged(tmp_path, words, value, label_names={"DATE": "O"}))[0] == expected


@pytest.mark.parametrize(
    "value",
    [
        {"entities": []}, [{"foo": 1}], [[0, 3]], [["O", "O", "B-PER"]], [[0.5, 3.0, "PER"]], [[0, 3, ["PER"]]], [[]], [{}],
        [{"text": " ", "label": "PER"}], [{"text": None, "label": "PER"}], [{"start": 0, "end": 3, "label": {"a": 1}}],
        [{"start": True, "end": 3, "label": "PER"}], [{"labels": [], "start": 0, "end": 3}], [None, True, 10**400],
        [None] * 3, True, 5, 10**400,
    ],
    ids=lambda value: str(value)[:40] if "0000" not in repr(value) else "long",
)  # fmt: skip
def test_spans_and_tags_in_no_known_form_are_counted(tmp_path: Path, value: Any) -> None:
    teacher = tagged(tmp_path, ADA, value)
    assert tags(teacher) == [None, ["O", "O"]] and teacher.not_understood == 1
    with pytest.raises(InputError):
        tagged(tmp_path, ADA, value, unmapped="refuse")


def test_characters_of_spans_may_be_numbers_of_other_types(tmp_path: Path) -> None:
    value = [{"start": "0", "end": 3.0, "label": "PER"}]
    assert tags(tagged(tmp_path, ADA, value)) == [["B-PER", "O", "O"], ["O", "O"]]


EMOJI = ["😀", "😀", "Ada", "saw", "Paul"]


@pytest.mark.parametrize(
    ("value", "expected", "counts"),
    [
        ([[12, 16, "PER"]], ["O", "O", "O", "O", "B-PER"], {}),
        ([[6, 9, "PER"]], ["O", "O", "B-PER", "O", "O"], {"utf16": 1}),
        ([[14, 18, "PER"]], ["O", "O", "O", "O", "B-PER"], {"utf16": 1}),
        ([[5, 8, "PER"]], ["O", "O", "B-PER", "O", "O"], {"cut": 1}),
    ],
)
def test_characters_in_utf16_are_noticed_where_others_cut_a_word(
    tmp_path: Path, value: Any, expected: list[str], counts: dict[str, int]
) -> None:
    teacher = tagged(tmp_path, EMOJI, value)
    assert tags(teacher)[0] == expected
    assert {kind: teacher.tally.counts[kind] for kind in ("utf16", "cut") if teacher.tally.counts[kind]} == counts


def test_a_text_is_no_part_of_a_longer_word_in_any_alphabet(tmp_path: Path) -> None:
    for words, text in [(["Ивановка", "растёт"], "Иван"), (["Österreich", "x"], "sterreich"), (["Annés", "x"], "Ann")]:
        assert tagged(tmp_path, words, [{"text": text, "label": "PER"}]).tally.counts["lost"] == 1
    assert tags(tagged(tmp_path, ["在", "北京市"], [{"text": "北京", "label": "LOC"}]))[0] == ["O", "B-LOC"]


# -- answers that occur several times ------------------------------------------------------------------------


def decisions(teacher: AnswerTeacher) -> list[tuple[int, int]]:
    """The characters that finetune would learn in each row; (-1, -1) for no answer."""
    labels = teacher.labels["train"]
    hard, _ = tasks.find_prediction_task("question-answering").hard_labels(labels.logits, labels.layout, 0.0)
    return [(int(begin), int(end)) for begin, end in hard]


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        (["Ada"] * 3 + ["none"] * 2, {"@-1": 0.4, "Ada@18": 0.6}),
        (["Ada"] * 3 + ["1843"] * 2, {"Ada@18": 0.6, "1843@25": 0.4}),
        (["Ada"] * 3 + ["1852"] * 2, {"Ada@18": 0.6, "1852@57": 0.4}),
        (["Ada", "ADA.", "Ada", {"text": "Ada", "answer_start": 35}] + ["none"] * 3, {"@-1": 0.429, "Ada@35": 0.571}),
        (["in"] * 2 + ["1843"] + ["none"], {"@-1": 0.25, "in@22": 0.25, "in@54": 0.25, "1843@25": 0.25}),
        (["Ada"] * 2 + ["none"] * 3, {"@-1": 0.6, "Ada@18": 0.2, "Ada@35": 0.2}),
        (["Ada"] * 4 + ["none"], {"@-1": 0.2, "Ada@18": 0.4, "Ada@35": 0.4}),
    ],
)
def test_the_answer_with_the_most_votes_is_the_decision(
    tmp_path: Path, votes: list[Any], expected: dict[str, float]
) -> None:
    teacher = qa(tmp_path, [votes], votes=True, no_answer="none")
    assert spans(teacher)[0] == expected
    winner = "@-1" if expected.get("@-1", 0) > 0.5 else next(name for name in expected if name != "@-1")
    assert decisions(teacher)[0][0] == int(winner.partition("@")[2])


def test_a_tie_between_answers_is_counted(tmp_path: Path) -> None:
    teacher = qa(tmp_path, [["Ada", "none"], ["1843", "1852"], ["Ada", "Ada"]], votes=True, no_answer="none")
    assert teacher.tally.counts["ties"] == 2
    assert decisions(teacher) == [(18, 21), (25, 29), (18, 21)]


@pytest.mark.parametrize(
    "value",
    [
        {}, {"foo": 1}, {"text": None}, {"text": 5}, {"text": [None]}, {"text": {"a": 1}}, [None], [["Ada"]], [[]], [{}],
        [True], True, 10**400, [10**400], [{"label": "Ada", "score": 0.9}],
    ],
    ids=lambda value: str(value)[:40] if "0000" not in repr(value) else "long",
)  # fmt: skip
def test_answers_in_no_known_form_are_counted(tmp_path: Path, value: Any) -> None:
    teacher = qa(tmp_path, ["1843", value])
    assert spans(teacher)[1] is None and teacher.not_understood == 1


@pytest.mark.parametrize("begin", [35, [35], "35", [35.0]])
def test_the_character_beside_a_text_may_be_a_list_of_one(tmp_path: Path, begin: Any) -> None:
    assert spans(qa(tmp_path, [{"text": "Ada", "answer_start": begin}]))[0] == {"Ada@35": 1.0}


def test_an_answer_that_is_said_to_be_impossible_is_none(tmp_path: Path) -> None:
    teacher = qa(tmp_path, [{"text": "Ada", "is_impossible": True}, {"text": "1843", "is_impossible": False}])
    assert spans(teacher)[:2] == [{"@-1": 1.0}, {"1843@25": 1.0}]
    answers = [{"id": 0, "answer": "Ada", "is_impossible": "True"}, {"id": 1, "answer": "1843", "is_impossible": ""},
               {"id": 2, "answer": None, "is_impossible": "1"}]  # fmt: skip
    columns = {"id": [0, 1, 2], "question": QUESTION, "context": CONTEXT}
    names = {"task": "question-answering", "names": ["begin", "end"], "id_column_name": "id"}
    labelled = spans(teacher_of(tmp_path, answers, columns, **names))
    assert labelled == [{"@-1": 1.0}, {"1843@25": 1.0}, {"@-1": 1.0}]


def test_an_answer_far_beyond_the_context_is_located_by_its_text(tmp_path: Path) -> None:
    assert spans(qa(tmp_path, [{"text": "1843", "answer_start": 10**400}]))[0] == {"1843@25": 1.0}


def in_context(folder: Path, context: str, value: Any) -> list[tuple[int, int]] | None:
    """The decision for a first row with this context; None without a label."""
    answers = [{"id": 0, "answer": value}, {"id": 1, "answer": "1843"}]
    columns = {"id": [0, 1], "question": ["Who?", "When?"], "context": [context, "In 1843."]}
    names = ["begin", "end"]
    teacher = teacher_of(folder, answers, columns, task="question-answering", names=names, id_column_name="id")
    return decisions(teacher)[:1] if teacher.labels["train"].answered[0] else None


@pytest.mark.parametrize(
    ("context", "answer", "expected"),
    [
        ("Вопрос, который задал брат", "кот", None),
        ("Вопрос, который задал кот", "кот", (22, 25)),
        ("Das altösterreichische Haus", "alt", None),
        ("un e\u0301tat neuf", "tat", None),
        ("un cafe\u0301 noir", "caf\u00e9", (3, 8)),
        ("un caf\u00e9 noir", "cafe\u0301", (3, 7)),
        ("他在北京出生", "北京", (2, 4)),
        ("서울에서 태어났다", "서울", (0, 2)),
    ],
)
def test_an_answer_is_located_in_any_alphabet_but_not_in_a_longer_word(
    tmp_path: Path, context: str, answer: str, expected: tuple[int, int] | None
) -> None:
    assert in_context(tmp_path, context, answer) == (expected and [expected])


def test_an_answer_is_located_at_its_characters_in_utf16(tmp_path: Path) -> None:
    context = "😀 Ada wrote; 😀 and Ada read"
    assert in_context(tmp_path, context, {"text": "Ada", "start": 21, "end": 24}) == [(19, 22)]
    assert in_context(tmp_path, context, {"text": "Ada", "start": 19, "end": 22}) == [(19, 22)]


def test_votes_that_are_not_understood_do_not_make_their_answer_label_nothing(tmp_path: Path) -> None:
    teacher = classes(tmp_path, [["positive", "hm"]], votes=True)
    (warning,) = teacher.warnings()
    assert probabilities(teacher)[0] == [0, 1]
    assert "no label from 1 of 1 answers, or votes of these: not understood" in warning
