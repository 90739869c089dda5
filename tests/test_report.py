"""report: joins finished runs into one row per model, sorts them by score, and selects a model within a budget."""

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
from tinybert_cli.artifacts.hashes import digest
from tinybert_cli.cli import app
from tinybert_cli.config import COMMANDS
from tinybert_cli.errors import ConfigError, GateError, InputError
from tinybert_cli.reports import budget, finished_evals, finished_exports, html, runs_html
from tinybert_cli.reports import runs as reports
from tinybert_cli.reports.baseline_table import Comparison
from tinybert_cli.reports.baseline_table import as_markdown as baseline_table
from tinybert_cli.reports.runs_table import TEXTS, as_markdown, table
from tinybert_cli.stages.eval_predictions import device_notes

ROOT = Path(__file__).parents[1]
VALIDATION_INPUT = {"data.validation_file": [{"path": "data/validation.jsonl", "sha256": "a1"}]}
TEST_INPUT = {"data.test_file": [{"path": "data/test.jsonl", "sha256": "b2"}]}
MB = 1_000_000


def write_run(
    folder: Path,
    command: str,
    metrics: Mapping[str, float],
    *,
    settings: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, int] | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
    **manifest_fields: Any,
) -> Path:
    """A finished run with the files that `report` reads."""
    data = {"validation_split_name": "validation", "test_split_name": "test", "max_eval_samples": None}
    manifest = {
        "command": command,
        "settings": {"task": "text-classification", "data": data, **(settings or {})},
        "inputs": {**VALIDATION_INPUT, **(inputs or {})},
        "outputs": [{"path": name, "bytes": size} for name, size in (outputs or {}).items()],
        "start": "2026-01-01T10:00:00+00:00",
        "end": "2026-01-01T10:02:00+00:00",
        **manifest_fields,
    }
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "checksum": digest(manifest)}))
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def write_model(folder: Path, accuracy: float, megabytes: float, **manifest_fields: Any) -> Path:
    command = manifest_fields.pop("command", "distill")
    metrics = {"eval_accuracy": accuracy, "train_runtime": 90.0}
    outputs = {"model.safetensors": int(megabytes * MB), "tokenizer.json": 5 * MB}
    return write_run(folder, command, metrics, outputs=outputs, parameters=10 * MB, **manifest_fields)


def describe(folder: Path) -> dict[str, str]:
    return {"path": str(folder), "manifest": json.loads((folder / "manifest.json").read_text())["checksum"]}


def write_eval(
    folder: Path,
    models: Mapping[str, tuple[Path, Mapping[str, float]]],
    split: str = "validation",
    **manifest_fields: Any,
) -> Path:
    """An eval run; its first model is the reference."""
    return write_run(
        folder,
        "eval",
        {f"{name}.{key}": value for name, (_, metrics) in models.items() for key, value in metrics.items()},
        settings={
            "split": split,
            "reference": None,
            "models": {name: str(path) for name, (path, _) in models.items()},
        },
        inputs={
            **(TEST_INPUT if split == "test" else VALIDATION_INPUT),
            **{f"models.{name}": describe(path) for name, (path, _) in models.items()},
        },
        **manifest_fields,
    )


@pytest.fixture
def cascade(tmp_path: Path) -> Path:
    """Runs of a teacher, a student and a tiny student, each smaller, faster and worse, and an eval of all three."""
    runs = tmp_path / "runs"
    teacher = write_model(runs / "teacher", 0.90, 90, command="finetune")
    student = write_model(runs / "student", 0.88, 50)
    tiny = write_model(runs / "tiny", 0.80, 12)
    write_eval(
        runs / "eval",
        {
            "teacher": (teacher, eval_metrics(0.90, 90, 20.0)),
            "student": (student, eval_metrics(0.88, 50, 10.0, retention=0.978)),
            "tiny": (tiny, eval_metrics(0.80, 12, 2.5, retention=0.889)),
        },
        machine="one machine, 2 cores",
    )
    return runs


def eval_metrics(accuracy: float, megabytes: float, latency: float, **more: float) -> dict[str, float]:
    interval = {"accuracy_low": accuracy - 0.015, "accuracy_high": accuracy + 0.015}
    return {"accuracy": accuracy, "bytes": megabytes * MB, "latency_ms_b1": latency, **interval, **more}


def names(report: reports.Report) -> list[str]:
    return [Path(model.name).name for model in report.models]


# -- the table -----------------------------------------------------------------------------------------------


def test_training_and_eval_of_a_model_are_joined_in_one_row(cascade: Path) -> None:
    report = reports.run([cascade])
    assert names(report) == ["teacher", "student", "tiny"]
    student = report.models[1]
    assert (student.made_by, student.seconds, student.parameters) == ("distill", 90.0, 10 * MB)  # of the distill run
    assert (student.latency_ms_b1, student.retention) == (10.0, 0.978)  # of the eval run
    assert student.quality_low == pytest.approx(0.865)
    assert report.models[0].retention == 1.0


