"""What a served model is given: incomplete folders, texts that do not fit, very long texts, and very many."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import make_config, run
from typer.testing import CliRunner

import tinybert
from tinybert_cli.cli import app
from tinybert_cli.errors import InputError
from tinybert_cli.translation_predictor import TranslationPredictor

PAGE = Path(__file__).parents[1] / "docs" / "integrations.md"
LONG = "a very lovely film " * 6000  # 114,000 characters


@pytest.fixture(scope="module")
def whole(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "export"
    settings: dict[str, Any] = {"verify": {"min_agreement": 0.5, "max_metric_drop": 1.0}, "quantize": "int8"}
    run("export", make_config("export", finished_runs / "data", folder, model=finished_runs / "teacher", **settings))
    return folder


@pytest.fixture(scope="module")
def exported(whole: Path) -> Path:
    """An export in float32 without its manifest, as a part of it may be copied to a server."""
    folder = Path(shutil.copytree(whole, whole.with_name("part")))
    for name in ("manifest.json", "onnx/model_quantized.onnx"):
        (folder / name).unlink()
    return folder


def predict(*words: object) -> Any:
    return CliRunner().invoke(app, ["predict", *map(str, words)])


# -- folders -------------------------------------------------------------------------------------------------


NEEDED = ["onnx/model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_file_of_an_export_is_named(name: str, exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"the export has no .*{name}") as error:
        tinybert.load(folder)
    assert error.value.where == str(folder) and "copy the whole folder" in (error.value.hint or "")


@pytest.mark.parametrize("name", NEEDED)
def test_predict_with_a_missing_file_ends_with_code_3(name: str, exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    (folder / name).unlink()
    done = predict(folder, "fine")
    assert done.exit_code == 3 and "the export has no " in done.stderr and name in done.stderr and not done.stdout


def test_what_only_people_read_may_be_missing(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    for name in ("README.md", "metrics.json", "log.jsonl", "run.yaml", "example.py"):
        (folder / name).unlink()
    assert predict(folder, "fine").exit_code == 0


def test_documents_of_a_whole_export_may_be_missing(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "copy")
    for name in ("README.md", "metrics.json", "log.jsonl", "run.yaml", "example.py"):
        (folder / name).unlink()
    assert predict(folder, "fine").exit_code == 0
    (folder / "onnx" / "model.onnx").unlink()
    done = predict(folder, "fine")
    assert done.exit_code == 3 and "model.onnx' is missing" in done.stderr and "copy the whole folder" in done.stderr


def test_the_smallest_copy_of_the_docs_predicts_the_same(whole: Path, tmp_path: Path) -> None:
    (names,) = re.findall(r"The smallest copy for a server is (.*?):", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "copy" / "onnx").mkdir(parents=True)
    for name in re.findall("`(.*?)`", names):
        shutil.copy(whole / name, tmp_path / "copy" / name)
    assert predict(tmp_path / "copy", "fine film").stdout == predict(whole, "fine film").stdout


def test_a_task_of_another_version_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tinybert_task": "ranking"}))
    done = predict(folder, "fine")
    assert done.exit_code == 3 and "is for the task 'ranking', which this version of tinybert does not" in done.stderr


# -- texts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [None, 3, float("nan"), b"fine", ("fine", None), {"text": "fine"}])
def test_what_is_no_text_is_refused_with_its_number(text: Any, exported: Path) -> None:
    with pytest.raises(InputError, match="text 2 is no text: "):
        tinybert.load(exported)(["fine", text])


@pytest.mark.parametrize("texts", [None, 3, b"fine", {"text": "fine", "text_pair": "dull"}])
def test_what_is_no_list_of_texts_is_refused(texts: Any, exported: Path) -> None:
    with pytest.raises(InputError, match=f"expected a text or a list of texts, found {type(texts).__name__}"):
        tinybert.load(exported)(texts)


def test_a_pair_for_a_model_of_one_text_is_refused(exported: Path) -> None:
    with pytest.raises(InputError, match="text 1 is two texts, but the model takes one text, text"):
        tinybert.load(exported)([("fine", "dull")])


def test_a_tab_in_the_text_of_a_model_of_one_text_is_noted(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("fine\nfilm\tdull\n")
    note = "note: text 2 has a tab; the model takes one text, text, so the tab is a part of it\n"
    for words in (["fine", "film\tdull"], ["--file", tmp_path / "texts.txt"]):
        done = predict(exported, *words)
        assert done.exit_code == 0 and done.stderr == note
    assert predict(exported, "fine").stderr == ""


def test_predict_warns_once_of_texts_that_are_cut(exported: Path) -> None:
    done = predict(exported, "fine", LONG, LONG)
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 3
    assert done.stderr == "warning: a text is longer than 16 tokens and was cut, as in training\n"


def test_a_text_of_100000_characters_is_read_as_training_reads_it(exported: Path) -> None:
    model = tinybert.load(exported)
    long, cut = model([LONG, " ".join(LONG.split()[:14])])  # 14 words and two special tokens are 16
    assert long["probabilities"] == pytest.approx(cut["probabilities"], abs=1e-6)


def test_a_long_source_text_is_cut_with_one_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    class Tokens:
        prefix = ()

        def source_ids(self, texts: list[str]) -> list[list[int]]:
            return [[1] * len(text.split()) for text in texts]

        def cut(self, ids: list[list[int]], length: int) -> list[list[int]]:
            return [row[:length] for row in ids]

        def texts(self, targets: list[list[int]]) -> list[str]:
            return [str(len(ids)) for ids in targets]

    class Copies:
        def translate(self, ids: list[list[int]], search: Any) -> Any:
            from types import SimpleNamespace

            return [[SimpleNamespace(ids=row, score=0.0, finished=True)] for row in ids]

    tokens, copies = Tokens(), Copies()
    predictor = TranslationPredictor(tmp_path, tokens, {"tinybert_max_lengths": [8, 8]}, copies)  # type: ignore[arg-type]
    assert [one["prediction"] for one in predictor.predict(["a b", LONG, LONG])] == ["2", "8", "8"]
    assert caplog.messages == ["a text is longer than 8 tokens and was cut, as in training"]


def test_ten_thousand_texts_need_the_memory_of_one_batch(exported: Path) -> None:
    code = f"""
import resource, tinybert
model = tinybert.load({str(exported)!r})
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB
model(["a very lovely film " * 5] * 100)
before = used()
assert len(model(["a very lovely film " * 5 for _ in range(10_000)])) == 10_000
print(used() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert float(done.stdout) < 40  # the answers are 10 MiB of these
