"""Question answering: words and windows, gold answers, predicted spans, metrics, losses, and all stages."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import BAD, GOOD, make_config, run, write_base_model, write_rows
from official_scripts import squad
from span_reference import word_layout
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerFast

from tinybert_cli import losses, metrics, tasks
from tinybert_cli.config import Data
from tinybert_cli.data import Examples, row_warnings
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics import answer_texts, span_targets, spans
from tinybert_cli.metrics.span_metric import NEVER, NULL_THRESHOLD, SpanMetric
from tinybert_cli.metrics.spans import NO_ANSWER
from tinybert_cli.tasks import context_windows
from tinybert_cli.tasks.gold_answers import GoldAnswer, gold_answers
from tinybert_cli.types import NO_LABEL, Array, Encoded, Layout, Predictions, Rows

TASK = tasks.find_prediction_task("question-answering")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["who", "wrote", "it", "?", "ada", "in", "184", "##3", ".", "long", "ago", "and", "then", "##s"]
CONTEXT = "Ada wrote it in 1843."


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def settings(**values: Any) -> Data:
    return Data(text_column_names=["question", "context"], label_column_name="answers", **values)


def rows_of(*rows: tuple[str, str, dict[str, list[Any]] | None]) -> Rows:
    columns = {
        name: list(values)
        for name, values in zip(("question", "context", "answers"), zip(*rows, strict=True), strict=True)
    }
    return Rows(columns, (("qa.jsonl", len(rows)),))


def answers(*spans: tuple[str, int]) -> dict[str, list[Any]]:
    return {"text": [text for text, _ in spans], "answer_start": [begin for _, begin in spans]}


ROWS = rows_of(
    ("Who wrote it?", CONTEXT, answers(("Ada", 0))),
    ("Who then?", "Long ago.", answers()),
)


# -- encode --------------------------------------------------------------------------------------------------


def layout_of(encoded: Encoded) -> Layout:
    assert encoded.layout is not None and encoded.layout.token_spans is not None
    return encoded.layout


def texts_of(encoded: Encoded, contexts: list[str]) -> list[list[str]]:
    """For each row the context's tokens as texts; "" for other tokens."""
    rows = zip(spans.token_spans_by_row(layout_of(encoded)), contexts, strict=True)
    return [[context[begin:end] if begin >= 0 else "" for _, begin, end in row] for row, context in rows]


def test_every_token_has_a_prediction_and_its_characters(tokenizer: Any) -> None:
    encoded = TASK.encode(ROWS, settings(), tokenizer)
    first, second = texts_of(encoded, ROWS.column("context"))
    assert first == [*[""] * 6, "Ada", "wrote", "it", "in", "184", "3", ".", ""]
    assert second == [*[""] * 5, "Long", "ago", ".", ""]
    batch = Examples.of(encoded).__getitems__([0, 1])
    assert batch["positions"].tolist() == [*range(14), *range(14, 23)]
    assert (layout_of(encoded).row_offsets.tolist(), encoded.truncated) == ([0, 14, 23], 0)


def test_tokens_of_a_long_context_are_in_overlapping_windows(tokenizer: Any) -> None:
    context = " ".join(["long ago and then"] * 5)
    rows = rows_of(("who", context, answers(("then", 13))))
    encoded = TASK.encode(rows, settings(max_seq_length=12, doc_stride=4), tokenizer)
    (row,) = spans.token_spans_by_row(layout_of(encoded))
    parts = [row[window] for window in spans.windows(row)]
    assert [part[0].tolist() for part in parts] == [[number, -1, -1] for number in range(len(parts))]
    ends = [part[part[:, 1] >= 0] for part in parts]
    assert len(parts) > 2 and all(after[0, 1] < before[-1, 1] for before, after in itertools.pairwise(ends))


def test_accents_that_the_tokenizer_strips_belong_to_the_answer(tokenizer: Any) -> None:
    context = "Ada\u0301 wrote it\u0301\u0323."
    encoded = TASK.encode(rows_of(("who", context, answers(("Ada\u0301", 0)))), settings(), tokenizer)
    (texts,) = texts_of(encoded, [context])
    assert [text for text in texts if text] == ["Ada\u0301", "wrote", "it\u0301\u0323", "."]


def test_accents_that_are_tokens_stay_tokens() -> None:
    context = "a\u0301 b\u0301"
    (spans_of_window,) = context_windows.token_spans(context, [([(0, 1), (1, 2), (3, 4)], [1, 1, 1])])
    assert [context[begin:end] for _, begin, end in spans_of_window] == ["a", "\u0301", "b\u0301"]


def test_long_question_is_truncated_and_counted(tokenizer: Any) -> None:
    rows = rows_of(("who " * 40, CONTEXT, answers(("Ada", 0))))
    encoded = TASK.encode(rows, settings(max_seq_length=16), tokenizer)
    assert encoded.truncated == 1
    assert max(np.diff(encoded.offsets)) <= 16
    (texts,) = texts_of(encoded, [CONTEXT])
    assert {"Ada", "wrote", "it", "in", "184", "3", "."} <= {*texts}


