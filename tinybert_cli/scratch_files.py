"""Arrays that are too large for the memory: memory-mapped files without a name, on the disk of the run's folder.

They belong to the process that writes them: the system removes them when it ends, even by a kill, so that nothing
can be stale or left over.
"""

from __future__ import annotations

import errno
import itertools
import math
import mmap
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tinybert_cli.errors import UserError

IN_MEMORY = 16 << 20  # bytes; a smaller array stays in memory
PART = 1 << 20  # numbers that are counted at a time
JOINED = 1000  # arrays that are joined at a time
RESIDENT = 64 << 20  # bytes of mapped files that are read before their pages are released

_folders: list[Callable[[], Path]] = []  # of the runs that are open, the innermost last
_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()  # the files that are in use
_read = 0  # bytes of them that were read since their pages were released
_least = sys.maxsize  # bytes of files, libraries among them, in the memory of this process right after that


@contextmanager
def scratch_files_in(folder: Callable[[], Path]) -> Iterator[None]:
    """Where the files are created inside; without it, or if there is no such folder, among the temporary files."""
    _folders.append(folder)
    try:
        yield
    finally:
        _folders.remove(folder)


class ScratchFile:
    """Bytes that are appended, and then mapped into memory."""

    def __init__(self) -> None:
        self._folder = str(next((now() for now in reversed(_folders) if now().is_dir()), tempfile.gettempdir()))
        self._file = tempfile.TemporaryFile(dir=self._folder, prefix=".tinybert-", buffering=0)  # noqa: SIM115
        self.size = 0

    def write(self, values: Any) -> int:
        """Appends bytes, or the memory of an array; returns their number.

        Raises:
            UserError: the disk is full.
        """
        view = memoryview(values).cast("B")
        written = 0
        try:
            while written < len(view):
                written += self._file.write(view[written:])
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            rest, free = len(view) - written, shutil.disk_usage(self._folder).free
            raise UserError(
                f"no space for the rows and tokens of this run: {self.size + written:,} bytes are written, at least "
                f"{rest:,} more are needed, and {free:,} are free",
                where=self._folder,
                hint="free some space, or choose an output_dir on another disk",
            ) from error
        self.size += len(view)
        return len(view)

    def mapped(self, *, writable: bool = False) -> memoryview:
        """All bytes; the file can no longer be appended to, and lives as long as they are in use."""
        if not self.size:
            self._file.close()
            return memoryview(b"")
        content = mmap.mmap(self._file.fileno(), self.size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
        self._file.close()
        _maps.add(content)
        return memoryview(content)


def has_read(size: int) -> None:
    """Counts bytes that were read from mapped files in their order; after RESIDENT of them all pages are released.

    The pages stay in the cache of the system, but no longer count as memory of this process: it would seem to need all
    that it has ever read.
    """
    global _read
    _read += size
    if _read >= RESIDENT and _maps:
        _read = 0
        _release_pages()


def bound_mapped_memory() -> None:
    """Releases all pages once they have grown by RESIDENT bytes: for rows in any order, each maps up to 2 MB."""
    global _least
    if not _maps or sys.platform != "linux":
        return
    now = _mapped_bytes()
    _least = min(_least, now)
    if now - _least >= RESIDENT:
        _release_pages()
        _least = _mapped_bytes()


def _release_pages() -> None:
    if sys.platform == "linux":
        for content in list(_maps):
            content.madvise(mmap.MADV_DONTNEED)


def _mapped_bytes() -> int:
    """Bytes of files, mapped ones and libraries, that are in the memory of this process."""
    return int(Path("/proc/self/statm").read_bytes().split()[2]) * mmap.PAGESIZE


class GrowingArray:
    """A flat array that is appended to; in memory while it is small, else in a scratch file."""

    def __init__(self, dtype: Any) -> None:
        self._dtype = np.dtype(dtype)
        self._parts: list[np.ndarray[Any, Any]] = []
        self._bytes = 0
        self._file: ScratchFile | None = None

    def append(self, values: Any) -> None:
        """Appends an array, or a list of numbers."""
        part = np.ascontiguousarray(values, dtype=self._dtype).reshape(-1)
        self._parts.append(part)
        self._bytes += part.nbytes
        if self._bytes > IN_MEMORY:
            self._file = self._file or ScratchFile()
            for one in self._parts:
                self._file.write(one)
            self._parts, self._bytes = [], IN_MEMORY  # from now on every part is written at once

    def finish(self) -> np.ndarray[Any, Any]:
        """The whole array (N,), read-only if it is a file."""
        if self._file is None:
            return np.concatenate([np.zeros(0, dtype=self._dtype), *self._parts])
        return np.frombuffer(self._file.mapped(), dtype=self._dtype)


def save(file: Path, values: np.ndarray[Any, Any]) -> None:
    """An array as a .npy file; as `np.save`, but no more than a part of a mapped one is in memory."""
    values = np.ascontiguousarray(values)
    rows = max(1, PART // max(1, math.prod(values.shape[1:])))
    with file.open("wb") as opened:
        np.lib.format.write_array_header_1_0(opened, np.lib.format.header_data_from_array_1_0(values))
        for begin in range(0, len(values), rows):
            part = values[begin : begin + rows]
            opened.write(part.data.cast("B") if part.size else b"")
            has_read(part.nbytes)


def load(file: Path) -> np.ndarray[Any, Any]:
    """The array in a .npy file; mapped into memory, read-only, if it is large."""
    if file.stat().st_size <= IN_MEMORY or sys.platform == "win32":  # there a mapped file could not be removed
        return np.asarray(np.load(file, allow_pickle=False))
    values = np.load(file, mmap_mode="r", allow_pickle=False)
    _maps.add(values.base)
    return np.asarray(values)


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """An array to be filled: in memory if it is small, else in a scratch file, full of zeros.

    Raises:
        UserError: the disk is full.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.empty(shape, dtype=dtype)
    file = ScratchFile()
    for begin in range(0, size, PART):
        file.write(bytes(min(PART, size - begin)))  # written now: a full disk would end the process later
    return np.frombuffer(file.mapped(writable=True), dtype=dtype).reshape(shape)


def joined(parts: Iterable[np.ndarray[Any, Any]], dtype: Any) -> np.ndarray[Any, Any]:
    """The numbers of many small arrays, one after the other: `np.concatenate` without all of them in memory."""
    result, rest = GrowingArray(dtype), iter(parts)
    while some := list(itertools.islice(rest, JOINED)):
        result.append(np.concatenate([part.reshape(-1) for part in some]))
    return result.finish()


def looked_up(table: np.ndarray[Any, Any], indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """`table[indices]` (N,), in a scratch file if it is large."""
    result = GrowingArray(table.dtype)
    for begin in range(0, len(indices), PART):
        part = indices[begin : begin + PART]
        result.append(table[part])
        has_read(part.nbytes)
    return result.finish()


def counts(values: np.ndarray[Any, Any], minlength: int = 0) -> np.ndarray[Any, Any]:
    """How often each number from 0 on occurs among these integers: `np.bincount`, which copies them, in parts."""
    total = np.zeros(minlength, dtype=np.int64)
    for begin in range(0, len(values), PART):
        part = np.bincount(values[begin : begin + PART], minlength=len(total))
        has_read(values[begin : begin + PART].nbytes)
        part[: len(total)] += total
        total = part
    return total
