"""A new format is one file and one row of FORMATS, a new task one file and one row of TASKS; all commands accept both."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from conftest import FILL, GOOD, make_config, run, write_rows
from dummy_format import FILE, NUMPY
from dummy_task import Rating, RatingMetric
from transformers import AutoConfig, AutoModelForSequenceClassification

from tinybert_cli import artifacts, cli, formats, metrics, predictor, tasks
from tinybert_cli.errors import ConfigError, GateError, InputError
from tinybert_cli.helpers import predict, shipped_recipes
from tinybert_cli.reports import budget, runs, runs_table
from tinybert_cli.types import Predictions

TEXTS = ["a fine film and the warm plot .", "the plot was very ."]


def write_ratings(folder: Path) -> None:
    """The rating of a text is its number of good words, 0 to 2."""
    for split, count in (("train", 120), ("validation", 48)):
        draw = random.Random(split)
        rows = []
        for _ in range(count):
            rating = draw.randint(0, 2)
            words = [*draw.choices(FILL[:-2], k=3), *draw.choices(GOOD, k=rating)]
            draw.shuffle(words)
            rows.append({"text": " ".join([*words, "."]), "label": rating})
        write_rows(folder / f"{split}.jsonl", rows)


def config_for(command: str, folder: Path, output: str, **settings: Any) -> Any:
    unused = {"data__test_file": None, "data__unlabeled_file": None}
    if command in ("finetune", "distill"):
        settings = {"training__num_train_epochs": 12.0, **settings}
    return make_config(command, folder / "data", folder / output, **{"task": "rating", **unused, **settings})


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(formats.FORMATS, "numpy", NUMPY)
        patch.setitem(tasks.TASKS, "rating", Rating())
        yield


@pytest.fixture(scope="module")
def folder(registered: None, finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of all stages, with the task and the format."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("extensions")
    write_ratings(folder / "data")
    student = {"from": str(folder / "teacher"), "num_hidden_layers": 2}
    run("finetune", config_for("finetune", folder, "teacher", model=finished_runs / "base"))
    run("gen-soft-labels", config_for("gen-soft-labels", folder, "labels", teacher=folder / "teacher"))
    run("distill", config_for("distill", folder, "student", label_dataset=folder / "labels", student=student))
    run("export", config_for("export", folder, "export", model=folder / "student", format="numpy"))
    compared = {name: str(folder / name) for name in ("teacher", "student", "export")}
    latency = {"batch_sizes": [1], "lengths": ["data"]}
    run("eval", config_for("eval", folder, "eval", models=compared, latency=latency, bootstrap=50))
    return folder


def metrics_of(folder: Path) -> dict[str, float]:
    return dict(json.loads((folder / "metrics.json").read_text()))


# -- the format ----------------------------------------------------------------------------------------------


def test_export_verifies_and_describes_the_format(folder: Path) -> None:
    numbers, manifest = metrics_of(folder / "export"), artifacts.verify_folder(folder / "export")
    assert numbers["agreement"] == 1.0 and numbers["max_abs_logit_difference"] < 1e-4
    assert numbers["bytes"] == (folder / "export" / FILE).stat().st_size
    assert manifest["precision"] == "float32"
    assert {FILE, "config.json", "tokenizer.json", "README.md"} <= {entry["path"] for entry in manifest["outputs"]}
    card = (folder / "export" / "README.md").read_text()
    assert "for NumPy, in float32" in card and "numpy.load" in card and "It is slow." in card


def test_an_export_that_does_not_match_is_not_stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_other_bias(model: Any, inputs: Any, target: Path) -> None:
        NUMPY.write(model, inputs, target)
        with np.load(target / FILE) as file:
            weights = dict(file)
        np.savez(target / FILE, **(weights | {"classifier.bias": weights["classifier.bias"] + [9, 0, 0]}))

    monkeypatch.setitem(formats.FORMATS, "numpy", replace(NUMPY, write=write_other_bias))
    with pytest.raises(GateError, match="does not match the original"):
        run("export", config_for("export", folder, "wrong", model=folder / "student", format="numpy"))
    assert not (folder / "wrong").exists()


@pytest.mark.parametrize("setting", [{"quantize": "int8"}, {"opset": 17}, {"dtype": "float16"}])
def test_settings_of_other_formats_are_rejected(setting: dict[str, Any], folder: Path) -> None:
    with pytest.raises(ConfigError, match="has no effect with `format: numpy`"):
        run("export", config_for("export", folder, "none", model=folder / "student", format="numpy", **setting))


def test_predict_gives_the_same_for_export_and_original(folder: Path) -> None:
    exported, original = (list(predict.run(str(folder / name), TEXTS)) for name in ("export", "student"))
    assert exported == original


def test_predict_loads_the_format_without_torch(folder: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from dummy_format import NUMPY; from dummy_task import Rating\n"
        "from tinybert_cli import formats, tasks; from tinybert_cli.helpers import predict\n"
        "formats.FORMATS['numpy'], tasks.TASKS['rating'] = NUMPY, Rating()\n"
        f"(output,) = predict.run({str(folder / 'export')!r}, [{TEXTS[0]!r}])\n"
        "print(output['rating'], [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "2 []\n"


def test_eval_scores_and_times_the_format(folder: Path) -> None:
    numbers = metrics_of(folder / "eval")
    assert numbers["export.closeness"] == numbers["student.closeness"]
    assert numbers["export.bytes"] == (folder / "export" / FILE).stat().st_size
    assert numbers["export.latency_ms_b1"] > 0 and "export.parameters" not in numbers


def test_an_export_in_the_format_can_be_a_teacher(folder: Path) -> None:
    logits = []
    for name in ("export", "student"):
        run("gen-soft-labels", config_for("gen-soft-labels", folder, f"{name}-labels", teacher=folder / name))
        (file,) = (folder / f"{name}-labels").glob("*.parquet")
        logits.append(pq.read_table(file).to_pydict()["teacher_logits"])
    np.testing.assert_allclose(*logits, atol=1e-4)


def test_an_export_in_the_format_cannot_be_trained(folder: Path) -> None:
    with pytest.raises(InputError, match="no weights") as caught:
        run("finetune", config_for("finetune", folder, "none", model=folder / "export"))
    assert "exported from" in str(caught.value.hint)


# -- the task ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_training_scores_models_by_the_metric_of_the_task(name: str, folder: Path) -> None:
    numbers = metrics_of(folder / name)
    assert numbers["eval_closeness"] > 0.8
    assert numbers["eval_closeness_low"] <= numbers["eval_closeness"] <= numbers["eval_closeness_high"]


def test_the_teacher_check_uses_the_majority_baseline_of_the_task(folder: Path) -> None:
    numbers = metrics_of(folder / "labels")
    assert numbers["teacher_closeness"] > numbers["majority_closeness"] > 0


def test_eval_computes_intervals_slices_and_a_paired_test(folder: Path) -> None:
    numbers = metrics_of(folder / "eval")
    names = {"closeness_low", "closeness_difference_high", "exact", "closeness[label=2]", "agreement", "retention",
             "mcnemar_p", "rows_lost"}  # fmt: skip
    assert {f"student.{name}" for name in names} <= numbers.keys()
    assert numbers["student.closeness"] == metrics_of(folder / "student")["eval_closeness"]
    table = pq.read_table(folder / "eval" / "predictions.parquet").to_pydict()
    assert numbers["student.exact"] == pytest.approx(np.mean(np.equal(table["student_prediction"], table["label"])))


def test_predict_formats_the_output_as_the_task_does(folder: Path) -> None:
    (output,) = predict.run(str(folder / "teacher"), TEXTS[:1])
    assert output == {"text": TEXTS[0], "prediction": "**", "rating": 2}
    assert predict.as_fields(output) == ["**"]


@pytest.mark.parametrize("name", ["teacher", "student", "export"])
def test_config_json_names_the_task_of_the_model(name: str, folder: Path) -> None:
    assert AutoConfig.from_pretrained(folder / name).to_dict()[tasks.CONFIG_KEY] == "rating"
    assert isinstance(predictor.load_predictor(str(folder / name)).task, Rating)


@pytest.mark.parametrize("recorded", [None, "regression", "language-modeling"])
def test_other_models_have_the_first_task_with_their_head(recorded: object, folder: Path) -> None:
    config = json.loads((folder / "teacher" / "config.json").read_text())
    assert tasks.of_model({**config, tasks.CONFIG_KEY: recorded}).name == "text-classification"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"id2label": {"0": "LABEL_0"}}, "regression"),  # a cross-encoder of sentence-transformers
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "text-classification"),
        ({}, "text-classification"),  # two outputs without names
        ({"id2label": {"0": "toxic"}, "problem_type": "multi_label_classification"}, "multi-label-classification"),
    ],
)
def test_the_task_of_a_model_of_another_tool_follows_from_its_outputs(settings: dict[str, Any], expected: str) -> None:
    assert tasks.of_model({"architectures": ["BertForSequenceClassification"], **settings}).name == expected


def test_a_tagger_with_a_problem_type_is_a_tagger() -> None:
    config = {"architectures": ["BertForTokenClassification"], "problem_type": "single_label_classification"}
    assert tasks.of_model(config).name == "token-classification"


@pytest.mark.parametrize("recorded", ["no-such-task", ["rating"], 3])
def test_a_task_that_is_not_installed_is_refused(recorded: object, folder: Path) -> None:
    config = json.loads((folder / "teacher" / "config.json").read_text())
    with pytest.raises(InputError, match="does not know"):
        tasks.of_model({**config, tasks.CONFIG_KEY: recorded})


def test_training_for_another_task_replaces_the_recorded_one(folder: Path) -> None:
    settings = {"task": "text-classification", "training__max_steps": 1}
    names = [f"{rating} stars" for rating in range(3)]
    run(
        "finetune",
        config_for("finetune", folder, "other", model=folder / "teacher", data__label_names=names, **settings),
    )
    assert tasks.of_model(json.loads((folder / "other" / "config.json").read_text())).name == "text-classification"


def test_transformers_loads_a_model_of_the_task(folder: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(folder / "student")
    assert model.config.id2label == {0: "0 stars", 1: "1 stars", 2: "2 stars"}


def test_init_rejects_a_task_without_a_recipe(registered: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recipe for the task 'rating'") as caught:
        shipped_recipes.copy(tmp_path / "mine", "rating")
    assert "text-classification" in str(caught.value.hint) and not (tmp_path / "mine").exists()


def test_the_metric_of_the_dummy_task_is_correct() -> None:
    metric = RatingMetric(np.array([0, 1, 2, 2]), 2)
    assert metrics.score(metric, Predictions([0, 2, 2, 0])) == {"closeness": 1 - (0 + 0.5 + 0 + 1) / 4, "exact": 0.5}
    assert metric.majority_baseline() == 1 - (2 + 1 + 0 + 0) / 2 / 4


# -- both ----------------------------------------------------------------------------------------------------


def test_report_has_scores_and_sizes_of_task_and_format(folder: Path) -> None:
    report = runs.run([folder / name for name in ("teacher", "labels", "student", "export", "eval")])
    by_name = {Path(model.name).name: model for model in report.models}
    assert by_name.keys() == {"teacher", "student", "export"}
    assert (by_name["export"].metric, by_name["export"].estimated) == ("closeness", False)
    assert by_name["export"].bytes == (folder / "export" / FILE).stat().st_size
    header, rows = runs_table.table(report)
    assert "closeness (95 %)" in header and {row[0] for row in rows} == {*by_name, "labels"}
    assert budget.choose(report.models, budget.limits(["closeness=0.5"], report.models)).best.metric == "closeness"


def test_report_estimates_the_score_of_an_export_without_eval(folder: Path) -> None:
    report = runs.run([folder / "student", folder / "export"])
    (export,) = (model for model in report.models if model.made_by == "export")
    assert export.estimated and export.bytes == (folder / "export" / FILE).stat().st_size
    difference = metrics_of(folder / "export")["metric_difference"]
    assert export.quality == metrics_of(folder / "student")["eval_closeness"] + difference


def test_the_command_line_accepts_both(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_for("export", folder, "from-yaml", model=folder / "student", format="numpy")
    file = tmp_path / "export.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", by_alias=True)))
    options: dict[str, Any] = {"dry_run": False, "force": False, "as_json": True, "quiet": True, "verbose": False}
    assert cli.execute("export", file, [], **options) == 0
    assert json.loads(capsys.readouterr().out)["agreement"] == 1.0
    assert cli.execute("export", file, ["format=numpi", f"output_dir={tmp_path / 'none'}"], **options) == 2
    assert "did you mean 'numpy'?" in capsys.readouterr().err


def test_the_key_of_each_task_is_its_name() -> None:
    assert all(name == task.name for name, task in tasks.TASKS.items())
