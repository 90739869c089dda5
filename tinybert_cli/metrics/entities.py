"""Entities from tags, and the metrics of token classification.

Shapes: N rows, P words of all rows, K entity types, R sums.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from tinybert_cli.metrics.base import Metric, Statistics, Sums, column
from tinybert_cli.metrics.calibration import calibration_error, gaps_by_bin
from tinybert_cli.metrics.classification import precision_recall_f1, share_of_all, share_of_class
from tinybert_cli.metrics.one_hot import one_hot
from tinybert_cli.metrics.probabilities import cross_entropy, softmax
from tinybert_cli.metrics.slices import most_frequent, unused_name
from tinybert_cli.types import Array, Predictions

OUTSIDE = "O"
INSIDE, LAST, SINGLE = ("I", "M"), ("E", "L"), ("S", "U", "W")
PREFIXES = frozenset(f"{letter}-" for letter in ("B", *INSIDE, *LAST, *SINGLE))

Entity = tuple[str, int, int]  # its type, its first word, and the first word after it


@dataclass(frozen=True)
class TaggingMetric(Metric):
    """Precision, recall and F1 of whole entities (type and both ends, as conlleval); accuracy and loss of words."""

    biased: ClassVar[frozenset[str]] = frozenset({"ece"})
    labels: Array  # (P,) class index of each word's tag
    row_offsets: Array  # (N + 1,) where the words of each row begin
    names: list[str]

    @cached_property
    def references(self) -> list[list[str]]:
        return self._tags(self.labels)

    @cached_property
    def types(self) -> list[str]:
        return scheme_of(self.names)[0]

    @cached_property
    def gold(self) -> list[set[Entity]]:
        return self._entities(self.references)

    def statistics(self, predictions: Predictions) -> Statistics:
        predicted, probabilities = predictions.known_logits.argmax(-1), softmax(predictions.known_logits)
        right = predicted == self.labels
        gaps = gaps_by_bin(probabilities.max(-1), right).sparse
        row = np.repeat(np.arange(len(self.row_offsets) - 1), np.diff(self.row_offsets))
        row_of_word = one_hot(row, len(self.row_offsets) - 1).sparse
        words_of_row = row_of_word.T.tocsr()  # (N, P): sums over the words of each row
        counts = self._counts(self._entities(self._tags(predicted)))
        return {
            "rows": np.ones((len(self.references), 1)),
            "right": counts[:, 0],
            "predicted": counts[:, 1],
            "gold": counts[:, 2],
            "words": column(np.diff(self.row_offsets)),
            "right_words": words_of_row @ column(right),
            "loss": words_of_row @ column(cross_entropy(predictions.known_logits, self.labels)),
            "gaps": words_of_row @ gaps,
        }

    def from_sums(self, sums: Sums) -> dict[str, Array]:
        words = np.maximum(sums["words"][:, 0], 1)
        of_entities = precision_recall_f1(sums, self.types)
        watched = {name: of_entities.pop(name) for name in ("f1", "precision", "recall")}
        return {
            **watched,
            "word_accuracy": sums["right_words"][:, 0] / words,
            "loss": sums["loss"][:, 0] / words,
            **of_entities,
            "ece": calibration_error(sums["gaps"], words),
        }

    def proportion(self, name: str, statistics: Statistics) -> tuple[Array, Array] | None:
        if name == "word_accuracy":
            return statistics["right_words"][:, 0], statistics["words"][:, 0]
        return share_of_all(name, statistics) or share_of_class(name, statistics, self.types)

    def row_scores(self, statistics: Statistics) -> Array:
        """The share of the words of each row that are right."""
        words, right = statistics["words"][:, 0], statistics["right_words"][:, 0]
        return np.where(words > 0, right / np.maximum(words, 1), 1.0)

    def label_slices(self) -> dict[str, Array]:
        """By the entity types of a row; `none` for rows without entities."""
        none = unused_name("none", self.types)
        types = [{kind for kind, _, _ in row} or {none} for row in self.gold]
        counts = Counter(itertools.chain.from_iterable(types))
        return most_frequent(
            {name: counts[name] for name in (*self.types, none)},
            lambda name: np.array([name in own for own in types]),
        )

    def majority_baseline(self) -> float:
        """Every word outside of all entities; if there is no such tag, every word with the most frequent tag."""
        if scheme_of(self.names)[2]:
            return 0.0
        return float(np.bincount(self.labels).max() / max(1, len(self.labels)))

    def class_logits(self, predictions: Predictions) -> tuple[Array, Array]:
        return predictions.known_logits, self.labels

    def confidences(self, predictions: Predictions, statistics: Statistics) -> tuple[Array, Array]:
        """Of every word."""
        logits, labels = self.class_logits(predictions)
        return softmax(logits).max(-1), logits.argmax(-1) == labels

    def _tags(self, indices: Array) -> list[list[str]]:
        tags = [self.names[index] for index in indices]
        return [tags[begin:end] for begin, end in itertools.pairwise(self.row_offsets.tolist())]

    def _entities(self, tags: Sequence[Sequence[str]]) -> list[set[Entity]]:
        _, prefixed, outside = scheme_of(self.names)
        return [set(entities(row, prefixed=prefixed, outside=outside)) for row in tags]

    def _counts(self, predicted: Sequence[set[Entity]]) -> Array:
        """Entities of each type that are right, predicted and gold, per row (N, 3, K types)."""
        index = {name: position for position, name in enumerate(self.types)}
        counts = np.zeros((len(predicted), 3, len(self.types)))
        for row, (entities_of_row, gold) in enumerate(zip(predicted, self.gold, strict=True)):
            for kind, chosen in enumerate((entities_of_row & gold, entities_of_row, gold)):
                for name, *_ in chosen:
                    counts[row, kind, index[name]] += 1
        return counts


def entities(tags: Sequence[str], *, prefixed: bool, outside: bool) -> list[Entity]:
    """The entities of one row of tags.

    As in conlleval, an I- tag after another type, or after no entity, begins an entity.

    Args:
        prefixed: the tags are IOB, IOB2, BIOES, BILOU or BMEWO: B-PER, I-PER, ...
        outside: there is a tag O for words outside of entities. Without prefixes, adjacent words of one tag are one
            entity then; else each word is an entity of its own, as in part-of-speech tagging.
    """
    result: list[Entity] = []
    kind, begin = None, 0  # the open entity
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, name = tag.partition("-") if prefixed else ("", "", tag)
        if not name or (tag == OUTSIDE and (outside or index == len(tags))):
            prefix, name = "", ""
        ends = kind is not None and (name != kind or (prefix not in (*INSIDE, *LAST) if prefixed else not outside))
        if ends or (kind is not None and not name):
            result.append((str(kind), begin, index))
            kind = None
        if name and kind is None:
            kind, begin = name, index
        if kind is not None and prefix in (*LAST, *SINGLE):
            result.append((kind, begin, index + 1))
            kind = None
    return result


def irregular_entities(tags: Sequence[str]) -> int:
    """Entities of prefixed tags that begin with an I-, M-, E- or L- tag; conlleval counts them as entities."""
    return sum(tags[begin][:1] in (*INSIDE, *LAST) for _, begin, _ in entities(tags, prefixed=True, outside=True))


def scheme_of(names: Sequence[str]) -> tuple[list[str], bool, bool]:
    """The entity types, and how their tags are read: `prefixed` and `outside`, see `entities`."""
    outside = OUTSIDE in names
    marked = [name for name in names if name != OUTSIDE]
    prefixed = bool(marked) and all(name[:2] in PREFIXES for name in marked)
    return sorted({name[2:] if prefixed else name for name in marked}), prefixed, outside
