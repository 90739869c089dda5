"""Label datasets of translations: rows with the texts that a teacher generated, in Parquet.

Shapes: N rows, K translations of one row.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinybert_cli.data.soft_labels import PREDICTION, training_shards, write_table
from tinybert_cli.errors import InputError
from tinybert_cli.types import Array, Rows

if TYPE_CHECKING:
    import pyarrow as pa

SCORE, TOKENS, FINISHED = "teacher_score", "teacher_tokens", "teacher_finished"
N_BEST, N_BEST_SCORES = "teacher_translations", "teacher_scores"  # only if several of each row are stored
COUNTS, ENGINE = "tinybert_counts", "tinybert_engine"  # keys of the metadata of a shard
TRANSLATION_COLUMNS = (PREDICTION, SCORE, TOKENS, FINISHED, N_BEST, N_BEST_SCORES)


@dataclass(frozen=True)
class Translations:
    """The teacher's translations of N rows."""

    rows: Rows
    texts: list[str]  # (N,) the translation that students learn
    scores: Array  # (N,) its log-probability divided by its length, see `types.Hypothesis`
    tokens: Array  # (N,) its number of tokens, the end included
    finished: Array  # (N,) whether it ended by itself
    n_best: list[list[str]] | None = None  # (N, up to K) best score first; only the chosen one may be cut
    n_best_scores: list[list[float]] | None = None
    split_sizes: Sequence[int] | None = None  # rows of train and of unlabeled, in this order; None = one split

    def __len__(self) -> int:
        return len(self.texts)

    def first_rows(self, count: int | None) -> list[int]:
        """Indices of the first `count` rows of each split; None = all."""
        sizes = [len(self)] if self.split_sizes is None else self.split_sizes
        begins = itertools.accumulate(sizes, initial=0)
        return [
            row
            for begin, size in zip(begins, sizes, strict=False)
            for row in range(begin, begin + (size if count is None else min(size, count)))
        ]

    def select(self, rows: Sequence[int]) -> Translations:
        """Only these rows (indices), in this order."""
        indices = list(rows)
        return Translations(
            self.rows.select(indices),
            [self.texts[index] for index in indices],
            self.scores[indices],
            self.tokens[indices],
            self.finished[indices],
            None if self.n_best is None else [self.n_best[index] for index in indices],
            None if self.n_best_scores is None else [self.n_best_scores[index] for index in indices],
        )


def write_translations(
    path: Path,
    labels: Translations,
    types: Mapping[str, pa.DataType],
    counts: Mapping[str, int] | None = None,
    *,
    engine: str = "",
) -> None:
    """Writes one shard: the columns of the rows, and those of the translations.

    Args:
        counts: numbers of translations by kind, those included that are left out, for `read_counts`.
        engine: what translated, for `read_engine`.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {
        PREDICTION: labels.texts,
        SCORE: pa.array(labels.scores, type=pa.float32()),
        TOKENS: pa.array(labels.tokens, type=pa.int32()),
        FINISHED: pa.array(labels.finished, type=pa.bool_()),
    }
    if labels.n_best is not None:
        columns[N_BEST] = pa.array(labels.n_best, type=pa.list_(pa.string()))
        columns[N_BEST_SCORES] = pa.array(labels.n_best_scores, type=pa.list_(pa.float32()))
    write_table(
        path, {**labels.rows.columns, **columns}, types, {COUNTS: json.dumps(dict(counts or {})), ENGINE: engine}
    )


def read_counts(path: Path) -> dict[str, int]:
    """The counts in a shard that `write_translations` wrote."""
    import pyarrow.parquet as pq

    counts: dict[str, int] = json.loads((pq.read_schema(path).metadata or {}).get(COUNTS.encode(), b"{}"))
    return counts


def read_engine(path: Path) -> str:
    """The engine in a shard that `write_translations` wrote."""
    import pyarrow.parquet as pq

    return str((pq.read_schema(path).metadata or {}).get(ENGINE.encode(), b"").decode())


def read_translations(folder: Path, files: Iterable[str]) -> Translations:
    """The train and unlabeled rows of a label dataset; its other splits are ignored.

    Raises:
        InputError: there are no such rows, a file is damaged, or it is a label dataset of another task.
    """
    shards = training_shards(files)
    if not shards:
        raise InputError(f"'{folder}' has no rows of train or unlabeled", hint="gen-soft-labels: splits: [train]")
    parts = [_read_shard(folder / name) for name in shards]
    names = list(dict.fromkeys(name for part in parts for name in part.rows.columns))
    columns = {
        name: [value for part in parts for value in part.rows.columns.get(name, [None] * len(part))] for name in names
    }
    several = all(part.n_best is not None for part in parts)
    scores, tokens, finished = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("scores", "tokens", "finished")
    )
    return Translations(
        Rows(columns, tuple(origin for part in parts for origin in part.rows.origins)),
        [text for part in parts for text in part.texts],
        scores,
        tokens,
        finished,
        [row for part in parts for row in part.n_best or []] if several else None,
        [row for part in parts for row in part.n_best_scores or []] if several else None,
        [sum(map(len, group)) for _, group in itertools.groupby(parts, key=_split)],
    )


def _split(part: Translations) -> str:
    return Path(part.rows.origins[0][0]).name.partition("-")[0]


def check_translation_names(rows: Rows) -> None:
    """InputError if the rows have a column that the label dataset adds."""
    if taken := [name for name in TRANSLATION_COLUMNS if name in rows.columns]:
        raise InputError(
            f"the data has a column '{taken[0]}', which the label dataset adds",
            where=rows.origins[0][0],
            hint="rename the column, or leave it out",
        )


def _read_shard(path: Path) -> Translations:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"the label dataset is damaged: {error}", where=str(path)) from error
    missing = [name for name in (PREDICTION, SCORE, TOKENS, FINISHED) if name not in table.column_names]
    if missing:
        raise InputError(
            f"this is no label dataset of translations: it has no column '{missing[0]}'",
            where=str(path),
            hint="make it with gen-soft-labels and task: translation",
        )
    own = {name: table[name].to_pylist() for name in table.column_names if name not in TRANSLATION_COLUMNS}
    rows = Rows(own, ((str(path), table.num_rows),))
    several = N_BEST in table.column_names
    return Translations(
        rows,
        table[PREDICTION].to_pylist(),
        table[SCORE].to_numpy(),
        table[TOKENS].to_numpy(),
        table[FINISHED].to_numpy().astype(bool),
        table[N_BEST].to_pylist() if several else None,
        table[N_BEST_SCORES].to_pylist() if several else None,
    )
