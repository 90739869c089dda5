"""Model folders of each family as published ones are: a random encoder without a head, and a trained tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers import models as algorithms
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Folder:
    """What differs between the folders of two families."""

    model_type: str
    algorithm: str  # WordPiece, BPE (of bytes) or Unigram (of SentencePiece)
    special: tuple[str, ...]  # in the order of their ids; PAD, UNK, CLS, SEP and MASK are found by their names
    after: tuple[str, ...] = ()  # special tokens with ids above those of all others
    tokenizer_class: str = "PreTrainedTokenizerFast"
    token_types: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    unused_ids: int = 0  # embeddings beyond the tokens


BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
XLM_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
DEBERTA = {
    "relative_attention": True, "pos_att_type": "p2c|c2p", "position_biased_input": False, "max_relative_positions": -1,
    "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_buckets": 16, "type_vocab_size": 0,
}  # fmt: skip
FOLDERS = {
    "mpnet": Folder("mpnet", "WordPiece", ("<s>", "<pad>", "</s>", "[UNK]", "<mask>"), tokenizer_class="MPNetTokenizer"),
    "albert": Folder(
        "albert", "Unigram", ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"), tokenizer_class="AlbertTokenizer",
        token_types=True, config={"embedding_size": 16},
    ),
    "deberta-v2": Folder(
        "deberta-v2", "Unigram", ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), ("[MASK]",), "DebertaV2Tokenizer",
        token_types=True, config={**DEBERTA, "conv_kernel_size": 3, "conv_act": "gelu"},
    ),
    "deberta-v3": Folder(
        "deberta-v2", "Unigram", ("[PAD]", "[CLS]", "[SEP]", "[UNK]"), ("[MASK]",), "DebertaV2Tokenizer",
        token_types=True, config=DEBERTA,
    ),
    "modernbert": Folder(
        "modernbert", "BPE", (), ("[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"), config={"local_attention": 8},
        unused_ids=11,
    ),
    "multilingual-minilm": Folder("bert", "Unigram", XLM_TOKENS, ("<mask>",), "XLMRobertaTokenizer", unused_ids=35),
    "e5": Folder("xlm-roberta", "Unigram", XLM_TOKENS, ("<mask>",), "XLMRobertaTokenizer"),
}  # fmt: skip


def write_family_folder(name: str, folder: Path, texts: Sequence[str], *, vocabulary: int, **sizes: Any) -> Path:
    """A model of this family with the four sizes of `Shape`, and a tokenizer trained on these texts."""
    kind = FOLDERS[name]
    tokenizer = train_tokenizer(kind, texts, vocabulary)
    ids = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.cls_token_id,
           "eos_token_id": tokenizer.sep_token_id}  # fmt: skip
    if name == "multilingual-minilm":
        ids = {"pad_token_id": 0}  # as published: not the padding id of its tokenizer
    if name == "modernbert":
        ids |= {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind.model_type](
        vocab_size=len(tokenizer) + kind.unused_ids, **{"max_position_embeddings": 66, **sizes}, **ids, **kind.config
    )
    AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": kind.tokenizer_class}))
    return folder


def train_tokenizer(kind: Folder, texts: Sequence[str], size: int) -> PreTrainedTokenizerFast:
    names = {name: token for name in ("pad", "unk", "cls", "sep", "mask") for token in (*kind.special, *kind.after)
             if name in token.lower() or {"cls": "<s>", "sep": "</s>"}.get(name) == token}  # fmt: skip
    shared: dict[str, Any] = {"vocab_size": size, "special_tokens": list(kind.special), "show_progress": False}
    trainer: Any
    if kind.algorithm == "WordPiece":
        backend = Tokenizer(algorithms.WordPiece(unk_token=names["unk"]))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder, trainer = decoders.WordPiece(), trainers.WordPieceTrainer(**shared)
    elif kind.algorithm == "BPE":
        backend = Tokenizer(algorithms.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **shared)
    else:
        backend = Tokenizer(algorithms.Unigram())
        lower = [normalizers.Lowercase()] if kind.model_type == "albert" else []  # as its class does
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), *lower])
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token=names["unk"], **shared)
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens(list(kind.after))
    first, last = names["cls"], names["sep"]
    second = f"{last} {last}" if first == "<s>" else last
    backend.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {second} $B:1 {last}:1" if kind.token_types else f"{first} $A {second} $B {last}",
        special_tokens=[(token, backend.token_to_id(token)) for token in (first, last)],
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if kind.token_types else ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=inputs, **{f"{name}_token": token for name, token in names.items()}
    )
