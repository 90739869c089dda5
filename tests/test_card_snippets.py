"""The Python code in the model cards of every task, of models and of exports, runs in another folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Configs, make_config, run, sentences, write_rows
from typer.testing import CliRunner

from tinybert_cli.cli import app

SPLITS = ("train", "validation", "test")
Settings = dict[str, Any]


def labelled(data: Path, cells: Callable[[dict[str, str]], dict[str, Any]]) -> None:
    for split in SPLITS:
        write_rows(data / f"{split}.jsonl", [cells(row) for row in sentences(split)])


def words_and_tags(data: Path) -> Settings:
    labelled(data, lambda row: {
        "tokens": row["text"].split(), "tags": ["B-X" if word == "film" else "O" for word in row["text"].split()],
    })  # fmt: skip
    return {"data__text_column_names": "tokens", "data__label_column_name": "tags"}


def questions(data: Path) -> Settings:
    labelled(data, lambda row: {
        "question": "film", "context": row["text"], "answers": {"text": [row["text"].split()[0]], "answer_start": [0]},
    })  # fmt: skip
    columns = {"data__text_column_names": ["question", "context"], "data__label_column_name": "answers"}
    return {**columns, "data__doc_stride": 4}


def numbers(data: Path) -> Settings:
    labelled(data, lambda row: {"text": row["text"], "stars": 4.5 if row["label"] == "good" else 3.5})
    return {"data__label_column_name": "stars"}


def several_labels(data: Path) -> Settings:
    labelled(data, lambda row: {"text": row["text"], "labels": [row["label"], "film"][: 1 + ("film" in row["text"])]})
    return {"data__label_column_name": "labels"}


TASKS: dict[str, tuple[Callable[[Path], Settings], Callable[[Any], bool]]] = {
    "token-classification": (words_and_tags, lambda result: isinstance(result, list)),
    "question-answering": (questions, lambda result: result is None or isinstance(result, str)),
    "regression": (numbers, lambda result: isinstance(result[0]["score"], float)),
    "multi-label-classification": (several_labels, lambda result: len(result[0]) == 3),
}


def last_value(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Any]:
    """The variables and the last expression of the first Python block of a card, run in another folder."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0].strip()
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    monkeypatch.chdir(elsewhere)
    scope: dict[str, Any] = {}
    lines = code.split("\n")
    try:
        compile(lines[-1], "card", "eval")
    except SyntaxError:  # an assignment
        exec(code, scope)
        return scope, None
    exec("\n".join(lines[:-1]), scope)
    return scope, eval(lines[-1], scope)


@pytest.mark.parametrize("task", TASKS)
def test_the_code_of_a_model_card_and_of_its_export_runs(
    task: str, data: Path, configs: Configs, base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, fits = TASKS[task]
    settings = {"task": task, **write(data)}
    run("finetune", configs("finetune", "model", model=base_model, training__max_steps=2, **settings))
    _, value = last_value(data.parent / "model", monkeypatch)
    assert fits(value), value
    pytest.importorskip("onnxruntime")
    verify = {"split": "validation", "max_samples": 8, "min_agreement": 0, "max_metric_drop": None}
    run("export", configs("export", "export", model=data.parent / "model", verify=verify, **settings))
    scope, value = last_value(data.parent / "export", monkeypatch)
    outputs = [array for name, array in scope.items() if "logits" in name]
    assert outputs or value is not None


def test_the_code_of_a_translation_card_and_of_its_export_runs(
    tiny_translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from translation_model import translation_config

    _, value = last_value(tiny_translator, monkeypatch)
    assert len(value) == 1 and isinstance(value[0], str)
    pytest.importorskip("ctranslate2")
    settings = {"format": "ctranslate2", "verify": {"split": "validation", "max_samples": 4, "min_agreement": 0}}
    config = translation_config(
        "export", tiny_translator.parent / "data", tmp_path / "export", model=tiny_translator, **settings
    )
    run("export", config)
    card = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"```sh\n(tinybert predict .*?)\n```", card)
    done = CliRunner().invoke(app, shlex.split(command)[1:])
    assert done.exit_code == 0 and done.stdout.endswith("A man rides a bicycle.\n"), done.stderr


def test_the_code_of_a_task_agnostic_student_runs(
    base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "\n".join(row["text"] for row in sentences("train"))
    (tmp_path / "text.txt").write_text(rows, encoding="utf-8")
    config = make_config(
        "distill", tmp_path, tmp_path / "student", task="language-modeling", teacher=base_model,
        student={"from": str(base_model), "num_hidden_layers": 2}, losses={"hidden_states": 1.0}, training__max_steps=2,
        data__train_file=str(tmp_path / "text.txt"), data__validation_file=None, data__test_file=None,
        data__unlabeled_file=None,
    )  # fmt: skip
    run("distill", config)
    _, value = last_value(tmp_path / "student", monkeypatch)
    assert len(value[0][0]) == 16  # one vector per token, as wide as the model