def test_a_reference_whose_score_is_zero_has_no_retention(tmp_path: Path) -> None:
    teacher, student = write_model(tmp_path / "teacher", 0.0, 90), write_model(tmp_path / "student", 0.5, 50)
    scores = {"teacher": (teacher, eval_metrics(0.0, 90, 20.0)), "student": (student, eval_metrics(0.5, 50, 10.0))}
    write_eval(tmp_path / "eval", scores)
    assert [model.retention for model in reports.run([tmp_path]).models] == [None, None]


def test_report_of_runs_written_by_real_stages(teacher: Path, teacher_labels: Path, configs: Configs) -> None:
    config = configs("eval", "eval", models={"teacher": str(teacher)}, latency=None, bootstrap=50)
    run_stage("eval", config)
    header, rows = table(reports.run([teacher_labels, teacher, Path(config.output_dir)]))
    (row,) = [dict(zip(header, row, strict=True)) for row in rows if "finetune" in row]
    accuracy = json.loads((teacher / "metrics.json").read_text())["eval_accuracy"]
    assert row["accuracy (95 %)"].startswith(f"{accuracy:.4f} (")
    made_by = [row[header.index("made by")] for row in rows]
    assert made_by[-1] == "gen-soft-labels" and sorted(made_by[:-1]) == ["baseline", "baseline", "finetune"]


def test_rows_are_sorted_by_score_and_rows_without_score_are_last(cascade: Path) -> None:
    write_model(cascade / "better", 0.95, 40)
    write_run(cascade / "unscored", "distill", {"train_loss": 1.0}, outputs={"model.safetensors": MB})
    write_run(cascade / "labels", "gen-soft-labels", {"rows": 7}, outputs={"train.parquet": MB})
    _, rows = table(reports.run([cascade]))
    assert [row[0] for row in rows] == ["better", "teacher", "student", "tiny", "unscored", "labels"]


def test_the_last_eval_of_a_model_is_used(cascade: Path) -> None:
    student = cascade / "student"
    write_eval(
        cascade / "earlier", {"student": (student, eval_metrics(0.10, 50, 1.0))}, end="2025-01-01T10:00:00+00:00"
    )
    write_eval(cascade / "later", {"student": (student, eval_metrics(0.89, 50, 9.0))}, end="2027-01-01T10:00:00+00:00")
    assert [m.quality for m in reports.run([cascade]).models if m.name == str(student)] == [0.89]


def test_a_retrained_model_does_not_get_the_score_of_the_old_one(cascade: Path) -> None:
    shutil.rmtree(cascade / "student")
    write_model(cascade / "student", 0.70, 50, seed=7)
    scores = {model.name: model.quality for model in reports.run([cascade]).models}
    assert scores[str(cascade / "student")] == 0.70
    assert scores[f"{cascade / 'student'} (earlier version)"] == 0.88


def test_an_export_without_eval_gets_an_estimated_score(cascade: Path) -> None:
    write_run(
        cascade / "int8", "export", {"metric_difference": -0.004, "latency_ms_b1": 3.0, "agreement": 0.99},
        settings={"verify": {"split": "validation"}}, inputs={"model": describe(cascade / "student")},
        outputs={"model.onnx": 13 * MB},
    )  # fmt: skip
    report = reports.run([cascade])
    int8 = next(model for model in report.models if model.made_by == "export")
    assert int8.quality == pytest.approx(0.876) and int8.estimated and int8.latency_ms_b1 == 3.0
    assert int8.agreement is None  # the agreement of `export` is with its source model, not with the teacher
    header, rows = table(report)
    assert [row[header.index("accuracy (95 %)")] for row in rows if row[0] == "int8"] == ["~0.8760"]
    assert any(note.startswith("~ estimated") for note in report.notes())


def test_the_score_of_a_translation_export_is_estimated_from_a_search_with_as_many_beams(tmp_path: Path) -> None:
    """A greedy export is as good as its model is greedily, not as its model is with the beams of the eval."""
    training = {"task": "translation"}
    model = write_run(tmp_path / "model", "finetune", {"eval_bleu": 30.0}, settings=training)
    measured = {"ctranslate2": {"metric_difference_beam1": -0.2, "metric_difference_beam4": -0.1},
                "onnx": {"metric_difference_beam1": 0.0}}  # fmt: skip
    for name, numbers in measured.items():
        metrics = {**numbers, "metric_difference": min(numbers.values())}
        settings = {**training, "format": name}
        write_run(tmp_path / name, "export", metrics, settings=settings, inputs={"model": describe(model)})

    def scores() -> dict[str, float | None]:
        return {Path(one.name).name: one.quality for one in reports.run([tmp_path]).models}

    assert scores() == pytest.approx({"model": 30.0, "ctranslate2": 29.8, "onnx": 30.0})  # a training scores greedily
    scored = {"split": "validation", "reference": None, "models": {"model": str(model)}, "search": {"beams": 4}}
    write_run(
        tmp_path / "eval", "eval", {"model.bleu": 32.0}, settings={**training, **scored},
        inputs={"models.model": describe(model)},
    )  # fmt: skip
    assert scores() == {"model": 32.0, "ctranslate2": pytest.approx(31.9), "onnx": None}
    own = {"model": {"bleu": 32.0}}
    found = finished_exports.beside(
        tmp_path / "eval", own, {"model": describe(model)["manifest"]}, metric="bleu", reference="model", beams=4
    )
    assert {name: numbers["bleu"] for name, numbers in found.items()} == {"ctranslate2 (of model)": pytest.approx(31.9)}


