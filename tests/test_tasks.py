"""Text classification: labels mean what data and model agree on, and the scores are those of the field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn import metrics
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers import models as pieces
from transformers import PreTrainedTokenizerFast

from tinybert_cli import tasks
from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics.classification import calibration_error, softmax
from tinybert_cli.tasks.text_classification import ClassExam, TextClassification
from tinybert_cli.types import Rows

TASK = TextClassification()
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "tea", "was", "hot", "cold", "##er", "not"]
CLS, SEP, THE, TEA, WAS, HOT, COLD, ER = 2, 3, 5, 6, 7, 8, 9, 10

Array = np.ndarray[Any, np.dtype[Any]]


def rows_of(**columns: list[Any]) -> Rows:
    return Rows(columns, (("rows.csv", len(next(iter(columns.values())))),))


def exam(labels: Sequence[int] | Array, names: Sequence[str] | None = None) -> ClassExam:
    gold = np.asarray(labels)
    known = names_of(max(2, 1 + int(gold.max()))) if names is None else list(names)
    return ClassExam(gold, known, [known[label] for label in gold])


def scored(logits: Array, labels: Array) -> dict[str, float]:
    return exam(labels).score(logits)


def labelled(*values: Any) -> Rows:
    return rows_of(text=["the tea"] * len(values), label=list(values))


# -- label names ---------------------------------------------------------------------------------------------


def test_names_in_the_data_are_sorted() -> None:
    assert TASK.label_names(labelled("no", "yes", None, "maybe", "no"), Data(), model_names=None) == [
        "maybe",
        "no",
        "yes",
    ]


def test_names_of_a_dataset_keep_their_order() -> None:
    rows = Rows({"text": ["a"], "label": [0]}, (("hub", 1),), label_names=["world", "arts"])
    assert TASK.label_names(rows, Data(), model_names=None) == ["world", "arts"]


def test_names_in_the_config_go_before_those_of_the_data() -> None:
    rows = Rows({"text": ["a"], "label": [0]}, (("hub", 1),), label_names=["world", "arts"])
    assert TASK.label_names(rows, Data(label_names=["x", "y"]), model_names=None) == ["x", "y"]


@pytest.mark.parametrize("values", [(0, 3, 1), ("0", "3", "1")])
def test_positions_in_the_data_become_names_up_to_the_highest(values: tuple[Any, ...]) -> None:
    assert TASK.label_names(labelled(*values), Data(), model_names=None) == ["0", "1", "2", "3"]


def test_positions_take_the_names_of_the_model() -> None:
    assert TASK.label_names(labelled(0, 1), Data(), model_names=["no", "yes"]) == ["no", "yes"]


def test_names_of_the_data_take_the_order_of_the_model() -> None:
    assert TASK.label_names(labelled("a", "c"), Data(), model_names=["c", "b", "a"]) == ["c", "b", "a"]


def test_rows_without_labels_take_the_names_of_the_model() -> None:
    assert TASK.label_names(rows_of(text=["a"]), Data(), model_names=["no", "yes"]) == ["no", "yes"]


def test_rows_and_model_without_labels_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        TASK.label_names(rows_of(text=["a"]), Data(), model_names=None)
    assert caught.value.what == "no column 'label' in rows.csv"
    with pytest.raises(InputError) as caught:
        TASK.label_names(labelled(None, ""), Data(), model_names=None)
    assert caught.value.what == "no labels in rows.csv, row 1"


@pytest.mark.parametrize("said", [["yes", "no"], ["no", "maybe"], ["no", "yes", "maybe"]])
def test_other_names_or_order_than_the_model_show_both_lists(said: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        TASK.label_names(labelled(0, 1), Data(label_names=said), model_names=["no", "yes"])
    lines = caught.value.what.splitlines()[1:]
    assert [line.strip() for line in lines] == [f"data:  {', '.join(said)}", "model: no, yes"]


def test_names_that_the_model_does_not_know_show_both_lists() -> None:
    with pytest.raises(InputError) as caught:
        TASK.label_names(labelled("no", "never", "yes"), Data(), model_names=["no", "yes"])
    first, *lines = caught.value.what.splitlines()
    assert first == "the data has labels that the model does not know: never"
    assert [line.strip() for line in lines] == ["data:  never, no, yes", "model: no, yes"]


# -- labels --------------------------------------------------------------------------------------------------


def labels_of(rows: Rows, names: Sequence[str] = ("no", "yes")) -> list[int]:
    labels = TASK.labels(rows, Data(), names)
    assert labels is not None
    assert labels.dtype == np.int64
    return labels.tolist()


def test_labels_are_names_positions_or_positions_written_as_text() -> None:
    assert labels_of(labelled("yes", 0, "1", 1, "no")) == [1, 0, 1, 1, 0]


def test_label_that_is_a_name_is_no_position() -> None:
    assert labels_of(labelled("1", "2", "0"), names=["2", "1", "0"]) == [1, 0, 2]


def test_missing_label_is_marked() -> None:
    assert labels_of(labelled("yes", None, "")) == [1, -100, -100]


def test_rows_without_a_label_column_have_no_labels() -> None:
    assert TASK.labels(rows_of(text=["a"]), Data(), ["no", "yes"]) is None


@pytest.mark.parametrize("bad", ["yess", 2, "2", -1, "-1", "Yes", 1.0, "²"])
def test_unknown_label_is_named_with_its_row(bad: object) -> None:
    with pytest.raises(InputError) as caught:
        TASK.labels(labelled("yes", "no", bad, "nope"), Data(), ["no", "yes"])
    assert caught.value.what == f"unknown label {bad!r}"
    assert caught.value.where == "rows.csv, row 3"
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("labels: no, yes")


def test_labels_that_are_fractions_are_refused_with_their_row() -> None:
    rows = labelled(0.5, 1.0)
    with pytest.raises(InputError) as caught:
        TASK.labels(rows, Data(), TASK.label_names(rows, Data(), model_names=None))
    assert (caught.value.what, caught.value.where) == ("unknown label 0.5", "rows.csv, row 1")


def test_misspelt_label_names_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        TASK.labels(labelled("yess"), Data(), ["no", "yes"])
    assert caught.value.hint == "did you mean 'yes'?; labels: no, yes"


def test_row_without_a_label_cannot_be_trained_on() -> None:
    with pytest.raises(InputError, match="a row without a label") as caught:
        TASK.check_trainable(np.array([0, 1, -100, 1]), ["no", "yes"], labelled("no", "yes", None, "yes"))
    assert caught.value.where == "rows.csv, row 3"


def test_one_class_only_cannot_be_trained_on() -> None:
    with pytest.raises(InputError, match="all 3 rows have the same label, yes: there is nothing to learn"):
        TASK.check_trainable(np.array([1, 1, 1]), ["no", "yes"], labelled(*["yes"] * 3))


def test_two_classes_can_be_trained_on() -> None:
    TASK.check_trainable(np.array([2, 0, 2]), ["a", "b", "c"], labelled("c", "a", "c"))


# -- text ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(pieces.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def test_text_becomes_unpadded_token_ids_row_by_row(tokenizer: PreTrainedTokenizerFast) -> None:
    found = TASK.encode(rows_of(text=["The tea", "HOTTER hot colder"]), Data(), tokenizer)
    ids, padding = found.tokens["input_ids"]
    assert ids.tolist() == [CLS, THE, TEA, SEP, CLS, 1, HOT, COLD, ER, SEP]
    assert padding == 0
    assert found.offsets.tolist() == [0, 4, 10]
    assert (found.truncated, found.empty) == (0, [])


def test_pair_is_one_row_with_two_token_types(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = rows_of(one=["the tea", "hot"], two=["cold", "was colder"])
    found = TASK.encode(rows, Data(text_column_names=["one", "two"]), tokenizer)
    assert found.tokens["input_ids"][0].tolist() == [CLS, THE, TEA, SEP, COLD, SEP, CLS, HOT, SEP, WAS, COLD, ER, SEP]
    assert found.tokens["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    assert found.offsets.tolist() == [0, 6, 13]


def test_longer_text_is_cut_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["the tea was hot", "the tea", "the tea was cold the tea was hot", "tea was"]
    found = TASK.encode(rows_of(text=texts), Data(max_seq_length=4), tokenizer)
    assert found.truncated == 2
    assert np.diff(found.offsets).tolist() == [4, 4, 4, 4]
    assert found.tokens["input_ids"][0][:4].tolist() == [CLS, THE, TEA, SEP]


def test_longer_pair_loses_tokens_of_its_longer_text(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = rows_of(one=["the tea was hot", "hot"], two=["cold", "cold"])
    found = TASK.encode(rows, Data(text_column_names=["one", "two"], max_seq_length=6), tokenizer)
    assert found.truncated == 1
    assert found.tokens["input_ids"][0][:6].tolist() == [CLS, THE, TEA, SEP, COLD, SEP]


def test_rows_beyond_the_first_chunk_keep_their_order(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["hot" if i % 3 else "cold cold" for i in range(2001)]
    found = TASK.encode(rows_of(text=texts), Data(), tokenizer)
    assert np.diff(found.offsets).tolist() == [3 if i % 3 else 4 for i in range(2001)]
    ids = found.tokens["input_ids"][0]
    assert ids[found.offsets[:-1] + 1].tolist() == [HOT if i % 3 else COLD for i in range(2001)]


def test_rows_without_any_text_are_listed(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = rows_of(one=["", "a", " \n", "\t"], two=["b", "", "", " "])
    found = TASK.encode(rows, Data(text_column_names=["one", "two"]), tokenizer)
    assert found.empty == [2, 3]


def test_tokenizer_without_token_types_gives_none(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        pad_token="[PAD]",
        model_input_names=["input_ids", "attention_mask"],
    )
    assert list(TASK.encode(rows_of(text=["tea"]), Data(), plain).tokens) == ["input_ids"]


@pytest.mark.parametrize("value", [None, 7, ["tea"]])
def test_row_that_is_no_text_is_named(value: object, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError) as caught:
        TASK.encode(rows_of(text=["tea", value]), Data(), tokenizer)
    assert caught.value.what == f"'text' is not text but {value!r}"
    assert caught.value.where == "rows.csv, row 2"


def test_missing_text_column_names_the_nearest(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="did you mean 'text'"):
        TASK.encode(rows_of(text=["tea"]), Data(text_column_names="texts"), tokenizer)


# -- scores --------------------------------------------------------------------------------------------------


def made_up(rows: int, classes: int, seed: int = 0) -> tuple[Array, Array]:
    """Logits that are right more often than not, and gold labels, the first class more frequent."""
    random = np.random.default_rng(seed)
    labels = random.choice(classes, size=rows, p=np.arange(classes, 0, -1) / (classes * (classes + 1) / 2))
    logits = random.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[labels]
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_are_those_of_scikit_learn(classes: int) -> None:
    logits, labels = made_up(150, classes)
    said = logits.argmax(-1)
    found = scored(logits, labels)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, said))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(labels, said, average="macro"))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(labels, said))
    assert found["loss"] == pytest.approx(metrics.log_loss(labels, softmax(logits), labels=range(classes)), rel=1e-5)


def test_every_metric_of_the_task_is_scored() -> None:
    assert set(scored(*made_up(20, 3))) == set(TASK.metrics)


def test_loss_of_a_sure_and_wrong_answer_stays_finite() -> None:
    assert scored(np.array([[999.0, -999.0]]), np.array([1]))["loss"] == pytest.approx(-math.log(1e-12))


def test_softmax_of_large_logits_is_exact() -> None:
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0 + math.log(3)]])), [[0.25, 0.75]])


def test_calibration_error_is_the_mean_gap_of_the_bins_weighted_by_rows() -> None:
    confidence = np.array([0.92, 0.94, 0.55, 0.65])  # bins of a tenth: two rows, one row, one row
    correct = np.array([True, False, True, True])
    expected = (2 * abs(0.93 - 0.5) + abs(0.55 - 1) + abs(0.65 - 1)) / 4
    assert calibration_error(confidence, correct, bins=10) == pytest.approx(expected)


def test_calibration_error_counts_full_confidence_in_the_last_bin() -> None:
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == pytest.approx(0.5)


def names_of(classes: int) -> list[str]:
    return [f"c{index}" for index in range(classes)]


@pytest.mark.parametrize("classes", [2, 4])
def test_details_are_those_of_scikit_learn(classes: int) -> None:
    logits, labels = made_up(150, classes)
    said, names = logits.argmax(-1), names_of(classes)
    found = exam(labels, names).details(logits)
    assert found["f1_weighted"] == pytest.approx(metrics.f1_score(labels, said, average="weighted"))
    assert found["precision[c1]"] == pytest.approx(metrics.precision_score(labels, said, labels=[1], average="macro"))
    assert found["recall[c1]"] == pytest.approx(metrics.recall_score(labels, said, labels=[1], average="macro"))
    assert {name.partition("[")[0] for name in found} == set(TASK.detailed)


def test_brier_score_is_the_squared_distance_from_the_right_answer() -> None:
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    expected = ((0.3**2 + 0.2**2 + 0.1**2) + (0.1**2 + 0.6**2 + 0.7**2)) / 2
    assert exam([0, 2]).details(logits)["brier"] == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "classes"), [(60, 3), (9, 4)])
def test_each_resample_is_scored_as_its_rows_would_be(rows: int, classes: int) -> None:
    logits, labels = made_up(rows, classes)
    found = exam(labels, names_of(classes)).resampled(logits, resamples=20, seed=5)
    random = np.random.default_rng(5)
    for index in range(20):
        drawn = random.integers(rows, size=rows)
        expected = scored(logits[drawn], labels[drawn]) | exam(labels[drawn], names_of(classes)).details(logits[drawn])
        assert found.keys() == expected.keys()
        assert {name: values[index] for name, values in found.items()} == pytest.approx(expected)


def test_resamples_depend_on_the_seed_alone() -> None:
    logits, labels = made_up(80, 3)
    first, same, other = (
        exam(labels).resampled(logits, resamples=50, seed=seed)["accuracy"].tolist() for seed in (7, 7, 8)
    )
    assert first == same != other


def test_mcnemar_counts_the_rows_that_only_one_of_both_gets_right() -> None:
    labels = np.zeros(12, dtype=int)
    reference = np.eye(2)[[0] * 9 + [1] * 3]
    logits = np.eye(2)[[1] * 8 + [0] * 2 + [1] * 2]  # loses 8 of the reference's, wins 1
    found = exam(labels).discordant(logits, reference)
    assert (found["rows_lost"], found["rows_won"]) == (8, 1)
    assert found["mcnemar_p"] == pytest.approx(2 * (1 + 9) / 2**9)  # P(at most 1 of 9 fair tosses), both sides
    assert exam(labels).discordant(reference, reference)["mcnemar_p"] == 1.0


def test_scaling_finds_the_temperature_that_the_logits_were_divided_by() -> None:
    random = np.random.default_rng(3)
    honest = random.normal(size=(4000, 3)) * 2
    shares = softmax(honest)
    labels = np.array([random.choice(3, p=row) for row in shares])
    found = exam(labels).calibrated(honest * 3)
    assert found["temperature"] == pytest.approx(3.0, rel=0.1)
    assert found["ece_scaled"] < 0.03 < scored(honest * 3, labels)["ece"]


def test_scaling_changes_no_answer_and_one_row_is_enough() -> None:
    found = exam([0]).calibrated(np.array([[2.0, 0.0]]))
    assert all(math.isfinite(value) for value in found.values())


def test_credit_adds_up_to_the_accuracy() -> None:
    logits, labels = made_up(50, 3)
    assert exam(labels).credit(logits).mean() == scored(logits, labels)["accuracy"]


def test_majority_is_the_share_of_the_most_frequent_class() -> None:
    assert exam([1, 0, 1, 2, 1]).trivial() == pytest.approx(0.6)


def test_fidelity_is_agreement_divergence_and_the_order_of_confidence() -> None:
    reference = np.log([[0.75, 0.25], [0.5, 0.5]])
    logits = np.log([[0.25, 0.75], [0.8, 0.2]])
    first = 0.75 * math.log(3) + 0.25 * math.log(1 / 3)
    second = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    expected = {"agreement": 0.5, "kl": (first + second) / 2, "confidence_correlation": -1.0}
    assert TASK.fidelity(logits, reference, None) == pytest.approx(expected)


def test_fidelity_to_itself_is_perfect() -> None:
    logits, _ = made_up(20, 3)
    expected = {"agreement": 1.0, "kl": 0.0, "confidence_correlation": 1.0}
    assert TASK.fidelity(logits, logits + 3, None) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"), [("auto", ("accuracy", 1.0)), ("loss", ("loss", -1.0)), ("ece", ("ece", -1.0))]
)
def test_best_checkpoint_is_chosen_by_a_metric_and_its_direction(name: str, expected: tuple[str, float]) -> None:
    assert TASK.objective(name) == expected


def test_unknown_metric_for_the_best_checkpoint_is_refused_with_its_key() -> None:
    with pytest.raises(ConfigError, match="did you mean 'accuracy'") as caught:
        TASK.objective("acuracy")
    assert caught.value.key == ("training", "metric_for_best_model")


# -- answers -------------------------------------------------------------------------------------------------


def test_ensemble_is_the_weighted_mean_of_the_probabilities() -> None:
    first, second = np.log([[0.9, 0.1]]) + 4, np.log([[0.2, 0.8]])
    found = softmax(TASK.ensemble([first, second], [3.0, 1.0]))
    np.testing.assert_allclose(found, [[(3 * 0.9 + 0.2) / 4, (3 * 0.1 + 0.8) / 4]], rtol=1e-6)


def test_ensemble_of_one_keeps_its_logits() -> None:
    logits, _ = made_up(5, 3)
    np.testing.assert_array_equal(TASK.ensemble([logits], [2.0]), logits)


def test_best_order_finds_how_the_classes_were_swapped() -> None:
    logits, labels = made_up(120, 4)
    truth = (logits.argmax(-1) == labels).mean()
    swapped = np.empty_like(logits)
    swapped[:, [2, 0, 3, 1]] = logits
    order, accuracy = exam(labels).best_order(swapped)
    assert order == [2, 0, 3, 1]
    assert accuracy == pytest.approx(truth)
    np.testing.assert_array_equal(swapped[:, order], logits)


def test_best_order_of_classes_in_order_is_their_order() -> None:
    assert exam([0, 1, 2, 1]).best_order(np.eye(3)[[0, 1, 2, 2]]) == ([0, 1, 2], 0.75)


def test_hard_answers_are_sure_from_the_least_confidence_on() -> None:
    labels, sure = TASK.hard_answers(np.log([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]), None, 0.59)
    assert labels.tolist() == [0, 1, -100]
    assert sure.tolist() == [True, True, False]


def test_every_answer_is_sure_enough_by_default() -> None:
    _, sure = TASK.hard_answers(made_up(20, 3)[0], None, 0.0)
    assert sure.all()


def test_answers_are_names_and_confidences() -> None:
    found = TASK.answers(np.log([[0.9, 0.1], [0.25, 0.75]]), None, ["no", "yes"], labelled("no", "no"), Data())
    assert found["prediction"] == ["no", "yes"]
    assert found["confidence"] == pytest.approx([0.9, 0.75])


def test_task_is_found_by_name() -> None:
    assert tasks.find("text-classification").main_metric == "accuracy"


def test_unknown_task_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'text-classification'"):
        tasks.find("text-clasification")
