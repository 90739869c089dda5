"""report joins what finished runs say of the same model, shows the best first, and picks the best that fits a budget."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import Configs
from conftest import run as run_stage
from typer.testing import CliRunner

from tinybert_cli import console
from tinybert_cli.artifacts.atomic_files import digest
from tinybert_cli.cli import app
from tinybert_cli.errors import ConfigError, GateError, InputError
from tinybert_cli.reports import budget
from tinybert_cli.reports import runs as report

ROOT = Path(__file__).parents[1]
VALIDATION = {"data.validation_file": [{"path": "data/validation.jsonl", "sha256": "a1"}]}
TEST = {"data.test_file": [{"path": "data/test.jsonl", "sha256": "b2"}]}
MB = 1_000_000


def finished(
    folder: Path,
    command: str,
    metrics: Mapping[str, float],
    *,
    settings: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, int] | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    **facts: Any,
) -> Path:
    """A finished folder as a stage leaves it, but for the files that nobody here reads."""
    data = {"validation_split_name": "validation", "test_split_name": "test", "max_eval_samples": None}
    manifest = {
        "command": command,
        "settings": {"task": "text-classification", "data": data, **(settings or {})},
        "inputs": {**VALIDATION, **(inputs or {})},
        "outputs": [{"path": name, "bytes": size} for name, size in (outputs or {}).items()],
        "start": "2026-01-01T10:00:00+00:00",
        "end": "2026-01-01T10:02:00+00:00",
        **facts,
    }
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "checksum": digest(manifest)}))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def model(folder: Path, accuracy: float, megabytes: float, **facts: Any) -> Path:
    metrics = {"eval_accuracy": accuracy, "train_runtime": 90.0}
    outputs = {"model.safetensors": int(megabytes * MB), "tokenizer.json": 5 * MB}
    return finished(folder, facts.pop("command", "distill"), metrics, outputs=outputs, parameters=10 * MB, **facts)


def described(folder: Path) -> dict[str, str]:
    return {"path": str(folder), "manifest": json.loads((folder / "manifest.json").read_text())["checksum"]}


def scored(
    folder: Path, models: Mapping[str, tuple[Path, Mapping[str, float]]], split: str = "validation", **facts: Any
) -> Path:
    """An eval folder; its first model is the reference."""
    return finished(
        folder,
        "eval",
        {f"{name}.{key}": value for name, (_, numbers) in models.items() for key, value in numbers.items()},
        settings={
            "split": split,
            "reference": None,
            "models": {name: str(where) for name, (where, _) in models.items()},
        },
        inputs={
            **(TEST if split == "test" else VALIDATION),
            **{f"models.{name}": described(where) for name, (where, _) in models.items()},
        },
        **facts,
    )


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    """A teacher and two students, each smaller, faster and worse than the one before, and the eval of all three."""
    runs = tmp_path / "runs"
    teacher = model(runs / "teacher", 0.90, 90, command="finetune")
    student = model(runs / "student", 0.88, 50)
    tiny = model(runs / "tiny", 0.80, 12)
    scored(
        runs / "eval",
        {
            "teacher": (teacher, numbers(0.90, 90, 20.0)),
            "student": (student, numbers(0.88, 50, 10.0, retention=0.978)),
            "tiny": (tiny, numbers(0.80, 12, 2.5, retention=0.889)),
        },
        machine="one machine, 2 cores",
    )
    return runs


def numbers(accuracy: float, megabytes: float, latency: float, **more: float) -> dict[str, float]:
    near = {"accuracy_low": accuracy - 0.015, "accuracy_high": accuracy + 0.015}
    return {"accuracy": accuracy, "bytes": megabytes * MB, "latency_ms_b1": latency, **near, **more}


def names(found: report.Report) -> list[str]:
    return [Path(model.name).name for model in found.models]


# -- the table -----------------------------------------------------------------------------------------------


def test_what_training_and_eval_say_of_a_model_is_one_row(cascade: Path) -> None:
    found = report.run([cascade])
    assert names(found) == ["teacher", "student", "tiny"]
    student = found.models[1]
    assert (student.made_by, student.seconds, student.parameters) == ("distill", 90.0, 10 * MB)  # its own run
    assert (student.latency_ms_b1, student.retention, student.quality_low) == (
        10.0,
        0.978,
        pytest.approx(0.865),
    )  # eval
    assert found.models[0].retention == 1.0


def test_the_real_stages_leave_folders_that_can_be_compared(
    teacher: Path, teacher_labels: Path, configs: Configs
) -> None:
    config = configs("eval", "eval", models={"teacher": str(teacher)}, latency=None, bootstrap=50)
    run_stage("eval", config)
    found = report.run([teacher_labels, teacher, Path(config.output_dir)])
    header, rows = report.table(found)
    (row,) = [dict(zip(header, row, strict=True)) for row in rows if "finetune" in row]
    accuracy = json.loads((teacher / "metrics.json").read_text())["eval_accuracy"]
    assert row["accuracy (95 %)"].startswith(f"{accuracy:.4f} (")
    assert [row[1] for row in rows] == ["finetune", "gen-soft-labels"]


def test_the_best_comes_first_and_what_has_no_score_last(cascade: Path) -> None:
    model(cascade / "better", 0.95, 40)
    finished(cascade / "blind", "distill", {"train_loss": 1.0}, outputs={"model.safetensors": MB})
    finished(cascade / "labels", "gen-soft-labels", {"rows": 7}, outputs={"train.parquet": MB})
    _, rows = report.table(report.run([cascade]))
    assert [row[0] for row in rows] == ["better", "teacher", "student", "tiny", "blind", "labels"]


def test_the_last_eval_of_a_model_counts(cascade: Path) -> None:
    student = cascade / "student"
    scored(cascade / "earlier", {"student": (student, numbers(0.10, 50, 1.0))}, end="2025-01-01T10:00:00+00:00")
    scored(cascade / "later", {"student": (student, numbers(0.89, 50, 9.0))}, end="2027-01-01T10:00:00+00:00")
    assert [m.quality for m in report.run([cascade]).models if m.name == str(student)] == [0.89]


def test_a_model_that_was_made_anew_after_it_was_scored_is_told_apart(cascade: Path) -> None:
    shutil.rmtree(cascade / "student")
    model(cascade / "student", 0.70, 50, seed=7)
    found = {model.name: model.quality for model in report.run([cascade]).models}
    assert found[str(cascade / "student")] == 0.70 and found[f"{cascade / 'student'} (an earlier one)"] == 0.88


def test_an_export_stands_where_its_model_would_with_the_difference_that_was_found(cascade: Path) -> None:
    finished(
        cascade / "int8", "export", {"metric_difference": -0.004, "latency_ms_b1": 3.0, "agreement": 0.99},
        settings={"verify": {"split": "validation"}}, inputs={"model": described(cascade / "student")},
        outputs={"model.onnx": 13 * MB},
    )  # fmt: skip
    found = report.run([cascade])
    int8 = next(model for model in found.models if model.made_by == "export")
    assert int8.quality == pytest.approx(0.876) and int8.estimated and int8.latency_ms_b1 == 3.0
    assert int8.agreement is None  # with its model, not with the teacher
    header, rows = report.table(found)
    assert [row[header.index("accuracy (95 %)")] for row in rows if row[0] == "int8"] == ["~0.8760"]
    assert any("not scored itself" in note for note in found.notes())


def test_an_export_that_was_scored_has_its_own_score(cascade: Path) -> None:
    int8 = finished(
        cascade / "int8", "export", {"metric_difference": -0.004}, inputs={"model": described(cascade / "student")},
        outputs={"model.onnx": 13 * MB},
    )  # fmt: skip
    scored(
        cascade / "eval2",
        {"teacher": (cascade / "teacher", numbers(0.9, 90, 20.0)), "int8": (int8, numbers(0.87, 13, 3.0))},
    )
    (found,) = [model for model in report.run([cascade]).models if model.name == str(int8)]
    assert found.quality == 0.87 and not found.estimated


def test_scores_on_different_rows_are_told_apart(cascade: Path) -> None:
    scored(cascade / "on-test", {"student": (cascade / "student", numbers(0.70, 50, 10.0))}, split="test")
    found = report.run([cascade])
    header, rows = report.table(found)
    assert [(row[0], row[header.index("scored on")]) for row in rows] == [
        ("student", "test, test.jsonl"),
        ("teacher", "validation, validation.jsonl"),
        ("student", "validation, validation.jsonl"),
        ("tiny", "validation, validation.jsonl"),
    ]
    with pytest.raises(InputError, match="different rows"):
        budget.choose(found.models, budget.limits(["size_mb=60"], found.models))


def test_other_rows_under_the_same_name_are_other_rows(cascade: Path) -> None:
    model(
        cascade / "other", 0.99, 1, inputs={"data.validation_file": [{"path": "else/validation.jsonl", "sha256": "c3"}]}
    )
    found = report.run([cascade])
    assert len({model.scored_on for model in found.models}) == 2
    with pytest.raises(InputError, match="different rows"):
        budget.choose(found.models, budget.limits(["size_mb=60"], found.models))


def test_latencies_of_different_machines_are_said_not_to_compare(cascade: Path) -> None:
    other = model(cascade / "other", 0.8, 3)
    assert not list(report.run([cascade]).notes())
    scored(cascade / "elsewhere", {"other": (other, numbers(0.8, 3, 1.0))}, machine="another, 64 cores")
    assert any("another, 64 cores; one machine, 2 cores" in note for note in report.run([cascade]).notes())


def test_a_folder_of_runs_stands_for_all_of_them_and_none_counts_twice(
    cascade: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cascade.parent)
    (cascade / "unfinished").mkdir()
    everything = names(report.run([]))
    assert everything == names(report.run([cascade])) == names(report.run([cascade, cascade / "tiny"]))
    assert everything == ["teacher", "student", "tiny"]


def test_a_folder_without_a_finished_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no manifest\.json"):
        report.run([tmp_path])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no finished run"):
        report.run([])


def test_a_report_needs_no_torch(cascade: Path) -> None:
    code = f"""
