"""All stages: what each writes and yields, how it is interrupted and resumed, and what it does when run again."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate import Accelerator
from conftest import Configs, make_config, run, sentences, write_rows
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from tinybert_cli import artifacts, formats, loops, models, tasks
from tinybert_cli import data as data_module
from tinybert_cli.config import COMMANDS, Stage
from tinybert_cli.errors import ConfigError, GateError, InputError, OutputError, UserError
from tinybert_cli.helpers import predict
from tinybert_cli.predictor import Predictor, load_predictor
from tinybert_cli.stages import gen_soft_labels, labelling
from tinybert_cli.types import Array

SMALL = {"num_hidden_layers": 2}


def last(rows: list[dict[str, Any]], event: str = "done") -> dict[str, Any]:
    return [row for row in rows if row["event"] == event][-1]


def events(rows: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["event"] == event]


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def table(folder: Path, pattern: str = "train-*.parquet") -> dict[str, list[Any]]:
    parts = [pq.read_table(file).to_pydict() for file in sorted(folder.glob(pattern))]
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def probabilities(folder: Path) -> np.ndarray[Any, Any]:
    logits = np.asarray(table(folder)["teacher_logits"], dtype=np.float64)
    exponents = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(exponents / exponents.sum(-1, keepdims=True))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Changes the weights of a finished model and removes its manifest."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "manifest.json").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def finished_student(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "student"
    student = {"from": str(finished_runs / "teacher"), **SMALL}
    run(
        "distill",
        make_config(
            "distill", finished_runs / "data", folder, label_dataset=finished_runs / "teacher-labels", student=student
        ),
    )
    return folder


@pytest.fixture
def student(finished_student: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_student, tmp_path / "student"))


# -- finetune ------------------------------------------------------------------------------------------------


def test_finetune_learns_the_gold_labels(base_model: Path, configs: Configs) -> None:
    done = last(run("finetune", configs("finetune", "out", model=base_model)))
    assert done["eval_accuracy"] >= 0.9 and done["steps"] == 72


def test_transformers_loads_a_finished_folder(teacher: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    assert isinstance(model, BertForSequenceClassification) and model.config.id2label == {0: "bad", 1: "good"}


def test_a_finished_model_folder_has_all_documented_files(teacher: Path) -> None:
    promised = {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "metrics.json",
        "log.jsonl", "run.yaml", "manifest.json",
    }  # fmt: skip
    assert promised <= {path.name for path in teacher.iterdir()} and not (teacher / "checkpoints").exists()


def test_training_metrics_have_their_documented_names(teacher: Path) -> None:
    metrics = json.loads((teacher / "metrics.json").read_text())
    assert {"train_loss", "train_samples_per_second", "train_runtime", "eval_accuracy", "eval_f1_macro"} <= set(metrics)
    assert all(isinstance(value, (int, float)) for value in metrics.values())


def test_run_yaml_reproduces_the_run(finished_runs: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((finished_runs / "teacher" / "run.yaml").read_text())
    again = COMMANDS["finetune"].model_validate({**settings, "output_dir": str(tmp_path / "again")})
    run("finetune", again)
    assert sha256(tmp_path / "again") == sha256(finished_runs / "teacher")


def test_a_finished_stage_is_up_to_date(finished_runs: Path) -> None:
    config = make_config("finetune", finished_runs / "data", finished_runs / "teacher", model=finished_runs / "base")
    (row,) = run("finetune", config)
    assert row["event"] == "up to date" and row["output_dir"] == str(finished_runs / "teacher")


def test_changed_training_data_is_not_up_to_date(data: Path, base_model: Path, configs: Configs) -> None:
    config = configs("finetune", "out", model=base_model, training__max_steps=2)
    run("finetune", config)
    write_rows(data / "train.jsonl", sentences("test"))
    with pytest.raises(OutputError, match=r"data\.train_file\.0\.sha256"):
        run("finetune", config)


def test_keep_best_stores_the_best_checkpoint(base_model: Path, configs: Configs) -> None:
    rows = run("finetune", configs("finetune", "out", model=base_model, training__learning_rate=2e-2))
    scores = [row["accuracy"] for row in events(rows, "evaluate")]
    assert last(rows)["eval_accuracy"] == max(scores)


def test_keep_last_stores_the_last_checkpoint(base_model: Path, configs: Configs, tmp_path: Path) -> None:
    run("finetune", configs("finetune", "last", model=base_model, training__learning_rate=2e-2, training__keep="last"))
    settings = {"training__learning_rate": 2e-2, "training__eval_strategy": "no"}
    run("finetune", configs("finetune", "unseen", model=base_model, **settings))
    assert sha256(tmp_path / "last") == sha256(tmp_path / "unseen")


def test_dropout_is_written_to_the_model_config(base_model: Path, configs: Configs, tmp_path: Path) -> None:
    run("finetune", configs("finetune", "out", model=base_model, regularization__dropout=0.3, training__max_steps=1))
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["hidden_dropout_prob"] == settings["attention_probs_dropout_prob"] == 0.3


def test_label_smoothing_bounds_the_loss_by_the_entropy_of_its_target(base_model: Path, configs: Configs) -> None:
    config = configs("finetune", "out", model=base_model, regularization__label_smoothing=0.5)
    rows = run("finetune", config)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert min(row["loss"] for row in events(rows, "train")) > entropy and last(rows)["eval_accuracy"] > 0.8


def test_balanced_class_weights_improve_f1_on_imbalanced_rows(base_model: Path, data: Path, configs: Configs) -> None:
    rows = sentences("train")
    write_rows(data / "train.jsonl", [row for n, row in enumerate(rows) if row["label"] == "bad" or n % 4 == 0])
    f1_macro = {}
    for weights in ("none", "balanced"):
        done = run(
            "finetune",
            configs("finetune", weights, model=base_model, class_weights=weights, training__num_train_epochs=12.0),
        )
        f1_macro[weights] = last(done)["eval_f1_macro"]
    assert f1_macro["balanced"] > f1_macro["none"] + 0.1
    assert "class weights balanced" in (data.parent / "balanced" / "README.md").read_text()


def test_hard_labels_accept_balanced_class_weights(teacher_labels: Path, base_model: Path, configs: Configs) -> None:
    hard = {"weight": 1.0, "class_weights": "balanced"}
    config = configs(
        "distill", "out", label_dataset=teacher_labels, student=base_model, losses={"hard_labels": hard},
        training__max_steps=2,
    )  # fmt: skip
    assert np.isfinite(last(run("distill", config))["train_loss"])


def test_tables_and_cards_stay_short_with_many_classes(base_model: Path, data: Path, configs: Configs) -> None:
    names = [f"class-{number:03d}" for number in range(120)]
    for split in ("train", "validation"):
        texts = [row["text"] for row in sentences(split)] * 4
        write_rows(data / f"{split}.jsonl", [{"text": t, "label": names[n % 120]} for n, t in enumerate(texts)])
    run("finetune", configs("finetune", "many", model=base_model, training__max_steps=2))
    models = {"many": str(data.parent / "many")}
    run("eval", configs("eval", "eval", models=models, latency=None, bootstrap=20, baselines=[]))
    report = (data.parent / "eval" / "report.md").read_text()
    assert len(report.splitlines()) < 80 and "class-119]" not in report.replace("label=class", "")
    assert "many.recall[class-119]" in json.loads((data.parent / "eval" / "metrics.json").read_text())
    assert "class-019 and 100 more, in config.json" in (data.parent / "many" / "README.md").read_text()


@pytest.mark.parametrize("shape", [{}, {"initialize": "random"}, {"intermediate_size": 16}])
def test_a_layer_mapping_for_another_number_of_layers_is_an_error(
    shape: dict[str, object], teacher: Path, configs: Configs
) -> None:
    model = {"from": str(teacher), **shape}  # of 4 layers: num_hidden_layers was forgotten
    with pytest.raises(ConfigError, match="layer_mapping has 2 entries, the student has 4 layers"):
        run("finetune", configs("finetune", "out", model=model, layer_mapping=[1, 4]))


@pytest.mark.parametrize(
    ("shape", "reason"), [({}, "all layers of `from` are copied"), ({"initialize": "random"}, "copied from no layer")]
)
def test_a_layer_mapping_that_nothing_reads_is_an_error(
    shape: dict[str, object], reason: str, teacher: Path, configs: Configs
) -> None:
    config = configs("finetune", "out", model={"from": str(teacher), **shape}, layer_mapping=[1, 1, 4, 4])
    with pytest.raises(ConfigError, match=rf"layer_mapping \[1, 1, 4, 4\] has no effect: .*{reason}"):
        run("finetune", config)


def test_equal_predictions_of_a_label_dataset_are_explained(
    teacher_labels: Path, base_model: Path, configs: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tasks.find_prediction_task("text-classification")
    equal = (np.zeros(96, dtype=np.int64), np.ones(96, dtype=bool))
    monkeypatch.setattr(type(task), "hard_labels", lambda self, logits, layout, least: equal)
    config = configs("finetune", "out", model=base_model, label_dataset=teacher_labels, min_confidence=0.6)
    with pytest.raises(InputError, match=r"nothing can be learned from the predictions in .*: all 96 rows") as caught:
        run("finetune", config)
    assert caught.value.hint == "lower min_confidence"


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_r_drop_of_a_model_without_dropout_is_a_warning(dropout: float, base_model: Path, configs: Configs) -> None:
    settings = json.loads((base_model / "config.json").read_text())
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    (base_model / "config.json").write_text(json.dumps(settings | dict.fromkeys(names, dropout)))
    config = configs("finetune", "out", model=base_model, regularization__r_drop=2.0, training__max_steps=1)
    warnings = [row["message"] for row in events(run("finetune", config), "warning")]
    assert any("`regularization.r_drop` has no effect" in text for text in warnings) == (dropout == 0)


def test_r_drop_adds_the_divergence_of_two_passes(base_model: Path, configs: Configs) -> None:
    config = configs("finetune", "out", model=base_model, regularization__r_drop=2.0, training__max_steps=6)
    row = last(run("finetune", config), "train")
    assert row["r_drop"] > 0 and row["loss"] == pytest.approx(row["hard_labels"] + 2.0 * row["r_drop"], abs=1e-5)


def test_tensorboard_gets_the_losses_despite_files_of_a_failed_run(
    base_model: Path, configs: Configs, tmp_path: Path
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = {"model": base_model, "training__report_to": ["tensorboard"]}
    with pytest.raises(UserError, match="not finite"):
        run(
            "finetune", configs("finetune", "out", training__learning_rate=1e30, training__warmup_ratio=0.0, **settings)
        )
    rows = run("finetune", configs("finetune", "out", training__max_steps=12, **settings))
    (file,) = (tmp_path / "out" / "trackers" / "tinybert").glob("events.*")
    log = events.EventAccumulator(str(file))
    log.Reload()
    losses = [(row["step"], pytest.approx(row["loss"])) for row in rows if row["event"] == "train"]
    assert [(event.step, event.value) for event in log.Scalars("train/loss")] == losses


def test_a_diverged_model_is_not_finished(base_model: Path, configs: Configs, tmp_path: Path) -> None:
    config = configs("finetune", "out", model=base_model, training__learning_rate=1e30, training__warmup_ratio=0.0)
    with pytest.raises(UserError, match="not finite at step") as error:
        run("finetune", config)
    assert error.value.exit_code == 1 and not (tmp_path / "out").exists()


def test_identical_labels_are_rejected_before_anything_is_written(
    data: Path, base_model: Path, configs: Configs, tmp_path: Path
) -> None:
    write_rows(data / "train.jsonl", [row | {"label": "good"} for row in sentences("train")])
    with pytest.raises(InputError):
        run("finetune", configs("finetune", "out", model=base_model, data__label_names=["bad", "good"]))
    assert not (tmp_path / "out").exists()


# -- finetune on the predictions of another model ------------------------------------------------------------


def test_student2_learns_from_a_label_dataset(teacher_labels: Path, base_model: Path, configs: Configs) -> None:
    rows = run("finetune", configs("finetune", "out", model=base_model, label_dataset=teacher_labels))
    assert last(rows)["eval_accuracy"] >= 0.85 and last(rows, "labels")["selected"] == 96


def test_layer_mapping_selects_the_copied_layers(base_model: Path, configs: Configs) -> None:
    model = {"from": str(base_model), **SMALL}
    for rule, layers in (("uniform", [2, 4]), ("spread", [1, 4]), ([3, 4], [3, 4])):
        config = configs("finetune", "out", model=model, layer_mapping=rule)
        assert last(run("finetune", config, dry_run=True), "plan")["layers_copied_from"] == layers


def test_predictions_below_min_confidence_are_excluded(
    teacher_labels: Path, base_model: Path, configs: Configs
) -> None:
    confidences = probabilities(teacher_labels).max(-1)
    threshold = float(np.median(confidences))
    settings = {"label_dataset": teacher_labels, "min_confidence": threshold, "training__max_steps": 1}
    rows = run("finetune", configs("finetune", "out", model=base_model, **settings))
    assert last(rows, "labels")["selected"] == last(rows, "plan")["rows"] == (confidences >= threshold).sum() < 96


def test_min_confidence_needs_a_label_dataset(base_model: Path, configs: Configs) -> None:
    with pytest.raises(ConfigError) as error:
        run("finetune", configs("finetune", "out", model=base_model, min_confidence=0.5))
    assert error.value.key == ("min_confidence",)


def test_a_missing_label_dataset_is_named(teacher: Path, base_model: Path, configs: Configs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        run("finetune", configs("finetune", "out", model=base_model, label_dataset=tmp_path / "teacher-label"))


# -- distill -------------------------------------------------------------------------------------------------


def test_a_student_agrees_with_its_teacher(teacher: Path, student: Path, configs: Configs) -> None:
    compared = {"teacher": str(teacher), "student": str(student)}
    metrics = last(run("eval", configs("eval", "out", models=compared, latency=None, bootstrap=0)))
    assert metrics["student.agreement"] >= 0.9
    assert metrics["student.parameters"] < metrics["teacher.parameters"]


def test_by_default_the_last_layer_of_each_equal_group_is_copied(
    teacher: Path, teacher_labels: Path, configs: Configs
) -> None:
    config = configs("distill", "out", label_dataset=teacher_labels, student={"from": str(teacher), **SMALL})
    assert last(run("distill", config, dry_run=True), "plan")["layers_copied_from"] == [2, 4]


LAYER_LOSSES = {"hidden_states": 1.0, "attentions": 0.5, "embeddings": 1.0}


def layer_config(configs: Configs, teacher: Path, labels: Path, output: str = "out", **settings: Any) -> Stage:
    narrow = {"from": str(teacher), **SMALL, "hidden_size": 8, "num_attention_heads": 2}
    settings = {"student": narrow, "losses": LAYER_LOSSES, "training__keep": "last", **settings}
    return configs("distill", output, label_dataset=labels, teacher=teacher, **settings)


def test_layer_losses_decrease(teacher: Path, teacher_labels: Path, configs: Configs) -> None:
    rows = run("distill", layer_config(configs, teacher, teacher_labels))
    first, *_, end = events(rows, "train")
    assert all(end[name] < 0.8 * first[name] for name in LAYER_LOSSES)
    assert "soft_labels" not in end


def test_a_student_of_layer_losses_can_be_trained_on_soft_labels_next(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    run("distill", layer_config(configs, teacher, teacher_labels, "first", seed=4))
    assert not [name for name in load_file(tmp_path / "first" / "model.safetensors") if "projection" in name]
    rows = run("distill", configs("distill", "second", label_dataset=teacher_labels, student=tmp_path / "first"))
    assert last(rows)["eval_accuracy"] >= 0.9


def test_layer_losses_need_a_teacher(teacher: Path, teacher_labels: Path, configs: Configs) -> None:
    with pytest.raises(ConfigError, match="there is no teacher") as caught:
        config = layer_config(configs, teacher, teacher_labels)
        run("distill", config.model_copy(update={"teacher": None}))
    assert caught.value.key == ("teacher",)


def test_keep_best_with_layer_losses_only_gives_a_warning(
    teacher: Path, teacher_labels: Path, configs: Configs
) -> None:
    config = layer_config(configs, teacher, teacher_labels, training__keep="best", training__max_steps=2)
    warning = last(run("distill", config), "warning")
    assert "keep: last" in warning["message"]


def test_layer_losses_need_the_same_tokenizer(
    teacher: Path, teacher_labels: Path, base_model: Path, configs: Configs
) -> None:
    file = base_model / "tokenizer.json"
    file.write_text(file.read_text().replace('"zebra"', '"zebu"'))
    config = layer_config(configs, teacher, teacher_labels, student=base_model)
    with pytest.raises(InputError, match="their layers cannot be compared"):
        run("distill", config)


def fake_device(accelerator: Accelerator, patch: pytest.MonkeyPatch) -> torch.device:
    """Gives the accelerator a device that differs from the default one, but holds the same memory."""
    device = torch.device("cpu", 0)
    patch.setattr(type(accelerator), "device", device)
    return device


def test_distill_moves_the_teacher_to_the_device_of_the_accelerator(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several GPUs, the Accelerator sets the GPU of each process, so it has to be created first."""
    calls: list[Any] = []
    make_accelerator, load = loops.make_accelerator, models.load

    def recorded_make(*arguments: Any, **options: Any) -> Accelerator:
        accelerator = make_accelerator(*arguments, **options)
        calls.append(("accelerator", fake_device(accelerator, monkeypatch)))
        return accelerator

    def recorded_load(source: models.Source, *arguments: Any, **options: Any) -> Any:
        model = load(source, *arguments, **options)
        if source.name == str(teacher):
            move = model.to
            calls.append("teacher loaded")
            monkeypatch.setattr(model, "to", lambda device: (calls.append(("teacher moved", device)), move(device))[1])
        return model

    monkeypatch.setattr(loops, "make_accelerator", recorded_make)
    monkeypatch.setattr(models, "load", recorded_load)
    monkeypatch.setattr(loops, "device", lambda: pytest.fail("the default device was used"))
    student = {"from": str(shutil.copytree(teacher, tmp_path / "start")), **SMALL}
    run("distill", layer_config(configs, teacher, teacher_labels, student=student), dry_run=True)
    device = torch.device("cpu", 0)
    assert calls == [("accelerator", device), "teacher loaded", ("teacher moved", device)]


