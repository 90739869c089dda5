"""Trimming a vocabulary removes embeddings, and does not change the tokens and logits of covered texts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    IBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tinybert_cli import models
from tinybert_cli.errors import InputError

WORDS = [
    "the", "film", "was", "warm", "witty", "moving", "hardly", "never", "dull", "boring", "overlong", "unwatchable",
    "watchable", "rewatching", "films",
]  # fmt: skip
EXTRA = ["zebra", "quartz", "jumping", "vexed", "foxes", "kayak", "walking", "walked", "talking", "hymn", "rhythm"]
SPECIAL = {
    "WordPiece": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "BPE": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "Unigram": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "BPE of words with ▁": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
}


def make_texts(words: list[str], seed: int, count: int = 60) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(words, k=generator.randint(1, 9))) for _ in range(count)]


def make_tokenizer(algorithm: str) -> PreTrainedTokenizerFast:
    """Trained on WORDS and EXTRA, so that the tokens of EXTRA can be removed."""
    special = SPECIAL[algorithm]
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    corpus = make_texts(WORDS + EXTRA, 0, 400)
    if algorithm == "WordPiece":
        backend = Tokenizer(tokenizer_models.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    else:
        names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), special, strict=True))
    if algorithm == "BPE":
        backend = Tokenizer(tokenizer_models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    if algorithm == "BPE of words with ▁":
        backend = Tokenizer(tokenizer_models.BPE(unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    if algorithm == "Unigram":
        backend = Tokenizer(tokenizer_models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    backend.train_from_iterator(corpus, trainer)
    first, last = names["cls_token"], names["sep_token"]
    ids = {name: backend.token_to_id(name) for name in (first, last)}
    if algorithm == "BPE":
        backend.post_processor = processors.RobertaProcessing((last, ids[last]), (first, ids[first]))
    else:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", pair=f"{first} $A {last} $B {last}", special_tokens=list(ids.items())
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def make_model(algorithm: str, tokenizer: PreTrainedTokenizerFast) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer) + 3, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2,
        "intermediate_size": 24, "initializer_range": 0.5, "max_position_embeddings": 200, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    if algorithm == "WordPiece":
        return BertForSequenceClassification(BertConfig(**sizes)).eval()
    return RobertaForSequenceClassification(RobertaConfig(**sizes)).eval()


def used_ids(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> set[int]:
    return {token for ids in tokenizer(texts)["input_ids"] for token in ids}


def logits(model: Any, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        batches = [tokenizer(text, return_tensors="pt", return_token_type_ids=False) for text in texts]
        return torch.cat([model(**batch).logits for batch in batches])


def trim(
    model: Any, tokenizer: PreTrainedTokenizerFast, used: Iterable[int]
) -> tuple[PreTrainedTokenizerFast, dict[str, int]]:
    trimmed = models.trim_vocabulary(model, tokenizer, sorted(used))
    return trimmed.tokenizer, trimmed.sizes


@pytest.mark.parametrize("algorithm", SPECIAL)
def test_text_of_remaining_tokens_has_the_same_tokens_and_logits(algorithm: str) -> None:
    tokenizer = make_tokenizer(algorithm)
    model = make_model(algorithm, tokenizer)
    training_texts, other_texts = make_texts(WORDS, 1), make_texts(WORDS, 2)
    tokens_before = [tokenizer.tokenize(text) for text in other_texts]
    ids_before = tokenizer(other_texts)["input_ids"]
    expected = logits(model, tokenizer, other_texts)
    vocabulary = models.trim_vocabulary(model, tokenizer, sorted(used_ids(tokenizer, training_texts)))
    trimmed, facts, new_ids = vocabulary.tokenizer, vocabulary.sizes, vocabulary.new_ids
    assert used_ids(tokenizer, other_texts) <= used_ids(tokenizer, training_texts)
    assert [trimmed.tokenize(text) for text in other_texts] == tokens_before
    assert [new_ids[ids].tolist() for ids in ids_before] == trimmed(other_texts)["input_ids"]
    assert torch.equal(logits(model, trimmed, other_texts), expected)
    assert (
        facts["vocabulary_size"]
        == len(trimmed)
        == model.config.vocab_size
        < facts["source_vocabulary_size"]
        == len(tokenizer) + 3
    )
    assert facts["bytes_saved"] == (facts["source_vocabulary_size"] - facts["vocabulary_size"]) * 16 * 4
    assert len(tokenizer) > len(trimmed)  # the original tokenizer is unchanged


@pytest.mark.parametrize("algorithm", SPECIAL)
def test_text_of_removed_tokens_can_still_be_tokenized(algorithm: str) -> None:
    tokenizer = make_tokenizer(algorithm)
    trimmed, _ = trim(make_model(algorithm, tokenizer), tokenizer, used_ids(tokenizer, make_texts(WORDS, 1)))
    ids = trimmed("a zebra and some quartz")["input_ids"]
    assert trimmed.unk_token_id not in ids
    assert trimmed.decode(ids, skip_special_tokens=True).replace(" ", "").strip() == "azebraandsomequartz"


def test_bytes_of_unknown_characters_stay() -> None:
    """A tokenizer with `byte_fallback`, as in mmBERT, writes a character that is no token as its bytes."""
    special, letters = ["<pad>", "<s>", "</s>", "<unk>"], [*"▁abcd"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, "▁ab", "cd"]
    backend = Tokenizer(tokenizer_models.Unigram([(token, -1.0) for token in tokens], unk_id=3, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    names = dict(zip(("pad_token", "cls_token", "sep_token", "unk_token"), special, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    trimmed, _ = trim(make_model("Unigram", tokenizer), tokenizer, used_ids(tokenizer, ["ab"]))
    assert len(trimmed) < len(tokenizer)
    assert trimmed.tokenize("ab ü €") == tokenizer.tokenize("ab ü €") and "<0xC3>" in trimmed.tokenize("ü")


@pytest.mark.parametrize("algorithm", SPECIAL)
def test_trimmed_model_and_tokenizer_reload_from_disk(algorithm: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(algorithm)
    model = make_model(algorithm, tokenizer)
    trimmed, _ = trim(model, tokenizer, used_ids(tokenizer, make_texts(WORDS, 1)))
    models.save(model, trimmed, tmp_path)
    source = models.locate(str(tmp_path))
    loaded_tokenizer, loaded = models.load_tokenizer(source), models.load(source, "sequence-classification")
    models.check_vocabulary(loaded, loaded_tokenizer, source)
    assert models.tokenizer_difference(trimmed, loaded_tokenizer) is None
    texts = make_texts(WORDS + EXTRA, 3)
    assert torch.allclose(logits(loaded, loaded_tokenizer, texts), logits(model, trimmed, texts), atol=1e-5)
    assert (tmp_path / "vocab.txt").exists() == (algorithm == "WordPiece")


def test_pairs_keep_their_special_tokens() -> None:
    tokenizer = make_tokenizer("BPE")
    trimmed, _ = trim(make_model("BPE", tokenizer), tokenizer, used_ids(tokenizer, make_texts(WORDS, 1)))
    pair = ("the film", "was warm")
    assert trimmed.convert_ids_to_tokens(trimmed(*pair)["input_ids"]) == tokenizer.convert_ids_to_tokens(
        tokenizer(*pair)["input_ids"]
    )


def test_unsupported_tokenizer_algorithm_is_rejected() -> None:
    backend = Tokenizer(tokenizer_models.WordLevel({"[UNK]": 0, "[PAD]": 1, "film": 2}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    with pytest.raises(InputError, match="WordLevel"):
        models.trim_vocabulary(make_model("WordPiece", tokenizer), tokenizer, [2])


def test_bpe_with_a_prefix_inside_words_is_rejected() -> None:
    backend = Tokenizer(tokenizer_models.BPE(continuing_subword_prefix="##", unk_token="[UNK]"))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend.train_from_iterator(make_texts(WORDS, 0), trainers.BpeTrainer(
        vocab_size=60, special_tokens=special, continuing_subword_prefix="##", show_progress=False,
    ))  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    with pytest.raises(InputError, match="BPE"):
        models.trim_vocabulary(make_model("WordPiece", tokenizer), tokenizer, [5])


def test_embeddings_of_a_special_kind_are_rejected() -> None:
    tokenizer = make_tokenizer("WordPiece")
    model = AutoModel.from_config(IBertConfig(vocab_size=len(tokenizer), hidden_size=8, num_attention_heads=2,
                                              num_hidden_layers=1, intermediate_size=8))  # fmt: skip
    with pytest.raises(InputError, match="embeddings of ibert models cannot be trimmed"):
        models.trim_vocabulary(model, tokenizer, [5])


def test_an_id_beyond_the_vocabulary_stays() -> None:
    """The default ids of some configs are those of a larger vocabulary, and may not be null."""
    tokenizer = make_tokenizer("BPE")
    model = make_model("BPE", tokenizer)
    model.config.bos_token_id = 100_000
    trim(model, tokenizer, used_ids(tokenizer, make_texts(WORDS, 1)))
    assert model.config.bos_token_id == 100_000


def test_tokenizer_file_has_only_the_remaining_tokens_and_merges(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("BPE")
    trimmed, facts = trim(make_model("BPE", tokenizer), tokenizer, used_ids(tokenizer, make_texts(WORDS, 1)))
    description = json.loads(trimmed.backend_tokenizer.to_str())["model"]
    assert sorted(description["vocab"].values()) == list(range(facts["vocabulary_size"]))
    assert all(left + right in description["vocab"] for left, right in description["merges"])