def test_warning_of_a_truncated_question_is_about_the_question(tokenizer: Any) -> None:
    rows = rows_of(("who " * 40, CONTEXT, answers(("Ada", 0))), ("who", CONTEXT, answers(("Ada", 0))))
    data = settings(max_seq_length=16)
    (warning,) = row_warnings("train", TASK.encode(rows, data, tokenizer), data)
    assert warning["message"] == (
        "1 of 2 rows of train (50.0%) has a question of more than 8 tokens, half of max_seq_length, which was truncated"
    )


def test_context_without_tokens_has_no_answer(tokenizer: Any) -> None:
    rows = rows_of(("who", "\u200b", answers()), ("who", "", answers()))
    encoded = TASK.encode(rows, settings(), tokenizer)
    assert encoded.empty == [1]
    logits = np.ones((len(layout_of(encoded).token_spans), 2), dtype=np.float32)  # type: ignore[arg-type]
    assert TASK.predictions(logits, encoded.layout, [], rows, settings()).values == ["", ""]


def test_one_text_column_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="expected two columns, a question and its context"):
        TASK.encode(ROWS, Data(text_column_names="context"), tokenizer)


# -- gold answers --------------------------------------------------------------------------------------------


def test_labels_are_the_characters_of_the_first_answer() -> None:
    rows = rows_of(
        ("q", CONTEXT, answers(("in 1843", 13), ("1843", 16))), ("q", "Long ago.", answers()), ("q", "Long.", None)
    )
    labels = TASK.labels(rows, settings(), TASK.label_names(rows, settings(), model_names=None))
    assert labels is not None
    assert labels.tolist() == [[13, 20], [NO_ANSWER] * 2, [NO_LABEL] * 2]


def test_answer_inside_a_token_is_extended_to_the_token(tokenizer: Any) -> None:
    rows = rows_of(("q", "the 1843s", answers(("1843", 4))))
    layout = Layout(np.array([0, 3]), np.array([[0, -1, -1], [0, 0, 3], [0, 4, 9]]))
    (row,) = spans.token_spans_by_row(layout)
    labels = TASK.labels(rows, settings(), [])
    assert labels is not None
    assert span_targets.answer_tokens(row, *labels[0].tolist()) == [(2, 2)]


@pytest.mark.parametrize("begin", [1, 40, -3, -21])
def test_answer_not_at_answer_start_is_an_error_with_its_row(begin: int) -> None:
    with pytest.raises(InputError, match="is not at character") as caught:
        TASK.labels(rows_of(("q", CONTEXT, answers(("Ada", begin)))), settings(), [])
    assert caught.value.where == "qa.jsonl, row 1"


ADA = ("Ada", 0)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"text": ["Ada"], "answer_start": [0]}, [ADA]),
        ({"text": ["Ada", "Ada wrote"], "answer_start": [0, 0]}, [ADA, ("Ada wrote", 0)]),
        ({"text": "Ada", "answer_start": 0}, [ADA]),
        ([{"text": "Ada", "answer_start": 0}], [ADA]),
        ({"text": ["Ada"], "answer_start": ["0"]}, [ADA]),
        ({"text": ["Ada"], "answer_start": [0.0]}, [ADA]),
        ('{"text": ["Ada"], "answer_start": [0]}', [ADA]),
        ("{'text': ['Ada'], 'answer_start': [0]}", [ADA]),
        ({"text": [" wrote "], "answer_start": [3]}, [("wrote", 4)]),
        ({"text": [], "answer_start": []}, []),
        ([], []),
        ({"text": [""], "answer_start": [-1]}, []),
        ({"text": ["", ""], "answer_start": [0, -1]}, []),
        ({"text": "", "answer_start": -1}, []),
        ('{"text": [""], "answer_start": [-1]}', []),
        (None, None),
    ],
)
def test_forms_of_answers_are_read(value: Any, expected: Any) -> None:
    (gold,) = gold_answers(rows_of(("q", CONTEXT, value)), settings(), [CONTEXT]) or []
    assert gold == (expected if expected is None else [GoldAnswer(*answer) for answer in expected])


@pytest.mark.parametrize("value", [
    "Ada", "", "{'text': array(['Ada']), 'answer_start': array([0])}", {"text": ["Ada"]}, {"text": [3], "answer_start": [0]},
    {"text": ["Ada"], "answer_start": []}, {"text": ["Ada"], "answer_start": [True]}, {"text": ["Ada"], "answer_start": [0.5]},
    {"text": ["Ada"], "answer_start": [None]}, {"text": ["Ada"], "answer_start": [float("inf")]}, ["Ada"], 7, "[" * 100_000,
    {"text": None, "answer_start": None},
])  # fmt: skip
def test_answers_in_other_forms_are_an_error_with_their_row(value: Any) -> None:
    with pytest.raises(InputError, match="expected answers, found") as caught:
        TASK.labels(rows_of(("q", CONTEXT, value)), settings(), [])
    assert caught.value.where == "qa.jsonl, row 1"
    assert len(str(caught.value.what)) < 200


