"""An export in transformers.js (Node and Chromium), optimum and sentence-transformers: make test-runtimes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import make_config, run, sentences, write_base_model, write_rows

from tinybert_cli.helpers import predict

RUNTIMES = Path(os.environ.get("RUNTIMES", "no-runtimes"))
SCRIPTS = Path(__file__).parent / "runtimes"
PAGE = Path(__file__).parents[1] / "docs" / "integrations.md"
PYTHON = RUNTIMES / "bin" / "python"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
TEXTS = ["a lovely film .", "the plot was awful .", "Better than it looks."]

pytestmark = pytest.mark.skipif(not RUNTIMES.exists(), reason="make test-runtimes")


@pytest.fixture(scope="module")
def exported(finished_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtimes") / "export"
    verify = {"min_agreement": 0.9, "max_metric_drop": 0.1}
    settings: dict[str, Any] = {"model": finished_runs / "teacher", "quantize": "int8", "verify": verify}
    run("export", make_config("export", finished_runs / "data", folder, **settings))
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export that takes pairs of texts."""
    folder = tmp_path_factory.mktemp("pairs")
    for split in ("train", "validation"):
        write_rows(folder / "data" / f"{split}.jsonl", [{"premise": "the film", **row} for row in sentences(split)])
    columns = {"data__text_column_names": ["premise", "text"], "data__test_file": None, "data__unlabeled_file": None}
    base = write_base_model(folder / "base")
    run("finetune", make_config("finetune", folder / "data", folder / "model", model=base, **columns))
    verify = {"min_agreement": 0.5, "max_metric_drop": 1.0}
    settings: dict[str, Any] = {"model": folder / "model", "quantize": "int8", "verify": verify, **columns}
    run("export", make_config("export", folder / "data", folder / "export", **settings))
    return folder / "export"


def output_of(*words: object) -> Any:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=300, cwd="/")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def probabilities(folder: Path, texts: list[str] = TEXTS) -> list[dict[str, float]]:
    return [output["probabilities"] for output in predict.run(str(folder), texts)]


def by_label(results: list[list[dict[str, Any]]]) -> list[dict[str, float]]:
    return [{score["label"]: score["score"] for score in scores} for scores in results]


@pytest.mark.node
@needs_node
@pytest.mark.parametrize("dtype", ["q8", "fp32"])
def test_transformers_js_in_node_gives_the_same_probabilities(dtype: str, exported: Path) -> None:
    words = ["node", SCRIPTS / "node.mjs", RUNTIMES / "node_modules", exported.parent, exported.name, dtype, *TEXTS]
    for scores, expected in zip(by_label(output_of(*words)), probabilities(exported), strict=True):
        assert scores == pytest.approx(expected, abs=1e-3 if dtype == "q8" else 0.05)


@pytest.mark.browser
@needs_node
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_of_the_docs_is_offline_and_gives_the_same_probabilities(exported: Path, tmp_path: Path) -> None:
    (page,) = re.findall(r"```html\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    page = page.replace('"The parcel never arrived."', json.dumps(TEXTS)).replace('"export"', json.dumps(exported.name))
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    modules = RUNTIMES / "node_modules"
    output = output_of("node", SCRIPTS / "browser.mjs", modules, exported.parent, CHROMIUM, tmp_path / "page.html")
    assert output["foreign"] == []  # requests to other hosts
    for scores, expected in zip(by_label(json.loads(output["text"])), probabilities(exported), strict=True):
        assert scores == pytest.approx(expected, abs=0.01)


@pytest.mark.optimum
@pytest.mark.parametrize("file", ["model.onnx", "model_quantized.onnx"])
def test_optimum_gives_the_same_probabilities(file: str, exported: Path) -> None:
    scores = output_of(PYTHON, SCRIPTS / "optimum_scores.py", exported, file, *TEXTS)
    for row, expected in zip(scores, probabilities(exported), strict=True):
        assert row == pytest.approx(list(expected.values()), abs=1e-3 if "quantized" in file else 0.05)


@pytest.mark.optimum
@pytest.mark.parametrize("file", ["model.onnx", "model_quantized.onnx"])
def test_a_cross_encoder_gives_the_same_probabilities_of_pairs(file: str, pairs: Path) -> None:
    texts = [f"the film\t{text}" for text in TEXTS]
    scores = output_of(PYTHON, SCRIPTS / "cross_encoder_scores.py", pairs, file, *texts)
    for row, expected in zip(scores, probabilities(pairs, texts), strict=True):
        assert row == pytest.approx(list(expected.values()), abs=1e-3 if "quantized" in file else 0.05)
