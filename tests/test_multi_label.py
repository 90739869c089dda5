"""Multi-label classification: any number of labels a row, thresholds that are tuned and kept, the metrics of the field."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from tinybert_cli import losses, tasks
from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.tasks.multi_label import ClassesExam, best_thresholds
from tinybert_cli.types import Rows

TASK = tasks.find_prediction_task("multi-label-classification")
NAMES = ["arts", "news", "sport"]
Array = np.ndarray[Any, np.dtype[Any]]


def rows_of(*labels: Any) -> Rows:
    return Rows({"text": ["a"] * len(labels), "label": list(labels)}, (("rows.jsonl", len(labels)),))


def made_up(rows: int = 200, classes: int = 3, seed: int = 0) -> tuple[Array, Array]:
    """Logits that are right more often than not, too low to be said at 0.5, and labels that are rarer class by class."""
    random = np.random.default_rng(seed)
    labels = (random.random((rows, classes)) < np.array([0.5, 0.3, 0.1])[:classes]).astype(np.float32)
    logits = random.normal(size=(rows, classes)) + 2 * labels - np.array([1.0, 2.5, 4.0])[:classes]
    return logits.astype(np.float32), labels


def exam(labels: Array) -> ClassesExam:
    words = [[name for name, mark in zip(NAMES, row, strict=False) if mark] for row in labels]
    return ClassesExam(labels, NAMES[: labels.shape[1]], words)


# -- labels --------------------------------------------------------------------------------------------------


def test_names_are_those_of_all_rows_in_order() -> None:
    rows = rows_of(["sport", "arts"], [], ["news"], None)
    assert TASK.label_names(rows, Data(), model_names=None) == NAMES


def test_labels_are_lists_or_cells_of_names_or_positions() -> None:
    labels = TASK.labels(rows_of(["sport", "arts"], "news | sport", [], "", [1], None), Data(), NAMES)
    assert labels is not None
    assert labels[:5].tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert np.isnan(labels[5]).all()


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (["sprot"], "unknown label 'sprot'"),
        (3, "3 is no list of labels"),
        ([["arts"]], "[['arts']] is no list of labels"),
    ],
)
def test_bad_labels_are_named_with_their_row(bad: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        TASK.labels(rows_of(["arts"], bad), Data(), NAMES)
    assert (caught.value.what, caught.value.where) == (what, "rows.jsonl, row 2")


def test_rows_without_any_label_cannot_be_trained_on() -> None:
    with pytest.raises(InputError, match="none of 2 rows has a label"):
        TASK.check_trainable(np.zeros((2, 3), dtype=np.float32), NAMES, rows_of([], []))


def test_answers_of_which_some_are_missing_can_be_trained_on_but_none_of_which_all_are() -> None:
    labels = np.array([[1, np.nan, 0], [np.nan, np.nan, np.nan]], dtype=np.float32)
    TASK.check_trainable(labels[:1], NAMES, rows_of([]))
    with pytest.raises(InputError, match="a row without a label") as caught:
        TASK.check_trainable(labels, NAMES, rows_of(["arts"], None))
    assert caught.value.where == "rows.jsonl, row 2"


# -- scores --------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_scikit_learn() -> None:
    logits, labels = made_up()
    logits += 2
    said, found = logits >= 0, exam(labels).score(logits)
    assert found["f1_micro"] == pytest.approx(metrics.f1_score(labels, said, average="micro"))
    assert found["f1_macro"] == pytest.approx(metrics.f1_score(labels, said, average="macro"))
    assert found["map"] == pytest.approx(metrics.average_precision_score(labels, logits, average="macro"))
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, said))
    shares = 1 / (1 + np.exp(-logits.astype(float)))
    assert found["loss"] == pytest.approx(
        np.mean([metrics.log_loss(*pair) for pair in zip(labels.T, shares.T, strict=True)])
    )
    assert found.keys() == TASK.metrics.keys()


def test_details_are_those_of_scikit_learn() -> None:
    logits, labels = made_up()
    found = exam(labels).details(logits)
    assert found["hamming_loss"] == pytest.approx(metrics.hamming_loss(labels, logits >= 0))
    assert found["recall[news]"] == pytest.approx(metrics.recall_score(labels[:, 1], logits[:, 1] >= 0))
    assert {name.partition("[")[0] for name in found} == set(TASK.detailed)


def test_each_resample_is_scored_as_its_rows_would_be() -> None:
    logits, labels = made_up(40)
    found = exam(labels).resampled(logits, resamples=10, seed=5)
    random = np.random.default_rng(5)
    for index in range(10):
        drawn = random.integers(40, size=40)
        part = exam(labels[drawn])
        expected = part.score(logits[drawn]) | part.details(logits[drawn])
        del expected["map"]
        assert {name: values[index] for name, values in found.items()} == pytest.approx(expected)


def test_always_saying_the_most_frequent_classes_is_trivial() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [1, 1, 0]], dtype=np.float32)
    assert exam(labels).trivial() == pytest.approx(max(2 * 4 / (4 + 7), 2 * 6 / (8 + 7), 2 * 7 / (12 + 7)))


# -- thresholds ----------------------------------------------------------------------------------------------


def test_tuned_thresholds_are_better_than_a_half_and_near_the_best_that_there_are() -> None:
    logits, labels = made_up()
    gold = exam(labels)
    decision = gold.tuned(logits)
    tuned = gold.score(TASK.settled(logits, None, decision))["f1_micro"]
    assert tuned > gold.score(logits)["f1_micro"] + 0.1
    grid = np.linspace(-4, 2, 40)
    everywhere = [
        metrics.f1_score(labels, logits >= np.array([a, b, c]), average="micro")
        for a in grid[::3] for b in grid[::3] for c in grid[::3]
    ]  # fmt: skip
    assert tuned >= max(everywhere) - 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_tuning_never_makes_it_worse(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(30, 3)).round(1), (random.random((30, 3)) < 0.2).astype(np.float32)
    gold = exam(labels)
    tuned = gold.score(TASK.settled(logits, None, gold.tuned(logits)))["f1_micro"]
    assert tuned >= gold.score(logits)["f1_micro"]


def test_a_threshold_stands_half_way_between_the_logits_that_it_parts() -> None:
    (threshold,) = best_thresholds(np.array([[-3.0], [-2.0], [1.0]]), np.array([[0], [1], [1]], dtype=np.float32))
    assert threshold == pytest.approx(1 / (1 + np.exp(2.5)))


def test_thresholds_decide_what_is_said_and_leave_the_probabilities_alone() -> None:
    logits = np.array([-1.0, -1.0, 1.0], dtype=np.float32)
    pieces: Any = None
    config = {"thresholds": [0.1, 0.9, 0.9]}
    said = TASK.reply("a", [(logits, pieces)], NAMES, config)
    assert said["prediction"] == ["arts"]
    assert said["probabilities"]["sport"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert TASK.reply("a", [(logits, pieces)], NAMES, {})["prediction"] == ["sport"]


@pytest.mark.parametrize("bad", [[0.5, 0.5], [0.5, 0.5, 1.0]])
def test_thresholds_that_do_not_fit_are_refused(bad: list[float]) -> None:
    with pytest.raises(InputError, match="thresholds for 3 classes"):
        TASK.settled(np.zeros((1, 3)), None, {"thresholds": bad})


# -- answers -------------------------------------------------------------------------------------------------


def test_decisions_that_are_unsure_are_no_labels_and_rows_without_any_are_left_out() -> None:
    labels, sure = TASK.hard_answers(np.array([[4.0, -4.0, 0.1], [0.1, 0.0, -0.1]]), None, 0.9)
    assert labels[0, :2].tolist() == [1, 0] and np.isnan(labels[0, 2])
    assert sure.tolist() == [True, False]


def test_agreement_is_the_share_of_rows_with_the_same_labels() -> None:
    reference = np.array([[1.0, -1.0], [1.0, 1.0]])
    found = TASK.fidelity(np.array([[2.0, -2.0], [1.0, -1.0]]), reference, None)
    assert found["agreement"] == 0.5 and found["kl"] > 0
    assert TASK.fidelity(reference, reference, None)["kl"] == pytest.approx(0)


def test_ensemble_is_the_weighted_mean_of_the_probabilities() -> None:
    first, second = (np.log(np.array([[share]]) / (1 - share)) for share in (0.9, 0.2))
    found = TASK.ensemble([first, second], [3.0, 1.0])
    assert 1 / (1 + np.exp(-found.item())) == pytest.approx((3 * 0.9 + 0.2) / 4, rel=1e-5)


# -- losses --------------------------------------------------------------------------------------------------


def test_soft_labels_are_the_binary_cross_entropy_of_both_models_probabilities() -> None:
    ours, theirs = np.array([[0.5, -1.0]]), np.array([[2.0, 1.0]])
    p, q = (1 / (1 + np.exp(-values / 2)) for values in (theirs, ours))
    expected = -(p * np.log(q) + (1 - p) * np.log(1 - q)).mean() * 4
    said = [{"logits": torch.from_numpy(values)} for values in (ours, theirs)]
    assert losses.LOSS_SETS["classes"].soft_labels(*said, {}, temperature=2.0).item() == pytest.approx(expected)


def test_hard_labels_leave_out_what_is_missing() -> None:
    batch = {"labels": torch.tensor([[1.0, torch.nan], [torch.nan, 0.0]])}
    logits = torch.tensor([[0.5, 9.0], [9.0, 0.5]])
    found = losses.LOSS_SETS["classes"].hard_labels({"logits": logits}, {}, batch)
    assert found.item() == pytest.approx((np.log1p(np.exp(-0.5)) + np.log1p(np.exp(0.5))) / 2, rel=1e-5)


def test_balanced_weights_make_yes_and_no_of_each_class_count_alike() -> None:
    labels = np.array([[1, 0], [0, 0], [0, 1], [0, np.nan]], dtype=np.float32)
    balanced = losses.LOSS_SETS["classes"].balanced
    assert balanced is not None
    weights = balanced(labels)
    np.testing.assert_allclose(weights[:, 0], [4 / 2, 4 / 6, 4 / 6, 4 / 6], rtol=1e-6)
    np.testing.assert_allclose(weights[:, 1], [3 / 4, 3 / 4, 3 / 2, 0], rtol=1e-6)
