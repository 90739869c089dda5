"""Layer states on disk: they equal the outputs of the teacher, and a student learns the same from them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Configs, make_config, run, sentences, write_rows
from safetensors.torch import load_file
from test_stages import LAYER_LOSSES, events, killed_at_shard, last, layer_config, probabilities
from transformers import DistilBertConfig, DistilBertModel

from tinybert_cli import data, losses, models
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.stages import distill, labelling

ALL = ["hidden_states", "attentions", "embeddings", "relations", "cosine", "pooled"]
STATES = {"states": list(LAYER_LOSSES), "student_layers": 2}
OUTPUTS = ("embeddings", "hidden_states", "keys", "queries", "scores", "values")


@pytest.fixture(scope="module")
def finished_labels(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A label dataset with the states of the teacher's layers 2 and 4 for all layer losses."""
    folder = tmp_path_factory.mktemp("states") / "labels"
    setting: dict[str, Any] = {"states": ALL, "student_layers": 2}
    run(
        "gen-soft-labels",
        make_config("gen-soft-labels", finished_runs / "data", folder, teacher=finished_runs / "teacher", **setting),
    )
    return folder


@pytest.fixture
def labels(finished_labels: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_labels, tmp_path / "labels"))


def encoded(folder: Path, text: str) -> dict[str, torch.Tensor]:
    tokenizer = models.load_tokenizer(models.locate(str(folder)))
    return dict(tokenizer(text, return_tensors="pt"))


def read_states(folder: Path, names: list[str], layers: list[int] | None = None) -> data.LayerStates:
    outputs = json.loads((folder / "manifest.json").read_text())["outputs"]
    return data.read_states(folder, [entry["path"] for entry in outputs], names, layers)


# -- stored states -------------------------------------------------------------------------------------------


def test_stored_states_equal_the_outputs_of_the_teacher(teacher: Path, labels: Path) -> None:
    layer_outputs = losses.layer_outputs_of(ALL)
    assert sorted(layer_outputs) == list(OUTPUTS)
    live = models.Teacher(models.load(models.locate(str(teacher)), "sequence-classification"), [1, 3], layer_outputs)
    states = read_states(labels, list(OUTPUTS))
    stored = models.StoredTeacher(layer_outputs, 16, [1, 3])
    for row in (0, 7, 95):
        batch = encoded(teacher, sentences("train")[row]["text"])
        expected = live(batch, set(batch))
        outputs = stored(states.batch(np.array([row]), batch["input_ids"].shape[1]), set())
        assert torch.allclose(outputs["embeddings"].float(), expected["embeddings"], atol=2e-3)
        for name in OUTPUTS[1:]:
            for layer, reference in zip(outputs[name], expected[name], strict=True):
                assert layer.dtype == torch.float16 and torch.allclose(layer.float(), reference, atol=4e-3), name


def test_states_of_a_batch_are_padded_with_zeros(labels: Path) -> None:
    states = read_states(labels, ["hidden_states", "scores"])
    lengths = np.diff(states.offsets)
    short, long = int(lengths.argmin()), int(lengths.argmax())
    batch = states.batch(np.array([short, long]), int(lengths[long]))
    assert batch["teacher_hidden_states"].shape == (2, lengths[long], 2, 16)
    assert batch["teacher_scores"].shape == (2, lengths[long], lengths[long], 2, 2)
    real = int(lengths[short])
    assert not batch["teacher_hidden_states"][0, real:].any() and batch["teacher_hidden_states"][0, :real].all()
    assert not batch["teacher_scores"][0, real:].any() and not batch["teacher_scores"][0, :, real:].any()
    alone = states.batch(np.array([short]), real)
    assert torch.equal(alone["teacher_scores"][0], batch["teacher_scores"][0, :real, :real])


def test_some_of_the_stored_layers_can_be_read(labels: Path) -> None:
    names = ["embeddings", "queries", "scores"]
    all_layers, one_layer = read_states(labels, names), read_states(labels, names, [1])
    length = int(np.diff(all_layers.offsets)[3])
    whole, part = (states.batch(np.array([3]), length) for states in (all_layers, one_layer))
    assert torch.equal(part["teacher_queries"][0, :, 0], whole["teacher_queries"][0, :, 1])
    assert torch.equal(part["teacher_scores"][..., 0, :], whole["teacher_scores"][..., 1, :])
    assert torch.equal(part["teacher_embeddings"], whole["teacher_embeddings"])


