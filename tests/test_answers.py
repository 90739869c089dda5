"""Answers of an LLM, a service or annotators as a teacher: how they are read, joined and mapped to labels."""

from __future__ import annotations

import json
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

from tinybert_cli.answers import AnswerTeacher
from tinybert_cli.answers.free_text import LabelMatcher
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics.probabilities import sigmoid

# -- free text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("The answer is: positive.", "positive"),
        ("The answer is positive.", "positive"),
        (" **Positive**\n", "positive"),
        ("POSITIVE!", "positive"),
        ("Sentiment: Negative", "negative"),
        ("Positive. The reviewer praises the cast.", "positive"),
        ("positive - it has no flaws", "positive"),
        ("Positive. The plot is perhaps too long.", "positive"),
        ("Bad jokes and a negative start.\nFinal answer: positive", "positive"),
        ('```json\n{"label": "positive", "reason": "nothing negative"}\n```', "positive"),
        ("情感：negative。", "negative"),
        ("very positive", "very positive"),
        ("The answer is: very positive", "very positive"),
    ],
)
def test_free_text_that_states_a_label_is_mapped(answer: str, label: str) -> None:
    assert LabelMatcher({name: name for name in [*NAMES, "very positive"]}).name(answer) == label


@pytest.mark.parametrize(
    "answer",
    [
        "not positive",
        "The answer is not positive.",
        "The answer is positive or negative",
        "positive/negative",
        "positive and negative",
        "Positive? Hard to say.",
        "Positive, maybe.",
        "Positive (not sure)",
        "Positive, but it could be irony",
        "Positive. But I'm not sure.",
        "Positive. I don't know, though.",
        "Positive. I cannot tell from this text.",
        "It is unlikely that the answer is positive",
        "I doubt the answer is positive",
        "It would be wrong to say that the label is positive.",
        "I cannot tell whether the answer is positive",
        "It could be called positive",
        "Positive, but the ending is negative",
        "positive: 0.3, negative: 0.7",
        "positive: false",
        "a positive review",
        "The director is positive.",
        "neutral",
        "",
    ],
)
def test_free_text_that_is_not_clear_names_no_label(answer: str) -> None:
    assert LabelMatcher({name: name for name in [*NAMES, "very positive"]}).name(answer) is None


def test_json_in_a_code_block_is_read_like_the_same_json_without_it(tmp_path: Path) -> None:
    objects = [
        '{"label": "positive", "confidence": 0.6}',
        '{"label": "negative", "probabilities": {"negative": 0.9, "positive": 0.1}}',
    ]
    blocks = [f"```json\n{text}\n```" for text in objects]
    assert probabilities(classes(tmp_path, blocks)) == [[0.4, 0.6], [0.9, 0.1], None]


def test_json_with_a_label_twice_names_no_label(tmp_path: Path) -> None:
    answers = ['{"label": "positive", "label": "negative"}', '{"label": "neutral", "label": "negative"}', "positive"]
    assert probabilities(classes(tmp_path, answers)) == [None, None, [0, 1]]


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("4.7", None),
        ("4,7", None),
        ("4 - 7", None),
        ("4\u20137", None),
        ("4. 7 of 9 liked it", "4"),
        ("4 - great", "4"),
    ],
)
def test_a_label_is_not_a_part_of_a_number(answer: str, label: str | None) -> None:
    assert LabelMatcher({name: name for name in "12345"}).name(answer) == label


def test_a_label_may_be_a_word_of_doubt() -> None:
    matcher = LabelMatcher({name: name for name in ("yes", "no", "unknown")})
    assert [matcher.name(text) for text in ("No.", "Answer: unknown", "I don't know")] == ["no", "unknown", None]


@pytest.mark.parametrize(
    "answer", ["No. I don't know.", "No, I can't help with that.", "No, I’m unable to classify it."]
)
def test_a_refusal_is_not_the_label_no(answer: str) -> None:
    matcher = LabelMatcher({"yes": "yes", "no": "no"})
    assert matcher.name(answer) is None
    assert matcher.name("No. The second sentence does not follow.") == "no"


def test_unclear_answers_are_counted_and_three_are_shown(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(6)]
    answers = [{"text": text, "answer": f"hm {text}"} for text in texts[:5]] + [
        {"text": texts[5], "answer": "positive"}
    ]
    teacher = teacher_of(tmp_path, answers, {"text": texts})
    (warning,) = teacher.warnings()
    assert "no label from 5 of 6 answers: not understood: 'hm text 0'" in warning
    assert warning.count("row") == 3 and teacher.labelled == {"train": 1}


def test_unmapped_refuse_names_the_row_and_the_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names no label") as error:
        classes(tmp_path, ["positive", "neutral"], unmapped="refuse")
    assert str(error.value.where).endswith("llm.jsonl, row 2") and "negative, positive" in str(error.value.hint)


def test_answers_of_which_none_is_a_label_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 2 answers labels a row") as error:
        classes(tmp_path, ["pos", "neg"])
    assert '{"pos": ..., "neg": ...}' in str(error.value.hint)
    named = classes(tmp_path, ["pos", "neg"], label_names={"pos": "positive", "neg": "negative"})
    assert probabilities(named) == [[0, 1], [1, 0], None]


