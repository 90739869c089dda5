"""Which rows have no label. A row may be labelled with nothing: none of several classes, or no answer."""

from __future__ import annotations

from collections.abc import Sequence

from tinybert_cli.config import Data
from tinybert_cli.errors import InputError
from tinybert_cli.label_values import is_missing
from tinybert_cli.tasks.gold_answers import IMPOSSIBLE, is_impossible
from tinybert_cli.types import Rows

NO_ANSWER = f"; a question without an answer has an empty list, or {IMPOSSIBLE}: true"


def unlabelled_rows(rows: Rows, task: str, columns: Sequence[str]) -> list[int]:
    """The indices of rows without a label in any of these columns.

    Raises:
        InputError: a column is missing, or `is_impossible` of a question is neither true nor false.
    """
    golds = [rows.column(name) for name in columns]
    if task == "multi-label-classification" and len(golds) == 1:
        return [index for index, value in enumerate(golds[0]) if is_missing(value) and value != ""]
    without = [index for index, values in enumerate(zip(*golds, strict=True)) if all(map(_is_blank, values))]
    if task == "question-answering" and IMPOSSIBLE in rows.columns:
        flags = rows.columns[IMPOSSIBLE]
        return [index for index in without if not is_impossible(flags[index], rows.location(index))]
    return without


def check_labelled(rows: Rows, data: Data, task: str) -> None:
    """InputError for the first training row without a label."""
    columns = data.label_columns
    if not all(name in rows.columns for name in columns):
        return  # `PredictionTask.labels` reports it
    without = unlabelled_rows(rows, task, columns)
    if without and len(without) < len(rows):
        more = f" (of {len(without):,})" if len(without) > 1 else ""
        hint = "add the labels, or move these rows to data.unlabeled_file, which gen-soft-labels reads"
        raise InputError(
            f"a row without a label{more}",
            where=rows.location(without[0]),
            hint=hint + (NO_ANSWER if task == "question-answering" else ""),
        )


def _is_blank(value: object) -> bool:
    return is_missing(value) or (isinstance(value, str) and not value.strip())