import sys
from typer.testing import CliRunner
from tinybert_cli.cli import app
done = CliRunner().invoke(app, ["report", {str(cascade)!r}, "--budget", "latency_ms=11"])
assert done.exit_code == 0, done.output
print([name for name in ("torch", "transformers", "datasets", "matplotlib") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_markdown_keeps_its_columns_whatever_a_folder_is_called(cascade: Path) -> None:
    model(cascade / "a|b", 0.5, 1)
    lines = report.as_markdown(*report.table(report.run([cascade]))).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1 and "a\\|b" in lines[-1]


def test_on_a_narrow_terminal_whole_columns_go_and_are_named() -> None:
    header, rows = (
        ["model", "made by", "accuracy", "size", "time"],
        [["[red]student", "distill", "0.88", "50.0 MB", "1.0 min"]],
    )
    narrow = console.table(header, rows, width=46).splitlines()
    assert "[red]student" in narrow[1] and "50.0 MB" in narrow[1] and "time" not in narrow[0]
    assert narrow[2].startswith("\x1b[2m(time") or narrow[2].startswith("(time")
    wide = console.table(header, rows, width=None)
    assert "1.0 min" in wide and "\x1b" not in wide


# -- the budget ----------------------------------------------------------------------------------------------


def choose(runs: Path, *words: str) -> budget.Choice:
    found = report.run([runs])
    return budget.choose(found.models, budget.limits(words, found.models))


def name(model: report.Model | None) -> str | None:
    return Path(model.name).name if model else None


@pytest.mark.parametrize(
    ("words", "best", "smaller", "larger"),
    [
        (["latency_ms=12"], "student", "tiny", "teacher"),
        (["latency_ms=12", "size_mb=20"], "tiny", None, "student"),
        (["size_mb=1000"], "teacher", "student", None),
        (["retention=0.97"], "student", "tiny", "teacher"),  # nothing is capped: the cheapest that is worth it
        (["accuracy=0.75"], "tiny", None, "student"),
        (["latency_ms=12,size_mb=20"], "tiny", None, "student"),
        (["retention=0.5", "latency_ms=30"], "teacher", "student", None),
    ],
)  # fmt: skip
def test_the_best_that_fits_is_chosen_and_its_neighbours_named(
    cascade: Path, words: list[str], best: str, smaller: str | None, larger: str | None
) -> None:
    choice = choose(cascade, *words)
    assert (name(choice.best), name(choice.smaller), name(choice.larger)) == (best, smaller, larger)


def test_the_neighbours_are_told_with_what_they_cost(cascade: Path) -> None:
    lines = "\n".join(budget.as_lines(choose(cascade, "latency_ms=12")))
    assert "  accuracy -0.0800, -7.50 ms, -38.0 MB\n" in lines
    assert lines.endswith("accuracy +0.0200, +10.00 ms, +40.0 MB, their 95 % intervals overlap")


def test_if_nothing_fits_the_nearest_is_named(cascade: Path) -> None:
    with pytest.raises(GateError, match=r"nearest is .*tiny: accuracy 0\.8000 .*2\.50 ms") as caught:
        choose(cascade, "latency_ms=2")
    assert caught.value.exit_code == 5
    with pytest.raises(GateError, match=r"nearest is .*student"):
        choose(cascade, "retention=0.97", "latency_ms=9.9")


def test_a_model_that_was_not_measured_never_fits(cascade: Path) -> None:
    model(cascade / "untimed", 0.99, 1)
    assert name(choose(cascade, "latency_ms=12").best) == "student"
    assert name(choose(cascade, "size_mb=20").best) == "untimed"


def test_a_budget_for_what_nobody_measured_says_so(tmp_path: Path) -> None:
    model(tmp_path / "only", 0.9, 50)
    with pytest.raises(InputError, match="no model here has a latency"):
        choose(tmp_path, "latency_ms=3")


@pytest.mark.parametrize("word", ["latncy_ms=3", "latency_ms", "latency_ms=fast", "size_mb=-1", "size_mb=nan"])
def test_a_budget_that_cannot_be_is_a_config_error(cascade: Path, word: str) -> None:
    with pytest.raises(ConfigError, match="--budget"):
        choose(cascade, word)


def test_the_command_shows_the_table_even_if_nothing_fits(cascade: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(cascade), "--budget", "latency_ms=1"])
    assert done.exit_code == 5
    assert "student" in done.stdout and "none of 3 scored models fits latency_ms <= 1" in done.stderr


def test_json_is_one_object_with_runs_models_and_the_choice(cascade: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(cascade), "--json", "--budget", "latency_ms=12"])
    found = json.loads(done.stdout)
    assert {run["command"] for run in found["runs"]} == {"finetune", "distill", "eval"}
    assert found["budget"]["best"]["name"] == str(cascade / "student")
    assert next(run for run in found["runs"] if run["command"] == "eval")["tiny.accuracy"] == 0.8
    missed = CliRunner().invoke(app, ["report", str(cascade), "--json", "--budget", "latency_ms=1"])
    assert missed.exit_code == 5 and json.loads(missed.stdout)["budget"] is None


