"""The files that a run has hashed, as they were then: the rows that it reads must be those that its manifest names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinybert_cli.errors import InputError

Version = tuple[int, int, int, int]  # device, inode, size, time of the content

_hashed: dict[Path, Version] = {}
_open_runs = 0


def note_version(path: Path) -> None:
    """Remembers how a file is, before it is hashed."""
    _hashed[path.resolve()] = _version(path)


@contextmanager
def inputs_of_run() -> Iterator[None]:
    """A run: inside, `unchanged` compares files with those that were hashed for it; then they may change."""
    global _open_runs
    _open_runs += 1
    try:
        yield
    finally:
        _open_runs -= 1
        if not _open_runs:
            _hashed.clear()


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """A file that is read inside must not change until it is read, in a run since it was hashed.

    Raises:
        InputError: it has changed.
    """
    if not path.is_file():  # a pipe, whose time changes, or nothing, which its reader reports
        yield
        return
    before = _version(path)
    hashed = _hashed.get(path.resolve(), before) if _open_runs else before
    yield
    if not path.is_file() or _version(path) != hashed:
        hint = "run the same command again when nothing writes to it any more"
        raise InputError(f"'{path}' was changed while it was read", hint=hint)


def _version(path: Path) -> Version:
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
