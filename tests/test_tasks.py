"""Text classification: class names, labels, encoding, predictions and metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from tinybert_cli import metrics, tasks
from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics import calibration
from tinybert_cli.metrics.calibration import calibration_error, gaps_by_bin, temperature_scaling
from tinybert_cli.metrics.classification import ClassificationMetric
from tinybert_cli.metrics.comparison import best_class_order
from tinybert_cli.metrics.probabilities import softmax
from tinybert_cli.tasks.text_classification import TextClassification
from tinybert_cli.types import Array, Predictions, Rows

TASK = TextClassification()
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "tea", "was", "hot", "cold", "##er", "not"]
CLS, SEP, THE, TEA, WAS, HOT, COLD, ER = 2, 3, 5, 6, 7, 8, 9, 10


def rows_of(**columns: list[Any]) -> Rows:
    return Rows(columns, (("rows.csv", len(next(iter(columns.values())))),))


def metric_for(labels: Sequence[int] | Array, names: Sequence[str] | None = None) -> ClassificationMetric:
    gold = np.asarray(labels)
    return ClassificationMetric(gold, class_names(max(2, 1 + int(gold.max()))) if names is None else list(names))


def class_names(classes: int) -> list[str]:
    return [f"c{index}" for index in range(classes)]


def predictions_of(logits: Array) -> Predictions:
    names = class_names(logits.shape[-1])
    return TASK.predictions(logits, None, names, labelled(*[names[0]] * len(logits)), Data())


def scores_of(logits: Array, labels: Sequence[int] | Array, names: Sequence[str] | None = None) -> dict[str, float]:
    return metrics.score(metric_for(labels, names), predictions_of(logits))


def labelled(*values: Any) -> Rows:
    return rows_of(text=["the tea"] * len(values), label=list(values))


# -- label names ---------------------------------------------------------------------------------------------


def test_names_in_the_data_are_sorted() -> None:
    assert TASK.label_names(labelled("no", "yes", None, "maybe", "no"), Data(), model_names=None) == [
        "maybe",
        "no",
        "yes",
    ]


def test_names_of_a_dataset_are_in_its_order() -> None:
    rows = Rows({"text": ["a"], "label": ["world"]}, (("hub", 1),), {"label": ["world", "arts"]})
    assert TASK.label_names(rows, Data(), model_names=None) == ["world", "arts"]


def test_class_indices_get_the_names_of_the_model() -> None:
    assert TASK.label_names(labelled(0, 1), Data(), model_names=["no", "yes"]) == ["no", "yes"]


def test_names_of_the_data_get_the_order_of_the_model() -> None:
    assert TASK.label_names(labelled("a", "c"), Data(), model_names=["c", "b", "a"]) == ["c", "b", "a"]


def test_rows_without_labels_get_the_names_of_the_model() -> None:
    assert TASK.label_names(rows_of(text=["a"]), Data(), model_names=["no", "yes"]) == ["no", "yes"]


def test_no_names_in_rows_or_model_is_an_error() -> None:
    with pytest.raises(InputError) as caught:
        TASK.label_names(rows_of(text=["a"]), Data(), model_names=None)
    assert caught.value.what == "no column 'label' in rows.csv"
    with pytest.raises(InputError) as caught:
        TASK.label_names(labelled(None, ""), Data(), model_names=None)
    assert caught.value.what == "no labels in rows.csv, row 1"


@pytest.mark.parametrize("names", [["yes", "no"], ["no", "maybe"], ["no", "yes", "maybe"]])
def test_names_or_order_unlike_the_model_is_an_error_with_both_lists(names: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        TASK.label_names(labelled(0, 1), Data(label_names=names), model_names=["no", "yes"])
    lines = caught.value.what.splitlines()[1:]
    assert [line.strip() for line in lines] == [f"data:  {', '.join(names)}", "model: no, yes"]


def test_names_unknown_to_the_model_is_an_error_with_both_lists() -> None:
    with pytest.raises(InputError) as caught:
        TASK.label_names(labelled("no", "never", "yes"), Data(), model_names=["no", "yes"])
    first, *lines = caught.value.what.splitlines()
    assert first == "the data has labels that the model does not have: never"
    assert [line.strip() for line in lines] == ["data:  never, no, yes", "model: no, yes"]


# -- labels --------------------------------------------------------------------------------------------------


def labels_of(rows: Rows, names: Sequence[str] = ("no", "yes")) -> list[int]:
    labels = TASK.labels(rows, Data(), names)
    assert labels is not None
    assert labels.dtype == np.int64
    return labels.tolist()


def test_labels_are_names_or_indices_or_indices_as_text() -> None:
    assert labels_of(labelled("yes", 0, "1", 1, "no")) == [1, 0, 1, 1, 0]


def test_label_that_is_a_name_is_not_an_index() -> None:
    assert labels_of(labelled("1", "2", "0"), names=["2", "1", "0"]) == [1, 0, 2]


def test_missing_label_is_minus_100() -> None:
    assert labels_of(labelled("yes", None, "")) == [1, -100, -100]


def test_rows_without_a_label_column_have_no_labels() -> None:
    assert TASK.labels(rows_of(text=["a"]), Data(), ["no", "yes"]) is None


@pytest.mark.parametrize("bad", ["yess", 2, "2", -1, "-1", "Yes", 0.5, "²"])
def test_unknown_label_is_an_error_with_its_row(bad: object) -> None:
    with pytest.raises(InputError) as caught:
        TASK.labels(labelled("yes", "no", bad, "nope"), Data(), ["no", "yes"])
    assert caught.value.what == f"unknown label {bad!r}"
    assert caught.value.where == "rows.csv, row 3"
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("labels: no, yes")


def test_misspelt_label_suggests_the_nearest() -> None:
    with pytest.raises(InputError) as caught:
        TASK.labels(labelled("yess"), Data(), ["no", "yes"])
    assert caught.value.hint == "did you mean 'yes'?; labels: no, yes"


def test_training_rows_must_all_have_a_label() -> None:
    with pytest.raises(InputError, match="a row without a label") as caught:
        TASK.check_trainable(np.array([0, 1, -100, 1]), ["no", "yes"], labelled("no", "yes", None, "yes"))
    assert caught.value.where == "rows.csv, row 3"


def test_training_rows_must_have_two_classes() -> None:
    with pytest.raises(InputError, match="all 3 rows have the same label, yes: there is nothing to learn"):
        TASK.check_trainable(np.array([1, 1, 1]), ["no", "yes"], labelled(*["yes"] * 3))
    with pytest.raises(InputError, match="the only row has the label yes: there is nothing to learn"):
        TASK.check_trainable(np.array([1]), ["no", "yes"], labelled("yes"))


def test_two_classes_are_enough_for_training() -> None:
    TASK.check_trainable(np.array([2, 0, 2]), ["a", "b", "c"], labelled("c", "a", "c"))


# -- text ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def test_text_becomes_unpadded_token_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded = TASK.encode(rows_of(text=["The tea", "HOTTER hot colder"]), Data(), tokenizer)
    ids, padding = encoded.tokens["input_ids"]
    assert ids.tolist() == [CLS, THE, TEA, SEP, CLS, 1, HOT, COLD, ER, SEP]
    assert padding == 0
    assert encoded.offsets.tolist() == [0, 4, 10]
    assert (encoded.truncated, encoded.empty) == (0, [])


def test_pair_is_one_row_with_two_token_types(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = rows_of(one=["the tea", "hot"], two=["cold", "was colder"])
    encoded = TASK.encode(rows, Data(text_column_names=["one", "two"]), tokenizer)
    assert encoded.tokens["input_ids"][0].tolist() == [CLS, THE, TEA, SEP, COLD, SEP, CLS, HOT, SEP, WAS, COLD, ER, SEP]
    assert encoded.tokens["token_type_ids"][0].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    assert encoded.offsets.tolist() == [0, 6, 13]


def test_long_text_is_truncated_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["the tea was hot", "the tea", "the tea was cold the tea was hot", "tea was"]
    encoded = TASK.encode(rows_of(text=texts), Data(max_seq_length=4), tokenizer)
    assert encoded.truncated == 2
    assert np.diff(encoded.offsets).tolist() == [4, 4, 4, 4]
    assert encoded.tokens["input_ids"][0][:4].tolist() == [CLS, THE, TEA, SEP]


def test_long_pair_loses_tokens_of_its_longer_text(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = rows_of(one=["the tea was hot", "hot"], two=["cold", "cold"])
    encoded = TASK.encode(rows, Data(text_column_names=["one", "two"], max_seq_length=6), tokenizer)
    assert encoded.truncated == 1
    assert encoded.tokens["input_ids"][0][:6].tolist() == [CLS, THE, TEA, SEP, COLD, SEP]


def test_rows_after_the_first_chunk_are_in_order(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["hot" if i % 3 else "cold cold" for i in range(2001)]
    encoded = TASK.encode(rows_of(text=texts), Data(), tokenizer)
    assert np.diff(encoded.offsets).tolist() == [3 if i % 3 else 4 for i in range(2001)]
    ids = encoded.tokens["input_ids"][0]
    assert ids[encoded.offsets[:-1] + 1].tolist() == [HOT if i % 3 else COLD for i in range(2001)]


def test_rows_without_any_text_are_listed(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = rows_of(one=["", "a", " \n", "\t"], two=["b", "", "", " "])
    encoded = TASK.encode(rows, Data(text_column_names=["one", "two"]), tokenizer)
    assert encoded.empty == [2, 3]


def test_tokenizer_without_token_types_yields_none(tokenizer: PreTrainedTokenizerFast) -> None:
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        pad_token="[PAD]",
        model_input_names=["input_ids", "attention_mask"],
    )
    assert list(TASK.encode(rows_of(text=["tea"]), Data(), plain).tokens) == ["input_ids"]


@pytest.mark.parametrize("value", [None, 7, ["tea"]])
def test_row_that_is_not_text_is_an_error_with_its_row(value: object, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError) as caught:
        TASK.encode(rows_of(text=["tea", value]), Data(), tokenizer)
    assert caught.value.what == f"'text': expected text, found {value!r}"
    assert caught.value.where == "rows.csv, row 2"


def test_missing_text_column_suggests_the_nearest(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="did you mean 'text'"):
        TASK.encode(rows_of(text=["tea"]), Data(text_column_names="texts"), tokenizer)


# -- metrics -------------------------------------------------------------------------------------------------


def random_logits(rows: int, classes: int, seed: int = 0) -> tuple[Array, Array]:
    """Logits that are right more often than not, and gold labels, the first class more frequent."""
    random = np.random.default_rng(seed)
    labels = random.choice(classes, size=rows, p=np.arange(classes, 0, -1) / (classes * (classes + 1) / 2))
    logits = random.normal(size=(rows, classes)) + 1.5 * np.eye(classes)[labels]
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_equal_scikit_learn(classes: int) -> None:
    logits, labels = random_logits(150, classes)
    predicted, scores = logits.argmax(-1), scores_of(logits, labels)
    assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert scores["f1_macro"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="macro"))
    assert scores["mcc"] == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, predicted))
    log_loss = sklearn.metrics.log_loss(labels, softmax(logits), labels=range(classes))
    assert scores["loss"] == pytest.approx(log_loss, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_extra_metrics_equal_scikit_learn(classes: int) -> None:
    logits, labels = random_logits(150, classes)
    predicted, scores = logits.argmax(-1), scores_of(logits, labels)
    precision, recall = (
        function(labels, predicted, labels=[1], average="macro")
        for function in (sklearn.metrics.precision_score, sklearn.metrics.recall_score)
    )
    assert scores["f1_weighted"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="weighted"))
    assert (scores["precision[c1]"], scores["recall[c1]"]) == pytest.approx((precision, recall))


def test_score_has_every_metric_of_the_task() -> None:
    names = {name.partition("[")[0] for name in scores_of(*random_logits(20, 3))}
    assert names == {*TASK.metrics, *TASK.extra_metrics}


def test_loss_of_a_confident_wrong_prediction_is_finite() -> None:
    assert scores_of(np.array([[999.0, -999.0]]), [1])["loss"] == pytest.approx(1998.0)


def test_softmax_of_large_logits_is_exact() -> None:
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0 + math.log(3)]])), [[0.25, 0.75]])


def expected_calibration_error(confidence: Array, correct: Array) -> float:
    return float(calibration_error(gaps_by_bin(confidence, correct).sum(axis=0), np.array(len(confidence))))


def test_calibration_error_is_the_mean_gap_weighted_by_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "BINS", 10)
    confidence = np.array([0.92, 0.94, 0.55, 0.65])  # bins of a tenth: two rows, one row, one row
    correct = np.array([True, False, True, True])
    expected = (2 * abs(0.93 - 0.5) + abs(0.55 - 1) + abs(0.65 - 1)) / 4
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected)


def test_confidence_of_1_is_in_the_last_bin() -> None:
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == pytest.approx(0.5)


def test_brier_score_is_the_squared_distance_from_the_label() -> None:
    logits = np.log([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    expected = ((0.3**2 + 0.2**2 + 0.1**2) + (0.1**2 + 0.6**2 + 0.7**2)) / 2
    assert scores_of(logits, [0, 2])["brier"] == pytest.approx(expected)


def resampled(metric: ClassificationMetric, logits: Array, *, resamples: int, seed: int) -> dict[str, Array]:
    predictions = predictions_of(logits)
    return metrics.resampled(metric, predictions, metric.statistics(predictions), resamples=resamples, seed=seed)


@pytest.mark.parametrize(("rows", "classes"), [(60, 3), (9, 4)])
def test_resampled_values_equal_the_score_of_the_drawn_rows(rows: int, classes: int) -> None:
    logits, labels = random_logits(rows, classes)
    names = class_names(classes)
    result = resampled(metric_for(labels, names), logits, resamples=20, seed=5)
    random = np.random.default_rng(5)
    for index in range(20):
        drawn = random.integers(rows, size=rows)
        expected = scores_of(logits[drawn], labels[drawn], names)
        del expected["ece"]  # has no interval
        assert result.keys() == expected.keys()
        assert {name: values[index] for name, values in result.items()} == pytest.approx(expected)


def test_resampled_values_depend_on_the_seed_only() -> None:
    logits, labels = random_logits(80, 3)
    first, same, other = (
        resampled(metric_for(labels), logits, resamples=50, seed=seed)["accuracy"].tolist() for seed in (7, 7, 8)
    )
    assert first == same != other


def paired_test(metric: ClassificationMetric, logits: Array, reference: Array) -> dict[str, float]:
    return metric.paired_test(*(metric.statistics(predictions_of(values)) for values in (logits, reference)))


def test_mcnemar_counts_rows_that_only_one_model_gets_right() -> None:
    metric = metric_for(np.zeros(12, dtype=int))
    reference = np.eye(2)[[0] * 9 + [1] * 3]
    logits = np.eye(2)[[1] * 8 + [0] * 2 + [1] * 2]  # loses 8 of the reference's, wins 1
    result = paired_test(metric, logits, reference)
    assert (result["rows_lost"], result["rows_won"]) == (8, 1)
    assert result["mcnemar_p"] == pytest.approx(2 * (1 + 9) / 2**9)  # P(at most 1 of 9 fair tosses), both sides
    assert paired_test(metric, reference, reference)["mcnemar_p"] == 1.0


def test_temperature_scaling_recovers_the_true_temperature() -> None:
    random = np.random.default_rng(3)
    calibrated = random.normal(size=(4000, 3)) * 2
    labels = np.array([random.choice(3, p=probabilities) for probabilities in softmax(calibrated)])
    result = temperature_scaling(calibrated * 3, labels)
    assert result["temperature"] == pytest.approx(3.0, rel=0.1)
    assert result["ece_scaled"] < 0.03 < scores_of(calibrated * 3, labels)["ece"]


def test_temperature_scaling_of_one_row_is_finite() -> None:
    result = temperature_scaling(np.array([[2.0, 0.0]]), np.array([0]))
    assert len(result) == 3 and all(math.isfinite(value) for value in result.values())


def test_class_logits_are_the_decisions_that_are_calibrated() -> None:
    logits, labels = random_logits(20, 3)
    decisions, gold = metric_for(labels).class_logits(predictions_of(logits))
    np.testing.assert_array_equal(decisions, logits)
    np.testing.assert_array_equal(gold, labels)


def test_confidences_are_the_largest_probabilities() -> None:
    logits, labels = random_logits(20, 3)
    metric, predictions = metric_for(labels), predictions_of(logits)
    confidence, correct = metric.confidences(predictions, metric.statistics(predictions))
    np.testing.assert_allclose(confidence, softmax(logits).max(-1))
    assert correct.tolist() == (logits.argmax(-1) == labels).tolist()


def test_mean_of_the_row_scores_is_the_accuracy() -> None:
    logits, labels = random_logits(50, 3)
    metric = metric_for(labels)
    assert metric.row_scores(metric.statistics(predictions_of(logits))).mean() == scores_of(logits, labels)["accuracy"]


def test_majority_baseline_is_the_share_of_the_largest_class() -> None:
    assert metric_for([1, 0, 1, 2, 1]).majority_baseline() == pytest.approx(0.6)


def test_references_and_label_slices_are_class_names() -> None:
    metric = metric_for([1, 0, 1, 2])
    assert metric.references == ["c1", "c0", "c1", "c2"]
    assert {name: rows.tolist() for name, rows in metric.label_slices().items()} == {
        "c0": [False, True, False, False],
        "c1": [True, False, True, False],
        "c2": [False, False, False, True],
    }


def fidelity(logits: Array, reference: Array) -> dict[str, float]:
    return TASK.fidelity(predictions_of(logits), predictions_of(reference))


def test_fidelity_by_hand() -> None:
    reference = np.log([[0.75, 0.25], [0.5, 0.5]])
    logits = np.log([[0.25, 0.75], [0.8, 0.2]])
    first = 0.75 * math.log(3) + 0.25 * math.log(1 / 3)
    second = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    expected = {"agreement": 0.5, "kl": (first + second) / 2, "confidence_correlation": -1.0}
    assert fidelity(logits, reference) == pytest.approx(expected)


def test_fidelity_to_itself_is_perfect() -> None:
    logits, _ = random_logits(20, 3)
    expected = {"agreement": 1.0, "kl": 0.0, "confidence_correlation": 1.0}
    assert fidelity(logits, logits + 3) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"), [("auto", ("accuracy", 1.0)), ("loss", ("loss", -1.0)), ("ece", ("ece", -1.0))]
)
def test_objective_is_a_metric_and_its_direction(name: str, expected: tuple[str, float]) -> None:
    assert TASK.objective(name) == expected


def test_unknown_metric_for_best_model_is_an_error_with_its_key() -> None:
    with pytest.raises(ConfigError, match="did you mean 'accuracy'") as caught:
        TASK.objective("acuracy")
    assert caught.value.key == ("training", "metric_for_best_model")


# -- predictions ---------------------------------------------------------------------------------------------


def test_ensemble_is_the_weighted_mean_of_the_probabilities() -> None:
    first, second = np.log([[0.9, 0.1]]) + 4, np.log([[0.2, 0.8]])
    probabilities = softmax(TASK.ensemble([first, second], [3.0, 1.0]))
    np.testing.assert_allclose(probabilities, [[(3 * 0.9 + 0.2) / 4, (3 * 0.1 + 0.8) / 4]], rtol=1e-6)


def test_ensemble_of_one_model_has_its_logits() -> None:
    logits, _ = random_logits(5, 3)
    np.testing.assert_array_equal(TASK.ensemble([logits], [2.0]), logits)


def test_best_class_order_finds_how_the_classes_were_swapped() -> None:
    logits, labels = random_logits(120, 4)
    accuracy = (logits.argmax(-1) == labels).mean()
    swapped = np.empty_like(logits)
    swapped[:, [2, 0, 3, 1]] = logits
    order = best_class_order(swapped, labels)
    assert order == [2, 0, 3, 1]
    assert scores_of(swapped[:, order], labels)["accuracy"] == pytest.approx(accuracy)
    np.testing.assert_array_equal(swapped[:, order], logits)


def test_best_class_order_of_correct_logits_is_the_identity() -> None:
    logits, labels = np.eye(3)[[0, 1, 2, 2]], np.array([0, 1, 2, 1])
    assert best_class_order(logits, labels) == [0, 1, 2]
    assert scores_of(logits, labels)["accuracy"] == 0.75


def test_hard_labels_need_the_minimum_confidence() -> None:
    labels, selected = TASK.hard_labels(np.log([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]), None, 0.59)
    assert labels.tolist() == [0, 1, -100]
    assert selected.tolist() == [True, True, False]


def test_min_confidence_0_selects_every_row() -> None:
    _, selected = TASK.hard_labels(random_logits(20, 3)[0], None, 0.0)
    assert selected.all()


def test_predictions_are_names_and_confidences() -> None:
    logits = np.log([[0.9, 0.1], [0.25, 0.75]])
    predictions = TASK.predictions(logits, None, ["no", "yes"], labelled("no", "no"), Data())
    assert predictions.values == ["no", "yes"]
    assert predictions.confidences == pytest.approx([0.9, 0.75])
    assert len(predictions) == 2 and [rows.tolist() for rows in predictions.by_row()] == logits[:, None].tolist()


def test_metric_is_none_without_a_label_column_or_with_withheld_labels() -> None:
    assert TASK.metric(rows_of(text=["a"]), Data(), ["no", "yes"]) is None
    assert TASK.metric(labelled(-1, -1), Data(), ["no", "yes"]) is None


def test_metric_needs_a_label_in_every_row() -> None:
    with pytest.raises(InputError, match="a row without a label") as caught:
        TASK.metric(labelled("no", None), Data(), ["no", "yes"])
    assert caught.value.where == "rows.csv, row 2"


def test_task_is_found_by_name() -> None:
    assert tasks.find("text-classification").main_metric == "accuracy"


def test_unknown_task_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'text-classification'"):
        tasks.find("text-clasification")
