"""The helpers: asking a model, starting a recipe, describing the machine; test_report has the one that compares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Configs, run, sentences
from typer.testing import CliRunner

from tinybert_cli import configuration, predictor, tasks
from tinybert_cli.cli import app
from tinybert_cli.errors import ConfigError, InputError, OutputError
from tinybert_cli.helpers import doctor, predict, shipped_recipes

ROOT = Path(__file__).parents[1]
ROWS = sentences("validation")
TEXTS = [row["text"] for row in ROWS]


def tinybert(*words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tinybert_cli", *words],
        input=given, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT,
    )  # fmt: skip


# -- predict -------------------------------------------------------------------------------------------------


def test_predict_gives_label_confidence_and_probabilities(teacher: Path) -> None:
    rows = list(predict.run(str(teacher), TEXTS))
    correct = [row["prediction"] == gold["label"] for row, gold in zip(rows, ROWS, strict=True)]
    metrics = json.loads((teacher / "metrics.json").read_text())
    assert sum(correct) / len(correct) == metrics["eval_accuracy"]
    assert [row["text"] for row in rows] == TEXTS
    for row in rows:
        assert row["confidence"] == pytest.approx(max(row["probabilities"].values()), abs=1e-6)
        assert sum(row["probabilities"].values()) == pytest.approx(1.0)


def test_batch_size_does_not_change_the_predictions(teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together = [row["confidence"] for row in predict.run(str(teacher), TEXTS)]
    monkeypatch.setattr(predictor, "BATCH_SIZE", 1)
    assert [row["confidence"] for row in predict.run(str(teacher), TEXTS)] == pytest.approx(together, abs=1e-5)


@pytest.mark.parametrize(
    ("words", "place", "remedy"),
    [
        (["predict", "MODEL", "a film"], "tinybert_cli.predictor.Predictor.predict", "ACCELERATE_USE_CPU=true"),
        (
            ["schema", "eval"],
            "tinybert_cli.helpers.schema.as_text",
            "fewer rows, or use a machine with more free memory",
        ),
    ],
)
def test_out_of_memory_in_a_helper_names_no_setting_of_stages(
    words: list[str], place: str, remedy: str, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("cannot allocate 4 GiB")

    monkeypatch.setattr(place, fail)
    done = CliRunner().invoke(app, [str(teacher) if word == "MODEL" else word for word in words])
    assert done.exit_code == 1 and "out of memory: cannot allocate 4 GiB" in done.stderr
    assert remedy in done.stderr and "batch_size" not in done.stderr and "data." not in done.stderr


def test_an_export_predicts_the_same_without_torch(teacher: Path, configs: Configs, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    run("export", configs("export", "export", model=teacher, verify={"min_agreement": 0.9, "split": "validation"}))
    expected = [(row["prediction"], row["confidence"]) for row in predict.run(str(teacher), TEXTS)]
    code = f"""
