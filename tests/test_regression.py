"""Regression: one number per row, its metrics, and its losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
import torch
from conftest import Configs, make_config, run, sentences, write_rows
from scipy import stats
from transformers import AutoConfig, AutoModelForSequenceClassification, pipeline

from tinybert_cli import losses, metrics, models, tasks
from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError, UserError
from tinybert_cli.metrics.regression import RegressionMetric
from tinybert_cli.models import OutputScale, output_scale
from tinybert_cli.predictor import load_predictor
from tinybert_cli.stages import checks, validation_scores
from tinybert_cli.types import Array, Predictions, Rows

TASK = tasks.find_prediction_task("regression")


def rows_of(*values: Any) -> Rows:
    return Rows({"text": ["a"] * len(values), "label": list(values)}, (("rows.csv", len(values)),))


def predictions_of(logits: Array) -> Predictions:
    return TASK.predictions(logits, None, ["label"], rows_of(*[0.0] * len(logits)), Data())


def random_predictions(rows: int = 60, seed: int = 0) -> tuple[Predictions, RegressionMetric]:
    random = np.random.default_rng(seed)
    gold = (random.random(rows) * 5).round(1).astype(np.float32)
    logits = (gold + random.normal(size=rows))[:, None].astype(np.float32)
    return predictions_of(logits), RegressionMetric(gold)


def values_of(predictions: Predictions) -> Array:
    assert predictions.logits is not None
    return predictions.logits[:, 0]


def test_labels_are_numbers_or_numbers_as_text() -> None:
    labels = TASK.labels(rows_of(3, 2.5, "1e-1", None, ""), Data(), ["label"])
    assert labels is not None
    np.testing.assert_allclose(labels, [3, 2.5, 0.1, np.nan, np.nan], rtol=1e-6)


@pytest.mark.parametrize("labels", [[-1, -1.0], ["-1", "-1.0"], [None, -1]])
def test_hidden_labels_are_none_also_as_text(labels: list[Any]) -> None:
    assert TASK.labels(rows_of(*labels), Data(), ["label"]) is None
    assert TASK.labels(rows_of(*labels, 2), Data(), ["label"]) is not None


@pytest.mark.parametrize(("labels", "message"), [([None, None], "no row has a label"), ([-1, -1], "every label is -1")])
def test_the_error_without_labels_says_what_the_column_has(labels: list[Any], message: str) -> None:
    assert TASK.labels(rows_of(*labels), Data(), ["label"]) is None
    assert tasks.no_labels_error(rows_of(*labels), Data()).what.startswith(message)


@pytest.mark.parametrize("labels", [["3,5", "4", "1,25"], ["0,125", "-2,000"], [2.0, "3,5"]])
def test_decimal_commas_are_read_where_the_labels_prove_them(labels: list[Any]) -> None:
    numbers = TASK.labels(rows_of(*labels), Data(), ["label"])
    assert numbers is not None
    assert numbers.tolist() == [float(str(label).replace(",", ".")) for label in labels]
    assert TASK.label_statements(rows_of(*labels), Data(), ["label"]) == ["labels have a decimal comma: 3,5 means 3.5"]


@pytest.mark.parametrize(
    ("labels", "plain"),
    [
        (["250,000"], ["250000"]),
        (["1,234.50"], ["1234.50"]),
        (["1,234,567", "1,5"], ["1234567", "1.5"]),
        (["3,5", "2.5"], ["3.5", "2.5"]),
    ],
)
def test_commas_that_may_divide_thousands_are_rejected(labels: list[str], plain: list[str]) -> None:
    with pytest.raises(InputError, match="expected a number, found") as caught:
        TASK.labels(rows_of(*labels), Data(), ["label"])
    assert caught.value.hint is not None and "thousands or decimals" in caught.value.hint
    assert TASK.labels(rows_of(*plain), Data(), ["label"]) is not None  # the remedy


@pytest.mark.parametrize("bad", ["high", True, [1.0], "inf", "nan"])
def test_label_that_is_not_a_number_is_an_error_with_its_row(bad: Any) -> None:
    with pytest.raises(InputError, match="expected a number, found") as caught:
        TASK.labels(rows_of(1.0, bad), Data(), ["label"])
    assert caught.value.where == "rows.csv, row 2"


def test_label_name_is_that_of_the_column() -> None:
    assert TASK.label_names(rows_of(1.0), Data(), model_names=None) == ["label"]


@pytest.mark.parametrize(("values", "what"), [((2.0, 2.0), "have the same value, 2"), ((1.0, None), "without a label")])
def test_constant_or_missing_training_values_are_an_error(values: tuple[Any, ...], what: str) -> None:
    labels = TASK.labels(rows_of(*values), Data(), ["label"])
    assert labels is not None
    with pytest.raises(InputError, match=what):
        TASK.check_trainable(labels, ["label"], rows_of(*values))


def test_metrics_equal_scipy_and_scikit_learn() -> None:
    predictions, metric = random_predictions()
    values, scores = values_of(predictions), metrics.score(metric, predictions)
    assert scores["pearson"] == pytest.approx(stats.pearsonr(values, metric.labels).statistic, rel=1e-5)
    assert scores["spearman"] == pytest.approx(stats.spearmanr(values, metric.labels).statistic)
    assert scores["r2"] == pytest.approx(sklearn.metrics.r2_score(metric.labels, values), rel=1e-5)
    assert scores["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(metric.labels, values), rel=1e-5)
    assert scores["loss"] == pytest.approx(sklearn.metrics.mean_squared_error(metric.labels, values), rel=1e-5)
    assert scores.keys() == {*TASK.metrics, *TASK.extra_metrics}


def test_nearness_is_1_minus_the_error_relative_to_the_label_range() -> None:
    metric = RegressionMetric(np.array([1.0, 2.0, 5.0]))
    predictions = predictions_of(np.array([[1.0], [4.0], [-9.0]]))
    assert metrics.score(metric, predictions)["nearness"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert metric.row_scores(metric.statistics(predictions)).tolist() == [1.0, 0.5, 0.0]


def test_constant_predictions_have_no_correlation() -> None:
    _, metric = random_predictions()
    assert metrics.score(metric, predictions_of(np.ones((60, 1))))["pearson"] == metric.majority_baseline() == 0.0


def test_resampled_values_equal_the_score_of_the_drawn_rows() -> None:
    predictions, metric = random_predictions()
    values = metrics.resampled(metric, predictions, metric.statistics(predictions), resamples=5, seed=2)
    drawn = np.random.default_rng(2).integers(60, size=60)
    expected = stats.pearsonr(values_of(predictions)[drawn], metric.labels[drawn]).statistic
    assert values["pearson"][0] == pytest.approx(expected, rel=1e-5)


def test_rows_with_the_larger_error_are_lost() -> None:
    metric = RegressionMetric(np.array([1.0, 2.0, 3.0]))
    logits, reference = np.array([[1.5], [2.0], [3.0]]), np.array([[1.0], [2.0], [4.0]])
    result = metric.paired_test(*(metric.statistics(predictions_of(values)) for values in (logits, reference)))
    assert (result["rows_lost"], result["rows_won"]) == (1, 1)


def test_wilcoxon_p_is_that_of_scipy_and_1_for_equal_predictions() -> None:
    predictions, metric = random_predictions()
    reference, _ = random_predictions(seed=1)
    statistics, reference_statistics = metric.statistics(predictions), metric.statistics(reference)
    worse = np.abs(values_of(predictions) - metric.labels) - np.abs(values_of(reference) - metric.labels)
    result = metric.paired_test(statistics, reference_statistics)
    assert result["wilcoxon_p"] == pytest.approx(stats.wilcoxon(worse).pvalue)
    assert (result["rows_lost"], result["rows_won"]) == ((worse > 0).sum(), (worse < 0).sum())
    assert metric.paired_test(statistics, statistics)["wilcoxon_p"] == 1.0


def test_agreement_is_the_correlation_with_the_reference() -> None:
    reference = np.array([[1.0], [2.0], [3.0]])
    double, equal = (
        TASK.fidelity(predictions_of(values), predictions_of(reference)) for values in (reference * 2, reference)
    )
    assert double["agreement"] == pytest.approx(1.0) and double["mean_difference"] == pytest.approx(2.0)
    assert equal == {"agreement": 1.0, "mean_difference": 0.0}


def test_predictions_are_numbers_without_confidence() -> None:
    predictions, metric = random_predictions(3)
    assert predictions.values == values_of(predictions).tolist() and predictions.confidences is None
    assert not TASK.has_confidence and metric.confidences(predictions, metric.statistics(predictions)) is None
    assert metric.class_logits(predictions) is None and metric.tune_thresholds(values_of(predictions)) == {}
    assert metric.references == metric.labels.tolist()


def test_soft_labels_are_the_squared_error_to_the_teacher() -> None:
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [4.0]])
    loss_set = losses.LOSS_SETS[TASK.output_type]
    batch = {"labels": torch.tensor([9.0, torch.nan])}
    assert loss_set.soft_labels({"logits": student}, {"logits": teacher}, batch).item() == pytest.approx((1 + 4) / 2)
    assert loss_set.hard_labels({"logits": student}, {}, batch).item() == pytest.approx(64.0)


@pytest.mark.parametrize("options", [{"temperature": 2.0}, {"class_weights": "balanced"}])
def test_temperature_and_class_weights_are_unknown_options(options: dict[str, Any]) -> None:
    name = "soft_labels" if "temperature" in options else "hard_labels"
    with pytest.raises(ConfigError, match="unknown option"):
        losses.combine({name: {"weight": 1.0, **options}}, TASK.output_type)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("label_smoothing", {"label_smoothing": 0.1}), ("class_weights", "balanced"), ("min_confidence", 0.5)],
)
def test_settings_for_classes_are_an_error_before_data_is_read(setting: str, value: Any) -> None:

    key = {"label_smoothing": "regularization"}.get(setting, setting)
    config = make_config("finetune", Path("data"), Path("out"), model="x", label_dataset="x", **{key: value})
    with pytest.raises(ConfigError) as caught:
        checks.check("finetune", config.model_copy(update={"task": "regression"}))
    assert caught.value.key[-1] == setting


# -- targets far from 0 and 1 --------------------------------------------------------------------------------


def write_prices(data: Path) -> None:
    """The sentences with a price of about 250,000: higher for good ones."""
    for split in ("train", "validation"):
        rows = [{"text": row["text"], "price": 250_000 + 80_000 * (1 if row["label"] == "good" else -1) + 10 * number}
                for number, row in enumerate(sentences(split))]  # fmt: skip
        write_rows(data / f"{split}.jsonl", rows)


PRICES = {"task": "regression", "data__label_column_name": "price"}


@pytest.fixture
def price_model(data: Path, configs: Configs, base_model: Path) -> tuple[Path, list[dict[str, Any]]]:
    write_prices(data)
    events = run("finetune", configs("finetune", "prices", model=base_model, training__num_train_epochs=8.0, **PRICES))
    return data.parent / "prices", events


def test_large_targets_are_learned_in_standard_units_and_predicted_in_their_own(
    price_model: tuple[Path, list[dict[str, Any]]], data: Path, configs: Configs
) -> None:
    folder, events = price_model
    (plan,) = [event for event in events if event["event"] == "plan"]
    assert plan["target_mean"] == pytest.approx(250_475, abs=100)
    assert plan["target_deviation"] == pytest.approx(80_000, rel=0.01)
    assert events[-1]["eval_r2"] > 0.8 and 1_000 < events[-1]["eval_mae"] < 30_000
    evaluations = [event["mae"] for event in events if event["event"] == "evaluate"]
    assert min(evaluations) == pytest.approx(events[-1]["eval_mae"], rel=1e-3)  # the folder is what was scored
    good, bad = (row["prediction"] for row in load_predictor(str(folder)).predict(["great lovely", "dull awful"]))
    assert good > 290_000 and bad < 210_000
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=folder, **PRICES))
    student = configs("distill", "student", student=folder, label_dataset=data.parent / "labels",
                      training__max_steps=1, training__learning_rate=1e-9, **PRICES)  # fmt: skip
    *_, done = run("distill", student)  # a trained head is changed to standard units and back
    assert done["eval_mae"] == pytest.approx(events[-1]["eval_mae"], rel=1e-3)


def test_standard_units_and_back_change_no_output() -> None:
    model = small_model("bert")
    inputs = torch.tensor([[2, 7, 8, 3]])
    expected = model(inputs).logits
    scale = OutputScale(250_000.0, 80_000.0)
    scale.standardize(model)
    np.testing.assert_allclose(model(inputs).logits.item(), (expected.item() - 250_000) / 80_000, rtol=1e-5)
    np.testing.assert_allclose(scale.restored(model)(inputs).logits.item(), expected.item(), atol=0.05)


def small_model(family: str) -> Any:
    config = AutoConfig.for_model(family, vocab_size=20, num_labels=1, pad_token_id=0, **SMALL.get(family, {}))
    for name in ("hidden_size", "intermediate_size", "embedding_size"):
        if hasattr(config, name):
            setattr(config, name, 16)
    config.num_hidden_layers, config.num_attention_heads = 1, 2
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(config).eval()


SMALL: dict[str, dict[str, Any]] = {"distilbert": {"dim": 16, "hidden_dim": 16}}


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert", "albert", "mpnet", "xlm-roberta"])
def test_output_layer_of_every_family_is_rescaled(family: str) -> None:
    model = small_model(family)
    inputs = torch.tensor([[2, 7, 8, 3]])
    expected = model(inputs).logits.item() * 80_000 + 250_000
    np.testing.assert_allclose(
        OutputScale(250_000.0, 80_000.0).restored(model)(inputs).logits.item(), expected, rtol=1e-5
    )


@pytest.mark.parametrize("values", [(0.0, 5.0), (1.0, 10.0), (0.0, 100.0), (2020.0, 2024.0), (0.5, 0.51)])
def test_all_targets_are_standardized(values: tuple[float, float]) -> None:
    scale = output_scale(np.array([*values, np.nan], dtype=np.float32), small_model("bert"))
    assert scale is not None
    np.testing.assert_allclose(scale.to_standard(np.array(values)), [-1, 1], rtol=1e-3)


def test_equal_targets_have_no_scale() -> None:
    assert output_scale(np.full(3, 2.5, dtype=np.float32), small_model("bert")) is None


@pytest.fixture
def star_config(data: Path, configs: Configs, base_model: Path) -> Any:
    """Ratings from 3.5 to 4.5, which are far from the outputs of a new head although they look harmless."""
    for split in ("train", "validation"):
        rows = [{"text": row["text"], "stars": 4.5 if row["label"] == "good" else 3.5} for row in sentences(split)]
        write_rows(data / f"{split}.jsonl", rows)
    settings = {"task": "regression", "data__label_column_name": "stars", "training__num_train_epochs": 8.0}
    return configs("finetune", "stars", model=base_model, **settings)


def test_ordinary_targets_are_predicted_with_their_mean_and_deviation(star_config: Any) -> None:
    *_, done = run("finetune", star_config)
    assert done["eval_r2"] > 0.5  # without the scale r2 is below -1


def test_regression_predicts_the_same_in_transformers_onnx_and_predict(
    star_config: Any, configs: Configs, data: Path
) -> None:
    run("finetune", star_config)
    folder, text = star_config.output_dir, "great lovely"
    settings = {"task": "regression", "data__label_column_name": "stars"}
    run("export", configs("export", "export", model=folder, **settings))
    card = (data.parent / "export" / "README.md").read_text()
    assert "| concordance with the model | 1.0000 |" in card and "predictions equal" not in card  # numbers never are
    predictor = pipeline("text-classification", folder, function_to_apply="none", device="cpu")
    in_transformers = predictor(text)[0]["score"]
    for model in (folder, str(data.parent / "export")):
        (prediction,) = load_predictor(model).predict([text])
        assert prediction["prediction"] == pytest.approx(in_transformers, rel=1e-4) and 4 < in_transformers < 5


def test_a_run_of_an_earlier_version_resumes_with_its_targets(
    star_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise UserError("stopped")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="stopped"):
        patch.setattr(models, "output_scale", lambda *_, **__: None)  # as earlier versions
        patch.setattr(validation_scores.ValidationScores, "result", stop)
        run("finetune", star_config)
    started = Path(star_config.output_dir) / "checkpoints" / "started.json"
    content = json.loads(started.read_text())
    del content["resolved"]
    content["settings"]["training"] |= {"eval_strategy": "epoch", "early_stopping_patience": None}  # its defaults
    started.write_text(json.dumps(content))
    plan, *_, done = run("finetune", star_config)
    assert "target_mean" not in plan and done["eval_r2"] > -1  # -16 if its outputs were scaled


def scored_sentences(factor: float = 1.0, shift: float = 0.0) -> list[dict[str, Any]]:
    """Sentences with a number of 4 or 1 and a little more, or of another scale."""
    numbers = [4 * (row["label"] == "good") + 1 + index % 3 / 4 for index, row in enumerate(sentences("train"))]
    rows = zip(sentences("train"), numbers, strict=True)
    return [{"text": row["text"], "label": factor * number + shift} for row, number in rows]


@pytest.mark.parametrize("factor, shift", [(0.2, 0.0), (1.0, 40.0), (-1.0, 6.5)])
@pytest.mark.parametrize("together", [False, True])
def test_numbers_of_a_teacher_on_another_scale_are_refused(
    factor: float, shift: float, together: bool, data: Path, configs: Configs, tmp_path: Path
) -> None:
    """The correlation is 1, also in the mean of two files."""
    write_rows(data / "train.jsonl", scored_sentences())
    teachers = []
    for name, rows in (("same", scored_sentences()), ("other", scored_sentences(factor, shift))):
        answers = [{"text": row["text"], "answer": row["label"]} for row in rows]
        teachers.append({"answers_file": str(write_rows(tmp_path / f"{name}.jsonl", answers))})
    setting = {"task": "regression", "teacher": teachers if together else teachers[1]}
    with pytest.raises(InputError, match="seem to have another scale") as error:
        run("gen-soft-labels", configs("gen-soft-labels", "labels", **setting))
    assert error.value.where == teachers[1]["answers_file"]
    added = f" {-shift / factor:+.4g}" if shift else ""
    assert f"label = {1 / factor:.4g} * number{added} fits" in error.value.what
    setting["teacher"] = teachers[0]
    run("gen-soft-labels", configs("gen-soft-labels", "labels", **setting))


def test_a_poor_teacher_of_regression_is_on_the_same_scale() -> None:
    from tinybert_cli.metrics.regression import other_scale

    random = np.random.default_rng(0)
    gold = random.normal(3, 1, 400)
    assert other_scale(gold + random.normal(0, 0.9, 400), gold) is None
    assert other_scale(random.normal(3, 1, 400), gold) is None  # does not follow them
    assert other_scale(np.full(400, 9.0), gold) is None
    assert other_scale(gold / 5, gold) == pytest.approx((5, 0), abs=1e-6)
