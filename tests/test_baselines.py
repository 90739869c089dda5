"""Baselines: what each predicts, on rows small enough to count by hand, and how `eval` shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from conftest import Configs, run, sentences, write_rows

from tinybert_cli import tasks
from tinybert_cli.baselines import BASELINES, Training, tfidf
from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, GateError, InputError
from tinybert_cli.metrics.probabilities import softmax
from tinybert_cli.stages.checks import check
from tinybert_cli.types import Array, Rows


def rows_of(**columns: list[Any]) -> Rows:
    return Rows(columns, (("rows.jsonl", len(next(iter(columns.values())))),))


def outputs(task_name: str, name: str, training: Rows, rows: Rows, names: list[str], **data: Any) -> Array:
    """What a baseline computes for rows after it is fitted on others."""
    task, settings = tasks.find_prediction_task(task_name), Data(**data)
    labels = task.labels(training, settings, names)
    assert labels is not None
    return BASELINES[task_name][name](Training(task, settings, names, training, labels), 42).compute(rows)


REVIEWS = rows_of(
    text=["a good film", "good music", "a bad film", "bad", "very bad", "no opinion"],
    label=["yes", "yes", "no", "no", "no", None],
)


def test_the_majority_has_the_shares_of_the_labelled_rows() -> None:
    logits = outputs("text-classification", "majority", REVIEWS, rows_of(text=["x", "y"]), ["yes", "no"])
    assert softmax(logits) == pytest.approx(np.array([[0.4, 0.6]] * 2))


def test_a_class_without_rows_has_a_finite_logit() -> None:
    logits = outputs("text-classification", "majority", REVIEWS, rows_of(text=["x"]), ["yes", "no", "never"])
    assert np.isfinite(logits).all()
    assert softmax(logits)[0, 2] == pytest.approx(1e-6, rel=1e-3)


def test_tfidf_classifies_by_words_and_leaves_absent_classes_out() -> None:
    rows = rows_of(text=["a good play", "a bad play"])
    logits = outputs("text-classification", "tfidf", REVIEWS, rows, ["never", "yes", "no"])
    assert logits.argmax(-1).tolist() == [1, 2]
    assert softmax(logits)[:, 0] == pytest.approx(1e-6, rel=1e-3)


def test_tfidf_of_many_classes_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"c{index}" for index in range(30)]
    training = rows_of(text=[f"w{index} v{index}" for index in range(30)] * 8, label=names * 8)
    task, settings = tasks.find_prediction_task("text-classification"), Data()
    labels = task.labels(training, settings, names)
    assert labels is not None
    complete = BASELINES[task.name]["tfidf"](Training(task, settings, names, training, labels), 42)
    monkeypatch.setattr(tfidf, "MOST_WORK", 1)
    monkeypatch.setattr(tfidf, "LEAST_ITERATIONS", 2)
    monkeypatch.setattr(tfidf, "MANY_CLASSES", 15)
    monkeypatch.setattr(tfidf, "MOST_CHARACTERS", 8 * 30 * 5)
    short = BASELINES[task.name]["tfidf"](Training(task, settings, names, training, labels), 42)
    assert complete.parts[1].n_iter_.max() > 2 and short.parts[1].n_iter_.max() == 2
    assert (complete.training_rows, short.training_rows) == (240, pytest.approx(105, abs=20))  # half of the characters


def test_tfidf_splits_chinese_into_characters() -> None:
    training = rows_of(text=["这个很好", "好看的书", "这个很差", "差的书"], label=["yes", "yes", "no", "no"])
    logits = outputs("text-classification", "tfidf", training, rows_of(text=["好", "差"]), ["yes", "no"])
    assert logits.argmax(-1).tolist() == [0, 1]


def test_tfidf_of_a_pair_reads_whether_the_texts_are_alike() -> None:
    texts = ["a b c", "d e f", "g h i", "j k l", "m n o", "p q r"]
    others = ["a b c", "x y z", "g h i", "u v w", "m n o", "s t u"]
    training = rows_of(one=texts, two=others, label=["same", "other"] * 3)
    rows = rows_of(one=["d e f", "a b c"], two=["d e f", "q r s"])
    logits = outputs(
        "text-classification", "tfidf", training, rows, ["same", "other"], text_column_names=["one", "two"]
    )
    assert logits.argmax(-1).tolist() == [0, 1]


def test_training_rows_without_words_are_an_error() -> None:
    training = rows_of(text=[" ", "", " "], label=["yes", "no", "no"])
    with pytest.raises(InputError, match="have no words"):
        outputs("text-classification", "tfidf", training, rows_of(text=["x"]), ["yes", "no"])


def test_a_part_of_the_rows_has_two_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfidf, "MOST_CHARACTERS", 200)
    training = rows_of(text=["good"] * 2_000 + ["bad"], label=["yes"] * 2_000 + ["no"])
    logits = outputs("text-classification", "tfidf", training, rows_of(text=["good", "bad"]), ["yes", "no"])
    assert logits.argmax(-1).tolist() == [0, 1]


def test_rows_that_share_no_word_are_an_error() -> None:
    training = rows_of(text=[f"w{row}" for row in range(tfidf.LEAST_ROWS)], label=["yes", "no"] * 500)
    with pytest.raises(InputError, match="no word occurs in two training rows"):
        outputs("text-classification", "tfidf", training, rows_of(text=["x"]), ["yes", "no"])


def test_contexts_without_words_are_an_error() -> None:
    training = rows_of(question=["q"], context=["_"], answers=[{"text": [], "answer_start": []}])
    data = {"text_column_names": ["question", "context"], "label_column_name": "answers"}
    with pytest.raises(InputError, match="contexts of the training rows have no words"):
        outputs("question-answering", "best-sentence", training, training, ["begin", "end"], **data)


def test_multi_label_baselines_have_one_decision_per_label() -> None:
    training = rows_of(text=["good food", "good room", "food", "room"], label=[["f"], ["r"], ["f"], ["r"]])
    data = {"label_names": ["f", "r", "never"]}
    for name, expected in (("majority", [0.5, 0.5, 0.0]), ("tfidf", None)):
        logits = outputs(
            "multi-label-classification", name, training, rows_of(text=["the food"]), ["f", "r", "never"], **data
        )
        probabilities = 1 / (1 + np.exp(-logits[0].astype(np.float64)))
        assert probabilities[2] < 1e-5
        if expected:
            assert probabilities == pytest.approx(expected, abs=1e-5)
        else:
            assert probabilities[0] > 0.5 > probabilities[1]


def test_the_mean_of_a_regression_ignores_rows_without_a_value() -> None:
    training = rows_of(text=["a", "b", "c"], label=[1.0, 4.0, None])
    assert outputs("regression", "mean", training, rows_of(text=["d", "e"]), ["label"]).tolist() == [[2.5], [2.5]]


def test_the_regression_of_a_pair_grows_with_the_cosine() -> None:
    training = rows_of(one=["a b", "c d", "e f"], two=["a b", "c x", "y z"], label=[5.0, 3.0, 0.0])
    rows = rows_of(one=["a b", "a b"], two=["a b", "y z"])
    values = outputs("regression", "tfidf", training, rows, ["label"], text_column_names=["one", "two"])
    assert values[0, 0] == pytest.approx(5, abs=1) and values[1, 0] == pytest.approx(0, abs=1)


def test_the_dictionary_knows_words_then_lower_case_then_the_most_frequent_tag() -> None:
    training = rows_of(tokens=[["May", "may", "may", "run", "Rome"]], tags=[["B", "O", "O", "O", "B"]])
    rows = rows_of(tokens=[["May", "may"], [], ["ROME", "else"]])
    data = {"text_column_names": "tokens", "label_column_name": "tags"}
    logits = outputs("token-classification", "dictionary", training, rows, ["O", "B"], **data)
    assert logits.argmax(-1).tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("name", ["majority", "dictionary"])
def test_baselines_of_tagging_count_rows_with_tags_not_words(name: str) -> None:
    task, settings = tasks.find_prediction_task("token-classification"), Data(text_column_names="tokens")
    rows = rows_of(tokens=[["a", "b"], [], ["c"], ["d"]], label=[["O", "B"], [], None, ["O"]])
    labels = task.labels(rows, settings, ["O", "B"])
    assert labels is not None
    baseline = BASELINES[task.name][name](Training(task, settings, ["O", "B"], rows, labels), 42)
    assert baseline.training_rows == 2


def test_the_best_sentence_is_a_span_of_the_context() -> None:
    context = "Rome is old. Ada wrote the first program in 1843! It was short."
    training = rows_of(question=["q"], context=[context], answers=[{"text": ["Rome"], "answer_start": [0]}])
    rows = rows_of(question=["Who wrote the program?", "x"], context=[context, ""])
    data = {"text_column_names": ["question", "context"], "label_column_name": "answers"}
    spans = outputs("question-answering", "best-sentence", training, rows, ["begin", "end"], **data)
    begin, end = spans[0, :2].astype(int)
    assert context[begin:end] == "Ada wrote the first program in 1843!"
    assert spans[1].tolist() == [0, 0, 0]


# -- in `eval` ---------------------------------------------------------------------------------------------------


def evaluated(events: list[Any]) -> dict[str, Any]:
    return {row["model"]: row for row in events if row["event"] == "model"}


def test_eval_scores_the_baselines_of_the_task_last(configs: Configs, teacher: Path) -> None:
    latency = {"batch_sizes": [1], "lengths": ["data"]}
    events = run("eval", configs("eval", "out", models={"teacher": str(teacher)}, latency=latency, bootstrap=20))
    scores = evaluated(events)
    assert list(scores) == ["teacher", "majority", "tfidf"]
    assert [row["is_baseline"] for row in scores.values()] == [False, True, True]
    assert scores["majority"]["accuracy"] == 0.5 and scores["tfidf"]["accuracy"] > 0.8
    assert scores["tfidf"]["accuracy_low"] < scores["tfidf"]["accuracy"]
    assert scores["tfidf"]["training_rows"] == 96 and scores["tfidf"]["bytes"] > scores["majority"]["bytes"] > 0
    assert scores["tfidf"]["latency_ms_b1"] > 0 and "speedup_b1" in scores["tfidf"]


def test_the_card_of_an_export_has_the_baselines_of_the_eval_before_it(
    configs: Configs, teacher: Path, tmp_path: Path
) -> None:
    run("eval", configs("eval", "out", models={"teacher": str(teacher)}, latency=None, bootstrap=0))
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["baselines"] == ["majority", "tfidf"]
    run("export", configs("export", "exported", model=str(teacher), verify__max_samples=16))
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "on the same 48 rows of validation" in card
    for title, name in (("the model", "teacher"), ("tfidf", "tfidf"), ("majority", "majority")):
        assert f"| {title} | {numbers[f'{name}.accuracy']:.4f} |" in card


def test_a_baseline_is_in_the_pages_but_has_no_regressions(configs: Configs, teacher: Path, tmp_path: Path) -> None:
    run("eval", configs("eval", "out", models={"teacher": str(teacher)}, latency=None, bootstrap=0))
    assert "| majority | tfidf |" in (tmp_path / "out" / "report.md").read_text()
    assert "tfidf" in (tmp_path / "out" / "report.html").read_text()
    assert pyarrow.parquet.read_table(tmp_path / "out" / "regressions.parquet").num_rows == 0
    assert "tfidf_prediction" in pyarrow.parquet.read_schema(tmp_path / "out" / "predictions.parquet").names


def test_the_training_rows_are_an_input_of_the_baselines(configs: Configs, teacher: Path, tmp_path: Path) -> None:
    config = configs("eval", "out", models={"teacher": str(teacher)}, latency=None, bootstrap=0)
    run("eval", config)
    inputs = json.loads((tmp_path / "out" / "manifest.json").read_text())["inputs"]
    assert "data.train_file" in inputs
    without = configs("eval", "none", models={"teacher": str(teacher)}, latency=None, bootstrap=0, baselines=[])
    assert list(evaluated(run("eval", without))) == ["teacher"]
    assert "data.train_file" not in json.loads((tmp_path / "none" / "manifest.json").read_text())["inputs"]


def test_a_model_that_is_no_better_than_a_baseline_is_a_warning(configs: Configs, teacher: Path, data: Path) -> None:
    other = {"good": "bad", "bad": "good"}
    for split in ("train", "validation"):
        write_rows(data / f"{split}.jsonl", [row | {"label": other[row["label"]]} for row in sentences(split)])
    config = configs("eval", "out", models={"m": str(teacher)}, latency=None, bootstrap=0, baselines=["tfidf"])
    messages = [row["message"] for row in run("eval", config) if row["event"] == "warning"]
    assert any(message.startswith("m is no better than the baseline tfidf: accuracy 0.") for message in messages)


def warnings_of(events: list[Any]) -> list[str]:
    return [row["message"] for row in events if row["event"] == "warning"]


def test_scored_rows_that_are_training_rows_are_a_warning(configs: Configs, teacher: Path, data: Path) -> None:
    rows = sentences("validation")
    write_rows(data / "train.jsonl", [*sentences("train"), *rows[:7]])
    config = configs("eval", "out", models={"m": str(teacher)}, latency=None, bootstrap=0)
    (message,) = [text for text in warnings_of(run("eval", config)) if "occur in the training set" in text]
    assert "of 48 validation rows also occur" in message and "validation scores will be optimistic" in message


def test_training_rows_with_positions_instead_of_names_are_a_warning(
    configs: Configs, teacher: Path, data: Path
) -> None:
    write_rows(data / "train.jsonl", [row | {"label": int(row["label"] == "bad")} for row in sentences("train")])
    config = configs("eval", "out", models={"m": str(teacher)}, latency=None, bootstrap=0)
    expected = "training rows of the baselines: integer labels are read as positions in the model's classes: 0 = bad"
    assert any(text.startswith(expected) for text in warnings_of(run("eval", config)))


def test_without_a_training_file_there_is_no_baseline(configs: Configs, teacher: Path, data: Path) -> None:
    (data / "train.jsonl").unlink()
    settings = {"models": {"teacher": str(teacher)}, "latency": None, "bootstrap": 0}
    assert list(evaluated(run("eval", configs("eval", "out", **settings)))) == ["teacher"]
    with pytest.raises(InputError, match="train"):
        run("eval", configs("eval", "out2", baselines=["majority"], **settings))


def test_training_rows_that_do_not_fit_are_a_warning(configs: Configs, teacher: Path, data: Path) -> None:
    write_rows(data / "train.jsonl", [{"text": "fine", "label": "excellent"}, {"text": "dull", "label": "bad"}])
    settings = {"models": {"teacher": str(teacher)}, "latency": None, "bootstrap": 0}
    events = run("eval", configs("eval", "out", **settings))
    messages = [row["message"] for row in events if row["event"] == "warning"]
    assert list(evaluated(events)) == ["teacher"]
    assert any("no baseline majority, tfidf" in message and "excellent" in message for message in messages)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baselines": ["tf-idf"]}, "unknown baseline 'tf-idf'"),
        ({"baselines": ["mean"]}, "unknown baseline 'mean'"),
        ({"baselines": ["majority"], "models": {"majority": "x"}}, "'majority' is a model and a baseline"),
        ({"baselines": ["majority"], "split": "train"}, "baselines are fitted on the training rows"),
    ],
)
def test_a_baseline_that_cannot_be_is_an_error(configs: Configs, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check("eval", configs("eval", "out", **{"models": {"m": "x"}, **settings}))


def test_a_baseline_may_be_required_to_lose(configs: Configs, teacher: Path) -> None:
    settings = {"models": {"teacher": str(teacher)}, "latency": None, "bootstrap": 0, "baselines": ["majority"]}
    with pytest.raises(GateError, match=r"majority.accuracy is 0.5000, required is 0.9"):
        run("eval", configs("eval", "out", require={"majority": {"accuracy": 0.9}}, **settings))