@pytest.mark.parametrize(
    ("losses", "student", "message"),
    [
        ({"attentions": 1.0}, {"num_attention_heads": 1}, "needs equal numbers of heads"),
        ({"relations": {"relation_heads": 5}}, {}, r"not divisible by relation_heads \(5\)"),
    ],
)
def test_a_dry_run_finds_losses_that_cannot_compare_student_and_teacher(
    losses: dict[str, Any], student: dict[str, int], message: str,
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path,
) -> None:  # fmt: skip
    student = {"from": str(teacher), "num_hidden_layers": 1, "hidden_size": 8, **student}
    with pytest.raises(ConfigError, match=message):
        run("distill", layer_config(configs, teacher, teacher_labels, student=student, losses=losses), dry_run=True)
    assert not (tmp_path / "out").exists()


def test_hard_labels_are_added_to_soft_labels(teacher: Path, teacher_labels: Path, configs: Configs) -> None:
    losses = {"soft_labels": {"weight": 0.5, "temperature": 4.0}, "hard_labels": 2.0}
    config = configs(
        "distill", "out", label_dataset=teacher_labels, student=teacher, losses=losses, training__max_steps=6
    )  # fmt: skip
    row = last(run("distill", config), "train")
    assert row["loss"] == pytest.approx(0.5 * row["soft_labels"] + 2.0 * row["hard_labels"], rel=1e-4)


