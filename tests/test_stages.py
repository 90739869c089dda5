"""Every stage reads folders, writes one, and can be stopped, gone on with and asked twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import Configs, make_config, run, sentences, write_rows
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from tinybert_cli import artifacts, formats, models
from tinybert_cli.config import COMMANDS, Stage
from tinybert_cli.errors import ConfigError, GateError, InputError, OutputError, UserError
from tinybert_cli.stages import export, gen_soft_labels

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
    """Makes another model of a finished one, which has no manifest then."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "manifest.json").unlink()


@pytest.fixture(scope="module")
def made_student(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "student"
    student = {"from": str(made / "teacher"), **SMALL}
    run(
        "distill", make_config("distill", made / "data", folder, label_dataset=made / "teacher-labels", student=student)
    )
    return folder


@pytest.fixture
def student(made_student: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_student, tmp_path / "student"))


# -- finetune ------------------------------------------------------------------------------------------------


def test_a_teacher_learns_the_gold_labels(base_model: Path, configs: Configs) -> None:
    done = last(run("finetune", configs("finetune", "out", model=base_model)))
    assert done["eval_accuracy"] >= 0.9 and done["steps"] == 72


def test_the_finished_folder_is_a_model_that_transformers_loads(teacher: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    assert isinstance(model, BertForSequenceClassification) and model.config.id2label == {0: "bad", 1: "good"}


def test_a_finished_model_folder_holds_all_that_is_promised(teacher: Path) -> None:
    promised = {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "metrics.json",
        "log.jsonl", "run.yaml", "manifest.json",
    }  # fmt: skip
    assert promised <= {path.name for path in teacher.iterdir()} and not (teacher / "checkpoints").exists()


def test_the_metrics_of_a_training_are_numbers_by_their_promised_names(teacher: Path) -> None:
    metrics = json.loads((teacher / "metrics.json").read_text())
    assert {"train_loss", "train_samples_per_second", "train_runtime", "eval_accuracy", "eval_f1_macro"} <= set(metrics)
    assert all(isinstance(value, (int, float)) for value in metrics.values())


def test_the_written_settings_repeat_the_run(made: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load((made / "teacher" / "run.yaml").read_text())
    again = COMMANDS["finetune"].model_validate({**settings, "output_dir": str(tmp_path / "again")})
    run("finetune", again)
    assert sha256(tmp_path / "again") == sha256(made / "teacher")


def test_a_finished_stage_has_nothing_to_do(made: Path) -> None:
    config = make_config("finetune", made / "data", made / "teacher", model=made / "base")
    (row,) = run("finetune", config)
    assert row["event"] == "up to date" and row["output_dir"] == str(made / "teacher")


def test_training_data_that_changed_since_is_no_longer_up_to_date(
    data: Path, base_model: Path, configs: Configs
) -> None:
    config = configs("finetune", "out", model=base_model, training__max_steps=2)
    run("finetune", config)
    write_rows(data / "train.jsonl", sentences("test"))
    with pytest.raises(OutputError, match=r"data\.train_file\.0\.sha256"):
        run("finetune", config)


def test_the_best_weights_are_kept(base_model: Path, configs: Configs) -> None:
    rows = run("finetune", configs("finetune", "out", model=base_model, training__learning_rate=2e-2))
    scores = [row["accuracy"] for row in events(rows, "evaluate")]
    assert last(rows)["eval_accuracy"] == max(scores)


def test_the_last_weights_are_kept_if_asked(base_model: Path, configs: Configs, tmp_path: Path) -> None:
    run("finetune", configs("finetune", "last", model=base_model, training__learning_rate=2e-2, training__keep="last"))
    settings = {"training__learning_rate": 2e-2, "training__eval_strategy": "no"}
    run("finetune", configs("finetune", "unseen", model=base_model, **settings))
    assert sha256(tmp_path / "last") == sha256(tmp_path / "unseen")


def test_dropout_is_set_in_the_model(base_model: Path, configs: Configs, tmp_path: Path) -> None:
    run("finetune", configs("finetune", "out", model=base_model, regularization__dropout=0.3, training__max_steps=1))
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["hidden_dropout_prob"] == settings["attention_probs_dropout_prob"] == 0.3


def test_with_label_smoothing_no_loss_falls_below_the_entropy_of_its_target(base_model: Path, configs: Configs) -> None:
    config = configs("finetune", "out", model=base_model, regularization__label_smoothing=0.5)
    rows = run("finetune", config)
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert min(row["loss"] for row in events(rows, "train")) > entropy and last(rows)["eval_accuracy"] > 0.8


def test_balanced_class_weights_change_what_is_learned(base_model: Path, data: Path, configs: Configs) -> None:
    rows = sentences("train")
    write_rows(data / "train.jsonl", [row for n, row in enumerate(rows) if row["label"] == "bad" or n % 4 == 0])
    found = {}
    for weights in ("none", "balanced"):
        done = run(
            "finetune",
            configs("finetune", weights, model=base_model, class_weights=weights, training__num_train_epochs=12.0),
        )
        found[weights] = last(done)["eval_f1_macro"]
    assert found["balanced"] > found["none"] + 0.1
    assert "class weights balanced" in (data.parent / "balanced" / "README.md").read_text()


def test_balanced_class_weights_of_hard_labels(teacher_labels: Path, base_model: Path, configs: Configs) -> None:
    hard = {"weight": 1.0, "class_weights": "balanced"}
    config = configs(
        "distill", "out", label_dataset=teacher_labels, student=base_model, losses={"hard_labels": hard},
        training__max_steps=2,
    )  # fmt: skip
    assert np.isfinite(last(run("distill", config))["train_loss"])


def test_very_many_classes_leave_tables_and_cards_readable(base_model: Path, data: Path, configs: Configs) -> None:
    names = [f"kind-{number:03d}" for number in range(120)]
    for split in ("train", "validation"):
        texts = [row["text"] for row in sentences(split)] * 4
        write_rows(data / f"{split}.jsonl", [{"text": t, "label": names[n % 120]} for n, t in enumerate(texts)])
    run("finetune", configs("finetune", "many", model=base_model, training__max_steps=2))
    models = {"many": str(data.parent / "many")}
    run("eval", configs("eval", "eval", models=models, latency=None, bootstrap=20))
    report = (data.parent / "eval" / "report.md").read_text()
    assert len(report.splitlines()) < 80 and "kind-119]" not in report.replace("label=kind", "")
    assert "many.recall[kind-119]" in json.loads((data.parent / "eval" / "metrics.json").read_text())
    assert "kind-019 and 100 more, in config.json" in (data.parent / "many" / "README.md").read_text()


def test_r_drop_adds_the_distance_of_two_passes(base_model: Path, configs: Configs) -> None:
    config = configs("finetune", "out", model=base_model, regularization__r_drop=2.0, training__max_steps=6)
    row = last(run("finetune", config), "train")
    assert row["r_drop"] > 0 and row["loss"] == pytest.approx(row["hard_labels"] + 2.0 * row["r_drop"], abs=1e-5)


def test_tensorboard_is_told_and_its_files_are_no_obstacle(base_model: Path, configs: Configs, tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = {"model": base_model, "training__report_to": ["tensorboard"]}
    with pytest.raises(UserError, match="not finite"):
        run(
            "finetune", configs("finetune", "out", training__learning_rate=1e30, training__warmup_ratio=0.0, **settings)
        )
    rows = run("finetune", configs("finetune", "out", training__max_steps=12, **settings))
    (file,) = (tmp_path / "out" / "trackers" / "tinybert").glob("events.*")
    told = events.EventAccumulator(str(file))
    told.Reload()
    losses = [(row["step"], pytest.approx(row["loss"])) for row in rows if row["event"] == "train"]
    assert [(event.step, event.value) for event in told.Scalars("train/loss")] == losses


def test_a_model_that_becomes_nan_is_never_finished(base_model: Path, configs: Configs, tmp_path: Path) -> None:
    config = configs("finetune", "out", model=base_model, training__learning_rate=1e30, training__warmup_ratio=0.0)
    with pytest.raises(UserError, match="not finite at step") as error:
        run("finetune", config)
    assert error.value.exit_code == 1 and not (tmp_path / "out").exists()


def test_labels_all_alike_are_refused_before_anything_is_written(
    data: Path, base_model: Path, configs: Configs, tmp_path: Path
) -> None:
    write_rows(data / "train.jsonl", [row | {"label": "good"} for row in sentences("train")])
    with pytest.raises(InputError):
        run("finetune", configs("finetune", "out", model=base_model, data__label_names=["bad", "good"]))
    assert not (tmp_path / "out").exists()


# -- finetune on the answers of another model ----------------------------------------------------------------


def test_a_student2_learns_from_a_label_dataset(teacher_labels: Path, base_model: Path, configs: Configs) -> None:
    rows = run("finetune", configs("finetune", "out", model=base_model, label_dataset=teacher_labels))
    assert last(rows)["eval_accuracy"] >= 0.85 and last(rows, "labels")["kept"] == 96


def test_a_shallower_model_is_copied_from_the_layers_that_the_settings_name(base_model: Path, configs: Configs) -> None:
    model = {"from": str(base_model), **SMALL}
    for rule, layers in (("uniform", [2, 4]), ("spread", [1, 4]), ([3, 4], [3, 4])):
        config = configs("finetune", "out", model=model, layer_mapping=rule)
        assert last(run("finetune", config, dry_run=True), "plan")["layers_copied_from"] == layers


def test_answers_that_are_not_sure_enough_are_left_out(
    teacher_labels: Path, base_model: Path, configs: Configs
) -> None:
    sure = probabilities(teacher_labels).max(-1)
    least = float(np.median(sure))
    settings = {"label_dataset": teacher_labels, "min_confidence": least, "training__max_steps": 1}
    rows = run("finetune", configs("finetune", "out", model=base_model, **settings))
    assert last(rows, "labels")["kept"] == last(rows, "plan")["rows"] == (sure >= least).sum() < 96


def test_a_least_confidence_needs_answers(base_model: Path, configs: Configs) -> None:
    with pytest.raises(ConfigError) as error:
        run("finetune", configs("finetune", "out", model=base_model, min_confidence=0.5))
    assert error.value.key == ("min_confidence",)


def test_labels_that_nobody_wrote_are_named(teacher: Path, base_model: Path, configs: Configs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        run("finetune", configs("finetune", "out", model=base_model, label_dataset=tmp_path / "teacher-label"))


# -- distill -------------------------------------------------------------------------------------------------


def test_a_student_says_what_its_teacher_says(teacher: Path, student: Path, configs: Configs) -> None:
    named = {"teacher": str(teacher), "student": str(student)}
    metrics = last(run("eval", configs("eval", "out", models=named, latency=None, bootstrap=0)))
    assert metrics["student.agreement"] >= 0.9
    assert metrics["student.parameters"] < metrics["teacher.parameters"]


def test_the_students_layers_come_from_the_last_layer_of_each_equal_group_of_the_teachers(
    teacher: Path, teacher_labels: Path, configs: Configs
) -> None:
    config = configs("distill", "out", label_dataset=teacher_labels, student={"from": str(teacher), **SMALL})
    assert last(run("distill", config, dry_run=True), "plan")["layers_copied_from"] == [2, 4]


LAYER_LOSSES = {"hidden_states": 1.0, "attentions": 0.5, "embeddings": 1.0}


def layer_config(configs: Configs, teacher: Path, labels: Path, output: str = "out", **settings: Any) -> Stage:
    narrow = {"from": str(teacher), **SMALL, "hidden_size": 8, "num_attention_heads": 2}
    settings = {"student": narrow, "losses": LAYER_LOSSES, "training__keep": "last", **settings}
    return configs("distill", output, label_dataset=labels, teacher=teacher, **settings)


def test_layer_losses_bring_the_students_layers_near_the_teachers(
    teacher: Path, teacher_labels: Path, configs: Configs
) -> None:
    rows = run("distill", layer_config(configs, teacher, teacher_labels))
    first, *_, end = events(rows, "train")
    assert all(end[name] < 0.8 * first[name] for name in LAYER_LOSSES)
    assert "soft_labels" not in end


def test_a_student_of_layer_losses_is_a_plain_model_that_goes_on_with_the_prediction_loss(
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


def test_keeping_the_best_by_layer_losses_alone_is_warned_of(
    teacher: Path, teacher_labels: Path, configs: Configs
) -> None:
    config = layer_config(configs, teacher, teacher_labels, training__keep="best", training__max_steps=2)
    warning = last(run("distill", config), "warning")
    assert "keep: last" in warning["message"]


def test_layers_of_another_tokenizer_cannot_be_compared(
    teacher: Path, teacher_labels: Path, base_model: Path, configs: Configs
) -> None:
    file = base_model / "tokenizer.json"
    file.write_text(file.read_text().replace('"zebra"', '"zebu"'))
    config = layer_config(configs, teacher, teacher_labels, student=base_model)
    with pytest.raises(InputError, match="their layers cannot be compared"):
        run("distill", config)


def test_gold_labels_may_be_mixed_in(teacher: Path, teacher_labels: Path, configs: Configs) -> None:
    losses = {"soft_labels": {"weight": 0.5, "temperature": 4.0}, "hard_labels": 2.0}
    config = configs(
        "distill", "out", label_dataset=teacher_labels, student=teacher, losses=losses, training__max_steps=6
    )  # fmt: skip
    row = last(run("distill", config), "train")
    assert row["loss"] == pytest.approx(0.5 * row["soft_labels"] + 2.0 * row["hard_labels"], rel=1e-4)


def test_a_students_vocabulary_may_be_trimmed_to_what_its_training_text_needs(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    student = {"from": str(teacher), **SMALL, "trim_vocabulary": True}
    rows = run("distill", configs("distill", "out", label_dataset=teacher_labels, student=student))
    assert last(rows, "plan")["pieces_kept"] < last(rows, "plan")["pieces"]
    assert last(rows)["eval_accuracy"] >= 0.9
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["bytes_saved"] == 4 * 16 * (manifest["pieces"] - manifest["pieces_kept"])
    named = {"teacher": str(teacher), "student": str(tmp_path / "out")}
    scores = last(run("eval", configs("eval", "eval", models=named, latency=None, bootstrap=0)))
    assert scores["student.accuracy"] == last(rows)["eval_accuracy"]


def test_words_that_only_changed_copies_have_are_trimmed_all_the_same(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    augment = {"copies": 3, "probability": 1.0, "candidates": 50}
    run("gen-soft-labels", configs("gen-soft-labels", "augmented", teacher=teacher, augment=augment))
    student = {"from": str(teacher), **SMALL, "trim_vocabulary": True}
    kept, rows = set(), set()
    for labels in (teacher_labels, tmp_path / "augmented"):
        plan = last(run("distill", configs("distill", f"from-{labels.name}", label_dataset=labels, student=student,
                                           training__max_steps=2)), "plan")  # fmt: skip
        kept.add(plan["pieces_kept"])
        rows.add(plan["rows"])
    assert len(kept) == 1 and len(rows) == 2


def test_a_trimmed_student_cannot_be_compared_layer_by_layer(
    teacher: Path, teacher_labels: Path, configs: Configs
) -> None:
    student = {"from": str(teacher), **SMALL, "trim_vocabulary": True}
    with pytest.raises(ConfigError, match="trimmed vocabulary"):
        run("distill", layer_config(configs, teacher, teacher_labels, student=student))


def test_labels_of_another_teacher_are_refused(
    teacher: Path, base_model: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    run("finetune", configs("finetune", "other", model=base_model, seed=7, training__max_steps=1))
    config = configs("distill", "out", label_dataset=teacher_labels, student=teacher, teacher=tmp_path / "other")
    with pytest.raises(InputError, match="another teacher"):
        run("distill", config)
    assert not (tmp_path / "out").exists()


def test_labels_of_this_teacher_are_taken_wherever_it_lies(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    moved = teacher.rename(tmp_path / "moved")
    config = configs(
        "distill", "out", label_dataset=teacher_labels, student=moved, teacher=moved, training__max_steps=1
    )
    assert last(run("distill", config))["steps"] == 1


def test_labels_from_other_data_are_refused(data: Path, teacher: Path, teacher_labels: Path, configs: Configs) -> None:
    write_rows(data / "train.jsonl", sentences("test"))
    with pytest.raises(InputError, match=r"another data\.train_file"):
        run("distill", configs("distill", "out", label_dataset=teacher_labels, student=teacher))


def test_labels_that_were_damaged_are_refused(teacher: Path, teacher_labels: Path, configs: Configs) -> None:
    shard = teacher_labels / "train-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"parquet' is not what"):
        run("distill", configs("distill", "out", label_dataset=teacher_labels, student=teacher))


def test_a_model_is_no_label_dataset(teacher: Path, configs: Configs) -> None:
    with pytest.raises(InputError, match="written by finetune"):
        run("distill", configs("distill", "out", label_dataset=teacher, student=teacher))


def test_a_disk_that_is_full_at_the_first_model_leaves_nothing_and_the_next_run_succeeds(
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


def test_a_label_dataset_holds_the_rows_and_the_teachers_answers(teacher_labels: Path) -> None:
    columns = table(teacher_labels)
    assert [{"text": text, "label": label} for text, label in zip(columns["text"], columns["label"], strict=True)] == (
        sentences("train")
    )
    said = np.asarray(columns["teacher_logits"]).argmax(-1)
    assert columns["teacher_prediction"] == [["bad", "good"][index] for index in said]


def test_the_metrics_of_a_label_dataset_have_their_promised_names(teacher_labels: Path) -> None:
    metrics = json.loads((teacher_labels / "metrics.json").read_text())
    assert set(metrics) == {"rows", "rows_per_second", "teacher_accuracy", "majority_accuracy"}
    assert metrics["rows"] == 96 and metrics["majority_accuracy"] == 0.5


def test_half_precision_labels_are_nearly_the_same(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, logits_dtype="float16"))
    schema = pq.read_schema(tmp_path / "out" / "train-00000-of-00001.parquet")
    assert "halffloat" in str(schema.field("teacher_logits").type)
    np.testing.assert_allclose(probabilities(tmp_path / "out"), probabilities(teacher_labels), atol=2e-3)


def test_unlabeled_rows_are_labelled_too(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    rows = run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, splits=["train", "unlabeled"]))
    columns = table(tmp_path / "out", "unlabeled-*.parquet")
    assert last(rows)["rows"] == 128 and columns["text"] == [row["text"] for row in sentences("unlabeled")]
    assert "label" not in columns


def test_a_student_learns_from_unlabeled_rows_as_well(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher, splits=["unlabeled", "train"]))
    losses = {"soft_labels": 1.0, "hard_labels": 1.0}  # which has labels for a part of the rows only
    config = configs("distill", "out", label_dataset=tmp_path / "labels", student=teacher, losses=losses)
    rows = run("distill", config)
    assert last(rows, "plan")["rows"] == 128 and np.isfinite([row["loss"] for row in events(rows, "train")]).all()


def killed_at_shard(number: int, patch: pytest.MonkeyPatch) -> None:
    """The process is killed while it writes that shard, counted from 0."""
    write, written = gen_soft_labels.data.write_soft_labels, []

    def write_or_die(path: Path, *arguments: Any, **options: Any) -> None:
        if len(written) == number:
            path.write_bytes(b"PAR1half")
            raise RuntimeError("killed")
        written.append(path.name)
        write(path, *arguments, **options)

    patch.setattr(gen_soft_labels.data, "write_soft_labels", write_or_die)


def test_changed_copies_of_the_training_rows_are_labelled_and_learnt_from(
    teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    config = configs("gen-soft-labels", "out", teacher=teacher, augment={"copies": 3, "candidates": 4})
    rows = run("gen-soft-labels", config)
    made = last(rows, "augmented")["copies"]
    copied = table(tmp_path / "out", "augmented-*.parquet")
    original = table(tmp_path / "out")["text"]
    assert 96 < made == len(copied["text"]) <= 3 * 96 and "label" not in copied
    assert not set(copied["text"]) & set(original)
    assert last(rows)["rows"] == 96 + made
    config = configs("distill", "student", label_dataset=tmp_path / "out", student=teacher, training__max_steps=2)
    assert last(run("distill", config), "plan")["rows"] == 96 + made
    again = configs("gen-soft-labels", "again", teacher=teacher, augment={"copies": 3, "candidates": 4})
    run("gen-soft-labels", again)
    assert table(tmp_path / "again", "augmented-*.parquet") == copied


def test_there_is_nothing_to_augment_without_training_rows(teacher: Path, configs: Configs) -> None:
    with pytest.raises(ConfigError, match="needs the training rows"):
        run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, splits=["unlabeled"], augment={}))


def test_a_killed_run_goes_on_after_its_last_shard_and_ends_like_an_undisturbed_one(
    teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gen_soft_labels, "ROWS_PER_SHARD", 8)
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


def test_shards_do_not_change_the_answers(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gen_soft_labels, "ROWS_PER_SHARD", 25)
    run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher))
    assert table(tmp_path / "out")["text"] == table(teacher_labels)["text"]
    np.testing.assert_allclose(probabilities(tmp_path / "out"), probabilities(teacher_labels), atol=1e-6)


def test_an_ensemble_stores_the_weighted_mean_of_the_probabilities(
    teacher: Path, teacher_labels: Path, student: Path, configs: Configs, tmp_path: Path
) -> None:
    run("gen-soft-labels", configs("gen-soft-labels", "one", teacher=student))
    both = [str(teacher), str(student)]
    run("gen-soft-labels", configs("gen-soft-labels", "both", teacher=both, teacher_weights=[3.0, 1.0]))
    mean = 0.75 * probabilities(teacher_labels) + 0.25 * probabilities(tmp_path / "one")
    np.testing.assert_allclose(probabilities(tmp_path / "both"), mean, atol=1e-5)


def test_every_teacher_has_its_weight(teacher: Path, configs: Configs) -> None:
    with pytest.raises(ConfigError, match="2 weights for 1 teachers"):
        run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, teacher_weights=[3.0, 1.0]))


def say_bad(weights: dict[str, torch.Tensor]) -> None:
    weights["classifier.weight"].zero_()
    weights["classifier.bias"].copy_(torch.tensor([1.0, 0.0]))


def test_a_teacher_no_better_than_the_majority_is_refused_before_anything_is_written(
    teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    edit_weights(teacher, say_bad)
    with pytest.raises(InputError, match=r"accuracy 0\.500, majority 0\.500"):
        run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher))
    assert not (tmp_path / "out").exists()


def test_such_a_teacher_is_taken_if_nobody_is_to_check(teacher: Path, configs: Configs) -> None:
    edit_weights(teacher, say_bad)
    rows = run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, check_teacher=False))
    assert last(rows)["rows"] == 96


