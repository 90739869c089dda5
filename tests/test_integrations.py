"""Exports in other libraries: what is refused before a library is needed, and texts as these libraries have them."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tinybert_cli.config import Export
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.formats import FORMATS, spacy
from tinybert_cli.integrations import text_predictor
from tinybert_cli.integrations.text_predictor import TextPredictor
from tinybert_cli.predictor import Predictor
from tinybert_cli.stages import checks
from tinybert_cli.tasks import TASKS, ModelInputs, TokenizerFile

FILE = {"validation_file": "dev.jsonl"}


def check(task: str, **settings: Any) -> None:
    checks.check(
        "export", Export.model_validate({"task": task, "model": "m", "output_dir": "o", "data": FILE, **settings})
    )


@pytest.mark.parametrize("task", ["regression", "question-answering", "translation"])
def test_spacy_is_refused_for_tasks_without_classes_or_entities(task: str) -> None:
    with pytest.raises(ConfigError, match="have no `format: spacy`") as error:
        check(task, format="spacy")
    assert error.value.exit_code == 2 and "onnx" in (error.value.hint or "")


def test_spacy_is_refused_for_language_modeling() -> None:
    with pytest.raises(ConfigError, match="makes no predictions"):
        check("language-modeling", format="spacy")


def test_spacy_is_refused_for_pairs_of_texts() -> None:
    with pytest.raises(ConfigError, match="one text, and the model takes two texts, a and b"):
        check("text-classification", format="spacy", data={**FILE, "text_column_names": ["a", "b"]})


def test_language_has_no_effect_on_other_formats() -> None:
    check("text-classification", format="spacy", language="de")
    with pytest.raises(ConfigError, match="`language` has no effect"):
        check("text-classification", format="onnx", language="de")


def test_missing_spacy_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="'spacy' is not installed") as error:
        spacy.blank_pipeline("en")
    assert error.value.hint == "pip install 'tinybert[spacy]'" and error.value.exit_code == 3


def test_folder_of_a_pipeline_is_detected_by_the_export_in_it(tmp_path: Path) -> None:
    from tinybert_cli import formats

    file = tmp_path / "tinybert" / FORMATS["onnx"].weights
    file.parent.mkdir(parents=True)
    file.touch()
    assert formats.detect(tmp_path) is FORMATS["spacy"] and formats.detect(tmp_path / "tinybert") is FORMATS["onnx"]


class FakePredictor:
    """Predicts the length of a text."""

    def __init__(self, task: str = "text-classification", columns: tuple[str, ...] | None = ("text",)) -> None:
        self.task, self.label_names, self.calls = TASKS[task], ["O", "B-X", "I-X", "B-Y"], []
        self.inputs = ModelInputs(16, "right", columns, None)

    def predict(self, texts: list[str]) -> Any:
        self.calls.append(texts)
        return ({"text": text, "prediction": len(text)} for text in texts)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    one = FakePredictor()
    monkeypatch.setattr(text_predictor, "load_predictor", lambda folder: one)
    return one


def test_texts_are_predicted_by_length_and_returned_in_their_order(fake: FakePredictor) -> None:
    predictions = TextPredictor(Path("e")).predict(["long text", "", "a", " \n", "mid"])
    assert list(predictions) == [{"prediction": 9}, None, {"prediction": 1}, None, {"prediction": 3}]
    assert fake.calls == [["a", "mid", "long text"]]


def test_pickled_predictor_opens_the_model_again(fake: FakePredictor) -> None:
    model = TextPredictor(Path("e"))
    list(model.predict(["a"]))
    assert pickle.loads(pickle.dumps(model))._predictor is None and model._predictor is fake


def test_model_is_opened_again_in_a_forked_process(fake: FakePredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TextPredictor(Path("e"))
    first = model.predictor
    second = FakePredictor()
    monkeypatch.setattr(text_predictor, "load_predictor", lambda folder: second)
    assert model.predictor is first
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert model.predictor is second and first in text_predictor._inherited


@pytest.mark.parametrize(
    ("forked", "before", "after"),
    [(True, "true", "false"), (True, None, None), (False, "true", "true")],
    ids=["fork", "fork, not set", "no fork"],
)
def test_fork_waits_for_no_threads_of_the_tokenizer(
    forked: bool, before: str | None, after: str | None, fake: FakePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the parent process has opened no model: it may have used another tokenizer."""
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if before is not None:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", before)
    if forked:
        monkeypatch.setattr("os.getpid", lambda: -1)
    assert TextPredictor(Path("e")).predictor is fake
    assert os.environ.get("TOKENIZERS_PARALLELISM") == after


