"""Exports of Label Studio: tasks with the results of annotators, each made with a control of the project."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from tinybert_cli.answers.base import quoted
from tinybert_cli.errors import InputError
from tinybert_cli.types import Rows

ANNOTATIONS = "annotations"
SPANS, LABELS, NUMBERS, TEXTS = "spans", "labels", "numbers", "texts"
FORMS = {  # task → the forms of its answers, the usual first; a project may ask for others as well
    "text-classification": (LABELS, TEXTS, NUMBERS),
    "multi-label-classification": (LABELS, TEXTS, NUMBERS),
    "regression": (NUMBERS, LABELS, TEXTS),
    "token-classification": (SPANS,),
    "question-answering": (SPANS, TEXTS, LABELS),
}
_KEYS = {"choices": LABELS, "taxonomy": LABELS, "rating": NUMBERS, "number": NUMBERS}  # of the value of a result


def is_export(rows: Rows) -> bool:
    """Whether these are the tasks of a project, not a table made of them."""
    return {"data", ANNOTATIONS} <= rows.columns.keys() and any(isinstance(one, dict) for one in rows.columns["data"])


def flattened(rows: Rows) -> Rows:
    """The tasks with what is below their `data` as columns."""
    columns: dict[str, list[Any]] = {name: values for name, values in rows.columns.items() if name != "data"}
    inner = [task if isinstance(task, dict) else {} for task in rows.columns["data"]]
    for name in dict.fromkeys(name for task in inner for name in task):
        columns[name] = [task.get(name) for task in inner]
    return replace(rows, columns=columns)


@dataclass(frozen=True)
class Result:
    """What an annotator entered in one control."""

    control: str  # its name in the project; empty in files without names
    form: str
    value: Mapping[str, Any]

    @property
    def entries(self) -> list[Any]:
        """The labels, numbers or texts, or the span."""
        if self.form == SPANS:
            return [self.value]
        entered = next(self.value[key] for key in (*_KEYS, "text") if self.value.get(key) is not None)
        return entered if isinstance(entered, list) else [entered]


@dataclass(frozen=True)
class Annotations:
    """The results of N tasks, and which of them are the answers."""

    results: Sequence[Sequence[Sequence[Result]]]  # of each task, of each annotator
    forms: Sequence[str]  # of the answers of the task
    named: Sequence[str]  # controls that the config names; empty = those whose form fits

    @classmethod
    def read(cls, rows: Rows, task: str, named: Sequence[str]) -> Annotations:
        """The annotations of an export that were not cancelled.

        Raises:
            InputError: they are malformed, a control does not exist, or several have what the task needs.
        """
        cells = [(cell or [], rows.location(index)) for index, cell in enumerate(rows.columns[ANNOTATIONS])]
        annotations = cls([_results(cell, where) for cell, where in cells], FORMS[task], named)
        annotations._check(rows.origins[0][0])
        return annotations

    def answers(self, task: int) -> list[Any]:
        """What each annotator of a task answered: a list of spans, labels, numbers or texts, or one number; None if
        they left out the control of the labels and used others."""
        return [self._answer(results) for results in self.results[task]]

    def _answer(self, results: Sequence[Result]) -> Any:
        for form in self._used_forms:
            own = [entry for result in results if self._is_used(result, form) for entry in result.entries]
            if own:
                return own[0] if len(own) == 1 and form == NUMBERS else own
        return None if results and self._used_forms[0] == LABELS else []

    @cached_property
    def _used_forms(self) -> list[str]:
        """The forms of answers, of which the first counts that an annotator used. Only in question answering there are
        several: a span of the context, or else a text."""
        present = [form for form in self.forms if self._controls(form)]
        return (present if self.forms[0] == SPANS else present[:1]) or [self.forms[0]]

    def _is_used(self, result: Result, form: str) -> bool:
        return result.form == form and (not self.named or result.control in self.named)

    def _controls(self, form: str) -> list[str]:
        return list(dict.fromkeys(result.control for result in self._all() if self._is_used(result, form)))

    def _all(self) -> Iterable[Result]:
        return (result for task in self.results for results in task for result in results)

    def _check(self, file: str) -> None:
        every = list(dict.fromkeys(result.control for result in self._all()))
        if missing := [name for name in self.named if name not in every]:
            raise InputError(
                f"no result was made with a control '{missing[0]}'",
                where=file,
                hint=f"answer_column_name: controls of this export: {', '.join(every)}",
            )
        forms = " or ".join(self._used_forms)
        used = {control for form in self._used_forms for control in self._controls(form)}
        if unused := [name for name in self.named if name not in used]:
            raise InputError(
                f"the results of the control '{unused[0]}' are not used: this task reads {forms}",
                where=file,
                hint=f"answer_column_name: controls of this export: {', '.join(every)}",
            )
        for form in self._used_forms:
            if len(controls := self._controls(form)) > 1 and not self.named:
                raise InputError(
                    f"the annotations have {form} of several controls: {', '.join(controls)}",
                    where=file,
                    hint=f"set answer_column_name below `teacher` to one of them, or to a list of those to join; for "
                    f"example, answer_column_name: {controls[0]}",
                )


def _results(annotations: Any, where: str) -> list[list[Result]]:
    """The results of a task, of each annotator; without those that they cancelled."""
    if not isinstance(annotations, list) or not all(isinstance(one, Mapping) for one in annotations):
        raise InputError(f"expected the annotations of Label Studio, found {quoted(annotations)}", where=where)
    lists = [one.get("result") for one in annotations if not one.get("was_cancelled")]
    return [
        [result for item in own if (result := _result(item)) is not None] if isinstance(own, list) else []
        for own in lists
    ]


def _result(item: Any) -> Result | None:
    """One result; None for what belongs to a part of the text, such as a comment on a span, and for relations."""
    value = item.get("value") if isinstance(item, Mapping) else None
    if not isinstance(value, Mapping):
        return None
    form = next((form for key, form in _KEYS.items() if value.get(key) is not None), None)
    if form is None and value.get("text") is not None and ("start" not in value or isinstance(value["text"], list)):
        form = TEXTS
    if "start" in value:
        form = SPANS if form is None else None
    return None if form is None else Result(str(item.get("from_name") or ""), form, value)