import json, sys
from tinybert_cli.helpers import predict
rows = list(predict.run({str(tmp_path / "export")!r}, {TEXTS!r}))
print(json.dumps([rows, [name for name in ("torch", "transformers") if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    rows, heavy = json.loads(done.stdout)
    assert heavy == []
    assert [row["prediction"] for row in rows] == [prediction for prediction, _ in expected]
    assert [row["confidence"] for row in rows] == pytest.approx([confidence for _, confidence in expected], abs=1e-4)


def test_text_comes_from_arguments_a_file_or_stdin(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    words = CliRunner().invoke(app, ["predict", str(teacher), *TEXTS])
    assert words.exit_code == 0, words.stderr
    assert [line.split("\t")[2] for line in words.stdout.splitlines()] == TEXTS
    file = CliRunner().invoke(app, ["predict", str(teacher), "--file", str(tmp_path / "texts.txt")])
    assert file.stdout == words.stdout
    piped = tinybert("predict", str(teacher), "--json", given="\n".join(TEXTS))
    predictions = [row["prediction"] for row in json.loads(piped.stdout)["answers"]]
    assert predictions == [line.split("\t")[0] for line in words.stdout.splitlines()]
    assert piped.stderr == ""


@pytest.mark.parametrize("given", ["", "\ufeff"])
def test_empty_stdin_gives_no_predictions_and_a_note(given: str, teacher: Path) -> None:
    done = CliRunner().invoke(app, ["predict", str(teacher)], input=given)
    assert (done.exit_code, done.stdout) == (0, "")
    assert done.stderr == "note: stdin is empty, so that nothing is predicted\n"


def test_a_broken_export_is_an_input_error(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    for name in ("model.onnx", "config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes(b'{"no": "export"}')
    with pytest.raises(InputError, match="ONNX Runtime cannot read"):
        list(predict.run(str(tmp_path), ["fine"]))


def test_an_empty_text_is_rejected_with_its_number(teacher: Path) -> None:
    with pytest.raises(InputError, match="text 2 is empty"):
        list(predict.run(str(teacher), ["fine", " "]))


def test_text_that_is_not_utf8_is_rejected_with_its_number(teacher: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tinybert_cli", "predict", str(teacher)], input=b"fine\r\ncaf\xe9\n", cwd=ROOT,
        capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 3 and done.stderr.startswith(b"error: text 2 is not UTF-8")


def test_a_missing_model_is_an_input_error() -> None:
    done = tinybert("predict", "runs/no-such-model", "fine")
    assert done.returncode == 3 and "no folder 'runs/no-such-model'" in done.stderr


# -- version -------------------------------------------------------------------------------------------------


def test_version_prints_the_version_of_the_package() -> None:
    done = CliRunner().invoke(app, ["--version"])
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert (done.exit_code, done.stdout) == (0, f"tinybert {metadata['project']['version']}\n")


# -- init ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("demo", [True, False])
def test_a_copied_recipe_loads_and_has_its_own_output_folders(
    demo: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written = shipped_recipes.copy(Path("mine"), recipe="demo" if demo else None)
    stages = sorted(path for path in written if path.suffix == ".yaml" and path.name[0].isdigit())
    assert len(stages) == 9
    for file in stages:
        command = file.read_text().splitlines()[0].split()[2]
        config: Any = configuration.load(command, file)
        assert config.output_dir.startswith("runs/mine/")
        assert "demo" not in json.dumps(yaml.safe_load(file.read_text()))
        if demo:
            assert Path(config.data.train_file).is_file()


@pytest.mark.parametrize("recipe", [None, "demo"])
def test_init_without_data_says_whose_recipe_it_copies(
    recipe: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, *_, last = printed = list(shipped_recipes.lines(Path("mine"), "text-classification", recipe=recipe))
    assert first.startswith("recipe demo, 9 stages" if recipe else "recipe sst2, 9 stages: SST-2")
    assert any("--data FILE" in line for line in printed) == (recipe is None)
    assert last == "next: tinybert run mine"


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    shipped_recipes.copy(tmp_path / "mine")
    mine = tmp_path / "mine" / "task.yaml"
    mine.write_text("task: mine\n")
    (tmp_path / "mine" / "3-student.yaml").unlink()
    with pytest.raises(OutputError, match="already exists"):
        shipped_recipes.copy(tmp_path / "mine")
    assert mine.read_text() == "task: mine\n" and not (tmp_path / "mine" / "3-student.yaml").exists()


def test_init_into_a_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        shipped_recipes.copy(tmp_path / "mine")


def test_init_has_a_recipe_for_every_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for task in tasks.TASKS:
        written = shipped_recipes.copy(Path(task), task)
        first = next(path for path in sorted(written) if path.name[0].isdigit())
        assert configuration.load(first.read_text().split()[2], first).task == task


def test_init_rejects_an_unknown_task(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="text-clasification"):
        shipped_recipes.copy(tmp_path / "mine", "text-clasification")


# -- doctor --------------------------------------------------------------------------------------------------


def test_doctor_of_an_installation_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "transformers", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 0 and "torch is missing: pip install 'tinybert[train]'" in done.stdout


def test_doctor_lists_versions_and_machine() -> None:
    sections = doctor.run()
    assert sections["versions"]["torch"] and sections["machine"]["cores"] >= 1
    text = doctor.as_text(sections)
    assert all(name in text for name in sections)
    assert json.loads(json.dumps(sections)) == sections