@pytest.mark.parametrize(
    ("task", "columns", "message"),
    [
        ("regression", ("text",), "a model for regression has no labels or entities"),
        ("text-classification", ("a", "b"), "takes two texts, a and b, and a document is one text"),
    ],
)
def test_model_that_does_not_fit_a_document_is_refused(
    task: str, columns: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_predictor, "load_predictor", lambda folder: FakePredictor(task, columns))
    with pytest.raises(InputError, match=message):
        assert TextPredictor(Path("e")).predictor


def test_labels_of_a_tagger_are_the_types_of_its_entities(fake: FakePredictor) -> None:
    assert TextPredictor(Path("e")).labels == ("O", "B-X", "I-X", "B-Y")
    fake.task = TASKS["token-classification"]
    assert TextPredictor(Path("e")).labels == ("X", "Y")


def test_threads_share_a_tokenizer_with_other_settings(tmp_path: Path) -> None:
    """`no_truncation`, `enable_truncation` and encoding are one step."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = TokenizerFile(backend, ["input_ids"])

    def length(limit: int | None) -> int:
        return len(tokenizer(["a " * 50], truncation=limit is not None, max_length=limit)["input_ids"][0])

    limits = [None, 4, 8] * 300
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(length, limits)) == [limit or 50 for limit in limits]
    finally:
        sys.setswitchinterval(interval)


def test_long_text_is_cut_with_one_warning(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    from conftest import write_base_model
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(write_base_model(tmp_path) / "tokenizer.json"))
    shapes: list[tuple[int, ...]] = []

    class Session:
        inputs = ("input_ids", "attention_mask")

        def __call__(self, given: Any) -> Any:
            shapes.append(given["input_ids"].shape)
            return np.zeros((len(given["input_ids"]), 2), dtype=np.float32)

    predictor = Predictor(
        tmp_path, TASKS["text-classification"], ["a", "b"], {}, ModelInputs(16, "right", ("text",), None),
        TokenizerFile(tokenizer, Session.inputs), session=Session(),
    )  # fmt: skip
    assert not caplog.messages and list(predictor.predict(["a film"])) and not caplog.messages
    list(predictor.predict(["a very lovely film " * 6000] * 40))
    assert shapes[1:] == [(32, 16), (8, 16)]
    assert caplog.messages == ["a text is longer than 16 tokens and was cut, as in training"]


def test_tokenizer_config_has_the_names_of_transformers_4(tmp_path: Path) -> None:
    from conftest import write_base_model
    from transformers import AutoTokenizer

    from tinybert_cli import models

    tokenizer = AutoTokenizer.from_pretrained(write_base_model(tmp_path / "base"))
    tokenizer.add_special_tokens({"extra_special_tokens": ["[X]"]})
    (tmp_path / "out").mkdir()
    models.save_tokenizer(tokenizer, tmp_path / "out")
    values = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert values["tokenizer_class"] == "PreTrainedTokenizerFast" and "extra_special_tokens" not in values
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again.extra_special_tokens == values["additional_special_tokens"] == ["[X]"]
    assert again("a [X] film")["input_ids"] == tokenizer("a [X] film")["input_ids"]


class FlairToken:
    """A token of flair after `infer_space_after`, which changes the text of the sentence, but no position."""

    def __init__(self, text: str, start_position: int, whitespace_after: int) -> None:
        self.text, self.whitespace_after = text, whitespace_after
        self.start_position, self.end_position = start_position, start_position + len(text)


class FlairSentence(list[FlairToken]):
    def to_original_text(self) -> str:
        return "".join(token.text + " " * token.whitespace_after for token in self).strip()


def test_tokens_of_flair_are_where_the_predicted_text_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flair", ModuleType("flair"))
    monkeypatch.setitem(sys.modules, "flair.data", SimpleNamespace(Sentence=FlairSentence))  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "tinybert_cli.integrations.flair", raising=False)
    module = importlib.import_module("tinybert_cli.integrations.flair")
    monkeypatch.delitem(sys.modules, "tinybert_cli.integrations.flair")
    tokens = [("Oh", 0, 0), (",", 3, 0), (",", 5, 1), ("Ann", 7, 0), (",", 11, 0)]
    sentence = FlairSentence(FlairToken(*token) for token in tokens)
    assert sentence.to_original_text() == "Oh,, Ann,"
    labelled: list[str] = []

    class Slices(FlairSentence):
        def __getitem__(self, part: Any) -> Any:  # a span
            tokens = list(self)[part]
            text = " ".join(token.text for token in tokens)
            return SimpleNamespace(
                text=text, start_position=tokens[0].start_position, end_position=tokens[-1].end_position,
                add_label=lambda *label: labelled.append(text),
            )  # fmt: skip

    model = module.Model.__new__(module.Model)
    model.label_type, model._warned = "ner", False
    model._add_span(Slices(sentence), {"type": "PER", "text": "Ann", "begin": 5, "end": 8, "score": 0.9})
    assert labelled == ["Ann"] and not model._warned
