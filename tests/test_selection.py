"""Scores on the rows that a checkpoint was selected on are marked as optimistic."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Configs, run, sentences, write_rows

from tinybert_cli.reports import runs
from tinybert_cli.stages.selection import identity

SHORT: dict[str, Any] = {"latency": None, "bootstrap": 0, "baselines": []}  # an eval of little but the scores
TEXT = "was selected on these rows, so the score is optimistic"


def warnings(events: list[Any]) -> list[str]:
    return [row["message"] for row in events if row["event"] == "warning"]


@pytest.mark.parametrize(("split", "optimistic"), [("validation", True), ("test", False)])
def test_only_the_rows_of_the_selection_are_optimistic(
    configs: Configs, teacher: Path, tmp_path: Path, split: str, optimistic: bool
) -> None:
    settings = {**SHORT, "split": split}
    events = run("eval", configs("eval", "out", models={"teacher": str(teacher)}, **settings))
    assert any(f"the checkpoint of teacher {TEXT}" in text for text in warnings(events)) == optimistic
    for page in ("report.md", "report.html"):
        assert (TEXT in (tmp_path / "out" / page).read_text()) == optimistic
    notes = " ".join(runs.run([tmp_path / "out", teacher]).notes())
    assert (
        "Optimistic, because the rows of the score selected the checkpoint or the thresholds: teacher." in notes
    ) == optimistic


def test_the_training_rows_of_a_model_or_of_its_teacher_are_too_easy(
    configs: Configs, teacher: Path, teacher_labels: Path, data: Path, tmp_path: Path
) -> None:
    training = {"training__max_steps": 1, "training__eval_strategy": "no"}
    labels = {"label_dataset": str(teacher_labels), "data__validation_file": None}
    run("finetune", configs("finetune", "s2", model=str(teacher), **labels, **training))
    shutil.copy(data / "train.jsonl", tmp_path / "other.jsonl")
    models = {"teacher": str(teacher), "s2": str(tmp_path / "s2")}
    for file, easy in ((tmp_path / "other.jsonl", True), (data / "test.jsonl", False)):
        out = f"out{easy}"
        events = run("eval", configs("eval", out, models=models, data__test_file=str(file), split="test", **SHORT))
        text = "hese are training rows of teacher, s2, or of a model that they were made from"
        assert any(text in message for message in warnings(events)) == easy
        assert (text in (tmp_path / out / "report.md").read_text()) == easy
        notes = " ".join(runs.run([tmp_path / out, teacher, tmp_path / "s2"]).notes())
        assert ("Too good, because the rows of the score are training rows: s2, teacher." in notes) == easy


def test_moved_rows_are_the_same_rows(configs: Configs, teacher: Path, data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "validation.jsonl", tmp_path / "other.jsonl")
    settings = {**SHORT, "split": "test"}
    config = configs(
        "eval", "out", models={"teacher": str(teacher)}, data__test_file=str(tmp_path / "other.jsonl"), **settings
    )
    assert any(TEXT in text for text in warnings(run("eval", config)))


def test_a_model_without_selection_is_not_optimistic(configs: Configs, base_model: Path, tmp_path: Path) -> None:
    training = {"training__keep": "last", "training__max_steps": 2}
    run("finetune", configs("finetune", "last", model=str(base_model), **training))
    config = configs("eval", "out", models={"last": str(tmp_path / "last"), "last2": str(tmp_path / "last")}, **SHORT)
    assert not any("selected on these rows" in text for text in warnings(run("eval", config)))


@pytest.mark.parametrize("optimistic", [True, False])
def test_thresholds_are_selected_on_the_validation_rows_whatever_checkpoint_is_kept(
    configs: Configs, base_model: Path, tmp_path: Path, optimistic: bool
) -> None:
    rows = [{"text": row["text"], "label": [row["label"]]} for row in sentences("validation")]
    files = {
        f"data__{split}_file": str(write_rows(tmp_path / "ml" / f"{split}.jsonl", rows)) for split in ("train", "test")
    }
    own = rows if optimistic else rows[:-1]
    files["data__validation_file"] = str(write_rows(tmp_path / "ml" / "validation.jsonl", own))
    task = {"task": "multi-label-classification", **files}
    training = {"training__keep": "last", "training__max_steps": 2, "training__eval_strategy": "no"}
    run("finetune", configs("finetune", "last", model=str(base_model), **task, **training))
    models = {"last": str(tmp_path / "last")}
    events = run("eval", configs("eval", "out", models=models, **task, **SHORT, split="test"))
    text = "the thresholds of last were selected on these rows, so the score is optimistic"
    assert any(text in message for message in warnings(events)) == optimistic
    assert "The thresholds were selected on the same" in (tmp_path / "last" / "README.md").read_text()
    notes = " ".join(runs.run([tmp_path / "last"]).notes())
    assert "the rows of the score selected the checkpoint or the thresholds: last" in notes


def test_early_stopping_selects_the_last_checkpoint_on_the_validation_rows(
    configs: Configs, base_model: Path, tmp_path: Path
) -> None:
    training = {"training__keep": "last", "training__max_steps": 2, "training__early_stopping_patience": 1}
    run("finetune", configs("finetune", "last", model=str(base_model), **training))
    events = run("eval", configs("eval", "out", models={"last": str(tmp_path / "last")}, **SHORT))
    assert any(f"the checkpoint of last {TEXT}" in message for message in warnings(events))


@pytest.fixture
def student2(configs: Configs, base_model: Path, teacher_labels: Path, tmp_path: Path) -> Path:
    """Trained without selection on the labels of a teacher that validation.jsonl selected."""
    training = {"training__keep": "last", "training__max_steps": 2, "training__eval_strategy": "epoch"}
    run("finetune", configs("finetune", "s2", model=str(base_model), label_dataset=str(teacher_labels), **training))
    return tmp_path / "s2"


@pytest.mark.parametrize(("split", "optimistic"), [("validation", True), ("test", False)])
def test_a_student_of_a_selected_teacher_inherits_the_selection(
    configs: Configs, student2: Path, tmp_path: Path, split: str, optimistic: bool
) -> None:
    settings = {**SHORT, "split": split}
    events = run("eval", configs("eval", "out", models={"m": str(student2)}, **settings))
    text = "which m was made from, so its score may be optimistic"
    assert (
        any(message.startswith("these rows selected ") and text in message for message in warnings(events))
        == optimistic
    )
    for page in ("report.md", "report.html"):
        assert (text in (tmp_path / "out" / page).read_text()) == optimistic
    notes = " ".join(runs.run([tmp_path / "out", student2]).notes())
    assert ("Perhaps optimistic, because a model that it was made from was selected" in notes) == optimistic
    assert "selected a model that it was made from" in (student2 / "README.md").read_text()


def test_a_report_without_an_eval_says_that_the_rows_selected_the_teacher(student2: Path) -> None:
    notes = " ".join(runs.run([student2]).notes())
    assert "Perhaps optimistic, because a model that it was made from was selected on these rows: s2." in notes


@pytest.mark.parametrize(("file", "easy"), [("train.jsonl", True), ("test.jsonl", False)])
def test_validation_rows_that_trained_the_teacher_are_too_easy(
    configs: Configs, teacher: Path, data: Path, tmp_path: Path, file: str, easy: bool
) -> None:
    rows = {"data__train_file": str(data / "unlabeled.jsonl"), "data__validation_file": str(data / file)}
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher, check_teacher=False, **rows))
    training = {"training__max_steps": 1, "training__eval_strategy": "no"}
    student = {"label_dataset": tmp_path / "labels", "student": {"from": str(teacher)}, "baselines": []}
    events = run("distill", configs("distill", "s", **student, **rows, **training))
    text = "he validation rows are training rows of this model, or of one that it is made from"
    assert any(text in message for message in warnings(events)) == easy
    card = (tmp_path / "s" / "README.md").read_text()
    assert ("are training rows of this model, or of one that it was made from" in card) == easy
    notes = " ".join(runs.run([tmp_path / "s"]).notes())
    assert ("Too good, because the rows of the score are training rows: s." in notes) == easy


def test_a_label_dataset_that_moved_with_its_student_is_read(
    configs: Configs, student2: Path, teacher_labels: Path, tmp_path: Path
) -> None:
    for folder in (student2, teacher_labels):
        shutil.move(folder, tmp_path / "moved" / folder.name)
    events = run("eval", configs("eval", "out", models={"m": str(tmp_path / "moved" / "s2")}, **SHORT))
    assert any("which m was made from" in text for text in warnings(events))


def test_an_export_has_the_selection_of_its_model(configs: Configs, teacher: Path, tmp_path: Path) -> None:
    run("export", configs("export", "onnx", model=str(teacher)))
    card = (tmp_path / "onnx" / "README.md").read_text()
    assert f"The checkpoint of {teacher} {TEXT}" in card  # an export has none
    events = run("eval", configs("eval", "out", models={"m": str(tmp_path / "onnx")}, **SHORT))
    assert any(f"the checkpoint of m {TEXT}" in text for text in warnings(events))


def test_a_split_of_the_hub_is_the_one_it_is_called_there() -> None:
    inputs = {"data.dataset_name": {"hub_id": "org/rows", "config": None, "revision": None}}
    names = {"data": {"validation_split_name": "dev", "test_split_name": "dev"}}
    assert identity(names, inputs, "validation") == identity(names, inputs, "test")
    assert identity({"data": {}}, inputs, "validation") != identity({"data": {}}, inputs, "test")


def test_one_file_of_several_is_enough_to_be_the_same_rows() -> None:
    files = [{"path": "a", "sha256": "1"}, {"path": "b", "sha256": "2"}]
    both, copy = {"data.validation_file": files}, {"data.test_file": [{"path": "c", "sha256": "2"}]}
    assert identity({}, both, "validation") & identity({}, copy, "test")