def test_a_permuted_order_of_the_labels_is_named(data: Path, teacher: Path, configs: Configs) -> None:
    position = {"good": 0, "bad": 1}  # the teacher has them the other way round
    write_rows(data / "train.jsonl", [row | {"label": position[row["label"]]} for row in sentences("train")])
    with pytest.raises(InputError) as error:
        run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher))
    assert "good, bad, in this order" in str(error.value)


@pytest.mark.parametrize("command", ["gen-soft-labels", "eval", "export"])
def test_label_names_in_another_order_are_shown_beside_each_other(
    command: str, teacher: Path, configs: Configs
) -> None:
    model = {
        "gen-soft-labels": {"teacher": teacher}, "eval": {"models": {"teacher": str(teacher)}}, "export": {"model": teacher},
    }[command]  # fmt: skip
    with pytest.raises(InputError) as error:
        run(command, configs(command, "out", data__label_names=["good", "bad"], **model))
    assert "bad, good" in str(error.value) and "good, bad" in str(error.value)


# -- eval ----------------------------------------------------------------------------------------------------

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
    named = {"teacher": str(teacher), "student": str(student)}
    latency = {"batch_sizes": [1, 32], "lengths": ["data"]}
    config: Stage = configs("eval", "eval", **{"models": named, "latency": latency, "bootstrap": 100, **settings})
    return config


