"""Whether a label dataset fits the config of the stage that learns from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Configs, run, sentences, write_rows

from tinybert_cli import tasks
from tinybert_cli.errors import InputError
from tinybert_cli.stages import label_dataset

ONE_STEP = {"training__max_steps": 1}
TASK = tasks.find("text-classification")


def check(folder: Path, config: Any, **changes: Any) -> list[dict[str, Any]]:
    manifest = json.loads((folder / "manifest.json").read_text()) | changes
    return list(label_dataset.check(folder, manifest, config, TASK))


@pytest.mark.parametrize("task", ["multi-label-classification", "regression", "token-classification", "translation"])
def test_label_dataset_of_another_task_is_rejected(
    task: str, base_model: Path, teacher_labels: Path, configs: Configs
) -> None:
    settings: dict[str, Any] = {"data__text_column_names": ["text"]} if task == "translation" else {}
    config = configs("finetune", "out", task=task, model=base_model, label_dataset=teacher_labels, **settings)
    with pytest.raises(InputError, match=f"has labels of text-classification, but the config is for {task}"):
        run("finetune", config)


@pytest.mark.parametrize("command", ["finetune", "distill"])
def test_other_label_names_than_in_the_label_dataset_are_rejected_without_validation_rows(
    command: str, base_model: Path, teacher_labels: Path, configs: Configs
) -> None:
    model = {"finetune": "model", "distill": "student"}[command]
    settings = {model: base_model, "label_dataset": teacher_labels, "data__validation_file": None}
    with pytest.raises(InputError, match=r"config: +good, bad\n +label dataset: bad, good"):
        run(command, configs(command, "out", data__label_names=["good", "bad"], **settings))
    run(command, configs(command, "out", data__label_names=["bad", "good"], **ONE_STEP, **settings))


def test_label_dataset_of_pairs_is_rejected_for_one_text(teacher_labels: Path, configs: Configs) -> None:
    config = configs("finetune", "out", model="base", label_dataset=teacher_labels)
    with pytest.raises(InputError, match="was made from two texts, text and other, but the config names one text"):
        check(teacher_labels, config, text_columns=["text", "other"])
    assert check(teacher_labels, config) == []


def test_another_text_column_than_that_of_the_labels_is_a_warning(
    data: Path, teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    for split in ("train", "validation"):
        write_rows(data / f"{split}.jsonl", [row | {"title": "the film"} for row in sentences(split)])
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher))
    settings = {"label_dataset": tmp_path / "labels", "data__text_column_names": "title", **ONE_STEP}
    events = run("distill", configs("distill", "out", student=teacher, **settings))
    expected = "are those of one text, text, but this run reads one text, title: check data.text_column_names"
    assert sum(expected in event.get("message", "") for event in events) == 1


def test_labels_of_truncated_texts_are_a_warning_for_a_run_that_reads_more(
    teacher_labels: Path, configs: Configs
) -> None:
    lengths = {16: [], 32: [], 64: ["read the first 32 tokens of a text, and this run reads 64"]}
    made = json.loads((teacher_labels / "manifest.json").read_text())["settings"]
    made["data"]["max_seq_length"] = 32
    for length, expected in lengths.items():
        config = configs("finetune", "out", model="base", label_dataset=teacher_labels, data__max_seq_length=length)
        messages = [event["message"] for event in check(teacher_labels, config, settings=made)]
        assert len(messages) == len(expected) and all(text in messages[0] for text in expected)
        assert check(teacher_labels, config, settings=made | {"teacher": {"answers_file": "llm.jsonl"}}) == []


def test_hidden_labels_of_unlabeled_rows_are_ignored_and_some_gold_label_is_needed(
    data: Path, teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    write_rows(data / "unlabeled.jsonl", [row | {"label": -1} for row in sentences("unlabeled")])
    for name, splits in {"both": ["train", "unlabeled"], "texts": ["unlabeled"]}.items():
        run("gen-soft-labels", configs("gen-soft-labels", name, teacher=teacher, splits=splits))
    settings: dict[str, Any] = {"student": teacher, "losses": {"hard_labels": 1.0}}
    config = configs("distill", "out", label_dataset=tmp_path / "both", **settings)
    assert {event["event"] for event in run("distill", config, dry_run=True)} >= {"plan"}
    with pytest.raises(InputError, match="has a gold label, which hard_labels learns"):
        run("distill", configs("distill", "out", label_dataset=tmp_path / "texts", **settings), dry_run=True)
