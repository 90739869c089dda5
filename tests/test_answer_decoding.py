"""Question answering with other tokenizers than WordPiece: decoding, labels, and the same answers everywhere."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_config, run, write_rows
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from span_reference import features, oracle_logits, standard_answer, standard_labels
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel

from tinybert_cli import losses, tasks
from tinybert_cli.config import Data
from tinybert_cli.data import Examples
from tinybert_cli.errors import InputError
from tinybert_cli.metrics import span_metric, span_targets, spans
from tinybert_cli.types import Array, Encoded, Layout, Rows

TASK = tasks.find_prediction_task("question-answering")
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMES = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), SPECIAL, strict=True))
ROWS = [  # question, context, answer
    ("Where does Ann eat?", "Ann eats at McDonald's in Paris, says Bob.", "McDonald's"),
    ("Where does Bob eat?", "Ann eats at McDonald's in Paris, says Bob.", "Paris"),
    ("How much is tea?", "Tea costs $3.50 (three dollars) in O'Neill's shop.", "$3.50"),
    ("Whose shop?", "Tea costs $3.50 (three dollars) in O'Neill's shop.", "O'Neill's"),
    ("哪一年？", "北京大学创办于1898年，是中国第一所国立大学。", "1898年"),
    ("哪所大学？", "北京大学创办于1898年，是中国第一所国立大学。", "北京大学"),
    ("Who is naïve?", "A naïve girl 😀 and Zoë's e-mail: zoe@mail.org.", "Zoë"),
    ("Which mail?", "A naïve girl 😀 and Zoë's e-mail: zoe@mail.org.", "zoe@mail.org"),
]
SPACED = [0, 1, 2, 3, 6, 7]  # rows whose answers begin and end between tokens in byte-level BPE
TEXTS = [text for row in ROWS for text in row]


def byte_level_bpe() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(TEXTS, trainer)
    return wrapped(backend)


def unigram() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="<unk>")
    backend.train_from_iterator(TEXTS, trainer)
    return wrapped(backend)


def chinese_word_piece() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL))
    return wrapped(backend)


def wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **NAMES, cls_token="<s>", sep_token="</s>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


MAKERS: list[Callable[[], PreTrainedTokenizerFast]] = [byte_level_bpe, unigram, chinese_word_piece]


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {make.__name__: make() for make in MAKERS}


@pytest.fixture(params=[make.__name__ for make in MAKERS])
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, Any]) -> Any:
    return tokenizers[request.param]


def settings(**values: Any) -> Data:
    return Data(text_column_names=["question", "context"], label_column_name="answers", **values)


WHOLE, SPLIT = settings(max_seq_length=200), settings(max_seq_length=32, doc_stride=8)
both_lengths = pytest.mark.parametrize("data", [WHOLE, SPLIT], ids=["one window", "windows"])


def make_rows(triples: list[tuple[str, str, str]]) -> Rows:
    answers = [{"text": [answer], "answer_start": [context.index(answer)]} for _, context, answer in triples]
    questions, contexts, _ = (list(column) for column in zip(*triples, strict=True))
    return Rows({"question": questions, "context": contexts, "answers": answers}, (("qa.jsonl", len(triples)),))


def windows_of(tokenizer: Any, question: str, context: str, data: Data) -> Any:
    room = data.max_seq_length // 2 - 4
    return features(tokenizer, question, context, data.max_seq_length, min(data.doc_stride, room - 1))


def predicted(
    logits: Array, encoded: Encoded, rows: Rows, data: Data, threshold: float = span_metric.NEVER
) -> list[str]:
    decided = TASK.decide(logits, encoded.layout, [], rows, data, {span_metric.NULL_THRESHOLD: threshold})
    return [str(value) for value in decided.values]


# -- decoding and labels -------------------------------------------------------------------------------------


@both_lengths
def test_a_perfect_model_gives_the_text_of_the_answers_tokens(tokenizer: Any, data: Data) -> None:
    rows = make_rows(ROWS)
    parts, expected = [], []
    for question, context, answer in ROWS:
        begin = context.index(answer)
        encoded = windows_of(tokenizer, question, context, data)
        logits = oracle_logits(encoded, begin, begin + len(answer))
        parts += logits
        expected.append(standard_answer(encoded, context, logits, longest=spans.LONGEST, threshold=None))
    answers = predicted(np.concatenate(parts), TASK.encode(rows, data, tokenizer), rows, data)
    assert answers == expected
    if tokenizer.backend_tokenizer.model.__class__.__name__ == "BPE":
        assert [answers[row] for row in SPACED] == [ROWS[row][2] for row in SPACED]


@both_lengths
@pytest.mark.parametrize("threshold", [None, 0.0, 3.0])
def test_decoding_equals_that_of_run_qa_on_random_logits(tokenizer: Any, data: Data, threshold: float | None) -> None:
    random = np.random.default_rng(0)
    rows = make_rows(ROWS * 4)
    encoded = TASK.encode(rows, data, tokenizer)
    logits = random.normal(scale=3, size=(len(encoded.tokens["input_ids"][0]), 2)).astype(np.float32)
    expected, position = [], 0
    for question, context, _ in ROWS * 4:
        windows = windows_of(tokenizer, question, context, data)
        lengths = np.cumsum([len(ids) for ids in windows["input_ids"]])
        values = np.split(logits[position : position + lengths[-1]], lengths[:-1])
        position += lengths[-1]
        expected.append(standard_answer(windows, context, values, longest=spans.LONGEST, threshold=threshold))
    assert position == len(logits)
    assert predicted(logits, encoded, rows, data, span_metric.NEVER if threshold is None else threshold) == expected


@both_lengths
def test_labels_equal_those_of_run_qa_for_every_span(tokenizer: Any, data: Data) -> None:
    for question, context, _ in ROWS[::2]:
        rows = make_rows([(question, context, context[:1])])
        encoded = TASK.encode(rows, data, tokenizer)
        assert encoded.layout is not None
        (tokens,) = spans.token_spans_by_row(encoded.layout)
        windows = windows_of(tokenizer, question, context, data)
        starts = np.cumsum([0, *(len(ids) for ids in windows["input_ids"])])[:-1]
        for match in re.finditer(r"\S+", context):
            expected = standard_labels(windows, *match.span())
            own = [(first - start, last - start) for (first, last), start in zip(
                span_targets.answer_tokens(tokens, *match.span()), starts, strict=True)]  # fmt: skip
            assert own == expected, context[slice(*match.span())]


@hypothesis_settings(max_examples=60, deadline=None, database=None)
@given(context=st.text(alphabet="aé北京😀\u200b\u3000 \n'-3", min_size=1, max_size=30), data=st.data())
def test_any_span_of_any_text_is_found_again(context: str, data: Any, tokenizers: dict[str, Any]) -> None:
    words = [match.span() for match in re.finditer(r"\S+", context)]
    words = [(begin, end) for begin, end in words if context.index(context[begin:end]) == begin]  # as make_rows says
    if not words:
        return
    begin, end = data.draw(st.sampled_from(words))
    rows = make_rows([("q", context, context[begin:end])])
    encoded = TASK.encode(rows, WHOLE, tokenizers["byte_level_bpe"])
    labels = TASK.labels(rows, WHOLE, [])
    assert labels is not None
    logits = 20 * TASK.align({"labels": labels}, None, encoded)["labels"]
    assert predicted(logits, encoded, rows, WHOLE) == [context[begin:end]]


# -- teacher and student with different tokens ------------------------------------------------------------------


def token_spans_of(encoded: Encoded) -> list[Array]:
    assert encoded.layout is not None
    return list(spans.token_spans_by_row(encoded.layout))


def probabilities(logits: Array, tokens: Array) -> Array:
    return np.exp(spans.log_softmax(logits, tokens))


def random_teacher(encoded: Encoded) -> Array:
    return np.random.default_rng(1).normal(scale=2, size=(len(encoded.tokens["input_ids"][0]), 2)).astype(np.float32)


@both_lengths
def test_soft_labels_are_minimal_at_the_teacher_with_any_tokenizer(tokenizer: Any, data: Data) -> None:
    rows = make_rows(ROWS)
    encoded = TASK.encode(rows, data, tokenizer)
    teacher = random_teacher(encoded)
    aligned = TASK.align({"teacher_logits": teacher}, encoded.layout, encoded)["teacher_logits"]
    np.testing.assert_array_equal(aligned, teacher)
    batch = Examples.of(encoded, teacher_logits=aligned).__getitems__(range(len(encoded.offsets) - 1))
    student = batch["teacher_logits"].clone().requires_grad_()
    losses.LOSS_SETS["span"].soft_labels({"logits": student}, {"logits": batch["teacher_logits"]}, batch).backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-6


@pytest.mark.parametrize("source", ["byte_level_bpe", "unigram", "chinese_word_piece"])
@both_lengths
def test_probabilities_move_to_the_token_with_the_character(
    source: str, data: Data, tokenizer: Any, tokenizers: dict[str, Any]
) -> None:
    rows = make_rows(ROWS)
    teacher, student = TASK.encode(rows, data, tokenizers[source]), TASK.encode(rows, WHOLE, tokenizer)
    logits = random_teacher(teacher)
    aligned = TASK.align({"teacher_logits": logits}, teacher.layout, student)["teacher_logits"]
    assert np.isfinite(aligned).all()
    position = target_position = 0
    for tokens, target in zip(token_spans_of(teacher), token_spans_of(student), strict=True):
        own = logits[position : position + len(tokens)]
        moved = probabilities(aligned[target_position : target_position + len(target)], target)
        np.testing.assert_allclose(moved.sum(0), 1, rtol=1e-6)
        if len(spans.windows(tokens)) == 1 and not np.array_equal(tokens, target):
            before = probabilities(own, tokens)
            context = target[:, spans.BEGIN] >= 0
            for row in np.flatnonzero(context):
                first, last = target[row, spans.BEGIN], target[row, spans.END]
                previous = target[row - 1, spans.END] if context[row - 1] else -1
                inside = (tokens[:, spans.BEGIN] >= max(previous, 0)) & (tokens[:, spans.BEGIN] < last)
                if first < last and previous <= first:  # not a part of a character, and not white space
                    assert moved[row, 0] == pytest.approx(before[inside, 0].sum(), rel=1e-4, abs=1e-7)
        position, target_position = position + len(tokens), target_position + len(target)


def test_probability_outside_of_a_window_moves_to_cls() -> None:
    whole = np.array([[0, -1, -1], [0, 0, 2], [0, 3, 5], [0, 6, 8]])
    halves = np.array([[0, -1, -1], [0, 0, 2], [0, 3, 5], [1, -1, -1], [1, 3, 5], [1, 6, 8]])
    before = np.array([[0.1, 0.1], [0.2, 0.1], [0.3, 0.1], [0.4, 0.7]])
    moved = probabilities(span_targets.transferred(np.log(before), whole, halves), halves)
    np.testing.assert_allclose(moved[:3], [[0.5, 0.8], [0.2, 0.1], [0.3, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(moved[3:], [[0.3, 0.2], [0.3, 0.1], [0.4, 0.7]], rtol=1e-6)


def test_label_dataset_of_words_is_rejected() -> None:
    encoded = TASK.encode(make_rows(ROWS[:1]), WHOLE, byte_level_bpe())
    with pytest.raises(InputError, match="belong to words"):
        TASK.align({"teacher_logits": np.zeros((9, 2))}, Layout(np.array([0, 9])), encoded)


def test_ensemble_is_the_weighted_mean_of_the_probabilities() -> None:
    layout = Layout(np.array([0, 3]), np.array([[0, -1, -1], [0, 0, 2], [0, 3, 5]]))
    first = np.log([[0.02, 0.02], [0.95, 0.03], [0.03, 0.95]])
    second = np.log([[0.04, 0.04], [0.06, 0.90], [0.90, 0.06]])
    mean = TASK.ensemble([first + 5, second - 3], [1.0, 3.0], layout)
    expected = (np.exp(first) + 3 * np.exp(second)) / 4
    np.testing.assert_allclose(probabilities(mean, layout.token_spans), expected, rtol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_array_equal(TASK.ensemble([first], [1.0], layout), first)


# -- one folder, the same answers everywhere --------------------------------------------------------------------


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=210, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.1, bos_token_id=0, pad_token_id=1, eos_token_id=2, type_vocab_size=1,
    )  # fmt: skip
    RobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_stage(command: str, folder: Path, name: str, **values: Any) -> None:
    files = dict.fromkeys(("data__test_file", "data__unlabeled_file"))
    columns = {"data__text_column_names": ["question", "context"], "data__label_column_name": "answers"}
    lengths = {"data__max_seq_length": 48, "data__doc_stride": 16}  # some contexts have two windows
    config = make_config(
        command, folder / "data", folder / name, task="question-answering", **files, **columns, **lengths, **values
    )
    run(command, config)


@pytest.fixture(scope="module")
def memorised(tmp_path_factory: pytest.TempPathFactory, tokenizers: dict[str, Any]) -> Path:
    """`teacher`, a RoBERTa that knows the answers of ROWS, and `student`, which learnt them with other tokens."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("memorised")
    rows = make_rows([ROWS[row] for row in SPACED])
    records = [dict(zip(rows.columns, values, strict=True)) for values in zip(*rows.columns.values(), strict=True)]
    for split in ("train", "validation"):
        write_rows(folder / "data" / f"{split}.jsonl", records)
    epochs = {"training__num_train_epochs": 60.0, "training__eval_strategy": "no"}
    model = write_model(folder / "base", tokenizers["byte_level_bpe"])
    run_stage("finetune", folder, "teacher", model=model, **epochs)
    run_stage("gen-soft-labels", folder, "labels", teacher=folder / "teacher")
    other = write_model(folder / "other", tokenizers["chinese_word_piece"])
    run_stage("distill", folder, "student", label_dataset=folder / "labels", student={"from": str(other)}, **epochs)
    return folder