def test_translations_of_searches_with_other_beams_are_not_compared(tmp_path: Path) -> None:
    for name, beams, bleu in (("a", 1, 30.0), ("b", 4, 32.0), ("c", 4, 31.0)):
        model = write_run(tmp_path / name, "finetune", {}, settings={"task": "translation"}, seed=ord(name))
        settings = {"task": "translation", "split": "validation", "reference": None, "models": {name: str(model)}}
        write_run(
            tmp_path / f"eval-{name}", "eval", {f"{name}.bleu": bleu}, settings={**settings, "search": {"beams": beams}},
            inputs={f"models.{name}": describe(model)},
        )  # fmt: skip
    report = reports.run([tmp_path])
    groups = {Path(one.name).name: one.scored_on for one in report.models}
    assert groups["b"] == groups["c"] != groups["a"]
    assert str(groups["a"]).endswith(", 1 beam") and str(groups["b"]).endswith(", 4 beams")


def test_the_size_of_an_export_of_several_files_is_that_of_its_weights(tmp_path: Path) -> None:
    outputs = {"encoder.onnx": 2 * MB, "decoder.onnx": 3 * MB, "tokenizer.json": 4 * MB, "README.md": 1}
    write_run(tmp_path / "export", "export", {"bytes": 5.0 * MB}, inputs={"model": {"path": "x"}}, outputs=outputs)
    (model,) = reports.run([tmp_path]).models
    assert model.bytes == 5 * MB


def test_an_export_with_eval_has_its_own_score(cascade: Path) -> None:
    int8 = write_run(
        cascade / "int8", "export", {"metric_difference": -0.004}, inputs={"model": describe(cascade / "student")},
        outputs={"model.onnx": 13 * MB},
    )  # fmt: skip
    write_eval(
        cascade / "eval2",
        {"teacher": (cascade / "teacher", eval_metrics(0.9, 90, 20.0)), "int8": (int8, eval_metrics(0.87, 13, 3.0))},
    )
    (exported,) = [model for model in reports.run([cascade]).models if model.name == str(int8)]
    assert exported.quality == 0.87 and not exported.estimated


@pytest.mark.parametrize(("megabytes", "latency"), [(13, 3.0), (26, None)])
def test_the_latency_of_another_file_of_an_export_is_not_shown_beside_its_score(
    cascade: Path, megabytes: int, latency: float | None
) -> None:
    half = write_run(
        cascade / "half", "export", {"metric_difference": 0.0, "latency_ms_b1": 3.0},
        inputs={"model": describe(cascade / "student")}, outputs={"model.onnx": 13 * MB},
    )  # fmt: skip
    write_eval(cascade / "eval2", {"half": (half, {"accuracy": 0.87, "bytes": megabytes * MB})})
    (exported,) = [model for model in reports.run([cascade]).models if model.name == str(half)]
    assert exported.latency_ms_b1 == latency


def test_a_model_has_one_line_with_the_score_that_most_models_have(cascade: Path) -> None:
    write_eval(
        cascade / "on-test", {"student": (cascade / "student", eval_metrics(0.70, 50, 10.0))}, split="test",
        end="2027-01-01T10:00:00+00:00", scored_rows=250,
    )  # fmt: skip
    report = reports.run([cascade])
    assert [(Path(model.name).name, model.quality) for model in report.models] == [
        ("teacher", 0.90), ("student", 0.88), ("tiny", 0.80),
    ]  # fmt: skip
    assert list(report.notes()) == [f"Scored on validation, validation.jsonl, by {cascade / 'eval'}."]


def test_the_score_of_an_eval_is_preferred_to_that_of_training(tmp_path: Path) -> None:
    student = write_model(tmp_path / "student", 0.99, 50)
    scores = {"student": (student, eval_metrics(0.70, 50, 10.0))}
    write_eval(tmp_path / "eval", scores, split="test", scored_rows=1250)
    report = reports.run([tmp_path])
    assert [model.quality for model in report.models] == [0.70]
    assert list(report.notes()) == [f"Scored on test, test.jsonl (1,250 rows), by {tmp_path / 'eval'}."]


