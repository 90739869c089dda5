"""The output folder of one run: open it, put files into it, record events, finish it with the manifest."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from tinybert_cli import configuration
from tinybert_cli.artifacts.atomic_files import (
    as_user_error,
    digest,
    file_hash,
    locked,
    now,
    read_json,
    sync,
    write_json,
)
from tinybert_cli.artifacts.checkpoints import FOLDER as CHECKPOINTS
from tinybert_cli.artifacts.checkpoints import Checkpoints, Write
from tinybert_cli.artifacts.interrupts import Signals
from tinybert_cli.artifacts.manifests import (
    MANIFEST,
    Description,
    differences,
    git_commit,
    machine,
    settings_of,
    verify_folder,
    versions,
)
from tinybert_cli.artifacts.records import append_events, read_metrics
from tinybert_cli.config import Stage
from tinybert_cli.errors import InputError, OutputError, UserError
from tinybert_cli.events import Event

STARTED = f"{CHECKPOINTS}/started.json"  # settings, inputs and files of an unfinished run
LOG = "log.jsonl"
LOGS = {"run.log", LOG}  # still written to after the manifest
TRACKERS = "trackers"  # the subfolder for experiment trackers, whose files are not in the manifest


@contextmanager
def open_output(
    command: str,
    config: Stage,
    inputs: Mapping[str, Description | list[Description]],
    *,
    force: bool = False,
    dry_run: bool = False,
) -> Iterator[Output]:
    """The folder `config.output_dir`, locked, for one run of `command`.

    The run is new, unfinished (`output.resumed`: it will resume) or finished (`output.finished`). While the folder is
    open, Ctrl-C and SIGTERM raise Interrupted: at once or, inside `output.signals.deferred()`, when the loop checks for
    them. A dry run changes nothing.

    Args:
        force: start over, after removing the files that tinybert wrote.

    Raises:
        OutputError: the folder has other files, or a run with other settings or inputs; or another process uses it.
    """
    output = Output(command, config, inputs, dry_run=dry_run)
    with locked(output.folder, skip=dry_run or not output.main), output.signals:
        try:
            output.open(force)
        except OSError as error:
            raise as_user_error(error, output.folder) from error
        try:
            yield output
        except UserError:
            output.close_failed()
            raise
        except OSError as error:
            output.close_failed()
            raise as_user_error(error, output.folder) from error


class Output:
    """The output folder of one run. With several processes only the main one (rank 0) writes to it."""

    def __init__(self, command: str, config: Stage, inputs: Mapping[str, Any], *, dry_run: bool = False) -> None:
        self.folder = Path(config.output_dir)
        self.command = command
        self.settings = settings_of(config)
        self.inputs = dict(inputs)
        self.config = config
        self.seed = config.seed
        self.dry_run = dry_run
        self.finished = False
        self.resumed = False
        self.start = now()
        self.signals = Signals()
        self.main = int(os.environ.get("RANK", "0")) == 0
        self.checkpoints = Checkpoints(self.folder, main=self.main)

    # -- open ------------------------------------------------------------------------------------------------

    def open(self, force: bool) -> None:
        """Finds out whether the run is new, unfinished or finished, and prepares the folder."""
        manifest, started = self.folder / MANIFEST, self.folder / STARTED
        if force or (started.exists() and not manifest.exists() and not self._can_resume()):
            if self._writes:
                self._start(own_folder=self._remove_own_files())
        elif manifest.exists():
            self._check_same_run(verify_folder(self.folder))
            self.finished = True
            if self._writes:
                self.checkpoints.remove()
                with suppress(PermissionError):  # another user may own the folder
                    os.utime(manifest)  # so that make sees it as newer than its inputs
        elif started.exists():
            earlier = read_json(started)
            self._check_same_run(earlier)
            self.resumed = True
            self.start = earlier["start"]
        elif self._writes:
            self._start(own_folder=False)

    def close_failed(self) -> None:
        """Removes the files of a run that failed before there was anything to resume from."""
        if self._writes and not self.finished and not self._can_resume():
            self._remove_own_files()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    @property
    def trackers(self) -> Path:
        """The folder for the files of experiment trackers."""
        return self.folder / TRACKERS

    def up_to_date(self) -> Event:
        """The event of a run that is finished already, with its metrics."""
        return {"event": "up to date", "output_dir": str(self.folder), **read_metrics(self.folder)}

    # -- write -----------------------------------------------------------------------------------------------

    def record(self, events: Iterable[Event]) -> Iterator[Event]:
        """Passes the events of the stage on and appends them to log.jsonl, except `progress`."""
        if not self._writes:
            yield from events
            return
        self._claim([LOG])
        yield from append_events(self.folder / LOG, events)

    def put(self, write: Write) -> None:
        """Calls `write(empty folder)` and moves the files to the output folder, each complete or not at all.

        Raises:
            UserError: the disk is full.
        """
        if not self.main:
            return
        with self.checkpoints.temporary_folder(".partial") as partial:
            write(partial)
            names = sorted(str(path.relative_to(partial)) for path in partial.rglob("*") if path.is_file())
            mode = stat.S_IMODE((self.folder / STARTED).stat().st_mode)
            for name in names:
                sync(partial / name)
                (partial / name).chmod(mode)  # safetensors writes files that only the owner can read
            self._claim(names)
            for name in names:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).replace(self.folder / name)

    def finish(self, metrics: Mapping[str, float], **facts: Any) -> None:
        """Writes metrics.json, run.yaml and, as the last file, the manifest with the sha256 of every file.

        Args:
            facts: further entries of the manifest.
        """
        if not self.main:
            return

        def write(folder: Path) -> None:
            write_json(folder / "metrics.json", dict(metrics))
            comment = f"# tinybert {self.command} {_shell_word(str(self.folder / 'run.yaml'))}   repeats this run\n"
            (folder / "run.yaml").write_text(comment + configuration.dump(self.config), encoding="utf-8")

        self.put(write)
        names = [name for name in _own_files(self.folder) if name not in LOGS]
        manifest = {
            "command": self.command,
            "config_hash": digest(self.settings),
            "settings": self.settings,
            "seed": self.seed,
            **facts,
            "machine": machine(),
            "versions": versions(),
            "git_commit": git_commit(),
            "start": self.start,
            "end": now(),
            "inputs": self.inputs,
            "outputs": [
                {"path": name, "bytes": (self.folder / name).stat().st_size, "sha256": file_hash(self.folder / name)}
                for name in names
            ],
        }
        write_json(self.folder / MANIFEST, {**manifest, "checksum": digest(manifest)})
        self.finished = True
        self.checkpoints.remove()

    # -- checkpoints: see Checkpoints ------------------------------------------------------------------------

    def save_checkpoints(
        self, events: Iterable[Event], *, save_state: Write, save_model: Write | None
    ) -> Iterator[Event]:
        """`Checkpoints.save_during` with signals deferred, so that a step or a checkpoint is never interrupted."""
        with self.signals.deferred():
            yield from self.checkpoints.save_during(events, save_state=save_state, save_model=save_model)

    def states(self) -> list[Path]:
        return self.checkpoints.states()

    def best_model(self, step: int) -> Path | None:
        return self.checkpoints.best_model(step)

    def drop_newer(self, state: Path) -> None:
        self.checkpoints.drop_newer(state)

    def seal(self, name: str, write: Write, *, drop: Iterable[str] = ()) -> Path:
        return self.checkpoints.seal(name, write, drop=drop)

    def sealed(self, pattern: str) -> list[Path]:
        return self.checkpoints.sealed(pattern)

    def scratch(self) -> AbstractContextManager[Path]:
        """An empty folder for files that may be discarded."""
        return self.checkpoints.temporary_folder(".scratch")

    # -- private ---------------------------------------------------------------------------------------------

    @property
    def _writes(self) -> bool:
        return self.main and not self.dry_run

    def _start(self, *, own_folder: bool) -> None:
        """Marks the folder as that of an unfinished run."""
        checkpoints = self.checkpoints.folder
        # a process that was killed in this function leaves an empty folder, or a part of started.json
        started = checkpoints.is_dir() and all(path.name.startswith(".started") for path in checkpoints.iterdir())
        foreign = sorted(path.name for path in self.folder.iterdir() if not (started and path == checkpoints))
        if foreign and not own_folder:
            raise OutputError(
                f"output_dir '{self.folder}' holds files that tinybert did not write: {', '.join(foreign[:5])}",
                hint="choose another output_dir, or move them away; --force removes only what tinybert wrote",
            )
        checkpoints.mkdir(exist_ok=True)
        write_json(self.folder / STARTED, {**self._identity(), "start": self.start, "files": []})

    def _claim(self, names: Iterable[str]) -> None:
        """Lists files in started.json as written by this run, before they exist."""
        started = read_json(self.folder / STARTED)
        started["files"] = sorted({*started["files"], *names})
        write_json(self.folder / STARTED, started)

    def _can_resume(self) -> bool:
        """Whether there is a checkpoint or a finished file to resume from."""
        if not (self.folder / STARTED).exists():
            return False
        files = set(read_json(self.folder / STARTED)["files"]) - LOGS
        return bool(files) or self.checkpoints.can_resume()

    def _identity(self) -> dict[str, Any]:
        return {"command": self.command, "settings": self.settings, "inputs": self.inputs}

    def _check_same_run(self, earlier: Mapping[str, Any]) -> None:
        lines = differences(earlier, self._identity())
        if not lines:
            return
        state = "a finished run" if (self.folder / MANIFEST).exists() else "an unfinished run"
        listed = "\n".join(f"     {line}" for line in lines[:12])
        more = f"\n     ... and {len(lines) - 12} more" if len(lines) > 12 else ""
        raise OutputError(
            f"output_dir '{self.folder}' holds {state} with other settings or inputs:\n{listed}{more}",
            hint="choose another output_dir, or --force to start over",
        )

    def _remove_own_files(self) -> bool:
        """Removes the files that tinybert wrote and no others; returns whether the folder was written by tinybert."""
        own_folder = (self.folder / MANIFEST).exists() or (self.folder / STARTED).exists()
        try:
            names = _own_files(self.folder)
        except (InputError, KeyError, TypeError) as error:
            raise OutputError(
                f"cannot read the manifest in '{self.folder}', so tinybert cannot tell which files it wrote",
                hint="move the folder away, or choose another output_dir",
            ) from error
        for name in [MANIFEST, *names]:  # the manifest first: without it the folder is unfinished
            (self.folder / name).unlink(missing_ok=True)
        if own_folder:
            self.checkpoints.remove()
            shutil.rmtree(self.trackers, ignore_errors=True)
        return own_folder


def _shell_word(text: str) -> str:
    """`text` as one word of bash, on one line."""
    if text.isprintable():
        return shlex.quote(text)
    letters = (c if c.isprintable() and c not in "\\'" else f"\\U{ord(c):08x}" for c in text)
    return f"$'{''.join(letters)}'"


def _own_files(folder: Path) -> list[str]:
    """The files in the folder that a run wrote, finished or not."""
    names: set[str] = set()
    if (folder / MANIFEST).exists():
        names |= {entry["path"] for entry in read_json(folder / MANIFEST)["outputs"]}
    if (folder / STARTED).exists():
        names |= set(read_json(folder / STARTED)["files"])
    if names:
        names |= LOGS
    inside = folder.resolve()
    paths = ((name, folder / name) for name in names)  # a manifest from elsewhere may list any path
    return sorted(name for name, path in paths if path.is_file() and path.parent.resolve().is_relative_to(inside))
