"""Folders of each family, with their kind of tokenizer, through the stages: training, labels, trimming, export, predict."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import GOOD, make_config, run, sentences, write_sentences
from family_folders import FOLDERS, write_family_folder

from tinybert_cli import models
from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.formats.int8 import parts_of_onnx, prepare_int8, quantize_onnx
from tinybert_cli.formats.onnx import OnnxSession, write_onnx
from tinybert_cli.helpers import predict
from tinybert_cli.tasks.encoding import encode_texts
from tinybert_cli.types import Rows

SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24,
    "initializer_range": 0.3,
}  # fmt: skip
LOSSES = ("hidden_states", "embeddings", "attentions", "cosine", "pooled")
RARE = [
    "zebra", "quartz", "jumping", "vexed", "foxes", "kayak", "hymn", "rhythm", "walnut", "glyph", "bishop", "dwarf",
    "unlikely", "orchard", "violin", "mongrel", "puzzle", "tango", "whisky", "yonder", "fjord", "crypt", "banjo", "axiom",
]  # fmt: skip
TEXTS = [" ".join(RARE)] * 20 + [row["text"] for row in sentences("train")]
every_family = pytest.mark.parametrize("name", FOLDERS)

Finetuned = Callable[[str], Path]


@pytest.fixture(scope="session")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    """The folder with `data`, `base` and `teacher`, a model with a new head, trained for two steps on long texts."""

    @cache
    def make(name: str) -> Path:
        torch.set_num_threads(1)
        folder = tmp_path_factory.mktemp(name)
        write_sentences(folder / "data")
        write_family_folder(name, folder / "base", TEXTS, vocabulary=300, **SIZES)
        settings: dict[str, Any] = {"training__max_steps": 2, "data__max_seq_length": longest(folder / "base")}
        run("finetune", make_config("finetune", folder / "data", folder / "teacher", model=folder / "base", **settings))
        return folder

    return make


@pytest.fixture(scope="session")
def exported(finetuned: Finetuned, tmp_path_factory: pytest.TempPathFactory) -> Finetuned:
    """The float32 ONNX file of the teacher of a family."""

    @cache
    def make(name: str) -> Path:
        model, tokenizer = load(finetuned(name) / "teacher")
        pair = tokenizer(["the film was warm", "dull"], padding=True, return_tensors="pt")
        folder = tmp_path_factory.mktemp(f"{name}-onnx")
        write_onnx(model, dict(pair), folder)
        return folder / "onnx" / "model.onnx"

    return make


@every_family
@pytest.mark.parametrize("side", ["left", "right"])
def test_encoding_is_that_of_the_tokenizer(name: str, side: str, tmp_path: Path) -> None:
    """Of texts and pairs, cut and not, with odd characters and with the names of special tokens in the text."""
    write_family_folder(name, tmp_path, TEXTS, vocabulary=300, **SIZES)
    tokenizer = models.load_tokenizer(models.locate(str(tmp_path)))
    tokenizer.truncation_side = side
    specials = " ".join(tokenizer.all_special_tokens)
    texts = [*TEXTS[:25], "", "  ", "a\n\tb", "naïve ﬁne 中文 🙂\u200b", f"one {specials} two", "word " * 40]
    rows = Rows({"one": texts, "two": texts[::-1]}, (("rows.csv", len(texts)),))
    for columns in (["one"], ["one", "two"]):
        encoded = encode_texts(rows, Data(text_column_names=columns, max_seq_length=16), tokenizer)
        expected = tokenizer(*(rows.column(column) for column in columns), truncation=True, max_length=16)
        for field, (values, _) in encoded.tokens.items():
            assert values.tolist() == [value for row in expected[field] for value in row], field
        assert np.diff(encoded.offsets).tolist() == list(map(len, expected["input_ids"]))
        assert encoded.truncated == sum(bool(encoding.overflowing) for encoding in expected.encodings)


def longest(folder: Path) -> int:
    """64 of 66 positions where numbering begins after the padding id 1, or if there is no limit."""
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    return 64 if model_type in ("mpnet", "xlm-roberta", "deberta-v2") else 66


def load(folder: Path) -> tuple[Any, Any]:
    source = models.locate(str(folder))
    return models.load(source, "sequence-classification"), models.load_tokenizer(source)


def logits(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])


@every_family
def test_predict_reads_texts_up_to_the_last_position(name: str, finetuned: Finetuned) -> None:
    folder = finetuned(name)
    long = "the film was very warm and " * 30
    together = list(predict.run(str(folder / "teacher"), [long, "dull", long + GOOD[0]]))
    (alone,) = predict.run(str(folder / "teacher"), ["dull"])
    assert together[1]["confidence"] == pytest.approx(alone["confidence"], abs=1e-5)
    assert together[0]["confidence"] == pytest.approx(together[2]["confidence"], abs=1e-5)  # cut at the same token
    model, tokenizer = load(folder / "teacher")
    cut = tokenizer(long, truncation=True, max_length=longest(folder / "base"), return_tensors="pt")
    assert cut["input_ids"].shape[1] == longest(folder / "base")
    with torch.no_grad():
        expected = model(**cut).logits.softmax(-1).max().item()
    assert together[0]["confidence"] == pytest.approx(expected, abs=1e-5)


@every_family
def test_more_tokens_than_positions_are_an_error(name: str, finetuned: Finetuned) -> None:
    folder = finetuned(name)
    if FOLDERS[name].model_type == "deberta-v2":
        pytest.skip("relative positions have no limit")
    limit = longest(folder / "base")
    config = make_config(
        "finetune", folder / "data", folder / "x", model=folder / "base", data__max_seq_length=limit + 1
    )
    with pytest.raises(InputError, match=f"has positions for {limit} tokens, not for {limit + 1}"):
        run("finetune", config)


@every_family
def test_trimmed_student_learns_from_layers_and_reads_the_same_tokens(
    name: str, finetuned: Finetuned, tmp_path: Path
) -> None:
    """Trimming needs the used tokens only: also where the ids of special tokens are the last ones of the vocabulary."""
    folder = finetuned(name)
    teacher = folder / "teacher"
    short: dict[str, Any] = {"data__max_seq_length": 16}
    labels = make_config("gen-soft-labels", folder / "data", tmp_path / "labels", teacher=teacher, check_teacher=False,
                         **short)  # fmt: skip
    run("gen-soft-labels", labels)
    losses: dict[str, Any] = {**dict.fromkeys(LOSSES, 1.0), "soft_labels": 1.0, "relations": {"relation_heads": 2}}
    config = make_config(
        "distill", folder / "data", tmp_path / "student", label_dataset=tmp_path / "labels", teacher=teacher,
        student={"from": str(teacher), "num_hidden_layers": 1}, losses=losses, training__max_steps=2, **short,
    )  # fmt: skip
    run("distill", config)
    (model, tokenizer), (_, before) = load(tmp_path / "student"), load(teacher)
    texts = [row["text"] for row in sentences("validation")]
    used = {token for text in TEXTS[20:] for token in before(text)["input_ids"]}
    tokens, expected = [before.tokenize(text) for text in texts], logits(model, tokenizer, texts)
    original = [before(text)["input_ids"] for text in texts]
    trimmed = models.trim_vocabulary(model, tokenizer, sorted(used))
    assert trimmed.sizes["vocabulary_size"] < trimmed.sizes["source_vocabulary_size"] - len(RARE) // 2
    assert [trimmed.new_ids[ids].tolist() for ids in original] == [trimmed.tokenizer(t)["input_ids"] for t in texts]
    models.save(model, trimmed.tokenizer, tmp_path / "trimmed")
    loaded, loaded_tokenizer = load(tmp_path / "trimmed")
    models.check_vocabulary(loaded, loaded_tokenizer, models.locate(str(tmp_path / "trimmed")))
    assert [loaded_tokenizer.tokenize(text) for text in texts] == tokens
    assert torch.allclose(logits(loaded, loaded_tokenizer, texts), expected, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in FOLDERS if name not in ("multilingual-minilm", "e5")])
def test_onnx_has_the_logits_of_the_model_and_int8_ranks_as_it(
    name: str, finetuned: Finetuned, exported: Finetuned, tmp_path: Path
) -> None:
    model, tokenizer = load(finetuned(name) / "teacher")
    texts = [row["text"] for row in sentences("validation")]
    file = exported(name)
    session = OnnxSession(file)
    for batch in (texts[2:9], [texts[9]], ["the film was warm " * 12, "dull", texts[10]]):
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            expected = model(**inputs).logits.numpy()
        actual = session({key: value.numpy() for key, value in inputs.items()})
        assert np.abs(actual - expected).max() < 1e-4
    rows = [{key: value.numpy() for key, value in tokenizer(text, return_tensors="pt").items()} for text in texts]
    quantize_onnx(file, tmp_path / "int8.onnx", prepare_int8(file, rows))
    int8 = OnnxSession(tmp_path / "int8.onnx")
    margins = np.array([np.subtract(*session(row)[0]) for row in rows])
    int8_margins = np.array([np.subtract(*int8(row)[0]) for row in rows])
    assert np.corrcoef(margins, int8_margins)[0, 1] > 0.97
    layers = [part for part in parts_of_onnx(file) if "layer" in part]
    assert len(layers) == (1 if name == "albert" else 2)


def test_int8_stores_the_weights_of_shared_layers_once(
    finetuned: Finetuned, exported: Finetuned, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    _, tokenizer = load(finetuned("albert") / "teacher")
    text = tokenizer("the film was warm", return_tensors="pt")
    file = exported("albert")
    products = prepare_int8(file, [{key: value.numpy() for key, value in text.items()}])
    quantize_onnx(file, tmp_path / "int8.onnx", products)
    graph = onnx.load(str(tmp_path / "int8.onnx")).graph
    assert sum(list(tensor.dims) == [16, 24] for tensor in graph.initializer) == 1  # the feed-forward network
    layer_products = [node for node in graph.node if node.name in products[8] and "/ffn" in node.name]
    layer_products = [node for node in layer_products if "ffn_output" not in node.name]
    assert len(layer_products) == 2
    assert len({node.input[2] for node in layer_products}) > 1  # the scale of each input is its own


def test_int8_stores_what_deberta_computes_for_distances(
    finetuned: Finetuned, exported: Finetuned, tmp_path: Path
) -> None:
    """ONNX Runtime would compute integer products of constants again in every run."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    _, tokenizer = load(finetuned("deberta-v3") / "teacher")
    text = tokenizer("the film was warm", return_tensors="pt")
    file = exported("deberta-v3")
    products = prepare_int8(file, [{key: value.numpy() for key, value in text.items()}])
    quantize_onnx(file, tmp_path / "int8.onnx", products)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(str(tmp_path / "optimized.onnx")).graph
    constants = {tensor.name for tensor in graph.initializer}
    again = [node.name for node in graph.node if node.input and constants.issuperset(filter(None, node.input))]
    assert not again
    assert sum(node.op_type == "MatMulIntegerToFloat" for node in graph.node) == 2 * 6 + 2  # layers, pooler, classifier
