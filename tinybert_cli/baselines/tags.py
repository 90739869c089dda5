"""A dictionary tagger: each word gets the tag that it has most often in the training rows."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np

from tinybert_cli.baselines.base import Baseline, Training, log_probabilities, rows_with_gold
from tinybert_cli.tasks import missing, words_of
from tinybert_cli.types import Array, Rows


def dictionary(training: Training, seed: int) -> Baseline:
    """Counts of tags by word, then by word in lower case; a word that is in neither gets the most frequent tag."""
    known = ~missing(training.labels)
    exact: dict[str, Counter[int]] = defaultdict(Counter)
    lower: dict[str, Counter[int]] = defaultdict(Counter)
    words = itertools.chain.from_iterable(words_of(training.rows, training.settings))
    for word, tag in zip(itertools.compress(words, known), training.labels[known].tolist(), strict=True):
        exact[word][tag] += 1
        lower[word.lower()][tag] += 1
    size = len(training.names)
    tags = {word: _shares(count, size) for word, count in exact.items()}
    lower_tags = {word: _shares(count, size) for word, count in lower.items() if word not in tags}
    other = _shares(Counter(training.labels[known].tolist()), size)

    def compute(rows: Rows) -> Array:
        own = itertools.chain.from_iterable(words_of(rows, training.settings))
        shares = [tags[word] if word in tags else lower_tags.get(word.lower(), other) for word in own]
        return log_probabilities(np.array(shares, dtype=np.float32).reshape(-1, size))

    return Baseline(compute, (tags, lower_tags, other), rows_with_gold(training))


def _shares(count: Counter[int], size: int) -> tuple[float, ...]:
    total = count.total()
    return tuple(count[tag] / total for tag in range(size))
