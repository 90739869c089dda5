"""experiments/translation.py: every stage has valid settings, seeds and arms have folders of their own, and tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import recipe_stages
import translation

from tinybert_cli import configuration


class Recorder:
    """Stands in for `subprocess.run`: loads the config of a command, and finishes its folder."""

    def __init__(self) -> None:
        self.configs: dict[str, tuple[str, Any]] = {}  # the folder, relative to multi30k → command and config

    def __call__(self, words: list[str], *, env: dict[str, str]) -> Any:
        command, file, *settings = words[3:-1]
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RUNS", "MULTI30K_DATA", "MULTI30K_TEST"):
                patch.setenv(name, env[name])
            config: Any = configuration.load(command, file, settings)
        folder = Path(config.output_dir)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        (folder / "metrics.json").write_text(json.dumps({"steps": 77, "train_cpu_seconds": 60.0}))
        self.configs[str(folder.relative_to(Path(env["RUNS"]) / "multi30k"))] = (command, config)

        class Done:
            returncode = 0

        return Done()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(recipe_stages.subprocess, "run", recorder)
    return recorder


def test_stages_of_all_seeds_and_arms_have_valid_settings(recorder: Recorder, tmp_path: Path) -> None:
    runs = translation.Runs(tmp_path / "data", tmp_path)
    runs.teacher()
    for model in translation.MODELS:
        for seed in (42, 43):
            runs.train(model, seed)
    for arm in translation.ARMS:
        runs.arm(arm)
    configs = {name: config for name, (_, config) in recorder.configs.items()}
    assert {name for name in configs if "seed" not in name} == {
        "teacher", "teacher-labels", "student", "student-labels", "student2", "student-plain", "student2-plain",
        "labels-by-score", *(f"ablation-{arm}" for arm in translation.ARMS),
    }  # fmt: skip
    second = configs["seed-43/student2"]
    assert second.seed == 43 and second.label_dataset == str(tmp_path / "multi30k" / "seed-43" / "student-labels")
    assert (
        second.student.from_ == configs["seed-43/student-labels"].teacher == str(tmp_path / "multi30k/seed-43/student")
    )
    arms = {arm: configs[f"ablation-{arm}"] for arm in translation.ARMS}
    assert {arm.training.max_steps for arm in arms.values()} == {translation.ABLATION_UPDATES}
    assert {arm.student.from_ for arm in arms.values()} == {configs["student"].student.from_}
    assert configs["labels-by-score"].search.select == "score" and configs["labels-by-score"].top_k == 0
    runs.exports()
    exports = {name: recorder.configs[name][1] for name in translation.EXPORTS}
    assert {(one.format, one.quantize) for one in exports.values()} == {
        ("ctranslate2", "none"), ("ctranslate2", "int8"), ("onnx", "none"),
    }  # fmt: skip
    assert {one.model for one in exports.values()} == {str(tmp_path / "multi30k" / "student2")}
    count = len(recorder.configs)
    runs.train("student", 43)
    assert len(recorder.configs) == count  # finished


def test_scores_of_models_that_are_gone_stay() -> None:
    recorded = {"models": {"a": {"bleu": 1.0}, "b": {"bleu": 2.0}}, "minutes": {"a": 3.0},
                "distilled minus plain": {}}  # fmt: skip
    measured = {"models": {"b": {"bleu": 4.0}}, "minutes": {"b": 5.0}, "distilled minus plain": {"b": {}},
                "signatures": {}}  # fmt: skip
    assert translation.merged(recorded, measured) == {
        "models": {"a": {"bleu": 1.0}, "b": {"bleu": 4.0}}, "minutes": {"a": 3.0, "b": 5.0},
        "distilled minus plain": {"b": {}}, "signatures": {},
    }  # fmt: skip
    assert translation.merged({}, measured) == measured


def test_tables_have_means_and_the_worst_seed() -> None:
    def model(bleu: float, **more: float) -> dict[str, float]:
        return {"bleu": bleu, "bleu_low": bleu - 1, "bleu_high": bleu + 1, "greedy bleu": bleu - 0.5, "chrf": 50.0,
                "bytes": 2e6, **more}  # fmt: skip

    def seed(student: float, plain: float) -> dict[str, Any]:
        models = {
            "teacher": model(40.0),
            "student": model(student, retention=student / 40),
            "student-plain": model(plain),
        }
        minus = {"bleu": student - plain, "low": 0.1, "high": 2.0, "p": 0.002}
        return {"models": models, "minutes": dict.fromkeys(models, 9.6), "distilled minus plain": {"student": minus}}

    lines = list(translation.table({"seed 42": seed(38.0, 37.0), "seed 43": seed(36.0, 36.0), "ablation": {}}))
    assert lines[2] == "| teacher, 4 + 4 layers | 40.0 | 95 %: 39.0 to 41.0 | 39.5 | 50.0 |  |  | 2.0 | 10 |"
    student = "37.0 | 38.0, 36.0 | 36.5 | 50.0 | 92.5%; 90.0% | +0.5; +1.0, +0.0 | 2.0 | 10"
    assert lines[3] == f"| student, 4 + 1 layers | {student} |" and len(lines) == 5
    arm = {"learns": "references", "validation": {"bleu": 30.0}, "test": {"bleu": 31.0}, "greedy": {"bleu": 29.0},
           "minutes": 12.0}  # fmt: skip
    other = {**arm, "minus gold": {"bleu": 0.5, "low": -0.1, "high": 1.1, "p": 0.1}}
    assert list(translation.ablation_table({"ablation": {"gold": arm, "both": other}}))[2:] == [
        "| references | 30.0 | 31.0 |  | 29.0 | 12 |", "| references | 30.0 | 31.0 | +0.5 (-0.1 to +1.1) | 29.0 | 12 |",
    ]  # fmt: skip
