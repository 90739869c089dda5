"""The lock of an output folder: one run writes to it at a time. A process that ends, however it ends, frees it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tinybert_cli import processes
from tinybert_cli.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(folder: Path, *, skip: bool) -> Iterator[None]:
    """Creates a folder and locks it; with `skip` does nothing.

    Of several processes of one run the main one locks it first; it is locked as long as any of them lives (on Windows:
    as long as the main one lives).

    Raises:
        OutputError: the folder cannot be created, or another process has locked it.
    """
    if skip:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"output_dir '{folder}' is not a folder", hint="choose another output_dir") from error
    except OSError as error:
        raise OutputError(
            f"cannot create output_dir '{folder}': {error.strerror}", hint="choose another output_dir"
        ) from error
    with _lock_of_folder(folder) if fcntl else _lock_file_beside(folder):
        yield


@contextmanager
def _lock_of_folder(folder: Path) -> Iterator[None]:
    """A lock of the folder itself: no file is left behind, and a folder without write permission can be locked too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if processes.is_main():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if processes.count() > 1:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _in_use(folder) from error
    else:
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _lock_file_beside(folder: Path) -> Iterator[None]:
    """A lock file `.NAME.lock` beside the folder, for systems that cannot open a folder; removed at the end."""
    if not processes.is_main():
        yield
        return
    path = folder.resolve()
    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file)
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise _in_use(folder) from error
    except OSError as error:
        what = f"cannot create the lock file '{file}': {error.strerror}"
        raise OutputError(what, hint="choose another output_dir") from error
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):  # Windows removes no file that another process has opened to lock it
            file.unlink()


def _in_use(folder: Path) -> OutputError:
    return OutputError(f"another process is writing to '{folder}'", hint="wait for it, or stop it")