def test_a_name_that_is_no_label_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'positiv', which is none of the labels"):
        classes(tmp_path, ["gut"], label_names={"gut": "positiv"})


def test_keys_of_the_label_names_of_the_data_are_labels(tmp_path: Path) -> None:
    data = {"label_names": {"gut": "positive", "schlecht": "negative"}}
    assert probabilities(classes(tmp_path, ["gut", "Das ist: schlecht."], data=data)) == [[0, 1], [1, 0], None]


def test_integers_are_positions_and_the_plan_says_so(tmp_path: Path) -> None:
    teacher = classes(tmp_path, [1, 0])
    assert probabilities(teacher) == [[0, 1], [1, 0], None]
    assert "1 = positive, 0 = negative" in teacher.statements()[0]


# -- probabilities, votes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"positive": 0.8, "negative": 0.2}, [0.2, 0.8]),
        ({"positive": 1.0}, [0, 1]),
        ([0.3, 0.7], [0.3, 0.7]),
        ([{"label": "positive", "score": 0.9}, {"label": "negative", "score": 0.1}], [0.1, 0.9]),
        (["positive"], [0, 1]),
        ({"label": "positive", "confidence": 0.9}, [0.1, 0.9]),
        ('{"label": "positive", "reason": "not one negative word"}', [0, 1]),
        ('{"label": "positive", "probabilities": {"positive": 0.8, "negative": 0.2}}', [0.2, 0.8]),
        ({"answer": "positive", "score": {"positive": 0.8, "negative": 0.2}}, [0.2, 0.8]),
        ({"label": "positive", "score": 0.9, "scores": {"positive": 0.9}, "usage": {"tokens": 7}}, [0.1, 0.9]),
        ({"label": "**Positive.**", "probabilities": {"positive": 0.8, "negative": None}}, [0, 1]),
        ({"label": "positive", "score": 0.9, "usage": {"tokens": 7}}, [0.1, 0.9]),
        ({"label": "positive", "score": None, "confidence": 0.9}, [0.1, 0.9]),
        ({"label": "positive", "probabilities": [0.2, 0.8]}, [0.2, 0.8]),
        ({"label": "positive", "span": [3, 8], "usage": {"tokens": 7}}, [0, 1]),
        ({"label": "positive", "negative": 0.2, "positive": 0.8}, [0.2, 0.8]),
        (
            {"label": "positive", "top": [{"label": "negative", "score": 0.2}, {"label": "positive", "score": 0.8}]},
            [0.2, 0.8],
        ),
        ({"sequence": "...", "labels": ["positive", "negative"], "scores": [0.8, 0.2]}, [0.2, 0.8]),
    ],
)
def test_probabilities_per_label_become_soft_labels(tmp_path: Path, value: Any, expected: list[float]) -> None:
    assert probabilities(classes(tmp_path, [value]))[0] == expected


@pytest.mark.parametrize("label", ["negative", "neutral"])
def test_a_label_beside_numbers_that_do_not_say_it_is_not_understood(tmp_path: Path, label: str) -> None:
    answer = {"label": label, "probabilities": {"positive": 0.8, "negative": 0.2}}
    teacher = classes(tmp_path, [answer, "positive"])
    assert probabilities(teacher) == [None, [0, 1], None]
    with pytest.raises(InputError, match="the label is not the most probable one of the numbers beside it"):
        classes(tmp_path, [answer, "positive"], unmapped="refuse")


@pytest.mark.parametrize("numbers", [[0.2, 0.3, 0.5], [20, 80], {"high": 0.8}, [0.8, 0.2]])
def test_numbers_beside_a_label_that_are_not_those_of_the_labels_are_counted(tmp_path: Path, numbers: Any) -> None:
    teacher = classes(tmp_path, [{"label": "positive", "scores": numbers}, "positive"])
    assert probabilities(teacher) == [None, [0, 1], None] and teacher.tally.counts["unmapped"] == 1


def test_probabilities_may_have_a_column_per_label(tmp_path: Path) -> None:
    answers = "text,p_pos,p_neg\none,0.8,0.2\ntwo,,\n"
    setting = {"answer_column_name": ["p_pos", "p_neg"], "label_names": {"p_pos": "positive", "p_neg": "negative"}}
    teacher = teacher_of(tmp_path, answers, {"text": TEXTS}, file="llm.csv", **setting)
    assert probabilities(teacher) == [[0.2, 0.8], None, None]