def test_models_scored_on_other_rows_follow_and_a_note_names_them(cascade: Path) -> None:
    for folder in ("teacher", "student", "tiny"):
        scores = {folder: (cascade / folder, eval_metrics(0.7, 50, 10.0))}
        write_eval(cascade / f"{folder}-on-test", scores, split="test", end="2027-01-01T10:00:00+00:00")
    write_model(cascade / "general", 0.99, 60)  # only scored in training
    report = reports.run([cascade])
    header, rows = table(report)
    assert [row[0] for row in rows] == ["student", "teacher", "tiny", "general"]
    assert rows[-1][header.index("scored on")] == "validation, validation.jsonl"
    assert "Scored on validation, validation.jsonl, by training: general." in list(report.notes())


def test_budget_compares_the_models_of_eval_and_names_the_others(cascade: Path) -> None:
    other = {"data.validation_file": [{"path": "else/validation.jsonl", "sha256": "c3"}]}
    write_model(cascade / "general", 0.99, 1, inputs=other)
    choice = choose(cascade, "size_mb=60")
    assert name(choice.best) == "student"
    assert list(budget.as_lines(choice))[-1] == f"not compared, scored on other rows: {cascade / 'general'}"


def test_budget_rejects_evals_on_different_rows_with_a_command_that_works(cascade: Path) -> None:
    other = write_model(cascade / "other", 0.7, 5)
    write_eval(cascade / "on-test", {"other": (other, eval_metrics(0.70, 5, 10.0))}, split="test")
    with pytest.raises(InputError, match="different rows") as caught:
        choose(cascade, "size_mb=60")
    assert f"tinybert report {cascade / 'eval'} --budget" in str(caught.value)
    assert name(choose(cascade / "eval", "size_mb=60").best) == "student"


def test_files_with_equal_names_but_different_hashes_are_separate(cascade: Path) -> None:
    write_model(
        cascade / "other", 0.99, 1, inputs={"data.validation_file": [{"path": "else/validation.jsonl", "sha256": "c3"}]}
    )
    report = reports.run([cascade])
    assert len({model.scored_on for model in report.models}) == 2


@pytest.mark.parametrize(("column", "sets"), [("queue", 1), (["queue"], 1), ("urgent", 2)])
def test_models_scored_on_other_labels_are_separate(column: str | list[str], sets: int, tmp_path: Path) -> None:
    for folder, label in (("queue", "queue"), ("other", column)):
        data = {"validation_split_name": "validation", "max_eval_samples": None, "label_column_name": label}
        write_model(tmp_path / folder, 0.9, 1, settings={"data": data})
    assert len({model.scored_on for model in reports.run([tmp_path]).models}) == sets


def test_latencies_from_different_machines_get_a_note(cascade: Path) -> None:
    other = write_model(cascade / "other", 0.8, 3)
    assert not any("machines" in note for note in reports.run([cascade]).notes())
    write_eval(cascade / "elsewhere", {"other": (other, eval_metrics(0.8, 3, 1.0))}, machine="another, 64 cores")
    assert any("another, 64 cores; one machine, 2 cores" in note for note in reports.run([cascade]).notes())


def test_the_latency_of_an_export_is_of_the_machine_that_measured_it(cascade: Path) -> None:
    """An eval without latencies on a second machine shows that of `export`."""
    exported = write_run(
        cascade / "export", "export", {"metric_difference": 0.0, "latency_ms_b1": 3.0},
        inputs={"model": describe(cascade / "student")}, outputs={"model.onnx": 13 * MB}, machine="one machine, 2 cores",
    )  # fmt: skip
    write_eval(cascade / "eval2", {"export": (exported, {"accuracy": 0.87})}, machine="another, 64 cores")
    report = reports.run([cascade])
    (model,) = [model for model in report.models if model.made_by == "export"]
    assert (model.latency_ms_b1, model.machine) == (3.0, "one machine, 2 cores")
    assert not any("machines" in note for note in report.notes())


def test_latencies_of_a_gpu_and_of_the_cpu_get_a_note(cascade: Path) -> None:
    scores = {name: (cascade / name, eval_metrics(0.8, 12, 1.0)) for name in ("student", "tiny")}
    devices = {"student": "cuda", "tiny": "cpu"}
    folder = write_eval(cascade / "gpu", scores, machine="one machine, 2 cores", devices=devices)
    (note,) = [note for note in reports.run([folder]).notes() if note.startswith("Latencies")]
    assert note.endswith("not comparable: one machine, 2 cores; one machine, 2 cores, cuda.")


