"""Question answering: words are answered wherever they stand, and answers are judged as the field does."""

from __future__ import annotations

import collections
import json
import random
import re
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import BAD, GOOD, make_config, run, write_base_model, write_rows
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as pieces
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerFast

from tinybert_cli import losses, tasks
from tinybert_cli.config import Data
from tinybert_cli.data import Examples
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics import spans
from tinybert_cli.types import Encoded, Rows

TASK = tasks.find_prediction_task("question-answering")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["who", "wrote", "it", "?", "ada", "in", "184", "##3", ".", "long", "ago", "and", "then", "##s"]
CONTEXT = "Ada wrote it in 1843."
Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(
        pieces.WordPiece({word: place for place, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def settings(**given: Any) -> Data:
    return Data(text_column_names=["question", "context"], label_column_name="answers", **given)


def rows_of(*rows: tuple[str, str, dict[str, list[Any]] | None]) -> Rows:
    columns = {
        name: list(values)
        for name, values in zip(("question", "context", "answers"), zip(*rows, strict=True), strict=True)
    }
    return Rows(columns, (("qa.jsonl", len(rows)),))


def answers(*found: tuple[str, int]) -> dict[str, list[Any]]:
    return {"text": [text for text, _ in found], "answer_start": [begin for _, begin in found]}


ROWS = rows_of(
    ("Who wrote it?", CONTEXT, answers(("Ada", 0))),
    ("Who then?", "Long ago.", answers()),
)


def pieces_read(encoded: Encoded, tokenizer: Any) -> list[list[list[str]]]:
    """For each window the pieces at which each of its answers is read, begin and end."""
    batch = Examples.of(encoded).__getitems__(range(len(encoded.offsets) - 1))
    words = np.array(tokenizer.convert_ids_to_tokens(batch["input_ids"].flatten().tolist()))
    read = words[batch["positions"].numpy()].tolist()
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
def test_words_are_runs_of_letters_marks_and_chinese_characters(text: str, words: list[str]) -> None:
    assert [text[begin:end] for begin, end in spans.word_spans(text)] == words


# -- encode --------------------------------------------------------------------------------------------------


def test_a_word_begins_at_its_first_piece_and_ends_at_its_last(tokenizer: Any) -> None:
    encoded = TASK.encode(ROWS, settings(), tokenizer)
    first, second = pieces_read(encoded, tokenizer)
    assert first == [["[CLS]"] * 2, ["ada"] * 2, ["wrote"] * 2, ["it"] * 2, ["in"] * 2, ["184", "##3"], ["."] * 2]
    assert second == [["[CLS]"] * 2, ["long"] * 2, ["ago"] * 2, ["."] * 2]
    assert encoded.row_offsets is not None
    assert (encoded.row_offsets.tolist(), encoded.truncated) == ([0, 7, 11], 0)


def test_a_long_context_is_read_in_windows_and_every_word_once(tokenizer: Any) -> None:
    context = " ".join(["long ago and then"] * 5)
    rows = rows_of(("who", context, answers(("then", 14))))
    encoded = TASK.encode(rows, settings(max_seq_length=12, doc_stride=4), tokenizer)
    read = pieces_read(encoded, tokenizer)
    assert len(read) > 2
    assert [begin for window in read for begin, _ in window] == ["[CLS]", *context.split()]
    places = Examples.of(encoded).__getitems__([1])["positions"] % 12
    assert places.min() > 3  # the second window leaves its first words to the first one, where they stand further in


def test_a_question_that_fills_the_window_is_cut_and_counted(tokenizer: Any) -> None:
    rows = rows_of(("who " * 40, CONTEXT, answers(("Ada", 0))))
    encoded = TASK.encode(rows, settings(max_seq_length=16), tokenizer)
    assert encoded.truncated == 1
    assert max(np.diff(encoded.offsets)) <= 16
    assert sum(map(len, pieces_read(encoded, tokenizer))) == 7


def test_marks_that_the_tokenizer_drops_are_answered_all_the_same(tokenizer: Any) -> None:
    encoded = TASK.encode(rows_of(("who", "\u200b", answers()), ("who", "", answers())), settings(), tokenizer)
    assert encoded.row_offsets is not None
    assert encoded.row_offsets[-1] == 1 + len(spans.word_spans("\u200b")) + 1
    assert encoded.empty == [1]


def test_one_text_column_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="a question and its context are needed"):
        TASK.encode(ROWS, Data(text_column_names="context"), tokenizer)


# -- gold answers --------------------------------------------------------------------------------------------


def test_labels_mark_the_first_and_the_last_word_of_the_first_answer() -> None:
    rows = rows_of(("q", CONTEXT, answers(("in 1843", 13), ("1843", 16))), ("q", "Long ago.", answers()))
    labels = TASK.labels(rows, settings(), TASK.label_names(rows, settings(), model_names=None))
    assert labels is not None
    assert [np.flatnonzero(column).tolist() for column in labels.T] == [[4, 7], [5, 7]]


def test_an_answer_inside_a_word_is_widened_to_it() -> None:
    labels = TASK.labels(rows_of(("q", "the 1990s", answers(("1990", 4)))), settings(), [])
    assert labels is not None
    assert labels.tolist() == [[0, 0], [0, 0], [1, 1]]


@pytest.mark.parametrize("begin", [1, 40])
def test_an_answer_that_stands_elsewhere_is_refused_with_its_row(begin: int) -> None:
    with pytest.raises(InputError, match="does not stand at character") as caught:
        TASK.labels(rows_of(("q", CONTEXT, answers(("Ada", begin)))), settings(), [])
    assert caught.value.where == "qa.jsonl, row 1"


@pytest.mark.parametrize("bad", ["Ada", {"text": ["Ada"]}, {"text": ["Ada"], "answer_start": []}])
def test_answers_of_another_form_are_refused_with_their_row(bad: Any) -> None:
    with pytest.raises(InputError, match="these are no answers") as caught:
        TASK.labels(rows_of(("q", CONTEXT, bad)), settings(), [])
    assert caught.value.where == "qa.jsonl, row 1"


def test_rows_without_answers_are_no_exam() -> None:
    with pytest.raises(InputError, match="a row without answers"):
        TASK.exam(rows_of(("q", CONTEXT, None)), settings(), [])
    assert TASK.exam(Rows({"question": ["q"], "context": ["c"]}, (("t", 1),)), settings(), []) is None


# -- answers -------------------------------------------------------------------------------------------------


def logits_for(*places: tuple[int, int, int], sure: float = 8.0) -> Array:
    """Of each row (words, first, last): all but sure of that span; 0, 0 for none."""
    parts = []
    for words, first, last in places:
        part = np.zeros((words + 1, 2), dtype=np.float32)
        part[first, 0] = part[last, 1] = sure
        parts.append(part)
    return np.concatenate(parts)


OFFSETS = np.array([0, 7, 11])


def test_the_answer_is_the_text_of_the_best_span() -> None:
    found = TASK.answers(logits_for((6, 4, 5), (3, 0, 0)), OFFSETS, [], ROWS, settings())
    assert found["prediction"] == ["in 1843", ""]
    assert found["confidence"][0] == pytest.approx((np.exp(8) / (np.exp(8) + 6)) ** 2)


def test_the_best_spans_are_those_of_all_of_them() -> None:
    random = np.random.default_rng(0)
    begins, ends = random.normal(size=80), random.normal(size=80)
    every = sorted(
        ((begins[i] + ends[j], i, j) for i in range(80) for j in range(i, min(80, i + spans.LONGEST))), reverse=True
    )
    assert spans.best_spans(begins, ends, 7) == [(i, j, pytest.approx(score)) for score, i, j in every[:7]]
    assert spans.best_span(begins, ends) == spans.best_spans(begins, ends, 1)[0]


def test_no_answer_ends_before_it_begins_or_is_too_long() -> None:
    begins, ends = np.zeros(60), np.zeros(60)
    begins[50], ends[3] = 5, 6
    assert spans.best_span(begins, ends) != (50, 3, 11.0)
    first, last, _ = spans.best_span(np.eye(99)[0] * 9, np.eye(99)[98] * 9)
    assert 0 <= last - first < spans.LONGEST


def test_unsure_answers_are_no_labels() -> None:
    logits = np.concatenate([logits_for((6, 1, 1)), logits_for((3, 2, 2), sure=0.5)])
    labels, sure = TASK.hard_answers(logits, OFFSETS, 0.5)
    assert sure.tolist() == [True, False]
    assert np.flatnonzero(labels[:7, 0]).tolist() == [1]
    assert np.isnan(labels[7:]).all()


# -- when there is no answer ---------------------------------------------------------------------------------


def doubtful(*differences: float) -> Array:
    """Rows in turn with an answer (word 1 of 6) and without one (of 3 words), none so far before the best span."""
    parts = []
    for number, difference in enumerate(differences):
        part = np.zeros(((6, 3)[number % 2] + 1, 2), dtype=np.float32)
        part[1], part[0] = 4.0, 4.0 + difference / 2
        parts.append(part)
    return np.concatenate(parts)


def exam_of(count: int) -> Any:
    rows = [("Who?", CONTEXT, answers(("Ada", 0))), ("Who?", "Long ago.", answers())] * (count // 2)
    return TASK.exam(rows_of(*rows), settings(), [])


def test_the_threshold_for_no_answer_is_the_best_on_the_rows() -> None:
    logits = doubtful(1.0, 3.0, 2.0, 5.0)  # 2 rows with an answer: none is 1 and 2 ahead; 2 without: 3 and 5
    gold = exam_of(4)
    assert gold.score(logits)["f1"] == 0.5  # as it stands none wins everywhere
    decision = gold.tuned(logits)
    assert decision == {"null_score_diff_threshold": pytest.approx(2.5)}
    assert gold.score(TASK.settled(logits, gold.offsets, decision))["f1"] == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_is_no_worse_than_any_other(seed: int) -> None:
    logits = doubtful(*np.random.default_rng(seed).normal(size=20).round(1))
    gold = exam_of(20)
    best = gold.score(TASK.settled(logits, gold.offsets, gold.tuned(logits)))["f1"]
    others = [{"null_score_diff_threshold": value} for value in np.linspace(-3, 3, 121)]
    assert best >= max(gold.score(TASK.settled(logits, gold.offsets, other))["f1"] for other in others)


def test_where_every_row_has_an_answer_one_is_always_given() -> None:
    rows = rows_of(("Who?", CONTEXT, answers(("Ada", 0))))
    gold = TASK.exam(rows, settings(), [])
    assert gold is not None
    logits = logits_for((6, 0, 0)) + logits_for((6, 1, 1), sure=1.0)
    settled = TASK.settled(logits, np.array([0, 7]), gold.tuned(logits))
    assert TASK.answers(settled, np.array([0, 7]), [], rows, settings())["prediction"] == ["Ada"]


# -- scores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "gold", "f1"),
    [
        ("the Eiffel Tower", ["Eiffel tower."], 1.0),
        ("in 1843", ["1843"], 2 / 3),
        ("", [""], 1.0),
        ("Ada", [""], 0.0),
        ("ada ada", ["ada lovelace"], 0.5),
        ("北京大学", ["北京"], 2 * 2 / 6),
        ("《北京》，", ["北京"], 1.0),
        ("men’s", ["men's"], 0.0),  # as the script of SQuAD has it
    ],
)
def test_overlap_is_that_of_the_evaluation_scripts(said: str, gold: list[str], f1: float) -> None:
    assert spans.overlap(spans.normalized(said), [spans.normalized(answer) for answer in gold]) == pytest.approx(f1)


def official(said: str, gold: list[str]) -> tuple[float, float]:
    """Exact match and F1 as evaluate-v2.0.py has them, written down once more."""

    def words(answer: str) -> list[str]:
        text = "".join(character for character in answer.lower() if character not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    def f1(right: list[str], given: list[str]) -> float:
        if not right or not given:
            return float(right == given)
        same = sum((collections.Counter(right) & collections.Counter(given)).values())
        if not same:
            return 0.0
        precision, recall = same / len(given), same / len(right)
        return 2 * precision * recall / (precision + recall)

    known = [answer for answer in gold if words(answer)] or [""]
    return max(float(words(said) == words(one)) for one in known), max(f1(words(one), words(said)) for one in known)


def test_exact_match_and_f1_are_those_of_the_official_script() -> None:
    random_words = random.Random(0)
    vocabulary = ["the", "a", "An", "Tower", "tower", "of", "London", "U.S.", "1,000", "-", "it's", "und", "Ü."]
    for _ in range(500):
        said, *gold = (" ".join(random_words.choices(vocabulary, k=random_words.randint(0, 4))) for _ in range(4))
        gold = gold[: random_words.randint(0, 3)]
        right = [spans.normalized(answer) for answer in gold if spans.normalized(answer)] or [[]]
        found = float(spans.exact(spans.normalized(said), right)), spans.overlap(spans.normalized(said), right)
        assert found == pytest.approx(official(said, gold)), (said, gold)


def exam() -> Any:
    found = TASK.exam(ROWS, settings(), [])
    assert found is not None
    return found


def test_scores_by_hand() -> None:
    found = exam().score(logits_for((6, 1, 2), (3, 1, 1)))  # "Ada wrote" for "Ada"; an answer where there is none
    assert found["f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["exact_match"] == 0.0
    right = exam().score(logits_for((6, 1, 1), (3, 0, 0)))
    assert (right["f1"], right["exact_match"]) == (1.0, 1.0)
    sure = -np.log(np.exp(8) / (np.exp(8) + 6)), -np.log(np.exp(8) / (np.exp(8) + 3))
    assert right["loss"] == pytest.approx(np.mean(sure), rel=1e-5)


def test_details_part_what_can_be_answered_from_what_cannot() -> None:
    found = exam().details(logits_for((6, 1, 2), (3, 0, 0)))
    assert found == pytest.approx(
        {"answered": 0.5, "exact_match_answerable": 0.0, "f1_answerable": 2 / 3, "accuracy_unanswerable": 1.0}
    )
    assert found.keys() == set(TASK.detailed)


def test_each_resample_is_the_mean_of_its_rows() -> None:
    logits = logits_for((6, 1, 2), (3, 0, 0))
    found = exam().resampled(logits, resamples=40, seed=3)
    assert found.keys() == exam().score(logits).keys() | exam().details(logits).keys()
    random = np.random.default_rng(3)
    for index in range(40):
        drawn = random.integers(2, size=2)
        assert found["f1"][index] == pytest.approx(np.mean(np.array([2 / 3, 1.0])[drawn]))


def test_rows_lost_credit_and_kinds() -> None:
    right, wrong = logits_for((6, 1, 1), (3, 0, 0)), logits_for((6, 1, 2), (3, 0, 0))
    assert exam().discordant(wrong, right)["rows_lost"] == 1
    assert exam().credit(wrong).tolist() == pytest.approx([2 / 3, 1.0])
    assert {name: rows.tolist() for name, rows in exam().kinds().items()} == {
        "none": [False, True], "1 word": [True, False],
    }  # fmt: skip
    assert exam().trivial() == 0.5


def test_fidelity_to_itself_is_perfect_and_to_others_is_not() -> None:
    right, wrong = logits_for((6, 1, 1), (3, 0, 0)), logits_for((6, 1, 2), (3, 0, 0))
    itself, other = TASK.fidelity(right, right, OFFSETS), TASK.fidelity(wrong, right, OFFSETS)
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


def test_soft_labels_compare_the_places_of_each_window(batch: dict[str, torch.Tensor]) -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(11, 2)), random.normal(size=(11, 2))
    expected = -np.mean([
        (softmax(theirs[a:b] / 3) * np.log(softmax(ours[a:b] / 3))).sum(0) for a, b in ((0, 7), (7, 11))
    ])  # fmt: skip
    soft = losses.LOSS_SETS["span"].soft_labels
    found = soft(*({"logits": torch.from_numpy(said)} for said in (ours, theirs)), batch, temperature=3.0)
    assert found.item() == pytest.approx(expected * 9, rel=1e-5)


def test_hard_labels_look_at_the_windows_that_hold_the_answer(batch: dict[str, torch.Tensor]) -> None:
    ours = np.random.default_rng(1).normal(size=(11, 2))
    first = np.log(softmax(ours[:7]))[1]
    hard = losses.LOSS_SETS["span"].hard_labels
    both = hard({"logits": torch.from_numpy(ours)}, {}, batch).item()
    assert both == pytest.approx(-np.mean([first, np.log(softmax(ours[7:]))[0]]), rel=1e-5)
    batch["labels"][7:] = torch.nan
    assert hard({"logits": torch.from_numpy(ours)}, {}, batch).item() == pytest.approx(-first.mean(), rel=1e-5)


def test_the_gradient_is_finite_where_a_window_has_no_places(batch: dict[str, torch.Tensor]) -> None:
    logits = torch.zeros(7, 2, requires_grad=True)
    shown = {**batch, "positions": batch["positions"][:7], "labels": batch["labels"][:7]}
    losses.LOSS_SETS["span"].soft_labels({"logits": logits}, {"logits": torch.ones(7, 2)}, shown).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


NARROW = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}


# -- through all stages --------------------------------------------------------------------------------------


def write_questions(folder: Path) -> Path:
    """`film` asks for the kind word of a sentence, `plot` for the unkind one; a few sentences have none."""
    for split, count in (("train", 120), ("validation", 40)):
        draw = random.Random(split)
        rows = []
        for _ in range(count):
            question, word = draw.choice([("film", draw.choice(GOOD)), ("plot", draw.choice(BAD))])
            said = draw.choices(["the", "a", "is", "was", "and", "very"], k=draw.randint(3, 8))
            said.insert(draw.randint(0, len(said)), word)
            said.insert(draw.randint(0, len(said)), draw.choice(BAD if question == "film" else GOOD))
            context = " ".join([*said, "."])
            rows.append({"question": question, "context": context, "answers": answers((word, context.index(word)))})
        rows[0] = {"question": "film", "context": "a plot .", "answers": answers()}
        write_rows(folder / f"{split}.jsonl", rows)
    return folder


def stage(command: str, folder: Path, name: str, **given: Any) -> list[dict[str, Any]]:
    columns = {
        "data__text_column_names": ["question", "context"], "data__label_column_name": "answers",
        "data__max_seq_length": 12, "data__doc_stride": 3, "data__test_file": None, "data__unlabeled_file": None,
    }  # fmt: skip
    config = make_config(command, folder / "data", folder / name, task="question-answering", **columns, **given)
    return run(command, config)


@pytest.fixture(scope="module")
def cascade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("questions")
    write_questions(folder / "data")
    longer = {"training__num_train_epochs": 30.0}
    stage("finetune", folder, "teacher", model=write_base_model(folder / "base"), **longer)
    stage("gen-soft-labels", folder, "labels", teacher=folder / "teacher")
    stage("distill", folder, "student", label_dataset=folder / "labels", **longer, losses={"soft_labels": 1.0},
          student={"from": str(folder / "teacher"), "num_hidden_layers": 2})  # fmt: skip
    stage("finetune", folder, "student2", label_dataset=folder / "labels", model=folder / "student", min_confidence=0.3)
    return folder


def metrics(folder: Path) -> dict[str, float]:
    return dict(json.loads((folder / "metrics.json").read_text()))


def test_teacher_and_student_learn_to_answer(cascade: Path) -> None:
    assert metrics(cascade / "teacher")["eval_f1"] > 0.8
    assert metrics(cascade / "labels")["teacher_f1"] > metrics(cascade / "labels")["majority_f1"]
    assert metrics(cascade / "student")["eval_f1"] > 0.7
    assert metrics(cascade / "student2")["eval_f1"] > 0.6


def test_labels_hold_the_logits_of_every_word(cascade: Path) -> None:
    table = pq.read_table(cascade / "labels" / "train-00000-of-00001.parquet").to_pydict()
    counts = [len(spans.word_spans(context)) + 1 for context in table["context"]]
    assert [len(logits) for logits in table["teacher_logits"]] == counts
    assert all(said in context for said, context in zip(table["teacher_prediction"], table["context"], strict=True))


def test_the_folder_is_a_model_that_transformers_loads(cascade: Path) -> None:
    model = AutoModelForQuestionAnswering.from_pretrained(cascade / "student")
    assert model.config.num_hidden_layers == 2


def test_layers_can_be_compared_too(cascade: Path) -> None:
    (*_, done) = stage(
        "distill", cascade, "layers", label_dataset=cascade / "labels", teacher=cascade / "teacher",
        student={"from": str(cascade / "teacher"), "num_hidden_layers": 2}, training__max_steps=2,
        losses={"hidden_states": 1.0, "attentions": 1.0, "soft_labels": 1.0},
    )  # fmt: skip
    assert done["steps"] == 2 and np.isfinite(done["train_loss"])


def test_the_layers_of_every_window_can_be_stored(cascade: Path) -> None:
    kept: dict[str, Any] = {"states": ["hidden_states", "attentions"], "student_layers": 2}
    stage("gen-soft-labels", cascade, "states", teacher=cascade / "teacher", **kept)
    found = []
    for name, settings in (("online", {"teacher": cascade / "teacher"}), ("stored", {})):
        labels = cascade / ("labels" if settings else "states")
        rows = stage(
            "distill", cascade, name, label_dataset=labels, student={"from": str(cascade / "teacher"), **NARROW},
            losses={"hidden_states": 1.0, "attentions": 1.0}, training__max_steps=6, training__keep="last",
            training__logging_steps=1, **settings,
        )  # fmt: skip
        found.append([row["loss"] for row in rows if row["event"] == "train"])
    assert len(found[0]) == 6
    np.testing.assert_allclose(*found, rtol=1e-3)


def test_models_are_scored_side_by_side(cascade: Path) -> None:
    models = {"teacher": str(cascade / "teacher"), "student": str(cascade / "student")}
    stage("eval", cascade, "eval", models=models, latency=None, bootstrap=50)
    found = metrics(cascade / "eval")
    assert found["teacher.f1"] == pytest.approx(metrics(cascade / "teacher")["eval_f1"])
    assert 0.5 < found["student.agreement"] <= 1.0
    assert found["student.f1_low"] <= found["student.f1"] <= found["student.f1_high"]
    assert "student.f1[label=none]" in found
    said = pq.read_table(cascade / "eval" / "predictions.parquet").to_pydict()
    assert {"question", "context", "label", "teacher_prediction", "student_confidence"} <= said.keys()


def test_an_export_answers_the_same_without_torch(cascade: Path) -> None:
    pytest.importorskip("onnxruntime")
    stage("export", cascade, "export", model=cascade / "student")
    assert metrics(cascade / "export")["agreement"] == 1.0
    asked = "plot\tthe great and awful ."
    code = (
        "import json, sys; from tinybert_cli.helpers import predict\n"
        f"print(json.dumps(list(predict.run({str(cascade / 'export')!r}, [{asked!r}]))))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (exported,) = json.loads(done.stdout)
    from tinybert_cli.helpers import predict

    (trained,) = predict.run(str(cascade / "student"), [asked])
    assert exported["prediction"] == trained["prediction"] == "awful"
    assert [one["text"] for one in exported["n_best"]] == [one["text"] for one in trained["n_best"]]
    assert exported["n_best"][0]["text"] == "awful" and len(exported["n_best"]) == 5
    context = asked.partition("\t")[2]
    assert context[exported["begin"] : exported["end"]] == "awful"
    assert exported["confidence"] == pytest.approx(trained["confidence"], abs=1e-4)


def test_a_question_that_is_longer_than_the_model_can_read_is_cut(cascade: Path) -> None:
    from tinybert_cli.helpers import predict

    (said,) = predict.run(str(cascade / "student"), [f"{'plot ' * 99}\tthe great and awful ."])
    assert said["prediction"] in "the great and awful ."


def test_a_question_without_a_context_is_refused(cascade: Path) -> None:
    from tinybert_cli.helpers import predict

    with pytest.raises(InputError, match="a question and its context"):
        list(predict.run(str(cascade / "student"), ["who wrote it?"]))