def test_probabilities_that_do_not_sum_to_one_are_normalised_with_a_warning(tmp_path: Path) -> None:
    teacher = classes(tmp_path, [{"positive": 60, "negative": 20}, {"positive": 0.333, "negative": 0.667}])
    assert probabilities(teacher)[0] == [0.25, 0.75]
    (warning,) = teacher.warnings()
    assert "in 1 answer, probabilities that do not sum to 1 were normalised: 80" in warning


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"positive": -0.1, "negative": 1.1}, "a negative number"),
        ({"positive": 0, "negative": 0}, "all probabilities are 0"),
        ({"positive": "high"}, "expected a probability"),
        ({"positive": 0.5, "neutral": 0.5}, "unknown label 'neutral'"),
        ({"label": "positive", "probabilities": {"positive": 0.5, "neutral": 0.5}}, "unknown label 'neutral'"),
        ({"positive": float("nan")}, "the answer holds nan"),
        ("NaN", "the answer holds"),
        (float("inf"), "the answer holds inf"),
    ],
)
def test_malformed_answers_are_refused_with_their_row(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        classes(tmp_path, ["positive", value])
    assert str(error.value.where).endswith("llm.jsonl, row 2")


def test_a_confidence_beside_probabilities_is_refused(tmp_path: Path) -> None:
    answers = [{"text": "one", "answer": {"negative": 0.3, "positive": 0.7}, "sure": 0.9}]
    with pytest.raises(InputError, match="a confidence beside probabilities"):
        teacher_of(tmp_path, answers, {"text": TEXTS}, confidence_column_name="sure")


def test_a_confidence_column_divides_the_rest_among_the_other_labels(tmp_path: Path) -> None:
    answers = [{"text": "one", "answer": "a", "sure": 0.8}, {"text": "two", "answer": "b", "sure": None}]
    teacher = teacher_of(tmp_path, answers, {"text": TEXTS}, names=["a", "b", "c"], confidence_column_name="sure")
    assert probabilities(teacher) == [[0.8, 0.1, 0.1], [0, 1, 0], None]


@pytest.mark.parametrize("confidence", [95, -0.1, "high", True, "nan"])
def test_a_confidence_outside_of_0_to_1_is_refused(tmp_path: Path, confidence: Any) -> None:
    answers = [{"text": "one", "answer": "positive", "sure": confidence}]
    with pytest.raises(InputError, match="expected a confidence from 0 to 1") as error:
        teacher_of(tmp_path, answers, {"text": TEXTS}, confidence_column_name="sure")
    assert (error.value.hint == "divide per cent by 100") == (confidence == 95)


def test_two_different_answers_to_one_row_are_refused_with_both_lines(tmp_path: Path) -> None:
    answers = [{"text": "one", "answer": "positive"}, {"text": "one", "answer": "negative"}]
    with pytest.raises(InputError, match=r"'positive' in .*row 1, and 'negative' in .*row 2") as error:
        teacher_of(tmp_path, answers, {"text": TEXTS})
    assert error.value.where == "train.jsonl, row 1" and "votes: true" in str(error.value.hint)


def test_the_same_answer_twice_is_no_contradiction(tmp_path: Path) -> None:
    answers = [{"text": "one", "answer": "positive"}, {"text": "one", "answer": "The answer is: positive"}]
    assert probabilities(teacher_of(tmp_path, answers, {"text": TEXTS}))[0] == [0, 1]


def test_votes_are_shares_of_the_lines_of_a_row(tmp_path: Path) -> None:
    answers = [{"text": "one", "answer": value} for value in ("positive", "positive", "positive", "negative")]
    assert probabilities(teacher_of(tmp_path, answers, {"text": TEXTS}, votes=True))[0] == [0.25, 0.75]


@pytest.mark.parametrize("value", [["positive", "negative", "positive", "positive"], {"positive": 3, "negative": 1}])
def test_votes_may_be_a_list_or_counts_in_one_answer(tmp_path: Path, value: Any) -> None:
    assert probabilities(classes(tmp_path, [value], votes=True))[0] == [0.25, 0.75]


def test_a_list_of_labels_without_votes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="several answers in one"):
        classes(tmp_path, [["positive", "negative"]])


def test_a_tie_between_votes_is_counted_with_its_row(tmp_path: Path) -> None:
    teacher = classes(tmp_path, [["positive", "negative"]], votes=True)
    (warning,) = teacher.warnings()
    assert "in 1 row, several labels are equally probable" in warning and "train.jsonl, row 1" in warning


# -- joining -------------------------------------------------------------------------------------------------


def test_answers_to_rows_that_do_not_exist_are_counted_and_three_shown(tmp_path: Path) -> None:
    answers = [{"text": f"other {number}", "answer": "positive"} for number in range(5)]
    teacher = teacher_of(tmp_path, [*answers, {"text": "one", "answer": "positive"}], {"text": TEXTS})
    (warning,) = teacher.warnings()
    assert "5 answers without a row in train: 'other 0', 'other 1', 'other 2'" in warning and "other 3" not in warning


def test_each_of_several_answers_without_a_row_is_counted(tmp_path: Path) -> None:
    answers = [{"text": text, "answer": name} for text in ("one", "other") for name in (*NAMES, *NAMES)]
    teacher = teacher_of(tmp_path, answers, {"text": TEXTS}, votes=True)
    assert (teacher.used, teacher.facts()["without_a_row"]) == (4, 4)
    assert any(text.endswith("4 answers without a row in train: 'other'") for text in teacher.warnings())


def test_answers_of_which_none_has_a_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no answer belongs to a row of train: the answers are for .*the first row is 'one'"
    ):
        teacher_of(tmp_path, [{"text": "Uno", "answer": "positive"}], {"text": TEXTS})


def test_the_join_by_text_ignores_white_space_and_composition(tmp_path: Path) -> None:
    answers = [{"text": " caf\u00e9  noir\n", "answer": "positive"}]
    teacher = teacher_of(tmp_path, answers, {"text": ["cafe\u0301 noir", "Caf\u00e9 noir"]})
    assert probabilities(teacher) == [[0, 1], None]