@pytest.mark.parametrize(("devices", "latency", "notes"), [(["cpu", "cpu"], {}, 0), (["cuda", "cpu"], {}, 1),
                                                           (["cuda", "cpu"], None, 0)])  # fmt: skip
def test_eval_says_that_models_were_timed_on_different_devices(
    devices: list[str], latency: dict[str, Any] | None, notes: int
) -> None:
    config = COMMANDS["eval"].model_validate(
        {"task": "text-classification", "data": {}, "models": {"a": "a"}, "latency": latency, "output_dir": "x"}
    )
    sentences = device_notes(config, dict(zip(("model", "export"), devices, strict=True)))  # type: ignore[arg-type]
    assert len(sentences) == notes
    assert all("(model on cuda; export on cpu)" in sentence for sentence in sentences)


def test_a_note_says_that_retentions_are_relative_to_different_models(cascade: Path) -> None:
    assert not any("relative to" in note for note in reports.run([cascade]).notes())
    student, tiny = cascade / "student", cascade / "tiny"
    scores = {"student": (student, eval_metrics(0.88, 50, 10.0)),
              "tiny": (tiny, eval_metrics(0.80, 12, 2.5, retention=0.909))}  # fmt: skip
    write_eval(cascade / "later", scores, end="2027-01-01T10:00:00+00:00")
    assert (
        "Retention and agreement are relative to different models: teacher for teacher; student for student, tiny."
        in list(reports.run([cascade]).notes())
    )
    with pytest.raises(InputError, match=r"relative to different models: .*student, .*teacher"):
        choose(cascade, "retention=0.9")
    assert name(choose(cascade, "size_mb=20").best) == "tiny"
    assert name(choose(cascade / "later", "retention=0.9").best) == "tiny"


def test_folders_are_searched_recursively_without_duplicates(cascade: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(cascade.parent)
    (cascade / "unfinished").mkdir()
    all_names = names(reports.run([]))
    assert all_names == names(reports.run([cascade])) == names(reports.run([cascade, cascade / "tiny"]))
    assert all_names == ["teacher", "student", "tiny"]


def test_a_folder_without_a_finished_run_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"no manifest\.json"):
        reports.run([tmp_path])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no finished run"):
        reports.run([])


def test_report_imports_no_torch(cascade: Path) -> None:
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


def test_markdown_escapes_pipes_in_folder_names(cascade: Path) -> None:
    write_model(cascade / "a|b", 0.5, 1)
    lines = as_markdown(*table(reports.run([cascade]))).splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1 and "a\\|b" in lines[-1]


def test_score_size_and_latency_fit_a_terminal_of_80_columns(cascade: Path) -> None:
    write_model(cascade / "student2-plain", 0.85, 69.6)
    header, rows = table(reports.run([cascade]))
    lines = console.table(header, rows, width=80, texts=TEXTS).splitlines()
    for title in ("accuracy (95 %)", "retention", "ms, batch 1", "size"):
        assert title in lines[0]
    assert all(len(re.sub(r"\x1b\[\d*m", "", line)) <= 80 for line in lines)


def test_a_narrow_terminal_omits_columns_and_lists_them() -> None:
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


def choose(runs: Path, *limits: str) -> budget.Choice:
    models = reports.run([runs]).models
    return budget.choose(models, budget.limits(limits, models))


def name(model: reports.Model | None) -> str | None:
    return Path(model.name).name if model else None


@pytest.mark.parametrize(
    ("limits", "best", "smaller", "larger"),
    [
        (["latency_ms=12"], "student", "tiny", "teacher"),
        (["latency_ms=12", "size_mb=20"], "tiny", None, "student"),
        (["size_mb=1000"], "teacher", "student", None),
        (["retention=0.97"], "student", "tiny", "teacher"),  # only a lower bound: the cheapest model that satisfies it
        (["accuracy=0.75"], "tiny", None, "student"),
        (["latency_ms=12,size_mb=20"], "tiny", None, "student"),
        (["retention=0.5", "latency_ms=30"], "teacher", "student", None),
    ],
)  # fmt: skip
def test_budget_selects_the_best_model_and_its_neighbours(
    cascade: Path, limits: list[str], best: str, smaller: str | None, larger: str | None
) -> None:
    choice = choose(cascade, *limits)
    assert (name(choice.best), name(choice.smaller), name(choice.larger)) == (best, smaller, larger)


def test_neighbours_are_listed_with_their_differences(cascade: Path) -> None:
    lines = "\n".join(budget.as_lines(choose(cascade, "latency_ms=12")))
    assert "  accuracy -0.0800, -7.50 ms, -38.0 MB\n" in lines
    assert "  accuracy +0.0200, +10.00 ms, +40.0 MB, their 95 % intervals overlap\n" in lines