def test_evaluation_has_the_promised_keys(teacher: Path, student: Path, configs: Configs, tmp_path: Path) -> None:
    run("eval", evaluation(configs, teacher, student))
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    keys = {f"teacher.{key}" for key in QUALITY | COST} | {f"student.{key}" for key in QUALITY | COST | FIDELITY}
    assert keys <= set(metrics)
    assert {key.partition(".")[0] for key in metrics} == {"teacher", "student"}
    assert all(isinstance(value, (int, float)) for value in metrics.values())


def test_evaluation_says_what_training_said(teacher: Path, student: Path, configs: Configs) -> None:
    metrics = last(run("eval", evaluation(configs, teacher, student, latency=None)))
    assert metrics["teacher.accuracy"] == json.loads((teacher / "metrics.json").read_text())["eval_accuracy"]


def test_the_reference_may_be_any_of_the_models(teacher: Path, student: Path, configs: Configs) -> None:
    rows = run("eval", evaluation(configs, teacher, student, latency=None, reference="student"))
    assert [row["model"] for row in events(rows, "model") if "agreement" in row] == ["teacher"]


def test_predictions_stand_beside_the_rows(teacher: Path, student: Path, configs: Configs, tmp_path: Path) -> None:
    metrics = last(run("eval", evaluation(configs, teacher, student, latency=None, split="test")))
    columns = table(tmp_path / "eval", "predictions.parquet")
    assert columns["text"] == [row["text"] for row in sentences("test")]
    hits = [said == gold for said, gold in zip(columns["student_prediction"], columns["label"], strict=True)]
    assert np.mean(hits) == pytest.approx(metrics["student.accuracy"])