def expected_answers() -> list[str]:
    return [ROWS[row][2] for row in SPACED]


def typed() -> list[str]:
    return [f"{ROWS[row][0]}\t{ROWS[row][1]}" for row in SPACED]


def metrics_of(folder: Path) -> dict[str, float]:
    return dict(json.loads((folder / "metrics.json").read_text()))


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_model_that_memorised_the_answers_has_exact_match_1(name: str, memorised: Path) -> None:
    assert metrics_of(memorised / name)["eval_exact_match"] == 1.0


def test_predict_gives_the_memorised_answers(memorised: Path) -> None:
    from tinybert_cli.helpers import predict

    outputs = list(predict.run(str(memorised / "teacher"), typed()))
    assert [output["prediction"] for output in outputs] == expected_answers()
    for row, output in zip(SPACED, outputs, strict=True):
        assert ROWS[row][1][output["begin"] : output["end"]] == output["prediction"]
        assert output["confidence"] > 0.5
        confidences = [answer["confidence"] for answer in output["n_best"]]
        assert confidences == sorted(confidences, reverse=True) and sum(confidences) <= 1


def test_export_gives_the_memorised_answers(memorised: Path) -> None:
    pytest.importorskip("onnxruntime")
    from tinybert_cli.helpers import predict

    run_stage("export", memorised, "export", model=memorised / "teacher")
    assert metrics_of(memorised / "export")["agreement"] == 1.0
    answers = [output["prediction"] for output in predict.run(str(memorised / "export"), typed())]
    assert answers == expected_answers()


def test_run_qa_decodes_the_memorised_answers_from_the_folder(memorised: Path) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model = AutoModelForQuestionAnswering.from_pretrained(memorised / "teacher")
    tokenizer = AutoTokenizer.from_pretrained(memorised / "teacher")
    answers = []
    for row in SPACED:
        question, context, _ = ROWS[row]
        encoded = features(tokenizer, question, context, 48, 16)
        logits = []
        for ids in encoded["input_ids"]:
            with torch.no_grad():
                outputs = model(torch.tensor([ids]))
            logits.append(torch.stack([outputs.start_logits[0], outputs.end_logits[0]], -1).numpy())
        answers.append(standard_answer(encoded, context, logits, longest=30, threshold=None))
    assert answers == expected_answers()


def test_lines_on_the_card_give_the_memorised_answers(memorised: Path) -> None:
    card = (memorised / "teacher" / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?AutoModelForQuestionAnswering.*?)```", card, flags=re.S)
    example = '"Who wrote it?", "It was written by Ada in 1843."'
    assert example in code
    for row in SPACED:
        question, context, answer = ROWS[row]
        lines = code.replace(example, repr((question, context)))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(lines, {})
        assert printed.getvalue() == f"{answer}\n"
