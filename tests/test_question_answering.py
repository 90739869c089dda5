"""Question answering: words and windows, gold answers, predicted spans, metrics, losses, and all stages."""

from __future__ import annotations

import json
import random
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
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerFast

from tinybert_cli import losses, metrics, tasks
from tinybert_cli.config import Data
from tinybert_cli.data import Examples
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics import spans
from tinybert_cli.metrics.spans import SpanMetric
from tinybert_cli.types import Array, Encoded, Predictions, Rows

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


def tokens_read(encoded: Encoded, tokenizer: Any) -> list[list[list[str]]]:
    """For each window the tokens at which begin and end of each of its words are predicted."""
    batch = Examples.of(encoded).__getitems__(range(len(encoded.offsets) - 1))
    tokens = np.array(tokenizer.convert_ids_to_tokens(batch["input_ids"].flatten().tolist()))
    read = tokens[batch["positions"].numpy()].tolist()
    assert encoded.window_offsets is not None
    return [read[begin:end] for begin, end in zip(encoded.window_offsets[:-1], encoded.window_offsets[1:], strict=True)]


# -- words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's 3.5 km.", ["It", "'", "s", "3", ".", "5", "km", "."]),
        ("东京和Tokyo 2020", ["东", "京", "和", "Tokyo", "2020"]),
        ("snake_case ", ["snake", "_", "case"]),
        ("", []),
    ],
)
def test_words_are_letters_or_punctuation_or_chinese_characters(text: str, words: list[str]) -> None:
    assert [text[begin:end] for begin, end in spans.word_spans(text)] == words


# -- encode --------------------------------------------------------------------------------------------------


def test_word_begins_at_its_first_token_and_ends_at_its_last(tokenizer: Any) -> None:
    encoded = TASK.encode(ROWS, settings(), tokenizer)
    first, second = tokens_read(encoded, tokenizer)
    assert first == [["[CLS]"] * 2, ["ada"] * 2, ["wrote"] * 2, ["it"] * 2, ["in"] * 2, ["184", "##3"], ["."] * 2]
    assert second == [["[CLS]"] * 2, ["long"] * 2, ["ago"] * 2, ["."] * 2]
    assert encoded.row_offsets is not None
    assert (encoded.row_offsets.tolist(), encoded.truncated) == ([0, 7, 11], 0)


def test_each_word_of_a_long_context_is_in_one_window(tokenizer: Any) -> None:
    context = " ".join(["long ago and then"] * 5)
    rows = rows_of(("who", context, answers(("then", 14))))
    encoded = TASK.encode(rows, settings(max_seq_length=12, doc_stride=4), tokenizer)
    read = tokens_read(encoded, tokenizer)
    assert len(read) > 2
    assert [begin for window in read for begin, _ in window] == ["[CLS]", *context.split()]
    positions = Examples.of(encoded).__getitems__([1])["positions"] % 12
    assert positions.min() > 3  # the first words of the second window are further inside the first window


def test_long_question_is_truncated_and_counted(tokenizer: Any) -> None:
    rows = rows_of(("who " * 40, CONTEXT, answers(("Ada", 0))))
    encoded = TASK.encode(rows, settings(max_seq_length=16), tokenizer)
    assert encoded.truncated == 1
    assert max(np.diff(encoded.offsets)) <= 16
    assert sum(map(len, tokens_read(encoded, tokenizer))) == 7


def test_word_without_tokens_is_predicted_too(tokenizer: Any) -> None:
    encoded = TASK.encode(rows_of(("who", "\u200b", answers()), ("who", "", answers())), settings(), tokenizer)
    assert encoded.row_offsets is not None
    assert encoded.row_offsets[-1] == 1 + len(spans.word_spans("\u200b")) + 1
    assert encoded.empty == [1]


def test_one_text_column_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="expected two columns, a question and its context"):
        TASK.encode(ROWS, Data(text_column_names="context"), tokenizer)


# -- gold answers --------------------------------------------------------------------------------------------