def test_differences_to_the_reference_are_those_of_the_rows(
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


def test_a_slice_of_a_column_that_is_not_there_is_refused(teacher: Path, student: Path, configs: Configs) -> None:
    with pytest.raises(InputError, match="domain"):
        run("eval", evaluation(configs, teacher, student, latency=None, slices=["domain"]))


def test_the_start_of_a_new_process_is_timed_when_asked_for(teacher: Path, configs: Configs) -> None:
    latency = {"batch_sizes": [1], "lengths": ["data"], "startup": True}
    metrics = last(run("eval", configs("eval", "eval", models={"teacher": str(teacher)}, latency=latency, bootstrap=0)))
    assert metrics["teacher.startup_ms"] > metrics["teacher.latency_ms_b1"]
    assert metrics["teacher.peak_memory_bytes"] > metrics["teacher.bytes"]


def test_a_gate_that_is_not_met_fails_though_the_folder_is_finished(
    teacher: Path, student: Path, configs: Configs, tmp_path: Path
) -> None:
    config = evaluation(configs, teacher, student, latency=None, require={"student": {"accuracy": 1.01}})
    with pytest.raises(GateError, match=r"student\.accuracy is .*, required is 1\.01") as error:
        run("eval", config)
    assert error.value.exit_code == 5 and artifacts.verify_folder(tmp_path / "eval")["command"] == "eval"


def test_a_gate_that_was_not_met_is_not_met_by_asking_again(teacher: Path, student: Path, configs: Configs) -> None:
    config = evaluation(configs, teacher, student, latency=None, require={"student": {"accuracy": 1.01}})
    for _ in range(2):
        with pytest.raises(GateError):
            run("eval", config)


def test_a_gate_that_is_met_says_nothing(teacher: Path, student: Path, configs: Configs) -> None:
    config = evaluation(configs, teacher, student, latency=None, require={"student": {"accuracy": 0.5}})
    assert last(run("eval", config))["event"] == "done"


def test_an_evaluation_that_is_up_to_date_shows_its_scores_again(
    teacher: Path, student: Path, configs: Configs
) -> None:
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
def test_a_misspelt_name_is_refused_with_the_nearest_one(
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
def test_an_export_says_what_the_model_says(student: Path, configs: Configs, tmp_path: Path) -> None:
    done = last(run("export", configs("export", "out", model=student)))
    assert done["max_abs_logit_difference"] < 1e-4 and done["agreement"] == 1.0 and done["metric_difference"] == 0.0
    promised = {"max_abs_logit_difference", "mean_abs_logit_difference", "agreement", "metric_difference", "bytes",
                "bytes_ratio", "latency_ratio_b1"}  # fmt: skip
    assert promised <= set(json.loads((tmp_path / "out" / "metrics.json").read_text()))


@pytest.mark.usefixtures("onnx")
def test_an_export_can_be_scored_beside_its_model(student: Path, configs: Configs, tmp_path: Path) -> None:
    run("export", configs("export", "out", model=student))
    metrics = last(run("eval", evaluation(configs, student, tmp_path / "out", latency=None)))
    assert metrics["student.agreement"] == 1.0 and metrics["student.accuracy"] == metrics["teacher.accuracy"]


class Contrary(torch.nn.Module):
    """Says the opposite of what the export says."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": -self.model(**inputs)["logits"]}


@pytest.mark.usefixtures("onnx")
def test_an_export_that_says_something_else_is_not_kept(
    student: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = formats.FORMATS["onnx"]
    contrary = replace(onnx, read=lambda folder: Contrary(onnx.read(folder)))
    monkeypatch.setattr(export.formats, "find", lambda name: contrary)
    with pytest.raises(GateError, match=r"agreement 0\.0000.*the metric falls by") as error:
        run("export", configs("export", "out", model=student))
    assert error.value.exit_code == 5 and not (tmp_path / "out").exists()


def scrambled(source: Path, target: Path, exclude: Any, **options: Any) -> None:
    """int8 in which the rows of one layer's weight are in another order, unless that layer is left out."""
    import onnx as graphs
    from onnx import numpy_helper

    formats.quantize_onnx(source, target, exclude, **options)
    model = graphs.load(target)
    if "encoder.layer.1" in exclude:
        return
    for tensor in model.graph.initializer:
        if tensor.name.startswith("onnx::MatMul") and tensor.name.endswith("_quantized"):
            last = tensor
    last.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(last)[::-1].copy(), last.name))
    graphs.save(model, target)


