"""Regression: a number for each row, the metrics of the field, and the teacher's number as the soft label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_config
from scipy import stats
from sklearn import metrics

from tinybert_cli import losses, tasks
from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.stages import checks
from tinybert_cli.tasks.regression import ValueExam
from tinybert_cli.types import Rows

TASK = tasks.find_prediction_task("regression")
Array = np.ndarray[Any, np.dtype[Any]]


def rows_of(*values: Any) -> Rows:
    return Rows({"text": ["a"] * len(values), "label": list(values)}, (("rows.csv", len(values)),))


def made_up(rows: int = 60, seed: int = 0) -> tuple[Array, ValueExam]:
    random = np.random.default_rng(seed)
    gold = (random.random(rows) * 5).round(1).astype(np.float32)
    return (gold + random.normal(size=rows))[:, None].astype(np.float32), ValueExam(gold, gold.tolist())


def test_labels_are_numbers_or_numbers_written_as_text() -> None:
    labels = TASK.labels(rows_of(3, 2.5, "1e-1", None, ""), Data(), ["label"])
    assert labels is not None
    np.testing.assert_allclose(labels, [3, 2.5, 0.1, np.nan, np.nan], rtol=1e-6)


@pytest.mark.parametrize("bad", ["high", True, [1.0], "inf", "nan"])
def test_what_is_no_number_is_named_with_its_row(bad: Any) -> None:
    with pytest.raises(InputError, match="is no number") as caught:
        TASK.labels(rows_of(1.0, bad), Data(), ["label"])
    assert caught.value.where == "rows.csv, row 2"


def test_the_one_output_is_called_as_the_column() -> None:
    assert TASK.label_names(rows_of(1.0), Data(), model_names=None) == ["label"]


@pytest.mark.parametrize(("values", "what"), [((2.0, 2.0), "have the same value, 2"), ((1.0, None), "without a label")])
def test_values_that_teach_nothing_are_refused(values: tuple[Any, ...], what: str) -> None:
    labels = TASK.labels(rows_of(*values), Data(), ["label"])
    assert labels is not None
    with pytest.raises(InputError, match=what):
        TASK.check_trainable(labels, ["label"], rows_of(*values))


def test_metrics_are_those_of_scipy_and_scikit_learn() -> None:
    logits, exam = made_up()
    said, found = logits[:, 0], exam.score(logits)
    assert found["pearson"] == pytest.approx(stats.pearsonr(said, exam.labels).statistic, rel=1e-5)
    assert found["spearman"] == pytest.approx(stats.spearmanr(said, exam.labels).statistic)
    assert found["r2"] == pytest.approx(metrics.r2_score(exam.labels, said), rel=1e-5)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(exam.labels, said), rel=1e-5)
    assert found["loss"] == pytest.approx(metrics.mean_squared_error(exam.labels, said), rel=1e-5)
    assert found.keys() == TASK.metrics.keys() and exam.details(logits).keys() == set(TASK.detailed)


def test_a_model_that_always_says_the_same_has_no_correlation() -> None:
    _, exam = made_up()
    assert exam.score(np.ones((60, 1)))["pearson"] == exam.trivial() == 0.0


def test_each_resample_is_scored_as_its_rows_would_be() -> None:
    logits, exam = made_up()
    found = exam.resampled(logits, resamples=5, seed=2)
    drawn = np.random.default_rng(2).integers(60, size=60)
    assert found["pearson"][0] == pytest.approx(
        stats.pearsonr(logits[drawn, 0], exam.labels[drawn]).statistic, rel=1e-5
    )


def test_rows_that_are_further_off_are_lost() -> None:
    exam = ValueExam(np.array([1.0, 2.0, 3.0]), [1.0, 2.0, 3.0])
    found = exam.discordant(np.array([[1.5], [2.0], [3.0]]), np.array([[1.0], [2.0], [4.0]]))
    assert (found["rows_lost"], found["rows_won"]) == (1, 1)


def test_agreement_is_the_correlation_with_the_reference() -> None:
    reference = np.array([[1.0], [2.0], [3.0]])
    found = TASK.fidelity(reference * 2, reference, None)
    assert found["agreement"] == pytest.approx(1.0) and found["mean_difference"] == pytest.approx(2.0)
    assert TASK.fidelity(reference, reference, None) == {"agreement": 1.0, "mean_difference": 0.0}


def test_soft_labels_are_the_squared_error_to_the_teacher_and_not_to_the_data() -> None:
    ours, theirs = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]])
    outputs = losses.LOSS_SETS[TASK.outputs]
    batch = {"labels": torch.tensor([9.0, torch.nan])}
    assert outputs.soft_labels({"logits": ours}, {"logits": theirs}, batch).item() == pytest.approx((1 + 4) / 2)
    assert outputs.hard_labels({"logits": ours}, {}, batch).item() == pytest.approx(64.0)


@pytest.mark.parametrize("options", [{"temperature": 2.0}, {"class_weights": "balanced"}])
def test_a_number_has_neither_temperature_nor_classes(options: dict[str, Any]) -> None:
    name = "soft_labels" if "temperature" in options else "hard_labels"
    with pytest.raises(ConfigError, match="unknown option"):
        losses.combine({name: {"weight": 1.0, **options}}, TASK.outputs)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("label_smoothing", {"label_smoothing": 0.1}), ("class_weights", "balanced"), ("min_confidence", 0.5)],
)
def test_settings_about_classes_are_refused_before_anything_is_read(setting: str, value: Any) -> None:
    key = {"label_smoothing": "regularization"}.get(setting, setting)
    config = make_config("finetune", Path("data"), Path("out"), model="x", label_dataset="x", **{key: value})
    with pytest.raises(ConfigError) as caught:
        checks.check("finetune", config.model_copy(update={"task": "regression"}))
    assert caught.value.key[-1] == setting
