"""Multi-label classification: any number of labels per row, tuned thresholds, metrics and losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
import torch
from conftest import Configs, run, sentences, write_rows

from tinybert_cli import losses, metrics, tasks
from tinybert_cli.config import Data
from tinybert_cli.data import splits
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics.multi_label import MultiLabelMetric, best_thresholds
from tinybert_cli.stages import checks
from tinybert_cli.tasks.label_lists import read_label_lists
from tinybert_cli.types import Array, Predictions, Rows

TASK = tasks.find_prediction_task("multi-label-classification")
NAMES = ["arts", "news", "sport"]


def rows_of(*labels: Any) -> Rows:
    return Rows({"text": ["a"] * len(labels), "label": list(labels)}, (("rows.jsonl", len(labels)),))


def random_logits(rows: int = 200, classes: int = 3, seed: int = 0) -> tuple[Array, Array]:
    """Logits that are right more often than not, too low for a threshold of 0.5, and labels; later classes are rarer."""
    random = np.random.default_rng(seed)
    labels = (random.random((rows, classes)) < np.array([0.5, 0.3, 0.1])[:classes]).astype(np.float32)
    logits = random.normal(size=(rows, classes)) + 2 * labels - np.array([1.0, 2.5, 4.0])[:classes]
    return logits.astype(np.float32), labels


def metric_for(labels: Array) -> MultiLabelMetric:
    return MultiLabelMetric(labels, NAMES[: labels.shape[1]])


def predictions_of(logits: Array) -> Predictions:
    return TASK.predictions(logits, None, NAMES[: logits.shape[1]], rows_of(*[[]] * len(logits)), Data())


def scores_of(logits: Array, labels: Array) -> dict[str, float]:
    return metrics.score(metric_for(labels), predictions_of(logits))


# -- labels --------------------------------------------------------------------------------------------------


def test_names_are_the_sorted_labels_of_all_rows() -> None:
    rows = rows_of(["sport", "arts"], [], ["news"], None)
    assert TASK.label_names(rows, Data(), model_names=None) == NAMES


def test_labels_are_lists_or_separated_text_of_names_or_indices() -> None:
    labels = TASK.labels(rows_of(["sport", "arts"], "news | sport", [], "", [1], None), Data(), NAMES)
    assert labels is not None
    assert labels[:5].tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert np.isnan(labels[5]).all()


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (["sprot"], "unknown label 'sprot'"),
        (3, "expected a list of labels, found 3"),
        ([["arts"]], "expected a list of labels, found [['arts']]"),
    ],
)
def test_bad_labels_are_an_error_with_their_row(bad: Any, what: str) -> None:
    with pytest.raises(InputError) as caught:
        TASK.labels(rows_of(["arts"], bad), Data(), NAMES)
    assert (caught.value.what, caught.value.where) == (what, "rows.jsonl, row 2")


def labels_of(*labels: Any, names: list[str] = NAMES, **settings: Any) -> list[list[float]]:
    result = TASK.labels(rows_of(*labels), Data(**settings), names)
    assert result is not None
    lists: list[list[float]] = result.tolist()
    return lists


def error_of(*labels: Any, names: list[str] | None = NAMES, **settings: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        read_label_lists(rows_of(*labels), Data(**settings), names)
    return caught.value


@pytest.mark.parametrize(
    "labels",
    [
        ([1, 0, 1], [0, 0, 0]),
        ([1.0, 0.0, 1.0], [0.0, 0.0, 0.0]),
        ([True, False, True], [False, False, False]),
        ("[1, 0, 1]", "[0 0 0]"),
        ("1|0|1", "0|0|0"),
        ("[1. 0. 1.]", "[0., 0., 0.]"),
        ("[true, false, true]", "[False, False, False]"),
    ],
)
def test_lists_of_0_and_1_for_each_class_are_vectors(labels: tuple[Any, ...]) -> None:
    assert labels_of(*labels) == [[1, 0, 1], [0, 0, 0]]
    assert TASK.label_names(rows_of(*labels), Data(), model_names=None) == ["0", "1", "2"]
    assert TASK.label_names(rows_of(*labels), Data(label_names=NAMES), model_names=None) == NAMES


@pytest.mark.parametrize("labels", [([0, 1], [2]), ([0, 1], []), ([1], [0]), ([0, 1], [0, 1]), ([0.0, 1.0], [2.0])])
def test_other_lists_of_numbers_are_positions(labels: tuple[Any, ...]) -> None:
    assert labels_of(*labels)[0] == [float(index in labels[0]) for index in range(3)]


def test_lists_of_numbers_are_compared_by_value_with_numeric_names() -> None:
    assert labels_of([1], ["3"], [2.0, 3], names=["1", "2", "3"]) == [[1, 0, 0], [0, 0, 1], [0, 1, 1]]


def test_two_numbers_for_two_classes_are_rejected_unless_one_repeats() -> None:
    error = error_of([0, 1], [1, 0], names=["a", "b"])
    assert error.what == "[0, 1] could be two positions or a vector of 0 and 1, in every row"
    assert error.where == "rows.jsonl, row 1"
    assert labels_of([0, 1], [1, 1], names=["a", "b"]) == [[0, 1], [1, 1]]
    assert labels_of([0, 1], [1], names=["a", "b"]) == [[1, 1], [0, 1]]
    assert labels_of([False, True], [True, False], names=["a", "b"]) == [[0, 1], [1, 0]]
    assert error_of([0, 1], [1, 0], names=None).what == error.what


@pytest.mark.parametrize("labels", [[1, 0, 0, 1], [2, 2], [True], [1, 0, 0.5, 0]])
def test_numbers_that_are_neither_positions_nor_a_vector_are_rejected(labels: list[Any]) -> None:
    error = error_of([0], labels)
    assert error.what == (
        f"{labels!r} is neither a list of positions, which repeats none, nor a vector of 0 and 1, 3, one per class"
    )
    assert error.where == "rows.jsonl, row 2"


def test_mapped_vector_is_rejected(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "t.jsonl", [{"text": "a", "label": [1, 0, 0]}])
    settings = Data(train_file=str(file), label_names={"0": "no", "1": "yes"})
    with pytest.raises(InputError, match="a list of labels repeats one: yes, no, no"):
        TASK.label_names(splits.read(settings, "train"), settings, model_names=None)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("['food', 'complaint']", ["food", "complaint"]),
        ('["food","complaint"]', ["food", "complaint"]),
        ("['food' 'complaint']", ["food", "complaint"]),
        ("('food', 'complaint',)", ["food", "complaint"]),
        ("{'food'}", ["food"]),
        ("""["it's", 'a "b"', "caf\\u00e9"]""", ["it's", 'a "b"', "caf\u00e9"]),
        ("['a, b', 'c|d']", ["a, b", "c|d"]),
        ("[]", []),
        (" [ ] ", []),
        ("", []),
        ("food|complaint", ["food", "complaint"]),
        ("food", ["food"]),
        ("New York | L.A.", ["New York", "L.A."]),
    ],
)
def test_cells_are_list_text_or_separated_by_a_bar(cell: str, expected: list[str]) -> None:
    read = read_label_lists(rows_of(cell), Data(), None)
    assert read is not None and read.lists == [expected]


@pytest.mark.parametrize(
    ("cell", "separator", "named"),
    [
        ("food, complaint", ",", "','"),
        ("food; complaint", ";", "';'"),
        ("food\tcomplaint", "\t", "tabs"),
        ("1 0 0", " ", "spaces"),
        ("\u98df\u54c1\uff0c\u6295\u8bc9", "\uff0c", "'\uff0c'"),
        ("a|food, complaint", ",", "','"),
    ],
)
def test_other_separators_are_rejected_by_name(cell: str, separator: str, named: str) -> None:
    error = error_of("food", cell, names=None)
    assert error.what.endswith(f"could be one label or several, separated by {named}")
    assert error.where == "rows.jsonl, row 2" and error.hint is not None
    assert f"data.label_separator: {json.dumps(separator)};" in error.hint


def test_brackets_around_names_without_quotes_are_no_part_of_a_label() -> None:
    error = error_of("food", "[food, complaint]", names=None)
    assert error.what.endswith("could be one label or several, separated by ','")
    assert (
        error.hint is not None and "remove the brackets" in error.hint and 'data.label_separator: ","' not in error.hint
    )
    for cell, separator in {"[food, complaint]": ",", "[food|complaint]": "|"}.items():
        with pytest.raises(InputError, match="would be parts of its first and its last label") as caught:
            labels_of("food", cell, label_separator=separator)
        assert caught.value.where == "rows.jsonl, row 2"
    names = ["[a]", "[b]", "arts"]
    assert labels_of("[a]|arts", "[a]|[b]", names=names, label_separator="|") == [[1, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("separator", [",", ";", "/", " ", "::"])
def test_label_separator_splits_the_cells(separator: str) -> None:
    cells = separator.join(["arts", "sport"]), f"news{separator} "
    assert labels_of(*cells, label_separator=separator) == [[1, 0, 1], [0, 1, 0]]


def test_cell_that_is_a_known_name_is_one_label() -> None:
    names = ["Smith, John", "other"]
    assert labels_of("Smith, John", "Smith, John|other", names=names) == [[1, 0], [1, 1]]
    assert labels_of("Smith, John", names=names, label_separator="|") == [[1, 0]]


def test_class_with_another_separator_is_a_warning() -> None:
    rows, settings = rows_of("food, drink", "complaint; food", "food"), Data(label_separator=";")
    (warning,) = TASK.label_warnings(rows, settings, TASK.label_names(rows, settings, model_names=None))
    assert warning.startswith("1 class looks like several labels: 'food, drink'")


def test_classes_that_look_alike_are_counted() -> None:
    rows = rows_of(["arts", "sport"], ["Arts"], ["arts"])
    (warning,) = TASK.label_warnings(rows, Data(), TASK.label_names(rows, Data(), model_names=None))
    assert "'Arts' (1), 'arts' (2)" in warning


# -- one column per class ------------------------------------------------------------------------------------


def columns_of(**columns: list[Any]) -> Rows:
    rows = len(next(iter(columns.values())))
    return Rows({"text": ["a"] * rows, **columns}, (("rows.csv", rows),))


COLUMNS = Data(label_column_name=["arts", "news", "sport"])


@pytest.mark.parametrize("cells", [(0, 1), ("0", "1"), (0.0, 1.0), ("0.0", "1.0"), (False, True), ("False", "TRUE")])
def test_columns_have_0_or_1_for_each_class(cells: tuple[Any, Any]) -> None:
    no, yes = cells
    rows = columns_of(arts=[yes, no, None], news=[no, no, ""], sport=[yes, no, None])
    assert TASK.label_names(rows, COLUMNS, model_names=None) == NAMES
    labels = TASK.labels(rows, COLUMNS, NAMES)
    assert labels is not None and labels[:2].tolist() == [[1, 0, 1], [0, 0, 0]] and np.isnan(labels[2]).all()


@pytest.mark.parametrize("cell", [2, "x", -1, None, "0.5"])
def test_other_cells_in_the_column_of_a_class_are_rejected(cell: Any) -> None:
    with pytest.raises(InputError, match="'news': expected 0 or 1, found") as caught:
        TASK.labels(columns_of(arts=[1, 0], news=[0, cell], sport=[0, 0]), COLUMNS, NAMES)
    assert caught.value.where == "rows.csv, row 2"


def test_missing_column_of_a_class_is_rejected() -> None:
    with pytest.raises(InputError, match="no column 'sport'"):
        TASK.labels(columns_of(arts=[1], news=[0], sports=[0]), COLUMNS, NAMES)


def test_columns_without_labels_are_no_labels() -> None:
    assert TASK.labels(columns_of(other=[1]), COLUMNS, NAMES) is None
    assert TASK.labels(columns_of(arts=[-1], news=[-1], sport=["-1"]), COLUMNS, NAMES) is None


@pytest.mark.parametrize("names", [["A", "N", "S"], {"arts": "A", "news": "N", "sport": "S"}])
def test_label_names_rename_the_columns(names: Any) -> None:
    rows, settings = columns_of(arts=[1], news=[0], sport=[0]), Data(**dict(COLUMNS) | {"label_names": names})
    assert TASK.label_names(rows, settings, model_names=["A", "N", "S"]) == ["A", "N", "S"]
    with pytest.raises(InputError, match="label names or their order differ"):
        TASK.label_names(rows, settings, model_names=["A", "S", "N"])


def test_several_label_columns_are_for_multi_label_classification_only(configs: Configs) -> None:
    for setting in ({"data__label_column_name": ["a", "b"]}, {"data__label_separator": ","}):
        with pytest.raises(ConfigError, match="label"):
            checks.check("finetune", configs("finetune", "out", model="m", **setting))


def test_every_stage_reads_one_column_per_class(data: Path, configs: Configs, base_model: Path) -> None:
    for split in ("train", "validation"):
        rows = [{"text": row["text"], **{name: int(row["label"] == name) for name in ("good", "bad")}}
                for row in sentences(split)]  # fmt: skip
        write_rows(data / f"{split}.jsonl", rows)
    settings = {"task": "multi-label-classification", "data__label_column_name": ["good", "bad"]}
    run("finetune", configs("finetune", "out", model=base_model, training__max_steps=2, **settings))
    label = configs("gen-soft-labels", "labels", teacher=data.parent / "out", check_teacher=False, **settings)
    run("gen-soft-labels", label)
    student = configs("distill", "student", student=data.parent / "out", label_dataset=data.parent / "labels",
                      losses={"hard_labels": 1.0}, training__max_steps=2, **settings)  # fmt: skip
    *_, done = run("distill", student)
    assert "eval_f1_micro" in done
    run("eval", configs("eval", "eval", models={"m": str(data.parent / "student")}, latency=None, **settings))


def test_an_ensemble_of_equal_models_labels_like_one_of_them(data: Path, configs: Configs, base_model: Path) -> None:
    for split in ("train", "validation"):
        write_rows(data / f"{split}.jsonl", [row | {"label": [row["label"]]} for row in sentences(split)])
    task: dict[str, Any] = {"task": "multi-label-classification"}
    run("finetune", configs("finetune", "model", model=base_model, training__max_steps=2, **task))
    model, labels = str(data.parent / "model"), []
    answers = write_rows(data / "answers.jsonl", [row | {"answer": [row["label"]]} for row in sentences("train")[:1]])
    beside = [{"answers_file": str(answers)}, model]
    for name, teacher in (("one", model), ("both", [model, model]), ("beside", beside)):
        run("gen-soft-labels", configs("gen-soft-labels", name, teacher=teacher, check_teacher=False, **task))
        manifest = json.loads((data.parent / name / "manifest.json").read_text())
        table = pq.read_table(data.parent / name / "train-00000-of-00001.parquet").to_pydict()
        labels.append((manifest["tuned_settings"]["thresholds"], table["teacher_prediction"]))
    assert labels[1] == (pytest.approx(labels[0][0]), labels[0][1])
    assert labels[2][0] == pytest.approx(labels[0][0]) and labels[2][1][1:] == labels[0][1][1:]


def test_training_rows_need_a_label_somewhere() -> None:
    with pytest.raises(InputError, match="none of 2 rows has a label"):
        TASK.check_trainable(np.zeros((2, 3), dtype=np.float32), NAMES, rows_of([], []))


def test_some_labels_of_a_training_row_may_be_missing_but_not_all() -> None:
    labels = np.array([[1, np.nan, 0], [np.nan, np.nan, np.nan]], dtype=np.float32)
    TASK.check_trainable(labels[:1], NAMES, rows_of([]))
    with pytest.raises(InputError, match="a row without a label") as caught:
        TASK.check_trainable(labels, NAMES, rows_of(["arts"], None))
    assert caught.value.where == "rows.jsonl, row 2"


# -- metrics -------------------------------------------------------------------------------------------------


def test_metrics_equal_scikit_learn() -> None:
    logits, labels = random_logits()
    logits += 2
    predicted, scores = logits >= 0, scores_of(logits, labels)
    assert scores["f1_micro"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="micro"))
    assert scores["f1_macro"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="macro"))
    assert scores["map"] == pytest.approx(sklearn.metrics.average_precision_score(labels, logits, average="macro"))
    assert scores["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    probabilities = 1 / (1 + np.exp(-logits.astype(float)))
    log_losses = [sklearn.metrics.log_loss(*pair) for pair in zip(labels.T, probabilities.T, strict=True)]
    assert scores["loss"] == pytest.approx(np.mean(log_losses))


def test_extra_metrics_equal_scikit_learn() -> None:
    logits, labels = random_logits()
    scores = scores_of(logits, labels)
    assert scores["hamming_loss"] == pytest.approx(sklearn.metrics.hamming_loss(labels, logits >= 0))
    assert scores["recall[news]"] == pytest.approx(sklearn.metrics.recall_score(labels[:, 1], logits[:, 1] >= 0))


def test_score_has_every_metric_of_the_task() -> None:
    names = {name.partition("[")[0] for name in scores_of(*random_logits())}
    assert names == {*TASK.metrics, *TASK.extra_metrics}


def test_resampled_values_equal_the_score_of_the_drawn_rows() -> None:
    logits, labels = random_logits(40)
    metric, predictions = metric_for(labels), predictions_of(logits)
    result = metrics.resampled(metric, predictions, metric.statistics(predictions), resamples=10, seed=5)
    random = np.random.default_rng(5)
    for index in range(10):
        drawn = random.integers(40, size=40)
        expected = scores_of(logits[drawn], labels[drawn])
        del expected["map"]
        assert {name: values[index] for name, values in result.items()} == pytest.approx(expected)


def test_majority_baseline_is_always_the_most_frequent_classes() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [1, 1, 0]], dtype=np.float32)
    expected = max(2 * 4 / (4 + 7), 2 * 6 / (8 + 7), 2 * 7 / (12 + 7))
    assert metric_for(labels).majority_baseline() == pytest.approx(expected)


def test_row_scores_references_and_label_slices_by_hand() -> None:
    metric = metric_for(np.array([[1, 1, 0], [0, 0, 0]], dtype=np.float32))
    statistics = metric.statistics(predictions_of(np.array([[1.0, 1.0, -1.0], [-1.0, 1.0, -1.0]])))
    assert metric.row_scores(statistics).tolist() == [1.0, 0.0]
    assert metric.references == [["arts", "news"], []]
    assert {name: rows.tolist() for name, rows in metric.label_slices().items()} == {
        "arts": [True, False], "news": [True, False], "sport": [False, False], "none": [False, True],
    }  # fmt: skip


def test_mcnemar_counts_rows_without_a_mistake() -> None:
    metric = metric_for(np.array([[1, 0, 0], [1, 0, 0]], dtype=np.float32))
    right, wrong = np.array([[1.0, -1, -1]] * 2), np.array([[1.0, -1, 1], [1, -1, -1]])
    statistics, reference = (metric.statistics(predictions_of(values)) for values in (wrong, right))
    assert metric.paired_test(statistics, reference) == {"rows_lost": 1, "rows_won": 0, "mcnemar_p": 1.0}


def test_confidences_are_those_of_every_decision() -> None:
    metric, predictions = metric_for(np.array([[1.0, 1.0]])), predictions_of(np.log([[4.0, 0.25]]))
    confidence, correct = metric.confidences(predictions, metric.statistics(predictions))
    assert (confidence.tolist(), correct.tolist()) == (pytest.approx([0.8, 0.8]), [True, False])


# -- thresholds ----------------------------------------------------------------------------------------------


def test_tuned_thresholds_are_better_than_half_and_than_a_grid() -> None:
    logits, labels = random_logits()
    settings = metric_for(labels).tune_thresholds(logits)
    tuned = scores_of(TASK.apply_thresholds(logits, None, settings), labels)["f1_micro"]
    assert tuned > scores_of(logits, labels)["f1_micro"] + 0.1
    grid = np.linspace(-4, 2, 10)
    on_grid = [
        sklearn.metrics.f1_score(labels, logits >= np.array([a, b, c]), average="micro")
        for a in grid for b in grid for c in grid
    ]  # fmt: skip
    assert tuned >= max(on_grid) - 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_tuning_never_makes_the_score_worse(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits, labels = random.normal(size=(30, 3)).round(1), (random.random((30, 3)) < 0.2).astype(np.float32)
    settings = metric_for(labels).tune_thresholds(logits)
    tuned = scores_of(TASK.apply_thresholds(logits, None, settings), labels)["f1_micro"]
    assert tuned >= scores_of(logits, labels)["f1_micro"]


def test_threshold_is_halfway_between_the_logits_that_it_separates() -> None:
    (threshold,) = best_thresholds(np.array([[-3.0], [-2.0], [1.0]]), np.array([[0], [1], [1]], dtype=np.float32))
    assert threshold == pytest.approx(1 / (1 + np.exp(2.5)))


def test_tuned_settings_are_the_keys_of_tune_thresholds() -> None:
    logits, labels = random_logits(20)
    assert metric_for(labels).tune_thresholds(logits).keys() == set(TASK.tuned_settings)


def test_thresholds_change_the_prediction_but_not_the_probabilities() -> None:
    logits = np.array([[-1.0, -1.0, 1.0]], dtype=np.float32)
    config = {"thresholds": [0.1, 0.9, 0.9]}
    output = TASK.format_prediction(["a"], logits, None, NAMES, config)
    assert output["prediction"] == ["arts"]
    assert output["probabilities"]["sport"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert TASK.format_prediction(["a"], logits, None, NAMES, {})["prediction"] == ["sport"]


@pytest.mark.parametrize("bad", [[0.5, 0.5], [0.5, 0.5, 1.0], [0.5, 0.5, "0.5"], [0.5, 0.5, None], 0.3])
def test_thresholds_that_do_not_fit_are_an_error(bad: Any) -> None:
    with pytest.raises(InputError, match=r"thresholds for 3 classes|is no list: 0\.3"):
        TASK.apply_thresholds(np.zeros((1, 3)), None, {"thresholds": bad})


# -- predictions ---------------------------------------------------------------------------------------------


def test_predictions_are_lists_of_names_with_the_least_confidence() -> None:
    predictions = predictions_of(np.log([[4.0, 0.5, 3.0], [0.5, 0.5, 0.25]]))
    assert predictions.values == [["arts", "sport"], []]
    assert predictions.confidences == pytest.approx([2 / 3, 2 / 3])


def test_decisions_below_min_confidence_are_missing_labels() -> None:
    labels, selected = TASK.hard_labels(np.array([[4.0, -4.0, 0.1], [0.1, 0.0, -0.1]]), None, 0.9)
    assert labels[0, :2].tolist() == [1, 0] and np.isnan(labels[0, 2])
    assert selected.tolist() == [True, False]


def test_agreement_is_the_share_of_rows_with_the_same_labels() -> None:
    reference = predictions_of(np.array([[1.0, -1.0], [1.0, 1.0]]))
    result = TASK.fidelity(predictions_of(np.array([[2.0, -2.0], [1.0, -1.0]])), reference)
    assert result["agreement"] == 0.5 and result["kl"] > 0
    assert TASK.fidelity(reference, reference)["kl"] == pytest.approx(0)


def test_ensemble_is_the_weighted_mean_of_the_probabilities() -> None:
    first, second = (np.log(np.array([[probability]]) / (1 - probability)) for probability in (0.9, 0.2))
    ensemble = TASK.ensemble([first, second], [3.0, 1.0])
    assert 1 / (1 + np.exp(-ensemble.item())) == pytest.approx((3 * 0.9 + 0.2) / 4, rel=1e-5)


# -- losses --------------------------------------------------------------------------------------------------


def test_thresholds_of_an_ensemble_are_the_weighted_mean_of_the_models() -> None:
    settings: list[dict[str, Any]] = [{"thresholds": [0.1, 0.5, 0.9]}, {}]
    mean = TASK.mean_settings(settings, [3.0, 1.0], NAMES)
    assert mean == {"thresholds": pytest.approx([0.2, 0.5, 0.8])}
    assert TASK.mean_settings([{}, {}], [1.0, 1.0], NAMES) == {}
    with pytest.raises(InputError, match="2 thresholds for 3 classes"):
        TASK.mean_settings([{"thresholds": [0.1, 0.5]}, {}], [1.0, 1.0], NAMES)


@pytest.mark.parametrize("seed", range(3))
def test_an_ensemble_decides_as_models_that_agree(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = [random.normal(size=(50, 3)).astype(np.float32) for _ in range(2)]
    settings = [{"thresholds": random.uniform(0.1, 0.9, size=3).tolist()} for _ in range(2)]
    one, other = (TASK.apply_thresholds(*pair) >= 0 for pair in zip(logits, [None, None], settings, strict=True))
    mean = TASK.apply_thresholds(
        TASK.ensemble(logits, [2.0, 1.0]), None, TASK.mean_settings(settings, [2.0, 1.0], NAMES)
    )
    agreed = one == other
    assert agreed.any() and ((mean >= 0) == one)[agreed].all()


def test_soft_labels_are_the_binary_cross_entropy_to_the_teacher() -> None:
    student, teacher = np.array([[0.5, -1.0]]), np.array([[2.0, 1.0]])
    p, q = (1 / (1 + np.exp(-values / 2)) for values in (teacher, student))
    expected = -(p * np.log(q) + (1 - p) * np.log(1 - q)).mean() * 4
    outputs = [{"logits": torch.from_numpy(values)} for values in (student, teacher)]
    assert losses.LOSS_SETS["classes"].soft_labels(*outputs, {}, temperature=2.0).item() == pytest.approx(expected)


def test_hard_labels_ignore_missing_labels() -> None:
    batch = {"labels": torch.tensor([[1.0, torch.nan], [torch.nan, 0.0]])}
    logits = torch.tensor([[0.5, 9.0], [9.0, 0.5]])
    loss = losses.LOSS_SETS["classes"].hard_labels({"logits": logits}, {}, batch)
    assert loss.item() == pytest.approx((np.log1p(np.exp(-0.5)) + np.log1p(np.exp(0.5))) / 2, rel=1e-5)


def test_balanced_weights_are_equal_in_sum_for_yes_and_no() -> None:
    labels = np.array([[1, 0], [0, 0], [0, 1], [0, np.nan]], dtype=np.float32)
    balanced = losses.LOSS_SETS["classes"].balanced
    assert balanced is not None
    weights = balanced(labels)
    np.testing.assert_allclose(weights[:, 0], [4 / 2, 4 / 6, 4 / 6, 4 / 6], rtol=1e-6)
    np.testing.assert_allclose(weights[:, 1], [3 / 4, 3 / 4, 3 / 2, 0], rtol=1e-6)