def test_storing_states_does_not_change_the_logits(labels: Path, teacher_labels: Path) -> None:
    np.testing.assert_allclose(probabilities(labels), probabilities(teacher_labels), atol=1e-6)


def test_the_manifest_describes_the_stored_states(labels: Path) -> None:
    manifest = json.loads((labels / "manifest.json").read_text())
    assert manifest["states"] == {"reads": list(OUTPUTS), "layers": [2, 4], "teacher_layers": 4, "width": 16}


def test_datasets_loads_a_label_dataset_with_states(labels: Path) -> None:
    import datasets

    loaded = datasets.load_dataset(str(labels), cache_dir=str(labels.parent / "cache"))
    assert list(loaded) == ["train"] and len(loaded["train"]) == 96 and "teacher_logits" in loaded["train"].features


def test_a_state_that_overflows_float16_is_rejected(tmp_path: Path, teacher: Path) -> None:
    encoded = data.Examples({"input_ids": (np.array([2, 3]), 0)}, np.array([0, 2]))
    writer = data.StatesWriter(tmp_path, "train-00000-of-00001.parquet", encoded, {"hidden_states": (1, 3)})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="hidden states overflow float16"):
        writer.write([0], {"hidden_states": np.full((1, 2, 1, 3), np.inf, dtype=np.float16)})


# -- size ----------------------------------------------------------------------------------------------------


def test_a_dry_run_gives_the_exact_size_of_the_states(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    config = configs("gen-soft-labels", "out", teacher=teacher, **STATES)
    plan = last(run("gen-soft-labels", config, dry_run=True), "plan")
    assert plan["states_of_layers"] == [2, 4] and not (tmp_path / "out").exists()
    run("gen-soft-labels", config)
    files = [path for name in OUTPUTS for path in (tmp_path / "out").glob(f"*.{name}.npy")]
    assert len(files) == 3 and sum(np.load(file, mmap_mode="r").nbytes for file in files) == plan["states_bytes"]


def test_a_disk_that_is_too_small_is_rejected_with_both_sizes(
    teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2000, 1000, 1000))  # type: ignore[attr-defined]
    config = configs("gen-soft-labels", "out", teacher=teacher, **STATES)
    for dry_run in (True, False):
        with pytest.raises(InputError, match=r"disk is too small: .* GB are needed and 1e-06 GB are free") as caught:
            run("gen-soft-labels", config, dry_run=dry_run)
    assert caught.value.exit_code == 3 and not (tmp_path / "out").exists()


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        ({"states": ["hidden_state"], "student_layers": 2}, ("states", 0), "unknown layer loss 'hidden_state'"),
        ({"states": ["soft_labels"], "student_layers": 2}, ("states", 0), "unknown layer loss"),
        ({"states": ["cosine"]}, ("states",), "depends on the number of student layers"),
        ({"student_layers": 2}, ("student_layers",), "but `states` is empty"),
        ({"states": ["cosine"], "layer_mapping": [5]}, ("layer_mapping",), "no layer 5"),
    ],
)
def test_invalid_settings_are_rejected(
    teacher: Path, configs: Configs, settings: dict[str, Any], key: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher, **settings))
    assert caught.value.key == key


def test_states_of_several_teachers_are_rejected(teacher: Path, configs: Configs) -> None:
    config = configs("gen-soft-labels", "out", teacher=[str(teacher), str(teacher)], **STATES)
    with pytest.raises(ConfigError, match="no common layers"):
        run("gen-soft-labels", config)


