"""A trimmed vocabulary reads the same text in the same way, with fewer embeddings."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as kinds
from transformers import (
    BertConfig,
    BertForSequenceClassification,
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
}


def text(words: list[str], seed: int, count: int = 60) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(words, k=draw.randint(1, 9))) for _ in range(count)]


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Trained on both lists of words, so that the second one's pieces can go."""
    special = SPECIAL[kind]
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    corpus = text(WORDS + EXTRA, 0, 400)
    if kind == "WordPiece":
        backend = Tokenizer(kinds.WordPiece(unk_token="[UNK]"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    else:
        names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), special, strict=True))
    if kind == "BPE":
        backend = Tokenizer(kinds.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    if kind == "Unigram":
        backend = Tokenizer(kinds.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    backend.train_from_iterator(corpus, trainer)
    first, last = names["cls_token"], names["sep_token"]
    ids = {name: backend.token_to_id(name) for name in (first, last)}
    if kind == "BPE":
        backend.post_processor = processors.RobertaProcessing((last, ids[last]), (first, ids[first]))
    else:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", pair=f"{first} $A {last} $B {last}", special_tokens=list(ids.items())
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def model(kind: str, tokens: PreTrainedTokenizerFast) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokens) + 3, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2,
        "intermediate_size": 24, "initializer_range": 0.5, "max_position_embeddings": 200, "pad_token_id": tokens.pad_token_id,
    }  # fmt: skip
    if kind == "WordPiece":
        return BertForSequenceClassification(BertConfig(**sizes)).eval()
    return RobertaForSequenceClassification(RobertaConfig(**sizes)).eval()


def used(tokens: PreTrainedTokenizerFast, texts: list[str]) -> set[int]:
    return {number for ids in tokens(texts)["input_ids"] for number in ids}


def logits(net: Any, tokens: PreTrainedTokenizerFast, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([net(**tokens(one, return_tensors="pt", return_token_type_ids=False)).logits for one in texts])


@pytest.mark.parametrize("kind", SPECIAL)
def test_text_of_kept_pieces_is_split_as_before_and_gets_the_same_logits(kind: str) -> None:
    tokens = make_tokenizer(kind)
    net = model(kind, tokens)
    learned, unseen = text(WORDS, 1), text(WORDS, 2)
    before = [tokens.tokenize(one) for one in unseen]
    expected = logits(net, tokens, unseen)
    trimmed, facts = models.trim_vocabulary(net, tokens, used(tokens, learned))
    assert used(tokens, unseen) <= used(tokens, learned)
    assert [trimmed.tokenize(one) for one in unseen] == before
    assert torch.equal(logits(net, trimmed, unseen), expected)
    assert facts["pieces_kept"] == len(trimmed) == net.config.vocab_size < facts["pieces"] == len(tokens) + 3
    assert facts["bytes_saved"] == (facts["pieces"] - facts["pieces_kept"]) * 16 * 4
    assert len(tokens) > len(trimmed)  # the first one is left as it was


@pytest.mark.parametrize("kind", SPECIAL)
def test_other_text_can_still_be_read(kind: str) -> None:
    tokens = make_tokenizer(kind)
    trimmed, _ = models.trim_vocabulary(model(kind, tokens), tokens, used(tokens, text(WORDS, 1)))
    ids = trimmed("a zebra and some quartz")["input_ids"]
    assert trimmed.unk_token_id not in ids
    assert trimmed.decode(ids, skip_special_tokens=True).replace(" ", "").strip() == "azebraandsomequartz"


@pytest.mark.parametrize("kind", SPECIAL)
def test_both_come_back_from_disk(kind: str, tmp_path: Path) -> None:
    tokens = make_tokenizer(kind)
    net = model(kind, tokens)
    trimmed, _ = models.trim_vocabulary(net, tokens, used(tokens, text(WORDS, 1)))
    models.save(net, trimmed, tmp_path)
    source = models.locate(str(tmp_path))
    again, loaded = models.load_tokenizer(source), models.load(source, "sequence-classification")
    models.check_vocabulary(loaded, again, source)
    assert models.tokenizer_difference(trimmed, again) is None
    texts = text(WORDS + EXTRA, 3)
    assert torch.allclose(logits(loaded, again, texts), logits(net, trimmed, texts), atol=1e-5)
    assert (tmp_path / "vocab.txt").exists() == (kind == "WordPiece")


def test_pairs_keep_their_special_tokens() -> None:
    tokens = make_tokenizer("BPE")
    trimmed, _ = models.trim_vocabulary(model("BPE", tokens), tokens, used(tokens, text(WORDS, 1)))
    pair = ("the film", "was warm")
    assert trimmed.convert_ids_to_tokens(trimmed(*pair)["input_ids"]) == tokens.convert_ids_to_tokens(
        tokens(*pair)["input_ids"]
    )


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    backend = Tokenizer(kinds.WordLevel({"[UNK]": 0, "[PAD]": 1, "film": 2}, unk_token="[UNK]"))
    tokens = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    with pytest.raises(InputError, match="WordLevel"):
        models.trim_vocabulary(model("WordPiece", tokens), tokens, [2])


def test_the_tokenizer_file_holds_no_piece_too_many(tmp_path: Path) -> None:
    tokens = make_tokenizer("BPE")
    trimmed, facts = models.trim_vocabulary(model("BPE", tokens), tokens, used(tokens, text(WORDS, 1)))
    description = json.loads(trimmed.backend_tokenizer.to_str())["model"]
    assert sorted(description["vocab"].values()) == list(range(facts["pieces_kept"]))
    assert all(left + right in description["vocab"] for left, right in description["merges"])