def test_labels_mark_first_and_last_word_of_the_first_answer() -> None:
    rows = rows_of(("q", CONTEXT, answers(("in 1843", 13), ("1843", 16))), ("q", "Long ago.", answers()))
    labels = TASK.labels(rows, settings(), TASK.label_names(rows, settings(), model_names=None))
    assert labels is not None
    assert [np.flatnonzero(column).tolist() for column in labels.T] == [[4, 7], [5, 7]]


def test_answer_inside_a_word_is_extended_to_the_word() -> None:
    labels = TASK.labels(rows_of(("q", "the 1990s", answers(("1990", 4)))), settings(), [])
    assert labels is not None
    assert labels.tolist() == [[0, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize("begin", [1, 40])
def test_answer_not_at_answer_start_is_an_error_with_its_row(begin: int) -> None:
    with pytest.raises(InputError, match="is not at character") as caught:
        TASK.labels(rows_of(("q", CONTEXT, answers(("Ada", begin)))), settings(), [])
    assert caught.value.where == "qa.jsonl, row 1"


@pytest.mark.parametrize("bad", ["Ada", {"text": ["Ada"]}, {"text": ["Ada"], "answer_start": []}])
def test_answers_of_another_type_are_an_error_with_their_row(bad: Any) -> None:
    with pytest.raises(InputError, match="expected answers, found") as caught:
        TASK.labels(rows_of(("q", CONTEXT, bad)), settings(), [])
    assert caught.value.where == "qa.jsonl, row 1"


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


OFFSETS = np.array([0, 7, 11])


def predictions_of(logits: Array) -> Predictions:
    """Predictions for ROWS."""
    return TASK.predictions(logits, OFFSETS, [], ROWS, settings())


def test_prediction_is_the_text_of_the_best_span() -> None:
    predictions = predictions_of(logits_for((6, 4, 5), (3, 0, 0)))
    assert predictions.values == ["in 1843", ""]
    assert predictions.confidences is not None and predictions.spans is not None
    assert predictions.confidences[0] == pytest.approx((np.exp(8) / (np.exp(8) + 6)) ** 2)
    assert predictions.spans.tolist() == [[4, 5], [0, 0]]


def test_best_spans_are_the_best_of_all_spans() -> None:
    random = np.random.default_rng(0)
    begins, ends = random.normal(size=80), random.normal(size=80)
    every = sorted(
        ((begins[i] + ends[j], i, j) for i in range(80) for j in range(i, min(80, i + spans.LONGEST))), reverse=True
    )
    assert spans.best_spans(begins, ends, 7) == [(i, j, pytest.approx(score)) for score, i, j in every[:7]]
    assert spans.best_span(begins, ends) == spans.best_spans(begins, ends, 1)[0]


def test_span_never_ends_before_it_begins_and_is_not_too_long() -> None:
    begins, ends = np.zeros(60), np.zeros(60)
    begins[50], ends[3] = 5, 6
    assert spans.best_span(begins, ends) != (50, 3, 11.0)
    first, last, _ = spans.best_span(np.eye(99)[0] * 9, np.eye(99)[98] * 9)
    assert 0 <= last - first < spans.LONGEST


def test_rows_below_min_confidence_have_missing_labels() -> None:
    logits = np.concatenate([logits_for((6, 1, 1)), logits_for((3, 2, 2), value=0.5)])
    labels, selected = TASK.hard_labels(logits, OFFSETS, 0.5)
    assert selected.tolist() == [True, False]
    assert np.flatnonzero(labels[:7, 0]).tolist() == [1]
    assert np.isnan(labels[7:]).all()


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

    def f1(self, logits: Array, thresholds: dict[str, Any]) -> float:
        row_offsets = self.metric.row_offsets
        logits = TASK.apply_thresholds(logits, row_offsets, thresholds)
        predictions = TASK.predictions(logits, row_offsets, [], self.rows, settings())
        return metrics.score(self.metric, predictions)["f1"]


def test_tuned_threshold_is_the_best_on_the_rows() -> None:
    logits = logits_with_null_ahead(1.0, 3.0, 2.0, 5.0)  # answerable rows: 1 and 2 ahead; unanswerable: 3 and 5
    data = AlternatingRows(4)
    assert data.f1(logits, {}) == 0.5  # without a threshold, no answer wins in every row
    tuned = data.metric.tune_thresholds(logits)
    assert tuned == {"null_score_diff_threshold": pytest.approx(2.5)}
    assert data.f1(logits, tuned) == 1.0
    assert tuned.keys() == set(TASK.tuned_settings)


@pytest.mark.parametrize("seed", range(3))
def test_tuned_threshold_is_at_least_as_good_as_any_other(seed: int) -> None:
    logits = logits_with_null_ahead(*np.random.default_rng(seed).normal(size=20).round(1))
    data = AlternatingRows(20)
    best = data.f1(logits, data.metric.tune_thresholds(logits))
    others = [{"null_score_diff_threshold": value} for value in np.linspace(-3, 3, 121)]
    assert best >= max(data.f1(logits, other) for other in others)


def test_model_never_abstains_if_every_row_has_an_answer() -> None:
    rows = rows_of(("Who?", CONTEXT, answers(("Ada", 0))))
    metric = TASK.metric(rows, settings(), [])
    assert metric is not None
    logits, row_offsets = logits_for((6, 0, 0)) + logits_for((6, 1, 1), value=1.0), np.array([0, 7])
    logits = TASK.apply_thresholds(logits, row_offsets, metric.tune_thresholds(logits))
    assert TASK.predictions(logits, row_offsets, [], rows, settings()).values == ["Ada"]


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
    assert spans.overlap(spans.normalized(answer), [spans.normalized(text) for text in gold]) == pytest.approx(f1)


def test_exact_match_and_f1_equal_the_official_script() -> None:
    draw = random.Random(0)
    vocabulary = ["the", "a", "An", "Tower", "tower", "of", "London", "U.S.", "1,000", "-", "it's", "und", "Ü."]
    for _ in range(500):
        answer, *gold = (" ".join(draw.choices(vocabulary, k=draw.randint(0, 4))) for _ in range(4))
        gold = gold[: draw.randint(0, 3)]
        references = [spans.normalized(text) for text in gold if spans.normalized(text)] or [[]]
        words = spans.normalized(answer)
        result = float(spans.exact_match(words, references)), spans.overlap(words, references)
        assert result == pytest.approx(squad(answer, gold)), (answer, gold)


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
    predictions = TASK.predictions(logits_for((6, 1, 1)), np.array([0, 7]), [], rows, settings())
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
    labels = TASK.labels(ROWS, settings(), [])
    assert labels is not None
    return Examples.of(TASK.encode(ROWS, settings(), tokenizer), labels=labels).__getitems__([0, 1])


def softmax(values: Array) -> Array:
    return np.exp(values) / np.exp(values).sum(0)


def test_soft_labels_compare_the_words_of_each_window(batch: dict[str, torch.Tensor]) -> None:
    random = np.random.default_rng(0)
    student, teacher = random.normal(size=(11, 2)), random.normal(size=(11, 2))
    expected = -np.mean([
        (softmax(teacher[a:b] / 3) * np.log(softmax(student[a:b] / 3))).sum(0) for a, b in ((0, 7), (7, 11))
    ])  # fmt: skip
    soft = losses.LOSS_SETS["span"].soft_labels
    outputs = [{"logits": torch.from_numpy(logits)} for logits in (student, teacher)]
    assert soft(*outputs, batch, temperature=3.0).item() == pytest.approx(expected * 9, rel=1e-5)


def test_hard_labels_use_the_windows_with_the_answer(batch: dict[str, torch.Tensor]) -> None:
    student = np.random.default_rng(1).normal(size=(11, 2))
    first = np.log(softmax(student[:7]))[1]
    hard = losses.LOSS_SETS["span"].hard_labels
    both = hard({"logits": torch.from_numpy(student)}, {}, batch).item()
    assert both == pytest.approx(-np.mean([first, np.log(softmax(student[7:]))[0]]), rel=1e-5)
    batch["labels"][7:] = torch.nan
    assert hard({"logits": torch.from_numpy(student)}, {}, batch).item() == pytest.approx(-first.mean(), rel=1e-5)


def test_gradient_is_finite_if_a_window_has_no_words(batch: dict[str, torch.Tensor]) -> None:
    logits = torch.zeros(7, 2, requires_grad=True)
    truncated = {**batch, "positions": batch["positions"][:7], "labels": batch["labels"][:7]}
    losses.LOSS_SETS["span"].soft_labels({"logits": logits}, {"logits": torch.ones(7, 2)}, truncated).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


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


def test_label_dataset_has_the_logits_of_every_word(cascade: Path) -> None:
    table = pq.read_table(cascade / "labels" / "train-00000-of-00001.parquet").to_pydict()
    counts = [len(spans.word_spans(context)) + 1 for context in table["context"]]
    assert [len(logits) for logits in table["teacher_logits"]] == counts
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
def decoded_words(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of words of every context that was decoded, in order."""
    calls: list[int] = []
    best_spans = spans.best_spans

    def counted(begins: Array, ends: Array, count: int) -> list[tuple[int, int, float]]:
        calls.append(len(begins))
        return best_spans(begins, ends, count)

    monkeypatch.setattr(spans, "best_spans", counted)
    return calls


def word_counts(file: Path) -> list[int]:
    return [len(spans.word_spans(json.loads(line)["context"])) for line in file.read_text().splitlines()]


def test_eval_decodes_each_row_once_per_model(cascade: Path, decoded_words: list[int]) -> None:
    models = {"teacher": str(cascade / "teacher"), "student": str(cascade / "student")}
    run_stage("eval", cascade, "eval-once", models=models, latency=None, bootstrap=50, slices=["question"])
    assert decoded_words == word_counts(cascade / "data" / "validation.jsonl") * 2


def test_training_decodes_twice_per_evaluation_to_tune_and_to_predict(cascade: Path, decoded_words: list[int]) -> None:
    rows = run_stage("finetune", cascade, "twice", model=cascade / "base", training__max_steps=2)
    evaluations = sum(row["event"] == "evaluate" for row in rows) + 1  # the last one scores the finished folder
    assert decoded_words == word_counts(cascade / "data" / "validation.jsonl") * 2 * evaluations


def test_training_decodes_once_if_every_row_has_an_answer(cascade: Path, decoded_words: list[int]) -> None:
    lines = (cascade / "data" / "validation.jsonl").read_text().splitlines()
    file = write_rows(cascade / "answerable.jsonl", [row for row in map(json.loads, lines) if row["answers"]["text"]])
    rows = run_stage(
        "finetune", cascade, "once", model=cascade / "base", training__max_steps=2, data__validation_file=str(file)
    )
    evaluations = sum(row["event"] == "evaluate" for row in rows) + 1
    assert decoded_words == word_counts(file) * evaluations


def test_gen_soft_labels_decodes_each_row_once(cascade: Path, decoded_words: list[int]) -> None:
    run_stage("gen-soft-labels", cascade, "labels-once", teacher=cascade / "teacher", check_teacher=False)
    assert decoded_words == word_counts(cascade / "data" / "train.jsonl")


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


def test_question_longer_than_the_model_length_is_truncated(cascade: Path) -> None:
    from tinybert_cli.helpers import predict

    (output,) = predict.run(str(cascade / "student"), [f"{'plot ' * 99}\tthe great and awful ."])
    assert output["prediction"] in "the great and awful ."


def test_question_without_a_context_is_an_error(cascade: Path) -> None:
    from tinybert_cli.helpers import predict

    with pytest.raises(InputError, match="expected a question and its context"):
        list(predict.run(str(cascade / "student"), ["who wrote it?"]))
