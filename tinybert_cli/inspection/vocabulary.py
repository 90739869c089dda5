"""Words that a model cannot read, because its vocabulary does not have them; and how long texts are in its tokens."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.metrics.answer_texts import CJK
from tinybert_cli.scratch_files import counts
from tinybert_cli.translation_tokenizer import TranslationTokenizer
from tinybert_cli.types import Array, Encoded, Rows

CHINESE = "google-bert/bert-base-chinese"
MULTILINGUAL = "google-bert/bert-base-multilingual-cased"

UNKNOWN = 0.05  # of the tokens: above it, there is a warning
SAMPLE = 1_000  # rows that examples are taken from
LISTED = 6  # examples of unknown words

_CJK = re.compile(f"[{CJK}]")


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of a sample of the rows."""

    lengths: Sequence[int]  # of each row, special tokens included, sorted
    unknown: float  # share of the tokens that are [UNK], special tokens excluded
    unknown_words: Sequence[str]  # the most frequent ones

    def at(self, share: float) -> int:
        """The length that this share of the texts does not exceed."""
        return self.lengths[min(len(self.lengths) - 1, max(0, math.ceil(share * len(self.lengths)) - 1))]

    def share_above(self, length: int) -> float:
        """The share of the texts that have more tokens."""
        return sum(count > length for count in self.lengths) / len(self.lengths)


def count_tokens(tokenizer: Any, columns: Sequence[Sequence[Any]]) -> TokenCounts:
    """The tokens of texts, pairs of texts or lists of words (column by column), uncut."""
    texts = [[_as_text(value) for value in column] for column in columns]
    encoded = tokenizer(*texts, verbose=False)
    words: Counter[str] = Counter()
    tokens = unknown = 0
    for row, encoding in enumerate(encoded.encodings):
        ids = encoding.ids
        tokens += len(ids) - sum(encoding.special_tokens_mask)
        if tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids:
            continue
        for at, (begin, end) in enumerate(encoding.offsets):
            side = encoding.sequence_ids[at]
            if ids[at] == tokenizer.unk_token_id and side is not None:
                unknown += 1
                words[texts[side][row][begin:end]] += 1
    lengths = sorted(len(encoding.ids) for encoding in encoded.encodings)
    return TokenCounts(lengths, unknown / max(1, tokens), [word for word, _ in words.most_common(LISTED) if word])


def unknown_share(ids: Array, tokenizer: Any) -> float:
    """The share of these token ids that stand for unknown words; special tokens are not counted."""
    return _share(ids, tokenizer.unk_token_id, set(tokenizer.all_special_ids))


def _share(ids: Array, unknown: int | None, special: set[int]) -> float:
    if unknown is None or not len(ids):
        return 0.0
    occurrences = counts(ids, minlength=1 + max(unknown, *special))
    return int(occurrences[unknown]) / max(1, len(ids) - int(occurrences[list(special - {unknown})].sum()))


def unknown_warnings(split: str, encoded: Encoded, rows: Rows, data: Data, tokenizer: Any, model: str) -> list[str]:
    """A warning if more than 5 % of the tokens of encoded rows are [UNK]; with the words, from a sample of the rows."""
    if isinstance(tokenizer, TranslationTokenizer):
        return _translation_warnings(split, encoded, tokenizer, model)
    share = unknown_share(encoded.tokens["input_ids"][0], tokenizer)
    if share <= UNKNOWN:
        return []
    columns = [rows.column(name) for name in data.text_columns]
    sample = [[column[index] for index in sample_of(len(rows), SAMPLE)] for column in columns]
    return [unknown_message(split, share, count_tokens(tokenizer, sample).unknown_words, sample[0], model)]


def _translation_warnings(split: str, encoded: Encoded, tokenizer: TranslationTokenizer, model: str) -> list[str]:
    """The same for the source texts, and for the target texts if they are encoded."""
    sides = {
        "source": (tokenizer.source, encoded.tokens["input_ids"][0]),
        "target": (tokenizer.target, np.zeros(0, dtype=np.int64) if encoded.labels is None else encoded.labels),
    }
    special = {tokenizer.end, tokenizer.padding}
    shares = {name: _share(ids, side.tokens().get("<unk>"), special) for name, (side, ids) in sides.items()}
    return [
        f"{share:.1%} of the {name} tokens of {split} are <unk>: the vocabulary of {model} does not have these words; "
        "start from a translation model for this language, or from a new one, whose vocabulary is that of the training "
        "text (family: marian)"
        for name, share in shares.items()
        if share > UNKNOWN
    ]


def unknown_message(split: str, share: float, words: Sequence[str], texts: Iterable[Any], model: str) -> str:
    """The text of the warning."""
    examples = f", such as {', '.join(map(repr, words))}" if words else ""
    return (
        f"{share:.1%} of the tokens of {split} are [UNK]: the vocabulary of {model} does not have these words"
        f"{examples}; start from a model for this language, such as {suggested_model(texts)}"
    )


def suggested_model(texts: Iterable[Any]) -> str:
    """A model whose vocabulary has the words of these texts: the Chinese BERT, or the one for 104 languages."""
    whole = "".join(map(_as_text, texts))
    return CHINESE if len(_CJK.findall(whole)) * 2 > len(whole) else MULTILINGUAL


def sample_of(count: int, most: int, seed: int = 0) -> list[int]:
    """The indices of all rows, or of a sample in the order of the rows."""
    return list(range(count)) if count <= most else sorted(random.Random(seed).sample(range(count), most))


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
