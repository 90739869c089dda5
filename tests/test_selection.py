"""Scores on the rows that a checkpoint was selected on are marked as optimistic."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Configs, run

from tinybert_cli.reports import runs

TEXT = "was selected on these rows, so the score is optimistic"


def warnings(events: list[Any]) -> list[str]:
    return [row["message"] for row in events if row["event"] == "warning"]


@pytest.mark.parametrize(("split", "optimistic"), [("validation", True), ("test", False)])
def test_only_the_rows_of_the_selection_are_optimistic(
    configs: Configs, teacher: Path, tmp_path: Path, split: str, optimistic: bool
) -> None:
    settings = {"latency": None, "bootstrap": 0, "baselines": [], "split": split}
    events = run("eval", configs("eval", "out", models={"teacher": str(teacher)}, **settings))
    assert any(f"the checkpoint of teacher {TEXT}" in text for text in warnings(events)) == optimistic
    for page in ("report.md", "report.html"):
        assert (TEXT in (tmp_path / "out" / page).read_text()) == optimistic
    notes = " ".join(runs.run([tmp_path / "out", teacher]).notes())
    assert ("Optimistic, because the checkpoint was selected on the rows of the score: teacher." in notes) == optimistic


def test_moved_rows_are_the_same_rows(configs: Configs, teacher: Path, data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "validation.jsonl", tmp_path / "other.jsonl")
    settings = {"latency": None, "bootstrap": 0, "baselines": [], "split": "test"}
    config = configs(
        "eval", "out", models={"teacher": str(teacher)}, data__test_file=str(tmp_path / "other.jsonl"), **settings
    )
    assert any(TEXT in text for text in warnings(run("eval", config)))


def test_a_model_without_selection_is_not_optimistic(configs: Configs, base_model: Path, tmp_path: Path) -> None:
    training = {"training__keep": "last", "training__max_steps": 2}
    run("finetune", configs("finetune", "last", model=str(base_model), **training))
    settings = {"latency": None, "bootstrap": 0, "baselines": []}
    config = configs(
        "eval", "out", models={"last": str(tmp_path / "last"), "last2": str(tmp_path / "last")}, **settings
    )
    assert not any("selected on these rows" in text for text in warnings(run("eval", config)))
