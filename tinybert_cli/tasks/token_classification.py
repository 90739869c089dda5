"""Token classification: a tag for every word of a row, such as names, places, or parts of speech.

A row is answered word by word, at the first piece of each, so that teacher and student may have different tokenizers.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.metrics import classification
from tinybert_cli.metrics.entities import Entity, entities, inside_only, kinds_of, mixed
from tinybert_cli.metrics.spans import CJK
from tinybert_cli.tasks.base import Exam, PredictionTask, Window, frame, missing, row_by_row
from tinybert_cli.tasks.label_names import agreed_names, position_of, unknown_label
from tinybert_cli.types import NO_LABEL, Array, Encoded, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_LETTER = rf"[^\W_{CJK}]"
_WORD = re.compile(rf"[{CJK}]|{_LETTER}+(?:(?:[-.'’&/@+_]|(?<=\d),(?=\d)){_LETTER}+)*(?:(?<=\.[^\W\d_])\.)?|[^\w\s]|_")

_CHUNK = 1000  # rows that are tokenized in one call


class TokenClassification(PredictionTask):
    name = "token-classification"
    head = "token-classification"
    pipeline = "token-classification"
    outputs = "class"
    parted = "only_first"
    main_metric = "f1"
    metrics: ClassVar[Mapping[str, bool]] = {
        "f1": True,
        "precision": True,
        "recall": True,
        "word_accuracy": True,
        "loss": False,
    }
    replaceable = False
    sliced = "word_accuracy"
    detailed = ("f1_macro", "ece", "f1", "precision", "recall")

    def encode(self, rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """The words with spaces between them; a row that is too long is read in windows, as `_windows` parts it."""
        lists = _words(rows, data)
        before, after = frame(tokenizer)
        room = data.max_seq_length - len(before) - len(after)
        ids: list[Array] = []
        places: list[Array] = []
        row_counts = [len(words) for words in lists]
        for begin in range(0, len(lists), _CHUNK):
            chunk = lists[begin : begin + _CHUNK]
            said = tokenizer(
                [" ".join(words) for words in chunk], add_special_tokens=False, return_offsets_mapping=True,
                return_attention_mask=False, return_token_type_ids=False, verbose=False,
            )  # fmt: skip
            for words, pieces, characters in zip(chunk, said["input_ids"], said["offset_mapping"], strict=True):
                first = _first_pieces(_spans_of(words), characters)
                for start, end, mine in _windows(first, len(pieces), room, data.doc_stride):
                    ids.append(np.concatenate([before, np.asarray(pieces[start:end], dtype=np.int32), after]))
                    places.append(len(before) + first[mine] - start)
        tokens = {"input_ids": (np.concatenate(ids), tokenizer.pad_token_id)}
        if "token_type_ids" in tokenizer.model_input_names:
            zeros = np.zeros(len(tokens["input_ids"][0]), dtype=np.int32)
            tokens["token_type_ids"] = (zeros, tokenizer.pad_token_type_id)
        return Encoded(
            tokens=tokens,
            offsets=np.cumsum([0, *map(len, ids)]),
            truncated=0,
            empty=[index for index, count in enumerate(row_counts) if not count],
            positions=np.concatenate(places).astype(np.int64),
            window_offsets=np.cumsum([0, *map(len, places)]),
            row_offsets=np.cumsum([0, *row_counts]),
        )

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        """Outside first, then by name, if they are only found in the data."""
        tags = itertools.chain.from_iterable(row or [] for row in _tags(rows, data) or [])
        names = agreed_names(rows, data, tags, model_names=model_names)
        schemes = mixed(names)
        if schemes is not None:
            prefixes, other = schemes
            raise InputError(
                f"tags in two schemes: some begin with {', '.join(prefixes)}, so that entities have a first word, "
                f"and {other} does not",
                where=rows.location(0),
                hint="write all tags alike: B-PER, I-PER, ..., or without a prefix, and O for what is outside",
            )
        known = data.class_names or rows.label_names or model_names
        return names if known else sorted(names, key=lambda name: (name != "O", name))

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        """The position of every word's tag (A,), NO_LABEL in a row without tags."""
        tags = _tags(rows, data)
        if tags is None:
            return None
        position = {name: index for index, name in enumerate(names)}
        labels: list[int] = []
        for index, (words, row) in enumerate(zip(_words(rows, data), tags, strict=True)):
            if row is not None and len(row) != len(words):
                raise InputError(f"{len(words)} words and {len(row)} tags", where=rows.location(index))
            for value in [None] * len(words) if row is None else row:
                place = NO_LABEL if value is None else position_of(value, position)
                if place is None:
                    raise unknown_label(value, names, rows.location(index))
                labels.append(place)
        return np.array(labels, dtype=np.int64)

    def exam(self, rows: Rows, data: Data, names: Sequence[str]) -> Exam | None:
        labels = self.labels(rows, data, names)
        if labels is None:
            return None
        offsets = np.cumsum([0, *map(len, _words(rows, data))])
        if missing(labels).any():
            row = int(np.searchsorted(offsets, np.argmax(missing(labels)), side="right")) - 1
            raise InputError("a word without a tag", where=rows.location(row))
        said = [[names[label] for label in labels[begin:end]] for begin, end in row_by_row(offsets)]
        return TagExam(labels, offsets, list(names), said)

    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        present = np.unique(labels[~missing(labels)])
        if len(present) < 2:
            tag = names[present[0]] if len(present) else "none"
            raise InputError(
                f"all words have the same tag, {tag}: there is nothing to learn",
                where=rows.location(0),
                hint="check data.label_column_name",
            )

    def odd(self, rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
        """Entities that begin with an I-, as IOB1 has it, but IOB2 and BIOES do not."""
        _, prefixed, outside = kinds_of(names)
        tags = [
            [value if isinstance(value, str) else names[int(value)] for value in row]  # type: ignore[call-overload]
            for row in _tags(rows, data) or []
            if row is not None
        ]
        count = sum(map(inside_only, tags)) if prefixed else 0
        if not count:
            return []
        total = sum(len(entities(row, prefixed=prefixed, outside=outside)) for row in tags)
        return [f"{count:,} of {total:,} entities begin with I-, E- or L-: as conlleval has it, they count as entities"]

    def hard_answers(self, logits: Array, offsets: Array | None, min_confidence: float) -> tuple[Array, Array]:
        shares = classification.softmax(logits)
        sure = shares.max(-1) >= min_confidence
        kept = [bool(sure[begin:end].any()) for begin, end in row_by_row(offsets)]
        return np.where(sure, shares.argmax(-1), NO_LABEL), np.array(kept, dtype=bool)

    def answers(
        self, logits: Array, offsets: Array | None, names: Sequence[str], rows: Rows, data: Data
    ) -> dict[str, list[Any]]:
        """`confidence` is the mean of the words'."""
        shares = classification.softmax(logits)
        best, sure = shares.argmax(-1), shares.max(-1)
        return {
            "prediction": [[names[index] for index in best[begin:end]] for begin, end in row_by_row(offsets)],
            "confidence": [float(sure[begin:end].mean()) if end > begin else 1.0 for begin, end in row_by_row(offsets)],
        }

    def asked(self, text: str) -> Any:
        return " ".join(text[begin:end] for begin, end in _spans_in(text))

    def reply(
        self, text: str, windows: Sequence[Window], names: Sequence[str], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The entities with their characters; `score` is the mean probability of their words."""
        spans = _spans_in(text)
        shares = classification.softmax(_at_words(_spans_of([text[begin:end] for begin, end in spans]), windows))
        _, prefixed, outside = kinds_of(names)
        tags = [names[index] for index in shares.argmax(-1)]
        found = [
            {
                "type": kind,
                "text": text[spans[begin, 0] : spans[end - 1, 1]],
                "begin": int(spans[begin, 0]),
                "end": int(spans[end - 1, 1]),
                "score": float(shares[begin:end].max(-1).mean()),
            }
            for kind, begin, end in entities(tags, prefixed=prefixed, outside=outside)
        ]
        return {"prediction": found, "confidence": float(shares.max(-1).mean()) if len(shares) else 1.0}

    def fidelity(self, logits: Array, reference: Array, offsets: Array | None) -> dict[str, float]:
        """Word by word."""
        return classification.fidelity(logits, reference)

    ensemble = staticmethod(classification.ensemble)

    def example(self, *, pair: bool) -> str:
        return '"Ada wrote it in London."'

    def limit(self, names: Sequence[str]) -> str:
        return (
            "It tags the words of any text, however far it is from those that it learned from. The tag of a word is "
            "that of its first piece."
        )

    def usage(self, folder: str, *, pair: bool) -> str:
        return (
            "from transformers import pipeline\n\n"
            f'ask = pipeline("token-classification", "{folder}", aggregation_strategy="first")\n'
            'ask("Ada wrote it in London .")'
        )


@dataclass(frozen=True)
class TagExam(Exam):
    """One of C tags for every word."""

    labels: Array  # (A,)
    offsets: Array  # (N + 1,) where the words of each row begin
    names: list[str]
    words: list[list[str]]  # the tags of each row

    @cached_property
    def gold(self) -> list[set[Entity]]:
        _, prefixed, outside = kinds_of(self.names)
        return [set(entities(tags, prefixed=prefixed, outside=outside)) for tags in self.words]

    def score(self, logits: Array) -> dict[str, float]:
        """precision, recall and f1 of whole entities (kind and both ends); accuracy and cross-entropy of words."""
        found = classification.counted(self._tables(logits).sum(0)[None], self._kinds)
        return {
            **{name: float(found[name][0]) for name in ("f1", "precision", "recall")},
            "word_accuracy": float((logits.argmax(-1) == self.labels).mean()),
            "loss": float(classification.losses(classification.softmax(logits), self.labels).mean()),
        }

    def details(self, logits: Array) -> dict[str, float]:
        found = classification.counted(self._tables(logits).sum(0)[None], self._kinds)
        shares = classification.softmax(logits)
        return {
            **{name: float(values[0]) for name, values in found.items() if "[" in name or name == "f1_macro"},
            "ece": classification.calibration_error(shares.max(-1), shares.argmax(-1) == self.labels),
        }

    def resampled(self, logits: Array, *, resamples: int, seed: int) -> dict[str, Array]:
        """All but `ece`."""
        drawn = classification.drawn_rows(len(self.words), resamples=resamples, seed=seed)
        tables = np.einsum("rn,nkc->rkc", drawn, self._tables(logits), optimize=True)
        of_words = {
            "word_accuracy": logits.argmax(-1) == self.labels,
            "loss": classification.losses(classification.softmax(logits), self.labels),
        }
        counts = np.maximum(drawn @ np.diff(self.offsets), 1)
        return classification.counted(tables, self._kinds) | {
            name: drawn @ self._sums(values) / counts for name, values in of_words.items()
        }

    def discordant(self, logits: Array, reference: Array) -> dict[str, float]:
        """By rows of which every word is right."""
        return classification.discordant(self.credit(logits) == 1, self.credit(reference) == 1)

    def credit(self, logits: Array) -> Array:
        """The share of its words that are right."""
        counts = np.diff(self.offsets)
        return np.where(counts > 0, self._sums(logits.argmax(-1) == self.labels) / np.maximum(counts, 1), 1.0)

    def trivial(self) -> float:
        """Every word outside of everything; without such a tag, every word of the most frequent kind."""
        if kinds_of(self.names)[2]:
            return 0.0
        return float(np.bincount(self.labels).max() / max(1, len(self.labels)))

    def best_order(self, logits: Array) -> tuple[list[int], float]:
        order, _ = classification.best_order(logits, self.labels)
        return order, self.score(logits[:, order])["f1"]

    def calibrated(self, logits: Array) -> dict[str, float]:
        return classification.calibrated(logits, self.labels)

    def certainty(self, logits: Array) -> tuple[list[float], list[bool]]:
        """Of every word."""
        return classification.softmax(logits).max(-1).tolist(), (logits.argmax(-1) == self.labels).tolist()

    def confusion(self, logits: Array) -> Array:
        return classification.confusion(logits, self.labels, len(self.names))

    def kinds(self) -> dict[str, Array]:
        found = {kind: np.array([any(it[0] == kind for it in row) for row in self.gold]) for kind in self._kinds}
        return {**found, "none": np.array([not row for row in self.gold])}

    @property
    def _kinds(self) -> list[str]:
        return kinds_of(self.names)[0]

    def _tables(self, logits: Array) -> Array:
        """Entities of each kind that are right, given and gold, row by row (N, 3, K)."""
        kinds, prefixed, outside = kinds_of(self.names)
        place = {kind: index for index, kind in enumerate(kinds)}
        tables = np.zeros((len(self.words), 3, len(kinds)))
        best = logits.argmax(-1)
        for row, (begin, end) in enumerate(row_by_row(self.offsets)):
            tags = [self.names[index] for index in best[begin:end]]
            given, gold = set(entities(tags, prefixed=prefixed, outside=outside)), self.gold[row]
            for which, chosen in enumerate((given & gold, given, gold)):
                for kind, *_ in chosen:
                    tables[row, which, place[kind]] += 1
        return tables

    def _sums(self, values: Array) -> Array:
        """Of each row the sum of its words' (N,)."""
        summed = np.concatenate([[0.0], np.cumsum(values)])
        sums: Array = summed[self.offsets[1:]] - summed[self.offsets[:-1]]
        return sums


def _windows(first: Array, count: int, room: int, stride: int) -> Iterator[tuple[int, int, Array]]:
    """Of a row of `count` pieces the windows of `room`, and which words are answered in each.

    They have `stride` pieces in common; each word is answered where its first piece stands furthest from the ends.
    """
    if room < 1:
        raise ConfigError("a window must have room for a piece", key=("data", "max_seq_length"), hint="8 or more")
    step = room - min(stride, room // 2)
    starts = np.minimum(np.arange(0, max(1, count - room + step), step), max(0, count - room))
    ends = np.minimum(starts + room, count)
    depth = np.minimum(first[None] - starts[:, None], ends[:, None] - 1 - first[None])  # (windows, words)
    owner = depth.argmax(0) if len(first) else np.zeros(0, dtype=int)
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        yield start, end, np.flatnonzero(owner == number)


def _at_words(words: Array, windows: Sequence[Window]) -> Array:
    """The logits (W, C) of words at these characters (W, 2), each in the window where it stands furthest in."""
    found = np.zeros((len(words), windows[0][0].shape[-1]))
    depth = np.full(len(words), -1)
    for logits, pieces in windows:
        own = np.flatnonzero([sequence is not None for sequence in pieces.sequence_ids])
        if not len(own):
            continue
        characters = [pieces.offsets[place] for place in own]
        first = _first_pieces(words, characters)
        held = (words[:, 1] > characters[0][0]) & (words[:, 0] < characters[-1][1])
        better = held & (np.minimum(first, len(own) - 1 - first) > depth)
        depth[better] = np.minimum(first, len(own) - 1 - first)[better]
        found[better] = logits[own[first[better]]]
    return found


def _first_pieces(words: Array, characters: Sequence[tuple[int, int]]) -> Array:
    """Where the first piece of each word stands (W,); a word without any is answered at the next one's.

    Args:
        words: their characters (W, 2), as `characters` are the pieces' (P, 2).
    """
    ends = np.asarray([end for _, end in characters], dtype=np.int64)
    return np.searchsorted(ends, words[:, 0], side="right").clip(0, max(0, len(ends) - 1))


def _spans_in(text: str) -> Array:
    """Where the words of a text begin and end (W, 2), parted as corpora part it: marks from words, but not New-York,
    U.S. or 1,000; Chinese and Japanese characters one by one."""
    return np.array([match.span() for match in _WORD.finditer(text)], dtype=np.int64).reshape(-1, 2)


def _spans_of(words: Sequence[str]) -> Array:
    """The characters of each word once they are joined by spaces (W, 2)."""
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    begins = np.cumsum(lengths + 1) - lengths - 1
    return np.stack([begins, begins + lengths], axis=1)


def _words(rows: Rows, data: Data) -> list[list[str]]:
    """The words of each row; InputError for a row that is no list of them."""
    if not isinstance(data.text_column_names, str):
        raise ConfigError("one column of words is needed", key=("data", "text_column_names"), hint="tokens")
    column = rows.column(data.text_column_names)
    for index, words in enumerate(column):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InputError(
                f"'{data.text_column_names}' is no list of words but {words!r}", where=rows.location(index)
            )
    return column


def _tags(rows: Rows, data: Data) -> list[list[object] | None] | None:
    if data.label_column_name not in rows.columns:
        return None
    column = rows.column(data.label_column_name)
    for index, tags in enumerate(column):
        if tags is not None and not (isinstance(tags, list) and all(isinstance(tag, str | int | None) for tag in tags)):
            raise InputError(f"'{data.label_column_name}' is no list of tags but {tags!r}", where=rows.location(index))
    return column
