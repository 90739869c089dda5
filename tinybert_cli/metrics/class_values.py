"""Class names of many rows, as indices: a list of them would be 8 bytes for each row."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import overload

from tinybert_cli.scratch_files import has_read
from tinybert_cli.types import Array

PART = 4096  # names that are in a list at a time


class ClassValues(Sequence[str]):
    """The class name of each row; reads like a list, and a slice is one."""

    def __init__(self, indices: Array, names: Sequence[str]) -> None:
        self._indices = indices  # (N,)
        self._names = names

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if not isinstance(index, slice):
            return self._names[int(self._indices[index])]
        part = self._indices[index]
        has_read(part.nbytes)
        return [self._names[one] for one in part.tolist()]

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self), PART):
            yield from self[begin : begin + PART]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(other) == len(self) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ClassValues({list(self)!r})"