def test_trim_vocabulary_keeps_the_tokens_of_the_training_text(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    student = {"from": str(teacher), **SMALL, "trim_vocabulary": True}
    rows = run("distill", configs("distill", "out", label_dataset=teacher_labels, student=student))
    assert last(rows, "plan")["vocabulary_size"] < last(rows, "plan")["source_vocabulary_size"]
    assert last(rows)["eval_accuracy"] >= 0.9
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["bytes_saved"] == 4 * 16 * (manifest["source_vocabulary_size"] - manifest["vocabulary_size"])
    compared = {"teacher": str(teacher), "student": str(tmp_path / "out")}
    scores = last(run("eval", configs("eval", "eval", models=compared, latency=None, bootstrap=0)))
    assert scores["student.accuracy"] == last(rows)["eval_accuracy"]


def test_tokens_that_only_augmented_rows_have_are_trimmed(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    augment = {"copies": 3, "probability": 1.0, "candidates": 50}
    run("gen-soft-labels", configs("gen-soft-labels", "augmented", teacher=teacher, augment=augment))
    student = {"from": str(teacher), **SMALL, "trim_vocabulary": True}
    tokens, rows = set(), set()
    for labels in (teacher_labels, tmp_path / "augmented"):
        plan = last(run("distill", configs("distill", f"from-{labels.name}", label_dataset=labels, student=student,
                                           training__max_steps=2)), "plan")  # fmt: skip
        tokens.add(plan["vocabulary_size"])
        rows.add(plan["rows"])
    assert len(tokens) == 1 and len(rows) == 2


def test_layer_losses_reject_a_trimmed_vocabulary(teacher: Path, teacher_labels: Path, configs: Configs) -> None:
    student = {"from": str(teacher), **SMALL, "trim_vocabulary": True}
    with pytest.raises(ConfigError, match="trimmed vocabulary"):
        run("distill", layer_config(configs, teacher, teacher_labels, student=student))


def test_labels_of_another_teacher_are_rejected(
    teacher: Path, base_model: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    run("finetune", configs("finetune", "other", model=base_model, seed=7, training__max_steps=1))
    config = configs("distill", "out", label_dataset=teacher_labels, student=teacher, teacher=tmp_path / "other")
    with pytest.raises(InputError, match="another teacher"):
        run("distill", config)
    assert not (tmp_path / "out").exists()


def test_labels_of_a_moved_teacher_are_accepted(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    moved = teacher.rename(tmp_path / "moved")
    config = configs(
        "distill", "out", label_dataset=teacher_labels, student=moved, teacher=moved, training__max_steps=1
    )
    assert last(run("distill", config))["steps"] == 1


def test_labels_of_other_data_are_rejected(data: Path, teacher: Path, teacher_labels: Path, configs: Configs) -> None:
    write_rows(data / "train.jsonl", sentences("test"))
    with pytest.raises(InputError, match=r"another data\.train_file"):
        run("distill", configs("distill", "out", label_dataset=teacher_labels, student=teacher))


def test_damaged_labels_are_rejected(teacher: Path, teacher_labels: Path, configs: Configs) -> None:
    shard = teacher_labels / "train-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"parquet' is damaged"):
        run("distill", configs("distill", "out", label_dataset=teacher_labels, student=teacher))


def test_a_model_folder_is_not_a_label_dataset(teacher: Path, configs: Configs) -> None:
    with pytest.raises(InputError, match="written by finetune"):
        run("distill", configs("distill", "out", label_dataset=teacher, student=teacher))


def test_after_a_full_disk_nothing_is_left_and_the_next_run_succeeds(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: Any, folder: Path, **_: Any) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    config = configs("distill", "out", label_dataset=teacher_labels, student=teacher, training__max_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(BertForSequenceClassification, "save_pretrained", full)
        with pytest.raises(UserError, match="disk is full"):
            run("distill", config)
    assert not (tmp_path / "out").exists()
    assert last(run("distill", config))["steps"] == 2


# -- gen-soft-labels -----------------------------------------------------------------------------------------


def test_a_label_dataset_has_the_rows_and_the_teacher_predictions(teacher_labels: Path) -> None:
    columns = table(teacher_labels)
    assert [{"text": text, "label": label} for text, label in zip(columns["text"], columns["label"], strict=True)] == (
        sentences("train")
    )
    classes = np.asarray(columns["teacher_logits"]).argmax(-1)
    assert columns["teacher_prediction"] == [["bad", "good"][index] for index in classes]


def test_label_dataset_metrics_have_their_documented_names(teacher_labels: Path) -> None:
    metrics = json.loads((teacher_labels / "metrics.json").read_text())
    assert set(metrics) == {"rows", "rows_per_second", "teacher_accuracy", "majority_accuracy"}
    assert metrics["rows"] == 96 and metrics["majority_accuracy"] == 0.5


def test_gen_soft_labels_loads_teachers_on_the_device_of_the_accelerator(
    teacher: Path, student: Path, configs: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def recorded_accelerator() -> Accelerator:
        accelerator = Accelerator()
        calls.append(("accelerator", fake_device(accelerator, monkeypatch)))
        return accelerator

    def recorded_load(source: models.Source, *, device: torch.device, **options: Any) -> Predictor:
        calls.append((source.name, device))
        return load_predictor(source, device=device, **options)

    monkeypatch.setattr(gen_soft_labels, "Accelerator", recorded_accelerator)
    monkeypatch.setattr(gen_soft_labels, "load_predictor", recorded_load)
    teachers = [str(teacher), str(student)]
    run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teachers), dry_run=True)
    device = torch.device("cpu", 0)
    assert calls == [("accelerator", device), (str(teacher), device), (str(student), device)]


def test_float16_logits_differ_by_rounding_only(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, logits_dtype="float16"))
    schema = pq.read_schema(tmp_path / "out" / "train-00000-of-00001.parquet")
    assert "halffloat" in str(schema.field("teacher_logits").type)
    np.testing.assert_allclose(probabilities(tmp_path / "out"), probabilities(teacher_labels), atol=2e-3)


def test_unlabeled_rows_are_labelled(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    rows = run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, splits=["train", "unlabeled"]))
    columns = table(tmp_path / "out", "unlabeled-*.parquet")
    assert last(rows)["rows"] == 128 and columns["text"] == [row["text"] for row in sentences("unlabeled")]
    assert columns["label"] == [None] * 32  # all files have one schema


def test_distill_learns_from_unlabeled_rows(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher, splits=["unlabeled", "train"]))
    losses = {"soft_labels": 1.0, "hard_labels": 1.0}  # which has labels for a part of the rows only
    config = configs("distill", "out", label_dataset=tmp_path / "labels", student=teacher, losses=losses)
    rows = run("distill", config)
    assert last(rows, "plan")["rows"] == 128 and np.isfinite([row["loss"] for row in events(rows, "train")]).all()


def killed_at_shard(number: int, patch: pytest.MonkeyPatch) -> None:
    """Makes gen-soft-labels fail while it writes this shard, counted from 0."""
    write, written = data_module.write_soft_labels, []

    def write_or_die(path: Path, *arguments: Any, **options: Any) -> None:
        if len(written) == number:
            path.write_bytes(b"PAR1half")
            raise RuntimeError("killed")
        written.append(path.name)
        write(path, *arguments, **options)

    patch.setattr(data_module, "write_soft_labels", write_or_die)


def test_augmented_rows_are_labelled_and_used_by_distill(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    config = configs("gen-soft-labels", "out", teacher=teacher, augment={"copies": 3, "candidates": 4})
    rows = run("gen-soft-labels", config)
    count = last(rows, "augmented")["copies"]
    augmented = table(tmp_path / "out", "augmented-*.parquet")
    original = table(tmp_path / "out")["text"]
    assert 96 < count == len(augmented["text"]) <= 3 * 96 and set(augmented["label"]) == {None}
    assert not set(augmented["text"]) & set(original)
    assert last(rows)["rows"] == 96 + count
    config = configs("distill", "student", label_dataset=tmp_path / "out", student=teacher, training__max_steps=2)
    assert last(run("distill", config), "plan")["rows"] == 96 + count
    again = configs("gen-soft-labels", "again", teacher=teacher, augment={"copies": 3, "candidates": 4})
    run("gen-soft-labels", again)
    assert table(tmp_path / "again", "augmented-*.parquet") == augmented


def test_augmentation_needs_the_train_split(teacher: Path, configs: Configs) -> None:
    with pytest.raises(ConfigError, match="`augment` needs the training rows"):
        run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, splits=["unlabeled"], augment={}))