def test_an_answer_without_a_text_is_not_for_the_text_none(tmp_path: Path) -> None:
    answers = [{"text": None, "answer": "positive"}, {"text": "one", "answer": "negative"}]
    teacher = teacher_of(tmp_path, answers, {"text": ["None", "one"]})
    assert probabilities(teacher) == [None, [1.0, 0.0]]
    assert any("1 answer without a row in train: ''" in text for text in teacher.warnings())


def test_an_empty_text_beside_an_id_repeats_no_text(tmp_path: Path) -> None:
    answers = [{"id": 1, "text": None, "answer": "positive"}, {"id": 2, "text": "two", "answer": "negative"}]
    teacher = teacher_of(tmp_path, answers, {"id": [1, 2], "text": ["one", "two"]}, id_column_name="id")
    assert probabilities(teacher) == [[0.0, 1.0], [1.0, 0.0]]


def test_ids_are_compared_as_values_under_both_names(tmp_path: Path) -> None:
    answers = "custom_id,answer\n2,positive\n1.0,negative\n"
    setting = {"id_column_name": "id", "answers_id_column_name": "custom_id"}
    teacher = teacher_of(tmp_path, answers, {"id": [1, 2, 3], "text": TEXTS}, file="llm.csv", **setting)
    assert probabilities(teacher) == [[1, 0], [0, 1], None] and teacher.joined_by == "id"


def test_an_id_of_two_rows_is_refused_with_both(tmp_path: Path) -> None:
    columns = {"id": [7, 7, 8], "text": TEXTS}
    with pytest.raises(InputError, match=r"two rows have the id 7: train.jsonl, row 1, and train.jsonl, row 2"):
        teacher_of(tmp_path, [{"id": 7, "answer": "positive"}], columns, id_column_name="id")


def test_an_id_whose_answer_is_for_another_text_is_refused(tmp_path: Path) -> None:
    answers = [{"id": 1, "text": "two", "answer": "positive"}]
    with pytest.raises(InputError, match=r"1 answer has the id of a row with another text, .*llm.jsonl, row 1"):
        teacher_of(tmp_path, answers, {"id": [1, 2, 3], "text": TEXTS}, id_column_name="id")


def test_a_row_of_answers_without_an_id_is_refused(tmp_path: Path) -> None:
    answers = [{"id": 1, "answer": "positive"}, {"id": None, "answer": "positive"}]
    with pytest.raises(InputError, match="expected an id, found None") as error:
        teacher_of(tmp_path, answers, {"id": [1, 2, 3], "text": TEXTS}, id_column_name="id")
    assert str(error.value.where).endswith("row 2")


def test_pairs_are_joined_by_both_texts(tmp_path: Path) -> None:
    columns = {"premise": ["a", "a"], "hypothesis": ["b", "c"]}
    answers = [{"premise": "a", "hypothesis": "c", "answer": "positive"}]
    data = {"text_column_names": ["premise", "hypothesis"]}
    assert probabilities(teacher_of(tmp_path, answers, columns, data=data)) == [None, [0, 1]]


def test_which_column_holds_the_answers_must_be_clear(tmp_path: Path) -> None:
    answers = [{"text": "one", "gold": "positive", "llm": "negative"}]
    with pytest.raises(InputError, match="which column holds the answers is not clear"):
        teacher_of(tmp_path, answers, {"text": TEXTS})
    assert probabilities(teacher_of(tmp_path, answers, {"text": TEXTS}, answer_column_name="llm"))[0] == [1, 0]


def test_the_gold_labels_beside_another_column_are_not_taken_for_the_answers(tmp_path: Path) -> None:
    texts, labels = [f"text {number}" for number in range(10)], ["positive", "negative"] * 5
    answers = [{"text": text, "label": label, "gpt": "negative"} for text, label in zip(texts, labels, strict=True)]
    columns = {"text": texts, "label": labels}
    with pytest.raises(InputError, match="the 10 answers in 'label' are the gold labels of their rows") as error:
        teacher_of(tmp_path, answers, columns)
    assert "answer_column_name below `teacher`; others: gpt" in str(error.value.hint)
    assert probabilities(teacher_of(tmp_path, answers, columns, answer_column_name="gpt")) == [[1, 0]] * 10
    assert teacher_of(tmp_path, answers, columns, answer_column_name="label").labelled == {"train": 10}
    answers[0]["label"] = "negative"
    assert teacher_of(tmp_path, answers, columns).labelled == {"train": 10}


@pytest.mark.parametrize("answer", [None, "", "  "])
def test_an_empty_answer_labels_nothing_and_is_counted(tmp_path: Path, answer: str | None) -> None:
    teacher = classes(tmp_path, ["positive", answer])
    assert probabilities(teacher)[1] is None and teacher.not_understood == 1


# -- other tasks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [["a", "c"], "a|c", "a, c", {"a": 1.0, "b": 0.0, "c": 1.0}])
def test_several_labels_per_row(tmp_path: Path, value: Any) -> None:
    teacher = classes(tmp_path, [value, []], task="multi-label-classification", names=["a", "b", "c"])
    labels = teacher.labels["train"]
    assert sigmoid(labels.logits).round(3).tolist()[:2] == [[1, 0, 1], [0, 0, 0]]
    assert labels.answered.tolist() == [True, True, False]


