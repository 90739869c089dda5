"""Training rows that are stored beside the checkpoints: a resumed run does not read them again, and ends in the same
bytes."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Configs, run, sentences, write_rows

from tinybert_cli import data, scratch_files
from tinybert_cli.config import Stage
from tinybert_cli.errors import Interrupted
from tinybert_cli.stages import baseline_scores, preparation, stored_examples, validation_scores

SHORT = {"training__max_steps": 6, "training__eval_strategy": "steps", "training__eval_steps": 2}
ROWS = Path("checkpoints") / "rows"


@pytest.fixture(autouse=True)
def every_run_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_examples, "SMALL", 0)
    monkeypatch.setattr(scratch_files, "IN_MEMORY", 0)


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def stop_at_an_evaluation(command: str, config: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    original = validation_scores.ValidationScores.scores

    def scores(*arguments: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(validation_scores.ValidationScores, "scores", scores)
        run(command, config)


def resume_without_training_rows(command: str, config: Stage, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Runs a stage again, which fails if it reads training rows or a label dataset, or fits a baseline."""
    read = data.read

    def only_validation(settings: Any, split: str, **more: Any) -> Any:
        assert split == "validation"
        return read(settings, split, **more)  # type: ignore[arg-type]

    def never(*_: object) -> None:
        raise AssertionError("the rows are read again")

    with monkeypatch.context() as patch:
        patch.setattr(data, "read", only_validation)
        patch.setattr(data, "read_soft_labels", never)
        patch.setattr(baseline_scores, "fitted", never)
        rows = run(command, config)
    assert [row["step"] for row in rows if row["event"] == "resume"] == [2]
    return rows