def test_a_killed_run_resumes_after_its_last_shard(
    teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "ROWS_PER_SHARD", 8)
    run("gen-soft-labels", configs("gen-soft-labels", "whole", teacher=teacher))
    config = configs("gen-soft-labels", "killed", teacher=teacher)
    with monkeypatch.context() as patch:
        killed_at_shard(5, patch)
        with pytest.raises(RuntimeError, match="killed"):
            run("gen-soft-labels", config)
    assert len(list((tmp_path / "killed").glob("*.parquet"))) == 5
    rows = run("gen-soft-labels", config)
    assert [row["step"] for row in events(rows, "resume")] == [5 * 8] and len(events(rows, "shard")) == 12 - 5
    whole, killed = (sorted((tmp_path / name).glob("*.parquet")) for name in ("whole", "killed"))
    assert [file.name for file in killed] == [file.name for file in whole] and len(whole) == 12
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(whole, killed, strict=True))


def test_shard_size_does_not_change_the_predictions(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "ROWS_PER_SHARD", 25)
    run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher))
    assert table(tmp_path / "out")["text"] == table(teacher_labels)["text"]
    np.testing.assert_allclose(probabilities(tmp_path / "out"), probabilities(teacher_labels), atol=1e-6)


def test_an_ensemble_stores_the_weighted_mean_of_the_probabilities_and_plans_the_parameters_of_all(
    teacher: Path, teacher_labels: Path, student: Path, configs: Configs, tmp_path: Path
) -> None:
    one = run("gen-soft-labels", configs("gen-soft-labels", "one", teacher=student))
    both = [str(teacher), str(student)]
    rows = run("gen-soft-labels", configs("gen-soft-labels", "both", teacher=both, teacher_weights=[3.0, 1.0]))
    first, second, total = (
        next(row["parameters"] for row in events if row["event"] == "plan")
        for events in (run("gen-soft-labels", configs("gen-soft-labels", "other", teacher=teacher)), one, rows)
    )
    assert first > second and total == first + second
    assert artifacts.read_manifest(tmp_path / "both")["teacher_parameters"] == total
    mean = 0.75 * probabilities(teacher_labels) + 0.25 * probabilities(tmp_path / "one")
    np.testing.assert_allclose(probabilities(tmp_path / "both"), mean, atol=1e-5)


