"""Invalid input: the message, the exit code, and that no files are left behind."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Configs, sentences, write_rows

from tinybert_cli import cli, configuration
from tinybert_cli.config import Stage

Capture = pytest.CaptureFixture[str]
RunCommand = Callable[..., tuple[int, str]]


@pytest.fixture
def run_command(tmp_path: Path, capsys: Capture) -> RunCommand:
    """Runs a command with these settings; returns its exit code and what it printed on stderr."""

    def run_command(command: str, config: Stage, *overrides: str, **options: bool) -> tuple[int, str]:
        file = tmp_path / "config.yaml"
        file.write_text(configuration.dump(config), encoding="utf-8")
        flags = {name: options.get(name, False) for name in ("dry_run", "force", "as_json", "quiet", "verbose")}
        return cli.execute(command, file, list(overrides), **flags), capsys.readouterr().err

    return run_command


@pytest.fixture
def finetune(run_command: RunCommand, configs: Configs, base_model: Path) -> RunCommand:
    """The same for a fine-tuning of two steps."""
    return lambda *overrides, **settings: run_command(
        "finetune",
        configs("finetune", "out", **{"model": base_model, "training__max_steps": 2, **settings}),
        *overrides,
    )


@pytest.mark.parametrize(("command", "key"), [("finetune", "model"), ("gen-soft-labels", "teacher")])
def test_missing_rows_are_reported_before_a_model_is_downloaded(
    command: str, key: str, run_command: RunCommand, configs: Configs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinybert_cli.models.locate", lambda name: pytest.fail(f"{name} was looked for"))
    config = configs(command, "out", **{key: "org/large", "data__train_file": "trian.csv"})
    code, message = run_command(command, config)
    assert code == 3 and "'trian.csv' does not exist" in message


# -- rows ----------------------------------------------------------------------------------------------------

GOOD = '{"text": "fine", "label": "good"}\n'
ROWS: dict[str, tuple[str, bytes, str]] = {
    "empty": ("t.jsonl", b"", "t.jsonl' is empty"),
    "empty csv": ("t.csv", b"", "t.csv' is empty"),
    "header only": ("t.csv", b"text,label\n", "has a header but no rows"),
    "malformed": ("t.jsonl", GOOD.encode() + b'{"text": "b",\n', "t.jsonl:2:"),
    "not utf-8": ("t.csv", "text,label\nfine,good\ncafé,bad\n".encode("latin-1"), "t.csv:3"),
    "columns twice": ("t.csv", b"text,text,label\na,b,good\n", "two columns of the same name"),
    "no gzip": ("t.jsonl.gz", b"text", "not a complete gzip file"),
    "half a gzip": ("t.jsonl.gz", gzip.compress(GOOD.encode() * 99)[:40], "not a complete gzip file"),
    "no text": ("t.jsonl", GOOD.encode() + b'{"text": 3, "label": "bad"}\n', "'text': expected text, found 3"),
    "no label column": ("t.jsonl", b'{"text": "fine", "labels": "good"}\n', "no column 'label'"),
    "one class": ("t.jsonl", GOOD.encode() * 20, "all 20 rows have the same label, good"),
    "no label": ("t.jsonl", GOOD.encode() + b'{"text": "b", "label": null}\n', "t.jsonl, row 2"),
    "empty label": ("t.csv", b"text,label\nfine,good\ndull,\npoor,bad\n", "t.csv, row 2"),
    "fractions": ("t.jsonl", b'{"text": "a", "label": 1.0}\n{"text": "b", "label": 0.5}\n', "task: regression"),
    "lists": ("t.jsonl", b'{"text": "a", "label": ["good"]}\n', "multi-label-classification"),
    "hidden labels": ("t.jsonl", b'{"text": "a", "label": -1}\n', "every label is -1"),
    "ids": (
        "t.jsonl",
        b'{"text": "a", "label": 1}\n{"text": "b", "label": 1732457000}\n',
        "check data.label_column_name",
    ),
    "unknown position": ("t.jsonl", b'{"text": "a", "label": 0}\n{"text": "b", "label": -3}\n', "unknown label -3"),
}


@pytest.mark.parametrize(("name", "content", "message"), ROWS.values(), ids=ROWS)
def test_unusable_rows_are_reported_with_their_location(
    name: str, content: bytes, message: str, finetune: RunCommand, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    code, err = finetune(data__train_file=str(file), data__validation_file=None)
    assert code == 3 and message in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_missing_files_folders_and_columns_have_hints(finetune: RunCommand, data: Path) -> None:
    code, err = finetune(data__train_file=str(data / "trian.jsonl"))
    assert code == 3 and "did you mean 'train.jsonl'?" in err
    code, err = finetune(data__train_file=str(data))
    assert code == 3 and "is a folder, not a file" in err and "data.dataset_name" in err
    code, err = finetune(data__text_column_names="txt")
    assert code == 3 and "did you mean 'text'?; columns here: text, label" in err
    code, err = finetune(data__label_column_name="lable")
    assert code == 3 and "did you mean 'label'?; columns here: text, label" in err


def test_a_label_missing_from_training_is_reported_with_its_row(finetune: RunCommand, data: Path) -> None:
    write_rows(data / "validation.jsonl", [*sentences("validation"), {"text": "fine", "label": "goood"}])
    code, err = finetune()
    assert code == 3 and "goood" in err and "model: bad, good" in err and "validation.jsonl, row 49" in err


def test_label_names_that_differ_from_the_data_are_listed(finetune: RunCommand) -> None:
    code, err = finetune(data__label_names=["bad", "ugly"])
    assert code == 3 and "unknown label 'good'" in err and "labels: bad, ugly" in err


def test_label_names_in_another_order_than_the_models_are_listed(
    run_command: RunCommand, configs: Configs, teacher: Path
) -> None:
    code, err = run_command(
        "eval", configs("eval", "out", models={"t": str(teacher)}, data__label_names=["good", "bad"])
    )
    assert code == 3 and "data:  good, bad" in err and "model: bad, good" in err


def test_unusual_rows_are_counted_in_warnings(finetune: RunCommand, data: Path) -> None:
    rows = sentences("train")
    rows[3]["text"], rows[4]["text"], rows[5]["text"] = "", "  ", "fine " * 60
    write_rows(data / "train.jsonl", rows)
    write_rows(data / "validation.jsonl", rows[6:12])
    code, err = finetune()
    assert code == 0
    assert "warning: 1 of 96 rows of train (1.0%) is longer than 16 tokens and was truncated" in err
    assert "warning: 2 rows of train have no text (row 4, 5)" in err
    assert "warning: 6 of 6 validation rows also occur in the training set" in err


def test_validation_rows_without_labels_give_a_warning(finetune: RunCommand, data: Path) -> None:
    write_rows(data / "validation.jsonl", [{"text": "fine"}])
    code, err = finetune()
    assert code == 0 and "warning: the validation rows have no labels" in err


def test_csv_files_from_windows_are_read(finetune: RunCommand, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(b"\xef\xbb\xbftext,label\r\n" + b"fine,good\r\ndull,bad\r\n" * 10)
    code, err = finetune(data__train_file=str(file))
    assert code == 0 and "20 rows" in err and "labels bad, good" in err


def test_evaluation_on_hidden_labels_is_rejected(
    run_command: RunCommand, configs: Configs, data: Path, teacher: Path
) -> None:
    write_rows(data / "validation.jsonl", [{"text": "fine", "label": -1}])
    code, err = run_command("eval", configs("eval", "out", models={"t": str(teacher)}))
    assert code == 3 and "every label is -1" in err


def test_a_length_beyond_the_models_positions_is_rejected(
    run_command: RunCommand, configs: Configs, base_model: Path, teacher: Path, tmp_path: Path
) -> None:
    for command, settings in {
        "finetune": {"model": base_model},
        "gen-soft-labels": {"teacher": teacher, "splits": ["validation"], "check_teacher": False},
        "eval": {"models": {"t": str(teacher)}, "latency": None},
        "export": {"model": teacher},
    }.items():
        code, err = run_command(command, configs(command, "out", data__max_seq_length=64, **settings))
        assert code == 3 and "has positions for 32 tokens, not for 64" in err, command
        assert "data.max_seq_length: at most 32" in err and not (tmp_path / "out").exists()


def test_a_latency_length_beyond_the_models_positions_is_rejected(
    run_command: RunCommand, configs: Configs, teacher: Path
) -> None:
    code, err = run_command("eval", configs("eval", "out", models={"t": str(teacher)}))
    assert code == 3 and "not for 128" in err and "latency.lengths: at most 32" in err


def test_no_prediction_above_min_confidence_is_an_error(
    finetune: RunCommand, teacher_labels: Path, tmp_path: Path
) -> None:
    code, err = finetune(label_dataset=teacher_labels, min_confidence=1.0)
    assert code == 3 and "no prediction in" in err and "lower min_confidence" in err
    assert not (tmp_path / "out").exists()


# -- models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_generative_model_is_rejected(family: str, finetune: RunCommand, base_model: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2Model, T5Config, T5Model

    small = {"vocab_size": 64, "num_layers": 1, "num_heads": 2, "d_model": 16, "d_kv": 8, "d_ff": 16}
    model = (
        T5Model(T5Config(**small))
        if family == "t5"
        else GPT2Model(GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2))
    )
    model.save_pretrained(tmp_path / family)
    for file in base_model.glob("tokenizer*"):
        shutil.copy(file, tmp_path / family)
    code, err = finetune(model=tmp_path / family)
    assert code == 3 and f"{family} models" in err and "encoder" in err
    assert not (tmp_path / "out").exists()


def test_an_export_cannot_be_trained(finetune: RunCommand, base_model: Path) -> None:
    (base_model / "model.safetensors").rename(base_model / "model.onnx")
    code, err = finetune()
    assert code == 3 and "the model that it was exported from" in err


def test_an_operator_set_too_old_for_the_model_is_rejected(
    run_command: RunCommand, configs: Configs, teacher: Path, tmp_path: Path
) -> None:
    code, err = run_command("export", configs("export", "out", model=teacher), "opset=11")
    assert code == 2 and "`opset` 11 lacks an operator that this model needs" in err and "leave it out" in err
    assert not (tmp_path / "out").exists()


def test_a_truncated_weights_file_is_rejected(finetune: RunCommand, base_model: Path) -> None:
    file = base_model / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    code, err = finetune()
    assert code == 3 and "damaged or incomplete" in err and str(file) in err


def test_a_model_with_custom_code_is_rejected(finetune: RunCommand, base_model: Path) -> None:
    config = json.loads((base_model / "config.json").read_text())
    custom = {**config, "model_type": "custom", "auto_map": {"AutoModel": "code.Model"}}
    (base_model / "config.json").write_text(json.dumps(custom))
    code, err = finetune()
    assert code == 3 and "code from a model is never run" in err


def test_a_pickle_is_read_as_tensors_only_with_a_warning(
    finetune: RunCommand, base_model: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    weights: dict[str, Any] = load_file(base_model / "model.safetensors")
    (base_model / "model.safetensors").unlink()
    torch.save({**weights, "evil": _Evil(tmp_path / "ran")}, base_model / "pytorch_model.bin")
    code, err = finetune()
    assert code == 3 and "no code in it was run" in err and not (tmp_path / "ran").exists()
    torch.save(weights, base_model / "pytorch_model.bin")
    code, err = finetune()
    assert code == 0 and "warning: " in err and "pytorch_model.bin: an old format" in err
    assert (tmp_path / "out" / "model.safetensors").is_file()


class _Evil:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_model_without_a_head_cannot_be_a_teacher(
    run_command: RunCommand, configs: Configs, base_model: Path, tmp_path: Path
) -> None:
    code, err = run_command("gen-soft-labels", configs("gen-soft-labels", "out", teacher=base_model))
    assert code == 3 and "has no sequence-classification head" in err and "tinybert finetune" in err
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_with_more_tokens_than_the_model_is_rejected(finetune: RunCommand, base_model: Path) -> None:
    file = base_model / "tokenizer.json"
    held = json.loads(file.read_text())
    held["model"]["vocab"]["extra"] = len(held["model"]["vocab"])
    file.write_text(json.dumps(held))
    code, err = finetune()
    assert code == 3 and "does not match the model" in err


def test_a_student_with_another_tokenizer_gives_a_warning(
    run_command: RunCommand, configs: Configs, teacher: Path, teacher_labels: Path, tmp_path: Path
) -> None:
    student = Path(shutil.copytree(teacher, tmp_path / "other"))
    (student / "manifest.json").unlink()
    held = json.loads((student / "tokenizer.json").read_text())
    words = held["model"]["vocab"]
    words["fine"], words["dull"] = words["dull"], words["fine"]
    (student / "tokenizer.json").write_text(json.dumps(held))
    settings = {"label_dataset": teacher_labels, "student": student, "training__max_steps": 2}
    code, err = run_command("distill", configs("distill", "out", teacher=teacher, **settings))
    assert code == 0 and "warning: teacher and student split text differently" in err
    code, err = run_command(
        "distill", configs("distill", "out2", teacher=teacher, losses={"hidden_states": 1.0}, **settings)
    )
    assert code == 3 and "their layers cannot be compared" in err


def test_a_new_commit_on_a_hub_branch_is_another_input(
    finetune: RunCommand, base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    cached = tmp_path / "hub/models--org--name"
    (cached / "refs").mkdir(parents=True)
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(base_model, cached / "snapshots" / commit)
        (cached / "refs/main").write_text(commit)
        code, err = finetune(model="org/name")
        manifest = json.loads((tmp_path / "out/manifest.json").read_text())
        assert manifest["inputs"]["model"] == {"hub_id": "org/name", "revision": "a" * 40}
    assert code == 4 and f"inputs.model.revision: {'a' * 40} before, {'b' * 40} now" in err


# -- folders and settings ------------------------------------------------------------------------------------


def test_nan_loss_names_the_step_and_the_last_checkpoint(finetune: RunCommand) -> None:
    diverging = {"training__learning_rate": 1e30, "training__warmup_ratio": 0.0, "training__max_steps": 9}
    code, err = finetune(**diverging)
    assert code == 1 and "not finite at step 2" in err and "no checkpoint was saved before this step" in err
    code, err = finetune(**diverging, training__save_steps=1)
    assert code == 1 and "not finite at step 2" in err and "the checkpoint of step 1 is kept" in err


ANSWER = {"text": "fine", "answer_start": 2}
TAGGED = {"tokens": ["a", "fine", "film"], "tags": ["O", "B-X", "O"]}
PARTLY_LABELLED = {
    "question-answering": (
        [{"question": "what film?", "context": "a fine film", "answers": answers} for answers in ([ANSWER], [], None)],
        {"text_column_names": ["question", "context"], "label_column_name": "answers"},
        "a question without an answer has an empty list, or is_impossible: true",
    ),
    "token-classification": (
        [TAGGED, TAGGED, {**TAGGED, "tags": None}],
        {"text_column_names": "tokens", "label_column_name": "tags"},
        "move these rows to data.unlabeled_file",
    ),
}


@pytest.mark.parametrize("task", PARTLY_LABELLED)
def test_a_training_row_without_a_label_is_rejected_in_every_task(
    task: str, run_command: RunCommand, configs: Configs, teacher: Path, tmp_path: Path
) -> None:
    rows, columns, hint = PARTLY_LABELLED[task]
    files = {"train_file": str(write_rows(tmp_path / "rows.jsonl", rows)), "validation_file": None}
    data = {f"data__{name}": value for name, value in {**files, **columns}.items()}
    config = configs("finetune", "out", task=task, model=str(teacher), **data)
    code, err = run_command("finetune", config)
    assert code == 3 and "a row without a label" in err and "rows.jsonl, row 3" in err and hint in err


def test_a_missed_requirement_exits_with_5(run_command: RunCommand, configs: Configs, teacher: Path) -> None:
    settings = {"models": {"t": str(teacher)}, "latency": None, "require": {"t": {"accuracy": 1.0}}}
    code, err = run_command("eval", configs("eval", "out", **settings))
    assert code == 5 and "t.accuracy is 0.9" in err and "required is 1" in err
    assert run_command("eval", configs("eval", "out", **settings))[0] == 5


def test_an_edited_manifest_is_rejected(
    run_command: RunCommand, configs: Configs, teacher: Path, teacher_labels: Path
) -> None:
    for folder in (teacher, teacher_labels):
        file = folder / "manifest.json"
        file.write_text(file.read_text().replace('"seed": 42', '"seed": 43'))
    code, err = run_command("gen-soft-labels", configs("gen-soft-labels", "out", teacher=teacher))
    assert code == 3 and "manifest.json' was changed after the run that wrote it" in err and "--force" in err
    code, err = run_command("finetune", configs("finetune", "out", model=teacher, label_dataset=teacher_labels))
    assert code == 3 and "was changed after the run that wrote it" in err


def test_a_duplicate_label_name_is_rejected(finetune: RunCommand) -> None:
    code, err = finetune("data.label_names=[bad, good, bad]")
    assert code == 2 and "`data.label_names` contains bad more than once" in err


def test_zero_training_steps_are_rejected(finetune: RunCommand) -> None:
    code, err = finetune("training.max_steps=0")
    assert code == 2 and "must not be 0" in err


def test_an_output_dir_with_foreign_files_is_rejected(finetune: RunCommand, base_model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    code, err = finetune()
    assert code == 4 and "is not a folder" in err and (tmp_path / "out").read_text() == "mine"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    code, err = finetune(f"output_dir={tmp_path / 'full'}")
    assert code == 4 and "files that tinybert did not write" in err
    assert [path.read_text() for path in (tmp_path / "full").iterdir()] == ["mine"]


def test_a_dry_run_reports_config_errors(
    run_command: RunCommand, configs: Configs, base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNS", raising=False)
    config = configs("finetune", "out", model=base_model)
    code, err = run_command("finetune", config, "training.keep=worst", "output_dir=${RUNS}/x", dry_run=True)
    assert code == 2 and "found 'worst'" in err and "RUNS is not set" in err
