"""What a task has to answer: which head, how text becomes numbers, what an answer is, how it is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError, look_up

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Array = np.ndarray[Any, np.dtype[Any]]


class Rows(Protocol):
    """The rows of one split; `place(i)` says where row i stands."""

    @property
    def columns(self) -> dict[str, list[Any]]: ...
    @property
    def label_names(self) -> list[str] | None: ...
    def __len__(self) -> int: ...
    def column(self, name: str) -> list[Any]: ...
    def place(self, index: int) -> str: ...


@dataclass(frozen=True)
class Encoded:
    """Rows as numbers, unpadded: name → (all values in one row (ΣT,), the value of padding), and where rows begin."""

    tokens: Mapping[str, tuple[Array, int]]
    offsets: Array  # (N + 1,)
    truncated: int  # rows that were longer than max_seq_length
    empty: list[int]  # rows without any text


def interval(draws: Array) -> tuple[float, float]:
    """The middle 95 % of what was drawn (R,)."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


class Task(ABC):
    """What every task has, whether its models answer anything or not."""

    name: ClassVar[str]
    head: ClassVar[str]  # the model head, by its name in models.HEADS
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
    def usage(self, folder: str) -> str:
        """The lines of Python that load and ask a finished model folder."""


class Answering(Task):
    """A task whose models answer every row, so that they can label, be scored and be exported; C classes, N rows."""

    detailed: ClassVar[tuple[str, ...]]  # those of `details`; one of each class stands for `recall[negative]`, ...

    @abstractmethod
    def label_names(self, rows: Rows, data: Data, *, model_names: Sequence[str] | None) -> list[str]:
        """The classes in their order; InputError with both lists if the data and the model differ."""

    @abstractmethod
    def labels(self, rows: Rows, data: Data, names: Sequence[str]) -> Array | None:
        """Gold labels as positions in `names` (N,), -100 for a missing one; None if the rows have no label column."""

    @abstractmethod
    def check_trainable(self, labels: Array, names: Sequence[str], rows: Rows) -> None:
        """InputError if there is nothing to learn from these labels (N,)."""

    @abstractmethod
    def hard_answers(self, logits: Array, min_confidence: float) -> tuple[Array, Array]:
        """The logits' (N, C) answers as labels (N,), and which of them are at least so sure (N,)."""

    @abstractmethod
    def answers(self, logits: Array, names: Sequence[str]) -> dict[str, list[Any]]:
        """What the logits (N, C) say in words: the columns `prediction` and `confidence`."""

    @abstractmethod
    def score(self, logits: Array, labels: Array) -> dict[str, float]:
        """Every metric of the logits (N, C) against the gold labels (N,)."""

    @abstractmethod
    def details(self, logits: Array, labels: Array, names: Sequence[str]) -> dict[str, float]:
        """What a finished model is judged by besides `score`: more metrics, and those of each class."""

    @abstractmethod
    def resampled(
        self, logits: Array, labels: Array, names: Sequence[str], *, resamples: int, seed: int
    ) -> dict[str, Array]:
        """`score` and `details` on rows drawn with replacement (R,); the same seed draws the same rows."""

    def intervals(
        self, logits: Array, labels: Array, names: Sequence[str], *, resamples: int, seed: int
    ) -> dict[str, tuple[float, float]]:
        """metric of `score` → its 95 % bootstrap interval."""
        drawn = self.resampled(logits, labels, names, resamples=resamples, seed=seed)
        return {name: interval(drawn[name]) for name in self.metrics}

    @abstractmethod
    def fidelity(self, logits: Array, reference: Array) -> dict[str, float]:
        """How far the logits (N, C) say what the reference's (N, C) say."""

    @abstractmethod
    def discordant(self, logits: Array, reference: Array, labels: Array) -> dict[str, float]:
        """`rows_lost` and `rows_won` against the reference (N, C), and a paired test of their numbers."""

    @abstractmethod
    def calibrated(self, logits: Array, labels: Array) -> dict[str, float]:
        """How far confidence can be believed once the logits are divided by one number."""

    @abstractmethod
    def confusion(self, logits: Array, labels: Array, classes: int) -> Array:
        """Rows of each gold class (first axis) that were given each class (C, C)."""

    @abstractmethod
    def credit(self, logits: Array, labels: Array) -> Array:
        """What each row adds to the main metric, 0 to 1 (N,): its mean over some rows is their score."""

    @abstractmethod
    def majority(self, labels: Array) -> float:
        """The main metric of always giving the most frequent answer."""

    @abstractmethod
    def ensemble(self, logits: Sequence[Array], weights: Sequence[float]) -> Array:
        """One set of logits (N, C) that says the weighted mean of what several models say."""

    @abstractmethod
    def best_order(self, logits: Array, labels: Array) -> tuple[list[int], float]:
        """The order of the classes under which the logits (N, C) fit the labels best, and the main metric then."""


def texts_of(rows: Rows, data: Data) -> list[list[str]]:
    """The text columns; InputError for a missing one, or for a row that is no text."""
    names = [data.text_column_names] if isinstance(data.text_column_names, str) else data.text_column_names
    columns = [rows.column(name) for name in names]
    for name, column in zip(names, columns, strict=True):
        for index, value in enumerate(column):
            if not isinstance(value, str):
                raise InputError(f"'{name}' is not text but {value!r}", where=rows.place(index))
    return columns
