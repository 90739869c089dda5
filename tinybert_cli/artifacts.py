"""The folders where stages meet: lock, atomic output, checkpoints, manifest, log."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

from tinybert_cli.config import Stage
from tinybert_cli.errors import InputError, Interrupted, OutputError, UserError

Row = dict[str, Any]
Description = dict[str, Any]  # what identifies one input: path and hash, or Hub id and revision

log = logging.getLogger("tinybert")

MANIFEST = "manifest.json"
_STARTED = "checkpoints/started.json"
_STATE, _BEST = "step-{:0>8}", "best-{:0>8}"  # checkpoints by the step that they were made at
_LOGS = {"run.log", "log.jsonl"}  # still written to when the manifest is sealed


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
    with _locked(output.folder, skip=dry_run or not output.main), output.signals:
        try:
            output.open(force)
        except OSError as error:
            raise _named_disk_error(error, output.folder) from error
        try:
            yield output
        except UserError:
            output.close_failed()
            raise
        except OSError as error:
            output.close_failed()
            raise _named_disk_error(error, output.folder) from error


class Output:
    """One output folder during one run: what it held, what is written to it, how it is finished."""

    def __init__(self, command: str, config: Stage, inputs: Mapping[str, Any], *, dry_run: bool = False) -> None:
        self.folder = Path(config.output_dir)
        self.command = command
        self.settings = _settings(config)
        self.inputs = dict(inputs)
        self.config = config
        self.seed = config.seed
        self.dry_run = dry_run
        self.finished = False
        self.resumed = False
        self.start = _now()
        self.signals = Signals()
        self.main = int(os.environ.get("RANK", "0")) == 0

    # -- opening ---------------------------------------------------------------------------------------------

    def open(self, force: bool) -> None:
        finished = self.folder / MANIFEST
        started = self.folder / _STARTED
        if force or (started.exists() and not finished.exists() and not self._has_progress()):
            if not self.dry_run and self.main:
                self._begin(ours=self._remove_own_files())
        elif finished.exists():
            self._compare(verify_folder(self.folder))
            self.finished = True
            if not self.dry_run and self.main:
                shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
                os.utime(finished)  # so that make sees it as newer than what it was made from
        elif started.exists():
            earlier = _read_json(started)
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
        write_json(self.folder / _STARTED, {**self._identity(), "start": self.start, "files": []})

    def close_failed(self) -> None:
        """Leaves no trace of a run that failed before there was anything to go on from."""
        if self.main and not self.dry_run and not self.finished and not self._has_progress():
            self._remove_own_files()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _has_progress(self) -> bool:
        """Whether there is a checkpoint or a finished file to go on from."""
        if not (self.folder / _STARTED).exists():
            return False
        finished = set(_read_json(self.folder / _STARTED)["files"]) - _LOGS
        return bool(finished) or any((self.folder / "checkpoints").glob("step-*"))

    def _identity(self) -> dict[str, Any]:
        return {"command": self.command, "settings": self.settings, "inputs": self.inputs}

    def _compare(self, earlier: Mapping[str, Any]) -> None:
        differences = _differences(earlier, self._identity())
        if not differences:
            return
        state = "a finished run" if (self.folder / MANIFEST).exists() else "an unfinished run"
        shown = "\n".join(f"     {line}" for line in differences[:12])
        more = f"\n     ... and {len(differences) - 12} more" if len(differences) > 12 else ""
        raise OutputError(
            f"output_dir '{self.folder}' holds {state} with other settings or inputs:\n{shown}{more}",
            hint="choose another output_dir, or --force to start over",
        )

    def _remove_own_files(self) -> bool:
        """Removes what tinybert wrote, and nothing else; False if the folder is none of its own."""
        ours = (self.folder / MANIFEST).exists() or (self.folder / _STARTED).exists()
        names = _own_files(self.folder)
        for name in [MANIFEST, *names]:  # the manifest first: from here on the folder is unfinished
            (self.folder / name).unlink(missing_ok=True)
        if ours:
            shutil.rmtree(self.folder / "checkpoints", ignore_errors=True)
        return ours

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
            for name in names:
                _sync(partial / name)
            self._claim(names)
            for name in names:
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).replace(self.folder / name)
        except Exception as error:
            raise _named_disk_error(error, self.folder) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _claim(self, names: Iterable[str]) -> None:
        started = _read_json(self.folder / _STARTED)
        started["files"] = sorted({*started["files"], *names})
        write_json(self.folder / _STARTED, started)

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
                    file.write(json.dumps({"time": _now(), **row}, ensure_ascii=False) + "\n")
                    file.flush()
                yield row

    def finish(self, metrics: Mapping[str, float], **facts: Any) -> None:
        """Writes metrics.json and run.yaml, and last of all the manifest, with the sha256 of every file."""
        if not self.main:
            return

        def write(folder: Path) -> None:
            write_json(folder / "metrics.json", dict(metrics))
            import yaml

            settings = {**self.settings, "output_dir": str(self.folder)}
            (folder / "run.yaml").write_text(
                f"# tinybert {self.command} {self.folder / 'run.yaml'}   repeats this run\n"
                + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
                encoding="utf-8",
            )

        self.put(write)
        names = [name for name in _own_files(self.folder) if name not in _LOGS]
        manifest = {
            "command": self.command,
            "config_hash": digest(self.settings),
            "settings": self.settings,
            "seed": self.seed,
            **facts,
            "versions": _versions(),
            "git_commit": _git_commit(),
            "start": self.start,
            "end": _now(),
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
            raise _named_disk_error(error, self.folder) from error
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
                _sync(path)
            seal = {str(p.relative_to(partial)): [p.stat().st_size, file_hash(p)] for p in files}
            write_json(partial / "seal.json", seal)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        except Exception as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise _named_disk_error(error, self.folder) from error
        for old in drop:
            shutil.rmtree(self.folder / "checkpoints" / old, ignore_errors=True)
        return folder

    def keep(
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


class Signals:
    """Ctrl-C and SIGTERM while a run is open: raised at once, or kept until the loop asks between two steps."""

    def __init__(self) -> None:
        self.received = 0
        self._deferring = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> int:
        """The signal that came in while deferred, or 0."""
        return self.received

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal only sets `received`; a second one does not wait."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self._deferring and not self.received:
            self.received = number
            return
        raise Interrupted(
            number, f"interrupted by {signal.Signals(number).name}", hint="run the same command again to go on"
        )


# -- manifests -----------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder.

    Raises:
        InputError: there is none, it is not readable, or it was changed by hand.
    """
    path = folder / MANIFEST
    manifest: dict[str, Any] = _read_json(path)
    checksum = manifest.get("checksum")
    if checksum != digest({key: value for key, value in manifest.items() if key != "checksum"}):
        raise InputError(
            f"'{path}' was changed after the run that wrote it",
            hint="restore it, or run the stage that wrote the folder again with --force",
        )
    return manifest


