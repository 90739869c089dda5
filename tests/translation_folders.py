"""Tiny encoder-decoder models with random weights, a folder per family, with the files that published models have."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ENGLISH = ["The old man sees a red house.", "A young woman paints the small boat.", "Two dogs run near the river.",
           "A child with a blue hat eats bread.", "The horse stands behind a wooden fence.", "Ein Wort, two words!"]  # fmt: skip
GERMAN = ["Der alte Mann sieht ein rotes Haus.", "Eine junge Frau malt das kleine Boot.", "Zwei Hunde laufen am Fluss.",
          "Ein Kind mit blauem Hut isst Brot.", "Das Pferd steht hinter einem Holzzaun.", "Straße, Übung, größer!"]  # fmt: skip
LANGUAGES = {
    "nllb": ("eng_Latn", "deu_Latn"),
    "m2m100": ("en", "de"),
    "mbart": ("en_XX", "de_DE"),
    "mbart50": ("en_XX", "de_DE"),
}
FAMILIES = ("marian", "t5", "mt5", "bart", "mbart", "mbart50", "nllb", "m2m100")
SHAPE: dict[str, Any] = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64, "dropout": 0.0,
}  # fmt: skip


def languages_of(family: str) -> dict[str, str]:
    """The keyword arguments of `load_translation_tokenizer`, which are also settings of `data`."""
    codes = LANGUAGES.get(family)
    return {} if codes is None else dict(zip(("source_language", "target_language"), codes, strict=True))


def write_family(folder: Path, family: str, **options: Any) -> Path:
    """A model folder of this family."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(3)
    config, model_class = _WRITERS[family](folder)
    for name, value in options.items():
        setattr(config, name, value)
    model = model_class(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3)  # outputs that depend on the input
        if family == "marian":
            model.get_input_embeddings().weight[config.pad_token_id] = 0
    model.save_pretrained(folder)
    return folder


def sentencepiece_model(texts: Sequence[str], folder: Path, name: str, kind: str, size: int) -> list[str]:
    """Trains NAME.model in the folder, returns its pieces."""
    file = folder / f"{name}.txt"
    file.write_text("\n".join(texts), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(file), model_prefix=str(folder / name), vocab_size=size, model_type=kind, minloglevel=2,
        hard_vocab_limit=False, bos_id=-1, eos_id=0, unk_id=1,
    )  # fmt: skip
    file.unlink()
    (folder / f"{name}.vocab").unlink()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{name}.model"))
    return [processor.id_to_piece(index) for index in range(processor.get_piece_size())]


def _marian(folder: Path) -> tuple[Any, Any]:
    """Two SentencePiece models with one vocabulary, as in the models of Helsinki-NLP; multilingual on the target side."""
    pieces: list[str] = []
    for name, texts in (("source", ENGLISH), ("target", GERMAN)):
        pieces += sentencepiece_model(texts, folder, name, "unigram", 80)
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
    vocabulary = list(dict.fromkeys(["</s>", "<unk>", *pieces, ">>deu<<", "<pad>"]))
    _write(folder / "vocab.json", {token: index for index, token in enumerate(vocabulary)})
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "MarianTokenizer", "model_max_length": 512})
    last = len(vocabulary) - 1
    config = transformers.MarianConfig(
        vocab_size=len(vocabulary), pad_token_id=last, eos_token_id=0, decoder_start_token_id=last,
        forced_eos_token_id=None, scale_embedding=True, **SHAPE,
    )  # fmt: skip
    return config, transformers.MarianMTModel


def _m2m100(folder: Path) -> tuple[Any, Any]:
    pieces = sentencepiece_model([*ENGLISH, *GERMAN], folder, "sentencepiece.bpe", "bpe", 120)
    vocabulary = list(dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *pieces]))
    _write(folder / "vocab.json", {token: index for index, token in enumerate(vocabulary)})
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "M2M100Tokenizer"})
    tokenizer = transformers.M2M100Tokenizer.from_pretrained(folder)
    codes = [f"__{code}__" for code in tokenizer.lang_code_to_id]
    _write(folder / "special_tokens_map.json", {"additional_special_tokens": codes})
    size = len(vocabulary) + len(tokenizer.lang_code_to_id) + 8
    return transformers.M2M100Config(vocab_size=size, **SHAPE), transformers.M2M100ForConditionalGeneration


def _t5(folder: Path, name: str = "T5") -> tuple[Any, Any]:
    tokenizer = _bpe(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    _save(tokenizer, folder, eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    config = getattr(transformers, f"{name}Config")(
        vocab_size=tokenizer.get_vocab_size(), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2,
        num_heads=2, decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    return config, getattr(transformers, f"{name}ForConditionalGeneration")


def _bart(folder: Path) -> tuple[Any, Any]:
    tokenizer = _bpe(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    _save(tokenizer, folder, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")
    config = transformers.BartConfig(vocab_size=tokenizer.get_vocab_size(), forced_eos_token_id=None, **SHAPE)
    return config, transformers.BartForConditionalGeneration


def _mbart(folder: Path, tokenizer_class: str = "MBartTokenizer", **options: Any) -> tuple[Any, Any]:
    vocabulary = json.loads(_bpe(["<s>", "<pad>", "</s>", "<unk>"]).to_str())["model"]["vocab"]
    pieces = [(piece, -float(index)) for piece, index in sorted(vocabulary.items(), key=lambda item: item[1])]
    tokenizer = getattr(transformers, tokenizer_class)(vocab=pieces)
    tokenizer.save_pretrained(folder)
    config = transformers.MBartConfig(vocab_size=len(tokenizer), forced_eos_token_id=None, **SHAPE, **options)
    return config, transformers.MBartForConditionalGeneration


def _nllb(folder: Path) -> tuple[Any, Any]:
    description = json.loads(_bpe(["<s>", "<pad>", "</s>", "<unk>"]).to_str())["model"]
    merges = [tuple(pair) for pair in description["merges"]]
    tokenizer = transformers.NllbTokenizer(vocab=description["vocab"], merges=merges)
    tokenizer.save_pretrained(folder)
    config = transformers.M2M100Config(vocab_size=len(tokenizer), decoder_start_token_id=2, **SHAPE)
    return config, transformers.M2M100ForConditionalGeneration


_WRITERS: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    "marian": _marian,
    "t5": _t5,
    "mt5": lambda folder: _t5(folder, "MT5"),
    "bart": _bart,
    "mbart": _mbart,
    "mbart50": lambda folder: _mbart(folder, "MBart50Tokenizer", decoder_start_token_id=2),
    "nllb": _nllb,
    "m2m100": _m2m100,
}


def _bpe(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*ENGLISH, *GERMAN], trainer)
    return tokenizer


def _save(tokenizer: Tokenizer, folder: Path, **special: str) -> None:
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


def _write(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values), encoding="utf-8")
