"""Baselines beside a model that is trained: on its card, in its metrics and in `report`, fitted on its training rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Configs, run, sentences, write_rows

from tinybert_cli import event_lines
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.reports import runs
from tinybert_cli.stages.checks import check

ONE_STEP: dict[str, Any] = {"training__max_steps": 1, "training__eval_strategy": "no"}


def metrics_of(folder: Path) -> dict[str, float]:
    numbers: dict[str, float] = json.loads((folder / "metrics.json").read_text())
    return numbers


def manifest_of(folder: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


def events_named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in events if row["event"] == name]


def warnings(events: list[dict[str, Any]]) -> list[str]:
    return [row["message"] for row in events_named(events, "warning")]


def test_the_card_of_a_training_has_the_baselines_that_eval_would_score(
    configs: Configs, teacher: Path, tmp_path: Path
) -> None:
    run("eval", configs("eval", "out", models={"teacher": str(teacher)}, latency=None))
    scored, numbers = metrics_of(tmp_path / "out"), metrics_of(teacher)
    card = (teacher / "README.md").read_text()
    assert "fitted on the gold labels of the training rows, on the same 48 rows of validation" in card
    assert f"| the model | {numbers['eval_accuracy']:.4f} |" in card
    for name in ("majority", "tfidf"):
        for key in ("accuracy", "accuracy_low", "accuracy_high", "f1_macro", "training_rows", "bytes"):
            assert numbers[f"{name}.{key}"] == scored[f"{name}.{key}"]
        assert f"| {name} | {numbers[f'{name}.accuracy']:.4f} |" in card
    assert numbers["tfidf.training_rows"] == 96
    assert manifest_of(teacher)["baselines"] == ["majority", "tfidf"]


def test_report_shows_the_baselines_of_a_training_once(configs: Configs, teacher: Path, tmp_path: Path) -> None:
    report = runs.run([teacher])
    assert {Path(model.name).name: model.is_baseline for model in report.models} == {
        "teacher": False, "tfidf": True, "majority": True,
    }  # fmt: skip
    run("finetune", configs("finetune", "second", model=str(teacher), **ONE_STEP))
    run("eval", configs("eval", "out", models={"teacher": str(teacher)}, latency=None, bootstrap=0))
    models = runs.run([teacher, tmp_path / "second", tmp_path / "out"]).models
    assert [model.name for model in models if model.is_baseline] == [
        str(tmp_path / "out" / name) for name in ("tfidf", "majority")
    ]


def test_a_training_beside_it_reads_the_numbers_again(
    configs: Configs, teacher: Path, base_model: Path, tmp_path: Path
) -> None:
    events = run("finetune", configs("finetune", "second", model=str(base_model), **ONE_STEP))
    rows = events_named(events, "baseline")
    assert [row.get("scored_by") for row in rows] == ["teacher", "teacher"]
    first, second = metrics_of(teacher), metrics_of(tmp_path / "second")
    names = [name for name in first if name.startswith(("majority.", "tfidf."))]
    assert len(names) > 8 and all(first[name] == second[name] for name in names)
    line = event_lines.LINES["baseline"](rows[1])
    assert (
        line is not None
        and line.startswith("baseline tfidf: accuracy 1.0000 (fitted on 96 rows")
        and "as scored for teacher" in line
    )


@pytest.mark.parametrize("change", ["training rows", "validation rows", "seed", "number of rows"])
def test_numbers_of_other_data_are_not_read_again(
    configs: Configs, teacher: Path, base_model: Path, data: Path, change: str
) -> None:
    settings: dict[str, Any] = {}
    if change in ("training rows", "validation rows"):
        split = change.split()[0].replace("training", "train")
        write_rows(data / f"{split}.jsonl", sentences(split)[:-2])
    else:
        settings = {"seed": 7} if change == "seed" else {"data__max_train_samples": 60}
    events = run("finetune", configs("finetune", "second", model=str(base_model), **ONE_STEP, **settings))
    rows = events_named(events, "baseline")
    assert len(rows) == 2 and not any("scored_by" in row for row in rows)
    assert rows[1]["training_rows"] == {"training rows": 94, "number of rows": 60}.get(change, 96)


def test_numbers_that_were_changed_by_hand_are_not_read_again(
    configs: Configs, teacher: Path, base_model: Path, tmp_path: Path
) -> None:
    honest = metrics_of(teacher)
    (teacher / "metrics.json").write_text(json.dumps({**honest, "tfidf.accuracy": 0.1}))
    run("finetune", configs("finetune", "second", model=str(base_model), **ONE_STEP))
    assert metrics_of(tmp_path / "second")["tfidf.accuracy"] == honest["tfidf.accuracy"]


def test_a_student_has_the_baselines_of_the_gold_labels_in_its_label_dataset(
    configs: Configs, teacher: Path, teacher_labels: Path, tmp_path: Path
) -> None:
    config = configs(
        "distill", "student", label_dataset=teacher_labels, student={"from": str(teacher), "num_hidden_layers": 1},
        training__max_steps=1,
    )  # fmt: skip
    events = run("distill", config)
    student = metrics_of(tmp_path / "student")
    assert student["tfidf.accuracy"] == metrics_of(teacher)["tfidf.accuracy"]  # all rows of train.jsonl are in it
    assert student["tfidf.training_rows"] == 96
    assert "| tfidf |" in (tmp_path / "student" / "README.md").read_text()
    if student["eval_accuracy"] <= student["tfidf.accuracy"]:
        assert any("this model is no better than the baseline tfidf" in text for text in warnings(events))
    models = runs.run([teacher, tmp_path / "student"]).models
    assert sum(model.is_baseline for model in models) == 2  # equal ones are one row


def test_a_student2_has_those_of_the_rows_that_it_learned_from(
    configs: Configs, teacher: Path, teacher_labels: Path, tmp_path: Path
) -> None:
    settings = {"label_dataset": teacher_labels, "data__max_train_samples": 40}
    run("finetune", configs("finetune", "s2", model=str(teacher), **settings, **ONE_STEP))
    assert metrics_of(tmp_path / "s2")["tfidf.training_rows"] == 40


def test_a_model_below_the_best_baseline_is_a_warning(configs: Configs, base_model: Path, tmp_path: Path) -> None:
    events = run("finetune", configs("finetune", "out", model=str(base_model), **ONE_STEP))
    numbers = metrics_of(tmp_path / "out")
    assert numbers["eval_accuracy"] < numbers["tfidf.accuracy"]
    expected = (
        f"this model is no better than the baseline tfidf: accuracy {numbers['eval_accuracy']:.4f}, "
        f"{numbers['tfidf.accuracy']:.4f}"
    )
    assert expected in warnings(events)
    assert "no better than the baseline tfidf" in (tmp_path / "out" / "README.md").read_text()
    assert "No better than the baseline tfidf: out." in " ".join(runs.run([tmp_path / "out"]).notes()).replace(
        "out/", ""
    )


def test_a_model_above_all_baselines_has_no_warning(configs: Configs, teacher: Path, tmp_path: Path) -> None:
    settings = {"training__learning_rate": 1e-6, **ONE_STEP}
    events = run("finetune", configs("finetune", "out", model=str(teacher), baselines=["majority"], **settings))
    assert not any("no better" in text for text in warnings(events))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| majority | 0.5000 |" in card and "no better" not in card and "tfidf" not in card


@pytest.fixture
def unlabelled_labels(configs: Configs, teacher: Path, tmp_path: Path) -> Path:
    """A label dataset of rows without gold labels."""
    run("gen-soft-labels", configs("gen-soft-labels", "unlabelled", teacher=teacher, splits=["unlabeled"]))
    return tmp_path / "unlabelled"


def test_without_gold_labels_the_card_says_why_there_is_no_baseline(
    configs: Configs, teacher: Path, unlabelled_labels: Path, tmp_path: Path
) -> None:
    settings = {"label_dataset": unlabelled_labels, **ONE_STEP}
    events = run("finetune", configs("finetune", "s2", model=str(teacher), **settings))
    (_,) = [text for text in warnings(events) if text.startswith("no baseline majority, tfidf: no column 'label'")]
    assert "No baseline majority, tfidf: no column 'label'" in (tmp_path / "s2" / "README.md").read_text()
    assert not any("tfidf" in name for name in metrics_of(tmp_path / "s2"))
    assert manifest_of(tmp_path / "s2")["baselines"] == []
    assert sum(model.is_baseline for model in runs.run([tmp_path / "s2"]).models) == 0
    with pytest.raises(InputError, match="no column 'label'"):
        run("finetune", configs("finetune", "s3", model=str(teacher), baselines=["majority"], **settings))
    assert not (tmp_path / "s3").exists()  # an error before the training


def test_without_validation_rows_there_is_no_baseline(configs: Configs, base_model: Path, tmp_path: Path) -> None:
    settings = {"data__validation_file": None, **ONE_STEP}
    events = run("finetune", configs("finetune", "out", model=str(base_model), **settings))
    assert not events_named(events, "baseline")
    with pytest.raises(InputError, match=r"no validation rows with labels, on which baselines .*\(tfidf\)"):
        run("finetune", configs("finetune", "out2", model=str(base_model), baselines=["tfidf"], **settings))


def test_an_empty_list_is_none(configs: Configs, base_model: Path, tmp_path: Path) -> None:
    events = run("finetune", configs("finetune", "out", model=str(base_model), baselines=[], **ONE_STEP))
    assert not events_named(events, "baseline") and "baseline" not in (tmp_path / "out" / "README.md").read_text()


def test_a_dry_run_names_the_baselines_and_fits_none(configs: Configs, base_model: Path) -> None:
    events = run("finetune", configs("finetune", "out", model=str(base_model)), dry_run=True)
    assert events_named(events, "plan")[0]["baselines"] == ["majority", "tfidf"]
    assert not events_named(events, "baseline")


def test_a_student_whose_head_is_not_trained_is_not_compared(
    configs: Configs, teacher: Path, teacher_labels: Path
) -> None:
    config = configs(
        "distill", "student", label_dataset=teacher_labels, teacher=teacher, losses={"hidden_states": 1.0},
        student={"from": str(teacher), "num_hidden_layers": 1}, training__max_steps=1, training__keep="last",
    )  # fmt: skip
    events = run("distill", config)
    assert not events_named(events, "baseline") and not any("no better" in text for text in warnings(events))


@pytest.mark.parametrize("command", ["finetune", "distill"])
@pytest.mark.parametrize("name", ["tf-idf", "mean"])
def test_an_unknown_baseline_is_an_error(configs: Configs, command: str, name: str) -> None:
    settings: dict[str, Any] = {"model": "x"} if command == "finetune" else {"student": "x", "label_dataset": "y"}
    with pytest.raises(ConfigError, match=f"unknown baseline '{name}'"):
        check(command, configs(command, "out", baselines=[name], **settings))


def test_a_task_without_predictions_has_no_baseline(configs: Configs) -> None:
    config = configs("distill", "out", task="language-modeling", student="x", teacher="y", baselines=["majority"],
                     losses={"hidden_states": 1.0})  # fmt: skip
    with pytest.raises(ConfigError, match="unknown baseline 'majority'") as error:
        check("distill", config)
    assert error.value.hint == "language-modeling has none: leave `baselines` out"


def test_the_mean_of_a_regression_has_no_correlation(configs: Configs, base_model: Path, data: Path) -> None:
    for split in ("train", "validation"):
        write_rows(data / f"{split}.jsonl", [
            {"text": row["text"], "label": len(row["text"]) / 10} for row in sentences(split)
        ])  # fmt: skip
    settings = {"task": "regression", "model": str(base_model), **ONE_STEP}
    events = run("finetune", configs("finetune", "out", **settings))
    mean, tfidf = events_named(events, "baseline")
    assert "pearson" not in mean and mean["mae"] > 0 and tfidf["pearson"] > 0.3
    assert event_lines.LINES["baseline"](mean) == "baseline mean: pearson is not defined for it (fitted on 96 rows)"