# -- training from stored states -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "losses", [dict(LAYER_LOSSES), {"relations": {"relation_heads": 4}, "cosine": 1.0, "pooled": 1.0}]
)
def test_a_student_learns_the_same_from_disk_as_from_the_teacher(
    teacher: Path, teacher_labels: Path, labels: Path, configs: Configs, tmp_path: Path, losses: dict[str, Any]
) -> None:
    settings = {"losses": losses, "training__num_train_epochs": 2.0, "training__logging_steps": 1}
    online = layer_config(configs, teacher, teacher_labels, "online", **settings)
    disk = layer_config(configs, teacher, labels, "disk", **settings).model_copy(update={"teacher": None})
    logged = {}
    for config, states in ((online, "running beside it"), (disk, "stored")):
        rows = run("distill", config)
        plan = last(rows, "plan")
        assert (plan["teacher_states"], plan["layers_compared_with"]) == (states, [2, 4])
        logged[states] = [row["loss"] for row in events(rows, "train")]
    assert len(logged["stored"]) == 24
    np.testing.assert_allclose(logged["stored"], logged["running beside it"], rtol=2e-4)
    from_disk, from_teacher = (load_file(tmp_path / name / "model.safetensors") for name in ("disk", "online"))
    differences = [float((from_disk[key] - from_teacher[key]).abs().max()) for key in from_disk]
    assert max(differences) < 3e-3  # float16 rounding; training changes a weight by up to 0.07


