"""The files of an unfinished run: each is complete in its folder, and listed in started.json with its size and hash."""

from __future__ import annotations

import logging
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinybert_cli import processes
from tinybert_cli.artifacts.atomic_files import read_json, sync, write_json
from tinybert_cli.artifacts.checkpoints import Checkpoints, Write
from tinybert_cli.artifacts.hashes import file_hash
from tinybert_cli.artifacts.replacement import LOGS, STARTED
from tinybert_cli.errors import InputError

log = logging.getLogger("tinybert")


class RunFiles:
    """What a run has put into its folder; a resumed run finds what the one before has put.

    With several processes the main one (rank 0) writes; see `publish`.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.folder = checkpoints.output_dir
        self.checkpoints = checkpoints
        self.main = checkpoints.main

    def put(self, write: Write) -> None:
        """Calls `write(empty folder)` and moves the files to the folder of the run, each complete or not at all."""
        if not self.main:
            return
        with self.own_folder() as folder:
            write(folder)
            files = self.complete(folder)
            self.claim(files)
            self._move(folder, files)

    @contextmanager
    def own_folder(self) -> Iterator[Path]:
        """An empty folder for files of this process; it is removed with those that `publish` has not moved."""
        with self.checkpoints.temporary_folder(of_process(".partial")) as folder:
            yield folder

    def complete(self, folder: Path) -> dict[str, list[Any]]:
        """Waits until the files in a folder are on the disk; returns their sizes and sha256."""
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        mode = stat.S_IMODE((self.folder / STARTED).stat().st_mode)
        for name in names:
            sync(folder / name)
            (folder / name).chmod(mode)  # safetensors writes files that only the owner can read
        return {name: [(folder / name).stat().st_size, file_hash(folder / name)] for name in names}

    def publish(self, folder: Path, files: Sequence[Mapping[str, list[Any]]]) -> None:
        """Moves the files in the folder of each process to the folder of the run; every process must call it.

        Args:
            folder: see `own_folder`.
            files: of each process, see `complete`.
        """
        if self.main:
            self.claim({name: entry for own in files for name, entry in own.items()})
        processes.wait()  # a file that is not listed would be taken for one of the user
        self._move(folder, files[processes.rank()])
        processes.wait()

    def has(self, name: str) -> bool:
        """Whether the file was put, and is undamaged since."""
        path = self.path(name)
        files = recorded_files(self.folder) if (self.folder / STARTED).exists() else {}
        if files.get(name) is None or not path.is_file():
            return False
        size, sha256 = files[name]
        if path.stat().st_size == size and file_hash(path) == sha256:
            return True
        log.warning("%s is damaged and is made again", path)
        return False

    def path(self, name: str) -> Path:
        """Where a file is that was put."""
        return self.folder / name

    def names(self) -> list[str]:
        """The names of all files that were put."""
        return sorted(name for name in recorded_files(self.folder) if self.path(name).is_file())

    def rename(self, names: Mapping[str, str]) -> None:
        """Gives files that were put another name; may be called again if it was interrupted.

        Args:
            names: old → new.
        """
        if not self.main:
            return
        recorded = recorded_files(self.folder)
        self.claim({new: recorded[old] for old, new in names.items()})  # first: a file that is not listed is foreign
        for old, new in names.items():
            self.path(old).replace(self.path(new))
        self._disclaim({*recorded} - LOGS - {*self.names()})  # also those of a call that was interrupted

    def discard(self, name: str) -> None:
        """Removes a file that was put."""
        if self.main:
            self.path(name).unlink(missing_ok=True)
            self._disclaim([name])

    def claim(self, files: Mapping[str, list[Any] | None]) -> None:
        """Lists files as written by this run, before they are there.

        Args:
            files: name → size and sha256; None for logs.
        """
        started = read_json(self.folder / STARTED)
        started["files"] = {**recorded_files(self.folder), **files}
        write_json(self.folder / STARTED, started)

    def _disclaim(self, names: Iterable[str]) -> None:
        started = read_json(self.folder / STARTED)
        gone = set(names)
        started["files"] = {name: entry for name, entry in recorded_files(self.folder).items() if name not in gone}
        write_json(self.folder / STARTED, started)

    def _move(self, folder: Path, names: Iterable[str]) -> None:
        for name in names:
            self.path(name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).replace(self.path(name))


def of_process(name: str) -> str:
    """The name of a folder that each process has one of."""
    return name if processes.is_main() else f"{name}-{processes.rank()}"


def recorded_files(folder: Path) -> dict[str, Any]:
    """The files in started.json: name → size and sha256; None for logs.

    Raises:
        InputError: started.json is damaged.
    """
    try:
        files = read_json(folder / STARTED)["files"]
        return dict(files) if isinstance(files, dict) else dict.fromkeys(files)  # a list in tinybert 0.1
    except (InputError, KeyError, TypeError) as error:
        raise InputError(
            f"'{folder / STARTED}' is damaged, so the run in '{folder}' cannot be resumed", hint="remove that folder"
        ) from error
