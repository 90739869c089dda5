"""The tokenizer of a new translation model: one byte-pair encoding for both sides, trained on the training text."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from tinybert_cli.errors import ConfigError
from tinybert_cli.translation_tokenizer import FastSide, TranslationTokenizer

END, UNKNOWN, PADDING = "</s>", "<unk>", "<pad>"


def train_joint_tokenizer(texts: Iterable[str], vocabulary_size: int) -> TranslationTokenizer:
    """A tokenizer with exactly `vocabulary_size` tokens; the padding token is the last one, as CTranslate2 needs it.

    Words begin with U+2581, as in SentencePiece; text is normalized to NFKC. The decoder starts with the padding token,
    as in Marian.

    Raises:
        ConfigError: the text has more characters, or fewer subwords, than `vocabulary_size`.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    lines = list(texts)
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - 1, special_tokens=[END, UNKNOWN], show_progress=False
    )  # and the padding token
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.add_special_tokens([PADDING])
    size = tokenizer.get_vocab_size()
    if size != vocabulary_size:
        reason = (
            f"the training text has {size - 3:,} different characters"
            if size > vocabulary_size
            else f"the training text has only {size - 3:,} different subwords"
        )
        raise ConfigError(
            f"`vocabulary_size` {vocabulary_size:,} does not fit: {reason}, and there are 3 special tokens",
            key=("vocabulary_size",),
            hint=f"vocabulary_size: {size}" + (" or more" if size > vocabulary_size else " or less"),
        )
    ids: dict[str, int] = {token: tokenizer.get_vocab()[token] for token in (END, UNKNOWN, PADDING)}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, ids[END])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, unk_token=UNKNOWN, pad_token=PADDING,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        fast.save_pretrained(folder)
        files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
    side = FastSide(tokenizer)
    return TranslationTokenizer(side, side, start=ids[PADDING], end=ids[END], padding=ids[PADDING], files=files)
