"""A student translator learns from the hidden states of both stacks of its teacher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import run
from safetensors.torch import load_file
from test_stages import last

from tinybert_cli import data, loops, losses, models, tasks
from tinybert_cli.config import COMMANDS, Data, Model
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.stages import distill, labelling, translating
from tinybert_cli.types import Rows

PAIRS = [
    (f"the {noun} {verb} a {thing}", f"lo {noun[::-1]} una {thing[::-1]} {verb[::-1]}")
    for noun in ("man", "woman", "dog", "farmer")
    for verb in ("sees", "likes", "finds")
    for thing in ("house", "river", "tree")
]
SHAPE = {"family": "marian", "num_hidden_layers": 3, "num_decoder_layers": 2, "hidden_size": 16,
         "num_attention_heads": 2, "intermediate_size": 32}  # fmt: skip
SETTINGS = Data(train_file="train.jsonl", text_column_names="en", label_column_name="xx", max_target_length=40)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return models.train_joint_tokenizer([text for pair in PAIRS for text in pair], 80)


def teacher_model(tokenizer: Any, **shape: Any) -> Any:
    """Random weights, but it ends its translations."""
    setting = Model.model_validate({**SHAPE, **shape})
    model = models.new_translation_model(setting, tokenizer, positions=64, dropout=0.0, seed=1)
    model.final_logits_bias[0, tokenizer.end] = 2.5
    return model


def batch_of(tokenizer: Any, rows: list[int]) -> dict[str, torch.Tensor]:
    task = tasks.find("translation")
    assert isinstance(task, tasks.Translation)
    columns = {"en": [en for en, _ in PAIRS], "xx": [xx for _, xx in PAIRS]}
    encoded = task.encode_pairs(Rows(columns, (("train.jsonl", len(PAIRS)),)), SETTINGS, tokenizer)
    assert encoded.labels is not None
    return dict(data.Examples.of(encoded, labels=encoded.labels).__getitems__(rows))


BOTH = frozenset({"encoder_hidden_states", "decoder_hidden_states"})


def test_teacher_gives_the_states_of_the_compared_layers(tokenizer: Any) -> None:
    model, batch = teacher_model(tokenizer), batch_of(tokenizer, [0, 13, 30])
    teacher = models.LiveStackTeacher(model, {"encoder": [0, 2], "decoder": [1]}, BOTH)
    states = teacher(batch, loops.MODEL_INPUTS)
    with torch.no_grad():
        inputs = {name: values for name, values in batch.items() if name in loops.MODEL_INPUTS}
        outputs = model(**inputs, output_hidden_states=True)
    assert [len(states[name]) for name in sorted(BOTH)] == [1, 2]
    torch.testing.assert_close(states["encoder_hidden_states"][0], outputs.encoder_hidden_states[1])
    torch.testing.assert_close(states["encoder_hidden_states"][1], outputs.encoder_last_hidden_state)
    torch.testing.assert_close(states["decoder_hidden_states"][0], outputs.decoder_hidden_states[2])


@pytest.mark.parametrize("shared", [False, True])
def test_smaller_student_is_projected_to_the_teachers_size(tokenizer: Any, shared: bool) -> None:
    teacher = models.LiveStackTeacher(teacher_model(tokenizer), {"encoder": [0, 2], "decoder": [1]}, BOTH)
    small = teacher_model(tokenizer, num_hidden_layers=2, num_decoder_layers=1, hidden_size=8)
    student, batch = models.StackStudent(small, teacher, shared=shared).train(), batch_of(tokenizer, [0, 13])
    outputs = loops.forward(student, batch)
    assert outputs["logits"].shape == (len(batch["labels"]), tokenizer.size)
    assert [tuple(state.shape[::2]) for state in outputs["encoder_hidden_states"]] == [(2, 16)] * 2
    assert [tuple(state.shape[::2]) for state in outputs["decoder_hidden_states"]] == [(2, 16)]
    assert sum(1 for _ in student.projections.parameters()) == 2 * (2 if shared else 3)
    loss = losses.combine({"hidden_states": 1.0}, "tokens")(outputs, teacher(batch, loops.MODEL_INPUTS), batch)
    torch.stack([*loss.values()]).sum().backward()
    assert all(parameter.grad is not None for parameter in student.projections.parameters())


def test_student_that_copies_its_teacher_has_no_error(tokenizer: Any) -> None:
    model = teacher_model(tokenizer)
    student, copies = models.translation_student(Model.model_validate({"from": "t"}), "uniform", model, seed=0)
    teacher = models.LiveStackTeacher(model, {stack: [i - 1 for i in ls] for stack, ls in copies.items()}, BOTH)
    batch = batch_of(tokenizer, [0, 13])
    outputs = loops.forward(models.StackStudent(student, teacher, shared=False).train(), batch)
    values = losses.combine({"hidden_states": 1.0}, "tokens")(outputs, teacher(batch, loops.MODEL_INPUTS), batch)
    assert [float(value) for value in values.values()] == [0, 0]


def test_one_stack_needs_no_projections_of_the_other(tokenizer: Any) -> None:
    teacher = models.LiveStackTeacher(
        teacher_model(tokenizer), {"encoder": [0], "decoder": [1]}, frozenset({"decoder_hidden_states"})
    )
    small = teacher_model(tokenizer, num_hidden_layers=1, num_decoder_layers=1, hidden_size=8)
    student = models.StackStudent(small, teacher, shared=False).train()
    assert [*student.projections] == ["decoder"]
    assert {*loops.forward(student, batch_of(tokenizer, [0]))} == {"logits", "decoder_hidden_states"}


@pytest.fixture(scope="module")
def world(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, and its label dataset with distributions."""
    folder = tmp_path_factory.mktemp("stacks")
    (folder / "teacher").mkdir()
    models.save_translation_model(teacher_model(tokenizer), tokenizer, folder / "teacher")
    rows = [json.dumps({"en": en, "xx": xx}) + "\n" for en, xx in PAIRS]
    (folder / "train.jsonl").write_text("".join(rows))
    run("gen-soft-labels", labels_config(folder))
    return folder


