"""What the readers of answers have in common: answers, what happened to them, and labels as logits.

Shapes: N rows, P predictions (of most tasks one per row), C numbers of one prediction.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import numpy as np

from tinybert_cli.config import Answers, Data
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import have_decimal_commas, read_number
from tinybert_cli.tasks import PredictionTask
from tinybert_cli.types import Array, Layout, Rows, concatenated_ranges

EXAMPLES = 3  # examples of each problem
QUOTED = 60  # characters of an answer in a message
NOT_A_NUMBER = {"nan", "inf", "-inf", "+inf", "infinity", "-infinity"}  # texts that programs write for these

Vote = tuple[Hashable, float]  # what an answer says, comparable with others, and its weight


@dataclass(frozen=True)
class Answer:
    """One answer of the file."""

    value: Any
    where: str  # `llm.jsonl, row 17`
    text: str | None = None  # its text in the file of answers, which character offsets refer to
    confidence: float | None = None  # the probability that it is right


@dataclass
class Tally:
    """Which answers of each kind there are, and the first ones with a problem.

    An answer counts once, however many rows it belongs to, and however many votes it has.
    """

    members: dict[str, set[str]] = field(default_factory=dict)  # kind → where its answers are
    examples: dict[str, list[str]] = field(default_factory=dict)
    positions: set[int] = field(default_factory=set)  # of labels that answers name by number

    @property
    def counts(self) -> Counter[str]:
        """The number of answers of each kind."""
        return Counter({kind: len(own) for kind, own in self.members.items()})

    def number_of(self, kinds: Iterable[str]) -> int:
        """How many answers are of one of these kinds, or of several."""
        return len(set[str]().union(*(self.members.get(kind, set()) for kind in kinds)))

    def add(self, kind: str, where: str, example: str | None = None) -> None:
        """Counts an answer, or a row, once.

        Args:
            where: its file and row, `llm.jsonl, row 17`.
        """
        self.members.setdefault(kind, set()).add(where)
        listed = self.examples.setdefault(kind, [])
        if example is not None and len(listed) < EXAMPLES and example not in listed:
            listed.append(example)


@dataclass(frozen=True)
class AnswerLabels:
    """The answers to N rows as logits."""

    logits: Array  # (P, C)
    layout: Layout | None  # which predictions each row has; None: one each
    answered: Array  # (N,) whether a row has a label; the logits of others mean nothing

    def select(self, rows: Array) -> AnswerLabels:
        """Only these rows (indices), in this order."""
        indices = rows if self.layout is None else concatenated_ranges(self.layout.row_offsets, rows)
        layout = None if self.layout is None else self.layout.select(rows)
        return AnswerLabels(self.logits[indices], layout, self.answered[rows])


@dataclass(frozen=True)
class Reader(ABC):
    """Reads the answers to the rows of one split."""

    remedy: ClassVar[str | None] = None  # if none of the answers can be understood; None: names of the labels
    rows: Rows
    data: Data
    names: Sequence[str]  # the classes
    setting: Answers
    tally: Tally
    answers: Sequence[Answer] = ()  # all of the file, which may prove how one of them is meant

    @abstractmethod
    def votes(self, answer: Answer, row: int) -> Iterator[Vote]:
        """What an answer says: one vote, several if it is a list of votes, none if it cannot be understood.

        Raises:
            InputError: it is malformed; names the row of the file.
        """

    @abstractmethod
    def labels(self, votes: Sequence[Sequence[Vote]]) -> AnswerLabels:
        """The votes of each row as logits."""

    def read(self, answers: Sequence[Sequence[Answer]]) -> AnswerLabels:
        """The answers to each row as logits.

        Raises:
            InputError: two different answers to one row that are no votes, or an answer that cannot be read.
        """
        return self.labels([self._votes_of_row(own, row) for row, own in enumerate(answers)])

    def _votes_of_row(self, answers: Sequence[Answer], row: int) -> list[Vote]:
        votes: list[Vote] = []
        first: tuple[Hashable, Answer] | None = None
        for answer in answers:
            if is_empty(answer.value):
                self.tally.add("empty", answer.where, answer.where)
                continue
            check_finite(answer.value, answer.where)
            for content, weight in self.votes(answer, row):
                if first is not None and content != first[0] and not self.setting.votes:
                    self._refuse_two(first[1], answer, row)
                first = first or (content, answer)
                votes.append((content, weight))
        return votes

    def _refuse_two(self, one: Answer, other: Answer, row: int) -> NoReturn:
        both = f"{quoted(one.value)} in {one.where}, and {quoted(other.value)} in {other.where}"
        several = one is other
        raise InputError(
            f"several answers in one: {quoted(one.value)} in {one.where}"
            if several
            else f"two different answers to one row: {both}",
            where=self.rows.location(row),
            hint="set `votes: true` below `teacher` if they are votes; or leave one of them out",
        )

    def unmapped(self, kind: str, answer: Answer, problem: str, hint: str = "", *, example: str = "") -> None:
        """Counts an answer that cannot be understood, or refuses it.

        Args:
            example: what a warning shows of it; empty = the answer.
        """
        if self.setting.unmapped == "refuse":
            raise InputError(f"{problem}: {quoted(answer.value)}", where=answer.where, hint=hint or None)
        self.tally.add(kind, answer.where, f"{example or quoted(answer.value)} ({answer.where})")


def quoted(value: Any) -> str:
    """An answer for a message, in one line."""
    try:
        text = " ".join((value if isinstance(value, str) else repr(value)).split())
    except (RecursionError, ValueError):  # too deep, or an integer of too many digits
        text = f"a {type(value).__name__}"
    return repr(text if len(text) <= QUOTED else f"{text[: QUOTED - 3]}...")


def is_empty(value: Any) -> bool:
    """Whether there is no answer: null, or a text without a character."""
    return value is None or (isinstance(value, str) and not value.strip())


def number_of(value: Any) -> float | None:
    """A number as gold labels may be written, also as text; a comma in it is the decimal point if it cannot divide
    thousands. None for everything else."""
    return read_number(value, comma=have_decimal_commas([value]))


def confidence(value: Any, where: str) -> float | None:
    """A probability that an answer is right; None for an empty cell; InputError if it is not from 0 to 1."""
    if is_empty(value):
        return None
    number = number_of(value)
    if number is None or not 0 <= number <= 1:
        is_percentage = number is not None and 1 < number <= 100
        hint = "divide per cent by 100" if is_percentage else "leave it empty if there is none"
        raise InputError(f"expected a confidence from 0 to 1, found {quoted(value)}", where=where, hint=hint)
    return number


def check_no_nan(value: Any, where: str) -> None:
    """InputError if an answer is the text that programs write for NaN or infinity."""
    if isinstance(value, str) and value.strip().lower() in NOT_A_NUMBER:
        raise InputError(f"the answer holds {value.strip()}", where=where, hint="leave the answer out")


def check_finite(value: Any, where: str) -> None:
    """InputError if an answer has a number that is NaN or infinite."""
    items = [value]
    while items:  # not by recursion: a value may be deeper than Python's stack
        item = items.pop()
        if isinstance(item, Mapping):
            items += item.values()
        elif isinstance(item, list):
            items += item
        elif isinstance(item, float) and not math.isfinite(item):
            raise InputError(f"the answer holds {item}: {quoted(value)}", where=where, hint="leave the answer out")


def weighted_mean(votes: Sequence[Vote]) -> Array:
    """The mean of votes that are tuples of numbers (C,)."""
    mean: Array = np.average([content for content, _ in votes], axis=0, weights=[weight for _, weight in votes])
    return mean


def combined(
    task: PredictionTask, parts: Sequence[AnswerLabels], weights: Sequence[float], layout: Layout | None
) -> AnswerLabels:
    """The weighted mean of several teachers; that of a row is the mean of those that have a label for it.

    Args:
        parts: all with the same layout.
    """
    answered = np.stack([part.answered for part in parts], axis=1)  # (N, teachers)
    if answered.all():
        logits = task.ensemble([part.logits for part in parts], weights, layout)
        return AnswerLabels(logits, layout, np.asarray(answered.all(axis=1)))
    logits = np.zeros_like(parts[0].logits)
    for pattern in np.unique(answered, axis=0):
        members = np.flatnonzero(pattern).tolist()
        rows = np.flatnonzero((answered == pattern).all(axis=1))
        if not members:
            continue
        own = [parts[member].select(rows) for member in members]
        indices = rows if layout is None else concatenated_ranges(layout.row_offsets, rows)
        logits[indices] = task.ensemble(
            [part.logits for part in own], [weights[member] for member in members], own[0].layout
        )
    return AnswerLabels(logits, layout, np.asarray(answered.any(axis=1)))
