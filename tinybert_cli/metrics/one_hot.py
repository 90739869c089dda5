"""Statistics with one number per row, such as the gold class of each: a few bytes for each row.

Shapes: N rows, K columns, R sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from tinybert_cli.metrics.probabilities import in_parts
from tinybert_cli.scratch_files import bound_mapped_memory
from tinybert_cli.types import Array

FEW = 1 << 20  # rows that SciPy adds up: in half of the time, with 8 bytes more for each
PART = 1 << 17  # of more rows, those that are added up at a time


@dataclass(frozen=True)
class OneHot:
    """A matrix (N, K) with one number in each row and 0 everywhere else."""

    __array_ufunc__ = None  # so that NumPy leaves `counts @ one_hot` to this class

    columns: Array  # (N,) where the number of each row is, as unsigned integers
    values: Array  # (N,) the numbers: int8 or float64
    size: int  # K

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.columns), self.size

    def column(self, index: int) -> Array:
        """One column (N,), of the type of the numbers."""
        return np.where(self.columns == index, self.values, self.values.dtype.type(0))

    def sum(self, axis: int) -> Array:
        """Over all rows (K,) if the axis is 0, else of each row (N,)."""
        return self.values if axis else self._sums(None)

    def __rmatmul__(self, counts: Array) -> Array:
        """The sums over rows that occur `counts` (R, N) times: (R, K), as integers if the numbers are."""
        if len(self.columns) > FEW:
            return np.stack([self._sums(own) for own in counts])
        return self._of_kind(counts @ self.sparse)

    @cached_property
    def sparse(self) -> Any:
        """The same matrix as one of SciPy, which takes 8 bytes more for each row."""
        from scipy.sparse import csr_array

        return csr_array((self.values, self.columns.astype(np.int32), _begins(len(self.columns))), shape=self.shape)

    def _sums(self, counts: Array | None) -> Array:
        """The sums (K,) of all rows, or of rows that occur `counts` (N,) times; added one by one, as SciPy does."""
        total = np.zeros(self.size)
        for begin in range(0, len(self.columns), PART):
            rows = slice(begin, begin + PART)
            numbers = self.values[rows].astype(np.float64)
            np.add.at(total, self.columns[rows], numbers if counts is None else counts[rows] * numbers)
            bound_mapped_memory()
        return self._of_kind(total)

    def _of_kind(self, sums: Array) -> Array:
        return sums if self.values.dtype.kind == "f" else sums.astype(np.int64)


def one_hot(indices: Array, size: int, values: Array | None = None) -> OneHot:
    """One number per row, 1 or that of `values` (N,), in the column `indices` (N,) of `size`.

    Numbers that are neither booleans nor `int8` become `float64`.
    """
    if values is None:
        values = np.broadcast_to(np.int8(1), indices.shape)
    kind = np.dtype(np.int8 if values.dtype.kind == "b" or values.dtype == np.int8 else np.float64)
    return OneHot(_stored(indices, np.min_scalar_type(max(0, size - 1))), _stored(values, kind), size)


@lru_cache(maxsize=1)
def _begins(rows: int) -> Array:
    """Where the number of each row begins (N + 1,): the same array for all statistics."""
    return np.arange(rows + 1, dtype=np.int32)


def _stored(values: Array, kind: np.dtype[Any]) -> Array:
    if values.dtype == kind:
        return values
    (result,) = in_parts(lambda part: (part.astype(kind),), values)
    return result