def labels_config(world: Path, **changes: Any) -> Any:
    return config(
        world, "gen-soft-labels", "labels", teacher=str(world / "teacher"), check_teacher=False, top_k=4, drop=["cut"],
        engine="transformers", search={"beams": 2, "keep": 2}, **changes,
    )  # fmt: skip


def config(world: Path, stage: str, output: str, **settings: Any) -> Any:
    rows = {"train_file": str(world / "train.jsonl"), "text_column_names": "en", "label_column_name": "xx",
            "max_target_length": 40, **settings.pop("data", {})}  # fmt: skip
    return COMMANDS[stage].model_validate(
        {"task": "translation", "data": rows, "output_dir": str(world / output), **settings}
    )


def distill_config(world: Path, output: str, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "label_dataset": str(world / "labels"),
        "teacher": str(world / "teacher"),
        "student": {"from": str(world / "teacher"), "num_hidden_layers": 2, "num_decoder_layers": 1},
        "losses": {"hard_labels": 1.0, "soft_labels": 1.0, "hidden_states": {"weight": 1.0, "decoder": 0.5}},
        "training": {"max_steps": 6, "logging_steps": 1, "per_device_train_batch_size": 36, "learning_rate": 3e-3,
                     "mixed_precision": "no"},
    }  # fmt: skip
    return config(world, "distill", output, **{**settings, **changes})


def test_distill_trains_on_all_three_losses_and_saves_a_plain_model(world: Path) -> None:
    rows = run("distill", distill_config(world, "student"))
    plan, steps = last(rows, "plan"), [row for row in rows if row["event"] == "train"]
    assert (plan["layers_compared_with"], plan["decoder_layers_compared_with"]) == ([2, 3], [2])
    assert plan["teacher_states"] == "running beside it"
    names = ("hard_labels", "soft_labels", "encoder_hidden_states", "decoder_hidden_states")
    for name in ("loss", "encoder_hidden_states", "decoder_hidden_states"):
        assert steps[-1][name] < steps[0][name], name
    weights = dict(zip(names, (1.0, 1.0, 1.0, 0.5), strict=True))
    total = sum(weight * steps[0][name] for name, weight in weights.items())
    assert steps[0]["loss"] == pytest.approx(total, rel=1e-4)
    student = models.load_translation_model(models.locate(str(world / "student")))
    assert models.depths(student.config) == {"encoder": 2, "decoder": 1}


def test_layer_losses_of_translation_need_a_teacher(world: Path) -> None:
    with pytest.raises(ConfigError, match=r"the losses compare layers \(hidden_states\), but there is no teacher"):
        run("distill", distill_config(world, "without", teacher=None))


