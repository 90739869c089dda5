"""A run that replaces another is built in a folder of its own in checkpoints/; its files are moved when it is finished.

Until then the earlier run stays as it is. A process that is killed while files are moved leaves the folder of the new
run with its manifest: `complete` moves the rest.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tinybert_cli.artifacts.atomic_files import read_json
from tinybert_cli.artifacts.checkpoints import FOLDER as CHECKPOINTS
from tinybert_cli.artifacts.checkpoints import Checkpoints
from tinybert_cli.artifacts.hashes import digest
from tinybert_cli.artifacts.manifests import MANIFEST
from tinybert_cli.errors import InputError, OutputError

log = logging.getLogger("tinybert")

STARTED = f"{CHECKPOINTS}/started.json"  # settings, inputs and files of an unfinished run
LOG = "log.jsonl"
LOGS = {"run.log", LOG}  # still written to after the manifest
TRACKERS = "trackers"  # the subfolder for experiment trackers, whose files are not in the manifest
PREFIX = ".replacement-"
EARLIER = {TRACKERS: "earlier-trackers", MANIFEST: "earlier-manifest.json", STARTED: "earlier-started.json"}


def folder_for(output_dir: Path, identity: Mapping[str, Any]) -> Path:
    """Where a run with these settings and inputs is built beside another run."""
    return output_dir / CHECKPOINTS / f"{PREFIX}{digest(identity)[:12]}"


def unfinished(output_dir: Path) -> list[Path]:
    """The folders of runs that were started beside another run and not finished."""
    return [path for path in _all(output_dir) if (path / STARTED).exists()]


def finished(output_dir: Path) -> Path | None:
    """The run whose files were being moved when the process ended."""
    return next((path for path in _all(output_dir) if (path / MANIFEST).exists()), None)


def has_finished(output_dir: Path) -> bool:
    """Whether the folder holds a finished run, or one whose files were being moved when the process ended."""
    return (output_dir / MANIFEST).exists() or finished(output_dir) is not None


def complete(output_dir: Path, new: Path) -> None:
    """Replaces the files of the earlier run by those of `new`, which is finished; files of the user stay.

    It may be interrupted and called again at any point: what identifies the earlier run is moved to `new` first.
    """
    for current, earlier in EARLIER.items():  # the trackers first: without a manifest, they may be the new ones
        if (output_dir / current).exists() and any((output_dir / name).exists() for name in (MANIFEST, STARTED)):
            (output_dir / current).replace(new / earlier)
    old = own_files(output_dir, [new / EARLIER[name] for name in (MANIFEST, STARTED)])
    names = {entry["path"] for entry in read_json(new / MANIFEST)["outputs"]} | {LOG}
    for name in old:
        if name not in names | LOGS:
            (output_dir / name).unlink(missing_ok=True)
    for name in sorted(names):
        if (new / name).exists():
            _move(new / name, output_dir / name, own=name in old)
    if (new / TRACKERS).is_dir():
        (new / TRACKERS).replace(output_dir / TRACKERS)
    shutil.rmtree(new / CHECKPOINTS, ignore_errors=True)  # what is left of the folder is no unfinished run
    (new / MANIFEST).replace(output_dir / MANIFEST)
    for path in _all(output_dir):
        shutil.rmtree(path, ignore_errors=True)
    Checkpoints(output_dir, main=True).remove()


def remove_leftovers(output_dir: Path) -> None:
    """Removes folders that are neither an unfinished nor a finished run."""
    for path in _all(output_dir):
        if not (path / STARTED).exists() and not (path / MANIFEST).exists():
            shutil.rmtree(path, ignore_errors=True)


def own_files(folder: Path, lists: Iterable[Path] = ()) -> list[str]:
    """The files in the folder that a run wrote, finished or not.

    Args:
        lists: the manifest or the started.json of the run, if they are not in the folder.

    Raises:
        OutputError: one of them cannot be read.
    """
    names: set[str] = set()
    for path in lists or (folder / MANIFEST, folder / STARTED):
        if path.exists():
            try:
                content = read_json(path)
                names |= {entry["path"] for entry in content.get("outputs", [])} | {*content.get("files", [])} | LOGS
            except (InputError, AttributeError, KeyError, TypeError) as error:
                raise OutputError(
                    f"cannot read '{path}', so tinybert cannot tell which files it wrote",
                    hint="move the folder away, or choose another output_dir",
                ) from error
    inside = folder.resolve()
    paths = ((name, folder / name) for name in names)  # a manifest from elsewhere may list any path
    return sorted(name for name, path in paths if path.is_file() and path.parent.resolve().is_relative_to(inside))


def _move(source: Path, target: Path, *, own: bool) -> None:
    """Moves a file; a file of the user with the same name is renamed, with a warning."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not own and (target.exists() or target.is_symlink()):
        aside = target.with_name(f"{target.name}.before")
        log.warning("%s was not written by tinybert and is now %s", target, aside.name)
        target.rename(aside)
    source.replace(target)


def _all(output_dir: Path) -> list[Path]:
    return sorted((output_dir / CHECKPOINTS).glob(f"{PREFIX}*"))