@pytest.mark.usefixtures("onnx")
def test_ruined_int8_leaves_float32_names_the_layer_and_fails_again(
    teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ruined = replace(formats.FORMATS["onnx"], int8=replace(formats.FORMATS["onnx"].int8, write=scrambled))
    monkeypatch.setattr(export.formats, "find", lambda name: ruined)
    config = configs("export", "out", model=teacher, quantize="int8", verify__min_agreement=1.0)
    for _ in range(2):
        with pytest.raises(GateError, match=r"int8 was refused.*they alone are int8: encoder\.layer\.\d") as error:
            run("export", config)
        assert error.value.exit_code == 5
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["agreement"] == 1.0 > metrics["int8_agreement"]
    assert artifacts.verify_folder(tmp_path / "out")["precision"] == "float32"


def test_parts_are_left_out_of_int8_alone(student: Path, configs: Configs) -> None:
    with pytest.raises(ConfigError, match="without quantization") as error:
        run("export", configs("export", "out", model=student, quantize_exclude=["classifier"]))
    assert error.value.key == ("quantize_exclude",)


@pytest.mark.usefixtures("onnx")
def test_after_a_failed_gate_other_settings_may_be_tried_at_once(student: Path, configs: Configs) -> None:
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


def test_a_dry_run_finds_what_would_fail(teacher: Path, configs: Configs) -> None:
    with pytest.raises(InputError, match="no column 'sentence'"):
        run(
            "eval", configs("eval", "out", models={"t": str(teacher)}, data__text_column_names="sentence"), dry_run=True
        )


# -- stopped from outside ------------------------------------------------------------------------------------


def start(command: str, config: Stage, file: Path) -> subprocess.Popen[str]:
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)))
    return subprocess.Popen(
        [sys.executable, "-m", "tinybert_cli", command, str(file)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def stop_in_the_middle(process: subprocess.Popen[str], folder: Path, number: int) -> str:
    """Sends the signal when the first lines of the log are there; what the process said on stderr."""
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


def test_sigterm_in_the_middle_and_the_same_command_again_make_the_same_weights(
    long_run: Callable[[str], Stage], tmp_path: Path
) -> None:
    run("distill", long_run("whole"))
    folder = tmp_path / "stopped"
    process = start("distill", long_run("stopped"), tmp_path / "distill.yaml")
    said = stop_in_the_middle(process, folder, signal.SIGTERM)
    assert process.returncode == 143 and "run the same command again" in said
    with pytest.raises(InputError, match="unfinished"):
        models.locate(str(folder))
    process = start("distill", long_run("stopped"), tmp_path / "distill.yaml")
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0 and "resuming from step" in said
    assert sha256(folder) == sha256(tmp_path / "whole")


def test_ctrl_c_in_the_middle_keeps_a_checkpoint(long_run: Callable[[str], Stage], tmp_path: Path) -> None:
    process = start("distill", long_run("stopped"), tmp_path / "distill.yaml")
    stop_in_the_middle(process, tmp_path / "stopped", signal.SIGINT)
    assert process.returncode == 130
    assert len(list((tmp_path / "stopped" / "checkpoints").glob("step-*"))) == 1


# -- several processes ---------------------------------------------------------------------------------------


def test_two_processes_train_one_model_and_label_every_row_once(
    teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    def launch(command: str, config: Stage) -> None:
        file = tmp_path / f"{command}.yaml"
        file.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)))
        words = ["--standalone", "--nproc_per_node", "2", "-m", "tinybert_cli", command, str(file)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
        done = subprocess.run([sys.executable, "-m", "torch.distributed.run", *words], env=environment, timeout=90,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr

    launch("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=teacher))
    alone = configs("gen-soft-labels", "alone", teacher=teacher)
    run("gen-soft-labels", alone)
    assert table(tmp_path / "labels")["text"] == table(tmp_path / "alone")["text"]
    assert np.allclose(probabilities(tmp_path / "labels"), probabilities(tmp_path / "alone"), atol=1e-6)
    config = layer_config(
        configs,
        teacher,
        tmp_path / "labels",
        "student",
        losses=LAYER_LOSSES | {"soft_labels": 1.0},
        data__max_train_samples=93,
    )
    launch("distill", config)
    metrics = json.loads((tmp_path / "student" / "metrics.json").read_text())
    assert metrics["steps"] == 6 * 6  # 93 rows, 2 processes of 8 rows each, 6 epochs; one batch is short
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").config.num_hidden_layers == 2
