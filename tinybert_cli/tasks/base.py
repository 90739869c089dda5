"""What a task has to answer: which head, how text becomes numbers, what an answer is, how it is scored."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError, look_up
from tinybert_cli.types import NO_LABEL, Array, Encoded, Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_CHUNK = 1000  # rows that are tokenized in one call


class Pieces(Protocol):
    """What a tokenizer made of one text or pair: of each token (T,) its word, characters and text; None of [CLS]."""

    @property
    def word_ids(self) -> list[int | None]: ...
    @property
    def offsets(self) -> list[tuple[int, int]]: ...
    @property
    def sequence_ids(self) -> list[int | None]: ...


Window = tuple[Array, Pieces]  # the logits of a text (C,) or of its tokens (T, C), and what the tokenizer made of it


def interval(draws: Array) -> tuple[float, float]:
    """The middle 95 % of what was drawn (R,)."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def missing(labels: Array) -> Array:
    """Which labels are missing: NO_LABEL among positions, NaN among numbers."""
    gone: Array = labels == NO_LABEL if labels.dtype.kind == "i" else np.isnan(labels)
    return gone


class Task(ABC):
    """What every task has, whether its models answer anything or not."""

    name: ClassVar[str]
    head: ClassVar[str]  # the model head, by its name in models.HEADS
    problem: ClassVar[str | None] = None  # what transformers calls it in config.json, if the head alone does not say
    decides: ClassVar[
        tuple[str, ...]
    ] = ()  # what config.json may say of how the logits are read, see `PredictionTask.settled`
    pipeline: ClassVar[str]  # what the Hub calls models that do this
    main_metric: ClassVar[str]
    metrics: ClassVar[Mapping[str, bool]]  # those of `score`, and whether more of it is better

    def objective(self, name: str) -> tuple[str, float]:
        """The metric that checkpoints are chosen by, and +1 if more of it is better, else -1."""
        metric = self.main_metric if name == "auto" else name
        return metric, 1.0 if look_up(
            self.metrics, metric, "metric", key=("training", "metric_for_best_model")
        ) else -1.0

    @abstractmethod
    def encode(self, rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
        """What models are shown, as token ids; InputError for a missing column or a row that is no text."""

    @abstractmethod
    def usage(self, folder: str, *, pair: bool) -> str:
        """The lines of Python that load and ask a finished model folder, about a text or about a pair of them."""


class Exam(ABC):
    """The gold answers to N rows, and what they say of a model's logits (A, C).

    A answers, one to a row or several; C numbers each. R resamples.
    """

    labels: Array  # (A, ...) as the losses take them
    words: list[Any]  # the gold answer of each row, as `PredictionTask.answers` says its own

    @abstractmethod
    def score(self, logits: Array) -> dict[str, float]:
        """Every metric that the task names."""

    @abstractmethod
    def details(self, logits: Array) -> dict[str, float]:
        """What a finished model is judged by besides `score`: more metrics, and those of each class."""

    @abstractmethod
    def resampled(self, logits: Array, *, resamples: int, seed: int) -> dict[str, Array]:
        """`score` and `details` on rows drawn with replacement (R,), but for what cannot be drawn quickly.

        The same seed draws the same rows.
        """

    @abstractmethod
    def discordant(self, logits: Array, reference: Array) -> dict[str, float]:
        """`rows_lost` and `rows_won` against the reference's logits, and a paired test of their numbers."""

    @abstractmethod
    def credit(self, logits: Array) -> Array:
        """How good each row's answer is (N,), 1 at best; `PredictionTask.sliced` names it."""

    @abstractmethod
    def trivial(self) -> float:
        """The main metric of a model that gives every row the same answer, the best that there is."""

    def tuned(self, logits: Array) -> dict[str, Any]:
        """What config.json is to say (`PredictionTask.decides`) so that these logits score best; empty: nothing."""
        return {}

    def best_order(self, logits: Array) -> tuple[list[int], float] | None:
        """The order of the classes under which the logits fit best, and the main metric then; None without classes."""
        return None

    def calibrated(self, logits: Array) -> dict[str, float]:
        """How far confidence can be believed once the logits are divided by one number; empty without confidence."""
        return {}

    def certainty(self, logits: Array) -> tuple[list[float], list[bool]] | None:
        """How sure each answer is, and whether it is right; None if the task knows no such thing."""
        return None

    def confusion(self, logits: Array) -> Array | None:
        """How often each gold class (first axis) was given each class (C, C); None without classes."""
        return None

    def kinds(self) -> dict[str, Array]:
        """Slices by the gold answer: what it is → which rows have it (N,)."""
        said = np.asarray([str(word) for word in self.words])
        return {str(word): said == word for word in np.unique(said)}

    def intervals(
        self, logits: Array, names: Iterable[str], *, resamples: int, seed: int
    ) -> dict[str, tuple[float, float]]:
        """metric → its 95 % bootstrap interval."""
        drawn = self.resampled(logits, resamples=resamples, seed=seed)
        return {name: interval(drawn[name]) for name in names if name in drawn}


class PredictionTask(Task):
    """A task whose models answer every row, so that they can label, be scored and be exported.

    N rows, A answers to them (`Encoded`), C numbers for each answer. `offsets` (N + 1,) says where the answers of each
    row begin; None: one answer a row.
    """

    outputs: ClassVar[str]  # what the C numbers are, by its name in losses.LOSS_SETS
    parted: ClassVar[Literal["only_first", "only_second"] | None] = None  # which text is read in windows if it is too
    # long for the model, as tokenizers call it; None: it is cut
    replaceable: ClassVar[bool] = (
        True  # whether a text with other words in it, as `augment` makes them, is one to ask of
    )
    confident: ClassVar[bool] = True  # whether an answer has a confidence
    sliced: ClassVar[str]  # what `Exam.credit` says of a row: the mean over some rows is their score
    detailed: ClassVar[tuple[str, ...]]  # those of `details`; one of each class stands for `recall[negative]`, ...

    @abstractmethod
    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        """The classes in their order; InputError with both lists if the data and the model differ."""

    @abstractmethod
    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        """Gold answers as the losses take them (A, ...), `missing` where there is none; None without a label column."""

    @abstractmethod
    def exam(self, rows: Rows, data: Data, names: Sequence[str]) -> Exam | None:
        """The gold answers to the rows, which all must have one (InputError); None without a label column."""

    @abstractmethod
    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        """InputError if there is nothing to learn from these labels (A, ...)."""

    def settled(self, logits: Array, offsets: Array | None, config: Mapping[str, Any]) -> Array:
        """The logits moved as the model's config.json asks for (`decides`), so that everything reads them alike.

        A label dataset holds them as the model said them: what a student learns is no decision.
        """
        return logits

    def odd(self, rows: Rows, data: Data, names: Sequence[str]) -> list[str]:
        """Sentences about gold answers that may be learnt from, but are not as one expects."""
        return []

    @abstractmethod
    def hard_answers(self, logits: Array, offsets: Array | None, min_confidence: float) -> tuple[Array, Array]:
        """The logits' answers as labels (A, ...), `missing` where less sure, and the rows (N,) that have any."""

    @abstractmethod
    def answers(
        self, logits: Array, offsets: Array | None, names: Sequence[str], rows: Rows, data: Data
    ) -> dict[str, list[Any]]:
        """What the logits say of the rows in words: the column `prediction`, and `confidence` if there is any."""

    def example(self, *, pair: bool) -> str:
        """What `tinybert predict` can be asked, as a word of the shell."""
        return r"$'Better than it looks.\tIt looks bad.'" if pair else '"Better than it looks."'

    def limit(self, names: Sequence[str]) -> str:
        """What a model card warns of."""
        return (
            "It answers any text with one of its labels, however far the text is from those that it learned from; how "
            "sure it says it is, is no proof."
        )

    def asked(self, text: str) -> Any:
        """What the tokenizer is given of a text that somebody typed: the text, or, where a tab parts it, a pair."""
        return tuple(text.split("\t", 1)) if "\t" in text else text

    @abstractmethod
    def reply(
        self, text: str, windows: Sequence[Window], names: Sequence[str], config: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What `tinybert predict` says of one text.

        Args:
            windows: in order; one alone, but of a long text that is `parted`.
            config: the model's config.json, which may say how the logits are read.
        """

    @abstractmethod
    def fidelity(self, logits: Array, reference: Array, offsets: Array | None) -> dict[str, float]:
        """How far the logits say what the reference's say; `agreement` is among the numbers, 1 at best."""

    @abstractmethod
    def ensemble(self, logits: Sequence[Array], weights: Sequence[float]) -> Array:
        """One set of logits that says the weighted mean of what several models say."""


def texts_of(rows: Rows, data: Data) -> list[list[str]]:
    """The text columns; InputError for a missing one, or for a row that is no text."""
    names = [data.text_column_names] if isinstance(data.text_column_names, str) else data.text_column_names
    columns = [rows.column(name) for name in names]
    for name, column in zip(names, columns, strict=True):
        for index, value in enumerate(column):
            if not isinstance(value, str):
                raise InputError(f"'{name}' is not text but {value!r}", where=rows.location(index))
    return columns


def encode_texts(rows: Rows, data: Data, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    """A text or a pair of them per row, cut to `max_seq_length`: one window and one answer each."""
    texts = texts_of(rows, data)
    names = [name for name in ("input_ids", "token_type_ids") if name in tokenizer.model_input_names]
    padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    parts: dict[str, list[Array]] = {name: [] for name in names}
    lengths: list[int] = []
    truncated = 0
    for begin in range(0, len(rows), _CHUNK):
        chunk = tokenizer(
            *(column[begin : begin + _CHUNK] for column in texts), truncation=True, max_length=data.max_seq_length
        )
        lengths += [len(ids) for ids in chunk["input_ids"]]
        truncated += sum(bool(encoding.overflowing) for encoding in chunk.encodings or [])
        for name in names:
            parts[name].append(np.concatenate([np.asarray(ids, dtype=np.int32) for ids in chunk[name]]))
    return Encoded(
        tokens={name: (np.concatenate(parts[name]), padding[name]) for name in names},
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        truncated=truncated,
        empty=[i for i in range(len(rows)) if not any(column[i].strip() for column in texts)],
    )


def text_usage(folder: str, options: str, *, pair: bool) -> str:
    """How transformers is asked about a text, or a pair of them."""
    asked = '{"text": "Better than it looks.", "text_pair": "It looks bad."}' if pair else '"Better than it looks."'
    return f'from transformers import pipeline\n\npipeline("text-classification", "{folder}"{options})({asked})'


def check_complete(labels: Array, rows: Rows) -> None:
    """InputError for the first row without a label (N, ...)."""
    gone = missing(labels)
    if gone.any():
        raise InputError("a row without a label", where=rows.location(int(np.argwhere(gone)[0, 0])))


def without_gold(rows: Rows, data: Data) -> InputError:
    """What to raise where gold labels are needed and `PredictionTask.labels` found none."""
    rows.column(data.label_column_name)  # raises, with the columns that there are
    return InputError(
        "every label is -1, as in a test set whose labels are kept back",
        where=rows.location(0),
        hint="name a file or a split with labels",
    )


def frame(tokenizer: PreTrainedTokenizerBase) -> tuple[Array, Array]:
    """The special tokens that the tokenizer puts before a text and after it."""
    found = tokenizer("a", return_special_tokens_mask=True)
    ids, special = np.asarray(found["input_ids"], dtype=np.int32), np.asarray(found["special_tokens_mask"], dtype=bool)
    inside = np.flatnonzero(~special)
    return ids[: inside[0]], ids[inside[-1] + 1 :]


def row_by_row(offsets: Array | None) -> Iterator[tuple[int, int]]:
    """Where the answers of each row begin and end, for tasks in which a row has several."""
    assert offsets is not None
    yield from itertools.pairwise(offsets.tolist())
