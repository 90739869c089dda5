"""`import tinybert`: the command line's stages, recipes and predictions, in Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
import pytest
from conftest import QUICK, ROWS, write_rows, write_sentences

import tinybert
from tinybert_cli import configuration, recipe_runner, stage_processes


@pytest.fixture
def settings(base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a short finetune run, as a mapping."""
    monkeypatch.chdir(tmp_path)
    data = write_sentences(tmp_path / "data")
    files = {f"{split}_file": data / f"{split}.jsonl" for split in ROWS}
    return {
        "task": "text-classification", "data": {**files, "max_seq_length": 16}, "model": base_model,
        "training": {**QUICK, "max_steps": 2}, "output_dir": tmp_path / "teacher",
    }  # fmt: skip


def test_a_stage_runs_from_a_mapping_and_is_up_to_date_afterwards(settings: dict[str, Any]) -> None:
    run = tinybert.finetune(settings)
    assert run.status == "done" and run.folder == settings["output_dir"]
    assert 0 <= run.metrics["eval_accuracy"] <= 1
    config = configuration.load("finetune", run.folder / "run.yaml")
    assert config.output_dir == str(run.folder)


def test_an_error_of_a_stage_is_raised_as_that_of_its_exit_code(
    settings: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(tinybert.ConfigErrors, match="did you mean 'learning_rate'") as raised:
        tinybert.finetune({**settings, "training": {"learnin_rate": 1}})
    assert "--> the mapping, as YAML:" in str(raised.value)
    assert "learnin_rate" in capfd.readouterr().err


@pytest.mark.parametrize(("code", "error"), [
    (1, tinybert.UserError), (2, tinybert.ConfigErrors), (3, tinybert.InputError), (4, tinybert.OutputError),
    (5, tinybert.GateError), (130, tinybert.Interrupted), (143, tinybert.Interrupted),
])  # fmt: skip
def test_each_exit_code_has_its_exception(
    code: int, error: type[tinybert.UserError], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = {"command": "finetune", "exit_code": code, "error": "what is wrong"}
    monkeypatch.setattr(stage_processes, "run_command", lambda *_: (code, result))
    with pytest.raises(error, match="what is wrong") as raised:
        tinybert.finetune(settings)
    assert type(raised.value) is error and raised.value.exit_code == code


@pytest.mark.parametrize(("key", "value", "expected"), [
    ("extends", "task.yaml", "`extends` is relative to a file"), ("seed", 1 + 2j, "no YAML value"),
])  # fmt: skip
def test_a_mapping_that_is_no_config_is_rejected(key: str, value: object, expected: str) -> None:
    with pytest.raises(tinybert.ConfigErrors, match=expected):
        tinybert.finetune({key: value})


def test_a_dollar_in_a_mapping_is_no_variable(tmp_path: Path) -> None:
    data = {"train_file": "x.csv", "label_names": ["$HOME", "1e5"]}
    settings = {"task": "text-classification", "model": "x", "data": data, "output_dir": "out"}
    file = tinybert._written(settings, tmp_path / "settings.yaml")
    assert configuration.load("finetune", file).data.label_names == ["$HOME", "1e5"]


def test_a_recipe_returns_its_stages_by_name(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_processes, "can_fork", lambda: False)
    monkeypatch.setattr(
        recipe_runner, "run_command",
        lambda command, words, stderr: (0, {"command": command, "status": "done", "output_dir": str(Path("out") / command)}),
    )  # fmt: skip
    for name in ("finetune", "gen-soft-labels"):
        write_rows(Path("out") / name / "metrics.json", [{"rows": 3}])
    Path("recipe.yaml").write_text(
        "task: text-classification\ndata: {train_file: x.csv}\nstages:\n"
        "  - {stage: finetune, model: x, output_dir: out/finetune}\n"
        "  - {stage: gen-soft-labels, teacher: out/finetune, output_dir: out/gen-soft-labels}\n"
    )
    runs = tinybert.run("recipe.yaml", "seed=3")
    assert {name: run.status for name, run in runs.items()} == {"finetune": "done", "gen-soft-labels": "done"}
    assert runs["finetune"].metrics == {"rows": 3}
    for only in (["gen-soft-labels"], "gen-soft-labels"):
        assert list(tinybert.run("recipe.yaml", only=only)) == ["gen-soft-labels"]


def test_a_loaded_model_predicts_one_text_and_several(teacher: Path) -> None:
    classify = tinybert.load(teacher)
    assert classify("a witty , warm film .")["prediction"] == "good"
    assert [row["prediction"] for row in classify(["an awful , boring film .", "great cast"])] == ["bad", "good"]
    assert classify.label_names == ["bad", "good"]
    assert classify([]) == []
    with pytest.raises(tinybert.InputError, match="empty"):
        classify("")
    table = pandas.DataFrame({"text": ["great cast", "awful"]})
    assert len(classify(table["text"])) == 2
    with pytest.raises(tinybert.InputError, match="a list of texts, found DataFrame"):
        classify(table)


def test_a_missing_model_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(tinybert.InputError):
        tinybert.load(tmp_path / "none")


def test_importing_tinybert_loads_no_heavy_library() -> None:
    code = "import sys, tinybert; print([name for name in ('torch', 'transformers', 'datasets', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