def test_a_row_with_one_unknown_label_of_several_stays_unlabelled(tmp_path: Path) -> None:
    teacher = classes(tmp_path, [["a", "x"], ["a"]], task="multi-label-classification", names=["a", "b"])
    assert teacher.labels["train"].answered.tolist() == [False, True, False]


def test_numbers_and_their_mean_as_votes(tmp_path: Path) -> None:
    teacher = classes(tmp_path, [3.5, "Score: 2", [1, 4]], task="regression", names=["score"], votes=True)
    assert teacher.labels["train"].logits[:, 0].tolist() == [3.5, 2.0, 2.5]


LABEL_STUDIO = [
    {"id": 1, "data": {"text": "Ada Lovelace lived in London."}, "annotations": [{"was_cancelled": False, "result": [
        {"type": "labels", "value": {"start": 0, "end": 12, "text": "Ada Lovelace", "labels": ["PER"]}},
        {"type": "labels", "value": {"start": 22, "end": 28, "text": "London", "labels": ["LOC"]}}]}]},
    {"id": 2, "data": {"text": "Paul's 😀 saw Rome"}, "annotations": [{"was_cancelled": False, "result": [
        {"type": "labels", "value": {"start": 14, "end": 18, "text": "Rome", "labels": ["LOC"]}}]}]},
    {"id": 3, "data": {"text": "Nothing here"}, "annotations": [{"was_cancelled": True, "result": []}]},
]  # fmt: skip
DOCCANO = [
    {"id": 1, "text": "Ada Lovelace lived in London .", "label": [[0, 12, "PER"], [22, 28, "LOC"]]},
    {"id": 2, "text": "Paul 's 😀 saw Rome", "label": [[14, 18, "LOC"]]},
]
PRODIGY = [
    {"text": "Ada Lovelace lived in London.", "tokens": [{"text": "Ada", "start": 0, "end": 3, "id": 0}],
     "spans": [{"start": 0, "end": 12, "token_start": 0, "token_end": 1, "label": "PER"},
               {"start": 22, "end": 28, "token_start": 4, "token_end": 4, "label": "LOC"}], "answer": "accept"},
    {"text": "Paul's 😀 saw Rome", "tokens": [], "spans": [{"start": 13, "end": 17, "label": "LOC"}], "answer": "accept"},
    {"text": "Nothing here", "tokens": [], "spans": [], "answer": "ignore"},
]  # fmt: skip
JSON_MIN = [{"text": task["data"]["text"], "id": task["id"], "annotator": 1,
             "label": [item["value"] for item in task["annotations"][0]["result"]]} for task in LABEL_STUDIO[:2]]  # type: ignore[index]  # fmt: skip
LLM = [
    {"text": "Ada Lovelace lived in London.",
     "entities": [{"text": "Ada Lovelace", "label": "per"}, {"text": "London", "label": "LOC", "start": 99, "end": 105}]},
    {"text": "Paul's 😀 saw Rome", "entities": [{"text": "Rome", "type": "LOC"}]},
]  # fmt: skip


@pytest.mark.parametrize(
    "answers",
    [LABEL_STUDIO, JSON_MIN, DOCCANO, PRODIGY, LLM],
    ids=["label-studio", "json-min", "doccano", "prodigy", "llm"],
)
def test_spans_of_annotation_tools_become_tags(tmp_path: Path, answers: list[dict[str, Any]]) -> None:
    teacher = teacher_of(tmp_path, answers, {"tokens": WORDS}, task="token-classification", names=TAGS)
    expected = [["B-PER", "I-PER", "O", "O", "B-LOC", "O"], ["O", "O", "O", "O", "B-LOC"], None]
    assert tags(teacher) == expected


def choices(*labels: str) -> dict[str, Any]:
    return {"was_cancelled": False, "result": [{"type": "choices", "value": {"choices": list(labels)}}]}


def test_choices_of_label_studio_are_labels_and_those_of_two_annotators_votes(tmp_path: Path) -> None:
    answers = [{"data": {"text": "one"}, "annotations": [choices("positive"), choices("negative")]},
               {"data": {"text": "two"}, "annotations": [choices("positive")]}]  # fmt: skip
    with pytest.raises(InputError, match=r"row 1, annotation 1, and .*row 1, annotation 2"):
        teacher_of(tmp_path, answers, {"text": TEXTS})
    assert probabilities(teacher_of(tmp_path, answers, {"text": TEXTS}, votes=True)) == [[0.5, 0.5], [0, 1], None]


SPAN = {"type": "labels", "value": {"start": 18, "end": 21, "text": "Ada", "labels": ["PER"]}}
CHOICE = {"type": "choices", "value": {"choices": ["positive"]}}
RATING = {"type": "rating", "value": {"rating": 4}}
COMMENT = {"type": "textarea", "value": {"text": ["1843"]}}


def of_label_studio(
    folder: Path, result: list[dict[str, Any]], columns: dict[str, list[Any]], task: str, names: list[str]
) -> AnswerTeacher:
    """One task of a project that asks for several things at once."""
    answers = [{"data": {name: cells[0] for name, cells in columns.items()}, "annotations": [{"result": result}]}]
    return teacher_of(folder, answers, columns, task=task, names=names)