def test_teacher_weights_need_one_weight_per_teacher(teacher: Path, configs: Configs) -> None:
    with pytest.raises(ConfigError, match="2 weights for 1 teachers"):
        run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, teacher_weights=[3.0, 1.0]))


def predict_bad(weights: dict[str, torch.Tensor]) -> None:
    weights["classifier.weight"].zero_()
    weights["classifier.bias"].copy_(torch.tensor([1.0, 0.0]))


def test_a_weak_teacher_among_several_is_a_warning(
    teacher: Path, finished_runs: Path, configs: Configs, tmp_path: Path
) -> None:
    edit_weights(teacher, predict_bad)
    both = [str(finished_runs / "teacher"), str(teacher)]
    rows = run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=both, teacher_weights=[9.0, 1.0]))
    messages = [row["message"] for row in rows if row["event"] == "warning"]
    weak = [text for text in messages if "alone does not beat the majority-class baseline on 96 rows" in text]
    assert len(weak) == 1 and weak[0].startswith(str(teacher))


def test_a_teacher_at_the_majority_baseline_is_rejected(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    edit_weights(teacher, predict_bad)
    with pytest.raises(InputError, match=r"accuracy 0\.500, majority 0\.500"):
        run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher))
    assert not (tmp_path / "out").exists()


def test_check_teacher_false_accepts_a_teacher_at_the_baseline(teacher: Path, configs: Configs) -> None:
    edit_weights(teacher, predict_bad)
    rows = run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, check_teacher=False))
    assert last(rows)["rows"] == 96


def test_a_permuted_label_order_is_named_in_the_hint(data: Path, teacher: Path, configs: Configs) -> None:
    index = {"good": 0, "bad": 1}  # the teacher's order is bad, good
    write_rows(data / "train.jsonl", [row | {"label": index[row["label"]]} for row in sentences("train")])
    with pytest.raises(InputError) as error:
        run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher))
    assert 'set data.label_names: {"1": "bad", "0": "good"}' in str(error.value.hint)
    named = configs("gen-soft-labels", "out", teacher=teacher, data__label_names={"1": "bad", "0": "good"})
    (check,) = (event for event in run("gen-soft-labels", named) if event["event"] == "teacher check")
    assert check["teacher_accuracy"] > 0.9


def copy_of(teacher: Path, folder: Path, **config: object) -> Path:
    """A copy as another tool would have written it, with other settings in config.json."""
    shutil.copytree(teacher, folder)
    (folder / "manifest.json").unlink()
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | config))
    return folder


def exchange(weights: dict[str, torch.Tensor]) -> None:
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name].flip(0).contiguous()


