"""gen-soft-labels with files of answers as teachers, and training on the label datasets that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Configs, run, sentences, write_rows

from tinybert_cli import configuration, tasks
from tinybert_cli import data as data_module
from tinybert_cli.answers import AnswerLabels, combined
from tinybert_cli.config import Finetune
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics.calibration import fitted_temperature
from tinybert_cli.metrics.probabilities import softmax
from tinybert_cli.types import Layout

OTHER = {"good": "bad", "bad": "good"}
Write = Callable[..., Path]


@pytest.fixture
def llm(tmp_path: Path) -> Path:
    """Answers to 60 of the 96 training rows and to 10 of 32 unlabelled ones; every ninth is wrong."""
    rows = [*sentences("train")[:60], *sentences("unlabeled")[:10]]
    labels = [OTHER[row["label"]] if number % 9 == 3 else row["label"] for number, row in enumerate(rows)]
    answers = [{"text": row["text"], "answer": label} for row, label in zip(rows, labels, strict=True)]
    return write_rows(tmp_path / "llm.jsonl", answers)


def table(folder: Path, split: str = "train") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / f"{split}-00000-of-00001.parquet").to_pylist()
    return rows


def event(events: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in events if row["event"] == name)


def warnings(events: list[dict[str, Any]]) -> str:
    return "\n".join(row["message"] for row in events if row["event"] == "warning")


def test_answers_become_a_label_dataset_with_null_for_other_rows(configs: Configs, llm: Path, tmp_path: Path) -> None:
    teacher = {"answers_file": str(llm)}
    events = run(
        "gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher, splits=["train", "unlabeled"])
    )
    train, unlabeled = table(tmp_path / "labels"), table(tmp_path / "labels", "unlabeled")
    texts = {json.loads(line)["text"] for line in llm.read_text().splitlines()}
    assert [row["teacher_logits"] is not None for row in train] == [row["text"] in texts for row in train]
    assert {row["teacher_prediction"] for row in unlabeled} == {None, "good", "bad"}
    assert "rows have no label: distill and finetune will leave them out" in warnings(events)
    labelled = sum(row["teacher_logits"] is not None for row in [*train, *unlabeled])
    assert event(events, "done")["labelled_rows"] == labelled


def test_the_manifest_has_the_hash_of_the_answers_and_their_kinds(configs: Configs, llm: Path, tmp_path: Path) -> None:
    import hashlib

    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm)}))
    manifest = json.loads((tmp_path / "labels" / "manifest.json").read_text())
    assert manifest["inputs"]["teacher"] == [{"path": str(llm), "sha256": hashlib.sha256(llm.read_bytes()).hexdigest()}]
    (facts,) = manifest["answers"]
    assert facts["joined_by"] == "text" and facts["kinds"]["label"] == facts["labelled_rows"]["train"]
    assert facts["without_a_row"] > 0  # those of the unlabelled rows
    assert manifest["label_names"] == ["bad", "good"]


def test_answers_are_checked_against_gold_labels(configs: Configs, llm: Path, tmp_path: Path) -> None:
    events = run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm)}))
    check = event(events, "teacher check")
    rows = [row for row in table(tmp_path / "labels") if row["teacher_prediction"] is not None]
    right = sum(row["teacher_prediction"] == row["label"] for row in rows) / len(rows)
    assert check["teacher_accuracy"] == pytest.approx(right) and right < 1
    assert check["teacher_accuracy_low"] < right < check["teacher_accuracy_high"]
    assert sum(sum(own.values()) for own in check["confusion"].values()) == check["checked_rows"] == len(rows)
    card = (tmp_path / "labels" / "README.md").read_text()
    assert "| gold | predicted bad | predicted good |" in card and f"{check['teacher_accuracy']:.4f}" in card


def test_answers_with_exchanged_labels_are_refused_with_the_mapping(
    configs: Configs, llm: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in llm.read_text().splitlines()]
    write_rows(llm, [{**row, "answer": OTHER[row["answer"]]} for row in rows])
    with pytest.raises(InputError, match="labels of the teacher seem to be mixed up") as error:
        run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm)}))
    assert "label_names: {good: bad, bad: good}" in str(error.value.hint)
    fixed = {"answers_file": str(llm), "label_names": OTHER}
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=fixed))


def test_exchanged_labels_beside_a_model_are_refused(
    configs: Configs, llm: Path, teacher: Path, tmp_path: Path
) -> None:
    """The model labels more rows, and hides them in the score of all teachers."""
    rows = [json.loads(line) for line in llm.read_text().splitlines()][:24]
    write_rows(llm, [{**row, "answer": OTHER[row["answer"]]} for row in rows])
    both: list[Any] = [str(teacher), {"answers_file": str(llm)}]
    with pytest.raises(InputError, match="labels of the teacher seem to be mixed up") as error:
        run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=both))
    assert error.value.where == str(llm) and "label_names: {good: bad, bad: good}" in str(error.value.hint)
    both[1]["label_names"] = OTHER
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=both))


def test_answers_beside_a_model_that_no_gold_label_checks_are_a_warning(
    configs: Configs, llm: Path, teacher: Path, data: Path, tmp_path: Path
) -> None:
    """The score of the teachers is that of the model alone."""
    write_rows(data / "train.jsonl", [{"text": row["text"]} for row in sentences("train")])
    both: list[Any] = [str(teacher), {"answers_file": str(llm)}]
    events = run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=both, splits=["validation", "train"]))
    assert event(events, "teacher check")["teacher_accuracy"] > 0.5
    assert f"no row has both a gold label and an answer of {llm}: its answers were not checked" in warnings(events)


@pytest.mark.parametrize("weak", [True, False])
def test_weak_answers_beside_a_model_are_a_warning(configs: Configs, llm: Path, teacher: Path, weak: bool) -> None:
    rows = [json.loads(line) for line in llm.read_text().splitlines()]
    gold = {row["text"]: row["label"] for row in sentences("train")}
    labels = ["good" if index % 2 else "bad" for index in range(len(rows))]  # a coin
    write_rows(llm, [{**row, "answer": label if weak else gold.get(row["text"], "good")}
                     for row, label in zip(rows[:20], labels, strict=False)])  # fmt: skip
    both: list[Any] = [str(teacher), {"answers_file": str(llm)}]
    events = run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=both, teacher_weights=[3.0, 1.0]))
    text = f"{llm} alone does not beat the majority-class baseline on 20 rows with gold labels: accuracy 0."
    assert (text in warnings(events)) == weak
    assert f"{teacher} alone does not" not in warnings(events)


def test_hidden_labels_of_another_split_name_no_class(configs: Configs, llm: Path, data: Path, tmp_path: Path) -> None:
    write_rows(data / "test.jsonl", [{**row, "label": -1} for row in sentences("test")])
    teacher = {"answers_file": str(llm)}
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher, splits=["train", "test"]))
    assert json.loads((tmp_path / "labels" / "manifest.json").read_text())["label_names"] == ["bad", "good"]


def test_the_run_yaml_of_answers_repeats_the_run(configs: Configs, llm: Path, tmp_path: Path) -> None:
    teacher = {"answers_file": str(llm), "temperature": "auto", "label_names": {"gut": "good"}}
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher))
    repeated = configuration.load("gen-soft-labels", tmp_path / "labels" / "run.yaml")
    assert event(run("gen-soft-labels", repeated), "up to date")


def test_a_dry_run_checks_the_answers_and_writes_nothing(configs: Configs, llm: Path, tmp_path: Path) -> None:
    config = configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm)})
    events = run("gen-soft-labels", config, dry_run=True)
    assert event(events, "teacher check") and not (tmp_path / "labels").exists()


def test_answers_without_gold_labels_are_not_checked_but_named(configs: Configs, llm: Path) -> None:
    setting = {"splits": ["unlabeled"], "data__label_names": ["bad", "good"]}
    events = run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm)}, **setting))
    assert "the answers were not checked" in warnings(events)


def test_labels_without_names_are_refused_with_the_answers(configs: Configs, llm: Path) -> None:
    config = configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm)}, splits=["unlabeled"])
    with pytest.raises(InputError, match="the labels have no names") as error:
        run("gen-soft-labels", config)
    assert 'data.label_names: ["bad", "good"]' in str(error.value.hint)


def test_a_missing_file_of_answers_is_named_with_its_setting(configs: Configs, llm: Path) -> None:
    config = configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm.with_name("lm.jsonl"))})
    with pytest.raises(InputError, match="does not exist") as error:
        run("gen-soft-labels", config)
    assert error.value.where == "teacher.answers_file" and "llm.jsonl" in str(error.value.hint)


# -- training ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["finetune", "distill"])
def test_training_leaves_out_rows_that_the_teacher_did_not_label(
    command: str, configs: Configs, llm: Path, base_model: Path, tmp_path: Path
) -> None:
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm)}))
    model = {"model": base_model} if command == "finetune" else {"student": base_model}
    config = configs(command, "out", label_dataset=tmp_path / "labels", training__max_steps=1, **model)
    events = run(command, config)
    labelled = sum(row["teacher_logits"] is not None for row in table(tmp_path / "labels"))
    assert event(events, "plan")["rows"] == labelled
    assert event(events, "labels")["unlabelled"] == 96 - labelled


def test_the_hard_labels_of_answers_are_the_answers(configs: Configs, llm: Path, tmp_path: Path) -> None:
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm)}))
    dataset = data_module.read_soft_labels(tmp_path / "labels", ["train-00000-of-00001.parquet"])
    labels, _ = tasks.find_prediction_task("text-classification").hard_labels(dataset.logits, None, 0.0)
    assert dataset.rows.columns["teacher_prediction"] == [["bad", "good"][index] for index in labels]


def test_an_error_about_a_labelled_row_names_its_row_in_the_file(configs: Configs, llm: Path, tmp_path: Path) -> None:
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm)}))
    first = next(i for i, row in enumerate(table(tmp_path / "labels"), 1) if row["teacher_logits"] is not None)
    dataset = data_module.read_soft_labels(tmp_path / "labels", ["train-00000-of-00001.parquet"])
    assert dataset.rows.location(0).endswith(f"train-00000-of-00001.parquet, row {first}")


def test_a_label_dataset_without_any_label_is_refused(configs: Configs, llm: Path, tmp_path: Path) -> None:
    config = configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm)}, splits=["validation", "unlabeled"],
                     data__label_names=["bad", "good"])  # fmt: skip
    write_rows(llm, [{"text": sentences("validation")[0]["text"], "answer": sentences("validation")[0]["label"]}])
    run("gen-soft-labels", config.model_copy(update={"check_teacher": False}))
    with pytest.raises(InputError, match=r"no row of .* has a label of the teacher"):
        data_module.read_soft_labels(tmp_path / "labels", ["unlabeled-00000-of-00001.parquet"])


def test_all_files_have_one_schema_although_one_has_no_label(configs: Configs, llm: Path, tmp_path: Path) -> None:
    import datasets

    write_rows(llm, [{"text": row["text"], "answer": row["label"]} for row in sentences("validation")[:5]])
    setting = {"splits": ["train", "validation"], "check_teacher": False}
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm)}, **setting))
    loaded = datasets.load_dataset(str(tmp_path / "labels"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].features == loaded["validation"].features
    assert sum(row is not None for row in loaded["validation"]["teacher_prediction"]) == 5


# -- temperature, ensembles ----------------------------------------------------------------------------------


def test_the_temperature_is_reported_on_rows_that_it_was_not_fitted_on(
    configs: Configs, llm: Path, tmp_path: Path
) -> None:
    config = configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm), "temperature": "auto"})
    scaling = event(run("gen-soft-labels", config), "calibration")
    rows = [row for row in table(tmp_path / "labels") if row["teacher_logits"] is not None]
    logits = np.array([row["teacher_logits"] for row in rows])
    gold = np.array([["bad", "good"].index(row["label"]) for row in rows])
    at_one = logits * scaling["temperature"]
    halves = np.arange(len(rows)) % 2 == 0
    scaled = np.empty_like(at_one)
    for half in (halves, ~halves):
        scaled[half] = softmax(at_one[half] / fitted_temperature(at_one[~half], gold[~half]))
    expected = ((scaled - np.eye(2)[gold]) ** 2).sum(-1).mean()
    assert scaling["brier_scaled"] == pytest.approx(expected, rel=1e-3) and scaling["calibration_rows"] == len(rows)
    assert scaling["brier_scaled"] < scaling["brier"] and scaling["ece_scaled"] < scaling["ece"]
    assert softmax(logits).max(-1) == pytest.approx(0.89, abs=0.03)  # of answers that claim 1


@pytest.mark.parametrize("worse", [True, False])
def test_a_temperature_that_makes_the_calibration_worse_is_a_warning(
    worse: bool, configs: Configs, llm: Path, tmp_path: Path
) -> None:
    right = [{"text": r["text"], "answer": r["label"]} for r in sentences("train")]  # a probability of 1 is best
    file = write_rows(tmp_path / "right.jsonl", right) if worse else llm
    config = configs("gen-soft-labels", "labels", teacher={"answers_file": str(file), "temperature": "auto"})
    warnings = [row["message"] for row in run("gen-soft-labels", config) if row["event"] == "warning"]
    text = f"the fitted temperature of {file} makes the calibration error and the Brier score worse"
    assert any(text in message for message in warnings) == worse


def test_the_temperatures_of_several_files_are_all_in_the_metrics(configs: Configs, llm: Path, tmp_path: Path) -> None:
    other = write_rows(
        tmp_path / "right.jsonl", [{"text": r["text"], "answer": r["label"]} for r in sentences("train")]
    )
    files = [{"answers_file": str(file), "temperature": "auto"} for file in (llm, other)]
    rows = run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=files))
    numbers = json.loads((tmp_path / "labels" / "metrics.json").read_text())
    scalings = [row for row in rows if row["event"] == "calibration"]
    assert [row["answers"] for row in scalings] == [str(llm), str(other)] and "temperature" not in numbers
    for number, scaling in enumerate(scalings, 1):
        own = {name: scaling[name] for name in ("temperature", "calibration_rows", "ece", "brier_scaled")}
        assert own.items() <= {name.removeprefix(f"answers_{number}."): x for name, x in numbers.items()}.items()


def test_the_temperature_of_answers_that_are_all_right_stays_finite() -> None:
    logits = np.array([[0, -27.6], [-27.6, 0]] * 20)
    temperature = fitted_temperature(logits, np.array([0, 1] * 20))
    assert 0.9 < softmax(logits / temperature).max(-1)[0] < 0.99


def test_a_temperature_needs_enough_gold_labels(configs: Configs, llm: Path) -> None:
    write_rows(llm, [{"text": row["text"], "answer": row["label"]} for row in sentences("train")[:9]])
    config = configs("gen-soft-labels", "labels", teacher={"answers_file": str(llm), "temperature": "auto"})
    with pytest.raises(InputError, match=r"`temperature: auto` needs 20 rows with a gold label and an answer"):
        run("gen-soft-labels", config)


def test_a_temperature_is_not_fitted_on_test_rows(configs: Configs, llm: Path, data: Path) -> None:
    rows = {"data__train_file": str(data / "unlabeled.jsonl"), "data__test_file": str(data / "train.jsonl")}
    teacher = {"answers_file": str(llm), "temperature": "auto"}
    config = configs("gen-soft-labels", "labels", teacher=teacher, splits=["train", "test"], **rows)
    with pytest.raises(InputError, match="outside of the test split, and there are 0"):
        run("gen-soft-labels", config)


def test_answers_and_a_model_are_a_weighted_mean_where_there_is_an_answer(
    configs: Configs, llm: Path, teacher: Path, tmp_path: Path
) -> None:
    files = {"answers_file": str(llm)}
    run("gen-soft-labels", configs("gen-soft-labels", "model", teacher=teacher))
    run("gen-soft-labels", configs("gen-soft-labels", "answers", teacher=files))
    both = {"teacher": [files, str(teacher)], "teacher_weights": [3.0, 1.0]}
    run("gen-soft-labels", configs("gen-soft-labels", "both", **both))
    tables = [table(tmp_path / name) for name in ("model", "answers", "both")]
    for model, answers, result in zip(*tables, strict=True):
        own = softmax(np.array(model["teacher_logits"])[None])[0]
        if answers["teacher_logits"] is not None:
            own = (own + 3 * softmax(np.array(answers["teacher_logits"])[None])[0]) / 4
        assert softmax(np.array(result["teacher_logits"])[None])[0] == pytest.approx(own, abs=1e-5)


def test_augmented_examples_are_labelled_by_the_model_alone(
    configs: Configs, llm: Path, teacher: Path, tmp_path: Path
) -> None:
    both = {"teacher": [str(teacher), {"answers_file": str(llm)}], "augment": {"copies": 1}, "check_teacher": False}
    run("gen-soft-labels", configs("gen-soft-labels", "both", **both))
    run("gen-soft-labels", configs("gen-soft-labels", "model", **{**both, "teacher": teacher}))
    pairs = zip(table(tmp_path / "both", "augmented"), table(tmp_path / "model", "augmented"), strict=True)
    assert all(one["teacher_logits"] == pytest.approx(other["teacher_logits"], abs=1e-5) for one, other in pairs)


def test_a_row_is_the_mean_of_the_teachers_that_answered_it() -> None:
    def labels(probabilities: list[float | None]) -> AnswerLabels:
        rows = [[0.5, 0.5] if p is None else [1 - p, p] for p in probabilities]
        answered = np.array([p is not None for p in probabilities])
        return AnswerLabels(np.log(np.array(rows)).astype(np.float32), None, answered)

    task = tasks.find_prediction_task("text-classification")
    mean = combined(task, [labels([0.2, 0.2, None, None]), labels([0.8, None, 0.8, None])], [1.0, 3.0], None)
    assert softmax(mean.logits)[:3, 1] == pytest.approx([0.65, 0.2, 0.8])
    assert mean.answered.tolist() == [True, True, True, False]


def test_the_mean_of_tags_is_taken_row_by_row() -> None:
    layout = Layout(np.array([0, 2, 3]))

    def labels(probabilities: list[float], answered: list[bool]) -> AnswerLabels:
        rows = np.log(np.array([[1 - p, p] for p in probabilities])).astype(np.float32)
        return AnswerLabels(rows, layout, np.array(answered))

    task = tasks.find_prediction_task("token-classification")
    parts = [labels([0.2, 0.4, 0.5], [True, False]), labels([0.4, 0.6, 0.9], [True, True])]
    mean = combined(task, parts, [1.0, 1.0], layout)
    assert softmax(mean.logits)[:, 1] == pytest.approx([0.3, 0.5, 0.9])


def test_two_files_of_spans_share_their_probability(configs: Configs, tmp_path: Path) -> None:
    context = "Ada wrote it in 1843 in London."
    rows = [{"id": 1, "question": "When?", "context": context, "answers": {"text": ["1843"], "answer_start": [16]}}]
    write_rows(tmp_path / "data" / "train.jsonl", rows)
    files = [{"answers_file": str(write_rows(tmp_path / f"{name}.jsonl", [{"id": 1, "answer": answer}])),
              "id_column_name": "id"} for name, answer in (("a", "1843"), ("b", "London"))]  # fmt: skip
    qa = {"task": "question-answering", "data__text_column_names": ["question", "context"],
          "data__label_column_name": "answers"}  # fmt: skip
    config = configs("gen-soft-labels", "labels", teacher=files, teacher_weights=[3.0, 1.0], **qa)
    run("gen-soft-labels", config)
    (row,) = table(tmp_path / "labels")
    assert row["teacher_prediction"] == "1843"
    begins = [round(float(np.exp(begin)), 3) for begin, _ in row["teacher_logits"]]
    assert [begin for begin in begins if begin] == [0.75, 0.25]


def test_of_two_files_the_answer_with_more_weight_is_the_prediction(configs: Configs, tmp_path: Path) -> None:
    """It occurs twice in the context, and the other file has no answer."""
    rows = [
        {"id": 1, "question": "How much?", "context": "It is 42, so 42.", "answers": {"text": [], "answer_start": []}}
    ]
    write_rows(tmp_path / "data" / "train.jsonl", rows)
    files = [{"answers_file": str(write_rows(tmp_path / f"{name}.jsonl", [{"id": 1, "answer": answer}])),
              "id_column_name": "id", "no_answer": "none"} for name, answer in (("a", "42"), ("b", "none"))]  # fmt: skip
    qa = {"task": "question-answering", "data__text_column_names": ["question", "context"],
          "data__label_column_name": "answers", "check_teacher": False}  # fmt: skip
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=files, teacher_weights=[3.0, 2.0], **qa))
    (row,) = table(tmp_path / "labels")
    assert row["teacher_prediction"] == "42"
    assert np.exp(row["teacher_logits"]).round(3).tolist() == [[0.4, 0.4], [0.6, 0.6], [0, 0]]


def test_answer_spans_are_marks_on_the_tokens_of_a_student(configs: Configs, tmp_path: Path, base_model: Path) -> None:
    """The labels that finetune derives from answers equal those that it derives from the same gold answers."""
    rows = [{"question": "the film ?", "context": "a warm plot and the cast", "answers": {"text": [text], "answer_start": [begin]}}
            for text, begin in (("warm plot", 2), ("cast", 20))]  # fmt: skip
    write_rows(tmp_path / "data" / "train.jsonl", [{"id": i, **row} for i, row in enumerate(rows)])
    answers = [{"id": i, "answer": row["answers"]["text"][0]} for i, row in enumerate(rows)]  # type: ignore[index]
    write_rows(tmp_path / "llm.jsonl", answers)
    qa = {"task": "question-answering", "data__text_column_names": ["question", "context"],
          "data__label_column_name": "answers"}  # fmt: skip
    teacher = {"answers_file": str(tmp_path / "llm.jsonl"), "id_column_name": "id"}
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher, **qa))
    task = tasks.find_prediction_task("question-answering")
    dataset = data_module.read_soft_labels(tmp_path / "labels", ["train-00000-of-00001.parquet"])
    labels, _ = task.hard_labels(dataset.logits, dataset.layout, 0.0)
    config = configs("finetune", "out", model=base_model, **qa)
    assert isinstance(config, Finetune)
    gold = task.labels(data_module.read(config.data, "train"), config.data, ["begin", "end"])
    assert gold is not None and labels.tolist() == gold.tolist()


# -- configs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"states": ["hidden_states"], "student_layers": 2}, "answers have no layers"),
        ({"augment": {}}, "`augment` needs a model"),
        ({"task": "translation"}, "without a label dataset"),
        (
            {"task": "regression", "teacher": {"answers_file": "x", "temperature": "auto"}},
            "`temperature: auto` is for one",
        ),
        ({"task": "regression", "teacher": {"answers_file": "x", "temperature": 2.0}}, "which have no confidence"),
        ({"teacher": {"answers_file": "x", "no_answer": "none"}}, "`no_answer` has no effect"),
        ({"task": "regression", "teacher": {"answers_file": "x", "confidence_column_name": "c"}}, "has no effect in"),
        ({"task": "regression", "teacher": {"answers_file": "x", "label_names": {"a": "b"}}}, "whose answers are no"),
        ({"teacher": {"answers_file": "x", "answers_id_column_name": "c"}}, "`id_column_name` in the answers"),
        ({"teacher": {"answers_file": ["x", "x"]}}, "'x' is named twice"),
        ({"teacher": {"answers_file": "x", "answer_column_name": ["good", "bad", "good"]}}, "'good' is named twice"),
        ({"teacher": {"answers_file": "x", "text_column_names": ["text", "text"]}}, "'text' is named twice"),
        ({"teacher_weights": [1.0, 2.0]}, "2 weights for 1 teachers"),
    ],
)
def test_settings_that_answers_cannot_have_are_config_errors(
    configs: Configs, setting: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run("gen-soft-labels", configs("gen-soft-labels", "labels", **{"teacher": {"answers_file": "x"}, **setting}))
