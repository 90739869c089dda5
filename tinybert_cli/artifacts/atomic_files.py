"""Files that are whole or not there at all; locks; what a full disk is called."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tinybert_cli.errors import InputError, OutputError, UserError

REMAKE = "run the stage that wrote the folder again with --force"


def write_json(path: Path, value: object) -> None:
    """Writes JSON under a temporary name, then renames it."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read '{path}': {error}", hint=REMAKE) from error


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_free_space(folder: Path, needed: int) -> None:
    """InputError if the disk that the folder is on, or will be, has less than so many bytes free."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise InputError(
            f"the disk is too small: {needed / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB are free",
            where=str(folder),
            hint="make room, choose an output_dir on another disk, or store the states of fewer layers",
        )


@contextmanager
def locked(folder: Path, *, skip: bool) -> Iterator[None]:
    if skip:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"output_dir '{folder}' is not a folder", hint="choose another output_dir") from error
    except OSError as error:
        raise OutputError(
            f"cannot make output_dir '{folder}': {error.strerror}", hint="choose another output_dir"
        ) from error
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"another process is writing to '{folder}'", hint="wait for it, or stop it") from error
    else:
        yield
    finally:
        os.close(descriptor)


def as_user_error(error: Exception, folder: Path) -> Exception:
    """A UserError for a full disk, which every library reports in its own way, or a folder that is not to be written.

    Any other error as it is.
    """
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        ours = error.filename is not None and Path(error.filename).is_relative_to(folder)
        what = f"cannot write to output_dir '{folder}': {error.strerror}"
        return OutputError(what, hint="choose another output_dir") if ours else error
    if (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)) or re.search(
        r"No space left|os error 28|disk quota|StorageFull|PytorchStreamWriter failed|file write failed"
        r"|unexpected pos \d+ vs \d+",  # torch, whose stream writer could not even close the file
        text,
        re.IGNORECASE,
    ):
        return UserError(
            f"the disk is full: could not write to '{folder}'",
            hint="make room and run the same command again; what was finished before is kept",
        )
    return error
