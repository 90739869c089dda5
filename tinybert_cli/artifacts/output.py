"""One output folder during one run: lock, resume, atomic output, checkpoints, and the manifest last."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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
from tinybert_cli.artifacts.records import read_metrics
from tinybert_cli.config import Stage
from tinybert_cli.errors import InputError, OutputError, UserError

Row = dict[str, Any]

log = logging.getLogger("tinybert")

STARTED = "checkpoints/started.json"
LOGS = {"run.log", "log.jsonl"}  # still written to when the manifest is sealed
TRACKERS = "trackers"  # the folder in it for experiment trackers, which write what they like
PROGRESS = ("step-", "candidates-")  # checkpoints that are worth going on from: of training, of augmentation
_STATE, _BEST = "step-{:0>8}", "best-{:0>8}"  # checkpoints by the step that they were made at


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

    Finds out whether the run is new, unfinished (then it resumes) or finished (`output.finished`), and
    refuses a folder that holds something else. While it is open, Ctrl-C and SIGTERM raise Interrupted,
    at once or, inside `output.between_steps()`, when the loop asks. A dry run touches nothing.

    Raises:
        OutputError: other files, other settings, or another process.
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
    """One output folder during one run: what it held, what is written to it, how it is finished."""

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

    # -- opening ---------------------------------------------------------------------------------------------

    def open(self, force: bool) -> None:
        finished = self.folder / MANIFEST
        started = self.folder / STARTED
        if force or (started.exists() and not finished.exists() and not self._has_progress()):
            if not self.dry_run and self.main:
                self._begin(ours=self._remove_own_files())
        elif finished.exists():
            self._compare(verify_folder(self.folder))
            self.finished = True
            if not self.dry_run and self.main:
                shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
                with suppress(PermissionError):  # somebody else's
                    os.utime(finished)  # so that make sees it as newer than what it was made from
        elif started.exists():
            earlier = read_json(started)
            self._compare(earlier)
            self.resumed = True
            self.start = earlier["start"]
        elif not self.dry_run and self.main:
            self._begin(ours=False)

    def _begin(self, *, ours: bool) -> None:
        checkpoints = self.folder / "checkpoints"
        begun = checkpoints.is_dir() and all(path.name.startswith(".started") for path in checkpoints.iterdir())
        foreign = sorted(path.name for path in self.folder.iterdir() if not (begun and path == checkpoints))
        if foreign and not ours:
            raise OutputError(
                f"output_dir '{self.folder}' holds files that tinybert did not write: {', '.join(foreign[:5])}",
                hint="choose another output_dir, or move them away; --force removes only what tinybert wrote",
            )
        checkpoints.mkdir(exist_ok=True)
        write_json(self.folder / STARTED, {**self._identity(), "start": self.start, "files": []})

    def close_failed(self) -> None:
        """Leaves no trace of a run that failed before there was anything to go on from."""
        if self.main and not self.dry_run and not self.finished and not self._has_progress():
            self._remove_own_files()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _has_progress(self) -> bool:
        """Whether there is a checkpoint or a finished file to go on from."""
        if not (self.folder / STARTED).exists():
            return False
        finished = set(read_json(self.folder / STARTED)["files"]) - LOGS
        checkpoints = (path.name for path in (self.folder / "checkpoints").iterdir())
        return bool(finished) or any(name.startswith(PROGRESS) for name in checkpoints)

    def _identity(self) -> dict[str, Any]:
        return {"command": self.command, "settings": self.settings, "inputs": self.inputs}

    def _compare(self, earlier: Mapping[str, Any]) -> None:
        found = differences(earlier, self._identity())
        if not found:
            return
        state = "a finished run" if (self.folder / MANIFEST).exists() else "an unfinished run"
        shown = "\n".join(f"     {line}" for line in found[:12])
        more = f"\n     ... and {len(found) - 12} more" if len(found) > 12 else ""
        raise OutputError(
            f"output_dir '{self.folder}' holds {state} with other settings or inputs:\n{shown}{more}",
            hint="choose another output_dir, or --force to start over",
        )

    def _remove_own_files(self) -> bool:
        """Removes what tinybert wrote, and nothing else; False if the folder is none of its own."""
        ours = (self.folder / MANIFEST).exists() or (self.folder / STARTED).exists()
        try:
            names = _own_files(self.folder)
        except (InputError, KeyError, TypeError) as error:
            raise OutputError(
                f"the manifest in '{self.folder}' cannot be read: nobody knows what tinybert wrote there",
                hint="move the folder away, or choose another output_dir",
            ) from error
        for name in [MANIFEST, *names]:  # the manifest first: from here on the folder is unfinished
            (self.folder / name).unlink(missing_ok=True)
        for name in ("checkpoints", TRACKERS) if ours else ():
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return ours

    @property
    def trackers(self) -> Path:
        """Where experiment trackers may put their files."""
        return self.folder / TRACKERS

    def up_to_date(self) -> Row:
        """What a finished run has to say when it is asked for again: its numbers."""
        return {"event": "up to date", "output_dir": str(self.folder), **read_metrics(self.folder)}

    # -- writing ---------------------------------------------------------------------------------------------

    def put(self, write: Callable[[Path], object]) -> None:
        """Calls `write(empty folder)` and moves what it wrote to the output folder, each file whole or not at all."""
        if not self.main:
            return
        partial = self.folder / "checkpoints" / ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            write(partial)
            names = sorted(str(path.relative_to(partial)) for path in partial.rglob("*") if path.is_file())
            readers = stat.S_IMODE((self.folder / STARTED).stat().st_mode)
            for name in names:
                sync(partial / name)
                (partial / name).chmod(readers)  # safetensors writes for the owner alone
            self._claim(names)
            for name in names:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).replace(self.folder / name)
        except Exception as error:
            raise as_user_error(error, self.folder) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _claim(self, names: Iterable[str]) -> None:
        started = read_json(self.folder / STARTED)
        started["files"] = sorted({*started["files"], *names})
        write_json(self.folder / STARTED, started)

    def record(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Passes the rows on and writes them to log.jsonl; `progress` rows are only for the screen."""
        if self.dry_run or not self.main:
            yield from rows
            return
        self._claim(["log.jsonl"])
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            for row in rows:
                if row["event"] == "resume":
                    _forget_rows_after(self.folder / "log.jsonl", row["step"])
                    file.seek(0, os.SEEK_END)
                if row["event"] != "progress":
                    file.write(json.dumps({"time": now(), **row}, ensure_ascii=False) + "\n")
                    file.flush()
                yield row

    def finish(self, metrics: Mapping[str, float], **facts: Any) -> None:
        """Writes metrics.json and run.yaml, and last of all the manifest, with the sha256 of every file."""
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
        shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """An empty folder for what may yet be thrown away."""
        folder = self.folder / "checkpoints" / ".scratch"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        except Exception as error:
            raise as_user_error(error, self.folder) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    # -- checkpoints -----------------------------------------------------------------------------------------

    def seal(self, name: str, write: Callable[[Path], object], *, drop: Iterable[str] = ()) -> Path:
        """Writes `checkpoints/<name>` through `write(folder)`, sealed with sizes and sha256, then drops older ones."""
        folder = self.folder / "checkpoints" / name
        partial = folder.with_name(f".{name}.partial")
        if not self.main:
            write(partial)
            return folder
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            write(partial)
            files = sorted(path for path in partial.rglob("*") if path.is_file())
            for path in files:
                sync(path)
            seal = {str(p.relative_to(partial)): [p.stat().st_size, file_hash(p)] for p in files}
            write_json(partial / "seal.json", seal)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise as_user_error(error, self.folder) from error
        for old in drop:
            shutil.rmtree(self.folder / "checkpoints" / old, ignore_errors=True)
        return folder

    def save_checkpoints(
        self, rows: Iterable[Row], *, save_state: Callable[[Path], object], save_model: Callable[[Path], object] | None
    ) -> Iterator[Row]:
        """Passes a loop's rows on, sealing its state at every `checkpoint` and, if asked, each best model.

        An older best model goes only after the state that names the newer one is sealed.
        """
        with self.signals.deferred():
            for row in rows:
                if row["event"] == "evaluate" and row["is_best"] and save_model is not None:
                    self.seal(_BEST.format(row["step"]), save_model)
                if row["event"] == "checkpoint":
                    name = _STATE.format(row["step"])
                    best = self.sealed("best-*")
                    older = [path.name for path in self.sealed("step-*") if path.name != name]
                    self.seal(name, save_state, drop=[*older, *(path.name for path in best[1:])])
                yield row

    def latest_state(self) -> Path | None:
        """The newest whole checkpoint to go on from."""
        return next(iter(self.sealed("step-*")), None)

    def best_model(self) -> Path | None:
        return next(iter(self.sealed("best-*")), None)

    def sealed(self, pattern: str) -> list[Path]:
        """The whole checkpoints whose name matches, newest first; a damaged one is passed over with a warning."""
        found = []
        for folder in sorted((self.folder / "checkpoints").glob(pattern), reverse=True):
            if _seal_holds(folder):
                found.append(folder)
            else:
                log.warning("checkpoint %s is damaged; passing over it", folder)
        return found


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
    paths = ((name, folder / name) for name in names)  # a manifest from elsewhere may name anything
    return sorted(name for name, path in paths if path.is_file() and path.parent.resolve().is_relative_to(inside))


def _seal_holds(folder: Path) -> bool:
    try:
        seal = json.loads((folder / "seal.json").read_text())
        return all(
            (folder / name).stat().st_size == size and file_hash(folder / name) == sha256
            for name, (size, sha256) in seal.items()
        )
    except (OSError, ValueError):
        return False


def _forget_rows_after(path: Path, step: int) -> None:
    """Drops the lines that a killed run wrote after the checkpoint that this run goes on from."""
    kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
    path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _step_of(line: str) -> int:
    match = re.search(r'"step": (\d+)', line)
    return int(match.group(1)) if match else 0
