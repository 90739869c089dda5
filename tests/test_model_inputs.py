"""One tokenization path: what a model folder records about its inputs, and that everything that loads it obeys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BAD, GOOD, make_config, run, sentences, write_base_model, write_rows
from typer.testing import CliRunner

from tinybert_cli import cli, data, loops, tasks
from tinybert_cli.config import Data
from tinybert_cli.predictor import load_predictor

LONG = [f"{'the film was ' * 12}{word}" for word in (*GOOD, *BAD)]  # the last word is beyond 16 tokens
ONE_STEP = {"training__max_steps": 1, "training__eval_strategy": "no"}


def edit_json(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def command(*words: str, given: bytes | None = None) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command line, in this process."""
    result = CliRunner().invoke(cli.app, list(words), input=given)
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that cuts at 16 tokens on the left, its export, and the data."""
    folder = tmp_path_factory.mktemp("left")
    for split in ("train", "validation"):
        write_rows(folder / "data" / f"{split}.jsonl", sentences(split))
    edit_json(write_base_model(folder / "base") / "tokenizer_config.json", truncation_side="left")
    files = {"data__test_file": None, "data__unlabeled_file": None}
    settings = {**files, "training__num_train_epochs": 1.0}
    run("finetune", make_config("finetune", folder / "data", folder / "model", model=folder / "base", **settings))
    loose = {"min_agreement": 0.0, "max_metric_drop": 1.0}
    export = make_config("export", folder / "data", folder / "export", model=folder / "model", verify=loose, **files)
    run("export", export)
    return folder


def logits_of(folder: Path, texts: list[str]) -> Any:
    """The logits as `eval` computes them, with the settings of training."""
    settings = Data(max_seq_length=16)
    predictor = load_predictor(str(folder), task=tasks.find_prediction_task("text-classification"))
    rows = tasks.base.Rows({"text": texts}, (("texts", len(texts)),))
    examples = data.Examples.of(predictor.task.encode(rows, settings, predictor.tokenizer))
    return loops.predict_all(predictor.module, examples, data.sorted_batches(examples.lengths, 5))


def probabilities(outputs: Any) -> Any:
    return np.array([[output["probabilities"][name] for name in ("bad", "good")] for output in outputs])


def test_every_path_cuts_at_the_recorded_length_and_side(left: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    logits = logits_of(left / "model", LONG)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert np.ptp(expected[:, 0]) > 1e-3  # the last words are read
    (tmp_path / "texts.txt").write_text("\n".join(LONG))
    for model in ("model", "export"):
        folder = str(left / model)
        assert probabilities(load_predictor(folder).predict(LONG)) == pytest.approx(expected, abs=1e-4)
        for words, given in ((LONG, None), (["--file", str(tmp_path / "texts.txt")], None), ([], "\n".join(LONG))):
            _, out, _ = command("predict", folder, "--json", *words, given=given and given.encode())
            assert probabilities(json.loads(out)["answers"]) == pytest.approx(expected, abs=1e-4)
    outputs = pipeline("text-classification", str(left / "model"), truncation=True, top_k=None)(LONG)
    scores = [{score["label"]: score["score"] for score in output} for output in outputs]
    assert [[score["bad"], score["good"]] for score in scores] == [pytest.approx(row, abs=1e-4) for row in expected]


def test_the_tokenizer_alone_cuts_as_the_model_was_trained(left: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    for name in ("model", "export"):
        ids = AutoTokenizer.from_pretrained(left / name)(LONG[0], truncation=True)["input_ids"]
        assert len(ids) == 16 and Tokenizer.from_file(str(left / name / "tokenizer.json")).encode(LONG[0]).ids == ids
