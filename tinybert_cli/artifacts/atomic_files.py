"""Files that are written completely or not at all; user errors for a disk that cannot be used."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tinybert_cli import files, strict_json
from tinybert_cli.errors import InputError, OutputError, UserError

MOST_BYTES = 2**28  # of a JSON file: several metrics of each of 200,000 classes


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, which takes its name at the end: all of the new content or none."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes under a temporary name, syncs and renames: `path` has the old content or the new one, never a part."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: object) -> None:
    """`write_text` for JSON, with null for numbers that are NaN or infinite."""
    write_text(path, strict_json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file that tinybert wrote.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return files.read_json(path, most=MOST_BYTES)
    except (InputError, OSError, ValueError) as error:
        raise InputError(f"cannot read '{path}': {error}", hint="restore it, or remove its folder") from error


def sync(path: Path) -> None:
    """Waits until the content of a file is on the disk."""
    with path.open("r+b") as file:  # Windows syncs only a file that is open for writing
        os.fsync(file.fileno())


def now() -> str:
    """The time in UTC, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_free_space(folder: Path, needed: int) -> None:
    """Checks that the disk of a folder, which need not exist yet, has `needed` bytes free.

    Raises:
        InputError: it has less.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"the disk is too small: {needed / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB are free",
            where=str(folder),
            hint="free some space, choose an output_dir on another disk, or store the states of fewer layers",
        )


def as_user_error(error: Exception, folder: Path, *, saved: str) -> Exception:
    """A UserError for a full disk, which every library reports differently, for an output folder without permission, or
    for one whose files are removed during the run.

    Any other error is returned unchanged.

    Args:
        saved: what a rerun finds, for the hint.
    """
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        in_folder = error.filename is not None and Path(error.filename).is_relative_to(folder)
        what = f"cannot write to output_dir '{folder}': {error.strerror}"
        return OutputError(what, hint="choose another output_dir") if in_folder else error
    if isinstance(error, FileNotFoundError) and error.filename and _was_removed(Path(error.filename), folder):
        return OutputError(
            f"'{error.filename}' is missing, which this run has written: another program removes files in '{folder}'",
            hint="run the same command again, and leave its folder alone until it is finished",
        )
    no_space = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if no_space or _FULL_DISK.search(str(error)):
        return UserError(
            f"the disk is full: could not write to '{folder}'",
            hint=f"free some space, then run the same command {saved}",
        )
    return error


def _was_removed(missing: Path, folder: Path) -> bool:
    """Whether a file of a run is missing together with its folder, or the one that every run begins with."""
    return missing.is_relative_to(folder) and (missing.name == "started.json" or not missing.parent.exists())


_FULL_DISK = re.compile(
    r"No space left|os error 28|disk quota|StorageFull|PytorchStreamWriter failed|file write failed"
    r"|unexpected pos \d+ vs \d+",  # of torch, whose stream writer could not close the file either
    re.IGNORECASE,
)
