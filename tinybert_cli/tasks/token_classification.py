"""Token classification: a tag for every word of a row, such as named entities or parts of speech.

A word's tag is read at its first token, so that teacher and student may have different tokenizers.

Shapes: W words of one row, T tokens of one row or window, P words of all rows, C tags.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import ConfigError, InputError
from tinybert_cli.label_values import as_number, example_list, example_mapping
from tinybert_cli.metrics.answer_texts import CJK
from tinybert_cli.metrics.comparison import class_fidelity
from tinybert_cli.metrics.entities import TaggingMetric, entities, irregular_entities, scheme_of
from tinybert_cli.metrics.probabilities import mean_class_logits, softmax
from tinybert_cli.metrics.tag_schemes import SchemeProblem, scheme_problem
from tinybert_cli.scratch_files import GrowingArray
from tinybert_cli.tasks.base import PredictionTask, missing
from tinybert_cli.tasks.encoding import TokenArrays, row_ranges, special_tokens, starts
from tinybert_cli.tasks.label_names import (
    agreed_names,
    are_names,
    label_indices,
    label_statements,
    name_warnings,
    names_in_data,
    unknown_label,
)
from tinybert_cli.tasks.onnx_examples import entities_example
from tinybert_cli.types import NO_LABEL, Array, Encoded, Layout, Predictions, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Marks of letters, which are no letters for `re`: accents, and vowels and tones of Hindi, Arabic, Thai and others.
_MARKS = (
    r"\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    r"\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u0711-\u07f3\u07fd\u0816-\u082d\u0859-\u085b\u0898-\u08e1\u08e3-\u0963"
    r"\u0981-\u09e3\u09fe-\u0a75\u0a81-\u0ae3\u0afa-\u0b63\u0b82-\u0bd7\u0c00-\u0c63\u0c81-\u0c83\u0cbc-\u0d4d"
    r"\u0d57-\u0d63\u0d81-\u0df3\u0e31-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ecd\u0f18\u0f19\u0f35\u0f37\u0f39\u0f3e-\u0f84"
    r"\u0f86-\u0fbc\u0fc6\u102b-\u103e\u1056-\u109d\u135d-\u135f\u1712-\u1734\u1752-\u17d3\u17dd\u180b-\u180d\u180f"
    r"\u1885\u1886\u18a9\u1920-\u193b\u1a17-\u1a1b\u1a55-\u1a7f\u1ab0-\u1b44\u1b6b-\u1b73\u1b80-\u1bf3\u1c24-\u1c37\u1cd0-\u1cd2"
    r"\u1cd4-\u1dff\ua66f-\ua672\ua674-\ua67d\ua69e-\ua6f1\ua802-\ua827\ua82c\ua880-\ua8c5\ua8e0-\ua8f1\ua8ff-\ua92d"
    r"\ua947-\ua953\ua980-\ua9c0\ua9e5-\uaa4d\uaa7b-\uaac1\uaaeb-\uaaef\uaaf5\uaaf6\uabe3-\uabea\uabec\uabed\ufb1e"
    r"\ufe20-\ufe2f"
)
_LETTER = rf"(?:(?![_{CJK}])[\w{_MARKS}])"  # one alternative only: with two, words of both would take exponential time
_JOINING = r"-.'’&/@+_\u00ad\u200c\u200d"  # with the soft hyphen, and the joiners of Persian and Hindi
_WORD = re.compile(rf"[{CJK}]|{_LETTER}+(?:(?:[{_JOINING}]|(?<=\d),(?=\d)){_LETTER}+)*(?:(?<=\.[^\W\d_])\.)?|[^\w\s]|_")

_CHUNK = 1000  # rows that are tokenized in one call
_LABELS = 10_000  # labels that are Python numbers at a time


class GivenWords(str):
    """The words of a row, joined by spaces: a text whose words are known."""

    words: list[str]

    def __new__(cls, words: Sequence[str]) -> GivenWords:
        text = super().__new__(cls, " ".join(words))
        text.words = list(words)
        return text


class TokenClassification(PredictionTask):
    name = "token-classification"
    head = "token-classification"
    pipeline = "token-classification"
    recipe = "conll2003"
    output_type = "class"
    text_counts = (1,)
    splits_long_texts = True
    main_metric = "f1"
    metrics: ClassVar[Mapping[str, bool]] = {
        "f1": True,
        "precision": True,
        "recall": True,
        "word_accuracy": True,
        "loss": False,
    }
    supports_augmentation = False
    agreement_counts_rows = False
    slice_metric = "word_accuracy"
    extra_metrics: ClassVar[Mapping[str, bool]] = {
        "f1_macro": True,
        "ece": False,
        "f1": True,
        "precision": True,
        "recall": True,
    }

    def long_input(self, longest: int) -> str:
        return f"Input longer than {longest} tokens was read in windows of so many tokens"

    def encode(self, rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """The words joined by spaces; a row that is too long is split into windows, see `_windows`."""
        lists = words_of(rows, data)
        before, after = special_tokens(tokenizer)
        room = data.max_seq_length - len(before) - len(after)
        arrays, positions = TokenArrays(tokenizer), GrowingArray(np.int32)
        window_counts, row_counts = GrowingArray(np.int64), GrowingArray(np.int64)
        windows_of_rows = GrowingArray(np.int64)
        for begin in range(0, len(lists), _CHUNK):
            chunk = lists[begin : begin + _CHUNK]
            ids: list[Array] = []  # of the windows of this chunk
            read: list[Array] = []  # ... and the positions that are read
            windows: list[int] = []  # of each row, how many
            encoded = tokenizer(
                [" ".join(words) for words in chunk], add_special_tokens=False, return_offsets_mapping=True,
                return_attention_mask=False, return_token_type_ids=False, verbose=False,
            )  # fmt: skip
            for words, tokens, characters in zip(chunk, encoded["input_ids"], encoded["offset_mapping"], strict=True):
                first, before_row = _first_tokens(_joined_spans(words), characters), len(read)
                for start, end, selected in _windows(first, len(tokens), room, data.doc_stride):
                    ids.append(np.concatenate([before, np.asarray(tokens[start:end], dtype=np.int32), after]))
                    read.append(len(before) + first[selected] - start)
                windows.append(len(read) - before_row)
            arrays.append_texts(ids)
            positions.append(np.concatenate(read))
            window_counts.append(list(map(len, read)))
            row_counts.append(list(map(len, chunk)))
            windows_of_rows.append(windows)
        inputs, offsets = arrays.finish()
        words_of_rows = row_counts.finish()
        return Encoded(
            tokens=inputs,
            offsets=offsets,
            truncated=0,
            empty=np.flatnonzero(words_of_rows == 0).tolist(),
            positions=positions.finish(),
            window_offsets=starts(window_counts.finish()),
            layout=Layout(starts(words_of_rows)),
            row_windows=starts(windows_of_rows.finish()),
        )

    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        """O first, then by name, if only the tags of the data name them."""
        every_tag = itertools.chain.from_iterable(row or [] for row in _tags(rows, data) or [])
        tags = list({(type(tag), tag): tag for tag in every_tag}.values())  # 1, 1.0 and True differ
        known = names_in_data(rows, data) or model_names
        if all(as_number(name) is not None for name in known or tags) and (known or tags):
            raise InputError(
                "the tags are numbers without names, so entities cannot be scored",
                where=rows.location(0),
                hint="set data.label_names to the names of 0, 1, 2, ... in this order: [O, B-PER, I-PER, ...]; or map "
                'them: {"0": O, "1": B-PER, ...}',
            )
        names = agreed_names(rows, data, tags, model_names=model_names)
        problem = scheme_problem(names)
        if problem is not None:
            raise InputError(
                problem.what, where=_location_of_tag(names, problem, rows, data), hint=_remedy(names, problem, data)
            )
        return names if known else sorted(names, key=lambda name: (name != "O", name))

    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        """The class index of every word's tag (P,), NO_LABEL in a row without tags."""
        tags = _tags(rows, data)
        if tags is None:
            return None
        index_of = label_indices(names)
        labels, chunk = GrowingArray(np.int64), list[int]()
        for row, (words, values) in enumerate(zip(words_of(rows, data), tags, strict=True)):
            if values is not None and len(values) != len(words):
                raise InputError(f"{len(words)} words and {len(values)} tags", where=rows.location(row))
            for value in [None] * len(words) if values is None else values:
                index = NO_LABEL if value is None else index_of(value)
                if index is None:
                    raise unknown_label(value, names, rows.location(row))
                chunk.append(index)
            if len(chunk) > _LABELS:
                labels.append(chunk)
                chunk.clear()
        labels.append(chunk)
        return labels.finish()

    def metric(self, rows: Rows, data: Data, names: Sequence[str]) -> TaggingMetric | None:
        labels = self.labels(rows, data, names)
        if labels is None:
            return None
        row_offsets = starts(np.fromiter(map(len, words_of(rows, data)), dtype=np.int64, count=len(rows)))
        if missing(labels).any():
            row = int(np.searchsorted(row_offsets, np.argmax(missing(labels)), side="right")) - 1
            raise InputError("a word without a tag", where=rows.location(row))
        return TaggingMetric(labels, row_offsets, list(names))

    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        present = [index for index in range(len(names)) if (labels == index).any()]
        if len(present) < 2:
            tag = names[present[0]] if len(present) else "none"
            raise InputError(
                f"all words have the same tag, {tag}: there is nothing to learn",
                where=rows.location(0),
                hint="check data.label_column_name",
            )

    def label_warnings(self, rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
        """Tags that look alike or do not occur, and entities that begin with an I- tag, as in IOB1."""
        _, prefixed, outside = scheme_of(names)
        index_of = label_indices(names)
        column = _tags(rows, data) or []

        def tags() -> Iterator[list[str]]:
            for row in column:
                yield [names[index] for tag in row or [] if (index := index_of(tag)) is not None]

        counts = Counter(itertools.chain.from_iterable(tags()))
        warnings = name_warnings({name: counts[name] for name in names})
        count = sum(map(irregular_entities, tags())) if prefixed else 0
        if count:
            total = sum(len(entities(row, prefixed=prefixed, outside=outside)) for row in tags())
            text = f"{count:,} of {total:,} entities begin with I-, M-, E- or L-"
            warnings.append(f"{text}; they count as entities, as in conlleval")
        return warnings

    def label_statements(self, rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
        tags = itertools.chain.from_iterable(row or [] for row in _tags(rows, data) or [])
        statements = label_statements(tags, rows, data, names)
        _, prefixed, outside = scheme_of(names)
        if not prefixed:
            unit = "adjacent words with the same tag are one entity" if outside else "every word is scored on its own"
            statements.append(f"the tags have no prefixes{' and no O' * (not outside)}: {unit}")
        return statements

    def labels_are_names(self, rows: Rows, data: Data, names: Sequence[str]) -> bool:
        return are_names(itertools.chain.from_iterable(row or [] for row in _tags(rows, data) or []), names)

    def predictions(
        self, logits: Array, layout: Layout | None, names: Sequence[str], rows: Rows, data: Data
    ) -> Predictions:
        """The confidence of a row is the mean over its words."""
        probabilities = softmax(logits)
        tags, confidences = [names[index] for index in probabilities.argmax(-1)], probabilities.max(-1)
        ranges = list(row_ranges(layout))
        means = [float(confidences[begin:end].mean()) if end > begin else 1.0 for begin, end in ranges]
        return Predictions([tags[begin:end] for begin, end in ranges], np.array(means), logits, layout)

    def hard_labels(self, logits: Array, layout: Layout | None, min_confidence: float) -> tuple[Array, Array]:
        probabilities = softmax(logits)
        confident = probabilities.max(-1) >= min_confidence
        selected = [bool(confident[begin:end].any()) for begin, end in row_ranges(layout)]
        return np.where(confident, probabilities.argmax(-1), NO_LABEL), np.array(selected, dtype=bool)

    def fidelity(self, predictions: Predictions, reference: Predictions) -> dict[str, float]:
        """Word by word."""
        return class_fidelity(predictions.known_logits, reference.known_logits)

    def ensemble(self, logits: Sequence[Array], weights: Sequence[float], layout: Layout | None = None) -> Array:
        return mean_class_logits(logits, weights)

    def row_of(self, texts: Sequence[str]) -> list[Any]:
        (text,) = texts
        return [text.words if isinstance(text, GivenWords) else [text[begin:end] for begin, end in _word_spans(text)]]

    def format_prediction(
        self,
        texts: Sequence[str],
        logits: Array,
        layout: Layout | None,
        names: Sequence[str],
        config: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The entities with their characters; `score` is the mean probability of their words."""
        (text,) = texts
        spans, probabilities = _word_spans(text), softmax(logits)
        _, prefixed, outside = scheme_of(names)
        tags = [names[index] for index in probabilities.argmax(-1)]
        prediction = [
            {
                "type": kind,
                "text": text[spans[begin, 0] : spans[end - 1, 1]],
                "begin": int(spans[begin, 0]),
                "end": int(spans[end - 1, 1]),
                "score": float(probabilities[begin:end].max(-1).mean()),
            }
            for kind, begin, end in entities(tags, prefixed=prefixed, outside=outside)
        ]
        confidence = float(probabilities.max(-1).mean()) if len(probabilities) else 1.0
        return {"prediction": prediction, "confidence": confidence}

    def example_input(self, *, pair: bool) -> str:
        return '"Ada wrote it in London."'

    def limitations(self, names: Sequence[str]) -> str:
        return (
            "The model tags the words of any text, however different it is from the training data. The tag of a word "
            "is that of its first token."
        )

    def onnx_example(self, data: Data, names: Sequence[str]) -> str:
        return entities_example(names, _WORD.pattern)

    def usage(self, folder: str, data: Data) -> str:
        stride = min(data.doc_stride, data.max_seq_length // 4)  # the pipeline cuts long texts unless it has one
        return (
            "from transformers import pipeline\n\n"
            f'tagger = pipeline("token-classification", "{folder}", aggregation_strategy="first", stride={stride})\n'
            'tagger("Ada wrote it in London .")'
        )


def _windows(first: Array, count: int, room: int, stride: int) -> Iterator[tuple[int, int, Array]]:
    """Windows of `room` tokens over a row of `count` tokens, and the words that are predicted in each.

    Neighbouring windows share `stride` tokens; a word is predicted where its first token is furthest from both ends.

    Args:
        first: the index of each word's first token (W,), ascending.
    """
    if room < 1:
        raise ConfigError("a window must have room for a token", key=("data", "max_seq_length"), hint="8 or more")
    step = room - min(stride, room // 2)
    starts = np.minimum(np.arange(0, max(1, count - room + step), step), max(0, count - room))
    ends = np.minimum(starts + room, count)
    between = starts[:-1] + ends[1:] - 1  # twice the last token that is not closer to the middle of the next window
    owner = np.searchsorted(between, 2 * first)  # (W,), ascending as the words
    borders = np.searchsorted(owner, np.arange(len(starts) + 1)).tolist()
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        yield start, end, np.arange(borders[number], borders[number + 1])


def _first_tokens(words: Array, characters: Sequence[tuple[int, int]]) -> Array:
    """The index of each word's first token (W,); a word without tokens gets that of the next one.

    Args:
        words: begin and end of each word in characters (W, 2); `characters`: those of the tokens (T, 2).
    """
    ends = np.asarray([end for _, end in characters], dtype=np.int64)
    return np.searchsorted(ends, words[:, 0], side="right").clip(0, max(0, len(ends) - 1))


def _word_spans(text: str) -> Array:
    """Begin and end of each word of a text (W, 2): the given words, or else split as in corpora.

    Punctuation marks are words of their own, but not inside New-York, U.S. or 1,000; so are Chinese and Japanese
    characters.
    """
    if isinstance(text, GivenWords):
        return _joined_spans(text.words)
    return np.array([match.span() for match in _WORD.finditer(text)], dtype=np.int64).reshape(-1, 2)


def _joined_spans(words: Sequence[str]) -> Array:
    """Begin and end of each word after joining them with spaces (W, 2)."""
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    begins = np.cumsum(lengths + 1) - lengths - 1
    return np.stack([begins, begins + lengths], axis=1)


def words_of(rows: Rows, data: Data) -> list[list[str]]:
    """The words of each row.

    Raises:
        InputError: a row is not a list of words.
    """
    if not isinstance(data.text_column_names, str):
        raise ConfigError("expected one column of words", key=("data", "text_column_names"), hint="tokens")
    column = rows.column(data.text_column_names)
    for index, words in enumerate(column):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InputError(
                f"'{data.text_column_names}': expected a list of words, found {words!r}", where=rows.location(index)
            )
    return column


def _location_of_tag(names: Sequence[str], problem: SchemeProblem, rows: Rows, data: Data) -> str:
    """The first row with a tag that would have to be another one; the first row if there is none."""
    wrong = {tag for tag, standard in problem.standard.items() if tag != standard}
    tags = rows.columns.get(data.label_column, [])
    return rows.location(next((row for row, own in enumerate(tags) if not wrong.isdisjoint(own or [])), 0))


def _remedy(names: Sequence[str], problem: SchemeProblem, data: Data) -> str:
    if not problem.standard:
        return "use one scheme: B-PER, I-PER, ..., or tags without prefixes, and O for words outside of entities"
    if isinstance(data.label_names, list):
        return f"if they are entities: {example_list([problem.standard[name] for name in names])}"
    other = next(tag for tag, standard in problem.standard.items() if tag != standard)
    return f"if they are entities: {example_mapping(problem.standard)}; if not, give '{other}' another name there"


def _tags(rows: Rows, data: Data) -> list[list[object] | None] | None:
    if data.label_column not in rows.columns:
        return None
    column = rows.column(data.label_column)
    for index, tags in enumerate(column):
        if tags is None:
            continue
        if not isinstance(tags, list) or not all(isinstance(tag, str | int | float | None) for tag in tags):
            raise InputError(
                f"'{data.label_column}': expected a list of tags, found {tags!r}", where=rows.location(index)
            )
    return column