@pytest.mark.parametrize(
    ("result", "expected"),
    [([CHOICE, RATING, COMMENT, SPAN], "Ada@18"), ([CHOICE, COMMENT], "1843@25"), ([COMMENT], "1843@25"), ([], "@-1")],
)
def test_an_answer_in_label_studio_is_a_span_or_else_a_text(
    tmp_path: Path, result: list[dict[str, Any]], expected: str
) -> None:
    columns = {"question": QUESTION[:1], "context": CONTEXT[:1]}
    teacher = of_label_studio(tmp_path, result, columns, "question-answering", ["begin", "end"])
    assert spans(teacher) == [{expected: 1.0}]


def test_of_a_project_of_label_studio_each_task_takes_its_own_answers(tmp_path: Path) -> None:
    text, result = "It was written by Ada .", [RATING, COMMENT, CHOICE, SPAN]
    words = {"tokens": [text.split()], "text": [text]}
    assert tags(of_label_studio(tmp_path, result, words, "token-classification", TAGS)) == [
        ["O", "O", "O", "O", "B-PER", "O"]
    ]
    assert tags(of_label_studio(tmp_path, [RATING, COMMENT, CHOICE], words, "token-classification", TAGS)) == [
        ["O"] * 6
    ]
    assert probabilities(of_label_studio(tmp_path, result, {"text": [text]}, "text-classification", NAMES)) == [[0, 1]]
    number = of_label_studio(tmp_path, result, {"text": [text]}, "regression", ["score"])
    assert number.labels["train"].logits.tolist() == [[4.0]]


def test_two_different_numbers_of_one_annotator_are_refused(tmp_path: Path) -> None:
    result = [RATING, {"type": "number", "value": {"number": 7}}]
    with pytest.raises(InputError, match="several answers in one"):
        of_label_studio(tmp_path, result, {"text": ["one"]}, "regression", ["score"])


def test_a_comment_in_label_studio_is_no_empty_set_of_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the answer labels no row"):
        of_label_studio(tmp_path, [COMMENT], {"text": ["one"]}, "multi-label-classification", list("ab"))


def named(control: str, result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "from_name": control}


TOPIC = named("topic", {"type": "choices", "value": {"choices": ["negative"]}})
TWO_CONTROLS = [
    {"data": {"text": "one"}, "annotations": [{"result": [TOPIC, named("sentiment", CHOICE)]}]},
    {"data": {"text": "two"}, "annotations": [{"result": [TOPIC]}]},
]


def test_several_controls_of_label_studio_that_fit_are_refused_and_one_is_chosen_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels of several controls: topic, sentiment") as raised:
        teacher_of(tmp_path, TWO_CONTROLS, {"text": TEXTS})
    assert "answer_column_name: topic" in str(raised.value.hint)
    teacher = teacher_of(tmp_path, TWO_CONTROLS, {"text": TEXTS}, answer_column_name="sentiment")
    assert probabilities(teacher) == [[0, 1], None, None]
    assert teacher.tally.counts["empty"] == 1
    comment = named("why", {"type": "textarea", "value": {"text": ["so"]}})
    answers = [*TWO_CONTROLS, {"data": {"text": "two"}, "annotations": [{"result": [comment]}]}]
    with pytest.raises(InputError, match="results of the control 'why' are not used: this task reads labels"):
        teacher_of(tmp_path, answers, {"text": TEXTS}, answer_column_name=["sentiment", "why"])
    with pytest.raises(InputError, match="no result was made with a control 'feeling'"):
        teacher_of(tmp_path, TWO_CONTROLS, {"text": TEXTS}, answer_column_name="feeling")


def test_controls_of_label_studio_that_are_listed_are_joined(tmp_path: Path) -> None:
    person, place = (
        named(name, {"type": "labels", "value": {"start": begin, "end": end, "text": text, "labels": [label]}})
        for name, begin, end, text, label in [
            ("people", 0, 12, "Ada Lovelace", "PER"),
            ("places", 22, 28, "London", "LOC"),
        ]
    )
    answers = [{"data": {"text": "Ada Lovelace lived in London."}, "annotations": [{"result": [person, place]}]}]
    settings: dict[str, Any] = {"task": "token-classification", "names": TAGS}
    with pytest.raises(InputError, match="spans of several controls: people, places"):
        teacher_of(tmp_path, answers, {"tokens": WORDS}, **settings)
    teacher = teacher_of(tmp_path, answers, {"tokens": WORDS}, answer_column_name=["people", "places"], **settings)
    assert tags(teacher)[0] == ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]


def test_a_comment_beside_an_empty_choice_in_label_studio_is_no_label(tmp_path: Path) -> None:
    comment = {"type": "textarea", "value": {"text": ["positive"]}}
    answers = [
        {"data": {"text": "one"}, "annotations": [{"result": [CHOICE]}]},
        {"data": {"text": "two"}, "annotations": [{"result": [comment]}]},
    ]
    teacher = teacher_of(tmp_path, answers, {"text": TEXTS})
    assert probabilities(teacher) == [[0, 1], None, None]


def test_what_is_entered_for_a_part_of_the_text_in_label_studio_is_no_answer(tmp_path: Path) -> None:
    part = {"start": 18, "end": 21}
    result = [SPAN, {"value": {**part, "choices": ["sure"]}}, {"value": {**part, "text": ["a note"]}}]
    words = {"tokens": [["It", "was", "written", "by", "Ada", "."]], "text": ["It was written by Ada ."]}
    assert tags(of_label_studio(tmp_path, result, words, "token-classification", TAGS)) == [
        ["O", "O", "O", "O", "B-PER", "O"]
    ]