def check(command: str, config_of: Callable[[str], Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is interrupted and resumed ends as one that is not."""
    whole = run(command, config_of("whole-run"))
    stop_at_an_evaluation(command, config_of("stopped-run"), monkeypatch)
    assert (tmp_path / "stopped-run" / ROWS / "facts.json").exists()
    resumed = resume_without_training_rows(command, config_of("stopped-run"), monkeypatch)
    assert sha256(tmp_path / "stopped-run") == sha256(tmp_path / "whole-run")
    assert not (tmp_path / "stopped-run" / "checkpoints").exists()
    assert _plan(resumed) == _plan(whole)
    card = [(tmp_path / name / "README.md").read_text().replace(name, "") for name in ("stopped-run", "whole-run")]
    assert card[0] == card[1]


def _plan(rows: list[dict[str, Any]]) -> dict[str, Any]:
    (plan,) = (row for row in rows if row["event"] == "plan")
    return {key: value for key, value in plan.items() if key != "time"}


def test_finetune_with_a_trimmed_vocabulary_and_class_weights(
    base_model: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"from": str(base_model), "trim_vocabulary": True}
    check("finetune", lambda name: configs("finetune", name, model=model, class_weights="balanced", **SHORT),
          tmp_path, monkeypatch)  # fmt: skip


def test_student2_on_labels(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"from": str(teacher), "num_hidden_layers": 1}
    check("finetune", lambda name: configs("finetune", name, model=model, label_dataset=teacher_labels, **SHORT),
          tmp_path, monkeypatch)  # fmt: skip


def test_distill_with_a_teacher_beside_the_student(
    teacher: Path, teacher_labels: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "student": {"from": str(teacher), "num_hidden_layers": 1},
        "label_dataset": teacher_labels, "teacher": teacher, "losses": {"soft_labels": 1.0, "hidden_states": 1.0},
    }  # fmt: skip
    check("distill", lambda name: configs("distill", name, **settings, **SHORT), tmp_path, monkeypatch)


def test_regression_in_standard_units_from_a_trained_head(
    base_model: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "validation"):
        rows = [{"text": row["text"], "price": 300 if row["label"] == "good" else 200} for row in sentences(split)]
        write_rows(tmp_path / "data" / f"{split}.jsonl", rows)
    settings: dict[str, Any] = {"task": "regression", "data__label_column_name": "price", **SHORT}
    run("finetune", configs("finetune", "priced", model=base_model, **settings))
    check("finetune", lambda name: configs("finetune", name, model=tmp_path / "priced", **settings),
          tmp_path, monkeypatch)  # fmt: skip


def test_tags_of_several_windows(
    base_model: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "validation"):
        tags = {"good": "O", "bad": "B-X"}
        rows = [{"tokens": words, "tags": [tags[row["label"]]] * len(words)} for row in sentences(split)
                if (words := row["text"].split() * 5)]  # fmt: skip
        write_rows(tmp_path / "data" / f"{split}.jsonl", rows)
    settings: dict[str, Any] = {"task": "token-classification", "data__label_column_name": "tags",
                                "data__text_column_names": "tokens", **SHORT}  # fmt: skip
    check("finetune", lambda name: configs("finetune", name, model=base_model, **settings), tmp_path, monkeypatch)


# -- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_damaged_rows_are_named_and_read_again(
    damage: str,
    base_model: Path,
    configs: Configs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run("finetune", configs("finetune", "whole", model=base_model, **SHORT))
    config = configs("finetune", "out", model=base_model, **SHORT)
    stop_at_an_evaluation("finetune", config, monkeypatch)
    file = tmp_path / "out" / ROWS / "tokens-input_ids.npy"
    content = file.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:middle] + (b"" if damage == "truncated" else b"\xff" + content[middle + 1 :]))
    rows = run("finetune", config)
    assert [row["step"] for row in rows if row["event"] == "resume"] == [2]
    assert f"{tmp_path / 'out' / ROWS} is damaged: the training rows are read again" in caplog.text
    assert sha256(tmp_path / "out") == sha256(tmp_path / "whole")


def test_a_full_disk_is_a_warning(
    base_model: Path,
    configs: Configs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    config = configs("finetune", "out", model=base_model, **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(scratch_files, "save", full)
        stop_at_an_evaluation("finetune", config, monkeypatch)
    assert "too full to store the encoded rows" in caplog.text and not (tmp_path / "out" / ROWS).exists()
    assert any(row["event"] == "resume" for row in run("finetune", config))


def test_rows_of_other_versions_are_read_again(
    base_model: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configs("finetune", "out", model=base_model, **SHORT)
    stop_at_an_evaluation("finetune", config, monkeypatch)
    read: list[str] = []
    original = data.read
    monkeypatch.setattr(data, "read", lambda settings, split: (read.append(split), original(settings, split))[1])
    monkeypatch.setattr(stored_examples, "_versions", lambda: {"tokenizers": "0"})
    run("finetune", config)
    assert "train" in read


def test_a_small_run_stores_no_rows(
    base_model: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_examples, "SMALL", 1 << 20)
    config = configs("finetune", "out", model=base_model, **SHORT)
    stop_at_an_evaluation("finetune", config, monkeypatch)
    assert not (tmp_path / "out" / ROWS).exists()
    assert any(row["event"] == "resume" for row in run("finetune", config))


@pytest.mark.parametrize(
    "values", [np.zeros((0, 3), np.float32), np.arange(7, dtype=np.int32), np.ones((5, 2))[:, :1], np.ones((3, 5))]
)
def test_arrays_in_files_are_those_of_numpy(values: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_files, "PART", 2)
    scratch_files.save(tmp_path / "a.npy", values)
    for loaded in (scratch_files.load(tmp_path / "a.npy"), np.load(tmp_path / "a.npy")):
        assert loaded.dtype == values.dtype and loaded.shape == values.shape and np.array_equal(loaded, values)


def test_numbers_are_looked_up_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_files, "PART", 2)
    table = np.array([5, -1, 7, 8], dtype=np.int32)
    assert scratch_files.looked_up(table, np.array([3, 0, 0, 2, 3])).tolist() == [8, 5, 5, 7, 8]


def test_wrong_new_numbers_of_tokens_are_noticed(
    base_model: Path, configs: Configs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"from": str(base_model), "trim_vocabulary": True}
    run("finetune", configs("finetune", "whole", model=model, **SHORT))
    monkeypatch.setattr(preparation, "_with_new_ids", lambda encoded, new_ids: encoded)
    run("finetune", configs("finetune", "out", model=model, **SHORT))
    assert sha256(tmp_path / "out") == sha256(tmp_path / "whole")
