"""The output folder of one run: open it, put files into it, record events, finish it with the manifest."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tinybert_cli import configuration, processes
from tinybert_cli.artifacts import replacement
from tinybert_cli.artifacts.atomic_files import as_user_error, now, read_json, write_json
from tinybert_cli.artifacts.checkpoints import FOLDER as CHECKPOINTS
from tinybert_cli.artifacts.checkpoints import Checkpoints, Write
from tinybert_cli.artifacts.folder_lock import locked
from tinybert_cli.artifacts.hashes import digest
from tinybert_cli.artifacts.input_paths import check_output_dir
from tinybert_cli.artifacts.interrupts import Signals
from tinybert_cli.artifacts.manifests import (
    MANIFEST,
    Description,
    differences,
    flat,
    git_commit,
    machine,
    settings_of,
    verify_folder,
    versions,
)
from tinybert_cli.artifacts.records import append_events, read_metrics
from tinybert_cli.artifacts.replacement import LOG, LOGS, STARTED, TRACKERS, own_files
from tinybert_cli.artifacts.run_files import RunFiles, of_process, recorded_files
from tinybert_cli.config import Stage
from tinybert_cli.errors import InputError, Interrupted, OutputError, explained
from tinybert_cli.escaping import shell_word
from tinybert_cli.events import Event
from tinybert_cli.input_versions import inputs_of_run
from tinybert_cli.scratch_files import scratch_files_in

log = logging.getLogger("tinybert")


@contextmanager
def open_output(
    command: str,
    config: Stage,
    inputs: Mapping[str, Description | list[Description]],
    *,
    force: bool = False,
    dry_run: bool = False,
    same_processes: bool = False,
) -> Iterator[Output]:
    """The folder `config.output_dir`, locked, for one run of `command`.

    The run is new, unfinished (`output.resumed`: it will resume) or finished (`output.finished`). While the folder is
    open, Ctrl-C and SIGTERM raise Interrupted: at once or, inside `output.signals.deferred()`, when the loop checks for
    them. A dry run changes nothing.

    Args:
        force: replace a finished run, or an unfinished one with other settings. It stays until the new run is finished.
        same_processes: an unfinished run can only be resumed by as many processes as started it.

    Raises:
        OutputError: the folder is or holds an input, has other files, or a run with other settings or inputs; or
            another process uses it.
    """
    check_output_dir(Path(config.output_dir), config, inputs)
    output = Output(command, config, inputs, dry_run=dry_run, same_processes=same_processes)
    with ExitStack() as stack:
        with processes.main_first():
            stack.enter_context(locked(output.folder, skip=dry_run))
            stack.enter_context(output.signals)
            try:
                output.open(force)
            except OSError as error:
                output.remove_if_empty()
                raise as_user_error(error, output.folder, saved="again") from error
        if not processes.agree(output.state()):
            raise OutputError(
                f"the processes of this run do not see the same files in output_dir '{output.folder}'",
                hint="choose an output_dir on a disk that all machines share",
            )
        try:
            with scratch_files_in(lambda: output.checkpoints.folder), inputs_of_run():
                yield output
        except BaseException as error:
            described = error if isinstance(error, OSError) else explained(error)  # see `close_failed`
            if not isinstance(described, Exception):  # Ctrl-C, or the caller needs no more events
                raise
            user_error = output.close_failed(described)
            if user_error is error:
                raise
            raise user_error from error


class Output:
    """The output folder of one run: `files` puts files into it, `checkpoints` has those of a run that is unfinished.

    With several processes the main one (rank 0) writes to it.
    """

    def __init__(
        self,
        command: str,
        config: Stage,
        inputs: Mapping[str, Any],
        *,
        dry_run: bool = False,
        same_processes: bool = False,
    ) -> None:
        self.folder = Path(config.output_dir)
        self.command = command
        self.settings = settings_of(config)
        self.inputs = dict(inputs)
        self.config = config
        self.seed = config.seed
        self.process_count = processes.count() if same_processes else None
        self.dry_run = dry_run
        self.finished = False
        self.resumed = False
        self.resolved: dict[str, Any] | None = {}  # see `resolve`; None in a run that an earlier version has started
        self.notes: dict[str, Any] = {}  # see `note`
        self.start = now()
        self.signals = Signals()
        self.main = processes.is_main()
        self._build_in(self.folder)

    # -- open ------------------------------------------------------------------------------------------------

    def open(self, force: bool) -> None:
        """Finds out whether the run is new, unfinished or finished, and prepares the folder."""
        moving = replacement.finished(self.folder)
        if moving is not None and self._writes:
            replacement.complete(self.folder, moving)
            force = force and bool(self._differences(self.folder))  # it may be the run that is forced
        beside = replacement.folder_for(self.folder, self._identity())
        if (self.folder / MANIFEST).exists():
            if not force and (not _can_resume(beside) or not self._differences(self.folder)):
                self._open_finished()
            else:
                self._open_beside(beside)
        elif (self.folder / STARTED).exists() and _can_resume(self.folder):
            if not self._differences(self.folder):
                self._resume(self.folder)
            elif force or _can_resume(beside):
                self._open_beside(beside)
            else:
                self._check_same_run()
        elif self._writes:
            self._start(own_folder=self._remove_own_files())

    def _open_finished(self) -> None:
        try:
            verify_folder(self.folder, also=["metrics.json"])
        except InputError as error:
            error.replaceable = True
            raise
        self._check_same_run()
        self.finished = True
        if self._writes:
            self.checkpoints.remove()
            replacement.remove_leftovers(self.folder)
            with suppress(OSError):  # another user may own the folder, or it is read-only
                os.utime(self.folder / MANIFEST)  # so that make sees it as newer than its inputs
        for path in replacement.unfinished(self.folder):
            log.warning("%s holds an unfinished run with --force; remove it if you do not need it", path)

    def _open_beside(self, folder: Path) -> None:
        """The run is built in a folder of its own until it is finished; the earlier run stays."""
        own_files(self.folder)  # raises if the earlier run cannot be replaced
        if _can_resume(folder):
            self._resume(folder)
            return
        self._build_in(folder)
        if self._writes:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._start(own_folder=True)

    def _resume(self, folder: Path) -> None:
        self._build_in(folder)
        self.resumed = True
        started = read_json(folder / STARTED)
        self.start, self.resolved, self.notes = started["start"], started.get("resolved"), started.get("notes", {})

    def _build_in(self, folder: Path) -> None:
        self._building = folder
        self.checkpoints = Checkpoints(folder, main=self.main)
        self.files = RunFiles(self.checkpoints)

    def state(self) -> tuple[object, ...]:
        """What this process sees of the folder; all processes of a run must see the same."""
        folder = self.checkpoints.folder
        return self.finished, self.resumed, folder.parent.name, sorted(path.name for path in folder.glob("*"))

    def close_failed(self, error: Exception) -> Exception:
        """Removes the files of a run that failed before there was anything to resume from.

        Returns:
            The error for the user, which says what a rerun finds.
        """
        saved = "again"
        if self._writes and not self.finished:
            resumable = _can_resume(self._building)
            saved = "again to resume" if resumable else "again; it starts from the beginning, as nothing was saved"
            if not resumable:
                self._remove_building()
        if isinstance(error, Interrupted):
            error.hint = "the run was finished already" if self.finished else f"run the same command {saved}"
        return as_user_error(error, self.folder, saved=saved)

    def _remove_building(self) -> None:
        if self._building == self.folder:
            self._remove_own_files()
        else:
            shutil.rmtree(self._building, ignore_errors=True)
        self.remove_if_empty()

    def remove_if_empty(self) -> None:
        """Removes the output folder and its checkpoints/, each if nothing is in it."""
        for folder in (self.folder / CHECKPOINTS, self.folder):
            with suppress(OSError):  # not empty
                folder.rmdir()

    @property
    def trackers(self) -> Path:
        """The folder for the files of experiment trackers."""
        return self._building / TRACKERS

    def up_to_date(self) -> Event:
        """The event of a run that is finished already, with its metrics."""
        return {"event": "up to date", "output_dir": str(self.folder), **read_metrics(self.folder)}

    # -- write -----------------------------------------------------------------------------------------------

    def record(self, events: Iterable[Event]) -> Iterator[Event]:
        """Passes the events of the stage on and appends them to log.jsonl, except `progress`."""
        events = processes.naming_lost(events)
        if not self._writes:
            yield from events
            return
        self.files.claim({LOG: None})
        yield from append_events(lambda: self._building / LOG, events)

    @property
    def resumes_earlier_version(self) -> bool:
        """Whether the run was started by a version that resolved no settings."""
        return self.resumed and self.resolved is None

    def resolve(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values for settings that are `auto`, by their dotted keys: those that the run has recorded before it was
        interrupted, else `values`, which are recorded."""
        if self.resumes_earlier_version:
            settings = flat(read_json(self._building / STARTED)["settings"])
            self.resolved = {key: settings.get(key, value) for key, value in values.items()}
        elif not self.resolved:
            self.resolved = dict(values)
            if self._writes:
                path = self._building / STARTED
                write_json(path, {**read_json(path), "resolved": self.resolved})
        return dict(self.resolved or {})

    def note(self, key: str, value: Any) -> None:
        """Records a JSON value about what is done, which `notes` has when the run is resumed."""
        self.notes = {**self.notes, key: value}
        if self._writes:
            path = self._building / STARTED
            write_json(path, {**read_json(path), "notes": self.notes})

    def finish(self, metrics: Mapping[str, float], **facts: Any) -> None:
        """Writes metrics.json, run.yaml and, as the last file, the manifest with the sha256 of every file.

        A run that was built beside an earlier one then replaces it.
        Numbers that are NaN or infinite are left out of metrics.json.

        Args:
            facts: further entries of the manifest.
        """
        if not self.main:
            return

        def write(folder: Path) -> None:
            write_json(folder / "metrics.json", {name: n for name, n in metrics.items() if math.isfinite(n)})
            comment = f"# tinybert {self.command} {shell_word(str(self.folder / 'run.yaml'))}   repeats this run\n"
            (folder / "run.yaml").write_text(comment + configuration.dump(self.config), encoding="utf-8")

        self.files.put(write)
        files = {name: entry for name, entry in sorted(recorded_files(self._building).items()) if name not in LOGS}
        manifest = {
            "command": self.command,
            "config_hash": digest(self.settings),
            "settings": self.settings,
            "resolved": self.resolved or {},
            "seed": self.seed,
            **facts,
            **({} if self.process_count is None else {"processes": self.process_count}),
            "machine": machine(),
            "versions": versions(),
            "git_commit": git_commit(),
            "start": self.start,
            "end": now(),
            "inputs": self.inputs,
            "outputs": [{"path": name, "bytes": size, "sha256": sha256} for name, (size, sha256) in files.items()],
        }
        with self.signals.deferred():
            write_json(self._building / MANIFEST, {**manifest, "checksum": digest(manifest)})
            if self._building != self.folder:
                replacement.complete(self.folder, self._building)
                self._build_in(self.folder)
            self.finished = True
            self.checkpoints.remove()

    # -- checkpoints: see Checkpoints ------------------------------------------------------------------------

    def save_checkpoints(
        self, events: Iterable[Event], *, save_state: Write, save_model: Write | None
    ) -> Iterator[Event]:
        """`Checkpoints.save_during` with signals deferred, so that a step or a checkpoint is never interrupted."""
        with self.signals.deferred():
            yield from self.checkpoints.save_during(events, save_state=save_state, save_model=save_model)

    def scratch(self, name: str = "scratch") -> AbstractContextManager[Path]:
        """An empty folder for files that may be discarded; another name for each that is open at the same time."""
        return self.checkpoints.temporary_folder(of_process(f".{name}"))

    # -- private ---------------------------------------------------------------------------------------------

    @property
    def _writes(self) -> bool:
        return self.main and not self.dry_run

    def _start(self, *, own_folder: bool) -> None:
        """Marks the folder as that of an unfinished run."""
        folder, checkpoints = self._building, self.checkpoints.folder
        # a process that was killed in this function leaves an empty folder, or a part of started.json
        started = checkpoints.is_dir() and all(path.name.startswith(".started") for path in checkpoints.iterdir())
        foreign = sorted(path.name for path in folder.iterdir() if not (started and path == checkpoints))
        if foreign and not own_folder:
            raise OutputError(
                f"output_dir '{folder}' holds files that tinybert did not write: {', '.join(foreign[:5])}",
                hint="choose another output_dir, or move them away; --force removes only what tinybert wrote",
            )
        checkpoints.mkdir(exist_ok=True)
        write_json(folder / STARTED, {**self._identity(), "start": self.start, "resolved": {}, "files": {}})

    def _identity(self) -> dict[str, Any]:
        processes = {} if self.process_count is None else {"processes": self.process_count}
        return {"command": self.command, "settings": self.settings, "inputs": self.inputs, **processes}

    def _differences(self, folder: Path) -> list[str]:
        """What differs between this run and the one in the folder."""
        earlier = read_json(folder / (MANIFEST if (folder / MANIFEST).exists() else STARTED))
        identity = self._identity()
        if (folder / MANIFEST).exists() or "processes" not in earlier:
            earlier, identity = {**earlier, "processes": None}, {**identity, "processes": None}
        return differences(earlier, identity)

    def _check_same_run(self) -> None:
        lines = self._differences(self.folder)
        if not lines:
            return
        finished = (self.folder / MANIFEST).exists()
        listed = "\n".join(f"     {line}" for line in lines[:12])
        more = f"\n     ... and {len(lines) - 12} more" if len(lines) > 12 else ""
        error = OutputError(
            f"output_dir '{self.folder}' holds {'a finished' if finished else 'an unfinished'} run with other settings "
            f"or inputs:\n{listed}{more}",
            hint=f"choose another output_dir, or --force to {'replace it' if finished else 'start over'}",
        )
        error.replaceable = True
        raise error

    def _remove_own_files(self) -> bool:
        """Removes the files that tinybert wrote and no others; returns whether the folder was written by tinybert."""
        own_folder = (self.folder / STARTED).exists()
        for name in own_files(self.folder):
            (self.folder / name).unlink(missing_ok=True)
        if own_folder:
            shutil.rmtree(self.trackers, ignore_errors=True)
            self.checkpoints.remove()
        return own_folder


def _can_resume(folder: Path) -> bool:
    """Whether there is a checkpoint or a finished file to resume from."""
    if not (folder / STARTED).exists():
        return False
    return bool(recorded_files(folder).keys() - LOGS) or Checkpoints(folder, main=False).can_resume()
