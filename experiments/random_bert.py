"""A BERT with random weights, for languages without a pre-trained model in a package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

LAYERS = 6
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def random_bert(data: Mapping[str, Any], folder: Path) -> Path:
    """Writes a BERT with random weights and 6 layers of 256, unless it is there; returns its folder.

    Args:
        data: a `data` section; the vocabulary is the characters of its training text, in lower case.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, set_seed

    from tinybert_cli import config
    from tinybert_cli import data as readers

    if (folder / "model.safetensors").exists():  # is written last
        return folder
    rows = readers.read(config.Data(**data), "train")
    column = rows.column(str(data.get("text_column_names", "text")))
    words = (word for text in column for word in text)
    characters = sorted({character.lower() for word in words for character in word if character.strip()})
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *characters])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=1))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    isolate = pre_tokenizers.Split(Regex("."), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), isolate])
    backend.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    set_seed(42)
    shape = BertConfig(vocab_size=len(vocabulary), hidden_size=256, num_hidden_layers=LAYERS, num_attention_heads=4,
                       intermediate_size=1024)  # fmt: skip
    BertForMaskedLM(shape).save_pretrained(folder)
    return folder