def test_no_teacher_is_loaded_if_its_states_are_stored(
    teacher: Path, labels: Path, configs: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(models, "Teacher")
    config = layer_config(configs, teacher, labels, training__max_steps=2)
    assert last(run("distill", config))["steps"] == 2


def test_missing_states_are_named(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    setting = {"states": ["hidden_states"], "student_layers": 2}
    run("gen-soft-labels", configs("gen-soft-labels", "some", teacher=teacher, **setting))
    config = layer_config(configs, teacher, tmp_path / "some", training__max_steps=1)
    warning = last(run("distill", config, dry_run=True), "warning")["message"]
    assert "has to run beside the student" in warning and "no states for the loss `attentions`" in warning
    with pytest.raises(InputError, match="no states for the loss `attentions`, only hidden_states"):
        run("distill", config.model_copy(update={"teacher": None}))
    deeper = {"student": {"from": str(teacher), "num_hidden_layers": 3}, "losses": {"hidden_states": 1.0}}
    config = layer_config(configs, teacher, tmp_path / "some", **deeper)
    with pytest.raises(InputError, match="no states of layer 1, 3 of the teacher, only of 2, 4"):
        run("distill", config.model_copy(update={"teacher": None}))


def test_states_of_other_tokens_are_rejected(teacher: Path, labels: Path, configs: Configs) -> None:
    config = layer_config(configs, teacher, labels, data__max_seq_length=6)
    with pytest.raises(InputError, match="do not match the student's tokens") as caught:
        run("distill", config)
    assert caught.value.hint and "max_seq_length" in caught.value.hint


def test_pairs_without_the_token_types_of_the_teacher_are_learned_from_stored_states_only(
    base_model: Path, configs: Configs, data: Path, tmp_path: Path
) -> None:
    for split in ("train", "validation"):
        write_rows(data / f"{split}.jsonl", [{**row, "second": row["text"]} for row in sentences(split)[:12]])
    pairs = {
        "data__text_column_names": ["text", "second"], "data__test_file": None, "data__unlabeled_file": None,
        "data__max_seq_length": 24,
    }  # fmt: skip
    other = Path(shutil.copytree(base_model, tmp_path / "distilbert"))
    sizes = {"dim": 16, "hidden_dim": 32, "n_heads": 2, "n_layers": 2, "max_position_embeddings": 32}
    size = json.loads((other / "config.json").read_text())["vocab_size"]
    DistilBertModel(DistilBertConfig(vocab_size=size, **sizes)).save_pretrained(other)
    run("finetune", configs("finetune", "pairs", model=base_model, training__max_steps=1, **pairs))
    setting = {"states": ["hidden_states"], "student_layers": 2, "check_teacher": False}
    run("gen-soft-labels", configs("gen-soft-labels", "labels", teacher=tmp_path / "pairs", **setting, **pairs))
    config = configs(
        "distill", "student", label_dataset=tmp_path / "labels", teacher=tmp_path / "pairs", student=str(other),
        losses={"hidden_states": 1.0}, training__max_steps=1, **pairs,
    )  # fmt: skip
    assert last(run("distill", config))["steps"] == 1
    with pytest.raises(InputError, match="reads which tokens belong to the second text of a pair"):
        run("distill", config.model_copy(update={"losses": {"embeddings": 1.0}, "output_dir": str(tmp_path / "live")}))


def test_max_train_samples_selects_the_states_of_the_first_rows(teacher: Path, labels: Path, configs: Configs) -> None:
    config = layer_config(configs, teacher, labels, data__max_train_samples=20, training__max_steps=3)
    assert last(run("distill", config), "plan")["rows"] == 20


def test_max_train_samples_selects_the_states_of_train_and_unlabeled_rows(
    teacher: Path, configs: Configs, tmp_path: Path
) -> None:
    run("gen-soft-labels", configs("gen-soft-labels", "two", teacher=teacher, splits=["train", "unlabeled"], **STATES))
    config = layer_config(
        configs, teacher, tmp_path / "two", data__max_train_samples=10, training__group_by_length=False,
        training__num_train_epochs=1.0, training__keep="last",
    )  # fmt: skip
    stored = run("distill", config.model_copy(update={"teacher": None}))
    assert last(stored, "plan")["rows"] == 20 and last(stored, "plan")["teacher_states"] == "stored"
    run("gen-soft-labels", configs("gen-soft-labels", "plain", teacher=teacher, splits=["train", "unlabeled"]))
    beside = {"output_dir": str(tmp_path / "live"), "label_dataset": str(tmp_path / "plain")}
    live = run("distill", config.model_copy(update=beside))
    assert last(stored, "train")["loss"] == pytest.approx(last(live, "train")["loss"], rel=1e-2)


def test_states_of_texts_in_several_windows_are_not_selected_by_row(labels: Path) -> None:
    states = replace(read_states(labels, ["hidden_states"]), rows=95)
    assert states.select(np.arange(3)) is states
    with pytest.raises(InputError, match="several windows cannot be selected by row"):
        states.select(np.array([0, 2]))


def test_states_of_augmented_and_unlabeled_rows_are_used(
    teacher: Path, data: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "ROWS_PER_SHARD", 40)
    write_rows(data / "train.jsonl", sentences("train")[:50])
    settings = {"splits": ["unlabeled", "train", "validation"], "augment": {"copies": 1, "candidates": 4}, **STATES}
    rows = run("gen-soft-labels", configs("gen-soft-labels", "many", teacher=teacher, **settings))
    assert not list((tmp_path / "many").glob("validation*.npy"))
    config = layer_config(configs, teacher, tmp_path / "many", training__num_train_epochs=1.0)
    count = 32 + 50 + last(rows, "augmented")["copies"]
    assert last(run("distill", config.model_copy(update={"teacher": None})), "plan")["rows"] == count


# -- resuming ------------------------------------------------------------------------------------------------


def test_a_killed_run_resumes_and_stores_the_same_states(
    teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "ROWS_PER_SHARD", 24)
    run("gen-soft-labels", configs("gen-soft-labels", "whole", teacher=teacher, **STATES))
    config = configs("gen-soft-labels", "killed", teacher=teacher, **STATES)
    with monkeypatch.context() as patch:
        killed_at_shard(2, patch)
        with pytest.raises(RuntimeError, match="killed"):
            run("gen-soft-labels", config)
    (tmp_path / "killed" / "train-00001-of-00004.scores.npy").unlink()  # killed between two files of one shard
    rows = run("gen-soft-labels", config)
    assert [row["step"] for row in events(rows, "resume")] == [24] and len(events(rows, "shard")) == 3
    whole = sorted(file.name for pattern in ("*.npy", "*.parquet") for file in (tmp_path / "whole").glob(pattern))
    assert len(whole) == 4 * (1 + 2 + 3)
    assert all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes() for name in whole)


def test_an_interrupted_student_resumes_to_the_same_weights(
    teacher: Path, labels: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"training__max_steps": 10, "training__save_steps": 4, "training__eval_strategy": "no"}
    run("distill", layer_config(configs, teacher, labels, "whole", **settings))
    config = layer_config(configs, teacher, labels, "cut", **settings)
    rows = distill.run(config)
    for row in rows:
        if row["event"] == "progress" and row["step"] == 6:
            rows.close()  # type: ignore[attr-defined]
            break
    again = run("distill", config)
    assert [row["step"] for row in events(again, "resume")] == [4]
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_a_damaged_states_file_is_rejected(teacher: Path, labels: Path, configs: Configs) -> None:
    file = labels / "train-00000-of-00001.scores.npy"
    file.write_bytes(file.read_bytes()[:-2] + b"\0\1")
    with pytest.raises(InputError, match=r"scores\.npy' is damaged"):
        run("distill", layer_config(configs, teacher, labels))