def test_settings_that_an_export_of_label_studio_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="have no confidence"):
        teacher_of(tmp_path, TWO_CONTROLS[:1], {"text": TEXTS}, confidence_column_name="sure")
    with pytest.raises(InputError, match="no column 'review'"):
        teacher_of(tmp_path, TWO_CONTROLS[:1], {"text": TEXTS}, text_column_names="review")


def test_what_a_pattern_of_prodigy_matched_is_no_label_of_the_text(tmp_path: Path) -> None:
    spans_of_pattern = [{"start": 0, "end": 3, "label": "negative"}]
    answers = [
        {"text": "one", "label": "positive", "spans": spans_of_pattern, "answer": "accept"},
        {"text": "two", "label": "negative", "spans": [], "answer": "accept"},
    ]
    assert probabilities(teacher_of(tmp_path, answers, {"text": TEXTS})) == [[0, 1], [1, 0], None]


def test_a_json_file_of_label_studio_is_read_like_its_lines(tmp_path: Path) -> None:
    teacher = teacher_of(
        tmp_path, json.dumps(LABEL_STUDIO), {"tokens": WORDS}, task="token-classification", names=TAGS, file="ls.json"
    )
    assert teacher.labelled == {"train": 2} and teacher.skipped == 1


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([[0, 4, "DATE"]], "unmapped"),
        ([[0, 4, "PER"], [2, 7, "LOC"]], "overlapping"),
        ([{"text": "Oslo", "label": "LOC"}], "lost"),
        ([[50, 60, "LOC"]], "lost"),
        (["O", "O"], "misaligned"),
        (["O", "O", "O", "O", "B-ORG"], "unmapped"),
    ],
)
def test_spans_and_tags_that_do_not_fit_label_nothing(tmp_path: Path, value: list[Any], kind: str) -> None:
    answers = [{"text": " ".join(WORDS[1]), "answer": value}, {"text": " ".join(WORDS[2]), "answer": ["O", "O"]}]
    teacher = teacher_of(tmp_path, answers, {"tokens": WORDS}, task="token-classification", names=TAGS)
    assert tags(teacher) == [None, None, ["O", "O"]] and teacher.tally.counts[kind] == 1


def test_an_entity_may_be_called_nan(tmp_path: Path) -> None:
    answers = [{"text": "NAN here", "answer": [{"text": "NAN", "label": "PER"}]}]
    teacher = teacher_of(tmp_path, answers, {"tokens": [["NAN", "here"]]}, task="token-classification", names=TAGS)
    assert tags(teacher) == [["B-PER", "O"]]


def test_characters_are_those_of_the_text_beside_an_id(tmp_path: Path) -> None:
    """The text of the answers has other spaces than the words of the row."""
    words, text = ["(", "Ada", ")", "'", "Paul", "'"], "(Ada)'Paul'"
    answers = [{"id": 1, "text": text, "label": [[6, 10, "PER"]]}]
    teacher = teacher_of(
        tmp_path, answers, {"id": [1], "tokens": [words]}, task="token-classification", names=TAGS, id_column_name="id"
    )
    assert tags(teacher) == [["O", "O", "O", "O", "B-PER", "O"]] and not teacher.tally.counts["cut"]


def test_tags_that_are_positions_are_in_the_plan(tmp_path: Path) -> None:
    teacher = teacher_of(
        tmp_path, [{"tokens": WORDS[2], "answer": [0, 1]}], {"tokens": WORDS}, task="token-classification", names=TAGS
    )
    assert "numbers are positions in the labels, such as 0 = O, 1 = B-LOC" in teacher.statements()[0]


def test_a_span_mapped_to_no_type_of_entity_is_a_config_error(tmp_path: Path) -> None:
    answers = [{"tokens": WORDS[0], "answer": [[0, 3, "person"]]}]
    with pytest.raises(ConfigError, match="'person' to 'PRE', which is none of the labels") as error:
        teacher_of(
            tmp_path, answers, {"tokens": WORDS}, task="token-classification", names=TAGS,
            label_names={"person": "PRE"},
        )  # fmt: skip
    assert "PER" in str(error.value.hint)


def test_a_span_mapped_to_o_is_ignored(tmp_path: Path) -> None:
    answers = [{"text": " ".join(WORDS[1]), "answer": [[0, 4, "DATE"], [14, 18, "LOC"]]}]
    setting: dict[str, Any] = {"task": "token-classification", "names": TAGS, "label_names": {"DATE": "O"}}
    assert tags(teacher_of(tmp_path, answers, {"tokens": WORDS}, **setting))[1] == ["O", "O", "O", "O", "B-LOC"]


def test_a_text_that_occurs_twice_is_tagged_only_if_it_is_listed_twice(tmp_path: Path) -> None:
    words = [["Rome", "and", "Rome"], ["Rome", ",", "Rome"]]
    entity = {"text": "Rome", "label": "LOC"}
    answers = [{"text": "Rome and Rome", "answer": [entity, entity]}, {"text": "Rome, Rome", "answer": [entity]}]
    teacher = teacher_of(tmp_path, answers, {"tokens": words}, task="token-classification", names=TAGS)
    assert tags(teacher) == [["B-LOC", "O", "B-LOC"], None]