def test_the_score_of_a_choice_among_several_models_is_said_to_be_optimistic(cascade: Path) -> None:
    (line,) = budget.notes(choose(cascade, "latency_ms=12"))
    assert line.startswith(f"{cascade / 'student'} is the choice among 2 models by their scores on these rows")
    assert not list(budget.notes(choose(cascade, "latency_ms=3")))


def test_the_error_names_the_closest_model_if_none_fits(cascade: Path) -> None:
    with pytest.raises(GateError, match=r"closest is .*tiny: accuracy 0\.8000 .*2\.50 ms") as caught:
        choose(cascade, "latency_ms=2")
    assert caught.value.exit_code == 5
    with pytest.raises(GateError, match=r"closest is .*student"):
        choose(cascade, "retention=0.97", "latency_ms=9.9")


def test_a_model_without_the_measure_is_never_selected(cascade: Path) -> None:
    write_model(cascade / "untimed", 0.99, 1)
    assert name(choose(cascade, "latency_ms=12").best) == "student"
    assert name(choose(cascade, "size_mb=20").best) == "untimed"


def test_a_limit_on_an_unmeasured_number_is_an_input_error(tmp_path: Path) -> None:
    write_model(tmp_path / "only", 0.9, 50)
    with pytest.raises(InputError, match="latency_ms was not measured for any model"):
        choose(tmp_path, "latency_ms=3")


def test_a_limit_on_the_metric_of_another_task_is_an_input_error(cascade: Path, tmp_path: Path) -> None:
    """BLEU is 0 to 100: each model would have an accuracy of at least 0.99."""
    training = {"task": "translation"}
    model = write_run(tmp_path / "translator", "finetune", {}, settings=training)
    scored = {"split": "validation", "reference": None, "models": {"model": str(model)}, "search": {"beams": 4}}
    folder = write_run(
        tmp_path / "scores", "eval", {"model.bleu": 2.0, "model.bytes": 12.0 * MB}, settings={**training, **scored},
        inputs={"models.model": describe(model)},
    )  # fmt: skip
    models = reports.run([folder, model, cascade / "student"]).models
    with pytest.raises(InputError, match=r"accuracy was not measured for any model that was scored on validation"):
        budget.choose(models, budget.limits(["accuracy=0.99"], models))
    assert Path(budget.choose(models, budget.limits(["bleu=1"], models)).best.name).name == "translator"


@pytest.mark.parametrize("word", ["latncy_ms=3", "latency_ms", "latency_ms=fast", "size_mb=-1", "size_mb=nan"])
def test_an_invalid_budget_is_a_config_error(cascade: Path, word: str) -> None:
    with pytest.raises(ConfigError, match="--budget"):
        choose(cascade, word)


def test_the_table_is_printed_even_if_no_model_fits(cascade: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(cascade), "--budget", "latency_ms=1"])
    assert done.exit_code == 5
    assert "student" in done.stdout and "none of 3 scored models satisfies latency_ms <= 1" in done.stderr


def test_json_contains_runs_models_and_the_choice(cascade: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(cascade), "--json", "--budget", "latency_ms=12"])
    output = json.loads(done.stdout)
    assert {run["command"] for run in output["runs"]} == {"finetune", "distill", "eval"}
    assert output["budget"]["best"]["name"] == str(cascade / "student")
    assert next(run for run in output["runs"] if run["command"] == "eval")["tiny.accuracy"] == 0.8
    missed = CliRunner().invoke(app, ["report", str(cascade), "--json", "--budget", "latency_ms=1"])
    assert missed.exit_code == 5 and json.loads(missed.stdout)["budget"] is None


def test_piped_output_has_all_columns_and_no_escape_codes(cascade: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tinybert_cli", "report", str(cascade)],
        capture_output=True, text=True, check=True, cwd=ROOT, env={**os.environ, "COLUMNS": "40", "TERM": "xterm"},
    )  # fmt: skip
    assert "\x1b" not in done.stdout and "12.0 MB" in done.stdout and done.stderr == ""


# -- the HTML page ------------------------------------------------------------------------------------------


