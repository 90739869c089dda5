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

from tinybert_cli import models
from tinybert_cli.artifacts import Output
from tinybert_cli.config import Stage
from tinybert_cli.errors import Interrupted, UserError
from tinybert_cli.stages import training

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
        patch.setattr(training._Evaluation, "result", stop)
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


def test_a_full_disk_at_the_final_save_repeats_no_step(
    short_run: Callable[..., Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    run("finetune", short_run("whole"))
    with monkeypatch.context() as patch, pytest.raises(UserError, match="disk is full"):
        patch.setattr(Output, "put", disk_full)
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

    def score(evaluation: training._Evaluation, model: models.Student) -> dict[str, float]:
        return {"accuracy": next(objectives), "f1_macro": 0.0}

    monkeypatch.setattr(training._Evaluation, "scores", score)
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
