"""Answers of something other than a model, such as an LLM or annotators, as the labels of a teacher.

A file is read (`files`), joined to the rows (`joining`), and each answer becomes logits by the reader of the task. An
answer that is not clear labels nothing: it is counted, and the first three are printed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tinybert_cli.answers import json_texts
from tinybert_cli.answers.base import EXAMPLES, Answer, AnswerLabels, Reader, Tally, combined, quoted
from tinybert_cli.answers.classes import ClassReader
from tinybert_cli.answers.contexts import SpanReader, common_layout
from tinybert_cli.answers.files import AnswerFile, read_answers
from tinybert_cli.answers.joining import Joined, join
from tinybert_cli.answers.label_sets import MultiLabelReader
from tinybert_cli.answers.majority import decided_by_majority
from tinybert_cli.answers.numbers import NumberReader
from tinybert_cli.answers.tags import TagReader
from tinybert_cli.config import Answers, Data
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import MAPPED, is_missing
from tinybert_cli.tasks import PredictionTask
from tinybert_cli.types import Rows
from tinybert_cli.wording import counted

READERS: Mapping[str, type[Reader]] = {
    "text-classification": ClassReader,
    "multi-label-classification": MultiLabelReader,
    "regression": NumberReader,
    "token-classification": TagReader,
    "question-answering": SpanReader,
}

FEWEST_EQUAL = 10  # answers that are all equal to the gold labels, which are no chance

_PROBLEMS = {  # kind → why an answer labels nothing
    "unmapped": "not understood",
    "misaligned": "another number of tags than words",
    "lost": "not in the text",
    "several": "spans that occur several times in the text, and are not listed as often",
    "overlapping": "spans that overlap",
    "empty": "empty",
}
_CHANGES = {  # kind → how an answer was read
    "normalised": "probabilities that do not sum to 1 were normalised",
    "doubtful": "the confidence of the label is so low that another one is more probable, and is learned",
    "certain": "an empty confidence counts as 1",
    "incomplete": "no number for some of the labels, which counts as 0",
    "moved": "what is not at its characters was located by its text",
    "utf16": "spans are whole words only if characters are counted in UTF-16, as in JavaScript, and were read so",
    "cut": "spans that begin or end within a word include all of it",
    "repeated": "the text occurs several times in its context; its probability is divided among these, or, where a "
    "less probable answer would win by that, on one of them",
}
_TIES = (
    "several labels are equally probable: finetune learns the first one, unless min_confidence leaves the row out; "
    "distill learns all"
)


@dataclass(frozen=True)
class AnswerTeacher:
    """The answers in one file, as labels of the rows."""

    setting: Answers
    labels: Mapping[str, AnswerLabels]  # of each split
    tally: Tally
    joined_by: str
    column: str  # of the answers
    used: int  # answers that belong to rows
    unknown: Sequence[str]  # text or id of each answer that belongs to none
    skipped: int  # rows of the file that an annotator rejected
    temperature: float = 1.0  # that the logits were divided by

    def at_temperature(self, temperature: float) -> AnswerTeacher:
        """The same answers with their logits divided."""
        scaled = {
            split: replace(own, logits=(own.logits / temperature).astype(np.float32))
            for split, own in self.labels.items()
        }
        return replace(self, labels=scaled, temperature=temperature)

    @property
    def labelled(self) -> dict[str, int]:
        """How many rows of each split have a label."""
        return {split: int(own.answered.sum()) for split, own in self.labels.items()}

    @property
    def not_understood(self) -> int:
        """Answers that belong to a row and label nothing."""
        return self.tally.number_of(_PROBLEMS)

    def facts(self) -> dict[str, Any]:
        """For the manifest: how the answers were joined, and how many there are of each kind."""
        return {
            "file": self.setting.files,
            "column": self.column,
            "joined_by": self.joined_by,
            "used": self.used,
            "without_a_row": len(self.unknown),
            "rejected_by_annotators": self.skipped,
            "kinds": dict(self.tally.counts),
            "labelled_rows": self.labelled,
            "temperature": self.temperature,
        }

    def statements(self) -> list[str]:
        """How the answers were read, for the plan."""
        parts = [f"{self.setting.name}: answers in '{self.column}', joined by {self.joined_by}"]
        if self.tally.counts["position"]:
            parts.append(f"numbers are positions in the labels, such as {', '.join(self.tally.examples['position'])}")
        if self.tally.counts["vector"]:
            parts.append(f"lists have a number for each label, such as {'; '.join(self.tally.examples['vector'])}")
        if self.tally.counts["decimal_comma"]:
            parts.append(f"a comma is the decimal point, such as {', '.join(self.tally.examples['decimal_comma'])}")
        if mapped := self.tally.counts["free_text"]:
            parts.append(f"{mapped:,} in free text were mapped, such as {'; '.join(self.tally.examples['free_text'])}")
        return ["; ".join(parts)]

    def warnings(self) -> Iterator[str]:
        """What could not be used, with examples."""
        name = self.setting.name
        if self.unknown:
            examples = ", ".join(list(dict.fromkeys(self.unknown))[:EXAMPLES])
            unknown = counted(len(self.unknown), "answer")
            yield f"{name}: {unknown} without a row in {', '.join(self.labels)}: {examples}"
        if self.skipped:
            yield f"{name}: {counted(self.skipped, 'row')} without a label: rejected or ignored by the annotator"
        for kind, why in _PROBLEMS.items():
            if count := self.tally.counts[kind]:
                examples = "; ".join(self.tally.examples[kind])
                which = "answers, or votes of these" if self.setting.votes else "answers"
                yield f"{name}: no label from {count:,} of {self.used:,} {which}: {why}: {examples}"
        for kind, what, noun in [*((kind, what, "answer") for kind, what in _CHANGES.items()), ("ties", _TIES, "row")]:
            if count := self.tally.counts[kind]:
                yield f"{name}: in {counted(count, noun)}, {what}: {'; '.join(self.tally.examples[kind])}"


def read_teacher(
    setting: Answers, task: PredictionTask, splits: Mapping[str, Rows], names: Sequence[str], settings: Data
) -> AnswerTeacher:
    """The answers in the files of one teacher as labels of the rows of each split.

    Args:
        names: the classes in their order.

    Raises:
        InputError: a file cannot be read or joined, an answer is malformed, none can be understood, numbers may or may
            not be positions, or the answers are the gold labels.
        ConfigError: `label_names` names a label that does not exist.
    """
    file = read_answers(setting, settings, task.name)
    joined = join(file, setting, splits, settings)
    _check_not_gold(file, joined, splits, setting, settings)
    tally = Tally()
    everything = [answer for _, answer in file.answers]
    labels = {
        split: READERS[task.name](rows, settings, names, setting, tally, everything).read(joined.answers[split])
        for split, rows in splits.items()
    }
    _check_positions(tally, names, setting)
    used = len({answer.where for own in joined.answers.values() for answers in own for answer in answers})
    if not any(own.answered.any() for own in labels.values()):
        problems = [
            f"{why}: {'; '.join(tally.examples[kind])}" for kind, why in _PROBLEMS.items() if tally.counts[kind]
        ]
        which = "the answer labels no row" if used == 1 else f"none of the {used:,} answers labels a row"
        raise InputError(
            f"{which}: {'; '.join(problems) or 'empty'}",
            where=setting.name,
            hint=READERS[task.name].remedy or _hint(names, frequent_answers(file)),
        )
    return AnswerTeacher(setting, labels, tally, joined.by, file.column, used, joined.unknown, file.skipped)


def _check_not_gold(
    file: AnswerFile, joined: Joined, splits: Mapping[str, Rows], setting: Answers, settings: Data
) -> None:
    """InputError if the answers are the gold labels of their rows, and other columns might hold the answers."""
    others = [name for name in file.rows.columns if name not in (file.column, *file.text_columns)]
    if setting.answer_column_name is not None or file.column not in settings.label_columns or not others:
        return
    pairs = [
        (str(json_texts.parsed(label)), str(answer.value))
        for split, rows in splits.items()
        for label, answers in zip(rows.columns.get(file.column, ()), joined.answers[split], strict=False)
        for answer in answers
        if not is_missing(label)
    ]
    if len(pairs) >= FEWEST_EQUAL and all(label == answer for label, answer in pairs):
        raise InputError(
            f"the {len(pairs):,} answers in '{file.column}' are the gold labels of their rows",
            where=setting.name,
            hint=f"name the column of the answers: answer_column_name below `teacher`; others: {', '.join(others)}",
        )


def _check_positions(tally: Tally, names: Sequence[str], setting: Answers) -> None:
    """InputError if answers name labels by number, and none of them is 0: they may be counted from 1."""
    if not tally.positions or 0 in tally.positions:
        return
    from_one = {str(number): name for number, name in enumerate(names[:MAPPED], 1)}
    from_zero = {str(number): names[number] for number in sorted(tally.positions)[:MAPPED]}
    raise InputError(
        f"the answers are numbers from {min(tally.positions)} on: positions of labels are counted from 0",
        where=setting.name,
        hint=f"say what they mean: teacher: {{label_names: {json.dumps(from_one, ensure_ascii=False)}}}; or, counted "
        f"from 0, {json.dumps(from_zero, ensure_ascii=False)}",
    )


def frequent_answers(file: AnswerFile, most: int = 5) -> list[str]:
    """The most frequent short answers, for a message about labels without names."""
    counts: dict[str, int] = {}
    for _, answer in file.answers:
        if isinstance(answer.value, str) and len(answer.value) <= 30:
            counts[answer.value.strip()] = counts.get(answer.value.strip(), 0) + 1
    return sorted(counts, key=lambda value: -counts[value])[:most]


def _hint(names: Sequence[str], answers: Sequence[str]) -> str:
    listed = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    words = ", ".join(f"{json.dumps(word, ensure_ascii=False)}: ..." for word in answers) or "word: label"
    return f"labels: {listed}; say which label each word means: teacher: {{label_names: {{{words}}}}}"


__all__ = [
    "READERS",
    "Answer",
    "AnswerLabels",
    "AnswerTeacher",
    "combined",
    "common_layout",
    "decided_by_majority",
    "frequent_answers",
    "quoted",
    "read_answers",
    "read_teacher",
]