def test_eval_states_which_models_do_not_name_their_classes(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    other = copy_of(teacher, tmp_path / "other", id2label={"0": "LABEL_0", "1": "LABEL_1"})
    models = {"teacher": str(teacher), "other": str(other)}
    for settings in ({}, {"data__label_names": ["bad", "good"]}):  # the teacher has these names itself
        plan = last(run("eval", configs("eval", "out", models=models, latency=None, **settings), dry_run=True), "plan")
        assert plan["assumptions"] == [
            f"'{other}' does not name its classes: the labels bad to good are its outputs in their order"
        ]


def test_exchanged_labels_of_one_model_beside_others_are_refused(
    teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    """The first model hides them in the score of both."""
    other = copy_of(teacher, tmp_path / "other", id2label={"0": "LABEL_0", "1": "LABEL_1"})
    edit_weights(other, exchange)
    both = {"teacher": [str(teacher), str(other)], "teacher_weights": [3.0, 1.0]}
    with pytest.raises(InputError, match="seem to be mixed up") as error:
        run("gen-soft-labels", configs("gen-soft-labels", "out", **both))
    assert error.value.where == str(other) and "its outputs seem to be good, bad" in str(error.value.hint)
    plan = last(run("gen-soft-labels", configs("gen-soft-labels", "out", check_teacher=False, **both)), "plan")
    assert any(f"'{other}' does not name its classes" in text for text in plan["assumptions"])


@pytest.mark.parametrize(
    "own, first, hint",
    [
        (["good", "bad"], None, 'fine-tune it again with data.label_names: ["bad", "good"]'),
        (["cold", "warm"], None, "leave one of them out"),
        (["bad", "good"], ["LABEL_0", "LABEL_1"], 'set data.label_names: ["bad", "good"]'),
    ],
)
def test_teachers_with_other_classes_are_both_listed(
    own: list[str], first: list[str] | None, hint: str, teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    folders = [
        copy_of(
            teacher, tmp_path / f"teacher-{index}", **({} if names is None else {"id2label": dict(enumerate(names))})
        )
        for index, names in enumerate([first, own])
    ]
    with pytest.raises(InputError, match="or another order of them") as error:
        run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=list(map(str, folders))))
    assert f"{folders[1]}: {', '.join(own)}" in error.value.what and hint in str(error.value.hint)


def test_words_and_rows_that_only_another_teacher_cannot_read_are_a_warning(
    teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    other = copy_of(teacher, tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["movie"], vocabulary["nice"] = vocabulary.pop("film"), vocabulary.pop("the")
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    both = {"teacher": [str(teacher), str(other)], "data__max_seq_length": 8}
    messages = [
        row["message"] for row in events(run("gen-soft-labels", configs("gen-soft-labels", "out", **both)), "warning")
    ]
    assert [text for text in messages if f"the vocabulary of {other}" in text and "film" in text]
    assert len([text for text in messages if "truncated" in text]) == 1  # both cut the same rows


@pytest.mark.parametrize("command", ["gen-soft-labels", "eval", "export"])
def test_label_names_in_another_order_are_both_listed(command: str, teacher: Path, configs: Configs) -> None:
    model = {
        "gen-soft-labels": {"teacher": teacher}, "eval": {"models": {"teacher": str(teacher)}}, "export": {"model": teacher},
    }[command]  # fmt: skip
    with pytest.raises(InputError) as error:
        run(command, configs(command, "out", data__label_names=["good", "bad"], **model))
    assert "bad, good" in str(error.value) and "good, bad" in str(error.value)


# -- eval ----------------------------------------------------------------------------------------------------


@pytest.fixture
def reordered(teacher: Path, tmp_path: Path) -> Path:
    """The teacher with its two classes, and the weights of their outputs, in the other order."""
    folder = Path(shutil.copytree(teacher, tmp_path / "reordered"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "good", "1": "bad"}, "label2id": {"good": 0, "bad": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    weights = load_file(folder / "model.safetensors")
    flipped = {name: value.flip(0).contiguous() for name, value in weights.items() if name.startswith("classifier.")}
    save_file({**weights, **flipped}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "manifest.json").unlink()
    return folder


@pytest.mark.parametrize("names", [None, ["bad", "good"]])
def test_a_model_with_its_classes_in_another_order_is_scored_by_their_names(
    names: list[str] | None, teacher: Path, reordered: Path, configs: Configs, tmp_path: Path
) -> None:
    both = {"teacher": str(teacher), "other": str(reordered)}
    run("eval", configs("eval", "out", models=both, latency=None, data__label_names=names))
    numbers = json.loads((tmp_path / "out/metrics.json").read_text())
    assert numbers["other.agreement"] == 1 and numbers["other.kl"] == pytest.approx(0, abs=1e-6)
    assert numbers["other.accuracy"] == numbers["teacher.accuracy"] > 0.9
    assert numbers["other.recall[good]"] == numbers["teacher.recall[good]"]
    assert "Other has its classes in another order than teacher" in (tmp_path / "out/report.md").read_text()


def test_a_model_with_its_classes_in_another_order_is_refused_where_labels_are_positions(
    teacher: Path, reordered: Path, configs: Configs, tmp_path: Path
) -> None:
    rows = [{"text": row["text"], "label": int(row["label"] == "good")} for row in sentences("validation")]
    data = {"data__validation_file": str(write_rows(tmp_path / "numbers.jsonl", rows)), "data__train_file": None}
    both = {"teacher": str(teacher), "other": str(reordered)}
    with pytest.raises(InputError, match="other labels than the reference, or another order") as error:
        run("eval", configs("eval", "out", models=both, latency=None, **data))
    assert "model:     good, bad" in str(error.value) and "reference: bad, good" in str(error.value)


QUALITY = {
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "f1_macro",
    "f1_macro_low",
    "f1_macro_high",
    "mcc",
    "loss",
    "ece",
}
COST = {"parameters", "embedding_parameters", "bytes", "latency_ms_b1", "latency_ms_b1_p95", "latency_ms_b32",
        "multiply_adds"}  # fmt: skip
FIDELITY = {"retention", "agreement", "kl", "speedup_b1", "speedup_b32", "accuracy_difference",
            "accuracy_difference_low", "accuracy_difference_high", "mcnemar_p", "confidence_correlation"}  # fmt: skip


def evaluation(configs: Configs, teacher: Path, student: Path, **settings: Any) -> Stage:
    compared = {"teacher": str(teacher), "student": str(student)}
    latency = {"batch_sizes": [1, 32], "lengths": ["data"]}
    config: Stage = configs(
        "eval", "eval", **{"models": compared, "latency": latency, "bootstrap": 100, "baselines": [], **settings}
    )
    return config


def test_eval_metrics_have_their_documented_keys(
    teacher: Path, student: Path, configs: Configs, tmp_path: Path
) -> None:
    run("eval", evaluation(configs, teacher, student))
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    keys = {f"teacher.{key}" for key in QUALITY | COST} | {f"student.{key}" for key in QUALITY | COST | FIDELITY}
    assert keys <= set(metrics)
    assert {key.partition(".")[0] for key in metrics} == {"teacher", "student"}
    assert all(isinstance(value, (int, float)) for value in metrics.values())


def test_eval_gives_the_same_score_as_training(teacher: Path, student: Path, configs: Configs) -> None:
    metrics = last(run("eval", evaluation(configs, teacher, student, latency=None)))
    assert metrics["teacher.accuracy"] == json.loads((teacher / "metrics.json").read_text())["eval_accuracy"]


def test_any_model_can_be_the_reference(teacher: Path, student: Path, configs: Configs) -> None:
    rows = run("eval", evaluation(configs, teacher, student, latency=None, reference="student"))
    assert [row["model"] for row in events(rows, "model") if "agreement" in row] == ["teacher"]


def test_predictions_parquet_has_the_rows_with_predictions(
    teacher: Path, student: Path, configs: Configs, tmp_path: Path
) -> None:
    metrics = last(run("eval", evaluation(configs, teacher, student, latency=None, split="test")))
    columns = table(tmp_path / "eval", "predictions.parquet")
    assert columns["text"] == [row["text"] for row in sentences("test")]
    correct = [
        prediction == label for prediction, label in zip(columns["student_prediction"], columns["label"], strict=True)
    ]
    assert np.mean(correct) == pytest.approx(metrics["student.accuracy"])


@pytest.mark.parametrize("column", ["label", "model", "prediction", "b_prediction"])
def test_a_text_column_with_a_name_of_the_reports_is_kept(
    column: str, teacher: Path, data: Path, configs: Configs, tmp_path: Path
) -> None:
    rows = [{column: row["text"], "gold": row["label"]} for row in sentences("test")]
    write_rows(data / "test.jsonl", rows)
    weights = load_file(teacher / "model.safetensors")
    wrong = {name: -value if name.startswith("classifier") else value for name, value in weights.items()}
    save_file(wrong, shutil.copytree(teacher, tmp_path / "wrong") / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "wrong" / "manifest.json").unlink()
    compared = {"teacher": str(teacher), "b": str(tmp_path / "wrong")}
    run("eval", configs("eval", "eval", models=compared, split="test", latency=None, bootstrap=0, baselines=[],
                        data__text_column_names=column, data__label_column_name="gold"))  # fmt: skip
    predictions, lost = (table(tmp_path / "eval", f"{name}.parquet") for name in ("predictions", "regressions"))
    assert predictions[f"{column}_text"] == [row[column] for row in rows]
    assert predictions["label"] == [row["gold"] for row in rows]
    assert len(lost["row"]) > 20 and lost[f"{column}_text"] == [rows[index][column] for index in lost["row"]]


def test_differences_to_the_reference_match_the_predictions(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    weak = configs("distill", "student", label_dataset=teacher_labels, student={"from": str(teacher), **SMALL},
                   training__max_steps=1)  # fmt: skip
    run("distill", weak)
    metrics = last(run("eval", evaluation(configs, teacher, tmp_path / "student", latency=None)))
    columns = table(tmp_path / "eval", "predictions.parquet")
    right = {
        name: np.array(columns[f"{name}_prediction"]) == np.array(columns["label"]) for name in ("teacher", "student")
    }
    lost = table(tmp_path / "eval", "regressions.parquet")
    assert lost["row"] and sorted(lost["row"]) == np.flatnonzero(right["teacher"] & ~right["student"]).tolist()
    assert metrics["student.rows_lost"] == len(lost["row"])
    difference = right["student"].mean() - right["teacher"].mean()
    assert metrics["student.accuracy_difference"] == pytest.approx(difference)
    assert metrics["student.accuracy_difference_low"] <= difference <= metrics["student.accuracy_difference_high"]
    by_label = [metrics[f"student.accuracy[label={name}]"] for name in set(columns["label"])]
    assert by_label == pytest.approx([
        right["student"][np.array(columns["label"]) == name].mean() for name in set(columns["label"])
    ])  # fmt: skip


def test_a_slice_by_a_missing_column_is_rejected(teacher: Path, student: Path, configs: Configs) -> None:
    with pytest.raises(InputError, match="domain"):
        run("eval", evaluation(configs, teacher, student, latency=None, slices=["domain"]))


def test_latency_startup_measures_a_new_process(teacher: Path, configs: Configs) -> None:
    latency = {"batch_sizes": [1], "lengths": ["data"], "startup": True}
    metrics = last(run("eval", configs("eval", "eval", models={"teacher": str(teacher)}, latency=latency, bootstrap=0)))
    assert metrics["teacher.startup_ms"] > metrics["teacher.latency_ms_b1"]
    assert metrics["teacher.peak_memory_bytes"] > metrics["teacher.bytes"]


def test_a_missed_requirement_fails_after_the_folder_is_finished(
    teacher: Path, student: Path, configs: Configs, tmp_path: Path
) -> None:
    config = evaluation(configs, teacher, student, latency=None, require={"student": {"accuracy": 1.01}})
    with pytest.raises(GateError, match=r"student\.accuracy is .*, required is 1\.01") as error:
        run("eval", config)
    assert error.value.exit_code == 5 and artifacts.verify_folder(tmp_path / "eval")["command"] == "eval"


def test_a_missed_requirement_fails_again_when_up_to_date(teacher: Path, student: Path, configs: Configs) -> None:
    config = evaluation(configs, teacher, student, latency=None, require={"student": {"accuracy": 1.01}})
    for _ in range(2):
        with pytest.raises(GateError):
            run("eval", config)


def test_a_met_requirement_does_not_fail(teacher: Path, student: Path, configs: Configs) -> None:
    config = evaluation(configs, teacher, student, latency=None, require={"student": {"accuracy": 0.5}})
    assert last(run("eval", config))["event"] == "done"


def test_eval_says_that_the_temperature_of_a_perfect_classifier_is_a_limit(
    data: Path, teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    labels = [row["prediction"] for row in predict.run(str(teacher), [row["text"] for row in sentences("validation")])]
    rows = [row | {"label": label} for row, label in zip(sentences("validation"), labels, strict=True)]
    write_rows(data / "validation.jsonl", rows)
    config = configs("eval", "eval", models={"teacher": str(teacher)}, latency=None, bootstrap=0, baselines=[])
    warnings = [event["message"] for event in run("eval", config) if event["event"] == "warning"]
    (note,) = (text for text in warnings if "temperature" in text)
    assert note.startswith("temperature of teacher is 0.05, the lower limit of its search")
    for name in ("report.md", "report.html"):
        assert note[1:] in (tmp_path / "eval" / name).read_text()


def test_an_up_to_date_evaluation_yields_its_scores_again(teacher: Path, student: Path, configs: Configs) -> None:
    config = evaluation(configs, teacher, student, latency=None)
    first, second = run("eval", config), run("eval", config)
    assert second[-1]["event"] == "up to date"
    assert [row["accuracy"] for row in events(second, "model")] == [row["accuracy"] for row in events(first, "model")]


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"reference": "teachr"}, ("reference",)),
        ({"metrics": ["accuracy", "acuracy"]}, ("metrics", 1)),
        ({"require": {"student": {"acuracy_low": 0.5}}}, ("require", "student", "acuracy_low")),
        ({"require": {"studnt": {"accuracy": 0.5}}}, ("require", "studnt")),
    ],
)
def test_a_misspelt_name_is_rejected_with_a_suggestion(
    settings: dict[str, Any], key: tuple[str, ...], teacher: Path, student: Path, configs: Configs, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="did you mean") as error:
        run("eval", evaluation(configs, teacher, student, latency=None, **settings))
    assert error.value.key == key and not (tmp_path / "eval").exists()


# -- export --------------------------------------------------------------------------------------------------


@pytest.fixture
def onnx() -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")


@pytest.mark.usefixtures("onnx")
def test_an_export_matches_the_original(student: Path, configs: Configs, tmp_path: Path) -> None:
    done = last(run("export", configs("export", "out", model=student)))
    assert done["max_abs_logit_difference"] < 1e-4 and done["agreement"] == 1.0 and done["metric_difference"] == 0.0
    promised = {"max_abs_logit_difference", "mean_abs_logit_difference", "agreement", "metric_difference", "bytes",
                "bytes_ratio", "latency_ratio_b1"}  # fmt: skip
    assert promised <= set(json.loads((tmp_path / "out" / "metrics.json").read_text()))


@pytest.mark.usefixtures("onnx")
def test_an_export_can_be_evaluated_beside_its_original(student: Path, configs: Configs, tmp_path: Path) -> None:
    run("export", configs("export", "out", model=student))
    metrics = last(run("eval", evaluation(configs, student, tmp_path / "out", latency=None)))
    assert metrics["student.agreement"] == 1.0 and metrics["student.accuracy"] == metrics["teacher.accuracy"]


@dataclass(frozen=True)
class NegatedSession:
    """A session whose logits have the opposite sign."""

    session: formats.Session

    @property
    def inputs(self) -> Sequence[str]:
        return self.session.inputs

    def __call__(self, inputs: Mapping[str, Array]) -> Array:
        return -self.session(inputs)


@pytest.mark.usefixtures("onnx")
def test_an_export_that_does_not_match_is_not_stored(
    student: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = formats.FORMATS["onnx"].load
    assert load is not None
    wrong = replace(formats.FORMATS["onnx"], load=lambda folder: NegatedSession(load(folder)))
    monkeypatch.setitem(formats.FORMATS, "onnx", wrong)
    with pytest.raises(GateError, match=r"agreement 0\.0000.*the metric drops by") as error:
        run("export", configs("export", "out", model=student))
    assert error.value.exit_code == 5 and not (tmp_path / "out").exists()


def scrambled(source: Path, target: Path, products: Any, exclude: Any, **options: Any) -> dict[str, str]:
    """int8 in which all matrices are negated, whatever is excluded."""
    import onnx as graphs
    from onnx import numpy_helper

    model = graphs.load(source)
    for tensor in model.graph.initializer:
        if len(tensor.dims) == 2:
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    target.parent.mkdir(parents=True, exist_ok=True)
    graphs.save(model, target)
    return {}


@pytest.mark.usefixtures("onnx")
def test_rejected_int8_leaves_float32_and_names_the_layer(
    teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruined = replace(formats.FORMATS["onnx"], int8=replace(formats.FORMATS["onnx"].int8, write=scrambled))
    monkeypatch.setitem(formats.FORMATS, "onnx", ruined)
    config = configs("export", "out", model=teacher, quantize="int8", verify__min_agreement=1.0)
    for _ in range(2):
        with pytest.raises(GateError, match=r"int8 rejected.*no form with some parts in float32 passes") as error:
            run("export", config)
        assert error.value.exit_code == 5
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["agreement"] == 1.0 > metrics["int8_agreement"]
    assert artifacts.verify_folder(tmp_path / "out")["precision"] == "float32"


def test_quantize_exclude_needs_quantization(student: Path, configs: Configs) -> None:
    with pytest.raises(ConfigError, match="has no effect without quantization") as error:
        run("export", configs("export", "out", model=student, quantize_exclude=["classifier"]))
    assert error.value.key == ("quantize_exclude",)


@pytest.mark.usefixtures("onnx")
def test_after_a_failed_verification_the_folder_can_be_reused(student: Path, configs: Configs) -> None:
    with pytest.raises(GateError, match="more than atol"):
        run("export", configs("export", "out", model=student, verify__atol=1e-12))
    assert last(run("export", configs("export", "out", model=student)))["agreement"] == 1.0


# -- dry runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_a_dry_run_checks_everything_and_writes_nothing(
    command: str, base_model: Path, teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "finetune": {"model": base_model},
        "gen-soft-labels": {"teacher": teacher},
        "distill": {"label_dataset": teacher_labels, "student": teacher},
        "eval": {"models": {"teacher": str(teacher)}, "latency": {"lengths": ["data"]}},
        "export": {"model": teacher},
    }[command]
    before = sorted(tmp_path.rglob("*"))
    rows = run(command, configs(command, "deep/out", **settings), dry_run=True)
    assert "plan" in {row["event"] for row in rows} and "done" not in {row["event"] for row in rows}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_raises_errors_of_the_data(teacher: Path, configs: Configs) -> None:
    with pytest.raises(InputError, match="no column 'sentence'"):
        run(
            "eval", configs("eval", "out", models={"t": str(teacher)}, data__text_column_names="sentence"), dry_run=True
        )


# -- signals -------------------------------------------------------------------------------------------------


def start(command: str, config: Stage, file: Path) -> subprocess.Popen[str]:
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)))
    return subprocess.Popen(
        [sys.executable, "-m", "tinybert_cli", command, str(file)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def stop_in_the_middle(process: subprocess.Popen[str], folder: Path, number: int) -> str:
    """Sends the signal after the first training events in the log; returns what the process wrote to stderr."""
    log, end = folder / "log.jsonl", time.monotonic() + 120
    while not (log.exists() and '"event": "train"' in log.read_text()):
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(number)
    return process.communicate(timeout=60)[1]


@pytest.fixture
def long_run(teacher: Path, teacher_labels: Path, configs: Configs) -> Callable[[str], Stage]:
    settings = {"training__max_steps": 200, "training__eval_strategy": "no", "training__logging_steps": 5}
    settings["losses"] = LAYER_LOSSES | {"soft_labels": 1.0}
    return lambda output: layer_config(configs, teacher, teacher_labels, output, **settings)


@pytest.mark.slow
def test_a_run_resumed_after_sigterm_ends_with_the_same_weights(
    long_run: Callable[[str], Stage], tmp_path: Path
) -> None:
    run("distill", long_run("whole"))
    folder = tmp_path / "stopped"
    process = start("distill", long_run("stopped"), tmp_path / "distill.yaml")
    stderr = stop_in_the_middle(process, folder, signal.SIGTERM)
    assert process.returncode == 143 and "run the same command again" in stderr
    with pytest.raises(InputError, match="unfinished"):
        models.locate(str(folder))
    process = start("distill", long_run("stopped"), tmp_path / "distill.yaml")
    stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and re.search(r"from step \d+ of 200", stderr)
    assert sha256(folder) == sha256(tmp_path / "whole")


def test_ctrl_c_stores_a_checkpoint(long_run: Callable[[str], Stage], tmp_path: Path) -> None:
    process = start("distill", long_run("stopped"), tmp_path / "distill.yaml")
    stop_in_the_middle(process, tmp_path / "stopped", signal.SIGINT)
    assert process.returncode == 130
    assert len(list((tmp_path / "stopped" / "checkpoints").glob("step-*"))) == 1
