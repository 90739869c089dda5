"""Stages that are interrupted, fail or meet damage: finished work stays, and a rerun ends in the same bytes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Configs, run

from tinybert_cli import artifacts, models
from tinybert_cli.artifacts.run_files import RunFiles
from tinybert_cli.config import Stage
from tinybert_cli.errors import InputError, Interrupted, OutputError, UserError
from tinybert_cli.predictor import load_predictor
from tinybert_cli.stages import finetune, gen_soft_labels, validation_scores
from tinybert_cli.tasks.text_classification import TextClassification
from tinybert_cli.types import Encoded, Rows

SHORT = {"training__max_steps": 6, "training__eval_strategy": "steps", "training__eval_steps": 2}


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def flip_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def steps(rows: list[dict[str, Any]], event: str) -> list[int]:
    return [row["step"] for row in rows if row["event"] == event]


@pytest.fixture
def short_run(base_model: Path, configs: Configs) -> Callable[..., Stage]:
    """`short_run("out")`: the config of a training of 6 steps, evaluated and saved after 2, 4 and 6."""
    return lambda output, **settings: configs("finetune", output, model=base_model, **SHORT, **settings)


def stop_in_last_scoring(config: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(validation_scores.ValidationScores, "result", stop)
        run("finetune", config)


# -- training that is complete ---------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_run_stopped_in_the_last_scoring_repeats_no_step(
    keep: str, short_run: Callable[..., Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("finetune", short_run("whole", training__keep=keep))
    stop_in_last_scoring(short_run("out", training__keep=keep), monkeypatch)
    rows = run("finetune", short_run("out", training__keep=keep))
    assert steps(rows, "resume") == [6] and steps(rows, "progress") == []
    assert sha256(tmp_path / "out") == sha256(tmp_path / "whole")


def test_a_signal_while_the_last_step_is_saved_ends_the_run(short_run: Callable[..., Stage]) -> None:
    rows: list[dict[str, Any]] = []
    with pytest.raises(Interrupted):
        for row in finetune.run(short_run("out")):  # type: ignore[arg-type]
            rows.append(row)
            if row["event"] == "checkpoint" and row["step"] == 6:
                os.kill(os.getpid(), signal.SIGTERM)
    assert steps(rows, "checkpoint") == [2, 4, 6] and rows[-1]["event"] == "checkpoint"
    rows = run("finetune", short_run("out"))
    assert steps(rows, "resume") == [6] and steps(rows, "progress") == []


def test_a_full_disk_at_the_final_save_repeats_no_step(
    short_run: Callable[..., Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run("finetune", short_run("whole"))
    with monkeypatch.context() as patch, pytest.raises(UserError, match="disk is full"):
        patch.setattr(RunFiles, "put", disk_full)
        run("finetune", short_run("out"))
    rows = run("finetune", short_run("out"))
    assert steps(rows, "resume") == [6] and steps(rows, "progress") == []
    assert sha256(tmp_path / "out") == sha256(tmp_path / "whole")


# -- damaged checkpoints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", ["step", "best"])
def test_a_damaged_checkpoint_costs_only_the_steps_after_the_one_before(
    damaged: str,
    short_run: Callable[..., Stage],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scores = {2: 0.5, 4: 0.6, 6: 0.7}  # each evaluation is the best one

    def score(evaluation: validation_scores.ValidationScores, model: models.Student) -> dict[str, float]:
        return {"accuracy": next(objectives), "f1_macro": 0.0}

    monkeypatch.setattr(validation_scores.ValidationScores, "scores", score)
    objectives = iter(scores.values())
    run("finetune", short_run("whole"))
    objectives = iter(scores.values())
    stop_in_last_scoring(short_run("out"), monkeypatch)
    (newest,) = (tmp_path / "out" / "checkpoints").glob(f"{damaged}-00000006")
    flip_bit(newest / "model.safetensors")
    objectives = iter([scores[6]])
    rows = run("finetune", short_run("out"))
    assert steps(rows, "resume") == [4] and steps(rows, "progress") == [5, 6]
    assert f"{newest} is damaged" in caplog.text
    assert sha256(tmp_path / "out") == sha256(tmp_path / "whole")


def test_a_run_whose_checkpoints_are_all_damaged_starts_over_and_says_so(
    short_run: Callable[..., Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("finetune", short_run("whole"))
    stop_in_last_scoring(short_run("out"), monkeypatch)
    for state in (tmp_path / "out" / "checkpoints").glob("step-*"):
        flip_bit(state / "model.safetensors")
    rows = run("finetune", short_run("out"))
    assert "starts from step 0" in json.dumps(rows) and steps(rows, "progress") == [1, 2, 3, 4, 5, 6]
    assert sha256(tmp_path / "out") == sha256(tmp_path / "whole")


# -- damaged inputs --------------------------------------------------------------------------------------------

MODEL_FILES = ("model.safetensors", "config.json", "tokenizer.json")


@pytest.mark.parametrize("name", MODEL_FILES)
def test_predict_rejects_a_damaged_model(name: str, teacher: Path) -> None:
    flip_bit(teacher / name)
    with pytest.raises(InputError, match=rf"{name}' is damaged"):
        load_predictor(str(teacher))


def test_predict_accepts_an_edited_model_card(teacher: Path) -> None:
    (teacher / "README.md").write_text("edited")
    (teacher / "notes.txt").write_text("extra")
    assert list(load_predictor(str(teacher)).predict(["a great film"]))


STAGE_INPUTS = {
    "finetune": ["model", "label_dataset"],
    "gen-soft-labels": ["teacher"],
    "distill": ["student", "teacher", "label_dataset"],
    "eval": ["models"],
    "export": ["model"],
}


def settings_of(command: str, teacher: Path, labels: Path) -> dict[str, Any]:
    """The inputs of a stage: the teacher as every model, and its labels."""
    values = {key: str(labels if key == "label_dataset" else teacher) for key in STAGE_INPUTS[command]}
    return {**values, "models": {"t": str(teacher)}} if command == "eval" else values


@pytest.mark.parametrize(
    ("command", "key"), [(command, key) for command in STAGE_INPUTS for key in STAGE_INPUTS[command]]
)
def test_every_stage_rejects_a_damaged_input(
    command: str, key: str, teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    config = configs(command, "out", **settings_of(command, teacher, teacher_labels))
    flip_bit(next(teacher_labels.glob("*.parquet")) if key == "label_dataset" else teacher / "tokenizer.json")
    with pytest.raises(InputError, match="is damaged"):
        run(command, config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "key"), [(command, key) for command in STAGE_INPUTS for key in STAGE_INPUTS[command]]
)
@pytest.mark.parametrize("where", ["", "out", ".."])
def test_every_stage_rejects_an_input_as_output(
    command: str, key: str, where: str, teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path
) -> None:
    config = configs(command, "out", **settings_of(command, teacher, teacher_labels))
    folder = teacher_labels if key == "label_dataset" else teacher
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="an input of this run"):
        run(command, config.model_copy(update={"output_dir": str(folder / where)}), force=True)
    assert sorted(tmp_path.rglob("*")) == before


# -- a run that fails over a finished one ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{"data__text_column_names": "txt"}, {"training__learning_rate": 1e30}], ids=["typo", "divergence"]
)
def test_a_forced_run_that_fails_leaves_the_finished_model(
    settings: dict[str, Any], base_model: Path, configs: Configs, tmp_path: Path
) -> None:
    run("finetune", configs("finetune", "out", model=base_model, training__max_steps=2))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(UserError):
        run("finetune", configs("finetune", "out", model=base_model, training__max_steps=8, **settings), force=True)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    load_predictor(str(tmp_path / "out"))


# -- shards ----------------------------------------------------------------------------------------------------


def test_a_damaged_shard_is_made_again_and_the_others_are_not(
    teacher: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinybert_cli.stages.labelling.ROWS_PER_SHARD", 32)
    settings = {"teacher": teacher, "check_teacher": False}
    whole, config = (configs("gen-soft-labels", name, **settings) for name in ("whole", "out"))
    run("gen-soft-labels", whole)
    stage = gen_soft_labels.run(config)
    assert any(row["event"] == "shard" and row["step"] == 64 for row in stage)
    with pytest.raises(Interrupted, match="again to resume"):
        stage.throw(Interrupted(signal.SIGTERM, "interrupted"))
    flip_bit(tmp_path / "out" / "train-00001-of-00003.parquet")
    encode, counts = TextClassification.encode, list[int]()

    def encoded(rows: Rows, *more: Any) -> Encoded:
        counts.append(len(rows))
        return encode(rows, *more)

    monkeypatch.setattr(TextClassification, "encode", staticmethod(encoded))
    rows = run("gen-soft-labels", config)
    assert counts[-2:] == [32, 32] and 96 not in counts  # only the rows of these shards are tokenized
    shards = [row["shard"] for row in rows if row["event"] == "shard"]
    assert shards == ["train-00001-of-00003.parquet", "train-00002-of-00003.parquet"]
    for name in ("train-00000-of-00003.parquet", *shards):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    artifacts.verify_folder(tmp_path / "out")
