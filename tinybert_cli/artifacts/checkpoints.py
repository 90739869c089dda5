"""Checkpoints of an unfinished run: written completely, sealed with sizes and sha256, verified before they are used."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tinybert_cli.artifacts.atomic_files import sync, write_json
from tinybert_cli.artifacts.hashes import file_hash
from tinybert_cli.events import Event

log = logging.getLogger("tinybert")

FOLDER = "checkpoints"
SKIPPED = "it is skipped"
STATES = 2  # training states that are kept
Write = Callable[[Path], object]  # writes files into the folder that it is given


class Checkpoints:
    """The folder `checkpoints/` in an output folder; the main process writes to it.

    The others write what `seal` calls, and to temporary folders of their own.
    """

    def __init__(self, output_dir: Path, *, main: bool) -> None:
        self.output_dir = output_dir
        self.folder = output_dir / FOLDER
        self.main = main

    def save_during(self, events: Iterable[Event], *, save_state: Write, save_model: Write | None) -> Iterator[Event]:
        """Passes the events of a training loop on; saves its state at every `checkpoint`, and every best model.

        The two newest training states are kept, so that damage to one does not cost the run, with the best models that
        they refer to.

        Args:
            save_model: writes the model; None = best models are not saved.
        """
        for event in events:
            if event["event"] == "evaluate" and event["is_best"] and save_model is not None:
                self.seal(_BEST.format(event["step"]), save_model)
            if event["event"] == "checkpoint":
                name = _STATE.format(event["step"])
                self.seal(name, save_state, drop=self._superseded(name))
            yield event

    def states(self) -> list[Path]:
        """The training states, newest first. Damaged ones are skipped with a warning."""
        return self.sealed("step-*")

    def best_model(self, step: int) -> Path | None:
        """The best model of this step; None if it is missing or, with a warning, damaged."""
        return next(iter(self.sealed(_BEST.format(step))), None)

    def drop_newer(self, state: Path) -> None:
        """Deletes the states and best models after this state, from which the run continues."""
        step = _step_of(state.name)
        for name in self._names(_STATE_NAME) + self._names(_BEST_NAME):
            if self.main and _step_of(name) > step:
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def seal(self, name: str, write: Write, *, drop: Iterable[str] = ()) -> Path:
        """Writes the checkpoint `name` by `write(folder)`, seals it, then deletes the checkpoints in `drop`.

        In every other process than the main one, only `write` is called: it may write the part of that process.
        """
        folder = self.folder / name
        partial = folder.with_name(f".{name}.partial")
        if not self.main:
            write(partial)
            return folder
        with self.temporary_folder(partial.name):
            write(partial)
            _write_seal(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        for old in drop:
            shutil.rmtree(self.folder / old, ignore_errors=True)
        return folder

    def sealed(self, pattern: str, *, then: str = SKIPPED) -> list[Path]:
        """The checkpoints whose name matches, newest first. Damaged ones are skipped with a warning.

        Args:
            then: what happens instead, for the warning.
        """
        checkpoints = []
        for folder in sorted(self.folder.glob(pattern), reverse=True):
            if _is_intact(folder):
                checkpoints.append(folder)
            else:
                log.warning("checkpoint %s is damaged: %s", folder, then)
        return checkpoints

    def _names(self, pattern: re.Pattern[str]) -> list[str]:
        """The names of checkpoints that match, newest first, damaged or not."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted(filter(pattern.fullmatch, names), reverse=True)

    def _superseded(self, newest: str) -> list[str]:
        """The states and best models that are not needed once the state `newest` is sealed."""
        states = sorted({newest, *self._names(_STATE_NAME)}, reverse=True)
        oldest = _step_of(states[:STATES][-1])
        models = self._names(_BEST_NAME)
        needed = [name for name in models if _step_of(name) > oldest]
        needed += [name for name in models if _step_of(name) <= oldest][:1]
        return [*states[STATES:], *(name for name in models if name not in needed)]

    def can_resume(self) -> bool:
        """Whether there is a checkpoint to resume from, damaged or not."""
        return self.folder.is_dir() and any(path.name.startswith(_RESUMABLE) for path in self.folder.iterdir())

    @contextmanager
    def temporary_folder(self, name: str) -> Iterator[Path]:
        """An empty folder `checkpoints/<name>`, deleted at the end."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Deletes the checkpoints, and the folder unless it holds something else."""
        for name in self._names(_OWN):
            path = self.folder / name
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            self.folder.rmdir()


def _step_of(name: str) -> int:
    return int(name.partition("-")[2])


def _write_seal(checkpoint: Path) -> None:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    for path in files:
        sync(path)
    seal = {path.relative_to(checkpoint).as_posix(): [path.stat().st_size, file_hash(path)] for path in files}
    write_json(checkpoint / _SEAL, seal)


def _is_intact(checkpoint: Path) -> bool:
    """Whether every file has the size and the sha256 in the seal."""
    try:
        seal = json.loads((checkpoint / _SEAL).read_text())
        return all(
            (checkpoint / name).stat().st_size == size and file_hash(checkpoint / name) == sha256
            for name, (size, sha256) in seal.items()
        )
    except (OSError, ValueError):
        return False


_SEAL = "seal.json"
_STATE, _BEST = "step-{:0>8}", "best-{:0>8}"  # by optimizer step
_STATE_NAME, _BEST_NAME = re.compile(r"step-\d{8,}"), re.compile(r"best-\d{8,}")
_OWN = re.compile(
    r"(step|best)-\d{8,}|candidates-\d{5,}|final|rows|started\.json"  # what a run stores
    r"|\.((step|best)-\d{8,}|candidates-\d{5,}|final|rows|started\.json)\.partial"  # while it is written
    r"|\.partial(-\d+)?|\.scratch(-\d+)?"  # with the rank of the process, if it is not the main one
)
_RESUMABLE = ("step-", "candidates-")  # checkpoints that save work: of training, of augmentation