def test_teacher_with_another_tokenizer_is_rejected(world: Path, tokenizer: Any) -> None:
    other = models.train_joint_tokenizer([text for pair in PAIRS for text in pair], 79)
    (world / "other").mkdir()
    models.save_translation_model(teacher_model(other), other, world / "other")
    student = {"from": str(world / "other"), "num_decoder_layers": 1}
    settings = distill_config(world, "split", student=student, losses={"hard_labels": 1.0, "hidden_states": 1.0})
    with pytest.raises(InputError, match=r"teacher and student split text differently.*80 and 79 tokens"):
        run("distill", settings)


def test_impossible_layers_of_a_stack_are_rejected_by_name(world: Path) -> None:
    mapping = {"encoder": [1, 3], "decoder": [5]}
    with pytest.raises(ConfigError, match="decoder: ") as caught:
        run("distill", distill_config(world, "layers", layer_mapping=mapping))
    assert caught.value.key == ("layer_mapping", "decoder")


@pytest.mark.parametrize("targets", ["gold", "both", "n_best"])
def test_live_teacher_reads_any_target_text(world: Path, targets: str) -> None:
    settings = {"hidden_states": 1.0, "hard_labels": 1.0}
    rows = run(
        "distill",
        distill_config(world, targets, targets=targets, losses=settings, training={"max_steps": 1, "logging_steps": 1}),
    )
    assert last(rows, "train")["decoder_hidden_states"] > 0


def test_stopped_run_resumes_with_its_projections_to_the_same_weights(world: Path) -> None:
    student = {"from": str(world / "teacher"), "num_decoder_layers": 1, "hidden_size": 8, "initialize": "random"}
    training = {"max_steps": 6, "save_steps": 2, "per_device_train_batch_size": 12,
                "mixed_precision": "no"}  # fmt: skip
    losses_of = {"hard_labels": 1.0, "hidden_states": 1.0}
    run("distill", distill_config(world, "whole", student=student, losses=losses_of, training=training))
    settings = distill_config(world, "stopped", student=student, losses=losses_of, training=training)
    steps = distill.run(settings)
    for row in steps:
        if row["event"] == "checkpoint":
            steps.close()
    assert last(run("distill", settings), "resume")["step"] == 2
    whole, stopped = (load_file(world / name / "model.safetensors") for name in ("whole", "stopped"))
    assert whole.keys() == stopped.keys() and not any("projections" in name for name in whole)
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


@pytest.fixture(scope="module")
def stored(world: Path) -> Path:
    """The label dataset, with states of some layers."""
    run("gen-soft-labels", states_config(world, "stored"))
    return world / "stored"


def states_config(world: Path, output: str) -> Any:
    mapping = {"encoder": [1, 2, 3], "decoder": [2]}
    settings = labels_config(world, states=["hidden_states"], layer_mapping=mapping)
    return settings.model_copy(update={"output_dir": str(world / output)})


def test_student_learns_the_same_from_stored_states(world: Path, stored: Path) -> None:
    settings: dict[str, Any] = {"losses": {"hard_labels": 1.0, "hidden_states": 1.0}}
    beside = run("distill", distill_config(world, "beside", **settings))
    disk = run("distill", distill_config(world, "disk", label_dataset=str(stored), teacher=None, **settings))
    assert last(disk, "plan")["teacher_states"] == "stored"
    assert last(beside, "plan")["layers_compared_with"] == last(disk, "plan")["layers_compared_with"] == [2, 3]
    for one, other in zip(*([row for row in rows if row["event"] == "train"] for rows in (beside, disk)), strict=True):
        for name in ("encoder_hidden_states", "decoder_hidden_states", "loss"):
            assert other[name] == pytest.approx(one[name], rel=2e-3, abs=1e-4)


def test_states_of_rows_that_are_left_out_are_skipped(world: Path, stored: Path) -> None:
    rows = data.read_translations(stored, [path.name for path in stored.glob("*.parquet")])
    limit = int(np.median(rows.tokens))
    assert 0 < (rows.tokens > limit).sum() < len(rows)
    settings: dict[str, Any] = {"losses": {"hidden_states": 1.0}, "data": {"max_target_length": limit}}
    beside = run("distill", distill_config(world, "short-beside", **settings))
    disk = run("distill", distill_config(world, "short-disk", label_dataset=str(stored), teacher=None, **settings))
    assert last(disk, "train")["loss"] == pytest.approx(last(beside, "train")["loss"], rel=2e-3)