def test_a_span_within_a_word_includes_the_word_and_is_counted(tmp_path: Path) -> None:
    answers = [{"text": "Nothing here", "answer": [[0, 4, "PER"]]}]
    teacher = teacher_of(tmp_path, answers, {"tokens": WORDS}, task="token-classification", names=TAGS)
    assert tags(teacher)[2] == ["B-PER", "O"] and teacher.tally.counts["cut"] == 1


def test_spans_use_the_scheme_of_the_tags(tmp_path: Path) -> None:
    names = ["O", "B-PER", "I-PER", "E-PER", "S-PER"]
    answers = [{"text": "a b c d", "answer": [[0, 5, "PER"], [6, 7, "PER"]]}]
    teacher = teacher_of(tmp_path, answers, {"tokens": [list("abcd")]}, task="token-classification", names=names)
    indices = teacher.labels["train"].logits.argmax(-1)
    assert [names[index] for index in indices] == ["B-PER", "I-PER", "E-PER", "S-PER"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1843", {"1843@25": 1.0}),
        ("  '1843.' ", {"1843@25": 1.0}),
        ("IT WAS written", {"It was written@0": 1.0}),
        ("The answer is: 1843.", {"1843@25": 1.0}),
        ("NaN", None),
        ("Ada Lovelace", {"Ada  Lovelace@35": 1.0}),
        ("Ada", {"Ada@18": 0.5, "Ada@35": 0.5}),
        ({"text": "Ada", "answer_start": 35}, {"Ada@35": 1.0}),
        ({"text": ["1852"], "answer_start": [3]}, {"1852@57": 1.0}),
        ({"text": [], "answer_start": []}, {"@-1": 1.0}),
        ("Unanswerable.", {"@-1": 1.0}),
        ("Charles", None),
        ("84", None),
        (3, None),
    ],
)
def test_answers_are_located_in_the_context_or_counted(
    tmp_path: Path, value: Any, expected: dict[str, float] | None
) -> None:
    teacher = qa(tmp_path, ["1843", value], no_answer="unanswerable")
    assert spans(teacher)[1] == expected
    assert teacher.not_understood == (expected is None)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"text": "Ada", "answer_start": 35.0}, {"Ada@35": 1.0}),
        ({"text": "Ada", "answer_start": "35"}, {"Ada@35": 1.0}),
        ({"text": "Ada", "answer_start": 35.5}, {"Ada@18": 0.5, "Ada@35": 0.5}),
        (1843, {"1843@25": 1.0}),
    ],
)
def test_numbers_of_answers_may_have_other_types(tmp_path: Path, value: Any, expected: dict[str, float]) -> None:
    assert spans(qa(tmp_path, [value]))[0] == expected


@pytest.mark.parametrize(("text", "begin"), [("5", 38), ("$5", 0), ("00", 3)])
def test_a_number_is_not_located_in_a_longer_one_if_it_is_elsewhere(tmp_path: Path, text: str, begin: int) -> None:
    columns = {"id": [0], "question": ["q"], "context": ["$5.00 in 1,500 cases of 7.5, and then 5."]}
    teacher = teacher_of(
        tmp_path, [{"id": 0, "answer": text}], columns, task="question-answering", names=["begin", "end"],
        id_column_name="id",
    )  # fmt: skip
    layout = teacher.labels["train"].layout
    assert layout is not None and layout.token_spans is not None
    assert layout.token_spans[1:, 1].tolist() == [begin]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            [{"answer": "1843", "score": 0.6, "start": 25}, {"answer": "1852", "score": 0.2}],
            {"1843@25": 0.75, "1852@57": 0.25},
        ),
        ([{"answer": "1843", "score": 0.2}, {"answer": "", "score": 0.6, "start": 0}], {"1843@25": 0.25, "@-1": 0.75}),
        ([{"answer": "1843", "score": 0.0}, {"answer": "1852", "score": 0.1}], {"1852@57": 1.0}),
        ({"text": ["1843", "1852"], "score": [0.9, 0.1]}, {"1843@25": 0.9, "1852@57": 0.1}),
        ([{"text": [], "answer_start": []}, {"text": []}, {"text": "1843"}], {"1843@25": 0.333, "@-1": 0.667}),
        ([{"answer": "1843", "score": 0.6}, {"answer": "1852"}], None),
    ],
)
def test_answers_with_scores_are_shares_of_a_vote(
    tmp_path: Path, value: Any, expected: dict[str, float] | None
) -> None:
    assert spans(qa(tmp_path, [value, "1843"], votes=True))[0] == expected


@pytest.mark.parametrize(("score", "message"), [(0, "all scores are 0"), (90, "a confidence from 0 to 1")])
def test_scores_that_are_no_shares_are_refused(tmp_path: Path, score: float, message: str) -> None:
    answers = [{"answer": "1843", "score": score}, {"answer": "1852", "score": score}]
    with pytest.raises(InputError, match=message):
        qa(tmp_path, [answers], votes=True)


def test_votes_of_answers_share_the_probability(tmp_path: Path) -> None:
    teacher = qa(tmp_path, [["1843", "1843", "1852", "none"]], votes=True, no_answer="none")
    assert spans(teacher)[0] == {"1843@25": 0.5, "1852@57": 0.25, "@-1": 0.25}
