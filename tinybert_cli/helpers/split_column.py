"""A column that names the split of each row, as in files that hold train, validation and test together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tinybert_cli.errors import InputError
from tinybert_cli.label_values import in_quotes, is_missing
from tinybert_cli.types import Rows

COLUMNS = ("split", "splits", "data_split", "dataset_split", "set", "subset", "partition", "fold")
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development", "eval"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("unlabeled", "unlabelled", "unsupervised"), "unlabeled"),
}


def find(rows: Rows, named: Sequence[str]) -> str | None:
    """The first column with a usual name in which every value is a split, and one of them `train`; None if none is.

    Args:
        named: columns that the user has named for texts and labels.
    """
    for name in (column for column in rows.columns if column.casefold() in COLUMNS and column not in named):
        splits = {_split(value) for value in rows.column(name)}
        if "train" in splits and None not in splits and len(splits - {""}) > 1:
            return name
    return None


def divide(rows: Rows, column: str) -> Mapping[str, Rows]:
    """The rows of each split, without the column.

    Raises:
        InputError: a row has no split.
    """
    indices: dict[str, list[int]] = {}
    for index, value in enumerate(rows.column(column)):
        indices.setdefault(_split(value) or "", []).append(index)
    if "" in indices:
        raise InputError(
            f"{in_quotes(column)} has the split of the other rows, but not of this one",
            where=rows.location(indices[""][0]),
            hint="fill it in; or rename the column, and all rows are divided anew",
        )
    others = Rows({name: values for name, values in rows.columns.items() if name != column}, rows.origins)
    return {split: others.select(indices[split]) for split in dict.fromkeys(SPLITS.values()) if split in indices}


def _split(value: object) -> str | None:
    """`train`, `validation`, `test` or `unlabeled`; empty for a missing value, None for another one."""
    if is_missing(value):
        return ""
    return SPLITS.get(value.strip().casefold()) if isinstance(value, str) else None