def test_states_follow_the_rows_that_are_selected_of_each_split(world: Path) -> None:
    rows = [json.dumps({"en": f"{en} {en}"}) + "\n" for en, _ in PAIRS]
    (world / "more.jsonl").write_text("".join(rows))
    more = {"unlabeled_file": str(world / "more.jsonl")}
    mapping = {"encoder": [1, 2, 3], "decoder": [2]}
    settings = labels_config(world, splits=["train", "unlabeled"], data=more, states=["hidden_states"],
                             layer_mapping=mapping)  # fmt: skip
    run("gen-soft-labels", settings.model_copy(update={"output_dir": str(world / "two-splits")}))
    own: dict[str, Any] = {"label_dataset": str(world / "two-splits"), "losses": {"hidden_states": 1.0},
                           "data": {**more, "max_train_samples": 12}}  # fmt: skip
    beside = run("distill", distill_config(world, "few-beside", **own))
    disk = run("distill", distill_config(world, "few-disk", teacher=None, **own))
    assert last(disk, "plan")["teacher_states"] == "stored"
    assert last(disk, "train")["loss"] == pytest.approx(last(beside, "train")["loss"], rel=2e-3)


def test_missing_layers_are_named_and_a_teacher_runs_instead(world: Path, stored: Path) -> None:
    settings: dict[str, Any] = {
        "label_dataset": str(stored), "layer_mapping": {"encoder": "uniform", "decoder": [1]},
        "losses": {"hard_labels": 1.0, "hidden_states": 1.0}, "training": {"max_steps": 1},
    }  # fmt: skip
    with pytest.raises(InputError, match="no states of layer 1 of the teacher's decoder, only of 2"):
        run("distill", distill_config(world, "missing", teacher=None, **settings))
    rows = run("distill", distill_config(world, "missing-beside", **settings))
    assert last(rows, "plan")["teacher_states"] == "running beside it"
    assert any("has to run beside the student" in row["message"] for row in rows if row["event"] == "warning")


def test_stored_states_are_those_of_the_teachers_translations_only(world: Path, stored: Path) -> None:
    settings = distill_config(world, "both-stored", label_dataset=str(stored), teacher=None, targets="both")
    with pytest.raises(ConfigError, match="there is no teacher"):
        run("distill", settings)


def test_stored_states_are_the_same_when_written_again(world: Path, stored: Path) -> None:
    run("gen-soft-labels", states_config(world, "again"))
    files = sorted(path.name for path in stored.glob("*.npy"))
    assert len([name for name in files if "coder" in name]) == 6
    for name in files:
        assert (stored / name).read_bytes() == (world / "again" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": ["attentions"]}, "`states` of translation are hidden_states, found attentions"),
        ({"states": ["hidden_states"], "layer_mapping": "uniform"}, "list the layers of each"),
        ({"states": ["hidden_states"], "student_layers": 2}, "list the layers of each"),
        ({"states": ["hidden_states"], "layer_mapping": {"encoder": [1], "decoder": [7]}}, "decoder: "),
    ],
)
def test_states_that_cannot_be_stored_are_rejected(world: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("gen-soft-labels", labels_config(world, **changes).model_copy(update={"output_dir": str(world / "bad")}))


def test_shards_whose_rows_are_all_left_out_have_no_states(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "ROWS_PER_SHARD", 2)
    mapping = {"encoder": [1, 2, 3], "decoder": [2]}
    limited = {"max_train_samples": 6}
    settings = labels_config(world, states=["hidden_states"], layer_mapping=mapping, data=limited).model_copy(
        update={"output_dir": str(world / "small")}
    )
    with monkeypatch.context() as patch:
        patch.setattr(translating, "_selected", without_second_shard(translating._selected))
        run("gen-soft-labels", settings)
    files = [path.name for path in (world / "small").iterdir()]
    assert len(data.read_translations(world / "small", files)) == 4
    disk = distill_config(
        world, "from-small", label_dataset=str(world / "small"), teacher=None, data=limited,
        losses={"soft_labels": 1.0, "hidden_states": 1.0}, training={"max_steps": 2, "mixed_precision": "no"},
    )  # fmt: skip
    assert last(run("distill", disk), "plan")["teacher_states"] == "stored"


def without_second_shard(selected: Any) -> Any:
    def select(labels: Any, settings: Any, shard: str) -> Any:
        rows, kinds = selected(labels, settings, shard)
        return (rows & False if "00001-of" in shard else np.ones_like(rows)), kinds

    return select
