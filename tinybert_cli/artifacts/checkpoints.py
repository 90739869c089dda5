"""Checkpoints of an unfinished run: written completely, sealed with sizes and sha256, verified before they are used."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tinybert_cli.artifacts.atomic_files import as_user_error, file_hash, sync, write_json
from tinybert_cli.events import Event

log = logging.getLogger("tinybert")

FOLDER = "checkpoints"
Write = Callable[[Path], object]  # writes files into the folder that it is given


class Checkpoints:
    """The folder `checkpoints/` in an output folder; only the main process writes to it, apart from `seal`'s writer."""

    def __init__(self, output_dir: Path, *, main: bool) -> None:
        self.output_dir = output_dir
        self.folder = output_dir / FOLDER
        self.main = main

    def save_during(self, events: Iterable[Event], *, save_state: Write, save_model: Write | None) -> Iterator[Event]:
        """Passes the events of a training loop on; saves its state at every `checkpoint`, and every best model.

        A best model is deleted only after a training state that refers to a newer one is sealed.

        Args:
            save_model: writes the model; None = best models are not saved.
        """
        for event in events:
            if event["event"] == "evaluate" and event["is_best"] and save_model is not None:
                self.seal(_BEST.format(event["step"]), save_model)
            if event["event"] == "checkpoint":
                name = _STATE.format(event["step"])
                older_states = [path.name for path in self.sealed("step-*") if path.name != name]
                older_models = [path.name for path in self.sealed("best-*")[1:]]
                self.seal(name, save_state, drop=[*older_states, *older_models])
            yield event

    def latest_state(self) -> Path | None:
        """The newest training state, or None."""
        return next(iter(self.sealed("step-*")), None)

    def best_model(self) -> Path | None:
        """The newest best model, or None."""
        return next(iter(self.sealed("best-*")), None)

    def seal(self, name: str, write: Write, *, drop: Iterable[str] = ()) -> Path:
        """Writes the checkpoint `name` by `write(folder)`, seals it, then deletes the checkpoints in `drop`.

        In every other process than the main one, only `write` is called: it may write the part of that process.

        Raises:
            UserError: the disk is full.
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

    def sealed(self, pattern: str) -> list[Path]:
        """The checkpoints whose name matches, newest first. Damaged ones are skipped with a warning."""
        checkpoints = []
        for folder in sorted(self.folder.glob(pattern), reverse=True):
            if _is_intact(folder):
                checkpoints.append(folder)
            else:
                log.warning("checkpoint %s is damaged and is skipped", folder)
        return checkpoints

    def can_resume(self) -> bool:
        """Whether there is a checkpoint to resume from, damaged or not."""
        return self.folder.is_dir() and any(path.name.startswith(_RESUMABLE) for path in self.folder.iterdir())

    @contextmanager
    def temporary_folder(self, name: str) -> Iterator[Path]:
        """An empty folder `checkpoints/<name>`, deleted at the end.

        Raises:
            UserError: the disk is full.
        """
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        except Exception as error:
            raise as_user_error(error, self.output_dir) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Deletes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _write_seal(checkpoint: Path) -> None:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    for path in files:
        sync(path)
    seal = {str(path.relative_to(checkpoint)): [path.stat().st_size, file_hash(path)] for path in files}
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
_RESUMABLE = ("step-", "candidates-")  # checkpoints that save work: of training, of augmentation
