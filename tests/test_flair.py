"""`tinybert.flair.Model` and model folders in flair, in an environment of its own: `make test-flair`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flair")
pytestmark = pytest.mark.flair

MODELS = Path(os.environ.get("FLAIR_MODELS", "missing"))  # written by tests/integration_models.py
CLASSIFIER, TAGGER = MODELS / "text-classification", MODELS / "token-classification"


@pytest.fixture(scope="module")
def sentence() -> Any:
    from flair.data import Sentence

    return Sentence


def load(folder: Path, **options: Any) -> Any:
    from tinybert.flair import Model

    return Model(folder / "export", **options)


def test_classifier_adds_its_class_with_the_probability(sentence: Any) -> None:
    from tinybert_cli.predictor import load_predictor

    model, texts = load(CLASSIFIER), ["a very lovely film .", "dull plot"]
    sentences = [sentence(text) for text in texts]
    model.predict(sentences)
    for one, expected in zip(sentences, load_predictor(str(CLASSIFIER / "export")).predict(texts), strict=True):
        (label,) = one.get_labels("class")
        assert label.value == expected["prediction"] and label.score == pytest.approx(expected["confidence"], abs=1e-5)


def test_multi_label_model_adds_the_classes_that_reach_their_thresholds(sentence: Any) -> None:
    from tinybert_cli.predictor import load_predictor

    folder, one = MODELS / "multi-label-classification", sentence("the film is great .")
    load(folder, label_type="topic").predict(one)
    (expected,) = load_predictor(str(folder / "export")).predict(["the film is great ."])
    assert [label.value for label in one.get_labels("topic")] == expected["prediction"]


def test_tagger_labels_the_spans_of_entities(sentence: Any) -> None:
    one = sentence("a very lovely film was dull .")
    load(TAGGER).predict(one)
    spans = one.get_spans("ner")
    assert [(span.text, span.tag) for span in spans] == [("lovely", "GOOD"), ("dull", "BAD")]
    assert all(0 < span.score <= 1 for span in spans)


def test_second_prediction_replaces_the_first(sentence: Any) -> None:
    one, model = sentence("a very lovely film was dull ."), load(TAGGER)
    model.predict(one)
    model.predict([one])
    assert len(one.get_spans("ner")) == 2


def test_empty_sentence_gets_no_label(sentence: Any) -> None:
    sentences = [sentence(""), sentence("dull plot")]
    load(CLASSIFIER).predict(sentences)
    assert [len(one.labels) for one in sentences] == [0, 1]


def test_sentence_of_100000_characters_is_cut_as_in_training(sentence: Any, caplog: pytest.LogCaptureFixture) -> None:
    long = "a very lovely film " * 6000
    sentences = [sentence(long), sentence(" ".join(long.split()[:10]))]  # with two special tokens: 12
    load(CLASSIFIER).predict(sentences)
    whole, cut = (one.get_label("class") for one in sentences)
    assert whole.value == cut.value and whole.score == pytest.approx(cut.score, abs=1e-6)
    assert caplog.messages == ["a text is longer than 12 tokens and was cut, as in training"]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx"])
def test_a_missing_file_of_the_export_is_named(name: str, tmp_path: Path) -> None:
    from tinybert.flair import Model
    from tinybert_cli.errors import InputError

    folder = shutil.copytree(CLASSIFIER / "export", tmp_path / "export")
    for missing in ("manifest.json", name):
        (folder / missing).unlink()
    with pytest.raises(InputError, match=f"the export has no .*{name}"):
        Model(folder)


def test_entity_inside_of_a_token_labels_the_token_with_a_warning(
    sentence: Any, caplog: pytest.LogCaptureFixture
) -> None:
    one, model = sentence("lovelyfilm was"), load(TAGGER)
    model._add_span(one, {"type": "GOOD", "text": "lovely", "begin": 0, "end": 6, "score": 0.5})
    assert [span.text for span in one.get_spans("ner")] == ["lovelyfilm"] and "is a part of" in caplog.text


def test_model_folder_gives_the_embeddings_of_transformers(sentence: Any) -> None:
    import torch
    from flair.embeddings import TransformerDocumentEmbeddings, TransformerWordEmbeddings
    from transformers import AutoModel, AutoTokenizer

    folder, text = str(CLASSIFIER / "model"), "a very lovely film ."
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    document, words = sentence(text), sentence(text)
    TransformerDocumentEmbeddings(folder, fine_tune=False).embed(document)
    TransformerWordEmbeddings(folder, layers="-1", fine_tune=False).embed(words)
    torch.testing.assert_close(document.embedding, hidden[0])
    torch.testing.assert_close(torch.stack([token.embedding for token in words]), hidden[1:-1])