def test_the_html_page_contains_table_plots_and_choice(cascade: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [
        *({"event": "train", "step": step, "loss": 1.0 / step} for step in (1, 2, 3)),
        *({"event": "evaluate", "step": step, "accuracy": 0.5, "is_best": True} for step in (2, 3)),
    ]
    write_model(cascade / "logged", 0.85, 30, rows=rows)
    file = tmp_path / "out" / "report.html"
    done = CliRunner().invoke(app, ["report", str(cascade), "--html", str(file), "--budget", "latency_ms=12"])
    assert done.exit_code == 0 and done.stderr == f"written: {file}\n" and "student" in done.stdout
    text = file.read_text()
    titles = re.findall(r"<title[^>]*>([^<]*)</title>", text)[1:]
    tradeoffs = ["accuracy vs. latency (ms, batch size 1)", "accuracy vs. size (MB)"]
    assert titles == [*tradeoffs, "loss by step", "accuracy by step"]
    assert re.search(r'<tr class="marked"><th scope="row">student</th>', text)
    assert text.count('class="marked"') == 1 and "next smaller" in text and "one machine, 2 cores" in text


def test_writing_the_page_to_a_folder_is_an_output_error(cascade: Path) -> None:
    pytest.importorskip("matplotlib")
    done = CliRunner().invoke(app, ["report", str(cascade), "--html", str(cascade)])
    assert done.exit_code == 4 and "cannot write" in done.stderr and "written: " not in done.stderr


def test_without_matplotlib_the_error_names_the_extra(
    cascade: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = CliRunner().invoke(app, ["report", str(cascade), "--html", str(tmp_path / "report.html")])
    assert done.exit_code == 3 and "tinybert[report]" in done.stderr and not (tmp_path / "report.html").exists()


# -- baselines -----------------------------------------------------------------------------------------------


def add_baselines(cascade: Path, end: str = "2026-01-02T10:00:00+00:00", **manifest_fields: Any) -> Path:
    """A later eval of `tiny` with two baselines, one of them better than it."""
    folder = write_eval(
        cascade / "eval-with-baselines",
        {"tiny": (cascade / "tiny", eval_metrics(0.80, 12, 2.5))},
        **{"end": end, "baselines": ["majority", "tfidf"], "scored_rows": 872, **manifest_fields},
    )
    own = {"majority": eval_metrics(0.5, 0.001, 0.01), "tfidf": eval_metrics(0.82, 3, 0.4, retention=1.025)}
    numbers = json.loads((folder / "metrics.json").read_text())
    numbers |= {f"{name}.{key}": value for name, metrics in own.items() for key, value in metrics.items()}
    (folder / "metrics.json").write_text(json.dumps(numbers))
    return folder


def test_baselines_of_an_eval_are_rows_beside_the_models(cascade: Path) -> None:
    add_baselines(cascade)
    report = reports.run([cascade])
    assert names(report) == ["teacher", "student", "tfidf", "tiny", "majority"]
    tfidf = report.models[2]
    assert (tfidf.quality, tfidf.retention, tfidf.bytes, tfidf.made_by) == (0.82, 1.025, 3 * MB, "baseline")
    assert "No better than the baseline eval-with-baselines/tfidf: tiny." in list(report.notes())


def test_a_baseline_is_shown_once_for_each_set_of_rows(cascade: Path) -> None:
    folder = add_baselines(cascade)
    shutil.copytree(folder, cascade / "again")
    assert [model.is_baseline for model in reports.run([cascade]).models].count(True) == 2


def test_baselines_of_rows_that_no_shown_score_is_from_are_left_out(cascade: Path) -> None:
    add_baselines(cascade, split="test")
    assert not any(model.is_baseline for model in reports.run([cascade]).models)


def test_budget_chooses_no_baseline(cascade: Path) -> None:
    add_baselines(cascade)
    models = reports.run([cascade]).models
    choice = budget.choose(models, budget.limits(["size_mb=20"], models))
    assert Path(choice.best.name).name == "tiny" and choice.left_out == [] and choice.smaller is None


def test_baselines_are_lines_in_the_plots_of_the_page(cascade: Path) -> None:
    pytest.importorskip("matplotlib")
    add_baselines(cascade)
    page = runs_html.as_html(reports.run([cascade]))
    assert "; eval-with-baselines/tfidf: 0.82; eval-with-baselines/majority: 0.5" in page
    assert page.count("Dashed: baselines without a neural network.") == 1


def comparison_of(cascade: Path, model: str) -> Comparison | None:
    return finished_evals.beside(
        cascade / "export",
        describe(cascade / model),
        task="text-classification",
        metric="accuracy",
        more_is_better=True,
    )


def test_an_export_has_the_baselines_of_the_eval_that_scored_its_model(cascade: Path) -> None:
    add_baselines(cascade)
    comparison = comparison_of(cascade, "tiny")
    assert comparison is not None and comparison.model["accuracy"] == 0.8 and not comparison.selected
    assert {name: own["accuracy"] for name, own in comparison.baselines.items()} == {"majority": 0.5, "tfidf": 0.82}
    assert "on the same 872 rows of validation" in comparison.lead
    assert (comparison.best, comparison.is_beaten) == ("tfidf", True)
    assert comparison_of(cascade, "student") is None  # no eval has scored it beside baselines


def test_the_card_of_an_export_says_that_its_model_was_scored_on_training_rows(cascade: Path) -> None:
    add_baselines(cascade, trained_on_these_rows=["tiny"])
    comparison = comparison_of(cascade, "tiny")
    assert comparison is not None and "has learned these rows: its score is too good." in baseline_table(comparison)


def test_an_eval_of_an_earlier_model_in_the_folder_is_not_used(cascade: Path) -> None:
    add_baselines(cascade)
    shutil.rmtree(cascade / "tiny")
    write_model(cascade / "tiny", 0.7, 12, seed=7)
    assert comparison_of(cascade, "tiny") is None


def test_the_last_of_several_evals_is_used_and_damaged_ones_are_left_out(cascade: Path) -> None:
    folder = add_baselines(cascade, selected_on_these_rows=["tiny"])
    shutil.copytree(folder, cascade / "later")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest |= {"end": "2026-01-03T10:00:00+00:00", "scored_rows": 10}
    (cascade / "later" / "manifest.json").write_text(json.dumps(manifest))  # not the checksum of its content
    comparison = comparison_of(cascade, "tiny")
    assert comparison is not None and "872 rows" in comparison.lead and comparison.selected
    manifest["checksum"] = digest({key: value for key, value in manifest.items() if key != "checksum"})
    (cascade / "later" / "manifest.json").write_text(json.dumps(manifest))
    comparison = comparison_of(cascade, "tiny")
    assert comparison is not None and "10 rows" in comparison.lead


# -- exports on the page of eval ---------------------------------------------------------------------------------


def exports_beside_eval(cascade: Path, **measured_on: Any) -> dict[str, dict[str, float]]:
    models = {name: eval_metrics(0.8, 12, 2.5) for name in ("teacher", "student", "tiny")}
    checksums = {name: describe(cascade / name)["manifest"] for name in models}
    return finished_exports.beside(
        cascade / "eval", models, checksums, metric="accuracy", reference="teacher", **measured_on
    )


def test_exports_of_the_models_are_found_beside_the_evaluation(cascade: Path) -> None:
    measured = {"metric_difference": -0.02, "bytes": 3 * MB, "latency_ms_b1": 0.5, "agreement": 0.97}
    write_run(cascade / "export", "export", measured, inputs={"model": describe(cascade / "tiny")})
    write_run(cascade / "other", "export", measured, inputs={"model": {"path": "x", "manifest": "y"}})
    numbers = exports_beside_eval(cascade)
    assert list(numbers) == ["export (of tiny)"]
    assert numbers["export (of tiny)"] == pytest.approx(
        {"accuracy": 0.78, "retention": 0.975, "bytes": 3 * MB, "latency_ms_b1": 0.5}
    )


@pytest.mark.parametrize(
    ("measured_on", "has_latency"),
    [({}, True), ({"machine": "one"}, True), ({"machine": "another"}, False), ({"devices": ["cuda", "cpu"]}, False)],
)
def test_the_page_shows_no_latency_of_an_export_on_another_machine_or_device(
    measured_on: dict[str, Any], has_latency: bool, cascade: Path
) -> None:
    measured = {"metric_difference": -0.02, "bytes": 3 * MB, "latency_ms_b1": 0.5}
    write_run(cascade / "export", "export", measured, inputs={"model": describe(cascade / "tiny")}, machine="one")
    (numbers,) = exports_beside_eval(cascade, **measured_on).values()
    assert ("latency_ms_b1" in numbers) is has_latency and numbers["bytes"] == 3 * MB


def test_damaged_folders_beside_the_evaluation_are_left_out(cascade: Path) -> None:
    (cascade / "foreign").mkdir()
    (cascade / "foreign" / "manifest.json").write_text('{"command": "export"}')
    assert exports_beside_eval(cascade) == {}


def test_a_recipe_ends_with_its_exports_on_the_page_of_eval(cascade: Path) -> None:
    pytest.importorskip("matplotlib")
    scored = {"teacher": eval_metrics(0.9, 90, 20.0), "tiny": eval_metrics(0.8, 12, 2.5)}
    rows = [
        {"event": "model", "model": name, "is_reference": name == "teacher", "metric": "accuracy", **numbers}
        for name, numbers in scored.items()
    ]
    inputs = {f"models.{name}": describe(cascade / name) for name in scored}
    folder = write_run(cascade / "scores", "eval", {}, inputs=inputs, rows=rows)
    blocks = [html.section("Models", html.paragraph("teacher and tiny")), html.section("Slices")]
    (folder / "report.html").write_text(html.document("scores", blocks))
    assert not finished_exports.add_to_page(folder)
    measured = {"metric_difference": -0.02, "bytes": 3 * MB, "latency_ms_b1": 0.5}
    write_run(cascade / "export", "export", measured, inputs={"model": describe(cascade / "tiny")})
    assert finished_exports.add_to_page(folder) and not finished_exports.add_to_page(folder)
    text = (folder / "report.html").read_text()
    assert re.search(r"export \(of tiny\)</th><td[^>]*>~0\.7800</td>", text)
    assert "teacher and tiny" not in text and "<h2>Slices</h2>" in text
    assert text.count("export (of tiny): ") == 2  # in both plots of quality vs. cost
