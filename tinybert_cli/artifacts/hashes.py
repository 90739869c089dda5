"""sha256 of files and values; those of large files are remembered per user, so that an unchanged file is read once.

A remembered hash is used for a day, if device, inode, size and both times of the file are as they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from tinybert_cli import strict_json
from tinybert_cli.input_versions import note_version

LARGE = 1 << 20  # bytes; smaller files are always read
SECONDS = 24 * 3600  # that a remembered hash is used for
SETTLED = 2_000_000_000  # nanoseconds after which a further change shows in the times of a file, on any file system
MOST_FILES = 1000

Fingerprint = list[int]  # device, inode, size, time of the content, time of the metadata


def file_hash(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered_hash(path: Path) -> str:
    """sha256 of a file; of a large one that was hashed before and has not changed since without reading it."""
    note_version(path)
    before = _fingerprint(path)
    if before[2] < LARGE:
        return file_hash(path)
    name, now = str(path.resolve()), time.time_ns()
    entry = _read().get(name, {})
    if entry.get("file") == before and 0 <= now - entry["time"] < SECONDS * 1e9:
        return str(entry["sha256"])
    sha256 = file_hash(path)
    if _fingerprint(path) == before and now - max(before[3:]) > SETTLED:
        _write({**_read(), name: {"file": before, "time": now, "sha256": sha256}})
    return sha256


def digest(value: object) -> str:
    """sha256 of a JSON value; the order of keys does not matter. Names of files need not be UTF-8."""
    return hashlib.sha256(strict_json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()


def _fingerprint(path: Path) -> Fingerprint:
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _cache() -> Path:
    """The file in the user's cache: folders of models may be read-only."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinybert" / "hashes.json"


def _read() -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(_cache().read_text(encoding="utf-8"))
        return {name: entry for name, entry in entries.items() if {"file", "time", "sha256"} <= entry.keys()}
    except (OSError, ValueError, AttributeError, RuntimeError):  # RuntimeError: no home directory
        return {}


def _write(entries: dict[str, dict[str, Any]]) -> None:
    newest = sorted(entries.items(), key=lambda item: item[1]["time"])[-MOST_FILES:]
    with contextlib.suppress(OSError, RuntimeError):  # without a cache, files are read each time
        file = _cache()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        partial.write_text(json.dumps(dict(newest)), encoding="utf-8")
        partial.replace(file)
