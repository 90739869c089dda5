"""Small files whose path or content others control: only regular files, of bounded size and depth."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

from tinybert_cli.errors import InputError

WRITE_FIRST = "write the content to a file first"
MOST_BYTES = 64 * 2**20  # of a JSON file; one of lists in lists needs twenty times as much memory


def read_text(path: Path, *, most: int = MOST_BYTES, encoding: str = "utf-8") -> str:
    """The text of a regular file.

    Raises:
        InputError: it is a device, a pipe or a socket, or has more than `most` bytes.
        OSError, UnicodeDecodeError: as of `Path.read_text`.
    """
    if not path.is_dir():
        check_regular(path)
    with open(path, "rb", opener=_open_without_waiting) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, most) + 1)
        if content is None or (content and not size):
            raise InputError(f"'{path}' is a file of the system, not on a disk", hint=WRITE_FIRST)
    if len(content) > most:
        raise InputError(
            f"'{path}' is larger than {most / 2**20:g} MB, the limit for such a file", hint="check the path"
        )
    return content.decode(encoding)


def read_json(path: Path, *, most: int = MOST_BYTES) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: as `read_text`, or the file is nested too deeply.
        OSError, ValueError: as of `Path.read_text` and `json.loads`.
    """
    try:
        return json.loads(read_text(path, most=most))
    except RecursionError as error:
        raise InputError("the JSON is nested too deeply", where=str(path)) from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; InputError if there is none."""
    if not path.exists():
        raise InputError(f"there is no {path.name}", where=str(path.parent))
    try:
        values = read_json(path)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise InputError(f"not valid JSON: {error}", where=str(path)) from error
    if not isinstance(values, dict):
        raise InputError("not a JSON object", where=str(path))
    return values


def check_regular(path: Path) -> None:
    """InputError if the path exists and is a device, a pipe or a socket."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # reading it raises the same error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise InputError(f"'{path}' is {kind}, not a file", hint=WRITE_FIRST)


def _open_without_waiting(path: str, flags: int) -> int:
    """Files in /proc look regular, and some of them wait for data that may never come."""
    return os.open(path, flags | (0 if sys.platform == "win32" else os.O_NONBLOCK))