def test_in_a_pipe_the_table_is_plain_and_whole(cascade: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tinybert_cli", "report", str(cascade)],
        capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "COLUMNS": "40", "TERM": "xterm"},
    )  # fmt: skip
    assert "\x1b" not in done.stdout and "12.0 MB" in done.stdout and done.stderr == ""


# -- the page ------------------------------------------------------------------------------------------------


def test_the_page_holds_the_table_the_plots_and_the_choice(cascade: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [
        *({"event": "train", "step": step, "loss": 1.0 / step} for step in (1, 2, 3)),
        *({"event": "evaluate", "step": step, "accuracy": 0.5, "is_best": True} for step in (2, 3)),
    ]
    model(cascade / "watched", 0.85, 30, rows=rows)
    file = tmp_path / "out" / "report.html"
    done = CliRunner().invoke(app, ["report", str(cascade), "--html", str(file), "--budget", "latency_ms=12"])
    assert done.exit_code == 0 and done.stderr == f"written: {file}\n" and "student" in done.stdout
    text = file.read_text()
    titles = re.findall(r"<title[^>]*>([^<]*)</title>", text)[1:]
    assert titles == [
        "accuracy against milliseconds for one text", "accuracy against MB of weights", "loss by step", "accuracy by step",
    ]  # fmt: skip
    assert re.search(r'<tr class="marked"><th scope="row">student</th>', text)
    assert text.count('class="marked"') == 1 and "next smaller" in text and "one machine, 2 cores" in text


def test_a_page_cannot_be_written_over_a_folder(cascade: Path) -> None:
    pytest.importorskip("matplotlib")
    done = CliRunner().invoke(app, ["report", str(cascade), "--html", str(cascade)])
    assert done.exit_code == 4 and "cannot write" in done.stderr and "written: " not in done.stderr


def test_without_matplotlib_the_extra_is_named(cascade: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = CliRunner().invoke(app, ["report", str(cascade), "--html", str(tmp_path / "report.html")])
    assert done.exit_code == 3 and "tinybert[report]" in done.stderr and not (tmp_path / "report.html").exists()
