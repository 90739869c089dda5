"""All stages, killed or on a full disk at several of their changes: a rerun ends in the bytes of an undisturbed run."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Configs, run
from fault_injection import Killed, fault

from tinybert_cli import artifacts
from tinybert_cli.config import Stage
from tinybert_cli.errors import Interrupted, UserError
from tinybert_cli.runner import STAGES

THOROUGH = "FAULT_POINTS" in os.environ  # all stages, with so many points of each: minutes
POINTS = int(os.environ.get("FAULT_POINTS", "1"))
TRAINING = {"training__max_steps": 2, "training__eval_strategy": "steps", "training__eval_steps": 1,
            "training__logging_steps": 1}  # fmt: skip
TIMED = {"README.md", "metrics.json", "manifest.json", "log.jsonl", "run.log", "run.yaml", "report.md", "report.html"}

Start = Callable[..., Stage]


@pytest.fixture(params=list(STAGES) if THOROUGH else ["gen-soft-labels"])
def stage(
    request: pytest.FixtureRequest,
    base_model: Path,
    teacher: Path,
    teacher_labels: Path,
    configs: Configs,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[str, Start]:
    """A command, and a function that makes its config for an output folder and a seed."""
    monkeypatch.setattr("tinybert_cli.stages.labelling.ROWS_PER_SHARD", 48)
    settings: dict[str, Any] = {
        "finetune": {"model": base_model, **TRAINING},
        "gen-soft-labels": {"teacher": teacher},
        "distill": {
            "student": {"from": str(teacher), "num_hidden_layers": 2},
            "label_dataset": teacher_labels,
            **TRAINING,
        },
        "eval": {"models": {"t": str(teacher)}, "latency": None, "bootstrap": 10},
        "export": {"model": teacher, "format": "safetensors", "dtype": "float16"},
    }[request.param]
    return request.param, lambda output, **more: configs(request.param, output, **settings, **more)


def content(folder: Path) -> dict[str, bytes]:
    """The files that are equal in every run, by name."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if path.name not in TIMED}


def points(count: int) -> list[int]:
    """POINTS numbers from 1 to `count`, evenly spaced."""
    return sorted({1 + (count - 1) * (index + 1) // (POINTS + 1) for index in range(POINTS)})


def state_of(folder: Path) -> str:
    """`finished`, `unfinished` or `nothing`; a finished folder is complete and undamaged."""
    if artifacts.has_manifest(folder):
        artifacts.verify_folder(folder, also=["metrics.json"])
        return "finished"
    return "unfinished" if (folder / "checkpoints").exists() else "nothing"


@pytest.mark.parametrize("kind", ["kill", "full disk"])
def test_a_rerun_after_a_fault_ends_in_the_same_bytes(kind: str, stage: tuple[str, Start], tmp_path: Path) -> None:
    command, start = stage
    with fault(tmp_path / "whole", "none" if kind == "kill" else "full disk", at=10**9) as counted:
        run(command, start("whole"))
    for at in points(counted.changes):
        output, folder = f"at-{at}", tmp_path / f"at-{at}"
        with fault(folder, kind, at), pytest.raises((Killed, UserError)) as caught:
            run(command, start(output))
        if kind == "full disk" and not isinstance(caught.value, Killed):
            assert "disk is full" in str(caught.value) or "cannot create" in str(caught.value)
            assert ("again to resume" in str(caught.value)) == (state_of(folder) == "unfinished")
        run(command, start(output))
        assert state_of(folder) == "finished" and content(folder) == content(tmp_path / "whole")
        assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("kind", ["kill", "full disk"])
def test_a_fault_in_a_forced_run_leaves_the_old_run_or_the_new_one(
    kind: str, stage: tuple[str, Start], tmp_path: Path
) -> None:
    command, start = stage
    run(command, start("whole", seed=7))
    run(command, start("out"))
    with fault(tmp_path / "out", "none" if kind == "kill" else "full disk", at=10**9) as counted:
        run(command, start("out", seed=7), force=True)
    for at in points(counted.changes):
        run(command, start("out", seed=42), force=True)
        (tmp_path / "out" / "notes.txt").write_text("of the user")
        old = content(tmp_path / "out")
        with fault(tmp_path / "out", kind, at), suppress(Killed, UserError):
            run(command, start("out", seed=7), force=True)
        if state_of(tmp_path / "out") == "finished":
            seed = artifacts.read_manifest(tmp_path / "out")["seed"]
            assert seed == 7 or content(tmp_path / "out").items() >= old.items()
        run(command, start("out", seed=7), force=True)
        new = content(tmp_path / "out")
        assert new.pop("notes.txt") == b"of the user"
        assert state_of(tmp_path / "out") == "finished" and new == content(tmp_path / "whole")
        assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_run_interrupted_at_an_event_ends_in_the_same_bytes(stage: tuple[str, Start], tmp_path: Path) -> None:
    command, start = stage
    events = [row["event"] for row in run(command, start("whole"))]
    module = importlib.import_module(f"tinybert_cli.stages.{STAGES[command]}")
    for at in points(len(events) - 1):
        folder = tmp_path / f"at-{at}"
        rows = module.run(start(folder.name))
        for _ in range(at):
            next(rows)
        with pytest.raises(Interrupted) as caught:
            rows.throw(Interrupted(15, "interrupted"))
        assert ("again to resume" in str(caught.value)) == (state_of(folder) == "unfinished")
        repeated = run(command, start(folder.name))
        assert ("resume" in {row["event"] for row in repeated}) <= ("again to resume" in str(caught.value))
        assert state_of(folder) == "finished" and content(folder) == content(tmp_path / "whole")
        assert len(json.loads((folder / "metrics.json").read_text()))