def squad_rows(answers: Any, is_impossible: Any) -> Rows:
    rows = rows_of(("q", CONTEXT, answers))
    return Rows({**rows.columns, "is_impossible": [is_impossible]}, rows.origins)


@pytest.mark.parametrize("flag", [True, "True", "true", 1, "1", 1.0])
@pytest.mark.parametrize("value", [answers(("Ada", 0)), answers(), None, ""])
def test_impossible_row_with_a_plausible_answer_has_no_answer(value: Any, flag: Any) -> None:
    rows = squad_rows(value, flag)
    labels = TASK.labels(rows, settings(), [])
    assert labels is not None and labels.tolist() == [[NO_ANSWER] * 2]
    metric = TASK.metric(rows, settings(), [])
    assert isinstance(metric, SpanMetric) and metric.gold == [[]]
    assert len(TASK.label_statements(rows, settings(), [])) == (bool(value) and bool(value["text"]))


@pytest.mark.parametrize("flag", [False, "False", 0, "0", None, ""])
def test_possible_row_keeps_its_answer(flag: Any) -> None:
    labels = TASK.labels(squad_rows(answers(("Ada", 0)), flag), settings(), [])
    assert labels is not None and labels.tolist() == [[0, 3]]


@pytest.mark.parametrize(
    ("value", "flag", "message"),
    [
        (answers(), False, "`is_impossible` is false, but the row has no answer"),
        (answers(("", -1)), 0, "`is_impossible` is false, but the row has no answer"),
        (answers(("Ada", 0)), "maybe", "expected true or false, found 'maybe'"),
        (answers(("Ada", 0)), 2, "expected true or false, found 2"),
        (answers(("Ada", 0), ("", -1)), None, "some of the answers are empty"),
    ],
)
def test_contradictory_rows_are_an_error_with_their_row(value: Any, flag: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        TASK.labels(squad_rows(value, flag), settings(), [])
    assert caught.value.where == "qa.jsonl, row 1"


def test_error_of_a_wrong_position_names_the_right_one() -> None:
    with pytest.raises(InputError) as caught:
        TASK.labels(rows_of(("q", CONTEXT, answers(("wrote", 3)))), settings(), [])
    assert caught.value.hint == "the text is at character 4; answer_start counts characters from 0"


def test_empty_answers_are_stated_as_no_answer() -> None:
    rows = rows_of(("q", CONTEXT, answers(("", -1))), ("q", CONTEXT, answers(("Ada", 0))))
    (statement,) = TASK.label_statements(rows, settings(), [])
    assert statement == "1 row with empty answers has no answer"


def test_metric_needs_answers_in_every_row() -> None:
    with pytest.raises(InputError, match="a row without answers"):
        TASK.metric(rows_of(("q", CONTEXT, None)), settings(), [])
    assert TASK.metric(Rows({"question": ["q"], "context": ["c"]}, (("t", 1),)), settings(), []) is None


# -- predictions ---------------------------------------------------------------------------------------------


def logits_for(*rows: tuple[int, int, int], value: float = 8.0) -> Array:
    """Logits with this value at begin and end of one span per row (words, first, last), else 0; 0, 0 is no answer."""
    parts = []
    for words, first, last in rows:
        part = np.zeros((words + 1, 2), dtype=np.float32)
        part[first, 0] = part[last, 1] = value
        parts.append(part)
    return np.concatenate(parts)


LAYOUT = word_layout(["Ada wrote it in 1843.", "Long ago."])


def predictions_of(logits: Array) -> Predictions:
    """Predictions for ROWS."""
    return TASK.predictions(logits, LAYOUT, [], ROWS, settings())


def test_prediction_is_the_text_of_the_best_span() -> None:
    predictions = predictions_of(logits_for((6, 4, 5), (3, 0, 0)))
    assert predictions.values == ["in 1843", ""]
    assert predictions.confidences is not None and predictions.spans is not None
    assert predictions.confidences[0] == pytest.approx((np.exp(8) / (np.exp(8) + 6)) ** 2)
    assert predictions.spans.tolist() == [[13, 20], [0, 0]]


def tokens(count: int) -> Array:
    """[CLS] and `count` tokens of two characters with a space between them."""
    begins = np.arange(count) * 3
    context = np.stack([np.zeros(count), begins, begins + 2], axis=1)
    return np.concatenate([[[0, -1, -1]], context]).astype(np.int32)


def test_best_spans_are_the_best_of_all_spans() -> None:
    logits = np.random.default_rng(0).normal(size=(81, 2))
    pairs = ((i, j) for i in range(1, 81) for j in range(i, min(81, i + spans.LONGEST)))
    every = sorted(((logits[i, 0] + logits[j, 1], 3 * i - 3, 3 * j - 1) for i, j in pairs), reverse=True)
    best = spans.best_spans(logits, tokens(80), 7)
    assert best == [(begin, end, pytest.approx(score)) for score, begin, end in every[:7]]
    assert spans.best_spans(logits, tokens(80), 1) == best[:1]


def test_span_never_ends_before_it_begins_and_is_not_too_long() -> None:
    logits = np.zeros((100, 2))
    logits[50, 0], logits[3, 1] = 5, 6
    ((begin, end, score),) = spans.best_spans(logits, tokens(99), 1)
    assert (begin < end, score) == (True, 6.0)
    far = np.zeros((100, 2))
    far[1, 0] = far[99, 1] = 9
    ((begin, end, _),) = spans.best_spans(far, tokens(99), 1)
    assert end - begin <= 3 * spans.LONGEST


def test_rows_below_min_confidence_have_missing_labels() -> None:
    logits = np.concatenate([logits_for((6, 1, 1)), logits_for((3, 2, 2), value=0.5)])
    labels, selected = TASK.hard_labels(logits, LAYOUT, 0.5)
    assert selected.tolist() == [True, False]
    assert labels.tolist() == [[0, 3], [NO_LABEL] * 2]


# -- threshold of no answer ----------------------------------------------------------------------------------


def logits_with_null_ahead(*differences: float) -> Array:
    """Answerable rows (word 1 of 6) and unanswerable ones (3 words) in turn; score(null) is this far ahead."""
    parts = []
    for number, difference in enumerate(differences):
        part = np.zeros(((6, 3)[number % 2] + 1, 2), dtype=np.float32)
        part[1], part[0] = 4.0, 4.0 + difference / 2
        parts.append(part)
    return np.concatenate(parts)


@dataclass(frozen=True)
class AlternatingRows:
    """Answerable and unanswerable rows in turn, and their metric."""

    count: int

    @property
    def rows(self) -> Rows:
        pair = [("Who?", CONTEXT, answers(("Ada", 0))), ("Who?", "Long ago.", answers())]
        return rows_of(*pair * (self.count // 2))

    @property
    def metric(self) -> SpanMetric:
        metric = TASK.metric(self.rows, settings(), [])
        assert isinstance(metric, SpanMetric)
        return metric

    @property
    def layout(self) -> Layout:
        return word_layout(self.rows.column("context"))

    def f1(self, logits: Array, thresholds: dict[str, Any]) -> float:
        logits = TASK.apply_thresholds(logits, self.layout, thresholds)
        predictions = TASK.predictions(logits, self.layout, [], self.rows, settings())
        return metrics.score(self.metric, predictions)["f1"]


def test_tuned_threshold_is_the_best_on_the_rows() -> None:
    logits = logits_with_null_ahead(1.0, 3.0, 2.0, 5.0)  # answerable rows: 1 and 2 ahead; unanswerable: 3 and 5
    data = AlternatingRows(4)
    assert data.f1(logits, {}) == 0.5  # without a threshold, no answer wins in every row
    tuned = data.metric.tune_thresholds(logits, data.layout)
    assert tuned == {"null_score_diff_threshold": pytest.approx(2.5)}
    assert data.f1(logits, tuned) == 1.0
    assert tuned.keys() == set(TASK.tuned_settings)


@pytest.mark.parametrize("seed", range(3))
def test_tuned_threshold_is_at_least_as_good_as_any_other(seed: int) -> None:
    logits = logits_with_null_ahead(*np.random.default_rng(seed).normal(size=20).round(1))
    data = AlternatingRows(20)
    best = data.f1(logits, data.metric.tune_thresholds(logits, data.layout))
    others = [{"null_score_diff_threshold": value} for value in np.linspace(-3, 3, 121)]
    assert best >= max(data.f1(logits, other) for other in others)


def test_model_never_abstains_if_every_row_has_an_answer() -> None:
    rows = rows_of(("Who?", CONTEXT, answers(("Ada", 0))))
    metric = TASK.metric(rows, settings(), [])
    assert metric is not None
    logits, layout = logits_for((6, 0, 0)) + logits_for((6, 1, 1), value=1.0), word_layout([CONTEXT])
    logits = TASK.apply_thresholds(logits, layout, metric.tune_thresholds(logits, layout))
    assert TASK.predictions(logits, layout, [], rows, settings()).values == ["Ada"]


def test_threshold_of_an_ensemble_is_the_mean_of_the_models_that_abstain() -> None:
    never, two, unset = {NULL_THRESHOLD: NEVER}, {NULL_THRESHOLD: 2.0}, dict[str, Any]()
    assert TASK.mean_settings([two, unset], [3.0, 1.0], []) == {NULL_THRESHOLD: 1.5}
    assert TASK.mean_settings([never, two], [3.0, 1.0], []) == {NULL_THRESHOLD: 2.0}
    assert TASK.mean_settings([never, never], [3.0, 1.0], []) == {NULL_THRESHOLD: NEVER}
    assert TASK.mean_settings([unset, unset], [1.0, 1.0], []) == {}


@pytest.mark.parametrize("bad", ["0.5", [0.5], True, float("nan")])
def test_a_threshold_that_is_no_number_is_an_error(bad: Any) -> None:
    with pytest.raises(InputError, match=r"`null_score_diff_threshold` in config\.json is no number"):
        TASK.apply_thresholds(np.zeros((1, 2)), None, {NULL_THRESHOLD: bad})


# -- metrics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "gold", "f1"),
    [
        ("the Eiffel Tower", ["Eiffel tower."], 1.0),
        ("in 1843", ["1843"], 2 / 3),
        ("", [""], 1.0),
        ("Ada", [""], 0.0),
        ("ada ada", ["ada lovelace"], 0.5),
        ("北京大学", ["北京"], 2 * 2 / 6),
        ("《北京》，", ["北京"], 1.0),
        ("men’s", ["men's"], 0.0),  # as in SQuAD's script
    ],
)
def test_overlap_equals_the_evaluation_scripts(answer: str, gold: list[str], f1: float) -> None:
    assert answer_texts.overlap(
        answer_texts.normalized(answer), [answer_texts.normalized(text) for text in gold]
    ) == pytest.approx(f1)


def test_exact_match_and_f1_equal_the_official_script() -> None:
    draw = random.Random(0)
    vocabulary = ["the", "a", "An", "Tower", "tower", "of", "London", "U.S.", "1,000", "-", "it's", "und", "Ü."]
    for _ in range(500):
        answer, *gold = (" ".join(draw.choices(vocabulary, k=draw.randint(0, 4))) for _ in range(4))
        gold = gold[: draw.randint(0, 3)]
        references = [answer_texts.normalized(text) for text in gold if answer_texts.normalized(text)] or [[]]
        words = answer_texts.normalized(answer)
        result = float(answer_texts.exact_match(words, references)), answer_texts.overlap(words, references)
        assert result == pytest.approx(squad(answer, gold)), (answer, gold)


def test_a_gold_answer_without_words_beside_others_counts_for_nothing_as_in_the_official_script() -> None:
    context, gold = "The 50 % of it", ["%", "50 %"]
    metric = SpanMetric(np.zeros((1, 2), dtype=np.int64), [context], [gold])
    spans_of_row = np.array([[0, -1, -1], [0, 4, 6]])
    layout = Layout(np.array([0, 2]), spans_of_row)
    for answer in ("", "50"):
        predictions = Predictions([answer], np.ones(1), np.zeros((2, 2), dtype=np.float32), layout)
        scores = metrics.score(metric, predictions)
        assert (scores["exact_match"], scores["f1"]) == squad(answer, gold), answer


def span_metric() -> SpanMetric:
    """The metric of ROWS."""
    metric = TASK.metric(ROWS, settings(), [])
    assert isinstance(metric, SpanMetric)
    return metric


def scores_of(logits: Array) -> dict[str, float]:
    return metrics.score(span_metric(), predictions_of(logits))


def test_scores_by_hand() -> None:
    scores = scores_of(logits_for((6, 1, 2), (3, 1, 1)))  # "Ada wrote" for "Ada"; an answer where there is none
    assert scores["f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert scores["exact_match"] == 0.0
    right = scores_of(logits_for((6, 1, 1), (3, 0, 0)))
    assert (right["f1"], right["exact_match"]) == (1.0, 1.0)
    losses_of_rows = -np.log(np.exp(8) / (np.exp(8) + 6)), -np.log(np.exp(8) / (np.exp(8) + 3))
    assert right["loss"] == pytest.approx(np.mean(losses_of_rows), rel=1e-5)


def test_extra_metrics_separate_answerable_and_unanswerable_rows() -> None:
    scores = scores_of(logits_for((6, 1, 2), (3, 0, 0)))
    assert {name: scores[name] for name in TASK.extra_metrics} == pytest.approx(
        {"answered": 0.5, "exact_match_answerable": 0.0, "f1_answerable": 2 / 3, "accuracy_unanswerable": 1.0}
    )
    assert scores.keys() == {*TASK.metrics, *TASK.extra_metrics}


@pytest.mark.parametrize(
    ("gold", "names"), [(("Ada", 0), {"exact_match_answerable", "f1_answerable"}), (None, {"accuracy_unanswerable"})]
)
def test_metrics_of_rows_that_do_not_exist_are_omitted(gold: tuple[str, int] | None, names: set[str]) -> None:
    rows = rows_of(("q", CONTEXT, answers(gold) if gold else answers()))
    metric = TASK.metric(rows, settings(), [])
    assert metric is not None
    predictions = TASK.predictions(logits_for((6, 1, 1)), word_layout([CONTEXT]), [], rows, settings())
    assert metrics.score(metric, predictions).keys() == {*TASK.metrics, "answered", *names}


def test_resampled_values_are_the_mean_of_the_drawn_rows() -> None:
    metric, predictions = span_metric(), predictions_of(logits_for((6, 1, 2), (3, 0, 0)))
    values = metrics.resampled(metric, predictions, metric.statistics(predictions), resamples=40, seed=3)
    assert values.keys() == metrics.score(metric, predictions).keys()
    random = np.random.default_rng(3)
    for index in range(40):
        drawn = random.integers(2, size=2)
        assert values["f1"][index] == pytest.approx(np.mean(np.array([2 / 3, 1.0])[drawn]))


def test_row_scores_label_slices_and_majority_baseline_by_hand() -> None:
    metric = span_metric()
    right, wrong = (metric.statistics(predictions_of(logits_for((6, 1, last), (3, 0, 0)))) for last in (1, 2))
    assert metric.paired_test(wrong, right)["rows_lost"] == 1
    assert metric.row_scores(wrong).tolist() == pytest.approx([2 / 3, 1.0])
    assert {name: rows.tolist() for name, rows in metric.label_slices().items()} == {
        "none": [False, True], "1 word": [True, False],
    }  # fmt: skip
    assert metric.majority_baseline() == 0.5
    assert metric.references == ["Ada", ""]


def test_row_is_correct_if_it_is_an_exact_match() -> None:
    metric, predictions = span_metric(), predictions_of(logits_for((6, 1, 2), (3, 0, 0)))
    confidence, correct = metric.confidences(predictions, metric.statistics(predictions))
    assert correct.tolist() == [False, True]
    assert confidence is predictions.confidences


def test_fidelity_to_itself_is_perfect_and_to_others_is_not() -> None:
    right, wrong = (predictions_of(logits_for((6, 1, last), (3, 0, 0))) for last in (1, 2))
    itself, other = TASK.fidelity(right, right), TASK.fidelity(wrong, right)
    assert (itself["agreement"], itself["kl"]) == (1.0, 0.0)
    assert (other["agreement"], other["kl"] > 1) == (0.5, True)


# -- losses --------------------------------------------------------------------------------------------------


@pytest.fixture
def batch(tokenizer: Any) -> dict[str, torch.Tensor]:
    """ROWS in windows of 14 and 9 tokens."""
    labels = TASK.labels(ROWS, settings(), [])
    assert labels is not None
    encoded = TASK.encode(ROWS, settings(), tokenizer)
    return Examples.of(encoded, **TASK.align({"labels": labels}, None, encoded)).__getitems__([0, 1])


WINDOWS = ((0, 14), (14, 23))


def softmax(values: Array) -> Array:
    return np.exp(values) / np.exp(values).sum(0)


def test_soft_labels_compare_all_tokens_of_each_window(batch: dict[str, torch.Tensor]) -> None:
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(23, 2)), random.normal(size=(23, 2))
    expected = -np.mean([(softmax(teacher[a:b] / 3) * np.log(softmax(student[a:b] / 3))).sum(0) for a, b in WINDOWS])
    soft = losses.LOSS_SETS["span"].soft_labels
    outputs = [{"logits": torch.from_numpy(logits)} for logits in (student, teacher)]
    assert soft(*outputs, batch, temperature=3.0).item() == pytest.approx(expected * 9, rel=1e-5)


def test_hard_labels_are_the_cross_entropy_over_all_tokens(batch: dict[str, torch.Tensor]) -> None:
    student = np.random.default_rng(1).normal(size=(23, 2))
    first = np.log(softmax(student[:14]))[6]  # Ada
    hard = losses.LOSS_SETS["span"].hard_labels
    both = hard({"logits": torch.from_numpy(student)}, {}, batch).item()
    assert both == pytest.approx(-np.mean([first, np.log(softmax(student[14:]))[0]]), rel=1e-5)
    batch["labels"][14:] = torch.nan
    assert hard({"logits": torch.from_numpy(student)}, {}, batch).item() == pytest.approx(-first.mean(), rel=1e-5)


def test_hard_labels_equal_the_loss_of_transformers(batch: dict[str, torch.Tensor]) -> None:
    logits = torch.randn(14, 2, generator=torch.Generator().manual_seed(0))
    ours = losses.LOSS_SETS["span"].hard_labels(
        {"logits": logits}, {}, {"labels": batch["labels"][:14], "positions": torch.arange(14),
        "attention_mask": torch.ones(1, 14)},
    )  # fmt: skip
    begin, end = (torch.nn.functional.cross_entropy(column[None], torch.tensor([6])) for column in logits.T)
    assert ours.item() == pytest.approx(((begin + end) / 2).item(), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_soft_labels_have_their_minimum_at_the_teacher(batch: dict[str, torch.Tensor], temperature: float) -> None:
    teacher = torch.randn(23, 2, generator=torch.Generator().manual_seed(0))
    student = teacher.clone().requires_grad_()
    soft = losses.LOSS_SETS["span"].soft_labels
    soft({"logits": student}, {"logits": teacher}, batch, temperature=temperature).backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-6


NARROW = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}


# -- all stages ----------------------------------------------------------------------------------------------


def write_questions(folder: Path) -> Path:
    """The answer to `film` is the positive word of a sentence, to `plot` the negative one; one row has none."""
    for split, count in (("train", 120), ("validation", 40)):
        draw = random.Random(split)
        rows = []
        for _ in range(count):
            question, word = draw.choice([("film", draw.choice(GOOD)), ("plot", draw.choice(BAD))])
            words = draw.choices(["the", "a", "is", "was", "and", "very"], k=draw.randint(3, 8))
            words.insert(draw.randint(0, len(words)), word)
            words.insert(draw.randint(0, len(words)), draw.choice(BAD if question == "film" else GOOD))
            context = " ".join([*words, "."])
            rows.append({"question": question, "context": context, "answers": answers((word, context.index(word)))})
        rows[0] = {"question": "film", "context": "a plot .", "answers": answers()}
        write_rows(folder / f"{split}.jsonl", rows)
    return folder


def run_stage(command: str, folder: Path, name: str, **values: Any) -> list[dict[str, Any]]:
    columns = {
        "data__text_column_names": ["question", "context"], "data__label_column_name": "answers",
        "data__max_seq_length": 12, "data__doc_stride": 3, "data__test_file": None, "data__unlabeled_file": None,
    }  # fmt: skip
    config = make_config(command, folder / "data", folder / name, task="question-answering", **columns, **values)
    return run(command, config)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("questions")
    write_questions(folder / "data")
    longer = {"training__num_train_epochs": 30.0}
    run_stage("finetune", folder, "teacher", model=write_base_model(folder / "base"), **longer)
    run_stage("gen-soft-labels", folder, "labels", teacher=folder / "teacher")
    run_stage("distill", folder, "student", label_dataset=folder / "labels", **longer, losses={"soft_labels": 1.0},
          student={"from": str(folder / "teacher"), "num_hidden_layers": 2})  # fmt: skip
    run_stage(
        "finetune", folder, "student2", label_dataset=folder / "labels", model=folder / "student", min_confidence=0.3
    )
    return folder


def metrics_of(folder: Path) -> dict[str, float]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def test_teacher_and_students_learn_the_task(cascade: Path) -> None:
    assert metrics_of(cascade / "teacher")["eval_f1"] > 0.8
    assert metrics_of(cascade / "labels")["teacher_f1"] > metrics_of(cascade / "labels")["majority_f1"]
    assert metrics_of(cascade / "student")["eval_f1"] > 0.7
    assert metrics_of(cascade / "student2")["eval_f1"] > 0.6


def test_label_dataset_has_logits_and_characters_of_every_token(cascade: Path) -> None:
    table = pq.read_table(cascade / "labels" / "train-00000-of-00001.parquet").to_pydict()
    for logits, token_spans, context in zip(
        table["teacher_logits"], table["teacher_token_spans"], table["context"], strict=True
    ):
        assert len(logits) == len(token_spans)
        assert {context[begin:end] for _, begin, end in token_spans if begin >= 0} == {*context.split()}
    predictions = zip(table["teacher_prediction"], table["context"], strict=True)
    assert all(prediction in context for prediction, context in predictions)


def test_model_folder_loads_in_transformers(cascade: Path) -> None:
    model = AutoModelForQuestionAnswering.from_pretrained(cascade / "student")
    assert model.config.num_hidden_layers == 2


def test_student_learns_from_the_layers_of_every_window(cascade: Path) -> None:
    (*_, done) = run_stage(
        "distill", cascade, "layers", label_dataset=cascade / "labels", teacher=cascade / "teacher",
        student={"from": str(cascade / "teacher"), "num_hidden_layers": 2}, training__max_steps=2,
        losses={"hidden_states": 1.0, "attentions": 1.0, "soft_labels": 1.0},
    )  # fmt: skip
    assert done["steps"] == 2 and np.isfinite(done["train_loss"])


def test_stored_layer_states_give_the_losses_of_a_live_teacher(cascade: Path) -> None:
    stored: dict[str, Any] = {"states": ["hidden_states", "attentions"], "student_layers": 2}
    run_stage("gen-soft-labels", cascade, "states", teacher=cascade / "teacher", **stored)
    losses_by_run = []
    for name, teacher in (("online", {"teacher": cascade / "teacher"}), ("stored", {})):
        labels = cascade / ("labels" if teacher else "states")
        rows = run_stage(
            "distill", cascade, name, label_dataset=labels, student={"from": str(cascade / "teacher"), **NARROW},
            losses={"hidden_states": 1.0, "attentions": 1.0}, training__max_steps=6, training__keep="last",
            training__logging_steps=1, **teacher,
        )  # fmt: skip
        losses_by_run.append([row["loss"] for row in rows if row["event"] == "train"])
    assert len(losses_by_run[0]) == 6
    np.testing.assert_allclose(*losses_by_run, rtol=1e-3)


def test_eval_scores_models_side_by_side(cascade: Path) -> None:
    models = {"teacher": str(cascade / "teacher"), "student": str(cascade / "student")}
    run_stage("eval", cascade, "eval", models=models, latency=None, bootstrap=50)
    numbers = metrics_of(cascade / "eval")
    assert numbers["teacher.f1"] == pytest.approx(metrics_of(cascade / "teacher")["eval_f1"])
    assert 0.5 < numbers["student.agreement"] <= 1.0
    assert numbers["student.f1_low"] <= numbers["student.f1"] <= numbers["student.f1_high"]
    assert "student.f1[label=none]" in numbers
    table = pq.read_table(cascade / "eval" / "predictions.parquet").to_pydict()
    assert {"question", "context", "label", "teacher_prediction", "student_confidence"} <= table.keys()


@pytest.fixture
def decoded_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were decoded, as its only number."""
    calls = [0]
    best_spans = spans.best_spans

    def counted(logits: Array, token_spans: Array, count: int) -> list[tuple[int, int, float]]:
        calls[0] += 1
        return best_spans(logits, token_spans, count)

    monkeypatch.setattr(spans, "best_spans", counted)
    monkeypatch.setattr("tinybert_cli.metrics.span_metric.best_spans", counted)
    return calls


def row_count(file: Path) -> int:
    return len(file.read_text().splitlines())


def test_eval_decodes_each_row_once_per_model(cascade: Path, decoded_rows: list[int]) -> None:
    models = {"teacher": str(cascade / "teacher"), "student": str(cascade / "student")}
    run_stage("eval", cascade, "eval-once", models=models, latency=None, bootstrap=50, slices=["question"])
    assert decoded_rows[0] == row_count(cascade / "data" / "validation.jsonl") * 2


def test_training_decodes_twice_per_evaluation_to_tune_and_to_predict(cascade: Path, decoded_rows: list[int]) -> None:
    rows = run_stage("finetune", cascade, "twice", model=cascade / "base", training__max_steps=2)
    evaluations = sum(row["event"] == "evaluate" for row in rows) + 1  # the last one scores the finished folder
    assert decoded_rows[0] == row_count(cascade / "data" / "validation.jsonl") * 2 * evaluations


def test_training_decodes_once_if_every_row_has_an_answer(cascade: Path, decoded_rows: list[int]) -> None:
    lines = (cascade / "data" / "validation.jsonl").read_text().splitlines()
    file = write_rows(cascade / "answerable.jsonl", [row for row in map(json.loads, lines) if row["answers"]["text"]])
    rows = run_stage(
        "finetune", cascade, "once", model=cascade / "base", training__max_steps=2, data__validation_file=str(file)
    )
    evaluations = sum(row["event"] == "evaluate" for row in rows) + 1
    assert decoded_rows[0] == row_count(file) * evaluations


def test_gen_soft_labels_decodes_each_row_once(cascade: Path, decoded_rows: list[int]) -> None:
    run_stage("gen-soft-labels", cascade, "labels-once", teacher=cascade / "teacher", check_teacher=False)
    assert decoded_rows[0] == row_count(cascade / "data" / "train.jsonl")


def test_export_predicts_the_same_without_torch(cascade: Path) -> None:
    pytest.importorskip("onnxruntime")
    run_stage("export", cascade, "export", model=cascade / "student")
    assert metrics_of(cascade / "export")["agreement"] == 1.0
    text = "plot\tthe great and awful ."
    code = (
        "import json, sys; from tinybert_cli.helpers import predict\n"
        f"print(json.dumps(list(predict.run({str(cascade / 'export')!r}, [{text!r}]))))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (exported,) = json.loads(done.stdout)
    from tinybert_cli.helpers import predict

    (trained,) = predict.run(str(cascade / "student"), [text])
    assert exported["prediction"] == trained["prediction"] == "awful"
    assert [answer["text"] for answer in exported["n_best"]] == [answer["text"] for answer in trained["n_best"]]
    assert exported["n_best"][0]["text"] == "awful" and len(exported["n_best"]) == 5
    context = text.partition("\t")[2]
    assert context[exported["begin"] : exported["end"]] == "awful"
    assert exported["confidence"] == pytest.approx(trained["confidence"], abs=1e-4)


def test_question_longer_than_the_model_length_is_truncated(cascade: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tinybert_cli.helpers import predict

    (output,) = predict.run(str(cascade / "student"), [f"{'plot ' * 99}\tthe great and awful ."])
    assert output["prediction"] in "the great and awful ."
    assert caplog.messages == ["a question is longer than 6 tokens and was cut, as in training"]


def test_question_without_a_context_is_an_error(cascade: Path) -> None:
    from tinybert_cli.helpers import predict

    with pytest.raises(InputError, match="but the model takes"):
        list(predict.run(str(cascade / "student"), ["who wrote it?"]))