def verify_folder(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder, after comparing every file it names with its size and sha256."""
    manifest = read_manifest(folder)
    for entry in manifest["outputs"]:
        path = folder / entry["path"]
        if not path.exists():
            raise InputError(f"'{path}' is missing, but '{folder / MANIFEST}' names it", hint=_REMAKE)
        if path.stat().st_size != entry["bytes"] or file_hash(path) != entry["sha256"]:
            raise InputError(f"'{path}' is not what '{folder / MANIFEST}' says it was", hint=_REMAKE)
    return manifest


def describe(path: Path, name: str | None = None) -> Description:
    """What identifies a local input: a finished folder by its manifest, any other folder or file by its content.

    `name` is how the user called it, if not by its path.
    """
    called = {"path": name or str(path)}
    if path.is_file():
        return {**called, "sha256": file_hash(path)}
    if (path / MANIFEST).exists():
        return {**called, "manifest": verify_folder(path)["checksum"]}
    files = sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    return {**called, "sha256": digest({str(file.relative_to(path)): file_hash(file) for file in files})}


def describe_model(folder: Path | None, name: str, revision: str | None) -> Description:
    """What identifies a model: its folder's content, or its Hub id and revision."""
    if folder is None:
        return {"hub_id": name.partition("@")[0], "revision": revision}
    return describe(folder, name)


def describe_all(named: Mapping[str, list[Path] | Mapping[str, Any]]) -> dict[str, Any]:
    """`describe` for the files of each split; what is on the Hub is named as it is."""
    return {
        name: [describe(path) for path in found] if isinstance(found, list) else dict(found)
        for name, found in named.items()
    }


def check_origin(labels: Path, manifest: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuses a label dataset that was made from other data, or by another teacher, than the config says.

    Args:
        wanted: what the config names, as `describe` says it; names that the labels do not know are passed over.
    """
    if manifest["command"] != "gen-soft-labels":
        raise InputError(f"'{labels}' was written by {manifest['command']}; it is no label dataset")
    for name, now in wanted.items():
        then = manifest["inputs"].get(name)
        if then is not None and _content(then) != _content(now):
            raise InputError(
                f"the labels in '{labels}' were made from another {name}\n"
                f"     there: {_called(then)}\n     now:   {_called(now)}",
                hint="run gen-soft-labels again for it, or mend the config",
            )


def _content(described: Any) -> Any:
    """What a description says of the content, wherever it lies."""
    if isinstance(described, list):
        return [_content(item) for item in described]
    return {key: value for key, value in described.items() if key != "path"}


def _called(described: Any) -> str:
    if isinstance(described, list):
        return ", ".join(map(_called, described))
    return " ".join(str(value)[:80] for value in described.values() if value is not None)


def model_card(title: str, facts: Mapping[str, object], *, task: str, load: str) -> str:
    """README.md of a model folder: what it is, where it comes from, its numbers, how to load it."""
    lines = [f"| {name} | {value} |" for name, value in facts.items() if value is not None]
    front = f"---\npipeline_tag: {task}\ntags: [knowledge-distillation, tinybert]\n---\n"
    table = "\n".join(["| | |", "|---|---|", *lines])
    origin = "Made by `tinybert`; `run.yaml` repeats the run, `manifest.json` names every input."
    return f"{front}\n# {title}\n\n{origin}\n\n{table}\n\n```python\n{load}\n```\n"


def markdown_table(title: str, metrics: Mapping[str, float], columns: Sequence[str]) -> str:
    """`<column>.<name>` numbers as a Markdown table, a row for each name."""
    names = dict.fromkeys(key.partition(".")[2] for key in metrics)
    head = ["| |" + "".join(f" {column} |" for column in columns), "|---|" + "---:|" * len(columns)]
    body = [
        f"| {name} |" + "".join(f" {_shown(metrics.get(f'{column}.{name}'))} |" for column in columns) for name in names
    ]
    return "\n".join([f"# {title}", "", *head, *body, ""])


def read_metrics(folder: Path) -> dict[str, float]:
    """metrics.json of a finished folder."""
    metrics: dict[str, float] = _read_json(folder / "metrics.json")
    return metrics


def read_rows(folder: Path, event: str) -> Iterator[Row]:
    """The rows of one kind that a finished run recorded."""
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["event"] == event:
            yield row


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"


_REMAKE = "run the stage that wrote the folder again with --force"


# -- files ---------------------------------------------------------------------------------------------------


def write_json(path: Path, value: object) -> None:
    """Writes JSON under a temporary name, then renames it."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read '{path}': {error}", hint=_REMAKE) from error


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _locked(folder: Path, *, skip: bool) -> Iterator[None]:
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


def _own_files(folder: Path) -> list[str]:
    """The files in the folder that a run wrote, finished or not."""
    names: set[str] = set()
    if (folder / MANIFEST).exists():
        names |= {entry["path"] for entry in _read_json(folder / MANIFEST)["outputs"]}
    if (folder / _STARTED).exists():
        names |= set(_read_json(folder / _STARTED)["files"])
    if names:
        names |= _LOGS
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


# -- what identifies a run -----------------------------------------------------------------------------------


def _settings(config: Stage) -> dict[str, Any]:
    return config.model_dump(mode="json", by_alias=True, exclude={"output_dir"})


def _differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    before, after = _flat(_comparable(earlier)), _flat(_comparable(now))
    return [
        f"{key}: {before.get(key, 'absent')} there, {after.get(key, 'absent')} now"
        for key in [*before, *(key for key in after if key not in before)]
        if before.get(key) != after.get(key)
    ]


def _comparable(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: run[key] for key in ("command", "settings", "inputs") if key in run}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = {str(index): item for index, item in enumerate(value)}.items()
    else:
        return {prefix.removeprefix("settings."): value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _versions() -> dict[str, str]:
    names = ("tinybert", "torch", "transformers", "tokenizers", "datasets", "accelerate", "onnxruntime")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def _git_commit() -> str | None:
    """The commit of the repository that the command runs in, if it runs in one."""
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _named_disk_error(error: Exception, folder: Path) -> Exception:
    """A UserError for a full disk, which every library reports in its own way; any other error as it is."""
    text = str(error)
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
